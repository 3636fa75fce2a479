//! Pods in all conditions.

use super::*;

/// A pod of one container called `c` and the init containers and sidecars named.
fn pod(init: &[&str], sidecars: &[&str], status: Value) -> Value {
    let mut before: Vec<Value> =
        sidecars.iter().map(|n| json!({"name": n, "restartPolicy": "Always"})).collect();
    before.extend(init.iter().map(|name| json!({"name": name})));
    json!({"spec": {"containers": [{"name": "c"}], "initContainers": before, "nodeName": "n"}, "status": status})
}

/// READY, STATUS and RESTARTS.
fn check_status(pod: Value, expected: &str) {
    check("pods", pod, &format!("x | {expected} | 5m | <none> | n | <none> | <none>"));
}

fn container(name: &str, ready: bool, restarts: i64, state: Value) -> Value {
    json!({"name": name, "ready": ready, "started": ready, "restartCount": restarts, "state": state, "lastState": {}})
}

fn ended(code: i64, reason: &str) -> Value {
    json!({"terminated": {"exitCode": code, "reason": reason, "finishedAt": "2026-01-01T23:58:00Z"}})
}

fn waiting(reason: &str) -> Value {
    json!({"waiting": {"reason": reason}})
}

fn running() -> Value {
    json!({"running": {"startedAt": "2026-01-01T23:56:00Z"}})
}

fn restarted(name: &str, restarts: i64, last: &str, state: Value) -> Value {
    let mut status = container(name, true, restarts, state);
    status["lastState"] = json!({"terminated": {"exitCode": 1, "finishedAt": last}});
    status
}

#[test]
fn columns() {
    check_columns(
        "pods",
        "Name | Ready | Status | Restarts | Age | +IP | +Node | +Nominated Node | +Readiness Gates",
    );
}

#[test]
fn containers_say_how_the_pod_is() {
    let with =
        |phase: &str, statuses: Value| pod(&[], &[], json!({"phase": phase, "containerStatuses": statuses}));
    check_status(with("Pending", json!([])), "0/1 | Pending | 0");
    check_status(
        with("Pending", json!([container("c", false, 0, waiting("ContainerCreating"))])),
        "0/1 | ContainerCreating | 0",
    );
    check_status(with("Running", json!([container("c", true, 0, running())])), "1/1 | Running | 0");
    check_status(with("Running", json!([container("c", false, 0, running())])), "0/1 | Running | 0");
    check_status(
        with("Running", json!([restarted("c", 4, "2026-01-01T23:57:30Z", waiting("CrashLoopBackOff"))])),
        "0/1 | CrashLoopBackOff | 4 (2m30s ago)",
    );
    check_status(with("Running", json!([container("c", true, 3, running())])), "1/1 | Running | 3");
    check_status(
        with("Succeeded", json!([container("c", false, 0, ended(0, "Completed"))])),
        "0/1 | Completed | 0",
    );
    check_status(
        with("Failed", json!([container("c", false, 0, ended(137, "OOMKilled"))])),
        "0/1 | OOMKilled | 0",
    );
    check_status(with("Failed", json!([container("c", false, 0, ended(3, ""))])), "0/1 | ExitCode:3 | 0");
    let killed = json!({"terminated": {"exitCode": 137, "signal": 9}});
    check_status(with("Failed", json!([container("c", false, 0, killed)])), "0/1 | Signal:9 | 0");
}

#[test]
fn one_that_ended_well_says_nothing_of_the_others() {
    let two = |first: Value, second: Value, ready: &str| {
        let conditions = json!([{"type": "Ready", "status": ready}]);
        pod(
            &[],
            &[],
            json!({"phase": "Running", "containerStatuses": [first, second], "conditions": conditions}),
        )
    };
    let done = || container("c", false, 0, ended(0, "Completed"));
    check_status(two(done(), container("d", true, 0, running()), "True"), "1/1 | Running | 0");
    check_status(two(done(), container("d", true, 0, running()), "False"), "1/1 | NotReady | 0");
    check_status(two(done(), container("d", false, 0, ended(1, "Error")), "False"), "0/1 | Error | 0");
    check_status(two(done(), container("d", false, 0, running()), "False"), "0/1 | Completed | 0");
    check_status(two(container("d", false, 0, ended(1, "Error")), done(), "False"), "0/1 | Error | 0");
}

