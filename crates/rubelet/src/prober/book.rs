//! The book of the prober: which containers are probed, what is due next, what is under way. A value without tasks and
//! timers; the handle writes what is tracked, the task what begins and ends. All times are the runtime's (paused in
//! tests); the wall clock is looked at once for each container instance, to learn how old it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};
use rubelet_core::Pod;
use rubelet_core::ids::{ContainerId, PodUid};
use rubelet_core::probes::{ContainerProbes, ProbeKind, ProbeOutcome, probed_containers};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::deliver::{Letter, Outbox};
use super::slots::STARTING;
use super::tell::Probed;
use super::{ProbedPod, RunningContainer, VerdictSink};

/// A run gives up waiting for its slot this part of a period before the next tick, so that it does not cost that too.
const GIVE_UP_EARLIER: u32 = 20;

/// No container is older, whatever the runtime and the clock say.
const OLDEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What is asked in one run.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) pod: Arc<Pod>,
    pub(super) container: String,
    pub(super) id: ContainerId,
    pub(super) ip: Option<String>,
    pub(super) kind: ProbeKind,
    pub(super) timeout: Duration,
}

impl Ask {
    /// The container and the probe.
    pub(super) fn probe(&self) -> Option<(&Container, &Probe)> {
        let container = probed(&self.pod, &self.container)?;
        Some((container, self.kind.probe_of(container)?))
    }
}

/// Which run: instances are numbered, and no number is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunKey {
    instance: u64,
    kind: ProbeKind,
}

/// A run that is to begin.
pub(super) struct Begun {
    pub(super) key: RunKey,
    pub(super) ask: Ask,
    /// When it was due.
    pub(super) due: Instant,
    /// When it is not to be begun any more.
    pub(super) give_up: Instant,
    /// Whether the last run of this probe was quick.
    pub(super) proven: bool,
}

/// What became of a run.
#[derive(Debug)]
pub(super) enum Ran {
    /// There was no slot for it in time.
    Skipped,
    /// It was made; `late` after it was due it had its slot.
    Made { outcome: ProbeOutcome, took: Duration, late: Duration },
}

/// What is to be done about a run that has ended.
pub(super) struct Ended {
    pub(super) uid: PodUid,
    pub(super) pod: Arc<Pod>,
    pub(super) container: String,
    pub(super) kind: ProbeKind,
    /// Its failure does not count.
    pub(super) early: bool,
    /// A verdict is in the outbox, and nobody delivers it yet.
    pub(super) deliver: bool,
}

impl Ended {
    pub(super) fn probed(&self) -> Probed<'_> {
        Probed { uid: &self.uid, pod: &self.pod, container: &self.container, kind: self.kind }
    }
}

/// The book.
#[derive(Default)]
pub(super) struct Book {
    pods: BTreeMap<PodUid, Tracked>,
    instances: BTreeMap<u64, Instance>,
    /// When each instance has its next probe; those that wait for an answer or for nothing are not in it.
    due: BTreeSet<(Instant, u64)>,
    /// The last number given to an instance.
    number: u64,
    pub(super) outbox: Outbox,
    /// The task has ended: nothing is tracked any more.
    is_closed: bool,
}

/// A pod of which something is or was probed.
struct Tracked {
    pod: Arc<Pod>,
    ip: Option<String>,
    sink: Arc<dyn VerdictSink>,
    ending: bool,
    instances: Vec<u64>,
}

/// A container instance with its probes.
struct Instance {
    uid: PodUid,
    id: ContainerId,
    name: String,
    /// The object its probes are from.
    pod: Arc<Pod>,
    probes: ContainerProbes,
    /// When it was first told, and how old it was then.
    told: (Instant, Duration),
    /// As in [`Book::due`].
    due: Option<(Instant, ProbeKind)>,
    runs: [Runs; ProbeKind::ALL.len()],
}

/// The runs of one probe.
#[derive(Default)]
struct Runs {
    under_way: Option<AbortHandle>,
    /// The last one was quick.
    proven: bool,
}

impl Runs {
    fn abort(&mut self) {
        if let Some(run) = self.under_way.take() {
            run.abort();
        }
    }
}

impl Instance {
    fn age(&self, now: Instant) -> Duration {
        self.told.1.saturating_add(now.saturating_duration_since(self.told.0))
    }

    /// When it is that old, now at the earliest; `None` when that is never.
    fn instant_of(&self, age: Duration, now: Instant) -> Option<Instant> {
        let (told, age_then) = self.told;
        Some(told.checked_add(age.saturating_sub(age_then))?.max(now))
    }

    fn runs(&mut self, kind: ProbeKind) -> &mut Runs {
        &mut self.runs[kind as usize]
    }

