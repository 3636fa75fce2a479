//! Gathers what is known of the node at one moment, asking no more often than it pays: images every 30 s, the name
//! service every 5 minutes, the place of images once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use rubelet_core::devices::Count;
use rubelet_core::node::addresses::AddressFacts;
use rubelet_core::node::capacity::CapacityFacts;
use rubelet_core::node::conditions::{NetworkState, RUNTIME_GRACE, Readiness, RuntimeHealth, Silence, Unmet};
use rubelet_core::node::info::{HandlerReport, ImageReport, RuntimeReport, declared_features};
use rubelet_core::node::pressure::Pressures;
use rubelet_core::node::{NodeObservation, reconcile};
use rubelet_cri::{CriError, ImageService, v1};
use rubelet_linux::node_facts::NodeMachine;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::debug;

use super::probe::{NodeProbe, Usage};
use super::settings::NodeAgentSettings;
use crate::eviction::PressureView;
use crate::fs_pool::FsPool;
use crate::runtime_monitor::RuntimeState;

/// What Ready says of a node that is shutting down (upstream `ShutdownStatus`).
const SHUTTING_DOWN: &str = "node is shutting down";
/// How long a list of images is good.
const IMAGES_FRESH: Duration = Duration::from_secs(30);
/// How long a status waits for a list of images; a later answer is in the next one.
const IMAGES_WAIT: Duration = Duration::from_millis(300);
/// How long the answer of the name service is good while interfaces stay as they are.
const LOOKUP_FRESH: Duration = Duration::from_secs(300);
/// How long a status waits for the first look at what the node is short of.
const PRESSURES_WAIT: Duration = Duration::from_millis(300);

/// Everything a status is computed from, at one moment.
pub(super) struct Facts {
    capacity: CapacityFacts,
    /// What device plugins offer.
    pub(super) devices: BTreeMap<String, Count>,
    addresses: AddressFacts,
    runtime: Option<RuntimeReport>,
    images: Option<Arc<[ImageReport]>>,
    declared: Vec<String>,
    /// Volumes that the Node is to say are in use.
    pub(super) volumes_in_use: Vec<String>,
    pressures: Pressures,
    readiness: Readiness,
    /// Device plugins were here before (upstream: there is a checkpoint of them); what they offered stays until they
    /// are back.
    pub(super) knows_devices: bool,
}

impl Facts {
    pub(super) fn observation<'a>(&'a self, machine: &'a NodeMachine) -> NodeObservation<'a> {
        NodeObservation {
            machine: &machine.identity,
            capacity: &self.capacity,
            devices: &self.devices,
            addresses: &self.addresses,
            runtime: self.runtime.as_ref(),
            images: self.images.as_deref(),
            declared_features: &self.declared,
            volumes_in_use: Some(&self.volumes_in_use),
            pressures: self.pressures,
            readiness: self.readiness.clone(),
        }
    }
}

/// Gathers facts and remembers what lasts between two looks.
pub(super) struct Gatherer {
    settings: NodeAgentSettings,
    machine: NodeMachine,
    probe: Arc<dyn NodeProbe>,
    fs: FsPool,
    image_service: Arc<dyn ImageService>,
    runtime_state: watch::Receiver<RuntimeState>,
    /// Until when a runtime that is not well may be one that has just started, or that this agent has just begun to
    /// ask; `None` once it was well since.
    settles_at: Option<Instant>,
    /// When a runtime that is silent has been so for too long.
    down_at: Option<Instant>,
    images: Option<Arc<[ImageReport]>>,
    images_at: Option<Instant>,
    images_asked: Option<JoinHandle<Result<v1::ListImagesResponse, CriError>>>,
    looked_up: Vec<IpAddr>,
    looked_up_at: Option<(Instant, Vec<IpAddr>)>,
    ephemeral_storage_bytes: Option<u64>,
    knows_devices: bool,
    pressures: PressureView,
    storage_problem: watch::Receiver<Option<String>>,
    shutting_down: watch::Receiver<bool>,
}

impl Gatherer {
    pub(super) fn new(
        settings: NodeAgentSettings,
        machine: NodeMachine,
        probe: Arc<dyn NodeProbe>,
        fs: FsPool,
        image_service: Arc<dyn ImageService>,
        runtime_state: watch::Receiver<RuntimeState>,
    ) -> Self {
        Self {
            storage_problem: watch::channel(None).1,
            shutting_down: watch::channel(false).1,
            settings,
            machine,
            probe,
            fs,
            image_service,
            runtime_state,
            settles_at: None,
            down_at: None,
            images: None,
            images_at: None,
            images_asked: None,
            looked_up: vec![],
            looked_up_at: None,
            ephemeral_storage_bytes: None,
            knows_devices: false,
            pressures: watch::channel(Some(Pressures::default())).1,
        }
    }

