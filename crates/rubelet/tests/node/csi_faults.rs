//! Drivers that fail, lie, hang, vanish and come twice: the pod's events say what and which volume, what was begun comes to
//! its end, no data is lost, and no neighbour notices.

use std::fs;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use rubelet_testkit::csi_driver::{Character, CsiDriver, Fault, Method, Rule};
use serde_json::json;
use tonic::Code;

use crate::csi::{CsiNode, DRIVER, MIB};
use crate::pods;
use crate::wait::{self, PATIENCE};

#[test]
fn csi_failures_are_told_and_tried_again_until_it_works() {
    let node = CsiNode::start();
    for (name, method, what) in [
        ("stage", Method::NodeStageVolume, Fault::Fail(Code::Internal)),
        ("stage-done", Method::NodeStageVolume, Fault::DoThenFail(Code::DeadlineExceeded)),
        ("publish", Method::NodePublishVolume, Fault::Fail(Code::InvalidArgument)),
        ("publish-done", Method::NodePublishVolume, Fault::DoThenFail(Code::Unavailable)),
        ("unpublish", Method::NodeUnpublishVolume, Fault::Fail(Code::Internal)),
        ("unpublish-done", Method::NodeUnpublishVolume, Fault::DoThenFail(Code::Internal)),
        ("unstage", Method::NodeUnstageVolume, Fault::Fail(Code::Internal)),
        ("unstage-done", Method::NodeUnstageVolume, Fault::DoThenFail(Code::Aborted)),
    ] {
        node.claim(name, &json!({}));
        node.driver.fault(Rule::on(method, what).volume(name).times(2));
        node.run(name, name, "echo run >> /data/runs");
    }
    let all = [
        "stage",
        "stage-done",
        "publish",
        "publish-done",
        "unpublish",
        "unpublish-done",
        "unstage",
        "unstage-done",
    ];
    for name in all {
        node.cluster.wait_ready(name);
    }
    for (name, step) in [
        ("stage", "MountVolume.MountDevice failed for volume \"stage\""),
        ("publish", "MountVolume.SetUp failed for volume \"publish\""),
    ] {
        node.wait_told(name, "FailedMount", &[step, "rpc error: code = ", "desc = as the test ordered"]);
    }
    // The delay doubles, from half a second on.
    let calls = node.driver.calls_of(Method::NodeStageVolume, "stage");
    let waits: Vec<f64> = calls.windows(2).map(|two| two[1].begun - two[0].begun).collect();
    assert!(waits[0] >= 0.4 && waits[1] >= 0.9, "{waits:?}");
    for name in all {
        node.cluster.api.delete::<Pod>("default", name);
    }
    node.wait_nothing_left();
    for name in all {
        let runs =
            fs::read_to_string(node.cluster.node.path("driver-files").join(name).join("runs")).unwrap();
        assert_eq!(runs, "run\n", "{name}");
        let last = node.driver.changes_of(name).pop();
        assert_eq!(last.as_deref(), Some("NodeUnstageVolume"), "{name}");
    }
}

#[test]
fn csi_a_driver_that_lies_costs_no_data_and_shows_no_wrong_folder() {
    let node = CsiNode::start();
    for (name, method) in [("publish", Method::NodePublishVolume), ("unpublish", Method::NodeUnpublishVolume)]
    {
        let folder = node.claim(name, &json!({}));
        fs::write(folder.join("data"), "precious\n").unwrap();
        let lie = node.driver.fault(Rule::on(method, Fault::Lie).volume(name).times(1));
        let pod = node.run(name, name, "cat /data/data; echo mine > /data/mine");
        node.cluster.wait_ready(name);
        assert!(node.cluster.node.wait_log(&pod, "c", "ALL SHOWN").contains("precious"), "{name}");
        node.cluster.api.delete::<Pod>("default", name);
        node.cluster.wait_gone(&pod);
        wait::until("the lie to be told", PATIENCE, || {
            if lie.hits() == 1 { Ok(()) } else { Err(name.to_owned()) }
        });
        node.wait_nothing_left();
        assert_eq!(fs::read_to_string(folder.join("data")).unwrap(), "precious\n", "{name}");
        assert_eq!(fs::read_to_string(folder.join("mine")).unwrap(), "mine\n", "{name}");
    }
}

