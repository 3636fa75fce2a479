//! Every route, method and port against a node that does nothing but note what it is asked.

mod containers;
mod pages;
mod routes;

use std::sync::Mutex;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::HeaderMap;
use k8s_openapi::api::core::v1::Pod;
use rubelet_core::stats::usage::NodeUsage;
use serde_json::{Value, json};

use super::*;
use crate::body;
use crate::node::{Check, Extent};
use crate::problem::Problem;

/// A node with the pod `ns/web` (UID `u1`, container `c`) that notes what it is asked.
#[derive(Default)]
struct FakeNode {
    asked: Mutex<Vec<String>>,
    sick: bool,
    refuses: bool,
}

impl FakeNode {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }

    fn done<T: Send + 'static>(&self, value: T, why: &str) -> BoxFuture<'_, Result<T, Problem>> {
        let refused = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, why);
        std::future::ready(if self.refuses { Err(refused) } else { Ok(value) }).boxed()
    }
}

impl Node for FakeNode {
    fn pods(&self) -> Result<Bytes, Problem> {
        Ok(Bytes::from_static(b"{\"kind\":\"PodList\"}"))
    }
    fn running_pods(&self) -> BoxFuture<'_, Result<Bytes, Problem>> {
        self.done(Bytes::from_static(b"{\"items\":[]}"), "the runtime is away")
    }
    fn pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Arc<Pod>> {
        let known = (namespace, name) == ("ns", "web") && uid.is_none_or(|uid| uid == "u1");
        let pod = json!({"metadata": {"name": name, "uid": "u1"}, "spec": {
            "containers": [{"name": "c"}], "initContainers": [{"name": "i"}], "ephemeralContainers": [{"name": "e"}],
        }});
        known.then(|| Arc::new(serde_json::from_value(pod).unwrap()))
    }
    fn log(
        &self,
        _: Arc<Pod>,
        container: String,
        query: String,
    ) -> BoxFuture<'_, Result<Response<Body>, Problem>> {
        self.note(format!("log {container} {query}"));
        self.done(Response::new(body::whole("a line\n")), "")
    }
    fn stream(
        &self,
        way: Way,
        _: Arc<Pod>,
        container: String,
        request: Request<Body>,
    ) -> BoxFuture<'_, Result<Response<Body>, Problem>> {
        assert!(request.extensions().get::<Held>().is_some(), "counted for as long as the stream lives");
        self.note(format!("{way:?} {container}"));
        self.done(Response::new(body::whole("streams")), "container not found (\"c\")")
    }
    fn run(
        &self,
        _: Arc<Pod>,
        container: String,
        command: Vec<String>,
    ) -> BoxFuture<'_, Result<Bytes, Problem>> {
        let output = Bytes::from(if command == ["true"] { "" } else { "out" });
        self.note(format!("run {container} {command:?}"));
        self.done(output, "command 'x' exited with 3: no")
    }
    fn checkpoint(
        &self,
        _: Arc<Pod>,
        container: String,
        timeout: Option<Duration>,
    ) -> BoxFuture<'_, Result<String, Problem>> {
        self.note(format!("checkpoint {container} {timeout:?}"));
        self.done("/a \"b\".tar".to_owned(), "rpc error: code = Unimplemented desc = no")
    }
    fn checks(&self) -> Vec<Check> {
        let problem = self.sick.then(|| "sync Loop took longer than expected".to_owned());
        let note = self.sick.then(|| "its lists are slow".to_owned());
        let healthy = |name| Check::passed(name, None);
        let runtime = Check::passed("containerruntime", note);
        vec![healthy("ping"), healthy("log"), Check::new("syncloop", problem), runtime]
    }
    fn config(&self) -> Value {
        json!({"kind": "KubeletConfiguration"})
    }
    fn flags(&self) -> Vec<(String, String)> {
        vec![("v".to_owned(), "2".to_owned()), ("config".to_owned(), "/k: x".to_owned())]
    }
    fn usage(&self, extent: Extent) -> BoxFuture<'_, Arc<NodeUsage>> {
        self.note(format!("{extent:?}"));
        std::future::ready(Arc::default()).boxed()
    }
    fn set_verbosity(&self, level: u8) -> Result<(), String> {
        self.note(format!("v {level}"));
        if level == 9 { Err("not here".to_owned()) } else { Ok(()) }
    }
}

struct Bench {
    node: Arc<FakeNode>,
    api: Api,
}

fn now() -> jiff::Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn bench_of(site: Site, node: FakeNode, change: impl FnOnce(&mut ApiSettings)) -> Bench {
    let node = Arc::new(node);
    let mut settings = ApiSettings::new("v1.36.2", "rubelet 0.1.0", Arc::new(now));
    settings.system_logs = Some(Arc::new(|request: Request<Body>| {
        std::future::ready(Response::new(body::whole(format!("log of {}", request.uri().path())))).boxed()
    }));
    settings.started = "2026-11-22T10:58:03.5Z".parse().unwrap();
    change(&mut settings);
    Bench { api: Api::new(node.clone(), site, settings, Metrics::new()), node }
}

fn full() -> Bench {
    bench_of(Site::Full, FakeNode::default(), |_| {})
}

struct Answer {
    code: u16,
    text: String,
    headers: HeaderMap,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Bench {
    /// Sends `METHOD path`, with headers and body.
    async fn ask(&self, line: &str, headers: &[(&str, &str)], content: &str) -> Answer {
        let (method, target) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.api.answer(request.body(body::whole(content.to_owned())).unwrap()).await;
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer { code: head.status.as_u16(), text, headers: head.headers }
    }

    async fn get(&self, target: &str) -> Answer {
        self.ask(&format!("GET {target}"), &[], "").await
    }

    async fn check(&self, line: &str, code: u16, text: &str) -> Answer {
        let answer = self.ask(line, &[], "").await;
        assert_eq!((answer.code, answer.text.as_str()), (code, text), "{line}");
        answer
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.node.asked.lock().unwrap())
    }
}
