//! Eviction and preemption through the whole agent, on a paused clock: a machine whose memory, disk and process IDs are
//! what the test says less what running pods take. Who goes, when, and who stays.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test cannot do fails the test")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use rubelet::node_agent::{NodeProbe, Usage};
use rubelet::{KubeletConfiguration, KubeletHandle};
use rubelet_config::GoDuration;
use rubelet_core::node::pressure::Observation;
use rubelet_core::pod_builder::PodBuilder;
use rubelet_core::stats::usage::{FsUsage, GroupUsage, MemoryUsage, PodUsage, ProcessUsage};
use rubelet_linux::node_facts::{FileSystem, NodeMachine};
use rubelet_testkit::pods;
use rubelet_testkit::scripted::{BASE_SECOND, Behaviour, Op, RuntimeKind, ScriptedCri};
use tokio::time::Instant;

use crate::in_process;

const MI: i64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// What a test's node can run out of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Of {
    Memory,
    Disk,
    Pids,
}

/// What is left of it, and who takes it. Mi, or process IDs by the million.
struct Machine {
    of: Of,
    whole: i64,
    /// What each pod takes while it runs.
    takes: BTreeMap<String, i64>,
    /// A pod that takes so much more each second from then on.
    grows: Option<(String, Instant, i64)>,
    looks: u32,
    least: i64,
}

impl Machine {
    fn taken_by(&self, pod: &str) -> i64 {
        let grown = self.grows.as_ref().filter(|(name, ..)| name == pod);
        let grown = grown.map_or(0.0, |(_, since, rate)| since.elapsed().as_secs_f64() * *rate as f64);
        self.takes.get(pod).copied().unwrap_or(0) * MI + (grown * MI as f64) as i64
    }
}

/// The test's eyes and the agent's.
struct Eyes(Arc<Mutex<Machine>>, ScriptedCri);

impl NodeProbe for Eyes {
    fn usage(&self, _: &std::path::Path, _: Option<&std::path::Path>) -> Usage {
        let mut machine = self.0.lock().unwrap();
        let running = self.1.running_containers();
        let taken: i64 = running.iter().map(|running| machine.taken_by(&running.subject.pod_name)).sum();
        let available = machine.whole * MI - taken;
        machine.looks += 1;
        machine.least = machine.least.min(available);
        let left = Some(Observation { available, capacity: machine.whole * MI });
        let mut usage = Usage::default();
        match machine.of {
            Of::Memory => usage.memory = left,
            Of::Disk => usage.node_fs = left.map(|bytes| FileSystem { bytes, inodes: None }),
            Of::Pids => usage.pids = left,
        }
        usage
    }
    fn interface_ips(&self) -> Vec<std::net::IpAddr> {
        vec![in_process::ADDRESS]
    }
    fn default_route_ip(&self, _: bool) -> Option<std::net::IpAddr> {
        Some(in_process::ADDRESS)
    }
    fn lookup(&self, _: String) -> futures::future::BoxFuture<'static, Option<Vec<std::net::IpAddr>>> {
        Box::pin(std::future::ready(Some(vec![])))
    }
}

/// What a pod is said to use.
fn fill(machine: &Machine, usage: &mut PodUsage) {
    let taken = u64::try_from(machine.taken_by(usage.pod.metadata.name.as_deref().unwrap())).unwrap();
    let memory = MemoryUsage { working_set: taken, ..MemoryUsage::default() };
    match machine.of {
        Of::Memory => usage.group = Some(GroupUsage { memory: Some(memory), ..GroupUsage::default() }),
        Of::Pids => {
            let processes = Some(ProcessUsage { processes: taken, ..ProcessUsage::default() });
            usage.group = Some(GroupUsage { processes, ..GroupUsage::default() });
        }
        Of::Disk => {
            for container in &mut usage.containers {
                container.rootfs = Some(FsUsage { used: Some(taken), ..FsUsage::default() });
            }
        }
    }
}

