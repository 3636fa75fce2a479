//! Termination messages: where they come from and how long they may be.

use crate::node::Node;
use crate::pods;

#[test]
fn last_words_come_from_the_file_or_the_log() {
    let node = Node::start();
    node.apply(
        "words",
        "
restartPolicy: Never
containers:
- {name: file, image: $IMAGE, command: [sh, -c, 'echo log; echo -n from the file > /dev/termination-log; exit 3']}
- {name: good, image: $IMAGE, command: [sh, -c, 'echo all is well > /dev/termination-log']}
- {name: own-path, image: $IMAGE, terminationMessagePath: /tmp/last, command: [sh, -c, 'echo -n elsewhere > /tmp/last']}
- {name: silent, image: $IMAGE, command: [sh, -c, 'echo only in the log; exit 1']}
- {name: log, image: $IMAGE, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, 'echo one; echo two; exit 1']}
- {name: log-errors, image: $IMAGE, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, 'echo oops >&2; exit 1']}
- {name: log-good, image: $IMAGE, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, 'echo one']}
- {name: file-first, image: $IMAGE, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, 'echo log; echo -n file > /dev/termination-log; exit 1']}
- {name: user, image: $IMAGE, securityContext: {runAsUser: 1000}, command: [sh, -c, 'echo -n as user > /dev/termination-log']}
",
    );
    let pod = node.wait_phase("words", "Failed");
    let check = |container: &str, message: Option<&str>| {
        assert_eq!(pods::ended(&pod, container).message.as_deref(), message, "{container}");
    };
    check("file", Some("from the file"));
    check("good", Some("all is well\n"));
    check("own-path", Some("elsewhere"));
    check("silent", None);
    check("log", Some("one\ntwo\n"));
    check("log-errors", Some("oops\n"));
    check("log-good", None);
    check("file-first", Some("file"));
    check("user", Some("as user"));
}

#[test]
fn long_last_words_are_cut_to_their_end() {
    let node = Node::start();
    let long = "i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done";
    node.apply(
        "long",
        &format!(
            "
restartPolicy: Never
containers:
- {{name: file, image: $IMAGE, command: [sh, -c, '{long} > /dev/termination-log']}}
- {{name: log, image: $IMAGE, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, '{long}; exit 1']}}
"
        ),
    );
    let many: String = (0..6)
        .map(|n| {
            format!("- {{name: c{n}, image: $IMAGE, command: [sh, -c, '{long} > /dev/termination-log']}}\n")
        })
        .collect();
    node.apply("many", &format!("restartPolicy: Never\ncontainers:\n{many}"));

    let pod = node.wait_phase("long", "Failed");
    let file = pods::ended(&pod, "file").message.unwrap();
    assert_eq!(file.len(), 4096);
    assert!(file.ends_with("line 999\n"), "{file}");
    let log = pods::ended(&pod, "log").message.unwrap();
    assert_eq!(log.lines().count(), 80);
    assert!(log.starts_with("line 920\n") && log.ends_with("line 999\n"), "{log}");

    // All messages of a pod together have 12 KiB.
    let pod = node.wait_phase("many", "Succeeded");
    let lengths: Vec<usize> =
        (0..6).map(|n| pods::ended(&pod, &format!("c{n}")).message.unwrap_or_default().len()).collect();
    assert_eq!(lengths, [2048; 6]);
}

#[test]
fn every_instance_has_words_of_its_own() {
    let node = Node::start();
    node.apply(
        "again",
        "
containers:
- {name: main, image: $IMAGE, command: [sh, -c, 'cat /dev/termination-log; echo -n x >> /dev/termination-log; exit 1']}
",
    );
    let pod = node.wait_state("again", "main", "waiting CrashLoopBackOff");
    let last = pods::container(&pod, "main").last_state.unwrap().terminated.unwrap();
    assert_eq!(last.message.as_deref(), Some("x"));
    assert_eq!(node.container_log(&pod, "main", 1), "");
}

#[test]
fn logs_of_any_kind_have_a_last_word() {
    let node = Node::start();
    node.apply(
        "odd",
        "
restartPolicy: Never
containers:
- {name: wide, image: $IMAGE, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, 'head -c 300000 /dev/zero | tr \"\\\\0\" x; echo y; exit 1']}
- {name: bytes, image: $IMAGE, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, 'printf \"a\\\\377b\\\\nc\"; exit 1']}
- {name: mute, image: $IMAGE, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, 'exit 1']}
- {name: own-path, image: $IMAGE, terminationMessagePath: tmp/last, command: [sh, -c, 'echo -n relative > /tmp/last; exit 1']}
",
    );
    let pod = node.wait_phase("odd", "Failed");
    let message = |container: &str| pods::ended(&pod, container).message;
    assert_eq!(message("wide").unwrap(), format!("{}y\n", "x".repeat(2046)));
    assert_eq!(message("bytes").unwrap().trim_end(), "a\u{fffd}b\nc");
    assert_eq!(message("mute"), None);
    assert_eq!(message("own-path").as_deref(), Some("relative"));
}

#[test]
fn a_log_that_was_rotated_just_before_the_end_has_a_last_word() {
    let node = Node::start();
    node.apply(
        "rotated",
        "
restartPolicy: Never
containers:
- name: main
  image: $IMAGE
  terminationMessagePolicy: FallbackToLogsOnError
  command: [sh, -c, 'echo one; echo two; until test -e /share/go; do usleep 20000; done; exit 1']
  volumeMounts: [{name: share, mountPath: /share}]
volumes: [{name: share, hostPath: {path: $SHARE}}]
",
    );
    let pod = node.wait_ready("rotated");
    node.wait_log(&pod, "main", "two");
    let log = node.log_dir(&pod).join("main/0.log");
    std::fs::rename(&log, log.with_extension("log.20260102-030405")).unwrap();
    std::fs::write(node.share("go"), "").unwrap();
    let pod = node.wait_phase("rotated", "Failed");
    assert_eq!(pods::ended(&pod, "main").message.as_deref(), Some("one\ntwo\n"));
}
