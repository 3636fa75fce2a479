//! A driver that fails, hangs or lies, and facts on disk that are torn.

use std::fs;
use std::time::Duration;

use rubelet_core::volumes::CsiVolume;
use rubelet_testkit::csi_driver::{Fault, Method, Rule};
use rubelet_volumes::csi::CsiStep;

use crate::world::*;

/// gRPC's codes, by number.
fn code(number: i32) -> rubelet_csi::Code {
    rubelet_csi::Code::from_i32(number)
}
const INTERNAL: i32 = 13;
const UNAVAILABLE: i32 = 14;

#[tokio::test(flavor = "multi_thread")]
async fn a_clear_no_leaves_nothing_and_is_not_asked_for_again_at_once() {
    for method in [Method::NodeStageVolume, Method::NodePublishVolume] {
        let world = World::usual().await;
        world.driver.fault(Rule::on(method, Fault::Fail(code(INTERNAL))).times(1));
        let problem = world.set_up("a", &volume()).await.unwrap_err();
        let step = if method == Method::NodeStageVolume { CsiStep::MountDevice } else { CsiStep::SetUp };
        assert_eq!(problem.step, step);
        assert!(problem.to_string().starts_with("rpc error: code = Internal desc = "), "{problem}");
        assert!(!world.pod_dir("a").join("volumes/kubernetes.io~csi/pv").exists());
        // Too early: the same words, and no call.
        let calls = world.driver.calls().len();
        assert_eq!(world.set_up("a", &volume()).await.unwrap_err(), problem);
        assert_eq!(world.driver.calls().len(), calls);
        // The pod gives up: of what was refused nothing is undone.
        world.tear_down("a").await.unwrap();
        world.settled().await;
        assert_eq!(world.driver.calls_of(Method::NodeUnpublishVolume, "vol").len(), 0, "{method:?}");
        // Another pod has better luck after a while.
        tokio::time::sleep(Duration::from_millis(600)).await;
        world.set_up("b", &volume()).await.unwrap();
        world.tear_down("b").await.unwrap();
        world.settled().await;
        assert_eq!(world.driver.mistakes(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_volume_under_two_names_is_published_under_both() {
    let mut world = World::usual().await;
    let second = CsiVolume { spec_name: "pv-2".into(), ..volume() };
    let at = |world: &World, name: &str| world.pod_dir("a").join("volumes/kubernetes.io~csi").join(name);
    world.set_up("a", &volume()).await.unwrap();
    // The agent ends before it comes to the second one, which then fails: what the pod has of the first says nothing of it.
    world.restart();
    world.register().await;
    world.set_up("a", &volume()).await.unwrap();
    world.driver.fault(Rule::on(Method::NodePublishVolume, Fault::Fail(code(INTERNAL))).times(1));
    let problem = world.set_up("a", &second).await.unwrap_err();
    assert_eq!(problem.step, CsiStep::SetUp);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let ready = world.set_up("a", &second).await.unwrap();
    assert_eq!(ready.volume.path, at(&world, "pv-2").join("mount"));
    fs::write(ready.volume.path.join("x"), "1").unwrap();
    assert_eq!(fs::read(at(&world, "pv").join("mount/x")).unwrap(), b"1");
    world.tear_down("a").await.unwrap();
    world.settled().await;
    assert!(!at(&world, "pv").exists() && !at(&world, "pv-2").exists());
    assert_eq!(world.driver.mistakes(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_answer_is_taken_for_done_when_the_pod_goes() {
    for method in [Method::NodeStageVolume, Method::NodePublishVolume] {
        for restarted in [false, true] {
            let mut world = World::usual().await;
            world.driver.fault(Rule::on(method, Fault::DoThenFail(code(UNAVAILABLE))).times(1));
            world.set_up("a", &volume()).await.unwrap_err();
            assert!(!world.driver.places().is_empty());
            if restarted {
                world.restart();
                world.register().await;
                world.csi.unstage_unused().await;
            }
            world.tear_down("a").await.unwrap();
            world.settled().await;
            assert_eq!(world.driver.mistakes(), Vec::<String>::new(), "{method:?} {restarted}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_may_give_up_and_nothing_is_lost() {
    for (method, fault) in [
        (Method::NodeStageVolume, Fault::Hang),
        (Method::NodeStageVolume, Fault::DoThenHang),
        (Method::NodePublishVolume, Fault::DoThenHang),
    ] {
        let world = World::usual().await;
        let hanging = world.driver.fault(Rule::on(method, fault));
        {
            let volume = volume();
            let mut set_up = Box::pin(world.set_up("a", &volume));
            tokio::select! {
                outcome = &mut set_up => panic!("{outcome:?}"),
                () = until(|| hanging.hits() == 1) => {}
            }
        }
        // The pod's end waits for the call, and then undoes what it did.
        let mut tear_down = Box::pin(world.tear_down("a"));
        tokio::select! {
            outcome = &mut tear_down => panic!("{outcome:?}"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        hanging.stop();
        tear_down.await.unwrap();
        world.settled().await;
        assert_eq!(world.driver.mistakes(), Vec::<String>::new(), "{method:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_are_found_out() {
    let world = World::usual().await;
    let lie = world.driver.fault(Rule::on(Method::NodePublishVolume, Fault::Lie));
    let problem = world.set_up("a", &volume()).await.unwrap_err();
    assert!(problem.to_string().contains("but nothing is at"), "{problem}");
    lie.stop();
    tokio::time::sleep(Duration::from_millis(600)).await;
    world.set_up("a", &volume()).await.unwrap();
    let lie = world.driver.fault(Rule::on(Method::NodeUnpublishVolume, Fault::Lie));
    let error = world.tear_down("a").await.unwrap_err();
    assert!(error.to_string().contains("is still mounted"), "{error}");
    assert!(world.pod_dir("a").join("volumes/kubernetes.io~csi/pv/vol_data.json").exists());
    lie.stop();
    tokio::time::sleep(Duration::from_millis(600)).await;
    world.tear_down("a").await.unwrap();
    world.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unstaging_that_fails_holds_nobody_and_is_repeated() {
    let world = World::usual().await;
    world.set_up("a", &volume()).await.unwrap();
    let fails = world.driver.fault(Rule::on(Method::NodeUnstageVolume, Fault::Fail(code(INTERNAL))).times(2));
    world.tear_down("a").await.unwrap();
    until(|| fails.hits() == 1).await;
    world.settled().await;
    assert_eq!(world.driver.calls_of(Method::NodeUnstageVolume, "vol").len(), 3);
    assert_eq!(world.driver.mistakes(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_comes_back_keeps_a_volume_from_being_unstaged() {
    let world = World::usual().await;
    world.set_up("a", &volume()).await.unwrap();
    let fails = world.driver.fault(Rule::on(Method::NodeUnstageVolume, Fault::Fail(code(INTERNAL))).times(1));
    world.tear_down("a").await.unwrap();
    until(|| fails.hits() == 1).await;
    world.set_up("b", &volume()).await.unwrap();
    // What was in question is staged again, which the driver takes for what it is.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(world.driver.places().len(), 2);
    world.tear_down("b").await.unwrap();
    world.settled().await;
    assert_eq!(world.driver.mistakes(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn torn_facts_unmount_nothing_that_nobody_knows() {
    let mut world = World::usual().await;
    world.set_up("a", &volume()).await.unwrap();
    let data = world.pod_dir("a").join("volumes/kubernetes.io~csi/pv/vol_data.json");
    fs::write(&data, "{\"driverName\":").unwrap();
    world.restart();
    world.register().await;
    // Whose it is nobody knows: it may be this volume's, so that it stays staged.
    world.csi.unstage_unused().await;
    let error = world.tear_down("a").await.unwrap_err();
    assert!(error.to_string().contains("it is mounted, and nobody knows by whom"), "{error}");
    assert_eq!(world.driver.places().len(), 2);
    // Somebody has written it down.
    world.csi.tear_down(&proof("a"), &world.pod_dir("a"), &[volume()]).await.unwrap();
    world.settled().await;
    assert_eq!(world.driver.mistakes(), Vec::<String>::new());
    // And what is not mounted goes.
    fs::create_dir_all(data.parent().unwrap().join("mount")).unwrap();
    fs::write(&data, "").unwrap();
    world.tear_down("a").await.unwrap();
    world.settled().await;
}
