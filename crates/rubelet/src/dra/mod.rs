//! Dynamic resource allocation: ResourceClaims of pods are prepared before their sandboxes, and given back when nothing of
//! them runs and before that is told. Owns the book of claims and its checkpoint, the drivers that have registered, and
//! what they tell of their devices; what is to be done is `rubelet_core::dra`'s. It never starts, stops or ends a
//! container.
//!
//! - `drivers`: who has registered, and whether it answers
//! - `prepare`: preparing and giving back, one pod at a time for each claim
//! - `links`: connections that are held, and health that comes over them
//! - `slices`: ResourceSlices of drivers that are gone
//! - `stale`: claims of pods that nobody works for any more
//! - `store`: the checkpoint; `reader`: claims in the API
//!
//! Called by workers; [`Claims::run`] is the one task.

mod drivers;
mod links;
mod prepare;
mod reader;
mod slices;
mod stale;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use rubelet_config::{FeatureGates, Gate};
use rubelet_core::dra::ClaimKey;
use rubelet_core::dra::book::ClaimBook;
use rubelet_core::dra::health::HealthBook;
use rubelet_core::dra::references::{self, ReferenceError};
use rubelet_core::dra::status::tell_health;
use rubelet_core::ids::PodUid;
use tokio::sync::Notify;
use tokio::sync::watch;
use tracing::warn;

use crate::clock::Clock;
use crate::desired::DesiredPods;
use crate::fs_pool::FsPool;
use crate::metrics::Metrics;
use crate::pleg::Pleg;
use crate::pod_wakes::PodWakes;
use crate::table::PodTable;

pub use prepare::{ClaimsError, FAILED_PREPARE};
pub use reader::{ApiClaims, ClaimReader};

use drivers::Drivers;
use store::Store;

/// What the feature gates say.
#[derive(Clone, Copy, Debug)]
pub struct ClaimsSettings {
    /// `DRAExtendedResource`: extended resources that a claim of the scheduler's stands for.
    pub extended: bool,
    /// `ResourceHealthStatus`: drivers are asked how their devices are.
    pub health: bool,
    /// `ResourceHealthStatusMessage`: their words are told too.
    pub messages: bool,
}

impl ClaimsSettings {
    /// As these gates say.
    pub fn new(gates: &FeatureGates) -> Self {
        Self {
            extended: gates.enabled(Gate::DRAExtendedResource),
            health: gates.enabled(Gate::ResourceHealthStatus),
            messages: gates.enabled(Gate::ResourceHealthStatusMessage),
        }
    }
}

/// What [`Claims`] are made from.
pub struct ClaimsParts {
    /// Feature gates.
    pub settings: ClaimsSettings,
    /// Claims in the API; `None` on a node without one, where pods with claims wait.
    pub reader: Option<Arc<dyn ClaimReader>>,
    /// For the checkpoint.
    pub fs: FsPool,
    /// Wall clock.
    pub clock: Clock,
    /// Wakes pods that wait for a driver, and those whose devices are not as they were.
    pub wakes: PodWakes,
    /// What is counted.
    pub metrics: Metrics,
}

/// What the task watches besides drivers.
pub struct Surroundings {
    /// The way to the API server; `None` without one.
    pub client: Option<kube::Client>,
    /// Name of the node.
    pub node_name: String,
    /// What is to run.
    pub desired: watch::Receiver<Arc<DesiredPods>>,
    /// What workers do.
    pub table: PodTable,
    /// What runs.
    pub pleg: Pleg,
}

/// A claim as the PodResources API tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedDevices {
    /// Namespace of the claim.
    pub namespace: String,
    /// Name of the claim.
    pub name: String,
    /// Its devices.
    pub devices: Vec<ClaimedDevice>,
}

/// A device of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedDevice {
    /// Its driver.
    pub driver: String,
    /// Its pool.
    pub pool: String,
    /// Its name in the pool.
    pub device: String,
    /// CDI devices that bring it into a container.
    pub cdi: Vec<String>,
    /// Which share of it.
    pub share_id: Option<String>,
}

/// The claims of this node; cheap to clone.
#[derive(Clone)]
pub struct Claims(Arc<Shared>);

struct Shared {
    settings: ClaimsSettings,
    reader: Option<Arc<dyn ClaimReader>>,
    clock: Clock,
    wakes: PodWakes,
    metrics: Metrics,
    store: Store,
    drivers: Drivers,
    book: Mutex<ClaimBook>,
    /// Told when a claim came into the book.
    book_grew: Notify,
    health: Mutex<HealthBook>,
    /// Told when health was reported.
    health_told: Notify,
    /// Only one pod at a time has a claim prepared or given back. Bounded by those that are under way.
    locks: Mutex<BTreeMap<ClaimKey, Arc<tokio::sync::Mutex<()>>>>,
    /// Pods that wait for drivers to register. Bounded by pods with claims.
    waiting: Mutex<BTreeMap<PodUid, BTreeSet<String>>>,
    /// The checkpoint was lost, and claims of pods that run are not in the book again yet.
    amnesia: watch::Sender<bool>,
}

