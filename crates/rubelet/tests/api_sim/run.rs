//! Runs a scenario from its first step to its end: faults stop, everybody agrees within bounded time, an agent that
//! comes back finds nothing to do.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex, Once, PoisonError, mpsc};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use rubelet_testkit::scripted::{FactKind, Op};
use tracing_subscriber::fmt::MakeWriter;

use crate::judge::{follows, runtime_uid, uid_of};
use crate::scenario::Scenario;
use crate::settled::unsettled;
use crate::world::World;

/// How long everything may take to settle once faults have stopped: a watch that fell silent without its connection
/// is given up after its own time, which is minutes.
const SETTLES_WITHIN: Duration = Duration::from_secs(25 * 60);
/// How much real time a run may take before the process is ended.
const REAL_LIMIT: Duration = Duration::from_secs(60);

/// What went wrong, with the story around it.
#[derive(Debug)]
pub struct Failure {
    seed: u64,
    what: String,
    told: String,
}

impl Failure {
    /// The failure in one line.
    pub fn headline(&self) -> String {
        format!("seed {}: {}", self.seed, self.what)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.headline())?;
        writeln!(f, "replay: RUBELET_SIM_SEED={} cargo nextest run -p rubelet --test api_sim", self.seed)?;
        f.write_str(&self.told)
    }
}

/// Runs what a seed means. Gives the digest of its story.
pub fn run_seed(seed: u64) -> Result<u64, Failure> {
    run(&Scenario::draw(seed), async |world, scenario| live(world, scenario).await)
}