#[test]
fn init_containers_come_first() {
    let with = |statuses: Value| {
        pod(&["a", "b"], &[], json!({"phase": "Pending", "initContainerStatuses": statuses}))
    };
    let done = || container("a", true, 0, ended(0, "Completed"));
    check_status(
        with(json!([
            container("a", false, 0, running()),
            container("b", false, 0, waiting("PodInitializing"))
        ])),
        "0/1 | Init:0/2 | 0",
    );
    check_status(
        with(json!([done(), container("b", false, 0, waiting("PodInitializing"))])),
        "0/1 | Init:1/2 | 0",
    );
    check_status(
        with(json!([container("a", false, 0, waiting("ErrImagePull"))])),
        "0/1 | Init:ErrImagePull | 0",
    );
    check_status(
        with(json!([done(), restarted("b", 2, "2026-01-01T23:59:00Z", waiting("CrashLoopBackOff"))])),
        "0/1 | Init:CrashLoopBackOff | 2 (60s ago)",
    );
    check_status(with(json!([container("a", false, 1, ended(2, "Error"))])), "0/1 | Init:Error | 1");
    check_status(with(json!([container("a", false, 0, ended(2, ""))])), "0/1 | Init:ExitCode:2 | 0");
    let killed = json!({"terminated": {"exitCode": 143, "signal": 15}});
    check_status(with(json!([container("a", false, 0, killed)])), "0/1 | Init:Signal:15 | 0");
}

#[test]
fn what_init_containers_restarted_is_forgotten_when_they_are_done() {
    let status = json!({
        "phase": "Running",
        "initContainerStatuses": [restarted("a", 7, "2026-01-01T23:59:00Z", ended(0, "Completed"))],
        "containerStatuses": [container("c", true, 0, running())],
    });
    check_status(pod(&["a"], &[], status), "1/1 | Running | 0");
}

#[test]
fn sidecars_count_as_containers() {
    let with = |sidecar: Value, rest: Value| {
        let mut status = json!({"phase": "Running", "initContainerStatuses": [sidecar]});
        status.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        pod(&[], &["s"], status)
    };
    let serving = || json!({"containerStatuses": [container("c", true, 1, running())]});
    check_status(with(container("s", true, 0, running()), serving()), "2/2 | Running | 1");
    check_status(
        with(restarted("s", 2, "2026-01-01T23:00:00Z", running()), serving()),
        "2/2 | Running | 3 (60m ago)",
    );
    check_status(with(container("s", false, 0, running()), json!({})), "0/2 | Init:0/1 | 0");
    // Ended while the pod runs: what the pod once was says more than that it is not initialized.
    let mut rest = serving();
    rest["conditions"] = json!([{"type": "Initialized", "status": "True"}]);
    check_status(with(container("s", false, 0, ended(1, "Error")), rest), "1/2 | Init:Error | 1");
}

#[test]
fn the_pod_itself_can_say_more() {
    let bare = |status: Value| pod(&[], &[], status);
    check_status(bare(json!({"phase": "Failed", "reason": "Evicted"})), "0/1 | Evicted | 0");
    check_status(
        bare(json!({
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}],
        })),
        "0/1 | SchedulingGated | 0",
    );
    let deleted = |status: Value| {
        let mut pod = bare(status);
        pod["metadata"] = json!({"deletionTimestamp": "2026-01-01T23:59:00Z"});
        pod
    };
    check_status(deleted(json!({"phase": "Running"})), "0/1 | Terminating | 0");
    check_status(deleted(json!({"phase": "Failed"})), "0/1 | Failed | 0");
    check_status(deleted(json!({"phase": "Running", "reason": "NodeLost"})), "0/1 | Unknown | 0");
}

#[test]
fn wide_columns() {
    let mut pod = pod(
        &[],
        &[],
        json!({
            "phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}],
            "nominatedNodeName": "m", "conditions": [{"type": "a", "status": "True"}, {"type": "b", "status": "False"}],
        }),
    );
    pod["spec"]["readinessGates"] =
        json!([{"conditionType": "a"}, {"conditionType": "b"}, {"conditionType": "c"}]);
    check("pods", pod.clone(), "x | 0/1 | Running | 0 | 5m | 10.0.0.7 | n | m | 1/3");
    pod["status"]["podIP"] = json!("");
    pod["status"]["podIPs"] = json!([{"ip": "fd00::7"}]);
    pod["spec"]["nodeName"] = json!("");
    check("pods", pod, "x | 0/1 | Running | 0 | 5m | fd00::7 | <none> | m | 1/3");
}