struct Node {
    cri: ScriptedCri,
    machine: Arc<Mutex<Machine>>,
    handle: KubeletHandle,
    pods: Vec<Arc<Pod>>,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

impl Node {
    /// A node that has so many Mi of something.
    async fn new(of: Of, whole: i64, edit: impl FnOnce(&mut KubeletConfiguration)) -> Self {
        let cri = ScriptedCri::new(RuntimeKind::Containerd2);
        let machine = Machine { of, whole, takes: BTreeMap::new(), grows: None, looks: 0, least: i64::MAX };
        let machine = Arc::new(Mutex::new(machine));
        let dir = tempfile::tempdir().unwrap();
        let mut config = in_process::config(dir.path());
        config.eviction_hard = map(&[]);
        config.eviction_pressure_transition_period = GoDuration::from_secs(60);
        config.image_gc_high_threshold_percent = 100;
        edit(&mut config);
        let clock = rubelet::clock::Clock::simulated(Timestamp::from_second(BASE_SECOND).unwrap());
        let runtime = Arc::new(cri.clone());
        let told = machine.clone();
        let agent = in_process::agent(config, dir.path(), "node", clock)
            .runtime(runtime.clone(), runtime)
            .node_machine(
                NodeMachine { cpus: 16, memory_bytes: 64 << 30, ..NodeMachine::default() },
                Arc::new(Eyes(machine.clone(), cri.clone())),
            )
            .pod_figures(Arc::new(move |usage| fill(&told.lock().unwrap(), usage)));
        let agent = agent.embedded().build().await.unwrap();
        let handle = agent.handle();
        handle.set_pods(vec![]);
        let task = tokio::spawn(async move {
            let _ended = agent.run(std::future::pending()).await;
        });
        Self { cri, machine, handle, pods: vec![], task, _dir: dir }
    }

    /// One more pod, which takes so many Mi.
    fn run(&mut self, pod: PodBuilder, takes: i64) {
        let pod = pod.build();
        self.takes(pod.metadata.name.as_deref().unwrap(), takes);
        self.pods.push(Arc::new(pod));
        self.handle.set_pods(self.pods.clone());
    }

    fn takes(&self, pod: &str, takes: i64) {
        self.machine.lock().unwrap().takes.insert(pod.to_owned(), takes);
    }

    fn looks(&self) -> u32 {
        self.machine.lock().unwrap().looks
    }

    /// Why a pod was ended, with what it was told; `None` while it runs.
    fn end(&self, pod: &str) -> Option<(String, String)> {
        let rows = self.handle.pods();
        let row = rows.iter().find(|row| row.pod.metadata.name.as_deref() == Some(pod))?;
        let failed = row.status.phase.as_deref() == Some("Failed");
        failed.then(|| {
            (row.status.reason.clone().unwrap_or_default(), row.status.message.clone().unwrap_or_default())
        })
    }

    fn reason(&self, pod: &str) -> Option<String> {
        self.end(pod).map(|(reason, _)| reason)
    }

    fn runs(&self, pod: &str) -> bool {
        self.end(pod).is_none()
            && self.cri.running_containers().iter().any(|running| running.subject.pod_name == pod)
    }

    #[track_caller]
    fn check_run(&self, pods: &[&str]) {
        for pod in pods {
            assert!(self.runs(pod), "{pod}: {:?}", self.end(pod));
        }
    }

