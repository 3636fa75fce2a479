//! The runtime's world in memory: sandboxes, containers and images, and how they change. Knows time only as
//! the `now` it is given; waits for nothing. Owned by the handle in `mod.rs`, which locks it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use rubelet_cri::{CriError, CriErrorKind, v1};
use tokio::time::Instant;

use super::events::Subscriber;
use super::fault::FaultPlan;
use super::history::{Call, ExitCause, Fact, FactKind, Misuse, MisuseKind, Subject};
use super::op::Op;
use super::script::{Behaviour, Script};

/// A sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) config: v1::PodSandboxConfig,
    pub(super) handler: String,
    pub(super) ready: bool,
    pub(super) stopped_by_agent: bool,
    pub(super) created_at: i64,
    pub(super) ip: String,
}

/// A container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) sandbox_id: String,
    pub(super) config: v1::ContainerConfig,
    pub(super) subject: Subject,
    pub(super) behaviour: Behaviour,
    pub(super) image_id: String,
    pub(super) log_path: String,
    pub(super) state: v1::ContainerState,
    pub(super) created_at: i64,
    pub(super) started_at: i64,
    pub(super) finished_at: i64,
    pub(super) exit_code: i32,
    pub(super) reason: String,
    pub(super) message: String,
    /// When it will end, with which code and why, if nothing else happens.
    pub(super) ends: Option<(Instant, i32, ExitCause)>,
}

/// Everything behind the lock.
#[derive(Debug)]
pub(super) struct Model {
    base: Timestamp,
    start: Instant,
    pub(super) script: Script,
    pub(super) faults: FaultPlan,
    pub(super) sandboxes: BTreeMap<String, Sandbox>,
    pub(super) containers: BTreeMap<String, Container>,
    /// By ID.
    pub(super) images: BTreeMap<String, v1::Image>,
    next_id: u32,
    seq: u64,
    pub(super) history: Vec<Call>,
    pub(super) counts: BTreeMap<Op, u64>,
    pub(super) facts: Vec<Fact>,
    pub(super) misuses: Vec<Misuse>,
    pub(super) subscribers: Vec<Subscriber>,
    /// Counts breaks of all connections.
    pub(super) epoch: u64,
    /// Nobody listens until then.
    pub(super) down_until: Option<Instant>,
    /// Grows with every change, so that waiters know to look again.
    pub(super) version: u64,
    /// The version that waiters were last told of.
    pub(super) announced: u64,
}

impl Model {
    pub(super) fn new(base: Timestamp, start: Instant, script: Script) -> Self {
        Self {
            base,
            start,
            script,
            faults: FaultPlan::default(),
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            images: BTreeMap::new(),
            next_id: 0,
            seq: 0,
            history: Vec::new(),
            counts: BTreeMap::new(),
            facts: Vec::new(),
            misuses: Vec::new(),
            subscribers: Vec::new(),
            epoch: 0,
            down_until: None,
            version: 0,
            announced: 0,
        }
    }

    /// The wall clock of the scripted world at an instant.
    pub(super) fn wall(&self, at: Instant) -> Timestamp {
        let passed = at.saturating_duration_since(self.start);
        self.base.saturating_add(passed).unwrap_or(self.base)
    }

    fn nanoseconds(&self, at: Instant) -> i64 {
        i64::try_from(self.wall(at).as_nanosecond()).unwrap_or(i64::MAX)
    }

    /// Lets everything happen that is due, in order of time and then of creation.
    pub(super) fn advance(&mut self, now: Instant) {
        loop {
            let due = self
                .containers
                .values()
                .filter_map(|c| c.ends.map(|(at, code, cause)| (at, &c.id, code, cause)));
            let Some((at, id, code, cause)) =
                due.filter(|(at, ..)| *at <= now).min_by_key(|(at, id, ..)| (*at, *id))
            else {
                break;
            };
            let id = id.clone();
            self.end(&id, at, code, cause);
        }
        if self.down_until.is_some_and(|until| until <= now) {
            self.down_until = None;
            self.version += 1;
        }
    }

