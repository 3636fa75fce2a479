//! Agents that die: kill -9 at many moments of starting and ending pods, and under pods at rest. What ran goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::node::Node;
use crate::pods::{self, container_id, restarts, state};
use crate::wait::{self, PATIENCE};

/// A pod that starts in several steps and ends politely.
const STEPS: &str = "
terminationGracePeriodSeconds: 5
initContainers:
- {name: init, image: $IMAGE, command: [sh, -c, 'sleep 0.1']}
- {name: side, image: $IMAGE, restartPolicy: Always, command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.05; done']}
containers:
- name: main
  image: $IMAGE
  command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.05; done']
  lifecycle: {preStop: {exec: {command: [sleep, '0.2']}}}
  volumeMounts: [{name: work, mountPath: /work}]
- {name: other, image: $IMAGE, command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.05; done']}
volumes: [{name: work, emptyDir: {}}]
";
/// A pod at rest.
const REST: &str = "
terminationGracePeriodSeconds: 1
containers: [{name: c, image: $IMAGE, command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.2; done']}]
";

/// Container IDs of every pod, by pod and container.
fn ids(pods: &[Pod]) -> BTreeMap<String, String> {
    let of_pod = |pod: &Pod| {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let ids = pods::containers(pod)
            .into_iter()
            .map(|status| (format!("{name}/{}", status.name), status.container_id.unwrap_or_default()));
        ids.collect::<Vec<_>>()
    };
    pods.iter().flat_map(of_pod).collect()
}

/// Lets an agent live so long.
fn live(node: &mut Node, time: Duration) {
    node.launch_agent();
    wait::pause(time);
    node.kill_agent();
}

#[test]
fn an_agent_killed_at_any_moment_of_a_start_leaves_a_pod_that_starts() {
    let mut node = Node::without_agent("");
    node.apply("rest", REST);
    node.start_agent();
    let rest = node.wait_ready("rest");
    node.kill_agent();
    for millis in (0..=400).step_by(40) {
        let name = format!("p{millis}");
        node.apply(&name, STEPS);
        live(&mut node, Duration::from_millis(60 + millis));
    }
    node.start_agent();
    for millis in (0..=400).step_by(40) {
        let name = format!("p{millis}");
        let pod = node.wait_ready(&name);
        for container in ["main", "other", "side", "init"] {
            assert_eq!(restarts(&pod, container), 0, "{}", pods::summary(&pod));
        }
    }
    let now = node.pod("rest");
    assert_eq!((container_id(&now, "c"), restarts(&now, "c")), (container_id(&rest, "c"), 0));
    // Exactly what the statuses say runs in the runtime: a sandbox and three containers for each, one init left over.
    wait::until("nothing to run twice", PATIENCE, || {
        let running =
            node.runtime.ctr(&["tasks", "ls"]).lines().filter(|line| line.contains("RUNNING")).count();
        if running == 11 * 4 + 2 { Ok(()) } else { Err(format!("{running} tasks")) }
    });
}

#[test]
fn an_agent_killed_at_any_moment_of_an_end_leaves_nothing() {
    let mut node = Node::start();
    node.apply("rest", REST);
    let delays: Vec<u64> = (0..=400).step_by(40).collect();
    for millis in &delays {
        node.apply(&format!("p{millis}"), STEPS);
    }
    for millis in &delays {
        node.wait_ready(&format!("p{millis}"));
    }
    let rest = node.wait_ready("rest");
    for millis in &delays {
        node.remove(&format!("p{millis}"));
        wait::pause(Duration::from_millis(*millis));
        node.kill_agent();
        node.start_agent();
    }
    for millis in &delays {
        node.wait_gone(&format!("p{millis}"));
    }
    wait::until("only the pod at rest to be left", PATIENCE, || {
        let ids = node.runtime.containers();
        let dirs: Vec<_> = std::fs::read_dir(node.root().join("pods")).unwrap().flatten().collect();
        match (ids.len(), dirs.len()) {
            (2, 1) => Ok(()),
            other => Err(format!("containers and pod directories: {other:?}")),
        }
    });
    let now = node.wait_ready("rest");
    assert_eq!((container_id(&now, "c"), restarts(&now, "c")), (container_id(&rest, "c"), 0));
}

#[test]
fn twenty_healthy_pods_do_not_notice_an_agent_that_ends() {
    let mut node = Node::start();
    for number in 0..20 {
        node.apply(&format!("p{number}"), REST);
    }
    for number in 0..20 {
        node.wait_ready(&format!("p{number}"));
    }
    let before = node.pods();
    for clean in [false, true, false] {
        if clean {
            node.stop_agent()
        } else {
            node.kill_agent()
        }
        node.launch_agent();
        // From the first answer on, every pod that is told of is ready, and soon all are told of.
        let mut seen = 0;
        wait::until("all pods to be told of", PATIENCE, || {
            let pods = node.try_pods()?;
            assert_ready(&pods);
            seen = pods.len();
            if seen == 20 { Ok(()) } else { Err(format!("{seen} pods")) }
        });
        wait::throughout(Duration::from_secs(2), || {
            let pods = node.pods();
            assert_eq!(pods.len(), 20);
            assert_ready(&pods);
        });
    }
    let after = node.pods();
    assert_eq!(ids(&after), ids(&before));
    for (old, new) in before.iter().zip(&after) {
        let since = |pod: &Pod| {
            let conditions = pods::status(pod).conditions.unwrap();
            conditions.into_iter().map(|c| (c.type_, c.last_transition_time.unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(since(old), since(new), "no condition has changed");
        assert_eq!(pods::status(old).start_time, pods::status(new).start_time);
        assert_eq!(pods::status(old).pod_ip, pods::status(new).pod_ip);
    }
}

/// Every pod is Running and ready and was never restarted.
pub fn assert_ready(pods: &[Pod]) {
    for pod in pods {
        let restarted = pods::containers(pod).iter().any(|status| status.restart_count > 0);
        assert!(pods::ready(pod) && !restarted, "{}", pods::summary(pod));
    }
}

#[test]
fn counts_and_back_off_go_on_over_a_killed_agent() {
    let mut node = Node::start();
    node.apply(
        "crash",
        "
containers: [{name: c, image: $IMAGE, command: [sh, -c, 'cut -d\" \" -f1 /proc/uptime >> /share/starts; exit 1'],
  volumeMounts: [{name: share, mountPath: /share}]}]
volumes: [{name: share, hostPath: {path: $SHARE}}]",
    );
    let before = node.wait_state("crash", "c", "waiting CrashLoopBackOff");
    node.kill_agent();
    node.start_agent();
    let after = node.wait_state("crash", "c", "waiting CrashLoopBackOff");
    assert_eq!(restarts(&after, "c"), restarts(&before, "c"));
    assert!(pods::waiting_message(&after, "c").starts_with("back-off 10s "), "{}", pods::summary(&after));
    let pod = node.wait_pod("crash", "to have run again", |pod| {
        restarts(pod, "c") == 2 && state(pod, "c") == "waiting CrashLoopBackOff"
    });
    assert_eq!(pods::uid(&pod), pods::uid(&before));
    // The end of a container is found with its exit code, whoever started it.
    assert_eq!(pods::last_state(&pod, "c"), "terminated Error 1");
    assert!(pods::waiting_message(&pod, "c").starts_with("back-off 20s "), "{}", pods::summary(&pod));
    let starts: Vec<f64> = node.lines("starts").iter().map(|line| line.parse().unwrap()).collect();
    assert_eq!(starts.len(), 3);
    assert!((9.9..25.0).contains(&(starts[2] - starts[1])), "a new agent keeps the delay: {starts:?}");
}

#[test]
fn what_ends_while_no_agent_runs_is_found() {
    let mut node = Node::start();
    node.apply(
        "ends",
        "
containers:
- {name: c, image: $IMAGE, command: [sh, -c, '[ -e /share/again ] && exec sleep 1000; until [ -e /share/go ]; do sleep 0.05; done; touch /share/again; exit 17'],
  volumeMounts: [{name: share, mountPath: /share}]}
- {name: stays, image: $IMAGE, command: [sleep, '1000']}
volumes: [{name: share, hostPath: {path: $SHARE}}]",
    );
    let before = node.wait_ready("ends");
    node.kill_agent();
    std::fs::write(node.share("go"), "").unwrap();
    wait::until("the container to end", PATIENCE, || {
        if node.share("again").exists() { Ok(()) } else { Err("it runs".to_owned()) }
    });
    node.start_agent();
    let after = node.wait_pod("ends", "to have restarted the one that ended", |pod| {
        restarts(pod, "c") == 1 && state(pod, "c") == "running" && pods::ready(pod)
    });
    assert_eq!(pods::last_state(&after, "c"), "terminated Error 17");
    assert_eq!(container_id(&after, "stays"), container_id(&before, "stays"));
    assert_eq!(restarts(&after, "stays"), 0);
}

#[test]
fn a_pod_taken_away_while_no_agent_runs_is_removed() {
    let mut node = Node::start();
    node.apply("orphan", REST);
    node.apply("stays", REST);
    let orphan = node.wait_ready("orphan");
    let stays = node.wait_ready("stays");
    node.kill_agent();
    node.remove("orphan");
    node.start_agent();
    wait::until("the orphan to be gone from the runtime", PATIENCE, || {
        let ids = node.runtime.containers();
        if ids.len() == 2 && ids.contains(&container_id(&stays, "c")) {
            Ok(())
        } else {
            Err(format!("{ids:?}"))
        }
    });
    wait::until("its files to be gone", PATIENCE, || {
        let left = [node.root().join("pods").join(pods::uid(&orphan)), node.log_dir(&orphan)];
        match left.iter().find(|path| path.exists()) {
            Some(path) => Err(path.display().to_string()),
            None => Ok(()),
        }
    });
    assert_eq!(container_id(&node.wait_ready("stays"), "c"), container_id(&stays, "c"));
}

#[test]
fn nothing_is_removed_while_the_sources_cannot_be_read() {
    let mut node = Node::start();
    node.apply("kept", REST);
    let kept = node.wait_ready("kept");
    node.kill_agent();
    // A folder of manifests that cannot be read, here a link to itself, is not an empty one.
    let manifests = node.manifest_file("x").parent().unwrap().to_owned();
    let aside = node.share("manifests-aside");
    std::fs::rename(&manifests, &aside).unwrap();
    std::os::unix::fs::symlink(&manifests, &manifests).unwrap();
    node.start_agent();
    node.wait_agent_log(&["the pods known before are kept"]);
    wait::throughout(Duration::from_secs(3), || {
        assert!(node.runtime.containers().contains(&container_id(&kept, "c")));
    });
    // At once: a folder that is not there is an empty one, as upstream has it.
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        &aside,
        rustix::fs::CWD,
        &manifests,
        rustix::fs::RenameFlags::EXCHANGE,
    )
    .unwrap();
    let again = node.wait_ready("kept");
    assert_eq!((container_id(&again, "c"), restarts(&again, "c")), (container_id(&kept, "c"), 0));
}
