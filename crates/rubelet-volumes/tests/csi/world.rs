//! A node with a real driver and an API server of a few maps.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use rubelet_core::env::Missing;
use rubelet_core::ids::PodUid;
use rubelet_core::lifecycle::{ContainersStopped, Effect, Input, PodState, TerminationCause, step};
use rubelet_core::observed::ObservedPod;
use rubelet_core::projection::{IssuedToken, TokenKey};
use rubelet_core::volumes::{CsiVolume, VolumeMode};
use rubelet_csi::CsiDeadlines;
use rubelet_linux::fs_pool::FsPool;
use rubelet_testkit::csi_driver::{Character, CsiDriver};
use rubelet_volumes::csi::{Csi, CsiParts, CsiPlaces, CsiProblem, CsiProblems, CsiReady, CsiUse};
use rubelet_volumes::{ObjectReader, TokenManager, TokenSource, VolumeApi};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

pub const DRIVER: &str = "disks.example.com";
pub const MIB: i64 = 1 << 20;

/// What the API server has, and what it was told.
#[derive(Default)]
pub struct Objects {
    pub drivers: BTreeMap<String, Value>,
    pub attachments: BTreeMap<String, Value>,
    pub secrets: BTreeMap<String, Value>,
    pub claims: BTreeMap<String, Value>,
    pub volumes: BTreeMap<String, Value>,
    pub in_use: BTreeSet<String>,
    /// Claims' statuses that were written.
    pub told: Vec<String>,
    /// Nothing is answered.
    pub away: bool,
}

pub struct Api {
    objects: Mutex<Objects>,
    attached: watch::Sender<BTreeSet<String>>,
}

impl Api {
    pub fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap()
    }

    /// `status.volumesAttached` gets the volume.
    pub fn attach(&self, unique_name: &str) {
        self.attached.send_modify(|attached| {
            attached.insert(unique_name.to_owned());
        });
    }

    fn read<T: serde::de::DeserializeOwned + Send + Sync + 'static>(
        &self,
        of: impl FnOnce(&Objects) -> Option<Value>,
        name: &str,
    ) -> BoxFuture<'static, Result<Arc<T>, Missing>> {
        let objects = self.objects();
        let found = match (objects.away, of(&objects)) {
            (true, _) => Err(Missing::Failed("the API server is away".to_owned())),
            (_, None) => Err(Missing::NotFound(format!("{name:?} not found"))),
            (_, Some(value)) => Ok(Arc::new(serde_json::from_value(value).unwrap())),
        };
        ready(found).boxed()
    }

    fn tell(&self, what: String) -> BoxFuture<'static, Result<(), Missing>> {
        self.objects().told.push(what);
        ready(Ok(())).boxed()
    }
}

impl ObjectReader for Api {
    fn config_map<'a>(&'a self, _: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<ConfigMap>, Missing>> {
        self.read(|_| None, name)
    }
    fn secret<'a>(&'a self, _: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<Secret>, Missing>> {
        self.read(|objects| objects.secrets.get(name).cloned(), name)
    }
    fn claim<'a>(
        &'a self,
        _: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<PersistentVolumeClaim>, Missing>> {
        self.read(|objects| objects.claims.get(name).cloned(), name)
    }
    fn persistent_volume<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<PersistentVolume>, Missing>> {
        self.read(|objects| objects.volumes.get(name).cloned(), name)
    }
}

