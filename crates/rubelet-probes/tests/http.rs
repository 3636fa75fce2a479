//! Upstream's outcomes, replayed.
//!
//! `upstream/http.json` has one row for each behaviour of a server and each way to ask: what the server does on each
//! connection, and what upstream's HTTP prober (`DoHTTPProbe` over Go's client, with its redirect rule and transport)
//! said of it and sent to it. The rows were recorded by running that code against servers that do just this; ours runs
//! against the same and has to say and send the same, to the letter. `ours` stands where ours differs on purpose.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, HTTPHeader};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rubelet_probes::target::Target;
use rubelet_probes::{ProbeOutcome, http};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

#[derive(Deserialize)]
struct Row {
    name: String,
    /// The protocol that the server speaks over TLS; no TLS without.
    tls: Option<String>,
    action: Action,
    /// The timeout in milliseconds, where it matters.
    ms: Option<u64>,
    /// What the server does on each connection, the last for all others; nobody listens without.
    conns: Option<Vec<Vec<Value>>>,
    /// What the server was asked.
    #[serde(default)]
    asked: Vec<String>,
    outcome: String,
    #[serde(default)]
    text: String,
    /// Our text, where it is not upstream's.
    ours: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Action {
    path: Option<String>,
    scheme: Option<String>,
    host: Option<String>,
    headers: Vec<(String, String)>,
}

type Asked = Arc<Mutex<Vec<String>>>;

/// How a connection ends.
enum End {
    Close,
    Reset,
}

/// Does what a row says on one connection.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    steps: &[Value],
    port: u16,
    asked: &Asked,
) -> End {
    let text =
        |step: &Value, at: usize| step[at].as_str().unwrap_or_default().replace("PORT", &port.to_string());
    for step in steps {
        match step[0].as_str().unwrap_or_default() {
            "once" => {
                let _ = stream.read(&mut [0; 4096]).await;
            }
            "read" => {
                let mut bytes = vec![];
                let mut part = [0; 4096];
                while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
                    match stream.read(&mut part).await {
                        Ok(count) if count > 0 => bytes.extend_from_slice(&part[..count]),
                        _ => break,
                    }
                }
                let text = String::from_utf8_lossy(&bytes).replace(&port.to_string(), "PORT");
                asked.lock().unwrap().push(text);
            }
            "write" => {
                let _ = stream.write_all(text(step, 1).as_bytes()).await;
                let _ = stream.flush().await;
            }
            "repeat" => {
                let part = text(step, 1);
                for _ in 0..step[2].as_u64().unwrap_or_default() {
                    if stream.write_all(part.as_bytes()).await.is_err() {
                        break;
                    }
                    let pause = step[3].as_u64().unwrap_or_default();
                    if pause > 0 {
                        let _ = stream.flush().await;
                        tokio::time::sleep(Duration::from_millis(pause)).await;
                    }
                }
            }
            "wait" => tokio::time::sleep(Duration::from_millis(step[1].as_u64().unwrap_or_default())).await,
            "reset" => return End::Reset,
            "hold" => std::future::pending().await,
            other => panic!("a step {other}"),
        }
    }
    End::Close
}

fn acceptor(protocol: &str) -> TlsAcceptor {
    let cert = rcgen::generate_simple_self_signed(vec!["someone.else".into()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(cert.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn connection(
    mut tcp: TcpStream,
    steps: Vec<Value>,
    tls: Option<TlsAcceptor>,
    port: u16,
    asked: Asked,
) {
    let Some(tls) = tls else {
        match serve(&mut tcp, &steps, port, &asked).await {
            End::Reset => tcp.set_zero_linger().unwrap(),
            End::Close => drop(tcp.shutdown().await),
        }
        return;
    };
    if let Ok(mut stream) = tls.accept(tcp).await {
        serve(&mut stream, &steps, port, &asked).await;
        let _ = stream.shutdown().await;
    }
}

/// `127.0.0.1:34567->` as `127.0.0.1:LOCAL->`.
fn without_local_port(text: &str) -> String {
    match text.split_once("->") {
        Some((before, after)) => {
            let start = before.trim_end_matches(|c: char| c.is_ascii_digit());
            format!("{start}LOCAL->{after}")
        }
        None => text.to_owned(),
    }
}

/// What a row comes to: nothing, or what is wrong with it.
async fn replay(row: Row) -> Option<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Asked::default();
    let server = row.conns.map(|conns| {
        let (asked, tls) = (asked.clone(), row.tls.as_deref().map(acceptor));
        tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for number in 0.. {
                let Ok((tcp, _)) = listener.accept().await else { break };
                let steps = conns[number.min(conns.len() - 1)].clone();
                connections.spawn(connection(tcp, steps, tls.clone(), port, asked.clone()));
            }
        })
    });
    let headers = row.action.headers.into_iter().map(|(name, value)| HTTPHeader { name, value }).collect();
    let action = HTTPGetAction {
        path: row.action.path,
        scheme: row.action.scheme,
        host: row.action.host,
        http_headers: Some(headers),
        port: IntOrString::Int(port.into()),
    };
    let container = Container::default();
    let target = Target { container: &container, pod_ip: "127.0.0.1" };
    let timeout = Duration::from_millis(row.ms.unwrap_or(30_000));
    let outcome = http::get(&action, &target, "kube-probe/1.36", timeout).await;
    if let Some(server) = server {
        server.abort();
    }
    let (kind, text) = match outcome {
        ProbeOutcome::Success => ("Success", String::new()),
        ProbeOutcome::Warning(text) => ("Warning", text),
        ProbeOutcome::Failure(text) => ("Failure", text),
        ProbeOutcome::Error(text) => ("Error", text),
    };
    let text = without_local_port(&text.replace(&port.to_string(), "PORT"));
    let expected = row.ours.unwrap_or(row.text);
    if (kind, &text) != (&row.outcome, &expected) {
        return Some(format!("{}: {kind} {text:?}, not {} {expected:?}", row.name, row.outcome));
    }
    let asked = asked.lock().unwrap().clone();
    (!row.asked.is_empty() && asked[..row.asked.len().min(asked.len())] != row.asked)
        .then(|| format!("{}: asked {asked:?}, not {:?}", row.name, row.asked))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_are_upstreams() {
    let rows: Vec<Row> = serde_json::from_str(include_str!("upstream/http.json")).unwrap();
    assert!(rows.len() > 200, "{}", rows.len());
    let mut wrong = vec![];
    let mut running = tokio::task::JoinSet::new();
    for row in rows {
        // Enough at a time that those that wait do not add up, few enough that none is late.
        if running.len() >= 16 {
            wrong.extend(running.join_next().await.unwrap().unwrap());
        }
        running.spawn(replay(row));
    }
    while let Some(result) = running.join_next().await {
        wrong.extend(result.unwrap());
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}
