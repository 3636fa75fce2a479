//! Keeps the runtime's own state: reachable, RuntimeReady, NetworkReady, whether its lists can be read, and what its
//! handlers can do. One task asks; everyone else reads the watch. It decides nothing about pods.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rubelet_apiclient::level::Level;
use rubelet_core::node::lists::ListTrouble;
use rubelet_core::resources::{CgroupDriver, CgroupRoot};
use rubelet_cri::connect::{self, CheckError, HandlerFeatures, RuntimeInfo, check_runtime};
use rubelet_cri::{RuntimeService, v1};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::pleg::Pleg;

/// How often the runtime is asked while all is well.
const PERIOD_READY: Duration = Duration::from_secs(10);
/// How often it is asked while something is not ready, at the longest.
const PERIOD_WAITING: Duration = Duration::from_secs(2);
/// First pause after a failure.
const PERIOD_FIRST: Duration = Duration::from_millis(100);
/// How long an answer may take before the runtime counts as silent. It is waited for all the same: one that is only
/// slow is heard.
const SLOW_ANSWER: Duration = Duration::from_secs(10);
/// How long an answer is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// What is known of the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeState {
    /// What it last told of itself; `None` before the first answer.
    pub info: Option<RuntimeInfo>,
    /// Why it cannot be used, if so: unreachable, not CRI, or not ready.
    pub runtime_problem: Option<String>,
    /// Why pods cannot get a network, if so.
    pub network_problem: Option<String>,
    /// Since when it does not answer: when it was first asked in vain. Then `runtime_problem` is what came instead.
    pub silent_since: Option<Instant>,
    /// It answers, and nothing it runs could be read for minutes: why the node is not ready, in upstream's words.
    pub list_problem: Option<String>,
    /// It answers, and lists are slow or fail; pods go on.
    pub list_trouble: Option<ListTrouble>,
}

impl RuntimeState {
    /// Where the tree of pod cgroups hangs, with the driver the runtime told; the configured one where it does not.
    pub fn cgroup_root(&self, configured: &CgroupRoot) -> CgroupRoot {
        let driver = match self.info.as_ref().and_then(|info| info.cgroup_driver) {
            Some(connect::CgroupDriver::Systemd) => CgroupDriver::Systemd,
            Some(connect::CgroupDriver::Cgroupfs) => CgroupDriver::Cgroupfs,
            None => configured.driver,
        };
        CgroupRoot { driver, ..configured.clone() }
    }

    /// What a runtime handler can do; the default handler has the empty name.
    pub fn handler(&self, name: &str) -> Option<&HandlerFeatures> {
        self.info.as_ref()?.handlers.iter().find(|handler| handler.name == name)
    }

    /// The same runtime, asked in vain since `began` at the latest.
    fn silent(&self, began: Instant, why: String) -> Self {
        Self {
            runtime_problem: Some(why),
            silent_since: self.silent_since.or(Some(began)),
            list_problem: None,
            list_trouble: None,
            ..self.clone()
        }
    }
}

/// Asks for ever and publishes what changed.
pub(crate) async fn run(runtime: Arc<dyn RuntimeService>, pleg: Pleg, state: Arc<Level<RuntimeState>>) {
    let mut monitor = Monitor { pleg, state, known: RuntimeState::default(), answers_since: Instant::now() };
    let mut pause = PERIOD_FIRST;
    loop {
        let began = Instant::now();
        let fresh = monitor.ask(&*runtime, began).await;
        if fresh.silent_since.is_some() {
            monitor.answers_since = Instant::now();
        }
        let ready = fresh.runtime_problem.is_none() && fresh.network_problem.is_none();
        monitor.publish(fresh);
        pause = if ready { PERIOD_READY } else { (pause * 2).min(PERIOD_WAITING) };
        tokio::time::sleep(pause).await;
        if ready {
            pause = PERIOD_FIRST;
        }
    }
}

struct Monitor {
    pleg: Pleg,
    state: Arc<Level<RuntimeState>>,
    known: RuntimeState,
    /// Since when it has answered without a break; before the first answer, since it was first asked.
    answers_since: Instant,
}

