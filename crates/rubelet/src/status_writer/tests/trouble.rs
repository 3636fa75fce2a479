//! Bad days: refusals, a server that is away, pods that are not what they were.

use rubelet_testkit::fake_api::{Failure, Fault, Outage};

use super::*;

#[tokio::test(start_paused = true)]
async fn another_pod_of_the_name_is_not_written_to() {
    let bench = Bench::new();
    let pod = bench.pod("web");
    bench.api.delete_with_grace::<Pod>("default", "web", 0);
    let known = bench.seen();
    assert!(known.by_uid.is_empty());
    let before = {
        let mut pod = pod.clone();
        pod.spec = None;
        ApiPodSet::of([Arc::new(pod)])
    };
    bench.pod("web");
    bench.show(before);
    bench.publish(&pod, status("Running", true, "10.0.0.1"));
    pass(300.0).await;
    assert_eq!(bench.sent(), [PATCH, "get pods"], "a conflict, a look, and no more");
    assert_ne!(bench.held("web").phase.as_deref(), Some("Running"));
    bench.sync();
    pass(300.0).await;
    assert_eq!(bench.sent().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_tried_again_ever_more_rarely() {
    for (code, attempts) in [(403, 50..=80), (422, 10..=25)] {
        let bench = Bench::new();
        let (pod, other) = (bench.pod("web"), bench.pod("other"));
        let refusal =
            bench.api.fail(Fault::on("patch", "pods/status", Failure::Status(code, None)).named("web"));
        bench.publish(&pod, status("Running", true, "10.0.0.1"));
        pass(3600.0).await;
        assert!(attempts.contains(&refusal.hits()), "{code}: {} attempts in an hour", refusal.hits());
        // Nobody else suffers.
        bench.publish(&other, status("Running", true, "10.0.0.2"));
        bench.settle().await;
        assert_eq!(bench.held("other").phase.as_deref(), Some("Running"));
        refusal.stop();
        if code == 422 {
            bench.publish(&pod, status("Running", false, "10.0.0.1"));
            pass(1.1).await;
        } else {
            pass(400.0).await;
        }
        assert_eq!(bench.held("web").phase.as_deref(), Some("Running"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_about_one_pod_holds_up_no_other() {
    let bench = Bench::new();
    let (bad, good) = (bench.pod("bad"), bench.pod("good"));
    let broken = bench.api.fail(Fault::on("patch", "pods/status", Failure::Status(500, None)).named("bad"));
    bench.publish(&bad, status("Running", true, "10.0.0.1"));
    for n in 0..100 {
        let ip = format!("10.0.1.{n}");
        bench.publish(&good, status("Running", n % 2 == 0, &ip));
        bench.settle().await;
        assert_eq!(bench.held("good").pod_ip.as_deref(), Some(ip.as_str()));
        pass(3.0).await;
    }
    assert!((5..30).contains(&broken.hits()), "{}", broken.hits());
}

async fn outage(kind: Outage) {
    const PODS: usize = 60;
    let bench = Bench::new();
    let pods: Vec<Pod> = (0..PODS).map(|n| bench.pod(&format!("p{n}"))).collect();
    for pod in &pods {
        bench.publish(pod, status("Pending", false, "10.0.0.1"));
    }
    pass(1.0).await;
    bench.sync();
    bench.api.take_requests();
    bench.api.outage(kind);
    for round in 0..100 {
        for pod in &pods {
            bench.publish(pod, status("Running", round % 2 == 1, "10.0.0.1"));
        }
        pass(3.0).await;
    }
    let tried = bench.api.take_requests().len();
    assert!((8..=60).contains(&tried), "{kind:?}: {tried} requests in five minutes without a server");
    bench.api.outage(Outage::None);
    bench.api.latency(Duration::from_millis(20));
    // The watch comes back; that is the sign.
    pass(2.0).await;
    bench.sync();
    pass(3.0).await;
    let caught_up = bench.api.requests();
    for n in 0..PODS {
        let held = bench.held(&format!("p{n}"));
        assert_eq!(held.phase.as_deref(), Some("Running"), "{kind:?}: p{n}");
        assert_eq!(held.conditions.unwrap()[0].status, "True");
    }
    let writes = caught_up.iter().filter(|request| request.summary() == PATCH).count();
    assert_eq!(writes, PODS, "{kind:?}: only the newest status of each");
    // One first, then slowly more.
    let first = caught_up[0].at;
    let early = caught_up.iter().filter(|request| request.at.duration_since(first).as_millis() < 20).count();
    assert_eq!(early, 1, "{kind:?}: no stampede");
    bench.sync();
    pass(100.0).await;
    assert_eq!(bench.api.requests().len(), caught_up.len());
    assert_eq!(*bench.pending.borrow(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_newest_statuses_catch_up() {
    outage(Outage::Refuse).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_an_outage_too() {
    outage(Outage::Hang).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_an_outage_is_no_long_one() {
    let bench = Bench::new();
    let pod = bench.pod("web");
    bench.api.outage(Outage::Refuse);
    bench.publish(&pod, status("Running", true, "10.0.0.1"));
    pass(600.0).await;
    // A server that has just started does not know yet which pods are whose.
    bench.api.outage(Outage::None);
    bench.api.fail(Fault::on("patch", "pods/status", Failure::Status(403, None)).once());
    bench.sync();
    pass(60.0).await;
    assert_eq!(bench.held("web").phase.as_deref(), Some("Running"));
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_fate_is_unknown_is_looked_into() {
    let bench = Bench::new();
    let pod = bench.pod("web");
    bench.api.fail(Fault::on("patch", "pods/status", Failure::ResetAfter).once());
    bench.publish(&pod, status("Running", true, "10.0.0.1"));
    bench.settle().await;
    assert_eq!(bench.held("web").phase.as_deref(), Some("Running"));
    // Back to what the watch still shows: the lost write must not stand.
    bench.publish(&pod, json!({"phase": "Pending"}));
    pass(5.0).await;
    assert_eq!(bench.sent(), [PATCH, "get pods", PATCH]);
    assert_eq!(bench.held("web").phase.as_deref(), Some("Pending"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_a_pause_gets_it() {
    let bench = Bench::new();
    let (a, b) = (bench.pod("a"), bench.pod("b"));
    bench.api.fail(Fault::on("patch", "pods/status", Failure::Status(429, Some(1))).once());
    bench.publish(&a, status("Running", true, "10.0.0.1"));
    bench.settle().await;
    bench.publish(&b, status("Running", true, "10.0.0.1"));
    bench.sync();
    pass(0.5).await;
    assert_eq!(bench.sent(), [PATCH], "for everyone");
    pass(3.0).await;
    assert_eq!(bench.sent(), [PATCH, PATCH, PATCH]);
}
