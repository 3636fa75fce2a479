//! The pod worker's state machine: the stages of one pod UID and the only way from one to the next.
//!
//! A stage never goes back and the grace period only shrinks (upstream: `pod_workers.go`, restated as a
//! reducer). The one token that permits destructive clean-up, [`ContainersStopped`], is minted here and only
//! on an observation in which nothing of the pod can still run.

use jiff::Timestamp;

use crate::ids::PodUid;
use crate::observed::ObservedPod;

/// Stage of one pod UID. Owned by its worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Another pod with the same namespace and name has not finished. Left by `PredecessorGone` or
    /// `Terminate`; nothing of this pod has been started.
    WaitingForPredecessor,
    /// The pod is made to run as asked. Left by `Terminate`, or by `PodDone` when it ends by itself.
    Syncing,
    /// Everything of the pod is being stopped. Left when an observation shows nothing left to stop;
    /// a retry kills again with the time that is left.
    Terminating {
        /// When the stage was entered.
        since: Timestamp,
        /// Grace period in seconds, at least 1; only shrinks.
        grace: u64,
        /// Why the pod ends.
        cause: TerminationCause,
    },
    /// Nothing of the pod runs; what it used is given back. Left by `CleanedUp`; a retry repeats the
    /// clean-up, every step of which is idempotent.
    Terminated {
        /// Why the pod ended.
        cause: TerminationCause,
    },
    /// Nothing is left to do. The UID is kept while it is desired, so that it is never started again.
    Finished {
        /// Why the pod ended.
        cause: TerminationCause,
    },
}

/// Why a pod ends. Decides its final status and what is kept afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TerminationCause {
    /// Every container finished and none is to be restarted, or the API says that the phase is terminal.
    Completed,
    /// `metadata.deletionTimestamp` is set.
    Deleted,
    /// No source asks for the pod any more.
    RemovedFromSource,
    /// The runtime holds it and no source has ever asked this agent for it.
    Orphan,
    /// The agent ends it: eviction, preemption, node shutdown, active deadline. The status says so.
    Killed {
        /// `status.reason`, for example `DeadlineExceeded`.
        reason: &'static str,
        /// `status.message`.
        message: String,
        /// Whether it is a disruption, which the condition DisruptionTarget tells: the pod did nothing wrong.
        disruption: bool,
    },
}

impl TerminationCause {
    /// Whether the pod may vanish without trace afterwards: nobody asks for it any more.
    pub fn forgets_pod(&self) -> bool {
        matches!(self, Self::Deleted | Self::RemovedFromSource | Self::Orphan)
    }
}

/// What can happen to a pod.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// The pod that used this namespace and name before has finished.
    PredecessorGone,
    /// The pod is to end, with this grace in seconds (0 counts as 1).
    Terminate {
        /// Why.
        cause: TerminationCause,
        /// Grace period in seconds.
        grace: u64,
    },
    /// The sync concluded that the pod ended by itself.
    PodDone {
        /// Grace for what may still run (sidecars), in seconds.
        grace: u64,
    },
    /// The runtime was read after the worker's own last action.
    Observed(&'a ObservedPod),
    /// Volumes, cgroups and status of the pod are settled.
    CleanedUp,
}

/// Proof that nothing of a pod runs. Unmounting, cgroup removal and device release ask for it.
#[derive(Debug)]
pub struct ContainersStopped {
    uid: PodUid,
}

impl ContainersStopped {
    /// The pod the proof is about.
    pub fn uid(&self) -> &PodUid {
        &self.uid
    }
}

/// What the worker has to do because of a step.
#[derive(Debug)]
pub enum Effect {
    /// Stop the sync that may be under way, at its next safe point.
    CancelSync,
    /// Kill again with the shorter grace.
    ShortenGrace,
    /// Give back what the pod used.
    CleanUp(ContainersStopped),
    /// Tell whoever waits for this namespace and name.
    ReleaseName,
}