impl Claims {
    /// Reads the checkpoint below a root directory. One that cannot be used is set aside, and the book is made again of the
    /// pods that are there: nothing that runs is harmed.
    pub async fn load(parts: ClaimsParts, root_dir: &Path) -> Self {
        let store = Store::new(root_dir, parts.fs);
        let (book, lost) = match store.load().await {
            Ok(book) => (book, false),
            Err(problem) => {
                warn!(
                    "the record of prepared ResourceClaims is lost, and made again of the pods that are there: {problem}"
                );
                (ClaimBook::default(), true)
            }
        };
        let claims = Self(Arc::new(Shared {
            settings: parts.settings,
            reader: parts.reader,
            clock: parts.clock,
            wakes: parts.wakes,
            metrics: parts.metrics.clone(),
            drivers: Drivers::new(&parts.metrics),
            store,
            book: Mutex::new(book),
            book_grew: Notify::new(),
            health: Mutex::default(),
            health_told: Notify::new(),
            locks: Mutex::default(),
            waiting: Mutex::default(),
            amnesia: watch::Sender::new(lost),
        }));
        let counted = Arc::downgrade(&claims.0);
        parts.metrics.collect_with(move |out| {
            let Some(shared) = counted.upgrade() else { return };
            let book = shared.book();
            let (by_driver, all) = book.in_use();
            // Nothing is told on nodes that never had a claim.
            if all > 0 || shared.drivers.any() {
                let of = by_driver.into_iter().chain([("<any>", all)]);
                of.for_each(|(driver, count)| {
                    out.tell(&rubelet_server::metrics::node::DRA_CLAIMS_IN_USE, &[driver], count as f64);
                });
            }
        });
        claims
    }

    /// Whether anything of the pod is prepared, or may be.
    pub fn has(&self, uid: &PodUid) -> bool {
        self.0.book().has_pod(uid)
    }

    /// Names of the CDI devices that a container gets of the pod's claims. From memory.
    ///
    /// # Errors
    /// A claim is not known, or not prepared.
    pub fn cdi_devices(&self, pod: &Pod, container: &Container) -> Result<Vec<String>, ClaimsError> {
        let wanted = references::claims_of_container(pod, container, self.0.settings.extended)?;
        self.0.book().cdi_devices(&wanted).map_err(ClaimsError::Unknown)
    }

    /// The devices of a container's claims, for the PodResources API. From memory; claims that are not prepared are left
    /// out.
    pub fn of_container(&self, pod: &Pod, container: &Container) -> Vec<ClaimedDevices> {
        let wanted = references::claims_of_container(pod, container, self.0.settings.extended);
        let book = self.0.book();
        let mut found: Vec<ClaimedDevices> = vec![];
        for wanted in wanted.unwrap_or_default() {
            let key = &wanted.claim;
            let Some(entry) = book.get(key) else { continue };
            if found.iter().any(|other| (&other.namespace, &other.name) == (&key.namespace, &key.name)) {
                continue;
            }
            let given =
                entry.drivers.iter().flat_map(|(driver, list)| list.iter().map(move |one| (driver, one)));
            let devices = given.map(|(driver, device)| ClaimedDevice {
                driver: driver.clone(),
                pool: device.pool.clone(),
                device: device.device.clone(),
                cdi: device.cdi.clone(),
                share_id: device.share.clone(),
            });
            let (namespace, name) = (key.namespace.clone(), key.name.clone());
            found.push(ClaimedDevices { namespace, name, devices: devices.collect() });
        }
        found
    }

    /// Adds to a pod's status how the devices of its claims are.
    pub fn tell_health(&self, pod: &Pod, status: &mut PodStatus) {
        if self.0.settings.health && references::has_claims(pod, false) {
            let now = self.0.clock.now();
            let (book, health) = (self.0.book(), self.0.health());
            tell_health(pod, status, &book, &health, self.0.settings.messages, now);
        }
    }

    /// What takes drivers on.
    pub fn handler(&self) -> Arc<dyn rubelet_plugins::PluginHandler> {
        Arc::new(drivers::Handler(self.clone()))
    }

    /// Does everything that nobody waits for, until dropped. At rest while there is neither driver nor claim.
    pub async fn run(self, around: Surroundings) {
        tokio::join!(
            self.hold_links(),
            self.follow_health(),
            self.wipe_slices(around.client.as_ref(), &around.node_name),
            self.give_back_stale(&around),
        );
    }

    fn claims_of(&self, pod: &Pod) -> Result<Vec<references::ClaimReference>, ReferenceError> {
        references::claims_of_pod(pod, self.0.settings.extended)
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, ClaimBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, HealthBook> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<PodUid, BTreeSet<String>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has pods that wait for this driver try again.
    fn wake_waiting(&self, driver: &str) {
        for (uid, drivers) in self.waiting().iter() {
            if drivers.contains(driver) {
                self.wakes.wake(uid);
            }
        }
    }
}
