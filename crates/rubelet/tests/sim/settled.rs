//! Whether the runtime holds exactly what is wanted and the statuses say so: where every run has to arrive.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use rubelet_core::probes::ProbeKind;
use rubelet_cri::observe::label;
use rubelet_cri::v1::{ContainerState, ContainerStatus, PodSandboxState};
use rubelet_testkit::ScriptedCri;

use crate::health::is_well;
use crate::log::StatusView;
use crate::scenario::{MISSING_IMAGE, Role, Scenario, containers_of, uid_of};
use crate::world::World;

/// What is still missing, if anything.
pub fn unsettled(world: &World, scenario: &Scenario) -> Option<String> {
    if !world.is_calm() {
        return Some("no agent that knows its pods".to_owned());
    }
    let rows = world.rows();
    for uid in &world.uids {
        let wanted = world.wanted.iter().find(|wanted| wanted.listed && uid_of(&wanted.pod) == *uid);
        let problem = match wanted {
            Some(wanted) if wanted.pod.metadata.deletion_timestamp.is_none() => {
                let seen = Seen::of(world, scenario, &wanted.pod, &rows, Some(wanted));
                seen.problem()
            }
            Some(wanted) => leftovers(world, uid, &wanted.pod, true),
            None => {
                let name = uid.split("-uid").next().unwrap_or_default();
                let pod = world.wanted.iter().find(|w| w.pod.metadata.name.as_deref() == Some(name));
                let row = rows.get(uid).map(|_| "it still has a status".to_owned());
                pod.and_then(|wanted| leftovers(world, uid, &wanted.pod, false)).or(row)
            }
        };
        if let Some(problem) = problem {
            return Some(format!("{uid}: {problem}"));
        }
    }
    None
}

/// Whether a pod has reached a state in which nothing of it changes by itself any more.
pub fn is_still(world: &World, scenario: &Scenario, pod: &Pod) -> bool {
    let rows = world.rows();
    let seen = Seen::of(world, scenario, pod, &rows, None);
    seen.containers.iter().all(|(name, role)| match seen.newest(name) {
        Some(status) if status.state() == ContainerState::ContainerRunning => {
            let attempt = status.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
            scenario.behaviour(seen.name, name, attempt).run_for.is_none()
                && !scenario.post_start_always_fails(seen.name, name)
                && seen.is_healthy(world, status)
        }
        Some(status) => {
            status.state() == ContainerState::ContainerExited
                && match role {
                    Role::Init => status.exit_code == 0,
                    Role::Sidecar => false,
                    Role::App => seen.stays_ended(status.exit_code),
                }
        }
        None => false,
    })
}

/// What is left of a pod that nobody wants, or that is deleted.
fn leftovers(world: &World, uid: &str, pod: &Pod, deleted: bool) -> Option<String> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let containers = of_uid(&world.cri, &name, uid);
    if let Some(left) = containers.first() {
        return Some(format!("container {} is left", left.id));
    }
    let left = world.cri.sandboxes_of(&name).into_iter().find(|sandbox| sandbox_uid(sandbox) == uid);
    if let Some(left) = left {
        return Some(format!("sandbox {} is left", left.id));
    }
    let root = world.root();
    let log = format!("default_{name}_{uid}");
    let mut places = vec![root.join("pods").join(uid), root.join("logs").join(log)];
    if !deleted {
        places.push(root.join("rubelet/pods").join(format!("{uid}.json")));
    }
    places.into_iter().find(|place| place.exists()).map(|place| format!("{} is left", place.display()))
}

fn sandbox_uid(sandbox: &rubelet_cri::v1::PodSandboxStatus) -> &str {
    sandbox.metadata.as_ref().map_or("", |metadata| &metadata.uid)
}

fn of_uid(cri: &ScriptedCri, name: &str, uid: &str) -> Vec<ContainerStatus> {
    let all = cri.containers_of(name).into_iter();
    all.filter(|status| status.labels.get(label::POD_UID).is_some_and(|of| of == uid)).collect()
}

/// A wanted pod as the runtime holds it and as it is published.
struct Seen<'a> {
    scenario: &'a Scenario,
    name: &'a str,
    pod: &'a Pod,
    containers: Vec<(String, Role)>,
    /// In order of creation.
    statuses: Vec<ContainerStatus>,
    ready_sandboxes: usize,
    row: Option<&'a StatusView>,
    disturbed: bool,
    given_back: bool,
}

