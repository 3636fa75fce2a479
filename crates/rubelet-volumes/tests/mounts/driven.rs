//! kill -9 of an agent with volumes that others have a part in: a driver's, staged and shared by two pods, as a device and
//! inline; local devices, formatted and raw; huge pages and sub-paths. The driver and the devices outlive the agent.
//! Nothing is mounted twice, no mount and no loop device stays, what pods wrote is there, a pod without proof keeps all
//! it has, and the driver meets no mistake of its client's.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, pending, ready};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use rubelet_core::env::Missing;
use rubelet_core::mounts::{PlannedMount, Propagation};
use rubelet_csi::CsiDeadlines;
use rubelet_linux::block;
use rubelet_linux::fs_pool::FsPool;
use rubelet_testkit::csi_driver::{Character, CsiDriver};
use rubelet_volumes::csi::{Csi, CsiParts, CsiPlaces};
use rubelet_volumes::{MountJournal, VolumeApi, Volumes};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::kill::{killed, need_strace};
use crate::node::{Api, facts, mounts_below, proof};

const DRIVER: &str = "disks.example.com";
const MIB: i64 = 1 << 20;
/// What the killed agent is told: the directory of the node, and what it does to which pods.
const DIR: &str = "RUBELET_DRIVEN_DIR";
const ACT: &str = "RUBELET_DRIVEN_ACT";
/// The system calls before which the agent is killed; the last ones speak to the driver and hold loop devices.
const CALLS: [&str; 13] = [
    "mount", "umount2", "mkdir", "rename", "unlink", "unlinkat", "rmdir", "symlink", "fchmod", "write",
    "ioctl", "writev", "sendto",
];
/// Of each call every so manieth is one to be killed at, unless `RUBELET_KILL_EVERY` says otherwise.
const EVERY: u64 = 15;
/// Seeds unless `RUBELET_KILL_SEEDS` says otherwise.
const SEEDS: u64 = 6;
/// How long the driver may take with what a killed agent asked it for.
const PATIENCE: Duration = Duration::from_secs(20);

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap())
}

impl VolumeApi for Api {
    fn csi_driver<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Arc<CSIDriver>>, Missing>> {
        let object = json!({"metadata": {"name": DRIVER}, "spec": {"attachRequired": false, "podInfoOnMount": true, "fsGroupPolicy": "None",
            "volumeLifecycleModes": ["Persistent", "Ephemeral"]}});
        ready(Ok(Some(Arc::new(serde_json::from_value(object).unwrap())))).boxed()
    }
    fn volume_attachment<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<VolumeAttachment>, Missing>> {
        ready(Err(Missing::NotFound(name.to_owned()))).boxed()
    }
    fn use_volume<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), Missing>> {
        ready(Ok(())).boxed()
    }
    fn release_volume(&self, _: &str) {}
    fn attached(&self, _: &str) -> Option<String> {
        None
    }
    fn wait_attached<'a>(&'a self, _: &'a str) -> BoxFuture<'a, String> {
        pending().boxed()
    }
    fn claim_expanding<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<(), Missing>> {
        ready(Ok(())).boxed()
    }
    fn claim_expanded<'a>(&'a self, _: &'a str, _: &'a str, _: i64) -> BoxFuture<'a, Result<(), Missing>> {
        ready(Ok(())).boxed()
    }
    fn claim_not_expanded<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: bool,
        _: &'a str,
    ) -> BoxFuture<'a, Result<(), Missing>> {
        ready(Ok(())).boxed()
    }
}

