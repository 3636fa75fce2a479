//! Says what a pod waits for, in words and at a pace: texts for the status of one that starts and for the events of
//! one that ends, and when they may be told. It measures nothing, writes nothing and decides nothing about the pod;
//! the pod's worker asks it whenever a step takes long.
//!
//! All times here are `Duration`s since a moment of the caller's choice, always the same one.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use crate::pull_progress::PullProgress;

/// When something that goes on may be told: first after a while, then ever more rarely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    next: Duration,
    interval: Duration,
    longest: Duration,
}

impl Pace {
    /// The pace at which the status of a pod that starts says what it waits for: a fast start costs no write.
    pub const fn status(began: Duration) -> Self {
        Self::of(began, [5, 10, 60])
    }

    /// The pace of events about a pull that goes on.
    pub const fn pull_event(began: Duration) -> Self {
        Self::of(began, [60, 60, 300])
    }

    /// The pace of events about an end that does not come.
    pub const fn ending(began: Duration) -> Self {
        Self::of(began, [10, 20, 300])
    }

    /// The pace of errors that come again and again: the first one is told at once.
    pub const fn repeated_error(began: Duration) -> Self {
        Self::of(began, [0, 10, 300])
    }

    /// Seconds until the first time, until the second, and between later ones at most.
    const fn of(began: Duration, [first, interval, longest]: [u64; 3]) -> Self {
        Self {
            next: began.saturating_add(Duration::from_secs(first)),
            interval: Duration::from_secs(interval),
            longest: Duration::from_secs(longest),
        }
    }

    /// The next time it may be told.
    pub const fn next(&self) -> Duration {
        self.next
    }

    /// Whether it may be told now; if so it counts as told.
    pub fn take(&mut self, now: Duration) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now.saturating_add(self.interval);
        self.interval = self.interval.saturating_mul(2).min(self.longest);
        true
    }
}

/// One thing that is waited for and shown in the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    began: Duration,
    pace: Pace,
    shown: Option<String>,
}

impl Waiting {
    /// A wait that begins now; nothing is shown of it yet.
    pub const fn new(now: Duration) -> Self {
        Self { began: now, pace: Pace::status(now), shown: None }
    }

    /// When it began.
    pub const fn began(&self) -> Duration {
        self.began
    }

    /// When what is shown may change next.
    pub const fn next(&self) -> Duration {
        self.pace.next()
    }

    /// Shows `text` from now on, if its time has come and it says something new. Says whether it does.
    pub fn offer(&mut self, now: Duration, text: &str) -> bool {
        if self.shown.as_deref() == Some(text) || !self.pace.take(now) {
            return false;
        }
        self.shown = Some(text.to_owned());
        true
    }

    /// What is shown.
    pub fn shown(&self) -> Option<&str> {
        self.shown.as_deref()
    }
}

/// Which step of its start a pod is in before any container can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodStep {
    /// CPUs, memory or devices are assigned to it.
    Resources,
    /// Its volumes are made ready.
    Volumes,
    /// The runtime has no network for pods.
    Network,
    /// Its sandbox is made.
    Sandbox,
}

impl PodStep {
    /// Reason of the condition PodReadyToStartContainers while the step goes on.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Resources => "ResourcesNotReady",
            Self::Volumes => "VolumesNotReady",
            Self::Network => "NetworkNotReady",
            Self::Sandbox => "SandboxNotReady",
        }
    }
}

/// What the status of a pod says of its waiting, on top of what is generated from what was observed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// What the pod as a whole waits for.
    pub pod: Option<(PodStep, String)>,
    /// What single containers wait for, by name.
    pub containers: BTreeMap<String, String>,
    /// What all other containers that wait are told.
    pub others: Option<String>,
}

/// Reasons of containers that have not been tried yet: nothing else gives them a message.
const UNTRIED: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// Reasons of containers that failed before: only what is told of the very container takes the place of the old
/// failure, for it is being tried again.
const TRIED: [&str; 3] = ["CrashLoopBackOff", "ErrImagePull", "ImagePullBackOff"];