impl<'a> Seen<'a> {
    fn of(
        world: &World,
        scenario: &'a Scenario,
        pod: &'a Pod,
        rows: &'a BTreeMap<String, StatusView>,
        wanted: Option<&crate::world::Wanted>,
    ) -> Self {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let uid = uid_of(pod);
        let ready = |sandbox: &rubelet_cri::v1::PodSandboxStatus| {
            sandbox_uid(sandbox) == uid && sandbox.state == PodSandboxState::SandboxReady as i32
        };
        Self {
            scenario,
            name,
            pod,
            containers: containers_of(pod),
            statuses: of_uid(&world.cri, name, &uid),
            ready_sandboxes: world.cri.sandboxes_of(name).iter().filter(|sandbox| ready(sandbox)).count(),
            row: rows.get(&uid),
            disturbed: wanted.is_some_and(|wanted| wanted.disturbed),
            given_back: wanted.is_some_and(|wanted| wanted.given_back),
        }
    }

    fn newest(&self, container: &str) -> Option<&ContainerStatus> {
        self.statuses
            .iter()
            .rev()
            .find(|status| status.metadata.as_ref().is_some_and(|metadata| metadata.name == container))
    }

    fn policy(&self) -> &str {
        let spec = self.pod.spec.as_ref();
        spec.and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
    }

    fn stays_ended(&self, code: i32) -> bool {
        match self.policy() {
            "Never" => true,
            "OnFailure" => code == 0,
            _ => false,
        }
    }

    /// The image of a container as the spec names it.
    fn image(&self, container: &str) -> Option<String> {
        let spec = self.pod.spec.as_ref()?;
        let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
        all.find(|c| c.name == container)?.image.clone()
    }

    fn runs_wanted_image(&self, container: &str, status: &ContainerStatus) -> bool {
        let runs = status.image.as_ref().map_or("", |image| &image.image);
        self.image(container).is_some_and(|image| runs.ends_with(&format!("/{image}")))
    }

    /// Whether a container can never be made to run.
    fn is_stuck(&self, container: &str) -> bool {
        self.image(container).as_deref() == Some(MISSING_IMAGE)
            || self.scenario.last_behaviour(self.name, container).create_error.is_some()
    }

    /// Whether a container ends again and again.
    fn loops(&self, container: &str) -> bool {
        let behaviour = self.scenario.last_behaviour(self.name, container);
        behaviour.run_for.is_some()
            || behaviour.start_error.is_some()
            || self.scenario.post_start_always_fails(self.name, container)
            || self.scenario.is_ill_for_ever(self.name, container)
    }

    /// Whether what its probes say of a running instance stays as it is.
    fn is_healthy(&self, world: &World, status: &ContainerStatus) -> bool {
        let Some(metadata) = &status.metadata else { return false };
        let age = world.cri.now().as_nanosecond() - i128::from(status.started_at);
        let mut kinds = [ProbeKind::Startup, ProbeKind::Liveness].into_iter();
        kinds.all(|kind| {
            let Some(health) = self.scenario.health(self.name, &metadata.name, kind) else { return true };
            let course = health.course(metadata.attempt);
            let last = course.last().map(|(from, _)| *from).unwrap_or_default();
            let settled = i128::try_from((last + Duration::from_secs(60)).as_nanos()).unwrap_or(i128::MAX);
            is_well(course) && age > settled
        })
    }

    /// Whether every container is ready in the end, once it runs.
    fn becomes_ready(&self) -> bool {
        self.containers.iter().all(|(name, role)| {
            *role == Role::Init
                || self.newest(name).is_none_or(|status| {
                    let attempt = status.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
                    let health = self.scenario.health(self.name, name, ProbeKind::Readiness);
                    health.is_none_or(|health| is_well(health.course(attempt)))
                })
        })
    }

