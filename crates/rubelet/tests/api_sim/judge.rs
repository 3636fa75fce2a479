//! What must stay true at every answer, at every call of the runtime and at every tick (docs/testing.md). Looks at the
//! API's objects and at the runtime's truth; what must not be goes into the story.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};
use rubelet_cri::observe::label;
use rubelet_cri::v1::{ContainerState, PodSandboxState};
use rubelet_testkit::scripted::{CallPoint, Op, Phase};
use rubelet_testkit::{FakeApi, ScriptedCri};
use serde_json::Value;
use tokio::time::Instant;

use crate::scenario::{GATE, NODE};
use crate::story::Story;
use crate::wire::Asked;

/// The UID by which the runtime knows a mirror's pod.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// A Lease is renewed every ten seconds: while nothing is wrong it is never older than this.
const LEASE_AGE: Duration = Duration::from_secs(16);
/// So long after the last trouble heartbeats are back.
const HEARTBEATS_BACK: Duration = Duration::from_secs(45);

/// What the simulation tells the judge.
#[derive(Default)]
struct Known {
    /// Names of pods whose processes are disturbed from outside, or that do not run for ever.
    restless: BTreeSet<String>,
    /// UIDs of manifests that are on the node.
    manifests: BTreeSet<String>,
    /// Whether the runtime never fails and never goes away.
    sound_runtime: bool,
    /// Somebody else writes the Node's conditions, until then.
    node_disturbed: Option<Instant>,
    pods: BTreeMap<String, Pod>,
    node_ready: Option<bool>,
    last_lease: Option<Instant>,
    /// Refusals that were looked at.
    refused: usize,
    /// Patches of pods/status, by the pod's UID.
    writes: BTreeMap<String, usize>,
}

/// The judge; cheap to clone.
#[derive(Clone)]
pub struct Judge {
    api: FakeApi,
    cri: ScriptedCri,
    story: Story,
    known: Arc<Mutex<Known>>,
}

