//! The book alone: what it does when somebody acts between two steps of the task.

use super::*;
use crate::prober::book::{Book, Ran};

fn made(outcome: ProbeOutcome) -> Ran {
    Ran::Made { outcome, took: Duration::ZERO, late: Duration::ZERO }
}

fn tracked(world: &World) -> (Book, ProbedPod) {
    let mut book = Book::default();
    let pod = world.pod("u", http(json!({"readinessProbe": {}, "livenessProbe": {}})));
    assert!(book.track(pod.clone(), Instant::now(), world.clock.now()), "somebody is to wake up");
    assert!(!book.track(pod.clone(), Instant::now(), world.clock.now()), "but once");
    (book, pod)
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_forgotten_before_its_run_is_noted_ends_it() {
    let world = World::new(|_, _| well());
    let (mut book, pod) = tracked(&world);
    let begun = book.begin(Instant::now()).unwrap();
    assert!(book.begin(Instant::now()).is_none(), "one at a time, liveness is not due yet");
    let run = tokio::spawn(std::future::pending::<()>());
    assert!(book.forget(&pod.uid).is_some());
    assert!(book.forget(&pod.uid).is_none());
    book.started(begun.key, run.abort_handle());
    assert!(run.await.unwrap_err().is_cancelled());
    assert!(book.finish(begun.key, &made(ProbeOutcome::Success), Instant::now()).is_none());
    assert!(book.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_answer_about_an_instance_that_was_tracked_anew_counts_for_nothing() {
    let world = World::new(|_, _| well());
    let (mut book, pod) = tracked(&world);
    let begun = book.begin(Instant::now()).unwrap();
    book.forget(&pod.uid);
    book.track(pod, Instant::now(), world.clock.now());
    assert!(book.finish(begun.key, &made(ProbeOutcome::Success), Instant::now()).is_none());
    assert_eq!(book.verdicts()[0].1, Verdict::default());
    assert!(book.begin(Instant::now()).is_some(), "it is asked again");
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_changes_is_for_the_next_instance() {
    let world = World::new(|_, _| well());
    let (mut book, pod) = tracked(&world);
    // Labels may change: the object is taken over. Probes do not: they are asked as they began.
    for (containers, is_taken) in [
        (http(json!({"readinessProbe": {}, "livenessProbe": {}})), true),
        (http(json!({"readinessProbe": {"timeoutSeconds": 7}, "livenessProbe": {}})), false),
        (json!([{"name": "c"}]), false),
    ] {
        let new = world.pod("u", containers);
        book.track(
            ProbedPod { running: pod.running.clone(), ..new.clone() },
            Instant::now(),
            world.clock.now(),
        );
        sleep(seconds(10)).await;
        let begun = book.begin(Instant::now()).unwrap();
        assert_eq!(Arc::ptr_eq(&begun.ask.pod, &new.pod), is_taken);
        assert!(begun.ask.probe().is_some());
        book.finish(begun.key, &made(ProbeOutcome::Success), Instant::now()).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn absurd_ages_are_no_problem() {
    let world = World::new(|_, _| well());
    for started_at in [Timestamp::MIN, Timestamp::MAX] {
        let mut book = Book::default();
        let mut pod = world.pod("u", http(json!({"livenessProbe": {"initialDelaySeconds": i32::MAX}})));
        pod.running[0].started_at = started_at;
        book.track(pod, Instant::now(), world.clock.now());
        assert!(book.next().is_some_and(|next| next >= Instant::now()));
    }
}
