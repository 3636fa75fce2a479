//! Who the server sees: certificates that are replaced, authorities that are replaced.

use rubelet_apiclient::connection::connect;

use crate::certs::Ca;
use crate::server::{Options, Server, text};
use crate::setup::{Setup, get, options};

const COMBINED: &str =
    "client-certificate: kubelet-client-current.pem\nclient-key: kubelet-client-current.pem";

#[tokio::test]
async fn speaks_http2_and_says_who_it_is() {
    let setup = Setup::ok().await;
    setup.write("kubelet-client-current.pem", &setup.ca.client("system:node:n1").combined());
    let (connections, identity) = setup.connect(COMBINED).await;
    assert_eq!(get(&connections.requests, "/version?x=1").await.unwrap(), "ok");
    let seen = setup.server.last();
    assert_eq!(seen.version, http::Version::HTTP_2);
    assert_eq!(seen.client.as_deref(), Some("system:node:n1"));
    assert_eq!(seen.uri, "/version?x=1");
    assert_eq!(seen.header("accept"), "application/json");
    assert_eq!(seen.header("authorization"), "");
    let agent = seen.header("user-agent");
    assert!(agent.starts_with("rubelet/0.1.0 (linux/") && agent.ends_with(") kubernetes/v1.36.2"), "{agent}");
    assert_eq!(identity.subject().as_deref(), Some("system:node:n1"));
    assert_eq!(identity.expires_at(), Some("2100-01-01T00:00:00Z".parse().unwrap()));
}

#[tokio::test]
async fn a_rotated_certificate_is_used_by_the_next_connection() {
    let setup = Setup::ok().await;
    setup.write("kubelet-client-current.pem", &setup.ca.client("old").combined());
    let (connections, identity) = setup.connect(COMBINED).await;
    get(&connections.requests, "/").await.unwrap();
    assert!(!identity.reload().await.unwrap(), "nothing has changed");

    setup.write("kubelet-client-current.pem", &setup.ca.client("new").combined());
    assert!(identity.reload().await.unwrap());
    get(&connections.requests, "/").await.unwrap();
    get(&connections.heartbeats, "/").await.unwrap();
    let who: Vec<_> = setup.server.seen().iter().map(|seen| seen.client.clone().unwrap()).collect();
    assert_eq!(who, ["old", "new", "new"]);

    let third = setup.ca.client("third").combined();
    identity.set_client_cert(third.as_bytes()).unwrap();
    get(&connections.requests, "/").await.unwrap();
    assert_eq!(setup.server.last().client.as_deref(), Some("third"));
    // The file that the rotation wrote holds the same: no news. And the old file does not undo it.
    assert!(!identity.reload().await.unwrap());
    setup.write("kubelet-client-current.pem", &third);
    assert!(!identity.reload().await.unwrap());
    assert_eq!(identity.subject().as_deref(), Some("third"));
}

#[tokio::test]
async fn a_half_replaced_pair_leaves_the_old_one() {
    let setup = Setup::ok().await;
    let (old, new) = (setup.ca.client("old"), setup.ca.client("new"));
    setup.write("c.crt", &old.certificate);
    setup.write("c.key", &old.key);
    let (connections, identity) = setup.connect("client-certificate: c.crt\nclient-key: c.key").await;
    setup.write("c.crt", &new.certificate);
    assert!(!identity.reload().await.unwrap());
    identity.close_all();
    get(&connections.requests, "/").await.unwrap();
    assert_eq!(setup.server.last().client.as_deref(), Some("old"));
    setup.write("c.key", &new.key);
    // A new connection looks at the files by itself.
    identity.close_all();
    get(&connections.requests, "/").await.unwrap();
    assert_eq!(setup.server.last().client.as_deref(), Some("new"));
}

