//! The cluster around the agent: the project's scripted API server, over TLS on loopback, inside this process.
//!
//! Owns what an administrator and the controllers do (pods bound and deleted, a node forgotten or given up), the
//! requests since the last [`Cluster::forget`], and waiting for what they say. Times are the server's own records, so how often is
//! looked does not show in them and costs the agent nothing. Called by the plans of the control plane's part and
//! of the volumes'.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use rubelet_testkit::FakeApi;
use rubelet_testkit::fake_api::{Options, Served};
use serde_json::Value;
use tokio::time::Instant;

use super::requests::{self, Request, Tally};
use crate::agent::Process;
use crate::pods::NODE_NAME;
use crate::wall_seconds;

/// How often new requests are fetched from the server.
const LOOK: Duration = Duration::from_millis(10);
/// Where pods are.
const NAMESPACE: &str = "default";

/// The server and what it was asked.
pub(crate) struct Cluster {
    api: FakeApi,
    served: Served,
    requests: Vec<Request>,
    wire: Option<u64>,
}

impl Cluster {
    /// Starts a server that is as strict as a real one; kubeconfigs are written into `dir`.
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        let api = FakeApi::with(Options { service_accounts: true, ..Options::wall_clock() });
        let served = api.serve_tls(dir).await.context("cannot serve the API")?;
        Ok(Self { api, served, requests: vec![], wire: None })
    }

    /// The server, for what an administrator does.
    pub(crate) fn api(&self) -> &FakeApi {
        &self.api
    }

    /// The node's kubeconfig, with a client certificate.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.served.node_kubeconfig(NODE_NAME)
    }

    /// Takes the node away, as if it had never been.
    pub(crate) fn forget_node(&self) {
        self.api.delete::<Node>("", NODE_NAME);
        self.api.delete::<Lease>("kube-node-lease", NODE_NAME);
    }

    /// Says of the node what the node controller says when its agent is silent, so that Ready can be seen to come
    /// back. Without a node nothing happens.
    pub(crate) fn give_node_up(&self) {
        if self.api.get::<Node>("", NODE_NAME).is_none() {
            return;
        }
        self.api.modify_status::<Node>("", NODE_NAME, |node| {
            let conditions = node.status.as_mut().and_then(|status| status.conditions.as_mut());
            for condition in conditions.into_iter().flatten().filter(|c| c.type_ == "Ready") {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
            }
        });
    }

    /// Creates pods that are bound to no node.
    pub(crate) fn create(&self, pods: &[Value]) {
        for pod in pods {
            self.api.create_json(pod);
        }
    }

    /// Binds pods to the node one right after the other, as the scheduler does; says when the first was, in seconds
    /// since 1970.
    pub(crate) fn bind(&self, names: &[String]) -> f64 {
        let began_at = wall_seconds();
        for name in names {
            self.api.bind(NAMESPACE, name, NODE_NAME);
        }
        began_at
    }

    /// Asks for the end of pods, with their own grace periods; says when the first was, in seconds since 1970.
    pub(crate) fn delete(&self, names: &[String]) -> f64 {
        let began_at = wall_seconds();
        for name in names {
            self.api.delete::<Pod>(NAMESPACE, name);
        }
        began_at
    }

    /// Forgets the requests so far: a new interval begins.
    pub(crate) async fn forget(&mut self) {
        self.wire = self.wire_bytes().await;
        self.api.take_requests();
        self.requests.clear();
    }

    /// The requests since [`Cluster::forget`].
    pub(crate) fn requests(&mut self) -> &[Request] {
        self.requests.extend(self.api.take_requests().iter().map(Request::of));
        &self.requests
    }

    /// The same, counted.
    pub(crate) async fn tally(&mut self) -> Tally {
        let before = self.wire;
        let wire = self.wire_bytes().await.zip(before).map(|(now, before)| now.saturating_sub(before));
        Tally::of(self.requests(), wire)
    }

    /// Waits until the node is said to be Ready; says when that was.
    pub(crate) async fn wait_node_ready(&mut self, agent: &mut Process, limit: Duration) -> Result<f64> {
        self.wait(agent, limit, "the node is not Ready", requests::node_ready).await
    }

    /// Waits until so many pods are said to be Ready; says when each was, in the order they came.
    pub(crate) async fn wait_ready(
        &mut self,
        agent: &mut Process,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<f64>> {
        let ready = |requests: &[Request]| all(requests::pods_ready(requests).into_values(), count);
        self.wait(agent, limit, "not all pods are Ready", ready).await
    }

    /// Waits until so many pods were taken away; says when each was, in the order they went.
    pub(crate) async fn wait_gone(
        &mut self,
        agent: &mut Process,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<f64>> {
        let gone = |requests: &[Request]| all(requests::pods_gone(requests).into_values(), count);
        self.wait(agent, limit, "not all pods are gone", gone).await
    }

    async fn wait<R>(
        &mut self,
        agent: &mut Process,
        limit: Duration,
        missing: &str,
        found: impl Fn(&[Request]) -> Option<R>,
    ) -> Result<R> {
        let began = Instant::now();
        loop {
            let before = self.requests.len();
            let requests = self.requests();
            if requests.len() > before
                && let Some(found) = found(requests)
            {
                return Ok(found);
            }
            agent.must_run()?;
            if began.elapsed() > limit {
                let tally = Tally::of(requests, None);
                bail!("{missing} after {} s; requests: {:?}", limit.as_secs(), tally.by_kind);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What the server refused because no node may ask it, in words.
    pub(crate) fn refused(&self) -> Vec<String> {
        let mut refused: Vec<String> = self
            .api
            .violations()
            .iter()
            .map(|v| format!("{} {}: {}", v.verb, v.resource, v.message))
            .collect();
        refused.sort();
        refused.dedup();
        refused
    }

    /// Bytes that the open connections of clients have carried so far in both directions, by the kernel's count.
    /// `None` where `ss` is not installed.
    async fn wire_bytes(&self) -> Option<u64> {
        let port = self.served.url.rsplit(':').next()?;
        let asked = ["-tinHO", "state", "established", "dport", "=", &format!(":{port}")].map(str::to_owned);
        let answer =
            tokio::process::Command::new("ss").args(asked).stdin(Stdio::null()).output().await.ok()?;
        answer.status.success().then(|| socket_bytes(&String::from_utf8_lossy(&answer.stdout)))
    }
}

/// The times in order, if there are so many.
fn all(times: impl Iterator<Item = f64>, count: usize) -> Option<Vec<f64>> {
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    (times.len() >= count).then_some(times)
}

/// Bytes of all sockets that `ss -i` prints.
fn socket_bytes(text: &str) -> u64 {
    let of = |word: &str| -> Option<u64> {
        word.strip_prefix("bytes_acked:").or_else(|| word.strip_prefix("bytes_received:"))?.parse().ok()
    };
    text.split_whitespace().filter_map(of).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_counted_in_both_directions_and_what_was_sent_again_only_once() {
        let text = "0 0 127.0.0.1:5 127.0.0.1:6 cubic bytes_sent:110 bytes_retrans:10 bytes_acked:100 bytes_received:20 segs\n\
                    0 0 127.0.0.1:7 127.0.0.1:6 cubic bytes_acked:3 minrtt:0.01\n";
        assert_eq!(socket_bytes(text), 123);
        assert_eq!(socket_bytes(""), 0);
    }

    #[test]
    fn times_are_whole_and_in_order() {
        assert_eq!(all([3.0, 1.0].into_iter(), 2), Some(vec![1.0, 3.0]));
        assert_eq!(all([3.0].into_iter(), 2), None);
    }
}
