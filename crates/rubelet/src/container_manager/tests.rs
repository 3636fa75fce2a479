//! Shares of pods on a simulated machine, with the scripted runtime.

use std::collections::BTreeMap;
use std::path::Path;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Container;
use rubelet_config::{KubeletConfiguration, MemoryReservation, QuantityText};
use rubelet_core::node::capacity::ResourceAmounts;
use rubelet_core::quantity::Amount;
use rubelet_core::topology::{Cpu, Hint, MachineTopology, NumaNode, ProviderHints};
use rubelet_cri::v1;
use rubelet_testkit::scripted::{Op, RuntimeKind, ScriptedCri};
use serde_json::json;

use super::*;

const GI: u64 = 1 << 30;

/// Two NUMA nodes with four CPUs and 8 GiB each, no SMT.
fn machine() -> MachineTopology {
    let cpu = |id| Cpu { id, core: id, socket: id / 4, numa: id / 4, cache: id / 4 };
    let node = |id| NumaNode { id, memory: 8 * GI, ..NumaNode::default() };
    MachineTopology { cpus: (0..8).map(cpu).collect(), nodes: vec![node(0), node(1)] }
}

/// Static policies with CPU 0 and one GiB of node 0 reserved.
fn config(topology: &str, scope: &str) -> KubeletConfiguration {
    let limits = BTreeMap::from([("memory".to_owned(), QuantityText("1Gi".to_owned()))]);
    KubeletConfiguration {
        cpu_manager_policy: "static".into(),
        reserved_system_cpus: "0".into(),
        memory_manager_policy: "Static".into(),
        reserved_memory: vec![MemoryReservation { numa_node: 0, limits }],
        topology_manager_policy: topology.into(),
        topology_manager_scope: scope.into(),
        ..KubeletConfiguration::default()
    }
}

struct World {
    cri: ScriptedCri,
    metrics: Metrics,
    manager: ContainerManager,
}

fn world(dir: &Path, cri: &ScriptedCri, config: &KubeletConfiguration) -> World {
    world_with(dir, cri, config, vec![])
}

fn world_with(
    dir: &Path,
    cri: &ScriptedCri,
    config: &KubeletConfiguration,
    providers: Vec<Arc<dyn ContainerProvider>>,
) -> World {
    let kept = ResourceAmounts::from([("memory".to_owned(), Amount::parse("1Gi").unwrap())]);
    let metrics = Metrics::new();
    let manager = ContainerManager::new(ContainerParts {
        books: Books::new(config, machine(), &kept).unwrap(),
        providers,
        root_dir: dir.to_owned(),
        fs: FsPool::inline(),
        runtime: Arc::new(cri.clone()),
        period: Duration::from_secs(10),
        metrics: metrics.clone(),
    });
    World { cri: cri.clone(), metrics, manager }
}

fn pod(name: &str, containers: &[(&str, &str)]) -> Pod {
    let container = |(name, cpu): &(&str, &str)| {
        let list = json!({"cpu": cpu, "memory": "1Gi"});
        json!({"name": name, "resources": {"requests": list, "limits": list}})
    };
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"containers": containers.iter().map(container).collect::<Vec<_>>()},
    }))
    .unwrap()
}

fn uid(name: &str) -> PodUid {
    PodUid::from(name)
}

/// Starts a container with what the manager gives it.
async fn start(world: &World, pod: &str, container: &str) -> String {
    let labels: BTreeMap<String, String> =
        [(rubelet_core::labels::POD_UID, pod), (rubelet_core::labels::CONTAINER_NAME, container)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    let metadata = v1::PodSandboxMetadata {
        name: pod.to_owned(),
        uid: pod.to_owned(),
        namespace: "default".to_owned(),
        attempt: 0,
    };
    let sandbox = v1::PodSandboxConfig {
        metadata: Some(metadata),
        labels: labels.clone(),
        log_directory: format!("/logs/{pod}"),
        ..Default::default()
    };
    let request = v1::RunPodSandboxRequest { config: Some(sandbox.clone()), runtime_handler: String::new() };
    let pod_sandbox_id = world.cri.run_pod_sandbox(request).await.unwrap().pod_sandbox_id;
    let share = world.manager.share(&uid(pod), container);
    let resources = v1::LinuxContainerResources {
        cpuset_cpus: share.cpus.map(|cpus| cpus.to_string()).unwrap_or_default(),
        cpuset_mems: share.memory_nodes.map(|nodes| nodes.to_string()).unwrap_or_default(),
        ..Default::default()
    };
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.to_owned(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: "busybox:1".to_owned(), ..Default::default() }),
        labels,
        log_path: format!("{container}/0.log"),
        linux: Some(v1::LinuxContainerConfig { resources: Some(resources), ..Default::default() }),
        ..Default::default()
    };
    let request =
        v1::CreateContainerRequest { pod_sandbox_id, config: Some(config), sandbox_config: Some(sandbox) };
    let container_id = world.cri.create_container(request).await.unwrap().container_id;
    world.manager.before_start(&uid(pod), container).await.unwrap();
    let request = v1::StartContainerRequest { container_id: container_id.clone() };
    world.cri.start_container(request).await.unwrap();
    container_id
}

