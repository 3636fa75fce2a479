//! Probes that were written wrongly, and what is told of them: neither the agent nor other containers suffer, nothing
//! is restarted for a probe that could not be made, and every event says what to change.

use crate::node::Node;
use crate::pods::{container, restarts, state};
use crate::probes_cases::{Case, Want, check, wait_event};
use crate::probes_servers::{Answer, Web};

use Want::{Errs, Fails, Passes};

#[test]
fn probes_input_targets_and_headers_that_make_no_sense() {
    let node = Node::start();
    let web = Web::start();
    web.page("/well", Answer::code(200));
    let port = web.port;
    let case = |name, action: String, want| Case { name, handler: format!("httpGet: {{{action}}}"), want };
    let header = |name: &'static str, header: &str, want| {
        case(name, format!("host: 127.0.0.1, port: {port}, path: /well, httpHeaders: [{{{header}}}]"), want)
    };
    let cases = [
        case("no such port", "port: nope".to_owned(), Errs("port \"nope\" not found: the container has web")),
        case(
            "no such host",
            format!("host: nobody.invalid, port: {port}"),
            Fails("dial tcp: lookup nobody.invalid"),
        ),
        case(
            "a host that is a URL",
            format!("host: 'http://127.0.0.1/', port: {port}"),
            Errs("parse \"http://[http:%2F%2F127.0.0.1%2F]:"),
        ),
        case(
            "a host with a space",
            format!("host: 'not a host', port: {port}"),
            Errs("parse \"http://not%20a%20host:"),
        ),
        case(
            "a host with a port",
            format!("host: '127.0.0.1:{port}', port: {port}"),
            Errs("parse \"http://[127.0.0.1:"),
        ),
        case("a name for a host", format!("host: localhost, port: {port}, path: /well"), Passes),
        header(
            "a newline in a header",
            "name: X-Word, value: \"a\\nX-Other: b\"",
            Fails("invalid header field value for \"X-Word\""),
        ),
        header(
            "a control character in a header",
            "name: X-Word, value: \"a\\u0001b\"",
            Fails("invalid header field value for \"X-Word\""),
        ),
        header(
            "a header with a letter of another script",
            "name: X-Word, value: \"\u{fc}ml\u{e4}ut\"",
            Passes,
        ),
        header("a host header of nonsense", "name: Host, value: \"a b\"", Passes),
        header("an empty header", "name: X-Word, value: ''", Passes),
        header("an empty host header", "name: Host, value: ''", Passes),
    ];
    check(&node, "input", "ports: [{name: web, containerPort: 8080}]", &cases, |_| ());
    let other = web.asked("/well").into_iter().find(|asked| asked.head.contains("X-Other"));
    assert!(other.is_none(), "a value is not to become a header: {other:?}");
}

#[test]
fn probes_input_that_validation_refuses_keeps_no_other_pod_away() {
    let node = Node::start();
    let pod =
        |probe: &str| format!("containers: [{{name: c, image: $IMAGE, command: [sleep, '1000'], {probe}}}]");
    // What is wrong, and where the agent says that it is.
    let refused = [
        ("none", "livenessProbe: {periodSeconds: 1}", "livenessProbe"),
        ("two", "livenessProbe: {exec: {command: [a]}, tcpSocket: {port: 1}}", "livenessProbe.tcpSocket"),
        ("empty", "readinessProbe: {exec: {command: []}}", "readinessProbe.exec.command"),
        ("port", "readinessProbe: {httpGet: {port: 0}}", "readinessProbe.httpGet.port"),
        ("high", "readinessProbe: {tcpSocket: {port: 65536}}", "readinessProbe.tcpSocket.port"),
        ("name", "readinessProbe: {tcpSocket: {port: UPPER_CASE}}", "readinessProbe.tcpSocket.port"),
        (
            "header",
            "startupProbe: {httpGet: {port: 1, httpHeaders: [{name: 'a b', value: c}]}}",
            "startupProbe.httpGet.httpHeaders",
        ),
        ("scheme", "startupProbe: {httpGet: {port: 1, scheme: ftp}}", "startupProbe.httpGet.scheme"),
        ("negative", "startupProbe: {tcpSocket: {port: 1}, periodSeconds: -1}", "startupProbe.periodSeconds"),
        (
            "success",
            "livenessProbe: {tcpSocket: {port: 1}, successThreshold: 2}",
            "livenessProbe.successThreshold",
        ),
        (
            "grace",
            "readinessProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: 5}",
            "readinessProbe.terminationGracePeriodSeconds",
        ),
        (
            "no-grace",
            "livenessProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: 0}",
            "livenessProbe.terminationGracePeriodSeconds",
        ),
    ];
    for (name, probe, _) in refused {
        node.apply(name, &pod(probe));
    }
    node.apply("well", &pod("livenessProbe: {exec: {command: ['true']}, periodSeconds: 1}, readinessProbe: {exec: {command: ['true']}}"));
    node.wait_ready("well");
    for (name, _, place) in refused {
        node.wait_agent_log(&[&format!("{name}.yaml"), place]);
    }
    let pods = node.pods();
    assert_eq!(pods.len(), 1, "{:?}", pods.iter().map(crate::pods::summary).collect::<Vec<_>>());
}

#[test]
fn probes_input_of_extreme_numbers() {
    let node = Node::start();
    let web = Web::start();
    web.page("/well", Answer::code(200));
    web.page("/ill", Answer::code(500));
    let port = web.port;
    let action = |path: &str| format!("httpGet: {{host: 127.0.0.1, port: {port}, path: {path}}}");
    let largest = i32::MAX;
    node.apply(
        "extreme",
        &format!(
            "
terminationGracePeriodSeconds: 1
containers:
- name: late
  image: $IMAGE
  command: [sleep, '1000']
  livenessProbe: {{{}, initialDelaySeconds: {largest}, periodSeconds: {largest}, timeoutSeconds: {largest}, failureThreshold: {largest}}}
  readinessProbe: {{{}, periodSeconds: {largest}, timeoutSeconds: {largest}}}
- name: patient
  image: $IMAGE
  command: [sleep, '1000']
  startupProbe: {{{}, periodSeconds: 1, failureThreshold: {largest}, timeoutSeconds: {largest}}}
- name: killed
  image: $IMAGE
  command: [sleep, '1000']
  livenessProbe: {{{}, periodSeconds: 1, failureThreshold: 1, terminationGracePeriodSeconds: 1}}
",
            action("/ill"),
            action("/well"),
            action("/ill"),
            action("/ill"),
        ),
    );
    // The first look at readiness does not wait for a period.
    node.wait_pod("extreme", "to have late ready", |pod| container(pod, "late").ready);
    wait_event(&node, "patient", "Unhealthy", "Startup probe failed: HTTP probe failed with statuscode: 500");
    let pod = node.wait_pod("extreme", "to restart what is killed", |pod| restarts(pod, "killed") >= 1);
    for name in ["late", "patient"] {
        assert_eq!((state(&pod, name).as_str(), restarts(&pod, name)), ("running", 0), "{name}");
    }
}