    /// The pod ends: what would kill the container is stopped.
    fn end(&mut self) {
        self.probes.end();
        self.runs(ProbeKind::Startup).abort();
        self.runs(ProbeKind::Liveness).abort();
    }
}

impl Book {
    /// One in which nothing can be written any more.
    pub(super) fn closed() -> Self {
        Self { is_closed: true, ..Self::default() }
    }

    /// Takes over what a pod runs now. Says whether something is due earlier than anything was before.
    pub(super) fn track(&mut self, told: ProbedPod, now: Instant, wall: Timestamp) -> bool {
        let first = self.due.first().map(|(at, _)| *at);
        if self.pods.get(&told.uid).is_some_and(|tracked| !Arc::ptr_eq(&tracked.sink, &told.sink)) {
            // What the one before was told may be lost (its worker panicked): what the new one knows counts.
            self.forget(&told.uid);
        }
        let ProbedPod { uid, pod, ip, running, ending, sink } = told;
        let has_probes = || running.iter().any(|running| probed(&pod, &running.name).is_some());
        if self.is_closed || (!self.pods.contains_key(&uid) && !has_probes()) {
            return false;
        }
        let tracked = self.pods.entry(uid.clone()).or_insert_with(|| Tracked {
            pod: pod.clone(),
            ip: None,
            sink: sink.clone(),
            ending,
            instances: vec![],
        });
        tracked.ip = ip;
        let ends = ending && !tracked.ending;
        tracked.ending |= ending;
        let ending = tracked.ending;
        let is_new_object = !Arc::ptr_eq(&tracked.pod, &pod);
        tracked.pod = pod.clone();

        let known = std::mem::take(&mut tracked.instances);
        let mut kept = Vec::with_capacity(known.len());
        for number in known {
            let still = |instance: &Instance| running.iter().any(|running| running.id == instance.id);
            match self.instances.get_mut(&number) {
                Some(instance) if still(instance) => {
                    // Another definition of its probes is for the next instance.
                    if is_new_object && have_same_probes(&instance.pod, &pod, &instance.name) {
                        instance.pod = pod.clone();
                    }
                    if ends {
                        instance.end();
                        self.plan(number, now);
                    }
                    kept.push(number);
                }
                _ => self.drop_instance(number),
            }
        }
        for running in running {
            let is_known =
                |number: &u64| self.instances.get(number).is_some_and(|instance| instance.id == running.id);
            if !kept.iter().any(is_known) {
                kept.extend(self.add_instance(&uid, &pod, running, ending, now, wall));
            }
        }
        if let Some(tracked) = self.pods.get_mut(&uid) {
            tracked.instances = kept;
        }
        self.due.first().is_some_and(|(at, _)| first.is_none_or(|first| *at < first))
    }

    /// Drops an instance that has stopped; its pod stays.
    pub(super) fn stopped(&mut self, uid: &PodUid, id: &ContainerId) {
        let Some(tracked) = self.pods.get_mut(uid) else { return };
        let instances = &self.instances;
        let is_it = |number: &u64| instances.get(number).is_some_and(|instance| instance.id == *id);
        if let Some(index) = tracked.instances.iter().position(is_it) {
            let number = tracked.instances.remove(index);
            self.drop_instance(number);
        }
    }

    /// Drops a pod. Returns its object if it was tracked.
    pub(super) fn forget(&mut self, uid: &PodUid) -> Option<Arc<Pod>> {
        let tracked = self.pods.remove(uid)?;
        for number in tracked.instances {
            self.drop_instance(number);
        }
        Some(tracked.pod)
    }

