//! Whole pods against a scripted API: what lies where, what is refreshed, told, adopted and removed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Mutex;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret};
use rubelet_core::lifecycle::{ContainersStopped, Effect, Input, PodState, TerminationCause, step};
use rubelet_core::observed::ObservedPod;
use rubelet_core::projection::IssuedToken;
use rubelet_core::quantity::Amount;
use serde_json::{Value, json};

use super::*;
use crate::tokens::TokenSource;

/// Objects by `kind/namespace/name`, and tokens while `working`.
#[derive(Default)]
struct Api {
    objects: Mutex<BTreeMap<String, Value>>,
    refuses: Mutex<bool>,
    minted: Mutex<i64>,
}

impl Api {
    fn set(&self, object: &str, content: Value) {
        self.objects.lock().unwrap().insert(object.to_owned(), content);
    }

    fn get<T: serde::de::DeserializeOwned>(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<T>, Missing> {
        match self.objects.lock().unwrap().get(&format!("{kind}/{namespace}/{name}")) {
            Some(object) => Ok(Arc::new(serde_json::from_value(object.clone()).unwrap())),
            None => Err(Missing::NotFound(format!("{kind} {name:?} not found"))),
        }
    }
}

impl ObjectReader for Api {
    fn config_map<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<ConfigMap>, Missing>> {
        Box::pin(async move { self.get("configmap", namespace, name) })
    }
    fn secret<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<Secret>, Missing>> {
        Box::pin(async move { self.get("secret", namespace, name) })
    }
    fn claim<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<PersistentVolumeClaim>, Missing>> {
        Box::pin(async move { self.get("persistentvolumeclaims", namespace, name) })
    }
    fn persistent_volume<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<PersistentVolume>, Missing>> {
        Box::pin(async move { self.get("persistentvolumes", "", name) })
    }
}

impl TokenSource for Api {
    fn mint<'a>(&'a self, key: &'a TokenKey) -> BoxFuture<'a, Result<IssuedToken, String>> {
        Box::pin(async move {
            if *self.refuses.lock().unwrap() {
                return Err("connection refused".to_owned());
            }
            let mut minted = self.minted.lock().unwrap();
            *minted += 1;
            let begin = 1000 * *minted;
            Ok(IssuedToken { token: jwt(key, begin).into(), expires: at(begin + 1000), life_seconds: 1000 })
        })
    }
}

/// A token as the API server would sign it for this key.
fn jwt(key: &TokenKey, begin: i64) -> String {
    let claims = json!({"iat": begin, "exp": begin + 1000, "kubernetes.io": {"namespace": key.namespace,
        "pod": {"uid": key.pod_uid.as_str()}, "serviceaccount": {"name": key.service_account}}});
    let body = serde_json::to_value(k8s_openapi::ByteString(claims.to_string().into_bytes())).unwrap();
    format!("e30.{}.c2ln", body.as_str().unwrap().trim_end_matches('='))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn facts(now: i64) -> VolumeFacts {
    let memory = ("memory".to_owned(), Amount::parse("64Mi").unwrap());
    let downward = DownwardFacts { node_allocatable: BTreeMap::from([memory]), ..DownwardFacts::default() };
    VolumeFacts { downward, node: None, now: at(now) }
}

fn pod(volumes: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}},
        "spec": {"volumes": volumes, "serviceAccountName": "robot", "containers": [{"name": "c", "volumeMounts": [
            {"name": "cm", "mountPath": "/etc/app"}, {"name": "work", "mountPath": "/etc/app/work"},
        ]}]},
    }))
    .unwrap()
}

