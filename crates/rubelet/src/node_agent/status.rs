//! Registers the Node and keeps its status what the node is.
//!
//! One loop: it looks at the node every `nodeStatusUpdateFrequency` and at once when the runtime's state changes;
//! it posts what changed at once and everything every `nodeStatusReportFrequency`. The Node as last seen (from
//! answers and from the watch) is what changes are computed against, so that at rest nothing is read.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use rubelet_apiclient::wake::Wake;
use rubelet_core::node::reconcile::OtherMachine;
use rubelet_core::node::{NodeEvent, initial_node, lease, observe_status, patch, reconcile};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info};

use super::complaint::Complaint;
use super::gather::{Facts, Gatherer};
use super::requests::{RequestError, ask};
use super::settings::NodeAgentSettings;
use super::{CloseConnections, CsiNodes, NodeAgentParams, spread};
use crate::clock::Clock;
use crate::devices::Devices;
use crate::events::{EventRecorder, EventSubject};
use crate::eviction::PressureView;
use crate::metrics::NodeStartup;
use crate::runtime_monitor::RuntimeState;
use crate::volumes_in_use::VolumesInUse;

/// How long the first status waits for the runtime's first answer.
const FIRST_WAIT: Duration = Duration::from_millis(300);
/// First pause between tries to register.
const REGISTER_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between tries to register.
const REGISTER_LONGEST: Duration = Duration::from_secs(7);
/// Tries of one status update.
const TRIES: u32 = 5;
/// First pause between these tries.
const TRY_PAUSE: Duration = Duration::from_millis(50);

pub(super) struct StatusTask {
    settings: NodeAgentSettings,
    nodes: Api<Node>,
    leases: Api<Lease>,
    gatherer: Gatherer,
    clock: Clock,
    events: EventRecorder,
    close_connections: CloseConnections,
    wake: Wake,
    runtime_state: watch::Receiver<RuntimeState>,
    watched: watch::Receiver<Option<Arc<Node>>>,
    refreshes: mpsc::Receiver<()>,
    published: watch::Sender<Option<Arc<Node>>>,
    pressures: PressureView,
    /// The Node as last seen in the API.
    known: Option<Arc<Node>>,
    registered: bool,
    register_pause: Duration,
    /// Whether the next update has to reconcile the Node with what a new one would say.
    reconcile: bool,
    last_report: Option<Instant>,
    report_shift: Duration,
    posts: u64,
    unschedulable: bool,
    complaint: Complaint,
    address_complaint: Complaint,
    machine_complaint: Complaint,
    startup: NodeStartup,
    volumes_in_use: VolumesInUse,
    volumes_changed: watch::Receiver<u64>,
    devices: Devices,
    devices_changed: watch::Receiver<u64>,
    storage_problem: watch::Receiver<Option<String>>,
    shutting_down: watch::Receiver<bool>,
    csi_nodes: CsiNodes,
}

impl StatusTask {
    pub(super) fn new(
        params: NodeAgentParams,
        csi_nodes: CsiNodes,
        published: watch::Sender<Option<Arc<Node>>>,
        refreshes: mpsc::Receiver<()>,
    ) -> Self {
        let gatherer = Gatherer::new(
            params.settings.clone(),
            params.machine,
            params.probe,
            params.fs,
            params.images,
            params.runtime_state.clone(),
        )
        .with_pressures(params.pressures.clone())
        .with_storage_problem(csi_nodes.problem())
        .with_shutdown(params.shutting_down.clone());
        Self {
            volumes_changed: params.volumes_in_use.changes(),
            volumes_in_use: params.volumes_in_use,
            devices_changed: params.devices.changes(),
            devices: params.devices,
            storage_problem: csi_nodes.problem(),
            shutting_down: params.shutting_down,
            csi_nodes,
            startup: NodeStartup::new(params.metrics, params.clock.now()),
            nodes: Api::all(params.client.clone()),
            leases: Api::namespaced(params.client, lease::NAMESPACE),
            gatherer,
            clock: params.clock,
            events: params.events,
            close_connections: params.close_connections,
            wake: params.wake,
            runtime_state: params.runtime_state,
            watched: params.watched,
            refreshes,
            published,
            pressures: params.pressures,
            known: None,
            registered: !params.settings.register,
            register_pause: REGISTER_PAUSE,
            reconcile: false,
            last_report: None,
            report_shift: Duration::ZERO,
            posts: 0,
            unschedulable: false,
            complaint: Complaint::default(),
            address_complaint: Complaint::default(),
            machine_complaint: Complaint::default(),
            settings: params.settings,
        }
    }

