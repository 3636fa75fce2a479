//! The end of pods in the API: once, after the last status, and only when nothing is left here.

use super::*;

const DELETE: &str = "delete pods";

#[tokio::test(start_paused = true)]
async fn a_pod_is_deleted_once_after_its_last_status_and_only_when_nothing_is_left() {
    let bench = Bench::new();
    let pod = bench.pod("web");
    bench.publish(&pod, status("Running", true, "10.0.0.1"));
    bench.settle().await;
    bench.sync();
    bench.api.delete::<Pod>("default", "web");
    bench.sync();
    let terminating = PodState::Terminated { cause: TerminationCause::Deleted };
    bench.publish_in(&pod, status("Running", false, "10.0.0.1"), terminating);
    pass(600.0).await;
    assert!(!bench.sent().contains(&DELETE.to_owned()), "something of it is left");
    bench.api.take_requests();
    bench.remove(&pod, ended());
    bench.settle().await;
    assert_eq!(bench.sent(), [PATCH, DELETE]);
    let deletion = bench.api.requests()[1].json();
    assert_eq!(deletion["gracePeriodSeconds"], json!(0));
    assert_eq!(deletion["preconditions"], json!({"uid": pod.metadata.uid}));
    assert!(bench.api.get::<Pod>("default", "web").is_none());
    let last: Vec<Pod> = bench.api.history(pod.metadata.uid.as_deref().unwrap());
    let phase = last.last().unwrap().status.as_ref().unwrap().phase.clone();
    assert_eq!(phase.as_deref(), Some("Failed"));
    for _ in 0..3 {
        bench.sync();
        pass(100.0).await;
    }
    assert_eq!(bench.sent(), [PATCH, DELETE]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_not_being_deleted_stays_until_it_is() {
    let bench = Bench::new();
    let pod = bench.pod("web");
    // The server deletes pods in a terminal phase by itself; this one is not.
    bench.remove(&pod, status("Running", false, "10.0.0.1"));
    pass(100.0).await;
    bench.sync();
    assert_eq!(bench.sent(), [PATCH]);
    bench.api.delete::<Pod>("default", "web");
    bench.sync();
    bench.settle().await;
    assert_eq!(bench.sent(), [PATCH, DELETE]);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_survives_failures_and_another_pod_of_the_name_survives_it() {
    use rubelet_testkit::fake_api::{Failure, Fault};
    let bench = Bench::new();
    let pod = bench.pod("web");
    bench.api.delete::<Pod>("default", "web");
    bench.sync();
    // The server carries it out and breaks the connection; a new pod takes the name.
    bench.api.fail(Fault::on("delete", "pods", Failure::ResetAfter).once());
    bench.remove(&pod, ended());
    bench.settle().await;
    assert!(bench.api.get::<Pod>("default", "web").is_none());
    let kept = bench.seen();
    let another = bench.pod("web");
    bench.show(kept);
    pass(300.0).await;
    bench.sync();
    pass(300.0).await;
    assert_eq!(bench.api.get::<Pod>("default", "web").unwrap().metadata.uid, another.metadata.uid);
    let sent = bench.sent();
    assert_eq!(sent.iter().filter(|request| *request == DELETE).count(), 1, "{sent:?}");

    let pod = bench.pod("db");
    bench.api.delete::<Pod>("default", "db");
    bench.sync();
    let broken = bench.api.fail(Fault::on("delete", "pods", Failure::Status(500, None)));
    bench.remove(&pod, ended());
    pass(300.0).await;
    assert!((5..30).contains(&broken.hits()), "{} attempts in five minutes", broken.hits());
    broken.stop();
    pass(60.0).await;
    assert!(bench.api.get::<Pod>("default", "db").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_force_deleted_is_nobodys_business() {
    let bench = Bench::new();
    let pod = bench.pod("web");
    bench.publish(&pod, status("Running", true, "10.0.0.1"));
    bench.settle().await;
    bench.api.delete_with_grace::<Pod>("default", "web", 0);
    bench.api.take_requests();
    // Before the watch tells.
    bench.publish(&pod, status("Running", false, "10.0.0.1"));
    pass(100.0).await;
    assert_eq!(bench.sent(), [PATCH], "one 404, and that is that");
    bench.sync();
    bench.remove(&pod, ended());
    pass(100.0).await;
    assert_eq!(bench.sent(), [PATCH]);
    assert_eq!(*bench.pending.borrow(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_last_status_that_is_refused_does_not_hold_the_pod() {
    use rubelet_testkit::fake_api::{Failure, Fault};
    let bench = Bench::new();
    let pod = bench.pod("web");
    bench.api.delete::<Pod>("default", "web");
    bench.sync();
    bench.api.fail(Fault::on("patch", "pods/status", Failure::Status(422, None)));
    bench.remove(&pod, ended());
    pass(10.0).await;
    assert_eq!(bench.sent(), [PATCH, DELETE]);
}

#[test]
fn an_end_that_somebody_else_wrote_is_told_from_our_own() {
    use super::super::entry::{Entry, Step};
    use tokio::time::Instant;

    let container = |state: Value| {
        json!({"phase": "Running", "containerStatuses": [{"name": "app", "image": "i", "imageID": "", "ready": false,
            "restartCount": 0, "state": state}]})
    };
    let running = container(json!({"running": {}}));
    let mut over = container(json!({"terminated": {"exitCode": 0}}));
    over["phase"] = "Succeeded".into();
    let pod = pods::pod("web").container(pods::container("app")).restart_policy("Never").build();
    let copy = |version: u32, status: &Value| {
        let mut copy = pod.clone();
        copy.metadata.resource_version = Some(version.to_string());
        copy.status = serde_json::from_value(status.clone()).unwrap();
        ApiPodSet::of([Arc::new(copy)])
    };
    let row = |status: &Value| PodRow {
        pod: Arc::new(pod.clone()),
        status: Arc::new(serde_json::from_value(status.clone()).unwrap()),
        state: PodState::Syncing,
    };
    let foreign = |held_before: Option<&Value>| {
        let mut entry = Entry::new(row(held_before.unwrap_or(&running)), false, Instant::now());
        let mut step = |version, held: &Value, published: &Value| {
            entry.publish(row(published), false, Instant::now());
            entry.observe(&copy(version, held));
            entry.step(true, Instant::now(), jiff::Timestamp::UNIX_EPOCH)
        };
        if let Some(held) = held_before {
            // What is left to correct is written first.
            let _ = step(1, held, held);
        }
        match step(2, &over, &running) {
            Step::Illegal { foreign, .. } => Some(foreign),
            _ => None,
        }
    };
    assert_eq!(foreign(Some(&running)), Some(true));
    assert_eq!(foreign(Some(&over)), Some(false));
    assert_eq!(foreign(None), Some(false), "of a time before the agent started nothing is known");
}