impl Explanation {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.pod.is_none() && self.containers.is_empty() && self.others.is_none()
    }

    /// Puts the texts into a status: messages of waiting containers and of PodReadyToStartContainers where it is False.
    /// Reasons of containers, states and all else stay as they are.
    pub fn apply(&self, status: &mut PodStatus) {
        if self.is_empty() {
            return;
        }
        let lists = [
            &mut status.init_container_statuses,
            &mut status.container_statuses,
            &mut status.ephemeral_container_statuses,
        ];
        for container in lists.into_iter().flatten().flatten() {
            self.apply_to(container);
        }
        let Some((step, text)) = &self.pod else { return };
        for condition in status.conditions.iter_mut().flatten() {
            if condition.type_ == "PodReadyToStartContainers" && condition.status == "False" {
                condition.reason = Some(step.reason().to_owned());
                condition.message = Some(text.clone());
            }
        }
    }

    fn apply_to(&self, container: &mut ContainerStatus) {
        let Some(waiting) = container.state.as_mut().and_then(|state| state.waiting.as_mut()) else { return };
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let own = self.containers.get(&container.name);
        let text = if UNTRIED.contains(&reason) {
            own.or(self.pod.as_ref().map(|(_, text)| text)).or(self.others.as_ref())
        } else if TRIED.contains(&reason) {
            own
        } else {
            None
        };
        if let Some(text) = text {
            waiting.message = Some(text.clone());
        }
    }
}

/// How far the pull of an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullStage {
    /// It is looked for, or its credentials are.
    Looking,
    /// It waits for its turn behind so many pulls that were asked for earlier.
    Queued(usize),
    /// It is being pulled, and the runtime does not tell how far it is.
    Pulling,
    /// Nothing is being downloaded for it: the registry has not answered yet, or the image is being unpacked.
    Quiet,
    /// It is being downloaded.
    Downloading(PullProgress),
}

/// Without a byte for so long a pull counts as stalled.
pub const STALLED_AFTER: Duration = Duration::from_secs(60);

impl PullStage {
    /// The figures of a download that has stalled: bytes are missing, and none has come for a minute.
    pub fn stalled(&self) -> Option<&PullProgress> {
        let Self::Downloading(progress) = self else { return None };
        let complete = progress.percent().is_some() && progress.done >= progress.total;
        (!complete && progress.still >= STALLED_AFTER).then_some(progress)
    }

    /// What is known, without the image and the time.
    fn figures(&self) -> String {
        match self {
            Self::Quiet => "nothing is being downloaded, ".to_owned(),
            Self::Downloading(progress) => format!("{progress}, "),
            Self::Looking | Self::Queued(_) | Self::Pulling => String::new(),
        }
    }
}

/// What the status says of a container whose image is not there yet.
pub fn pull_text(image: &str, stage: &PullStage, waited: Duration) -> String {
    match stage {
        PullStage::Looking => format!("looking for image {image:?} and credentials, {} so far", span(waited)),
        PullStage::Queued(0) => format!("image {image:?} waits for a pull slot"),
        PullStage::Queued(1) => format!("image {image:?} waits for a pull slot behind 1 other"),
        PullStage::Queued(others) => format!("image {image:?} waits for a pull slot behind {others} others"),
        _ => format!("pulling image {image:?} ({}{} so far)", stage.figures(), span(waited)),
    }
}

/// The event about a pull that goes on.
pub fn still_pulling(image: &str, stage: &PullStage, waited: Duration) -> String {
    match stage {
        PullStage::Queued(_) | PullStage::Looking => {
            let text = pull_text(image, stage, waited);
            let mut letters = text.chars();
            letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
        }
        _ => format!("Still pulling image {image:?}: {}{} so far", stage.figures(), span(waited)),
    }
}

/// The event about a pull that has stalled.
pub fn pull_stalled(image: &str, progress: &PullProgress) -> String {
    format!("Pull of image {image:?} has stalled: {progress}")
}

/// What containers are told whose turn has not come because of the image of another one.
pub fn behind_image_of(container: &str) -> String {
    format!("image pull of container {container:?} comes first")
}

/// What containers are told whose turn has not come because another one is being made or its hook runs.
pub fn behind(container: &str) -> String {
    format!("start of container {container:?} comes first")
}

/// What the status says while a postStart hook runs.
pub fn post_start_text(container: &str, waited: Duration) -> String {
    format!("postStart hook of container {container:?} running since {}", span(waited))
}

/// What the status says while the sandbox is made.
pub fn sandbox_text(waited: Duration) -> String {
    format!("creating the pod sandbox (network) since {}", span(waited))
}

/// What the status says while the runtime makes or starts a container.
pub fn runtime_text(what: &str, waited: Duration) -> String {
    format!("waiting for the runtime to {what} since {}", span(waited))
}

/// What the status says of volumes that are not ready, each with its problem; not more than three of them.
pub fn volumes_text<'a>(problems: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let told: Vec<String> = problems
        .into_iter()
        .map(|(volume, problem)| format!("volume {volume:?} is not ready: {problem}"))
        .collect();
    shortened(&told, "; ")
}