/// A pod with all of it; `raw` is the first one's alone.
fn pod(uid: &str) -> Pod {
    let claim = |name: &str| json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
    let mut volumes = vec![
        claim("shared"),
        claim("formatted"),
        claim("device"),
        json!({"name": "inline", "csi": {"driver": DRIVER, "volumeAttributes": {"greeting": "hello"}}}),
        json!({"name": "pages", "emptyDir": {"medium": "HugePages"}}),
        json!({"name": "work", "emptyDir": {}}),
    ];
    volumes.extend((uid == "u1").then(|| claim("raw")));
    let (devices, files): (Vec<Value>, Vec<Value>) = volumes
        .iter()
        .map(|volume| volume["name"].clone())
        .partition(|name| name == "raw" || name == "device");
    let mounts = files.iter().map(|name| json!({"name": name, "mountPath": format!("/{name}")}));
    let devices = devices.iter().map(|name| json!({"name": name, "devicePath": format!("/dev/{name}")}));
    serde_json::from_value(json!({
        "metadata": {"name": uid, "namespace": "shop", "uid": uid},
        "spec": {"volumes": volumes, "containers": [{"name": "c", "volumeMounts": mounts.collect::<Vec<_>>(),
            "volumeDevices": devices.collect::<Vec<_>>(),
            "resources": {"limits": {"hugepages-2Mi": "2Mi"}, "requests": {"hugepages-2Mi": "2Mi"}}}]},
    }))
    .unwrap()
}

/// A node as its agents know it.
struct Node(PathBuf);