/// Runs a scenario with a driver of its own. A panic or an error log of the agent is a failure.
pub fn run(
    scenario: &Scenario,
    drive: impl AsyncFnOnce(&mut World, &Scenario) -> Result<(), String>,
) -> Result<u64, Failure> {
    let _watchdog = Watchdog::new(scenario.seed);
    watch_panics();
    PANICS.with_borrow_mut(Vec::clear);
    let errors = ErrorLog::default();
    let subscriber: tracing::Dispatch = match std::env::var("RUBELET_SIM_LOG").ok() {
        Some(filter) => tracing_subscriber::fmt()
            .with_env_filter(filter)
            .without_time()
            .with_writer(std::io::stderr)
            .finish()
            .into(),
        None => tracing_subscriber::fmt()
            .with_max_level(tracing::Level::ERROR)
            .without_time()
            .with_ansi(false)
            .with_writer(errors.clone())
            .finish()
            .into(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a tokio runtime");
    tracing::dispatcher::with_default(&subscriber, || {
        runtime.block_on(async {
            let mut world = World::new(scenario);
            let driven = drive(&mut world, scenario).await;
            let judged = if driven.is_ok() { judge_end(&world) } else { Ok(()) };
            let story = world.story.clone();
            if std::env::var_os("RUBELET_SIM_STORY").is_some() {
                println!("{}", story.around(0, 0, story.len()));
            }
            let failure = |line: usize, what: String| Failure {
                seed: scenario.seed,
                what,
                told: story.around(line, 80, 5),
            };
            if let Some((line, what)) = story.first_wrong() {
                return Err(failure(line, what));
            }
            let last = story.len().saturating_sub(1);
            let panics = PANICS.with_borrow(|panics| panics.join("; "));
            if !panics.is_empty() {
                return Err(failure(last, format!("a task panicked: {panics}")));
            }
            let logged = errors.text();
            if !logged.is_empty() {
                return Err(failure(last, format!("the agent logged an error: {logged}")));
            }
            driven.and(judged).map_err(|what| failure(last, what))?;
            Ok(story.digest())
        })
    })
}

/// Drives a scenario of a seed.
async fn live(world: &mut World, scenario: &Scenario) -> Result<(), String> {
    if let Some(faults) = scenario.faults.clone() {
        world.cri.set_random_faults(faults);
    }
    world.start().await?;
    for (pause, step) in &scenario.steps {
        world.pass(*pause).await?;
        world.take(step).await?;
    }
    world.pass(Duration::from_secs(20)).await?;
    world.calm().await?;
    settle(world).await?;
    if scenario.adopt_at_end {
        adopt(world).await?;
    }
    stop_asking(world).await
}

/// Nobody asks for ever for what belonged to pods that are gone.
async fn stop_asking(world: &mut World) -> Result<(), String> {
    if world.api.violations().is_empty() {
        return Ok(());
    }
    world.pass(Duration::from_secs(90)).await?;
    let refused = world.api.violations().len();
    world.pass(Duration::from_secs(120)).await?;
    match world.api.violations().get(refused) {
        None => Ok(()),
        Some(asked) => Err(format!("it goes on asking for what it may not have: {asked:?}")),
    }
}

/// Waits until everybody agrees.
pub async fn settle(world: &mut World) -> Result<(), String> {
    let mut waited = Duration::ZERO;
    let mut step = Duration::from_secs(1);
    loop {
        match unsettled(world) {
            None => return Ok(()),
            Some(problem) if waited >= SETTLES_WITHIN => {
                return Err(format!("not settled {SETTLES_WITHIN:?} after the last fault: {problem}"));
            }
            Some(_) => {}
        }
        world.pass(step).await?;
        waited += step;
        // Soon at first; long waits are for back-offs.
        step = if waited < Duration::from_secs(30) { step } else { Duration::from_millis(7_300) };
    }
}

/// An agent that comes back to settled pods starts and stops nothing of them and has nothing to say.
pub async fn adopt(world: &mut World) -> Result<(), String> {
    world.crash(Duration::from_secs(1)).await?;
    let before = world.cri.history().len();
    world.pass(Duration::from_secs(40)).await?;
    let steady = |name: &str| !world.judge.is_disturbed(name);
    let touches = |call: &rubelet_testkit::scripted::Call| {
        steady(&call.subject.pod_name)
            && matches!(
                call.op,
                Op::RunPodSandbox
                    | Op::CreateContainer
                    | Op::StartContainer
                    | Op::StopContainer
                    | Op::StopPodSandbox
            )
            && !world.pods.iter().any(|pod| pod.need.is_some() && pod.api_name() == call.subject.pod_name)
    };
    if let Some(call) = world.cri.history().into_iter().skip(before).find(touches) {
        return Err(format!("a settled pod is touched after a restart: {call:?}"));
    }
    settle(world).await
}

/// What can only be said of the whole story.
fn judge_end(world: &World) -> Result<(), String> {
    if let Some(misuse) = world.cri.misuses().first() {
        return Err(format!("no sane agent does this: {misuse:?}"));
    }
    let facts = world.cri.facts();
    for (uid, name) in &world.uids {
        for versions in world.api.history::<Pod>(uid).windows(2) {
            follows(&versions[0], &versions[1], world.judge.is_disturbed(name))
                .map_err(|problem| format!("pod {name} ({uid}): {problem}"))?;
        }
        if world.judge.is_disturbed(name) {
            continue;
        }
        let mut started: Vec<&str> = facts
            .iter()
            .filter(|fact| fact.what == FactKind::Started && fact.subject.pod_uid == *uid)
            .map(|fact| fact.subject.container.as_str())
            .collect();
        started.sort_unstable();
        if let Some(twice) = started.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!(
                "{} of {name} ({uid}) was started again and nothing had happened to it",
                twice[0]
            ));
        }
    }
    let gone = world.api.list_all::<Pod>().iter().map(runtime_uid).collect::<Vec<_>>();
    if let Some(extra) = world.runtime_uids().into_iter().find(|uid| !gone.contains(uid)) {
        return Err(format!("{extra} runs and nobody knows it"));
    }
    Ok(())
}

/// The pods of the API, by name.
pub fn pod(world: &World, name: &str) -> Option<Pod> {
    world.api.get::<Pod>("default", name)
}

/// The UID of a pod of the API.
pub fn uid(world: &World, name: &str) -> String {
    pod(world, name).as_ref().map(uid_of).unwrap_or_default()
}

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Notes every panic of this thread, wherever it is caught.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
            before(info);
        }));
    });
}

/// What the agent logs as an error.
#[derive(Clone, Default)]
struct ErrorLog(Arc<Mutex<Vec<u8>>>);

impl ErrorLog {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl std::io::Write for ErrorLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for ErrorLog {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Ends the process when a run does not: with a paused clock an agent that spins without calls never lets time
/// pass, and nothing in the run could notice.
struct Watchdog {
    _done: mpsc::Sender<()>,
}

impl Watchdog {
    fn new(seed: u64) -> Self {
        let (done, ended) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            if ended.recv_timeout(REAL_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("seed {seed} does not end: the agent spins");
                std::process::abort();
            }
        });
        Self { _done: done }
    }
}
