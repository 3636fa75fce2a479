//! What the agent serves of its pods: logs, and the streams of exec, attach and port-forward.
//!
//! Finds the container that is meant and asks the runtime for a way to it; `rubelet-server` does the rest. Called by
//! whoever listens: the local API in this process, the node's own port.

use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use rubelet_core::container_log;
use rubelet_core::ids::{ContainerId, PodUid, SandboxId, pod_uid};
use rubelet_core::observed::{ObservedContainer, ObservedPod, ObservedState};
use rubelet_cri::{CriError, CriErrorKind, v1};
use rubelet_server::logs::{InotifyChanges, LogOptions, Logs};
use rubelet_server::node::Way;
use rubelet_server::streams::{
    CommandOptions, CommandStreams, Dialect, Purpose, Streams, port_forward_ports,
};
use rubelet_server::{Body, Problem};
use tokio_util::sync::DropGuard;

use crate::services::Services;
use crate::table::PodTable;

/// Streams that may be open at a time.
const STREAMS: usize = 4096;

/// Serves the agent's pods; cheap to clone.
#[derive(Clone)]
pub struct PodStreams {
    services: Arc<Services>,
    logs: Logs,
    streams: Streams,
}

impl PodStreams {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        let streams = Streams::new(services.node.stream_idle_timeout, STREAMS);
        let logs = Logs::new(Arc::new(InotifyChanges::default()))
            .with_writers(Arc::new(|file| rubelet_linux::log_files::has_writer(file).ok()));
        Self { services, logs, streams }
    }

    /// Ends all streams when it is dropped, and lets no more begin.
    pub(crate) fn until_dropped(&self) -> DropGuard {
        self.streams.until_dropped()
    }

    /// A container's log, as the query of `pods/log` or `/containerLogs` wants it. Without `container` it is the one that
    /// the query names, or the pod's first.
    ///
    /// # Errors
    /// [`Problem`] in the words of upstream: wrong options, no such container, one that has not started.
    pub async fn log(
        &self,
        pod: &Pod,
        container: Option<&str>,
        query: &str,
    ) -> Result<Response<Body>, Problem> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let options = LogOptions::from_query(query).map_err(|error| error.problem(name))?;
        let uid = pod_uid(pod);
        let container = container_log::named_or_default(pod, container.or(options.container.as_deref()))
            .ok_or_else(|| Problem::bad_request(format!("pod {name} has no container")))?
            .to_owned();
        let status = self.status(&uid, pod);
        let id = container_log::instance(name, &status, &container, options.previous)
            .map_err(Problem::bad_request)?;
        let observed = self.observe(&uid).await?;
        let instance = observed.containers.iter().find(|c| c.id == id);
        let path = instance.map(|c| PathBuf::from(&c.log_path)).ok_or_else(|| {
            Problem::not_found(format!(
                "unable to retrieve container logs for {container:?}: the runtime no longer has it"
            ))
        })?;
        let ended = if options.follow { self.ended(uid, id) } else { futures::future::ready(()).boxed() };
        self.logs.serve(path, options, self.services.clock.now(), ended).await
    }

    /// Opens streams on the request's connection: runs a command, joins a container's first process, or forwards
    /// connections to ports of the pod. Without `container` it is the one that the query names, or the pod's first.
    ///
    /// # Errors
    /// [`Problem`]: wrong options, a container or pod that does not run, a runtime that refuses.
    pub async fn open<B>(
        &self,
        way: Way,
        pod: &Pod,
        container: Option<&str>,
        dialect: Dialect,
        request: Request<B>,
    ) -> Result<Response<Body>, Problem> {
        let query = request.uri().query().unwrap_or_default();
        // What does not run is not found; on the node's own port that is the node's fault, as upstream has it.
        let absent = |problem: Problem| match dialect {
            Dialect::Node if problem.code == StatusCode::NOT_FOUND => {
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, problem.message)
            }
            _ => problem,
        };
        let (url, purpose) = match way {
            Way::Exec | Way::Attach => {
                let options = CommandOptions::from_query(query, dialect)?;
                let name = container.or(options.container.as_deref());
                let running = self.running(pod, name).await.map_err(absent)?;
                self.command(way, pod, &running, options).await?
            }
            Way::PortForward => {
                let ports = port_forward_ports(query, dialect, request.headers())?;
                let sandbox = self.sandbox(pod).await.map_err(absent)?;
                (self.ports(sandbox, ports).await?, Purpose::PortForward)
            }
        };
        self.streams.proxy(&url, purpose, request).await
    }

    /// Where the streams of a command are, or of the container's first process.
    async fn command(
        &self,
        way: Way,
        pod: &Pod,
        container: &ObservedContainer,
        options: CommandOptions,
    ) -> Result<(String, Purpose), Problem> {
        let (runtime, container_id) = (&self.services.runtime, container.id.to_string());
        let CommandOptions {
            command: cmd, streams: CommandStreams { stdin, stdout, stderr, mut tty }, ..
        } = options;
        let url = if way == Way::Attach {
            // The process has a terminal or not, whatever the client thinks.
            tty &= has_terminal(pod, &container.name);
            let request = v1::AttachRequest { container_id, tty, stdin, stdout, stderr };
            runtime.attach(request).await.map(|answer| answer.url)
        } else {
            let request = v1::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr };
            runtime.exec(request).await.map(|answer| answer.url)
        };
        let streams = CommandStreams { stdin, stdout, stderr, tty };
        Ok((url.map_err(refused)?, Purpose::Command(streams)))
    }

    /// Where the ports of a sandbox are.
    async fn ports(&self, sandbox: SandboxId, port: Vec<i32>) -> Result<String, Problem> {
        let request = v1::PortForwardRequest { pod_sandbox_id: sandbox.to_string(), port };
        self.services.runtime.port_forward(request).await.map(|answer| answer.url).map_err(refused)
    }

    /// The sandbox a pod runs in.
    async fn sandbox(&self, pod: &Pod) -> Result<SandboxId, Problem> {
        let observed = self.observe(&pod_uid(pod)).await?;
        let ready = observed.sandboxes.into_iter().find(|sandbox| sandbox.ready);
        ready.map(|sandbox| sandbox.id).ok_or_else(|| {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            Problem::not_found(format!("unable to find the sandbox of pod {name:?}: it does not run"))
        })
    }

    /// What the agent says of the pod, or, before it has looked at it, what the API has.
    fn status(&self, uid: &PodUid, pod: &Pod) -> Arc<PodStatus> {
        match self.services.table.get(uid) {
            Some(row) => row.status,
            None => Arc::new(pod.status.clone().unwrap_or_default()),
        }
    }

    async fn observe(&self, uid: &PodUid) -> Result<ObservedPod, Problem> {
        self.services.pleg.observe(uid).await.map_err(Problem::internal)
    }

    /// The running instance of a container.
    pub(crate) async fn running(&self, pod: &Pod, name: Option<&str>) -> Result<ObservedContainer, Problem> {
        let name = container_log::named_or_default(pod, name).unwrap_or_default();
        let observed = self.observe(&pod_uid(pod)).await?;
        let runs = |c: &ObservedContainer| c.name == name && c.state == ObservedState::Running;
        observed
            .containers
            .into_iter()
            .filter(runs)
            .max_by_key(|c| c.attempt)
            .ok_or_else(|| Problem::not_found(format!("container not found ({name:?})")))
    }

    /// Comes true when the instance does not run any more.
    fn ended(&self, uid: PodUid, id: ContainerId) -> BoxFuture<'static, ()> {
        let table: PodTable = self.services.table.clone();
        async move {
            let mut changes = table.changes();
            loop {
                changes.mark_unchanged();
                let runs = table.get(&uid).is_some_and(|row| container_log::is_running(&row.status, &id));
                if !runs || changes.changed().await.is_err() {
                    return;
                }
            }
        }
        .boxed()
    }
}

/// What a client is told when the runtime gives no way in (upstream `streaming.WriteError`).
fn refused(error: CriError) -> Problem {
    match error.kind {
        CriErrorKind::NotFound => Problem::not_found(error.to_string()),
        CriErrorKind::ResourceExhausted => Problem::new(StatusCode::TOO_MANY_REQUESTS, error.to_string()),
        _ => Problem::internal(error),
    }
}

fn has_terminal(pod: &Pod, container: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let plain = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut tty = plain.filter(|c| c.name == container).map(|c| c.tty);
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let mut ephemeral = ephemeral.filter(|c| c.name == container).map(|c| c.tty);
    tty.next().or_else(|| ephemeral.next()).flatten().unwrap_or(false)
}
