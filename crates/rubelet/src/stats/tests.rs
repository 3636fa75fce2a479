//! The collector over a scripted runtime, and a tree of files that stands for control groups and pods.

use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::PodStatus;
use rubelet_core::Pod;
use rubelet_core::lifecycle::PodState;
use rubelet_core::resources::CgroupDriver;
use rubelet_cri::v1;
use rubelet_server::metrics::Metrics;
use rubelet_testkit::pods;
use rubelet_testkit::scripted::{Op, RuntimeKind, ScriptedCri};

use super::*;

/// A node with one pod `default/web` of one container.
struct World {
    cri: ScriptedCri,
    root: tempfile::TempDir,
    sources: Sources,
    pod: Arc<Pod>,
    sandbox: String,
    container: String,
    _runtime_state: watch::Sender<RuntimeState>,
}

impl World {
    async fn new(clock: Clock) -> Self {
        let cri = ScriptedCri::new(RuntimeKind::Containerd2);
        cri.add_image("busybox:1", 700);
        let runtime: Arc<dyn RuntimeService> = Arc::new(cri.clone());
        let pool = FsPool::inline();
        let pod = pods::pod("web").container(pods::container("app")).empty_dir("v").build();
        let (sandbox, container) = start(&*runtime).await;
        let pleg = Pleg::new(runtime.clone(), pool.clone(), Metrics::new(), clock.clone());
        let uid = PodUid::from("web-uid");
        pleg.observe(&uid).await.unwrap();
        let pod = Arc::new(pod);
        let table = PodTable::default();
        let row =
            PodRow { pod: pod.clone(), status: Arc::new(PodStatus::default()), state: PodState::Syncing };
        table.publish(&uid, row.clone());
        // One of which nothing runs.
        table.publish(&PodUid::from("idle-uid"), row);
        let (sender, runtime_state) = watch::channel(RuntimeState::default());
        let root = tempfile::tempdir().unwrap();
        let sources = Sources {
            clock,
            fs: pool.clone(),
            runtime,
            images: Arc::new(cri.clone()),
            pleg,
            table,
            volumes: Volumes::new(pool, None, None),
            runtime_state,
            figures: None,
        };
        let world = Self { cri, root, sources, pod, sandbox, container, _runtime_state: sender };
        world.write_groups();
        world.write_files();
        world
    }

    fn settings(&self) -> StatsSettings {
        StatsSettings {
            node_name: "node".into(),
            root_dir: self.root.path().join("root"),
            pod_logs_dir: self.root.path().join("logs"),
            cgroups: CgroupRoot { root: "/".into(), per_qos: true, driver: CgroupDriver::Cgroupfs },
            cgroup_mount: self.root.path().join("cgroup"),
            machine: None,
            kubelet_group: "/agent".into(),
            runtime_group: String::new(),
            system_group: String::new(),
            volume_period: Some(Duration::from_secs(60)),
            volume_health: false,
        }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn write_groups(&self) {
        self.write("cgroup/cgroup.controllers", "");
        self.write("cgroup/memory.stat", "anon 3000\nfile 1000\ninactive_file 500\n");
        let pod = "/kubepods/besteffort/podweb-uid";
        let (sandbox, container) = (format!("{pod}/{}", self.sandbox), format!("{pod}/{}", self.container));
        for path in ["", "/kubepods", "/kubepods/besteffort", "/agent", pod, &sandbox, &container] {
            self.write(&format!("cgroup{path}/cpu.stat"), "usage_usec 1000000\n");
            if !path.is_empty() {
                self.write(&format!("cgroup{path}/memory.current"), "100\n");
            }
            self.write(&format!("cgroup{path}/cgroup.procs"), "");
        }
        // This process stands for the pause process.
        self.write(&format!("cgroup{sandbox}/cgroup.procs"), &std::process::id().to_string());
    }

    fn write_files(&self) {
        self.write("root/pods/web-uid/etc-hosts", "x");
        self.write("root/pods/web-uid/volumes/kubernetes.io~empty-dir/v/file", "x");
        self.write("logs/default_web_web-uid/app/0.log", "x");
    }
}

/// Starts the pod in the runtime; the IDs of sandbox and container.
async fn start(runtime: &dyn RuntimeService) -> (String, String) {
    let labels: std::collections::BTreeMap<String, String> = [
        ("io.kubernetes.pod.name", "web"),
        ("io.kubernetes.pod.namespace", "default"),
        ("io.kubernetes.pod.uid", "web-uid"),
        ("io.kubernetes.container.name", "app"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web".into(),
            uid: "web-uid".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        labels: labels.clone(),
        log_directory: "/logs/web".into(),
        ..Default::default()
    };
    let request = v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
    let sandbox = runtime.run_pod_sandbox(request).await.unwrap().pod_sandbox_id;
    let container = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "app".into(), attempt: 2 }),
        image: Some(v1::ImageSpec { image: "busybox:1".into(), ..Default::default() }),
        labels,
        log_path: "app/2.log".into(),
        ..Default::default()
    };
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(container),
        sandbox_config: Some(config),
    };
    let container = runtime.create_container(request).await.unwrap().container_id;
    let request = v1::StartContainerRequest { container_id: container.clone() };
    runtime.start_container(request).await.unwrap();
    (sandbox, container)
}

