//! What a person is told about each thing that can be wrong.

use rubelet_apiclient::connection::{ConnectFailure, Facts, TransportError, connect, explain};
use tokio::net::TcpListener;

use crate::certs::{Ca, Pair};
use crate::server::{Options, Server, text};
use crate::setup::{Setup, get, options, options_at};

/// Connects at `now` to a server with this certificate and gives the explanation of the failure.
async fn against(setup: &Setup, pair: Pair, now: &str) -> String {
    let server =
        Server::start(Options { pair: Some(pair), ..Options::default() }, |_| async { text(200, "ok") })
            .await;
    let mut access = setup.access("token: t");
    access.server = format!("https://{}", server.address).parse().unwrap();
    let (connections, identity) = connect(access, options_at(now)).await.unwrap();
    let error = get(&connections.requests, "/").await.unwrap_err();
    identity.explain(&error)
}

fn check(explanation: &str, parts: &[&str]) {
    for part in parts {
        assert!(explanation.contains(part), "{part:?} is not in: {explanation}");
    }
}

#[tokio::test]
async fn of_server_certificates() {
    let setup = Setup::ok().await;
    let now = "2026-06-01T12:00:00Z";
    let other = against(&setup, Ca::new("cluster").server(), now).await;
    let ca_file = setup.path("ca.crt");
    check(&other, &["signed by another authority", ca_file.to_str().unwrap()]);
    let old = against(&setup, setup.ca.server_valid(&["127.0.0.1"], (2020, 2025)), now).await;
    check(&old, &["expired at 2025-01-01T00:00:00Z", "it is 2026-06-01T12:00:00Z here"]);
    let slow =
        against(&setup, setup.ca.server_valid(&["127.0.0.1"], (2020, 2030)), "1970-01-02T00:00:00Z").await;
    check(&slow, &["not valid before 2020-01-01T00:00:00Z", "1970-01-02T00:00:00Z here", "clock"]);
    let name = against(&setup, setup.ca.server_valid(&["kubernetes.default"], (2020, 2030)), now).await;
    check(&name, &["is not for 127.0.0.1", "kubernetes.default", "tls-server-name"]);
}

#[tokio::test]
async fn of_unreachable_servers() {
    let setup = Setup::ok().await;
    // A port that was just free.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut access = setup.access("token: t");
    access.server = format!("https://{address}").parse().unwrap();
    let (connections, identity) = connect(access, options()).await.unwrap();
    let error = get(&connections.requests, "/").await.unwrap_err();
    check(&identity.explain(&error), &[&address.to_string(), "refuses connections"]);

    let plain = Server::start(Options::default(), |_| async { text(200, "ok") }).await;
    let mut access = setup.access("token: t");
    access.server = format!("https://{}", plain.address).parse().unwrap();
    let (connections, identity) = connect(access, options()).await.unwrap();
    let error = get(&connections.requests, "/").await.unwrap_err();
    check(&identity.explain(&error), &["does not speak TLS"]);

    let access = setup.access("token: t");
    let facts = Facts { now: jiff::Timestamp::UNIX_EPOCH, identity: None, certificate: None };
    let failing = |failure| {
        let error = kube::Error::Service(Box::new(TransportError::Connect(std::sync::Arc::new(failure))));
        explain(&error, &access, &facts)
    };
    let source = || std::io::Error::other("no such name");
    check(
        &failing(ConnectFailure::Dns { host: "api.example".into(), source: source() }),
        &["api.example", "DNS"],
    );
    let silent = ConnectFailure::TimedOut {
        address: "192.0.2.1:6443".into(),
        after: std::time::Duration::from_secs(10),
    };
    check(&failing(silent), &["192.0.2.1:6443 does not answer within 10 s", "firewalls"]);
}

#[tokio::test]
async fn of_refused_identities() {
    let setup = Setup::new(|seen| async move {
        let code = if seen.uri == "/forbidden" { 403 } else { 401 };
        let status = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "node n2 is not yours",
        });
        text(code, &status.to_string())
    })
    .await;
    const USER: &str = "client-certificate: c.pem\nclient-key: c.pem";
    let client = setup.ca.client_valid("system:node:n1", (2020, 2100)).combined();
    let file = setup.write("c.pem", &client);
    let said = async |now: &str, path: &str| {
        let (connections, identity) = connect(setup.access(USER), options_at(now)).await.unwrap();
        let error = get(&connections.requests, path).await.unwrap_err();
        identity.explain(&error)
    };
    let unknown = said("2026-06-01T12:00:00Z", "/").await;
    check(&unknown, &["401", "system:node:n1", file.to_str().unwrap(), "another cluster's authority"]);
    let forbidden = said("2026-06-01T12:00:00Z", "/forbidden").await;
    check(&forbidden, &["403", "node n2 is not yours", "comes as \"system:node:n1\"", "--hostname-override"]);
    let (connections, identity) = setup.connect("token: t").await;
    let error = get(&connections.requests, "/").await.unwrap_err();
    check(&identity.explain(&error), &["does not accept the token in", "kubeconfig"]);
}

#[tokio::test]
async fn of_an_expired_certificate_of_ones_own() {
    // The server refuses it in TLS; an API server says 401.
    let setup = Setup::with(|options| options.require = true, |_| async { text(401, "who?") }).await;
    let file = setup.write("c.pem", &setup.ca.client_valid("system:node:n1", (2020, 2022)).combined());
    let user = "client-certificate: c.pem\nclient-key: c.pem";
    let (connections, identity) = setup.connect(user).await;
    let error = get(&connections.requests, "/").await.unwrap_err();
    let parts =
        [file.to_str().unwrap(), "expired at 2022-01-01T00:00:00Z", "it is 2026-06-01T12:00:00Z here"];
    check(&identity.explain(&error), &parts);

    let foreign = Ca::new("foreign").client("system:node:n1").combined();
    identity.set_client_cert(foreign.as_bytes()).unwrap();
    let error = get(&connections.requests, "/").await.unwrap_err();
    check(&identity.explain(&error), &["does not accept the client certificate"]);
}

#[tokio::test]
async fn of_missing_files() {
    let setup = Setup::ok().await;
    let said = async |user: &str| {
        let Err(error) = connect(setup.access(user), options()).await else { panic!("{user} works") };
        let mut text = error.to_string();
        let mut next = std::error::Error::source(&error);
        while let Some(source) = next {
            text = format!("{text}: {source}");
            next = source.source();
        }
        text
    };
    check(&said("tokenFile: nowhere").await, &["token file", "nowhere cannot be read"]);
    check(&said("client-certificate: a\nclient-key: b").await, &["client certificate", "cannot be read"]);
    let (one, two) = (setup.ca.client("one"), setup.ca.client("two"));
    setup.write("a", &one.certificate);
    setup.write("b", &two.key);
    check(&said("client-certificate: a\nclient-key: b").await, &["do not belong together", "/a with key"]);
    setup.write("b", "");
    check(&said("client-certificate: a\nclient-key: b").await, &["no private key"]);
}
