//! Volumes of files of a driver: who mounts what, where and when; what the driver is given with it; and that nothing is
//! taken away from under a container.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use rubelet_testkit::csi_driver::{Capability, Character, Method};
use serde_json::{Value, json};

use crate::csi::{CsiNode, DRIVER, claiming, showing, unique_name};
use crate::node::NAME;
use crate::pods::{self, uid};
use crate::wait::{self, PATIENCE};

/// Says when it ends, late, and into the volume.
const LAST_WORDS: &str =
    "trap \"sleep 1; cut -d\\\" \\\" -f1 /proc/uptime > /data/end; exit 0\" TERM; cat /data/*";

/// Reads a file as soon as it is there.
fn text(path: &Path) -> String {
    wait::until(&format!("{} to be there", path.display()), PATIENCE, || match fs::read_to_string(path) {
        Ok(text) if !text.is_empty() => Ok(text),
        other => Err(format!("{other:?}")),
    })
}

#[test]
fn csi_files_are_staged_once_for_all_pods_and_unstaged_after_the_last() {
    let node = CsiNode::start();
    let folder =
        node.claim("disk", &json!({"csi": {"volumeAttributes": {"pool": "fast"}, "fsType": "ext4"}}));
    fs::write(folder.join("before"), "kept\n").unwrap();
    let first = node.run("first", "disk", &format!("echo one > /data/first; {LAST_WORDS}"));
    let second = node.run("second", "disk", "until [ -e /data/first ]; do sleep 0.1; done; cat /data/first");
    for (pod, line) in [(&first, "kept"), (&second, "one")] {
        node.cluster.wait_ready(pod.metadata.name.as_deref().unwrap());
        node.cluster.node.wait_log(pod, "c", line);
    }
    assert_eq!(
        node.driver.changes_of("disk"),
        ["NodeStageVolume", "NodePublishVolume", "NodePublishVolume"],
        "staged once, published for each"
    );

    // Where and with what.
    let staged = node.driver.calls_of(Method::NodeStageVolume, "disk").remove(0);
    let root = node.cluster.node.root();
    let global = Path::new(staged.text("staging_target_path")).to_owned();
    let place = global.strip_prefix(root.join("plugins/kubernetes.io/csi").join(DRIVER)).unwrap();
    let [hash, last] = place.iter().collect::<Vec<_>>()[..] else { panic!("{}", place.display()) };
    assert_eq!((hash.len(), last.to_str()), (64, Some("globalmount")));
    let capability = &staged.request["volume_capability"];
    assert_eq!(
        (&capability["access_mode"], &capability["fs_type"]),
        (&json!("SINGLE_NODE_WRITER"), &json!("ext4"))
    );
    assert_eq!(staged.request["volume_context"], json!({"pool": "fast"}));
    let kept: Value = serde_json::from_str(&text(&global.with_file_name("vol_data.json"))).unwrap();
    assert_eq!((&kept["driverName"], &kept["volumeHandle"]), (&json!(DRIVER), &json!("disk")));
    let published = node.driver.calls_of(Method::NodePublishVolume, "disk");
    for pod in [&first, &second] {
        let dir = node.volume_dir(pod, "disk");
        let call = published.iter().find(|call| Path::new(call.text("target_path")) == dir.join("mount"));
        let call = call.unwrap_or_else(|| panic!("nothing is published at {}", dir.display()));
        assert_eq!(Path::new(call.text("staging_target_path")), global);
        assert_eq!(call.request["readonly"], false);
        let kept: Value = serde_json::from_str(&text(&dir.join("vol_data.json"))).unwrap();
        assert_eq!(kept["specVolID"], "disk");
        assert_eq!((&kept["driverName"], &kept["volumeHandle"]), (&json!(DRIVER), &json!("disk")));
        assert_eq!((&kept["nodeName"], &kept["volumeLifecycleMode"]), (&json!(NAME), &json!("Persistent")));
    }

    // The first leaves: only its own mount goes, and not before its container is gone.
    node.end(&first);
    let end: f64 = text(&folder.join("end")).trim().parse().unwrap();
    let unpublished = node.driver.calls_of(Method::NodeUnpublishVolume, "disk");
    assert_eq!(unpublished.len(), 1);
    assert!(unpublished[0].begun >= end, "unpublished at {} while written at {end}", unpublished[0].begun);
    assert_eq!(node.driver.calls_of(Method::NodeUnstageVolume, "disk").len(), 0);
    assert_eq!(pods::restarts(&node.cluster.pod("second"), "c"), 0);
    node.end(&second);
    node.wait_nothing_left();
    let changes = node.driver.changes_of("disk");
    assert_eq!(changes[3..], ["NodeUnpublishVolume", "NodeUnpublishVolume", "NodeUnstageVolume"]);
    assert_eq!(fs::read_to_string(folder.join("before")).unwrap(), "kept\n");
}