    /// When the next thing happens by itself.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.containers.values().filter_map(|c| c.ends.map(|(at, ..)| at)).chain(self.down_until).min()
    }

    /// Whom an ID is about.
    pub(super) fn subject_of(&self, id: &str) -> Subject {
        if let Some(container) = self.containers.get(id) {
            return container.subject.clone();
        }
        match self.sandboxes.get(id) {
            Some(sandbox) => subject_of_sandbox(&sandbox.config, id),
            None => Subject { id: id.to_owned(), ..Default::default() },
        }
    }

    pub(super) fn fact(&mut self, at: Instant, subject: Subject, what: FactKind) {
        let at = self.wall(at);
        let seq = self.next_seq();
        self.facts.push(Fact { at, subject, what, seq });
        self.version += 1;
    }

    /// The next place in the order of calls and facts.
    pub(super) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    fn misuse(&mut self, at: Instant, subject: Subject, what: MisuseKind) {
        let at = self.wall(at);
        self.misuses.push(Misuse { at, subject, what });
    }

    fn fresh_id(&mut self, prefix: char) -> String {
        self.next_id += 1;
        format!("{prefix}{:07}", self.next_id)
    }

    // ---- sandboxes ----

    pub(super) fn run_sandbox(
        &mut self,
        now: Instant,
        config: v1::PodSandboxConfig,
        handler: String,
    ) -> Result<String, CriError> {
        const OP: &str = "RunPodSandbox";
        let Some(metadata) = config.metadata.clone() else {
            return Err(CriError::from_answer(OP, 3, "sandbox config must include metadata"));
        };
        if let Some(problem) = &self.script.network_problem
            && !on_host_network(&config)
        {
            let words = format!("failed to setup network for sandbox: {problem}");
            return Err(CriError::from_answer(OP, 2, words));
        }
        let reserved = self.sandboxes.values().find(|s| s.config.metadata.as_ref() == Some(&metadata));
        if let Some(other) = reserved {
            let v1::PodSandboxMetadata { name, namespace, uid, attempt } = &metadata;
            let words = format!(
                "failed to reserve sandbox name \"{name}_{namespace}_{uid}_{attempt}\": name is reserved for {:?}",
                other.id
            );
            return Err(CriError::from_answer(OP, self.script.kind.reserved_code(), words));
        }
        let id = self.fresh_id('s');
        let subject = subject_of_sandbox(&config, &id);
        if self.sandboxes.values().any(|s| s.ready && uid_of(&s.config) == metadata.uid) {
            self.misuse(now, subject.clone(), MisuseKind::TwoSandboxes);
        }
        let ip = if on_host_network(&config) {
            String::new()
        } else {
            format!("10.88.{}.{}", self.next_id / 250, self.next_id % 250 + 2)
        };
        let created_at = self.nanoseconds(now);
        let sandbox =
            Sandbox { id: id.clone(), config, handler, ready: true, stopped_by_agent: false, created_at, ip };
        self.sandboxes.insert(id.clone(), sandbox);
        self.fact(now, subject, FactKind::SandboxReady);
        self.announce(now, &id, &id, v1::ContainerEventType::ContainerCreatedEvent);
        self.announce(now, &id, &id, v1::ContainerEventType::ContainerStartedEvent);
        Ok(id)
    }

    /// Stops a sandbox and what runs in it; of an unknown one nothing is left to stop.
    pub(super) fn stop_sandbox(&mut self, now: Instant, id: &str, cause: ExitCause) {
        for container in self.running_in(id) {
            self.end(&container, now, 137, cause);
        }
        let Some(sandbox) = self.sandboxes.get_mut(id) else { return };
        sandbox.stopped_by_agent |= cause.by_agent();
        if std::mem::replace(&mut sandbox.ready, false) {
            let subject = subject_of_sandbox(&sandbox.config, id);
            self.fact(now, subject, FactKind::SandboxStopped);
            self.announce(now, id, id, v1::ContainerEventType::ContainerStoppedEvent);
        }
    }

    pub(super) fn remove_sandbox(&mut self, now: Instant, id: &str) {
        if !self.sandboxes.contains_key(id) {
            return;
        }
        if !self.running_in(id).is_empty() {
            let subject = self.subject_of(id);
            self.misuse(now, subject, MisuseKind::RemovedLiveSandbox);
        }
        self.stop_sandbox(now, id, ExitCause::SandboxStopped);
        let inside: Vec<String> =
            self.containers.values().filter(|c| c.sandbox_id == id).map(|c| c.id.clone()).collect();
        for container in inside {
            self.remove_container(now, &container);
        }
        self.announce(now, id, id, v1::ContainerEventType::ContainerDeletedEvent);
        let subject = self.subject_of(id);
        self.sandboxes.remove(id);
        self.fact(now, subject, FactKind::SandboxRemoved);
    }

    fn running_in(&self, sandbox: &str) -> Vec<String> {
        let inside = self.containers.values().filter(|c| c.sandbox_id == sandbox && c.is_running());
        inside.map(|c| c.id.clone()).collect()
    }

    // ---- containers ----

    pub(super) fn create_container(
        &mut self,
        now: Instant,
        sandbox_id: &str,
        config: v1::ContainerConfig,
    ) -> Result<String, CriError> {
        const OP: &str = "CreateContainer";
        let Some(metadata) = config.metadata.clone() else {
            return Err(CriError::from_answer(OP, 3, "container config must include metadata"));
        };
        let (mut subject, log_directory) = match self.sandboxes.get(sandbox_id) {
            Some(sandbox) => {
                (subject_of_sandbox(&sandbox.config, sandbox_id), sandbox.config.log_directory.clone())
            }
            None => (Subject::default(), String::new()),
        };
        subject.container.clone_from(&metadata.name);
        subject.attempt = metadata.attempt;
        let sandbox = self.sandboxes.get(sandbox_id);
        if !sandbox.is_some_and(|s| s.ready) {
            if sandbox.is_none_or(|s| s.stopped_by_agent) {
                self.misuse(now, subject, MisuseKind::CreatedInDeadSandbox);
            }
            return Err(CriError::from_answer(OP, 2, format!("sandbox {sandbox_id:?} is not ready")));
        }
        let wanted = config.image.as_ref().map_or("", |image| image.image.as_str());
        let Some(image_id) = self.find_image(wanted).map(|image| image.id.clone()) else {
            let words = format!("failed to resolve image {wanted:?}: not found");
            return Err(CriError::from_answer(OP, 5, words));
        };
        let same_name =
            |c: &&Container| c.sandbox_id == sandbox_id && c.config.metadata.as_ref() == Some(&metadata);
        if let Some(other) = self.containers.values().find(same_name) {
            let words =
                format!("failed to reserve container name {:?}: reserved for {:?}", metadata.name, other.id);
            return Err(CriError::from_answer(OP, self.script.kind.reserved_code(), words));
        }
        let behaviour = self.script.behaviour(&subject.pod_name, &metadata.name, metadata.attempt);
        if let Some(words) = &behaviour.create_error {
            return Err(CriError::from_answer(OP, 2, words.clone()));
        }
        let id = self.fresh_id('c');
        subject.id.clone_from(&id);
        let container = Container {
            id: id.clone(),
            sandbox_id: sandbox_id.to_owned(),
            log_path: format!("{}/{}", log_directory.trim_end_matches('/'), config.log_path),
            config,
            subject: subject.clone(),
            behaviour,
            image_id,
            state: v1::ContainerState::ContainerCreated,
            created_at: self.nanoseconds(now),
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            ends: None,
        };
        self.containers.insert(id.clone(), container);
        self.fact(now, subject, FactKind::Created);
        self.announce(now, sandbox_id, &id, v1::ContainerEventType::ContainerCreatedEvent);
        Ok(id)
    }

    pub(super) fn start_container(&mut self, now: Instant, id: &str) -> Result<(), CriError> {
        const OP: &str = "StartContainer";
        let nanoseconds = self.nanoseconds(now);
        let container = self.container(OP, id)?;
        let subject = container.subject.clone();
        let sandbox_id = container.sandbox_id.clone();
        if container.state != v1::ContainerState::ContainerCreated {
            let words = format!("container is in {} state", container.state.as_str_name());
            self.misuse(now, subject, MisuseKind::StartedTwice);
            return Err(CriError::from_answer(OP, 2, words));
        }
        if !self.sandboxes.get(&sandbox_id).is_some_and(|s| s.ready) {
            return Err(CriError::from_answer(
                OP,
                2,
                format!("sandbox container {sandbox_id:?} is not running"),
            ));
        }
        let twin = |c: &Container| {
            c.is_running() && c.subject.pod_uid == subject.pod_uid && c.subject.container == subject.container
        };
        if self.containers.values().any(twin) {
            self.misuse(now, subject.clone(), MisuseKind::RunningTwice);
        }
        let container = self.container(OP, id)?;
        if let Some(words) = container.behaviour.start_error.clone() {
            container.message.clone_from(&words);
            container.reason = "StartError".to_owned();
            self.end(id, now, 128, ExitCause::StartFailed);
            return Err(CriError::from_answer(OP, 2, words));
        }
        container.state = v1::ContainerState::ContainerRunning;
        container.started_at = nanoseconds;
        let code = container.behaviour.exit_code;
        container.ends = container.behaviour.run_for.map(|run_for| (now + run_for, code, ExitCause::Itself));
        self.fact(now, subject, FactKind::Started);
        self.announce(now, &sandbox_id, id, v1::ContainerEventType::ContainerStartedEvent);
        Ok(())
    }

    /// Sends the stop signal. Sending it again changes nothing.
    pub(super) fn terminate(&mut self, now: Instant, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let behaviour = &container.behaviour;
        if !container.is_running() || behaviour.ignore_sigterm {
            return;
        }
        let ends = now + behaviour.stop_takes;
        if container.ends.is_none_or(|(at, ..)| ends < at) {
            container.ends = Some((ends, behaviour.stop_exit_code, ExitCause::Terminated));
            self.version += 1;
        }
        self.advance(now);
    }

    pub(super) fn remove_container(&mut self, now: Instant, id: &str) {
        let Some(container) = self.containers.get(id) else { return };
        let (subject, sandbox_id) = (container.subject.clone(), container.sandbox_id.clone());
        if container.is_running() {
            self.misuse(now, subject.clone(), MisuseKind::RemovedRunning);
            self.end(id, now, 137, ExitCause::Removed);
        }
        self.containers.remove(id);
        self.fact(now, subject, FactKind::Removed);
        self.announce(now, &sandbox_id, id, v1::ContainerEventType::ContainerDeletedEvent);
    }

    /// A container ends.
    pub(super) fn end(&mut self, id: &str, at: Instant, code: i32, cause: ExitCause) {
        let finished_at = self.nanoseconds(at);
        let Some(container) = self.containers.get_mut(id) else { return };
        container.ends = None;
        container.state = v1::ContainerState::ContainerExited;
        container.finished_at = finished_at;
        container.exit_code = code;
        if container.reason.is_empty() {
            container.reason = match cause {
                ExitCause::Itself if !container.behaviour.reason.is_empty() => {
                    container.behaviour.reason.clone()
                }
                _ if code == 0 => "Completed".to_owned(),
                _ => "Error".to_owned(),
            };
        }
        container.leave_message();
        let (subject, sandbox_id) = (container.subject.clone(), container.sandbox_id.clone());
        self.fact(at, subject, FactKind::Exited { code, cause });
        // containerd sends nothing when a container could not be started.
        if cause != ExitCause::StartFailed {
            self.announce(at, &sandbox_id, id, v1::ContainerEventType::ContainerStoppedEvent);
        }
    }

    /// The container of an ID, or the answer that there is none.
    pub(super) fn container(
        &mut self,
        operation: &'static str,
        id: &str,
    ) -> Result<&mut Container, CriError> {
        let words = || format!("an error occurred when try to find container {id:?}: not found");
        self.containers.get_mut(id).ok_or_else(|| CriError::new(operation, CriErrorKind::NotFound, words()))
    }

    // ---- images ----

    /// An image by reference or ID.
    pub(super) fn find_image(&self, wanted: &str) -> Option<&v1::Image> {
        let reference = normal(wanted);
        self.images.get(wanted).or_else(|| {
            self.images
                .values()
                .find(|image| image.repo_tags.contains(&reference) || image.repo_digests.contains(&reference))
        })
    }

    /// Makes an image present and returns its ID.
    pub(super) fn add_image(&mut self, reference: &str, size: u64) -> String {
        if let Some(image) = self.find_image(reference) {
            return image.id.clone();
        }
        let reference = normal(reference);
        let digest = format!("sha256:{:064x}", fnv(&reference));
        let name = reference.split('@').next().unwrap_or_default();
        let repository = name.rsplit_once(':').map_or(name, |(repository, _tag)| repository);
        let image = v1::Image {
            id: digest.clone(),
            repo_tags: if reference.contains('@') { vec![] } else { vec![reference.clone()] },
            repo_digests: vec![if reference.contains('@') {
                reference.clone()
            } else {
                format!("{repository}@{digest}")
            }],
            size,
            ..Default::default()
        };
        self.images.insert(digest.clone(), image);
        self.version += 1;
        digest
    }

    /// How long an operation takes by script.
    pub(super) fn duration(&self, op: Op) -> Duration {
        self.script.durations.get(&op).copied().unwrap_or_default()
    }
}

