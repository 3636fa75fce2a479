//! The status writer against the fake API, on a paused clock: what is sent, when, and what is not.

mod convergence;
mod ending;
mod trouble;
mod writing;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use rubelet_core::ids::{PodUid, pod_uid};
use rubelet_core::lifecycle::{PodState, TerminationCause};
use rubelet_testkit::FakeApi;
use rubelet_testkit::pods;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::StatusWriter;
use crate::api_pods::ApiPodSet;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::table::{PodRow, PodTable};

pub(super) const NODE: &str = "n1";

/// A writer at work, with the API's view in the test's hands: nothing echoes before [`Bench::sync`].
pub(super) struct Bench {
    pub api: FakeApi,
    pub table: PodTable,
    view: watch::Sender<Arc<ApiPodSet>>,
    pub metrics: Metrics,
    pub pending: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.task.abort();
        if !std::thread::panicking() {
            assert_eq!(self.api.violations(), []);
        }
    }
}

impl Bench {
    pub(super) fn new() -> Self {
        let api = FakeApi::new();
        api.create_json(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}));
        let table = PodTable::default();
        let view = watch::Sender::new(Arc::default());
        let client = api.client(&format!("system:node:{NODE}"));
        let clock = Clock::simulated(jiff::Timestamp::from_second(1_767_225_600).unwrap());
        let metrics = Metrics::new();
        let writer =
            StatusWriter::new(table.clone(), view.subscribe(), client, clock).with_metrics(metrics.clone());
        let pending = writer.pending();
        Self { api, table, view, metrics, pending, task: tokio::spawn(writer.run()) }
    }

    /// Creates a pod on this node and shows it to the writer.
    pub(super) fn pod(&self, name: &str) -> Pod {
        let pod = pods::pod(name).container(pods::container("app")).build();
        let mut pod = Pod { status: None, ..pod };
        pod.metadata.uid = None;
        pod.spec.as_mut().unwrap().node_name = Some(NODE.to_owned());
        let pod = self.api.create(&pod);
        self.sync();
        pod
    }

    /// What the watch would show by now, as the API source keeps it.
    pub(super) fn seen(&self) -> ApiPodSet {
        ApiPodSet::of(self.api.list_all::<Pod>().into_iter().map(|mut pod| {
            pod.spec = None;
            Arc::new(pod)
        }))
    }

    /// Lets the watch catch up.
    pub(super) fn sync(&self) {
        self.show(self.seen());
    }

    /// Shows the writer this view.
    pub(super) fn show(&self, view: ApiPodSet) {
        self.view.send_replace(Arc::new(view));
    }

    /// Publishes a status as a worker does.
    pub(super) fn publish(&self, pod: &Pod, status: Value) {
        self.publish_in(pod, status, PodState::Syncing);
    }

    pub(super) fn publish_in(&self, pod: &Pod, status: Value, state: PodState) {
        let status: PodStatus = serde_json::from_value(status).unwrap();
        let row = PodRow { pod: Arc::new(pod.clone()), status: Arc::new(status), state };
        self.table.publish(&pod_uid(pod), row);
    }

    /// The last words of a worker that removed everything of its pod.
    pub(super) fn remove(&self, pod: &Pod, status: Value) {
        self.publish_in(pod, status, PodState::Finished { cause: TerminationCause::Deleted });
        self.table.remove(&PodUid::from(pod.metadata.uid.as_deref().unwrap()));
    }

    /// The status that the API holds.
    pub(super) fn held(&self, name: &str) -> PodStatus {
        self.api.get::<Pod>("default", name).unwrap().status.unwrap_or_default()
    }

    /// Requests so far, as `verb resource`.
    pub(super) fn sent(&self) -> Vec<String> {
        self.api.requests().iter().map(|request| request.summary()).collect()
    }

    /// Lets everything run that can without time passing (but a millisecond).
    pub(super) async fn settle(&self) {
        pass(0.001).await;
    }
}

/// Lets time pass; the clock is paused, so that whoever waits less has run before.
pub(super) async fn pass(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

/// A status that is Ready or not, with an address.
pub(super) fn status(phase: &str, ready: bool, ip: &str) -> Value {
    let verdict = if ready { "True" } else { "False" };
    json!({
        "phase": phase, "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": verdict}, {"type": "ContainersReady", "status": verdict}],
    })
}

/// The last status of a pod that ended.
pub(super) fn ended() -> Value {
    status("Failed", false, "10.0.0.1")
}

pub(super) const PATCH: &str = "patch pods/status";