#[tokio::test(start_paused = true)]
async fn everything_of_a_node_comes_together() {
    let world = World::new(Clock::system()).await;
    let collector = Collector::new(world.sources.clone(), world.settings());
    let usage = collector.usage(Extent::Everything).await;
    assert_eq!(usage.problems, Vec::<String>::new());
    assert_eq!((usage.node_name.as_str(), usage.root.memory.as_ref().unwrap().working_set), ("node", 3500));
    assert_eq!(usage.memory_available, Some(usage.machine.memory - 3500));
    assert!(usage.machine.cpus > 0 && usage.boot_time.is_some() && usage.pids.is_some());
    let system: Vec<_> = usage.system.iter().map(|group| (group.name, group.group.path.as_str())).collect();
    assert_eq!(system, [("kubelet", "/agent"), ("pods", "/kubepods")]);
    assert_eq!(usage.other_groups.len(), 1);
    assert!(usage.fs.as_ref().unwrap().capacity > Some(0));
    assert_eq!(usage.image_fs.as_ref().unwrap().used, Some(700));
    assert!(usage.container_fs.is_none() && usage.network.is_some());
    let [pod] = usage.pods.as_slice() else { panic!("{:?}", usage.pods) };
    assert!(Arc::ptr_eq(&pod.pod, &world.pod));
    assert_eq!((pod.sandbox_id.as_str(), pod.started_at.is_some()), (world.sandbox.as_str(), true));
    assert_eq!(pod.group.as_ref().unwrap().path, "/kubepods/besteffort/podweb-uid");
    assert_eq!(pod.sandbox_group.as_ref().unwrap().processes.as_ref().unwrap().processes, 1);
    assert!(pod.network.is_some());
    assert!(pod.other_ephemeral.as_ref().unwrap().inodes_used == Some(1));
    let [container] = pod.containers.as_slice() else { panic!("{:?}", pod.containers) };
    assert_eq!((container.name.as_str(), container.id.as_str()), ("app", world.container.as_str()));
    assert_eq!((container.attempt, container.started_at.is_some()), (2, true));
    assert_eq!(container.group.as_ref().unwrap().cpu.as_ref().unwrap().total, 1_000_000_000);
    assert_eq!(container.rootfs.as_ref().unwrap().used, Some(4096));
    assert_eq!(container.logs.as_ref().unwrap().inodes_used, Some(1));
    // Volumes are measured beside the questions.
    loop {
        tokio::time::advance(FRESH).await;
        let usage = collector.usage(Extent::Summary).await;
        if let [volume] = usage.pods[0].volumes.as_slice() {
            assert_eq!((volume.name.as_str(), volume.fs.inodes_used, volume.ephemeral), ("v", Some(2), true));
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_is_answered_from_a_fresh_reading_that_holds_enough() {
    let world = World::new(Clock::system()).await;
    let collector = Collector::new(world.sources.clone(), world.settings());
    let (one, two) = futures::join!(collector.usage(Extent::Summary), collector.usage(Extent::Summary));
    assert!(Arc::ptr_eq(&one, &two));
    let small = collector.usage(Extent::CpuAndMemory).await;
    assert!(Arc::ptr_eq(&one, &small));
    assert!(!Arc::ptr_eq(&one, &collector.usage(Extent::Everything).await));
    tokio::time::advance(FRESH).await;
    let calls = world.cri.calls();
    let small = collector.usage(Extent::CpuAndMemory).await;
    assert!(!Arc::ptr_eq(&one, &small));
    assert!(small.fs.is_none() && small.network.is_none() && small.pods[0].containers[0].rootfs.is_none());
    assert!(small.pods[0].containers[0].group.is_some());
    assert_eq!(world.cri.calls(), calls, "the runtime is not asked for CPU and memory");
    let stored = collector.usage(Extent::Storage).await;
    assert!(stored.pods[0].containers[0].logs.is_some() && stored.pods[0].group.is_none());
    assert_eq!(world.cri.calls(), calls, "nor for logs and volumes");
    assert!(Arc::ptr_eq(&small, &collector.usage(Extent::CpuAndMemory).await));
    tokio::time::advance(FRESH).await;
    collector.usage(Extent::Storage).await;
    assert!(collector.usage(Extent::CpuAndMemory).await.pods[0].group.is_some(), "storage has no groups");
    let summary = collector.usage(Extent::Summary).await;
    tokio::time::advance(FRESH / 2).await;
    assert!(Arc::ptr_eq(&summary, &collector.usage(Extent::Summary).await));
    tokio::time::advance(FRESH / 2).await;
    assert!(!Arc::ptr_eq(&summary, &collector.usage(Extent::Storage).await));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_when_nobody_asks() {
    let world = World::new(Clock::system()).await;
    let collector = Collector::new(world.sources.clone(), world.settings());
    collector.usage(Extent::Everything).await;
    let stats = world.cri.calls_of(Op::ListContainerStats);
    assert!(collector.0.kept().readings.iter().any(Option::is_some));
    tokio::time::sleep(FRESH * 2).await;
    assert!(collector.0.kept().readings.iter().all(Option::is_none));
    assert!(collector.0.kept().attendant.is_some());
    tokio::time::sleep(IDLE).await;
    assert!(collector.0.kept().attendant.is_none());
    assert_eq!(world.cri.calls_of(Op::ListContainerStats), stats, "nothing was read meanwhile");
    assert_eq!(collector.usage(Extent::Everything).await.pods.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_missing_and_told() {
    let world = World::new(Clock::system()).await;
    let mut settings = world.settings();
    settings.cgroup_mount = Path::new("/nowhere").to_owned();
    settings.pod_logs_dir = world.root.path().join("none");
    settings.volume_period = None;
    let collector = Collector::new(world.sources.clone(), settings);
    let usage = collector.usage(Extent::Everything).await;
    assert_eq!(usage.problems, ["there are no control groups at /nowhere"]);
    let container = &usage.pods[0].containers[0];
    assert!(container.group.is_none() && container.rootfs.is_some());
    assert_eq!(container.logs.as_ref().unwrap().used, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_simulation_has_no_machine_to_read() {
    let world = World::new(Clock::simulated(Timestamp::UNIX_EPOCH)).await;
    let collector = Collector::new(world.sources.clone(), world.settings());
    let calls = world.cri.calls();
    let usage = collector.usage(Extent::Everything).await;
    assert_eq!((usage.node_name.as_str(), usage.pods.len(), usage.problems.len()), ("node", 0, 0));
    assert_eq!(world.cri.calls(), calls);
}
