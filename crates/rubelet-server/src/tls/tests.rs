//! Handshakes with real clients: what is spoken, what is shown, who is believed, and all of it while it changes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustls::client::ResolvesClientCert;
use rustls::crypto::{CryptoProvider, ring};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, SignatureScheme,
    SupportedProtocolVersion,
};
use std::sync::Mutex;
use tokio::io::DuplexStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::test_pki::{Pair, TestCa, client, client_with, year};
use super::*;

/// A handshake of this client with this server, which shows what it was shown.
async fn shake(
    tls: &Tls,
    config: ClientConfig,
) -> std::io::Result<(TlsStream<DuplexStream>, Vec<rustls::pki_types::CertificateDer<'static>>)> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let tls = tls.clone();
    let server = tokio::spawn(async move { tls.accept(far, ([127, 0, 0, 1], 1).into()).await });
    let name = "localhost".try_into().unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, near).await?;
    let (_server, peer) = server.await.unwrap()?;
    Ok((stream, peer.certificates))
}

fn settings(min_version: &str, suites: &[&str], curves: &[i32]) -> TlsSettings {
    TlsSettings {
        min_version: min_version.to_owned(),
        cipher_suites: suites.iter().map(|&s| s.to_owned()).collect(),
        curves: curves.to_vec(),
    }
}

fn server(settings: &TlsSettings, ca: &TestCa) -> (Tls, Vec<String>) {
    Tls::new(settings, ca.server().serving(), ClientCa::none()).unwrap()
}

const NEWEST: &[&SupportedProtocolVersion] = &[&TLS13];
const OLDER: &[&SupportedProtocolVersion] = &[&TLS12];

/// A client that can do only this.
fn only(
    suite: Option<CipherSuite>,
    group: Option<NamedGroup>,
) -> (CryptoProvider, &'static [&'static SupportedProtocolVersion]) {
    let mut provider = ring::default_provider();
    let mut versions: &[_] = rustls::ALL_VERSIONS;
    if let Some(suite) = suite {
        provider.cipher_suites.retain(|known| known.suite() == suite);
        versions = if provider.cipher_suites[0].tls13().is_some() { NEWEST } else { OLDER };
    }
    if let Some(group) = group {
        provider.kx_groups.retain(|known| known.name() == group);
    }
    (provider, versions)
}

const AES128: CipherSuite = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
const AES256: CipherSuite = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384;
const CHACHA: CipherSuite = CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
const NEW: CipherSuite = CipherSuite::TLS13_AES_128_GCM_SHA256;

