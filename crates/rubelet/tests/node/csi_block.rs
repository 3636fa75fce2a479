//! Devices of a driver: a loop device with an image behind it, given to a container as a device, and let go again.

use std::fs;
use std::path::Path;
use std::process::Command;

use rubelet_testkit::csi_driver::Method;
use serde_json::json;

use crate::csi::{CsiNode, DRIVER, MIB};
use crate::pods::uid;
use crate::runtime::output;

/// Loop devices whose file is below a folder.
fn devices_below(dir: &Path) -> Vec<String> {
    let listed =
        output(Command::new("losetup").args(["--list", "--noheadings", "--output", "NAME,BACK-FILE"]));
    let dir = dir.display().to_string();
    listed.lines().filter(|line| line.contains(&dir)).map(str::to_owned).collect()
}

#[test]
fn csi_a_device_is_mapped_into_its_container_and_let_go() {
    let node = CsiNode::start();
    node.driver.provide_device("raw", 4 * MIB).unwrap();
    node.bind(DRIVER, "raw", &json!({"volumeMode": "Block"}));
    let spec = "
terminationGracePeriodSeconds: 5
containers:
- name: c
  image: $IMAGE
  command: [sh, -c, 'trap \"exit 0\" TERM; ls -l /dev/raw; echo written | dd of=/dev/raw bs=512 conv=sync,fsync 2>/dev/null; head -c 7 /dev/raw; echo; echo ALL SHOWN; while :; do sleep 1 & wait $!; done']
  volumeDevices: [{name: data, devicePath: /dev/raw}]
volumes:
- {name: data, persistentVolumeClaim: {claimName: raw}}
";
    let pod = node.cluster.run("pod", spec);
    node.cluster.wait_ready("pod");
    let log = node.cluster.node.wait_log(&pod, "c", "ALL SHOWN");
    assert!(log.starts_with('b') && log.contains("\nwritten\n"), "{log}");
    let image = fs::read(node.cluster.node.path("driver-files/raw.img")).unwrap();
    assert!(image.starts_with(b"written\n"));

    let devices = node.cluster.node.root().join("plugins/kubernetes.io/csi/volumeDevices");
    let staged = node.driver.calls_of(Method::NodeStageVolume, "raw").remove(0);
    assert_eq!(Path::new(staged.text("staging_target_path")), devices.join("staging/raw"));
    assert_eq!(staged.request["volume_capability"]["block"], true);
    let published = node.driver.calls_of(Method::NodePublishVolume, "raw").remove(0);
    assert_eq!(Path::new(published.text("target_path")), devices.join("publish/raw").join(uid(&pod)));
    let map = node.cluster.pod_dir(&pod).join("volumeDevices/kubernetes.io~csi/raw");
    assert_eq!(fs::read_link(&map).unwrap(), Path::new(published.text("target_path")));
    assert!(!devices_below(&node.cluster.node.path("")).is_empty());

    node.end(&pod);
    node.wait_nothing_left();
    assert_eq!(devices_below(&node.cluster.node.path("")), Vec::<String>::new());
    assert_eq!(
        node.driver.changes_of("raw"),
        ["NodeStageVolume", "NodePublishVolume", "NodeUnpublishVolume", "NodeUnstageVolume"]
    );
}

#[test]
fn csi_files_and_devices_are_not_taken_for_each_other() {
    let node = CsiNode::start();
    node.driver.provide_device("raw", MIB).unwrap();
    node.bind(DRIVER, "raw", &json!({"volumeMode": "Block"}));
    node.claim("disk", &json!({}));
    let mounts = node.run("mounts", "raw", "true");
    node.wait_told("mounts", "FailedMount", &["data", "volumeMode Block", "volumeMounts"]);
    let spec = crate::csi::claiming("disk", "true", "");
    let spec = spec.replace(
        "volumeMounts: [{name: data, mountPath: /data}]",
        "volumeDevices: [{name: data, devicePath: /dev/x}]",
    );
    let maps = node.cluster.run("maps", &spec);
    node.wait_told("maps", "FailedMount", &["data", "volumeMode Filesystem", "volumeDevices"]);
    assert_eq!((node.driver.changes_of("raw").len(), node.driver.changes_of("disk").len()), (0, 0));
    node.end(&mounts);
    node.end(&maps);
    node.wait_nothing_left();
}
