//! Claims and volumes: carries out the steps that `rubelet_apimachinery::binding` computes, and makes folders of this
//! machine for claims of our own class.
//!
//! A folder can take long to be made or removed: that is done beside everything else, one thing a claim or volume.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use rubelet_apimachinery::Resource;
use rubelet_apimachinery::binding::{self, Step, World};
use rubelet_apimachinery::kinds;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::client::{Client, Failure};
use super::events::{Kind, Recorder};
use super::queue::Queue;
use super::{Seen, core, text};

/// Makes and removes folders for volumes, by the volumes' names.
pub trait Folders: Send + Sync {
    /// An empty folder for a new volume, or the one that is there; its path.
    fn make<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<PathBuf>>;
    /// Removes a volume's folder with all that is in it, if it is there.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<()>>;
}

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Item {
    /// A claim: namespace and name.
    Claim(String, String),
    /// A volume.
    Volume(String),
}

/// What came of something that took long.
type Finished = (Item, Result<(), Failure>);

/// Binds claims.
pub(crate) struct Volumes {
    hands: Hands,
    node: String,
    /// All claims, by namespace and name.
    claims: BTreeSet<(String, String)>,
    /// Those of them that have no volume.
    pending: BTreeSet<(String, String)>,
    /// All volumes.
    volumes: BTreeSet<String>,
    /// What is being done, and for whom.
    jobs: FuturesUnordered<BoxFuture<'static, Finished>>,
    busy: BTreeSet<Item>,
    queue: Queue<Item>,
}

/// What making and removing a volume takes.
#[derive(Clone)]
struct Hands {
    client: Client,
    recorder: Recorder,
    folders: Option<Arc<dyn Folders>>,
}

fn classes() -> Option<&'static Resource> {
    kinds::find("storage.k8s.io", "v1", "storageclasses")
}

impl Volumes {
    pub(crate) fn new(
        client: Client,
        recorder: Recorder,
        folders: Option<Arc<dyn Folders>>,
        node: String,
    ) -> Self {
        Self {
            hands: Hands { client, recorder, folders },
            node,
            claims: BTreeSet::new(),
            pending: BTreeSet::new(),
            volumes: BTreeSet::new(),
            jobs: FuturesUnordered::new(),
            busy: BTreeSet::new(),
            queue: Queue::default(),
        }
    }

    pub(crate) fn queue(&mut self) -> &mut Queue<Item> {
        &mut self.queue
    }

    /// Takes note of a change.
    pub(crate) fn see(&mut self, resource: &'static Resource, seen: &Seen) {
        let (object, deleted) = match (resource.plural, seen) {
            (_, Seen::Object { object, deleted }) => (object, deleted),
            ("persistentvolumeclaims", Seen::Anew) => {
                self.claims.clear();
                return self.pending.clear();
            }
            ("persistentvolumes", Seen::Anew) => return self.volumes.clear(),
            // Nobody says what went while nothing was heard: who may have waited for it is looked at.
            ("persistentvolumeclaims" | "persistentvolumes" | "pods", Seen::Complete) => {
                return self.look_at_all();
            }
            _ => return,
        };
        let name = text(object, &["metadata", "name"]).to_owned();
        let namespace = text(object, &["metadata", "namespace"]).to_owned();
        match resource.plural {
            "persistentvolumeclaims" => {
                let place = (namespace.clone(), name.clone());
                if *deleted || text(object, &["status", "phase"]) == "Bound" {
                    self.pending.remove(&place);
                } else {
                    self.pending.insert(place.clone());
                }
                if *deleted {
                    self.claims.remove(&place);
                    let volume = text(object, &["spec", "volumeName"]);
                    if !volume.is_empty() {
                        self.queue.add(Item::Volume(volume.to_owned()));
                    }
                } else {
                    self.claims.insert(place);
                    self.queue.add(Item::Claim(namespace, name));
                }
            }
            "persistentvolumes" => {
                let claim = &object["spec"]["claimRef"];
                if claim.is_object() {
                    let part = |key: &str| text(claim, &[key]).to_owned();
                    self.queue.add(Item::Claim(part("namespace"), part("name")));
                }
                if *deleted {
                    self.volumes.remove(&name);
                } else {
                    self.volumes.insert(name.clone());
                    self.queue.add(Item::Volume(name));
                    self.look_at_pending();
                }
            }
            "storageclasses" if !deleted => self.look_at_pending(),
            "pods" => {
                let ended = matches!(text(object, &["status", "phase"]), "Succeeded" | "Failed");
                let is_new = text(object, &["status", "startTime"]).is_empty();
                if *deleted || ended || is_new {
                    for claim in binding::claims_of(object) {
                        self.queue.add(Item::Claim(namespace.clone(), claim.name));
                    }
                }
            }
            _ => {}
        }
    }

    fn look_at_pending(&mut self) {
        for (namespace, name) in &self.pending {
            self.queue.add(Item::Claim(namespace.clone(), name.clone()));
        }
    }

    fn look_at_all(&mut self) {
        for (namespace, name) in &self.claims {
            self.queue.add(Item::Claim(namespace.clone(), name.clone()));
        }
        for name in &self.volumes {
            self.queue.add(Item::Volume(name.clone()));
        }
    }

    /// Takes claims and volumes one step further.
    pub(crate) async fn work(&mut self, item: Item) {
        // It is looked at again when what is being done for it is finished.
        if self.busy.contains(&item) {
            return;
        }
        match self.step(&item).await {
            Ok(None) => self.queue.done(&item),
            Ok(Some(job)) => {
                self.busy.insert(item.clone());
                self.jobs.push(job.map(|done| (item, done)).boxed());
            }
            Err(problem) => self.failed(item, &problem),
        }
    }