#[test]
fn csi_a_pod_waits_for_its_driver_and_a_driver_that_is_gone_keeps_what_it_has() {
    let mut node = CsiNode::prepared(Character::named(DRIVER), &json!({"attachRequired": false}));
    node.cluster.start_agent();
    node.claim("disk", &json!({}));
    let pod = node.run("pod", "disk", "echo x > /data/x");
    let message = format!("driver name {DRIVER} not found in the list of registered CSI drivers");
    node.wait_told("pod", "FailedMount", &["\"disk\"", &message]);
    let begin = wait::uptime();
    node.driver.start().unwrap();
    node.cluster.wait_ready("pod");
    println!("a pod runs {:.1} s after its driver started", wait::uptime() - begin);

    // A driver that is restarted, and one that dies without a word.
    node.driver.stop();
    wait::until("the driver to be out of the CSINode", PATIENCE, || {
        if node.entry(DRIVER).is_none() { Ok(()) } else { Err("it is there".to_owned()) }
    });
    let neighbour = node.cluster.run(
        "neighbour",
        "
terminationGracePeriodSeconds: 1
containers: [{name: c, image: $IMAGE, command: [sleep, '1000'], volumeMounts: [{name: v, mountPath: /v}]}]
volumes: [{name: v, emptyDir: {}}]",
    );
    node.cluster.wait_ready("neighbour");
    node.cluster.api.delete::<Pod>("default", "pod");
    node.cluster.wait_pod("pod", "to have ended its container", |pod| {
        pods::state(pod, "c").starts_with("terminated")
    });
    node.end(&neighbour);
    assert!(!node.driver.places().is_empty() && node.volume_dir(&pod, "disk").join("mount/x").exists());
    node.driver.start().unwrap();
    node.cluster.wait_gone(&pod);
    wait::until("the driver to have nothing any more", PATIENCE, || {
        let places = node.driver.places();
        if places.is_empty() && !node.cluster.pod_dir(&pod).exists() {
            Ok(())
        } else {
            Err(format!("{places:?}"))
        }
    });
    node.driver.crash();
    node.driver.start().unwrap();
    node.claim("late", &json!({}));
    let late = node.run("late", "late", "true");
    node.cluster.wait_ready("late");
    node.end(&late);
}

#[test]
fn csi_a_call_that_hangs_holds_up_its_own_pod_alone() {
    let mut node = CsiNode::start();
    let other = node.add(Character::named("other.csi.test"), "other", &json!({"attachRequired": false}));
    let stage = node.driver.fault(Rule::on(Method::NodeStageVolume, Fault::Hang).volume("hangs"));
    let stats = node.driver.fault(Rule::on(Method::NodeGetVolumeStats, Fault::Hang));
    node.claim("hangs", &json!({}));
    let hangs = node.run("hangs", "hangs", "true");
    wait::until("the call to come", PATIENCE, || if stage.hits() > 0 { Ok(()) } else { Err(String::new()) });
    node.claim("same", &json!({}));
    other.provide("far", MIB).unwrap();
    node.bind("other.csi.test", "far", &json!({}));
    for name in ["same", "far"] {
        let begin = wait::uptime();
        node.run(name, name, "true");
        node.cluster.wait_ready(name);
        let took = wait::uptime() - begin;
        assert!(took < 20.0, "{name} took {took:.1} s");
    }
    // Neither do figures wait for a driver that keeps silent.
    let begin = wait::uptime();
    let summary = node.cluster.node.get("/stats/summary").unwrap();
    assert!(summary.contains("\"same\"") && wait::uptime() - begin < 20.0);
    // What was asked while the volume was there is answered while it is.
    stats.stop();
    for name in ["same", "far"] {
        node.end(&node.cluster.pod(name));
    }
    // A pod can be deleted while its volume comes; it goes once the driver has answered.
    node.cluster.api.delete::<Pod>("default", "hangs");
    assert_eq!(pods::state(&node.cluster.pod("hangs"), "c"), "waiting ContainerCreating");
    stage.stop();
    node.cluster.wait_gone(&hangs);
    node.wait_nothing_left();
}

