//! Which dead containers and sandboxes of pods that have ended go (upstream `containerGC`).
//!
//! Owns the decision, on what was observed of such pods. Pods that live are none of its business: their workers keep
//! their leftovers within bounds. Nothing that runs, or may run, is ever in a plan; the shell's clean-up carries it out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::ids::{ContainerId, SandboxId};
use crate::observed::{ObservedContainer, ObservedPod, ObservedState};

/// What is kept of pods that have ended, from the deprecated flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadPolicy {
    /// Younger containers stay (`--minimum-container-ttl-duration`).
    pub min_age: Duration,
    /// Dead instances kept of each container (`--maximum-dead-containers-per-container`); `None` keeps all.
    pub per_container: Option<usize>,
    /// Dead instances kept on the node (`--maximum-dead-containers`); `None` keeps all.
    pub in_all: Option<usize>,
}

impl Default for DeadPolicy {
    fn default() -> Self {
        Self { min_age: Duration::ZERO, per_container: Some(1), in_all: None }
    }
}

/// A pod that has ended and is still in its source.
#[derive(Clone, Debug)]
pub struct EndedPod {
    /// What the runtime holds of it.
    pub observed: ObservedPod,
    /// Nothing of it is kept: it had to go for the node's sake, or room is needed.
    pub whole: bool,
}

/// What to remove, containers first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadPlan {
    /// Containers.
    pub containers: Vec<ContainerId>,
    /// Sandboxes that hold no container then.
    pub sandboxes: Vec<SandboxId>,
}

/// Whether it has ended, or was never begun and, its pod being over, never will.
fn is_dead(container: &ObservedContainer) -> bool {
    matches!(container.state, ObservedState::Exited | ObservedState::Created)
}

/// Dead instances by pod and name of the container.
type Kept<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a ObservedContainer>>;

/// Takes the oldest instances of each container beyond a limit.
fn beyond<'a>(kept: &mut Kept<'a>, limit: usize) -> Vec<&'a ContainerId> {
    let mut taken = Vec::new();
    for instances in kept.values_mut() {
        instances.sort_by_key(|container| std::cmp::Reverse(container.created_at));
        taken.extend(instances.drain(limit.min(instances.len())..).map(|container| &container.id));
    }
    taken
}

