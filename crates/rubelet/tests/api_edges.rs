//! The agent where what it knows ends: an API server that is away while manifests change, a node taken over from
//! another agent. Real agent, fake API, scripted runtime, paused clock.

mod in_process;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use in_process::until;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use rubelet::KubeletConfiguration;
use rubelet::clock::Clock;
use rubelet::node_agent::NodeFlags;
use rubelet_cri::{RuntimeService, v1};
use rubelet_testkit::fake_api::{Failure, Fault, Outage};
use rubelet_testkit::scripted::{BASE_SECOND, Behaviour, RuntimeKind};
use rubelet_testkit::{FakeApi, ScriptedCri};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

const NODE: &str = "n1";

/// A node, its cluster and where the agent keeps its things.
struct World {
    api: FakeApi,
    cri: ScriptedCri,
    dir: TempDir,
    clock: Clock,
    flags: NodeFlags,
}

/// A living agent; dropped it is gone.
struct Agent(JoinHandle<Result<(), String>>);

impl Agent {
    async fn stop(self) {
        self.0.abort();
        let _ = self.0.await;
        // What it owned goes with it, task by task.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a world of the test's own");
        std::fs::create_dir(dir.path().join("manifests")).expect("a world of the test's own");
        Self {
            api: FakeApi::new(),
            cri: ScriptedCri::new(RuntimeKind::Containerd2),
            dir,
            clock: Clock::simulated(Timestamp::from_second(BASE_SECOND).expect("a world of the test's own")),
            flags: NodeFlags::default(),
        }
    }

    async fn start(&self, root: &str) -> Agent {
        let root = self.dir.path().join(root);
        let config = KubeletConfiguration {
            static_pod_path: self.manifests().display().to_string(),
            ..in_process::config(&root)
        };
        let agent = in_process::agent(config, &root, NODE, self.clock.clone());
        let runtime = Arc::new(self.cri.clone());
        let builder =
            in_process::join(agent, &self.api, NODE, self.flags.clone()).runtime(runtime.clone(), runtime);
        let kubelet = builder.build().await.expect("a world of the test's own");
        Agent(tokio::spawn(kubelet.run(std::future::pending())))
    }

    fn manifests(&self) -> std::path::PathBuf {
        self.dir.path().join("manifests")
    }

    /// Writes the manifest of the static pod `proxy`.
    fn manifest(&self, uid: &str, spec: Value) {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "proxy", "uid": uid}, "spec": spec});
        pod["spec"]["containers"] = json!([{"name": "app", "image": "proxy:1"}]);
        write(&self.manifests().join("proxy.json"), &pod.to_string());
    }

    fn create(&self, spec: Value) {
        self.api.create_json(
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default"}, "spec": spec}),
        );
    }

    fn web(&self) -> Option<Pod> {
        self.api.get("default", "web")
    }

    /// A word of the status of `web`, by its JSON pointer; empty when it is not there.
    fn status(&self, pointer: &str) -> String {
        let status =
            serde_json::to_value(self.web().and_then(|pod| pod.status)).expect("a world of the test's own");
        status.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    fn runs(&self, uid: &str) -> bool {
        self.cri.running_containers().iter().any(|running| running.subject.pod_uid == uid)
    }
}

/// As an editor does: a whole file takes the place of the other.
fn write(path: &Path, text: &str) {
    let temporary = path.with_extension("tmp~");
    std::fs::write(&temporary, text).expect("a world of the test's own");
    std::fs::rename(&temporary, path).expect("a world of the test's own");
}

