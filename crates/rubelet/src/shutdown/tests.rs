//! Shutdowns on a paused clock, with a logind of the test's own.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::PodStatus;
use rubelet_core::lifecycle::TerminationCause;
use serde_json::json;
use tokio::sync::mpsc;

use super::*;
use crate::api_pods::ApiPodSet;

/// What a test says to the task, and what it sees of it.
#[derive(Default)]
struct Machine {
    allowed: Mutex<Duration>,
    refuses: Mutex<VecDeque<&'static str>>,
    words: Mutex<Option<mpsc::Receiver<bool>>>,
    held: Arc<AtomicUsize>,
    under_way: bool,
}

struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Told(Arc<Machine>, mpsc::Receiver<bool>);

struct Fake(Arc<Machine>);

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Logind for Fake {
    fn session(&self) -> BoxFuture<'_, Result<Box<dyn Session>, String>> {
        Box::pin(async {
            if let Some(problem) = lock(&self.0.refuses).pop_front() {
                return Err(problem.to_owned());
            }
            let words = lock(&self.0.words).take();
            let words = words.ok_or_else(|| "no second session in this test".to_owned())?;
            Ok(Box::new(Told(self.0.clone(), words)) as Box<dyn Session>)
        })
    }
}

impl Session for Told {
    fn longest_delay(&mut self) -> BoxFuture<'_, Result<Duration, String>> {
        let allowed = *lock(&self.0.allowed);
        Box::pin(async move { Ok(allowed) })
    }
    fn allow_delay(&mut self, delay: Duration) -> BoxFuture<'_, Result<(), String>> {
        *lock(&self.0.allowed) = delay;
        Box::pin(async { Ok(()) })
    }
    fn hold(&mut self) -> BoxFuture<'_, Result<Hold, String>> {
        self.0.held.fetch_add(1, Ordering::SeqCst);
        let held = Held(self.0.held.clone());
        Box::pin(async { Ok(Box::new(held) as Hold) })
    }
    fn is_under_way(&mut self) -> BoxFuture<'_, bool> {
        let under_way = self.0.under_way;
        Box::pin(async move { under_way })
    }
    fn next(&mut self) -> BoxFuture<'_, Option<bool>> {
        Box::pin(self.1.recv())
    }
}

/// A node with pods, a task that runs, and a logind to speak through.
struct World {
    machine: Arc<Machine>,
    table: PodTable,
    kills: PodKills,
    events: EventRecorder,
    shutting_down: watch::Receiver<bool>,
    words: mpsc::Sender<bool>,
    api: watch::Sender<Arc<ApiPodSet>>,
    metrics: Metrics,
    _dir: tempfile::TempDir,
    file: PathBuf,
}

impl World {
    fn new(machine: Machine) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (words, heard) = mpsc::channel(4);
        *lock(&machine.words) = Some(heard);
        let machine = Arc::new(machine);
        let clock = Clock::system();
        let (api, api_view) = watch::channel(Arc::new(ApiPodSet::default()));
        let (table, kills, events, metrics) =
            (PodTable::default(), PodKills::default(), EventRecorder::new(clock.clone()), Metrics::new());
        let file = dir.path().join("graceful_node_shutdown_state");
        let (now, shutting_down) = watch::channel(false);
        let parts = ShutdownParts {
            periods: Periods::of_two(Duration::from_secs(30), Duration::from_secs(10)),
            logind: Arc::new(Fake(machine.clone())),
            table: table.clone(),
            api: Some(api_view),
            kills: kills.clone(),
            events: events.clone(),
            node_name: "n".to_owned(),
            clock,
            metrics: metrics.clone(),
            fs: FsPool::inline(),
            state_file: file.clone(),
        };
        tokio::spawn(Shutdown::new(parts, now).run());
        Self { machine, table, kills, events, shutting_down, words, api, metrics, _dir: dir, file }
    }

    fn row(&self, name: &str, priority: i32, phase: &str, state: PodState) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name},
            "spec": {"containers": [], "priority": priority, "terminationGracePeriodSeconds": 15},
            "status": {"phase": phase},
        }))
        .unwrap();
        let pod = Arc::new(pod);
        let status = Arc::new(PodStatus::default());
        self.table.publish(&name.into(), PodRow { pod: pod.clone(), status, state });
        self.api.send_modify(|set| {
            let others =
                set.by_uid.values().filter(|other| other.metadata.name != pod.metadata.name).cloned();
            *set = Arc::new(ApiPodSet::of(others.chain([pod.clone()])));
        });
    }

    async fn killed(&self) -> Vec<(String, Option<u64>)> {
        let mut kills = self.kills.requested().await;
        kills.sort_by(|a, b| a.uid.cmp(&b.uid));
        assert!(kills.iter().all(|kill| kill.reason == "Terminated"));
        kills.into_iter().map(|kill| (kill.uid.to_string(), kill.grace)).collect()
    }
}

