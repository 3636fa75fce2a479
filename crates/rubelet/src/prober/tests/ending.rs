//! What becomes of runs and verdicts when a container, a pod or the prober ends.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_waits_to_be_told_is_dropped_with_its_pod_or_container() {
    let world = World::new(|_, before| if before % 2 == 0 { well() } else { unwell() });
    let probe = json!({"readinessProbe": {"periodSeconds": 1, "failureThreshold": 1}});
    let slow = Sink::taking(seconds(10));
    let told = |name: &str| ProbedPod { sink: slow.clone(), ..world.pod(name, http(probe.clone())) };
    let (gone, mut replaced) = (told("gone"), told("replaced"));
    world.prober.track(gone.clone());
    world.prober.track(replaced.clone());
    sleep(seconds(5)).await;
    world.prober.forget(&gone.uid);
    replaced.running[0].id = "replaced-next".into();
    world.prober.track(replaced.clone());
    // Tracked once more, it is told nothing before what is being told of it: that would be overtaken.
    world.prober.track(gone.clone());
    sleep(Duration::from_millis(14_500)).await;
    let first: Vec<_> = slow.told().into_iter().map(|(at, id, _)| (at.as_secs(), id)).collect();
    assert_eq!(first, [(10, "gone-c".to_owned()), (10, "replaced-c".to_owned())]);
    world.prober.forget(&gone.uid);
    world.prober.forget(&replaced.uid);
    sleep(seconds(60)).await;
    let last: Vec<_> = slow.told().into_iter().skip(2).map(|(at, id, _)| (at.as_secs(), id)).collect();
    assert_eq!(last, [(20, "gone-c".to_owned()), (20, "replaced-next".to_owned())], "those under way");
    assert!(world.prober.shared.book().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_ends_with_the_pod_and_is_not_told() {
    let answer = |_: &Ask, _| Answer::At(seconds(2), ProbeOutcome::Failure("too late".to_owned()));
    let world = World::new(answer);
    let probe = json!({"readinessProbe": {"failureThreshold": 1, "timeoutSeconds": 5}});
    let pod = world.pod("u", http(probe));
    world.prober.track(pod.clone());
    sleep(seconds(1)).await;
    assert_eq!((world.prober.in_flight(), world.script.open.load(Ordering::Relaxed)), (1, 1));
    world.prober.forget(&pod.uid);
    sleep(Duration::from_millis(1)).await;
    assert_eq!((world.prober.in_flight(), world.script.open.load(Ordering::Relaxed)), (0, 0));
    sleep(seconds(60)).await;
    assert!(world.sink.told().is_empty() && world.messages().is_empty());
    assert_eq!(world.asked(), 1);
    assert_eq!(world.samples("prober_probe_total").len(), 0);
    // Once more, and the container is replaced instead.
    world.prober.track(pod.clone());
    sleep(seconds(1)).await;
    let mut next = pod.clone();
    next.running[0].id = "u-next".into();
    next.running[0].started_at = world.clock.now();
    world.prober.track(next);
    sleep(seconds(3)).await;
    let told: Vec<_> = world.sink.told().into_iter().map(|(_, id, _)| id).collect();
    assert_eq!(told, ["u-next"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ends_is_probed_for_readiness_only() {
    let world = World::new(|ask, _| match ask.kind {
        ProbeKind::Liveness => {
            Answer::At(Duration::from_millis(900), ProbeOutcome::Failure("ends".to_owned()))
        }
        _ => well(),
    });
    let probe = json!({
        "livenessProbe": {"periodSeconds": 1, "failureThreshold": 30},
        "readinessProbe": {"periodSeconds": 1},
    });
    let pod = world.pod("u", http(probe));
    world.prober.track(pod.clone());
    while world.prober.in_flight() == 0 || world.times("u-c", ProbeKind::Liveness).is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    world.prober.track(ProbedPod { ending: true, ..pod.clone() });
    sleep(Duration::from_millis(1)).await;
    assert_eq!(world.script.open.load(Ordering::Relaxed), 0, "it is not waited for");
    let (liveness, readiness) =
        (world.times("u-c", ProbeKind::Liveness).len(), world.times("u-c", ProbeKind::Readiness).len());
    sleep(seconds(20)).await;
    assert_eq!(world.times("u-c", ProbeKind::Liveness).len(), liveness);
    assert!(world.times("u-c", ProbeKind::Readiness).len() >= readiness + 19);
    assert!(world.messages().is_empty(), "the one that was under way is quiet: {:?}", world.messages());
    // It does not begin again, and a container that comes now is treated alike.
    let mut late = pod.clone();
    late.running[0].id = "u-late".into();
    world.prober.track(late);
    sleep(seconds(20)).await;
    assert!(world.times("u-late", ProbeKind::Liveness).is_empty());
    assert!(!world.times("u-late", ProbeKind::Readiness).is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_pods_that_are_gone() {
    let world = World::new(|_, before| if before == 0 { well() } else { Answer::Never });
    for number in 0..10_000 {
        let probe = json!({"readinessProbe": {"periodSeconds": 1}});
        let pod = world.pod(&format!("u{number}"), http(probe));
        world.prober.track(pod.clone());
        if number % 100 == 0 {
            sleep(Duration::from_millis(700)).await;
        }
        world.prober.forget(&pod.uid);
    }
    sleep(seconds(1)).await;
    assert!(world.asked() >= 100);
    assert!(world.prober.shared.book().is_empty());
    assert_eq!(world.prober.in_flight(), 0);
    assert_eq!(world.samples("prober_probe").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_outlives_the_task() {
    let world = World::new(|_, _| Answer::Never);
    let pod = world.pod("u", http(json!({"readinessProbe": {}})));
    world.prober.track(pod.clone());
    sleep(seconds(1)).await;
    assert_eq!(Arc::strong_count(&world.sink), 3, "the test's, the pod's and the prober's");
    world.task.abort();
    sleep(seconds(1)).await;
    world.prober.track(pod.clone());
    drop(pod);
    assert_eq!(Arc::strong_count(&world.sink), 1);
    assert_eq!((world.prober.in_flight(), world.script.open.load(Ordering::Relaxed)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_has_stopped_is_asked_no_more_while_others_of_its_pod_are() {
    let world = World::new(|_, _| Answer::At(Duration::from_millis(300), ProbeOutcome::Success));
    let probe = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    let containers =
        json!([{"name": "quick", "readinessProbe": probe}, {"name": "slow", "readinessProbe": probe}]);
    let pod = world.pod("u", containers);
    world.prober.track(ProbedPod { ending: true, ..pod.clone() });
    sleep(Duration::from_millis(100)).await;
    world.prober.stopped(&pod.uid, &"u-quick".into());
    // Neither is another one's, nor one that nobody knows.
    world.prober.stopped(&"other".into(), &"u-slow".into());
    world.prober.stopped(&pod.uid, &"u-gone".into());
    sleep(seconds(10)).await;
    assert_eq!(world.times("u-quick", ProbeKind::Readiness), [Duration::ZERO], "given up under way");
    assert!(world.times("u-slow", ProbeKind::Readiness).len() >= 10);
    let told: Vec<_> = world.sink.told().into_iter().map(|(_, id, _)| id).collect();
    assert_eq!(told, ["u-slow"]);
    // It runs after all.
    world.prober.track(ProbedPod { ending: true, ..pod });
    sleep(seconds(5)).await;
    assert!(world.times("u-quick", ProbeKind::Readiness).len() > 4);
}
