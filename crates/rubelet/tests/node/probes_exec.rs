//! Exec probes: every way a command can end, and those that do not.

use std::fs;

use crate::node::Node;
use crate::pods::{container, restarts, state};
use crate::probes_cases::{Case, Want, check, logged, wait_event};
use crate::wait::{self, PATIENCE};

use Want::{Errs, Fails, Passes};

#[test]
fn probes_exec_commands_end_in_every_way() {
    let node = Node::start();
    let case =
        |name, command: &str, want| Case { name, handler: format!("exec: {{command: {command}}}"), want };
    let shell = |name, script: &str, want| case(name, &format!("[sh, -c, '{script}']"), want);
    let cases = [
        case("true", "['true']", Passes),
        case("false", "['false']", Fails("probe failed: ")),
        shell(
            "says why",
            "echo disk is full; echo and more >&2; exit 3",
            Fails("probe failed: disk is full\nand more"),
        ),
        shell("by a signal", "kill -9 $$", Fails("probe failed: ")),
        shell("255", "exit 255", Fails("probe failed: ")),
        shell("talks and is well", "echo all is well; echo really >&2", Passes),
        shell("no words that are text", "printf \"\\\\377\\\\376 is no text\"; exit 1", Fails(" is no text")),
        shell(
            "talks a lot",
            "head -c 300000 /dev/zero | tr \"\\\\0\" x; exit 1",
            Fails("probe failed: xxxxxxxxxxxxxxx"),
        ),
        shell("talks a lot and is well", "head -c 300000 /dev/zero | tr \"\\\\0\" x", Passes),
        shell("sees the variables", "[ \"$WORD\" = static ]", Passes),
        case(
            "its words are replaced",
            "[test, $(WORD)-$$(WORD)-$(OTHER), '=', 'static-$$(WORD)-$(OTHER)']",
            Passes,
        ),
        case("no such program", "[/no/such/program]", Errs("no such file or directory")),
        case("no such program in the path", "[no-such-program]", Errs("executable file not found in $PATH")),
        case("not a program", "[/etc/passwd]", Errs("permission denied")),
        shell(
            "does not end",
            "echo slow; sleep 1000",
            Fails("command timed out: \"sh -c echo slow; sleep 1000\" timed out after 1s"),
        ),
        shell(
            "talks without an end",
            "while true; do seq 500; sleep 0.05; done",
            Fails("timed out after 1s"),
        ),
    ];
    check(&node, "exec", "env: [{name: WORD, value: static}]", &cases, |_| ());
}

/// Processes of this machine whose command line is that.
fn processes(command: &str) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).replace('\0', " ").trim_end() == command).count()
}

#[test]
fn probes_exec_that_do_not_end_are_killed_and_hold_up_nobody() {
    let node = Node::start();
    // A number that no other test's command has.
    let unique = format!("98765.{}", std::process::id());
    let hanging = |name: &str, more: &str| {
        format!(
            "- name: {name}
  image: $IMAGE
  command: [sleep, '1000']
  livenessProbe: {{exec: {{command: [sleep, '{unique}']}}, periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 100000}}
  readinessProbe: {{exec: {{command: [sh, -c, 'trap \"\" TERM INT HUP; sleep {unique}0; true']}}, periodSeconds: 1, timeoutSeconds: 2{more}}}
"
        )
    };
    let containers: String = (0..4).map(|n| hanging(&format!("h{n}"), "")).collect();
    node.apply("hangs", &format!("terminationGracePeriodSeconds: 1\ncontainers:\n{containers}"));
    node.apply(
        "well",
        "
containers:
- name: c
  image: $IMAGE
  command: [sleep, '1000']
  livenessProbe: {exec: {command: [sh, -c, 'echo x >> /share/asked; if [ -e /share/ill ]; then sleep 1000; fi']}, periodSeconds: 1, failureThreshold: 2, terminationGracePeriodSeconds: 1}
  volumeMounts: [{name: share, mountPath: /share}]
volumes: [{name: share, hostPath: {path: $SHARE}}]
",
    );
    let timed_out =
        format!("Liveness probe failed: command timed out: \"sleep {unique}\" timed out after 1s");
    for n in 0..4 {
        wait_event(&node, &format!("h{n}"), "Unhealthy", &timed_out);
    }
    let asked = node.lines("asked").len();
    wait::until("others to be probed meanwhile", PATIENCE, || {
        let now = node.lines("asked").len();
        if now >= asked + 5 { Ok(()) } else { Err(format!("{asked} before, {now} now")) }
    });
    // One of each kind for each container, and those that are being replaced.
    let most = (0..40).map(|_| {
        wait::pause(std::time::Duration::from_millis(100));
        processes(&format!("sleep {unique}")) + processes(&format!("sleep {unique}0"))
    });
    let most = most.max().unwrap();
    assert!(most <= 16, "{most} commands at a time for 8 probes");
    let pod = node.pod("hangs");
    assert!(
        (0..4).all(|n| restarts(&pod, &format!("h{n}")) == 0 && !container(&pod, &format!("h{n}")).ready)
    );
    // It is not only asked but heard, and to take too long is a failure.
    fs::write(node.share("ill"), "").unwrap();
    node.wait_pod("well", "to be restarted", |pod| restarts(pod, "c") >= 1);
    node.remove("hangs");
    node.wait_gone("hangs");
    wait::until("nothing to be left of the commands", PATIENCE, || {
        let left = processes(&format!("sleep {unique}")) + processes(&format!("sleep {unique}0"));
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    });
}

#[test]
fn probes_exec_that_cannot_be_made_change_nothing() {
    let node = Node::start();
    let program = |text: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let new = node.share("probe.new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, node.share("probe")).unwrap();
    };
    program("#!/bin/sh\necho x >> /share/asked\n");
    let probe = "{exec: {command: [/share/probe]}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 5}";
    node.apply(
        "errs",
        &format!(
            "
terminationGracePeriodSeconds: 1
containers:
- name: c
  image: $IMAGE
  command: [sleep, '1000']
  livenessProbe: {probe}
  readinessProbe: {probe}
  volumeMounts: [{{name: share, mountPath: /share}}]
volumes: [{{name: share, hostPath: {{path: $SHARE}}}}]
"
        ),
    );
    node.wait_ready("errs");
    fs::remove_file(node.share("probe")).unwrap();
    for kind in ["Liveness", "Readiness"] {
        wait_event(&node, "c", "Unhealthy", &format!("{kind} probe errored and resulted in unknown state: "));
    }
    // A few periods more, in which every probe comes to the same.
    wait::throughout(std::time::Duration::from_secs(3), || {
        let pod = node.pod("errs");
        let of = container(&pod, "c");
        assert!(of.ready && of.restart_count == 0 && state(&pod, "c") == "running", "{of:?}");
    });
    assert!(!logged(&node).iter().any(|event| event.reason == "Killing"), "{:?}", logged(&node));
    // And from the next answer on it counts again.
    program("#!/bin/sh\necho it is ill\nexit 1\n");
    let pod = node.wait_pod("errs", "to be restarted", |pod| restarts(pod, "c") >= 1);
    assert_eq!(crate::pods::last_state(&pod, "c"), "terminated Error 137");
    wait_event(&node, "c", "Unhealthy", "Liveness probe failed: it is ill");
    wait_event(&node, "c", "Killing", "Container c failed liveness probe, will be restarted");
}
