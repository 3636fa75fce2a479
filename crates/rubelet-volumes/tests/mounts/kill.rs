//! kill -9 before every system call that changes something, of mounting and of unmounting, and at seeded places of
//! whole lives of pods: nothing is mounted twice, nothing stays, nothing of a volume is lost, nothing is unmounted or
//! mounted anew under a container that runs, and a restart asks no API for what it had mounted.
//!
//! The agent that is killed is a process of its own under strace, which kills it; the one that goes on is this one.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::core::v1::Pod;
use rubelet_linux::fs_pool::FsPool;
use rubelet_volumes::{MountJournal, Volumes};
use serde_json::{Value, json};

use crate::node::{Api, facts, mounts_below, pod, proof};

/// The system calls before which the agent is killed: every one that it changes something with.
const CALLS: [&str; 20] = [
    "mount",
    "umount2",
    "mkdir",
    "mkdirat",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "rmdir",
    "symlink",
    "symlinkat",
    "chmod",
    "fchmod",
    "fchmodat",
    "chown",
    "fchown",
    "fchownat",
    "lchown",
    "write",
];

/// What the killed agent is told: its root, `set-up` or `tear-down`, and the volumes of its pod.
const ROOT: &str = "RUBELET_KILL_ROOT";
const ACT: &str = "RUBELET_KILL_ACT";
const KINDS: &str = "RUBELET_KILL_KINDS";

/// Seeds unless `RUBELET_KILL_SEEDS` says otherwise.
const SEEDS: u64 = 20;

