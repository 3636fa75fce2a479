//! Who had which CPUs before the agent was started again.
//!
//! Owns the reconciliation of the checkpoint with the machine and with what runs. Upstream refuses to start when they
//! disagree; here what can be kept is kept, what runs pinned is taken over as it runs, and the rest is told. Nothing
//! that runs loses CPUs by it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;

use super::requests::exclusive_cpus;
use super::{Assignments, Checkpoint, CpuManager, CpuPolicy, Entries};
use crate::containers::{described, init_containers, is_sidecar, regular_containers, spec_of};
use crate::cpu_set::CpuSet;
use crate::ids::{ContainerId, PodUid};

/// A running container as the runtime tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningContainer {
    /// Its pod.
    pub uid: PodUid,
    /// Its name.
    pub container: String,
    /// Its ID.
    pub id: ContainerId,
    /// The cpuset it was given, if it was given one and that is known.
    pub cpus: Option<CpuSet>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// What did not agree, for the log; empty when all did.
    pub problems: Vec<String>,
    /// Under the policy none: containers may run pinned by another policy before, so each should be given all CPUs
    /// once.
    pub unpin: bool,
}

type Claim = (PodUid, String, CpuSet);

impl CpuManager {
    /// Fills an empty book from the checkpoint and from what runs. Specs of pods need not be known yet: see
    /// [`Self::adopt`].
    pub fn restore(&mut self, checkpoint: Option<&[u8]>, running: &[RunningContainer]) -> Restored {
        let mut restored = Restored::default();
        let read = checkpoint.map(Checkpoint::parse);
        if self.policy == CpuPolicy::None {
            restored.unpin = read.is_some_and(|read| read.map_or(true, |read| read.policy != "none"));
            return restored;
        }
        let trusted = match read {
            None => None,
            Some(Err(error)) => {
                let why =
                    std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
                restored.problems.push(format!(
                    "the checkpoint of the CPU manager cannot be read ({error}{why}): it is rebuilt from running containers"
                ));
                None
            }
            Some(Ok(read)) if read.policy != self.policy.as_str() => {
                restored.problems.push(format!(
                    "configured policy {:?} differs from state checkpoint policy {:?}: it is rebuilt from running containers",
                    self.policy.as_str(),
                    read.policy
                ));
                None
            }
            Some(Ok(read)) if read.pod_pools => {
                restored.problems.push(
                    "the checkpoint of the CPU manager has pools of pods, which are not supported: it is rebuilt from running containers".to_owned(),
                );
                None
            }
            Some(Ok(read)) => Some(named(read.entries, running)),
        };
        match trusted {
            Some(claims) => self.take_over(claims, running, &mut restored.problems),
            None => self.guess(running),
        }
        self.refresh();
        restored
    }

    /// Enters what the checkpoint says. Where it contradicts itself, what runs decides.
    fn take_over(&mut self, claims: Assignments, running: &[RunningContainer], problems: &mut Vec<String>) {
        let runs_so = |(uid, name, cpus): &Claim| {
            running
                .iter()
                .any(|one| one.uid == *uid && one.container == *name && one.cpus.as_ref() == Some(cpus))
        };
        let mut claims = flat(claims);
        // Stable: otherwise in the order of the file.
        claims.sort_by_key(|claim| !runs_so(claim));
        let online = self.all_cpus();
        for (uid, name, cpus) in claims {
            let gone = cpus.difference(&online);
            if !gone.is_empty() {
                problems
                    .push(format!("CPUs {gone} of container {name} of pod {uid} are not online any more"));
            } else if cpus.is_empty() || !self.is_free_for(&uid, &cpus) {
                problems.push(format!("CPUs {cpus} of container {name} of pod {uid} are another pod's, too"));
            } else {
                let reserved = cpus.intersection(&self.reserved);
                if !reserved.is_empty() {
                    problems.push(format!(
                        "container {name} of pod {uid} keeps CPUs {reserved}, which are reserved now, until its pod ends"
                    ));
                }
                self.assigned.entry(uid).or_default().insert(name, cpus);
            }
        }
    }

