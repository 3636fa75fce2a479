//! CSI drivers as they come and go: what registers is taken by the volumes, told to the API server, and asked again how
//! many volumes it can have here, where its CSIDriver wants that.
//!
//! Owns the order of these and the periods; what a driver may be is `rubelet_volumes::csi`'s, what the CSINode says
//! `node_agent::csi_node`'s. Called by the registry of plugins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use rubelet_core::node::csi::DriverOnNode;
use rubelet_csi::NodeInfo;
use rubelet_plugins::{CSI_PLUGIN, Plugin, PluginHandler};
use rubelet_volumes::csi::Csi;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::node_agent::CsiNodes;
use crate::volume_api::ApiVolumes;
use crate::volumes_in_use::VolumesInUse;

/// First pause before what is mounted is looked for again.
const ADOPT_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const ADOPT_LONGEST: Duration = Duration::from_secs(300);

/// Takes CSI drivers on; cheap to clone.
#[derive(Clone)]
pub(crate) struct CsiDrivers {
    csi: Csi,
    /// What the API server hears; none on a node without one.
    told: Option<(CsiNodes, Arc<ApiVolumes>)>,
    in_use: VolumesInUse,
    changed: Arc<Notify>,
}

impl CsiDrivers {
    /// For these volumes, of which those that earlier runs left are put `in_use`; `told` tells the API server.
    pub(crate) fn new(csi: Csi, in_use: VolumesInUse, told: Option<(CsiNodes, Arc<ApiVolumes>)>) -> Self {
        Self { csi, in_use, told, changed: Arc::default() }
    }

    async fn take(&self, plugin: &Plugin) -> Result<(), String> {
        let name = &plugin.name;
        // One that was there before has pods; it goes on while the API server is away.
        let is_new = !self.csi.registered().contains(name);
        let node = self.csi.register(name, &plugin.endpoint, &plugin.versions).await;
        let node = node.map_err(|problem| problem.to_string())?;
        if let Some((nodes, _)) = &self.told
            && let Err(error) = nodes.install(name, said(node)).await
        {
            if is_new {
                self.csi.deregister(name);
            }
            return Err(format!("error updating Node object with CSI driver node info: {error}"));
        }
        info!(driver = name, endpoint = %plugin.endpoint.display(), "CSI driver registered");
        self.changed.notify_one();
        Ok(())
    }

    /// Asks drivers again for how many volumes they can have here, as often as their CSIDriver says
    /// (`nodeAllocatableUpdatePeriodSeconds`). Runs until dropped; at rest where no driver wants it.
    ///
    /// `full` names drivers that could not take a volume more than they had said: they are asked at once.
    pub(crate) async fn run(self, mut full: mpsc::UnboundedReceiver<String>) {
        self.adopt().await;
        let Some((nodes, api)) = &self.told else { return std::future::pending().await };
        // Nobody is asked for CSIDrivers before there is a driver.
        while self.csi.registered().is_empty() {
            self.changed.notified().await;
        }
        let mut objects = api.drivers().changes();
        let mut due: BTreeMap<String, (Duration, Instant)> = BTreeMap::new();
        loop {
            let periods = self.periods(api);
            due.retain(|name, (period, _)| periods.get(name) == Some(period));
            for (name, period) in periods {
                due.entry(name).or_insert_with(|| (period, Instant::now() + period));
            }
            let next = due.values().map(|(_, at)| *at).min();
            let sleep = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // Every arm keeps its news when another one is taken.
            tokio::select! {
                biased;
                () = self.changed.notified() => continue,
                changed = objects.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return std::future::pending().await,
                },
                name = full.recv() => match name {
                    Some(name) => {
                        self.ask_again(nodes, &name).await;
                        continue;
                    }
                    None => return std::future::pending().await,
                },
                () = sleep => {}
            }
            let now = Instant::now();
            for (name, (period, at)) in &mut due {
                if *at <= now {
                    *at = now + *period;
                    self.ask_again(nodes, name).await;
                }
            }
        }
    }

    /// Has the Node go on saying that volumes are in use which are mounted since an earlier run. Until that is known
    /// nothing that it says is taken back.
    async fn adopt(&self) {
        let mut pause = ADOPT_PAUSE;
        loop {
            match self.csi.in_use().await {
                Ok(found) => return self.in_use.adopt(found.into_iter().map(|(_, name)| name)),
                Err(problem) => warn!("what volumes an earlier run has left cannot be read: {problem}"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(ADOPT_LONGEST);
        }
    }

    fn periods(&self, api: &ApiVolumes) -> BTreeMap<String, Duration> {
        let names = self.csi.registered().into_iter();
        let period = |name: &str| {
            let seconds = api.drivers().get("", name)?.spec.node_allocatable_update_period_seconds?;
            u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
        };
        names.filter_map(|name| Some((name.clone(), period(&name)?))).collect()
    }

    async fn ask_again(&self, nodes: &CsiNodes, name: &str) {
        match self.csi.node_info(name).await {
            Ok(node) => {
                if let Err(error) = nodes.install(name, said(node)).await {
                    warn!("CSI driver {name} cannot be brought up to date in the CSINode: {error}");
                }
            }
            Err(problem) => warn!("CSI driver {name} does not say how many volumes it can have: {problem}"),
        }
    }
}

fn said(node: NodeInfo) -> DriverOnNode {
    DriverOnNode { node_id: node.node_id, max_volumes: node.max_volumes, topology: node.topology }
}

impl PluginHandler for CsiDrivers {
    fn kind(&self) -> &str {
        CSI_PLUGIN
    }

    fn validate(&self, plugin: &Plugin) -> Result<(), String> {
        let valid = self.csi.validate(&plugin.name, &plugin.endpoint, &plugin.versions);
        valid.map_err(|problem| {
            let (name, endpoint) = (&plugin.name, plugin.endpoint.display());
            format!("validation failed for CSI Driver {name} at endpoint {endpoint}: {problem}")
        })
    }

    fn register<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.take(plugin))
    }

    fn deregister<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.csi.deregister(&plugin.name);
            if let Some((nodes, _)) = &self.told {
                nodes.uninstall(&plugin.name).await;
            }
            info!(driver = plugin.name, "CSI driver deregistered");
            self.changed.notify_one();
        })
    }
}