/// Computes what goes. The oldest go first, and where dead containers of the whole node are limited each container keeps
/// as many as every other, one at least while that is enough.
pub fn plan(pods: &[EndedPod], policy: &DeadPolicy, now: Timestamp) -> DeadPlan {
    let min_age = SignedDuration::try_from(policy.min_age).unwrap_or(SignedDuration::MAX);
    let is_old = |container: &ObservedContainer| now.duration_since(container.created_at) >= min_age;
    let mut remove: BTreeSet<&ContainerId> = BTreeSet::new();
    let mut kept = Kept::new();
    for pod in pods {
        for container in pod.observed.containers.iter().filter(|container| is_dead(container)) {
            if pod.whole {
                remove.insert(&container.id);
            } else if is_old(container) {
                let unit = (pod.observed.uid.as_str(), container.name.as_str());
                kept.entry(unit).or_default().push(container);
            }
        }
    }
    if let Some(limit) = policy.per_container {
        remove.extend(beyond(&mut kept, limit));
    }
    let total = |kept: &Kept<'_>| kept.values().map(Vec::len).sum::<usize>();
    if let Some(limit) = policy.in_all
        && total(&kept) > limit
    {
        let each = (limit / kept.len().max(1)).max(1);
        remove.extend(beyond(&mut kept, each));
        let mut rest: Vec<&ObservedContainer> = kept.into_values().flatten().collect();
        rest.sort_by_key(|container| std::cmp::Reverse(container.created_at));
        remove.extend(rest.iter().skip(limit).map(|container| &container.id));
    }
    let mut plan = DeadPlan::default();
    for pod in pods {
        let observed = &pod.observed;
        // The oldest first.
        let gone = observed.containers.iter().rev().filter(|container| remove.contains(&container.id));
        plan.containers.extend(gone.map(|container| container.id.clone()));
        let newest = if pod.whole { 0 } else { 1 };
        let empty = observed.sandboxes.iter().skip(newest).filter(|sandbox| {
            let stays = |c: &ObservedContainer| c.sandbox_id == sandbox.id && !remove.contains(&c.id);
            !sandbox.ready && !observed.containers.iter().any(stays)
        });
        plan.sandboxes.extend(empty.map(|sandbox| sandbox.id.clone()));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::observed::ObservedSandbox;

    /// A pod of containers `(id, name, state, created)`, newest first, all in the sandbox `s-<uid>`, which is not ready,
    /// with an older, empty one.
    fn pod(uid: &str, whole: bool, containers: &[(&str, &str, ObservedState, i64)]) -> EndedPod {
        let mut observed = ObservedPod::absent(uid.into());
        for name in ["s", "old"] {
            let id = format!("{name}-{uid}").as_str().into();
            observed.sandboxes.push(ObservedSandbox { id, ..fixtures::sandbox(0, false) });
        }
        for (id, name, state, created) in containers {
            observed.containers.push(ObservedContainer {
                id: (*id).into(),
                sandbox_id: format!("s-{uid}").as_str().into(),
                state: *state,
                created_at: fixtures::at(*created),
                ..fixtures::container(&format!("{name} exited"))
            });
        }
        EndedPod { observed, whole }
    }

    #[track_caller]
    fn check(pods: &[EndedPod], policy: DeadPolicy, containers: &[&str], sandboxes: &[&str]) {
        let plan = super::plan(pods, &policy, fixtures::at(1000));
        let found: Vec<&str> = plan.containers.iter().map(ContainerId::as_str).collect();
        assert_eq!(found, containers);
        let found: Vec<&str> = plan.sandboxes.iter().map(SandboxId::as_str).collect();
        assert_eq!(found, sandboxes);
    }

    use ObservedState::{Created, Exited, Running, Unknown};

    #[test]
    fn the_newest_of_each_container_stays() {
        let pods = [pod(
            "1",
            false,
            &[
                ("a3", "a", Exited, 30),
                ("b1", "b", Exited, 25),
                ("a2", "a", Exited, 20),
                ("a1", "a", Exited, 10),
            ],
        )];
        let policy = DeadPolicy::default();
        check(&pods, policy, &["a1", "a2"], &["old-1"]);
        check(&pods, DeadPolicy { per_container: Some(2), ..policy }, &["a1"], &["old-1"]);
        check(&pods, DeadPolicy { per_container: None, ..policy }, &[], &["old-1"]);
        check(&pods, DeadPolicy { min_age: Duration::from_secs(985), ..policy }, &[], &["old-1"]);
        check(&pods, DeadPolicy { per_container: Some(0), ..policy }, &["a1", "a2", "b1", "a3"], &["old-1"]);
    }

    #[test]
    fn nothing_stays_of_a_pod_that_had_to_go() {
        let pods = [
            pod("1", true, &[("a2", "a", Exited, 30), ("a1", "a", Created, 20)]),
            pod("2", false, &[("x", "x", Exited, 1)]),
        ];
        let policy = DeadPolicy { min_age: Duration::from_secs(10_000), ..DeadPolicy::default() };
        check(&pods, policy, &["a1", "a2"], &["s-1", "old-1", "old-2"]);
    }

    #[test]
    fn what_may_run_stays_with_its_sandbox() {
        let pods = [pod("1", true, &[("a", "a", Running, 3), ("b", "b", Unknown, 2), ("c", "c", Exited, 1)])];
        check(&pods, DeadPolicy::default(), &["c"], &["old-1"]);
    }

    #[test]
    fn a_limit_for_the_node_takes_the_oldest_and_leaves_each_container_as_much() {
        let pods = [
            pod("1", false, &[("a3", "a", Exited, 30), ("a2", "a", Exited, 20), ("a1", "a", Exited, 10)]),
            pod("2", false, &[("b1", "b", Exited, 15)]),
        ];
        let policy = |limit| DeadPolicy { per_container: None, in_all: Some(limit), ..DeadPolicy::default() };
        let old = ["old-1", "old-2"];
        check(&pods, policy(4), &[], &old);
        check(&pods, policy(3), &["a1", "a2"], &old);
        check(&pods, policy(1), &["a1", "a2", "b1"], &old);
        check(&pods, policy(0), &["a1", "a2", "a3", "b1"], &old);
    }
}
