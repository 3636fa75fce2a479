//! What a living agent counts. Real agent, fake API, scripted runtime, paused clock: a start with a pull, an init
//! container and a container that fails, a pod that is not admitted, one that only the runtime knows.

mod in_process;

use std::sync::Arc;
use std::time::Duration;

use in_process::until;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use rubelet::clock::Clock;
use rubelet::metrics::Metrics;
use rubelet::node_agent::NodeFlags;
use rubelet_core::stats::exposition::{ParsedFamily, parse};
use rubelet_testkit::scripted::{BASE_SECOND, Behaviour, PullScript, RuntimeKind};
use rubelet_testkit::{FakeApi, ScriptedCri};
use serde_json::{Value, json};
use tempfile::TempDir;

const NODE: &str = "n1";

struct World {
    api: FakeApi,
    cri: ScriptedCri,
    metrics: Metrics,
    _dir: TempDir,
}

impl World {
    async fn start(cri: ScriptedCri) -> Self {
        let dir = tempfile::tempdir().expect("a world of the test's own");
        let root = dir.path().join("root");
        let api = FakeApi::new();
        let base = Timestamp::from_second(BASE_SECOND).expect("a world of the test's own");
        let agent = in_process::agent(in_process::config(&root), &root, NODE, Clock::simulated(base));
        let runtime = Arc::new(cri.clone());
        let kubelet = in_process::join(agent, &api, NODE, NodeFlags::default())
            .runtime(runtime.clone(), runtime)
            .build()
            .await
            .expect("a world of the test's own");
        let metrics = kubelet.handle().metrics();
        tokio::spawn(kubelet.run(std::future::pending()));
        Self { api, cri, metrics, _dir: dir }
    }

    fn create(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = json!(NODE);
        self.api.create_json(&json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"}, "spec": spec}));
    }

    fn phase(&self, name: &str) -> String {
        let pod: Option<Pod> = self.api.get("default", name);
        pod.and_then(|pod| pod.status?.phase).unwrap_or_default()
    }

    fn page(&self) -> Vec<ParsedFamily> {
        let page = self.metrics.render_kubelet(None);
        parse(&page).expect("a page that can be read")
    }

    /// The value of the sample with this name and these labels; 0 when there is none.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.page();
        let samples = families.iter().flat_map(|family| &family.samples);
        let found = samples
            .filter(|sample| sample.name == name)
            .find(|sample| labels.iter().all(|(label, value)| sample.label(label) == Some(value)));
        found.map_or(0.0, |sample| sample.value)
    }

