//! The controllers over a store in memory, on a paused clock: what comes of what clients write.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use rubelet_apimachinery::strategy::{Settings, text};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::{ControllerOptions, Folders, core, prepare, run};
use crate::engine::{AdmitAll, AllowAll, Api, ApiOptions, NoReviews, seeded};
use crate::store::{Store, StoreOptions};

/// A disk that never answers.
struct Dead;

impl Folders for Dead {
    fn make<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<PathBuf>> {
        Box::pin(std::future::pending())
    }
    fn remove<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(std::future::pending())
    }
}

/// A server with what every server has, and the means to write to it as its owner.
struct World {
    api: Api,
    settings: Settings,
    client: Client,
}

impl World {
    async fn new() -> Self {
        let start = Instant::now();
        let now = Arc::new(move || {
            let passed = i64::try_from(start.elapsed().as_secs()).unwrap();
            Timestamp::from_second(1_767_225_600 + passed).unwrap()
        });
        let settings = Settings { service_network: ([10, 96, 0, 0].into(), 16), root_ca: "root".to_owned() };
        let api = Api::new(ApiOptions {
            store: Store::in_memory(StoreOptions::new(now.clone())).unwrap(),
            now,
            settings: settings.clone(),
            random: seeded(1),
            serve_on_request: Default::default(),
            node: None,
            reviews: Arc::new(NoReviews),
            authorize: Arc::new(AllowAll),
            admit: Arc::new(AdmitAll),
            stopping: CancellationToken::new(),
        });
        prepare(&api, &settings, None).await.unwrap();
        let client = Client::new(api.clone(), "test");
        let node = json!({
            "metadata": {"name": "n1"},
            "status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"}},
        });
        client.create(core("nodes"), "", &node).await.unwrap();
        Self { api, settings, client }
    }

    /// Starts the controllers.
    fn run(&self) -> tokio::task::JoinHandle<()> {
        let options = ControllerOptions {
            node: "n1".to_owned(),
            settings: self.settings.clone(),
            folders: Some(Arc::new(Dead)),
        };
        tokio::spawn(run(self.api.clone(), options))
    }

    async fn create(&self, plural: &str, object: Value) -> Value {
        let namespace = if plural == "namespaces" { "" } else { "default" };
        self.client.create(core(plural), namespace, &object).await.unwrap()
    }

    async fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.client.get(core(plural), namespace, name).await.unwrap()
    }

    /// Waits until an object is as it should be.
    async fn until(&self, plural: &str, namespace: &str, name: &str, is: impl Fn(Option<&Value>) -> bool) {
        let looking = async {
            while !is(self.get(plural, namespace, name).await.as_ref()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(300), looking).await.unwrap();
    }
}

fn pod(name: &str, owner: Option<&Value>) -> Value {
    let mut pod = json!({
        "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    if let Some(owner) = owner {
        pod["metadata"]["ownerReferences"] = json!([{
            "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
        }]);
    }
    pod
}

fn is_bound(pod: Option<&Value>) -> bool {
    pod.is_some_and(|pod| text(pod, &["spec", "nodeName"]) == "n1")
}

#[tokio::test(start_paused = true)]
async fn a_volume_whose_disk_hangs_holds_up_nothing_else() {
    let world = World::new().await;
    world.run();
    let claim = json!({
        "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    world.create("persistentvolumeclaims", claim).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    world.create("pods", pod("a", None)).await;
    world.until("pods", "default", "a", is_bound).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn dependents_of_an_owner_that_was_to_orphan_them_outlive_a_restart() {
    let world = World::new().await;
    let owner = world.create("configmaps", json!({"metadata": {"name": "owner"}})).await;
    // More than one page, of a resource that is told after the owner's.
    for at in 0..80 {
        world.create("pods", pod(&format!("p{at:02}"), Some(&owner))).await;
    }
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Orphan"});
    world.client.delete(core("configmaps"), "default", "owner", &options).await.unwrap();
    world.run();
    world.until("configmaps", "default", "owner", |owner| owner.is_none()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let left = world.client.list(core("pods"), "default").await.unwrap();
    assert_eq!(left.len(), 80);
    assert!(left.iter().all(|pod| pod["metadata"].get("ownerReferences").is_none()));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_of_pods_before_the_node_is_known() {
    let world = World::new().await;
    world.create("pods", pod("a", None)).await;
    world.run();
    world.until("pods", "default", "a", is_bound).await;
    let events = world.client.list(core("events"), "default").await.unwrap();
    let reasons: Vec<&str> = events.iter().map(|event| text(event, &["reason"])).collect();
    assert_eq!(reasons, ["Scheduled"]);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_goes_when_the_last_thing_in_it_does() {
    let world = World::new().await;
    world.run();
    world.create("namespaces", json!({"metadata": {"name": "gone"}})).await;
    world.until("configmaps", "gone", "kube-root-ca.crt", |there| there.is_some()).await;
    let mut kept = json!({"metadata": {"name": "kept", "namespace": "gone", "finalizers": ["x.y/z"]}});
    kept = world.client.create(core("configmaps"), "gone", &kept).await.unwrap();
    world.client.delete(core("namespaces"), "", "gone", &json!({})).await.unwrap();
    // By now it is looked at twice a minute.
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(world.get("namespaces", "", "gone").await.is_some());
    kept = world.get("configmaps", "gone", "kept").await.unwrap_or(kept);
    kept["metadata"]["finalizers"] = json!([]);
    world.client.replace(core("configmaps"), "", &kept).await.unwrap();
    let begun = Instant::now();
    world.until("namespaces", "", "gone", |there| there.is_none()).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_every_namespace_has_is_put_right() {
    let world = World::new().await;
    world.run();
    let says =
        |text: &'static str| move |map: Option<&Value>| map.is_some_and(|map| map["data"]["ca.crt"] == text);
    world.until("configmaps", "default", "kube-root-ca.crt", says("root")).await;
    let mut map = world.get("configmaps", "default", "kube-root-ca.crt").await.unwrap();
    map["data"]["ca.crt"] = json!("another");
    world.client.replace(core("configmaps"), "", &map).await.unwrap();
    world.until("configmaps", "default", "kube-root-ca.crt", says("root")).await;
    world.client.delete(core("serviceaccounts"), "default", "default", &json!({})).await.unwrap();
    world.until("serviceaccounts", "default", "default", |there| there.is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn events_are_forgotten_an_hour_after_they_were_last_seen() {
    let world = World::new().await;
    let begin = Instant::now();
    let _running = world.run();
    let event = |name: &str| {
        let now = world.api.time_text();
        json!({"metadata": {"name": name, "namespace": "default"}, "reason": "Test", "lastTimestamp": now,
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}})
    };
    // More than are read at a time.
    for index in 0..100 {
        world.create("events", event(&format!("old{index:03}"))).await;
    }
    tokio::time::sleep(Duration::from_secs(1800)).await;
    world.create("events", event("young")).await;
    tokio::time::sleep(Duration::from_secs(1790)).await;
    assert!(world.get("events", "default", "old000").await.is_some());
    for (name, hours) in [("old000", 1.0), ("old099", 1.0), ("young", 1.5)] {
        let gone = async {
            while world.get("events", "default", name).await.is_some() {
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(7200), gone).await.unwrap();
        let late = begin.elapsed().as_secs_f64() - hours * 3600.0;
        assert!((0.0..=310.0).contains(&late), "{name} went {late} s after its time");
    }
}