impl Monitor {
    /// Asks once. That an answer takes long is published while it is waited for.
    async fn ask(&mut self, runtime: &dyn RuntimeService, began: Instant) -> RuntimeState {
        let known = self.known.info.clone().filter(|_| self.known.silent_since.is_none());
        let mut look = pin!(look(runtime, known));
        let looked = match tokio::time::timeout(SLOW_ANSWER, &mut look).await {
            Ok(looked) => looked,
            Err(_) => {
                let why =
                    format!("it has not answered Version and Status within {} s", SLOW_ANSWER.as_secs());
                self.publish(self.known.silent(began, why.clone()));
                match tokio::time::timeout(ANSWER_LIMIT - SLOW_ANSWER, look).await {
                    Ok(looked) => looked,
                    Err(_) => return self.known.silent(began, why),
                }
            }
        };
        let info = match looked {
            Ok(info) => info,
            Err(error) => return self.known.silent(began, crate::logging::chain(&error)),
        };
        let (lists, answering) = (self.pleg.lists(), self.answers_since.elapsed());
        RuntimeState {
            runtime_problem: info.conditions.runtime_problem.clone(),
            network_problem: info.conditions.network_problem.clone(),
            info: Some(info),
            silent_since: None,
            list_problem: lists.problem(answering),
            list_trouble: lists.trouble(answering, self.known.list_trouble),
        }
    }

    fn publish(&mut self, fresh: RuntimeState) {
        if self.known == fresh {
            return;
        }
        tell(&self.known, &fresh);
        if let Some(info) = &fresh.info {
            self.pleg.set_runtime_name(&info.name);
        }
        if self.known.runtime_problem != fresh.runtime_problem {
            // Whatever happened in the meantime is looked at without waiting for the period.
            self.pleg.relist_soon();
        }
        self.known = fresh;
        self.state.set(self.known.clone());
    }
}

/// One look: only the status of a runtime that is known, everything after a connection was made or lost.
async fn look(runtime: &dyn RuntimeService, known: Option<RuntimeInfo>) -> Result<RuntimeInfo, CheckError> {
    let Some(info) = known else { return check_runtime(runtime).await };
    let answer = runtime.status(v1::StatusRequest { verbose: false }).await?;
    Ok(RuntimeInfo { conditions: connect::conditions_of(answer.status.as_ref()), ..info })
}

fn tell(before: &RuntimeState, now: &RuntimeState) {
    match (&before.runtime_problem, &now.runtime_problem, &now.info) {
        (old, Some(problem), _) if old.as_ref() != Some(problem) => {
            warn!("the container runtime cannot be used: {problem}");
        }
        (Some(_), None, Some(info)) | (None, None, Some(info))
            if before.info.is_none() || before.runtime_problem.is_some() =>
        {
            info!(runtime = info.name, version = info.version, cgroup_driver = ?info.cgroup_driver, "connected to the container runtime");
        }
        _ => {}
    }
    if before.network_problem != now.network_problem {
        match &now.network_problem {
            Some(problem) => warn!("pods cannot get a network: {problem}"),
            None => info!("pods can get a network"),
        }
    }
    if let Some(problem) =
        now.list_problem.as_ref().filter(|problem| before.list_problem.as_ref() != Some(problem))
    {
        warn!("pods cannot be run: {problem}");
    }
}

#[cfg(test)]
mod tests {
    use rubelet_cri::CriErrorKind;
    use rubelet_testkit::ScriptedCri;
    use rubelet_testkit::scripted::{Fault, Op, RuntimeKind};
    use tokio::sync::watch;
    use tokio::task::JoinSet;

    use super::*;
    use crate::clock::Clock;
    use crate::fs_pool::FsPool;
    use crate::metrics::Metrics;

    struct Rig {
        cri: ScriptedCri,
        state: watch::Receiver<RuntimeState>,
        _tasks: JoinSet<()>,
    }

    /// A runtime that is watched; without `listing` nobody lists it.
    fn start(listing: bool) -> Rig {
        let cri = ScriptedCri::new(RuntimeKind::Containerd2);
        let runtime: Arc<dyn RuntimeService> = Arc::new(cri.clone());
        let pleg = Pleg::new(runtime.clone(), FsPool::inline(), Metrics::new(), Clock::simulated(cri.now()));
        let state = Arc::new(Level::new(RuntimeState::default()));
        let followed = state.follow();
        let mut tasks = JoinSet::new();
        tasks.spawn(run(runtime, pleg.clone(), state));
        if listing {
            tasks.spawn(async move { pleg.run().await });
        }
        Rig { cri, state: followed, _tasks: tasks }
    }

