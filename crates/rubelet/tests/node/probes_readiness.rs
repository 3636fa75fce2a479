//! Readiness as the API shows it: at once and whatever the rest of the pod is doing, with gates, and while a pod ends.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition};

use crate::cluster::Cluster;
use crate::pods::{self, condition, container, restarts, state};
use crate::probes_servers::{Answer, Web, loopback};
use crate::wait::{self, PATIENCE};

/// How soon a change is in the API: a second in the promise, and some for a machine that does much else.
const SOON: Duration = Duration::from_secs(5);

/// A container that is asked whether it is ready, once a second.
fn asked(web: &Web, name: &str, more: &str) -> String {
    format!(
        "- name: {name}
  image: $IMAGE
  command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.05; done']
  readinessProbe: {{httpGet: {{host: 127.0.0.1, port: {}, path: /{name}}}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 5}}
  {more}
",
        web.port
    )
}

/// Makes a container ill or well and waits until the API says so, soon after it was asked.
fn turn(cluster: &Cluster, web: &Web, pod: &str, name: &str, well: bool) -> Pod {
    let path = format!("/{name}");
    web.page(&path, Answer::code(if well { 200 } else { 503 }));
    let before = web.asked(&path).len();
    web.wait_asked(&path, before + 1);
    wait::until(&format!("{pod} {name} to be ready {well}"), SOON, || {
        let pod = cluster.try_pod(pod)?;
        if container(&pod, name).ready == well { Ok(pod) } else { Err(pods::summary(&pod)) }
    })
}

#[test]
fn probes_readiness_is_told_while_the_pod_is_busy() {
    let cluster = Cluster::start();
    let web = Web::start();
    for name in ["pull", "hook", "backs"] {
        web.page(&format!("/{name}"), Answer::code(200));
    }
    // Connections are taken by the kernel and nobody ever answers them.
    let silent = loopback();
    let image = format!("127.0.0.1:{}/team/app:1", silent.local_addr().unwrap().port());
    let grace = "terminationGracePeriodSeconds: 2\ncontainers:\n";
    cluster.run("pulls", &format!("{grace}{}- {{name: other, image: '{image}'}}\n", asked(&web, "pull", "")));
    cluster.run("hooks", &format!(
        "{grace}{}- {{name: other, image: $IMAGE, command: [sleep, '1000'], lifecycle: {{postStart: {{exec: {{command: [sleep, '1000']}}}}}}}}\n",
        asked(&web, "hook", ""),
    ));
    // The worker of this pod waits for a container that does not want to end.
    web.page("/deaf", Answer::code(200));
    cluster.run("kills", &format!(
        "terminationGracePeriodSeconds: 40\ncontainers:\n{}- name: deaf
  image: $IMAGE
  command: [sleep, '1000']
  livenessProbe: {{httpGet: {{host: 127.0.0.1, port: {}, path: /deaf}}, periodSeconds: 1, failureThreshold: 1}}
",
        asked(&web, "backs", ""),
        web.port,
    ));
    cluster.wait_ready("kills");
    web.page("/deaf", Answer::code(500));
    cluster.wait_event("kills", "Killing");
    cluster.node.wait_agent_log(&["Pulling image", "pulls"]);
    for (pod, name) in [("pulls", "pull"), ("hooks", "hook"), ("kills", "backs")] {
        for well in [false, true, false] {
            let pod = turn(&cluster, &web, pod, name, well);
            assert!(!condition(&pod, "Ready") || name == "backs" && well, "{}", pods::summary(&pod));
        }
    }
    let pod = cluster.pod("pulls");
    assert!(
        state(&pod, "other").starts_with("waiting ") && restarts(&pod, "pull") == 0,
        "{}",
        pods::summary(&pod)
    );
    assert_eq!(restarts(&cluster.pod("kills"), "deaf"), 0, "it was being killed all the time");
    for name in ["pulls", "hooks", "kills"] {
        cluster.api.delete_with_grace::<Pod>("default", name, 1);
    }
    drop(silent);
}

