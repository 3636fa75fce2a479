//! Claims and volumes: carries out the steps that `rubelet_apimachinery::binding` computes, and makes folders of this
//! machine for claims of our own class.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
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

/// Binds claims.
pub(crate) struct Volumes {
    client: Client,
    recorder: Recorder,
    folders: Option<Arc<dyn Folders>>,
    node: String,
    /// Claims without a volume.
    pending: BTreeSet<(String, String)>,
    queue: Queue<Item>,
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
        Self { client, recorder, folders, node, pending: BTreeSet::new(), queue: Queue::default() }
    }

    pub(crate) fn queue(&mut self) -> &mut Queue<Item> {
        &mut self.queue
    }

    /// Takes note of a change.
    pub(crate) fn see(&mut self, resource: &'static Resource, seen: &Seen) {
        let Seen::Object { object, deleted } = seen else { return };
        let name = text(object, &["metadata", "name"]).to_owned();
        let namespace = text(object, &["metadata", "namespace"]).to_owned();
        match resource.plural {
            "persistentvolumeclaims" => {
                let place = (namespace.clone(), name.clone());
                if *deleted || text(object, &["status", "phase"]) == "Bound" {
                    self.pending.remove(&place);
                } else {
                    self.pending.insert(place);
                }
                if *deleted {
                    let volume = text(object, &["spec", "volumeName"]);
                    if !volume.is_empty() {
                        self.queue.add(Item::Volume(volume.to_owned()));
                    }
                } else {
                    self.queue.add(Item::Claim(namespace, name));
                }
            }
            "persistentvolumes" => {
                let claim = &object["spec"]["claimRef"];
                if claim.is_object() {
                    let part = |key: &str| text(claim, &[key]).to_owned();
                    self.queue.add(Item::Claim(part("namespace"), part("name")));
                }
                if !deleted {
                    self.queue.add(Item::Volume(name));
                    self.look_at_pending();
                }
            }
            "storageclasses" if !deleted => self.look_at_pending(),
            "pods" => {
                let ended = matches!(text(object, &["status", "phase"]), "Succeeded" | "Failed");
                let is_new = text(object, &["status", "startTime"]).is_empty();
                if *deleted || ended || is_new {
                    for volume in object["spec"]["volumes"].as_array().into_iter().flatten() {
                        let claim = text(volume, &["persistentVolumeClaim", "claimName"]);
                        if !claim.is_empty() {
                            self.queue.add(Item::Claim(namespace.clone(), claim.to_owned()));
                        }
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

    /// Takes claims and volumes one step further.
    pub(crate) async fn work(&mut self, item: Item) {
        match self.step(&item).await {
            Ok(()) | Err(Failure::NotFound) => self.queue.done(&item),
            Err(Failure::Conflict) => self.queue.retry(item),
            Err(problem) => {
                warn!("{item:?} cannot be bound: {problem}");
                self.queue.retry(item);
            }
        }
    }

    /// One step; what it writes comes back as a change, and with it the next one.
    async fn step(&self, item: &Item) -> Result<(), Failure> {
        let (claims, volumes) = (core("persistentvolumeclaims"), core("persistentvolumes"));
        let (step, subject) = match item {
            Item::Claim(namespace, name) => {
                let Some(claim) = self.client.get(claims, namespace, name).await? else { return Ok(()) };
                let pods = self.client.list(core("pods"), namespace).await?;
                let pods: Vec<Value> = pods
                    .into_iter()
                    .filter(|pod| !matches!(text(pod, &["status", "phase"]), "Succeeded" | "Failed"))
                    .collect();
                let world = World {
                    volumes: &self.client.list(volumes, "").await?,
                    classes: &match classes() {
                        Some(classes) => self.client.list(classes, "").await?,
                        None => Vec::new(),
                    },
                    pods: &pods,
                    node: &self.node,
                };
                (binding::next_for_claim(&claim, &world), claim)
            }
            Item::Volume(name) => {
                let Some(volume) = self.client.get(volumes, "", name).await? else { return Ok(()) };
                let reference = &volume["spec"]["claimRef"];
                let claim = match (text(reference, &["namespace"]), text(reference, &["name"])) {
                    ("", _) | (_, "") => None,
                    (namespace, name) => self.client.get(claims, namespace, name).await?,
                };
                (binding::next_for_volume(&volume, claim.as_ref()), volume)
            }
        };
        match step {
            Step::Done => Ok(()),
            Step::WriteVolume(volume) => self.client.replace(volumes, "", &volume).await.map(|_| ()),
            Step::WriteVolumeStatus(volume) => {
                self.client.replace(volumes, "status", &volume).await.map(|_| ())
            }
            Step::WriteClaim(claim) => self.client.replace(claims, "", &claim).await.map(|_| ()),
            Step::WriteClaimStatus(claim) => self.client.replace(claims, "status", &claim).await.map(|_| ()),
            Step::Provision(volume) => self.provision(&subject, volume).await,
            Step::Reclaim(volume) => self.reclaim(&volume).await,
            Step::Wait { reason, message } => {
                let kind = if reason.ends_with("Failed") || reason == "FailedBinding" {
                    Kind::Warning
                } else {
                    Kind::Normal
                };
                self.recorder.tell(&subject, kind, reason, &message).await;
                Ok(())
            }
        }
    }

    async fn provision(&self, claim: &Value, mut volume: Value) -> Result<(), Failure> {
        let Some(folders) = &self.folders else {
            let message = "this server makes no volumes";
            self.recorder.tell(claim, Kind::Warning, "ProvisioningFailed", message).await;
            return Ok(());
        };
        let name = text(&volume, &["metadata", "name"]).to_owned();
        let path = match folders.make(&name).await {
            Ok(path) => path,
            Err(problem) => {
                let message = format!("cannot make a folder for the volume: {problem}");
                self.recorder.tell(claim, Kind::Warning, "ProvisioningFailed", &message).await;
                return Err(Failure::Other(message));
            }
        };
        volume["spec"]["hostPath"]["path"] = json!(path);
        match self.client.create(core("persistentvolumes"), "", &volume).await {
            Ok(_) => {
                info!(volume = name, path = %path.display(), "made a volume");
                let message = format!("Successfully provisioned volume {name}");
                self.recorder.tell(claim, Kind::Normal, "ProvisioningSucceeded", &message).await;
                Ok(())
            }
            Err(Failure::Conflict) => Ok(()),
            Err(other) => Err(other),
        }
    }

    async fn reclaim(&self, volume: &Value) -> Result<(), Failure> {
        let name = text(volume, &["metadata", "name"]);
        if let Some(folders) = &self.folders
            && let Err(problem) = folders.remove(name).await
        {
            let message = format!("cannot remove the volume's folder: {problem}");
            self.recorder.tell(volume, Kind::Warning, "VolumeFailedDelete", &message).await;
            return Err(Failure::Other(message));
        }
        info!(volume = name, "removed a volume");
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1",
                             "preconditions": {"uid": volume["metadata"]["uid"]}});
        self.client.delete(core("persistentvolumes"), "", name, &options).await
    }
}
