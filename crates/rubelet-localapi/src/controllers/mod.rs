//! What makes objects true that only a control plane can: one task that hears of every change and looks at what it
//! concerns.
//!
//! | controller | keeps |
//! |---|---|
//! | `namespaces` | the service account and root certificate of each, the emptying of deleted ones |
//! | `nodes` | taints that say what conditions say |
//! | `scheduler` | pods bound to the one node, or told why not |
//! | `garbage` | dependents without owners, owners that wait |
//! | `ephemeral` | claims for the `ephemeral` volumes of pods |
//! | `volumes` | claims and volumes, folders of this machine for claims |
//! | `expiry` | old Events forgotten |
//!
//! Each is level-triggered: a change only says *look at this*; what is true is read. All decisions are
//! `rubelet-apimachinery`'s; every write goes through the engine, as any client's. What takes long (a volume's folder)
//! is done beside the others. A controller that panics ends none of them for good: all begin again.

mod client;
mod ephemeral;
mod events;
mod expiry;
mod feeds;
mod garbage;
mod namespaces;
mod nodes;
mod queue;
mod scheduler;
mod start;
#[cfg(test)]
mod tests;
mod volumes;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use rubelet_apimachinery::Resource;
use rubelet_apimachinery::kinds;
use rubelet_apimachinery::strategy::{Settings, text};
use tokio::time::Instant;

use crate::engine::Api;
use client::Client;
use ephemeral::Ephemeral;
use events::Recorder;
use expiry::Expiry;
use feeds::{Feeds, Seen};
use garbage::Garbage;
use namespaces::Namespaces;
use nodes::Nodes;
use scheduler::Scheduler;
pub use start::{Advertised, StartError, prepare};
pub use volumes::Folders;
use volumes::Volumes;

/// How many things are done in a row before changes are heard of again.
const BATCH: usize = 64;
/// How long after a panic the controllers begin again.
const AGAIN: Duration = Duration::from_secs(10);

/// A resource of the core group. The table has every one that is asked for here.
fn core(plural: &str) -> &'static Resource {
    kinds::find("", "v1", plural).unwrap_or(&kinds::all()[0])
}

/// What controllers are told of the machine.
#[derive(Clone)]
pub struct ControllerOptions {
    /// The name of the node.
    pub node: String,
    /// What the server is set up as.
    pub settings: Settings,
    /// Makes volumes; without it claims of our class wait.
    pub folders: Option<Arc<dyn Folders>>,
}

/// Makes one namespace what it should be, once: gives it what each has, or empties it when it is being deleted. For those
/// who run no controllers.
pub async fn settle_namespace(api: &Api, settings: &Settings, name: &str) {
    let client = Client::new(api.clone(), "namespace-controller");
    if let Err(problem) = Namespaces::new(client, settings.clone()).settle(name).await {
        tracing::warn!("the namespace {name:?} cannot be kept: {problem}");
    }
}

/// Runs the controllers until the store is closed. Cancel safe: everything begins again with what is there.
pub async fn run(api: Api, options: ControllerOptions) {
    // Nothing of a run is looked at again after a panic: the next one reads what is true.
    while AssertUnwindSafe(control(&api, &options)).catch_unwind().await.is_err() {
        tracing::error!("a controller of the local API panicked; this is a bug");
        tokio::time::sleep(AGAIN).await;
    }
}

async fn control(api: &Api, options: &ControllerOptions) {
    let client = |name: &str| Client::new(api.clone(), name);
    let recorder = |name: &'static str| Recorder::new(client(name), name);
    let mut feeds = Feeds::new(api.store());
    let mut namespaces = Namespaces::new(client("namespace-controller"), options.settings.clone());
    let mut nodes = Nodes::new(client("node-controller"));
    let mut scheduler = Scheduler::new(client("default-scheduler"), recorder("default-scheduler"));
    let mut garbage = Garbage::new(client("generic-garbage-collector"));
    let mut ephemeral = Ephemeral::new(client("ephemeral-volume-controller"), recorder("ephemeral_volume"));
    let mut volumes = Volumes::new(
        client("persistent-volume-binder"),
        recorder("persistentvolume-controller"),
        options.folders.clone(),
        options.node.clone(),
    );
    let mut expiry = Expiry::new(client("event-ttl"));
    loop {
        while volumes.finish().now_or_never().is_some() {}
        // What has changed is heard before it is acted upon, but no stream of changes keeps the work from being done.
        let mut heard = 0;
        while heard < BATCH {
            let told = match feeds.next().now_or_never() {
                Some(told) => told,
                None if heard == 0 => {
                    let due = [
                        namespaces.queue().next_due(),
                        nodes.queue().next_due(),
                        scheduler.queue().next_due(),
                        garbage.queue().next_due(),
                        ephemeral.queue().next_due(),
                        volumes.queue().next_due(),
                        expiry.queue().next_due(),
                    ];
                    // Cancel safe: a change and what is finished are taken only when they are returned, a timer is made
                    // again.
                    tokio::select! { biased;
                        told = feeds.next() => told,
                        () = volumes.finish() => break,
                        () = sleep_until(due.into_iter().flatten().min()) => break,
                    }
                }
                None => break,
            };
            let Some((resource, seen)) = told else { return };
            heard += 1;
            namespaces.see(resource, &seen);
            nodes.see(resource, &seen);
            scheduler.see(resource, &seen);
            garbage.see(resource, &seen);
            ephemeral.see(resource, &seen);
            volumes.see(resource, &seen);
            expiry.see(resource, &seen);
        }
        for _ in 0..BATCH {
            // In the order of who waits for it: what pods wait for first.
            if let Some(name) = nodes.queue().take() {
                nodes.work(name).await;
            } else if let Some(place) = scheduler.queue().take() {
                scheduler.work(place).await;
            } else if let Some(name) = namespaces.queue().take() {
                namespaces.work(name).await;
            } else if let Some(place) = ephemeral.queue().take() {
                ephemeral.work(place).await;
            } else if let Some(item) = volumes.queue().take() {
                volumes.work(item).await;
            } else if let Some(place) = garbage.queue().take() {
                garbage.work(place).await;
            } else if let Some(place) = expiry.queue().take() {
                expiry.work(place).await;
            } else {
                break;
            }
        }
    }
}

/// Waits until then; for ever without a time.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
