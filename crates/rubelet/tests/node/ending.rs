//! How pods end: grace periods, edited and removed manifests, deadlines, and what is left behind.

use std::path::Path;

use crate::node::{CONTAINER_LOGS, Node};
use crate::pods::{self, container_id, status};
use crate::wait::{self, PATIENCE};

/// The end of a manifest whose containers write to the shared folder.
const SHARE: &str = "volumes: [{name: share, hostPath: {path: $SHARE}}]";
/// Its place in a container.
const MOUNT: &str = "volumeMounts: [{name: share, mountPath: /share}]";

/// A container that writes the time into `beat` until it is killed, and does `on_term` when told to end.
fn beating(name: &str, on_term: &str, lifecycle: &str) -> String {
    format!(
        "
- name: {name}
  image: $IMAGE
  command: [sh, -c, 'trap \"{on_term}\" TERM; while true; do cut -d\" \" -f1 /proc/uptime > /share/{name}.new; mv /share/{name}.new /share/{name}; sleep 0.05; done']
  {lifecycle}
  {MOUNT}
"
    )
}

/// The last beat of such a container.
fn last_beat(node: &Node, name: &str) -> f64 {
    node.lines(name)[0].parse().unwrap()
}

/// Takes a pod away; how many seconds its container lived on.
fn lives_on(node: &Node, name: &str) -> f64 {
    node.wait_ready(name);
    wait::until("a first beat", PATIENCE, || node.lines(name).pop().ok_or_else(String::new));
    let asked = wait::uptime();
    node.remove(name);
    node.wait_gone(name);
    last_beat(node, name) - asked
}

#[test]
fn the_grace_period_is_shared_by_hook_and_signal() {
    let node = Node::start();
    let pod = |name: &str, grace: u32, on_term: &str, lifecycle: &str| {
        let container = beating(name, on_term, lifecycle);
        node.apply(name, &format!("terminationGracePeriodSeconds: {grace}\ncontainers:{container}{SHARE}"));
    };
    let hook = |seconds: u32| format!("lifecycle: {{preStop: {{exec: {{command: [sleep, '{seconds}']}}}}}}");
    pod("deaf", 3, ":", "");
    pod("shared", 5, ":", &hook(3));
    pod("overrun", 2, ":", &hook(600));
    pod("polite", 30, "exit 0", "");
    let check = |name: &str, at_least: f64, below: f64| {
        let lived = lives_on(&node, name);
        assert!(
            (at_least..below).contains(&lived),
            "{name} lived for {lived} s, not {at_least} to {below} s"
        );
    };
    check("deaf", 2.9, 8.0);
    // Three seconds of hook leave two of the five: together five, not eight.
    check("shared", 4.9, 7.9);
    // The hook takes the whole grace; two more seconds are the floor for the signal.
    check("overrun", 3.9, 9.0);
    // Its last beat may have been before it was told.
    check("polite", -5.0, 10.0);
}

#[test]
fn a_deadline_ends_a_pod_with_its_grace_and_exit_codes() {
    let node = Node::start();
    let containers = beating("deaf", ":", "") + &beating("polite", "exit 6", "");
    node.apply(
        "deadline",
        &format!(
            "activeDeadlineSeconds: 4\nterminationGracePeriodSeconds: 2\nrestartPolicy: Always\ncontainers:{containers}{SHARE}"
        ),
    );
    let running = node.wait_ready("deadline");
    let start = status(&running).start_time.unwrap().0;
    let pod = node.wait_phase("deadline", "Failed");
    let told = status(&pod);
    assert_eq!(told.reason.as_deref(), Some("DeadlineExceeded"));
    assert_eq!(
        told.message.as_deref(),
        Some("Pod was active on the node longer than the specified deadline")
    );
    let (deaf, polite) = (pods::ended(&pod, "deaf"), pods::ended(&pod, "polite"));
    assert_eq!((deaf.exit_code, polite.exit_code), (137, 6));
    let lived = deaf.finished_at.unwrap().0.as_second() - start.as_second();
    assert!((5..=12).contains(&lived), "4 s and 2 s of grace were {lived} s");
    assert!(!pods::condition(&pod, "Ready") && !pods::condition(&pod, "ContainersReady"));
    assert_eq!((pods::restarts(&pod, "deaf"), pods::restarts(&pod, "polite")), (0, 0));
}

