//! The health of scenarios: which containers have probes, and what their commands say over the life of an instance.
//! Drawn from the seed apart from everything else, so that a seed without probes means what it always did.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ExecAction, Pod, Probe};
use rubelet_core::probes::ProbeKind;
use rubelet_testkit::ScriptedCri;
use rubelet_testkit::scripted::{ExecScript, Rng};

use crate::scenario::SimPod;

/// What a probe's command says from an age of its container on, in order.
pub type Course = Vec<(Duration, ExecScript)>;

/// The command of every probe of a kind.
pub fn command_of(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Startup => "probe-startup",
        ProbeKind::Liveness => "probe-liveness",
        ProbeKind::Readiness => "probe-readiness",
    }
}

/// The kind of probe that a command is.
pub fn kind_of(command: &[String]) -> Option<ProbeKind> {
    ProbeKind::ALL.into_iter().find(|kind| command == [command_of(*kind)])
}

/// How one probe's command behaves.
#[derive(Clone, Debug)]
pub struct Health {
    pub pod: String,
    pub container: String,
    pub kind: ProbeKind,
    /// By attempt; the last repeats.
    pub courses: Vec<Course>,
}

impl Health {
    /// Tells the runtime.
    pub fn script(&self, cri: &ScriptedCri) {
        let command = command_of(self.kind);
        cri.script_exec_by_age(&self.pod, &self.container, command, self.courses.iter().cloned());
    }

    /// The course of an instance.
    pub fn course(&self, attempt: u32) -> &[(Duration, ExecScript)] {
        let attempt = usize::try_from(attempt).unwrap_or(usize::MAX);
        self.courses.get(attempt).or(self.courses.last()).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether nothing happens to instances to come.
    pub fn ends_calmly(&self) -> bool {
        self.courses.last().is_none_or(|course| (0..course.len()).all(|end| is_well(&course[..=end])))
    }
}

/// Whether a course ends well.
pub fn is_well(course: &[(Duration, ExecScript)]) -> bool {
    course.last().is_none_or(|(_, last)| last.exit_code == 0 && last.error.is_none() && last.takes < HANGS)
}

/// So long takes a command that hangs.
const HANGS: Duration = Duration::from_secs(3600);

/// It is well.
pub fn well() -> ExecScript {
    ExecScript { takes: Duration::from_millis(20), ..ExecScript::default() }
}

/// It is not.
pub fn ill() -> ExecScript {
    ExecScript { exit_code: 1, stdout: "ill".to_owned(), ..well() }
}

/// It does not end by itself.
pub fn hangs() -> ExecScript {
    ExecScript { takes: HANGS, ..ExecScript::default() }
}

/// It cannot be run.
pub fn errs() -> ExecScript {
    ExecScript { error: Some("no such command".to_owned()), ..well() }
}

/// Gives a container a probe.
pub fn add_probe(pod: &mut Pod, container: &str, kind: ProbeKind, probe: Probe) {
    let Some(spec) = &mut pod.spec else { return };
    let all = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
    for container in all.filter(|of| of.name == container) {
        let action = ExecAction { command: Some(vec![command_of(kind).to_owned()]) };
        let probe = Some(Probe { exec: Some(action), ..probe.clone() });
        match kind {
            ProbeKind::Startup => container.startup_probe = probe,
            ProbeKind::Liveness => container.liveness_probe = probe,
            ProbeKind::Readiness => container.readiness_probe = probe,
        }
    }
}

/// Gives containers of some seeds probes, and says how they behave.
pub fn draw(seed: u64, pods: &mut [SimPod]) -> Vec<Health> {
    let rng = &mut Rng::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x9b0b);
    let mut healths = vec![];
    if rng.below(4) != 0 {
        return healths;
    }
    for pod in pods {
        let pod = &mut pod.pod;
        let name = pod.metadata.name.clone().unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        let sidecars =
            spec.init_containers.iter().flatten().filter(|of| of.restart_policy.as_deref() == Some("Always"));
        for container in sidecars.chain(&spec.containers) {
            for kind in ProbeKind::ALL {
                if rng.below(if kind == ProbeKind::Startup { 3 } else { 2 }) != 0 {
                    continue;
                }
                add_probe(pod, &container.name, kind, draw_probe(rng, kind));
                let mut courses: Vec<Course> = (0..rng.below(3)).map(|_| draw_course(rng, kind)).collect();
                // Whatever kills one instance kills all that have its course.
                let is_calm = kind != ProbeKind::Readiness && rng.below(6) != 0;
                courses.push(if is_calm { vec![(Duration::ZERO, well())] } else { draw_course(rng, kind) });
                healths.push(Health { pod: name.clone(), container: container.name.clone(), kind, courses });
            }
        }
    }
    healths
}

fn draw_probe(rng: &mut Rng, kind: ProbeKind) -> Probe {
    let mut number = |least: u64, most: u64| i32::try_from(least + rng.below(most - least + 1)).ok();
    Probe {
        initial_delay_seconds: number(0, 4),
        period_seconds: number(1, 6),
        timeout_seconds: number(1, 2),
        failure_threshold: number(1, 3),
        success_threshold: if kind == ProbeKind::Readiness { number(1, 2) } else { None },
        ..Probe::default()
    }
}

/// Well, but for a moment at the start and one or two later; in a few cases not in the end.
fn draw_course(rng: &mut Rng, kind: ProbeKind) -> Course {
    let seconds = |rng: &mut Rng, most: u64| Duration::from_millis(rng.below(most * 1000));
    let trouble = |rng: &mut Rng| match rng.below(5) {
        0 => hangs(),
        1 => errs(),
        _ => ill(),
    };
    let mut course = vec![];
    let mut age = Duration::ZERO;
    if kind == ProbeKind::Startup || rng.below(4) == 0 {
        course.push((age, trouble(rng)));
        age += seconds(rng, 12);
    }
    course.push((age, well()));
    if kind != ProbeKind::Startup {
        for _ in 0..rng.below(3) {
            age += seconds(rng, 40);
            course.push((age, trouble(rng)));
            age += seconds(rng, 15);
            course.push((age, well()));
        }
    }
    if rng.below(10) == 0 {
        age += seconds(rng, 20);
        course.push((age, if rng.below(3) == 0 { hangs() } else { ill() }));
    }
    course
}
