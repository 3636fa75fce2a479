//! The task of one watched object: it watches while a pod needs the object, and a while longer, so that pods that come
//! and go do not list it anew each time. Ends with the entry.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::entry::Entry;
use super::{Kept, Shared, clean, lock};
use crate::watch::{self, Update, WatchSpec};

/// A watch outlives its last pod by this.
const LINGER: Duration = Duration::from_secs(60);
/// Upstream's minimum for these watches: there are many, and each costs a request when it ends.
const MIN_WATCH_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// One object is a short list.
const LIST_DEADLINE: Duration = Duration::from_secs(15);

/// Keeps the entry until nobody needs it, then removes it.
pub(super) async fn keep<K: Kept>(shared: Weak<Shared>, entry: Arc<Entry<K>>) {
    loop {
        tokio::select! {
            biased;
            // Cancel-safe, both: nothing is lost but the wait and the stream.
            () = unneeded(&entry) => {}
            () = observe(&shared, &entry) => {
                // It is immutable: nothing is left to watch.
                unneeded(&entry).await;
            }
        }
        let Some(shared) = shared.upgrade() else { return };
        let mut entries = lock(K::kept(&shared));
        if !entry.is_held() {
            entries.remove(&(entry.namespace().to_owned(), entry.name().to_owned()));
            return;
        }
        // A pod came in the last moment: on it goes.
    }
}

/// Returns when no pod has needed the entry for a while, or at once when none does and the watch is in trouble, as it
/// is when the node may no longer read the object.
async fn unneeded<K: Kept>(entry: &Entry<K>) {
    let mut holders = entry.holders();
    let mut changes = entry.subscribe();
    loop {
        // The sender lives in the entry.
        let _ = holders.wait_for(|pods| pods.is_empty()).await;
        let in_trouble = async {
            while !entry.in_trouble() {
                let _ = changes.changed().await;
            }
        };
        tokio::select! {
            biased;
            // Cancel-safe, all: these only wait.
            _ = holders.wait_for(|pods| !pods.is_empty()) => {}
            () = in_trouble => return,
            () = tokio::time::sleep(LINGER) => return,
        }
    }
}

/// Watches the object. Returns only if it is immutable.
async fn observe<K: Kept>(shared: &Weak<Shared>, entry: &Arc<Entry<K>>) {
    let (client, seed, first_lists, wake) = match shared.upgrade() {
        Some(shared) => (shared.client.clone(), shared.seed, shared.first_lists.clone(), shared.wake.clone()),
        None => return,
    };
    // Held until the first answer. The semaphore is never closed.
    let mut permit = first_lists.acquire_owned().await.ok();
    let spec = WatchSpec {
        min_watch_timeout: MIN_WATCH_TIMEOUT,
        list_deadline: LIST_DEADLINE,
        clean: clean::<K>,
        wake,
        ..WatchSpec::one(Some(entry.namespace()), entry.name(), seed)
    };
    let sink = |update: Update<K>| {
        permit.take();
        let poke = entry.observe(update, Instant::now());
        if let Some(shared) = shared.upgrade() {
            shared.poke(poke);
        }
    };
    let mut changes = entry.subscribe();
    let immutable = async {
        while !entry.is_immutable() {
            let _ = changes.changed().await;
        }
    };
    tokio::select! {
        biased;
        // Cancel-safe: it only waits.
        () = immutable => {}
        never = watch::run(client, spec, sink) => match never {},
    }
}
