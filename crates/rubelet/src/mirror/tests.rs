//! The mirror task against the fake API, on a paused clock.

use k8s_openapi::api::core::v1::{Node, PodStatus};
use rubelet_core::lifecycle::TerminationCause;
use rubelet_testkit::FakeApi;
use rubelet_testkit::fake_api::{Failure, Fault, Outage};
use rubelet_testkit::pods;
use serde_json::json;
use tokio::task::JoinHandle;

use super::*;
use crate::desired::PodConfig;

const NODE: &str = "n1";
const CREATE: &str = "create pods";
const DELETE: &str = "delete pods";

struct Bench {
    api: FakeApi,
    config: PodConfig,
    table: PodTable,
    node_uid: watch::Sender<Option<String>>,
    view: watch::Sender<Arc<ApiPodSet>>,
    task: JoinHandle<()>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.task.abort();
        if !std::thread::panicking() {
            assert_eq!(self.api.violations(), []);
        }
    }
}

impl Bench {
    /// A node that is registered and has a synced view.
    fn new() -> Self {
        let bench = Self::unregistered();
        bench.sync();
        bench.register();
        bench
    }

    fn unregistered() -> Self {
        let api = FakeApi::new();
        api.create_json(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}));
        let config = PodConfig::new([SourceKind::File]);
        let table = PodTable::default();
        let (node_uid, view) = (watch::Sender::new(None), watch::Sender::new(Arc::default()));
        let task = MirrorTask::new(
            NODE.to_owned(),
            node_uid.subscribe(),
            config.watch(),
            table.clone(),
            view.subscribe(),
            api.client(&format!("system:node:{NODE}")),
        );
        let task = tokio::spawn(task.run());
        Self { api, config, table, node_uid, view, task }
    }

    fn register(&self) {
        self.node_uid.send_replace(self.api.get::<Node>("", NODE).unwrap().metadata.uid);
    }

    /// Lets the watch catch up.
    fn sync(&self) {
        let held = self.api.list_all::<Pod>().into_iter().map(|mut pod| {
            pod.spec = None;
            Arc::new(pod)
        });
        self.view.send_replace(Arc::new(ApiPodSet::of(held)));
    }

    fn desire(&self, pods: &[&Pod]) {
        self.config.publish(
            SourceKind::File,
            pods.iter().map(|pod| Arc::new((*pod).clone())).collect(),
            false,
        );
    }

    fn row(&self, pod: &Pod, state: PodState) {
        let row = PodRow { pod: Arc::new(pod.clone()), status: Arc::new(PodStatus::default()), state };
        self.table.publish(&pod_uid(pod), row);
    }

    /// The mirror that the API holds.
    fn mirror(&self, name: &str) -> Option<Pod> {
        self.api.get::<Pod>("default", name)
    }

    /// The hash that the API's mirror shows.
    fn shown(&self, name: &str) -> Option<String> {
        self.mirror(name)?.metadata.annotations?.remove("kubernetes.io/config.mirror")
    }

    /// Requests since the last call.
    fn sent(&self) -> Vec<String> {
        self.api.take_requests().iter().map(|request| request.summary()).collect()
    }
}