    /// Waits until something that takes long is finished, and takes note of it. Cancel safe.
    pub(crate) async fn finish(&mut self) {
        let Some((item, done)) = self.jobs.next().await else { return std::future::pending().await };
        self.busy.remove(&item);
        match done {
            Ok(()) => {
                self.queue.done(&item);
                self.queue.add(item);
            }
            Err(problem) => self.failed(item, &problem),
        }
    }

    fn failed(&mut self, item: Item, problem: &Failure) {
        match problem {
            Failure::NotFound => return self.queue.done(&item),
            Failure::Conflict => {}
            Failure::Other(message) => match &item {
                Item::Claim(namespace, name) => {
                    warn!("the claim {namespace}/{name} cannot be bound: {message}");
                }
                Item::Volume(name) => warn!("the volume {name} cannot be kept: {message}"),
            },
        }
        self.queue.retry(item);
    }

    /// One step; what it writes comes back as a change, and with it the next one. Gives what takes long.
    async fn step(
        &mut self,
        item: &Item,
    ) -> Result<Option<BoxFuture<'static, Result<(), Failure>>>, Failure> {
        let Hands { client, recorder, .. } = &self.hands;
        let (claims, volumes) = (core("persistentvolumeclaims"), core("persistentvolumes"));
        let (step, subject) = match item {
            Item::Claim(namespace, name) => {
                let Some(claim) = client.get(claims, namespace, name).await? else { return Ok(None) };
                let pods = client.list(core("pods"), namespace).await?;
                let pods: Vec<Value> = pods
                    .into_iter()
                    .filter(|pod| !matches!(text(pod, &["status", "phase"]), "Succeeded" | "Failed"))
                    .collect();
                let world = World {
                    volumes: &client.list(volumes, "").await?,
                    classes: &match classes() {
                        Some(classes) => client.list(classes, "").await?,
                        None => Vec::new(),
                    },
                    pods: &pods,
                    node: &self.node,
                };
                (binding::next_for_claim(&claim, &world), claim)
            }
            Item::Volume(name) => {
                let Some(volume) = client.get(volumes, "", name).await? else { return Ok(None) };
                let reference = &volume["spec"]["claimRef"];
                let claim = match (text(reference, &["namespace"]), text(reference, &["name"])) {
                    ("", _) | (_, "") => None,
                    (namespace, name) => client.get(claims, namespace, name).await?,
                };
                (binding::next_for_volume(&volume, claim.as_ref()), volume)
            }
        };
        match step {
            Step::Done => {}
            Step::WriteVolume(volume) => drop(client.replace(volumes, "", &volume).await?),
            Step::WriteVolumeStatus(volume) => drop(client.replace(volumes, "status", &volume).await?),
            Step::WriteClaim(claim) => drop(client.replace(claims, "", &claim).await?),
            Step::WriteClaimStatus(claim) => drop(client.replace(claims, "status", &claim).await?),
            Step::Provision(volume) => {
                return Ok(Some(self.hands.clone().provision(subject, volume).boxed()));
            }
            Step::Reclaim(volume) => return Ok(Some(self.hands.clone().reclaim(volume).boxed())),
            Step::Wait { reason, message } => {
                let kind = if reason.ends_with("Failed") || reason == "FailedBinding" {
                    Kind::Warning
                } else {
                    Kind::Normal
                };
                recorder.tell(&subject, kind, reason, &message).await;
            }
        }
        Ok(None)
    }
}

impl Hands {
    async fn provision(self, claim: Value, mut volume: Value) -> Result<(), Failure> {
        let Some(folders) = &self.folders else {
            let message = "this server makes no volumes";
            self.recorder.tell(&claim, Kind::Warning, "ProvisioningFailed", message).await;
            return Ok(());
        };
        let name = text(&volume, &["metadata", "name"]).to_owned();
        let path = match folders.make(&name).await {
            Ok(path) => path,
            Err(problem) => {
                let message = format!("cannot make a folder for the volume: {problem}");
                self.recorder.tell(&claim, Kind::Warning, "ProvisioningFailed", &message).await;
                return Err(Failure::Other(message));
            }
        };
        volume["spec"]["hostPath"]["path"] = json!(path);
        match self.client.create(core("persistentvolumes"), "", &volume).await {
            Ok(_) => {
                info!(volume = name, path = %path.display(), "made a volume");
                let message = format!("Successfully provisioned volume {name}");
                self.recorder.tell(&claim, Kind::Normal, "ProvisioningSucceeded", &message).await;
                Ok(())
            }
            Err(Failure::Conflict) => Ok(()),
            Err(other) => Err(other),
        }
    }

    async fn reclaim(self, volume: Value) -> Result<(), Failure> {
        let name = text(&volume, &["metadata", "name"]);
        if let Some(folders) = &self.folders
            && let Err(problem) = folders.remove(name).await
        {
            let message = format!("cannot remove the volume's folder: {problem}");
            self.recorder.tell(&volume, Kind::Warning, "VolumeFailedDelete", &message).await;
            return Err(Failure::Other(message));
        }
        info!(volume = name, "removed a volume");
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1",
                             "preconditions": {"uid": volume["metadata"]["uid"]}});
        self.client.delete(core("persistentvolumes"), "", name, &options).await
    }
}