/// A control plane that a bad manifest took down is mended by a better manifest: nobody can ask the API server.
#[tokio::test(start_paused = true)]
async fn a_manifest_that_changed_while_no_agent_ran_counts_without_the_api_server() {
    let world = World::new();
    world.manifest("old", json!({}));
    let agent = world.start("root").await;
    until("the first manifest runs", || world.runs("old")).await;
    agent.stop().await;
    world.api.outage(Outage::Refuse);
    assert!(world.cri.end_container("proxy-n1", "app", 1));
    world.manifest("new", json!({}));
    let _agent = world.start("root").await;
    until("the new manifest runs", || world.runs("new")).await;
    world.api.outage(Outage::None);
    until("the old one is gone", || world.cri.sandboxes_of("proxy-n1").len() == 1).await;
    assert!(world.runs("new"));
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_changes_under_the_agent_counts_without_the_api_server() {
    let world = World::new();
    world.api.outage(Outage::Refuse);
    world.manifest("old", json!({}));
    let _agent = world.start("root").await;
    until("the first manifest runs", || world.runs("old")).await;
    world.manifest("new", json!({}));
    until("the new manifest runs", || world.runs("new")).await;
    assert!(!world.runs("old"));
}

/// Until its Node can be read the node is what its flags say, as for upstream.
#[tokio::test(start_paused = true)]
async fn a_manifest_may_ask_for_labels_of_the_flags_without_the_api_server() {
    let world = World {
        flags: NodeFlags {
            node_labels: [("rack".to_owned(), "r1".to_owned())].into(),
            ..NodeFlags::default()
        },
        ..World::new()
    };
    world.api.outage(Outage::Refuse);
    world.manifest("picky", json!({"nodeSelector": {"rack": "r1"}}));
    let _agent = world.start("root").await;
    until("it runs", || world.runs("picky")).await;
}

/// The other agent's journal is not ours, and the runtime has forgotten the container.
#[tokio::test(start_paused = true)]
async fn what_ended_under_another_agent_does_not_run_twice() {
    let world = World::new();
    world.cri.script_container("web", "once", [Behaviour::exits(Duration::from_secs(1), 0)]);
    world.create(json!({
        "nodeName": NODE, "restartPolicy": "Never",
        "containers": [{"name": "once", "image": "web:1"}, {"name": "app", "image": "web:1"}],
    }));
    let agent = world.start("root").await;
    let ended = || {
        (0..2).any(|at| {
            world.status(&format!("/containerStatuses/{at}/state/terminated/reason")) == "Completed"
        })
    };
    until("one has ended", ended).await;
    agent.stop().await;
    let once = world
        .cri
        .containers_of("web")
        .into_iter()
        .find(|status| status.metadata.as_ref().is_some_and(|metadata| metadata.name == "once"));
    let request = v1::RemoveContainerRequest { container_id: once.expect("a world of the test's own").id };
    world.cri.remove_container(request).await.expect("a world of the test's own");
    let _agent = world.start("elsewhere").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.cri.containers_of("web").len(), 1, "only the one that goes on");
    assert!(ended());
    assert_eq!(world.status("/phase"), "Running");
}

#[tokio::test(start_paused = true)]
async fn a_pod_at_rest_shows_the_nodes_new_address() {
    let world = World { flags: NodeFlags { external_cloud: true, ..NodeFlags::default() }, ..World::new() };
    let _agent = world.start("root").await;
    until("the node is there", || world.api.get::<Node>("", NODE).is_some()).await;
    let address = |ip: &str| {
        world.api.modify_status::<Node>("", NODE, |node| {
            let addresses = json!([{"type": "InternalIP", "address": ip}]);
            node.status.get_or_insert_default().addresses =
                serde_json::from_value(addresses).expect("a world of the test's own");
        });
    };
    address("192.0.2.1");
    world.create(json!({"nodeName": NODE, "containers": [{"name": "app", "image": "web:1"}]}));
    until("it runs", || world.status("/hostIP") == "192.0.2.1" && world.status("/phase") == "Running").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    address("198.51.100.7");
    until("it tells the new address", || world.status("/hostIP") == "198.51.100.7").await;
}

/// A server's cache may be behind: a pod that it does not know yet would be taken for one that nobody wants.
#[tokio::test(start_paused = true)]
async fn the_first_list_of_pods_is_what_is() {
    let world = World::new();
    let agent = world.start("root").await;
    let lists = || {
        let asked = world.api.requests().into_iter().map(|recorded| recorded.request);
        asked.filter(|asked| asked.verb == "list" && asked.resource == "pods").collect::<Vec<_>>()
    };
    until("pods are listed", || !lists().is_empty()).await;
    let first = &lists()[0].query;
    assert!(!first.contains_key("resourceVersion"), "{first:?}");
    agent.stop().await;
}

/// The agent dies after it has removed everything of a pod and before the API heard how the pod ended.
#[tokio::test(start_paused = true)]
async fn how_a_deleted_pod_ended_outlives_the_agent() {
    let world = World::new();
    world.create(json!({"nodeName": NODE, "containers": [{"name": "app", "image": "web:1"}]}));
    let agent = world.start("root").await;
    until("it runs", || world.status("/phase") == "Running").await;
    let uid = world.web().and_then(|pod| pod.metadata.uid).expect("a pod of the test's own");
    let faults = [("patch", "pods/status"), ("delete", "pods")].map(|(verb, resource)| {
        world.api.fail(Fault::on(verb, resource, Failure::Reset).user(&format!("system:node:{NODE}")))
    });
    world.api.delete_with_grace::<Pod>("default", "web", 30);
    until("nothing of it is left", || world.cri.sandboxes_of("web").is_empty()).await;
    agent.stop().await;
    faults.iter().for_each(rubelet_testkit::fake_api::FaultHandle::stop);
    let _agent = world.start("root").await;
    until("the API has let it go", || world.web().is_none()).await;
    let told: Vec<String> = world
        .api
        .history::<Pod>(&uid)
        .iter()
        .filter_map(|pod| {
            let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
            statuses.first()?.state.as_ref()?.terminated.as_ref()?.reason.clone()
        })
        .collect();
    assert!(!told.is_empty() && told.iter().all(|reason| reason != "ContainerStatusUnknown"), "{told:?}");
    let journal = world.dir.path().join("root/rubelet/pods");
    let left = || std::fs::read_dir(&journal).map_or(0, Iterator::count);
    until("its record is gone", || left() == 0).await;
}
