//! Probes: made when they are due and only then, one at a time; what is told of a container is what they said last, at
//! once and over all agents; and what they say decides about restarts.

mod tests;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use rubelet_core::probes::{ProbeKind, ProbeTimes, probed_containers};
use rubelet_cri::CriErrorKind;
use rubelet_testkit::scripted::{Call, Outcome};

use super::{Judge, PodTruth, Verdict};
use crate::health::kind_of;
use crate::log::{ContainerView, StatusView};

/// How soon a verdict is told.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// How far from its tick a run may begin.
const LATE: Duration = Duration::from_millis(600);
/// How long after its timeout a command is not waited for any more.
const OVERTIME: Duration = Duration::from_secs(10);
/// How long an agent whose calls fail may need to find out what runs; one whose calls do not is quicker.
const FINDS_IN_TROUBLE: Duration = Duration::from_secs(120);
const FINDS: Duration = Duration::from_secs(40);
/// The same until it kills what has failed: a worker may have to finish something else before.
const KILLS_IN_TROUBLE: Duration = Duration::from_secs(400);
const KILLS: Duration = Duration::from_secs(60);

/// One probe of an instance.
#[derive(Debug)]
struct Course {
    times: ProbeTimes,
    /// What it said last, over all agents.
    ever: Option<bool>,
    /// When an agent first found it failed.
    failed_at: Option<Timestamp>,
    /// What was told last, over all agents.
    told: Option<bool>,
    /// When its ticks are, as ages within a period.
    phase: Option<Duration>,
    /// Of the agent that lives.
    life: Life,
}

/// What one agent did about a probe.
#[derive(Debug, Default)]
struct Life {
    /// The call under way, and when its run began.
    under_way: Option<u64>,
    /// When the last run began, and when its last try did.
    run: Option<Timestamp>,
    tried: Timestamp,
    /// Its last try could not be made, which ended then.
    failed_try: Option<Timestamp>,
    /// The run is the early look of a startup probe.
    early: bool,
    streak: Option<(bool, u32)>,
    /// What it said, since when.
    said: Option<(bool, Timestamp)>,
    /// The next run begins by then.
    due_by: Option<Timestamp>,
}

/// All probes of an instance.
#[derive(Debug, Default)]
pub(super) struct Probes {
    courses: [Option<Course>; 3],
    started_at: Timestamp,
    /// The agent that lives tells that this instance runs.
    shown: bool,
}

impl Probes {
    /// The probes of an instance that has just started.
    pub(super) fn of(pod: Option<&Pod>, container: &str, started_at: Timestamp) -> Self {
        let container = pod.and_then(|pod| probed_containers(pod).find(|of| of.name == container));
        let course = |kind: ProbeKind| {
            let times = ProbeTimes::of(kind.probe_of(container?)?);
            Some(Course {
                times,
                ever: None,
                failed_at: None,
                told: None,
                phase: None,
                life: Life::default(),
            })
        };
        Self { courses: ProbeKind::ALL.map(course), started_at, shown: false }
    }

    fn course(&self, kind: ProbeKind) -> Option<&Course> {
        self.courses[kind as usize].as_ref()
    }

    fn said(&self, kind: ProbeKind) -> Option<bool> {
        self.course(kind)?.ever
    }

    /// Whether there are any.
    fn any(&self) -> bool {
        self.courses.iter().any(Option::is_some)
    }

    /// Whether the container may be killed for what they said.
    pub(super) fn failed(&self) -> bool {
        [ProbeKind::Startup, ProbeKind::Liveness].iter().any(|kind| self.said(*kind) == Some(false))
    }

    /// When it was first to be killed for that.
    pub(super) fn failed_at(&self) -> Option<Timestamp> {
        let kinds = [ProbeKind::Startup, ProbeKind::Liveness].into_iter();
        kinds.filter_map(|kind| self.course(kind)?.failed_at).min()
    }

    /// Whether the startup probe has passed, or there is none.
    pub(super) fn started(&self) -> bool {
        self.course(ProbeKind::Startup).is_none_or(|course| course.ever == Some(true))
    }

    /// Whether the container need not be ready.
    pub(super) fn may_be_unready(&self) -> bool {
        !self.started() || self.course(ProbeKind::Readiness).is_some_and(|course| course.ever != Some(true))
    }

    /// Another agent.
    pub(super) fn begin_life(&mut self) {
        self.shown = false;
        self.courses.iter_mut().flatten().for_each(|course| course.life = Life::default());
    }

    /// Whether a probe is one that is made now, in a pod that does not end.
    fn is_wanted(&self, kind: ProbeKind) -> bool {
        match kind {
            ProbeKind::Startup => self.said(kind).is_none(),
            ProbeKind::Liveness => self.started() && self.said(kind) != Some(false),
            ProbeKind::Readiness => self.started(),
        }
    }

    /// From when on a probe may be made.
    fn opens(&self, course: &Course) -> Timestamp {
        after(self.started_at, course.times.initial_delay)
    }

