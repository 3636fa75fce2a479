//! Which handler of `rubelet_probes` a probe means, and what it is given.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rubelet_core::ids::PodKey;
use rubelet_core::probes::ProbeOutcome;
use rubelet_cri::RuntimeService;
use rubelet_probes::exec::{self, ExecWatch};
use rubelet_probes::target::Target;
use rubelet_probes::{grpc, http, tcp};

use super::book::Ask;
use super::run::Handlers;

/// The user agent where an HTTP probe names none: upstream's, of the version that this is like.
const USER_AGENT: &str = "kube-probe/1.36";

/// Asks containers through the runtime and the network.
pub(super) struct ContainerHandlers {
    pub(super) runtime: Arc<dyn RuntimeService>,
    /// Knows what commands that time out leave behind.
    pub(super) exec_watch: Arc<dyn ExecWatch>,
}

impl Handlers for ContainerHandlers {
    fn ask<'a>(&'a self, ask: &'a Ask) -> BoxFuture<'a, ProbeOutcome> {
        let missing = || {
            let (pod, uid) = (PodKey::of(&ask.pod), ask.pod.metadata.uid.as_deref().unwrap_or_default());
            let (name, namespace) = (pod.name, pod.namespace);
            let error = format!("missing probe handler for {name}_{namespace}({uid}):{}", ask.container);
            futures::future::ready(ProbeOutcome::Error(error)).boxed()
        };
        let Some((container, probe)) = ask.probe() else { return missing() };
        // Without an address the handlers say so, unless the probe names a host.
        let pod_ip = ask.ip.as_deref().unwrap_or_default();
        let target = Target { container, pod_ip };
        if let Some(action) = &probe.exec {
            let command = action.command.as_deref().unwrap_or_default();
            let watch = Some(&*self.exec_watch);
            exec::run_watched(&*self.runtime, watch, &ask.id, container, command, ask.timeout).boxed()
        } else if let Some(action) = &probe.http_get {
            async move { http::get(action, &target, USER_AGENT, ask.timeout).await }.boxed()
        } else if let Some(action) = &probe.tcp_socket {
            async move { tcp::connect(action, &target, ask.timeout).await }.boxed()
        } else if let Some(action) = &probe.grpc {
            grpc::check(action, pod_ip, ask.timeout).boxed()
        } else {
            missing()
        }
    }
}
