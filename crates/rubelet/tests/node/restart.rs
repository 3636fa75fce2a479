//! When a container runs again: policies, rules, RestartAllContainers, and the back-off of crash loops.

use crate::node::Node;
use crate::pods::{self, last_state, restarts, state};

/// The end of a manifest whose containers write to the shared folder.
const SHARE: &str = "volumes: [{name: share, hostPath: {path: $SHARE}}]";
/// Its place in a container.
const MOUNT: &str = "volumeMounts: [{name: share, mountPath: /share}]";

#[test]
fn exit_codes_and_policies_decide_what_becomes_of_a_pod() {
    let node = Node::start();
    for policy in ["Always", "OnFailure", "Never"] {
        for code in [0, 3] {
            let name = format!("{}-{code}", policy.to_lowercase());
            node.apply(
                &name,
                &format!("restartPolicy: {policy}\ncontainers:\n- {{name: c, image: $IMAGE, command: [sh, -c, exit {code}]}}"),
            );
        }
    }
    let check_ended = |name: &str, phase: &str, word: &str| {
        let pod = node.wait_phase(name, phase);
        assert_eq!((state(&pod, "c").as_str(), restarts(&pod, "c")), (word, 0), "{name}");
        let end = pods::ended(&pod, "c");
        assert!(
            end.started_at.is_some() && end.finished_at.is_some() && end.container_id.is_some(),
            "{end:?}"
        );
    };
    check_ended("never-0", "Succeeded", "terminated Completed 0");
    check_ended("never-3", "Failed", "terminated Error 3");
    check_ended("onfailure-0", "Succeeded", "terminated Completed 0");
    for (name, last) in [
        ("always-0", "terminated Completed 0"),
        ("always-3", "terminated Error 3"),
        ("onfailure-3", "terminated Error 3"),
    ] {
        let pod = node.wait_state(name, "c", "waiting CrashLoopBackOff");
        assert_eq!((last_state(&pod, "c").as_str(), restarts(&pod, "c")), (last, 1), "{name}");
        assert_eq!(pods::phase(&pod), "Running", "{name}");
    }
}

#[test]
fn one_container_that_failed_does_not_fail_the_pod_while_another_runs() {
    let node = Node::start();
    node.apply(
        "two",
        &format!(
            "
restartPolicy: Never
containers:
- {{name: bad, image: $IMAGE, command: [sh, -c, 'exit 4']}}
- {{name: good, image: $IMAGE, command: [sh, -c, 'until [ -e /share/go ]; do sleep 0.1; done'], {MOUNT}}}
{SHARE}"
        ),
    );
    let pod = node.wait_state("two", "bad", "terminated Error 4");
    assert_eq!(pods::phase(&node.wait_state("two", "good", "running")), "Running");
    assert!(!pods::condition(&pod, "Ready"));
    std::fs::write(node.share("go"), "").unwrap();
    let pod = node.wait_phase("two", "Failed");
    assert_eq!(state(&pod, "good"), "terminated Completed 0");
}

#[test]
fn a_crash_loop_restarts_at_once_and_then_after_ten_seconds() {
    let node = Node::start();
    node.apply(
        "crash",
        &format!(
            "containers:\n- {{name: main, image: $IMAGE, command: [sh, -c, 'cut -d\" \" -f1 /proc/uptime >> /share/starts; exit 1'], {MOUNT}}}\n{SHARE}"
        ),
    );
    let pod = node.wait_state("crash", "main", "waiting CrashLoopBackOff");
    let uid = pods::uid(&pod);
    let message = |delay: &str| {
        format!("back-off {delay} restarting failed container=main pod=crash-node-1_default({uid})")
    };
    let told = pods::waiting_message(&pod, "main");
    assert!(told.starts_with(&message("10s")), "{told}");
    assert_eq!(node.lines("starts").len(), 2);
    node.wait_agent_log(&[
        "Back-off restarting failed container main in pod crash-node-1_default",
        "BackOff",
    ]);
    let pod = node.wait_pod("crash", "to back off for longer", |pod| {
        state(pod, "main") == "waiting CrashLoopBackOff" && restarts(pod, "main") == 2
    });
    let told = pods::waiting_message(&pod, "main");
    assert!(told.starts_with(&message("20s")), "{told}");
    let starts: Vec<f64> = node.lines("starts").iter().map(|line| line.parse().unwrap()).collect();
    let (first, second) = (starts[1] - starts[0], starts[2] - starts[1]);
    assert!(first < 9.0, "the first restart is immediate, but came after {first} s");
    assert!((9.9..25.0).contains(&second), "the second restart waits 10 s, but came after {second} s");
}