    async fn seconds(count: u64) {
        tokio::time::sleep(Duration::from_secs(count)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_keeps_silent_is_so_from_the_first_question_on() {
        let rig = start(true);
        seconds(15).await;
        assert_eq!(rig.state.borrow().silent_since, None);
        rig.cri.inject(Op::Status, Fault::Hang, 1000);
        let asked = Instant::now() + Duration::from_secs(5);
        seconds(14).await;
        assert_eq!(rig.state.borrow().silent_since, None, "it may take a moment");
        seconds(2).await;
        let state = rig.state.borrow().clone();
        assert_eq!(state.silent_since, Some(asked));
        let why = "it has not answered Version and Status within 10 s";
        assert_eq!(state.runtime_problem.as_deref(), Some(why));
        assert!(state.info.is_some(), "what it said of itself stays");
        seconds(200).await;
        assert_eq!(*rig.state.borrow(), state, "nothing new is told");
        rig.cri.stop_faults();
        seconds(40).await;
        let state = rig.state.borrow().clone();
        assert_eq!((state.silent_since, state.runtime_problem), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_is_heard() {
        let rig = start(true);
        rig.cri.inject(Op::Version, Fault::Delay(Duration::from_secs(25)), 1);
        seconds(20).await;
        assert_eq!(rig.state.borrow().info, None);
        assert!(rig.state.borrow().silent_since.is_some());
        seconds(6).await;
        assert!(rig.state.borrow().info.is_some());
        assert_eq!(rig.state.borrow().silent_since, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_is_away_is_silent_and_one_that_is_not_ready_is_not() {
        let rig = start(true);
        seconds(15).await;
        rig.cri.restart_runtime(Duration::from_secs(15));
        seconds(6).await;
        let state = rig.state.borrow().clone();
        assert_eq!(state.silent_since.map(|since| since.elapsed().as_secs()), Some(1));
        seconds(12).await;
        assert_eq!(rig.state.borrow().silent_since, None);
        rig.cri.set_runtime_problem(Some("not yet"));
        seconds(11).await;
        assert!(rig.state.borrow().runtime_problem.is_some());
        assert_eq!(rig.state.borrow().silent_since, None);
    }

    #[tokio::test(start_paused = true)]
    async fn lists_that_fail_are_told_first_and_make_the_node_not_ready_after_three_minutes() {
        let mut rig = start(true);
        seconds(5).await;
        rig.cri.inject(Op::ListContainers, Fault::ErrorBefore(CriErrorKind::Unknown), 100_000);
        // No event calls for a list here.
        rig.cri.break_event_streams();
        seconds(30).await;
        assert_eq!(rig.state.borrow().list_trouble, Some(ListTrouble::Failing));
        assert_eq!(rig.state.borrow().list_problem, None);
        seconds(130).await;
        assert_eq!(rig.state.borrow().list_problem, None);
        seconds(40).await;
        let problem = rig.state.borrow_and_update().list_problem.clone().unwrap();
        let text =
            "PLEG is not healthy: pleg was last seen active 3m0s ago; threshold is 3m0s: ListContainers: ";
        assert!(problem.starts_with(text), "{problem}");
        assert_eq!(rig.state.borrow().runtime_problem, None, "it answers");
        seconds(35).await;
        assert!(!rig.state.has_changed().unwrap(), "not told again within the minute");
        rig.cri.stop_faults();
        seconds(40).await;
        assert_eq!((rig.state.borrow().list_trouble, rig.state.borrow().list_problem.clone()), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_listed_while_the_runtime_was_away_is_not_held_against_it() {
        let rig = start(true);
        seconds(5).await;
        rig.cri.restart_runtime(Duration::from_secs(1000));
        seconds(900).await;
        assert!(rig.state.borrow().silent_since.is_some());
        assert_eq!((rig.state.borrow().list_trouble, rig.state.borrow().list_problem.clone()), (None, None));
        let mut state = rig.state.clone();
        state.wait_for(|state| state.silent_since.is_none()).await.unwrap();
        assert_eq!((rig.state.borrow().list_trouble, rig.state.borrow().list_problem.clone()), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn lists_that_never_were_are_waited_for_only_a_moment() {
        let rig = start(false);
        seconds(25).await;
        assert_eq!(rig.state.borrow().list_problem, None);
        seconds(20).await;
        let text = "PLEG is not healthy: pleg has yet to be successful";
        assert_eq!(rig.state.borrow().list_problem.as_deref(), Some(text));
    }
}
