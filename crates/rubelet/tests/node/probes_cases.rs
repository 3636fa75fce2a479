//! Tables of probes: many handlers in few pods, and for each of them what upstream makes of the answer. Looks at what
//! a user has: the pod's status, the events in the agent's log, and `/metrics/probes`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use crate::node::{NAME, Node, http_get};
use crate::pods;
use crate::wait::{self, PATIENCE};

/// Most containers that go into one pod.
const POD_SIZE: usize = 6;

/// What upstream makes of a handler's answer.
#[derive(Clone, Copy, Debug)]
pub enum Want {
    /// A success.
    Passes,
    /// A success, and an event with this in its message.
    Warns(&'static str),
    /// A failure, and an event with this in its message.
    Fails(&'static str),
    /// Neither, and an event with this in its message.
    Errs(&'static str),
}

/// A handler and what is made of it.
pub struct Case {
    /// What it is about.
    pub name: &'static str,
    /// The handler in YAML: `httpGet: {...}`.
    pub handler: String,
    pub want: Want,
}

impl Case {
    /// How long a run may take: a second where that is what it is about, long enough for a busy machine elsewhere.
    fn timeout(&self) -> u32 {
        let words = match self.want {
            Want::Passes => "",
            Want::Warns(words) | Want::Fails(words) | Want::Errs(words) => words,
        };
        let is_slow = ["imeout", "deadline", "timed out"].iter().any(|word| words.contains(word));
        if is_slow { 1 } else { 10 }
    }
}

/// An event in the agent's log.
#[derive(Clone, Debug)]
pub struct Logged {
    pub pod: String,
    pub container: String,
    pub reason: String,
    pub message: String,
}

/// The events that the agent told in its log, each once a minute.
pub fn logged(node: &Node) -> Vec<Logged> {
    let starts = |line: &str| {
        let mut bytes = line.bytes();
        matches!(bytes.next(), Some(b'I' | b'W' | b'E')) && bytes.take(4).all(|byte| byte.is_ascii_digit())
    };
    let mut entries: Vec<String> = vec![];
    for line in node.agent_log().lines() {
        match entries.last_mut() {
            Some(last) if !starts(line) => *last = format!("{last}\n{line}"),
            _ => entries.push(line.to_owned()),
        }
    }
    let event = |entry: &String| {
        let (_, text) = entry.split_once("] ")?;
        let (message, rest) = text.rsplit_once(" object=\"")?;
        let field = |name: &str| Some(rest.split_once(name)?.1.split_once('"')?.0.to_owned());
        Some(Logged {
            pod: rest.split_once('"')?.0.to_owned(),
            container: field(" container=\"").unwrap_or_default(),
            reason: field(" reason=\"")?,
            message: message.to_owned(),
        })
    };
    entries.iter().filter_map(event).collect()
}

/// Waits until the agent told an event of a container with this in its message, and gives the message.
pub fn wait_event(node: &Node, container: &str, reason: &str, words: &str) -> String {
    wait::until(&format!("an event {reason} of {container} with {words:?}"), PATIENCE, || {
        let told = logged(node);
        let is_it = |event: &&Logged| {
            event.container == container && event.reason == reason && event.message.contains(words)
        };
        told.iter().find(is_it).map(|event| event.message.clone()).ok_or_else(|| format!("{told:?}"))
    })
}

/// How many runs of a probe had a result, by `/metrics/probes`.
pub fn runs(node: &Node, pod: &str, container: &str, kind: &str, result: &str) -> u64 {
    let page = http_get(&format!("127.0.0.1:{}", node.open_ports().0), "/metrics/probes").unwrap();
    let labels = [("pod", pod), ("container", container), ("probe_type", kind), ("result", result)];
    let is_it = |line: &&str| {
        line.starts_with("prober_probe_total{")
            && labels.iter().all(|(name, value)| line.contains(&format!("{name}=\"{value}\"")))
    };
    let line = page.lines().find(is_it);
    line.and_then(|line| line.rsplit(' ').next()).and_then(|n| n.parse::<f64>().ok()).map_or(0, |n| n as u64)
}

/// One case in its place.
struct Placed<'a> {
    case: &'a Case,
    pod: String,
    container: String,
    kind: &'static str,
}

/// Runs all handlers on static pods, as liveness and readiness probes in turn, and checks what is made of each.
/// `container` is more YAML for each container. `ready` is called for
/// each pod once its first container runs.
pub fn check(node: &Node, name: &str, container: &str, cases: &[Case], ready: impl Fn(&Pod)) {
    let distinct: BTreeSet<&str> = cases.iter().map(|case| case.name).collect();
    assert_eq!(distinct.len(), cases.len(), "two cases have one name");
    let mut placed = vec![];
    let chunks: Vec<&[Case]> = cases.chunks(2 * POD_SIZE).collect();
    for (number, chunk) in chunks.iter().enumerate() {
        let pod = format!("{name}-{number}");
        let mut spec = "terminationGracePeriodSeconds: 1\ncontainers:\n".to_owned();
        for (number, pair) in chunk.chunks(2).enumerate() {
            spec += &format!("- name: c{number}\n  image: $IMAGE\n  command: [sleep, '1000']\n");
            for (case, (field, kind)) in
                pair.iter().zip([("livenessProbe", "Liveness"), ("readinessProbe", "Readiness")])
            {
                let never = if kind == "Liveness" { 1_000_000 } else { 1 };
                let (Case { handler, .. }, timeout) = (case, case.timeout());
                spec += &format!(
                    "  {field}:\n    {handler}\n    periodSeconds: 1\n    timeoutSeconds: {timeout}\n    failureThreshold: {never}\n"
                );
                placed.push(Placed { case, pod: pod.clone(), container: format!("c{number}"), kind });
            }
            spec += &format!("  {container}\n");
        }
        spec += "volumes: [{name: share, hostPath: {path: $SHARE}}]\n";
        node.apply(&pod, &spec);
    }
    for number in 0..chunks.len() {
        ready(&node.wait_state(&format!("{name}-{number}"), "c0", "running"));
    }
    let mut problems = vec![];
    for place in &placed {
        let Placed { case, pod, container, kind } = place;
        if let Err(problem) = outcome(node, place) {
            problems
                .push(format!("{} ({pod} {container} {kind}): wanted {:?}: {problem}", case.name, case.want));
        }
    }
    assert!(problems.is_empty(), "{} of {} cases:\n{}", problems.len(), cases.len(), problems.join("\n"));
    for (pod, restarts) in (0..chunks.len()).flat_map(|number| {
        let pod = node.pod(&format!("{name}-{number}"));
        pods::containers(&pod)
            .into_iter()
            .map(move |of| (of.name.clone(), of.restart_count))
            .collect::<Vec<_>>()
    }) {
        assert_eq!(restarts, 0, "{pod}: nothing is restarted below the threshold");
    }
}

/// Waits until a probe has shown what it is, and says what is wrong with that.
fn outcome(node: &Node, place: &Placed<'_>) -> Result<(), String> {
    let Placed { case, pod, container, kind } = place;
    let full = format!("{pod}-{NAME}");
    let count = |result: &str| runs(node, &full, container, kind, result);
    let told = |reason: &str, prefix: &str| {
        let prefix = format!("{kind} probe {prefix}");
        let of = logged(node).into_iter().filter(|event| {
            event.pod == format!("default/{full}") && event.container == *container && event.reason == reason
        });
        of.map(|event| event.message).filter(|message| message.starts_with(&prefix)).collect::<Vec<_>>()
    };
    let all_told = || [told("Unhealthy", ""), told("ProbeWarning", "")].concat();
    let says =
        |messages: Vec<String>, words: &str| match messages.iter().all(|message| message.contains(words)) {
            true if !messages.is_empty() => Ok(()),
            _ => Err(format!("events {messages:?}, all: {:?}", all_told())),
        };
    let is_ready = || pods::container(&node.pod(pod), container).ready;
    let good = || (count("successful"), count("failed"));
    // Two runs with the wanted result, or one with another.
    let shown = wait::until(&format!("{} to be probed", case.name), PATIENCE, || {
        let (successful, failed) = good();
        let errors = told("Unhealthy", "errored").len() as u64;
        if successful.max(failed) >= 2 || errors >= 1 {
            Ok((successful > 0, failed > 0, errors > 0))
        } else {
            Err(format!("{successful} successful, {failed} failed"))
        }
    });
    let wanted = match case.want {
        Want::Passes | Want::Warns(_) => (true, false, false),
        Want::Fails(_) => (false, true, false),
        Want::Errs(_) => (false, false, true),
    };
    if shown != wanted {
        return Err(format!("(success, failure, error) is {shown:?}, events {:?}", all_told()));
    }
    if *kind == "Readiness" && is_ready() != wanted.0 {
        return Err(format!("ready is {}", is_ready()));
    }
    match case.want {
        Want::Passes if all_told().is_empty() => Ok(()),
        Want::Passes => Err(format!("events {:?}", all_told())),
        Want::Warns(words) => says(told("ProbeWarning", "warning: "), words),
        Want::Fails(words) => says(told("Unhealthy", "failed: "), words),
        Want::Errs(words) => says(told("Unhealthy", "errored and resulted in unknown state: "), words),
    }
}
