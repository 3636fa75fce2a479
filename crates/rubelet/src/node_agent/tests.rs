//! The node agent on a paused clock against the fake API.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use rubelet_apiclient::wake::Wake;
use rubelet_config::KubeletConfiguration;
use rubelet_core::node::info::MachineIdentity;
use rubelet_core::node::pressure::{Observation, Pressures};
use rubelet_core::topology::NumaMask;
use rubelet_cri::connect::{RuntimeConditions, RuntimeInfo};
use rubelet_linux::node_facts::{FileSystem, NodeMachine};
use rubelet_testkit::fake_api::{Failure, Fault, Options, Outage};
use rubelet_testkit::scripted::{Op, RuntimeKind};
use rubelet_testkit::{FakeApi, ScriptedCri};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::*;
use crate::devices::{DeviceParts, Devices};
use crate::events::EventType;
use crate::metrics::Metrics;
use crate::pod_wakes::PodWakes;

const NAME: &str = "node-1";

fn ready() -> RuntimeState {
    RuntimeState {
        info: Some(RuntimeInfo {
            name: "containerd".into(),
            version: "1.6.20".into(),
            conditions: RuntimeConditions { runtime_problem: None, network_problem: None },
            handlers: vec![],
            supplemental_groups_policy: false,
            user_namespaces_host_network: false,
            cgroup_driver: None,
        }),
        ..Default::default()
    }
}

/// `state`, silent from now on.
fn silent(state: RuntimeState) -> RuntimeState {
    RuntimeState {
        runtime_problem: Some("connection refused".into()),
        silent_since: Some(tokio::time::Instant::now()),
        ..state
    }
}

/// A runtime that answers and has no network.
fn without_network() -> RuntimeState {
    RuntimeState {
        network_problem: Some("NetworkPluginNotReady: cni plugin not initialized".into()),
        ..ready()
    }
}

fn no_devices() -> Devices {
    let parts = DeviceParts {
        nodes: NumaMask::default(),
        fs: FsPool::inline(),
        wakes: PodWakes::default(),
        tells_health: true,
        metrics: Metrics::new(),
    };
    Devices::unknown(Path::new("/nowhere/kubelet"), parts)
}

/// A node agent and its surroundings; dropping it stops the agent.
struct Rig {
    api: FakeApi,
    runtime: watch::Sender<RuntimeState>,
    watched: watch::Sender<Option<Arc<Node>>>,
    events: EventRecorder,
    closed: Arc<AtomicUsize>,
    cri: ScriptedCri,
    view: NodeView,
    _tasks: JoinSet<()>,
    pressures: watch::Sender<Option<Pressures>>,
    going_down: watch::Sender<bool>,
}

struct Setup {
    api: FakeApi,
    runtime: RuntimeState,
    register: bool,
    boot_id: &'static str,
    system_uuid: &'static str,
    clock: Clock,
    pressures: Option<Pressures>,
    in_use: VolumesInUse,
}

impl Setup {
    fn new() -> Self {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let now = clock.clone();
        let options = Options { now: Arc::new(move || now.now()), ..Default::default() };
        Self {
            api: FakeApi::with(options),
            runtime: ready(),
            register: true,
            boot_id: "b-1",
            system_uuid: "u-1",
            clock,
            pressures: Some(Pressures::default()),
            in_use: VolumesInUse::default(),
        }
    }

