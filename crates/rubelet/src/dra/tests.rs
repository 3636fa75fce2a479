//! Claims with a driver of the tests on real sockets, and an API that the test is.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::resource::v1::ResourceClaim;
use rubelet_plugins::{DRA_PLUGIN, Plugin};
use rubelet_testkit::dra_driver::{Character, DraDriver, Fault, Method};
use serde_json::json;

use super::*;

const DRIVER: &str = "d.test";

struct FakeApi(Mutex<BTreeMap<String, ResourceClaim>>);

impl ClaimReader for FakeApi {
    fn claim<'a>(&'a self, key: &'a ClaimKey) -> BoxFuture<'a, Result<ResourceClaim, String>> {
        let found = self.0.lock().unwrap().get(&key.name).cloned();
        Box::pin(async move { found.ok_or_else(|| format!("resourceclaims {:?} not found", key.name)) })
    }
}

struct World {
    dir: tempfile::TempDir,
    api: Arc<FakeApi>,
    wakes: PodWakes,
    claims: Claims,
    driver: DraDriver,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (api, wakes) = (Arc::new(FakeApi(Mutex::default())), PodWakes::default());
        let claims = load(dir.path(), &api, &wakes).await;
        let character = Character::named(DRIVER).giving("c", "dev", &["one"], &["d.test/x=dev"]);
        let driver = DraDriver::new(character, "d", dir.path());
        Self { dir, api, wakes, claims, driver }
    }

    /// The agent is started anew, with what is on the disk.
    async fn restart(&mut self) {
        self.claims = load(self.dir.path(), &self.api, &self.wakes).await;
        self.register().await;
    }

    async fn register(&mut self) {
        self.driver.start().unwrap();
        let plugin = Plugin {
            kind: DRA_PLUGIN.to_owned(),
            name: DRIVER.to_owned(),
            endpoint: self.driver.endpoint().to_owned(),
            versions: vec!["v1.DRAPlugin".to_owned()],
            socket: self.driver.endpoint().to_owned(),
        };
        let handler = self.claims.handler();
        handler.validate(&plugin).unwrap();
        handler.register(&plugin).await.unwrap();
    }

    fn claim(&self, name: &str, claim_uid: &str, pods: &[&str]) {
        let consumer = |uid: &&str| json!({"resource": "pods", "name": uid, "uid": uid});
        let result = json!({"request": "one", "driver": DRIVER, "pool": "pool", "device": "dev"});
        let claim = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": claim_uid}, "spec": {},
            "status": {"allocation": {"devices": {"results": [result]}},
                       "reservedFor": pods.iter().map(consumer).collect::<Vec<_>>()},
        });
        let claim = serde_json::from_value(claim).unwrap();
        self.api.0.lock().unwrap().insert(name.to_owned(), claim);
    }

    async fn prepare(&self, uid: &str) -> Result<(), String> {
        self.claims.prepare(&pod(uid), true).await.map_err(|error| crate::logging::chain(&error))
    }

    async fn give_back(&self, uid: &str) -> Result<(), String> {
        self.claims.give_back(&uid.into()).await.map_err(|error| crate::logging::chain(&error))
    }

    fn cdi(&self, uid: &str) -> Option<Vec<String>> {
        let pod = pod(uid);
        self.claims.cdi_devices(&pod, &pod.spec.as_ref().unwrap().containers[0]).ok()
    }
}

async fn load(dir: &Path, api: &Arc<FakeApi>, wakes: &PodWakes) -> Claims {
    let parts = ClaimsParts {
        settings: ClaimsSettings { extended: true, health: true, messages: true },
        reader: Some(api.clone()),
        fs: FsPool::new(2),
        clock: Clock::simulated(Timestamp::UNIX_EPOCH),
        wakes: wakes.clone(),
        metrics: Metrics::new(),
    };
    Claims::load(parts, dir).await
}

fn pod(uid: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": uid, "namespace": "ns", "uid": uid},
        "spec": {"resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}],
                 "containers": [{"name": "a", "resources": {"claims": [{"name": "gpu"}]}}]},
    }))
    .unwrap()
}

