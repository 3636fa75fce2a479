//! The agent behind the node's API: what `rubelet_server::api` asks of a [`Node`], answered from the table of pods, the
//! runtime and what the agent was started with.
//!
//! Looks and calls; it decides nothing about pods, and knows nothing of who asks.

use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use rubelet_config::{FeatureGates, Gate, KUBERNETES_VERSION, KubeletConfiguration};
use rubelet_core::ids::pod_uid;
use rubelet_core::paths::checkpoint_file;
use rubelet_core::stats::usage::NodeUsage;
use rubelet_cri::v1;
use rubelet_server::api::{ApiSettings, RequestSpan, SystemLogs};
use rubelet_server::node::{Check, Extent, Node, Way};
use rubelet_server::node_logs::{self, NodeLogs};
use rubelet_server::streams::Dialect;
use rubelet_server::{Body, Problem};
use serde::Serialize;
use serde_json::Value;
use tracing::info;

use crate::clock::Clock;
use crate::http::Health;
use crate::logging;
use crate::node_health::runtime_check;
use crate::pod_streams::PodStreams;
use crate::services::Services;
use crate::stats::Collector;
use crate::tracing_export::spans;

mod running;

/// What the agent behind the API is made of.
pub struct NodeApi {
    /// The runtime, the table, the file system.
    pub services: Arc<Services>,
    /// Ways into containers.
    pub streams: PodStreams,
    /// What health is judged by.
    pub health: Health,
    /// The configuration as a document.
    pub config: Value,
    /// Every flag and its value.
    pub flags: Vec<(String, String)>,
    /// What reads what node and pods use.
    pub usage: Collector,
}

/// Where the node's own logs are.
const SYSTEM_LOGS: &str = "/var/log";

/// What the API is to serve, as configured.
pub fn api_settings(config: &KubeletConfiguration, clock: &Clock) -> ApiSettings {
    let gates = FeatureGates::from_settings(&config.feature_gates).0;
    let clock = clock.clone();
    let program = concat!("rubelet ", env!("CARGO_PKG_VERSION"));
    ApiSettings {
        debugging_handlers: config.enable_debugging_handlers,
        profiling_handler: config.enable_profiling_handler,
        debug_flags_handler: config.enable_debug_flags_handler,
        system_log_handler: config.enable_system_log_handler,
        checkpoint: gates.enabled(Gate::ContainerCheckpoint),
        split_streams: gates.enabled(Gate::PodLogsQuerySplitStreams),
        flagz: gates.enabled(Gate::ComponentFlagz),
        statusz: gates.enabled(Gate::ComponentStatusz),
        system_logs: Some(system_logs(config.enable_system_log_query)),
        span: config.tracing.as_ref().map(|_| spans::request as RequestSpan),
        ..ApiSettings::new(KUBERNETES_VERSION, program, Arc::new(move || clock.now()))
    }
}

