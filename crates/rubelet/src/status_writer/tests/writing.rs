//! Ordinary days: few writes, the urgent ones first, nothing said twice.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_status_is_written_at_once_and_its_echo_changes_nothing() {
    let bench = Bench::new();
    let pod = bench.pod("web");
    bench.publish(&pod, status("Running", true, "10.0.0.1"));
    bench.settle().await;
    assert_eq!(bench.sent(), [PATCH]);
    assert_eq!(bench.held("web").phase.as_deref(), Some("Running"));
    let body = bench.api.requests()[0].json();
    assert_eq!(body["metadata"], json!({"uid": pod.metadata.uid}));
    let took = &bench.metrics.pods.status_sync_duration;
    assert!(took.count() > 0 && took.sum() <= 0.02 * took.count() as f64);
    for _ in 0..3 {
        bench.sync();
        bench.publish(&pod, status("Running", true, "10.0.0.1"));
        pass(100.0).await;
    }
    assert_eq!(bench.sent(), [PATCH]);
    assert_eq!(*bench.pending.borrow(), 0);
}

#[tokio::test(start_paused = true)]
async fn from_creation_to_ready_there_are_at_most_four_writes() {
    let bench = Bench::new();
    let pod = bench.pod("web");
    bench.api.latency(Duration::from_millis(5));
    bench.publish(&pod, json!({"phase": "Pending"}));
    for container in 0..20 {
        pass(0.02).await;
        let mut update = status("Pending", false, "10.0.0.1");
        update["message"] = format!("{container} of 20").into();
        bench.publish(&pod, update);
    }
    pass(0.01).await;
    bench.publish(&pod, status("Running", true, "10.0.0.1"));
    pass(0.015).await;
    assert_eq!(bench.held("web").phase.as_deref(), Some("Running"), "readiness waits for nothing");
    pass(5.0).await;
    assert!(bench.sent().len() <= 4, "{:?}", bench.sent());
}

#[tokio::test(start_paused = true)]
async fn one_pod_is_written_in_order_many_pods_at_once() {
    let bench = Bench::new();
    let pods: Vec<Pod> = (0..12).map(|n| bench.pod(&format!("p{n}"))).collect();
    bench.api.latency(Duration::from_secs(1));
    for round in ["Running", "Succeeded"] {
        for pod in &pods {
            bench.publish(pod, status(round, false, "10.0.0.1"));
        }
        bench.settle().await;
    }
    pass(1.0).await;
    assert_eq!(bench.sent().len(), 12, "all at once, one for each pod");
    pass(1.0).await;
    assert_eq!(bench.sent().len(), 24);
    for n in 0..12 {
        assert_eq!(bench.held(&format!("p{n}")).phase.as_deref(), Some("Succeeded"));
    }
    assert_eq!(bench.metrics.pods.status_sync_duration.count(), 24);
}

#[tokio::test(start_paused = true)]
async fn readiness_overtakes_what_is_not_urgent() {
    let bench = Bench::new();
    let pods: Vec<Pod> = (0..60).map(|n| bench.pod(&format!("p{n:02}"))).collect();
    for pod in &pods {
        bench.publish(pod, status("Running", false, "10.0.0.1"));
    }
    pass(1.0).await;
    bench.sync();
    bench.api.take_requests();
    bench.api.latency(Duration::from_secs(1));
    for pod in &pods {
        bench.publish(pod, status("Running", false, "10.0.0.2"));
    }
    bench.settle().await;
    bench.publish(&pods[59], status("Running", true, "10.0.0.2"));
    pass(1.1).await;
    pass(1.0).await;
    let order: Vec<String> = bench.api.requests().iter().map(|r| r.request.name.clone()).collect();
    // It may have been among the first sixteen before; then it is among the second with its readiness.
    let place = order.iter().rposition(|name| name == "p59").unwrap();
    assert!(place < 32, "p59 at {place} of {order:?}");
    assert_eq!(bench.held("p59").conditions.unwrap()[0].status, "True");
    pass(10.0).await;
    assert!((60..=61).contains(&bench.sent().len()));
}

#[tokio::test(start_paused = true)]
async fn a_late_watch_neither_hides_nor_repeats_a_write() {
    let bench = Bench::new();
    let pod = bench.pod("web");
    let before = bench.seen();
    bench.publish(&pod, status("Running", true, "10.0.0.1"));
    bench.settle().await;
    let ready = bench.seen();
    // Back to what the watch still shows: by the watch there would be nothing to write.
    bench.publish(&pod, status("Pending", false, "10.0.0.1"));
    bench.settle().await;
    assert_eq!(bench.held("web").phase.as_deref(), Some("Pending"));
    assert_eq!(bench.sent(), [PATCH, PATCH]);
    // The echoes come one after another, the old ones first.
    for view in [before, ready, bench.seen()] {
        bench.show(view);
        pass(90.0).await;
    }
    assert_eq!(bench.sent(), [PATCH, PATCH]);
}