#[tokio::test]
async fn a_pod_that_waits_for_its_driver_is_woken_and_ends_without_it() {
    let mut world = World::new().await;
    world.claim("c", "1", &["p"]);
    assert_eq!(world.prepare("p").await, Err("DRA driver d.test is not registered".to_owned()));
    assert!(!world.claims.has(&"p".into()));
    assert_eq!(world.give_back("p").await, Ok(()));
    assert!(world.prepare("p").await.is_err());
    world.register().await;
    assert_eq!(world.wakes.woken().await, ["p".into()].into());
    assert_eq!(world.prepare("p").await, Ok(()));
    assert_eq!(world.cdi("p").unwrap(), ["d.test/x=dev"]);
    let pod = pod("p");
    let told = world.claims.of_container(&pod, &pod.spec.as_ref().unwrap().containers[0]);
    assert_eq!((told[0].name.as_str(), told[0].devices[0].device.as_str()), ("c", "dev"));
}

#[tokio::test]
async fn what_may_be_prepared_is_on_the_disk_before_a_driver_is_asked() {
    let mut world = World::new().await;
    world.claim("c", "1", &["p"]);
    world.register().await;
    let fault = world.driver.fault(Method::Prepare, "c", Fault::DoThenFail("late".to_owned()));
    let failed = "NodePrepareResources failed for ResourceClaim c: late";
    assert_eq!(world.prepare("p").await, Err(failed.to_owned()));
    fault.stop();
    world.restart().await;
    assert!(world.claims.has(&"p".into()));
    assert_eq!(world.give_back("p").await, Ok(()));
    assert_eq!(world.driver.prepared(), Vec::<String>::new());
    world.restart().await;
    assert!(!world.claims.has(&"p".into()));
}

#[tokio::test]
async fn a_sandbox_that_is_there_needs_nobody() {
    let mut world = World::new().await;
    world.claim("c", "1", &["p"]);
    world.register().await;
    world.prepare("p").await.unwrap();
    world.restart().await;
    world.api.0.lock().unwrap().clear();
    world.claims.prepare(&pod("p"), false).await.unwrap();
    assert_eq!(world.cdi("p").unwrap(), ["d.test/x=dev"]);
    assert_eq!(world.driver.calls_of("c"), ["prepare"]);
    assert!(world.prepare("p").await.unwrap_err().starts_with("fetch ResourceClaim c: "));
}

#[tokio::test]
async fn a_driver_that_does_not_take_it_back_is_asked_again() {
    let mut world = World::new().await;
    world.claim("c", "1", &["p", "q"]);
    world.register().await;
    world.prepare("p").await.unwrap();
    world.prepare("q").await.unwrap();
    assert_eq!(world.give_back("p").await, Ok(()));
    let fault = world.driver.fault(Method::Unprepare, "c", Fault::Forget);
    assert_eq!(world.give_back("q").await, Err("NodeUnprepareResources skipped 1 ResourceClaims".to_owned()));
    fault.stop();
    assert!(world.claims.has(&"q".into()));
    world.driver.stop();
    assert!(world.give_back("q").await.unwrap_err().contains("is the driver running?"));
    world.driver.start().unwrap();
    assert_eq!(world.give_back("q").await, Ok(()));
    // A claim of the same name is another one.
    world.claim("c", "2", &["r"]);
    assert_eq!(world.prepare("r").await, Ok(()));
    world.claim("c", "3", &["s"]);
    assert!(world.prepare("s").await.unwrap_err().contains("different UID 2"));
}

#[tokio::test]
async fn a_damaged_checkpoint_is_set_aside_and_nothing_is_given_back_before_it_is_made_again() {
    let mut world = World::new().await;
    let file = world.dir.path().join("dra_manager_state");
    for damage in ["", "{}", "nonsense", "{\"Data\":\"{}\",\"Checksum\":1}"] {
        std::fs::write(&file, damage).unwrap();
        world.restart().await;
        assert!(!file.exists(), "{damage}");
        assert!(world.give_back("p").await.unwrap_err().contains("is not known yet"), "{damage}");
    }
    assert!(world.dir.path().join("dra_manager_state.damaged").exists());
}
