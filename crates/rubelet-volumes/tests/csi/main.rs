//! Volumes of drivers against a real one over real sockets, with real mounts: the order of calls, what is on disk, and
//! what becomes of it all when the driver fails, hangs or lies and when the agent starts anew. Mounting needs root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test cannot do fails the test")]

mod asks;
mod faults;
mod world;

use rubelet_core::volumes::{CsiVolume, VolumeMode};
use rubelet_testkit::csi_driver::{Capability, Character, Method};
use serde_json::{Value, json};
use std::fs;
use world::*;

#[tokio::test(flavor = "multi_thread")]
async fn pods_share_what_is_staged_and_the_last_one_takes_it_down() {
    let world = World::usual().await;
    for uid in ["a", "b", "a"] {
        let ready = world.set_up(uid, &volume()).await.unwrap();
        assert_eq!(ready.volume.path, world.pod_dir(uid).join("volumes/kubernetes.io~csi/pv/mount"));
        assert!(ready.volume.ours && !ready.volume.read_only && ready.behind.is_none());
    }
    fs::write(world.pod_dir("a").join("volumes/kubernetes.io~csi/pv/mount/x"), "1").unwrap();
    assert_eq!(fs::read(world.pod_dir("b").join("volumes/kubernetes.io~csi/pv/mount/x")).unwrap(), b"1");
    let data = fs::read(world.pod_dir("a").join("volumes/kubernetes.io~csi/pv/vol_data.json")).unwrap();
    let data: Value = serde_json::from_slice(&data).unwrap();
    let attachment = rubelet_core::volumes::attach::attachment_name("vol", DRIVER, "n1");
    assert_eq!(
        data,
        json!({"specVolID": "pv", "volumeHandle": "vol", "driverName": DRIVER, "nodeName": "n1",
               "attachmentID": attachment, "volumeLifecycleMode": "Persistent"})
    );
    world.tear_down("a").await.unwrap();
    assert_eq!(world.driver.places().len(), 2, "staged, and the other pod's");
    world.tear_down("b").await.unwrap();
    world.settled().await;
    world.tear_down("b").await.unwrap();
    assert_eq!(
        world.driver.changes_of("vol"),
        [
            "NodeStageVolume",
            "NodePublishVolume",
            "NodePublishVolume",
            "NodeUnpublishVolume",
            "NodeUnpublishVolume",
            "NodeUnstageVolume"
        ]
    );
    assert_eq!(world.driver.mistakes(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_does_not_stage_is_not_asked_to() {
    let world = World::new(Character::named(DRIVER).that_cannot(&[Capability::StageUnstageVolume])).await;
    world.set_up("a", &volume()).await.unwrap();
    world.tear_down("a").await.unwrap();
    world.settled().await;
    assert_eq!(world.driver.changes_of("vol"), ["NodePublishVolume", "NodeUnpublishVolume"]);
    assert_eq!(world.driver.mistakes(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_mounted_survives_the_agent() {
    let mut world = World::usual().await;
    world.set_up("a", &volume()).await.unwrap();
    let before = world.driver.calls().len();
    world.restart();
    // Neither driver nor API server are needed to go on.
    world.api.objects().away = true;
    let pod = pod("a", json!({"securityContext": {"fsGroup": 77}}));
    world.set_up_at(&pod, &volume(), None, 0).await.unwrap();
    assert_eq!(world.driver.calls().len(), before);
    let in_use = world.csi.in_use().await.unwrap();
    assert_eq!(in_use, [(DRIVER.to_owned(), format!("kubernetes.io/csi/{DRIVER}^vol"))]);
    // Nothing is unstaged that a pod has, whoever sweeps.
    world.api.objects().away = false;
    world.register().await;
    world.restart();
    world.register().await;
    world.csi.unstage_unused().await;
    // The same volume's turn comes after the sweep's.
    world.set_up("a", &volume()).await.unwrap();
    assert_eq!(world.driver.places().len(), 2);
    // The pod ends without ever having been set up by this agent.
    world.restart();
    let error = world.tear_down("a").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "UnmountVolume.TearDown failed for volume \"pv\" : driver name {DRIVER} not found in the list of \
             registered CSI drivers"
        )
    );
    world.register().await;
    world.tear_down("a").await.unwrap();
    world.settled().await;
    assert_eq!(world.driver.mistakes(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_staged_and_forgotten_is_unstaged() {
    let mut world = World::usual().await;
    world.set_up("a", &volume()).await.unwrap();
    // As if the agent had died between the two calls.
    let client = rubelet_csi::CsiClient::new(world.driver.endpoint(), DRIVER);
    let home = world.pod_dir("a").join("volumes/kubernetes.io~csi/pv");
    client.unpublish("vol", &home.join("mount")).await.unwrap();
    fs::remove_dir_all(&home).unwrap();
    world.restart();
    world.csi.unstage_unused().await;
    world.register().await;
    world.settled().await;
    assert_eq!(world.driver.mistakes(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_a_link_for_its_pod_and_goes_with_it() {
    let mut world = World::usual().await;
    world.driver.provide_device("disk", 8 * MIB).unwrap();
    let volume = CsiVolume { handle: "disk".into(), mode: VolumeMode::Block, ..volume() };
    let mut ready = world.set_up("a", &volume).await.unwrap();
    for _ in 0..2 {
        assert_eq!(ready.volume.path, world.pod_dir("a").join("volumeDevices/kubernetes.io~csi/pv"));
        use std::os::unix::fs::FileTypeExt as _;
        assert!(fs::metadata(&ready.volume.path).unwrap().file_type().is_block_device());
        let target = fs::read_link(&ready.volume.path).unwrap();
        assert_eq!(target, world.root().join("plugins/kubernetes.io/csi/volumeDevices/publish/pv/a"));
        // Once more by an agent that knows nothing.
        world.restart();
        ready = world.set_up("a", &volume).await.unwrap();
    }
    world.register().await;
    world.tear_down("a").await.unwrap();
    world.settled().await;
    assert_eq!(
        world.driver.changes_of("disk"),
        ["NodeStageVolume", "NodePublishVolume", "NodeUnpublishVolume", "NodeUnstageVolume"]
    );
    assert_eq!(world.driver.mistakes(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_one_pod_is_not_given_to_two() {
    let world = World::usual().await;
    let volume = CsiVolume { access_modes: vec!["ReadWriteOncePod".into()], ..volume() };
    world.set_up("a", &volume).await.unwrap();
    let problem = world.set_up("b", &volume).await.unwrap_err();
    assert_eq!(
        problem.to_string(),
        "volume uses the ReadWriteOncePod access mode and is already in use by another pod"
    );
    // The one that was refused leaves nothing that keeps the volume staged.
    world.tear_down("a").await.unwrap();
    world.set_up("b", &volume).await.unwrap();
    world.set_up("a", &volume).await.unwrap_err();
    world.tear_down("b").await.unwrap();
    world.tear_down("a").await.unwrap();
    world.settled().await;
    assert_eq!(world.driver.mistakes(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_register_leave_and_wake_who_waits() {
    let mut world = World::usual().await;
    world.restart();
    let problem = world.set_up("a", &volume()).await.unwrap_err();
    assert_eq!(
        problem.to_string(),
        format!("driver name {DRIVER} not found in the list of registered CSI drivers")
    );
    assert_eq!(problem.step.name(), "MountVolume.SetUp failed");
    world.register().await;
    assert_eq!(*world.woken.lock().unwrap(), ["a".into()]);
    world.set_up("a", &volume()).await.unwrap();
    let refused = |versions: &[&str], endpoint: &str| {
        let versions: Vec<String> = versions.iter().map(|v| (*v).to_owned()).collect();
        world.csi.validate(DRIVER, endpoint.as_ref(), &versions).unwrap_err().to_string()
    };
    assert!(refused(&["1.0.0"], "/other.sock").contains("already registered"));
    assert!(refused(&["0.3.0"], "/other.sock").contains("must be v1.x"));
    assert!(refused(&[], "/other.sock").contains("empty list"));
    world.csi.validate(DRIVER, "/other.sock".as_ref(), &["1.1.0".to_owned()]).unwrap();
    world.csi.validate(DRIVER, world.driver.endpoint(), &["1.0.0".to_owned()]).unwrap();
    for name in ["..", "a/b", "", "volumeDevices"] {
        world.csi.validate(name, "/s".as_ref(), &["1.0.0".to_owned()]).unwrap_err();
    }
    world.csi.deregister(DRIVER);
    world.set_up("a", &volume()).await.unwrap();
    world.tear_down("a").await.unwrap_err();
    world.register().await;
    world.tear_down("a").await.unwrap();
    world.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_lead_elsewhere_are_refused() {
    let world = World::usual().await;
    for (driver, name) in [("..", "pv"), ("a/b", "pv"), (DRIVER, ".."), (DRIVER, ""), (DRIVER, "a\0")] {
        let volume = CsiVolume { driver: driver.into(), spec_name: name.into(), ..volume() };
        let problem = world.set_up("a", &volume).await.unwrap_err();
        assert!(problem.to_string().contains("is no file name"), "{driver} {name}: {problem}");
    }
    assert_eq!(world.driver.calls_of(Method::NodeStageVolume, "vol").len(), 0);
}