impl Node {
    fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root().join("pods").join(uid)
    }

    fn api(&self) -> Arc<Api> {
        let mut api = Api(Default::default());
        for (name, block, csi) in [
            ("shared", false, true),
            ("raw", true, true),
            ("formatted", false, false),
            ("device", true, false),
        ] {
            let claim = json!({"metadata": {"uid": name}, "spec": {"volumeName": name}, "status": {"phase": "Bound"}});
            api.0.insert(format!("claim/{name}"), claim);
            let mode = if block { "Block" } else { "Filesystem" };
            let mut volume = json!({"metadata": {"name": name}, "spec": {"claimRef": {"uid": name},
                "volumeMode": mode, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Mi"}}});
            if csi {
                volume["spec"]["csi"] = json!({"driver": DRIVER, "volumeHandle": name});
            } else {
                volume["spec"]["local"] = json!({"path": self.0.join(name), "fsType": "ext4"});
            }
            api.0.insert(format!("volume/{name}"), volume);
        }
        Arc::new(api)
    }

    /// An agent as it is after a start, with the driver registered.
    async fn agent(&self) -> Volumes {
        let (api, fs) = (self.api(), FsPool::inline());
        let journal = MountJournal::new(&self.root(), fs.clone());
        assert_eq!(journal.load().await.unwrap(), Vec::<String>::new());
        let places = CsiPlaces { root: self.root(), node_name: "n1".to_owned() };
        let csi = Csi::new(CsiParts {
            objects: Some(api.clone()),
            api: Some(api.clone()),
            deadlines: CsiDeadlines { volume: PATIENCE, info: PATIENCE },
            ..CsiParts::new(places, fs.clone())
        });
        let socket = self.root().join("plugins/d/csi.sock");
        csi.register(DRIVER, &socket, &["1.0.0".to_owned()]).await.unwrap();
        Volumes::new(fs, Some(api), None).with_journal(journal).with_csi(csi)
    }

    async fn set_up(&self, agent: &Volumes, uid: &str) -> Result<(), String> {
        let pod_dir = self.pod_dir(uid);
        let done = agent.set_up(&pod(uid), &pod_dir, &facts()).await.map_err(|errors| errors.to_string())?;
        for (index, volume) in ["shared", "work"].into_iter().enumerate() {
            let mount = PlannedMount {
                volume: volume.to_owned(),
                index,
                container_path: "/d".into(),
                volume_path: done.paths[volume].path.clone(),
                sub_path: "deep/er".into(),
                read_only: false,
                recursive_read_only: false,
                relabel: false,
                propagation: Propagation::Private,
            };
            agent.bind_sub_path(&pod_dir, "c", &mount).await.map_err(|problem| problem.to_string())?;
        }
        Ok(())
    }

    async fn tear_down(&self, agent: &Volumes, uid: &str) -> Result<(), String> {
        agent.tear_down(&proof(uid), &self.pod_dir(uid)).await.map_err(|errors| errors.to_string())?;
        // Not waited for by the pod; by this test it is, when the pod was the last one. What an agent before this one was
        // killed at is found by looking.
        let shared = [
            "volumes/kubernetes.io~csi/shared",
            "volumes/kubernetes.io~local-volume",
            "volumeDevices/kubernetes.io~local-volume",
        ];
        let has = |uid: &&str| shared.iter().any(|part| self.pod_dir(uid).join(part).exists());
        if !["u1", "u2"].iter().any(has) {
            agent.unstage_unused().await;
            let deadline = Instant::now() + PATIENCE;
            while !self.staged().is_empty() {
                assert!(Instant::now() < deadline, "still there: {:?}", self.staged());
                sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    /// What is left of volumes outside of pods' directories.
    fn staged(&self) -> Vec<PathBuf> {
        let root = self.root();
        let csi = root.join("plugins/kubernetes.io/csi");
        let mut left = Vec::new();
        for dir in [
            csi.join(DRIVER),
            csi.join("volumeDevices/staging"),
            csi.join("volumeDevices/publish"),
            root.join("plugins/kubernetes.io/local-volume/mounts"),
            root.join("plugins/kubernetes.io~local-volume/volumeDevices"),
        ] {
            left.extend(fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        left
    }
}

async fn until(mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "it does not come");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Not a test by itself: the agent that is killed. One whose tool was killed, or that finds the driver busy with what an
/// agent before it asked for, ends likewise.
#[tokio::test]
async fn agent() {
    let Some(dir) = env::var_os(DIR) else { return };
    let (node, act) = (Node(dir.into()), env::var(ACT).unwrap());
    let agent = node.agent().await;
    for uid in act.split(' ').skip(1) {
        let done = match act.starts_with("set-up") {
            true => node.set_up(&agent, uid).await,
            false => node.tear_down(&agent, uid).await,
        };
        if done.is_err() {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
    }
}

/// A node with what outlives its agents.
struct World {
    node: Node,
    driver: CsiDriver,
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Node(dir.path().to_owned());
        let mut driver =
            CsiDriver::new(Character::named(DRIVER), "d", &node.root(), &dir.path().join("data")).unwrap();
        driver.start().unwrap();
        driver.provide("shared", MIB).unwrap();
        driver.provide_device("raw", MIB).unwrap();
        for name in ["formatted", "device"] {
            let image = dir.path().join(format!("{name}.img"));
            fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
            let device = block::attach_loop(&image).unwrap();
            std::os::unix::fs::symlink(device, dir.path().join(name)).unwrap();
        }
        Self { node, driver, dir }
    }

    fn killed(&self, act: &str, call: &str, at: u32) -> bool {
        killed("driven::agent", call, at, &[(DIR, self.dir.path().as_os_str()), (ACT, act.as_ref())])
    }

    /// What must be true at any time.
    fn check(&self, when: &str) {
        let mounts = mounts_below(self.dir.path());
        let places: BTreeSet<&String> = mounts.iter().map(|(_, place)| place).collect();
        assert_eq!(places.len(), mounts.len(), "{when}: mounted twice: {mounts:?}");
        assert_eq!(self.driver.mistakes(), Vec::<String>::new(), "{when}");
    }

    /// Has the pods set up by new agents, as often as it takes until nothing of a killed one is in the way.
    async fn set_up(&self, uids: &[&str], when: &str) {
        for uid in uids {
            let deadline = Instant::now() + PATIENCE;
            while let Err(error) = self.node.set_up(&self.node.agent().await, uid).await {
                assert!(Instant::now() < deadline, "{when}: {error}");
                sleep(Duration::from_millis(20)).await;
            }
        }
        self.check(when);
    }

    async fn tear_down(&self, uids: &[&str], when: &str) {
        for uid in uids {
            let deadline = Instant::now() + PATIENCE;
            while let Err(error) = self.node.tear_down(&self.node.agent().await, uid).await {
                assert!(Instant::now() < deadline, "{when}: {error}");
                sleep(Duration::from_millis(20)).await;
            }
        }
        self.check(when);
    }

    /// As the pods' containers do.
    fn write(&self, uid: &str) {
        let pod = self.node.pod_dir(uid).join("volumes");
        for dir in ["kubernetes.io~csi/shared/mount", "kubernetes.io~local-volume/formatted"] {
            fs::write(pod.join(dir).join(uid), uid).unwrap();
        }
        fs::write(self.node.pod_dir(uid).join("volume-subpaths/work/c/1/file"), uid).unwrap();
        let devices = self.node.pod_dir(uid).join("volumeDevices");
        for device in ["kubernetes.io~local-volume/device", "kubernetes.io~csi/raw"] {
            if device.ends_with("device") || uid == "u1" {
                let device = fs::File::options().write(true).open(devices.join(device)).unwrap();
                device.write_all_at(&[7; 4096], 0).unwrap();
                device.sync_all().unwrap();
            }
        }
    }

    /// What a pod has that has not ended.
    fn check_written(&self, uid: &str, when: &str) {
        let pod = self.node.pod_dir(uid);
        for file in [
            format!("volumes/kubernetes.io~csi/shared/mount/{uid}"),
            format!("volumes/kubernetes.io~local-volume/formatted/{uid}"),
            "volumes/kubernetes.io~empty-dir/work/deep/er/file".to_owned(),
        ] {
            assert_eq!(fs::read_to_string(pod.join(&file)).unwrap_or_default(), uid, "{when}: {file}");
        }
    }

    fn mounts_of(&self, uid: &str) -> Vec<(String, String)> {
        mounts_below(&self.node.pod_dir(uid))
    }

    /// Nothing of any pod is there; what they wrote to volumes that outlive them is.
    async fn check_gone(&self, written: bool, when: &str) {
        self.node.agent().await.unstage_unused().await;
        until(|| self.driver.places().is_empty() && self.node.staged().is_empty()).await;
        self.check(when);
        assert_eq!(mounts_below(self.dir.path()), [], "{when}");
        // Whoever looks at a device at this moment, another test's search for a free one, keeps it for as long.
        until(|| self.loops().is_empty()).await;
        for uid in ["u1", "u2"] {
            let record = self.node.root().join(format!("rubelet/mounts/{uid}.json"));
            assert!(!record.exists(), "{when}");
            for dir in ["volumes/kubernetes.io~csi", "volumes/kubernetes.io~local-volume", "volume-subpaths"]
            {
                let left: Vec<_> =
                    fs::read_dir(self.node.pod_dir(uid).join(dir)).into_iter().flatten().collect();
                assert!(left.is_empty(), "{when}: {left:?}");
            }
        }
        if written {
            assert_eq!(
                fs::read_to_string(self.dir.path().join("data/shared/u1")).unwrap_or_default(),
                "u1",
                "{when}"
            );
            for image in ["data/raw.img", "device.img"] {
                let bytes = fs::read(self.dir.path().join(image)).unwrap();
                assert_eq!(bytes[..4096], [7; 4096], "{when}: {image}");
            }
        }
    }

    /// Loop devices over anything of the node but its disks.
    fn loops(&self) -> Vec<String> {
        all_loops(self.dir.path())
            .into_iter()
            .map(|(_, backing)| backing)
            .filter(|backing| !backing.contains("formatted.img") && !backing.contains("/device.img"))
            .collect()
    }
}

/// Loop devices over files below a directory, and those files.
fn all_loops(dir: &Path) -> Vec<(PathBuf, String)> {
    let blocks = fs::read_dir("/sys/block").unwrap().flatten();
    let loops = blocks.filter_map(|entry| {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        Some((Path::new("/dev").join(entry.file_name()), backing.trim().to_owned()))
    });
    loops.filter(|(_, backing)| backing.starts_with(&*dir.to_string_lossy())).collect()
}

impl Drop for World {
    fn drop(&mut self) {
        // Mounts go with the test's namespace; devices are the machine's. By their paths, which go with the mounts.
        for (device, _) in all_loops(self.dir.path()) {
            let _ = std::process::Command::new("losetup").arg("--detach").arg(device).status();
        }
        for (_, place) in mounts_below(self.dir.path()).into_iter().rev() {
            let _ = rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

#[tokio::test]
async fn killed_while_mounting_what_others_have_a_part_in() {
    if !crate::has_own_mounts("driven::killed_while_mounting_what_others_have_a_part_in") {
        return;
    }
    need_strace();
    let every = number("RUBELET_KILL_EVERY").unwrap_or(EVERY);
    let (world, mut kills) = (World::new(), 0_u64);
    for (call, first) in CALLS.into_iter().zip(0..) {
        let mut at = 1 + first % every;
        while world.killed("set-up u1 u2", call, u32::try_from(at).unwrap()) {
            let when = format!("killed before {call} number {at}");
            world.check(&when);
            world.set_up(&["u1", "u2"], &when).await;
            for uid in ["u1", "u2"] {
                world.write(uid);
                world.check_written(uid, &when);
            }
            world.tear_down(&["u1", "u2"], &when).await;
            world.check_gone(true, &when).await;
            (at, kills) = (at + every, kills + 1);
        }
        world.tear_down(&["u1", "u2"], "not killed").await;
    }
    println!("killed {kills} times while mounting");
    assert!(kills * every > 60, "it was killed only {kills} times");
}

#[tokio::test]
async fn killed_while_unmounting_what_others_have_a_part_in() {
    if !crate::has_own_mounts("driven::killed_while_unmounting_what_others_have_a_part_in") {
        return;
    }
    need_strace();
    let every = number("RUBELET_KILL_EVERY").unwrap_or(EVERY);
    let (world, mut kills) = (World::new(), 0_u64);
    for (call, first) in CALLS.into_iter().zip(0..) {
        for at in (0..).map(|step| 1 + first % every + step * every) {
            let when = format!("killed before {call} number {at}");
            world.set_up(&["u1", "u2"], &when).await;
            world.write("u1");
            world.write("u2");
            let (before, at) = (world.mounts_of("u2"), u32::try_from(at).unwrap());
            let killed = world.killed("tear-down u1", call, at);
            // The other pod's containers run.
            assert_eq!(world.mounts_of("u2"), before, "{when}");
            world.check_written("u2", &when);
            let killed_last = world.killed("tear-down u1 u2", call, at);
            world.check(&when);
            world.tear_down(&["u1", "u2"], &when).await;
            world.check_gone(true, &when).await;
            kills += u64::from(killed) + u64::from(killed_last);
            if !killed && !killed_last {
                break;
            }
        }
    }
    println!("killed {kills} times while unmounting");
    assert!(kills * every > 60, "it was killed only {kills} times");
}

#[tokio::test]
async fn killed_again_and_again_in_seeded_lives_with_a_driver() {
    if !crate::has_own_mounts("driven::killed_again_and_again_in_seeded_lives_with_a_driver") {
        return;
    }
    need_strace();
    let seeds = match number("RUBELET_KILL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RUBELET_KILL_SEEDS").unwrap_or(SEEDS),
    };
    let (world, mut kills, count) = (World::new(), 0, seeds.end - seeds.start);
    for seed in seeds {
        kills += live(&world, seed).await;
    }
    println!("{count} lives, killed {kills} times");
}

/// Both pods begin and end; how often their agent was killed.
async fn live(world: &World, seed: u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |limit: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % limit
    };
    let mut strike = |act: &str| {
        let (call, at) = (CALLS[usize::try_from(below(13)).unwrap()], u32::try_from(1 + below(14)).unwrap());
        let killed = world.killed(act, call, at);
        world.check(&format!("seed {seed}: {act}, {call} {at}"));
        u64::from(killed)
    };
    let when = format!("seed {seed}");
    let mut kills = strike("set-up u1") + strike("set-up u1 u2");
    world.set_up(&["u2"], &when).await;
    world.write("u2");
    let before = world.mounts_of("u2");
    kills += strike("set-up u2") + strike("set-up u1") + strike("tear-down u1");
    world.tear_down(&["u1"], &when).await;
    assert_eq!(world.mounts_of("u2"), before, "{when}: its containers run");
    world.check_written("u2", &when);
    kills += strike("tear-down u2");
    world.tear_down(&["u2"], &when).await;
    world.check_gone(false, &when).await;
    kills
}