    fn name(&self) -> &str {
        &self.settings.node.addresses.node_name
    }

    pub(super) async fn run(mut self) {
        self.gatherer.begin();
        self.record(&NodeEvent {
            warning: false,
            reason: "Starting",
            message: Some("Starting kubelet.".to_owned()),
        });
        let watched = self.watched.borrow_and_update().clone();
        if let Some(node) = watched {
            self.take(node);
        }
        let unasked = RuntimeState::default();
        // A node that has to say NotReady first is Ready seconds later than one that waits for a moment.
        let _ =
            tokio::time::timeout(FIRST_WAIT, self.runtime_state.wait_for(|state| *state != unasked)).await;
        loop {
            self.runtime_state.mark_unchanged();
            self.volumes_changed.mark_unchanged();
            self.devices_changed.mark_unchanged();
            self.storage_problem.mark_unchanged();
            self.shutting_down.mark_unchanged();
            self.wake.forget();
            let pause = self.sync().await;
            self.wait(pause).await;
        }
    }

    /// One look at the node, and what follows from it. Returns when to look again.
    async fn sync(&mut self) -> Duration {
        let outcome = if self.registered { self.update().await } else { self.register().await };
        match outcome {
            Ok(()) => {
                self.complaint.resolved("the node's status is up to date in the API again");
                self.settings.update_frequency.mul_f64(1.0 + 0.04 * spread(self.name(), self.posts))
            }
            Err(error) if self.registered => {
                self.complain(&error);
                error
                    .retry_after()
                    .map_or(self.settings.update_frequency, |wait| wait.min(self.settings.update_frequency))
            }
            Err(error) => {
                self.complaint.say(format!("cannot register node {}: {error}; trying again", self.name()));
                let pause = error.retry_after().unwrap_or(self.register_pause);
                self.register_pause = (self.register_pause * 2).min(REGISTER_LONGEST);
                pause
            }
        }
    }

    fn complain(&mut self, error: &RequestError) {
        let name = self.name();
        self.complaint.say(match error.code() {
            Some(404) if self.settings.register => format!(
                "node {name} is not in the API any more; somebody deleted it, and it is registered again when the agent starts anew"
            ),
            Some(404) => format!("node {name} is not in the API, and registerNode is false: somebody has to create it"),
            _ => format!("cannot update the status of node {name}: {error}; trying again, pods are not affected"),
        });
    }

    /// Waits for the time or a reason to look again. Changes of the Node by others are taken in meanwhile.
    async fn wait(&mut self, pause: Duration) {
        let tick = Instant::now() + pause;
        let until = self.gatherer.next_change().map_or(tick, |change| change.min(tick));
        let mut waits_for_node = self.registered && self.known.is_none();
        loop {
            // Every arm is cancel-safe: watches keep their news, a message is taken or stays, a sleep holds nothing.
            tokio::select! {
                biased;
                () = changed(&mut self.runtime_state) => return,
                () = self.wake.called() => return,
                // A pod waits for the Node to say that its volume is in use.
                () = changed(&mut self.volumes_changed) => return,
                () = changed(&mut self.devices_changed) => return,
                () = changed(&mut self.storage_problem) => return,
                () = changed(&mut self.shutting_down) => return,
                () = changed(&mut self.pressures) => return,
                () = changed(&mut self.watched) => {
                    let watched = self.watched.borrow_and_update().clone();
                    if let Some(node) = watched {
                        // The cluster took the node for lost: it hears at once that it is not.
                        let lost = is_lost(&node);
                        let is_news = self.take(node);
                        if std::mem::take(&mut waits_for_node) || is_news && lost {
                            return;
                        }
                    } else if self.known.is_some() {
                        self.forget();
                        return;
                    }
                }
                Some(()) = self.refreshes.recv() => self.refresh().await,
                () = tokio::time::sleep_until(until) => return,
            }
        }
    }

    /// The Node is gone. Whoever creates it again starts from nothing, and what was known of it is of no use: a Lease
    /// owned by it would be collected as garbage.
    fn forget(&mut self) {
        self.known = None;
        self.reconcile = true;
        self.published.send_replace(None);
    }

    /// Somebody wants to see the Node as it is now; gets an answer in any case.
    async fn refresh(&mut self) {
        let is_news = match ask(self.settings.request_limit(), self.nodes.get(self.name())).await {
            Ok(node) => self.take(Arc::new(node)),
            Err(error) => {
                self.complain(&error);
                false
            }
        };
        if !is_news {
            self.published.send_modify(|_| {});
        }
    }

