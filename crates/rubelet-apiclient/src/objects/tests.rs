//! The cache against the fake API server, with the Node authorizer in force.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rubelet_testkit::fake_api::{Failure, FakeApi, Fault, Options, Outage};
use serde_json::json;

use super::*;

const NODE: &str = "system:node:n1";

fn config_map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            namespace: Some("default".to_owned()),
            name: Some(name.to_owned()),
            annotations: Some(BTreeMap::from([("long".to_owned(), "story".to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("key".to_owned(), value.to_owned())])),
        ..ConfigMap::default()
    }
}

fn secret(name: &str) -> Secret {
    Secret {
        metadata: ObjectMeta {
            namespace: Some("default".to_owned()),
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("key".to_owned(), ByteString(b"x".to_vec()))])),
        ..Secret::default()
    }
}

/// A pod of this node that refers to the ConfigMaps `a`, `b` and the Secret `s`, so that the node may read them.
fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i", "envFrom": [
            {"configMapRef": {"name": "a"}}, {"configMapRef": {"name": "b"}}, {"secretRef": {"name": "s"}}]}]},
    }))
    .unwrap()
}

struct Fixture {
    api: FakeApi,
    cache: ObjectCache,
}

impl Fixture {
    fn new(strategy: ChangeDetection) -> Self {
        let api = FakeApi::new();
        api.create(&pod("p"));
        let cache = ObjectCache::new(api.client(NODE), strategy, 1);
        Self { api, cache }
    }

    fn hold(&self, pod: &str, config_maps: &[&str]) {
        let refs = config_maps.iter().map(|name| ObjectReference::config_map("default", *name)).collect();
        self.cache.hold(&PodUid::from(pod), refs);
    }

    /// A ConfigMap's value, or the error in words.
    async fn read(&self, name: &str) -> String {
        match self.cache.get_config_map("default", name).await {
            Ok(object) => object.data.clone().unwrap_or_default().remove("key").unwrap_or_default(),
            Err(error) => format!("! {error}"),
        }
    }

    async fn changed(&self) -> Vec<String> {
        self.cache.changed().await.iter().map(ToString::to_string).collect()
    }

    fn set(&self, name: &str, value: &str) {
        self.api.modify::<ConfigMap>("default", name, |object| {
            object.data = config_map(name, value).data;
        });
    }

    /// Requests so far, by verb and resource, without those of earlier calls.
    fn requests(&self) -> Vec<String> {
        self.api.take_requests().iter().map(|request| request.summary()).collect()
    }

