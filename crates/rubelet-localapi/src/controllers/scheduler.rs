//! Pods without a node, and the one node there is: asks `rubelet_apimachinery` whether they fit, and binds them or says
//! why not.
//!
//! Keeps in memory what the decision needs of each pod and no more.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rubelet_apimachinery::Resource;
use rubelet_apimachinery::binding;
use rubelet_apimachinery::strategy::pods::schedule::{self, SCHEDULER, Unschedulable};
use serde_json::{Value, json};
use tracing::warn;

use super::client::{Client, Failure};
use super::events::{Kind, Recorder};
use super::queue::Queue;
use super::{Seen, core, text};

/// Namespace and name of a pod.
type Place = (String, String);

/// Binds pods.
pub(crate) struct Scheduler {
    client: Client,
    recorder: Recorder,
    node: Option<Node>,
    /// Whether all pods, and all nodes, have been told: nothing is bound on half the facts.
    told: (bool, bool),
    /// Everything that has a node and has not ended, trimmed, as text: a typed pod takes twenty times as much.
    placed: BTreeMap<Place, Box<str>>,
    /// Pods that wait for something to change.
    waiting: BTreeSet<Place>,
    queue: Queue<Place>,
}

impl Scheduler {
    pub(crate) fn new(client: Client, recorder: Recorder) -> Self {
        Self {
            client,
            recorder,
            node: None,
            told: (false, false),
            placed: BTreeMap::new(),
            waiting: BTreeSet::new(),
            queue: Queue::default(),
        }
    }

    pub(crate) fn queue(&mut self) -> &mut Queue<Place> {
        &mut self.queue
    }

    /// Takes note of a change.
    pub(crate) fn see(&mut self, resource: &'static Resource, seen: &Seen) {
        let (object, deleted) = match (resource.plural, seen) {
            ("pods", Seen::Anew) => {
                self.told.0 = false;
                return self.placed.clear();
            }
            ("nodes", Seen::Anew) => {
                self.told.1 = false;
                self.node = None;
                return;
            }
            (plural @ ("pods" | "nodes"), Seen::Complete) => {
                if plural == "pods" {
                    self.told.0 = true
                } else {
                    self.told.1 = true
                }
                return self.look_again();
            }
            (_, Seen::Object { object, deleted }) => (object, deleted),
            _ => return,
        };
        match resource.plural {
            "pods" => self.see_pod(object, *deleted),
            "nodes" => {
                let node = if *deleted { None } else { rubelet_core::json::from_value::<Node>(object).ok() };
                let offer = |node: &Option<Node>| {
                    node.as_ref().map(|node| {
                        let status = node.status.as_ref();
                        (
                            node.metadata.labels.clone(),
                            node.spec.clone(),
                            status.and_then(|status| status.allocatable.clone()),
                        )
                    })
                };
                // A heartbeat makes no room.
                let changed = offer(&self.node) != offer(&node);
                self.node = node.map(trim_node);
                if changed {
                    self.look_again();
                }
            }
            "persistentvolumeclaims" => self.look_again(),
            _ => {}
        }
    }

    fn see_pod(&mut self, object: &Value, deleted: bool) {
        let place = (
            text(object, &["metadata", "namespace"]).to_owned(),
            text(object, &["metadata", "name"]).to_owned(),
        );
        let ended = deleted || matches!(text(object, &["status", "phase"]), "Succeeded" | "Failed");
        if !ended && text(object, &["spec", "nodeName"]).is_empty() {
            if self.placed.remove(&place).is_some() {
                self.look_again();
            }
            self.queue.add(place);
            return;
        }
        self.waiting.remove(&place);
        if ended {
            if self.placed.remove(&place).is_some() {
                self.look_again();
            }
        } else if let Ok(pod) = rubelet_core::json::from_value::<Pod>(object) {
            self.count(place, trim(pod));
        }
    }

    fn count(&mut self, place: Place, pod: Pod) {
        if let Ok(text) = serde_json::to_string(&pod) {
            self.placed.insert(place, text.into_boxed_str());
        }
    }

    fn look_again(&mut self) {
        for place in std::mem::take(&mut self.waiting) {
            self.queue.add(place);
        }
    }

    /// Binds one pod, or says why it is not.
    pub(crate) async fn work(&mut self, place: Place) {
        if self.told != (true, true) {
            self.waiting.insert(place);
            return;
        }
        match self.place(&place).await {
            Ok(()) | Err(Failure::NotFound) => self.queue.done(&place),
            // Somebody else bound it, or changed it: that comes as a change.
            Err(Failure::Conflict) => self.queue.retry(place),
            Err(problem) => {
                warn!("the pod {}/{} cannot be bound: {problem}", place.0, place.1);
                self.queue.retry(place);
            }
        }
    }

