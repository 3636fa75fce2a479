//! Runs a scenario from its first step to its end: faults stop, everything settles within bounded time, an agent
//! that comes back finds nothing to do, and the whole story is judged.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex, Once, PoisonError, mpsc};
use std::time::Duration;

use rubelet_testkit::scripted::{Op, Outcome};
use tracing_subscriber::fmt::MakeWriter;

use crate::health::kind_of;
use crate::judge::judge;
use crate::log::{Entry, Mark, What, story, told};
use crate::scenario::{Scenario, Step, uid_of};
use crate::settled::{is_still, unsettled};
use crate::world::World;

/// How long everything may take to settle once faults have stopped.
const SETTLES_WITHIN: Duration = Duration::from_secs(15 * 60);
/// How much real time a run may take before the process is ended.
const REAL_LIMIT: Duration = Duration::from_secs(60);

/// What a run amounts to.
#[derive(Debug, Default)]
pub struct Report {
    /// Calls that acted.
    pub calls: usize,
    /// A digest of all of them, in order: the same seed gives the same.
    pub digest: u64,
}

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
        writeln!(f, "replay: RUBELET_SIM_SEED={} cargo nextest run -p rubelet --test sim", self.seed)?;
        f.write_str(&self.told)
    }
}

/// Runs what a seed means.
pub fn run_seed(seed: u64) -> Result<Report, Failure> {
    run(&Scenario::draw(seed), async |world, scenario| live(world, scenario).await)
}

/// Runs a scenario with a driver of its own. A panic or an error log of the agent is a failure.
pub fn run(
    scenario: &Scenario,
    drive: impl AsyncFnOnce(&mut World, &Scenario) -> Result<(), String>,
) -> Result<Report, Failure> {
    let _watchdog = Watchdog::new(scenario.seed);
    watch_panics();
    PANICS.with_borrow_mut(Vec::clear);
    let errors = ErrorLog::default();
    let logs = std::env::var("RUBELET_SIM_LOG").ok();
    let subscriber: tracing::Dispatch = match &logs {
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
            let story = story(&world.cri, &world.marks);
            if std::env::var_os("RUBELET_SIM_STORY").is_some() {
                println!("{}", told(&story, 0, 0, story.len()));
            }
            let judged = judge(scenario, &story, &world.cri);
            let last = story.last().map_or(0, |entry| entry.seq);
            let failure = |seq: u64, what: String, before, after| Failure {
                seed: scenario.seed,
                what,
                told: told(&story, seq, before, after),
            };
            let report = report(&story);
            judged.map_err(|violation| failure(violation.seq, violation.what, 60, 6))?;
            let panics = PANICS.with_borrow(|panics| panics.join("; "));
            if !panics.is_empty() {
                return Err(failure(last, format!("a task panicked: {panics}"), 30, 1));
            }
            let logged = errors.text();
            if !logged.is_empty() {
                return Err(failure(last, format!("the agent logged an error: {logged}"), 30, 1));
            }
            driven.map_err(|what| failure(last, what, 80, 1))?;
            Ok(report)
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
    calm(world).await?;
    settle(world, scenario).await?;
    if scenario.adopt_at_end {
        adopt(world, scenario).await?;
    }
    Ok(())
}

/// Ends every trouble.
pub async fn calm(world: &mut World) -> Result<(), String> {
    world.disarm();
    world.cri.stop_faults();
    world.take(&Step::Network(true)).await?;
    // Pulls and commands may be given hours: one that hangs ends with its connection, as it would in life.
    let hangs = |call: &rubelet_testkit::scripted::Call| {
        matches!(call.op, Op::PullImage | Op::ExecSync) && call.outcome == Outcome::Open
    };
    if world.cri.history().iter().any(hangs) {
        world.cri.restart_runtime(Duration::ZERO);
    }
    Ok(())
}

/// What has settled stays so for this long, in which a stop that nobody waits for any more comes to its end.
const STAYS: Duration = Duration::from_secs(10);

/// Waits until everything has settled, and stays so.
pub async fn settle(world: &mut World, scenario: &Scenario) -> Result<(), String> {
    let mut waited = Duration::ZERO;
    let mut step = Duration::from_secs(1);
    loop {
        match unsettled(world, scenario) {
            // A stop whose answer was lost may still be under way in the runtime.
            None => {
                world.pass(STAYS).await?;
                waited += STAYS;
                if unsettled(world, scenario).is_none() {
                    return Ok(());
                }
            }
            Some(problem) if waited >= SETTLES_WITHIN => {
                return Err(format!("not settled {SETTLES_WITHIN:?} after the last fault: {problem}"));
            }
            Some(_) => {}
        }
        world.pass(step).await?;
        waited += step;
        // Soon at first; long waits are for back-offs.
        step = if waited < Duration::from_secs(60) { step } else { Duration::from_millis(5_700) };
    }
}

/// An agent that comes back to a settled node touches nothing of pods that do not change by themselves.
async fn adopt(world: &mut World, scenario: &Scenario) -> Result<(), String> {
    world.crash("once more", Duration::from_secs(1)).await?;
    let still: Vec<String> = world
        .wanted
        .iter()
        .filter(|wanted| wanted.listed && is_still(world, scenario, &wanted.pod))
        .map(|wanted| uid_of(&wanted.pod))
        .collect();
    let before = world.cri.history().len();
    world.pass(Duration::from_secs(40)).await?;
    // Probes go on. Dead leftovers may be removed at any time; removing what runs is a misuse that the judge sees.
    let touches = |call: &rubelet_testkit::scripted::Call| {
        still.contains(&call.subject.pod_uid)
            && !matches!(call.op, Op::RemoveContainer | Op::RemovePodSandbox)
            && kind_of(&call.command).is_none()
    };
    let touched = world.cri.history().into_iter().skip(before).find(touches);
    match touched {
        Some(call) => Err(format!("a settled pod is touched after a restart: {call:?}")),
        None => settle(world, scenario).await,
    }
}

fn report(story: &[Entry]) -> Report {
    let mut report = Report::default();
    let mut digest: u64 = 0xcbf2_9ce4_8422_2325;
    for entry in story {
        let line = match &entry.what {
            What::Began(call) => {
                report.calls += 1;
                format!("{} {:?} {:?}", entry.at, call.op, call.subject)
            }
            What::Fact(fact) => format!("{} {:?} {:?}", entry.at, fact.what, fact.subject),
            What::Mark(Mark::Status(view)) => format!("{} {view:?}", entry.at),
            What::Ended(_) | What::Mark(_) => continue,
        };
        for byte in line.bytes() {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    report.digest = digest;
    report
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
