//! What a test says in advance: how containers, commands and pulls behave. Values only; the model acts on them.

use std::collections::BTreeMap;
use std::time::Duration;

use rubelet_cri::CriErrorKind;

use super::history::Subject;
use super::op::Op;

/// Which runtime is played; they differ in what they offer and in some answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeKind {
    /// containerd 1.6: no events, no RuntimeConfig, stopping an unknown container or sandbox is NotFound.
    Containerd16,
    /// containerd 1.7: events, no RuntimeConfig.
    Containerd17,
    /// containerd 2: all of CRI.
    Containerd2,
    /// CRI-O: all of CRI.
    CriO,
}

impl RuntimeKind {
    /// The name it gives.
    pub fn name(self) -> &'static str {
        if self == Self::CriO { "cri-o" } else { "containerd" }
    }

    /// The version it gives.
    pub fn version(self) -> &'static str {
        match self {
            Self::Containerd16 => "1.6.20",
            Self::Containerd17 => "v1.7.27",
            Self::Containerd2 => "v2.1.4",
            Self::CriO => "1.34.0",
        }
    }

    /// Whether it knows an operation.
    pub fn offers(self, op: Op) -> bool {
        match op {
            Op::GetContainerEvents => self != Self::Containerd16,
            Op::RuntimeConfig | Op::UpdatePodSandboxResources => self.is_modern(),
            _ => true,
        }
    }

    /// The gRPC code with which it refuses a name that is in use: FailedPrecondition or Unknown.
    pub(super) fn reserved_code(self) -> i32 {
        if self == Self::Containerd2 { 9 } else { 2 }
    }

    /// Whether it fills the fields that came with cri-api 0.30 (handlers, features, image_id, user).
    pub fn is_modern(self) -> bool {
        matches!(self, Self::Containerd2 | Self::CriO)
    }
}

/// How one instance of a container behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// CreateContainer fails with these words.
    pub create_error: Option<String>,
    /// StartContainer fails with these words; the container ends with exit code 128 and reason StartError.
    pub start_error: Option<String>,
    /// It ends by itself after this time; `None` runs until stopped.
    pub run_for: Option<Duration>,
    /// Exit code when it ends by itself.
    pub exit_code: i32,
    /// The runtime's reason; empty for `Completed` or `Error` by the exit code.
    pub reason: String,
    /// The stop signal does nothing: only SIGKILL ends it.
    pub ignore_sigterm: bool,
    /// How long it takes to end after the stop signal.
    pub stop_takes: Duration,
    /// Exit code after the stop signal.
    pub stop_exit_code: i32,
    /// Written to the file mounted at the container's termination message path when it ends.
    pub termination_message: Option<String>,
}

impl Behaviour {
    /// Runs until stopped; ends at once on the stop signal, with exit code 143.
    pub fn forever() -> Self {
        Self {
            create_error: None,
            start_error: None,
            run_for: None,
            exit_code: 0,
            reason: String::new(),
            ignore_sigterm: false,
            stop_takes: Duration::ZERO,
            stop_exit_code: 143,
            termination_message: None,
        }
    }

    /// Ends by itself.
    pub fn exits(after: Duration, exit_code: i32) -> Self {
        Self { run_for: Some(after), exit_code, ..Self::forever() }
    }

    /// Killed by the kernel for want of memory.
    pub fn oom(after: Duration) -> Self {
        Self { reason: "OOMKilled".to_owned(), ..Self::exits(after, 137) }
    }

    /// Cannot be created.
    pub fn cannot_create(error: &str) -> Self {
        Self { create_error: Some(error.to_owned()), ..Self::forever() }
    }

    /// Cannot be started.
    pub fn cannot_start(error: &str) -> Self {
        Self { start_error: Some(error.to_owned()), ..Self::forever() }
    }

    /// The same, deaf to the stop signal.
    pub fn ignoring_sigterm(self) -> Self {
        Self { ignore_sigterm: true, ..self }
    }

    /// The same, slow to stop.
    pub fn stopping_for(self, stop_takes: Duration) -> Self {
        Self { stop_takes, ..self }
    }

