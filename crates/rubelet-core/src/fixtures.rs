//! Builders for tests of this crate: pods from JSON, observations from one-line descriptions.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use crate::observed::{ContainerFacts, ObservedContainer, ObservedPod, ObservedSandbox, ObservedState};

/// So many seconds after the epoch.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A pod `shop/web` with this spec.
pub(crate) fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "generation": 3},
        "spec": spec,
    }))
    .unwrap()
}

/// The hash every unchanged container has in tests.
pub(crate) fn hash(_: &Container) -> u32 {
    7
}

/// A sandbox `s<attempt>` with an address.
pub(crate) fn sandbox(attempt: u32, ready: bool) -> ObservedSandbox {
    ObservedSandbox {
        id: format!("s{attempt}").into(),
        attempt,
        created_at: at(i64::from(attempt)),
        ready,
        ips: vec!["10.0.0.7".to_owned()],
        host_network: false,
        annotations: Default::default(),
        runtime_handler: String::new(),
    }
}

/// A container from words: `name[#attempt] created|running|unknown|exited [code] [@end] [in=sandbox]
/// [reason=…] [changed]`. It was created ten seconds after the epoch for each attempt, in sandbox `s0`, and
/// its ID is `name-attempt`.
pub(crate) fn container(line: &str) -> ObservedContainer {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap();
    let (name, attempt) = name.split_once('#').unwrap_or((name, "0"));
    let attempt: u32 = attempt.parse().unwrap();
    let created_at = at(10 + 10 * i64::from(attempt));
    let state = match words.next().unwrap() {
        "created" => ObservedState::Created,
        "running" => ObservedState::Running,
        "exited" => ObservedState::Exited,
        _ => ObservedState::Unknown,
    };
    let exited = state == ObservedState::Exited;
    let mut container = ObservedContainer {
        id: format!("{name}-{attempt}").into(),
        name: name.to_owned(),
        sandbox_id: "s0".into(),
        attempt,
        state,
        created_at,
        started_at: (state != ObservedState::Created).then_some(created_at),
        finished_at: exited.then_some(created_at),
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        image: "busybox:latest".to_owned(),
        image_ref: "busybox@sha256:1".to_owned(),
        image_id: "sha256:1".to_owned(),
        facts: ContainerFacts { hash: Some(7), restart_count: attempt, ..ContainerFacts::default() },
        user: None,
        resources: None,
        mounts: vec![],
        log_path: String::new(),
        termination_message: None,
    };
    for word in words {
        if let Some(end) = word.strip_prefix('@') {
            container.finished_at = Some(at(end.parse().unwrap()));
        } else if let Some(id) = word.strip_prefix("in=") {
            container.sandbox_id = id.into();
        } else if let Some(reason) = word.strip_prefix("reason=") {
            container.reason = reason.to_owned();
        } else if word == "changed" {
            container.facts.hash = Some(8);
        } else {
            container.exit_code = word.parse().unwrap();
        }
    }
    container
}

/// An observation of these sandboxes and containers.
pub(crate) fn observed(sandboxes: &[ObservedSandbox], containers: &[&str]) -> ObservedPod {
    let mut pod = ObservedPod::absent("u1".into());
    pod.name = "web".to_owned();
    pod.namespace = "shop".to_owned();
    pod.sandboxes = sandboxes.to_vec();
    pod.containers = containers.iter().map(|line| container(line)).collect();
    pod.sort();
    pod
}
