//! Lifecycle hooks: postStart and preStop by exec, HTTP and sleep, and what failing ones do.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;

use crate::node::Node;
use crate::pods::{self, last_state, restarts, state};
use crate::wait::{self, PATIENCE};

/// The end of a manifest whose containers write to the shared folder.
const SHARE: &str = "volumes: [{name: share, hostPath: {path: $SHARE}}]";
/// Its place in a container.
const MOUNT: &str = "volumeMounts: [{name: share, mountPath: /share}]";

#[test]
fn post_start_ends_before_the_next_container_and_pre_stop_before_the_signal() {
    let node = Node::start();
    node.apply(
        "exec",
        &format!(
            "
terminationGracePeriodSeconds: 20
containers:
- name: one
  image: $IMAGE
  command: [sh, -c, 'trap \"echo one told >> /share/log; exit 0\" TERM; while true; do sleep 0.05; done']
  lifecycle:
    postStart: {{exec: {{command: [sh, -c, 'sleep 1; echo one postStart >> /share/log']}}}}
    preStop: {{exec: {{command: [sh, -c, 'sleep 1; echo one preStop >> /share/log']}}}}
  {MOUNT}
- {{name: two, image: $IMAGE, command: [sh, -c, 'trap \"exit 0\" TERM; echo two begins >> /share/log; while true; do sleep 0.05; done'], {MOUNT}}}
{SHARE}"
        ),
    );
    node.wait_ready("exec");
    node.wait_line("log", "two begins");
    assert_eq!(node.lines("log"), ["one postStart", "two begins"]);
    node.remove("exec");
    node.wait_gone("exec");
    assert_eq!(node.lines("log")[2..], ["one preStop", "one told"]);
}

#[test]
fn http_hooks_send_the_request_they_were_given() {
    let node = Node::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, heads) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 4096];
            let length = stream.read(&mut buffer).unwrap();
            let _closed_when_the_test_ended =
                sender.send(String::from_utf8_lossy(&buffer[..length]).into_owned());
            stream.write_all(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    });
    node.apply(
        "http",
        &format!(
            "
terminationGracePeriodSeconds: 5
containers:
- name: main
  image: $IMAGE
  command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.05; done']
  lifecycle:
    postStart: {{httpGet: {{host: 127.0.0.1, port: {port}, path: /hello?x=1, httpHeaders: [{{name: X-Word, value: hi}}]}}}}
    preStop: {{httpGet: {{host: 127.0.0.1, port: {port}, path: bye, scheme: HTTP}}}}
"
        ),
    );
    node.wait_ready("http");
    let head = heads.recv_timeout(PATIENCE).unwrap().to_lowercase();
    assert!(head.starts_with("get /hello?x=1 http/1.1\r\n"), "{head}");
    assert!(head.contains("x-word: hi\r\n") && head.contains("user-agent: kube-lifecycle/"), "{head}");
    node.remove("http");
    let head = heads.recv_timeout(PATIENCE).unwrap();
    assert!(head.starts_with("GET /bye HTTP/1.1\r\n"), "{head}");
    node.wait_gone("http");
}

#[test]
fn http_hooks_reach_the_pod_itself_by_a_named_port() {
    let node = Node::start();
    node.apply(
        "self",
        &format!(
            "
terminationGracePeriodSeconds: 5
containers:
- name: main
  image: $IMAGE
  ports: [{{name: web, containerPort: 8080}}]
  command: [sh, -c, 'trap \"exit 0\" TERM; httpd -f -vv -p 8080 -h /tmp 2>/share/request & until grep -q :1F90 /proc/net/tcp*; do sleep 0.05; done; echo yes > /share/up; while true; do sleep 0.05; done']
  lifecycle: {{preStop: {{httpGet: {{port: web, path: /from-the-node}}}}}}
  {MOUNT}
{SHARE}"
        ),
    );
    node.wait_line("up", "yes");
    node.remove("self");
    node.wait_gone("self");
    let requests = node.lines("request").join("\n");
    assert!(requests.contains("/from-the-node"), "{requests}");
}

