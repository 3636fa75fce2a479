//! The store against the fake API server.

use k8s_openapi::api::core::v1::{Node, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rubelet_testkit::fake_api::{Failure, FakeApi, Fault};

use super::*;
use crate::watch::ProblemKind;

fn service(namespace: &str, name: &str, port: i32) -> Service {
    Service {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([("app".to_owned(), name.to_owned())])),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            ports: Some(vec![ServicePort { port, ..ServicePort::default() }]),
            type_: Some("ClusterIP".to_owned()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn names(store: &Reflector<Service>) -> Vec<String> {
    let name = |service: Arc<Service>| {
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).map(|port| port.port);
        format!("{}={}", service.metadata.name.clone().unwrap_or_default(), ports.sum::<i32>())
    };
    store.list().into_iter().map(name).collect()
}

async fn until(store: &Reflector<Service>, expected: &[&str]) {
    let mut changes = store.changes();
    while names(store) != expected {
        changes.changed().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_follows_the_server() {
    let api = FakeApi::new();
    api.create(&service("default", "a", 1));
    let spec = WatchSpec::all(1).with_clean(trim_service);
    let store = Reflector::start(api.client("system:node:n1"), spec);
    assert!(!store.is_synced());
    store.synced().await;
    assert_eq!(names(&store), ["a=1"]);
    let trimmed = store.get("default", "a").unwrap();
    assert_eq!(trimmed.metadata.labels, None);
    assert_eq!(trimmed.spec.as_ref().unwrap().type_, None);

    api.create(&service("default", "b", 2));
    until(&store, &["a=1", "b=2"]).await;
    api.modify::<Service>("default", "b", |service| {
        service.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].port = 3;
    });
    until(&store, &["a=1", "b=3"]).await;

    // What happens while the connection is down and the history is forgotten is caught up with.
    api.reset_watches("services");
    api.delete::<Service>("default", "a");
    api.compact();
    until(&store, &["b=3"]).await;
    assert_eq!(api.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_turns_bad_keeps_its_last_good_value() {
    let api = FakeApi::new();
    api.create(&service("default", "a", 1));
    let store = Reflector::<Service>::start(api.client("system:node:n1"), WatchSpec::all(1));
    store.synced().await;
    let mut raw = serde_json::to_value(service("default", "a", 9)).unwrap();
    raw["apiVersion"] = "v1".into();
    raw["kind"] = "Service".into();
    raw["spec"]["ports"] = 7.into();
    api.put_raw(&raw);
    api.create(&service("default", "b", 2));
    until(&store, &["a=1", "b=2"]).await;
    assert_eq!(store.bad().len(), 1);
    assert!(store.bad()[0].error.starts_with("spec.ports: invalid type"), "{}", store.bad()[0]);
    // A new full set changes nothing about that.
    let before = *store.changes().borrow();
    api.expire_watches("services");
    store.changes().wait_for(|revision| *revision > before).await.unwrap();
    assert_eq!(names(&store), ["a=1", "b=2"]);
    api.delete::<Service>("default", "a");
    until(&store, &["b=2"]).await;
    assert_eq!(store.bad(), []);
}

#[tokio::test(start_paused = true)]
async fn the_own_node_and_a_problem() {
    let api = FakeApi::new();
    let fault = api.fail(Fault::on("list", "nodes", Failure::Status(503, None)));
    let spec = WatchSpec::one(None, "n1", 1);
    let store = Reflector::<Node>::start(api.client("system:node:n1"), spec);
    let mut problem = store.problem();
    let kind = problem.wait_for(Option::is_some).await.unwrap().as_ref().map(|problem| problem.kind);
    assert_eq!(kind, Some(ProblemKind::ServerFault));
    assert!(!store.is_synced());
    fault.stop();
    store.synced().await;
    problem.wait_for(Option::is_none).await.unwrap();
    assert!(store.get("", "n1").is_none());
    let node = Node {
        metadata: ObjectMeta { name: Some("n1".to_owned()), ..ObjectMeta::default() },
        ..Node::default()
    };
    let mut changes = store.changes();
    api.create(&node);
    changes.changed().await.unwrap();
    assert!(store.get("", "n1").is_some());
    assert_eq!(api.violations(), []);
}