impl VolumeApi for Api {
    fn csi_driver<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Arc<CSIDriver>>, Missing>> {
        let found = self.read(|objects| objects.drivers.get(name).cloned(), name);
        async {
            match found.await {
                Err(Missing::NotFound(_)) => Ok(None),
                found => found.map(Some),
            }
        }
        .boxed()
    }
    fn volume_attachment<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<VolumeAttachment>, Missing>> {
        self.read(|objects| objects.attachments.get(name).cloned(), name)
    }
    fn use_volume<'a>(&'a self, unique_name: &'a str) -> BoxFuture<'a, Result<(), Missing>> {
        self.objects().in_use.insert(unique_name.to_owned());
        ready(Ok(())).boxed()
    }
    fn release_volume(&self, unique_name: &str) {
        self.objects().in_use.remove(unique_name);
    }
    fn attached(&self, unique_name: &str) -> Option<String> {
        self.attached.borrow().contains(unique_name).then(String::new)
    }
    fn wait_attached<'a>(&'a self, unique_name: &'a str) -> BoxFuture<'a, String> {
        let mut attached = self.attached.subscribe();
        async move {
            attached.wait_for(|all| all.contains(unique_name)).await.unwrap();
            String::new()
        }
        .boxed()
    }
    fn claim_expanding<'a>(&'a self, _: &'a str, name: &'a str) -> BoxFuture<'a, Result<(), Missing>> {
        self.tell(format!("{name} grows"))
    }
    fn claim_expanded<'a>(
        &'a self,
        _: &'a str,
        name: &'a str,
        capacity: i64,
    ) -> BoxFuture<'a, Result<(), Missing>> {
        self.tell(format!("{name} has {} Mi", capacity / MIB))
    }
    fn claim_not_expanded<'a>(
        &'a self,
        _: &'a str,
        name: &'a str,
        infeasible: bool,
        message: &'a str,
    ) -> BoxFuture<'a, Result<(), Missing>> {
        self.tell(format!("{name} does not grow, infeasible: {infeasible}: {message}"))
    }
}

impl TokenSource for Api {
    fn mint<'a>(&'a self, key: &'a TokenKey) -> BoxFuture<'a, Result<IssuedToken, String>> {
        let issued = IssuedToken {
            token: format!("token for {}", key.audience).into(),
            expires: at(3600),
            life_seconds: 3600,
        };
        ready(Ok(issued)).boxed()
    }
}

/// Seconds after the epoch.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// A driver that has registered, a node, and a volume `vol` of it that is attached nowhere because it need not be.
pub struct World {
    pub dir: TempDir,
    pub driver: CsiDriver,
    pub api: Arc<Api>,
    pub csi: Csi,
    pub woken: Arc<Mutex<Vec<PodUid>>>,
}

impl World {
    pub async fn new(character: Character) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut driver =
            CsiDriver::new(character, "d", &dir.path().join("root"), &dir.path().join("data")).unwrap();
        driver.start().unwrap();
        driver.provide("vol", MIB).unwrap();
        let api = Arc::new(Api { objects: Mutex::default(), attached: watch::channel(BTreeSet::new()).0 });
        let woken = Arc::default();
        let csi = csi_on(dir.path(), &api, &woken);
        let world = Self { dir, driver, api, csi, woken };
        world.driver_object(json!({"attachRequired": false}));
        world.register().await;
        world
    }

    pub async fn usual() -> Self {
        Self::new(Character::named(DRIVER)).await
    }

    pub async fn register(&self) {
        let endpoint = self.driver.endpoint().to_owned();
        self.csi.register(DRIVER, &endpoint, &["1.0.0".to_owned()]).await.unwrap();
    }

    /// The CSIDriver object, with defaults as the API server sets them.
    pub fn driver_object(&self, spec: Value) {
        let mut full = json!({
            "attachRequired": true, "podInfoOnMount": false, "requiresRepublish": false,
            "fsGroupPolicy": "ReadWriteOnceWithFSType", "volumeLifecycleModes": ["Persistent"],
        });
        for (key, value) in spec.as_object().unwrap() {
            full[key] = value.clone();
        }
        let object = json!({"metadata": {"name": DRIVER}, "spec": full});
        self.api.objects().drivers.insert(DRIVER.to_owned(), object);
    }

    /// The agent starts anew: it knows nothing, and no driver.
    pub fn restart(&mut self) {
        self.csi = csi_on(self.dir.path(), &self.api, &self.woken);
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root().join("pods").join(uid)
    }

    pub async fn set_up(&self, uid: &str, volume: &CsiVolume) -> Result<CsiReady, CsiProblem> {
        self.set_up_at(&pod(uid, json!({})), volume, None, 0).await
    }

    pub async fn set_up_at(
        &self,
        pod: &Pod,
        volume: &CsiVolume,
        claim: Option<&str>,
        seconds: i64,
    ) -> Result<CsiReady, CsiProblem> {
        let dir = self.pod_dir(pod.metadata.uid.as_deref().unwrap());
        let call = CsiUse {
            pod,
            pod_dir: &dir,
            name: "data",
            read_only: volume.read_only,
            claim: claim.map(|name| ("shop", name)),
            now: at(seconds),
        };
        self.csi.set_up(volume, &call).await
    }

    pub async fn tear_down(&self, uid: &str) -> Result<(), CsiProblems> {
        self.csi.tear_down(&proof(uid), &self.pod_dir(uid), &[]).await
    }

    /// Waits until the driver has nothing mounted and the node no directory of a volume.
    pub async fn settled(&self) {
        until(|| self.driver.places().is_empty() && self.left().is_empty()).await;
    }

    /// Files and directories that volumes have left.
    pub fn left(&self) -> Vec<PathBuf> {
        let mut left = Vec::new();
        let empty = [
            "kubernetes.io",
            "csi",
            "volumes",
            "kubernetes.io~csi",
            "volumeDevices",
            DRIVER,
            "staging",
            "publish",
        ];
        let mut dirs = vec![self.root().join("plugins/kubernetes.io"), self.root().join("pods")];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = entry.file_name().into_string().unwrap();
                let pod = entry.path().parent() == Some(&self.root().join("pods"));
                if !empty.contains(&name.as_str()) && !pod {
                    left.push(entry.path());
                } else {
                    dirs.push(entry.path());
                }
            }
        }
        left
    }
}