fn finished() -> PodState {
    PodState::Finished { cause: TerminationCause::Completed }
}

#[tokio::test(start_paused = true)]
async fn pods_end_in_order_and_the_shutdown_goes_on_when_the_api_knows() {
    let world = World::new(Machine::default());
    world.row("plain", 0, "Running", PodState::Syncing);
    world.row("critical", 2_000_000_000, "Running", PodState::Syncing);
    world.row("over", 0, "Failed", finished());
    let mut shutting_down = world.shutting_down.clone();
    world.words.send(true).await.unwrap();
    shutting_down.wait_for(|now| *now).await.unwrap();
    assert_eq!(world.killed().await, [("plain".to_owned(), Some(15))]);
    assert_eq!(*lock(&world.machine.allowed), Duration::from_secs(30), "logind was made to wait long enough");
    // Gone here, but the API has not heard of it: its turn is not over.
    world.row("plain", 0, "Running", finished());
    assert!(futures::poll!(std::pin::pin!(world.killed())).is_pending());
    world.row("plain", 0, "Failed", finished());
    assert_eq!(world.killed().await, [("critical".to_owned(), Some(10))]);
    assert_eq!(world.machine.held.load(Ordering::SeqCst), 1, "still held");
    world.row("critical", 2_000_000_000, "Failed", finished());
    while world.machine.held.load(Ordering::SeqCst) > 0 {
        tokio::task::yield_now().await;
    }
    let text = std::fs::read_to_string(&world.file).unwrap();
    assert!(!text.contains("0001-01-01"), "{text}");
    assert!(world.metrics.node.shutdown_ended.get().is_some_and(|at| at > 0.0));
    let told = world.events.snapshot();
    assert!(told.iter().any(|event| event.message == "Shutdown manager detected shutdown event"));
    // Called off: it is held back again, and pods may come.
    world.words.send(false).await.unwrap();
    shutting_down.wait_for(|now| !now).await.unwrap();
    while world.machine.held.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_end_costs_its_group_the_groups_time() {
    let world = World::new(Machine::default());
    world.row("stuck", 0, "Running", PodState::Syncing);
    world.row("critical", 2_000_000_000, "Running", PodState::Syncing);
    let began = tokio::time::Instant::now();
    world.words.send(true).await.unwrap();
    assert_eq!(world.killed().await.len(), 1);
    assert_eq!(world.killed().await, [("critical".to_owned(), Some(10))]);
    assert_eq!(began.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_comes_late_and_a_shutdown_that_began_before_are_met() {
    let refuses = Mutex::new(["no bus", "no bus"].into());
    let world = World::new(Machine { refuses, under_way: true, ..Machine::default() });
    world.row("plain", 0, "Running", PodState::Syncing);
    assert_eq!(world.killed().await.len(), 1);
    assert!(*world.shutting_down.borrow());
}