#[test]
fn containers_may_have_policies_and_rules_of_their_own() {
    let node = Node::start();
    node.apply(
        "own",
        &format!(
            "
restartPolicy: Always
containers:
- {{name: once, image: $IMAGE, restartPolicy: Never, command: [sh, -c, 'exit 5']}}
- {{name: good-once, image: $IMAGE, restartPolicy: OnFailure, command: ['true']}}
- name: rules
  image: $IMAGE
  restartPolicy: Never
  restartPolicyRules: [{{action: Restart, exitCodes: {{operator: In, values: [42, 43]}}}}]
  command: [sh, -c, 'echo x >> /share/rules; [ $(wc -l < /share/rules) -ge 2 ] && exit 1; exit 42']
  {MOUNT}
- {{name: stays, image: $IMAGE, command: [sleep, '1000']}}
{SHARE}"
        ),
    );
    let pod = node.wait_pod("own", "to have settled", |pod| {
        state(pod, "rules") == "terminated Error 1" && state(pod, "stays") == "running"
    });
    assert_eq!((restarts(&pod, "rules"), last_state(&pod, "rules").as_str()), (1, "terminated Error 42"));
    assert_eq!((state(&pod, "once").as_str(), restarts(&pod, "once")), ("terminated Error 5", 0));
    assert_eq!(
        (state(&pod, "good-once").as_str(), restarts(&pod, "good-once")),
        ("terminated Completed 0", 0)
    );
    assert_eq!(pods::phase(&pod), "Running");
}

#[test]
fn restart_all_containers_runs_the_whole_pod_again() {
    let node = Node::start();
    node.apply(
        "all",
        &format!(
            "
restartPolicy: Never
initContainers:
- {{name: init, image: $IMAGE, command: [sh, -c, 'echo init >> /share/all'], {MOUNT}}}
containers:
- name: trigger
  image: $IMAGE
  restartPolicy: Never
  restartPolicyRules: [{{action: RestartAllContainers, exitCodes: {{operator: In, values: [88]}}}}]
  command: [sh, -c, 'if [ -e /share/again ]; then exec sleep 1000; fi; touch /share/again; until grep -q other /share/all; do sleep 0.1; done; exit 88']
  {MOUNT}
- {{name: other, image: $IMAGE, command: [sh, -c, 'echo other >> /share/all; exec sleep 1000'], {MOUNT}}}
{SHARE}"
        ),
    );
    let pod = node.wait_pod("all", "to have been restarted as a whole", |pod| {
        restarts(pod, "other") == 1 && pods::ready(pod)
    });
    node.wait_lines("all", &["init", "other", "init", "other"]);
    assert_eq!((restarts(&pod, "trigger"), restarts(&pod, "init")), (1, 1));
    assert_eq!(last_state(&pod, "other"), "terminated RestartingAllContainers 137");
    assert_eq!(pods::uid(&pod), pods::uid(&node.pod("all")));
}

#[test]
fn a_container_that_takes_too_much_memory_is_named_so() {
    let node = Node::start();
    node.apply(
        "greedy",
        "
restartPolicy: Never
containers:
- {name: c, image: $IMAGE, command: [tail, /dev/zero], resources: {limits: {memory: 16Mi}}}
- {name: modest, image: $IMAGE, command: ['true'], resources: {limits: {memory: 16Mi}}}
",
    );
    let pod = node.wait_phase("greedy", "Failed");
    assert_eq!(state(&pod, "c"), "terminated OOMKilled 137");
    assert_eq!(state(&pod, "modest"), "terminated Completed 0");
    assert_eq!(pods::status(&pod).qos_class.as_deref(), Some("Burstable"));
}