/// The volumes that the API server adds to nearly every pod, and others beside it.
fn usual() -> Pod {
    pod(json!([
        {"name": "kube-api-access-x", "projected": {"sources": [
            {"serviceAccountToken": {"expirationSeconds": 1000, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]}},
        {"name": "cm", "configMap": {"name": "settings", "defaultMode": 0o444}},
        {"name": "s", "secret": {"secretName": "password"}},
        {"name": "labels", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "work", "emptyDir": {}},
        {"name": "host", "hostPath": {"path": "/dev"}},
    ]))
}

struct Node {
    api: Arc<Api>,
    volumes: Volumes,
    root: tempfile::TempDir,
}

impl Node {
    /// A node whose volumes in memory are plain directories, so that no test depends on privileges.
    fn new() -> Self {
        let api = Arc::new(Api::default());
        api.set("configmap/shop/kube-root-ca.crt", json!({"data": {"ca.crt": "CA"}}));
        api.set("configmap/shop/settings", json!({"data": {"a": "1", "b": "2"}}));
        api.set("secret/shop/password", json!({"data": {"key": "aHVzaA=="}}));
        let root = tempfile::tempdir().unwrap();
        Self { volumes: volumes_of(&api, Tmpfs::PlainDirectory), api, root }
    }

    async fn set_up(&self, pod: &Pod, now: i64) -> Result<MountedVolumes, String> {
        self.volumes.set_up(pod, self.root.path(), &facts(now)).await.map_err(|errors| errors.to_string())
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.path().join("volumes").join(path))
            .unwrap_or_else(|error| error.kind().to_string())
    }

    fn token_begin(&self) -> i64 {
        let token = self.read("kubernetes.io~projected/kube-api-access-x/token");
        (1..9).map(|number| number * 1000).find(|begin| token == jwt(&token_key(), *begin)).unwrap_or(0)
    }

    async fn tear_down(&self) -> Result<(), TearDownErrors> {
        self.volumes.tear_down(&proof(), self.root.path()).await
    }
}

fn volumes_of(api: &Arc<Api>, tmpfs: Tmpfs) -> Volumes {
    let tokens = Arc::new(TokenManager::new(api.clone()));
    Volumes::new(FsPool::new(4), Some(api.clone()), Some(tokens)).with_tmpfs(tmpfs)
}

fn token_key() -> TokenKey {
    let volume = &usual().spec.unwrap().volumes.unwrap()[0];
    needs(FilesSource::of(volume).unwrap(), &usual()).tokens.pop_first().unwrap()
}

fn proof() -> ContainersStopped {
    let observed = ObservedPod {
        uid: "u1".into(),
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

#[tokio::test]
async fn a_usual_pod_gets_all_its_volumes() {
    let node = Node::new();
    let mounted = node.set_up(&usual(), 1000).await.unwrap();
    let shown: Vec<String> = mounted
        .paths
        .iter()
        .map(|(name, volume)| {
            let path =
                volume.path.strip_prefix(node.root.path()).unwrap_or(&volume.path).display().to_string();
            format!("{name} {path} ours={} read_only={}", volume.ours, volume.read_only)
        })
        .collect();
    assert_eq!(
        shown,
        [
            "cm volumes/kubernetes.io~configmap/cm ours=true read_only=true",
            "host /dev ours=false read_only=false",
            "kube-api-access-x volumes/kubernetes.io~projected/kube-api-access-x ours=true read_only=true",
            "labels volumes/kubernetes.io~downward-api/labels ours=true read_only=true",
            "s volumes/kubernetes.io~secret/s ours=true read_only=true",
            "work volumes/kubernetes.io~empty-dir/work ours=true read_only=false",
        ]
    );
    assert!(mounted.behind.is_empty());
    let due = mounted.refresh_at.unwrap().as_second();
    assert!((1790..=1800).contains(&due), "{due}");
    assert_eq!(node.token_begin(), 1000);
    assert_eq!(node.read("kubernetes.io~projected/kube-api-access-x/ca.crt"), "CA");
    assert_eq!(node.read("kubernetes.io~projected/kube-api-access-x/namespace"), "shop");
    assert_eq!(node.read("kubernetes.io~configmap/cm/b"), "2");
    assert_eq!(node.read("kubernetes.io~secret/s/key"), "hush");
    assert_eq!(node.read("kubernetes.io~downward-api/labels/labels"), "app=\"web\"");
    assert!(
        node.root.path().join("volumes/kubernetes.io~configmap/cm/work").is_dir(),
        "the place of a nested mount"
    );
    for mark in ["work", "wrapped_cm", "wrapped_s", "wrapped_labels", "wrapped_kube-api-access-x"] {
        assert!(
            node.root.path().join("plugins/kubernetes.io~empty-dir").join(mark).join("ready").is_file(),
            "{mark}"
        );
    }
}

#[tokio::test]
async fn what_changes_is_written_and_nothing_else() {
    let node = Node::new();
    let mut pod = usual();
    node.set_up(&pod, 1000).await.unwrap();
    let versions = || {
        let homes =
            fs::read_dir(node.root.path().join("volumes")).unwrap().map(|entry| entry.unwrap().path());
        let volumes = homes.flat_map(|home| fs::read_dir(home).unwrap()).map(|entry| entry.unwrap().path());
        let found = volumes.filter_map(|volume| {
            Some((volume.file_name()?.to_owned(), fs::read_link(volume.join(DATA)).ok()?))
        });
        found.collect::<BTreeMap<_, _>>()
    };
    let before = versions();
    node.set_up(&pod, 1010).await.unwrap();
    assert_eq!(versions(), before);
    assert_eq!(*node.api.minted.lock().unwrap(), 1);
    pod.metadata.labels = Some(BTreeMap::from([("app".to_owned(), "new".to_owned())]));
    node.api.set("configmap/shop/settings", json!({"data": {"a": "one"}}));
    node.set_up(&pod, 1020).await.unwrap();
    let after = versions();
    let changed: BTreeSet<&str> = after
        .iter()
        .filter(|(name, link)| before[*name] != **link)
        .filter_map(|(name, _)| name.to_str())
        .collect();
    assert_eq!(changed, BTreeSet::from(["cm", "labels"]));
    assert_eq!(node.read("kubernetes.io~downward-api/labels/labels"), "app=\"new\"");
    assert_eq!(
        (node.read("kubernetes.io~configmap/cm/a"), node.read("kubernetes.io~configmap/cm/b")),
        ("one".into(), "entity not found".into())
    );
    assert!(node.root.path().join("volumes/kubernetes.io~configmap/cm/work").is_dir());
    node.set_up(&pod, 1800).await.unwrap();
    assert_eq!(node.token_begin(), 2000);
}

#[tokio::test]
async fn missing_objects_are_told_all_together() {
    let node = Node::new();
    node.api.objects.lock().unwrap().clear();
    let error = node.set_up(&usual(), 1000).await.unwrap_err();
    assert_eq!(
        error,
        "MountVolume.SetUp failed for volume \"kube-api-access-x\" : configmap \"kube-root-ca.crt\" not found; \
         MountVolume.SetUp failed for volume \"cm\" : configmap \"settings\" not found; \
         MountVolume.SetUp failed for volume \"s\" : secret \"password\" not found"
    );
    let alone = Volumes::new(FsPool::new(1), None, None).with_tmpfs(Tmpfs::PlainDirectory);
    let pod = pod(
        json!([{"name": "cm", "configMap": {"name": "x"}}, {"name": "n", "flexVolume": {"driver": "d"}}, {"name": "a/b", "emptyDir": {}}]),
    );
    let errors = alone.set_up(&pod, node.root.path(), &facts(1)).await.unwrap_err();
    let texts: Vec<String> = errors.0.iter().map(|error| error.problem.to_string()).collect();
    assert_eq!(texts[0], "configMap shop/x cannot be read: this node has no API server");
    assert!(
        texts[1].starts_with("it is of kind flexVolume, which this version cannot mount"),
        "{}",
        texts[1]
    );
    assert!(texts[2].starts_with("its name is no file name"), "{}", texts[2]);
}

#[tokio::test]
async fn a_volume_that_cannot_be_refreshed_keeps_what_it_shows() {
    let node = Node::new();
    node.set_up(&usual(), 1000).await.unwrap();
    node.api.objects.lock().unwrap().remove("secret/shop/password");
    *node.api.refuses.lock().unwrap() = true;
    // The token is due and valid: nobody is told yet.
    let mounted = node.set_up(&usual(), 1900).await.unwrap();
    assert_eq!(mounted.paths.len(), 6);
    let told: Vec<String> = mounted.behind.iter().map(VolumeError::event_message).collect();
    assert_eq!(told, ["MountVolume.SetUp failed for volume \"s\" : secret \"password\" not found"]);
    assert_eq!(mounted.refresh_at, Some(at(1960)));
    assert_eq!(node.read("kubernetes.io~secret/s/key"), "hush");
    // When it has ended that is told, and the pod still is not stopped for it.
    let mounted = node.set_up(&usual(), 2100).await.unwrap();
    assert_eq!(mounted.behind.len(), 2);
    assert!(mounted.behind[0].event_message().contains("expired and refresh failed: connection refused"));
    *node.api.refuses.lock().unwrap() = false;
    assert_eq!(node.set_up(&usual(), 2200).await.unwrap().behind.len(), 1);
    assert_eq!(node.token_begin(), 2000);
}

#[tokio::test]
async fn a_restart_of_the_agent_asks_for_no_token() {
    let mut node = Node::new();
    node.set_up(&usual(), 1000).await.unwrap();
    node.volumes = volumes_of(&node.api, Tmpfs::PlainDirectory);
    let mounted = node.set_up(&usual(), 1500).await.unwrap();
    assert_eq!((*node.api.minted.lock().unwrap(), node.token_begin()), (1, 1000));
    assert!((1790..=1800).contains(&mounted.refresh_at.unwrap().as_second()));
    // Another pod's token is nobody's.
    let mut other = usual();
    other.metadata.uid = Some("u2".to_owned());
    node.set_up(&other, 1500).await.unwrap();
    assert_eq!(*node.api.minted.lock().unwrap(), 2);
}

#[tokio::test]
async fn nothing_is_left_behind() {
    let node = Node::new();
    node.set_up(&usual(), 1000).await.unwrap();
    // Not a trace is needed of who made them.
    let stranger = Volumes::new(FsPool::new(1), None, None);
    stranger.tear_down(&proof(), node.root.path()).await.unwrap();
    for dir in ["volumes", "plugins"] {
        assert_eq!(fs::read_dir(node.root.path().join(dir)).unwrap().count(), 0, "{dir}");
    }
    stranger.tear_down(&proof(), node.root.path()).await.unwrap();
    // The tokens of a pod go with it.
    node.tear_down().await.unwrap();
    assert!(!node.volumes.tokens.as_ref().unwrap().knows(&token_key()));
}

fn may_mount() -> bool {
    let may = rustix::process::geteuid().is_root();
    if !may {
        eprintln!("skipped: only root can mount");
    }
    may
}

#[tokio::test]
async fn secrets_lie_in_memory_only() {
    if !may_mount() {
        return;
    }
    let mut node = Node::new();
    node.volumes = volumes_of(&node.api, Tmpfs::Mount);
    let mut pod = usual();
    pod.spec.as_mut().unwrap().security_context = serde_json::from_value(json!({"fsGroup": 77})).unwrap();
    let mounted = node.set_up(&pod, 1000).await.unwrap();
    node.set_up(&pod, 1000).await.unwrap();
    let looked: Vec<_> = ["kube-api-access-x", "s", "labels", "cm", "work"]
        .map(|name| {
            let path = &mounted.paths[name].path;
            let metadata = fs::metadata(path).unwrap();
            let size = rustix::fs::statvfs(path).map(|fs| fs.f_blocks * fs.f_frsize).unwrap();
            let mount = rubelet_linux::mounts::is_mount_point(path).unwrap();
            (mount, mount && size == 64 << 20, metadata.mode() & 0o7777, metadata.gid())
        })
        .into();
    let key =
        fs::metadata(mounted.paths["s"].path.join("key")).map(|found| (found.mode() & 0o7777, found.gid()));
    let token = fs::metadata(mounted.paths["kube-api-access-x"].path.join("token"))
        .map(|found| found.mode() & 0o7777);
    // As after a reboot: what was in memory is gone and is not taken for content.
    rubelet_linux::mounts::unmount(&mounted.paths["s"].path).unwrap();
    node.api.objects.lock().unwrap().remove("secret/shop/password");
    let rebooted = node.set_up(&pod, 1000).await;
    node.tear_down().await.unwrap();
    let (memory, disk) = ((true, true, 0o3777, 77), (false, false, 0o2777, 77));
    assert_eq!(looked, [memory, memory, memory, disk, disk]);
    assert_eq!(key.unwrap(), (0o644, 77));
    assert_eq!(token.unwrap(), 0o640);
    assert_eq!(
        rebooted.unwrap_err(),
        "MountVolume.SetUp failed for volume \"s\" : secret \"password\" not found"
    );
    assert_eq!(fs::read_dir(node.root.path().join("volumes")).unwrap().count(), 0);
}

#[tokio::test]
async fn foreign_mounts_below_a_volume_stop_the_removal() {
    if !may_mount() {
        return;
    }
    let node = Node::new();
    let mounted = node.set_up(&usual(), 1000).await.unwrap();
    let (work, foreign) = (&mounted.paths["work"].path, node.root.path().join("foreign"));
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("precious"), "x").unwrap();
    let place = work.join("mounted");
    fs::create_dir(&place).unwrap();
    rustix::mount::mount_bind(&foreign, &place).unwrap();
    let stopped = node.tear_down().await;
    let kept = place.join("precious").exists();
    rubelet_linux::mounts::unmount(&place).unwrap();
    // One that covers the volume itself is taken off, not emptied.
    rustix::mount::mount_bind(&foreign, work).unwrap();
    let done = node.tear_down().await;
    assert!(stopped.is_err() && kept);
    done.unwrap();
    assert!(foreign.join("precious").exists() && !work.exists());
}

mod claims;

#[tokio::test]
async fn each_volume_that_is_made_or_not_is_told_with_its_kind() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let lines = told.clone();
    let volumes = Volumes::new(FsPool::new(1), None, None).with_tmpfs(Tmpfs::PlainDirectory).with_observer(
        Arc::new(move |operation| {
            lines.lock().unwrap().push((operation.plugin, operation.operation, operation.done));
        }),
    );
    let root = tempfile::tempdir().unwrap();
    let pod = pod(json!([
        {"name": "e", "emptyDir": {}},
        {"name": "h", "hostPath": {"path": "/does/not/exist", "type": "Directory"}},
    ]));
    volumes.set_up(&pod, root.path(), &facts(1)).await.unwrap_err();
    let mut told = told.lock().unwrap().clone();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            ("kubernetes.io/empty-dir", "volume_mount", true),
            ("kubernetes.io/host-path", "volume_mount", false)
        ]
    );
}