    fn begin(&mut self, kind: ProbeKind, call: &Call, now: Timestamp, ending: bool) -> Verdict {
        let (started, is_wanted) = (self.started(), self.is_wanted(kind));
        let Some(course) = self.course(kind) else { return Err("there is no such probe".to_owned()) };
        let opens = self.opens(course);
        let Some(course) = self.courses[kind as usize].as_mut() else { return Ok(()) };
        let (times, life) = (course.times, &mut course.life);
        if life.under_way.replace(call.n).is_some() {
            return Err("it is under way already".to_owned());
        }
        life.tried = now;
        life.due_by = None;
        // The same run, because it could not be made before.
        if life.failed_try.take() == Some(now) {
            return Ok(());
        }
        if !started && kind != ProbeKind::Startup {
            return Err("the startup probe has not passed".to_owned());
        }
        // What another agent found out right before its end may be unknown to this one.
        if !is_wanted && (life.said.is_some() || course.told == Some(true) && kind == ProbeKind::Startup) {
            return Err("its result is known".to_owned());
        }
        if ending && kind != ProbeKind::Readiness {
            return Err("the pod is being ended".to_owned());
        }
        if now < opens {
            return Err("its initial delay is not over".to_owned());
        }
        if let Some(before) = life.run
            && passed(before, now) < closest(&times)
        {
            return Err(format!("it was made {:?} before", passed(before, now)));
        }
        let first = life.run.replace(now).is_none();
        let age = passed(self.started_at, now);
        life.early = first && kind == ProbeKind::Startup && age < times.initial_delay + times.period;
        if first && kind != ProbeKind::Liveness {
            return Ok(());
        }
        let phase = modulo(age, times.period);
        let tick = *course.phase.get_or_insert(phase);
        let off = modulo(phase + times.period - tick, times.period);
        if off.min(times.period - off) > LATE {
            return Err(format!("it is made {off:?} after its tick"));
        }
        Ok(())
    }

    fn end(&mut self, kind: ProbeKind, call: &Call, now: Timestamp) {
        let Some(course) = self.courses[kind as usize].as_mut() else { return };
        let life = &mut course.life;
        if life.under_way != Some(call.n) {
            return;
        }
        life.under_way = None;
        let times = course.times;
        let too_long = passed(life.tried, now) >= times.timeout + OVERTIME;
        let answer = match call.outcome {
            Outcome::Answered => call.exit_code.map(|code| code == 0),
            Outcome::Failed(CriErrorKind::DeadlineExceeded) => Some(false),
            Outcome::GivenUp if too_long => Some(false),
            Outcome::Failed(_) => {
                life.failed_try = Some(now);
                None
            }
            _ => None,
        };
        let begun = life.run.unwrap_or(now);
        // The tick after the next, if that one would follow too closely.
        life.due_by =
            Some(after(after(now, closest(&times)).max(after(begun, times.period)), times.period + LATE));
        let Some(well) = answer.filter(|well| *well || !life.early) else { return };
        let run = life.streak.filter(|(last, _)| *last == well).map_or(1, |(_, run)| run + 1);
        life.streak = Some((well, run));
        if run < if well { times.success_threshold } else { times.failure_threshold } {
            return;
        }
        if life.said.is_none_or(|(said, _)| said != well) {
            life.said = Some((well, now));
        }
        course.ever = Some(well);
        if !well {
            course.failed_at.get_or_insert(now);
        }
        if kind == ProbeKind::Startup && well {
            self.set_due(now, ProbeKind::Liveness, |times| times.period * 2 + LATE);
            self.set_due(now, ProbeKind::Readiness, |_| LATE);
        }
    }

    fn set_due(&mut self, now: Timestamp, kind: ProbeKind, wait: impl Fn(&ProbeTimes) -> Duration) {
        let Some(course) = self.course(kind) else { return };
        let due = after(now.max(self.opens(course)), wait(&course.times));
        if let Some(course) = self.courses[kind as usize].as_mut() {
            course.life.due_by.get_or_insert(due);
        }
    }

    /// The agent that lives tells that the instance runs, and so.
    fn show(&mut self, view: &ContainerView, now: Timestamp, finds: Duration) -> Verdict {
        if !std::mem::replace(&mut self.shown, true) {
            for kind in ProbeKind::ALL {
                if self.is_wanted(kind) {
                    self.set_due(now, kind, |times| times.period * 2 + finds);
                }
            }
        }
        for (kind, told) in [(ProbeKind::Startup, view.started), (ProbeKind::Readiness, view.ready)] {
            let Some(course) = self.courses[kind as usize].as_mut() else { continue };
            let before = course.told.replace(told).unwrap_or(false);
            let just = course.life.said.is_none_or(|(_, since)| passed(since, now) <= TOLD_WITHIN);
            let is_true = course.ever.unwrap_or(false) == told || just && told == before;
            if !is_true {
                return Err(format!("{kind:?} is told to be {told} and is {:?}", course.ever));
            }
        }
        Ok(())
    }