/// Every kind that this crate mounts by itself.
fn kinds() -> Vec<Value> {
    vec![
        json!({"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}}),
        json!({"name": "twice", "persistentVolumeClaim": {"claimName": "disk", "readOnly": true}}),
        json!({"name": "other", "persistentVolumeClaim": {"claimName": "other"}}),
        json!({"name": "memory", "emptyDir": {"medium": "Memory"}}),
        json!({"name": "work", "emptyDir": {}}),
        json!({"name": "config", "configMap": {"name": "settings"}}),
        json!({"name": "secret", "secret": {"secretName": "password"}}),
        json!({"name": "labels", "downwardAPI": {"items": [
            {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}),
        json!({"name": "all", "projected": {"sources": [{"configMap": {"name": "settings"}},
            {"secret": {"name": "password"}}]}}),
        json!({"name": "host", "hostPath": {"path": "/", "type": "Directory"}}),
    ]
}

/// One node with one pod.
struct World {
    root: PathBuf,
    /// Bits of the kinds that the pod has.
    mask: u32,
}

impl World {
    fn new(root: &Path, mask: u32) -> Self {
        for disk in ["disk", "other"] {
            fs::create_dir_all(root.join(disk)).unwrap();
            fs::write(root.join(disk).join("precious"), disk).unwrap();
        }
        Self { root: root.to_owned(), mask }
    }

    fn pod(&self) -> Pod {
        let kinds = kinds().into_iter().enumerate().filter(|(bit, _)| self.mask & (1 << bit) != 0);
        pod("u1", &kinds.map(|(_, kind)| kind).collect::<Vec<_>>())
    }

    fn pod_dir(&self) -> PathBuf {
        self.root.join("pods/u1")
    }

    /// An agent as it is after a start.
    async fn agent(&self, has_api: bool) -> Volumes {
        let journal = MountJournal::new(&self.root, FsPool::inline());
        assert_eq!(journal.load().await.unwrap(), Vec::<String>::new());
        let (disk, other) = (self.root.join("disk"), self.root.join("other"));
        let mut api = BTreeSet::from([("disk", disk.as_path()), ("other", other.as_path())]);
        if !has_api {
            api.clear();
        }
        let api = Api::new(&api.into_iter().collect::<Vec<_>>());
        Volumes::new(FsPool::inline(), Some(api), None).with_journal(journal)
    }

    async fn set_up(&self, has_api: bool) -> Result<(), String> {
        let agent = self.agent(has_api).await;
        let done = agent.set_up(&self.pod(), &self.pod_dir(), &facts()).await;
        done.map(|_| ()).map_err(|errors| errors.to_string())
    }

    async fn tear_down(&self) {
        self.agent(false).await.tear_down(&proof("u1"), &self.pod_dir()).await.unwrap();
    }

    /// As [`killed`], for an agent of this module.
    fn killed(&self, act: &str, call: &str, at: u32) -> bool {
        let mask = self.mask.to_string();
        killed(
            "kill::agent",
            call,
            at,
            &[(ROOT, self.root.as_os_str()), (ACT, act.as_ref()), (KINDS, mask.as_ref())],
        )
    }

    /// What must be true at any time.
    fn check(&self, when: &str) {
        let mounts = mounts_below(&self.root);
        let places: BTreeSet<&String> = mounts.iter().map(|(_, place)| place).collect();
        assert_eq!(places.len(), mounts.len(), "{when}: mounted twice: {mounts:?}");
        for disk in ["disk", "other"] {
            let kept = fs::read_to_string(self.root.join(disk).join("precious"));
            assert_eq!(kept.unwrap(), disk, "{when}");
        }
    }

    /// What must be true when the pod has its volumes.
    fn check_set_up(&self, when: &str) {
        self.check(when);
        let read =
            |path: &str| fs::read_to_string(self.pod_dir().join("volumes").join(path)).unwrap_or_default();
        let expected = [
            (0, "kubernetes.io~local-volume/disk/precious", "disk"),
            (1, "kubernetes.io~local-volume/disk/precious", "disk"),
            (2, "kubernetes.io~local-volume/other/precious", "other"),
            (5, "kubernetes.io~configmap/config/a", "1"),
            (6, "kubernetes.io~secret/secret/key", "hush"),
            (7, "kubernetes.io~downward-api/labels/name", "u1"),
            (8, "kubernetes.io~projected/all/key", "hush"),
        ];
        for (bit, path, content) in expected {
            assert!(self.mask & (1 << bit) == 0 || read(path) == content, "{when}: {path}");
        }
    }

    /// What must be true when the pod has none any more.
    fn check_gone(&self, when: &str) {
        self.check(when);
        assert_eq!(mounts_below(&self.root), [], "{when}");
        let left = fs::read_dir(self.pod_dir().join("volumes")).into_iter().flatten().count();
        assert_eq!(left, 0, "{when}");
        let records: Vec<_> =
            fs::read_dir(self.root.join("rubelet/mounts")).into_iter().flatten().flatten().collect();
        assert!(records.iter().all(|record| !record.path().ends_with("u1.json")), "{when}: {records:?}");
    }

    /// Puts something into every volume that keeps what a container writes.
    fn write(&self) {
        for kind in ["work", "memory"] {
            let volume = self.pod_dir().join("volumes/kubernetes.io~empty-dir").join(kind);
            if volume.exists() {
                fs::write(volume.join("written"), kind).unwrap();
            }
        }
    }

    fn check_written(&self, when: &str) {
        for (bit, kind) in [(3, "memory"), (4, "work")] {
            if self.mask & (1 << bit) != 0 {
                let file = self.pod_dir().join("volumes/kubernetes.io~empty-dir").join(kind).join("written");
                assert_eq!(fs::read_to_string(file).unwrap_or_default(), kind, "{when}");
            }
        }
    }
}

/// Runs an agent that is killed before it does `call` for the time number `at`; false when it did so less often.
pub fn killed(test: &str, call: &str, at: u32, told: &[(&str, &OsStr)]) -> bool {
    let mut agent = Command::new("strace");
    agent.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    agent.args(["-e", &format!("inject={call}:signal=SIGKILL:when={at}")]);
    agent.arg(env::current_exe().unwrap()).args([test, "--exact", "--test-threads=1", "-q"]);
    let ended = agent.envs(told.iter().copied()).output().unwrap();
    let (survived, said) = (ended.status.success(), String::from_utf8_lossy(&ended.stdout));
    assert!(survived || !said.contains("panicked"), "{said}");
    !survived
}

/// To be asked where root is: there, all that is missing is a package.
pub fn need_strace() {
    let version = Command::new("strace").arg("-V").output();
    let has = version.is_ok_and(|version| version.status.success());
    assert!(has, "there is no strace to kill the agent with: install the package `strace`");
}

/// Not a test by itself: the agent that is killed.
#[tokio::test]
async fn agent() {
    let Some(root) = env::var_os(ROOT) else { return };
    let mask = env::var(KINDS).unwrap().parse().unwrap();
    let world = World { root: root.into(), mask };
    match env::var(ACT).unwrap().as_str() {
        "tear-down" => world.tear_down().await,
        _ => world.set_up(true).await.unwrap(),
    }
}

#[tokio::test]
async fn killed_before_every_call_of_mounting() {
    if !crate::has_own_mounts("kill::killed_before_every_call_of_mounting") {
        return;
    }
    need_strace();
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), u32::MAX);
    let mut kills = 0;
    for call in CALLS {
        let mut at = 1;
        while world.killed("set-up", call, at) {
            let when = format!("killed before {call} number {at}");
            world.check(&when);
            world.set_up(true).await.unwrap();
            world.check_set_up(&when);
            world.tear_down().await;
            world.check_gone(&when);
            (at, kills) = (at + 1, kills + 1);
        }
        world.check_set_up("not killed");
        world.tear_down().await;
    }
    println!("killed {kills} times while mounting");
    assert!(kills > 60, "it was killed only {kills} times");
}

#[tokio::test]
async fn killed_before_every_call_of_unmounting() {
    if !crate::has_own_mounts("kill::killed_before_every_call_of_unmounting") {
        return;
    }
    need_strace();
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), u32::MAX);
    let mut kills = 0;
    for call in CALLS {
        for at in 1.. {
            world.set_up(true).await.unwrap();
            world.write();
            let killed = world.killed("tear-down", call, at);
            let when = format!("killed before {call} number {at}");
            world.check(&when);
            if !killed {
                world.check_gone("not killed");
                break;
            }
            kills += 1;
            world.tear_down().await;
            world.check_gone(&when);
        }
    }
    println!("killed {kills} times while unmounting");
    assert!(kills > 40, "it was killed only {kills} times");
}

#[tokio::test]
async fn killed_again_and_again_in_seeded_lives() {
    if !crate::has_own_mounts("kill::killed_again_and_again_in_seeded_lives") {
        return;
    }
    need_strace();
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("RUBELET_KILL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RUBELET_KILL_SEEDS").unwrap_or(SEEDS),
    };
    let mut kills = 0_u64;
    let count = seeds.end - seeds.start;
    for seed in seeds {
        kills += live(seed).await;
    }
    println!("{count} lives, killed {kills} times");
}

