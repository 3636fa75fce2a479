//! Pods that are in trouble each in a way of its own, and their neighbours, whose probes stay on time all the same.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};

use crate::cluster::Cluster;
use crate::node::Node;
use crate::pods::{self, container, container_id, containers};
use crate::probes_servers::{Answer, Web};
use crate::wait::{self, PATIENCE};

/// Pods whose probes are to stay on time: those asked over HTTP, and those in which a command runs.
const HTTP: usize = 8;
const EXEC: usize = 2;
/// How long they are watched.
const WATCHED: Duration = Duration::from_secs(20);
/// The longest time between two runs of a probe with a period of a second, on a machine that does much else.
const LONGEST: f64 = 3.0;

const COMMAND: &str = "[sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.5; done']";
const SHARE: &str = "volumeMounts: [{name: share, mountPath: /share}]";

/// A pod with one container and these probes.
fn spec(probes: &str) -> String {
    format!(
        "terminationGracePeriodSeconds: 1
containers:
- name: c
  image: $IMAGE
  command: {COMMAND}
  {SHARE}
  {probes}
volumes: [{{name: share, hostPath: {{path: $SHARE}}}}]
"
    )
}

/// A shim that is stopped until this is dropped, so that the node can be removed whatever happens.
struct Frozen<'a>(&'a Node, String);

impl<'a> Frozen<'a> {
    fn new(node: &'a Node, sandbox: &str) -> Self {
        node.runtime.freeze_shim(sandbox, true);
        Self(node, sandbox.to_owned())
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.runtime.freeze_shim(&self.1, false);
    }
}

fn messages(cluster: &Cluster, pod: &str, reason: &str) -> Vec<String> {
    let events = cluster.events(pod).into_iter();
    let of_reason = events.filter(|event: &Event| event.reason.as_deref() == Some(reason));
    of_reason.filter_map(|event| event.message).collect()
}

/// Waits until a pod is told not to be ready, and why.
fn wait_unhealthy(cluster: &Cluster, pod: &str, words: &str) {
    cluster.wait_pod(pod, "not to be ready", |pod| !container(pod, "c").ready);
    wait_told(cluster, pod, words);
}

fn wait_told(cluster: &Cluster, pod: &str, words: &str) {
    wait::until(&format!("{pod} to say {words:?}"), PATIENCE, || {
        let told = messages(cluster, pod, "Unhealthy");
        if told.iter().any(|told| told.contains(words)) { Ok(()) } else { Err(format!("{told:?}")) }
    });
}