#[tokio::test]
async fn versions_suites_and_curves_are_those_of_the_configuration() {
    let ca = TestCa::new("ca");
    let suites: &[(&str, &[&str], [bool; 4])] = &[
        // What a client of AES128, AES256, ChaCha (TLS 1.2 all) and of TLS 1.3 gets.
        ("", &[], [true, true, true, true]),
        ("VersionTLS10", &[], [true, true, true, true]),
        ("VersionTLS12", &["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"], [false, true, false, true]),
        ("", &["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305"], [false, false, true, true]),
        ("VersionTLS13", &[], [false, false, false, true]),
        ("VersionTLS13", &["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"], [false, false, false, true]),
        ("", &["TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_AES_128_GCM_SHA256"], [false, false, false, true]),
    ];
    for (min_version, names, expected) in suites {
        let (tls, _) = server(&settings(min_version, names, &[]), &ca);
        for (suite, expected) in [AES128, AES256, CHACHA, NEW].into_iter().zip(expected) {
            let (provider, versions) = only(Some(suite), None);
            let shaken = shake(&tls, client_with(&ca, None, provider, versions, "h2")).await;
            assert_eq!(shaken.is_ok(), *expected, "{min_version} {names:?} {suite:?}");
            if let Ok((stream, _)) = shaken {
                let session = stream.get_ref().1;
                assert_eq!(session.negotiated_cipher_suite().unwrap().suite(), suite);
                assert_eq!(session.alpn_protocol(), Some(b"h2".as_slice()));
            }
        }
    }
    let groups = [NamedGroup::secp256r1, NamedGroup::secp384r1, NamedGroup::X25519];
    for (curves, expected) in [
        (vec![], [true, true, true]),
        (vec![23], [true, false, false]),
        (vec![29, 24], [false, true, true]),
        (vec![4588, 25, 29], [false, false, true]),
    ] {
        let (tls, _) = server(&settings("", &[], &curves), &ca);
        for (group, expected) in groups.into_iter().zip(expected) {
            for versions in [OLDER, NEWEST] {
                let (provider, _) = only(None, Some(group));
                let shaken = shake(&tls, client_with(&ca, None, provider, versions, "http/1.1")).await;
                assert_eq!(shaken.is_ok(), expected, "{curves:?} {group:?}");
            }
        }
        let best = shake(&tls, client(&ca, None, "h2")).await.unwrap().0;
        assert_eq!(best.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    }
}

#[test]
fn what_cannot_be_done_is_told_and_what_nobody_knows_is_refused() {
    let ca = TestCa::new("ca");
    let warnings = |settings: &TlsSettings| server(settings, &ca).1;
    assert_eq!(warnings(&TlsSettings::default()), [""; 0]);
    let told = warnings(&settings(
        "VersionTLS11",
        &["TLS_RSA_WITH_RC4_128_SHA", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"],
        &[23, 4588],
    ));
    assert_eq!(
        told,
        [
            "tlsMinVersion VersionTLS11: older versions than TLS 1.2 are not supported, 1.2 and 1.3 are served",
            "tlsCipherSuites: not supported and left out: TLS_RSA_WITH_RC4_128_SHA",
            "tlsCurvePreferences: not supported and left out: 4588 (X25519MLKEM768)",
        ]
    );
    let told = warnings(&settings("", &["TLS_AES_256_GCM_SHA384"], &[]));
    assert_eq!(told, ["tlsCipherSuites: no suite of TLS 1.2 is left, only TLS 1.3 is served"]);
    let told = warnings(&settings("VersionTLS13", &["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"], &[]));
    assert!(told[0].contains("cannot be chosen"), "{told:?}");

    let refused = |settings: TlsSettings| {
        Tls::new(&settings, ServingCert::none(), ClientCa::none()).err().unwrap().to_string()
    };
    assert_eq!(refused(settings("TLS13", &[], &[])), "unknown tls version \"TLS13\"");
    assert_eq!(refused(settings("", &["AES"], &[])), "Cipher suite AES not supported or doesn't exist");
    assert_eq!(
        refused(settings("", &[], &[70000])),
        "curve preference 70000 is out of range (must be 1-65535)"
    );
    assert_eq!(refused(settings("", &[], &[29, 29])), "duplicate curve preference 29");
    assert!(refused(settings("", &[], &[4588, 25])).starts_with("none of tlsCurvePreferences is supported"));
}

#[test]
fn every_suite_that_the_configuration_may_name_is_known() {
    // The names of Go's crypto/tls, with the two that upstream keeps for old configurations.
    for name in
        ["TLS_AES_128_GCM_SHA256", "TLS_RSA_WITH_3DES_EDE_CBC_SHA", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"]
    {
        let made = Tls::new(&settings("", &[name], &[]), ServingCert::none(), ClientCa::none());
        assert!(made.is_ok(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_shake_hands_is_not_waited_for() {
    let (tls, _) = server(&TlsSettings::default(), &TestCa::new("ca"));
    let (_near, far) = tokio::io::duplex(1024);
    let begun = tokio::time::Instant::now();
    tls.accept(far, ([127, 0, 0, 1], 1).into()).await.err().unwrap();
    assert_eq!(begun.elapsed(), HANDSHAKE);
}

#[tokio::test]
async fn no_session_is_resumed() {
    let (ca, mine) = (TestCa::new("ca"), TestCa::new("clients"));
    let believed = ClientCa::from_pem(mine.pem.as_bytes()).unwrap();
    let (tls, _) = Tls::new(&TlsSettings::default(), ca.server().serving(), believed).unwrap();
    for versions in [OLDER, NEWEST] {
        let config = client_with(&ca, None, ring::default_provider(), versions, "h2");
        for _ in 0..3 {
            let (stream, _) = shake(&tls, config.clone()).await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        }
    }
}

#[tokio::test]
async fn without_a_certificate_handshakes_fail_until_there_is_one() {
    let ca = TestCa::new("ca");
    let cert = ServingCert::none();
    let (tls, _) = Tls::new(&TlsSettings::default(), cert.clone(), ClientCa::none()).unwrap();
    assert_eq!(cert.leaf(), None);
    shake(&tls, client(&ca, None, "h2")).await.unwrap_err();
    let pair = ca.server();
    cert.replace(pair.cert.as_bytes(), pair.key.as_bytes()).unwrap();
    shake(&tls, client(&ca, None, "h2")).await.unwrap();

    assert_eq!(cert.leaf(), Some(pair.der()));

    let other = ca.server();
    for (certificates, key) in
        [("", pair.key.as_str()), (&pair.cert, ""), (&pair.cert, &other.key), ("\0", "\0")]
    {
        cert.replace(certificates.as_bytes(), key.as_bytes()).unwrap_err();
    }
    let (stream, _) = shake(&tls, client(&ca, None, "h2")).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], pair.der(), "the good one stays");
}

/// Shows its certificate whatever it is asked for, and keeps what it was asked for.
#[derive(Debug)]
struct Asked {
    own: Arc<CertifiedKey>,
    hints: Mutex<Vec<Vec<u8>>>,
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        *self.hints.lock().unwrap() = hints.iter().map(|hint| hint.to_vec()).collect();
        Some(self.own.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn asked(pair: &Pair) -> Arc<Asked> {
    use rustls::pki_types::pem::PemObject as _;
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let own = CertifiedKey::from_der(vec![pair.der()], key, &ring::default_provider()).unwrap();
    Arc::new(Asked { own: Arc::new(own), hints: Mutex::default() })
}

#[tokio::test]
async fn clients_are_asked_for_what_counts_now_and_let_in_whatever_they_show() {
    let (ca, first, second) = (TestCa::new("ca"), TestCa::new("first"), TestCa::new("second"));
    let (own, foreign) = (first.client("jane", &[]), second.client("joe", &[]));
    let believed = ClientCa::none();
    let (tls, _) = Tls::new(&TlsSettings::default(), ca.server().serving(), believed.clone()).unwrap();

    let (_, shown) = shake(&tls, client(&ca, Some(&own), "h2")).await.unwrap();
    assert_eq!(shown, [], "nobody is asked when nobody's counts");

    for (authority, counts) in [(&first, [true, false]), (&second, [false, true])] {
        assert!(believed.replace(authority.pem.as_bytes()).unwrap());
        assert!(!believed.replace(authority.pem.as_bytes()).unwrap(), "it is the same");
        for (pair, counts) in [&own, &foreign].into_iter().zip(counts) {
            let asked = asked(pair);
            let mut config = client(&ca, None, "h2");
            config.client_auth_cert_resolver = asked.clone();
            let (_, shown) = shake(&tls, config).await.unwrap();
            assert_eq!(shown, [pair.der()]);
            let hints = asked.hints.lock().unwrap().clone();
            let name = if std::ptr::eq(authority, &first) { "first" } else { "second" };
            let named = |hint: &Vec<u8>| hint.windows(name.len()).any(|part| part == name.as_bytes());
            assert!(hints.len() == 1 && named(&hints[0]), "{hints:?}");
            assert_eq!(believed.verify(&pair.peer(), year(2026)).is_some(), counts);
        }
        let (_, shown) = shake(&tls, client(&ca, None, "h2")).await.unwrap();
        assert_eq!(shown, [], "nobody has to show anything");
    }
    believed.replace(b"").unwrap_err();
    believed.replace(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap_err();
    assert!(believed.verify(&foreign.peer(), year(2026)).is_some(), "those before stay");
}

#[test]
fn a_certificate_counts_in_its_time_for_its_purpose_and_by_its_authority() {
    let (first, second) = (TestCa::new("first"), TestCa::new("second"));
    let both = ClientCa::from_pem(format!("{}junk\n{}", first.pem, second.pem).as_bytes()).unwrap();
    let one = ClientCa::from_pem(first.pem.as_bytes()).unwrap();
    let (own, foreign, server) = (first.client("jane", &[]), second.client("joe", &[]), first.server());
    let check = |ca: &ClientCa, pair: &Pair, at: i16| ca.verify(&pair.peer(), year(at)).is_some();
    assert!(check(&one, &own, 2026) && check(&both, &own, 2026) && check(&both, &foreign, 2026));
    assert!(!check(&one, &foreign, 2026), "of nobody that is known");
    assert!(!check(&one, &server, 2026), "not for clients");
    assert!(!check(&one, &own, 2019) && !check(&one, &own, 2041), "not in its time");
    assert!(!check(&ClientCa::none(), &own, 2026));
    let mut nobody = own.peer();
    nobody.certificates.clear();
    assert!(one.verify(&nobody, year(2026)).is_none());
}

#[test]
fn an_authority_counts_in_its_time() {
    let (old, living) = (TestCa::until("old", 2025), TestCa::new("living"));
    let (of_old, of_living) = (old.client("jane", &[]), living.client("joe", &[]));
    let both = ClientCa::from_pem(format!("{}{}", old.pem, living.pem).as_bytes()).unwrap();
    let only_old = ClientCa::from_pem(old.pem.as_bytes()).unwrap();
    let check = |ca: &ClientCa, pair: &Pair, at: i16| ca.verify(&pair.peer(), year(at)).is_some();
    assert!(check(&both, &of_old, 2024) && check(&both, &of_living, 2024) && check(&only_old, &of_old, 2024));
    assert!(!check(&both, &of_old, 2026) && !check(&only_old, &of_old, 2026), "its time is over");
    assert!(check(&both, &of_living, 2026), "the others count on");
}

mod under_load {
    use bytes::Bytes;
    use futures::future::BoxFuture;
    use http::{Request, Response};
    use http_body_util::{BodyExt as _, Empty};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::net::TcpStream;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::body::{Body, whole};
    use crate::listen::{Front, Listener, Peer};

    /// Says who counts.
    struct Door(ClientCa);

    impl Front for Door {
        fn answer<'a>(&'a self, peer: &'a Peer, request: Request<Body>) -> BoxFuture<'a, Response<Body>> {
            Box::pin(async move {
                // What was sent is read to its end, so that a connection that is cut off would show.
                let _ = request.into_body().collect().await;
                let known = self.0.verify(peer, year(2026)).is_some();
                let body = whole("x".repeat(20_000));
                Response::builder().status(if known { 200 } else { 403 }).body(body).unwrap()
            })
        }
    }

    async fn connect(
        address: std::net::SocketAddr,
        config: &Arc<ClientConfig>,
    ) -> hyper::client::conn::http2::SendRequest<Empty<Bytes>> {
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let stream = TlsConnector::from(config.clone()).connect(name, tcp).await.unwrap();
        let (send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        send
    }

    async fn ask(send: &mut hyper::client::conn::http2::SendRequest<Empty<Bytes>>) -> u16 {
        let request = Request::get("https://localhost/").body(Empty::new()).unwrap();
        let response = send.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 20_000);
        status
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn certificates_are_replaced_without_a_dropped_connection() {
        let (ca, clients) = (TestCa::new("ca"), TestCa::new("clients"));
        let identity = clients.client("prometheus", &[]);
        let (cert, believed) = (ca.server().serving(), ClientCa::from_pem(clients.pem.as_bytes()).unwrap());
        let (tls, _) = Tls::new(&TlsSettings::default(), cert.clone(), believed.clone()).unwrap();
        let listener = Listener::bind("the test", ([127, 0, 0, 1], 0).into(), Some(tls)).await.unwrap();
        let (address, end) = (listener.address(), CancellationToken::new());
        let served = tokio::spawn(listener.serve(Arc::new(Door(believed.clone())), end.clone()));

        let config = Arc::new(client(&ca, Some(&identity), "h2"));
        let (over, kept, made) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..6 {
            let (over, kept, made, config) = (over.clone(), kept.clone(), made.clone(), config.clone());
            tasks.spawn(async move {
                let mut send = connect(address, &config).await;
                while !over.load(Ordering::Relaxed) {
                    if number % 2 == 0 {
                        send = connect(address, &config).await;
                        made.fetch_add(1, Ordering::Relaxed);
                    } else {
                        kept.fetch_add(1, Ordering::Relaxed);
                    }
                    assert_eq!(ask(&mut send).await, 200);
                }
            });
        }
        let mut last = ca.server();
        let mut swaps = 0;
        while swaps < 40 || made.load(Ordering::Relaxed) < 60 || kept.load(Ordering::Relaxed) < 60 {
            last = ca.server();
            cert.replace(last.cert.as_bytes(), last.key.as_bytes()).unwrap();
            // A bundle that still holds the authority is another one: handshakes are set up anew.
            let bundle = format!("{}{}", clients.pem, TestCa::new("next").pem);
            believed.replace(bundle.as_bytes()).unwrap();
            swaps += 1;
            tokio::task::yield_now().await;
            assert!(!tasks.is_empty());
        }
        over.store(true, Ordering::Relaxed);
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let stream = TlsConnector::from(config.clone()).connect(name, tcp).await.unwrap();
        assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], last.der(), "the newest is shown");

        // Who is believed no longer is so on open connections too.
        let mut send = connect(address, &config).await;
        assert_eq!(ask(&mut send).await, 200);
        believed.replace(TestCa::new("another").pem.as_bytes()).unwrap();
        assert_eq!(ask(&mut send).await, 403);
        end.cancel();
        served.await.unwrap();
    }
}

#[test]
fn a_self_signed_certificate_says_what_upstreams_says() {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let addresses = ["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    let pair = self_signed::self_signed("node-1", &addresses, year(2026)).unwrap();
    let shown = ServingCert::none();
    shown.replace(pair.certificates.as_bytes(), pair.key.as_bytes()).unwrap();
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pair.certificates.as_bytes()).collect::<Result<_, _>>().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(chain[1].clone()).unwrap();
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::new(ring::default_provider()),
    )
    .build()
    .unwrap();
    let verify = |name: &str, at: i64| {
        use rustls::client::danger::ServerCertVerifier as _;
        let now = std::time::Duration::from_secs(at.cast_unsigned());
        let moment = rustls::pki_types::UnixTime::since_unix_epoch(now);
        let name = rustls::pki_types::ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], moment).is_ok()
    };
    let now = year(2026).as_second();
    for name in ["node-1", "10.0.0.7", "fd00::7"] {
        assert!(verify(name, now), "{name}");
    }
    assert!(!verify("node-2", now));
    let (hour, year_long) = (3600, 365 * 24 * 3600);
    assert!(verify("node-1", now - hour) && !verify("node-1", now - hour - 1));
    assert!(verify("node-1", now - hour + year_long) && !verify("node-1", now - hour + year_long + 1));
    self_signed::self_signed("n\u{f6}de", &[], year(2026)).err().unwrap();
}

#[test]
fn self_signed_certificates_are_known_by_their_names() {
    for (name, expected) in [
        ("n1@1700000000", true),
        ("10.0.0.1@1700000000", true),
        ("n1", false),
        ("@1700000000", false),
        ("n1@x", false),
        ("system:node:n1", false),
        ("", false),
    ] {
        assert_eq!(self_signed::is_self_signed(name), expected, "{name}");
    }
}
