//! All probes of one container instance: which one is due, and what the answers add up to (upstream `worker.doProbe`).
//!
//! The prober of the shell asks [`ContainerProbes::next`], says [`begin`](ContainerProbes::begin), carries the probe
//! out, and says [`finish`](ContainerProbes::finish) or [`skip`](ContainerProbes::skip).

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};

use super::schedule::{Grid, Schedule};
use super::{ProbeKind, ProbeOutcome, ProbeTimes};
use crate::containers::{init_containers, is_sidecar, spec_of};
use crate::verdicts::Verdict;

/// A probe that is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Which of the container's probes.
    pub kind: ProbeKind,
    /// Age of the container from which on it is due; may be long ago.
    pub at: Duration,
}

/// The containers of a pod that are probed: sidecars and app containers with at least one probe, in spec order.
pub fn probed_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = spec_of(pod);
    init_containers(spec)
        .iter()
        .filter(|init| is_sidecar(init))
        .chain(&spec.containers)
        .filter(|container| ProbeKind::ALL.iter().any(|kind| kind.probe_of(container).is_some()))
}

impl ProbeKind {
    /// The probe of this kind in a container's spec.
    pub fn probe_of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// One probe of the container.
#[derive(Clone, Debug)]
struct Course {
    times: ProbeTimes,
    schedule: Schedule,
    /// The last answer and how often in a row it was given.
    streak: Option<(bool, u32)>,
    /// The next run is the early look of a startup probe.
    early: bool,
    /// The run under way is the early look.
    looking_early: bool,
}

impl Course {
    fn new(container: &Container, kind: ProbeKind, spread: u64, age: Duration) -> Option<Self> {
        let times = ProbeTimes::of(kind.probe_of(container)?);
        let schedule = Schedule::new(Grid::new(&times, kind, spread), age);
        Some(Self { times, schedule, streak: None, early: false, looking_early: false })
    }

    /// Makes the next run one at once, or when the initial delay is over.
    fn call(&mut self, age: Duration) {
        self.schedule.call(age.max(self.times.initial_delay));
    }

    /// Counts an answer. Returns whether so many of the same in a row are enough.
    fn count(&mut self, well: bool) -> bool {
        let run = match self.streak {
            Some((last, run)) if last == well => run.saturating_add(1),
            _ => 1,
        };
        self.streak = Some((well, run));
        run >= if well { self.times.success_threshold } else { self.times.failure_threshold }
    }
}

/// All probes of one container instance, with what is known of it.
///
/// Every probe has a grid of ticks, anchored at the start of the container: the first one lies within a period after
/// the initial delay, at a phase that the spread decides. Besides the grid there are two runs at once: readiness when
/// the container counts as started, and startup when the initial delay is over, of which only a success counts. A tick
/// that passes while a run is under way, or while nobody looked, is skipped.
///
/// Until the startup probe has passed, only it is run; liveness rests once it has failed, startup after either result:
/// the next word is that of a new instance.
#[derive(Clone, Debug)]
pub struct ContainerProbes {
    startup: Option<Course>,
    liveness: Option<Course>,
    readiness: Option<Course>,
    verdict: Verdict,
    ended: bool,
}

impl ContainerProbes {
    /// The probes of an instance of this age; `None` if the container has none.
    ///
    /// `seed` is what is known of this very instance, the default if nothing is; what it says of probes that the
    /// container does not have is left out. `spread` is any number that is the same for this container in every
    /// agent process and differs from container to container. Ticks before `age` are skipped.
    pub fn new(container: &Container, seed: Verdict, spread: u64, age: Duration) -> Option<Self> {
        let course = |kind| Course::new(container, kind, spread, age);
        let mut probes = Self {
            startup: course(ProbeKind::Startup),
            liveness: course(ProbeKind::Liveness),
            readiness: course(ProbeKind::Readiness),
            verdict: Verdict::default(),
            ended: false,
        };
        let all = [&probes.startup, &probes.liveness, &probes.readiness];
        if all.into_iter().all(Option::is_none) {
            return None;
        }
        probes.verdict = Verdict {
            started: seed.started.filter(|_| probes.startup.is_some()),
            ready: seed.ready.filter(|_| probes.readiness.is_some()),
            liveness_failed: seed.liveness_failed && probes.liveness.is_some(),
            startup_failed: seed.startup_failed && probes.startup.is_some() && seed.started != Some(true),
        };
        if let Some(startup) = &mut probes.startup {
            // An instance that is older has been looked at by another agent process, and the next tick is near.
            if age < startup.times.initial_delay.saturating_add(startup.times.period) {
                startup.early = true;
                startup.call(age);
            }
        }
        if let Some(readiness) = &mut probes.readiness
            && probes.verdict.ready.is_none()
        {
            readiness.call(age);
        }
        Some(probes)
    }