fn cpuset(cri: &ScriptedCri, id: &str) -> String {
    cri.container_config(id).unwrap().linux.unwrap().resources.unwrap().cpuset_cpus
}

/// Lets time of the paused clock pass until it is so: an update of a container wakes nobody.
async fn until(cri: &ScriptedCri, so: impl Fn(&ScriptedCri) -> bool) {
    for _ in 0..1000 {
        if so(cri) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it does not come");
}

fn runtime() -> ScriptedCri {
    let cri = ScriptedCri::new(RuntimeKind::Containerd2);
    cri.add_image("busybox:1", 700);
    cri
}

/// What is written of the CPUs of pods.
fn written(dir: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(dir.join("cpu_manager_state")).unwrap();
    serde_json::from_str::<serde_json::Value>(&text).unwrap()["entries"].clone()
}

#[tokio::test(start_paused = true)]
async fn the_shared_cpus_move_away_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path(), &runtime(), &config("none", "container"));
    let task = tokio::spawn(world.manager.clone().run());
    let shared = start(&world, "shared", "main").await;
    assert_eq!(cpuset(&world.cri, &shared), "0-7");
    let pinned = pod("pinned", &[("main", "2"), ("side", "500m")]);
    world.manager.allocate(&pinned).await.unwrap();
    let share = world.manager.share(&uid("pinned"), "main");
    let own = share.cpus.unwrap();
    assert_eq!(
        (own.len(), share.exclusive_cpus, world.manager.has_exclusive_cpus(&uid("pinned"))),
        (2, true, true)
    );
    assert_eq!(share.memory_nodes.map(|nodes| nodes.count()), Some(1));
    let side = world.manager.share(&uid("pinned"), "side");
    assert!(!side.exclusive_cpus && side.cpus.as_ref().is_some_and(|cpus| cpus.is_disjoint(&own)));
    // Before the pod begins those that share are elsewhere.
    until(&world.cri, |cri| cpuset(cri, &shared).parse::<CpuSet>().unwrap().is_disjoint(&own)).await;
    assert_eq!(written(dir.path())["pinned"]["main"], own.to_string());
    // Again nothing changes.
    let calls = world.cri.calls_of(Op::UpdateContainerResources);
    world.manager.allocate(&pinned).await.unwrap();
    assert_eq!(world.manager.cpus(&uid("pinned"), "main"), own);
    assert_eq!(world.manager.memory(&uid("pinned"), "main")[0].1, GI);
    world.manager.sweep(|known| *known != uid("pinned")).await;
    until(&world.cri, |cri| cpuset(cri, &shared) == "0-7").await;
    assert_eq!(world.cri.calls_of(Op::UpdateContainerResources), calls + 1);
    assert!(world.manager.cpus(&uid("pinned"), "main").is_empty());
    // At rest nothing is asked.
    let calls = world.cri.calls();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.cri.calls(), calls);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_moved_is_moved_later() {
    use rubelet_cri::CriErrorKind;
    use rubelet_testkit::scripted::Fault;
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path(), &runtime(), &config("none", "container"));
    let shared = start(&world, "shared", "main").await;
    world.cri.inject(Op::UpdateContainerResources, Fault::ErrorBefore(CriErrorKind::Unreachable), 2);
    let task = tokio::spawn(world.manager.clone().run());
    world.manager.allocate(&pod("pinned", &[("main", "2")])).await.unwrap();
    until(&world.cri, |cri| cpuset(cri, &shared) != "0-7").await;
    assert_eq!(world.cri.calls_of(Op::UpdateContainerResources), 3);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn another_agent_knows_what_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let cri = runtime();
    let pinned = pod("pinned", &[("main", "2")]);
    let before = world(dir.path(), &cri, &config("none", "container"));
    before.manager.allocate(&pinned).await.unwrap();
    start(&before, "pinned", "main").await;
    let own = before.manager.cpus(&uid("pinned"), "main");
    let memory = before.manager.memory(&uid("pinned"), "main");
    // With its files, with a damaged one, and with none: what runs tells.
    for damage in [None, Some("{\"policyName\":\"static\",\"checksum\":1}"), Some("")] {
        if let Some(text) = damage {
            for name in ["cpu_manager_state", "memory_manager_state"] {
                std::fs::write(dir.path().join(name), text).unwrap();
            }
        }
        let after = world(dir.path(), &cri, &config("none", "container"));
        after.manager.adopt(&pinned, &BTreeSet::from(["main"])).await;
        assert_eq!(after.manager.cpus(&uid("pinned"), "main"), own, "{damage:?}");
        assert_eq!(after.manager.memory(&uid("pinned"), "main"), memory, "{damage:?}");
        let other = pod("other", &[("main", "3")]);
        after.manager.allocate(&other).await.unwrap();
        assert!(after.manager.cpus(&uid("other"), "main").is_disjoint(&own));
        assert_eq!(written(dir.path())["pinned"]["main"], own.to_string());
        after.manager.sweep(|known| *known == uid("pinned")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_rejected_for_what_gone_pods_had() {
    let dir = tempfile::tempdir().unwrap();
    let cri = runtime();
    let before = world(dir.path(), &cri, &config("none", "container"));
    before.manager.allocate(&pod("gone", &[("main", "5")])).await.unwrap();
    let after = world(dir.path(), &cri, &config("none", "container"));
    let large = pod("large", &[("main", "4")]);
    let waits = after.manager.allocate(&large).await.unwrap_err();
    assert!(matches!(waits, Unallocated::Waiting(_)), "{waits:?}");
    after.manager.sweep(|known| *known == uid("large")).await;
    after.manager.allocate(&large).await.unwrap();
    let refused = after.manager.allocate(&pod("larger", &[("main", "4")])).await.unwrap_err();
    let Unallocated::Rejected(problem) = refused else { panic!("{refused:?}") };
    assert_eq!(problem.reason, "UnexpectedAdmissionError");
    assert!(after.manager.cpus(&uid("larger"), "main").is_empty());
    assert_eq!(after.metrics.node.topology_errors.get(), 1);
    assert_eq!(after.metrics.node.cpu_errors.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_place_for_a_container_and_for_a_pod() {
    let dir = tempfile::tempdir().unwrap();
    let wide = pod("wide", &[("main", "5")]);
    let two = pod("two", &[("one", "3"), ("two", "3")]);
    for (scope, boundary) in [("container", "container"), ("pod", "pod")] {
        let it = world(&dir.path().join(scope), &runtime(), &config("single-numa-node", scope));
        let Err(Unallocated::Rejected(problem)) = it.manager.allocate(&wide).await else { panic!() };
        assert_eq!(problem.reason, "TopologyAffinityError");
        assert_eq!(problem.message, "Resources cannot be allocated with Topology locality");
        assert_eq!(it.metrics.node.misaligned.with([boundary, "numa_node"]).get(), 1);
        let placed = it.manager.allocate(&two).await;
        // Three and three CPUs are on two nodes.
        assert_eq!(placed.is_ok(), scope == "container", "{placed:?}");
        let count = if scope == "container" { 2 } else { 0 };
        assert_eq!(it.metrics.node.aligned.with([boundary, "numa_node"]).get(), count);
        assert_eq!(it.metrics.node.topology_requests.get(), 2);
        assert!(it.metrics.render_kubelet(None).contains("kubelet_cpu_manager_allocation_per_numa"));
    }
}

/// A manager of one device on node 1, which is not there at first.
#[derive(Default)]
struct OneDevice {
    there: AtomicBool,
    of: Mutex<Option<(PodUid, Hint)>>,
}

impl ContainerProvider for OneDevice {
    fn concerns(&self, pod: &Pod) -> bool {
        pod.metadata.name.as_deref() == Some("with-device")
    }
    fn hints(&self, _: &Pod, _: &Container) -> ProviderHints {
        let hint = Hint { nodes: Some(NumaMask::from_bits(2)), preferred: true };
        ProviderHints::from([("example.com/device".to_owned(), Some(vec![hint]))])
    }
    fn allocate<'a>(
        &'a self,
        pod: &'a Pod,
        _: &'a Container,
        affinity: Hint,
    ) -> BoxFuture<'a, Result<(), Unallocated>> {
        async move {
            if !self.there.load(Ordering::Relaxed) {
                return Err(Unallocated::Waiting("its plugin is not there".to_owned()));
            }
            *self.of.lock().unwrap() = Some((uid(pod.metadata.uid.as_deref().unwrap()), affinity));
            Ok(())
        }
        .boxed()
    }
    fn share(&self, of: &PodUid, _: &str) -> ContainerShare {
        let is_it = self.of.lock().unwrap().as_ref().is_some_and(|(uid, _)| uid == of);
        let cdi_devices = if is_it { vec!["example.com/device=0".to_owned()] } else { vec![] };
        ContainerShare { cdi_devices, ..ContainerShare::default() }
    }
    fn before_start<'a>(&'a self, of: &'a PodUid, container: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async move { Err(format!("{of}/{container} is not ready")) }.boxed()
    }
    fn sweep(&self, known: &dyn Fn(&PodUid) -> bool) {
        let mut of = self.of.lock().unwrap();
        if of.as_ref().is_some_and(|(uid, _)| !known(uid)) {
            *of = None;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn devices_draw_cpus_and_memory_to_their_node() {
    let dir = tempfile::tempdir().unwrap();
    let device = Arc::new(OneDevice::default());
    let providers: Vec<Arc<dyn ContainerProvider>> = vec![device.clone()];
    let it = world_with(dir.path(), &runtime(), &config("restricted", "container"), providers);
    let wants = pod("with-device", &[("main", "2")]);
    let waits = it.manager.allocate(&wants).await.unwrap_err();
    assert_eq!(waits, Unallocated::Waiting("its plugin is not there".to_owned()));
    device.there.store(true, Ordering::Relaxed);
    it.manager.allocate(&wants).await.unwrap();
    let share = it.manager.share(&uid("with-device"), "main");
    assert_eq!(share.cdi_devices, ["example.com/device=0"]);
    assert!(share.cpus.unwrap().is_subset(&CpuSet::from([4, 5, 6, 7])));
    assert_eq!(share.memory_nodes, Some(NumaMask::from_bits(2)));
    let problem = it.manager.before_start(&uid("with-device"), "main").await.unwrap_err();
    assert_eq!(problem, "with-device/main is not ready");
    // One that has no wishes waits for nobody.
    let turn = it.manager.0.turn.lock().await;
    let plain: Pod = serde_json::from_value(json!({
        "metadata": {"name": "plain", "uid": "plain"}, "spec": {"containers": [{"name": "main"}]},
    }))
    .unwrap();
    it.manager.allocate(&plain).await.unwrap();
    drop(turn);
    it.manager.sweep(|_| false).await;
    assert_eq!(it.manager.share(&uid("with-device"), "main").cdi_devices, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn nobody_stays_pinned_by_a_policy_that_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let cri = runtime();
    let before = world(dir.path(), &cri, &config("none", "container"));
    before.manager.allocate(&pod("pinned", &[("main", "2")])).await.unwrap();
    let id = start(&before, "pinned", "main").await;
    for expected in [1, 1] {
        let after = world(dir.path(), &cri, &KubeletConfiguration::default());
        let task = tokio::spawn(after.manager.clone().run());
        until(&cri, |cri| cpuset(cri, &id) == "0-7").await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(cri.calls_of(Op::UpdateContainerResources), expected);
        assert_eq!(after.manager.share(&uid("pinned"), "main"), ContainerShare::default());
        task.abort();
    }
}

#[test]
fn what_cannot_be_on_this_machine_is_refused() {
    let refused = |change: fn(&mut KubeletConfiguration), memory: &str| {
        let mut config = config("restricted", "container");
        change(&mut config);
        let kept = ResourceAmounts::from([
            ("memory".to_owned(), Amount::parse(memory).unwrap()),
            ("cpu".to_owned(), Amount::parse("500m").unwrap()),
        ]);
        Books::new(&config, machine(), &kept).map(drop).unwrap_err()
    };
    for (problem, expected) in [
        (refused(|_| {}, "2Gi"), "is not equal to the value 2147483648"),
        (refused(|c| c.reserved_memory[0].numa_node = 5, "1Gi"), "a NUMA node 5 that does not exist"),
        (refused(|c| c.reserved_memory[0].numa_node = -1, "1Gi"), "that does not exist"),
        (refused(|c| c.reserved_system_cpus = "0,64".into(), "1Gi"), "reserved CPUs 64 are not online"),
        (refused(|c| c.reserved_system_cpus = "zero".into(), "1Gi"), "reservedSystemCPUs: \"zero\""),
        (refused(|c| c.topology_manager_scope = "rack".into(), "1Gi"), "topologyManagerScope"),
    ] {
        assert!(problem.contains(expected), "{problem}");
    }
}