    fn start(self) -> Rig {
        let config = KubeletConfiguration { register_node: self.register, ..Default::default() };
        let settings =
            NodeAgentSettings::new(&config, &NodeFlags::default(), NAME, "/nowhere/kubelet").unwrap();
        assert_eq!(settings.root_dir, PathBuf::from("/nowhere/kubelet"));
        let space = Observation { available: 1 << 38, capacity: 1 << 40 };
        let probe = FixedProbe {
            usage: Usage { node_fs: Some(FileSystem { bytes: space, inodes: None }), ..Default::default() },
            ips: vec!["192.0.2.10".parse().unwrap()],
        };
        let (runtime, runtime_state) = watch::channel(self.runtime);
        let (watched, watched_view) = watch::channel(None);
        let (pressures, pressures_view) = watch::channel(self.pressures);
        let events = EventRecorder::new(self.clock.clone());
        let closed = Arc::new(AtomicUsize::new(0));
        let count = closed.clone();
        let cri = ScriptedCri::new(RuntimeKind::Containerd16);
        cri.add_image("registry.example/pause:3.9", 300_000);
        let (going_down, shutting_down) = watch::channel(false);
        let (agent, view) = NodeAgent::new(NodeAgentParams {
            shutting_down,
            settings,
            machine: NodeMachine {
                identity: MachineIdentity {
                    machine_id: "m-1".into(),
                    system_uuid: self.system_uuid.into(),
                    boot_id: self.boot_id.into(),
                    kernel_release: "6.1.0".into(),
                    os_image: "Debian".into(),
                    architecture: "amd64".into(),
                    ..Default::default()
                },
                cpus: 2,
                memory_bytes: 1 << 30,
                huge_pages: vec![],
            },
            probe: Arc::new(probe),
            fs: FsPool::inline(),
            client: self.api.client("system:node:node-1"),
            close_connections: Arc::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
            }),
            wake: Wake::default(),
            watched: watched_view,
            runtime_state,
            runtime: Arc::new(cri.clone()),
            images: Arc::new(cri.clone()),
            clock: self.clock,
            events: events.clone(),
            metrics: Metrics::new(),
            volumes_in_use: self.in_use.clone(),
            devices: no_devices(),
            pressures: pressures_view,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(agent.run());
        Rig {
            api: self.api,
            runtime,
            watched,
            events,
            closed,
            cri,
            view,
            pressures,
            going_down,
            _tasks: tasks,
        }
    }
}

impl Rig {
    fn node(&self) -> Option<Node> {
        self.api.get::<Node>("", NAME)
    }

    /// Status and message of Ready.
    fn ready(&self) -> (String, String) {
        ready_of(&self.node().unwrap())
    }

    /// Every Ready that the API ever had, without repetitions, and without the moment in which a new Node has no CSINode.
    fn ready_history(&self) -> Vec<String> {
        let uid = self.node().unwrap().metadata.uid.unwrap();
        let history = self.api.history::<Node>(&uid);
        let ready = history.iter().map(ready_of);
        let ready = ready.filter(|(_, message)| message != rubelet_core::node::csi::NOT_INITIALIZED);
        let mut seen: Vec<String> = ready.map(|(status, _)| status).collect();
        seen.dedup();
        seen
    }

    fn count(&self, what: &str) -> usize {
        self.api.counts().get(what).copied().unwrap_or(0)
    }

    fn reasons(&self) -> Vec<String> {
        self.events.snapshot().into_iter().map(|event| event.reason).collect()
    }

    /// Shows the agent the Node as a watch would.
    fn show(&self) {
        self.watched.send_replace(self.node().map(Arc::new));
    }

    async fn registered(&self) {
        self.api.wait_for(|api| api.get::<Node>("", NAME)).await;
    }

    fn stop(self, clock: &Clock) -> Setup {
        Setup { api: self.api.clone(), clock: clock.clone(), ..Setup::new() }
    }
}