    /// What is known now.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// How often a probe is made and how long a run of it may take; `None` if the container has no such probe.
    pub fn times(&self, kind: ProbeKind) -> Option<&ProbeTimes> {
        self.course(kind).map(|course| &course.times)
    }

    /// The probe that is due first, of those that are not under way. `None` until an answer or a new instance
    /// changes something.
    pub fn next(&self) -> Option<Due> {
        ProbeKind::ALL
            .into_iter()
            .filter(|kind| self.is_wanted(*kind))
            .filter_map(|kind| Some(Due { kind, at: self.course(kind)?.schedule.due()? }))
            .min_by_key(|due| (due.at, due.kind))
    }

    /// A run begins at this age. Its next tick is settled, however long the run takes.
    pub fn begin(&mut self, kind: ProbeKind, age: Duration) {
        let Some(course) = self.course_mut(kind) else { return };
        course.looking_early = std::mem::replace(&mut course.early, false);
        course.schedule.begin(age);
    }

    /// Whether the run under way is the early look of the startup probe: a failure of it does not count and is not
    /// worth an event.
    pub fn is_early_look(&self, kind: ProbeKind) -> bool {
        self.course(kind).is_some_and(|course| course.looking_early && course.schedule.due().is_none())
    }

    /// The run that is under way has ended at this age. Returns the verdict if that changed it.
    ///
    /// An error says nothing about the container and changes nothing. An answer nobody waits for, because none is
    /// under way or because the pod has ended meanwhile, counts for nothing.
    pub fn finish(&mut self, kind: ProbeKind, outcome: &ProbeOutcome, age: Duration) -> Option<Verdict> {
        let wanted = self.is_wanted(kind);
        let course = self.course_mut(kind)?;
        let early = std::mem::replace(&mut course.looking_early, false);
        if !course.schedule.finish(age) || !wanted {
            return None;
        }
        let well = match outcome {
            ProbeOutcome::Success | ProbeOutcome::Warning(_) => true,
            ProbeOutcome::Failure(_) => false,
            ProbeOutcome::Error(_) => return None,
        };
        if (early && !well) || !course.count(well) {
            return None;
        }
        let before = self.verdict;
        match kind {
            ProbeKind::Startup => {
                self.verdict.started = Some(well);
                self.verdict.startup_failed = !well;
                if well {
                    self.open(age);
                }
            }
            ProbeKind::Liveness => self.verdict.liveness_failed = !well,
            ProbeKind::Readiness => self.verdict.ready = Some(well),
        }
        (self.verdict != before).then_some(self.verdict)
    }

    /// The run that was due, or had been begun, was not made. The next one is the next tick.
    pub fn skip(&mut self, kind: ProbeKind, age: Duration) {
        let Some(course) = self.course_mut(kind) else { return };
        course.early = false;
        course.looking_early = false;
        course.schedule.finish(age);
    }

    /// The pod ends: nothing is killed for a probe any more, so liveness and startup stop and are quiet. Readiness goes
    /// on, because whoever sends work to the container is to know how long it takes any. One that has not started
    /// by now stays so.
    pub fn end(&mut self) {
        self.ended = true;
        self.verdict.liveness_failed = false;
        self.verdict.startup_failed = false;
    }

    /// The startup probe has passed: the other two begin.
    fn open(&mut self, age: Duration) {
        if let Some(liveness) = &mut self.liveness {
            liveness.schedule.resume(age);
        }
        if let Some(readiness) = &mut self.readiness {
            readiness.call(age);
        }
    }

    /// Whether runs of this probe can still change anything.
    fn is_wanted(&self, kind: ProbeKind) -> bool {
        let started = self.startup.is_none() || self.verdict.started == Some(true);
        match kind {
            ProbeKind::Startup => !started && !self.verdict.startup_failed && !self.ended,
            ProbeKind::Liveness => started && !self.verdict.liveness_failed && !self.ended,
            ProbeKind::Readiness => started,
        }
    }

    fn course(&self, kind: ProbeKind) -> Option<&Course> {
        match kind {
            ProbeKind::Startup => self.startup.as_ref(),
            ProbeKind::Liveness => self.liveness.as_ref(),
            ProbeKind::Readiness => self.readiness.as_ref(),
        }
    }

    fn course_mut(&mut self, kind: ProbeKind) -> Option<&mut Course> {
        match kind {
            ProbeKind::Startup => self.startup.as_mut(),
            ProbeKind::Liveness => self.liveness.as_mut(),
            ProbeKind::Readiness => self.readiness.as_mut(),
        }
    }
}
