//! What a PodList says, for people.
//!
//! Owns the wording of progress lines. Never fetches anything. Called while `make run` waits.

use serde_json::Value;

/// The pods of a list.
pub(crate) fn pods(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, otherwise: &'a str) -> &'a str {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or(otherwise)
}

fn name(pod: &Value) -> String {
    format!("{}/{}", text(&pod["metadata"]["namespace"], "default"), text(&pod["metadata"]["name"], "?"))
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Whether the pod of a manifest called `sample` runs and is ready. Other pods, which are the user's, do not count.
pub(crate) fn sample_ready(list: &Value, sample: &str) -> bool {
    let of_sample = |pod: &&Value| text(&pod["metadata"]["name"], "") == sample;
    pods(list).find(of_sample).is_some_and(|pod| pod["status"]["phase"] == "Running" && ready(pod))
}

/// Why a container of the pod waits or has failed, the first one that says so.
fn reason(pod: &Value) -> Option<String> {
    let of = |key: &str| pod["status"][key].as_array().cloned().unwrap_or_default();
    let statuses = of("initContainerStatuses").into_iter().chain(of("containerStatuses"));
    let told = statuses.filter_map(|status| {
        let state = ["waiting", "terminated"].iter().find_map(|kind| status["state"].get(*kind))?;
        if state["exitCode"] == 0 {
            return None;
        }
        let reason = text(&state["reason"], "").to_owned();
        Some(match text(&state["message"], "") {
            "" => reason,
            message => format!("{reason}: {message}"),
        })
    });
    let own = text(&pod["status"]["reason"], "").to_owned();
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let unscheduled = conditions.iter().find(|c| c["type"] == "PodScheduled" && c["status"] == "False");
    let unscheduled = unscheduled.map(|c| text(&c["message"], "").to_owned()).unwrap_or_default();
    told.chain([own, unscheduled]).find(|reason| !reason.is_empty())
}

/// One line on how far the pods are.
pub(crate) fn summary(list: &Value) -> String {
    let lines = pods(list).map(|pod| {
        let reason = reason(pod).map(|reason| format!(" ({reason})")).unwrap_or_default();
        let phase = text(&pod["status"]["phase"], "Pending");
        let not_ready = if phase == "Running" && !ready(pod) { ", not ready" } else { "" };
        format!("{}: {phase}{not_ready}{reason}", name(pod))
    });
    lines.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(phase: &str, ready: &str, state: Value) -> Value {
        json!({
            "metadata": {"name": "hello", "namespace": "default", "uid": "u1",
                         "annotations": {"kubernetes.io/config.hash": "h1"}},
            "spec": {"containers": [{"name": "main"}]},
            "status": {
                "phase": phase,
                "podIP": "10.192.0.2",
                "conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": [{"name": "main", "restartCount": 2, "state": state}],
            },
        })
    }

    fn check(pod: Value, done: bool, line: &str) {
        let list = json!({"items": [pod]});
        assert_eq!(sample_ready(&list, "hello"), done);
        assert_eq!(summary(&list), line);
    }

    #[test]
    fn only_running_and_ready_is_done() {
        check(pod("Running", "True", json!({"running": {}})), true, "default/hello: Running");
        check(pod("Running", "False", json!({"running": {}})), false, "default/hello: Running, not ready");
        let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
        check(
            pod("Pending", "False", waiting),
            false,
            "default/hello: Pending (ImagePullBackOff: no such image)",
        );
        let done = json!({"terminated": {"reason": "Completed", "exitCode": 0}});
        check(pod("Pending", "False", done), false, "default/hello: Pending");
        let failed = json!({"terminated": {"reason": "Error", "exitCode": 1}});
        check(pod("Pending", "False", failed), false, "default/hello: Pending (Error)");
        assert!(!sample_ready(&json!({"items": []}), "hello"));
        assert!(!sample_ready(&json!({"items": null}), "hello"));
        let mut other = pod("Pending", "False", json!({}));
        other["metadata"]["name"] = "mine".into();
        let sample = pod("Running", "True", json!({}));
        let list = json!({"items": [other, sample]});
        assert!(sample_ready(&list, "hello"), "another pod that is not well does not matter");
    }
}