#[test]
fn health_of_neighbours_is_known_on_time_whatever_hangs() {
    let cluster = Cluster::start();
    let web = Web::start();
    let names: Vec<String> =
        (0..HTTP).map(|n| format!("http{n}")).chain((0..EXEC).map(|n| format!("exec{n}"))).collect();
    let doors: Vec<String> =
        names.iter().flat_map(|name| ["ready", "live"].map(|kind| format!("{name}-{kind}"))).collect();
    for name in &names {
        let handler = |kind: &str| {
            let door = format!("{name}-{kind}");
            match name.starts_with("http") {
                true => {
                    web.page(&format!("/{door}"), Answer::code(200));
                    format!("httpGet: {{host: 127.0.0.1, port: {}, path: /{door}}}", web.port)
                }
                false => {
                    format!("exec: {{command: [sh, -c, 'cut -d\" \" -f1 /proc/uptime >> /share/{door}']}}")
                }
            }
        };
        let probe = |kind: &str| {
            format!("{{{}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 1}}", handler(kind))
        };
        cluster.run(
            name,
            &spec(&format!("readinessProbe: {}\n  livenessProbe: {}", probe("ready"), probe("live"))),
        );
    }
    // Those that will be in trouble begin well.
    let more = "periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 1";
    let command = |script: &str| format!("{{exec: {{command: [sh, -c, '{script}']}}, {more}}}");
    let hangs = command("true");
    cluster.run("hangs", &spec(&format!("readinessProbe: {hangs}\n  livenessProbe: {hangs}")));
    let forks = "[ -e /share/endless ] || exit 0; sleep 1111 & (sleep 1111 & sleep 1111) & sleep 1111";
    cluster.run("endless", &spec(&format!("readinessProbe: {}", command(forks))));
    for name in ["head", "body"] {
        web.page(&format!("/{name}"), Answer::code(200));
        let drips = format!("{{httpGet: {{host: 127.0.0.1, port: {}, path: /{name}}}, {more}}}", web.port);
        cluster.run(name, &spec(&format!("readinessProbe: {drips}")));
    }
    for name in names.iter().map(String::as_str).chain(["hangs", "endless", "head", "body"]) {
        cluster.wait_ready(name);
    }

    let before: Vec<Pod> = names.iter().map(|name| cluster.pod(name)).collect();
    let hanging = cluster.pod("hangs");
    let id = container_id(&hanging, "c");
    let sandbox = cluster.containers_of(&hanging).into_iter().find(|other| *other != id).unwrap();
    let frozen = Frozen::new(&cluster.node, &sandbox);
    std::fs::write(cluster.node.share("endless"), "").unwrap();
    web.page("/head", Answer::drip("HTTP/1.1 200 OK\r\nX: "));
    web.page("/body", Answer::drip("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"));

    let begin = wait::uptime();
    wait::throughout(WATCHED, || {
        for (name, before) in names.iter().zip(&before) {
            let pod = cluster.pod(name);
            assert_eq!(containers(&pod), containers(before), "{}", pods::summary(&pod));
            assert!(pods::ready(&pod), "{}", pods::summary(&pod));
        }
    });
    let end = wait::uptime();
    let mut longest: f64 = 0.0;
    let mut problems = vec![];
    for door in &doors {
        let times: Vec<f64> = match door.starts_with("http") {
            true => web.asked(&format!("/{door}")).iter().map(|asked| asked.at).collect(),
            false => cluster.node.lines(door).iter().map(|line| line.parse().unwrap()).collect(),
        };
        let within = times.into_iter().filter(|at| (begin..end).contains(at));
        let edges: Vec<f64> = [begin].into_iter().chain(within).chain([end]).collect();
        let gap = edges.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        longest = longest.max(gap);
        if gap > LONGEST {
            problems.push(format!("{door}: nothing for {gap:.2} s"));
        }
    }
    eprintln!("between two runs of a neighbour's probe at most {longest:.2} s");
    assert!(problems.is_empty(), "{problems:?}");
    for name in &names {
        assert_eq!(messages(&cluster, name, "Unhealthy"), [""; 0], "{name}");
    }

    // Each of those says so itself.
    wait_unhealthy(&cluster, "endless", "Readiness probe failed: command timed out: \"sh -c ");
    wait_unhealthy(&cluster, "head", "Readiness probe failed: Get \"http://127.0.0.1:");
    // A body without an end is no answer, good or bad, to upstream either.
    wait_told(
        &cluster,
        "body",
        "Readiness probe errored and resulted in unknown state: context deadline exceeded",
    );
    assert!(pods::ready(&cluster.pod("body")));
    wait_unhealthy(&cluster, "hangs", "Readiness probe failed: command timed out");
    let killing = cluster.wait_event("hangs", "Killing").message.unwrap_or_default();
    assert_eq!(killing, "Container c failed liveness probe, will be restarted");
    for name in ["endless", "head", "body"] {
        let pod = cluster.pod(name);
        assert_eq!((pods::restarts(&pod, "c"), pods::state(&pod, "c").as_str()), (0, "running"));
    }

    // And each is well again when its trouble is over.
    drop(frozen);
    std::fs::remove_file(cluster.node.share("endless")).unwrap();
    web.page("/head", Answer::code(200));
    for name in ["endless", "head"] {
        assert_eq!(pods::restarts(&cluster.wait_ready(name), "c"), 0);
    }
    cluster.wait_pod("hangs", "to be restarted", |pod| pods::restarts(pod, "c") >= 1 && pods::ready(pod));
}