#[test]
fn probes_readiness_is_more_than_probes_where_a_pod_says_so() {
    let cluster = Cluster::start();
    let web = Web::start();
    web.page("/c", Answer::code(503));
    cluster.run("gated", &format!(
        "terminationGracePeriodSeconds: 2\nreadinessGates: [{{conditionType: example.com/load-balancer}}]\ncontainers:\n{}",
        asked(&web, "c", ""),
    ));
    let message = |pod: &Pod| {
        let conditions = pods::status(pod).conditions.unwrap_or_default();
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
        ready.and_then(|ready| ready.message).unwrap_or_default()
    };
    let gate = |open: bool| {
        cluster.api.modify_status::<Pod>("default", "gated", |pod| {
            let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
            conditions.retain(|condition| condition.type_ != "example.com/load-balancer");
            conditions.push(PodCondition {
                type_: "example.com/load-balancer".to_owned(),
                status: if open { "True" } else { "False" }.to_owned(),
                ..Default::default()
            });
        });
    };
    // Neither, the container, both, the gate: ready means both.
    let pod = cluster.wait_state("gated", "c", "running");
    assert!(!condition(&pod, "Ready") && !condition(&pod, "ContainersReady"));
    let pod = turn(&cluster, &web, "gated", "c", true);
    assert!(condition(&pod, "ContainersReady") && !condition(&pod, "Ready"), "{}", pods::summary(&pod));
    assert_eq!(
        message(&pod),
        "corresponding condition of pod readiness gate \"example.com/load-balancer\" does not exist."
    );
    gate(true);
    cluster.wait_ready("gated");
    let pod = turn(&cluster, &web, "gated", "c", false);
    assert!(!condition(&pod, "ContainersReady") && !condition(&pod, "Ready"));
    assert_eq!(message(&pod), "containers with unready status: [c]");
    turn(&cluster, &web, "gated", "c", true);
    cluster.wait_ready("gated");
    gate(false);
    let pod = cluster.wait_pod("gated", "not to be ready", |pod| !condition(pod, "Ready"));
    assert!(condition(&pod, "ContainersReady"));
    assert_eq!(
        message(&pod),
        "the status of pod readiness gate \"example.com/load-balancer\" is not \"True\", but False"
    );
    assert_eq!(restarts(&pod, "c"), 0);
}

#[test]
fn probes_readiness_goes_on_while_a_pod_ends_and_liveness_does_not() {
    let cluster = Cluster::start();
    let web = Web::start();
    for path in ["/c", "/live", "/starting"] {
        web.page(path, Answer::code(200));
    }
    web.page("/starting", Answer::code(503));
    let port = web.port;
    let drains =
        "lifecycle: {preStop: {exec: {command: [sh, -c, 'until [ -e /share/go ]; do sleep 0.1; done']}}}
  volumeMounts: [{name: share, mountPath: /share}]";
    cluster.run("drains", &format!(
        "terminationGracePeriodSeconds: 120\ncontainers:\n{}{}volumes: [{{name: share, hostPath: {{path: $SHARE}}}}]\n",
        asked(&web, "c", &format!(
            "livenessProbe: {{httpGet: {{host: 127.0.0.1, port: {port}, path: /live}}, periodSeconds: 1, failureThreshold: 1}}\n  {drains}"
        )),
        format_args!(
            "- name: starts
  image: $IMAGE
  command: [sleep, '1000']
  startupProbe: {{httpGet: {{host: 127.0.0.1, port: {port}, path: /starting}}, periodSeconds: 1, failureThreshold: 1000}}
  {drains}
"
        ),
    ));
    cluster.wait_pod("drains", "to have c ready", |pod| container(pod, "c").ready);
    web.wait_asked("/live", 2);
    web.wait_asked("/starting", 2);
    assert!(cluster.api.delete::<Pod>("default", "drains"));
    wait::until("both hooks", PATIENCE, || {
        let killing = cluster
            .events("drains")
            .iter()
            .filter(|event| event.reason.as_deref() == Some("Killing"))
            .count();
        if killing == 2 { Ok(()) } else { Err(killing.to_string()) }
    });
    // What is under way when the pod ends may still be asked.
    let counts = || (web.asked("/live").len(), web.asked("/starting").len());
    web.page("/live", Answer::code(500));
    let before = counts();
    let pod = turn(&cluster, &web, "drains", "c", true);
    assert!(pod.metadata.deletion_timestamp.is_some());
    turn(&cluster, &web, "drains", "c", false);
    turn(&cluster, &web, "drains", "c", true);
    let pod = turn(&cluster, &web, "drains", "c", false);
    assert!(!condition(&pod, "Ready") && state(&pod, "c") == "running" && restarts(&pod, "c") == 0);
    let after = counts();
    assert!(
        after.0 <= before.0 + 1 && after.1 <= before.1 + 1,
        "{before:?} before, {after:?} after four periods"
    );
    let said: Vec<_> = cluster.events("drains").into_iter().filter_map(|event| event.message).collect();
    assert!(!said.iter().any(|said| said.contains("Liveness") || said.contains("liveness")), "{said:?}");
    std::fs::write(cluster.node.share("go"), "").unwrap();
    cluster.api.delete_with_grace::<Pod>("default", "drains", 1);
    cluster.wait_gone(&pod);
}
