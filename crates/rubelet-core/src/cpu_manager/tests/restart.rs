//! Checkpoints that are missing, corrupt, foreign or of another machine: rebuilt, never refused.

use std::collections::BTreeSet;

use super::super::machines::{Numbering, Role, even, pod, set};
use super::super::{CpuManager, RunningContainer, StaticOptions};
use super::manager;
use crate::topology::MachineTopology;

fn machine() -> MachineTopology {
    even([1, 1, 8, 1, 8], Numbering::Far)
}

fn runs(uid: &str, container: &str, cpus: &str) -> RunningContainer {
    RunningContainer {
        uid: uid.into(),
        container: container.to_owned(),
        id: format!("{uid}-{container}").into(),
        cpus: Some(set(cpus)).filter(|cpus| !cpus.is_empty()),
    }
}

fn entries(manager: &CpuManager) -> String {
    let entries = manager
        .assignments()
        .iter()
        .flat_map(|(uid, own)| own.iter().map(move |(name, cpus)| format!("{uid}/{name}={cpus}")));
    entries.collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn check(checkpoint: Option<&str>, running: &[RunningContainer], expected: &str, problems: &[&str]) {
    let mut manager = manager(&machine(), StaticOptions::default(), "0");
    let restored = manager.restore(checkpoint.map(str::as_bytes), running);
    assert_eq!((entries(&manager).as_str(), restored.unpin), (expected, false));
    assert_eq!(restored.problems, problems);
    let all = manager.shared_pool().len() + manager.exclusive_cpus().len();
    assert_eq!(all, 8, "every CPU is somewhere");
}

fn file(entries: &str) -> String {
    format!(r#"{{"policyName":"static","defaultCpuSet":"0-7","entries":{{{entries}}}}}"#)
}

#[test]
fn checkpoints_that_agree() {
    check(None, &[], "", &[]);
    check(Some(&file(r#""a":{"c0":"1-2"}"#)), &[], "a/c0=1-2", &[]);
    // An init container and the app container that has its CPUs now.
    check(Some(&file(r#""a":{"c0":"1-2","c1":"1"}"#)), &[], "a/c0=1-2 a/c1=1", &[]);
    // The first form, by container ID; one of them is gone.
    check(Some(&file(r#""a-c0":"1-2","b-c0":"3""#)), &[runs("a", "c0", "1-2")], "a/c0=1-2", &[]);
}

#[test]
fn checkpoints_of_another_machine_or_reservation() {
    check(
        Some(&file(r#""a":{"c0":"1-2"},"b":{"c0":"7-8"}"#)),
        &[],
        "a/c0=1-2",
        &["CPUs 8 of container c0 of pod b are not online any more"],
    );
    check(
        Some(&file(r#""a":{"c0":"0-1"}"#)),
        &[],
        "a/c0=0-1",
        &["container c0 of pod a keeps CPUs 0, which are reserved now, until its pod ends"],
    );
    // Two pods cannot have the same: what runs so is right.
    check(
        Some(&file(r#""a":{"c0":"1-2"},"b":{"c0":"2-3"}"#)),
        &[runs("a", "c0", "0,4-7"), runs("b", "c0", "2-3")],
        "b/c0=2-3",
        &["CPUs 1-2 of container c0 of pod a are another pod's, too"],
    );
}

#[test]
fn rebuilt_from_what_runs() {
    let running = [
        runs("a", "c0", "1-2"),
        runs("b", "c0", "3"),
        runs("c", "c0", "0,4-7"),
        runs("d", "c0", ""),
        runs("e", "c0", "9"),
    ];
    check(None, &running, "a/c0=1-2 b/c0=3", &[]);
    check(
        Some("{"),
        &running,
        "a/c0=1-2 b/c0=3",
        &[
            "the checkpoint of the CPU manager cannot be read (no JSON: EOF while parsing an object at line 1 column 1): it is rebuilt from running containers",
        ],
    );
    check(
        Some(r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#),
        &running,
        "a/c0=1-2 b/c0=3",
        &[
            "configured policy \"static\" differs from state checkpoint policy \"none\": it is rebuilt from running containers",
        ],
    );
    // All on the shared pool of a node that keeps the reserved CPU from it, and one that is pinned.
    check(None, &[runs("a", "c0", "2-7"), runs("b", "c0", "2-7"), runs("c", "c0", "1")], "c/c0=1", &[]);
    check(None, &[runs("a", "c0", "1-7"), runs("c", "c0", "1")], "c/c0=1", &[]);
}

#[test]
fn guesses_are_held_against_the_spec() {
    let mut manager = manager(&machine(), StaticOptions::default(), "0");
    let running = [runs("a", "c0", "1-2"), runs("b", "c0", "3-5"), runs("c", "c0", "6")];
    manager.restore(None, &running);
    assert_eq!(entries(&manager), "a/c0=1-2 b/c0=3-5 c/c0=6");
    let c0 = BTreeSet::from(["c0"]);
    // As it says; of another size; a pod that shares; one that was never pinned.
    assert!(manager.adopt(&pod("a", &[(Role::App, "2")]), &c0).is_empty());
    assert!(manager.adopt(&pod("b", &[(Role::App, "2")]), &c0).is_empty());
    assert!(manager.adopt(&pod("c", &[(Role::App, "100m")]), &c0).is_empty());
    assert!(manager.adopt(&pod("d", &[(Role::App, "1")]), &c0).is_empty());
    assert_eq!(entries(&manager), "a/c0=1-2 b/c0=3-4 d/c0=5");
    let problems = manager.adopt(&pod("e", &[(Role::App, "7")]), &c0);
    assert_eq!(
        problems,
        [
            "container c0 of pod e_default(e) shares CPUs: Allocate failed due to not enough cpus available to satisfy request: requested=7, available=2, which is unexpected"
        ]
    );
    // What a checkpoint said is kept as it runs, whatever the size; init containers that have ended get nothing.
    manager.adopt(&pod("a", &[(Role::App, "1")]), &c0);
    manager.adopt(&pod("f", &[(Role::Init, "2"), (Role::App, "1")]), &BTreeSet::from(["c1"]));
    assert_eq!(entries(&manager), "a/c0=1-2 b/c0=3-4 d/c0=5 f/c1=6");
}

#[test]
fn a_policy_that_pins_no_more() {
    let mut none = CpuManager::none(machine());
    let state = file(r#""a":{"c0":"1-2"}"#);
    assert!(none.restore(Some(state.as_bytes()), &[]).unpin);
    assert!(none.restore(Some(b"{"), &[]).unpin);
    assert!(!none.restore(None, &[]).unpin && !none.restore(Some(none.state().as_bytes()), &[]).unpin);
    assert_eq!(entries(&none), "");
}
