//! When probes are made: the grid, its phases, restarts of the agent, and runs that wait for a slot.

use super::*;
use crate::prober::slots::STARTING;

/// The steps between times, without the first `skip`.
fn steps(times: &[Duration]) -> Vec<Duration> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn runs_keep_to_their_grid_and_are_spread_over_it() {
    let world = World::new(|_, _| well());
    for number in 0..200 {
        let probe = json!({"livenessProbe": {"periodSeconds": 10, "initialDelaySeconds": 5}});
        world.prober.track(world.pod(&format!("u{number}"), http(probe)));
    }
    sleep(seconds(65)).await;
    let mut phases = [0; 10];
    for number in 0..200 {
        let times = world.times(&format!("u{number}-c"), ProbeKind::Liveness);
        assert!((5..=6).contains(&times.len()), "{times:?}");
        assert!((seconds(5)..seconds(15)).contains(&times[0]), "{times:?}");
        for step in steps(&times) {
            assert!(step.abs_diff(seconds(10)) <= Duration::from_millis(2), "{times:?}");
        }
        phases[times[0].as_secs() as usize - 5] += 1;
    }
    assert!(phases.iter().all(|count| (5..45).contains(count)), "{phases:?}");
    let lateness = world.prober.take_lateness();
    assert_eq!(lateness.runs() as usize, world.asked());
    assert!(lateness.max() <= Duration::from_millis(2) && lateness.skipped() == 0, "{lateness:?}");
    assert_eq!(world.prober.take_lateness().runs(), 0);
}

#[tokio::test(start_paused = true)]
async fn neither_a_restart_nor_the_clock_moves_the_grid() {
    let clock = Clock::simulated(Timestamp::from_second(1_700_000_000).unwrap());
    let first = World::with_clock(clock.clone(), |_, _| well());
    let pods: Vec<_> = (0..50)
        .map(|number| {
            let probe =
                json!({"livenessProbe": {"periodSeconds": 10}, "readinessProbe": {"periodSeconds": 7}});
            first.pod(&format!("u{number}"), http(probe))
        })
        .collect();
    let track = |world: &World| {
        for pod in &pods {
            world.prober.track(pod.clone());
        }
    };
    track(&first);
    sleep(seconds(60)).await;
    clock.set_ahead(SignedDuration::from_hours(-3));
    track(&first);
    sleep(seconds(60)).await;
    clock.set_ahead(SignedDuration::from_hours(3));
    drop_and_keep(&first);

    sleep(Duration::from_millis(12_345)).await;
    let sink = Sink::taking(Duration::ZERO);
    let second = World::with_clock(clock, |_, _| well());
    let pause = second.script.start - first.script.start;
    for pod in &pods {
        let mut pod = ProbedPod { sink: sink.clone(), ..pod.clone() };
        pod.running[0].known = Verdict { ready: Some(true), ..Verdict::default() };
        second.prober.track(pod);
    }
    sleep(seconds(60)).await;
    for pod in &pods {
        let id = pod.running[0].id.as_str();
        for (kind, period) in [(ProbeKind::Liveness, 10_000), (ProbeKind::Readiness, 7_000)] {
            let before = first.times(id, kind);
            let after: Vec<_> = second.times(id, kind).into_iter().map(|at| at + pause).collect();
            assert!(after[0] < pause + Duration::from_millis(period + 2), "none is missed: {after:?}");
            let phase = |at: &Duration| at.as_millis() as u64 % period;
            // The first readiness run is besides the grid.
            let expected = phase(&before[2]);
            for at in before[2..].iter().chain(&after) {
                let off = phase(at).abs_diff(expected);
                assert!(off.min(period - off) <= 2, "{kind:?} {before:?} {after:?}");
            }
        }
    }
    assert!(sink.told().is_empty(), "nothing has changed: {:?}", sink.told());
}

/// The agent ends, what it did is still known.
fn drop_and_keep(world: &World) {
    world.task.abort();
}

