//! What of a machine is looked at before an agent is started on it: swap, rights, other agents, kernel settings.
//!
//! Reads `/proc` when asked; judges nothing and changes nothing. Called by the shell's `preflight`.

use std::fs;
use std::path::Path;

/// Where the kernel tells.
const PROC: &str = "/proc";

/// Devices and files that are swapped to.
pub fn swaps() -> Vec<String> {
    swaps_in(&fs::read_to_string("/proc/swaps").unwrap_or_default())
}

fn swaps_in(text: &str) -> Vec<String> {
    text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// The bits of this process's effective capabilities.
pub fn effective_capabilities() -> Option<u64> {
    capabilities_in(&fs::read_to_string("/proc/self/status").ok()?)
}

fn capabilities_in(status: &str) -> Option<u64> {
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(bits.trim(), 16).ok()
}

/// Processes of these names other than this one, as name and process.
pub fn others_named(names: &[&str]) -> Vec<(String, u32)> {
    named_in(Path::new(PROC), names, std::process::id())
}

fn named_in(proc: &Path, names: &[&str], own: u32) -> Vec<(String, u32)> {
    let Ok(entries) = fs::read_dir(proc) else { return Vec::new() };
    let mut found: Vec<(String, u32)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.file_name().to_str()?.parse().ok()?)))
        .filter(|(_, pid)| *pid != own)
        .filter_map(|(path, pid)| Some((fs::read_to_string(path.join("comm")).ok()?.trim().to_owned(), pid)))
        .filter(|(name, _)| names.contains(&name.as_str()))
        .collect();
    found.sort_by_key(|(_, pid)| *pid);
    found
}

/// A kernel setting that is a number, by its path below `/proc/sys`.
pub fn kernel_setting(path: &str) -> Option<i64> {
    fs::read_to_string(Path::new("/proc/sys").join(path)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_read() {
        let text = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2  partition 1000 0 -2\n/swap\\040file file 1 0 -3\n";
        assert_eq!(swaps_in(text), ["/dev/sda2", "/swap\\040file"]);
        assert!(swaps_in("Filename\n").is_empty() && swaps_in("").is_empty());
        assert_eq!(capabilities_in("Name:\tx\nCapEff:\t0000003fffffffff\n"), Some(0x3f_ffff_ffff));
        assert_eq!(capabilities_in("CapEff:\tnone\n"), None);
        assert_eq!(capabilities_in(""), None);
        assert!(kernel_setting("kernel/pid_max").is_some_and(|most| most > 0));
        assert_eq!(kernel_setting("kernel/no_such_thing"), None);
    }

    #[test]
    fn other_agents_are_found_by_their_names() {
        let proc = tempfile::tempdir().unwrap();
        for (pid, name) in [("7", "kubelet"), ("12", "rubelet"), ("9", "bash"), ("self", "kubelet")] {
            fs::create_dir(proc.path().join(pid)).unwrap();
            fs::write(proc.path().join(pid).join("comm"), format!("{name}\n")).unwrap();
        }
        fs::create_dir(proc.path().join("13")).unwrap();
        let found = named_in(proc.path(), &["kubelet", "rubelet"], 12);
        assert_eq!(found, [("kubelet".to_owned(), 7)]);
    }
}