fn system_logs(query: bool) -> SystemLogs {
    let logs = NodeLogs::new(SYSTEM_LOGS, query);
    Arc::new(move |request| {
        let logs = logs.clone();
        async move { node_logs::serve(&logs, request).await }.boxed()
    })
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

impl Node for NodeApi {
    fn pods(&self) -> Result<Bytes, Problem> {
        let rows = self.services.table.snapshot();
        let items = rows.values().map(|row| Item {
            metadata: &row.pod.metadata,
            spec: row.pod.spec.as_ref(),
            status: &row.status,
        });
        let items = items.collect();
        let list = PodList { kind: "PodList", api_version: "v1", metadata: ListMeta::default(), items };
        serde_json::to_vec(&list).map(Bytes::from).map_err(Problem::internal)
    }

    fn running_pods(&self) -> BoxFuture<'_, Result<Bytes, Problem>> {
        running::list(&*self.services.runtime).boxed()
    }

    fn pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Arc<Pod>> {
        match uid {
            None => self.services.table.named(namespace, name).map(|row| row.pod),
            Some(uid) => {
                let pod = self.services.table.get(&uid.into())?.pod;
                let metadata = &pod.metadata;
                let is_it = metadata.name.as_deref() == Some(name)
                    && metadata.namespace.as_deref() == Some(namespace);
                is_it.then_some(pod)
            }
        }
    }

    fn log(
        &self,
        pod: Arc<Pod>,
        container: String,
        query: String,
    ) -> BoxFuture<'_, Result<Response<Body>, Problem>> {
        async move {
            let answer = self.streams.log(&pod, Some(&container), &query).await;
            // Whatever keeps the log away is a bad request for upstream.
            answer.map_err(|problem| match problem.code {
                StatusCode::TOO_MANY_REQUESTS => problem,
                _ => Problem::bad_request(problem.message),
            })
        }
        .boxed()
    }

    fn stream(
        &self,
        way: Way,
        pod: Arc<Pod>,
        container: String,
        request: Request<Body>,
    ) -> BoxFuture<'_, Result<Response<Body>, Problem>> {
        async move {
            let container = Some(container.as_str()).filter(|_| way != Way::PortForward);
            self.streams.open(way, &pod, container, Dialect::Node, request).await
        }
        .boxed()
    }

    fn run(
        &self,
        pod: Arc<Pod>,
        container: String,
        command: Vec<String>,
    ) -> BoxFuture<'_, Result<Bytes, Problem>> {
        async move {
            let running = self.streams.running(&pod, Some(&container)).await.map_err(failed)?;
            let request = v1::ExecSyncRequest {
                container_id: running.id.to_string(),
                cmd: command.clone(),
                // Upstream gives it none: the runtime client's own limit holds.
                timeout: 0,
            };
            let answer = self.services.runtime.exec_sync(request).await;
            let answer = answer.map_err(|error| failed(Problem::internal(grpc_text(&error))))?;
            if answer.exit_code != 0 {
                let stderr = String::from_utf8_lossy(&answer.stderr);
                let command = command.join(" ");
                let why = format!("command '{command}' exited with {}: {stderr}", answer.exit_code);
                return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, why));
            }
            let mut output = answer.stdout;
            output.extend_from_slice(&answer.stderr);
            Ok(output.into())
        }
        .boxed()
    }

    fn checkpoint(
        &self,
        pod: Arc<Pod>,
        container: String,
        timeout: Option<Duration>,
    ) -> BoxFuture<'_, Result<String, Problem>> {
        async move {
            let running = self.streams.running(&pod, Some(&container)).await.map_err(failed)?;
            let node = &self.services.node;
            let now = self.services.clock.now();
            let at = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
            let file = checkpoint_file(&node.root_dir, &pod, &container, &at).map_err(Problem::internal)?;
            let directory = node.root_dir.join("checkpoints");
            let what = format!("create directory {}", directory.display());
            // The memory of processes is in what is written here.
            let made = self
                .services
                .fs
                .run(what, move || std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory));
            made.await.map_err(|error| Problem::internal(logging::chain(&error)))?;
            let location = file.display().to_string();
            let request = v1::CheckpointContainerRequest {
                container_id: running.id.to_string(),
                location: location.clone(),
                timeout: timeout.map_or(0, |limit| i64::try_from(limit.as_secs()).unwrap_or(i64::MAX)),
            };
            match self.services.runtime.checkpoint_container(request).await {
                Ok(_) => {
                    info!(pod = %pod_uid(&pod), container, location, "a checkpoint was written");
                    Ok(location)
                }
                Err(error) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, grpc_text(&error))),
            }
        }
        .boxed()
    }

    fn checks(&self) -> Vec<Check> {
        let mut checks = self.health.checks();
        let stuck = self.services.metrics.runtime.stuck_pods.get().unwrap_or_default();
        let state = self.services.runtime_state.borrow();
        checks.push(runtime_check(&state, &self.services.pleg, stuck as usize));
        checks
    }

    fn config(&self) -> Value {
        self.config.clone()
    }

    fn flags(&self) -> Vec<(String, String)> {
        self.flags.clone()
    }

    fn usage(&self, extent: Extent) -> BoxFuture<'_, Arc<NodeUsage>> {
        self.usage.usage(extent).boxed()
    }

    fn set_verbosity(&self, level: u8) -> Result<(), String> {
        logging::set_verbosity(u32::from(level))
    }
}

/// Whatever went wrong with a container is the node's fault for upstream.
fn failed(problem: Problem) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, problem.message)
}

/// A failure of the runtime as programs in Go print it: clients look for the code in the text.
fn grpc_text(error: &rubelet_cri::CriError) -> String {
    let code = match error.code {
        1 => "Canceled",
        3 => "InvalidArgument",
        4 => "DeadlineExceeded",
        5 => "NotFound",
        6 => "AlreadyExists",
        7 => "PermissionDenied",
        8 => "ResourceExhausted",
        9 => "FailedPrecondition",
        10 => "Aborted",
        11 => "OutOfRange",
        12 => "Unimplemented",
        13 => "Internal",
        14 => "Unavailable",
        15 => "DataLoss",
        16 => "Unauthenticated",
        _ => "Unknown",
    };
    format!("rpc error: code = {code} desc = {}", error.message)
}