    /// Reads until the answer is this. Each change wakes; nothing is polled.
    async fn read_until(&self, name: &str, expected: &str) {
        while self.read(name).await != expected {
            self.changed().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pods_share_a_watch_and_hear_of_changes() {
    let f = Fixture::new(ChangeDetection::Watch);
    f.api.create(&config_map("a", "1"));
    f.hold("p1", &["a"]);
    f.hold("p2", &["a"]);
    assert_eq!(f.read("a").await, "1");
    assert_eq!(f.read("a").await, "1");
    f.set("a", "2");
    assert_eq!(f.changed().await, ["p1", "p2"]);
    assert_eq!(f.read("a").await, "2");
    assert_eq!(f.requests(), ["list configmaps", "watch configmaps"]);
    let object = f.cache.get_config_map("default", "a").await.unwrap();
    assert_eq!(object.metadata.annotations, None);
    // Who has let go hears nothing.
    f.cache.release(&PodUid::from("p1"));
    f.set("a", "3");
    assert_eq!(f.changed().await, ["p2"]);
    assert_eq!(f.api.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_missing_object_appears_by_itself() {
    let f = Fixture::new(ChangeDetection::Watch);
    f.hold("p1", &["a"]);
    assert_eq!(f.read("a").await, r#"! configmap "a" not found"#);
    assert_eq!(f.read("a").await, r#"! configmap "a" not found"#);
    f.api.create(&config_map("a", "1"));
    assert_eq!(f.changed().await, ["p1"]);
    assert_eq!(f.read("a").await, "1");
    f.api.delete::<ConfigMap>("default", "a");
    assert_eq!(f.changed().await, ["p1"]);
    assert_eq!(f.read("a").await, r#"! configmap "a" not found"#);
    // The list only hinted that it is missing; one GET made sure.
    let mut requests = f.requests();
    requests.sort();
    assert_eq!(requests, ["get configmaps", "list configmaps", "watch configmaps"]);
    assert_eq!(f.api.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn secrets_are_kept_apart_from_config_maps() {
    let f = Fixture::new(ChangeDetection::Watch);
    f.api.create(&secret("s"));
    let refs = BTreeSet::from([
        ObjectReference::secret("default", "s"),
        ObjectReference::config_map("default", "s"),
    ]);
    f.cache.hold(&PodUid::from("p1"), refs);
    assert!(f.cache.get_secret("default", "s").await.is_ok());
    // Not in any pod's spec: the authorizer says so, and so does the error.
    let error = f.cache.get_config_map("default", "s").await.unwrap_err();
    assert!(
        error.to_string().starts_with("cannot get configmap default/s: configmaps \"s\" is forbidden"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_watch_lingers_for_pods_that_come_and_go() {
    let f = Fixture::new(ChangeDetection::Watch);
    f.api.create(&config_map("a", "1"));
    for pod in ["p1", "p2", "p3"] {
        f.hold(pod, &["a"]);
        assert_eq!(f.read("a").await, "1");
        f.cache.release(&PodUid::from(pod));
        tokio::time::advance(Duration::from_secs(30)).await;
    }
    assert_eq!(f.requests(), ["list configmaps", "watch configmaps"]);
    let gone = f.cache.shared.entry::<ConfigMap>("default", "a").map(|entry| Arc::downgrade(&entry)).unwrap();
    let ended = async {
        while gone.upgrade().is_some() || !f.api.watches().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::timeout(Duration::from_secs(1), ended).await.unwrap();
    assert_eq!(f.requests(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_nobody_needs_ends_when_it_is_refused() {
    let f = Fixture::new(ChangeDetection::Watch);
    f.api.create(&config_map("a", "1"));
    f.hold("p1", &["a"]);
    assert_eq!(f.read("a").await, "1");
    f.cache.release(&PodUid::from("p1"));
    f.api.delete::<Pod>("default", "p");
    let refused = f.api.fail(Fault::on("watch", "configmaps", Failure::Status(403, None)));
    f.api.expire_watches("configmaps");
    tokio::time::advance(Duration::from_secs(20)).await;
    assert!(refused.hits() + f.api.violations().len() <= 1, "{:?}", f.requests());
}

#[tokio::test(start_paused = true)]
async fn immutable_objects_are_not_watched_on() {
    let f = Fixture::new(ChangeDetection::Watch);
    f.api.create(&ConfigMap { immutable: Some(true), ..config_map("a", "1") });
    f.hold("p1", &["a"]);
    assert_eq!(f.read("a").await, "1");
    let mut yields = 0;
    while !f.api.watches().is_empty() && yields < 1000 {
        tokio::task::yield_now().await;
        yields += 1;
    }
    assert_eq!(f.api.watches(), Vec::<String>::new());
    f.api.outage(Outage::Refuse);
    assert_eq!(f.read("a").await, "1");
}

#[tokio::test(start_paused = true)]
async fn what_was_known_serves_while_the_server_is_away() {
    let f = Fixture::new(ChangeDetection::Watch);
    f.api.create(&config_map("a", "1"));
    f.hold("p1", &["a", "b"]);
    assert_eq!(f.read("a").await, "1");
    assert_eq!(f.read("b").await, r#"! configmap "b" not found"#);
    f.api.outage(Outage::Refuse);
    f.hold("p2", &["c"]);
    let started = Instant::now();
    for _ in 0..20 {
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(f.read("a").await, "1");
        assert_eq!(f.read("b").await, r#"! configmap "b" not found"#);
    }
    assert!(started.elapsed() < Duration::from_secs(62), "answers are at once: {:?}", started.elapsed());
    let unknown = f.read("c").await;
    assert!(unknown.starts_with("! cannot get configmap default/c: "), "{unknown}");
    f.set("a", "2");
    f.api.create(&config_map("b", "3"));
    f.api.outage(Outage::None);
    f.read_until("a", "2").await;
    f.read_until("b", "3").await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_in_trouble_is_helped_by_gets() {
    let f = Fixture::new(ChangeDetection::Watch);
    f.api.create(&config_map("a", "1"));
    let busy = f.api.fail(Fault::on("list", "configmaps", Failure::Status(503, None)));
    f.hold("p1", &["a"]);
    f.hold("p2", &["a"]);
    let started = Instant::now();
    assert_eq!(f.read("a").await, "1");
    assert!(started.elapsed() < Duration::from_millis(100), "{:?}", started.elapsed());
    f.set("a", "2");
    assert_eq!(f.read("a").await, "1", "a second is too short to ask again");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(f.read("a").await, "2");
    assert_eq!(f.changed().await, ["p1", "p2"]);
    busy.stop();
    f.set("a", "3");
    f.read_until("a", "3").await;
}

#[tokio::test(start_paused = true)]
async fn a_first_list_that_hangs_is_not_waited_for() {
    let f = Fixture::new(ChangeDetection::Watch);
    f.api.create(&config_map("a", "1"));
    f.api.fail(Fault::on("list", "configmaps", Failure::Hang).once());
    f.hold("p1", &["a"]);
    let started = Instant::now();
    assert_eq!(f.read("a").await, "1");
    assert!(started.elapsed() < Duration::from_millis(1100), "{:?}", started.elapsed());
    f.set("a", "2");
    f.changed().await;
    assert_eq!(f.read("a").await, "2");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_decoded_says_so() {
    let f = Fixture::new(ChangeDetection::Watch);
    let put = |data| {
        f.api.put_raw(&json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"namespace": "default", "name": "a"}, "data": data}));
    };
    put(json!(7));
    f.hold("p1", &["a"]);
    let error = f.read("a").await;
    assert!(error.starts_with("! default/a cannot be decoded: data: invalid type: integer `7`"), "{error}");
    put(json!({"key": "1"}));
    assert_eq!(f.changed().await, ["p1"]);
    assert_eq!(f.read("a").await, "1");
    // A good value outlives what comes after it.
    put(json!(8));
    f.api.create(&config_map("b", "2"));
    f.hold("p1", &["a", "b"]);
    assert_eq!(f.read("b").await, "2");
    assert_eq!(f.read("a").await, "1");
}

#[tokio::test(start_paused = true)]
async fn many_objects_are_not_listed_all_at_once() {
    let api = FakeApi::with(Options { authorize: false, ..Options::default() });
    api.latency(Duration::from_millis(100));
    let cache = ObjectCache::new(api.client(NODE), ChangeDetection::Watch, 1);
    let name = |number: u32| format!("a{number}");
    for number in 0..100 {
        api.create(&config_map(&name(number), "1"));
        let refs = BTreeSet::from([ObjectReference::config_map("default", name(number))]);
        cache.hold(&PodUid::from(format!("p{number}")), refs);
    }
    let reads = (0..100).map(|number| {
        let cache = cache.clone();
        async move { cache.get_config_map("default", &name(number)).await.is_ok() }
    });
    let started = Instant::now();
    let read = futures::future::join_all(reads).await;
    assert!(read.iter().all(|ok| *ok));
    let lists = api.requests().iter().filter(|request| request.request.verb == "list").count();
    assert_eq!(lists, 100);
    // Sixteen at a time.
    assert!(started.elapsed() >= Duration::from_millis(700), "{:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_millis(1000), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_cache_strategy_asks_when_an_answer_is_old() {
    let f = Fixture::new(ChangeDetection::Cache);
    f.api.create(&config_map("a", "1"));
    f.hold("p1", &["a", "b"]);
    assert_eq!(f.read("a").await, "1");
    f.set("a", "2");
    assert_eq!(f.read("a").await, "1");
    assert_eq!(f.requests(), ["get configmaps"]);
    // A pod that comes new sees no older state.
    f.hold("p2", &["a"]);
    assert_eq!(f.read("a").await, "2");
    f.set("a", "3");
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(f.read("a").await, "3");
    f.cache.set_ttl(Some(Duration::ZERO));
    f.set("a", "4");
    assert_eq!(f.read("a").await, "4");
    f.cache.set_ttl(Some(Duration::from_secs(600)));
    // What is missing is asked for each time, and what was known serves while the server is away.
    assert_eq!(f.read("b").await, r#"! configmap "b" not found"#);
    f.api.create(&config_map("b", "5"));
    assert_eq!(f.read("b").await, "5");
    f.api.outage(Outage::Refuse);
    tokio::time::advance(Duration::from_secs(601)).await;
    assert_eq!(f.read("a").await, "4");
    assert_eq!(f.api.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn the_get_strategy_asks_each_time() {
    let f = Fixture::new(ChangeDetection::Get);
    f.api.create(&config_map("a", "1"));
    f.hold("p1", &["a"]);
    assert_eq!(f.read("a").await, "1");
    f.set("a", "2");
    assert_eq!(f.read("a").await, "2");
    assert_eq!(f.requests(), ["get configmaps", "get configmaps"]);
    f.api.outage(Outage::Hang);
    assert_eq!(f.read("a").await, "! cannot get configmap default/a: no answer within 10 s");
}

#[tokio::test(start_paused = true)]
async fn claims_and_their_volumes_are_asked_for_each_time() {
    let f = Fixture::new(ChangeDetection::Watch);
    let mut claiming = pod("claiming");
    claiming.spec.as_mut().unwrap().volumes = serde_json::from_value(json!([
        {"name": "v", "persistentVolumeClaim": {"claimName": "disk"}}]))
    .unwrap();
    // The authorizer does not know of the pod yet.
    let begun = Instant::now();
    let refused = f.cache.get_claim("default", "disk").await.unwrap_err().to_string();
    assert!(refused.contains("is forbidden") && refused.contains("no relationship found"), "{refused}");
    assert_eq!(begun.elapsed(), Duration::from_millis(750));
    let (_, claim) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            f.api.create(&claiming)
        },
        f.cache.get_claim("default", "disk")
    );
    let absent = ObjectError::NotFound("persistentvolumeclaims \"disk\" not found".to_owned());
    assert_eq!(claim.unwrap_err(), absent);
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeName": "pv"});
    f.api.create_json(&json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"namespace": "default", "name": "disk"}, "spec": spec}));
    f.api.create_json(&json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"}}}));
    let claim = f.cache.get_claim("default", "disk").await.unwrap();
    assert_eq!(claim.spec.unwrap().volume_name.as_deref(), Some("pv"));
    assert!(f.cache.get_persistent_volume("pv").await.unwrap().spec.unwrap().host_path.is_some());
    f.api.outage(Outage::Refuse);
    assert!(matches!(f.cache.get_claim("default", "disk").await, Err(ObjectError::Failed(_))));
}
