//! The CSINode on a paused clock against the fake API, which refuses what a real one would.

use rubelet_testkit::FakeApi;
use rubelet_testkit::fake_api::{Failure, Fault};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;

const NODE: &str = "node-1";

struct Rig {
    api: FakeApi,
    node: watch::Sender<Option<Arc<Node>>>,
    csi: CsiNodes,
    task: JoinHandle<()>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Rig {
    fn new(api: &FakeApi) -> Self {
        let (node, view) = watch::channel(None);
        let view = NodeView::new(view, mpsc::channel(1).0);
        let client = api.client("system:node:node-1");
        let csi = CsiNodes::new(client, NODE.to_owned(), Duration::from_secs(10), view);
        let task = tokio::spawn(csi.clone().run());
        Self { api: api.clone(), node, csi, task }
    }

    /// Registers the node, as its agent would.
    fn register(&self) {
        if self.api.get::<Node>("", NODE).is_none() {
            self.api.create_json(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}));
        }
        self.node.send_replace(self.api.get::<Node>("", NODE).map(Arc::new));
        self.csi.look();
    }

    async fn ready(&self) {
        self.csi.problem().wait_for(Option::is_none).await.unwrap();
    }

    fn problem(&self) -> Option<String> {
        self.csi.problem().borrow().clone()
    }

    fn object(&self) -> Option<CSINode> {
        self.api.get("", NODE)
    }

    fn drivers(&self) -> Vec<String> {
        let drivers = self.object().map(|object| object.spec.drivers).unwrap_or_default();
        drivers.into_iter().map(|driver| format!("{}={}", driver.name, driver.node_id)).collect()
    }
}

fn said(node_id: &str, zone: &str) -> DriverOnNode {
    let topology = [("topology.example.com/zone".to_owned(), zone.to_owned())].into();
    DriverOnNode { node_id: node_id.to_owned(), max_volumes: 3, topology }
}

#[tokio::test(start_paused = true)]
async fn the_object_is_made_when_the_node_is_there_and_owned_by_it() {
    let rig = Rig::new(&FakeApi::new());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.problem().as_deref(), Some("CSINode is not yet initialized"));
    assert!(rig.object().is_none());
    rig.register();
    rig.ready().await;
    let uid = rig.api.get::<Node>("", NODE).unwrap().metadata.uid.unwrap();
    assert!(is_owned(&rig.object().unwrap(), NODE, &uid));
    let requests = rig.api.requests().len();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(rig.api.requests().len(), requests, "at rest nobody is asked");
    assert_eq!(rig.api.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn drivers_are_told_of_and_forgotten() {
    let rig = Rig::new(&FakeApi::new());
    // There is no node yet: it is told once there is.
    rig.csi.install("a.example.com", said("n", "1")).await.unwrap();
    rig.register();
    rig.ready().await;
    assert_eq!(rig.drivers(), ["a.example.com=n"]);
    rig.csi.install("b.example.com", said("m", "1")).await.unwrap();
    assert_eq!(rig.drivers(), ["a.example.com=n", "b.example.com=m"]);
    let node = rig.api.get::<Node>("", NODE).unwrap();
    assert_eq!(
        node.metadata.annotations.unwrap()[csi::NODE_IDS],
        r#"{"a.example.com":"n","b.example.com":"m"}"#
    );
    assert_eq!(node.metadata.labels.unwrap()["topology.example.com/zone"], "1");
    assert_eq!(rig.object().unwrap().spec.drivers[0].allocatable.as_ref().unwrap().count, Some(3));

    let Err(problem) = rig.csi.install("c.example.com", said("n", "2")).await else {
        panic!("zones collide")
    };
    assert!(problem.to_string().starts_with("detected topology value collision"), "{problem}");
    rig.csi.uninstall("a.example.com").await;
    rig.csi.uninstall("a.example.com").await;
    assert_eq!(rig.drivers(), ["b.example.com=m"]);
    assert_eq!(rig.api.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn what_drivers_of_an_earlier_run_said_stays_until_they_say_something_else() {
    let api = FakeApi::new();
    let before = Rig::new(&api);
    before.register();
    before.csi.install("a.example.com", said("n", "1")).await.unwrap();
    drop(before);
    let rig = Rig::new(&api);
    rig.register();
    rig.ready().await;
    assert_eq!(rig.drivers(), ["a.example.com=n"]);
    let writes = || api.requests().iter().filter(|asked| asked.request.verb != "get").count();
    let before = writes();
    rig.csi.install("a.example.com", said("n", "1")).await.unwrap();
    assert_eq!(writes(), before, "nothing is news");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_told_now_is_told_later() {
    let rig = Rig::new(&FakeApi::new());
    rig.register();
    rig.ready().await;
    let away = rig.api.fail(Fault::when(|_| true, Failure::Reset));
    rig.csi.install("a.example.com", said("n", "1")).await.unwrap();
    rig.csi.install("b.example.com", said("m", "1")).await.unwrap();
    rig.csi.uninstall("a.example.com").await;
    assert_eq!(rig.drivers(), [""; 0]);
    assert_eq!(rig.problem(), None, "the node stays ready");
    away.stop();
    rig.api.wait_for(|_| (rig.drivers() == ["b.example.com=m"]).then_some(())).await;
    let away = rig.api.fail(Fault::when(|_| true, Failure::Reset));
    rig.csi.uninstall("b.example.com").await;
    away.stop();
    rig.api.wait_for(|_| rig.drivers().is_empty().then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn one_of_an_earlier_node_is_replaced_with_all_drivers() {
    let rig = Rig::new(&FakeApi::new());
    rig.register();
    rig.csi.install("a.example.com", said("n", "1")).await.unwrap();
    rig.ready().await;
    let old = rig.object().unwrap().metadata.uid;
    rig.api.delete::<Node>("", NODE);
    rig.register();
    rig.api
        .wait_for(|api| {
            let object = api.get::<CSINode>("", NODE)?;
            (object.metadata.uid != old && !object.spec.drivers.is_empty()).then_some(())
        })
        .await;
    assert_eq!(rig.drivers(), ["a.example.com=n"]);
    let node = rig.api.get::<Node>("", NODE).unwrap();
    assert!(node.metadata.annotations.unwrap().contains_key(csi::NODE_IDS));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_is_told_of_and_asked_again() {
    let api = FakeApi::new();
    api.fail(Fault::on("create", "csinodes", Failure::Status(500, None)).times(2));
    let rig = Rig::new(&api);
    rig.register();
    let mut problem = rig.csi.problem();
    problem.wait_for(|text| text.as_ref().is_some_and(|text| text.starts_with("failed to"))).await.unwrap();
    let text = rig.problem().unwrap();
    assert!(text.starts_with("failed to initialize CSINode: error creating CSINode"), "{text}");
    rig.ready().await;
    assert!(rig.object().is_some());
}
