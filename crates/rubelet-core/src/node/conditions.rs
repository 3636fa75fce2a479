//! The node conditions MemoryPressure, DiskPressure, PIDPressure and Ready.
//!
//! Owns their order, reasons, messages and times (the setters in upstream's `nodestatus`), and how the
//! runtime's state becomes the text of Ready. Never measures; conditions of others are left alone.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::NodeEvent;
use super::pressure::Pressures;

/// How long the runtime may be silent before the node stops being Ready (upstream `maxWaitForContainerRuntime`).
pub const RUNTIME_GRACE: Duration = Duration::from_secs(30);

/// A condition of the runtime that is not fulfilled, as the runtime explains it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unmet {
    /// Reason, or empty.
    pub reason: String,
    /// Message, or empty.
    pub message: String,
}

/// What the runtime last said of pod networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkState {
    /// It has not been asked with success yet.
    Unknown,
    /// Pods can get a network.
    Ready,
    /// They cannot.
    NotReady(Unmet),
}

/// A runtime that does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// For how long.
    pub lasts: Duration,
    /// What came instead of an answer.
    pub cause: String,
}

/// What Ready follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeHealth {
    /// Whether the runtime has answered since the agent started.
    pub answered: bool,
    /// It does not answer now.
    pub silence: Option<Silence>,
    /// Why nothing can be learnt from its lists ([`super::lists::ListFacts::problem`]).
    pub lists: Option<String>,
    /// Condition RuntimeReady when the runtime has answered that it is not fulfilled.
    pub runtime: Option<Unmet>,
    /// Condition NetworkReady.
    pub network: NetworkState,
}

impl RuntimeHealth {
    /// Why the node is not ready, in upstream's order and words; empty when pods can be run.
    ///
    /// Each trouble has a text of its own: a runtime that is silent is "down" and nothing else, however long it has
    /// not been listed meanwhile; one that answers is never "down" (upstream says so of one that is not ready, too).
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        match &self.silence {
            Some(Silence { lasts, cause }) if *lasts >= RUNTIME_GRACE => {
                problems.push(format!("container runtime is down: {cause}"));
            }
            Some(Silence { cause, .. }) if !self.answered => {
                problems.push(format!("{UNASKED}: {cause}"));
            }
            None if !self.answered => problems.push(UNASKED.to_owned()),
            Some(_) => {}
            None => problems.extend(self.lists.clone()),
        }
        let unmet = |kind: &str, Unmet { reason, message }: &Unmet| {
            format!("{kind}=false reason:{reason} message:{message}")
        };
        if let Some(runtime) = &self.runtime {
            problems.push(format!("container runtime not ready: {}", unmet("RuntimeReady", runtime)));
        }
        match &self.network {
            NetworkState::Unknown => problems.push("network state unknown".to_owned()),
            NetworkState::NotReady(network) => problems
                .push(format!("container runtime network not ready: {}", unmet("NetworkReady", network))),
            NetworkState::Ready => {}
        }
        problems
    }
}

/// Upstream's text before the first answer.
const UNASKED: &str = "container runtime status check may not have completed yet";

/// What condition Ready is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// What the Node says now: the agent or the runtime has just started and is given a moment to be well.
    Keep,
    /// Ready without problems, not ready with any.
    Problems(Vec<String>),
}