#[test]
fn csi_a_driver_that_stages_nothing_is_not_asked_to() {
    let node = CsiNode::with(
        Character::named(DRIVER).that_cannot(&[Capability::StageUnstageVolume]),
        &json!({"attachRequired": false}),
    );
    node.claim("disk", &json!({"accessModes": ["ReadWriteMany"]}));
    let pod = node.run("pod", "disk", "echo x > /data/x");
    node.cluster.wait_ready("pod");
    let call = node.driver.calls_of(Method::NodePublishVolume, "disk").remove(0);
    assert_eq!(call.text("staging_target_path"), "");
    assert_eq!(call.request["volume_capability"]["access_mode"], "MULTI_NODE_MULTI_WRITER");
    node.end(&pod);
    node.wait_nothing_left();
    assert_eq!(node.driver.changes_of("disk"), ["NodePublishVolume", "NodeUnpublishVolume"]);
}

#[test]
fn csi_inline_volumes_live_and_die_with_their_pod() {
    let node = CsiNode::with(
        Character::named(DRIVER),
        &json!({"attachRequired": false, "podInfoOnMount": true, "volumeLifecycleModes": ["Ephemeral"]}),
    );
    node.cluster.api.create_json(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"},
        "data": {"password": "b3BlbiBzZXNhbWU="}}));
    let volume = format!(
        "csi: {{driver: {DRIVER}, volumeAttributes: {{greeting: hello}}, nodePublishSecretRef: {{name: key}}}}"
    );
    let pod = node.cluster.run("pod", &showing(&volume, "cat /data/greeting; echo; touch /data/mine", ""));
    node.cluster.wait_ready("pod");
    node.cluster.node.wait_log(&pod, "c", "hello");
    let calls = node.driver.calls();
    let call = calls.iter().find(|call| call.method == Method::NodePublishVolume).unwrap();
    let handle = call.volume.clone();
    assert!(handle.starts_with("csi-") && handle.len() == 68, "{handle}");
    assert_eq!((call.text("staging_target_path"), &call.request["readonly"]), ("", &json!(false)));
    assert_eq!(Path::new(call.text("target_path")), node.volume_dir(&pod, "data").join("mount"));
    assert_eq!(call.request["secrets"], json!({"password": "open sesame"}));
    assert_eq!(
        call.request["volume_context"],
        json!({
            "greeting": "hello", "csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.name": "pod",
            "csi.storage.k8s.io/pod.namespace": "default", "csi.storage.k8s.io/pod.uid": uid(&pod),
            "csi.storage.k8s.io/serviceAccount.name": "default",
        })
    );
    assert!(!node.cluster.node.agent_log().contains("open sesame"), "the log tells a secret");
    node.end(&pod);
    node.wait_nothing_left();
    assert_eq!(node.driver.changes_of(&handle), ["NodePublishVolume", "NodeUnpublishVolume"]);

    // What the driver has not agreed to is not tried.
    node.claim("disk", &json!({}));
    let pod = node.run("other", "disk", "true");
    let told = node.wait_told("other", "FailedMount", &["\"disk\"", "Persistent", DRIVER]);
    assert_eq!(told.matches("Persistent").count(), 1, "{told}");
    assert_eq!(node.driver.changes_of("disk"), [""; 0]);
    node.end(&pod);
    node.wait_nothing_left();
}

#[test]
fn csi_generic_ephemeral_volumes_wait_for_whoever_binds_them() {
    let node = CsiNode::start();
    let template = "ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}";
    let pod = node.cluster.run("pod", &showing(template, "echo x > /data/x", ""));
    node.wait_told("pod", "FailedMount", &["pod-data"]);
    // Somebody else's claim of that name is not the pod's.
    let folder = node.claim("pod-data", &json!({}));
    node.wait_told("pod", "FailedMount", &["pod-data", "was not created for pod"]);
    let owner =
        json!([{"apiVersion": "v1", "kind": "Pod", "name": "pod", "uid": uid(&pod), "controller": true}]);
    node.cluster.api.modify::<PersistentVolumeClaim>("default", "pod-data", |claim| {
        claim.metadata.owner_references = serde_json::from_value(owner).unwrap();
    });
    node.cluster.wait_ready("pod");
    text(&folder.join("x"));
    node.end(&pod);
    node.wait_nothing_left();
}

