//! What a probe costs: CPU of this process for a number of HTTP, HTTPS and TCP probes of a server in another process.
//!
//! `probe_cost serve` listens and prints its ports; `probe_cost PORT TLS_PORT [COUNT]` probes them.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rubelet_probes::target::Target;
use rubelet_probes::{ProbeOutcome, http, tcp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

async fn answer(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    let _ = stream.read(&mut [0; 2048]).await;
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
    let _ = stream.shutdown().await;
}

async fn serve() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let secure = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{} {}", listener.local_addr().unwrap().port(), secure.local_addr().unwrap().port());
    let cert = rcgen::generate_simple_self_signed(vec!["x".into()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(cert.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(std::sync::Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![cert.cert.der().clone()], key)
    .unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => drop(tokio::spawn(answer(stream))),
            Ok((stream, _)) = secure.accept() => {
                let tls = tls.clone();
                tokio::spawn(async move {
                    if let Ok(stream) = tls.accept(stream).await {
                        answer(stream).await;
                    }
                });
            }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if args[0] == "serve" {
        return serve().await;
    }
    let [port, secure] = [&args[0], &args[1]].map(|arg| arg.parse::<i32>().unwrap());
    let count: u32 = args.get(2).map_or(5000, |count| count.parse().unwrap());
    let container = Container::default();
    let target = Target { container: &container, pod_ip: "127.0.0.1" };
    let limit = Duration::from_secs(5);
    for (name, scheme, port) in [("http", "HTTP", port), ("https", "HTTPS", secure), ("tcp", "", port)] {
        let get = HTTPGetAction {
            path: Some("/healthz".into()),
            scheme: Some(scheme.into()),
            port: IntOrString::Int(port),
            ..Default::default()
        };
        let connect = TCPSocketAction { host: None, port: IntOrString::Int(port) };
        let before = cpu();
        for _ in 0..count {
            let outcome = match scheme {
                "" => tcp::connect(&connect, &target, limit).await,
                _ => http::get(&get, &target, "kube-probe/1.36", limit).await,
            };
            assert_eq!(outcome, ProbeOutcome::Success);
        }
        let used = cpu() - before;
        println!(
            "{name}: {:.1} us of CPU each, {:?} per 1,000",
            used.as_secs_f64() * 1e6 / f64::from(count),
            used * 1000 / count
        );
    }
}