#[test]
fn an_edited_manifest_is_a_new_pod_that_waits_for_the_old_one() {
    let node = Node::start();
    let spec = |name: &str| {
        format!(
            "
terminationGracePeriodSeconds: 20
containers:
- name: main
  image: $IMAGE
  command: [sh, -c, 'trap \"sleep 2; echo {name} ends >> /share/log; exit 0\" TERM; echo {name} begins >> /share/log; while true; do sleep 0.05; done']
  {MOUNT}
{SHARE}"
        )
    };
    node.apply("edited", &spec("old"));
    let old = node.wait_ready("edited");
    node.wait_line("log", "old begins");
    node.apply("edited", &spec("new"));
    node.wait_line("log", "new begins");
    assert_eq!(node.lines("log"), ["old begins", "old ends", "new begins"]);
    let new = wait::until("only the new pod to be there", PATIENCE, || {
        let pods = node.try_pods()?;
        match pods.as_slice() {
            [pod] if pods::uid(pod) != pods::uid(&old) && pods::ready(pod) => Ok(pod.clone()),
            _ => Err(pods.iter().map(pods::summary).collect::<Vec<_>>().join("\n")),
        }
    });
    assert_eq!(pods::restarts(&new, "main"), 0);
    wait::until("the old pod's containers to be gone", PATIENCE, || {
        let ids = node.runtime.containers();
        if ids.len() == 2 && !ids.contains(&container_id(&old, "main")) {
            Ok(())
        } else {
            Err(format!("{ids:?}"))
        }
    });
}

#[test]
fn of_many_edits_the_last_one_runs_alone() {
    let node = Node::start();
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
    node.apply("edited", &spec("v0"));
    node.wait_line("log", "v0 begins");
    for version in 1..=5 {
        node.apply("edited", &spec(&format!("v{version}")));
        // Each edit is seen before the next one is made.
        let seen = format!("v{version} begins");
        wait::until("the edit to be seen", PATIENCE, || {
            let pods = node.try_pods()?;
            let has = |pod: &k8s_openapi::api::core::v1::Pod| format!("{:?}", pod.spec).contains(&seen);
            if pods.iter().any(has) { Ok(()) } else { Err(format!("{} pods", pods.len())) }
        });
    }
    node.wait_line("log", "v5 begins");
    let pod = wait::until("only the last one to be left", PATIENCE, || match node.try_pods()?.as_slice() {
        [pod] if pods::ready(pod) => Ok(pod.clone()),
        pods => Err(pods.iter().map(pods::summary).collect::<Vec<_>>().join("\n")),
    });
    assert!(format!("{:?}", pod.spec).contains("v5 begins"));
    // Never two at a time: whoever begins ends before the next one begins.
    let lines = node.lines("log");
    for pair in lines.chunks(2) {
        let version = pair[0].split(' ').next().unwrap();
        assert_eq!(pair[0], format!("{version} begins"), "{lines:?}");
        assert!(pair.get(1).is_none_or(|end| *end == format!("{version} ends")), "{lines:?}");
    }
    wait::until("one sandbox and one container to be left", PATIENCE, || {
        match node.runtime.containers().len() {
            2 => Ok(()),
            other => Err(other.to_string()),
        }
    });
}

#[test]
fn a_touched_manifest_changes_nothing() {
    let node = Node::start();
    let spec = "containers: [{name: main, image: $IMAGE, command: [sleep, '1000']}]";
    node.apply("touched", spec);
    let before = node.wait_ready("touched");
    node.apply("touched", spec);
    // A pod that appears afterwards shows that the folder was read again.
    node.apply("later", spec);
    node.wait_ready("later");
    let after = node.pod("touched");
    assert_eq!(pods::uid(&after), pods::uid(&before));
    assert_eq!(container_id(&after, "main"), container_id(&before, "main"));
    assert!(pods::ready(&after));
}