    /// Waits until a pod has gone for a reason; gives how long that took.
    async fn wait_end(&self, pod: &str, reason: &str) -> Duration {
        let begun = Instant::now();
        in_process::until(&format!("the end of {pod}"), || self.end(pod).is_some()).await;
        assert_eq!(self.reason(pod).as_deref(), Some(reason));
        begun.elapsed()
    }
}

fn pod(name: &str) -> PodBuilder {
    pods::pod(name).container(pods::container("c"))
}

fn priority(pod: PodBuilder, priority: i32) -> PodBuilder {
    pod.spec(|spec| spec.priority = Some(priority))
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn a_soft_threshold_gives_its_grace_and_pods_theirs() {
    let mut node = Node::new(Of::Memory, 1000, |config| {
        config.eviction_soft = map(&[("memory.available", "100Mi")]);
        config.eviction_soft_grace_period = map(&[("memory.available", "30s")]);
        config.eviction_max_pod_grace_period = 5;
    })
    .await;
    node.cri.script_container("hog", "c", [Behaviour::forever().ignoring_sigterm()]);
    node.run(pod("hog"), 500);
    node.run(pod("calm"), 10);
    pass(30 * SECOND).await;
    node.check_run(&["hog", "calm"]);
    // Short for less than the grace.
    node.takes("hog", 950);
    pass(25 * SECOND).await;
    node.takes("hog", 500);
    pass(30 * SECOND).await;
    node.check_run(&["hog", "calm"]);
    node.takes("hog", 950);
    pass(29 * SECOND).await;
    node.check_run(&["hog", "calm"]);
    let took = node.wait_end("hog", "Evicted").await;
    // At most ten seconds until it was seen, then its grace of 30 s, then the 5 s that it may take.
    assert!((6 * SECOND..20 * SECOND).contains(&took), "{took:?}");
    pass(120 * SECOND).await;
    node.check_run(&["calm"]);
}

#[tokio::test(start_paused = true)]
async fn one_pass_takes_as_many_as_the_minimum_reclaim_needs_and_conditions_outlast_it() {
    let mut node = Node::new(Of::Memory, 1000, |config| {
        config.eviction_hard = map(&[("memory.available", "100Mi")]);
        config.eviction_minimum_reclaim = map(&[("memory.available", "300Mi")]);
    })
    .await;
    for (name, takes) in [("a", 210), ("b", 200), ("c", 190), ("d", 100)] {
        node.run(pod(name), takes);
    }
    node.run(priority(pod("critical"), 2_000_000_000), 150);
    pass(30 * SECOND).await;
    node.check_run(&["a", "b", "c", "d", "critical"]);
    // 50 are left, 400 must be: 350 come from the two that take most, critical ones aside.
    node.takes("critical", 250);
    node.wait_end("a", "Evicted").await;
    let took = node.wait_end("b", "Evicted").await;
    assert!(took < SECOND, "one after the other: {took:?}");
    let told = node.end("a").unwrap().1;
    assert!(told.contains("Threshold quantity: 100Mi, available: 50Mi. "), "{told}");
    node.run(pod("late"), 1);
    node.wait_end("late", "Evicted").await;
    assert!(node.end("late").unwrap().1.contains("The node had condition: [MemoryPressure]. "));
    pass(80 * SECOND).await;
    node.run(pod("later"), 1);
    pass(10 * SECOND).await;
    node.check_run(&["c", "d", "critical", "later"]);
}

#[tokio::test(start_paused = true)]
async fn who_must_not_go_stays_however_short_the_node_is() {
    let mut node =
        Node::new(Of::Memory, 1000, |config| config.eviction_hard = map(&[("memory.available", "100Mi")]))
            .await;
    node.run(priority(pod("critical"), 2_000_000_000), 950);
    pass(60 * SECOND).await;
    let before = node.looks();
    pass(600 * SECOND).await;
    node.check_run(&["critical"]);
    // Nothing can be done, so nobody is in a hurry.
    assert!(node.looks() - before <= 70, "{}", node.looks() - before);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fills_at_once_is_seen_before_it_is_full() {
    let mut node = Node::new(Of::Disk, 10_000, |config| {
        config.eviction_hard = map(&[("nodefs.available", "500Mi")]);
    })
    .await;
    node.run(pod("filler"), 8000);
    node.run(pod("calm"), 100);
    pass(60 * SECOND).await;
    // It begins right after a look: 1400 above the threshold, which 300 Mi a second take in under five seconds, and the
    // disk would be full in under seven.
    let before = node.looks();
    while node.looks() == before {
        pass(Duration::from_millis(10)).await;
    }
    node.machine.lock().unwrap().grows = Some(("filler".to_owned(), Instant::now(), 300));
    node.wait_end("filler", "Evicted").await;
    let least = node.machine.lock().unwrap().least / MI;
    assert!(least > 0, "{least}");
    node.check_run(&["calm"]);
}

#[tokio::test(start_paused = true)]
async fn at_rest_the_node_is_looked_at_every_ten_seconds() {
    let mut node = Node::new(Of::Disk, 100_000, |config| {
        config.eviction_hard = map(&[("nodefs.available", "10%")]);
        config.local_storage_capacity_isolation = false;
    })
    .await;
    node.run(pod("calm"), 100);
    pass(60 * SECOND).await;
    let before = node.looks();
    pass(600 * SECOND).await;
    let looks = node.looks() - before;
    // The node agent looks too, every five minutes for the status.
    assert!((60..=130).contains(&looks), "{looks}");
}

#[tokio::test(start_paused = true)]
async fn of_process_ids_the_lesser_pod_goes_first() {
    let mut node =
        Node::new(Of::Pids, 1000, |config| config.eviction_hard = map(&[("pid.available", "10%")])).await;
    node.run(priority(pod("dear"), 10), 500);
    node.run(pod("cheap"), 200);
    pass(30 * SECOND).await;
    node.takes("dear", 750);
    node.wait_end("cheap", "Evicted").await;
    assert!(node.end("cheap").unwrap().1.contains("The node was low on resource: pids. "));
    pass(120 * SECOND).await;
    node.check_run(&["dear"]);
}

#[tokio::test(start_paused = true)]
async fn a_reading_that_cannot_be_right_harms_nobody() {
    let mut node = Node::new(Of::Memory, 1000, |config| {
        config.eviction_hard = map(&[("memory.available", "100Mi")]);
    })
    .await;
    node.run(pod("calm"), 100);
    pass(30 * SECOND).await;
    node.machine.lock().unwrap().whole = 0;
    pass(60 * SECOND).await;
    node.run(pod("late"), 1);
    pass(10 * SECOND).await;
    node.check_run(&["calm", "late"]);
}

#[tokio::test(start_paused = true)]
async fn a_critical_pod_waits_for_its_room_and_not_for_ever() {
    let mut node = Node::new(Of::Memory, 100_000, |_| {}).await;
    let asks =
        |name: &str, cpu: &str| pods::pod(name).grace(20).container(pods::container("c").request("cpu", cpu));
    // One ends in its grace, one hangs.
    node.cri.script_container("slow", "c", [Behaviour::forever().ignoring_sigterm()]);
    node.run(asks("slow", "8"), 0);
    node.run(asks("small", "6"), 0);
    pass(10 * SECOND).await;
    node.check_run(&["slow", "small"]);
    node.run(priority(asks("critical", "9"), 2_000_000_000), 0);
    pass(10 * SECOND).await;
    assert!(!node.runs("critical"), "there is no room yet");
    // Newcomers do not take the room that is to be.
    node.run(asks("late", "1"), 0);
    pass(SECOND).await;
    assert_eq!(node.reason("late").as_deref(), Some("OutOfcpu"));
    let took = node.wait_end("slow", "Preempting").await;
    assert!((8 * SECOND..12 * SECOND).contains(&took), "its own grace: {took:?}");
    assert_eq!(node.end("slow").unwrap().1, "Preempted in order to admit critical pod");
    pass(5 * SECOND).await;
    node.check_run(&["critical", "small"]);
    // The next has to wait for one that cannot be ended.
    node.cri.set_duration(Op::StopContainer, 3600 * SECOND);
    node.run(priority(asks("another", "5"), 2_000_000_000), 0);
    pass(25 * SECOND).await;
    assert!(!node.runs("another"));
    pass(10 * SECOND).await;
    node.check_run(&["critical", "another"]);
}