/// One text of several problems, in upstream's form (`Aggregate.Error`); `None` for none.
pub fn aggregate(problems: &[String]) -> Option<String> {
    let mut distinct: Vec<&str> = Vec::new();
    for problem in problems {
        if !distinct.contains(&problem.as_str()) {
            distinct.push(problem);
        }
    }
    match distinct.as_slice() {
        [] => None,
        [one] => Some((*one).to_owned()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

/// One of the three pressure conditions.
struct PressureTexts {
    kind: &'static str,
    /// Reason, message and event under pressure.
    bad: [&'static str; 3],
    /// Reason, message and event without.
    good: [&'static str; 3],
}

const MEMORY: PressureTexts = PressureTexts {
    kind: "MemoryPressure",
    bad: [
        "KubeletHasInsufficientMemory",
        "kubelet has insufficient memory available",
        "NodeHasInsufficientMemory",
    ],
    good: [
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
        "NodeHasSufficientMemory",
    ],
};
const DISK: PressureTexts = PressureTexts {
    kind: "DiskPressure",
    bad: ["KubeletHasDiskPressure", "kubelet has disk pressure", "NodeHasDiskPressure"],
    good: ["KubeletHasNoDiskPressure", "kubelet has no disk pressure", "NodeHasNoDiskPressure"],
};
const PID: PressureTexts = PressureTexts {
    kind: "PIDPressure",
    bad: ["KubeletHasInsufficientPID", "kubelet has insufficient PID available", "NodeHasInsufficientPID"],
    good: ["KubeletHasSufficientPID", "kubelet has sufficient PID available", "NodeHasSufficientPID"],
};

/// Brings the four conditions up to date and returns the events of what changed.
///
/// Every heartbeat time becomes `now`; a transition time does only when the status changes. Ready comes last in
/// a list it is new to. `now` should be in whole seconds, which is what the API keeps.
pub fn update(
    conditions: &mut Vec<NodeCondition>,
    pressures: Pressures,
    readiness: &Readiness,
    now: Timestamp,
) -> Vec<NodeEvent> {
    let mut events = Vec::new();
    for (texts, is_bad) in [(&MEMORY, pressures.memory), (&DISK, pressures.disk), (&PID, pressures.pid)] {
        let (status, [reason, message, event]) =
            if is_bad { ("True", texts.bad) } else { ("False", texts.good) };
        let condition = entry(conditions, texts.kind);
        condition.last_heartbeat_time = Some(Time(now));
        if condition.status != status {
            // As upstream, the texts change with the status only.
            condition.status = status.to_owned();
            condition.reason = Some(reason.to_owned());
            condition.message = Some(message.to_owned());
            condition.last_transition_time = Some(Time(now));
            events.push(NodeEvent::status(event));
        }
    }
    update_ready(conditions, readiness, now, &mut events);
    events
}

fn update_ready(
    conditions: &mut Vec<NodeCondition>,
    readiness: &Readiness,
    now: Timestamp,
    events: &mut Vec<NodeEvent>,
) {
    let is_new = !conditions.iter().any(|condition| condition.type_ == "Ready");
    let problems = match readiness {
        Readiness::Keep if is_new => return,
        Readiness::Keep => {
            entry(conditions, "Ready").last_heartbeat_time = Some(Time(now));
            return;
        }
        Readiness::Problems(problems) => problems,
    };
    let (status, reason, message, event) = match aggregate(problems) {
        None => ("True", "KubeletReady", "kubelet is posting ready status".to_owned(), "NodeReady"),
        Some(problems) => ("False", "KubeletNotReady", problems, "NodeNotReady"),
    };
    let condition = entry(conditions, "Ready");
    if condition.status != status {
        condition.last_transition_time = Some(Time(now));
        if !is_new {
            events.push(NodeEvent::status(event));
        }
    }
    condition.status = status.to_owned();
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message);
    condition.last_heartbeat_time = Some(Time(now));
}

/// The condition of this type, appended when there is none.
fn entry<'a>(conditions: &'a mut Vec<NodeCondition>, kind: &str) -> &'a mut NodeCondition {
    let index = conditions.iter().position(|condition| condition.type_ == kind).unwrap_or_else(|| {
        conditions.push(NodeCondition {
            type_: kind.to_owned(),
            status: "Unknown".to_owned(),
            ..Default::default()
        });
        conditions.len() - 1
    });
    &mut conditions[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn show(conditions: &[NodeCondition]) -> Vec<String> {
        let seconds = |time: &Option<Time>| time.as_ref().map_or(-1, |time| time.0.as_second());
        conditions
            .iter()
            .map(|c| {
                format!(
                    "{}={} {} {}/{}",
                    c.type_,
                    c.status,
                    c.reason.as_deref().unwrap_or_default(),
                    seconds(&c.last_heartbeat_time),
                    seconds(&c.last_transition_time)
                )
            })
            .collect()
    }

    fn reasons(events: &[NodeEvent]) -> Vec<&str> {
        events.iter().map(|event| event.reason).collect()
    }

    fn ready() -> Readiness {
        Readiness::Problems(vec![])
    }

    #[test]
    fn a_new_node_has_pressures_first_and_ready_last() {
        let mut conditions = vec![];
        let events = update(&mut conditions, Pressures::default(), &ready(), at(5));
        assert_eq!(
            show(&conditions),
            [
                "MemoryPressure=False KubeletHasSufficientMemory 5/5",
                "DiskPressure=False KubeletHasNoDiskPressure 5/5",
                "PIDPressure=False KubeletHasSufficientPID 5/5",
                "Ready=True KubeletReady 5/5",
            ]
        );
        assert_eq!(
            reasons(&events),
            ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"]
        );
        assert_eq!(update(&mut conditions, Pressures::default(), &ready(), at(15)), []);
        assert_eq!(show(&conditions)[3], "Ready=True KubeletReady 15/5");
    }

    #[test]
    fn changes_move_the_transition_time_and_make_events() {
        let mut conditions = vec![NodeCondition {
            type_: "NetworkUnavailable".into(),
            status: "False".into(),
            ..Default::default()
        }];
        update(&mut conditions, Pressures::default(), &ready(), at(0));
        let bad = Pressures { memory: true, disk: true, pid: true };
        let down = Readiness::Problems(vec!["container runtime is down".into()]);
        let events = update(&mut conditions, bad, &down, at(10));
        assert_eq!(
            reasons(&events),
            ["NodeHasInsufficientMemory", "NodeHasDiskPressure", "NodeHasInsufficientPID", "NodeNotReady"]
        );
        assert_eq!(conditions[4].message.as_deref(), Some("container runtime is down"));
        assert_eq!(show(&conditions)[0], "NetworkUnavailable=False  -1/-1");
        assert_eq!(show(&conditions)[4], "Ready=False KubeletNotReady 10/10");
        // Another problem is another message, not another transition.
        let network = Readiness::Problems(vec!["network state unknown".into()]);
        assert_eq!(update(&mut conditions, bad, &network, at(20)), []);
        assert_eq!(show(&conditions)[4], "Ready=False KubeletNotReady 20/10");
        assert_eq!(reasons(&update(&mut conditions, bad, &ready(), at(30))), ["NodeReady"]);
        assert_eq!(show(&conditions)[4], "Ready=True KubeletReady 30/30");
    }

    #[test]
    fn what_is_kept_only_beats() {
        let mut conditions = vec![];
        update(&mut conditions, Pressures::default(), &Readiness::Keep, at(0));
        assert_eq!(conditions.len(), 3);
        update(&mut conditions, Pressures::default(), &ready(), at(0));
        update(&mut conditions, Pressures::default(), &Readiness::Keep, at(9));
        assert_eq!(show(&conditions)[3], "Ready=True KubeletReady 9/0");
    }

    fn well() -> RuntimeHealth {
        RuntimeHealth {
            answered: true,
            silence: None,
            lists: None,
            runtime: None,
            network: NetworkState::Ready,
        }
    }

    fn silent(seconds: u64) -> Option<Silence> {
        Some(Silence { lasts: Duration::from_secs(seconds), cause: "nothing listens".into() })
    }

    #[track_caller]
    fn check(health: RuntimeHealth, expected: Option<&str>) {
        assert_eq!(aggregate(&health.problems()).as_deref(), expected, "{health:?}");
    }

    #[test]
    fn a_silent_runtime_is_down_after_its_grace_and_nothing_else() {
        let down = Some("container runtime is down: nothing listens");
        check(well(), None);
        check(RuntimeHealth { silence: silent(29), ..well() }, None);
        check(RuntimeHealth { silence: silent(30), ..well() }, down);
        let lists = Some("PLEG is not healthy: pleg has yet to be successful".to_owned());
        check(RuntimeHealth { silence: silent(400), lists: lists.clone(), ..well() }, down);
        check(RuntimeHealth { lists: lists.clone(), ..well() }, lists.as_deref());
    }

    #[test]
    fn before_the_first_answer_nothing_is_known() {
        let unasked = RuntimeHealth { answered: false, network: NetworkState::Unknown, ..well() };
        check(
            unasked.clone(),
            Some("[container runtime status check may not have completed yet, network state unknown]"),
        );
        check(
            RuntimeHealth { silence: silent(3), ..unasked.clone() },
            Some(
                "[container runtime status check may not have completed yet: nothing listens, network state unknown]",
            ),
        );
        check(
            RuntimeHealth { silence: silent(30), ..unasked },
            Some("[container runtime is down: nothing listens, network state unknown]"),
        );
    }

    #[test]
    fn what_the_runtime_says_of_itself_is_told_in_upstreams_words() {
        let cni = NetworkState::NotReady(Unmet {
            reason: "NetworkPluginNotReady".into(),
            message: "Network plugin returns error: cni plugin not initialized".into(),
        });
        check(
            RuntimeHealth { network: cni.clone(), ..well() },
            Some(
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized",
            ),
        );
        check(
            RuntimeHealth { runtime: Some(Unmet::default()), network: cni, ..well() },
            Some(
                "[container runtime not ready: RuntimeReady=false reason: message:, container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized]",
            ),
        );
        assert_eq!(aggregate(&["a".into(), "a".into()]).as_deref(), Some("a"));
    }
}
