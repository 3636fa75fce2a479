//! The books of allocated and actuated resources, and which resizes wait. The sync loop writes what is allocated and what
//! waits, each worker what it has told the runtime of its pod; both are read by whoever tells of the pod. Decisions are
//! `rubelet_core::resize`'s, and nothing here talks to the runtime.
//!
//! The books are two files in upstream's form. They are written by whoever has changed something and can wait
//! ([`Allocations::flush`]); several changes share a write. A record that is lost costs no container anything.

mod file;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::ResourceRequirements;
use rubelet_core::Pod;
use rubelet_core::containers::spec_of;
use rubelet_core::ids::PodUid;
use rubelet_core::resize::checkpoint::{ACTUATED, ALLOCATED, Book};
use rubelet_core::resize::{PendingResize, PodAllocation, ResizeGates, Settings, allocated_pod};
use tokio::sync::Notify;
use tracing::warn;

use self::file::BookFile;
use crate::fs_pool::FsPool;
use crate::metrics::Metrics;

/// What the verdict on a resize depends on besides room.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResizeSettings {
    /// Feature gates.
    pub gates: ResizeGates,
    /// `cpuManagerPolicy: static`.
    pub static_cpus: bool,
    /// `memoryManagerPolicy: Static`.
    pub static_memory: bool,
}

/// What became of a pod's last resize, for its worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResizeNews {
    /// What waits.
    pub pending: Option<PendingResize>,
    /// The generation that was allocated last, once.
    pub accepted: Option<Option<i64>>,
}

/// The books; cheap to clone.
#[derive(Clone)]
pub struct Allocations(Arc<Shared>);

struct Shared {
    settings: ResizeSettings,
    metrics: Metrics,
    books: Mutex<Books>,
    allocated: BookFile,
    actuated: BookFile,
    /// A pod has got less: others may have what it gave back.
    freed: Notify,
}

#[derive(Default)]
struct Books {
    allocated: Book,
    actuated: Book,
    news: BTreeMap<PodUid, ResizeNews>,
    /// Pods whose resize is under way.
    in_progress: std::collections::BTreeSet<PodUid>,
}

