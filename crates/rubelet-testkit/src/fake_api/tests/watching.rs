//! Lists and watches: resuming, what is too old, initial events, bookmarks, pages.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use serde_json::json;

use super::{object, pod, refusal};
use crate::fake_api::{Failure, FakeApi, Fault, Outage};

fn map(name: &str) -> ConfigMap {
    object(json!({"metadata": {"name": name, "namespace": "default", "labels": {"app": name}}}))
}

/// The next event of a watch as a word and a name.
fn word(event: WatchEvent<ConfigMap>) -> String {
    match event {
        WatchEvent::Added(o) => format!("+{}", o.metadata.name.unwrap()),
        WatchEvent::Modified(o) => format!("~{}", o.metadata.name.unwrap()),
        WatchEvent::Deleted(o) => format!("-{}", o.metadata.name.unwrap()),
        WatchEvent::Bookmark(b) if b.metadata.annotations.is_empty() => "bookmark".into(),
        WatchEvent::Bookmark(b) => format!("bookmark {:?}", b.metadata.annotations),
        WatchEvent::Error(e) => format!("error {} {}", e.code, e.reason),
    }
}

/// All events of a watch until its timeout; the last bookmark comes shortly before.
async fn watched(maps: &Api<ConfigMap>, params: &WatchParams, version: &str) -> Vec<String> {
    let events = maps.watch(params, version).await.unwrap();
    events.map_ok(word).try_collect().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_watch_resumes_where_the_list_was_and_is_told_when_that_is_forgotten() {
    let api = FakeApi::new();
    let maps: Api<ConfigMap> = Api::default_namespaced(api.client("admin"));
    api.create(&map("a"));
    let version = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    api.create(&map("b"));
    api.delete::<ConfigMap>("default", "a");
    let params = WatchParams::default().timeout(5);
    assert_eq!(watched(&maps, &params, &version).await, ["+b", "-a", "bookmark"]);
    assert_eq!(watched(&maps, &params, "0").await, ["+b", "bookmark"]);
    assert_eq!(watched(&maps, &params, "").await, ["+b", "bookmark"]);
    assert_eq!(watched(&maps, &params.clone().labels("app in (c, d)"), "0").await, ["bookmark"]);
    api.compact();
    assert_eq!(watched(&maps, &params, &version).await, ["error 410 Expired"]);
    // The present is never too old.
    let version = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    assert_eq!(watched(&maps, &params, &version).await, ["bookmark"]);
    assert_eq!(refusal(maps.list(&ListParams::default().at("999999")).await), (504, "Timeout".into()));
}

#[tokio::test(start_paused = true)]
async fn bookmarks_and_initial_events() {
    let api = FakeApi::new();
    let maps: Api<ConfigMap> = Api::default_namespaced(api.client("admin"));
    api.create(&map("a"));
    let params = WatchParams::default().timeout(70);
    assert_eq!(watched(&maps, &params, "0").await, ["+a", "bookmark", "bookmark"]);
    assert_eq!(
        watched(&maps, &WatchParams::default().timeout(50).initial_events(), "0").await,
        ["+a", "bookmark {\"k8s.io/initial-events-end\": \"true\"}", "bookmark"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_in_pages_is_of_one_moment() {
    let api = FakeApi::new();
    let maps: Api<ConfigMap> = Api::default_namespaced(api.client("admin"));
    for name in ["a", "b", "c"] {
        api.create(&map(name));
    }
    let first = maps.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!((first.items.len(), first.metadata.remaining_item_count), (2, Some(1)));
    let token = first.metadata.continue_.unwrap();
    api.create(&map("d"));
    let rest = maps.list(&ListParams::default().limit(2).continue_token(&token)).await.unwrap();
    assert_eq!(rest.items.len(), 1);
    assert_eq!(rest.metadata.resource_version, first.metadata.resource_version);
    api.compact();
    let again = maps.list(&ListParams::default().continue_token(&token)).await;
    assert_eq!(refusal(again), (410, "Expired".into()));
    assert_eq!(
        refusal(maps.list(&ListParams::default().fields("data.x=1")).await),
        (400, "BadRequest".into())
    );
}

#[tokio::test(start_paused = true)]
async fn watches_can_be_broken_in_every_way() {
    let api = FakeApi::new();
    let maps: Api<ConfigMap> = Api::default_namespaced(api.client("admin"));
    let params = WatchParams::default().timeout(50);
    let open = || async { maps.watch(&params, "0").await.unwrap().boxed() };

    let mut watch = open().await;
    api.expire_watches("configmaps");
    assert_eq!(word(watch.next().await.unwrap().unwrap()), "error 410 Expired");
    assert!(watch.next().await.is_none());

    let mut watch = open().await;
    api.close_watches("configmaps");
    assert!(watch.next().await.is_none());

    let mut watch = open().await;
    api.reset_watches("");
    assert!(watch.next().await.unwrap().is_err());

    let mut watch = open().await;
    api.garble_watches("configmaps");
    assert!(watch.next().await.unwrap().is_err());

    let mut silent = open().await;
    api.silence_watches("configmaps");
    api.create(&map("unseen"));
    let waited = tokio::time::timeout(Duration::from_secs(3600), silent.next()).await;
    assert!(waited.is_err(), "a half-open watch is never told anything: {waited:?}");

    let once = api.fail(Fault::on("watch", "configmaps", Failure::Expire).once());
    assert_eq!(watched(&maps, &params, "0").await, ["+unseen", "error 410 Expired"]);
    assert_eq!(
        (watched(&maps, &params, "0").await, once.hits()),
        (vec!["+unseen".into(), "bookmark".into()], 1)
    );
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_watches_or_silences_them() {
    let api = FakeApi::new();
    let pods: Api<Pod> = Api::default_namespaced(api.client("admin"));
    let mut watch = pods.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    api.outage(Outage::Refuse);
    assert!(watch.next().await.unwrap().is_err());
    assert!(matches!(pods.get("p").await, Err(kube::Error::Service(_))));
    api.outage(Outage::None);
    let mut watch = pods.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    api.outage(Outage::Hang);
    let get = tokio::time::timeout(Duration::from_secs(60), pods.get("p")).await;
    assert!(get.is_err());
    api.outage(Outage::None);
    api.create(&pod("p", ""));
    assert!(tokio::time::timeout(Duration::from_secs(60), watch.next()).await.is_err());
    assert!(pods.get("p").await.is_ok());
}
