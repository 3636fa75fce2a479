//! The watch over a pipe that stands for the kernel's log, and files that stand for control groups.

use std::fs;
use std::io::Write as _;

use rubelet_core::ids::SandboxId;
use rubelet_core::observed::ContainerFacts;

use super::*;
use crate::events::EventType;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

struct World {
    root: tempfile::TempDir,
    log: Option<fs::File>,
    events: EventRecorder,
    watch: OomWatch,
    /// The age that the agent is taken to have.
    age: std::cell::Cell<Duration>,
}

impl World {
    fn new(has_log: bool) -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("kmsg");
        let log = has_log.then(|| {
            rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
            // Read too, so that it can be opened before the watch does.
            fs::File::options().read(true).write(true).open(&path).unwrap()
        });
        fs::create_dir_all(root.path().join("cgroup")).unwrap();
        fs::write(root.path().join("cgroup/cgroup.controllers"), "memory").unwrap();
        let clock = Clock::system();
        let events = EventRecorder::new(clock.clone());
        let parts = OomParts {
            clock,
            events: events.clone(),
            node_name: "node-1".into(),
            fs: FsPool::inline(),
            group_of: Box::new(|uid| Some(format!("/kubepods/pod{uid}"))),
            cgroup_mount: root.path().join("cgroup"),
        };
        Self { watch: OomWatch::open(parts, &path), root, log, events, age: Default::default() }
    }

    /// One that has read what the log held before.
    fn caught_up() -> Self {
        let world = Self::new(true);
        assert!(!world.watch.shared.read_some());
        world
    }

    /// The kernel kills a process. The watch reads each record by itself, as of the real log; the last one is left to it.
    fn kill(&mut self, limit: &str, pid: i32) {
        let limit = match limit {
            "" => "global_oom".to_owned(),
            group => format!("oom_memcg={group}"),
        };
        self.say(&format!(
            "oom-kill:constraint=CONSTRAINT_X,nodemask=(null),cpuset=/,mems_allowed=0,{limit},task_memcg={},task=tail,pid={pid},uid=0",
            group()
        ));
        self.watch.shared.read_some();
        self.say(&format!("Killed process {pid} (tail) total-vm:2kB"));
    }

    fn say(&mut self, line: &str) {
        let stamp = kmsg::log_clock().as_micros();
        self.log.as_mut().unwrap().write_all(format!("6,1,{stamp},-;{line}\n").as_bytes()).unwrap();
    }

    fn counter(&self, group: &str, kills: u64) {
        let dir = self.root.path().join("cgroup").join(group);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("memory.events"), format!("oom 9\noom_kill {kills}\n")).unwrap();
    }

    /// The reason of a container after it was corrected.
    async fn corrected(&self, reason: &str, exit_code: i32) -> String {
        let mut containers = [ended(reason, exit_code)];
        self.watch.correct(&"u".into(), &mut containers).await;
        containers[0].reason.clone()
    }

    /// What was told: reason, object, container, message.
    fn told(&self) -> Vec<String> {
        let line = |event: &crate::events::Event| {
            assert_eq!(event.kind, EventType::Warning);
            let container = event.subject.container.as_deref().unwrap_or("-");
            format!("{} {} {container}: {}", event.reason, event.subject.name, event.message)
        };
        self.events.snapshot().iter().map(line).collect()
    }

    /// Tells what is due after a long time, as if the container were in that state.
    fn tell(&self, state: ObservedState, reason: &str) {
        let shared = &self.watch.shared;
        self.age.set(self.age.get() + Duration::from_secs(3600));
        let due = shared.state().ledger.take_due(self.age.get());
        for due in due {
            let known = KnownContainer {
                uid: "u".into(),
                pod: "default/web".into(),
                name: "app".into(),
                state,
                reason: reason.into(),
            };
            shared.tell(Some(known), &due);
        }
    }
}

fn group() -> String {
    format!("/kubepods/podu/{ID}")
}

fn ended(reason: &str, exit_code: i32) -> ObservedContainer {
    let now = Clock::system().now();
    ObservedContainer {
        id: ID.into(),
        name: "app".into(),
        sandbox_id: SandboxId::from("s"),
        attempt: 0,
        state: ObservedState::Exited,
        created_at: now,
        started_at: Some(now),
        finished_at: Some(now),
        exit_code,
        reason: reason.into(),
        message: String::new(),
        image: String::new(),
        image_ref: String::new(),
        image_id: String::new(),
        facts: ContainerFacts::default(),
        user: None,
        resources: None,
        mounts: vec![],
        log_path: String::new(),
        termination_message: None,
    }
}

#[tokio::test]
async fn only_an_end_that_nobody_explains_is_explained_by_a_kill() {
    let mut world = World::caught_up();
    assert_eq!(world.corrected("Error", 137).await, "Error");
    world.kill(&group(), 7);
    for (reason, code, expected) in [
        ("Error", 137, "OOMKilled"),
        ("", 137, "OOMKilled"),
        ("Error", 1, "Error"),
        ("Completed", 0, "Completed"),
        ("StartError", 137, "StartError"),
        ("ContainerStatusUnknown", 137, "ContainerStatusUnknown"),
        ("OOMKilled", 137, "OOMKilled"),
    ] {
        assert_eq!(world.corrected(reason, code).await, expected, "{reason} {code}");
    }
    // It ended long after.
    let mut late = [ended("Error", 137)];
    late[0].finished_at = Some(Clock::system().now() + SignedDuration::from_secs(30));
    world.watch.correct(&"u".into(), &mut late).await;
    assert_eq!(late[0].reason, "Error");
}