#[test]
fn a_removed_manifest_takes_everything_with_it() {
    let node = Node::start();
    node.apply(
        "all",
        "
terminationGracePeriodSeconds: 1
initContainers:
- {name: init, image: $IMAGE, command: ['true']}
- {name: side, image: $IMAGE, restartPolicy: Always, command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.05; done']}
containers:
- {name: main, image: $IMAGE, command: [sh, -c, 'echo hi; exec sleep 1000'], volumeMounts: [{name: tmp, mountPath: /tmp}, {name: mem, mountPath: /mem}]}
- {name: again, image: $IMAGE, command: ['false']}
volumes: [{name: tmp, emptyDir: {}}, {name: mem, emptyDir: {medium: Memory}}]
",
    );
    node.apply("stays", "containers: [{name: main, image: $IMAGE, command: [sleep, '1000']}]");
    let pod = node.wait_state("all", "again", "waiting CrashLoopBackOff");
    let stays = node.wait_ready("stays");
    let uid = pods::uid(&pod);
    let links = || {
        let links = std::fs::read_dir(CONTAINER_LOGS).unwrap().flatten();
        let of_pod = links.filter(|link| {
            std::fs::read_link(link.path()).is_ok_and(|log| log.display().to_string().contains(&uid))
        });
        of_pod.count()
    };
    let (pod_dir, logs) = (node.root().join("pods").join(&uid), node.log_dir(&pod));
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&uid);
    assert!(pod_dir.exists() && logs.exists() && links() >= 4 && !node.cgroups(&uid).is_empty() && mounts());
    assert!(node.runtime.containers().len() >= 7);

    node.remove("all");
    node.wait_gone("all");
    wait::until("only the other pod to be left in the runtime", PATIENCE, || {
        let ids = node.runtime.containers();
        if ids.len() == 2 && ids.contains(&container_id(&stays, "main")) {
            Ok(())
        } else {
            Err(format!("{ids:?}"))
        }
    });
    let gone = |path: &Path| assert!(!path.exists(), "{} is left", path.display());
    gone(&pod_dir);
    gone(&logs);
    assert_eq!(links(), 0);
    assert!(!mounts());
    assert_eq!(node.cgroups(&uid), Vec::<std::path::PathBuf>::new());
    let journal = node.root().join("rubelet/pods");
    let records: Vec<_> =
        std::fs::read_dir(journal).unwrap().flatten().map(|file| file.file_name()).collect();
    assert_eq!(records, [std::ffi::OsString::from(format!("{}.json", pods::uid(&stays)))]);
    assert!(pods::ready(&node.pod("stays")));
}

#[test]
fn pods_of_one_name_in_two_files_are_one_pod() {
    let node = Node::start();
    let spec = |word: &str| {
        crate::pods::manifest(
            "twin",
            &format!(
                "containers: [{{name: main, image: $IMAGE, command: [sh, -c, 'echo {word}; exec sleep 1000']}}]"
            ),
        )
    };
    node.write_manifest("a.yaml", spec("first").as_bytes());
    let pod = node.wait_ready("twin");
    node.write_manifest("b.yaml", spec("second").as_bytes());
    node.wait_agent_log(&["twin-node-1", "occurs twice"]);
    assert_eq!(node.pods().len(), 1);
    assert_eq!(container_id(&node.pod("twin"), "main"), container_id(&pod, "main"));
    node.wait_log(&pod, "main", "first");
}

#[test]
fn a_registry_that_never_answers_keeps_no_pod_from_ending() {
    let node = Node::start();
    // Connections are taken by the kernel and nobody ever answers them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("127.0.0.1:{}/team/app:1", silent.local_addr().unwrap().port());
    let spec = |more: &str| format!("{more}\ncontainers: [{{name: c, image: '{image}'}}]");
    node.apply("pulls", &spec("terminationGracePeriodSeconds: 1"));
    node.apply("deadline", &spec("activeDeadlineSeconds: 3"));
    node.apply("local", "containers: [{name: c, image: $IMAGE, command: [sleep, '1000']}]");
    node.wait_ready("local");
    node.wait_agent_log(&["Pulling image", "pulls-node-1"]);
    node.wait_pod("pulls", "to have its sandbox", |pod| pods::condition(pod, "PodReadyToStartContainers"));
    let pod = node.wait_phase("deadline", "Failed");
    assert_eq!(status(&pod).reason.as_deref(), Some("DeadlineExceeded"));
    let asked = wait::uptime();
    node.remove("pulls");
    node.wait_gone("pulls");
    assert!(wait::uptime() - asked < 30.0, "the pull was waited for");
}

#[test]
fn a_deadline_holds_while_a_hook_or_an_init_container_runs() {
    let node = Node::start();
    let common = "activeDeadlineSeconds: 3\nterminationGracePeriodSeconds: 1\nrestartPolicy: Never";
    node.apply(
        "hook",
        &format!(
            "{common}\ncontainers: [{{name: c, image: $IMAGE, command: [sleep, '1000'], lifecycle: {{postStart: {{exec: {{command: [sleep, '1000']}}}}}}}}]"
        ),
    );
    node.apply(
        "init",
        &format!(
            "{common}\ninitContainers: [{{name: i, image: $IMAGE, command: [sleep, '1000']}}]\ncontainers: [{{name: c, image: $IMAGE, command: ['true']}}]"
        ),
    );
    for (name, container) in [("hook", "c"), ("init", "i")] {
        let pod = node.wait_phase(name, "Failed");
        assert_eq!(status(&pod).reason.as_deref(), Some("DeadlineExceeded"), "{name}");
        assert_eq!(pods::ended(&pod, container).exit_code, 137, "{name}");
    }
    assert!(container_id(&node.pod("init"), "c").is_empty(), "no container starts after the end");
}