    /// What the node is short of is told here.
    pub(super) fn with_pressures(mut self, pressures: PressureView) -> Self {
        self.pressures = pressures;
        self
    }

    /// Whatever is told here keeps a Node that is not Ready from becoming so.
    pub(super) fn with_storage_problem(mut self, problem: watch::Receiver<Option<String>>) -> Self {
        self.storage_problem = problem;
        self
    }

    /// While the node is shutting down it is not Ready, however well everything runs.
    pub(super) fn with_shutdown(mut self, shutting_down: watch::Receiver<bool>) -> Self {
        self.shutting_down = shutting_down;
        self
    }

    /// The agent runs from now on.
    pub(super) fn begin(&mut self) {
        self.settles_at = Some(Instant::now() + RUNTIME_GRACE);
    }

    pub(super) fn machine(&self) -> &NodeMachine {
        &self.machine
    }

    /// Looks at everything. `existing` is the Node as the API has it.
    pub(super) async fn gather(&mut self, existing: Option<&Node>) -> Facts {
        let state = self.runtime_state.borrow().clone();
        let has_addresses = existing
            .and_then(|node| node.status.as_ref()?.addresses.as_ref())
            .is_some_and(|addresses| !addresses.is_empty());
        let addresses = self.addresses(has_addresses).await;
        let pressures = self.pressures().await;
        self.refresh_images(&state).await;
        let readiness = self.readiness(&state, existing);
        let runtime = state.info.as_ref().map(report);
        let gates = &self.settings.gates;
        let declared = declared_features(|name| gates.contains(&name), runtime.as_ref());
        Facts {
            capacity: self.settings.capacity(&self.machine, self.ephemeral_storage_bytes),
            addresses,
            runtime,
            images: self.images.clone(),
            declared,
            devices: BTreeMap::new(),
            volumes_in_use: vec![],
            pressures,
            readiness,
            knows_devices: self.knows_devices,
        }
    }

    /// When the node's readiness changes although nobody says anything: a grace ends.
    pub(super) fn next_change(&self) -> Option<Instant> {
        let now = Instant::now();
        self.down_at.into_iter().chain(self.settles_at).filter(|at| *at > now).min()
    }

    fn readiness(&mut self, state: &RuntimeState, existing: Option<&Node>) -> Readiness {
        let now = Instant::now();
        self.down_at = state.silent_since.map(|since| since + RUNTIME_GRACE);
        if self.down_at > self.settles_at {
            // It may be restarting: what it says first when it is back (no network yet) gets the rest of its grace.
            self.settles_at = self.down_at;
        }
        let mut problems = health(state, now).problems();
        // A Node that is Ready has had its CSINode: that it cannot be looked at again yet is no reason to end that. As
        // upstream, what the runtime lacks comes first.
        if !existing.is_some_and(|node| reconcile::may_keep_ready(node, &self.machine.identity)) {
            problems.extend(self.storage_problem.borrow().clone());
        }
        if *self.shutting_down.borrow() {
            problems.push(SHUTTING_DOWN.to_owned());
        }
        if problems.is_empty() && state.silent_since.is_none() {
            self.settles_at = None;
        }
        // A restart of the agent or of the runtime is no reason for Ready to turn False.
        let settles = self.settles_at.is_some_and(|at| now < at);
        if settles
            && !problems.is_empty()
            && existing.is_some_and(|node| reconcile::may_keep_ready(node, &self.machine.identity))
        {
            return Readiness::Keep;
        }
        Readiness::Problems(problems)
    }

    async fn addresses(&mut self, has_addresses: bool) -> AddressFacts {
        let interfaces = self.probe.interface_ips();
        let config = &self.settings.node.addresses;
        if !config.needs_lookup(has_addresses) {
            return AddressFacts { interfaces, ..Default::default() };
        }
        let fresh = self
            .looked_up_at
            .as_ref()
            .is_some_and(|(at, seen)| at.elapsed() < LOOKUP_FRESH && *seen == interfaces);
        if !fresh {
            if let Some(found) = self.probe.lookup(config.node_name.clone()).await {
                self.looked_up = found;
            }
            self.looked_up_at = Some((Instant::now(), interfaces.clone()));
        }
        let default_route = self.probe.default_route_ip(config.prefers_v4());
        AddressFacts { interfaces, looked_up: self.looked_up.clone(), default_route }
    }