    fn check(&self, name: &str, labels: &[(&str, &str)], expected: f64) {
        assert_eq!(self.value(name, labels), expected, "{name} {labels:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_is_counted_with_its_pulls_and_containers() {
    let cri = ScriptedCri::new(RuntimeKind::Containerd2);
    cri.script_pull("web:1", [PullScript::takes(Duration::from_secs(7))]);
    cri.script_container("web", "prepare", [Behaviour::exits(Duration::from_secs(5), 0)]);
    cri.add_image("here:1", 300_000);
    let world = World::start(cri).await;
    let registered = "kubelet_node_startup_registration_duration_seconds";
    until("the node is there", || world.page().iter().any(|family| family.name == registered)).await;
    world.create(
        "web",
        json!({
            "initContainers": [{"name": "prepare", "image": "here:1"}],
            "containers": [{"name": "app", "image": "web:1"}, {"name": "beside", "image": "here:1"}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        }),
    );
    until("it runs", || world.phase("web") == "Running").await;
    tokio::time::sleep(Duration::from_secs(5)).await;

    world.check("kubelet_started_pods_total", &[], 1.0);
    world.check("kubelet_started_pods_errors_total", &[], 0.0);
    world.check("kubelet_started_containers_total", &[("container_type", "container")], 2.0);
    world.check("kubelet_started_containers_total", &[("container_type", "init_container")], 1.0);
    let ended = [("container_type", "init_container"), ("exit_code", "0"), ("reason", "Completed")];
    world.check("kubelet_terminated_containers_total", &ended, 1.0);
    world.check("kubelet_image_pull_duration_seconds_count", &[], 1.0);
    let images = "kubelet_image_manager_ensure_image_requests_total";
    let asked = |present, pull| {
        [("pull_policy", "ifnotpresent"), ("present_locally", present), ("pull_required", pull)]
    };
    world.check(images, &asked("false", "true"), 1.0);
    world.check(images, &asked("true", "false"), 2.0);
    world.check("kubelet_containers_per_pod_count_sum", &[], 2.0);
    world.check("kubelet_pod_worker_start_duration_seconds_count", &[], 1.0);
    world.check("kubelet_pod_worker_duration_seconds_count", &[("operation_type", "create")], 1.0);
    world.check("kubelet_pod_start_duration_seconds_count", &[], 1.0);
    world.check("kubelet_runtime_operations_total", &[("operation_type", "run_podsandbox")], 1.0);
    world.check("kubelet_runtime_operations_total", &[("operation_type", "create_container")], 3.0);
    world.check("kubelet_run_podsandbox_duration_seconds_count", &[("runtime_handler", "")], 1.0);
    world.check("kubelet_running_pods", &[], 1.0);
    world.check("kubelet_running_containers", &[("container_state", "running")], 2.0);
    world.check("kubelet_desired_pods", &[("static", "")], 1.0);
    let sync = [("lifecycle", "sync"), ("config", "desired"), ("static", "")];
    world.check("kubelet_working_pods", &sync, 1.0);
    world.check("kubelet_evented_pleg_connection_success_count", &[], 1.0);
    let mount = [("volume_plugin", "kubernetes.io/empty-dir"), ("status", "success")];
    assert!(world.value("storage_operation_duration_seconds_count", &mount) >= 1.0);
    let volumes = [("plugin_name", "kubernetes.io/empty-dir"), ("state", "actual_state_of_world")];
    world.check("volume_manager_total_volumes", &volumes, 1.0);
    assert!(world.value("kubelet_pod_status_sync_duration_seconds_count", &[]) >= 2.0);
    assert!(world.value("kubelet_pleg_relist_duration_seconds_count", &[]) >= 2.0);
    assert!(world.value("kubelet_pleg_pod_relist_duration_seconds_count", &[]) >= 2.0);
    assert!(world.value("kubelet_pleg_last_seen_seconds", &[]) >= BASE_SECOND as f64);
    // Of the time until it ran, its pull of 7 s, beside which the init container had begun, is not the node's.
    let total = world.value("kubelet_pod_start_total_duration_seconds_sum", &[]);
    let indicator = world.value("kubelet_pod_start_sli_duration_seconds_sum", &[]);
    world.check("kubelet_pod_start_sli_duration_seconds_count", &[], 1.0);
    assert!(total >= 7.0 && indicator <= total - 7.0, "{total} {indicator}");

    world.api.delete_with_grace::<Pod>("default", "web", 30);
    until("nothing of it is left", || world.cri.is_empty()).await;
    world.check("kubelet_desired_pods", &[("static", "")], 0.0);
    world.check("kubelet_pod_worker_duration_seconds_count", &[("operation_type", "terminated")], 1.0);
    let ended = [("container_type", "container"), ("exit_code", "143")];
    world.check("kubelet_terminated_containers_total", &ended, 2.0);
}

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_is_counted_by_its_reason() {
    let cri = ScriptedCri::new(RuntimeKind::Containerd16);
    cri.script_container("bad", "app", [Behaviour::cannot_start("no such file")]);
    let world = World::start(cri).await;
    world.create("bad", json!({"containers": [{"name": "app", "image": "web:1"}]}));
    world.create(
        "big",
        json!({"containers": [{"name": "app", "image": "web:1",
        "resources": {"requests": {"cpu": "1k"}}}]}),
    );
    until("it was tried", || {
        let failed = [("container_type", "container"), ("code", "RunContainerError")];
        world.value("kubelet_started_containers_errors_total", &failed) >= 1.0
    })
    .await;
    until("it was rejected", || world.phase("big") == "Failed").await;
    world.check("kubelet_admission_rejections_total", &[("reason", "OutOfcpu")], 1.0);
    assert!(
        world.value("kubelet_runtime_operations_errors_total", &[("operation_type", "start_container")])
            >= 1.0
    );
    // This runtime has no events.
    world.check("kubelet_evented_pleg_connection_success_count", &[], 0.0);
    world.check("kubelet_active_pods", &[("static", "")], 1.0);
    world.check("kubelet_desired_pods", &[("static", "")], 2.0);
}
