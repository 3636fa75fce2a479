//! TCP and gRPC probes: what upstream makes of every kind of server.

use crate::node::{Node, free_port};
use crate::pods::container_id;
use crate::probes_cases::{Case, Want, check};
use crate::probes_https::{certificate, config};
use crate::probes_servers::{Door, FullDoor, Health, HealthServer, Web, in_pod};

use Want::{Errs, Fails, Passes};

#[test]
fn probes_tcp_ports_of_every_kind() {
    let node = Node::start();
    let (open, full, web) = (Door::open(), FullDoor::new(), Web::start());
    let closed = free_port();
    let case = |name, action: String, want| Case { name, handler: format!("tcpSocket: {{{action}}}"), want };
    let cases = [
        case("open", format!("host: 127.0.0.1, port: {}", open.port), Passes),
        case("by name", format!("host: localhost, port: {}", web.port), Passes),
        case("closed", format!("host: 127.0.0.1, port: {closed}"), Fails("connect: connection refused")),
        case("full", format!("host: 127.0.0.1, port: {}", full.port), Fails(": i/o timeout")),
        case(
            "no such host",
            format!("host: nobody.invalid, port: {}", open.port),
            Fails("dial tcp: lookup nobody.invalid"),
        ),
        case(
            "not a host",
            format!("host: 'not a host', port: {}", open.port),
            Fails("dial tcp: lookup not a host"),
        ),
        case("nobody at its own address", "port: 9".to_owned(), Fails(":9: connect: connection refused")),
        case("no such port", "port: nope".to_owned(), Errs("nope")),
        case("no such port elsewhere", "host: 127.0.0.1, port: nope".to_owned(), Errs("nope")),
        case("the port of another", "port: named".to_owned(), Fails(":99: connect: connection refused")),
    ];
    check(&node, "tcp", "ports: [{name: named, containerPort: 99}]", &cases, |_| ());
}

#[test]
fn probes_grpc_servers_of_every_kind() {
    let node = Node::start();
    let (server, web) = (HealthServer::new(), Web::start());
    let case = |name: &'static str, health: Option<Health>, want| {
        let service = name.replace(' ', "-");
        if let Some(health) = health {
            server.set(&service, health);
        }
        Case {
            name,
            handler: format!("grpc: {{port: 5000, service: {service}}}\n    initialDelaySeconds: 8"),
            want,
        }
    };
    let at = |name, port: u16, want| Case {
        name,
        handler: format!("grpc: {{port: {port}}}\n    initialDelaySeconds: 8"),
        want,
    };
    server.set("", Health::Serving(1));
    let unhealthy = |word| Fails(word);
    let lacking = "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): ";
    let unreached = ":5001\" within 1s: context deadline exceeded";
    let cases = [
        at("the server as a whole", 5000, Passes),
        case("serving", Some(Health::Serving(1)), Passes),
        case(
            "not serving",
            Some(Health::Serving(2)),
            unhealthy("service unhealthy (responded with \"NOT_SERVING\")"),
        ),
        case(
            "unknown",
            Some(Health::Serving(0)),
            unhealthy("service unhealthy (responded with \"UNKNOWN\")"),
        ),
        case(
            "service unknown",
            Some(Health::Serving(3)),
            unhealthy("service unhealthy (responded with \"SERVICE_UNKNOWN\")"),
        ),
        case(
            "a number nobody knows",
            Some(Health::Serving(77)),
            unhealthy("service unhealthy (responded with \"77\")"),
        ),
        case(
            "nothing in it",
            Some(Health::Message(&[])),
            unhealthy("service unhealthy (responded with \"UNKNOWN\")"),
        ),
        case(
            "no such service",
            None,
            Fails("error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"),
        ),
        case(
            "refused",
            Some(Health::Fails(7, "not you")),
            Fails("rpc error: code = PermissionDenied desc = not you"),
        ),
        case("no health", Some(Health::Fails(12, "unknown method")), Fails(lacking)),
        case("a page that is not there", Some(Health::Page(404)), Fails(lacking)),
        case("a page", Some(Health::Page(200)), Fails("received unexpected content-type \"text/html\"")),
        case("a page of a proxy", Some(Health::Page(503)), Fails("code = Unavailable")),
        case(
            "nonsense",
            Some(Health::Message(&[0xff, 0xff, 0xff])),
            Fails("failed to unmarshal the received message"),
        ),
        case(
            "endless",
            Some(Health::Endless),
            Fails("error: health rpc probe failed: rpc error: code = ResourceExhausted"),
        ),
        case("silent", Some(Health::Silent), Fails("timeout: health rpc did not complete within 1s")),
        at("closed", 5001, Fails(unreached)),
        at("speaks HTTP/1", 5002, Fails(":5002\" within 1s: context deadline exceeded")),
        at("wants TLS", 5004, Fails(":5004\" within 1s: context deadline exceeded")),
        at("says nothing", 5003, Fails(":5003\" within 1s: context deadline exceeded")),
    ];
    let silent = std::sync::Mutex::new(vec![]);
    check(&node, "grpc", "", &cases, |pod| {
        let id = container_id(pod, "c0");
        server.serve(in_pod(&node, &id, 5000));
        web.serve(in_pod(&node, &id, 5002));
        let (der, key) = certificate(|_| (), &rcgen::PKCS_ECDSA_P256_SHA256);
        server.serve_tls(in_pod(&node, &id, 5004), config(rustls::ALL_VERSIONS, der, &key));
        silent.lock().unwrap().push(in_pod(&node, &id, 5003));
    });
    let headers = server.asked("serving").unwrap();
    let agent = headers["user-agent"].to_str().unwrap();
    assert!(agent.starts_with("kube-probe/1.36"), "{agent}");
    assert_eq!(headers["te"], "trailers");
}
