//! Claims in a cluster: a local volume is bound into the pod, handed to its group and given back; what a pod waits for is
//! told; and nothing is asked for at rest.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimStatus, Pod};
use rubelet_testkit::fake_api::RecordedRequest;
use serde_json::json;

use crate::cluster::Cluster;
use crate::node::NAME;
use crate::pods;
use crate::runtime::mounts_below;
use crate::wait::{self, PATIENCE};

const SPEC: &str = "
terminationGracePeriodSeconds: 1
securityContext: {fsGroup: 4321, runAsUser: 1000}
containers:
- name: c
  image: $IMAGE
  command: [sh, -c, \"trap 'exit 0' TERM; id -G; cat /data/before && echo written > /data/new; while :; do sleep 1 & wait $!; done\"]
  volumeMounts: [{name: data, mountPath: /data}]
volumes:
- {name: data, persistentVolumeClaim: {claimName: disk}}
";

/// How often the agent has asked for claims and volumes.
fn asked(cluster: &Cluster) -> usize {
    let about = |record: &&RecordedRequest| record.request.resource.starts_with("persistentvolume");
    cluster.api.requests().iter().filter(about).count()
}

#[test]
fn api_a_claimed_local_volume_is_bound_and_given_back() {
    let mut cluster = Cluster::start();
    let disk = cluster.node.share("disk");
    fs::create_dir_all(&disk).unwrap();
    fs::write(disk.join("before"), "kept\n").unwrap();
    let pod = cluster.run("claims", SPEC);
    let event = cluster.wait_event("claims", "FailedMount");
    let message = event.message.unwrap_or_default();
    assert!(
        message.ends_with(
            "error processing PVC default/disk: failed to fetch PVC from API server: persistentvolumeclaims \"disk\" \
             not found"
        ),
        "{message}"
    );
    assert_eq!(pods::state(&cluster.pod("claims"), "c"), "waiting ContainerCreating");

    let claim = cluster.api.create_json(&json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"namespace": "default", "name": "disk"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeName": "local-1",
                 "storageClassName": ""},
    }));
    cluster.api.create_json(&json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": "local-1", "annotations": {"pv.beta.kubernetes.io/gid": "7777"}},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "local": {"path": disk},
            "claimRef": {"namespace": "default", "name": "disk", "uid": claim["metadata"]["uid"]},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}]}]}},
        },
    }));
    cluster.api.modify_status::<PersistentVolumeClaim>("default", "disk", |claim| {
        let phase = Some("Bound".to_owned());
        claim.status = Some(PersistentVolumeClaimStatus { phase, ..PersistentVolumeClaimStatus::default() });
    });
    cluster.wait_ready("claims");
    let log = cluster.node.wait_log(&pod, "c", "kept");
    let groups: Vec<&str> = log.lines().next().unwrap_or_default().split(' ').collect();
    assert!(groups.contains(&"4321") && groups.contains(&"7777"), "{log}");
    wait::until("the pod to write", PATIENCE, || match fs::metadata(disk.join("new")) {
        Ok(found) if (found.uid(), found.gid()) == (1000, 4321) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let point = cluster.pod_dir(&pod).join("volumes/kubernetes.io~local-volume/local-1");
    let mounts = mounts_below(&cluster.pod_dir(&pod));
    assert!(mounts.contains(&point.display().to_string()), "{mounts:?}");

    let before = asked(&cluster);
    wait::throughout(Duration::from_secs(5), || assert_eq!(asked(&cluster), before));
    // Another agent takes the pod over and takes the volume away in the end.
    cluster.node.kill_agent();
    cluster.start_agent();
    cluster.api.delete::<Pod>("default", "claims");
    cluster.wait_gone(&pod);
    cluster.wait_nothing_left(&pod);
    assert_eq!(mounts_below(&cluster.node.root()), Vec::<String>::new());
    assert_eq!(fs::read_to_string(disk.join("new")).unwrap(), "written\n");
}
