//! Namespaces: what each has from the start, and what becomes of everything in one that is deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use rubelet_apimachinery::Resource;
use rubelet_apimachinery::kinds::{self, Served};
use rubelet_apimachinery::strategy::{Settings, builtin};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::warn;

use super::client::{Client, Failure};
use super::queue::Queue;
use super::{Seen, core, text};

/// How long after something went from a namespace that is being deleted it is looked at: much goes at once.
const GATHER: Duration = Duration::from_millis(100);

/// Keeps namespaces.
pub(crate) struct Namespaces {
    client: Client,
    settings: Settings,
    /// Those there are, and whether each is being deleted.
    known: BTreeMap<String, bool>,
    queue: Queue<String>,
}

impl Namespaces {
    pub(crate) fn new(client: Client, settings: Settings) -> Self {
        Self { client, settings, known: BTreeMap::new(), queue: Queue::default() }
    }

    pub(crate) fn queue(&mut self) -> &mut Queue<String> {
        &mut self.queue
    }

    /// Takes note of a change.
    pub(crate) fn see(&mut self, resource: &'static Resource, seen: &Seen) {
        match (resource.plural, seen) {
            ("namespaces", Seen::Anew) => self.known.clear(),
            ("namespaces", Seen::Object { object, deleted }) => {
                let name = text(object, &["metadata", "name"]);
                if *deleted {
                    self.known.remove(name);
                } else {
                    let ends = object["metadata"].get("deletionTimestamp").is_some();
                    self.known.insert(name.to_owned(), ends);
                }
                self.queue.add(name.to_owned());
            }
            // Nobody says what went while nothing was heard.
            (_, Seen::Complete) => {
                for name in self.known.keys() {
                    self.queue.add(name.clone());
                }
            }
            (plural, Seen::Object { object, deleted }) => {
                let namespace = text(object, &["metadata", "namespace"]);
                let name = text(object, &["metadata", "name"]);
                let (is_account, is_root) = (
                    plural == "serviceaccounts" && name == builtin::SERVICE_ACCOUNT,
                    plural == "configmaps" && name == builtin::ROOT_CA,
                );
                // What every namespace has is made again when somebody deletes or changes it.
                if is_root || is_account && *deleted {
                    self.queue.add(namespace.to_owned());
                } else if *deleted && self.known.get(namespace) == Some(&true) {
                    self.queue.add_at(namespace.to_owned(), Instant::now() + GATHER);
                }
            }
            (_, Seen::Anew) => {}
        }
    }

    /// Makes one namespace what it should be.
    pub(crate) async fn work(&mut self, name: String) {
        match self.settle(&name).await {
            Ok(true) => self.queue.done(&name),
            Ok(false) | Err(Failure::Conflict) => self.queue.retry(name),
            Err(problem) => {
                warn!("the namespace {name:?} cannot be kept: {problem}");
                self.queue.retry(name);
            }
        }
    }

    /// Whether nothing is left to be done.
    pub(crate) async fn settle(&self, name: &str) -> Result<bool, Failure> {
        let Some(namespace) = self.client.get(core("namespaces"), "", name).await? else { return Ok(true) };
        if namespace["metadata"].get("deletionTimestamp").is_none() {
            self.ensure("serviceaccounts", name, builtin::default_service_account(name)).await?;
            self.ensure("configmaps", name, builtin::root_ca_config_map(name, &self.settings)).await?;
            return Ok(true);
        }
        let has_finalizer = |finalizer: &str| {
            namespace["spec"]["finalizers"].as_array().is_some_and(|all| all.iter().any(|f| f == finalizer))
        };
        if !has_finalizer("kubernetes") {
            return Ok(true);
        }
        let left = self.empty(name).await?;
        if left.is_empty() {
            let mut namespace = namespace;
            if let Some(finalizers) = namespace["spec"]["finalizers"].as_array_mut() {
                finalizers.retain(|f| f != "kubernetes");
            }
            return match self.client.replace(core("namespaces"), "finalize", &namespace).await {
                Ok(_) | Err(Failure::NotFound) => Ok(true),
                Err(other) => Err(other),
            };
        }
        self.tell(namespace, &left).await?;
        Ok(false)
    }

    async fn ensure(&self, plural: &str, namespace: &str, wanted: Value) -> Result<(), Failure> {
        let name = text(&wanted, &["metadata", "name"]).to_owned();
        let resource = core(plural);
        match self.client.get(resource, namespace, &name).await? {
            None => match self.client.create(resource, namespace, &wanted).await {
                // Somebody was faster, or the namespace is being deleted: both come back as changes.
                Ok(_) | Err(Failure::Conflict | Failure::NotFound) => Ok(()),
                Err(other) => Err(other),
            },
            Some(mut there) if wanted.get("data").is_some() && there["data"] != wanted["data"] => {
                there["data"] = wanted["data"].clone();
                self.client.replace(resource, "", &there).await.map(|_| ())
            }
            Some(_) => Ok(()),
        }
    }

    /// Deletes what is in the namespace; gives what is still there afterwards, counted by resource.
    async fn empty(&self, namespace: &str) -> Result<Vec<(String, u64)>, Failure> {
        let mut left = Vec::new();
        let api = self.client.api();
        let is_stored = |served| matches!(served, Served::Stored | Served::OnRequest);
        let stored = kinds::all().iter().filter(|r| r.namespaced && is_stored(r.served) && api.serves(r));
        for resource in stored.filter(|r| r.group != "events.k8s.io" && r.verbs.contains(&"deletecollection"))
        {
            if self.client.count(resource, namespace).await? == 0 {
                continue;
            }
            self.client.delete_all(resource, namespace).await?;
            let there = self.client.count(resource, namespace).await?;
            if there > 0 {
                left.push((resource.qualified(), there));
            }
        }
        Ok(left)
    }

    /// Says in the namespace's status what it waits for.
    async fn tell(&self, mut namespace: Value, left: &[(String, u64)]) -> Result<(), Failure> {
        let listed: Vec<String> = left
            .iter()
            .map(|(resource, count)| format!("{resource} has {count} resource instances"))
            .collect();
        let message = format!("Some resources are remaining: {}", listed.join(", "));
        let is_told = namespace["status"]["conditions"].as_array().is_some_and(|all| {
            all.iter().any(|c| c["type"] == "NamespaceContentRemaining" && c["message"] == message)
        });
        if is_told {
            return Ok(());
        }
        let now = self.client.api().time_text();
        namespace["status"]["conditions"] = json!([{
            "type": "NamespaceContentRemaining", "status": "True", "reason": "SomeResourcesRemain",
            "message": message, "lastTransitionTime": now,
        }]);
        match self.client.replace(core("namespaces"), "status", &namespace).await {
            Ok(_) | Err(Failure::NotFound | Failure::Conflict) => Ok(()),
            Err(other) => Err(other),
        }
    }
}