/// One life of a pod; how often its agent was killed.
async fn live(seed: u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |limit: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u32::try_from(state % limit).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    // At least one volume.
    let world = World::new(dir.path(), below(1 << 10) | 1 << below(10));
    let mut kills = 0;
    const MOUNTING: [&str; 7] = ["mount", "mkdir", "rename", "write", "fchmod", "chmod", "symlink"];
    const UNMOUNTING: [&str; 4] = ["umount2", "rmdir", "unlinkat", "unlink"];
    for _ in 0..below(3) {
        let (call, at) = (MOUNTING[below(7) as usize], 1 + below(9));
        kills += u64::from(world.killed("set-up", call, at));
        world.check(&format!("seed {seed}: set up, {call} {at}"));
    }
    // A third of the pods end before they have all volumes.
    if below(3) != 0 {
        world.set_up(true).await.unwrap();
        world.check_set_up(&format!("seed {seed}: set up"));
        world.write();
        // A container runs: whatever happens to the agent, its volumes are what they were.
        let before = mounts_below(dir.path());
        for _ in 0..below(2) {
            let (call, at) = (MOUNTING[below(7) as usize], 1 + below(4));
            kills += u64::from(world.killed("set-up", call, at));
            assert_eq!(mounts_below(dir.path()), before, "seed {seed}: restarted, {call} {at}");
        }
        world.set_up(false).await.unwrap();
        assert_eq!(mounts_below(dir.path()), before, "seed {seed}: restarted without an API");
        world.check_set_up(&format!("seed {seed}: restarted"));
        world.check_written(&format!("seed {seed}: restarted"));
    }
    for _ in 0..below(3) {
        let (call, at) = (UNMOUNTING[below(4) as usize], 1 + below(12));
        kills += u64::from(world.killed("tear-down", call, at));
        world.check(&format!("seed {seed}: torn down, {call} {at}"));
    }
    world.tear_down().await;
    world.check_gone(&format!("seed {seed}: torn down"));
    kills
}
