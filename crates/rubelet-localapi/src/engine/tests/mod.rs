//! Tests of the whole engine over a store in memory: a request line in, code and JSON out.

mod admission;
mod chaos;
mod lists;
mod metrics;
mod objects;
mod patches;
mod paths;
mod pods;
mod proxy;
mod watches;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use jiff::Timestamp;
use rubelet_apimachinery::User;
use rubelet_apimachinery::strategy::Settings;
use rubelet_core::stats::usage::NodeUsage;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{AdmitAll, AllowAll, Api, ApiOptions, NoReviews, body, seeded};
use crate::node::{Body, Endpoint, NodeStreams};
use crate::store::{LogLimits, RecentLimits, Store, StoreOptions};

/// 2026-01-01T00:00:00Z, and what has passed of tokio's time since the test began.
fn clock() -> super::Now {
    let start = tokio::time::Instant::now();
    Arc::new(move || {
        let passed = i64::try_from(start.elapsed().as_secs()).unwrap();
        Timestamp::from_second(1_767_225_600 + passed).unwrap()
    })
}

/// A node that says what it was asked.
struct Echo {
    /// When it was made, for what it uses since.
    start: tokio::time::Instant,
}

impl NodeStreams for Echo {
    fn serve(&self, endpoint: Endpoint, pod: Value, request: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        let said = format!(
            "{endpoint:?} {} {}",
            pod["metadata"]["name"].as_str().unwrap_or_default(),
            request.uri().query().unwrap_or_default()
        );
        Box::pin(async move { Response::new(body::whole(said)) })
    }

    fn proxy(&self, request: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        let mut said = format!("{} {}", request.method(), request.uri());
        for (name, value) in request.headers() {
            said += &format!("\n{name}: {}", value.to_str().unwrap());
        }
        let answer =
            Response::builder().header("access-control-allow-origin", "*").header("location", "/there/");
        Box::pin(async move { answer.body(body::whole(said)).unwrap() })
    }

    fn usage(&self) -> BoxFuture<'_, Option<Arc<NodeUsage>>> {
        let passed = self.start.elapsed();
        Box::pin(async move { Some(Arc::new(metrics::reading(passed))) })
    }
}

/// A server with the namespace `default`, its service account, and the node `n1`.
struct Server {
    api: Api,
    stopping: CancellationToken,
}

/// An answer, read whole.
struct Answer {
    code: u16,
    headers: HeaderMap,
    bytes: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("{:?}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

impl Server {
    /// What a server over an empty store is made of.
    fn options(log: LogLimits) -> ApiOptions {
        let now = clock();
        let recent = RecentLimits { events: 4, ..RecentLimits::default() };
        let store = Store::in_memory(StoreOptions { log, recent, ..StoreOptions::new(now.clone()) }).unwrap();
        let serve = [("policy", "poddisruptionbudgets")];
        ApiOptions {
            store,
            now,
            settings: Settings {
                service_network: ([10, 96, 0, 0].into(), 16),
                root_ca: "-----BEGIN CERTIFICATE-----".into(),
            },
            random: seeded(1),
            serve_on_request: serve.iter().map(|(g, p)| ((*g).into(), (*p).into())).collect::<BTreeSet<_>>(),
            node: Some(("n1".into(), Arc::new(Echo { start: tokio::time::Instant::now() }))),
            reviews: Arc::new(NoReviews),
            authorize: Arc::new(AllowAll),
            admit: Arc::new(AdmitAll),
            stopping: CancellationToken::new(),
        }
    }

    async fn new() -> Self {
        Self::with(LogLimits::default()).await
    }

    async fn with(log: LogLimits) -> Self {
        let options = Self::options(log);
        let stopping = options.stopping.clone();
        let api = Api::new(options);
        let server = Self { api, stopping };
        server
            .check("POST /api/v1/namespaces", json!({"metadata": {"name": "default"}}), 201, json!({}))
            .await;
        let account = json!({"metadata": {"name": "default"}});
        server.check("POST /api/v1/namespaces/default/serviceaccounts", account, 201, json!({})).await;
        server
    }

    /// Sends a request. The line is method, URI, and words for headers: `table`, `merge`, `Name:value`.
    async fn send(&self, line: &str, body: impl Into<Bytes>) -> Response<Body> {
        self.send_as(User::admin(), line, body).await
    }

    async fn send_as(&self, user: User, line: &str, content: impl Into<Bytes>) -> Response<Body> {
        let mut words = line.split_whitespace();
        let mut request = Request::builder().method(words.next().unwrap()).uri(words.next().unwrap());
        for word in words {
            let (name, value) = match word {
                "table" => ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
                "yaml" => ("accept", "application/yaml"),
                "metadata" => ("accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"),
                "metadatalist" => {
                    ("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")
                }
                "merge" => ("content-type", "application/merge-patch+json"),
                "strategic" => ("content-type", "application/strategic-merge-patch+json"),
                "jsonpatch" => ("content-type", "application/json-patch+json"),
                "apply" => ("content-type", "application/apply-patch+yaml"),
                other => other.split_once(':').unwrap(),
            };
            request = request.header(name, value);
        }
        self.api.handle(user, request.body(body::whole(content)).unwrap()).await
    }

    async fn ask(&self, line: &str, body: impl Into<Bytes>) -> Answer {
        let (parts, body) = self.send(line, body).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    async fn get(&self, uri: &str) -> Value {
        let answer = self.ask(&format!("GET {uri}"), "").await;
        assert_eq!(answer.code, 200, "{uri}: {}", answer.text());
        answer.json()
    }

    /// Sends a request and compares code and what is expected of the body: more may be in it.
    async fn check(&self, line: &str, body: Value, code: u16, expected: Value) -> Value {
        let content = match &body {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let answer = self.ask(line, content).await;
        let found = answer.json();
        assert_eq!(answer.code, code, "{line} {body}\n{found:#}");
        if let Err(path) = holds(&found, &expected) {
            panic!("{line} {body}\nat {path}: expected\n{expected:#}\nfound\n{found:#}");
        }
        found
    }
}

/// Whether everything expected is there; the error is where it is not.
fn holds(found: &Value, expected: &Value) -> Result<(), String> {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            for (name, expected) in expected {
                let found = found.get(name).unwrap_or(&Value::Null);
                holds(found, expected).map_err(|path| format!("{name}.{path}"))?;
            }
            Ok(())
        }
        (Value::Array(found), Value::Array(expected)) if found.len() == expected.len() => {
            for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
                holds(found, expected).map_err(|path| format!("[{index}].{path}"))?;
            }
            Ok(())
        }
        _ if found == expected => Ok(()),
        _ => Err(String::new()),
    }
}

fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn pod(name: &str, containers: &[&str]) -> Value {
    let containers: Vec<Value> =
        containers.iter().map(|name| json!({"name": name, "image": "busybox"})).collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers}})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