#[tokio::test(start_paused = true)]
async fn what_is_known_from_before_is_told_only_when_it_changes() {
    let world = World::new(|_, before| if before < 3 { well() } else { unwell() });
    let mut pod = world.pod("u", http(json!({"readinessProbe": {"periodSeconds": 5}})));
    pod.running[0].started_at = world.clock.now() - SignedDuration::from_secs(10_000);
    pod.running[0].known = Verdict { ready: Some(true), ..Verdict::default() };
    world.prober.track(pod);
    sleep(seconds(60)).await;
    assert_eq!(world.sink.ready(), [Some(false)]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_takes_long_makes_its_next_ones_late_never_piled_up() {
    let world = World::new(|_, before| match before {
        1 => Answer::At(Duration::from_millis(4200), ProbeOutcome::Success),
        _ => well(),
    });
    let probe = json!({"livenessProbe": {"periodSeconds": 1, "timeoutSeconds": 5}});
    world.prober.track(world.pod("u", http(probe)));
    sleep(seconds(12)).await;
    let times = world.times("u-c", ProbeKind::Liveness);
    let steps: Vec<_> = steps(&times).iter().map(|step| step.as_millis()).collect();
    assert!(
        steps.iter().all(|step| (999..=1001).contains(step) || (4999..=5001).contains(step)),
        "{steps:?}"
    );
    assert_eq!(steps.iter().filter(|step| **step > 2000).count(), 1);
}

/// Execs that hang until their timeout, as the handler for them has it.
fn hangs(ask: &Ask) -> Answer {
    Answer::At(ask.timeout, ProbeOutcome::Failure("timed out".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn one_exec_that_never_returns_delays_nobody() {
    let world = World::new(|ask, _| match ask.id.as_str() {
        "hung-c" => Answer::Never,
        _ => Answer::At(Duration::from_millis(50), ProbeOutcome::Success),
    });
    let probe = || exec(json!({"livenessProbe": {"periodSeconds": 1, "failureThreshold": 100}}));
    world.prober.track(world.pod("hung", probe()));
    for number in 0..50 {
        world.prober.track(world.pod(&format!("u{number}"), probe()));
    }
    sleep(seconds(10)).await;
    world.prober.take_lateness();
    sleep(seconds(60)).await;
    let lateness = world.prober.take_lateness();
    assert!(lateness.runs() >= 50 * 59 && lateness.skipped() == 0, "{lateness:?}");
    assert!(lateness.max() <= Duration::from_millis(250), "as many as there are slots begin: {lateness:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hundred_execs_that_hang_delay_neither_healthy_execs_nor_connections() {
    let world = World::new(|ask, _| match ask.id.as_str().starts_with("hung") {
        true => hangs(ask),
        false => Answer::At(Duration::from_millis(40), ProbeOutcome::Success),
    });
    let probe =
        json!({"livenessProbe": {"periodSeconds": 10, "timeoutSeconds": 30, "failureThreshold": 1000}});
    for number in 0..20 {
        world.prober.track(world.pod(&format!("exec{number}"), exec(probe.clone())));
        world.prober.track(world.pod(&format!("http{number}"), http(probe.clone())));
    }
    sleep(seconds(11)).await;
    for number in 0..100 {
        world.prober.track(world.pod(&format!("hung{number}"), exec(probe.clone())));
    }
    let began = world.script.start.elapsed();
    sleep(seconds(300)).await;
    for number in 0..20 {
        for name in ["exec", "http"] {
            let times = world.times(&format!("{name}{number}-c"), ProbeKind::Liveness);
            let times: Vec<_> = times.into_iter().filter(|at| *at >= began).collect();
            assert!(times.len() >= 29, "none is left out: {times:?}");
            for step in steps(&times) {
                assert!(step.abs_diff(seconds(10)) <= Duration::from_millis(100), "{name}{number} {times:?}");
            }
        }
    }
    assert!((0..100).all(|number| world.times(&format!("hung{number}-c"), ProbeKind::Liveness).len() >= 7));
}

#[tokio::test(start_paused = true)]
async fn a_run_without_a_slot_is_left_out_and_not_counted() {
    // More hang, and hang longer, than may: those that come last have no slot before their next tick.
    let world = World::new(|ask, _| hangs(ask));
    let probe = json!({"livenessProbe": {"periodSeconds": 1, "timeoutSeconds": 600, "failureThreshold": 1}});
    for number in 0..400 {
        world.prober.track(world.pod(&format!("u{number}"), exec(probe.clone())));
    }
    sleep(seconds(300)).await;
    let begun = world.asked();
    assert!((256..=300).contains(&begun), "{begun}");
    let skipped = world.prober.take_lateness().skipped();
    assert!(skipped > 30_000, "each tick of each of them is tried: {skipped}");
    assert!(world.sink.told().is_empty() && world.messages().is_empty(), "nothing is known of them");
    assert!(world.prober.in_flight() <= 400, "one for each at most");
    // Somebody else is still asked in time.
    world.prober.track(world.pod("other", http(probe)));
    sleep(seconds(2)).await;
    assert!(!world.times("other-c", ProbeKind::Liveness).is_empty());
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_slot_is_not_part_of_the_timeout() {
    let world = World::new(|ask, _| match ask.id.as_str().starts_with("hung") {
        true => Answer::Never,
        false => Answer::At(Duration::from_millis(990), ProbeOutcome::Success),
    });
    let hung = json!({"readinessProbe": {"periodSeconds": 3600}});
    for number in 0..100 {
        world.prober.track(world.pod(&format!("hung{number}"), exec(hung.clone())));
    }
    world.prober.track(world.pod("u", exec(json!({"readinessProbe": {"periodSeconds": 60}}))));
    sleep(seconds(30)).await;
    let times = world.times("u-c", ProbeKind::Readiness);
    assert!(times.first().unwrap() > &STARTING, "it had to wait: {times:?}");
    assert_eq!(world.sink.ready(), [Some(true)]);
}
