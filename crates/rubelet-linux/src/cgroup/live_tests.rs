//! The kernel's own groups, where this process may make some: what is set is what the kernel then says. Without the
//! right to it there is nothing to test.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use rubelet_core::resources::GroupSettings;

use super::{CgroupTree, GroupReading, MOUNT};

/// A group that goes with the test.
struct OwnGroup {
    tree: CgroupTree,
    name: String,
}

impl OwnGroup {
    fn make(test: &str) -> Option<Self> {
        let tree = CgroupTree::find(Path::new(MOUNT)).ok()?;
        let name = format!("/rubelet-linux-{test}-{}", std::process::id());
        let group = Self { tree, name };
        group.tree.make(&group.below("pod")).ok()?;
        Some(group)
    }

    fn below(&self, part: &str) -> String {
        format!("{}/{part}", self.name)
    }
}

impl Drop for OwnGroup {
    fn drop(&mut self) {
        let _nothing_is_in_it = self.tree.kill(&self.name);
        while self.tree.is_populated(&self.name) {
            std::thread::yield_now();
        }
        let removed = self.tree.remove(&self.name);
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

#[test]
fn what_is_set_is_what_the_kernel_says() {
    let Some(own) = OwnGroup::make("set") else { return };
    let (tree, pod) = (&own.tree, own.below("pod"));
    assert!(tree.exists(&pod));
    let cpus = tree.cpus(&pod);
    assert_eq!(cpus.as_ref().map(|cpus| cpus.is_empty()), tree.has("cpuset").then_some(false));
    let settings = GroupSettings {
        cpu_shares: Some(512),
        cpu_quota: Some(25_000),
        cpu_period: Some(50_000),
        memory: Some(64 << 20),
        pids: Some(20),
        cpus,
        huge_pages: Some([(2 << 20, 4 << 20)].into()),
        ..Default::default()
    };
    tree.set(&pod, &settings).unwrap();
    let found = tree.read(&pod);
    let expected = GroupReading {
        cpu_shares: Some(if tree.is_unified() { 500 } else { 512 }),
        cpu_quota: Some(25_000),
        cpu_period: Some(50_000),
        memory_limit: Some(64 << 20),
        memory_usage: found.memory_usage,
        pids_limit: Some(20),
    };
    assert_eq!(found, expected);
    // A shorter period with a larger quota, and back: whatever the order in which the kernel takes them.
    for (quota, period) in [(1_000_000, 1_000_000), (1000, 1000), (-1, 100_000)] {
        let settings =
            GroupSettings { cpu_quota: Some(quota), cpu_period: Some(period), ..Default::default() };
        tree.set(&pod, &settings).unwrap();
        let found = tree.read(&pod);
        assert_eq!((found.cpu_quota, found.cpu_period), (Some(quota).filter(|q| *q > 0), Some(period)));
    }
    let refused = GroupSettings { cpus: Some([4095].into()), pids: Some(30), ..Default::default() };
    if tree.has("cpuset") {
        let error = tree.set(&pod, &refused).unwrap_err().to_string();
        assert!(error.contains("cpuset.cpus cannot be set to \"4095\""), "{error}");
        assert_eq!(tree.read(&pod).pids_limit, Some(30));
    }
}

#[test]
fn all_that_runs_in_a_group_is_ended_and_nothing_else() {
    let Some(own) = OwnGroup::make("kill") else { return };
    let (tree, pod) = (&own.tree, own.below("pod"));
    let container = own.below("pod/c");
    tree.make(&container).unwrap();
    assert!(!tree.is_populated(&own.name));
    // It makes its children there, before or while it is ended.
    let script = "read go; for i in 1 2 3; do sleep 1000 & done; wait";
    let mut shell = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap();
    let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
    // Beside older hierarchies there may be one in which nothing was made.
    for dir in tree.dirs(&container).unwrap().into_iter().filter(|dir| dir.exists()) {
        super::tree::put(&dir.join("cgroup.procs"), &shell.id().to_string()).unwrap();
    }
    drop(shell.stdin.take());
    let shell_id = i32::try_from(shell.id()).unwrap();
    assert!(tree.processes(&pod).contains(&shell_id) && tree.is_populated(&pod));
    assert!(tree.remove(&pod).is_err(), "a group that holds a process stays");
    while tree.is_populated(&pod) {
        tree.kill(&pod).unwrap();
        // Its own child would stay in the list of nobody, but be reaped here.
        let _ = shell.try_wait();
        std::thread::yield_now();
    }
    assert!(!shell.wait().unwrap().success());
    assert_eq!(tree.processes(&pod), BTreeSet::new());
    assert!(other.try_wait().unwrap().is_none(), "a process of another group was hit");
    other.kill().unwrap();
    other.wait().unwrap();
    tree.remove(&pod).unwrap();
    assert!(!tree.exists(&pod) && tree.exists(&own.name));
    assert_eq!(tree.children(&own.name), BTreeSet::new());
}