fn ready_of(node: &Node) -> (String, String) {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap_or_default();
    (ready.status, ready.message.unwrap_or_default())
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_shuts_down_is_not_ready_until_that_is_called_off() {
    let rig = Setup::new().start();
    rig.registered().await;
    seconds(2).await;
    assert_eq!(rig.ready().0, "True");
    rig.going_down.send_replace(true);
    seconds(1).await;
    assert_eq!(rig.ready(), ("False".to_owned(), "node is shutting down".to_owned()));
    rig.going_down.send_replace(false);
    seconds(1).await;
    assert_eq!(rig.ready().0, "True");
}

fn no_violations(api: &FakeApi) {
    assert_eq!(api.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn the_first_post_says_ready_even_when_the_runtime_answers_a_little_later() {
    let rig = Setup { runtime: RuntimeState::default(), ..Setup::new() }.start();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(rig.node().is_none());
    rig.runtime.send_replace(ready());
    rig.registered().await;
    seconds(1).await;
    assert_eq!(rig.ready_history(), ["True"]);
    assert_eq!((rig.count("create nodes"), rig.count("patch nodes/status")), (1, 1));
    let status = rig.node().unwrap().status.unwrap();
    assert_eq!(status.images.unwrap()[0].size_bytes, Some(300_000));
    assert_eq!(status.addresses.unwrap()[0].address, "192.0.2.10");
    assert_eq!(status.capacity.unwrap()["ephemeral-storage"].0, "1Ti");
    let lease = rig.api.get::<Lease>("kube-node-lease", NAME).unwrap();
    assert_eq!(lease.metadata.owner_references.unwrap()[0].uid, rig.node().unwrap().metadata.uid.unwrap());
    assert_eq!(
        rig.reasons(),
        ["Starting", "NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"]
    );
    no_violations(&rig.api);
}

#[tokio::test(start_paused = true)]
async fn a_silent_runtime_is_told_and_ready_follows_at_once() {
    let rig = Setup { runtime: RuntimeState::default(), ..Setup::new() }.start();
    rig.registered().await;
    assert_eq!(
        rig.ready(),
        (
            "False".into(),
            "[container runtime status check may not have completed yet, network state unknown]".into()
        )
    );
    rig.runtime.send_replace(ready());
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(rig.ready().0, "True");
    assert!(rig.reasons().contains(&"NodeReady".to_owned()));
    no_violations(&rig.api);
}

#[tokio::test(start_paused = true)]
async fn at_rest_there_are_leases_and_rare_reports() {
    let rig = Setup::new().start();
    rig.registered().await;
    seconds(1).await;
    rig.api.take_requests();
    seconds(140).await;
    let beats = rig.count("update leases");
    assert!((13..=14).contains(&beats), "{beats}");
    assert_eq!(rig.count("patch nodes/status"), 0);
    seconds(600).await;
    let reports = rig.count("patch nodes/status");
    assert!((1..=4).contains(&reports), "{reports}");
    let all: usize = rig.api.counts().values().sum();
    assert_eq!(all, reports + rig.count("update leases"));
    no_violations(&rig.api);
}

#[tokio::test(start_paused = true)]
async fn changes_are_posted_at_once() {
    let rig = Setup::new().start();
    rig.registered().await;
    seconds(3).await;
    rig.runtime.send_replace(without_network());
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(
        rig.ready(),
        (
            "False".into(),
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized".into()
        )
    );
    assert_eq!(rig.count("patch nodes/status"), 2);
    assert!(rig.reasons().contains(&"NodeNotReady".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_runtime_may_be_silent_for_half_a_minute() {
    let rig = Setup::new().start();
    rig.registered().await;
    seconds(3).await;
    rig.runtime.send_replace(silent(ready()));
    seconds(29).await;
    assert_eq!(rig.ready_history(), ["True"]);
    seconds(2).await;
    assert_eq!(rig.ready(), ("False".into(), "container runtime is down: connection refused".into()));
    // At rest that is not written again and again.
    let posts = rig.count("patch nodes/status");
    seconds(100).await;
    assert_eq!(rig.count("patch nodes/status"), posts);
    rig.runtime.send_replace(ready());
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(rig.ready().0, "True");
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_restarts_in_time_does_not_make_the_node_flap() {
    let rig = Setup::new().start();
    rig.registered().await;
    seconds(3).await;
    rig.runtime.send_replace(silent(ready()));
    seconds(10).await;
    // It is back, and its network is not yet.
    rig.runtime.send_replace(without_network());
    seconds(19).await;
    rig.runtime.send_replace(ready());
    seconds(100).await;
    assert_eq!(rig.ready_history(), ["True"]);
    // Now that it was well, the same words count at once.
    rig.runtime.send_replace(without_network());
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(rig.ready().0, "False");
    rig.runtime.send_replace(ready());
    tokio::time::sleep(Duration::from_millis(10)).await;

    // One whose network does not come says so when the grace is over.
    rig.runtime.send_replace(silent(ready()));
    seconds(10).await;
    rig.runtime.send_replace(without_network());
    seconds(19).await;
    assert_eq!(rig.ready().0, "True");
    seconds(2).await;
    assert!(rig.ready().1.contains("cni plugin not initialized"), "{:?}", rig.ready());
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_answers_and_tells_nothing_is_no_silent_one() {
    let rig = Setup::new().start();
    rig.registered().await;
    seconds(3).await;
    let words = "PLEG is not healthy: pleg was last seen active 3m0s ago; threshold is 3m0s";
    rig.runtime.send_replace(RuntimeState {
        list_trouble: Some(rubelet_core::node::lists::ListTrouble::Failing),
        ..ready()
    });
    seconds(100).await;
    assert_eq!(rig.ready_history(), ["True"], "pods can be run");
    rig.runtime.send_replace(RuntimeState { list_problem: Some(words.into()), ..ready() });
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(rig.ready(), ("False".into(), words.into()));
    rig.runtime.send_replace(ready());
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(rig.ready().0, "True");
}

#[tokio::test(start_paused = true)]
async fn a_restart_does_not_flap() {
    let setup = Setup::new();
    let clock = setup.clock.clone();
    let rig = setup.start();
    rig.registered().await;
    seconds(1).await;
    let again = rig.stop(&clock);
    let rig = Setup { runtime: silent(RuntimeState::default()), ..again }.start();
    seconds(20).await;
    assert_eq!(rig.ready_history(), ["True"]);
    // The network of a runtime that starts as slowly comes last.
    rig.runtime.send_replace(without_network());
    seconds(5).await;
    assert_eq!(rig.ready_history(), ["True"]);
    rig.runtime.send_replace(ready());
    seconds(100).await;
    assert_eq!(rig.ready_history(), ["True"]);
    // A start posts once, so that the cluster hears of it.
    assert_eq!(rig.count("patch nodes/status"), 2);
    no_violations(&rig.api);

    // One that never hears of the runtime says so in the end.
    let again = rig.stop(&clock);
    let rig = Setup { runtime: RuntimeState::default(), ..again }.start();
    seconds(31).await;
    assert_eq!(rig.ready_history(), ["True", "False"]);
}

#[tokio::test(start_paused = true)]
async fn a_reboot_is_told_once_and_keeps_nothing() {
    let setup = Setup::new();
    let clock = setup.clock.clone();
    let rig = setup.start();
    rig.registered().await;
    let again = rig.stop(&clock);
    let rig = Setup { runtime: RuntimeState::default(), boot_id: "b-2", ..again }.start();
    seconds(60).await;
    assert_eq!(rig.ready().0, "False");
    let told: Vec<_> = rig.events.snapshot().into_iter().filter(|event| event.reason == "Rebooted").collect();
    assert_eq!((told.len(), told[0].count), (1, 1));
    assert_eq!(told[0].kind, EventType::Warning);
    assert_eq!(told[0].message, "Node node-1 has been rebooted, boot id: b-2");
}

#[tokio::test(start_paused = true)]
async fn registration_survives_what_a_server_does() {
    for failure in [
        Failure::Status(500, None),
        Failure::Status(429, Some(1)),
        Failure::Status(401, None),
        Failure::Reset,
        Failure::ResetAfter,
        Failure::Garbage,
        Failure::Hang,
    ] {
        let setup = Setup::new();
        setup.api.fail(Fault::on("create", "nodes", failure.clone()).times(3));
        let rig = setup.start();
        seconds(60).await;
        assert_eq!(rig.ready_history(), ["True"], "{failure:?}");
        assert!(rig.count("create nodes") <= 4, "{failure:?}");
        assert!(rig.view.get().is_some(), "{failure:?}");
        no_violations(&rig.api);
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_not_create_takes_the_node_that_is_there() {
    let setup = Setup::new();
    let refused = setup.api.fail(Fault::on("create", "nodes", Failure::Status(403, None)));
    let rig = setup.start();
    seconds(30).await;
    assert!(rig.node().is_none());
    let tries = refused.hits();
    assert!((7..=12).contains(&tries), "{tries}");
    rig.api.create_json(&json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NAME, "labels": {"team": "a", "kubernetes.io/hostname": "old"}},
        "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]},
    }));
    seconds(10).await;
    let node = rig.node().unwrap();
    assert_eq!(rig.ready().0, "True");
    let labels = node.metadata.labels.unwrap();
    assert_eq!((labels["team"].as_str(), labels["kubernetes.io/hostname"].as_str()), ("a", NAME));
    assert_eq!(labels["kubernetes.io/arch"], "amd64");
    assert_eq!(node.spec.unwrap().taints.unwrap()[0].key, "k");
    assert_eq!(rig.count("patch nodes/status"), 2);
}

#[tokio::test(start_paused = true)]
async fn without_register_node_somebody_else_creates_it() {
    let rig = Setup { register: false, ..Setup::new() }.start();
    seconds(25).await;
    assert_eq!((rig.count("create nodes"), rig.count("get nodes")), (0, 3));
    rig.api.create_json(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}}));
    rig.show();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(rig.ready().0, "True");
    no_violations(&rig.api);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_stays_deleted_until_somebody_creates_it() {
    let rig = Setup::new().start();
    rig.registered().await;
    seconds(1).await;
    rig.api.delete::<Node>("", NAME);
    seconds(900).await;
    assert!(rig.node().is_none());
    assert_eq!(rig.count("create nodes"), 1);
    rig.api.create_json(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}}));
    seconds(11).await;
    assert_eq!(rig.ready().0, "True");
    assert_eq!(rig.node().unwrap().metadata.labels.unwrap()["kubernetes.io/hostname"], NAME);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_gets_no_lease() {
    let rig = Setup::new().start();
    rig.registered().await;
    seconds(1).await;
    rig.show();
    rig.api.delete::<Node>("", NAME);
    rig.api.delete::<Lease>("kube-node-lease", NAME);
    rig.show();
    let before = rig.count("create leases");
    seconds(60).await;
    assert_eq!(rig.count("create leases"), before, "its owner is gone: it would be collected as garbage");
    assert!(rig.view.get().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_node_taken_for_lost_says_at_once_that_it_is_not() {
    let rig = Setup::new().start();
    rig.registered().await;
    seconds(2).await;
    rig.api.modify_status::<Node>("", NAME, |node| {
        for condition in node.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten()) {
            condition.status = "Unknown".into();
        }
    });
    rig.show();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.ready().0, "True");
}

#[tokio::test(start_paused = true)]
async fn a_node_of_another_machine_is_taken_over_and_told() {
    let setup = Setup::new();
    let clock = setup.clock.clone();
    let rig = setup.start();
    rig.registered().await;
    seconds(1).await;
    let again = rig.stop(&clock);
    let rig = Setup { system_uuid: "u-2", ..again }.start();
    seconds(1).await;
    assert_eq!(rig.node().unwrap().status.unwrap().node_info.unwrap().system_uuid, "u-2");
    let told: Vec<_> =
        rig.events.snapshot().into_iter().filter(|e| e.reason == "NodeOfAnotherMachine").collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].message.contains("still renewing its lease"), "{}", told[0].message);
    no_violations(&rig.api);
}

#[tokio::test(start_paused = true)]
async fn an_outage_closes_connections_and_is_caught_up_with() {
    let rig = Setup::new().start();
    rig.registered().await;
    seconds(5).await;
    rig.api.outage(Outage::Hang);
    seconds(120).await;
    assert!(rig.closed.load(Ordering::SeqCst) >= 2);
    // Meanwhile the cluster takes the node for lost.
    rig.api.outage(Outage::None);
    rig.api.modify_status::<Node>("", NAME, |node| {
        for condition in node.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten()) {
            condition.status = "Unknown".into();
        }
    });
    rig.show();
    rig.api.take_requests();
    seconds(22).await;
    assert_eq!(rig.ready().0, "True");
    let lease = rig.api.get::<Lease>("kube-node-lease", NAME).unwrap();
    let now: Timestamp = "2026-01-01T00:02:00Z".parse().unwrap();
    assert!(lease.spec.unwrap().renew_time.unwrap().0 > now);
    let total: usize = rig.api.counts().values().sum();
    assert!(total <= 8, "{:?}", rig.api.counts());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_others_write_or_remove_is_kept() {
    let rig = Setup::new().start();
    rig.registered().await;
    seconds(1).await;
    rig.api.modify::<Lease>("kube-node-lease", NAME, |lease| {
        lease.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
    });
    seconds(11).await;
    assert_eq!((rig.count("get leases"), rig.count("update leases")), (2, 2));
    rig.api.delete::<Lease>("kube-node-lease", NAME);
    seconds(11).await;
    assert!(rig.api.get::<Lease>("kube-node-lease", NAME).is_some());
    assert_eq!(rig.count("create leases"), 2);
    // A server that always refuses is not stormed.
    rig.api.take_requests();
    rig.api.fail(Fault::on("update", "leases", Failure::Status(500, None)));
    seconds(60).await;
    let tries = rig.count("update leases");
    assert!(tries <= 60, "{tries}");
}

#[tokio::test(start_paused = true)]
async fn pod_cidrs_reach_the_runtime_and_cordoning_is_told() {
    let rig = Setup::new().start();
    rig.registered().await;
    seconds(1).await;
    assert_eq!(rig.cri.calls_of(Op::UpdateRuntimeConfig), 0);
    rig.api.modify::<Node>("", NAME, |node| {
        let spec = node.spec.get_or_insert_default();
        spec.pod_cidrs = Some(vec!["10.0.0.0/24".into()]);
        spec.unschedulable = Some(true);
    });
    rig.show();
    seconds(1).await;
    assert_eq!(rig.cri.calls_of(Op::UpdateRuntimeConfig), 1);
    rig.api.modify::<Node>("", NAME, |node| {
        node.spec.get_or_insert_default().unschedulable = None;
    });
    rig.show();
    seconds(1).await;
    assert_eq!(rig.cri.calls_of(Op::UpdateRuntimeConfig), 1);
    let reasons = rig.reasons();
    assert_eq!(reasons[reasons.len() - 2..], ["NodeNotSchedulable", "NodeSchedulable"]);
    assert_eq!(rig.count("patch nodes/status"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_is_always_answered() {
    let rig = Setup::new().start();
    rig.registered().await;
    seconds(1).await;
    rig.api.modify::<Node>("", NAME, |node| {
        node.metadata.labels.get_or_insert_default().insert("team".into(), "b".into());
    });
    let mut view = rig.view.clone();
    view.changed().await;
    assert!(view.refresh());
    view.changed().await;
    assert_eq!(view.get().unwrap().metadata.labels.as_ref().unwrap()["team"], "b");
    rig.api.fail(Fault::on("get", "nodes", Failure::Status(500, None)));
    assert!(view.refresh());
    view.changed().await;
    assert_eq!(view.get().unwrap().metadata.managed_fields, None);
}

#[tokio::test(start_paused = true)]
async fn pressure_is_in_the_conditions_at_once_and_from_the_first_status_on() {
    let short = Pressures { memory: true, ..Pressures::default() };
    let rig = Setup { pressures: None, ..Setup::new() }.start();
    // The first look comes a moment after the agent.
    rig.pressures.send_replace(Some(short));
    rig.registered().await;
    let conditions = || rig.node().unwrap().status.unwrap().conditions.unwrap();
    assert_eq!((conditions()[0].type_.as_str(), conditions()[0].status.as_str()), ("MemoryPressure", "True"));
    assert_eq!(rig.ready().0, "True");
    let begun = tokio::time::Instant::now();
    rig.pressures.send_replace(Some(Pressures { disk: true, ..short }));
    while conditions()[1].status != "True" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn spread_is_even_and_repeatable() {
    let mean = (0..1000).map(|count| spread("node-1", count)).sum::<f64>() / 1000.0;
    assert!((0.45..0.55).contains(&mean));
    assert_eq!(spread("node-1", 7), spread("node-1", 7));
}

#[tokio::test(start_paused = true)]
async fn a_new_node_is_ready_once_it_has_its_csi_node() {
    let rig = Setup::new().start();
    rig.registered().await;
    let began = tokio::time::Instant::now();
    rig.api.wait_for(|_| (rig.ready().0 == "True").then_some(())).await;
    assert!(began.elapsed() < Duration::from_millis(500), "it waits for no tick: {:?}", began.elapsed());
    let uid = rig.node().unwrap().metadata.uid.unwrap();
    let first = ready_of(&rig.api.history::<Node>(&uid)[0]);
    assert_eq!(first, ("False".to_owned(), "CSINode is not yet initialized".to_owned()));
    assert!(rig.api.get::<k8s_openapi::api::storage::v1::CSINode>("", NAME).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_in_use_when_the_api_says_so_and_no_tick_is_waited_for() {
    let setup = Setup::new();
    let in_use = setup.in_use.clone();
    setup.api.create_json(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}}));
    setup.api.modify_status::<Node>("", NAME, |node| {
        let status = node.status.get_or_insert_default();
        status.volumes_in_use = Some(vec!["old".to_owned(), "left".to_owned()]);
    });
    let rig = setup.start();
    rig.api.wait_for(|_| (rig.ready().0 == "True").then_some(())).await;
    let told = || rig.node().unwrap().status.unwrap().volumes_in_use.unwrap_or_default();
    let began = tokio::time::Instant::now();
    in_use.hold("new").await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(told(), ["left", "new", "old"], "what an earlier run left stays until it is known");
    in_use.adopt(["left".to_owned()]);
    rig.api.wait_for(|_| (told() == ["left", "new"]).then_some(())).await;
    in_use.release("left");
    in_use.release("new");
    rig.api.wait_for(|_| told().is_empty().then_some(())).await;
    assert_eq!(rig.api.violations(), []);
}