    /// What should have happened by now.
    fn overdue(&self, now: Timestamp, ending: bool) -> Verdict {
        for kind in ProbeKind::ALL {
            let Some(course) = self.course(kind) else { continue };
            let life = &course.life;
            let wanted = self.is_wanted(kind) && (!ending || kind == ProbeKind::Readiness);
            if wanted && life.due_by.is_some_and(|due| due < now) {
                return Err(format!("no {kind:?} probe is made, last begun at {:?}", life.run));
            }
            let longest = course.times.timeout + OVERTIME + Duration::from_secs(3);
            if life.under_way.is_some() && passed(life.tried, now) > longest {
                return Err(format!("a {kind:?} probe does not end"));
            }
            let kept = kind != ProbeKind::Liveness && self.shown;
            if let Some((said, since)) = life.said
                && kept
                && course.told.is_some_and(|told| told != said)
                && passed(since, now) > TOLD_WITHIN
            {
                return Err(format!("{kind:?} is {said} since {since} and nobody is told"));
            }
        }
        Ok(())
    }

    /// Since when the container is to be killed, as far as the agent that lives knows for sure.
    fn doomed(&self) -> Option<Timestamp> {
        let said = |kind| self.course(kind)?.life.said.filter(|(well, _)| !well).map(|(_, since)| since);
        said(ProbeKind::Startup).or_else(|| said(ProbeKind::Liveness))
    }
}

impl Judge<'_> {
    /// A probe is made. Says whether the call is one.
    pub(super) fn check_probe_call(&mut self, call: &Call) -> Result<bool, String> {
        let Some(kind) = kind_of(&call.command) else { return Ok(false) };
        let now = self.now;
        let Some(truth) = self.pods.get_mut(&call.subject.pod_uid) else { return Ok(true) };
        let ending = truth.is_ended_by_this_agent();
        let Some(instance) = truth.containers.get_mut(&call.subject.id) else { return Ok(true) };
        let about =
            |what: String| format!("{kind:?} probe of {} ({}): {what}", instance.name, call.subject.id);
        instance.probes.begin(kind, call, now, ending).map_err(about)?;
        Ok(true)
    }

    /// A probe has ended.
    pub(super) fn end_probe(&mut self, call: &Call) {
        let (now, Some(kind)) = (self.now, kind_of(&call.command)) else { return };
        let Some(truth) = self.pods.get_mut(&call.subject.pod_uid) else { return };
        if let Some(instance) = truth.containers.get_mut(&call.subject.id) {
            instance.probes.end(kind, call, now);
            if instance.probes.started() {
                truth.passed.insert((instance.sandbox.clone(), instance.name.clone()));
            }
        }
    }

    /// What a status says of probes.
    pub(super) fn check_told_health(&mut self, view: &StatusView) -> Verdict {
        let now = self.now;
        let finds = if self.scenario.faults.is_some() { FINDS_IN_TROUBLE } else { FINDS };
        let Some(truth) = self.pods.get_mut(&view.uid) else { return Ok(()) };
        for (id, instance) in &mut truth.containers {
            let Some(told) = view.containers.iter().find(|of| of.name == instance.name) else { continue };
            if told.running.as_ref() != Some(id) {
                instance.probes.shown = false;
                continue;
            }
            let about = |what: String| format!("of {} ({id}) of {}: {what}", instance.name, view.uid);
            instance.probes.show(told, now, finds).map_err(about)?;
        }
        Ok(())
    }

    /// What should have happened by now.
    pub(super) fn check_overdue(&mut self) -> Verdict {
        // Between two instants nothing is due, and every instant has many entries.
        if !self.alive || passed(self.looked_at, self.now) < Duration::from_millis(300) {
            return Ok(());
        }
        self.looked_at = self.now;
        let kills = if self.scenario.faults.is_some() { KILLS_IN_TROUBLE } else { KILLS };
        for truth in self.pods.values() {
            let ends = truth.may_end(self.now);
            for (id, instance) in truth.running().filter(|(_, instance)| instance.probes.any()) {
                let about = |what: String| format!("{} ({id}): {what}", instance.name);
                instance.probes.overdue(self.now, ends).map_err(about)?;
                if let Some(since) = instance.probes.doomed()
                    && !ends
                    && instance.ending_since_now.is_none()
                    && passed(since, self.now) > kills
                {
                    return Err(about(format!("it failed its probe at {since} and is not killed")));
                }
            }
        }
        Ok(())
    }
}

impl PodTruth {
    /// Whether the agent that lives has begun to end the pod.
    fn is_ended_by_this_agent(&self) -> bool {
        let Some(told) = self.told_ending else { return false };
        self.containers.values().any(|instance| instance.ending_since_now.is_some_and(|since| since >= told))
    }
}

/// Two runs of a probe are never closer.
fn closest(times: &ProbeTimes) -> Duration {
    Duration::from_secs(1).min(times.period / 2)
}

fn after(at: Timestamp, time: Duration) -> Timestamp {
    at.saturating_add(time).unwrap_or(Timestamp::MAX)
}

fn passed(from: Timestamp, to: Timestamp) -> Duration {
    to.duration_since(from).max(SignedDuration::ZERO).unsigned_abs()
}

fn modulo(time: Duration, period: Duration) -> Duration {
    let rest = time.as_nanos() % period.as_nanos().max(1);
    Duration::from_nanos(u64::try_from(rest).unwrap_or_default())
}