#[test]
fn csi_drivers_that_register_strangely_are_told_why_not() {
    let node = CsiNode::start();
    let root = node.cluster.node.root();
    let data = node.cluster.node.path("strange");
    let strange = |folder: &str, change: &dyn Fn(&mut Character)| {
        let mut character = Character::named(&format!("{folder}.csi.test"));
        change(&mut character);
        let mut driver = CsiDriver::new(character, folder, &root, &data.join(folder)).unwrap();
        driver.start().unwrap();
        driver
    };
    let refused = [
        strange("old", &|character| character.versions = vec!["0.3.0".to_owned()]),
        strange("versionless", &|character| character.versions.clear()),
        strange("nonsense", &|character| character.versions = vec!["v one".to_owned()]),
    ];
    for driver in &refused {
        let told = wait::until("the driver to be told", PATIENCE, || {
            let mut calls = driver.calls();
            calls.retain(|call| call.method == Method::NotifyRegistrationStatus);
            calls.pop().ok_or_else(|| format!("{:?}", driver.calls()))
        });
        assert_eq!(told.request["plugin_registered"], false, "{:?}", told.request);
        assert!(!told.text("error").is_empty());
    }
    // One whose node service does not answer to anything useful, and one of another kind.
    let _nobody_is_there =
        strange("nowhere", &|character| character.endpoint = Some("/nowhere/csi.sock".to_owned()));
    let _another_kind = strange("kind", &|character| character.kind = "TeaPot".to_owned());
    let hung = strange("hung", &|_| {});
    hung.fault(Rule::on(Method::NodeGetInfo, Fault::Hang));
    // None of them is in the way of one that is in order.
    let good = strange("good", &|_| {});
    node.wait_registered("good.csi.test");
    let entries: Vec<String> =
        node.csi_node().unwrap().spec.drivers.into_iter().map(|entry| entry.name).collect();
    assert_eq!(entries.len(), 2, "{entries:?}");
    drop(good);
}

#[test]
fn csi_a_driver_that_comes_twice_is_one_driver() {
    let node = CsiNode::start();
    node.claim("disk", &json!({}));
    let pod = node.run("pod", "disk", "true");
    node.cluster.wait_ready("pod");
    // An update: the new instance registers while the old one is still there, and takes over.
    let mut twin = CsiDriver::new(
        Character::named(DRIVER),
        "twin",
        &node.cluster.node.root(),
        &node.cluster.node.path("twin"),
    )
    .unwrap();
    twin.start().unwrap();
    wait::until("the twin to be told", PATIENCE, || {
        let calls = twin.calls();
        let told = calls.iter().find(|call| call.method == Method::NotifyRegistrationStatus);
        told.map(drop).ok_or_else(|| format!("{calls:?}"))
    });
    let drivers = node.csi_node().unwrap().spec.drivers;
    assert_eq!(drivers.iter().filter(|entry| entry.name == DRIVER).count(), 1, "{drivers:?}");
    // It goes again, and with it nothing of the first.
    twin.stop();
    wait::throughout(Duration::from_secs(2), || {
        assert_eq!(pods::restarts(&node.cluster.pod("pod"), "c"), 0);
    });
    node.wait_registered(DRIVER);
    node.end(&pod);
}
