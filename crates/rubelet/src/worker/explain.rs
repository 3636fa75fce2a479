//! Tells what the pod waits for: in its status while it starts, in events when a pull or a volume takes long, and in
//! events while it ends. Words and pace are `rubelet_core::explain`'s; this file measures the waiting and says it. A
//! step that ends soon costs nothing. It starts, stops and decides nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rubelet_core::explain::{self, EndStep, Explanation, Pace, PodStep, Waiting};
use rubelet_core::observed::ObservedPod;
use rubelet_core::status::Ending;
use tokio::time::Instant;

use super::PodWorker;
use super::mailbox::Mailbox;
use crate::events::EventSubject;
use crate::services::Services;

/// A volume that takes so long to be made ready is told as an event.
const SLOW_VOLUME: Duration = Duration::from_secs(10);

/// How soon the pod is looked at again while it waits for an image.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// A step of a pod's start that may take long.
pub(super) enum Doing<'a> {
    /// The pod's volumes are made ready.
    Volumes,
    /// Its sandbox is made.
    Sandbox,
    /// A container's image is looked for and pulled.
    Image {
        /// The container.
        container: &'a str,
        /// The image, with its default tag.
        image: &'a str,
        /// When that began, perhaps before the container's turn.
        since: Instant,
    },
    /// The runtime creates a container.
    Create(&'a str),
    /// The runtime starts it.
    Start(&'a str),
    /// Its postStart hook runs.
    PostStart(&'a str),
}

/// What the pod waits for and what is shown of it.
pub(super) struct Explaining {
    base: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Steps of the whole pod that have begun and not succeeded.
    steps: BTreeMap<PodStep, StepWait>,
    /// The container whose turn it is.
    container: Option<ContainerWait>,
}

struct StepWait {
    waiting: Waiting,
    /// An attempt has failed: why is worth more than that another one goes on.
    failed: bool,
    /// When events may tell that it goes on.
    slow: Pace,
}

struct ContainerWait {
    name: String,
    waiting: Waiting,
    /// What the others are told meanwhile.
    others: String,
}

impl Default for Explaining {
    fn default() -> Self {
        Self { base: Instant::now(), state: Mutex::default() }
    }
}

impl Explaining {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, doing: &Doing<'_>) {
        let now = self.base.elapsed();
        let (container, others) = match *doing {
            Doing::Volumes => return self.begin_step(PodStep::Volumes),
            Doing::Sandbox => return self.begin_step(PodStep::Sandbox),
            Doing::Image { container, .. } => (container, explain::behind_image_of(container)),
            Doing::Create(container) | Doing::Start(container) | Doing::PostStart(container) => {
                (container, explain::behind(container))
            }
        };
        let waiting = Waiting::new(now);
        self.lock().container = Some(ContainerWait { name: container.to_owned(), waiting, others });
    }

    /// A step that failed before goes on waiting.
    fn begin_step(&self, step: PodStep) {
        let now = self.base.elapsed();
        self.lock().steps.entry(step).or_insert_with(|| StepWait {
            waiting: Waiting::new(now),
            failed: false,
            slow: Pace::ending(now),
        });
    }

    fn offer(&self, doing: &Doing<'_>, text: &str) -> bool {
        let now = self.base.elapsed();
        let mut state = self.lock();
        let step = match doing {
            Doing::Volumes => Some(PodStep::Volumes),
            Doing::Sandbox => Some(PodStep::Sandbox),
            _ => None,
        };
        let waiting = match step {
            Some(step) => {
                state.steps.get_mut(&step).filter(|step| !step.failed).map(|step| &mut step.waiting)
            }
            None => state.container.as_mut().map(|container| &mut container.waiting),
        };
        waiting.is_some_and(|waiting| waiting.offer(now, text))
    }

    /// Why a step of the whole pod did not succeed: shown with the next status once it has been so for a while.
    pub(super) fn failed(&self, step: PodStep, why: &str) {
        self.begin_step(step);
        let now = self.base.elapsed();
        if let Some(step) = self.lock().steps.get_mut(&step) {
            step.failed = true;
            step.waiting.offer(now, why);
        }
    }

    /// Whether an event may tell now that a step of the whole pod goes on.
    fn may_tell_slow(&self, step: PodStep) -> bool {
        let now = self.base.elapsed();
        self.lock().steps.get_mut(&step).is_some_and(|step| step.slow.take(now))
    }

    /// A step of the whole pod has succeeded.
    pub(super) fn done(&self, step: PodStep) {
        self.lock().steps.remove(&step);
    }

    /// The attempt to start a container is over, however it went.
    pub(super) fn container_done(&self) {
        self.lock().container = None;
    }

    /// The pod starts nothing any more.
    pub(super) fn clear(&self) {
        *self.lock() = State::default();
    }

    /// What the status is to say.
    pub(super) fn explanation(&self) -> Explanation {
        let state = self.lock();
        let shown = |(step, wait): (&PodStep, &StepWait)| Some((*step, wait.waiting.shown()?.to_owned()));
        let step = state.steps.iter().find_map(shown);
        let mut explanation = Explanation { pod: step, ..Explanation::default() };
        if let Some(container) = &state.container
            && let Some(text) = container.waiting.shown()
        {
            explanation.containers.insert(container.name.clone(), text.to_owned());
            explanation.others = Some(container.others.clone());
        }
        explanation
    }
}

/// What is told of one step besides the status.
struct Told {
    began: Instant,
    pull: Pace,
    stall: Option<Pace>,
}

impl PodWorker {
    /// Does `work`, and tells in between what it waits for when it takes long. Must not be dropped in the middle: work
    /// that is to end with the pod is wrapped in [`unless_ending`].
    pub(super) async fn through<T>(&self, doing: Doing<'_>, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        self.explaining.begin(&doing);
        let began = Instant::now();
        let mut told = Told { began, pull: Pace::pull_event(Duration::ZERO), stall: None };
        let mut pace = Pace::status(Duration::ZERO);
        let mut looking = pin!(self.look_again(&doing));
        loop {
            // Dropping the words loses nothing; they are found again. Looking goes on where it was.
            let text = tokio::select! {
                biased;
                done = &mut work => return done,
                observed = &mut looking => {
                    looking.set(self.look_again(&doing));
                    self.tell_observed(observed).await;
                    continue;
                }
                text = self.words(&doing, began + pace.next(), &mut told) => text,
            };
            pace.take(began.elapsed());
            if self.explaining.offer(&doing, &text) {
                self.tell_explanation().await;
            }
        }
    }

    /// Reads the pod once more when it is to be looked at while an image is waited for: its other containers may end
    /// meanwhile. In any other step nothing is looked at, since that step shows when it is done.
    async fn look_again(&self, doing: &Doing<'_>) -> Option<ObservedPod> {
        if !matches!(doing, Doing::Image { .. }) {
            return std::future::pending().await;
        }
        // An image that is there is found sooner, and what comes in is gathered.
        tokio::time::sleep(BETWEEN_LOOKS).await;
        self.mailbox.changed().await;
        // The next sync tells of what hinders it.
        self.services.pleg.observe(&self.uid).await.ok()
    }

    /// Tells what the pod runs now, in the middle of a step.
    async fn tell_observed(&self, observed: Option<ObservedPod>) {
        if let Some(observed) = observed
            && !self.mailbox.is_ending()
        {
            self.services.logs.track_observed(&observed);
            self.track_probes(&observed, false);
            self.publish(&observed, Ending::No).await;
        }
    }

    /// What is to be said of a step at a time, which is waited for. Events that are due are sent.
    async fn words(&self, doing: &Doing<'_>, at: Instant, told: &mut Told) -> String {
        tokio::time::sleep_until(at).await;
        let waited = told.began.elapsed();
        match *doing {
            Doing::Volumes => {
                let volumes = self.services.volumes.pending(&self.uid);
                if waited >= SLOW_VOLUME && self.explaining.may_tell_slow(PodStep::Volumes) {
                    for volume in &volumes {
                        let text = explain::volume_pending(volume, waited);
                        self.services.events.warning(&self.subject, "FailedMount", text);
                    }
                }
                explain::volumes_pending(&volumes, waited)
            }
            Doing::Sandbox => explain::sandbox_text(waited),
            Doing::Image { container, image, since } => {
                let stage = self.services.images.stage(image).await;
                let subject = self.container_subject(container);
                let waited = since.elapsed();
                if told.pull.take(waited) {
                    let text = explain::still_pulling(image, &stage, waited);
                    self.services.events.normal(&subject, "Pulling", text);
                }
                told.stall = stage.stalled().map(|progress| {
                    let mut pace = told.stall.unwrap_or(Pace::repeated_error(waited));
                    if pace.take(waited) {
                        let text = explain::pull_stalled(image, progress);
                        self.services.events.warning(&subject, "PullStalled", text);
                    }
                    pace
                });
                explain::pull_text(image, &stage, waited)
            }
            Doing::Create(container) => {
                explain::runtime_text(&format!("create container {container:?}"), waited)
            }
            Doing::Start(container) => {
                explain::runtime_text(&format!("start container {container:?}"), waited)
            }
            Doing::PostStart(container) => explain::post_start_text(container, waited),
        }
    }

    /// Puts what the pod waits for into the status that was told last; the rest of it stays.
    async fn tell_explanation(&self) {
        let turn = self.desk.turn().await;
        let Some(status) = self.desk.status() else { return };
        let mut fresh = (*status).clone();
        self.explaining.explanation().apply(&mut fresh);
        if fresh != *status {
            self.desk.tell(&turn, fresh).await;
        }
    }

    /// Does a step of the pod's end, and tells of it when it takes long.
    pub(super) async fn leaving<T, E>(
        &self,
        step: Leaving<'_>,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        wait_out(&self.services, &self.subject, &self.kill_memory.ends, step, work).await
    }
}

/// `work`, or `None` when the pod is to end before it is done.
pub(super) async fn unless_ending<T>(mailbox: &Mailbox, work: impl Future<Output = T>) -> Option<T> {
    // What was begun is found again by the next observation.
    tokio::select! {
        biased;
        done = work => Some(done),
        () = mailbox.ending() => None,
    }
}

/// A step of a pod's end that may take long.
pub(super) enum Leaving<'a> {
    /// The runtime says what there is.
    Observing,
    /// The runtime stops a sandbox.
    Sandbox(&'a str),
    /// Its claims are given back to their drivers.
    Claims,
    /// The volumes below a pod directory go.
    Volumes(&'a Path),
    /// A control group goes.
    Cgroup(&'a str),
    /// The runtime removes containers and sandboxes.
    Removal,
    /// The pod's directories go.
    Directories,
}

/// Since when each step of the end is waited for, over all attempts.
#[derive(Debug, Default)]
pub(super) struct Ends(Mutex<BTreeMap<String, End>>);

#[derive(Clone, Copy, Debug)]
struct End {
    began: Instant,
    slow: Pace,
    errors: Pace,
}

impl Ends {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, End>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with a step, which begins if it has not.
    fn with<T>(&self, step: &str, change: impl FnOnce(&mut End) -> T) -> T {
        let mut ends = self.lock();
        let end = ends.entry(step.to_owned()).or_insert_with(|| End {
            began: Instant::now(),
            slow: Pace::ending(Duration::ZERO),
            errors: Pace::repeated_error(Duration::ZERO),
        });
        change(end)
    }

    /// Whether an error of a step may be told now: the first one at once, then ever more rarely.
    pub(super) fn may_tell_error(&self, step: &str) -> bool {
        self.with(step, |end| end.errors.take(end.began.elapsed()))
    }

    /// A step is done.
    pub(super) fn done(&self, step: &str) {
        self.lock().remove(step);
    }
}

impl Leaving<'_> {
    /// Its name among the ends.
    fn key(&self) -> String {
        match self {
            Self::Observing => "observing".to_owned(),
            Self::Sandbox(id) => format!("sandbox {id}"),
            Self::Claims => "claims".to_owned(),
            Self::Volumes(_) => "volumes".to_owned(),
            Self::Cgroup(_) => "cgroup".to_owned(),
            Self::Removal => "removal".to_owned(),
            Self::Directories => "directories".to_owned(),
        }
    }

    async fn tell(&self, services: &Services, subject: &EventSubject, waited: Duration) {
        let remaining;
        let step = match *self {
            Self::Observing => EndStep::Observing,
            Self::Sandbox(id) => EndStep::Sandbox(id),
            Self::Volumes(dir) => {
                let path = dir.to_owned();
                let what = format!("look at the volumes left in {}", dir.display());
                let look = move || Ok(rubelet_volumes::remaining_volumes(&path));
                remaining = services.fs.run(what, look).await.unwrap_or_default();
                EndStep::Volumes(&remaining)
            }
            Self::Claims => EndStep::Claims,
            Self::Cgroup(path) => EndStep::Cgroup(path),
            Self::Removal => EndStep::Removal,
            Self::Directories => EndStep::Directories,
        };
        services.events.warning(subject, step.reason(), step.text(waited));
    }
}

/// Does a step of a pod's end, and tells of it when it takes long; attempts that fail add up. May be dropped.
pub(super) async fn wait_out<T, E>(
    services: &Services,
    subject: &EventSubject,
    ends: &Ends,
    step: Leaving<'_>,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let mut work = pin!(work);
    let key = step.key();
    let (began, mut next) = ends.with(&key, |end| (end.began, end.slow.next()));
    loop {
        let slow = async {
            tokio::time::sleep_until(began + next).await;
            step.tell(services, subject, began.elapsed()).await;
        };
        tokio::select! {
            biased;
            done = &mut work => {
                if done.is_ok() {
                    ends.done(&key);
                }
                return done;
            }
            () = slow => next = ends.with(&key, |end| {
                end.slow.take(began.elapsed());
                end.slow.next()
            }),
        }
    }
}