    /// Whether a pod is in it.
    pub(super) fn is_tracked(&self, uid: &PodUid) -> bool {
        self.pods.contains_key(uid)
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Begins the first run that is due by now, if any. [`Self::started`] is to be called when it runs.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Begun> {
        let (due, number) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
        let begun = self.instances.get_mut(&number).and_then(|instance| {
            let (_, kind) = instance.due?;
            let times = *instance.probes.times(kind)?;
            instance.probes.begin(kind, instance.age(now));
            let proven = instance.runs(kind).proven;
            let ask = Ask {
                pod: instance.pod.clone(),
                container: instance.name.clone(),
                id: instance.id.clone(),
                ip: self.pods.get(&instance.uid).and_then(|tracked| tracked.ip.clone()),
                kind,
                timeout: times.timeout,
            };
            let wait = times.period - times.period / GIVE_UP_EARLIER;
            let give_up = due.checked_add(wait).unwrap_or(due).max(now);
            Some(Begun { key: RunKey { instance: number, kind }, ask, due, give_up, proven })
        });
        self.plan(number, now);
        begun
    }

    /// A run that was begun runs as this task. If nobody wants it any more, it is ended.
    pub(super) fn started(&mut self, key: RunKey, run: AbortHandle) {
        match self.instances.get_mut(&key.instance) {
            Some(instance) => instance.runs(key.kind).under_way = Some(run),
            None => run.abort(),
        }
    }

    /// A run has ended. `None` if nobody wants to know any more: the container or the pod is gone, or it ends and the
    /// probe is one that would kill.
    pub(super) fn finish(&mut self, key: RunKey, ran: &Ran, now: Instant) -> Option<Ended> {
        let instance = self.instances.get_mut(&key.instance)?;
        let tracked = self.pods.get(&instance.uid)?;
        let age = instance.age(now);
        let early = instance.probes.is_early_look(key.kind);
        let runs = instance.runs(key.kind);
        runs.under_way = None;
        let verdict = match ran {
            Ran::Skipped => {
                instance.probes.skip(key.kind, age);
                None
            }
            Ran::Made { outcome, took, .. } => {
                runs.proven = *took < STARTING;
                instance.probes.finish(key.kind, outcome, age)
            }
        };
        let wanted = !tracked.ending || key.kind == ProbeKind::Readiness;
        let deliver = verdict.is_some_and(|verdict| {
            let letter = Letter { id: instance.id.clone(), verdict, sink: tracked.sink.clone() };
            self.outbox.put(&instance.uid, letter)
        });
        let ended = Ended {
            uid: instance.uid.clone(),
            pod: instance.pod.clone(),
            container: instance.name.clone(),
            kind: key.kind,
            early,
            deliver,
        };
        self.plan(key.instance, now);
        wanted.then_some(ended)
    }

    /// Puts the next probe of an instance among those that are due.
    fn plan(&mut self, number: u64, now: Instant) {
        let Some(instance) = self.instances.get_mut(&number) else { return };
        let before = instance.due.take();
        instance.due =
            instance.probes.next().and_then(|due| Some((instance.instant_of(due.at, now)?, due.kind)));
        if let Some((at, _)) = before {
            self.due.remove(&(at, number));
        }
        if let Some((at, _)) = instance.due {
            self.due.insert((at, number));
        }
    }

    /// Adds an instance if it has probes.
    fn add_instance(
        &mut self,
        uid: &PodUid,
        pod: &Arc<Pod>,
        running: RunningContainer,
        ending: bool,
        now: Instant,
        wall: Timestamp,
    ) -> Option<u64> {
        let RunningContainer { name, id, started_at, known } = running;
        let age = wall.duration_since(started_at).try_into().unwrap_or(Duration::ZERO).min(OLDEST);
        let probes = ContainerProbes::new(probed(pod, &name)?, known, spread(uid, &name), age)?;
        self.number += 1;
        let number = self.number;
        let mut instance = Instance {
            uid: uid.clone(),
            id,
            name,
            pod: pod.clone(),
            probes,
            told: (now, age),
            due: None,
            runs: Default::default(),
        };
        if ending {
            instance.end();
        }
        self.instances.insert(number, instance);
        self.plan(number, now);
        Some(number)
    }

    fn drop_instance(&mut self, number: u64) {
        let Some(mut instance) = self.instances.remove(&number) else { return };
        if let Some((at, _)) = instance.due {
            self.due.remove(&(at, number));
        }
        for runs in &mut instance.runs {
            runs.abort();
        }
        self.outbox.forget_container(&instance.uid, &instance.id);
    }

    /// What is known of each instance.
    #[cfg(test)]
    pub(super) fn verdicts(&self) -> Vec<(ContainerId, rubelet_core::verdicts::Verdict)> {
        self.instances.values().map(|instance| (instance.id.clone(), instance.probes.verdict())).collect()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.instances.is_empty() && self.due.is_empty() && self.outbox.is_empty()
    }
}

/// A container that has probes.
fn probed<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    probed_containers(pod).find(|container| container.name == name)
}

fn have_same_probes(one: &Pod, other: &Pod, name: &str) -> bool {
    let (one, other) = (probed(one, name), probed(other, name));
    // The ports and the environment are what probes refer to.
    one.zip(other).is_some_and(|(one, other)| {
        ProbeKind::ALL.iter().all(|kind| kind.probe_of(one) == kind.probe_of(other))
            && one.ports == other.ports
            && one.env == other.env
    })
}

/// A number by which the probes of containers are spread over time: the same in every agent process (FNV-1a).
fn spread(uid: &PodUid, container: &str) -> u64 {
    let bytes = uid.as_str().bytes().chain([0]).chain(container.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