#[test]
fn csi_a_volume_is_used_once_it_is_attached_and_let_go_after_unstaging() {
    let node = CsiNode::with(Character::named(DRIVER), &json!({"attachRequired": true}));
    node.claim("disk", &json!({}));
    let pod = node.run("pod", "disk", "echo x > /data/x");
    wait::until("the node to say that it uses the volume", PATIENCE, || {
        let used = node.volumes_in_use();
        if used == [unique_name("disk")] { Ok(()) } else { Err(format!("{used:?}")) }
    });
    assert_eq!(node.driver.changes_of("disk"), [""; 0], "nothing is staged that is not attached");
    assert_eq!(pods::phase(&node.cluster.pod("pod")), "Pending");
    node.attach("disk", &json!({"lun": "7"}));
    node.cluster.wait_ready("pod");
    for method in [Method::NodeStageVolume, Method::NodePublishVolume] {
        let call = node.driver.calls_of(method, "disk").remove(0);
        assert_eq!(call.request["publish_context"], json!({"lun": "7"}), "{method:?}");
    }
    assert_eq!(node.volumes_in_use(), [unique_name("disk")]);
    // Whoever might detach it has to see that it is in use until it is not staged any more.
    let held = node.driver.fault("NodeUnstageVolume hang".parse().unwrap());
    node.cluster.api.delete::<Pod>("default", "pod");
    wait::until("the volume to be on its way out", PATIENCE, || {
        if held.hits() > 0 { Ok(()) } else { Err(format!("{:?}", node.driver.changes_of("disk"))) }
    });
    wait::throughout(std::time::Duration::from_secs(2), || {
        assert_eq!(node.volumes_in_use(), [unique_name("disk")]);
    });
    held.stop();
    node.cluster.wait_gone(&pod);
    node.wait_nothing_left();
    wait::until("the node to let the volume go", PATIENCE, || {
        let used = node.volumes_in_use();
        if used.is_empty() { Ok(()) } else { Err(format!("{used:?}")) }
    });
}

#[test]
fn csi_the_group_gets_what_the_policy_says_from_whom_it_says() {
    let mut node =
        CsiNode::with(Character::named(DRIVER), &json!({"attachRequired": false, "fsGroupPolicy": "File"}));
    let never = node.add(
        Character::named("none.csi.test"),
        "none",
        &json!({"attachRequired": false, "fsGroupPolicy": "None"}),
    );
    let own = node.add(
        Character::named("own.csi.test").that_can(&[Capability::VolumeMountGroup]),
        "own",
        &json!({"attachRequired": false, "fsGroupPolicy": "File"}),
    );
    let usual = node.add(Character::named("usual.csi.test"), "usual", &json!({"attachRequired": false}));
    let group = "securityContext: {fsGroup: 4321, runAsUser: 1000}";
    let cases = [
        ("file", &node.driver, DRIVER, json!({}), 4321),
        ("none", &never, "none.csi.test", json!({}), 0),
        ("own", &own, "own.csi.test", json!({}), 4321),
        // Without a type of file system nobody knows whether groups mean anything there.
        ("untyped", &usual, "usual.csi.test", json!({}), 0),
        ("typed", &usual, "usual.csi.test", json!({"csi": {"fsType": "ext4"}}), 4321),
        (
            "many",
            &usual,
            "usual.csi.test",
            json!({"csi": {"fsType": "ext4"}, "accessModes": ["ReadWriteMany"]}),
            0,
        ),
    ];
    for (name, driver, of, more, _) in &cases {
        let folder = driver.provide(name, 1 << 20).unwrap();
        fs::create_dir(folder.join("dir")).unwrap();
        fs::write(folder.join("dir/file"), "x").unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        node.bind(of, name, more);
        node.cluster.run(name, &claiming(name, "id -G", group));
    }
    for (name, driver, _, _, wanted) in &cases {
        node.cluster.wait_ready(name);
        let call = driver.calls_of(Method::NodePublishVolume, name).remove(0);
        let told = call.request["volume_capability"]["volume_mount_group"].clone();
        assert_eq!(told, if *name == "own" { "4321" } else { "" }, "{name}");
        let folder = Path::new(call.text("target_path")).to_owned();
        let seen = fs::metadata(&folder).unwrap();
        assert_eq!(seen.gid(), *wanted, "{name}");
        let file = fs::metadata(folder.join("dir/file")).unwrap();
        // A driver that gives its volumes away itself does as it likes.
        let wanted = if *name == "own" { 0 } else { *wanted };
        assert_eq!(file.gid(), wanted, "{name}");
        if wanted != 0 {
            assert_eq!((seen.mode() & 0o2070, file.mode() & 0o060), (0o2070, 0o060), "{name}");
        }
    }
    for (name, ..) in &cases {
        node.end(&node.cluster.pod(name));
    }
    node.wait_nothing_left();
    for driver in [never, own, usual] {
        assert_eq!((driver.mistakes(), driver.places()), (vec![], vec![]));
    }
}

