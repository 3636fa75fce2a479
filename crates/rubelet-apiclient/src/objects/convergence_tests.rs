//! Whatever a server does, in any order: a worker that reads its objects again only when it is told to (and now and
//! then after an error, as workers do) ends with what the server holds.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rubelet_testkit::fake_api::{FakeApi, Options, Outage};
use tokio::sync::watch as level;

use super::*;
use crate::watch::convergence_tests::{Happening, Loose, happen, happening, name};

const OBJECTS: std::ops::Range<u8> = 0..3;
const UNKNOWN: &str = "cannot be told";

/// What a worker knows, by name: the value, or nothing if there is no such object.
type View = BTreeMap<String, Option<String>>;

async fn read(cache: &ObjectCache) -> View {
    let mut view = View::new();
    for number in OBJECTS {
        let name = name(number);
        let value = match cache.get_config_map("default", &name).await {
            Ok(object) => object.data.clone().unwrap_or_default().remove("value"),
            Err(ObjectError::NotFound(_)) => None,
            Err(ObjectError::Failed(_)) => Some(UNKNOWN.to_owned()),
        };
        view.insert(name, value);
    }
    view
}

async fn work(cache: ObjectCache, views: level::Sender<View>) {
    loop {
        let view = read(&cache).await;
        let failed = view.values().flatten().any(|value| value == UNKNOWN);
        views.send_replace(view);
        // At rest, only a change leads to another read.
        let rest = Duration::from_secs(if failed { 20 } else { u64::from(u32::MAX) });
        let _ = tokio::time::timeout(rest, cache.changed()).await;
    }
}

fn truth(api: &FakeApi) -> View {
    let mut view: View = OBJECTS.map(|number| (name(number), None)).collect();
    for object in api.list::<Loose>("default") {
        let value = object.data["value"].as_str().unwrap_or(UNKNOWN).to_owned();
        view.entry(object.metadata.name.unwrap()).and_modify(|known| *known = Some(value));
    }
    view
}

async fn play(happenings: Vec<Happening>) {
    let api = FakeApi::with(Options { authorize: false, ..Options::default() });
    let cache = ObjectCache::new(api.client("admin"), ChangeDetection::Watch, 1);
    let refs = OBJECTS.map(|number| ObjectReference::config_map("default", name(number))).collect();
    cache.hold(&PodUid::from("p"), refs);
    let (views, mut seen) = level::channel(View::new());
    let worker = tokio::spawn(work(cache, views));
    for what in &happenings {
        happen(&api, what).await;
    }
    api.outage(Outage::None);
    // A stream that died in silence is noticed when the server should have ended it: after an hour at most.
    let patience = Duration::from_secs(3700 + 90 * 2 * happenings.len() as u64);
    let converged = async {
        while *seen.borrow_and_update() != truth(&api) {
            seen.changed().await.unwrap();
        }
    };
    let done = tokio::time::timeout(patience, converged).await;
    assert!(done.is_ok(), "{:?} is not {:?}: {:?}", seen.borrow(), truth(&api), api.counts());
    worker.abort();
}

/// Undecodable objects keep their last good value, so what is read depends on timing; they have tests of their own.
fn decodable() -> impl Strategy<Value = Happening> {
    happening().prop_filter("decodable", |what| !matches!(what, Happening::PutBad(_)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_worker_that_is_told_ends_with_the_truth(happenings in prop::collection::vec(decodable(), 0..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(play(happenings));
    }
}
