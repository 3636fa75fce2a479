//! Which handler of `rubelet_probes` a probe means, and what it is given.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rubelet_core::probes::ProbeOutcome;
use rubelet_cri::RuntimeService;

use super::book::Ask;
use super::run::Handlers;

/// Asks containers through the runtime and the network.
pub(super) struct ContainerHandlers {
    runtime: Arc<dyn RuntimeService>,
}

impl ContainerHandlers {
    pub(super) fn new(runtime: Arc<dyn RuntimeService>) -> Self {
        Self { runtime }
    }

    async fn made(&self, ask: &Ask) -> ProbeOutcome {
        let Some((container, probe)) = ask.probe() else {
            return ProbeOutcome::Error("the container has no such probe".to_owned());
        };
        let _ = (&self.runtime, container, probe);
        ProbeOutcome::Error("not yet".to_owned())
    }
}

impl Handlers for ContainerHandlers {
    fn ask<'a>(&'a self, ask: &'a Ask) -> BoxFuture<'a, ProbeOutcome> {
        self.made(ask).boxed()
    }
}
