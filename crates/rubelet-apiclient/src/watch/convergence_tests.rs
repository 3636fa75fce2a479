//! Whatever a server does, in any order: once it behaves, a store fed by the watch equals what the server holds, and
//! what the sink was told in between can be told apart from nonsense.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;
use rubelet_testkit::fake_api::{Failure, FakeApi, Fault, Options, Outage};
use serde_json::json;
use tokio::sync::watch as level;

use super::*;

/// One thing that happens to the server and its six ConfigMaps.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    Put(u8, u8),
    /// An object that cannot be decoded.
    PutBad(u8),
    Delete(u8),
    Compact,
    Close,
    ResetStreams,
    Expire,
    Garble,
    Silence,
    Outage(bool),
    Recover,
    /// The next lists (or watches) meet this.
    Fault(bool, Failure, usize),
    Pass(u64),
}

pub(crate) fn happening() -> impl Strategy<Value = Happening> {
    let failure = prop_oneof![
        Just(Failure::Status(401, None)),
        Just(Failure::Status(403, None)),
        Just(Failure::Status(410, None)),
        Just(Failure::Status(429, Some(7))),
        Just(Failure::Status(500, None)),
        Just(Failure::Status(504, None)),
        Just(Failure::Reset),
        Just(Failure::Hang),
        Just(Failure::CutBody),
        Just(Failure::Garbage),
        Just(Failure::CloseWatch),
        Just(Failure::Expire),
        Just(Failure::HalfOpen),
        Just(Failure::SlowBody(Duration::from_secs(20))),
    ];
    prop_oneof![
        6 => (0..6_u8, 0..9_u8).prop_map(|(name, value)| Happening::Put(name, value)),
        1 => (0..6_u8).prop_map(Happening::PutBad),
        3 => (0..6_u8).prop_map(Happening::Delete),
        1 => Just(Happening::Compact),
        1 => Just(Happening::Close),
        1 => Just(Happening::ResetStreams),
        1 => Just(Happening::Expire),
        1 => Just(Happening::Garble),
        1 => Just(Happening::Silence),
        1 => any::<bool>().prop_map(Happening::Outage),
        1 => Just(Happening::Recover),
        3 => (any::<bool>(), failure, 1..3_usize).prop_map(|(list, what, times)| Happening::Fault(list, what, times)),
        5 => prop_oneof![0..5_u64, 5..2000_u64, 2000..100_000_u64].prop_map(Happening::Pass),
    ]
}

/// A ConfigMap as the server holds it, decodable or not.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct Loose {
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) data: serde_json::Value,
}

impl k8s_openapi::Resource for Loose {
    const API_VERSION: &'static str = "v1";
    const GROUP: &'static str = "";
    const KIND: &'static str = "ConfigMap";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "configmaps";
    type Scope = k8s_openapi::NamespaceResourceScope;
}

impl k8s_openapi::Metadata for Loose {
    type Ty = ObjectMeta;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

pub(crate) fn name(number: u8) -> String {
    format!("c{number}")
}

fn put(api: &FakeApi, number: u8, data: &serde_json::Value) {
    api.put_raw(&json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "default", "name": name(number)},
        "data": data,
    }));
}

pub(crate) async fn happen(api: &FakeApi, what: &Happening) {
    match what {
        Happening::Put(number, value) => put(api, *number, &json!({"value": value.to_string()})),
        Happening::PutBad(number) => put(api, *number, &json!(7)),
        Happening::Delete(number) => {
            api.delete::<Loose>("default", &name(*number));
        }
        Happening::Compact => api.compact(),
        Happening::Close => api.close_watches("configmaps"),
        Happening::ResetStreams => api.reset_watches("configmaps"),
        Happening::Expire => api.expire_watches("configmaps"),
        Happening::Garble => api.garble_watches("configmaps"),
        Happening::Silence => api.silence_watches("configmaps"),
        Happening::Outage(refuse) => api.outage(if *refuse { Outage::Refuse } else { Outage::Hang }),
        Happening::Recover => api.outage(Outage::None),
        Happening::Fault(list, what, times) => {
            let verb = if *list { "list" } else { "watch" };
            api.fail(Fault::on(verb, "configmaps", what.clone()).times(*times));
        }
        Happening::Pass(millis) => tokio::time::sleep(Duration::from_millis(*millis)).await,
    }
}

