//! What a PodList says, for people.
//!
//! Owns the wording of tables and progress lines and where a container's log file is. Never fetches anything. Called
//! while `make run` waits and shows.

use std::fs;
use std::path::Path;

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
    let of_sample = |pod: &&Value| text(&pod["metadata"]["name"], "").starts_with(&format!("{sample}-"));
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
    told.chain([own]).find(|reason| !reason.is_empty())
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

/// A table of the pods.
pub(crate) fn table(list: &Value) -> String {
    let mut table = format!("{:<40} {:<10} {:<6} {:<9} {}\n", "POD", "PHASE", "READY", "RESTARTS", "IP");
    for pod in pods(list) {
        let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let restarts: u64 = statuses.iter().filter_map(|status| status["restartCount"].as_u64()).sum();
        table += &format!(
            "{:<40} {:<10} {:<6} {:<9} {}\n",
            name(pod),
            text(&pod["status"]["phase"], "Pending"),
            if ready(pod) { "yes" } else { "no" },
            restarts,
            text(&pod["status"]["podIP"], "-"),
        );
    }
    table
}

/// The first lines of each container's current log, as `[container] line`.
pub(crate) fn log_lines(pod_logs: &Path, pod: &Value, count: usize) -> Vec<String> {
    let metadata = &pod["metadata"];
    // A static pod's folder is named with the hash of its manifest, which it carries as an annotation.
    let hash = text(&metadata["annotations"]["kubernetes.io/config.hash"], "");
    let uids = [hash, text(&metadata["uid"], "")];
    let folders = uids.iter().filter(|uid| !uid.is_empty()).map(|uid| {
        let (namespace, name) = (text(&metadata["namespace"], "default"), text(&metadata["name"], ""));
        pod_logs.join(format!("{namespace}_{name}_{uid}"))
    });
    let Some(folder) = folders.into_iter().find(|folder| folder.is_dir()) else { return Vec::new() };
    let containers = pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
    let mut lines = Vec::new();
    for container in containers.iter().map(|container| text(&container["name"], "")) {
        let Some(file) = newest_log(&folder.join(container)) else { continue };
        let log = fs::read_to_string(file).unwrap_or_default();
        lines.extend(log.lines().take(count).map(|line| format!("[{container}] {}", log_message(line))));
    }
    lines
}

/// The log of the newest attempt: `0.log`, `1.log` and so on.
fn newest_log(folder: &Path) -> Option<std::path::PathBuf> {
    let logs = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let attempt = |path: &Path| path.file_name()?.to_str()?.strip_suffix(".log")?.parse::<u32>().ok();
    let (_, newest) = logs.filter_map(|path| Some((attempt(&path)?, path))).max()?;
    Some(newest)
}

/// What the program wrote, without time, stream and tag of the CRI log format.
fn log_message(line: &str) -> &str {
    line.splitn(4, ' ').nth(3).unwrap_or(line)
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
        let named = |mut pod: Value| {
            pod["metadata"]["name"] = "hello-node".into();
            json!({"items": [pod]})
        };
        assert_eq!(sample_ready(&named(list["items"][0].clone()), "hello"), done);
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
        other["metadata"]["name"] = "mine-node".into();
        let mut sample = pod("Running", "True", json!({}));
        sample["metadata"]["name"] = "hello-node".into();
        let list = json!({"items": [other, sample]});
        assert!(sample_ready(&list, "hello"), "another pod that is not well does not matter");
    }

    #[test]
    fn the_table_shows_address_and_restarts() {
        let table = table(&json!({"items": [pod("Running", "True", json!({"running": {}}))]}));
        let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row, ["default/hello", "Running", "yes", "2", "10.192.0.2"]);
    }

    #[test]
    fn logs_are_those_of_the_newest_attempt() {
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("default_hello_h1/main");
        fs::create_dir_all(&logs).unwrap();
        for (file, line) in [("2.log", "old"), ("10.log", "new"), ("notes", "x")] {
            fs::write(logs.join(file), format!("2026-01-01T00:00:00Z stdout F {line} line\n")).unwrap();
        }
        let pod = pod("Running", "True", json!({"running": {}}));
        assert_eq!(log_lines(folder.path(), &pod, 3), ["[main] new line"]);
    }
}
