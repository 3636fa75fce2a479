//! Tables and invariants of probes: a container and a script of answers in, runs and verdicts out.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::ProbeKind::{Liveness, Readiness, Startup};
use super::*;
use crate::fixtures::pod;
use crate::verdicts::Verdict;

const UNKNOWN: Verdict =
    Verdict { started: None, ready: None, liveness_failed: false, startup_failed: false };

fn seconds(count: f64) -> Duration {
    Duration::from_secs_f64(count)
}

fn container(fields: Value) -> Container {
    let mut container = json!({"name": "app"});
    container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    serde_json::from_value(container).unwrap()
}

fn fresh(fields: Value) -> ContainerProbes {
    ContainerProbes::new(&container(fields), UNKNOWN, 7, Duration::ZERO).unwrap()
}

fn outcome(letter: char) -> ProbeOutcome {
    match letter {
        '+' => ProbeOutcome::Success,
        'w' => ProbeOutcome::Warning("redirected".to_owned()),
        '-' => ProbeOutcome::Failure("no".to_owned()),
        _ => ProbeOutcome::Error("cannot".to_owned()),
    }
}

/// Makes the run that is due next, right when it is due and without taking time.
fn run(probes: &mut ContainerProbes, answer: char) -> (Due, Option<Verdict>) {
    let due = probes.next().unwrap();
    probes.begin(due.kind, due.at);
    let told = probes.finish(due.kind, &outcome(answer), due.at);
    (due, told)
}

/// Answers run after run with these letters (`+` success, `w` warning, `-` failure, `e` error); what changed, as one
/// line.
fn told(probes: &mut ContainerProbes, answers: &str) -> String {
    let mut line = String::new();
    for answer in answers.chars() {
        if probes.next().is_none() {
            line.push('!');
            continue;
        }
        match run(probes, answer).1 {
            None => line.push('.'),
            Some(Verdict { startup_failed: true, .. }) => line.push('S'),
            Some(Verdict { liveness_failed: true, .. }) => line.push('L'),
            Some(Verdict { ready: Some(ready), .. }) => line.push(if ready { 'r' } else { 'u' }),
            Some(Verdict { started: Some(true), .. }) => line.push('s'),
            Some(other) => panic!("{other:?}"),
        }
    }
    line
}

#[test]
fn answers_count_in_a_row() {
    let check = |probe: &str, fields: Value, answers: &str, expected: &str| {
        assert_eq!(told(&mut fresh(json!({probe: fields})), answers), expected, "{probe} {fields} {answers}");
    };
    // Liveness: rests once it has failed.
    check("livenessProbe", json!({}), "+--+---+", "......L!");
    check("livenessProbe", json!({"failureThreshold": 1}), "w-+", ".L!");
    check("livenessProbe", json!({"failureThreshold": 2}), "-+-+-+--", ".......L");
    // An error is no answer: it neither counts nor starts the run over.
    check("livenessProbe", json!({"failureThreshold": 2}), "-e-", "..L");
    check("livenessProbe", json!({"failureThreshold": 1}), "eeee", "....");
    // Readiness: goes on for ever, and tells changes only.
    check("readinessProbe", json!({}), "+++---++", "r....ur.");
    check("readinessProbe", json!({}), "---+", "..ur");
    check("readinessProbe", json!({"successThreshold": 3, "failureThreshold": 1}), "+-+++w-", ".u..r.u");
    check("readinessProbe", json!({"successThreshold": 2}), "e+ew+", "...r.");
    // Startup: the first failure is the early look's, which does not count; rests after either result.
    check("startupProbe", json!({}), "+-", "s!");
    check("startupProbe", json!({}), "w", "s");
    check("startupProbe", json!({"failureThreshold": 1}), "--+", ".S!");
    check("startupProbe", json!({"failureThreshold": 2}), "-e--", "...S");
    check("startupProbe", json!({}), "---+", "...s");
}