    fn problem(&self) -> Option<String> {
        let Some(row) = self.row else { return Some("it has no status".to_owned()) };
        // Taken away, told to have ended, and given back while no agent was there: the API does not give such a
        // pod another life.
        let told_over =
            matches!(row.phase.as_str(), "Succeeded" | "Failed") && !rubelet_core::phase::is_static(self.pod);
        if self.is_over() || (told_over && self.given_back) {
            return self.problem_of_ended(row);
        }
        if self.ready_sandboxes != 1 {
            return Some(format!("{} ready sandboxes", self.ready_sandboxes));
        }
        let mut all_run = true;
        let mut held_back = false;
        // Behind a sidecar that comes and goes, others may or may not get their turn.
        let mut may_be_held_back = false;
        for (name, role) in &self.containers {
            let newest = self.newest(name);
            let running = self
                .statuses
                .iter()
                .filter(|s| s.metadata.as_ref().is_some_and(|m| m.name == *name))
                .filter(|s| s.state() == ContainerState::ContainerRunning)
                .count();
            if running > 1 {
                return Some(format!("{name} runs {running} times"));
            }
            if let Some(problem) = self.problem_of_view(row, name, newest) {
                return Some(problem);
            }
            let runs = running == 1;
            if runs && newest.is_some_and(|status| !self.runs_wanted_image(name, status)) {
                return Some(format!("{name} runs an image that is no longer wanted"));
            }
            if held_back {
                // Whatever is behind a container that cannot start never does.
                if runs && *role == Role::App {
                    return Some(format!("{name} runs although something before it cannot"));
                }
                all_run = false;
                continue;
            }
            match role {
                Role::Init => {
                    let done = newest
                        .is_some_and(|s| s.state() == ContainerState::ContainerExited && s.exit_code == 0);
                    if !done {
                        let fails = self.scenario.last_behaviour(self.name, name);
                        if may_be_held_back {
                            return None;
                        }
                        if !self.is_stuck(name) && fails.exit_code == 0 && fails.start_error.is_none() {
                            return Some(format!("init container {name} is not done"));
                        }
                        held_back = true;
                    }
                }
                Role::Sidecar | Role::App => {
                    all_run &= runs;
                    // Whatever is behind it waits for its startup probe.
                    may_be_held_back |= *role == Role::Sidecar && self.loops(name);
                    let ended_for_good = newest.is_some_and(|s| {
                        s.state() == ContainerState::ContainerExited
                            && *role == Role::App
                            && self.stays_ended(s.exit_code)
                    });
                    if !runs && !ended_for_good {
                        if self.is_stuck(name) {
                            held_back |= *role == Role::Sidecar;
                        } else if may_be_held_back && !self.loops(name) {
                            return None;
                        } else if !self.loops(name) {
                            return Some(format!("{name} does not run"));
                        }
                    }
                }
            }
        }
        let steady = self.containers.iter().all(|(name, role)| *role == Role::Init || !self.loops(name));
        if all_run && steady && (row.phase != "Running" || row.ready != self.becomes_ready()) {
            return Some(format!(
                "everything runs and it is told to be {} (ready: {})",
                row.phase, row.ready
            ));
        }
        None
    }

    /// Whether the pod has come to its end.
    fn is_over(&self) -> bool {
        let deadline = self.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds).is_some();
        let code = |name: &str| {
            self.newest(name).filter(|s| s.state() == ContainerState::ContainerExited).map(|s| s.exit_code)
        };
        let mut apps = self.containers.iter().filter(|(_, role)| *role == Role::App);
        let init_failed = self.policy() == "Never"
            && self
                .containers
                .iter()
                .any(|(name, role)| *role == Role::Init && code(name).is_some_and(|code| code != 0));
        // A run-once pod does not start over when its sandbox died under it; to an agent that comes after a crash, so
        // did one that the agent before it stopped, when the pod was given back meanwhile.
        let may_have_died = self.disturbed || self.given_back;
        let broken = self.policy() == "Never" && may_have_died && self.ready_sandboxes == 0;
        deadline
            || init_failed
            || broken
            || apps.all(|(name, _)| code(name).is_some_and(|code| self.stays_ended(code)))
    }

    fn problem_of_ended(&self, row: &StatusView) -> Option<String> {
        let running = self.statuses.iter().find(|s| s.state() == ContainerState::ContainerRunning);
        if let Some(running) = running {
            return Some(format!("it is over and {} still runs", running.id));
        }
        if self.ready_sandboxes > 0 {
            return Some("it is over and its sandbox is still ready".to_owned());
        }
        // A static pod whose containers never came to start is not told to have failed: upstream's
        // TerminatePod leaves it as it was.
        let unstarted = rubelet_core::phase::is_static(self.pod) && row.phase == "Pending";
        if !unstarted && !matches!(row.phase.as_str(), "Succeeded" | "Failed") {
            return Some(format!("it is over and told to be {}", row.phase));
        }
        let all_well = self.containers.iter().filter(|(_, role)| *role == Role::App).all(|(name, _)| {
            self.newest(name)
                .is_some_and(|s| s.state() == ContainerState::ContainerExited && s.exit_code == 0)
        });
        (row.phase == "Succeeded" && !all_well).then(|| "it is told to have succeeded and did not".to_owned())
    }

    /// A status says what the runtime holds.
    fn problem_of_view(
        &self,
        row: &StatusView,
        name: &str,
        newest: Option<&ContainerStatus>,
    ) -> Option<String> {
        let Some(view) = row.containers.iter().find(|view| view.name == name) else {
            return Some(format!("{name} has no status"));
        };
        let truth = newest.filter(|s| s.state() == ContainerState::ContainerRunning).map(|s| &s.id);
        // Restarted for its new image against the policy: the API lets nobody take back an end that was told.
        let revived = self.policy() != "Always" && self.image(name).as_deref() == Some("changed:1");
        if truth != view.running.as_ref() && !(revived && view.state.starts_with("ended")) {
            return Some(format!("of {name} runs {truth:?} and told is {}", view.state));
        }
        let attempt = newest.and_then(|s| s.metadata.as_ref()).map_or(0, |metadata| metadata.attempt);
        if truth.is_some() && view.restarts < i32::try_from(attempt).unwrap_or(0) {
            return Some(format!("{name} was restarted {attempt} times and {} are told", view.restarts));
        }
        None
    }
}
