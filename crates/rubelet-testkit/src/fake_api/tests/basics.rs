//! Requests through a `kube::Client`: create, read, change, delete, watch.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;

use super::{object, pod};
use crate::fake_api::FakeApi;

#[tokio::test(start_paused = true)]
async fn every_kind_goes_in_and_comes_out() {
    let api = FakeApi::new();
    let client = api.client("admin");
    let created: Pod =
        Api::default_namespaced(client.clone()).create(&PostParams::default(), &pod("p", "n")).await.unwrap();
    assert_eq!(created.status.unwrap().phase.as_deref(), Some("Pending"));
    assert_eq!(created.metadata.generation, Some(1));
    let node: Node = Api::all(client.clone())
        .create(&PostParams::default(), &object(json!({"metadata": {"name": "n"}})))
        .await
        .unwrap();
    assert!(node.metadata.uid.is_some_and(|uid| uid.len() == 36));
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    maps.create(&PostParams::default(), &object(json!({"metadata": {"name": "m"}, "data": {"a": "1"}})))
        .await
        .unwrap();
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    secrets.create(&PostParams::default(), &object(json!({"metadata": {"name": "s"}}))).await.unwrap();
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    leases
        .create(&PostParams::default(), &object(json!({"metadata": {"name": "n"}, "spec": {}})))
        .await
        .unwrap();
    let events: Api<Event> = Api::default_namespaced(client);
    let event: Event = events
        .create(
            &PostParams::default(),
            &object(json!({"metadata": {"generateName": "e-"}, "involvedObject": {"namespace": "default"}, "reason": "R"})),
        )
        .await
        .unwrap();
    assert!(event.metadata.name.unwrap().starts_with("e-"));
    assert_eq!(maps.get("m").await.unwrap().data.unwrap()["a"], "1");
    assert_eq!(maps.list(&ListParams::default()).await.unwrap().items.len(), 1);
    let missing = maps.get("nope").await.unwrap_err();
    assert!(matches!(missing, kube::Error::Api(s) if s.code == 404 && s.reason == "NotFound"));
    let again =
        maps.create(&PostParams::default(), &object(json!({"metadata": {"name": "m"}}))).await.unwrap_err();
    assert!(matches!(again, kube::Error::Api(s) if s.code == 409 && s.reason == "AlreadyExists"));
}

#[tokio::test(start_paused = true)]
async fn a_watch_sees_what_its_selector_selects() {
    let api = FakeApi::new();
    let pods: Api<Pod> = Api::all(api.client("system:node:n"));
    let params = WatchParams::default().fields("spec.nodeName=n").timeout(60);
    let list = pods.list(&ListParams::default().fields("spec.nodeName=n")).await.unwrap();
    let mut watch = pods.watch(&params, &list.metadata.resource_version.unwrap()).await.unwrap().boxed();
    api.create(&pod("other", "m"));
    api.create(&pod("mine", ""));
    api.bind("default", "mine", "n");
    api.modify::<Pod>("default", "mine", |p| p.metadata.labels = Some([("a".into(), "b".into())].into()));
    api.delete_with_grace::<Pod>("default", "mine", 0);
    let mut seen = Vec::new();
    while let Some(event) = watch.try_next().await.unwrap() {
        seen.push(match event {
            WatchEvent::Added(p) => format!("added {}", p.metadata.name.unwrap()),
            WatchEvent::Modified(p) => format!("modified {:?}", p.metadata.labels),
            WatchEvent::Deleted(p) => format!("deleted {}", p.metadata.name.unwrap()),
            WatchEvent::Bookmark(_) => "bookmark".into(),
            WatchEvent::Error(e) => format!("error {}", e.code),
        });
    }
    // A last bookmark, and the timeout ended the stream.
    assert_eq!(seen, ["added mine", "modified Some({\"a\": \"b\"})", "deleted mine", "bookmark"]);
    drop(watch);
    assert_eq!(api.watches(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_node_patches_its_status_and_deletes_its_pod() {
    let api = FakeApi::new();
    let created = api.create(&pod("p", "n"));
    let pods: Api<Pod> = Api::default_namespaced(api.client("system:node:n"));
    let patch = json!({"metadata": {"uid": created.metadata.uid}, "status": {"phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}]}});
    let patched = pods.patch_status("p", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    assert_eq!(patched.status.unwrap().phase.as_deref(), Some("Running"));
    assert_eq!(patched.spec.unwrap().node_name.as_deref(), Some("n"));
    let wrong = json!({"metadata": {"uid": "other"}, "status": {"phase": "Failed"}});
    let refused =
        pods.patch_status("p", &PatchParams::default(), &Patch::Strategic(wrong)).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(s) if s.code == 409));
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(api.get::<Pod>("default", "p"), None);
    assert_eq!(api.history::<Pod>(created.metadata.uid.as_deref().unwrap()).len(), 2);
    assert_eq!(api.counts()["patch pods/status"], 2);
}
