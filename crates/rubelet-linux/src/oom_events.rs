//! How many processes of a control group the kernel killed because memory ran out: `memory.events` of the unified
//! hierarchy, `memory.oom_control` before it. Read when somebody asks, never polled. Called by the agent's OOM watch
//! where the kernel's log cannot be read.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Most bytes of a counter file; the real ones have about a hundred.
const FILE_LIMIT: u64 = 4096;

/// Where the counters of control groups are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OomCounters {
    root: PathBuf,
    unified: bool,
}

impl OomCounters {
    /// The counters below the mount of control groups (`/sys/fs/cgroup`); `None` without a memory controller.
    pub fn find(mount: &Path) -> Option<Self> {
        if mount.join("cgroup.controllers").exists() {
            return Some(Self { root: mount.to_owned(), unified: true });
        }
        let root = mount.join("memory");
        root.is_dir().then_some(Self { root, unified: false })
    }

    /// Whether the counter of a group counts what happens in the groups below it, and goes on doing so when they are
    /// gone: it does in the unified hierarchy only.
    pub fn count_trees(&self) -> bool {
        self.unified
    }

    /// Kills in a group (a path like `/kubepods/pod…`); `None` when it is not there or the kernel does not count
    /// (before 4.13).
    pub fn kills(&self, group: &str) -> Option<u64> {
        let file = if self.unified { "memory.events" } else { "memory.oom_control" };
        let mut text = String::new();
        let file = fs::File::open(self.dir(group)?.join(file)).ok()?;
        file.take(FILE_LIMIT).read_to_string(&mut text).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }

    /// The groups right below a group.
    pub fn children(&self, group: &str) -> Vec<String> {
        let Some(dir) = self.dir(group) else { return vec![] };
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        dirs.map(|entry| format!("{}/{}", group.trim_end_matches('/'), entry.file_name().to_string_lossy()))
            .collect()
    }

    fn dir(&self, group: &str) -> Option<PathBuf> {
        let relative = group.trim_start_matches('/');
        (!relative.split('/').any(|part| part == "..")).then(|| self.root.join(relative))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(mount: &Path, path: &str, text: &str) {
        let path = mount.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_unified_hierarchy_counts_trees() {
        let mount = tempfile::tempdir().unwrap();
        write(mount.path(), "cgroup.controllers", "memory\n");
        write(mount.path(), "kubepods/podu/memory.events", "low 0\noom 4\noom_kill 3\noom_group_kill 1\n");
        write(mount.path(), "kubepods/podu/c/memory.events", "low 0\n");
        let counters = OomCounters::find(mount.path()).unwrap();
        assert!(counters.count_trees());
        assert_eq!(counters.kills("/kubepods/podu"), Some(3));
        assert_eq!(counters.children("/kubepods/podu"), ["/kubepods/podu/c"]);
        for group in ["/kubepods/podu/c", "/kubepods/none", "/kubepods/../kubepods/podu"] {
            assert_eq!(counters.kills(group), None, "{group}");
        }
    }

    #[test]
    fn older_hierarchies_count_groups() {
        let mount = tempfile::tempdir().unwrap();
        assert_eq!(OomCounters::find(mount.path()), None);
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
        write(mount.path(), "memory/kubepods/podu/memory.oom_control", text);
        let counters = OomCounters::find(mount.path()).unwrap();
        assert!(!counters.count_trees());
        assert_eq!(counters.kills("/kubepods/podu"), Some(2));
        write(mount.path(), "memory/kubepods/podu/memory.oom_control", "oom_kill \u{fffd}\n");
        assert_eq!(counters.kills("/kubepods/podu"), None);
    }
}