#[tokio::test]
async fn what_the_log_held_before_explains_and_is_not_told() {
    let mut world = World::new(true);
    world.kill("", 7);
    // The last record is still to be read, and was there before the watch.
    world.watch.shared.state().caught_up = false;
    assert_eq!(world.corrected("Error", 137).await, "OOMKilled");
    world.tell(ObservedState::Running, "");
    assert_eq!(world.told(), Vec::<String>::new());
    assert_eq!(world.watch.total(&"u".into(), "app", &"next".into(), None), 1);
}

#[tokio::test]
async fn the_node_and_the_pod_are_told_when_the_nodes_memory_ran_out() {
    let mut world = World::caught_up();
    world.kill("", 7);
    world.watch.shared.read_some();
    world.tell(ObservedState::Exited, "OOMKilled");
    assert_eq!(
        world.told(),
        [
            "SystemOOM node-1 -: System OOM encountered, victim process: tail, pid: 7",
            "OOMKilling default/web app: The kernel killed process tail (pid 7) of the container because the node ran out \
             of memory"
        ]
    );
}

#[tokio::test]
async fn a_kill_in_a_container_that_goes_on_is_told_and_one_that_ended_it_is_not() {
    let mut world = World::caught_up();
    world.kill(&group(), 7);
    world.watch.shared.read_some();
    world.tell(ObservedState::Exited, "OOMKilled");
    assert_eq!(world.told(), Vec::<String>::new());
    world.kill(&group(), 8);
    world.watch.shared.read_some();
    world.tell(ObservedState::Running, "");
    world.kill(&group(), 9);
    world.watch.shared.read_some();
    world.tell(ObservedState::Exited, "Error");
    let message = |pid| {
        format!(
            "OOMKilling default/web app: The kernel killed process tail (pid {pid}) of the container because its \
         memory limit was reached"
        )
    };
    assert_eq!(world.told(), [format!("{}; the container goes on running", message(8)), message(9)]);
    assert_eq!(world.watch.total(&"u".into(), "app", &ID.into(), Some(2)), 3);
}

#[tokio::test(start_paused = true)]
async fn the_task_wakes_for_the_log_and_for_what_is_due() {
    let mut world = World::caught_up();
    let runtime =
        Arc::new(rubelet_testkit::ScriptedCri::new(rubelet_testkit::scripted::RuntimeKind::Containerd2));
    let pleg = Pleg::new(runtime, FsPool::inline(), crate::metrics::Metrics::new(), Clock::system());
    let task = tokio::spawn(world.watch.clone().run(pleg));
    world.kill("", 7);
    // The pipe is real: the paused clock moves on while the task waits for it.
    while world.told().is_empty() {
        tokio::task::yield_now().await;
    }
    while world.watch.shared.state().ledger.next_due().is_some() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    task.abort();
}

#[tokio::test]
async fn without_the_log_counters_explain() {
    let world = World::new(false);
    let fine = world.corrected("Error", 137).await;
    assert_eq!(fine, "Error", "there are no counters");
    world.counter("kubepods/podu", 0);
    assert_eq!(world.corrected("Error", 137).await, "Error");
    world.counter("kubepods/podu", 1);
    assert_eq!(world.corrected("Error", 137).await, "OOMKilled");
    assert_eq!(world.corrected("Error", 137).await, "Error", "one kill explains one end");
    // Of another container that goes on.
    world.counter("kubepods/podu", 2);
    world.counter("kubepods/podu/other", 1);
    assert_eq!(world.corrected("Error", 137).await, "Error");
    // Of a container that is told of as completed.
    world.counter("kubepods/podu", 3);
    assert_eq!(world.corrected("Completed", 0).await, "Completed");
    assert_eq!(world.corrected("Error", 137).await, "Error");
}

#[tokio::test]
async fn without_the_log_counters_are_told_of_when_somebody_reads_them() {
    let world = World::new(false);
    let total = |counted| world.watch.total(&"u".into(), "app", &ID.into(), Some(counted));
    assert_eq!([total(0), total(1), total(3)], [0, 1, 3]);
    world.tell(ObservedState::Running, "");
    assert_eq!(
        world.told(),
        [
            "OOMKilling default/web app: The kernel killed processes of the container because memory ran out: 2 since the \
          last event; the container goes on running"
        ]
    );
}

#[test]
fn old_records_are_dated_by_the_logs_clock() {
    let now = Timestamp::from_second(1_000_000).unwrap();
    let time = time_of(Duration::from_secs(100), Duration::from_secs(10_100), now);
    assert_eq!(time.at, Timestamp::from_second(990_000).unwrap());
    assert_eq!(time.give_or_take, Duration::from_secs(1));
    assert_eq!(time_of(Duration::MAX, Duration::ZERO, now).at, now);
}