    /// What eviction saw, and on the way how large the disk is.
    async fn pressures(&mut self) -> Pressures {
        let (probe, root_dir) = (self.probe.clone(), self.settings.root_dir.clone());
        let look = move || {
            let knows_devices = root_dir.join("device-plugins/kubelet_internal_checkpoint").exists();
            Ok((probe.usage(&root_dir, None), knows_devices))
        };
        let (usage, knows_devices) = self.fs.run("measure the node", look).await.unwrap_or_else(|error| {
            debug!("the node cannot be measured: {error}");
            (Usage::default(), self.knows_devices)
        });
        self.knows_devices = knows_devices;
        if let Some(fs) = usage.node_fs {
            self.ephemeral_storage_bytes = u64::try_from(fs.bytes.capacity).ok();
        }
        // A node that is short must not seem well for a moment whenever its agent starts.
        let first = self.pressures.wait_for(Option::is_some);
        let known = tokio::time::timeout(PRESSURES_WAIT, first).await;
        known.ok().and_then(Result::ok).and_then(|known| *known).unwrap_or_default()
    }

    /// Asks for images when the last list is old, and waits a moment for the answer. The question outlives the wait.
    async fn refresh_images(&mut self, state: &RuntimeState) {
        let old = self.images_at.is_none_or(|at| at.elapsed() >= IMAGES_FRESH);
        let usable = state.info.is_some() && state.runtime_problem.is_none();
        if self.images_asked.is_none() && old && usable && self.settings.node.max_images != 0 {
            let question = self.image_service.list_images(v1::ListImagesRequest::default());
            self.images_asked = Some(tokio::spawn(question));
        }
        let Some(asked) = &mut self.images_asked else { return };
        let Ok(answer) = tokio::time::timeout(IMAGES_WAIT, asked).await else { return };
        self.images_asked = None;
        match answer {
            Ok(Ok(list)) => {
                self.images_at = Some(Instant::now());
                self.images = Some(list.images.into_iter().map(image).collect());
            }
            Ok(Err(error)) => debug!("images cannot be listed: {error}"),
            Err(error) => debug!("listing images was given up: {error}"),
        }
    }
}

impl Drop for Gatherer {
    fn drop(&mut self) {
        if let Some(asked) = &self.images_asked {
            asked.abort();
        }
    }
}

fn image(image: v1::Image) -> ImageReport {
    ImageReport { digests: image.repo_digests, tags: image.repo_tags, bytes: image.size }
}

fn report(info: &rubelet_cri::connect::RuntimeInfo) -> RuntimeReport {
    RuntimeReport {
        name: info.name.clone(),
        version: info.version.clone(),
        handlers: info
            .handlers
            .iter()
            .map(|handler| HandlerReport {
                name: handler.name.clone(),
                recursive_read_only_mounts: handler.recursive_read_only_mounts,
                user_namespaces: handler.user_namespaces,
            })
            .collect(),
        supplemental_groups_policy: info.supplemental_groups_policy,
        user_namespaces_host_network: info.user_namespaces_host_network,
    }
}

/// The runtime's health as its monitor tells it.
fn health(state: &RuntimeState, now: Instant) -> RuntimeHealth {
    let silence = state.silent_since.map(|since| Silence {
        lasts: now.saturating_duration_since(since),
        cause: state.runtime_problem.clone().unwrap_or_default(),
    });
    let network = match (&state.info, state.network_problem.as_deref()) {
        (None, _) => NetworkState::Unknown,
        (Some(_), None) => NetworkState::Ready,
        (Some(_), Some(text)) => NetworkState::NotReady(unmet(text)),
    };
    RuntimeHealth {
        answered: state.info.is_some(),
        // While it is silent the problem is what came instead of an answer.
        runtime: state.runtime_problem.as_deref().filter(|_| silence.is_none()).map(unmet),
        silence,
        lists: state.list_problem.clone(),
        network,
    }
}

/// Takes the text of an unfulfilled condition apart again: `Reason: message`, either of which may be missing.
fn unmet(text: &str) -> Unmet {
    if text.ends_with("Ready is false") {
        return Unmet::default();
    }
    match text.split_once(": ") {
        Some((reason, message)) if !reason.contains(char::is_whitespace) => {
            Unmet { reason: reason.to_owned(), message: message.to_owned() }
        }
        _ => Unmet { reason: String::new(), message: text.to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_taken_apart() {
        let check = |text: &str, reason: &str, message: &str| {
            assert_eq!(unmet(text), Unmet { reason: reason.into(), message: message.into() });
        };
        check("NetworkPluginNotReady: cni: not initialized", "NetworkPluginNotReady", "cni: not initialized");
        check("RuntimeReady is false", "", "");
        check("the runtime does not report NetworkReady", "", "the runtime does not report NetworkReady");
        check("no reason: only text", "", "no reason: only text");
    }
}
