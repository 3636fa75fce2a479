//! Deletion of pods and other objects: grace, preconditions, finalizers, namespaces.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use serde_json::json;

use super::{object, pod, refusal};
use crate::fake_api::FakeApi;

/// What is left of the pod: its grace, seconds until its deadline, and its generation.
fn left(api: &FakeApi) -> Option<(i64, i64, i64)> {
    let meta = api.get::<Pod>("default", "p")?.metadata;
    let now = (api.inner.options.now)().as_second();
    let deadline = meta.deletion_timestamp.map_or(0, |at| at.0.as_second() - now);
    Some((meta.deletion_grace_period_seconds.unwrap_or(-1), deadline, meta.generation.unwrap_or(0)))
}

fn setup() -> (FakeApi, Api<Pod>) {
    let api = FakeApi::new();
    api.create(&pod("p", "n"));
    let pods = Api::default_namespaced(api.client("admin"));
    (api, pods)
}

#[tokio::test(start_paused = true)]
async fn a_pod_gets_its_grace_and_later_deletions_only_shorten_it() {
    let (api, pods) = setup();
    pods.delete("p", &DeleteParams::default()).await.unwrap();
    assert_eq!(left(&api), Some((30, 30, 2)));
    tokio::time::sleep(Duration::from_secs(2)).await;
    pods.delete("p", &DeleteParams::default().grace_period(40)).await.unwrap();
    assert_eq!(left(&api), Some((30, 28, 2)));
    pods.delete("p", &DeleteParams::default().grace_period(10)).await.unwrap();
    assert_eq!(left(&api), Some((10, 8, 2)));
    tokio::time::sleep(Duration::from_secs(5)).await;
    // The shortened deadline would have passed: what is left is the least a graceful deletion has.
    pods.delete("p", &DeleteParams::default().grace_period(2)).await.unwrap();
    assert_eq!(left(&api), Some((1, 0, 2)));
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(left(&api), None);
    assert_eq!(refusal(pods.delete("p", &DeleteParams::default()).await), (404, "NotFound".into()));
}

#[tokio::test(start_paused = true)]
async fn pods_that_need_no_grace_go_at_once() {
    let api = FakeApi::new();
    let pods: Api<Pod> = Api::default_namespaced(api.client("admin"));
    api.create(&pod("unscheduled", ""));
    pods.delete("unscheduled", &DeleteParams::default()).await.unwrap();
    api.create(&pod("done", "n"));
    api.modify_status::<Pod>("default", "done", |p| {
        p.status.get_or_insert_default().phase = Some("Succeeded".into());
    });
    pods.delete("done", &DeleteParams::default()).await.unwrap();
    assert_eq!(api.list::<Pod>("default"), []);
}

#[tokio::test(start_paused = true)]
async fn preconditions_protect_a_namesake() {
    let (api, pods) = setup();
    let with = |uid: Option<&str>, version: Option<&str>| DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: uid.map(str::to_owned),
            resource_version: version.map(str::to_owned),
        }),
        ..DeleteParams::default()
    };
    assert_eq!(refusal(pods.delete("p", &with(Some("other"), None)).await), (409, "Conflict".into()));
    assert_eq!(refusal(pods.delete("p", &with(None, Some("1"))).await), (409, "Conflict".into()));
    let uid = api.get::<Pod>("default", "p").unwrap().metadata.uid;
    pods.delete("p", &with(uid.as_deref(), None)).await.unwrap();
    assert_eq!(left(&api), None);
}

#[tokio::test(start_paused = true)]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let (api, pods) = setup();
    api.modify::<Pod>("default", "p", |p| p.metadata.finalizers = Some(vec!["x/y".into()]));
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(left(&api).map(|(grace, ..)| grace), Some(0));
    api.modify::<Pod>("default", "p", |p| p.metadata.finalizers = None);
    assert_eq!(left(&api), None);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_waits_for_its_pods() {
    let api = FakeApi::new();
    let mut mine = pod("p", "n");
    mine.metadata.namespace = Some("team".into());
    api.create(&mine);
    let map: ConfigMap = object(json!({"metadata": {"name": "m", "namespace": "team"}}));
    api.create(&map);
    api.delete::<Namespace>("", "team");
    assert_eq!(api.get::<ConfigMap>("team", "m"), None);
    assert!(api.get::<Pod>("team", "p").unwrap().metadata.deletion_timestamp.is_some());
    let ending = api.get::<Namespace>("", "team").unwrap();
    assert_eq!(ending.status.unwrap().phase.as_deref(), Some("Terminating"));
    let maps: Api<ConfigMap> = Api::namespaced(api.client("admin"), "team");
    assert_eq!(refusal(maps.create(&Default::default(), &map).await), (403, "Forbidden".into()));
    api.delete_with_grace::<Pod>("team", "p", 0);
    assert_eq!(api.get::<Namespace>("", "team"), None);
}