#[tokio::test(start_paused = true)]
async fn what_someone_else_writes_over_ours_is_corrected_without_a_fight() {
    let bench = Bench::new();
    let pod = bench.pod("web");
    bench.publish(&pod, status("Running", true, "10.0.0.1"));
    bench.settle().await;
    bench.sync();
    let overwrite = || {
        bench.api.modify_status::<Pod>("default", "web", |pod| {
            pod.status.as_mut().unwrap().message = Some("not yours".to_owned());
        });
        bench.sync();
    };
    overwrite();
    bench.settle().await;
    pass(1.0).await;
    assert_eq!(bench.held("web").message, None);
    bench.api.take_requests();
    for _ in 0..300 {
        overwrite();
        pass(1.0).await;
    }
    let fought = bench.sent().len();
    assert!((4..=14).contains(&fought), "{fought} corrections in five minutes");
    // Someone else's condition is not ours to correct.
    pass(120.0).await;
    bench.sync();
    pass(120.0).await;
    bench.sync();
    bench.api.take_requests();
    bench.api.modify_status::<Pod>("default", "web", |pod| {
        let conditions = pod.status.as_mut().unwrap().conditions.get_or_insert_default();
        conditions.push(serde_json::from_value(json!({"type": "example.com/lb", "status": "True"})).unwrap());
    });
    bench.sync();
    pass(100.0).await;
    assert_eq!(bench.sent(), [] as [&str; 0]);
    // And our next write keeps it.
    bench.publish(&pod, status("Running", false, "10.0.0.1"));
    pass(1.0).await;
    assert!(bench.held("web").conditions.unwrap().iter().any(|listed| listed.type_ == "example.com/lb"));
}

#[tokio::test(start_paused = true)]
async fn a_static_pods_status_goes_to_the_mirror_that_shows_it() {
    let bench = Bench::new();
    let node = bench.api.get::<k8s_openapi::api::core::v1::Node>("", NODE).unwrap();
    let static_pod = |hash: &str| {
        pods::pod("etcd-n1")
            .uid(hash)
            .annotation("kubernetes.io/config.hash", hash)
            .annotation("kubernetes.io/config.source", "file")
            .container(pods::container("etcd"))
            .spec(|spec| spec.node_name = Some(NODE.to_owned()))
            .build()
    };
    let (old, new) = (static_pod("h1"), static_pod("h2"));
    bench.publish(&old, status("Running", true, "10.0.0.1"));
    bench.sync();
    pass(100.0).await;
    assert_eq!(bench.sent(), [] as [&str; 0], "there is no mirror yet");
    let mirror = rubelet_core::mirror::mirror_of(&old, NODE, node.metadata.uid.as_deref().unwrap());
    bench.api.create(&mirror);
    bench.sync();
    bench.settle().await;
    assert_eq!(bench.held("etcd-n1").phase.as_deref(), Some("Running"));
    // A pod that is not the one it shows says nothing there.
    bench.publish(&new, json!({"phase": "Pending"}));
    pass(100.0).await;
    assert_eq!(bench.sent(), [PATCH]);
}

/// A field that the server drops is sent once, not for ever.
#[tokio::test(start_paused = true)]
async fn what_the_server_does_not_take_is_not_sent_again() {
    use super::super::entry::{Entry, Step};
    use super::super::request::Request;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "web", "uid": "u", "resourceVersion": "5"},
        "status": {"phase": "Pending"},
    }))
    .unwrap();
    let copy = |version: &str, status: Value| {
        let mut pod = pod.clone();
        pod.metadata.resource_version = Some(version.to_owned());
        pod.status = serde_json::from_value(status).unwrap();
        Arc::new(pod)
    };
    let wanted = Arc::new(serde_json::from_value(json!({"phase": "Running", "resize": "New"})).unwrap());
    let row = PodRow { pod: Arc::new(pod.clone()), status: wanted, state: PodState::Syncing };
    let (now, wall) = (tokio::time::Instant::now(), jiff::Timestamp::UNIX_EPOCH);
    let mut entry = Entry::new(row, false, now);
    entry.observe(&ApiPodSet::of([Arc::new(pod.clone())]));
    let Step::Send(Request::Patch(body)) = entry.step(true, now, wall) else { panic!("nothing to send") };
    entry.written(entry.row.status.clone(), &body, copy("6", json!({"phase": "Running"})), now, wall);
    assert_eq!(entry.step(true, now, wall), Step::Rest);
    let lb = json!({"type": "example.com/lb", "status": "True"});
    entry.observe(&ApiPodSet::of([copy("7", json!({"phase": "Running", "conditions": [lb]}))]));
    assert_eq!(entry.step(true, now, wall), Step::Rest);
    // Anything else that differs is.
    entry.observe(&ApiPodSet::of([copy("8", json!({"phase": "Pending"}))]));
    assert!(matches!(entry.step(true, now, wall), Step::Send(Request::Patch(_))));
}