async fn pass(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

async fn settle() {
    pass(0.001).await;
}

fn static_pod(name: &str, hash: &str) -> Pod {
    pods::pod(name)
        .uid(hash)
        .annotation("kubernetes.io/config.hash", hash)
        .annotation("kubernetes.io/config.source", "file")
        .container(pods::container("etcd"))
        .spec(|spec| spec.node_name = Some(NODE.to_owned()))
        .build()
}

#[tokio::test(start_paused = true)]
async fn a_mirror_is_created_once_the_node_is_registered() {
    let bench = Bench::unregistered();
    let pod = static_pod("etcd-n1", "h1");
    bench.desire(&[&pod]);
    pass(60.0).await;
    bench.sync();
    pass(60.0).await;
    assert_eq!(bench.sent(), [] as [&str; 0]);
    bench.register();
    settle().await;
    assert_eq!(bench.sent(), [CREATE]);
    let owner = bench.mirror("etcd-n1").unwrap().metadata.owner_references.unwrap().remove(0);
    assert_eq!(Some(owner.uid), bench.api.get::<Node>("", NODE).unwrap().metadata.uid);
    // The watch is late, then shows it: once is enough.
    pass(5.0).await;
    bench.sync();
    pass(600.0).await;
    assert_eq!(bench.sent(), [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_differs_is_replaced_when_the_old_pod_has_ended() {
    let bench = Bench::new();
    let (old, new) = (static_pod("etcd-n1", "h1"), static_pod("etcd-n1", "h2"));
    bench.desire(&[&old]);
    bench.row(&old, PodState::Syncing);
    settle().await;
    bench.sync();
    settle().await;
    bench.sent();
    bench.desire(&[&new]);
    bench.row(&new, PodState::WaitingForPredecessor);
    pass(60.0).await;
    assert_eq!(bench.sent(), [] as [&str; 0]);
    bench.row(&old, PodState::Finished { cause: TerminationCause::RemovedFromSource });
    bench.table.remove(&pod_uid(&old));
    bench.row(&new, PodState::Syncing);
    settle().await;
    assert_eq!(bench.sent(), [DELETE, CREATE], "without waiting for the watch");
    assert_eq!(bench.shown("etcd-n1").as_deref(), Some("h2"));
    bench.sync();
    pass(600.0).await;
    assert_eq!(bench.sent(), [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_a_user_deletes_comes_back() {
    let bench = Bench::new();
    let pod = static_pod("etcd-n1", "h1");
    bench.desire(&[&pod]);
    bench.row(&pod, PodState::Syncing);
    settle().await;
    bench.sync();
    settle().await;
    let first = bench.mirror("etcd-n1").unwrap().metadata.uid;
    bench.sent();
    bench.api.delete::<Pod>("default", "etcd-n1");
    bench.sync();
    settle().await;
    let requests = bench.api.requests();
    assert_eq!(requests[0].json()["gracePeriodSeconds"], json!(0));
    assert_eq!(requests[0].json()["preconditions"], json!({"uid": first}));
    assert_eq!(bench.sent(), [DELETE, CREATE]);
    assert_ne!(bench.mirror("etcd-n1").unwrap().metadata.uid, first);
    // Gone at once by force, too.
    bench.sync();
    settle().await;
    bench.api.delete_with_grace::<Pod>("default", "etcd-n1", 0);
    bench.sync();
    settle().await;
    assert_eq!(bench.sent(), [CREATE]);
}

#[tokio::test(start_paused = true)]
async fn orphans_go_only_with_full_knowledge_and_when_their_pod_has_ended() {
    let bench = Bench::unregistered();
    let pod = static_pod("etcd-n1", "h1");
    let node_uid = bench.api.get::<Node>("", NODE).unwrap().metadata.uid.unwrap();
    bench.api.create(&mirror_of(&pod, NODE, &node_uid));
    bench.row(&pod, PodState::Syncing);
    bench.register();
    bench.sync();
    pass(60.0).await;
    bench.config.publish(SourceKind::File, vec![], true);
    pass(60.0).await;
    bench.desire(&[]);
    pass(60.0).await;
    assert_eq!(bench.sent(), [] as [&str; 0], "sources silent, in doubt, and the pod still ending");
    bench.row(&pod, PodState::Finished { cause: TerminationCause::RemovedFromSource });
    settle().await;
    assert_eq!(bench.sent(), [DELETE]);
    pass(60.0).await;
    bench.sync();
    pass(60.0).await;
    assert_eq!(bench.sent(), [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_cannot_be_created_is_tried_ever_more_rarely() {
    for failure in [Failure::Status(403, None), Failure::Status(404, None), Failure::Status(409, None)] {
        let bench = Bench::new();
        let broken = bench.api.fail(Fault::on("create", "pods", failure.clone()));
        let pod = static_pod("etcd-n1", "h1");
        bench.desire(&[&pod]);
        for _ in 0..600 {
            pass(1.0).await;
            bench.row(&pod, PodState::Syncing);
            bench.sync();
        }
        assert!((8..=20).contains(&broken.hits()), "{failure:?}: {} attempts", broken.hits());
        broken.stop();
        pass(80.0).await;
        assert!(bench.mirror("etcd-n1").is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_watch_is_the_sign_to_try_again() {
    let bench = Bench::new();
    bench.api.outage(Outage::Refuse);
    let pods: Vec<Pod> = (0..10).map(|n| static_pod(&format!("p{n}-n1"), &format!("h{n}"))).collect();
    bench.desire(&pods.iter().collect::<Vec<_>>());
    pass(300.0).await;
    bench.sent();
    bench.api.outage(Outage::None);
    bench.sync();
    pass(1.1).await;
    assert_eq!(bench.sent().len(), 10);
    // A created mirror that the watch never shows, because it went at once, is missed after a while.
    bench.api.delete_with_grace::<Pod>("default", "p3-n1", 0);
    bench.sync();
    pass(11.0).await;
    assert!(bench.mirror("p3-n1").is_some());
}