/// What the status says while volumes are being made ready.
pub fn volumes_pending(volumes: &[String], waited: Duration) -> String {
    let quoted: Vec<String> = volumes.iter().map(|volume| format!("{volume:?}")).collect();
    match quoted.as_slice() {
        [] => format!("setting up the pod's volumes since {}", span(waited)),
        [one] => format!("setting up volume {one} since {}", span(waited)),
        more => format!("setting up volumes {} since {}", shortened(more, ", "), span(waited)),
    }
}

/// The event about a volume that is being made ready for long.
pub fn volume_pending(volume: &str, waited: Duration) -> String {
    format!("MountVolume.SetUp for volume {volume:?} has not finished after {}", span(waited))
}

/// What is known of a container that outlives its grace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck<'a> {
    /// Its name.
    pub name: &'a str,
    /// How long ago its end began.
    pub asked: Duration,
    /// Its grace.
    pub grace: Duration,
    /// Its first process and what that does, where it could be read.
    pub process: Option<Process>,
}

/// A process that should have ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its ID on the node.
    pub pid: i32,
    /// Its state, a letter as in `/proc/<pid>/stat`.
    pub state: char,
    /// The place in the kernel where it sleeps; empty when unknown.
    pub place: String,
}

/// The event about a container that does not stop.
pub fn stuck_text(stuck: &Stuck<'_>) -> String {
    let (name, asked, grace) = (stuck.name, span(stuck.asked), span(stuck.grace));
    let process = stuck.process.as_ref().map_or_else(String::new, |process| {
        let place = match process.place.as_str() {
            "" | "0" => String::new(),
            place => format!(" in {place}"),
        };
        let state = match process.state {
            'D' => {
                format!("is in uninterruptible sleep{place} (D): no signal ends it before the kernel is done")
            }
            'Z' => "has ended and was not waited for (Z)".to_owned(),
            'T' | 't' => format!("is stopped ({})", process.state),
            'R' => "is running (R)".to_owned(),
            state => format!("is in state {state}{place}"),
        };
        format!("; its process {} {state}", process.pid)
    });
    format!(
        "Container {name} does not stop: it was told to {asked} ago, with a grace period of {grace}{process}"
    )
}

/// The state of a process by the text of its `/proc/<pid>/stat`. The name in it is the process's own choice.
pub fn process_state(stat: &str) -> Option<char> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.trim_start().chars().next().filter(char::is_ascii_alphabetic)
}

/// What a pod that ends waits for, besides its containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndStep<'a> {
    /// The runtime is to say what there is.
    Observing,
    /// The runtime is to stop a sandbox.
    Sandbox(&'a str),
    /// Drivers are to take back what its claims have.
    Claims,
    /// Its volumes are to go; those still mounted, by name.
    Volumes(&'a [String]),
    /// Its control group is to go.
    Cgroup(&'a str),
    /// The runtime is to remove what is left.
    Removal,
    /// Its directories are to go.
    Directories,
}

impl EndStep<'_> {
    /// Reason of the event: upstream's word for a failure of that step.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Volumes(_) => "FailedUnmount",
            _ => "FailedKillPod",
        }
    }

    /// The event about a step that takes long.
    pub fn text(&self, waited: Duration) -> String {
        let what = match self {
            Self::Observing => "the runtime to say what runs".to_owned(),
            Self::Sandbox(id) => format!("the runtime to stop its sandbox {id} (network)"),
            Self::Claims => "DRA drivers to take back what its ResourceClaims have".to_owned(),
            Self::Volumes([]) => "its volumes to be removed".to_owned(),
            Self::Volumes(names) => {
                let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
                let word = if names.len() == 1 { "volume" } else { "volumes" };
                format!("{word} {} to be unmounted", shortened(&quoted, ", "))
            }
            Self::Cgroup(path) => format!("its control group {path} to be empty and removed"),
            Self::Removal => "the runtime to remove its containers".to_owned(),
            Self::Directories => "its directories to be removed".to_owned(),
        };
        format!("Pod waits for {what}, {} so far", span(waited))
    }
}

/// The first three of a list, and how many more there are.
fn shortened(list: &[String], separator: &str) -> String {
    const SHOWN: usize = 3;
    let shown = list.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(separator);
    match list.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}{separator}and {more} more"),
    }
}

/// A time for people: `35 s`, `12 min`, `3 h 5 min`.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60) {
        (0, _) if seconds < 120 => format!("{seconds} s"),
        (0, minutes) if seconds < 600 && !seconds.is_multiple_of(60) => {
            format!("{minutes} min {} s", seconds % 60)
        }
        (0, minutes) => format!("{minutes} min"),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests;
