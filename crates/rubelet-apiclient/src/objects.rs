//! The ConfigMaps and Secrets that pods refer to, at hand while a pod needs them
//! (`configMapAndSecretChangeDetectionStrategy`), and claims and their volumes, which are not kept.
//!
//! Owns one watch per referred object, shared by all pods that refer to it, and the last known value; never looks into
//! pods (callers say what a pod refers to) and never into the objects. Pods whose objects changed are named in
//! [`ObjectCache::changed`], so that their workers look again.
//!
//! - `entry`: what is known about one object, and what that means for who asks
//! - `keeper`: the task that watches one object while a pod needs it
//! - `fetch`: one GET, for what no watch can answer now

#[cfg(test)]
mod convergence_tests;
mod entry;
mod fetch;
mod keeper;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret};
use rubelet_core::ids::PodUid;
use rubelet_core::projection::{ObjectKind, ObjectReference};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::reflector::AbortOnDrop;
use crate::wake::Wake;
use crate::watch::Watched;
use entry::{Entry, Verdict};

/// Who asks waits so long for a first list before a GET is tried.
const FIRST_LIST_WAIT: Duration = Duration::from_secs(1);
/// First lists that run at once.
const FIRST_LISTS: usize = 16;
/// GETs that run at once.
const GETS: usize = 8;
/// Upstream `defaultTTL` of the Cache strategy, unless the node's annotation says otherwise.
const DEFAULT_TTL: Duration = Duration::from_secs(60);

/// How changes are noticed: `configMapAndSecretChangeDetectionStrategy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChangeDetection {
    /// A watch per object, while a pod needs it.
    #[default]
    Watch,
    /// A GET when the last answer is older than a minute or what the node's annotation says.
    Cache,
    /// A GET each time.
    Get,
}

/// Why there is no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// It does not exist. The text is the API server's.
    #[error("{0}")]
    NotFound(String),
    /// Nobody can say: the API server is away, refuses, or the object cannot be decoded.
    #[error("{0}")]
    Failed(String),
}

/// The kinds that can be kept.
trait Kept: Watched + k8s_openapi::Resource<Scope = NamespaceResourceScope> + Clone + std::fmt::Debug {
    /// The kind in a message.
    const WORD: &'static str;
    fn is_immutable(&self) -> bool;
    fn kept(shared: &Shared) -> &Entries<Self>;
}

impl Kept for ConfigMap {
    const WORD: &'static str = "configmap";
    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }
    fn kept(shared: &Shared) -> &Entries<Self> {
        &shared.config_maps
    }
}

impl Kept for Secret {
    const WORD: &'static str = "secret";
    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }
    fn kept(shared: &Shared) -> &Entries<Self> {
        &shared.secrets
    }
}

/// Drops what no pod can see: a ConfigMap's or Secret's annotations often hold its content a second time.
fn clean<K: Kept>(object: &mut K) {
    let metadata = object.metadata_mut();
    metadata.managed_fields = None;
    metadata.annotations = None;
}

/// Entries of one kind, by namespace and name.
type Entries<K> = Mutex<BTreeMap<(String, String), Slot<K>>>;

struct Slot<K> {
    entry: Arc<Entry<K>>,
    task: Option<AbortOnDrop>,
}

struct Shared {
    client: kube::Client,
    strategy: ChangeDetection,
    seed: u64,
    /// Milliseconds an answer stays fresh under the Cache strategy.
    ttl: AtomicU64,
    /// What each pod refers to. Locked before the entries.
    held: Mutex<BTreeMap<PodUid, BTreeSet<ObjectReference>>>,
    config_maps: Entries<ConfigMap>,
    secrets: Entries<Secret>,
    first_lists: Arc<Semaphore>,
    gets: Semaphore,
    wake: Wake,
    changed: Mutex<BTreeSet<PodUid>>,
    changed_notify: Notify,
}

/// See the module. Clones share everything.
#[derive(Clone)]
pub struct ObjectCache {
    shared: Arc<Shared>,
}

impl ObjectCache {
    /// Ends all watches; what is held stays as it is. For a program that stops, whose server may stop first.
    pub fn end(&self) {
        fn stop<K: Kept>(shared: &Shared) {
            lock(K::kept(shared)).values_mut().for_each(|slot| slot.task = None);
        }
        stop::<ConfigMap>(&self.shared);
        stop::<Secret>(&self.shared);
    }

