//! Counts requests to this node's API: by method, first part of the path, port, and whether they go on for long.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Counter, Gauge, Groups, Histogram, Metrics};

/// Methods that are told apart (upstream `metricsMethodBuckets`).
const METHODS: &[&str] = &["OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT"];
/// First parts of paths that are told apart; below `metrics` the second part too.
const PATHS: &[&str] = &[
    "attach",
    "checkpoint",
    "configz",
    "containerLogs",
    "debug",
    "exec",
    "flagz",
    "healthz",
    "logs",
    "metrics",
    "metrics/cadvisor",
    "metrics/probes",
    "metrics/resource",
    "pods",
    "portForward",
    "pprof",
    "run",
    "runningpods",
    "stats",
    "statusz",
];
/// Those that upstream calls long-running. It asks for `portforward`, which no path is.
const LONG_RUNNING: &[&str] = &["exec", "attach", "debug"];
/// What anything else is counted as.
const OTHER: &str = "other";

/// The port that a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerType {
    /// The port that asks who is there.
    ReadWrite,
    /// The read-only port.
    ReadOnly,
}

/// A request that is under way; ends with being dropped.
pub struct RequestInFlight {
    began: Instant,
    inflight: Arc<Gauge>,
    duration: Arc<Histogram>,
}

impl Metrics {
    /// Counts a request from its arrival, whoever it is from, until what is returned is dropped.
    pub fn http(&self, method: &str, path: &str, server: ServerType) -> RequestInFlight {
        let labels = labels(method, path, server);
        let Groups { server: metrics, .. } = &**self;
        let total: Arc<Counter> = metrics.http_requests.with(labels);
        total.inc();
        let inflight = metrics.http_inflight.with(labels);
        inflight.add(1.0);
        RequestInFlight { began: Instant::now(), inflight, duration: metrics.http_duration.with(labels) }
    }

    /// Counts a stream that is asked for over WebSocket: `exec`, `attach` or `portforward`.
    pub fn websocket_streaming(&self, subresource: &str) {
        self.server.websocket_streams.with([subresource]).inc();
    }
}

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        self.inflight.add(-1.0);
        self.duration.observe_duration(self.began.elapsed());
    }
}

fn labels<'a>(method: &'a str, path: &'a str, server: ServerType) -> [&'a str; 4] {
    let method = if METHODS.contains(&method) { method } else { OTHER };
    let path = bucket(path);
    let server = match server {
        ServerType::ReadWrite => "readwrite",
        ServerType::ReadOnly => "readonly",
    };
    [method, path, server, if LONG_RUNNING.contains(&path) { "true" } else { "false" }]
}

/// The part of a path that is told.
fn bucket(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    let first = path.find('/').unwrap_or(path.len());
    let end = match path.get(..first) {
        Some("metrics") => path[first..]
            .strip_prefix('/')
            .map_or(first, |rest| first + 1 + rest.find('/').unwrap_or(rest.len())),
        _ => first,
    };
    let told = &path[..end];
    if PATHS.contains(&told) { told } else { OTHER }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_as_upstream_does() {
        let check = |method: &str, path: &str, expected: [&str; 4]| {
            assert_eq!(labels(method, path, ServerType::ReadWrite), expected, "{method} {path}");
        };
        check("GET", "/pods", ["GET", "pods", "readwrite", "false"]);
        check("GET", "/stats/summary", ["GET", "stats", "readwrite", "false"]);
        check("GET", "/metrics", ["GET", "metrics", "readwrite", "false"]);
        check("GET", "/metrics/cadvisor", ["GET", "metrics/cadvisor", "readwrite", "false"]);
        check("GET", "/metrics/cadvisor/x", ["GET", "metrics/cadvisor", "readwrite", "false"]);
        check("GET", "/metrics/", ["GET", "other", "readwrite", "false"]);
        check("POST", "/exec/ns/pod/container", ["POST", "exec", "readwrite", "true"]);
        check("POST", "/portForward/ns/pod", ["POST", "portForward", "readwrite", "false"]);
        check("PATCH", "/", ["other", "other", "readwrite", "false"]);
        check("gEt", "//pods", ["other", "other", "readwrite", "false"]);
        check("GET", "", ["GET", "other", "readwrite", "false"]);
        check("GET", "/é/ü", ["GET", "other", "readwrite", "false"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_under_way_until_it_is_dropped() {
        let metrics = Metrics::new();
        let labels = ["GET", "pods", "readonly", "false"];
        let request = metrics.http("GET", "/pods/", ServerType::ReadOnly);
        assert_eq!(metrics.server.http_inflight.with(labels).get(), Some(1.0));
        assert_eq!(metrics.server.http_duration.with(labels).count(), 0);
        tokio::time::advance(std::time::Duration::from_millis(1500)).await;
        drop(request);
        assert_eq!(metrics.server.http_inflight.with(labels).get(), Some(0.0));
        assert_eq!(metrics.server.http_requests.with(labels).get(), 1);
        assert!((metrics.server.http_duration.with(labels).sum() - 1.5).abs() < 1e-6);
    }
}