#[test]
fn a_failing_post_start_kills_the_container_and_says_so() {
    let node = Node::start();
    let spec = |policy: &str| {
        format!(
            "
restartPolicy: {policy}
terminationGracePeriodSeconds: 2
containers:
- name: main
  image: $IMAGE
  command: [sh, -c, 'trap \"exit 9\" TERM; while true; do sleep 0.05; done']
  lifecycle: {{postStart: {{exec: {{command: [sh, -c, 'sleep 0.5; echo no luck; exit 3']}}}}}}
- {{name: other, image: $IMAGE, command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.05; done']}}
"
        )
    };
    node.apply("always", &spec("Always"));
    node.wait_agent_log(&["FailedPostStartHook", "always-node-1", "no luck"]);
    let pod = node.wait_pod("always", "to try again", |pod| restarts(pod, "main") >= 1);
    assert_eq!(last_state(&pod, "main"), "terminated Error 9");
    node.wait_pod("always", "to name the hook", |pod| {
        ["waiting PostStartHookError", "waiting CrashLoopBackOff"].contains(&state(pod, "main").as_str())
    });
    let pod = node.wait_state("always", "other", "running");
    assert_eq!(restarts(&pod, "other"), 0);
}

#[test]
fn a_failing_pre_stop_is_only_told() {
    let node = Node::start();
    node.apply(
        "bad-hook",
        &format!(
            "
terminationGracePeriodSeconds: 20
containers:
- name: main
  image: $IMAGE
  command: [sh, -c, 'trap \"echo told >> /share/log; exit 0\" TERM; echo up >> /share/log; while true; do sleep 0.05; done']
  lifecycle: {{preStop: {{exec: {{command: [sh, -c, 'exit 3']}}}}}}
  {MOUNT}
{SHARE}"
        ),
    );
    node.wait_line("log", "up");
    node.remove("bad-hook");
    node.wait_gone("bad-hook");
    node.wait_agent_log(&["FailedPreStopHook", "bad-hook-node-1"]);
    assert_eq!(node.lines("log"), ["up", "told"]);
}

#[test]
fn sleeping_hooks_delay_what_follows() {
    let node = Node::start();
    node.apply(
        "sleepy",
        &format!(
            "
terminationGracePeriodSeconds: 20
containers:
- name: one
  image: $IMAGE
  command: [sh, -c, 'trap \"cut -d. -f1 /proc/uptime > /share/told; exit 0\" TERM; cut -d. -f1 /proc/uptime > /share/one; while true; do sleep 0.05; done']
  lifecycle: {{postStart: {{sleep: {{seconds: 3}}}}, preStop: {{sleep: {{seconds: 3}}}}}}
  {MOUNT}
- {{name: two, image: $IMAGE, command: [sh, -c, 'trap \"exit 0\" TERM; cut -d. -f1 /proc/uptime > /share/two; while true; do sleep 0.05; done'], {MOUNT}}}
{SHARE}"
        ),
    );
    node.wait_ready("sleepy");
    let seconds = |file: &str| {
        wait::until(file, PATIENCE, || node.lines(file).first().cloned().ok_or_else(|| "nothing".to_owned()))
            .parse::<f64>()
            .unwrap()
    };
    assert!(seconds("two") - seconds("one") >= 2.0, "postStart is over before the next container");
    let asked = wait::uptime();
    node.remove("sleepy");
    node.wait_gone("sleepy");
    assert!(seconds("told") + 1.0 - asked >= 3.0, "preStop is over before the signal");
}

#[test]
fn a_hook_without_an_end_does_not_keep_a_pod() {
    let node = Node::start();
    node.apply(
        "endless",
        "
terminationGracePeriodSeconds: 2
containers:
- name: main
  image: $IMAGE
  command: [sh, -c, 'exec sleep 1000']
  lifecycle:
    postStart: {exec: {command: [sleep, '1000']}}
    preStop: {exec: {command: [sleep, '1000']}}
",
    );
    let pod = node.wait_pod("endless", "to have a running container", |pod| {
        !pods::container_id(pod, "main").is_empty() || node.agent_log().contains("Container started")
    });
    let asked = wait::uptime();
    node.remove("endless");
    node.wait_gone("endless");
    let took = wait::uptime() - asked;
    assert!(took < 20.0, "two seconds of grace took {took} s");
    assert!(!node.runtime.containers().contains(&pods::container_id(&pod, "main")));
}