impl Judge {
    /// A judge that has seen nothing yet.
    pub fn new(api: &FakeApi, cri: &ScriptedCri, story: &Story, sound_runtime: bool) -> Self {
        let known = Known { sound_runtime, ..Known::default() };
        Self { api: api.clone(), cri: cri.clone(), story: story.clone(), known: Arc::new(Mutex::new(known)) }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the containers of pods of this name may end and start for reasons of their own.
    pub fn disturb(&self, name: &str) {
        self.lock().restless.insert(name.to_owned());
    }

    /// Whether containers of pods of this name may end and start for reasons of their own.
    pub fn is_disturbed(&self, name: &str) -> bool {
        self.lock().restless.contains(name)
    }

    /// A manifest is on the node, or no longer.
    pub fn manifest(&self, uid: &str, there: bool) {
        let mut known = self.lock();
        if there {
            known.manifests.insert(uid.to_owned());
        } else {
            known.manifests.remove(uid);
        }
    }

    /// The runtime is in trouble.
    pub fn runtime_trouble(&self) {
        self.lock().sound_runtime = false;
    }

    /// Somebody else writes the Node's conditions.
    pub fn disturb_node(&self, until: Instant) {
        let mut known = self.lock();
        known.node_disturbed = known.node_disturbed.max(Some(until));
    }

    /// How often the status of a pod was written.
    pub fn writes(&self, uid: &str) -> usize {
        self.lock().writes.get(uid).copied().unwrap_or_default()
    }

    /// Looks at a request that was answered, or whose connection broke.
    pub fn look(&self, asked: &Asked<'_>) {
        if asked.method == "GET" {
            return;
        }
        let parts: Vec<&str> = asked.path.split('/').filter(|part| !part.is_empty()).collect();
        match parts.as_slice() {
            ["api", "v1", "namespaces", namespace, "pods", name, "status"] => {
                if let Some(pod) = self.api.get::<Pod>(namespace, name) {
                    if asked.code == 200 {
                        *self.lock().writes.entry(uid_of(&pod)).or_default() += 1;
                    }
                    self.see(&pod);
                }
            }
            ["api", "v1", "namespaces", namespace, "pods", name] if asked.method == "DELETE" => {
                self.deleted(asked, namespace, name);
            }
            ["api", "v1", "nodes"] | ["api", "v1", "nodes", ..] => self.see_node(),
            ["apis", "coordination.k8s.io", ..] if matches!(asked.code, 200 | 201) => {
                self.lock().last_lease = Some(Instant::now());
            }
            _ => {}
        }
        self.see_violations();
    }

    /// Looks at what was refused. What belongs to pods that were there is refused from the moment they are gone, and
    /// the agent cannot know before it hears of it; that it does not go on asking is checked in the end.
    fn see_violations(&self) {
        let all = self.api.violations();
        let mut known = self.lock();
        let new = all.get(known.refused..).unwrap_or_default().to_vec();
        known.refused = all.len();
        drop(known);
        for refused in new {
            let of_pods =
                matches!(refused.resource.as_str(), "configmaps" | "secrets" | "serviceaccounts" | "pods");
            if of_pods && refused.message.contains("no relationship found") {
                self.story.tell(format!("refused: {refused:?}"));
            } else {
                self.story.wrong(format!("a request that no node may make: {refused:?}"));
            }
        }
    }

    /// Whether something of a pod that the runtime knows by this UID runs.
    fn runs(&self, uid: &str) -> Vec<String> {
        let all = self.cri.running_containers().into_iter();
        all.filter(|running| running.subject.pod_uid == uid)
            .map(|running| running.subject.container)
            .collect()
    }

    /// What the runtime still holds of a UID.
    pub fn left_of(&self, name: &str, uid: &str) -> Option<String> {
        let containers = self.cri.containers_of(name);
        let container =
            containers.iter().find(|status| status.labels.get(label::POD_UID).is_some_and(|of| of == uid));
        if let Some(left) = container {
            return Some(format!("container {}", left.id));
        }
        let sandboxes = self.cri.sandboxes_of(name);
        let sandbox =
            sandboxes.iter().find(|status| status.metadata.as_ref().is_some_and(|of| of.uid == uid));
        sandbox.map(|left| format!("sandbox {}", left.id))
    }

    /// The agent deleted a pod.
    fn deleted(&self, asked: &Asked<'_>, namespace: &str, name: &str) {
        let options: Value = serde_json::from_slice(asked.body).unwrap_or(Value::Null);
        let Some(uid) = options["preconditions"]["uid"].as_str() else {
            self.story.wrong(format!("pod {name} is deleted whatever its UID is"));
            return;
        };
        if options["gracePeriodSeconds"] != 0 {
            self.story.wrong(format!("pod {name} is deleted with a grace that nobody waits for"));
        }
        if self.api.get::<Pod>(namespace, name).is_some_and(|pod| uid_of(&pod) == uid) {
            return;
        }
        let Some(pod) = self.api.history::<Pod>(uid).pop() else {
            self.story.wrong(format!("pod {name} is deleted with a UID that never was: {uid}"));
            return;
        };
        if is_mirror(&pod) {
            return;
        }
        if pod.metadata.deletion_timestamp.is_none() {
            self.story.wrong(format!("pod {name} is deleted in the API and nobody had asked for it"));
        }
        // Pods of one name in several namespaces are not in any scenario.
        if let Some(left) = self.left_of(name, uid) {
            self.story.wrong(format!("pod {name} ({uid}) is deleted in the API and {left} is left"));
        }
    }

    /// The status of a pod was written.
    fn see(&self, pod: &Pod) {
        let (uid, name) = (uid_of(pod), name_of(pod));
        let mut known = self.lock();
        let before = known.pods.insert(uid.clone(), pod.clone());
        let restless = known.restless.contains(&name);
        let runtime_uid = runtime_uid(pod);
        let unwanted = is_mirror(pod) && !known.manifests.contains(&runtime_uid);
        drop(known);
        let running = self.runs(&runtime_uid);
        if is_over(pod) && !running.is_empty() {
            self.story.wrong(format!("pod {name} is told to have ended and {running:?} run"));
        }
        self.check_running(pod);
        let Some(before) = before else { return };
        if let Err(problem) = follows(&before, pod, restless) {
            self.story.wrong(format!("pod {name}: {problem}"));
        }
        let was_ready = condition(&before, "Ready") == Some("True");
        let is_ready = condition(pod, "Ready") == Some("True");
        let gated = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten()).next().is_some();
        let gate_open = !gated || condition(pod, GATE) == Some("True");
        let ends = pod.metadata.deletion_timestamp.is_some() || is_over(pod) || unwanted;
        if was_ready && !is_ready && gate_open && !ends && !restless {
            self.story.wrong(format!("pod {name} ({uid}) is no longer ready and nothing happened to it"));
        }
    }

