//! Static pods from a URL, asked periodically. An answer that cannot be had or decoded keeps the pods known
//! before; one bad item of a list costs only that item.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use rubelet_core::Pod;
use rubelet_core::static_pod::{self, NodeIdentity, Origin};
use tracing::{info, warn};

use super::yaml;
use crate::clock::Clock;
use crate::desired::{PodConfig, SourceKind};
use crate::http_client::Get;

/// How long one request may take (upstream: 10 s).
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer (upstream: 10 MiB).
const MAX_BYTES: usize = 10 * 1024 * 1024;

/// The source and what it remembers.
pub struct HttpSource {
    url: String,
    headers: BTreeMap<String, Vec<String>>,
    period: Duration,
    node: NodeIdentity,
    clock: Clock,
    config: PodConfig,
    last: Option<Bytes>,
    pods: Vec<Arc<Pod>>,
    failures: u32,
}

impl HttpSource {
    /// A source over `staticPodURL` with `staticPodURLHeader`, asked every `httpCheckFrequency`.
    pub fn new(
        url: String,
        headers: BTreeMap<String, Vec<String>>,
        period: Duration,
        node: NodeIdentity,
        clock: Clock,
        config: PodConfig,
    ) -> Self {
        Self { url, headers, period, node, clock, config, last: None, pods: vec![], failures: 0 }
    }

    /// Asks for ever.
    pub async fn run(mut self) {
        loop {
            let asked = match tokio::time::timeout(TIMEOUT, fetch(&self.url, &self.headers)).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
            };
            match asked.and_then(|body| self.take(body)) {
                Ok(()) => self.failures = 0,
                Err(problem) => {
                    self.failures += 1;
                    // Told at the first failure and then ever more rarely.
                    if self.failures.is_power_of_two() {
                        warn!(
                            failures = self.failures,
                            "static pods from {}: {problem}; the pods known before are kept", self.url
                        );
                    }
                }
            }
            tokio::time::sleep(self.period).await;
        }
    }

    fn take(&mut self, body: Bytes) -> Result<(), String> {
        if self.last.as_ref() == Some(&body) {
            return Ok(());
        }
        if body.is_empty() {
            return Err("the answer is empty".to_owned());
        }
        let parsed = yaml::parse(&body).map_err(|error| crate::logging::chain(&error))?;
        for warning in parsed.warnings {
            warn!("static pods from {}: {warning}", self.url);
        }
        let origin = Origin::Url(self.url.clone());
        let list = static_pod::decode_list(parsed.value, &origin, &self.node)
            .map_err(|error| crate::logging::chain(&error))?;
        let now = self.clock.now();
        let mut pods: Vec<Arc<Pod>> = vec![];
        let mut doubtful = false;
        for problem in &list.problems {
            let name = problem.name.as_deref().unwrap_or_default();
            let on_node = format!("{name}-{}", self.node.name.to_lowercase());
            // An item that has become unusable keeps the pod it gave before, as a file does.
            let before = self.pods.iter().find(|pod| pod.metadata.name.as_ref() == Some(&on_node));
            let kept = if before.is_some() { "; the pod it gave before is kept" } else { "" };
            warn!("static pods from {}: {}{kept}", self.url, crate::logging::chain(problem));
            doubtful |= before.is_none();
            pods.extend(before.cloned());
        }
        for decoded in list.pods {
            for warning in decoded.warnings {
                warn!("static pods from {}: {warning}", self.url);
            }
            let mut pod = decoded.pod;
            static_pod::mark(&mut pod, "http", now);
            pods.push(Arc::new(pod));
        }
        let (pods, dropped) = static_pod::filter_invalid(pods);
        for bad in dropped {
            warn!("static pods from {}: {bad}", self.url);
        }
        info!(count = pods.len(), url = self.url, "static pods");
        self.pods = pods.clone();
        self.config.publish(SourceKind::Http, pods, doubtful);
        self.last = Some(body);
        Ok(())
    }
}

async fn fetch(url: &str, headers: &BTreeMap<String, Vec<String>>) -> Result<Bytes, String> {
    let uri: http::Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some(other) => return Err(format!("this version asks over http only, not {other}")),
        None => return Err("the URL has no scheme; write http://…".to_owned()),
    }
    let host = uri.host().ok_or("the URL names no host")?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(80);
    let headers = headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(|value| (name.as_str(), value.as_str())))
        .collect();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let (status, body) = Get { host: &host, port, path, headers, body_limit: MAX_BYTES }.send().await?;
    match status {
        http::StatusCode::OK => Ok(body),
        other => Err(format!("the server answered {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_list_with_a_bad_item_and_then_garbage() {
        let list = r#"{"kind":"PodList","apiVersion":"v1","items":[
            {"metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i:1"}]}},
            {"metadata":{"name":"b"},"spec":{"containers":7}}]}"#;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/pods?x=1", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let mut heads = vec![];
            for (status, body) in [("200 OK", list), ("200 OK", "{nonsense"), ("503 Busy", "")] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 2048];
                let n = stream.read(&mut buffer).await.unwrap();
                heads.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            heads
        });
        let config = PodConfig::new([SourceKind::Http]);
        let headers: BTreeMap<_, _> = [("X-Token".to_owned(), vec!["secret".to_owned()])].into();
        let mut source = HttpSource::new(
            url.clone(),
            headers.clone(),
            Duration::from_secs(20),
            NodeIdentity { name: "node-1".into() },
            Clock::simulated(jiff::Timestamp::UNIX_EPOCH),
            config.clone(),
        );
        source.take(fetch(&url, &headers).await.unwrap()).unwrap();
        assert!(source.take(fetch(&url, &headers).await.unwrap()).is_err());
        assert_eq!(fetch(&url, &headers).await.unwrap_err(), "the server answered 503 Service Unavailable");
        let desired = config.watch().borrow().clone();
        let names: Vec<_> =
            desired.pods.values().map(|wanted| wanted.pod.metadata.name.clone().unwrap()).collect();
        assert_eq!(names, ["a-node-1"]);
        let heads = server.await.unwrap();
        assert!(
            heads[0].starts_with("GET /pods?x=1 HTTP/1.1")
                && heads[0].to_lowercase().contains("x-token: secret")
        );
        assert!(fetch("https://localhost/", &headers).await.unwrap_err().contains("http only"));
    }
}
