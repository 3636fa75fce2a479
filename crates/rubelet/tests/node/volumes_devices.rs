//! Block devices of the node as local volumes: handed into a container as they are, or formatted and mounted; what was
//! written is there for the next pod, and nothing holds the device when the pod is gone.

use std::fs;
use std::process::Command;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimStatus, Pod};
use serde_json::json;

use crate::cluster::Cluster;
use crate::node::NAME;
use crate::runtime::output;
use crate::volumes::Before;
use crate::wait::{self, PATIENCE};

/// A loop device over a file of the test's; given back with this value.
struct Loop(String);

impl Loop {
    fn over(cluster: &Cluster, name: &str) -> Self {
        let path = cluster.node.path(name);
        fs::File::create(&path).unwrap().set_len(16 << 20).unwrap();
        Self(output(Command::new("losetup").args(["--find", "--show"]).arg(&path)).trim().to_owned())
    }

    /// Loop devices whose file is this device: what somebody holds.
    fn held(&self) -> String {
        output(Command::new("losetup").args(["--associated", &self.0])).trim().to_owned()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _told_by_losetup = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

/// A bound claim of a device.
fn claim(cluster: &Cluster, name: &str, device: &str, mode: &str) {
    let claim = cluster.api.create_json(&json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"namespace": "default", "name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}},
                 "volumeName": format!("pv-{name}"), "volumeMode": mode, "storageClassName": ""},
    }));
    cluster.api.create_json(&json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("pv-{name}")},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "16Mi"}, "volumeMode": mode,
            "local": {"path": device},
            "claimRef": {"namespace": "default", "name": name, "uid": claim["metadata"]["uid"]},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}]}]}},
        },
    }));
    cluster.api.modify_status::<PersistentVolumeClaim>("default", name, |claim| {
        let phase = Some("Bound".to_owned());
        claim.status = Some(PersistentVolumeClaimStatus { phase, ..PersistentVolumeClaimStatus::default() });
    });
}

#[test]
fn volumes_of_block_devices_keep_what_is_written() {
    let cluster = Cluster::start();
    let (raw, formatted) = (Loop::over(&cluster, "raw"), Loop::over(&cluster, "formatted"));
    claim(&cluster, "raw", &raw.0, "Block");
    claim(&cluster, "formatted", &formatted.0, "Filesystem");
    let before = Before::of(&cluster.node);
    let pod = |script: &str| {
        format!(
            "
terminationGracePeriodSeconds: 1
securityContext: {{fsGroup: 4444}}
containers:
- name: c
  image: $IMAGE
  command: [sh, -c, 'trap \"exit 0\" TERM; {script}; mv /share/said.new /share/$HOSTNAME; while :; do sleep 1 & wait $!; done']
  volumeMounts: [{{name: formatted, mountPath: /data}}, {{name: share, mountPath: /share}}]
  volumeDevices: [{{name: raw, devicePath: /dev/xvda}}]
volumes:
- {{name: share, hostPath: {{path: $SHARE}}}}
- {{name: raw, persistentVolumeClaim: {{claimName: raw}}}}
- {{name: formatted, persistentVolumeClaim: {{claimName: formatted}}}}
"
        )
    };
    let write = "echo written > /data/file; printf magic | dd of=/dev/xvda 2> /dev/null; sync; \
                 (test -b /dev/xvda && echo device; stat -c %g /data; grep -c \" /data ext4 \" /proc/mounts) > /share/said.new";
    let read = "(cat /data/file; head -c 5 /dev/xvda; echo) > /share/said.new";
    for (name, script, wanted) in
        [("writer", write, ["device", "4444", "1"].as_slice()), ("reader", read, &["written", "magic"])]
    {
        let pod = cluster.run(name, &pod(script));
        cluster.wait_ready(name);
        cluster.node.wait_lines(name, wanted);
        cluster.api.delete::<Pod>("default", name);
        cluster.wait_gone(&pod);
        cluster.wait_nothing_left(&pod);
        before.wait_again(&cluster.node);
        wait::until("nobody to hold the device", PATIENCE, || {
            let held = raw.held();
            if held.is_empty() { Ok(()) } else { Err(held) }
        });
    }
    let bytes = fs::read(cluster.node.path("raw")).unwrap();
    assert!(bytes.starts_with(b"magic"));
}
