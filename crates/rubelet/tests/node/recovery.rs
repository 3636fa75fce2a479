//! Rarer ends of agents and machines: in the middle of a restart of everything, with damaged records, with manifests
//! edited meanwhile, and a power cut.

use std::fs;
use std::time::Duration;

use crate::node::Node;
use crate::pods::{self, container_id, restarts, state};
use crate::wait::{self, PATIENCE};

/// The end of a manifest whose containers write to the shared folder.
const SHARE: &str = "volumes: [{name: share, hostPath: {path: $SHARE}}]";
/// Its place in a container.
const MOUNT: &str = "volumeMounts: [{name: share, mountPath: /share}]";
/// A pod at rest.
const REST: &str = "
terminationGracePeriodSeconds: 1
containers: [{name: c, image: $IMAGE, command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.2; done']}]
";

#[test]
fn a_restart_of_everything_is_carried_on_by_the_next_agent() {
    let mut node = Node::start();
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
  command: [sh, -c, 'if [ -e /share/again ]; then exec sleep 1000; fi; until [ -e /share/go ]; do sleep 0.05; done; touch /share/again; exit 88']
  {MOUNT}
- {{name: other, image: $IMAGE, command: [sh, -c, 'echo other >> /share/all; exec sleep 1000'], {MOUNT}}}
{SHARE}"
        ),
    );
    node.wait_ready("all");
    fs::write(node.share("go"), "").unwrap();
    wait::until("the trigger", PATIENCE, || {
        if node.share("again").exists() { Ok(()) } else { Err(String::new()) }
    });
    for millis in [0, 300, 700, 1200, 1800, 2400] {
        wait::pause(Duration::from_millis(millis / 3));
        node.kill_agent();
        node.launch_agent();
    }
    let pod = node.wait_pod("all", "to run again as a whole", |pod| {
        ["trigger", "other"].iter().all(|name| restarts(pod, name) == 1 && state(pod, name) == "running")
    });
    assert!(pods::ready(&node.wait_ready("all")));
    assert_eq!(restarts(&pod, "init"), 1);
    node.wait_lines("all", &["init", "other", "init", "other"]);
}

#[test]
fn damaged_records_cost_no_container() {
    let mut node = Node::start();
    for name in ["torn", "empty", "noise", "whole"] {
        node.apply(name, REST);
    }
    let before: Vec<_> = ["torn", "empty", "noise", "whole"].map(|name| node.wait_ready(name)).into();
    node.kill_agent();
    let record =
        |index: usize| node.root().join("rubelet/pods").join(format!("{}.json", pods::uid(&before[index])));
    let torn = fs::read(record(0)).unwrap();
    fs::write(record(0), &torn[..torn.len() / 2]).unwrap();
    fs::write(record(1), "").unwrap();
    fs::write(record(2), [0xff; 100]).unwrap();
    node.start_agent();
    node.wait_agent_log(&["a damaged journal record"]);
    for (index, name) in ["torn", "empty", "noise", "whole"].iter().enumerate() {
        let pod = node.wait_ready(name);
        assert_eq!(
            (container_id(&pod, "c"), restarts(&pod, "c")),
            (container_id(&before[index], "c"), 0),
            "{name}"
        );
    }
}

#[test]
fn a_manifest_edited_while_no_agent_runs_still_means_one_after_the_other() {
    let mut node = Node::start();
    let spec = |name: &str| {
        format!(
            "
terminationGracePeriodSeconds: 20
containers:
- name: main
  image: $IMAGE
  command: [sh, -c, 'trap \"sleep 1; echo {name} ends >> /share/log; exit 0\" TERM; echo {name} begins >> /share/log; while true; do sleep 0.05; done']
  {MOUNT}
{SHARE}"
        )
    };
    node.apply("edited", &spec("old"));
    node.wait_line("log", "old begins");
    node.kill_agent();
    node.apply("edited", &spec("new"));
    node.start_agent();
    node.wait_line("log", "new begins");
    // A pod that no source knows any more gets one second, and two are the least a runtime is given.
    let lines = node.lines("log");
    assert_eq!(lines, ["old begins", "old ends", "new begins"]);
    node.wait_ready("edited");
    wait::until("only the new one to be left", PATIENCE, || match node.runtime.containers().len() {
        2 => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn after_a_power_cut_everything_runs_again_but_what_was_done() {
    let mut node = Node::start();
    node.apply(
        "service",
        &format!(
            "
initContainers: [{{name: init, image: $IMAGE, command: [sh, -c, 'echo init >> /share/service'], {MOUNT}}}]
containers: [{{name: c, image: $IMAGE, command: [sh, -c, 'echo main >> /share/service; exec sleep 1000'], {MOUNT}}}]
{SHARE}"
        ),
    );
    let once = |code: u32| {
        format!(
            "restartPolicy: Never\ncontainers: [{{name: c, image: $IMAGE, command: [sh, -c, 'echo ran >> /share/once-{code}; exit {code}'], {MOUNT}}}]\n{SHARE}"
        )
    };
    node.apply("once-0", &once(0));
    node.apply("once-5", &once(5));
    node.apply(
        "interrupted",
        "restartPolicy: Never\ncontainers: [{name: c, image: $IMAGE, command: [sleep, '1000']}]",
    );
    let service = node.wait_ready("service");
    node.wait_ready("interrupted");
    node.wait_phase("once-0", "Succeeded");
    node.wait_phase("once-5", "Failed");
    node.wait_line("service", "main");

    node.kill_agent();
    node.runtime.power_cut();
    node.runtime.restart();
    node.start_agent();
    let after = node.wait_pod("service", "to run again", |pod| pods::ready(pod) && restarts(pod, "c") == 1);
    assert_eq!(pods::uid(&after), pods::uid(&service));
    node.wait_line("service", "main");
    node.wait_lines("service", &["init", "main", "init", "main"]);
    // What runs once and was cut off has failed; it is not run a second time.
    let interrupted = node.wait_phase("interrupted", "Failed");
    assert_eq!(restarts(&interrupted, "c"), 0);
    assert_ne!(pods::ended(&interrupted, "c").exit_code, 0);
    for (name, phase, code) in [("once-0", "Succeeded", 0), ("once-5", "Failed", 5)] {
        let pod = node.wait_phase(name, phase);
        assert_eq!((pods::ended(&pod, "c").exit_code, restarts(&pod, "c")), (code, 0), "{name}");
        assert_eq!(node.lines(name), ["ran"], "{name}");
    }
}