    async fn look(&mut self, existing: Option<&Node>) -> Facts {
        let mut facts = self.gatherer.gather(existing).await;
        facts.volumes_in_use = self.volumes_in_use.names(existing);
        facts.devices = self.devices.counts();
        facts
    }

    /// Writes the facts into the node and returns the events of that.
    fn observe(&mut self, facts: &Facts, node: &mut Node) -> Vec<NodeEvent> {
        let observation = facts.observation(self.gatherer.machine());
        let notes = observe_status(&self.settings.node, &observation, node, self.clock.now());
        match notes.address_problem {
            Some(problem) => self.address_complaint.say(problem.to_string()),
            None => self.address_complaint.resolved("the node's addresses are known"),
        }
        notes.events
    }

    /// A Node as it is registered when there is none, with the events of its conditions.
    fn new_node(&mut self, facts: &Facts) -> (Node, Vec<NodeEvent>) {
        let mut node = initial_node(&self.settings.node, &self.gatherer.machine().identity.architecture);
        let events = self.observe(facts, &mut node);
        (node, events)
    }

    /// One try to register: creates the Node, or reconciles the one that is there.
    async fn register(&mut self) -> Result<(), RequestError> {
        let limit = self.settings.request_limit();
        let facts = self.look(None).await;
        let (node, events) = self.new_node(&facts);
        self.startup.trying(self.clock.now());
        match ask(limit, self.nodes.create(&PostParams::default(), &node)).await {
            Ok(node) => {
                info!(node = self.name(), "registered the node");
                self.startup.registered(self.clock.now());
                self.registered = true;
                self.volumes_in_use.written(&facts.volumes_in_use);
                self.reported(Arc::new(node), true, &events);
                return Ok(());
            }
            Err(RequestError::Refused { code: 409, .. }) => {}
            // Who may not create may still find the Node there. If not, the refusal is the better message.
            Err(refused @ RequestError::Refused { code: 403, .. }) => {
                return match ask(limit, self.nodes.get(self.name())).await {
                    Ok(existing) => self.adopt(existing).await,
                    Err(_) => Err(refused),
                };
            }
            Err(error) => return Err(error),
        }
        let existing = ask(limit, self.nodes.get(self.name())).await?;
        self.adopt(existing).await
    }

    /// Takes over a Node that is there already.
    async fn adopt(&mut self, existing: Node) -> Result<(), RequestError> {
        info!(node = self.name(), "the node was registered before");
        if let Some(other) = reconcile::other_machine(&existing, &self.gatherer.machine().identity) {
            self.warn_of(&other, &existing).await;
        }
        self.take(Arc::new(existing));
        self.reconcile = true;
        self.update().await?;
        self.registered = true;
        Ok(())
    }

    /// Says that the Node was another machine's. It is taken over, as upstream does.
    async fn warn_of(&mut self, other: &OtherMachine, existing: &Node) {
        let ours = &self.gatherer.machine().identity;
        let held = match ask(self.settings.request_limit(), self.leases.get(self.name())).await {
            Ok(lease) => lease::is_held(&lease, self.clock.now()),
            Err(_) => false,
        };
        let since = reconcile::last_heartbeat(existing).map_or("never".to_owned(), |at| at.to_string());
        let verdict = if held {
            "that machine is still renewing its lease: two machines with one name will fight over it and its pods, so stop one of them or give it another --hostname-override"
        } else {
            "it is taken over; delete the Node first if the old machine's labels and taints must not stay"
        };
        let message = format!(
            "Node {} was registered by another machine (system UUID {}, machine ID {}, {}; last heartbeat {since}), this one has system UUID {} and machine ID {}: {verdict}",
            self.name(),
            other.system_uuid,
            other.machine_id,
            other.description,
            ours.system_uuid,
            ours.machine_id,
        );
        self.record(&NodeEvent { warning: true, reason: "NodeOfAnotherMachine", message: Some(message) });
    }