    /// What is said to run did start.
    fn check_running(&self, pod: &Pod) {
        let facts = self.cri.facts();
        for status in statuses(pod) {
            if status.state.as_ref().is_some_and(|state| state.running.is_some()) {
                let id = status.container_id.as_deref().unwrap_or_default();
                let id = id.rsplit("//").next().unwrap_or_default();
                let started = facts.iter().any(|fact| {
                    fact.subject.id == id && fact.what == rubelet_testkit::scripted::FactKind::Started
                });
                if !started {
                    self.story.wrong(format!(
                        "{} of {} is said to run and never did",
                        status.name,
                        name_of(pod)
                    ));
                }
            }
        }
    }

    /// Looks at what the agent asks of the runtime.
    pub fn call(&self, point: &CallPoint) {
        if point.phase != Phase::Before || !matches!(point.op, Op::StopContainer | Op::StopPodSandbox) {
            return;
        }
        let uid = &point.subject.pod_uid;
        // Ending what has ended already takes nothing from anybody.
        let runs = match point.op {
            Op::StopContainer => {
                self.cri.running_containers().iter().any(|running| running.subject.id == point.subject.id)
            }
            _ => self.cri.running_containers().iter().any(|running| running.sandbox_id == point.subject.id),
        };
        if !runs || self.may_end(uid, &point.subject.pod_name) {
            return;
        }
        self.story.wrong(format!(
            "{:?} of {} {} ({uid}), which is wanted",
            point.op, point.subject.pod_name, point.subject.container
        ));
    }

    fn may_end(&self, uid: &str, name: &str) -> bool {
        let known = self.lock();
        if known.restless.contains(name) {
            return true;
        }
        if known.manifests.contains(uid) {
            return false;
        }
        drop(known);
        let pods: Vec<Pod> = self.api.list("default");
        match pods.iter().find(|pod| uid_of(pod) == *uid) {
            Some(pod) => pod.metadata.deletion_timestamp.is_some() || is_over(pod),
            None => true,
        }
    }

    /// Sees the Node.
    fn see_node(&self) {
        let Some(node) = self.api.get::<Node>("", NODE) else { return };
        let ready = is_node_ready(&node);
        let mut known = self.lock();
        let before = known.node_ready.replace(ready);
        let excused = known.node_disturbed.is_some_and(|until| until >= Instant::now());
        if before == Some(true) && !ready && known.sound_runtime && !excused {
            drop(known);
            self.story.wrong(format!("the node is no longer ready: {:?}", node.status.map(|s| s.conditions)));
        }
    }

    /// Looks while nothing happens. Everything was fine since then.
    pub fn tick(&self, fine_since: Option<Instant>, most_open: usize, limit: usize) {
        if most_open > limit {
            self.story.wrong(format!("{most_open} requests at once"));
        }
        let Some(fine_since) = fine_since else { return };
        let now = Instant::now();
        if now.duration_since(fine_since) < HEARTBEATS_BACK {
            return;
        }
        let lease = self.lock().last_lease;
        if lease.is_none_or(|at| now.duration_since(at) > LEASE_AGE) {
            self.story.wrong("the lease is not renewed although the API server answers");
        }
    }
}

