//! What runs in a group: whether anything does, and ending all of it.
//!
//! Ending is for groups whose pod has ended; it is the kernel's `cgroup.kill` where there is one. Before that processes
//! are killed one by one, each held by a descriptor so that a number that was given anew is never hit, while no new
//! ones can be made.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::CgroupTree;
use super::tree::put;

impl CgroupTree {
    /// Whether a process is in the group, or in one below it.
    pub fn is_populated(&self, group: &str) -> bool {
        if self.is_unified()
            && let Some(dir) = self.dirs(group).ok().and_then(|dirs| dirs.into_iter().next())
            && let Ok(text) = fs::read_to_string(dir.join("cgroup.events"))
        {
            return text.lines().any(|line| line.trim() == "populated 1");
        }
        !self.processes(group).is_empty()
    }

    /// Processes of the group and of those below it; those of other PID namespaces have no number here.
    pub fn processes(&self, group: &str) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        for dir in self.dirs(group).unwrap_or_default() {
            gather(&dir, &mut found);
        }
        found
    }

    /// Kills everything in the group and below it, once. What was
    /// killed takes a moment to be gone: see [`Self::is_populated`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self, group: &str) -> io::Result<()> {
        if self.is_unified() {
            for dir in self.dirs(group)? {
                match put(&dir.join("cgroup.kill"), "1") {
                    // Before 5.14, or no such group.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    done => return done,
                }
            }
        }
        // Nothing can be forked from here on, so that the loop comes to an end.
        if let Some(dir) = self.dir(group, "pids").filter(|dir| dir.is_dir()) {
            let _only_faster = put(&dir.join("pids.max"), "0");
        }
        for process in self.processes(group) {
            kill_member(process, group)?;
        }
        Ok(())
    }
}

/// Kills a process if it is in the group still.
fn kill_member(process: i32, group: &str) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(process) else { return Ok(()) };
    let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    // Asked while the descriptor holds the process: its number may have been another one's when the list was read.
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    if !groups.lines().any(|line| is_below(line, group)) {
        return Ok(());
    }
    match pidfd_send_signal(descriptor, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(io::Error::new(
            io::Error::from(error).kind(),
            format!("process {process} cannot be killed: {error}"),
        )),
    }
}

/// Whether a line of `/proc/<pid>/cgroup` names the group or one below it.
fn is_below(line: &str, group: &str) -> bool {
    let path = line.splitn(3, ':').nth(2).unwrap_or_default();
    let rest = path.strip_prefix(group.trim_end_matches('/'));
    !group.trim_matches('/').is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn gather(dir: &Path, found: &mut BTreeSet<i32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok()).filter(|pid| *pid > 0));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            gather(&entry.path(), found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_processes_name_their_groups() {
        for (line, expected) in [
            ("4:memory:/kubepods/poda", true),
            ("0::/kubepods/poda/c1", true),
            ("0::/kubepods/podab", false),
            ("0::/kubepods", false),
            ("garbage", false),
        ] {
            assert_eq!(is_below(line, "/kubepods/poda"), expected, "{line}");
        }
        assert!(!is_below("0::/anything", "/"));
    }

    #[test]
    fn the_unified_hierarchy_kills_by_itself() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpu pids").unwrap();
        let dir = root.path().join("kubepods/poda");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("cgroup.kill"), "").unwrap();
        fs::write(dir.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        let tree = CgroupTree::find(root.path()).unwrap();
        assert!(tree.is_populated("/kubepods/poda"));
        tree.kill("/kubepods/poda").unwrap();
        assert_eq!(fs::read_to_string(dir.join("cgroup.kill")).unwrap(), "1");
        fs::write(dir.join("cgroup.events"), "populated 0\nfrozen 0\n").unwrap();
        assert!(!tree.is_populated("/kubepods/poda") && !tree.is_populated("/kubepods/none"));
        tree.kill("/kubepods/none").unwrap();
    }
}
