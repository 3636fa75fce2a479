//! The plain HTTP side: `/healthz` on its own port, and the unauthenticated read-only port with `/healthz` and
//! `/pods`. Answers are made from snapshots; nothing here asks the runtime or waits for a worker.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::{PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::table::PodTable;

/// Connections at a time on one port; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 256;
/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What health is judged by.
#[derive(Clone)]
pub struct Health {
    /// When the sync loop last went round.
    pub heartbeat: watch::Receiver<Instant>,
    /// How long it may rest (upstream: twice syncFrequency, at least five minutes).
    pub limit: Duration,
}

impl Health {
    /// What is wrong, if anything.
    pub fn problem(&self) -> Option<String> {
        let rested = self.heartbeat.borrow().elapsed();
        (rested > self.limit)
            .then(|| format!("sync loop took {} s, longer than {} s", rested.as_secs(), self.limit.as_secs()))
    }
}

/// What a port serves.
#[derive(Clone)]
pub enum Site {
    /// `/healthz` only.
    Healthz(Health),
    /// `/healthz` and `/pods`.
    ReadOnly(Health, PodTable),
}

/// Binds a port.
///
/// # Errors
/// A text that says which address could not be bound and why.
pub async fn bind(what: &str, address: IpAddr, port: u16) -> Result<TcpListener, String> {
    let address = SocketAddr::new(address, port);
    TcpListener::bind(address).await.map_err(|error| format!("cannot serve {what} on {address}: {error}"))
}

/// Serves for ever; dropping it closes every connection.
pub async fn serve(listener: TcpListener, site: Site) {
    if let Ok(address) = listener.local_addr() {
        info!(%address, "serving HTTP");
    }
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: the clients wait, the agent goes on.
                warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let site = site.clone();
        connections.spawn(async move {
            let service = hyper::service::service_fn(|request| {
                let answer = answer(&site, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                debug!("a connection ended: {error}");
            }
            drop(place);
        });
    }
}

fn answer(site: &Site, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let (health, table) = match site {
        Site::Healthz(health) => (health, None),
        Site::ReadOnly(health, table) => (health, Some(table)),
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
    }
    match (path, table) {
        ("/healthz", _) | ("/healthz/syncloop", _) => match health.problem() {
            None => text(StatusCode::OK, "ok"),
            Some(problem) => {
                text(StatusCode::INTERNAL_SERVER_ERROR, &format!("[-]syncloop failed: {problem}\n"))
            }
        },
        ("/healthz/ping" | "/healthz/log", _) => text(StatusCode::OK, "ok"),
        ("/pods" | "/pods/", Some(table)) => pods(table),
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// As much of a PodList as `/pods` has, written straight from the rows: a tree of every pod in between would leave
/// the agent's heap several times as big. Items carry no kind, as upstream's do not.
#[derive(Serialize)]
struct PodList<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: ListMeta,
    items: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Item<'a> {
    metadata: &'a ObjectMeta,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<&'a PodSpec>,
    status: &'a PodStatus,
}

/// A v1 PodList of every pod with its newest status.
fn pods(table: &PodTable) -> Response<Full<Bytes>> {
    let rows = table.snapshot();
    let items = rows
        .values()
        .map(|row| Item { metadata: &row.pod.metadata, spec: row.pod.spec.as_ref(), status: &row.status })
        .collect();
    let list = PodList { kind: "PodList", api_version: "v1", metadata: ListMeta::default(), items };
    let list = match serde_json::to_vec(&list) {
        Ok(list) => list,
        Err(problem) => {
            return text(StatusCode::INTERNAL_SERVER_ERROR, &format!("cannot write the list: {problem}\n"));
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(list)));
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn get(address: SocketAddr, head: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn health_pods_and_the_rest() {
        let (beat, heartbeat) = watch::channel(Instant::now());
        let health = Health { heartbeat, limit: Duration::from_secs(300) };
        let table = PodTable::default();
        let pod = rubelet_core::Pod::default();
        table.publish(
            &"u".into(),
            crate::table::PodRow {
                pod: Arc::new(pod),
                status: Arc::new(k8s_openapi::api::core::v1::PodStatus {
                    phase: Some("Running".into()),
                    ..Default::default()
                }),
                state: rubelet_core::lifecycle::PodState::Syncing,
            },
        );
        let listener = bind("test", [127, 0, 0, 1].into(), 0).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Site::ReadOnly(health, table)));
        assert!(get(address, "GET /healthz HTTP/1.1").await.ends_with("\r\n\r\nok"));
        let pods = get(address, "GET /pods HTTP/1.1").await;
        assert!(pods.contains("\"kind\":\"PodList\"") && pods.contains("\"phase\":\"Running\""), "{pods}");
        assert!(get(address, "GET /exec HTTP/1.1").await.starts_with("HTTP/1.1 404"));
        assert!(get(address, "POST /pods HTTP/1.1").await.starts_with("HTTP/1.1 405"));
        if let Some(long_ago) = Instant::now().checked_sub(Duration::from_secs(600)) {
            beat.send_replace(long_ago);
            assert!(get(address, "GET /healthz HTTP/1.1").await.starts_with("HTTP/1.1 500"));
        }
    }
}