#[test]
fn csi_read_only_and_mount_options_reach_driver_and_container() {
    let node = CsiNode::start();
    node.claim("disk", &json!({"mountOptions": ["noexec", "noatime"]}));
    let script = "touch /data/no 2>&1; grep \" /data \" /proc/mounts";
    let read_only =
        claiming("disk", script, "").replace("claimName: disk", "claimName: disk, readOnly: true");
    let pod = node.cluster.run("pod", &read_only);
    node.cluster.wait_ready("pod");
    let log = node.cluster.node.wait_log(&pod, "c", "ALL SHOWN");
    assert!(log.contains("Read-only file system") && log.contains("noatime"), "{log}");
    // Runtimes leave out some options when they bind for reading only; what the driver mounted has them all.
    let target = node.volume_dir(&pod, "disk").join("mount").display().to_string();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.contains(&format!(" {target} "))).unwrap();
    assert!(mount.contains("ro,") && mount.contains("noexec") && mount.contains("noatime"), "{mount}");
    for method in [Method::NodeStageVolume, Method::NodePublishVolume] {
        let call = node.driver.calls_of(method, "disk").remove(0);
        assert_eq!(
            call.request["volume_capability"]["mount_flags"],
            json!(["noexec", "noatime"]),
            "{method:?}"
        );
    }
    assert_eq!(node.driver.calls_of(Method::NodePublishVolume, "disk")[0].request["readonly"], true);
    node.end(&pod);

    node.claim("bad", &json!({"mountOptions": ["nonsense"]}));
    let pod = node.run("bad", "bad", "true");
    node.wait_told("bad", "FailedMount", &["MountVolume.MountDevice failed", "\"bad\"", "nonsense"]);
    node.end(&pod);
    node.wait_nothing_left();
}

#[test]
fn csi_secrets_go_to_the_call_they_are_for_and_nowhere_else() {
    let node = CsiNode::start();
    let secret = |name: &str| json!({"name": name, "namespace": "default"});
    node.claim(
        "disk",
        &json!({"csi": {"nodeStageSecretRef": secret("stage"), "nodePublishSecretRef": secret("publish")}}),
    );
    let create = |name: &str, value: &str| {
        node.cluster
            .api
            .create_json(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "stringData": {"key": value}}));
    };
    create("publish", "swordfish");
    let pod = node.run("pod", "disk", "true");
    node.wait_told("pod", "FailedMount", &["stage"]);
    assert_eq!(node.driver.changes_of("disk"), [""; 0]);
    create("stage", "rosebud");
    node.cluster.wait_ready("pod");
    let secrets = |method| node.driver.calls_of(method, "disk").remove(0).request["secrets"].clone();
    assert_eq!(secrets(Method::NodeStageVolume), json!({"key": "rosebud"}));
    assert_eq!(secrets(Method::NodePublishVolume), json!({"key": "swordfish"}));
    node.end(&pod);
    node.wait_nothing_left();
    let log = node.cluster.node.agent_log();
    assert!(!log.contains("rosebud") && !log.contains("swordfish"), "the log tells a secret");
}

#[test]
fn csi_access_modes_are_told_apart_for_drivers_that_can() {
    let mut node = CsiNode::start();
    let finer = node.add(
        Character::named("finer.csi.test").that_can(&[Capability::SingleNodeMultiWriter]),
        "finer",
        &json!({"attachRequired": false}),
    );
    let cases = [
        ("once", DRIVER, "ReadWriteOnce", "SINGLE_NODE_WRITER"),
        ("pod-once", DRIVER, "ReadWriteOncePod", "SINGLE_NODE_WRITER"),
        ("finer-once", "finer.csi.test", "ReadWriteOnce", "SINGLE_NODE_MULTI_WRITER"),
        ("finer-pod-once", "finer.csi.test", "ReadWriteOncePod", "SINGLE_NODE_SINGLE_WRITER"),
        ("read", DRIVER, "ReadOnlyMany", "MULTI_NODE_READER_ONLY"),
    ];
    for (name, of, mode, _) in cases {
        let driver = if of == DRIVER { &node.driver } else { &finer };
        driver.provide(name, 1 << 20).unwrap();
        node.bind(of, name, &json!({"accessModes": [mode]}));
        node.run(name, name, "true");
    }
    for (name, of, _, wanted) in cases {
        node.cluster.wait_ready(name);
        let driver = if of == DRIVER { &node.driver } else { &finer };
        for method in [Method::NodeStageVolume, Method::NodePublishVolume] {
            let call = driver.calls_of(method, name).remove(0);
            assert_eq!(call.request["volume_capability"]["access_mode"], wanted, "{name} {method:?}");
        }
    }
    for (name, ..) in cases {
        node.end(&node.cluster.pod(name));
    }
    node.wait_nothing_left();
    assert_eq!(finer.mistakes(), Vec::<String>::new());
    assert!(node.cluster.api.get::<PersistentVolume>("", "once").is_some());
}