/// Whether a version of a pod may follow another one.
///
/// `restless`: its sandbox may have died, so that init containers run once more and the pod is pending again, as
/// upstream's `getPhase` has it.
pub fn follows(before: &Pod, after: &Pod, restless: bool) -> Result<(), String> {
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    let (old, new) = (phase(before), phase(after));
    let fine = match old.as_str() {
        "Succeeded" | "Failed" => old == new,
        "Running" => new != "Pending" || restless,
        _ => true,
    };
    if !fine {
        return Err(format!("its phase goes from {old} to {new}"));
    }
    let start = |pod: &Pod| pod.status.as_ref().and_then(|status| status.start_time.clone());
    if start(before).is_some() && start(before) != start(after) {
        return Err("its start time changes".to_owned());
    }
    let generation = |pod: &Pod| pod.status.as_ref().and_then(|status| status.observed_generation);
    if generation(after) < generation(before) {
        return Err(format!("its observed generation falls to {:?}", generation(after)));
    }
    if generation(after) > after.metadata.generation {
        return Err(format!("its observed generation {:?} is yet to come", generation(after)));
    }
    let policy = after.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
    for status in statuses(before) {
        let Some(now) = statuses(after).find(|now| now.name == status.name) else {
            return Err(format!("the status of {} is lost", status.name));
        };
        if now.restart_count < status.restart_count {
            return Err(format!(
                "{} restarted {} times, then {}",
                now.name, status.restart_count, now.restart_count
            ));
        }
        let ended = status.state.as_ref().and_then(|state| state.terminated.as_ref());
        let stays = match (policy, ended) {
            (_, None) => false,
            ("Never", Some(_)) => true,
            ("OnFailure", Some(end)) => end.exit_code == 0,
            _ => false,
        };
        let still = now.state.as_ref().is_some_and(|state| state.terminated.is_some());
        if stays && !still {
            return Err(format!("{} had ended for good and is now {:?}", now.name, now.state));
        }
    }
    if condition(before, GATE) != condition(after, GATE) && condition(after, GATE).is_none() {
        return Err("the condition of its readiness gate is lost".to_owned());
    }
    Ok(())
}

/// The statuses of all containers.
pub fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let inits = status.into_iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    let apps = status.into_iter().flat_map(|status| status.container_statuses.iter().flatten());
    inits.chain(apps)
}

/// The status of a condition.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.status.as_str())
}

/// Whether a pod is told to have come to its end.
pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a pod is a mirror.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR))
}

/// The UID of a pod.
pub fn uid_of(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// The name of a pod.
pub fn name_of(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

/// The UID by which the runtime knows a pod of the API.
pub fn runtime_uid(pod: &Pod) -> String {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(MIRROR).cloned()).unwrap_or_else(|| uid_of(pod))
}

/// Whether a Node is ready.
pub fn is_node_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// How many sandboxes of a UID are ready.
pub fn ready_sandboxes(cri: &ScriptedCri, name: &str, uid: &str) -> usize {
    let all = cri.sandboxes_of(name).into_iter();
    all.filter(|status| {
        status.metadata.as_ref().is_some_and(|of| of.uid == uid)
            && status.state == PodSandboxState::SandboxReady as i32
    })
    .count()
}

/// The IDs of the instances of a container of a UID that run.
pub fn running_ids(cri: &ScriptedCri, name: &str, uid: &str, container: &str) -> Vec<String> {
    let all = cri.containers_of(name).into_iter();
    all.filter(|status| {
        status.labels.get(label::POD_UID).is_some_and(|of| of == uid)
            && status.metadata.as_ref().is_some_and(|of| of.name == container)
            && status.state() == ContainerState::ContainerRunning
    })
    .map(|status| status.id)
    .collect()
}