#[test]
fn the_startup_probe_holds_back_the_other_two() {
    let mut probes = fresh(json!({
        "startupProbe": {"periodSeconds": 5},
        "livenessProbe": {"failureThreshold": 1},
        "readinessProbe": {},
    }));
    for _ in 0..3 {
        assert_eq!(run(&mut probes, '-').0.kind, Startup);
    }
    let (passed, verdict) = run(&mut probes, '+');
    assert_eq!(verdict, Some(Verdict { started: Some(true), ..UNKNOWN }));
    // Readiness is asked at once, liveness at its next tick, startup no more.
    assert_eq!(probes.next(), Some(Due { kind: Readiness, at: passed.at }));
    assert_eq!(run(&mut probes, '+').1.unwrap().ready, Some(true));
    let kinds: Vec<_> = (0..8).map(|_| run(&mut probes, '+').0.kind).collect();
    assert!(
        kinds.contains(&Liveness) && kinds.contains(&Readiness) && !kinds.contains(&Startup),
        "{kinds:?}"
    );

    let mut failed = fresh(json!({"startupProbe": {"failureThreshold": 1}, "readinessProbe": {}}));
    run(&mut failed, '-');
    assert_eq!(
        run(&mut failed, '-').1,
        Some(Verdict { started: Some(false), startup_failed: true, ..UNKNOWN })
    );
    assert_eq!(failed.next(), None);
}

#[test]
fn the_first_runs_keep_to_the_initial_delay() {
    let check = |fields: Value, age: f64, kind: ProbeKind, expected: Duration| {
        let probes = ContainerProbes::new(&container(fields.clone()), UNKNOWN, 7, seconds(age)).unwrap();
        assert_eq!(probes.next(), Some(Due { kind, at: expected }), "{fields} at {age}");
    };
    let delayed = |probe: &str| json!({probe: {"initialDelaySeconds": 4, "periodSeconds": 20}});
    check(delayed("readinessProbe"), 0.0, Readiness, seconds(4.0));
    check(delayed("readinessProbe"), 4.5, Readiness, seconds(4.5));
    check(delayed("readinessProbe"), 500.0, Readiness, seconds(500.0));
    check(delayed("startupProbe"), 0.0, Startup, seconds(4.0));
    check(delayed("startupProbe"), 4.5, Startup, seconds(4.5));
    for spread in 0..50 {
        let at = |probe: &str, age| {
            ContainerProbes::new(&container(delayed(probe)), UNKNOWN, spread, seconds(age))
                .unwrap()
                .next()
                .unwrap()
                .at
        };
        let first = at("livenessProbe", 0.0);
        assert!((seconds(4.0)..seconds(24.0)).contains(&first), "{first:?}");
        assert_eq!(at("livenessProbe", 104.0), first + seconds(100.0));
        // An old container has had its early look.
        assert!((seconds(104.0)..seconds(124.0)).contains(&at("startupProbe", 104.0)));
    }
}

#[test]
fn phases_are_spread_over_the_period() {
    let mut seen = [0; 10];
    for spread in 0..1000 {
        let probes =
            ContainerProbes::new(&container(json!({"livenessProbe": {}})), UNKNOWN, spread, Duration::ZERO)
                .unwrap();
        seen[usize::try_from(probes.next().unwrap().at.as_secs()).unwrap()] += 1;
    }
    assert!(seen.iter().all(|count| (60..140).contains(count)), "{seen:?}");
    // The probes of one container do not meet either.
    let all = json!({"livenessProbe": {}, "readinessProbe": {}});
    let together = (0..100).filter(|spread| {
        let mut probes =
            ContainerProbes::new(&container(all.clone()), UNKNOWN, *spread, Duration::ZERO).unwrap();
        probes.skip(Readiness, Duration::ZERO);
        let first = run(&mut probes, '+').0;
        first.at == probes.next().unwrap().at
    });
    assert_eq!(together.count(), 0);
}

#[test]
fn after_a_long_sleep_there_is_one_run() {
    let mut probes = fresh(json!({"livenessProbe": {"periodSeconds": 1}}));
    let first = run(&mut probes, '+').0;
    let woken = first.at + seconds(10_000.3);
    assert_eq!(probes.next().unwrap().at, first.at + seconds(1.0));
    probes.begin(Liveness, woken);
    assert_eq!(probes.next(), None);
    probes.finish(Liveness, &ProbeOutcome::Success, woken);
    assert_eq!(probes.next().unwrap().at, first.at + seconds(10_001.0));
    // It may sleep during a run, too.
    probes.begin(Liveness, first.at + seconds(10_001.0));
    probes.finish(Liveness, &ProbeOutcome::Success, first.at + seconds(20_000.4));
    assert_eq!(probes.next().unwrap().at, first.at + seconds(20_001.0));
}

