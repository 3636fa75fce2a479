//! What the node's API is to serve, and where: values that the shell takes from the configuration.

use std::sync::Arc;

use futures::future::BoxFuture;
use http::{Request, Response};
use jiff::Timestamp;

use crate::body::Body;

/// One of the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// Everything (`port`, 10250); who asks has been admitted.
    Full,
    /// What anybody may see (`readOnlyPort`).
    ReadOnly,
    /// `/healthz` alone, which says that the process answers (`healthzPort`, 10248).
    Healthz,
}

/// What answers requests for `/logs/` and below. What it is asked has been admitted and has the method GET.
pub type SystemLogs = Arc<dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// Makes the span of a request that was let in; `http.response.status_code` is recorded in it.
pub type RequestSpan = fn(&Request<Body>) -> tracing::Span;

/// Settings of the node's API. [`Self::new`] has upstream's defaults.
#[derive(Clone)]
pub struct ApiSettings {
    /// `enableDebuggingHandlers`: whether there is more than the read-only port has.
    pub debugging_handlers: bool,
    /// `enableProfilingHandler`: `/debug/pprof/`.
    pub profiling_handler: bool,
    /// `enableDebugFlagsHandler`: `/debug/flags/v`.
    pub debug_flags_handler: bool,
    /// `enableSystemLogHandler`: `/logs/`.
    pub system_log_handler: bool,
    /// Gate `ContainerCheckpoint`: `/checkpoint/`.
    pub checkpoint: bool,
    /// Gate `PodLogsQuerySplitStreams`: one of the two outputs of a container's log.
    pub split_streams: bool,
    /// Gate `ComponentFlagz`: `/flagz`.
    pub flagz: bool,
    /// Gate `ComponentStatusz`: `/statusz`.
    pub statusz: bool,
    /// What serves `/logs/`; without it there are none.
    pub system_logs: Option<SystemLogs>,
    /// What traces requests; without it they are not traced.
    pub span: Option<RequestSpan>,
    /// The Kubernetes release whose kubelet this is, such as `v1.36.2`.
    pub version: &'static str,
    /// Name and version of this program.
    pub program: &'static str,
    /// When this process started.
    pub started: Timestamp,
    /// The time.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl ApiSettings {
    /// Everything that upstream serves when nothing is configured, in a process that started now.
    pub fn new(
        version: &'static str,
        program: &'static str,
        now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> Self {
        Self {
            debugging_handlers: true,
            profiling_handler: true,
            debug_flags_handler: true,
            system_log_handler: true,
            checkpoint: true,
            split_streams: false,
            flagz: true,
            statusz: true,
            system_logs: None,
            span: None,
            version,
            program,
            started: now(),
            now,
        }
    }
}