fn csi_on(dir: &Path, api: &Arc<Api>, woken: &Arc<Mutex<Vec<PodUid>>>) -> Csi {
    let places = CsiPlaces { root: dir.join("root"), node_name: "n1".to_owned() };
    let woken = woken.clone();
    Csi::new(CsiParts {
        objects: Some(api.clone()),
        api: Some(api.clone()),
        tokens: Some(Arc::new(TokenManager::new(api.clone()))),
        wake: Some(Arc::new(move |pod| woken.lock().unwrap().push(pod.clone()))),
        deadlines: CsiDeadlines { volume: Duration::from_secs(5), info: Duration::from_secs(5) },
        ..CsiParts::new(places, FsPool::new(8))
    })
}

/// Waits for what somebody else does.
pub async fn until(mut is: impl FnMut() -> bool) {
    let waiting = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it does not come");
}

pub fn pod(uid: &str, spec: Value) -> Pod {
    let mut full = json!({"serviceAccountName": "baker", "containers": []});
    for (key, value) in spec.as_object().unwrap() {
        full[key] = value.clone();
    }
    let metadata = json!({"namespace": "shop", "name": format!("pod-{uid}"), "uid": uid});
    serde_json::from_value(json!({"metadata": metadata, "spec": full})).unwrap()
}

/// The volume `vol` of the PersistentVolume `pv`.
pub fn volume() -> CsiVolume {
    CsiVolume {
        driver: DRIVER.to_owned(),
        handle: "vol".to_owned(),
        spec_name: "pv".to_owned(),
        inline: false,
        mode: VolumeMode::Filesystem,
        fs_type: "ext4".to_owned(),
        attributes: BTreeMap::new(),
        read_only: false,
        access_modes: vec!["ReadWriteOnce".to_owned()],
        mount_options: Vec::new(),
        stage_secret: None,
        publish_secret: None,
        expand_secret: None,
        migrated: false,
    }
}

pub fn proof(uid: &str) -> ContainersStopped {
    let observed = ObservedPod {
        uid: uid.into(),
        name: "web".to_owned(),
        namespace: "shop".to_owned(),
        sandboxes: Vec::new(),
        containers: Vec::new(),
    };
    let state = PodState::Terminating { since: at(0), grace: 1, cause: TerminationCause::Completed };
    let (_, effects) = step(&state, Input::Observed(&observed), at(2));
    let proof = effects.into_iter().find_map(|effect| match effect {
        Effect::CleanUp(proof) => Some(proof),
        _ => None,
    });
    proof.unwrap()
}