    /// `seed` spreads this node's requests away from other nodes': see [`crate::watch::seed_of`].
    pub fn new(client: kube::Client, strategy: ChangeDetection, seed: u64) -> Self {
        Self::with_wake(client, strategy, seed, Wake::default())
    }

    /// The same with [`WatchSpec::wake`](crate::watch::WatchSpec::wake) for its watches.
    pub fn with_wake(client: kube::Client, strategy: ChangeDetection, seed: u64, wake: Wake) -> Self {
        let shared = Shared {
            client,
            strategy,
            seed,
            ttl: AtomicU64::new(millis(DEFAULT_TTL)),
            held: Mutex::default(),
            config_maps: Mutex::default(),
            secrets: Mutex::default(),
            first_lists: Arc::new(Semaphore::new(FIRST_LISTS)),
            gets: Semaphore::new(GETS),
            wake,
            changed: Mutex::default(),
            changed_notify: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// How long answers stay fresh under the Cache strategy: the node's annotation `node.alpha.kubernetes.io/ttl` in
    /// seconds, `None` for the default of a minute.
    pub fn set_ttl(&self, ttl: Option<Duration>) {
        self.shared.ttl.store(millis(ttl.unwrap_or(DEFAULT_TTL)), Ordering::Relaxed);
    }

    /// Says what a pod refers to, in place of what was said before. Watches start for what is new, and end a minute
    /// after the last pod has let go. Must be called inside a tokio runtime.
    pub fn hold(&self, pod: &PodUid, refs: BTreeSet<ObjectReference>) {
        let mut held = lock(&self.shared.held);
        let before = held.remove(pod).unwrap_or_default();
        for object in refs.difference(&before) {
            match object.kind {
                ObjectKind::ConfigMap => self.shared.add::<ConfigMap>(object, pod),
                ObjectKind::Secret => self.shared.add::<Secret>(object, pod),
            }
        }
        for object in before.difference(&refs) {
            match object.kind {
                ObjectKind::ConfigMap => self.shared.remove::<ConfigMap>(object, pod),
                ObjectKind::Secret => self.shared.remove::<Secret>(object, pod),
            }
        }
        if !refs.is_empty() {
            held.insert(pod.clone(), refs);
        }
    }

    /// The pod needs nothing any more.
    pub fn release(&self, pod: &PodUid) {
        self.hold(pod, BTreeSet::new());
        lock(&self.shared.changed).remove(pod);
    }

    /// A ConfigMap as it is now, or as it was last known while the API server is away.
    pub async fn get_config_map(&self, namespace: &str, name: &str) -> Result<Arc<ConfigMap>, ObjectError> {
        self.shared.get(namespace, name).await
    }

    /// A Secret as it is now, or as it was last known while the API server is away.
    pub async fn get_secret(&self, namespace: &str, name: &str) -> Result<Arc<Secret>, ObjectError> {
        self.shared.get(namespace, name).await
    }

    /// A claim as the API server has it: a GET each time, since nodes may not watch claims.
    ///
    /// # Errors
    /// It does not exist, or nobody can say; the text is the API server's.
    pub async fn get_claim(&self, namespace: &str, name: &str) -> Result<PersistentVolumeClaim, ObjectError> {
        let claims = kube::Api::namespaced(self.shared.client.clone(), namespace);
        fetch::fetch_unkept(&self.shared, &claims, name).await
    }

    /// A PersistentVolume, likewise.
    ///
    /// # Errors
    /// As for claims.
    pub async fn get_persistent_volume(&self, name: &str) -> Result<PersistentVolume, ObjectError> {
        fetch::fetch_unkept(&self.shared, &kube::Api::all(self.shared.client.clone()), name).await
    }

    /// Waits for, and takes, the pods for which one of their objects is no longer what was last answered: it changed,
    /// appeared, went, or can be told at last. For one caller; cancel-safe.
    pub async fn changed(&self) -> BTreeSet<PodUid> {
        loop {
            let taken = std::mem::take(&mut *lock(&self.shared.changed));
            if !taken.is_empty() {
                return taken;
            }
            // A permit is kept if the set grows in between.
            self.shared.changed_notify.notified().await;
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks is left half done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key_of(object: &ObjectReference) -> (String, String) {
    (object.namespace.clone(), object.name.clone())
}

impl Shared {
    fn add<K: Kept>(self: &Arc<Self>, object: &ObjectReference, pod: &PodUid) {
        let mut entries = lock(K::kept(self));
        match self.strategy {
            ChangeDetection::Get => {}
            ChangeDetection::Cache => {
                let slot = entries.entry(key_of(object)).or_insert_with(|| {
                    let entry = Arc::new(Entry::new(&object.namespace, &object.name));
                    Slot { entry, task: None }
                });
                slot.entry.hold(pod);
                // A pod that comes new sees no older state than itself (upstream `AddReference`).
                slot.entry.expire();
            }
            ChangeDetection::Watch => {
                let slot = entries.entry(key_of(object)).or_insert_with(|| {
                    let entry = Arc::new(Entry::new(&object.namespace, &object.name));
                    let task = tokio::spawn(keeper::keep::<K>(Arc::downgrade(self), entry.clone()));
                    Slot { entry, task: Some(AbortOnDrop(task.abort_handle())) }
                });
                slot.entry.hold(pod);
            }
        }
    }

    fn remove<K: Kept>(&self, object: &ObjectReference, pod: &PodUid) {
        let mut entries = lock(K::kept(self));
        let key = key_of(object);
        let Some(slot) = entries.get(&key) else { return };
        slot.entry.let_go(pod);
        // A watched entry is removed by its keeper, after a while.
        if self.strategy == ChangeDetection::Cache && !slot.entry.is_held() {
            entries.remove(&key);
        }
    }

    fn entry<K: Kept>(&self, namespace: &str, name: &str) -> Option<Arc<Entry<K>>> {
        let key = (namespace.to_owned(), name.to_owned());
        lock(K::kept(self)).get(&key).map(|slot| slot.entry.clone())
    }

    async fn get<K: Kept>(&self, namespace: &str, name: &str) -> Result<Arc<K>, ObjectError> {
        let Some(entry) = self.entry::<K>(namespace, name) else {
            return fetch::fetch(self, namespace, name, fetch::Patience::Long, false).await;
        };
        let answer = match self.strategy {
            ChangeDetection::Watch | ChangeDetection::Get => self.get_watched(&entry).await,
            ChangeDetection::Cache => self.get_cached(&entry).await,
        };
        self.poke(entry.note_answer(&answer));
        answer
    }

    async fn get_watched<K: Kept>(&self, entry: &Entry<K>) -> Result<Arc<K>, ObjectError> {
        let deadline = Instant::now() + FIRST_LIST_WAIT;
        let mut changes = entry.subscribe();
        loop {
            match entry.verdict() {
                Verdict::Answer(answer) => return answer,
                Verdict::Wait if timeout_at(deadline, changes.changed()).await.is_ok() => {}
                Verdict::Wait | Verdict::Fetch => break,
            }
        }
        // One at a time for one object: who comes next finds what the first one learned.
        let _turn = entry.turn().await;
        if let Some(answer) = entry.after_turn(Instant::now()) {
            return answer;
        }
        let patience =
            if entry.last_known().is_some() { fetch::Patience::Short } else { fetch::Patience::Long };
        let fetched = fetch::fetch(self, entry.namespace(), entry.name(), patience, false).await;
        self.learn(entry, fetched)
    }

    async fn get_cached<K: Kept>(&self, entry: &Entry<K>) -> Result<Arc<K>, ObjectError> {
        let _turn = entry.turn().await;
        let ttl = Duration::from_millis(self.ttl.load(Ordering::Relaxed));
        if let Some(fresh) = entry.fresh(Instant::now(), ttl) {
            return Ok(fresh);
        }
        // A refresh of what is there may come from the server's cache.
        let refresh = entry.refreshable();
        let patience = if refresh { fetch::Patience::Short } else { fetch::Patience::Long };
        let fetched = fetch::fetch(self, entry.namespace(), entry.name(), patience, refresh).await;
        self.learn(entry, fetched)
    }

    /// Takes up what a GET said; on failure the last known value is the answer, if there is one.
    fn learn<K: Kept>(
        &self,
        entry: &Entry<K>,
        fetched: Result<Arc<K>, ObjectError>,
    ) -> Result<Arc<K>, ObjectError> {
        self.poke(entry.learn(&fetched, Instant::now()));
        // What is known may be newer than what was fetched.
        entry.last_known().unwrap_or(fetched)
    }

    fn poke(&self, pods: BTreeSet<PodUid>) {
        if !pods.is_empty() {
            lock(&self.changed).extend(pods);
            self.changed_notify.notify_one();
        }
    }
}