    /// Enters containers that run on CPUs of their own, judging by their cpusets alone: those of the shared pool
    /// overlap or have reserved CPUs in them. The smaller of two that overlap is the one that is pinned.
    fn guess(&mut self, running: &[RunningContainer]) {
        let online = self.all_cpus();
        let pinned = running.iter().filter_map(|one| {
            let cpus = one.cpus.as_ref().filter(|cpus| !cpus.is_empty())?;
            let own = cpus.is_subset(&online) && cpus.is_disjoint(&self.reserved);
            let others = running.iter().filter(|other| other.uid != one.uid);
            let same = others.filter(|other| other.cpus.as_ref() == Some(cpus)).count();
            (own && same == 0).then(|| (one.uid.clone(), one.container.clone(), cpus.clone()))
        });
        let mut pinned: Vec<Claim> = pinned.collect();
        pinned.sort_by_key(|(_, _, cpus)| cpus.len());
        for (uid, name, cpus) in pinned {
            let own =
                self.assigned.get(&uid).is_none_or(|own| own.values().all(|other| other.is_disjoint(&cpus)));
            if own && self.is_free_for(&uid, &cpus) {
                self.guessed.insert(uid.clone());
                self.assigned.entry(uid).or_default().insert(name, cpus);
            }
        }
    }

    /// Whether no other pod has any of these.
    fn is_free_for(&self, uid: &PodUid, cpus: &CpuSet) -> bool {
        let others = self.assigned.iter().filter(|(other, _)| *other != uid);
        others.flat_map(|(_, containers)| containers.values()).all(|other| other.is_disjoint(cpus))
    }

    /// Takes a pod up again whose containers run: what was guessed is held against its spec, and containers that
    /// should have CPUs of their own but have none get some, if there are any. Returns what could not be had; the pod
    /// goes on in the shared pool then. `running` are the names of its containers that run.
    pub fn adopt(&mut self, pod: &Pod, running: &BTreeSet<&str>) -> Vec<String> {
        let uid = PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default());
        if self.policy == CpuPolicy::None {
            return Vec::new();
        }
        let spec = spec_of(pod);
        let wanted: BTreeMap<&str, usize> =
            regular_containers(spec).map(|one| (one.name.as_str(), exclusive_cpus(pod, one))).collect();
        let guessed = self.guessed.remove(&uid);
        if let Some(own) = self.assigned.get_mut(&uid) {
            own.retain(|name, cpus| match wanted.get(name.as_str()) {
                None | Some(0) => false,
                Some(count) => !guessed || *count == cpus.len(),
            });
            if own.is_empty() {
                self.assigned.remove(&uid);
            }
            self.refresh();
        }
        let mut problems = Vec::new();
        for container in regular_containers(spec) {
            let once =
                init_containers(spec).iter().any(|init| init.name == container.name && !is_sidecar(init));
            if once && !running.contains(container.name.as_str()) {
                continue;
            }
            if let Err(error) = self.assign(pod, container, None) {
                let name = &container.name;
                problems.push(format!("container {name} of pod {} shares CPUs: {error}", described(pod)));
            }
        }
        problems
    }
}

/// Entries by pod and name. Of entries by ID, those of containers that still run.
fn named(entries: Entries, running: &[RunningContainer]) -> Assignments {
    let by_id = match entries {
        Entries::ByName(entries) => return entries,
        Entries::ById(entries) => entries,
    };
    let mut named = Assignments::new();
    for one in running {
        if let Some(cpus) = by_id.get(one.id.as_str()) {
            named.entry(one.uid.clone()).or_default().insert(one.container.clone(), cpus.clone());
        }
    }
    named
}

fn flat(assignments: Assignments) -> Vec<Claim> {
    let pods = assignments.into_iter();
    pods.flat_map(|(uid, own)| own.into_iter().map(move |(name, cpus)| (uid.clone(), name, cpus))).collect()
}