    /// The same, leaving a termination message.
    pub fn with_message(self, message: &str) -> Self {
        Self { termination_message: Some(message.to_owned()), ..self }
    }
}

/// How a command in a container (a hook or a probe) behaves.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ExecScript {
    /// How long it runs.
    pub takes: Duration,
    /// Its exit code.
    pub exit_code: i32,
    /// What it prints.
    pub stdout: String,
    /// The call fails with these words instead.
    pub error: Option<String>,
}

/// How pulling an image behaves.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PullScript {
    /// How long it takes.
    pub takes: Duration,
    /// It fails with this kind and these words.
    pub error: Option<(CriErrorKind, String)>,
}

impl PullScript {
    /// Succeeds after this time.
    pub fn takes(takes: Duration) -> Self {
        Self { takes, error: None }
    }

    /// Fails at once.
    pub fn fails(kind: CriErrorKind, words: &str) -> Self {
        Self { takes: Duration::ZERO, error: Some((kind, words.to_owned())) }
    }
}

/// What commands do in one instance of a container, from which age of it on.
pub(super) type Course = Vec<(Duration, ExecScript)>;

/// Everything that is scripted. Sequences are consumed from the front; their last element repeats.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) kind: RuntimeKind,
    pub(super) containers: BTreeMap<(String, String), Vec<Behaviour>>,
    pub(super) default_behaviour: Behaviour,
    /// By pod, container and command (empty for any command).
    pub(super) execs: BTreeMap<(String, String, String), Vec<ExecScript>>,
    /// By pod, container and command; one for each attempt.
    pub(super) courses: BTreeMap<(String, String, String), Vec<Course>>,
    pub(super) pulls: BTreeMap<String, Vec<PullScript>>,
    /// What pulling an image does that no script names.
    pub(super) default_pull: PullScript,
    pub(super) durations: BTreeMap<Op, Duration>,
    pub(super) runtime_problem: Option<String>,
    pub(super) network_problem: Option<String>,
}

impl Script {
    pub(super) fn new(kind: RuntimeKind) -> Self {
        Self {
            kind,
            containers: BTreeMap::new(),
            default_behaviour: Behaviour::forever(),
            execs: BTreeMap::new(),
            courses: BTreeMap::new(),
            pulls: BTreeMap::new(),
            default_pull: PullScript::default(),
            durations: BTreeMap::new(),
            runtime_problem: None,
            network_problem: None,
        }
    }

    /// How an instance of a container behaves: by its attempt, the last behaviour repeating.
    pub(super) fn behaviour(&self, pod: &str, container: &str, attempt: u32) -> Behaviour {
        let sequence = self.containers.get(&(pod.to_owned(), container.to_owned()));
        let index = usize::try_from(attempt).unwrap_or(usize::MAX);
        sequence.and_then(|s| s.get(index).or(s.last())).unwrap_or(&self.default_behaviour).clone()
    }

    /// How the next run of a command behaves, in an instance that was started `age` ago.
    pub(super) fn next_exec(&mut self, subject: &Subject, command: &str, age: Duration) -> ExecScript {
        let key = |command: &str| (subject.pod_name.clone(), subject.container.clone(), command.to_owned());
        let exact = key(command);
        if let Some(by_attempt) = self.courses.get(&exact) {
            let index = usize::try_from(subject.attempt).unwrap_or(usize::MAX);
            let course = by_attempt.get(index).or(by_attempt.last()).map(Vec::as_slice).unwrap_or_default();
            let now = course.iter().rev().find(|(from, _)| *from <= age);
            return now.map(|(_, script)| script.clone()).unwrap_or_default();
        }
        let key = if self.execs.contains_key(&exact) { exact } else { key("") };
        self.execs.get_mut(&key).map(next_of).unwrap_or_default()
    }

    /// How the next pull of an image behaves.
    pub(super) fn next_pull(&mut self, image: &str) -> PullScript {
        match self.pulls.get_mut(image) {
            Some(sequence) => next_of(sequence),
            None => self.default_pull.clone(),
        }
    }
}

fn next_of<T: Clone + Default>(sequence: &mut Vec<T>) -> T {
    match sequence.len() {
        0 => T::default(),
        1 => sequence[0].clone(),
        _ => sequence.remove(0),
    }
}