#[test]
fn a_run_that_was_not_made_is_not_made_up_for() {
    let mut probes = fresh(json!({"startupProbe": {"failureThreshold": 1, "periodSeconds": 3}}));
    // The early look is skipped; the next run counts.
    probes.skip(Startup, Duration::ZERO);
    let due = probes.next().unwrap();
    assert!(due.at >= seconds(1.0) && due.at < seconds(4.0), "{due:?}");
    probes.begin(Startup, due.at);
    probes.skip(Startup, due.at + seconds(0.1));
    assert_eq!(probes.next(), Some(Due { kind: Startup, at: due.at + seconds(3.0) }));
    assert!(run(&mut probes, '-').1.unwrap().startup_failed);
}

#[test]
fn only_the_early_look_of_a_startup_probe_is_one() {
    let mut probes = fresh(json!({"startupProbe": {}, "readinessProbe": {}}));
    assert!(!probes.is_early_look(Startup));
    probes.begin(Startup, Duration::ZERO);
    assert!(probes.is_early_look(Startup) && !probes.is_early_look(Readiness));
    probes.finish(Startup, &outcome('e'), Duration::ZERO);
    assert!(!probes.is_early_look(Startup));
    probes.begin(Startup, seconds(5.0));
    assert!(!probes.is_early_look(Startup));
    assert!(!probes.is_early_look(Liveness));
}

#[test]
fn an_answer_nobody_waits_for_counts_for_nothing() {
    let mut probes = fresh(json!({"livenessProbe": {"failureThreshold": 1}, "readinessProbe": {}}));
    assert_eq!(probes.finish(Liveness, &outcome('-'), seconds(1.0)), None);
    assert_eq!(probes.finish(Startup, &outcome('-'), seconds(1.0)), None);
    probes.begin(Startup, seconds(1.0));
    probes.begin(Liveness, seconds(20.0));
    probes.end();
    assert_eq!(probes.finish(Liveness, &outcome('-'), seconds(21.0)), None);
    assert_eq!(probes.verdict(), UNKNOWN);
}

#[test]
fn at_the_end_only_readiness_goes_on() {
    let all = json!({"startupProbe": {}, "livenessProbe": {"failureThreshold": 1}, "readinessProbe": {"failureThreshold": 1}});
    let seed =
        Verdict { started: Some(true), ready: Some(true), liveness_failed: true, startup_failed: false };
    let mut probes = ContainerProbes::new(&container(all.clone()), seed, 7, seconds(50.0)).unwrap();
    probes.end();
    assert_eq!(probes.verdict(), Verdict { liveness_failed: false, ..seed });
    assert!((0..20).all(|_| run(&mut probes, '+').0.kind == Readiness));
    assert_eq!(run(&mut probes, '-').1.unwrap().ready, Some(false));
    // What has not started by then never counts as started.
    let mut unstarted = fresh(all);
    unstarted.end();
    assert_eq!(unstarted.next(), None);
}

#[test]
fn a_seed_says_only_what_the_container_is_probed_for() {
    let check = |fields: Value, seed: Verdict, expected: Verdict, next: Option<ProbeKind>| {
        let probes = ContainerProbes::new(&container(fields), seed, 7, seconds(90.0)).unwrap();
        assert_eq!((probes.verdict(), probes.next().map(|due| due.kind)), (expected, next), "{seed:?}");
    };
    let all = Verdict { started: Some(true), ready: Some(true), liveness_failed: true, startup_failed: true };
    check(json!({"readinessProbe": {}}), all, Verdict { ready: Some(true), ..UNKNOWN }, Some(Readiness));
    check(json!({"livenessProbe": {}}), all, Verdict { liveness_failed: true, ..UNKNOWN }, None);
    check(json!({"livenessProbe": {}}), UNKNOWN, UNKNOWN, Some(Liveness));
    check(json!({"startupProbe": {}}), all, Verdict { started: Some(true), ..UNKNOWN }, None);
    let failed = Verdict { started: Some(false), startup_failed: true, ..UNKNOWN };
    check(json!({"startupProbe": {}, "readinessProbe": {}}), failed, failed, None);
    let pending = Verdict { started: Some(false), ..UNKNOWN };
    check(json!({"startupProbe": {}, "livenessProbe": {}}), pending, pending, Some(Startup));
    assert!(ContainerProbes::new(&container(json!({})), all, 7, Duration::ZERO).is_none());
}