/// What the sink was told, by name: a version, or that it is bad.
type Store = BTreeMap<String, (String, bool)>;

fn apply(store: &mut Store, update: Update<ConfigMap>) {
    let good = |object: &ConfigMap| {
        let metadata = &object.metadata;
        (metadata.name.clone().unwrap(), (metadata.resource_version.clone().unwrap(), true))
    };
    let bad = |bad: BadObject| (bad.name.clone(), (bad.resource_version.clone().unwrap(), false));
    match update {
        Update::Set { items, bad: bads } => {
            *store = items.iter().map(|item| good(item)).chain(bads.into_iter().map(bad)).collect();
        }
        Update::Applied(object) => store.extend([good(&object)]),
        Update::Bad(object) => store.extend([bad(object)]),
        Update::Deleted { object } => drop(store.remove(&good(&object).0)),
        Update::BadDeleted(object) => drop(store.remove(&object.name)),
        Update::Problem(_) | Update::Recovered => {}
    }
}

fn truth(api: &FakeApi) -> Store {
    let entry = |object: Loose| {
        let metadata = object.metadata;
        (metadata.name.unwrap(), (metadata.resource_version.unwrap(), !object.data.is_number()))
    };
    api.list::<Loose>("default").into_iter().map(entry).collect()
}

async fn play(happenings: &[Happening]) {
    let api = FakeApi::with(Options { authorize: false, ..Options::default() });
    let (told, mut seen) = level::channel(Store::new());
    let troubles = Arc::new(Mutex::new(Vec::new()));
    let sink = {
        let troubles = troubles.clone();
        move |update: Update<ConfigMap>| {
            match &update {
                Update::Problem(problem) => troubles.lock().unwrap().push(Some(problem.kind)),
                Update::Recovered => troubles.lock().unwrap().push(None),
                _ => {}
            }
            told.send_modify(|store| apply(store, update));
        }
    };
    let spec = WatchSpec { namespace: Some("default".to_owned()), page_limit: 2, ..WatchSpec::all(3) };
    let watching = tokio::spawn(run(api.client("admin"), spec, sink));
    for what in happenings {
        happen(&api, what).await;
    }
    api.outage(Outage::None);
    // Faults that were never met stay in force; the server is honest again only when they are used up, at the latest
    // after so long: a dead stream is noticed after ten minutes and a half, each fault costs at most a minute and a
    // back-off of half a minute.
    let patience = Duration::from_secs(660 + 90 * 2 * happenings.len() as u64);
    let converged = async {
        loop {
            if *seen.borrow_and_update() == truth(&api) {
                return;
            }
            seen.changed().await.unwrap();
        }
    };
    let done = tokio::time::timeout(patience, converged).await;
    assert!(done.is_ok(), "{:?} is not {:?}: {:?}", seen.borrow(), truth(&api), api.counts());
    let requests = api.requests().len() as u64;
    watching.abort();
    let troubles = troubles.lock().unwrap();
    let mut told = std::collections::BTreeSet::new();
    for trouble in troubles.iter() {
        match trouble {
            Some(kind) => assert!(told.insert(*kind), "{kind:?} told twice: {troubles:?}"),
            None => {
                assert!(!told.is_empty(), "recovered from nothing: {troubles:?}");
                told.clear();
            }
        }
    }
    // No storm: far from a request a second, however it went wrong.
    assert!(requests <= 10 + 12 * happenings.len() as u64, "{requests} requests");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_store_becomes_what_the_server_holds(happenings in prop::collection::vec(happening(), 0..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(play(&happenings));
    }
}