#[tokio::test]
async fn a_401_makes_it_look_at_the_files() {
    let setup = Setup::new(|seen| async move {
        if seen.client.as_deref() == Some("new") { text(200, "ok") } else { text(401, "who?") }
    })
    .await;
    setup.write("kubelet-client-current.pem", &setup.ca.client("old").combined());
    let (connections, identity) = setup.connect(COMBINED).await;
    assert!(get(&connections.requests, "/").await.is_err());
    setup.write("kubelet-client-current.pem", &setup.ca.client("new").combined());
    assert_eq!(get(&connections.requests, "/").await.unwrap(), "ok");
    assert_eq!(identity.subject().as_deref(), Some("new"));
}

#[tokio::test]
async fn a_replaced_authority_is_trusted_by_the_next_connection() {
    let setup = Setup::ok().await;
    let (connections, identity) = setup.connect("token: t").await;
    get(&connections.requests, "/").await.unwrap();

    let other = Ca::new("other");
    let second = Server::start(Options { pair: Some(other.server()), ..Options::default() }, |_| async {
        text(200, "second")
    })
    .await;
    let mut access = setup.access("token: t");
    access.server = format!("https://{}", second.address).parse().unwrap();
    let (to_second, _) = connect(access, options()).await.unwrap();
    assert!(get(&to_second.requests, "/").await.is_err());
    setup.write("ca.crt", "half a fi");
    assert!(get(&to_second.requests, "/").await.is_err());
    setup.write("ca.crt", &other.pem);
    assert_eq!(get(&to_second.requests, "/").await.unwrap(), "second");
    // The first server is not trusted any more.
    identity.close_all();
    assert!(get(&connections.requests, "/").await.is_err());
}

#[tokio::test]
async fn an_authority_that_is_gone_or_broken_for_a_moment_costs_no_connection() {
    let setup = Setup::ok().await;
    let (connections, identity) = setup.connect("token: t").await;
    get(&connections.requests, "/").await.unwrap();
    std::fs::remove_file(setup.write("ca.crt", "half a fi")).unwrap();
    identity.close_all();
    assert_eq!(get(&connections.requests, "/").await.unwrap(), "ok");
    setup.write("ca.crt", "half a fi");
    identity.close_all();
    assert_eq!(get(&connections.requests, "/").await.unwrap(), "ok");
    // What can be used counts at once.
    setup.write("ca.crt", &Ca::new("other").pem);
    identity.close_all();
    assert!(get(&connections.requests, "/").await.is_err());
}

#[tokio::test]
async fn inline_data_works_like_files() {
    use base64::Engine as _;
    let setup = Setup::ok().await;
    let pair = setup.ca.client("inline");
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let user = format!(
        "client-certificate-data: {}\nclient-key-data: {}",
        encode(&pair.certificate),
        encode(&pair.key)
    );
    let cluster = format!("certificate-authority-data: {}", encode(&setup.ca.pem));
    let (connections, _) = connect(setup.access_with(&user, &cluster), options()).await.unwrap();
    get(&connections.requests, "/").await.unwrap();
    assert_eq!(setup.server.last().client.as_deref(), Some("inline"));
}

#[tokio::test]
async fn the_name_to_check_can_be_given_and_checking_left_out() {
    let ca_pair = |ca: &Ca| ca.server_valid(&["api.internal"], (2000, 2100));
    let setup = Setup::ok().await;
    let named = Server::start(Options { pair: Some(ca_pair(&setup.ca)), ..Options::default() }, |_| async {
        text(200, "ok")
    })
    .await;
    let reach = |cluster: &'static str| {
        let mut access = setup.access_with("token: t", cluster);
        access.server = format!("https://{}", named.address).parse().unwrap();
        async move {
            let (connections, _) = connect(access, options()).await.unwrap();
            get(&connections.requests, "/").await.is_ok()
        }
    };
    assert!(!reach("certificate-authority: ca.crt").await);
    assert!(reach("certificate-authority: ca.crt\ntls-server-name: api.internal").await);
    assert!(reach("insecure-skip-tls-verify: true").await);
}