impl Container {
    pub(super) fn is_running(&self) -> bool {
        self.state == v1::ContainerState::ContainerRunning
    }

    /// Writes the scripted termination message where the agent mounted a file for it.
    fn leave_message(&self) {
        let key = rubelet_cri::observe::label::TERMINATION_MESSAGE_PATH;
        let (Some(message), Some(path)) =
            (&self.behaviour.termination_message, self.config.annotations.get(key))
        else {
            return;
        };
        if let Some(mount) = self.config.mounts.iter().find(|mount| mount.container_path == *path) {
            // A file that cannot be written is a file without a message, as in a real container.
            let _unwritten = std::fs::write(&mount.host_path, message);
        }
    }
}

pub(super) fn subject_of_sandbox(config: &v1::PodSandboxConfig, id: &str) -> Subject {
    let metadata = config.metadata.clone().unwrap_or_default();
    Subject {
        pod_uid: metadata.uid,
        pod_name: metadata.name,
        namespace: metadata.namespace,
        container: String::new(),
        attempt: metadata.attempt,
        id: id.to_owned(),
    }
}

fn uid_of(config: &v1::PodSandboxConfig) -> &str {
    config.metadata.as_ref().map_or("", |metadata| &metadata.uid)
}

pub(super) fn namespaces_of(config: &v1::PodSandboxConfig) -> Option<&v1::NamespaceOption> {
    config.linux.as_ref()?.security_context.as_ref()?.namespace_options.as_ref()
}

fn on_host_network(config: &v1::PodSandboxConfig) -> bool {
    namespaces_of(config).is_some_and(|options| options.network == v1::NamespaceMode::Node as i32)
}

/// A reference in full: with registry host, `library/` and a tag, as runtimes store it.
fn normal(reference: &str) -> String {
    let host = reference.split('/').next().unwrap_or_default();
    let has_host = reference.contains('/') && (host.contains(['.', ':']) || host == "localhost");
    let name = match (has_host, reference.contains('/')) {
        (true, _) => reference.to_owned(),
        (false, true) => format!("docker.io/{reference}"),
        (false, false) => format!("docker.io/library/{reference}"),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { name } else { format!("{name}:latest") }
}

fn fnv(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn references_are_completed_as_runtimes_do() {
        for (given, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1", "docker.io/library/busybox:1"),
            ("me/app", "docker.io/me/app:latest"),
            ("localhost/app:2", "localhost/app:2"),
            ("reg.example:5000/app", "reg.example:5000/app:latest"),
            ("app@sha256:aa", "docker.io/library/app@sha256:aa"),
        ] {
            assert_eq!(normal(given), full);
        }
    }
}