impl Allocations {
    /// Reads the books below a root directory. One that cannot be read is set aside: what runs keeps what it has.
    pub async fn load(root_dir: &Path, fs: &FsPool, settings: ResizeSettings, metrics: &Metrics) -> Self {
        let file = |name: &str| BookFile::new(root_dir.join(name), fs.clone());
        let (allocated, actuated) = (file(ALLOCATED), file(ACTUATED));
        let books =
            Books { allocated: allocated.read().await, actuated: actuated.read().await, ..Books::default() };
        Self(Arc::new(Shared {
            settings,
            metrics: metrics.clone(),
            books: Mutex::new(books),
            allocated,
            actuated,
            freed: Notify::new(),
        }))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the verdict on a resize depends on.
    pub fn settings(&self) -> ResizeSettings {
        self.0.settings
    }

    /// The pod with what was allocated to it, which is what its spec says when nothing was.
    pub fn handed(&self, uid: &PodUid, pod: &Arc<Pod>) -> Arc<Pod> {
        let books = self.books();
        let allocation = books.allocated.get(uid);
        let pod_of = allocation.and_then(|allocation| allocated_pod(pod, allocation, self.0.settings.gates));
        pod_of.map_or_else(|| pod.clone(), Arc::new)
    }

    /// Writes down what a pod was given.
    pub fn allocate(&self, uid: &PodUid, pod: &Pod) {
        let allocation = PodAllocation::of(pod, self.0.settings.gates);
        let mut books = self.books();
        if books.allocated.get(uid) != Some(&allocation) {
            books.allocated.insert(uid.clone(), allocation);
            self.0.allocated.changed();
        }
    }

    /// What is actuated of a pod.
    pub fn actuated(&self, uid: &PodUid) -> Option<PodAllocation> {
        self.books().actuated.get(uid).cloned()
    }

    /// The runtime has been told of a container's resources; those of its pod count where it has no limit.
    pub fn actuate_container(
        &self,
        uid: &PodUid,
        pod: &Pod,
        name: &str,
        resources: Option<&ResourceRequirements>,
    ) {
        let own = spec_of(pod).resources.as_ref().filter(|_| self.0.settings.gates.pod_level);
        let recorded = match own {
            Some(own) => Settings::of(resources, Some(own)).over(resources),
            None => resources.cloned().unwrap_or_default(),
        };
        let mut books = self.books();
        let entry = books.actuated.entry(uid.clone()).or_default();
        // The first of its containers comes with the pod's own cgroup.
        let first = entry.pod.is_none() && own.is_some();
        if first {
            entry.pod = own.cloned();
        }
        if first || entry.containers.get(name) != Some(&recorded) {
            entry.containers.insert(name.to_owned(), recorded);
            self.0.actuated.changed();
        }
    }

    /// Resources of the pod itself are in force.
    pub fn actuate_pod(&self, uid: &PodUid, pod: &Pod) {
        let mut books = self.books();
        let entry = books.actuated.entry(uid.clone()).or_default();
        let own = spec_of(pod).resources.clone().filter(|_| self.0.settings.gates.pod_level);
        if entry.pod != own {
            entry.pod = own;
            self.0.actuated.changed();
        }
    }

    /// A resize has been carried out: others may have room now.
    pub fn freed(&self) {
        self.0.freed.notify_one();
    }

    /// Waits until a pod may have given something back. Cancel-safe: a permit is kept.
    pub async fn something_freed(&self) {
        self.0.freed.notified().await;
    }

    /// What became of a pod's last resize. `accepted` is told once.
    pub fn take_news(&self, uid: &PodUid) -> ResizeNews {
        let mut books = self.books();
        match books.news.get_mut(uid) {
            Some(news) => ResizeNews { pending: news.pending.clone(), accepted: news.accepted.take() },
            None => ResizeNews::default(),
        }
    }

    /// What waits of a pod.
    pub fn pending(&self, uid: &PodUid) -> Option<PendingResize> {
        self.books().news.get(uid)?.pending.clone()
    }

    /// Tells that a resize waits, or no longer does. Returns whether that is news: another reason or generation.
    pub fn tell_pending(&self, uid: &PodUid, pending: Option<PendingResize>) -> bool {
        let mut books = self.books();
        let before = books.news.get(uid).and_then(|news| news.pending.clone());
        if before == pending {
            return false;
        }
        let key = |pending: &Option<PendingResize>| pending.as_ref().map(|p| (p.infeasible, p.generation));
        let news = key(&before) != key(&pending);
        books.news.entry(uid.clone()).or_default().pending = pending;
        self.count_pending(&books);
        news
    }

    /// A resize was allocated: what waited does so no longer.
    pub fn tell_accepted(&self, uid: &PodUid, generation: Option<i64>) {
        let mut books = self.books();
        books.news.insert(uid.clone(), ResizeNews { pending: None, accepted: Some(generation) });
        self.count_pending(&books);
    }

    /// Whether a pod's resize is under way, for the metric.
    pub fn note_progress(&self, uid: &PodUid, in_progress: bool) {
        let mut books = self.books();
        let changed =
            if in_progress { books.in_progress.insert(uid.clone()) } else { books.in_progress.remove(uid) };
        if changed {
            let count = u32::try_from(books.in_progress.len()).unwrap_or(u32::MAX);
            self.0.metrics.pods.resizes_in_progress.set(f64::from(count));
        }
    }

    fn count_pending(&self, books: &Books) {
        for (reason, infeasible) in [("deferred", false), ("infeasible", true)] {
            let pending = books.news.values().filter_map(|news| news.pending.as_ref());
            let count = pending.filter(|pending| pending.infeasible == infeasible).count();
            let gauge = self.0.metrics.pods.resizes_pending.with([reason]);
            // One that was never set is not shown.
            if count > 0 || gauge.get().is_some() {
                gauge.set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
            }
        }
    }

    /// Forgets a pod that is gone. That need not be on disk at once: a record too many is dropped at the next start.
    pub fn forget(&self, uid: &PodUid) {
        let mut books = self.books();
        books.allocated.remove(uid);
        books.actuated.remove(uid);
        if books.news.remove(uid).is_some() {
            self.count_pending(&books);
        }
        drop(books);
        self.note_progress(uid, false);
    }

    /// Forgets pods that nobody knows.
    pub fn keep_only(&self, known: impl Fn(&PodUid) -> bool) {
        let mut books = self.books();
        books.allocated.retain(|uid, _| known(uid));
        books.actuated.retain(|uid, _| known(uid));
        books.news.retain(|uid, _| known(uid));
    }

    /// Has what was written down on the disk. A failure is told and repaired by the next flush.
    pub async fn flush(&self) {
        for (file, of) in [
            (&self.0.allocated, (|books: &Books| &books.allocated) as fn(&Books) -> &Book),
            (&self.0.actuated, |books: &Books| &books.actuated),
        ] {
            if let Err(error) =
                file.write(|| rubelet_core::resize::checkpoint::encode(of(&self.books()))).await
            {
                warn!("the book of resources could not be written: {}", crate::logging::chain(&error));
            }
        }
    }
}
