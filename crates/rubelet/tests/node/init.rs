//! Init containers and sidecars: the order of starts and stops, and what a failing one does.

use crate::node::Node;
use crate::pods::{self, condition, restarts, state};

/// The end of a manifest whose containers write to the shared folder.
const SHARE: &str = "volumes: [{name: share, hostPath: {path: $SHARE}}]";
/// Its place in a container.
const MOUNT: &str = "volumeMounts: [{name: share, mountPath: /share}]";

#[test]
fn init_containers_run_one_by_one_before_the_rest() {
    let node = Node::start();
    node.apply(
        "order",
        &format!(
            "
initContainers:
- {{name: first, image: $IMAGE, command: [sh, -c, 'echo first begins >> /share/order; sleep 1; echo first ends >> /share/order'], {MOUNT}}}
- name: side
  image: $IMAGE
  restartPolicy: Always
  command: [sh, -c, 'echo side begins >> /share/order; exec sleep 1000']
  lifecycle: {{postStart: {{exec: {{command: [sh, -c, 'sleep 1; echo side hook ends >> /share/order']}}}}}}
  {MOUNT}
- {{name: second, image: $IMAGE, command: [sh, -c, 'echo second begins >> /share/order; sleep 1; echo second ends >> /share/order'], {MOUNT}}}
containers:
- {{name: zebra, image: $IMAGE, command: [sh, -c, 'echo zebra begins >> /share/order; exec sleep 1000'], {MOUNT}}}
- {{name: ant, image: $IMAGE, command: [sh, -c, 'echo ant begins >> /share/order; exec sleep 1000'], {MOUNT}}}
{SHARE}"
        ),
    );
    let early = node.wait_state("order", "first", "running");
    assert!(!condition(&early, "Initialized") && pods::phase(&early) == "Pending");
    assert_eq!(state(&early, "ant"), "waiting PodInitializing");
    let pod = node.wait_ready("order");
    for name in ["ant", "zebra"] {
        node.wait_line("order", &format!("{name} begins"));
    }
    let lines = node.lines("order");
    assert_eq!(
        lines[..6],
        ["first begins", "first ends", "side begins", "side hook ends", "second begins", "second ends"],
    );
    // Apps are started in the order of the spec; what they write may overtake each other.
    let started = |name: &str| {
        let state = pods::container(&pod, name).state.unwrap();
        state.running.unwrap().started_at.unwrap().0
    };
    assert!(started("zebra") <= started("ant"));
    assert!(condition(&pod, "Initialized"));
    for name in ["first", "second"] {
        assert_eq!(state(&pod, name), "terminated Completed 0");
        assert!(pods::container(&pod, name).ready, "a completed init container counts as ready");
    }
    let names = |list: Option<Vec<k8s_openapi::api::core::v1::ContainerStatus>>| -> Vec<String> {
        list.unwrap_or_default().into_iter().map(|status| status.name).collect()
    };
    let status = pods::status(&pod);
    assert_eq!(
        names(status.init_container_statuses),
        ["first", "side", "second"],
        "in the order of the spec"
    );
    assert_eq!(names(status.container_statuses), ["ant", "zebra"], "sorted by name");
}

#[test]
fn a_failing_init_container_counts_as_the_policy_says() {
    let node = Node::start();
    let pod = |policy: &str, own: &str, name: &str| {
        format!(
            "
restartPolicy: {policy}
initContainers:
- {{name: init, image: $IMAGE, {own} command: [sh, -c, 'echo try >> /share/{name}; [ $(wc -l < /share/{name}) -ge 2 ]'], {MOUNT}}}
containers:
- {{name: main, image: $IMAGE, command: [sh, -c, 'echo main >> /share/{name}'], {MOUNT}}}
{SHARE}"
        )
    };
    node.apply("never", &pod("Never", "", "never"));
    node.apply("on-failure", &pod("OnFailure", "", "on-failure"));
    node.apply("own", &pod("Never", "restartPolicy: OnFailure,", "own"));
    node.apply("strict", &pod("OnFailure", "restartPolicy: Never,", "strict"));
    for name in ["never", "strict"] {
        let failed = node.wait_phase(name, "Failed");
        assert_eq!(state(&failed, "init"), "terminated Error 1");
        assert_eq!(restarts(&failed, "init"), 0);
        assert!(!condition(&failed, "Initialized"));
        assert_eq!(node.lines(name), ["try"]);
    }
    for name in ["on-failure", "own"] {
        let done = node.wait_phase(name, "Succeeded");
        assert_eq!(state(&done, "init"), "terminated Completed 0");
        assert_eq!((restarts(&done, "init"), restarts(&done, "main")), (1, 0));
        assert_eq!(node.lines(name), ["try", "try", "main"]);
    }
}