    async fn place(&mut self, place: &Place) -> Result<(), Failure> {
        let (namespace, name) = place;
        let Some(mut stored) = self.client.get(core("pods"), namespace, name).await? else { return Ok(()) };
        let is_for_us = matches!(text(&stored, &["spec", "schedulerName"]), "" | SCHEDULER);
        let is_done = !text(&stored, &["spec", "nodeName"]).is_empty()
            || stored["metadata"].get("deletionTimestamp").is_some()
            || matches!(text(&stored, &["status", "phase"]), "Succeeded" | "Failed");
        if !is_for_us || is_done {
            return Ok(());
        }
        let Ok(pod) = rubelet_core::json::from_value::<Pod>(&stored) else { return Ok(()) };
        let verdict = match self.claims_wait(&stored, namespace).await? {
            Some(why) => Err(why),
            None => match &self.node {
                None => schedule::without_nodes(&pod),
                Some(node) => {
                    let others = self.placed.values().filter_map(|text| serde_json::from_str(text).ok());
                    let others: Vec<Pod> = others.collect();
                    schedule::fits(&pod, node, &others)
                }
            },
        };
        match (verdict, &self.node) {
            (Ok(()), Some(node)) => {
                let node = node.metadata.name.clone().unwrap_or_default();
                let binding = json!({
                    "apiVersion": "v1", "kind": "Binding",
                    "metadata": {"name": name, "namespace": namespace, "uid": stored["metadata"]["uid"]},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": node},
                });
                self.client.post(core("pods"), namespace, name, "binding", &binding).await?;
                // Counted at once: the change that says so comes after the next decision.
                let mut pod = trim(pod);
                pod.spec.get_or_insert_default().node_name = Some(node.clone());
                self.count(place.clone(), pod);
                self.waiting.remove(place);
                let message = format!("Successfully assigned {namespace}/{name} to {node}");
                self.recorder.tell(&stored, Kind::Normal, "Scheduled", &message).await;
                Ok(())
            }
            (Ok(()), None) => Ok(()),
            (Err(why), _) => {
                self.waiting.insert(place.clone());
                self.explain(&mut stored, &why).await
            }
        }
    }

    /// What keeps a pod waiting for its claims, as the scheduler's volume filters say it.
    async fn claims_wait(&self, pod: &Value, namespace: &str) -> Result<Option<Unschedulable>, Failure> {
        for wanted in binding::claims_of(pod) {
            let name = &wanted.name;
            let why = match self.client.get(core("persistentvolumeclaims"), namespace, name).await? {
                None if wanted.ephemeral => {
                    format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\""
                    )
                }
                None => format!("persistentvolumeclaim \"{name}\" not found"),
                Some(claim) if wanted.ephemeral && !binding::is_made_for(&claim, pod) => {
                    binding::not_made_for(&claim, pod)
                }
                Some(claim) if claim["metadata"].get("deletionTimestamp").is_some() => {
                    format!("persistentvolumeclaim \"{name}\" is being deleted")
                }
                Some(claim) if text(&claim, &["status", "phase"]) == "Lost" => {
                    format!("persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume")
                }
                Some(claim) if text(&claim, &["status", "phase"]) != "Bound" => {
                    "pod has unbound immediate PersistentVolumeClaims".to_owned()
                }
                Some(_) => continue,
            };
            return Ok(Some(schedule::waits_for_claim(&why)));
        }
        Ok(None)
    }

    async fn explain(&self, stored: &mut Value, why: &Unschedulable) -> Result<(), Failure> {
        if schedule::report(stored, why, self.client.api().now()) {
            self.client.replace(core("pods"), "status", stored).await?;
        }
        if why.is_failure() {
            self.recorder.tell(stored, Kind::Warning, "FailedScheduling", &why.message).await;
        }
        Ok(())
    }
}

/// What decisions need of a node.
fn trim_node(mut node: Node) -> Node {
    node.metadata.managed_fields = None;
    node.metadata.annotations = None;
    if let Some(status) = &mut node.status {
        status.images = None;
        status.conditions = None;
    }
    node
}

/// What decisions need of a pod: who it is, what it asks for, whom it wants beside it.
fn trim(pod: Pod) -> Pod {
    let spec = pod.spec.unwrap_or_default();
    let container = |container: Container| Container {
        name: container.name,
        resources: container.resources,
        ports: container.ports,
        restart_policy: container.restart_policy,
        ..Container::default()
    };
    let containers = spec.containers.into_iter().map(container).collect();
    let init_containers = spec.init_containers.map(|all| all.into_iter().map(container).collect());
    Pod {
        metadata: ObjectMeta {
            name: pod.metadata.name,
            namespace: pod.metadata.namespace,
            labels: pod.metadata.labels,
            deletion_timestamp: pod.metadata.deletion_timestamp,
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers,
            init_containers,
            affinity: spec.affinity,
            node_name: spec.node_name,
            host_network: spec.host_network,
            overhead: spec.overhead,
            resources: spec.resources,
            ..PodSpec::default()
        }),
        status: pod.status.map(|status| PodStatus { phase: status.phase, ..PodStatus::default() }),
    }
}
