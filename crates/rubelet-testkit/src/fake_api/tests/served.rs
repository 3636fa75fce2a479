//! The server on a socket: who is who by certificate and token, and connections that break.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;

use super::node;
use crate::fake_api::{FakeApi, Identity, Options, Served, User};

type Sender = http2::SendRequest<Empty<bytes::Bytes>>;

async fn connect(served: &Served, identity: Option<&Identity>) -> Sender {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(served.ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(identity.cert_pem.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap(),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let address = served.url.strip_prefix("https://").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn get(sender: &mut Sender, url: &str, bearer: &str) -> Result<(u16, Value), hyper::Error> {
    let mut request = http::Request::get(format!("{url}/api/v1/nodes/n"));
    if !bearer.is_empty() {
        request = request.header("authorization", format!("Bearer {bearer}"));
    }
    let response = sender.send_request(request.body(Empty::new()).unwrap()).await?;
    let code = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((code, serde_json::from_slice(&body).unwrap()))
}

#[tokio::test]
async fn identity_comes_from_certificates_and_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let api = FakeApi::with(Options::wall_clock());
    api.create(&node("n"));
    let served = api.serve_tls(dir.path()).await.unwrap();
    let bootstrap = served.bootstrap_kubeconfig();
    assert!(std::fs::read_to_string(bootstrap).unwrap().contains("token: abcdef.0123456789abcdef"));
    let year = Duration::from_secs(365 * 24 * 3600);
    let me = served.identity(&User::named("system:node:n"), year);
    let other = served.identity(&User::named("system:node:m"), year);
    let expired = served.identity(&User::named("system:node:n"), Duration::ZERO);
    let stranger = {
        let elsewhere = FakeApi::with(Options::wall_clock()).serve_tls(dir.path()).await.unwrap();
        elsewhere.identity(&User::named("system:node:n"), year)
    };
    let table = [
        (Some(&me), "", 200),
        (Some(&other), "", 403),
        (Some(&expired), "", 401),
        (Some(&stranger), "", 401),
        (None, "", 403),
        (None, "nonsense", 401),
        (None, "abcdef.0123456789abcdef", 200),
    ];
    for (identity, bearer, expected) in table {
        let mut sender = connect(&served, identity).await;
        let (code, body) = get(&mut sender, &served.url, bearer).await.unwrap();
        assert_eq!(code, expected, "{bearer} {body}");
    }
    assert_eq!(served.accepted(), table.len());
    assert!(served.node_kubeconfig("n").exists() && served.admin_kubeconfig().exists());
}

#[tokio::test]
async fn connections_are_cut_and_frozen() {
    let dir = tempfile::tempdir().unwrap();
    let api = FakeApi::with(Options::wall_clock());
    api.create(&node("n"));
    let served = api.serve_tls(dir.path()).await.unwrap();
    let me = served.identity(&User::named("system:node:n"), Duration::from_secs(3600));
    let mut sender = connect(&served, Some(&me)).await;
    assert_eq!(get(&mut sender, &served.url, "").await.unwrap().0, 200);
    served.cut();
    while sender.is_ready() {
        tokio::task::yield_now().await;
    }
    assert!(get(&mut sender, &served.url, "").await.is_err());
    let mut frozen = connect(&served, Some(&me)).await;
    assert_eq!(get(&mut frozen, &served.url, "").await.unwrap().0, 200);
    served.freeze();
    let waited = tokio::time::timeout(Duration::from_millis(200), get(&mut frozen, &served.url, "")).await;
    assert!(waited.is_err(), "a frozen connection answers nothing: {waited:?}");
    let mut fresh = connect(&served, Some(&me)).await;
    assert_eq!(get(&mut fresh, &served.url, "").await.unwrap().0, 200);
}