#[test]
fn an_init_container_that_keeps_failing_backs_off() {
    let node = Node::start();
    node.apply(
        "loops",
        "
initContainers: [{name: init, image: $IMAGE, command: ['false']}]
containers: [{name: main, image: $IMAGE, command: ['true']}]",
    );
    let pod = node.wait_state("loops", "init", "waiting CrashLoopBackOff");
    assert_eq!(pods::last_state(&pod, "init"), "terminated Error 1");
    assert_eq!(pods::phase(&pod), "Pending");
    assert_eq!(state(&pod, "main"), "waiting PodInitializing");
    assert!(
        pods::waiting_message(&pod, "init")
            .contains("restarting failed container=init pod=loops-node-1_default(")
    );
}

#[test]
fn a_sidecar_is_restarted_and_does_not_keep_a_finished_pod() {
    let node = Node::start();
    node.apply(
        "job",
        &format!(
            "
restartPolicy: Never
initContainers:
- name: side
  image: $IMAGE
  restartPolicy: Always
  command: [sh, -c, 'trap \"exit 0\" TERM; echo side >> /share/job; [ $(wc -l < /share/job) -ge 2 ] || exit 7; echo again >> /share/job; while true; do sleep 0.1; done']
  {MOUNT}
containers:
- {{name: main, image: $IMAGE, command: [sh, -c, 'until [ -e /share/go ]; do sleep 0.1; done'], {MOUNT}}}
{SHARE}"
        ),
    );
    let running = node.wait_pod("job", "to have restarted its sidecar", |pod| {
        restarts(pod, "side") == 1 && state(pod, "side") == "running" && state(pod, "main") == "running"
    });
    assert_eq!(pods::last_state(&running, "side"), "terminated Error 7");
    assert_eq!(restarts(&running, "main"), 0);
    node.wait_line("job", "again");
    std::fs::write(node.share("go"), "").unwrap();
    let done = node.wait_phase("job", "Succeeded");
    assert_eq!(state(&done, "main"), "terminated Completed 0");
    assert_eq!(state(&done, "side"), "terminated Completed 0");
    assert_eq!(restarts(&done, "side"), 1);
}

#[test]
fn sidecars_end_after_the_apps_and_in_reverse_order() {
    let node = Node::start();
    let container = |name: &str, more: &str| {
        format!(
            "- {{name: {name}, image: $IMAGE, {more} command: [sh, -c, 'trap \"echo {name} told >> /share/end; sleep 0.5; \
             echo {name} ends >> /share/end; exit 0\" TERM; echo {name} >> /share/up; while true; do sleep 0.05; done'], {MOUNT}}}\n"
        )
    };
    node.apply(
        "ordered",
        &format!(
            "terminationGracePeriodSeconds: 20\ninitContainers:\n{}{}containers:\n{}{SHARE}",
            container("outer", "restartPolicy: Always,"),
            container("inner", "restartPolicy: Always,"),
            container("main", ""),
        ),
    );
    for name in ["outer", "inner", "main"] {
        node.wait_line("up", name);
    }
    node.remove("ordered");
    node.wait_gone("ordered");
    assert_eq!(
        node.lines("end"),
        ["main told", "main ends", "inner told", "inner ends", "outer told", "outer ends"]
    );
}

#[test]
fn a_pod_that_fails_in_its_init_phase_takes_its_sidecar_along() {
    let node = Node::start();
    node.apply(
        "fails",
        "
restartPolicy: Never
terminationGracePeriodSeconds: 10
initContainers:
- {name: side, image: $IMAGE, restartPolicy: Always, command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.05; done']}
- {name: init, image: $IMAGE, command: [sh, -c, 'exit 9']}
containers: [{name: main, image: $IMAGE, command: ['true']}]
",
    );
    let pod = node.wait_phase("fails", "Failed");
    assert_eq!(state(&pod, "init"), "terminated Error 9");
    assert_eq!(state(&pod, "side"), "terminated Completed 0");
    assert!(pods::container_id(&pod, "main").is_empty());
}
