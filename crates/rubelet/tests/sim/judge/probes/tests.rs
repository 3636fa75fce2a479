//! The judge itself must be able to see what is wrong.

use k8s_openapi::api::core::v1::Probe;
use rubelet_testkit::pods;
use rubelet_testkit::scripted::{Op, Subject};

use super::*;
use crate::health::add_probe;

const KIND: ProbeKind = ProbeKind::Readiness;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1000 + seconds).unwrap_or_default()
}

fn call(n: u64, code: i32) -> Call {
    Call {
        n,
        op: Op::ExecSync,
        subject: Subject::default(),
        grace: None,
        command: vec![],
        started_at: at(0),
        ended_at: None,
        applied: true,
        outcome: Outcome::Answered,
        exit_code: Some(code),
        began_seq: 0,
        ended_seq: None,
    }
}

/// A container with a probe of every four seconds, two failures of which count, that was asked at 1 s.
fn asked() -> Probes {
    let mut pod = pods::pod("web").container(pods::container("c")).build();
    let probe = Probe { period_seconds: Some(4), failure_threshold: Some(2), ..Probe::default() };
    add_probe(&mut pod, "c", KIND, probe.clone());
    add_probe(&mut pod, "c", ProbeKind::Liveness, probe);
    let mut probes = Probes::of(Some(&pod), "c", at(0));
    assert_eq!(run(&mut probes, KIND, 1, 0), Ok(()));
    assert_eq!(show(&mut probes, true, 1), Ok(()));
    probes
}

fn run(probes: &mut Probes, kind: ProbeKind, second: i64, code: i32) -> Verdict {
    let n = u64::try_from(second).unwrap_or_default();
    probes.begin(kind, &call(n, code), at(second), false)?;
    probes.end(kind, &call(n, code), at(second));
    Ok(())
}

fn show(probes: &mut Probes, ready: bool, second: i64) -> Verdict {
    let view = ContainerView {
        name: "c".to_owned(),
        restarts: 0,
        ready,
        started: true,
        running: Some("id".to_owned()),
        state: String::new(),
    };
    probes.show(&view, at(second), Duration::from_secs(1))
}

fn is_wrong(verdict: Verdict, words: &str) {
    assert!(verdict.as_ref().is_err_and(|what| what.contains(words)), "{verdict:?}, not {words}");
}

#[test]
fn the_judge_sees_probes_that_are_made_at_the_wrong_time() {
    is_wrong(run(&mut asked(), KIND, 1, 0), "it was made 0ns before");
    let mut probes = asked();
    assert_eq!(run(&mut probes, KIND, 3, 0), Ok(()));
    assert_eq!(run(&mut probes, KIND, 7, 0), Ok(()));
    is_wrong(run(&mut probes, KIND, 9, 0), "after its tick");
    let mut probes = asked();
    assert_eq!(probes.begin(KIND, &call(3, 0), at(3), false), Ok(()));
    is_wrong(probes.begin(KIND, &call(4, 0), at(4), false), "under way");
    let live = ProbeKind::Liveness;
    is_wrong(asked().begin(live, &call(2, 0), at(2), true), "being ended");
    is_wrong(asked().overdue(at(60), false), "no Liveness probe is made");
    let mut probes = asked();
    assert_eq!(probes.overdue(at(5), false), Ok(()));
    is_wrong(probes.overdue(at(10), true), "no Readiness probe is made");
    assert_eq!(run(&mut probes, KIND, 9, 0), Ok(()));
    assert_eq!(probes.overdue(at(10), true), Ok(()));
}

#[test]
fn the_judge_sees_what_is_told_and_is_not_so() {
    is_wrong(show(&mut asked(), false, 1), "Readiness is told to be false");
    let mut probes = asked();
    assert_eq!(run(&mut probes, KIND, 3, 1), Ok(()));
    is_wrong(show(&mut probes, false, 3), "is told to be false");
    let failed = || {
        let mut probes = asked();
        for second in [3, 7] {
            assert_eq!(run(&mut probes, KIND, second, 1), Ok(()));
        }
        assert_eq!(show(&mut probes, true, 8), Ok(()), "a second is allowed");
        is_wrong(probes.overdue(at(9), false), "nobody is told");
        probes
    };
    is_wrong(show(&mut failed(), true, 9), "is told to be true");
    let told = || {
        let mut probes = failed();
        assert_eq!(show(&mut probes, false, 8), Ok(()));
        probes
    };
    is_wrong(show(&mut told(), true, 8), "is told to be true");
    // Another agent, which has not asked.
    let mut probes = told();
    probes.begin_life();
    is_wrong(show(&mut probes, true, 20), "is told to be true");
}

#[test]
fn the_judge_knows_who_may_be_killed() {
    let mut probes = asked();
    let live = ProbeKind::Liveness;
    assert_eq!(run(&mut probes, live, 2, 1), Ok(()));
    assert!(!probes.failed() && probes.doomed().is_none());
    assert_eq!(run(&mut probes, live, 6, 1), Ok(()));
    assert!(probes.failed() && probes.doomed() == Some(at(6)));
    is_wrong(run(&mut probes, live, 10, 0), "its result is known");
}