/// Takes one step. Inputs that mean nothing in the current stage change nothing.
pub fn step(state: &PodState, input: Input<'_>, now: Timestamp) -> (PodState, Vec<Effect>) {
    use PodState::*;
    match (state, input) {
        (WaitingForPredecessor, Input::PredecessorGone) => (Syncing, vec![]),
        (WaitingForPredecessor | Syncing, Input::Terminate { cause, grace }) => {
            (Terminating { since: now, grace: grace.max(1), cause }, vec![Effect::CancelSync])
        }
        (Syncing, Input::PodDone { grace }) => (
            Terminating { since: now, grace: grace.max(1), cause: TerminationCause::Completed },
            vec![Effect::CancelSync],
        ),
        (Terminating { since, grace, cause }, Input::Terminate { cause: asked, grace: wanted }) => {
            // What the API is told stays with the first cause; that nobody wants the pod any more is news
            // that decides what is kept afterwards.
            let cause = if asked.forgets_pod() && *cause == TerminationCause::Completed {
                asked
            } else {
                cause.clone()
            };
            let shorter = wanted.max(1).min(*grace);
            let effects = if shorter < *grace { vec![Effect::ShortenGrace] } else { vec![] };
            (Terminating { since: *since, grace: shorter, cause }, effects)
        }
        (Terminating { cause, .. }, Input::Observed(observed)) if nothing_runs(observed) => (
            Terminated { cause: cause.clone() },
            vec![Effect::CleanUp(ContainersStopped { uid: observed.uid.clone() })],
        ),
        // The proof is minted anew for a retry of the clean-up; it needs a fresh observation each time.
        (Terminated { .. }, Input::Observed(observed)) if nothing_runs(observed) => {
            (state.clone(), vec![Effect::CleanUp(ContainersStopped { uid: observed.uid.clone() })])
        }
        (Terminated { cause }, Input::CleanedUp) => {
            (Finished { cause: cause.clone() }, vec![Effect::ReleaseName])
        }
        (state, _) => (state.clone(), vec![]),
    }
}

/// Whether an observation shows that no process of the pod can be left: no container that runs or whose
/// state is unknown, and no ready sandbox.
fn nothing_runs(observed: &ObservedPod) -> bool {
    !observed.may_run() && !observed.has_ready_sandbox()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::ObservedSandbox;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn observed(ready: bool) -> ObservedPod {
        let mut pod = ObservedPod::absent("u".into());
        pod.sandboxes.push(ObservedSandbox {
            id: "s".into(),
            attempt: 0,
            created_at: at(0),
            ready,
            ips: vec![],
            host_network: false,
            annotations: Default::default(),
            runtime_handler: String::new(),
        });
        pod
    }

    fn rank(state: &PodState) -> u8 {
        match state {
            PodState::WaitingForPredecessor => 0,
            PodState::Syncing => 1,
            PodState::Terminating { .. } => 2,
            PodState::Terminated { .. } => 3,
            PodState::Finished { .. } => 4,
        }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Gone,
        Terminate(u64, bool),
        Done(u64),
        See(bool),
        Clean,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        prop::collection::vec(
            prop_oneof![
                Just(Act::Gone),
                (0..100u64, any::<bool>()).prop_map(|(g, r)| Act::Terminate(g, r)),
                (0..100u64).prop_map(Act::Done),
                any::<bool>().prop_map(Act::See),
                Just(Act::Clean),
            ],
            0..30,
        )
    }

    proptest! {
        #[test]
        fn never_back_grace_shrinks_and_no_token_without_proof(acts in acts()) {
            let mut state = PodState::WaitingForPredecessor;
            for (n, act) in acts.iter().enumerate() {
                let seen = observed(matches!(act, Act::See(true)));
                let input = match act {
                    Act::Gone => Input::PredecessorGone,
                    Act::Terminate(grace, removed) => Input::Terminate {
                        cause: if *removed { TerminationCause::RemovedFromSource } else { TerminationCause::Deleted },
                        grace: *grace,
                    },
                    Act::Done(grace) => Input::PodDone { grace: *grace },
                    Act::See(_) => Input::Observed(&seen),
                    Act::Clean => Input::CleanedUp,
                };
                let (next, effects) = step(&state, input, at(n as i64));
                prop_assert!(rank(&next) >= rank(&state));
                prop_assert!(rank(&next) <= rank(&state) + 2);
                if let (PodState::Terminating { grace: old, .. }, PodState::Terminating { grace: new, .. }) = (&state, &next) {
                    prop_assert!(new <= old && *new >= 1);
                }
                for effect in effects {
                    if matches!(effect, Effect::CleanUp(_)) {
                        prop_assert!(matches!(act, Act::See(false)), "token minted by {act:?}");
                    }
                }
                state = next;
            }
        }
    }

    #[test]
    fn a_completed_pod_that_is_then_removed_is_forgotten() {
        let done = step(&PodState::Syncing, Input::PodDone { grace: 30 }, at(0)).0;
        let removed = Input::Terminate { cause: TerminationCause::RemovedFromSource, grace: 30 };
        let PodState::Terminating { cause, .. } = step(&done, removed, at(1)).0 else { panic!() };
        assert!(cause.forgets_pod());
    }
}
