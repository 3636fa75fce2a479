//! Pods: how many containers are ready, and the one word that says how the pod is.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age::{human, instant};
use super::columns::{AGE, NAME, string};
use super::{Printer, age, cell_or, is_being_deleted, name, number};
use crate::strategy::value::{at, items, text};

pub(super) static PODS: Printer = Printer {
    columns: &[
        NAME,
        string("Ready", "How many containers are ready, of how many."),
        string("Status", "How the pod is, or why it does not run."),
        string("Restarts", "How often containers were started again, and when last."),
        AGE,
        string("IP", "The pod's first address.").wide(),
        string("Node", "The node it runs on.").wide(),
        string("Nominated Node", "The node where room is being made for it.").wide(),
        string("Readiness Gates", "How many of its readiness gates are open, of how many.").wide(),
    ],
    cells,
};

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = Summary::of(pod);
    let restarts = match summary.restarts {
        Restarts { count, last: Some(last) } if count != 0 => {
            format!("{count} ({} ago)", human(now.duration_since(last)))
        }
        Restarts { count, .. } => count.to_string(),
    };
    vec![
        name(pod),
        json!(format!("{}/{}", summary.ready, summary.containers)),
        json!(summary.reason),
        json!(restarts),
        age(pod, now),
        // The first of both is the older field's where they differ.
        match text(pod, &["status", "podIP"]) {
            "" => cell_or(&at(pod, &["status", "podIPs"])[0], &["ip"], "<none>"),
            ip => json!(ip),
        },
        cell_or(pod, &["spec", "nodeName"], "<none>"),
        cell_or(pod, &["status", "nominatedNodeName"], "<none>"),
        json!(readiness_gates(pod)),
    ]
}

/// The row's condition that kubectl prints nothing more will come of the pod.
pub(super) fn completed(pod: &Value) -> Option<Value> {
    let phase = text(pod, &["status", "phase"]);
    let message = match phase {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return None,
    };
    Some(json!({"type": "Completed", "status": "True", "reason": phase, "message": message}))
}

/// Restarts of some containers.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    /// When a container that was started again had ended, the last time.
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count = self.count.saturating_add(number(status, &["restartCount"]));
        self.last = self.last.max(instant(at(status, &["lastState", "terminated", "finishedAt"])));
    }
}

/// What was seen of init containers.
#[derive(Default)]
struct InitContainers {
    restarts: Restarts,
    /// Of those that stay beside the containers.
    sidecar_restarts: Restarts,
    /// Whether one has to end or start yet.
    unfinished: bool,
}

/// What is said of a pod.
struct Summary {
    ready: usize,
    containers: usize,
    reason: String,
    restarts: Restarts,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let sidecars = sidecars(pod);
        let mut summary = Self {
            ready: 0,
            containers: items(pod, &["spec", "containers"]).len() + sidecars.len(),
            reason: pod_reason(pod).to_owned(),
            restarts: Restarts::default(),
        };
        let before = summary.add_init_containers(pod, &sidecars);
        summary.restarts = before.restarts;
        if !before.unfinished || condition(pod, "Initialized") == Some("True") {
            summary.restarts = before.sidecar_restarts;
            summary.add_containers(pod);
        }
        if is_being_deleted(pod) {
            if text(pod, &["status", "reason"]) == "NodeLost" {
                "Unknown".clone_into(&mut summary.reason);
            } else if !matches!(text(pod, &["status", "phase"]), "Succeeded" | "Failed") {
                "Terminating".clone_into(&mut summary.reason);
            }
        }
        summary
    }

    /// Looks at init containers up to the first that has to end or start yet.
    fn add_init_containers(&mut self, pod: &Value, sidecars: &BTreeSet<&str>) -> InitContainers {
        let mut seen = InitContainers::default();
        for (index, status) in items(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
            let is_sidecar = sidecars.contains(text(status, &["name"]));
            seen.restarts.add(status);
            if is_sidecar {
                seen.sidecar_restarts.add(status);
            }
            let terminated = at(status, &["state", "terminated"]);
            if terminated.is_object() && number(terminated, &["exitCode"]) == 0 {
                continue;
            }
            if is_sidecar && status["started"] == true {
                self.ready += usize::from(status["ready"] == true);
                continue;
            }
            let waiting = text(status, &["state", "waiting", "reason"]);
            self.reason = if terminated.is_object() {
                format!("Init:{}", end(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", items(pod, &["spec", "initContainers"]).len())
            };
            seen.unfinished = true;
            break;
        }
        seen
    }

    fn add_containers(&mut self, pod: &Value) {
        let mut running = false;
        let mut failure = None;
        // From the last to the first: the first container's reason is what is said.
        for status in items(pod, &["status", "containerStatuses"]).iter().rev() {
            self.restarts.add(status);
            let waiting = text(status, &["state", "waiting", "reason"]);
            let terminated = at(status, &["state", "terminated"]);
            if !waiting.is_empty() {
                waiting.clone_into(&mut self.reason);
            } else if terminated.is_object() {
                self.reason = end(terminated);
                if number(terminated, &["exitCode"]) != 0 {
                    failure = Some(self.reason.clone());
                }
            } else if status["ready"] == true && at(status, &["state", "running"]).is_object() {
                running = true;
                self.ready += 1;
            }
        }
        // One that has ended well says nothing of the others.
        if self.reason == "Completed" {
            if running && is_ready(pod) {
                "Running".clone_into(&mut self.reason);
            } else if let Some(failure) = failure {
                self.reason = failure;
            } else if running {
                "NotReady".clone_into(&mut self.reason);
            }
        }
    }
}

/// Names of init containers that stay.
fn sidecars(pod: &Value) -> BTreeSet<&str> {
    items(pod, &["spec", "initContainers"])
        .iter()
        .filter(|container| container["restartPolicy"] == "Always")
        .map(|container| text(container, &["name"]))
        .collect()
}

/// What the pod says of itself, before its containers are looked at.
fn pod_reason(pod: &Value) -> &str {
    const GATED: &str = "SchedulingGated";
    let gated = items(pod, &["status", "conditions"])
        .iter()
        .any(|condition| condition["type"] == "PodScheduled" && condition["reason"] == GATED);
    match (gated, text(pod, &["status", "reason"])) {
        (true, _) => GATED,
        (false, "") => text(pod, &["status", "phase"]),
        (false, reason) => reason,
    }
}

/// How a container ended.
fn end(terminated: &Value) -> String {
    match (text(terminated, &["reason"]), number(terminated, &["signal"])) {
        ("", 0) => format!("ExitCode:{}", number(terminated, &["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// The status of the first condition of this type.
fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a str> {
    items(pod, &["status", "conditions"])
        .iter()
        .find(|condition| condition["type"] == kind)
        .map(|condition| text(condition, &["status"]))
}

fn is_ready(pod: &Value) -> bool {
    items(pod, &["status", "conditions"]).iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn readiness_gates(pod: &Value) -> String {
    let gates = items(pod, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|gate| condition(pod, text(gate, &["conditionType"])) == Some("True"));
    format!("{}/{}", open.count(), gates.len())
}