    /// Brings the status up to date, with a few tries.
    async fn update(&mut self) -> Result<(), RequestError> {
        let mut pause = TRY_PAUSE;
        let mut attempt = 0;
        loop {
            let error = match self.try_update(attempt > 0).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if attempt > 0 && error.code().is_none() {
                (self.close_connections)();
            }
            if error.code() == Some(404) {
                self.forget();
            }
            attempt += 1;
            if attempt == TRIES || error.ends_tries() {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// One try. The first goes from the Node as last seen, the others from what the API has.
    async fn try_update(&mut self, anew: bool) -> Result<(), RequestError> {
        let limit = self.settings.request_limit();
        if anew || self.known.is_none() {
            let node = ask(limit, self.nodes.get(self.name())).await?;
            self.take(Arc::new(node));
        }
        let Some(old) = self.known.clone() else { return Ok(()) };
        self.check_owner(&old);
        let facts = self.look(Some(&old)).await;
        let mut new = Node::clone(&old);
        if self.reconcile {
            let (initial, _) = self.new_node(&facts);
            reconcile::existing_node(&mut new, &initial, !facts.knows_devices);
        }
        let events = self.observe(&facts, &mut new);
        let changed = patch::has_changed(&old, &new);
        if !changed {
            self.volumes_in_use.written(&facts.volumes_in_use);
            if !self.report_is_due() {
                return Ok(());
            }
        }
        let Some(patch) = patch::status_patch(&old, &new) else { return Ok(()) };
        let (options, patch) = (PatchParams::default(), Patch::Strategic(patch));
        let node = ask(limit, self.nodes.patch_status(self.name(), &options, &patch)).await?;
        self.reconcile = false;
        self.volumes_in_use.written(&facts.volumes_in_use);
        self.reported(Arc::new(node), changed, &events);
        Ok(())
    }

    /// Says once in a while that another machine writes this Node. At registration `warn_of` has said more.
    fn check_owner(&mut self, node: &Node) {
        let other = reconcile::other_machine(node, &self.gatherer.machine().identity);
        if let Some(other) = other.filter(|_| !self.reconcile) {
            self.machine_complaint.say(format!(
                "another machine (system UUID {}, machine ID {}) writes the status of node {}: two machines use one name, stop one of them or give it another --hostname-override",
                other.system_uuid, other.machine_id, self.name(),
            ));
        }
    }

    fn report_is_due(&self) -> bool {
        self.last_report.is_none_or(|at| at.elapsed() >= self.report_shift)
    }

    /// The API has taken a status.
    fn reported(&mut self, node: Arc<Node>, changed: bool, events: &[NodeEvent]) {
        // Nodes that changed together must not report together for ever: after a change or a start the next full
        // report comes after half to one and a half of the period.
        let share =
            if changed || self.last_report.is_none() { 0.5 + spread(self.name(), self.posts) } else { 1.0 };
        self.report_shift = self.settings.report_frequency.mul_f64(share);
        self.last_report = Some(Instant::now());
        self.posts += 1;
        for event in events {
            self.record(event);
        }
        if is_ready(&node) {
            self.startup.ready(self.clock.now());
        }
        self.take(node);
    }

    /// Takes in the Node as an answer or the watch shows it. Returns whether it is news.
    fn take(&mut self, node: Arc<Node>) -> bool {
        if self.known.as_ref().is_some_and(|known| !is_newer(&node, known)) {
            return false;
        }
        let mut node = node;
        if node.metadata.managed_fields.is_some() {
            Arc::make_mut(&mut node).metadata.managed_fields = None;
        }
        let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        if std::mem::replace(&mut self.unschedulable, unschedulable) != unschedulable {
            let reason = if unschedulable { "NodeNotSchedulable" } else { "NodeSchedulable" };
            self.record(&NodeEvent::status(reason));
        }
        let another = self.known.as_ref().map(|known| &known.metadata.uid) != Some(&node.metadata.uid);
        self.known = Some(node.clone());
        self.published.send_replace(Some(node));
        if another {
            self.csi_nodes.look();
        }
        true
    }

    fn record(&self, event: &NodeEvent) {
        let subject = EventSubject::node(self.name());
        let text = event.text(self.name());
        if event.warning {
            self.events.warning(&subject, event.reason, text);
        } else {
            self.events.normal(&subject, event.reason, text);
        }
    }
}

/// Whether `node` is a later version than `known`: another object, or a greater resource version.
fn is_newer(node: &Node, known: &Node) -> bool {
    if node.metadata.uid != known.metadata.uid {
        return true;
    }
    let version = |node: &Node| node.metadata.resource_version.clone().unwrap_or_default();
    match (version(node).parse::<u64>(), version(known).parse::<u64>()) {
        (Ok(new), Ok(old)) => new > old,
        // Not a number: then the order in which they came has to do.
        _ => version(node) != version(known),
    }
}

/// Whether the Node says that it is Ready.
fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether the controllers have given up waiting for heartbeats.
fn is_lost(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "Unknown")
}

/// Waits for news; for ever when there will be none.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        tell_ended();
        std::future::pending::<()>().await;
    }
}

fn tell_ended() {
    debug!("a task the node agent listens to has ended");
}