#[test]
fn apps_and_sidecars_are_probed() {
    let pod = pod(json!({
        "initContainers": [
            {"name": "init", "livenessProbe": {}},
            {"name": "side", "restartPolicy": "Always", "startupProbe": {}},
            {"name": "plain", "restartPolicy": "Always"},
        ],
        "containers": [{"name": "a", "readinessProbe": {}}, {"name": "b"}, {"name": "c", "livenessProbe": {}}],
    }));
    let names: Vec<_> = probed_containers(&pod).map(|container| container.name.as_str()).collect();
    assert_eq!(names, ["side", "a", "c"]);
}

#[test]
fn a_verdict_is_written_short_and_read_in_part() {
    let check = |verdict: Verdict, text: &str| {
        assert_eq!(serde_json::to_string(&verdict).unwrap(), text);
        assert_eq!(serde_json::from_str::<Verdict>(text).unwrap(), verdict);
    };
    check(UNKNOWN, "{}");
    check(Verdict { ready: Some(false), ..UNKNOWN }, r#"{"ready":false}"#);
    check(
        Verdict { started: Some(true), ready: None, liveness_failed: true, startup_failed: true },
        r#"{"started":true,"livenessFailed":true,"startupFailed":true}"#,
    );
    let newer = r#"{"ready":true,"since":5,"started":null}"#;
    assert_eq!(serde_json::from_str::<Verdict>(newer).unwrap(), Verdict { ready: Some(true), ..UNKNOWN });
}

/// A probe's spec with small numbers.
fn probe() -> impl Strategy<Value = Value> {
    (0..6i32, 1..6i32, 1..4i32, 1..4i32).prop_map(|(delay, period, success, failure)| {
        json!({"initialDelaySeconds": delay, "periodSeconds": period, "successThreshold": success,
            "failureThreshold": failure})
    })
}

fn probed() -> impl Strategy<Value = Container> {
    let maybe = || prop::option::of(probe());
    (maybe(), maybe(), probe(), any::<bool>()).prop_map(|(startup, liveness, readiness, swap)| {
        let mut fields = json!({});
        let (liveness, readiness) =
            if swap { (Some(readiness), liveness) } else { (liveness, Some(readiness)) };
        let all = [("startupProbe", startup), ("livenessProbe", liveness), ("readinessProbe", readiness)];
        for (name, probe) in all {
            if let Some(probe) = probe {
                fields[name] = probe;
            }
        }
        container(fields)
    })
}

/// What happens to a run: how late it begins, how long it takes (both in milliseconds), and its answer; or it is
/// skipped.
fn runs() -> impl Strategy<Value = Vec<(u64, u64, char)>> {
    let late = prop_oneof![4 => 0..20u64, 1 => 0..30_000u64];
    let taking = prop_oneof![4 => 0..50u64, 1 => 0..20_000u64];
    prop::collection::vec(
        (late, taking, prop::sample::select(vec!['+', '+', '-', '-', 'w', 'e', 'x'])),
        1..60,
    )
}

proptest! {
    #[test]
    fn runs_keep_their_distance_and_verdicts_their_thresholds(
        container in probed(),
        spread in any::<u64>(),
        age in 0..20_000u64,
        script in runs(),
        end_after in 0..80usize,
    ) {
        let mut age = Duration::from_millis(age);
        let mut probes = ContainerProbes::new(&container, UNKNOWN, spread, age).unwrap();
        // Last begin, and the answers that counted in a row, by kind.
        let mut begun: [Option<Duration>; 3] = [None; 3];
        let mut rows: [(char, u32); 3] = [(' ', 0); 3];
        for (index, (late, taking, answer)) in script.into_iter().enumerate() {
            if index == end_after {
                probes.end();
            }
            let Some(due) = probes.next() else { break };
            let kind = due.kind;
            let times = *probes.times(kind).unwrap();
            age = age.max(due.at) + Duration::from_millis(late);
            prop_assert!(due.at >= times.initial_delay);
            if answer == 'x' {
                probes.skip(kind, age);
                prop_assert!(probes.next().is_none_or(|next| next.kind != kind || next.at > age));
                continue;
            }
            let gap = Duration::from_secs(1).min(times.period / 2);
            prop_assert!(begun[kind as usize].is_none_or(|last| age >= last + gap), "{kind:?} {begun:?} {age:?}");
            begun[kind as usize] = Some(age);
            let before = probes.verdict();
            probes.begin(kind, age);
            let early = probes.is_early_look(kind);
            prop_assert!(probes.next().is_none_or(|next| next.kind != kind), "{kind:?} twice at once");
            age += Duration::from_millis(taking);
            let told = probes.finish(kind, &outcome(answer), age);
            let next = probes.next();
            prop_assert!(next.is_none_or(|next| next.kind != kind || next.at > age), "{next:?} is late at {age:?}");
            prop_assert!(next.is_none_or(|next| next.at <= age + times.period * 2 || next.kind != kind));
            let well = match answer { '+' | 'w' => '+', other => other };
            if well != 'e' && !(early && well == '-') {
                let row = &mut rows[kind as usize];
                *row = if row.0 == well { (well, row.1 + 1) } else { (well, 1) };
            }
            prop_assert_eq!(told, (probes.verdict() != before).then_some(probes.verdict()));
            if told.is_some() {
                let threshold = if well == '+' { times.success_threshold } else { times.failure_threshold };
                prop_assert!(rows[kind as usize].1 >= threshold, "{told:?} after {rows:?}");
            }
            if index >= end_after {
                prop_assert!(kind == Readiness && !probes.verdict().liveness_failed && !probes.verdict().startup_failed);
            }
        }
    }

    #[test]
    fn a_restart_of_the_agent_moves_no_tick_and_no_verdict(
        container in probed(),
        spread in any::<u64>(),
        script in runs(),
        down in 0..8_000u64,
    ) {
        let mut probes = ContainerProbes::new(&container, UNKNOWN, spread, Duration::ZERO).unwrap();
        let mut age = Duration::ZERO;
        for (_, _, answer) in script {
            let Some(due) = probes.next() else { break };
            age = due.at;
            probes.begin(due.kind, age);
            probes.finish(due.kind, &outcome(answer), age);
        }
        age += Duration::from_millis(down);
        // What the first process would do from then on, and what the second one does.
        let mut after = ContainerProbes::new(&container, probes.verdict(), spread, age).unwrap();
        prop_assert_eq!(after.verdict(), probes.verdict());
        while let Some(due) = probes.next().filter(|due| due.at < age) {
            probes.skip(due.kind, due.at);
        }
        let known = |kind| match kind {
            // Without a result there is one look at once.
            Readiness => after.verdict().ready.is_some(),
            Startup => age >= after.times(Startup).map(|t| t.initial_delay + t.period).unwrap_or_default(),
            Liveness => true,
        };
        let known = ProbeKind::ALL.map(known);
        let ticks = |mut probes: ContainerProbes| {
            let mut ticks = vec![];
            while let Some(due) = probes.next().filter(|_| ticks.len() < 30) {
                probes.begin(due.kind, due.at);
                probes.skip(due.kind, due.at);
                // How long ago the first process made its last run, and that a tick is left out for that, is not known
                // to the second one.
                if known[due.kind as usize] && due.at >= age + Duration::from_secs(1) {
                    ticks.push(due);
                }
                if due.at > age + Duration::from_secs(100) {
                    break;
                }
            }
            ticks
        };
        prop_assert_eq!(ticks(after.clone()), ticks(probes.clone()));
        // The look at once does not move the ticks after it.
        let looks = after.next().filter(|due| !known[due.kind as usize]);
        if let Some(look) = looks {
            after.begin(look.kind, look.at);
            after.skip(look.kind, look.at);
            let times = *after.times(look.kind).unwrap();
            let next = after.next().filter(|next| next.kind == look.kind);
            prop_assert!(next.is_none_or(|next| next.at <= look.at + times.period + Duration::from_secs(1)));
        }
    }

    #[test]
    fn no_age_and_no_spec_is_too_strange(
        probe in (any::<i32>(), any::<i32>(), any::<i32>(), any::<i32>()),
        spread in any::<u64>(),
        ages in prop::collection::vec((any::<u64>(), 0..1_000_000_000u32), 1..8),
    ) {
        let (delay, period, success, failure) = probe;
        let spec = json!({"initialDelaySeconds": delay, "periodSeconds": period, "successThreshold": success,
            "failureThreshold": failure});
        let container = container(json!({"startupProbe": spec, "livenessProbe": spec, "readinessProbe": spec}));
        let mut probes: Option<ContainerProbes> = None;
        for (seconds, nanos) in ages {
            let age = Duration::new(seconds, nanos);
            let probes = probes.get_or_insert_with(|| ContainerProbes::new(&container, UNKNOWN, spread, age).unwrap());
            for kind in ProbeKind::ALL {
                probes.begin(kind, age);
                probes.finish(kind, &ProbeOutcome::Success, age);
            }
            prop_assert!(probes.next().is_none_or(|next| next.at > age || next.kind == Readiness || age > Duration::from_secs(1 << 33)));
        }
    }
}
