//! What commands cost a real runtime: the CPU time of its processes, those that have ended included.
//!
//! Reads `/proc`; never asks the runtime. Called by the plan of this part.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// User and system time of the runtime and its shims, with what they have waited for: the starter of a command and the
/// command itself. Seconds. They are told by the folder of the runtime in their command lines.
pub(super) fn cpu_seconds(dir: &Path) -> Result<f64> {
    let dir = dir.display().to_string();
    let own = std::process::id().to_string();
    let mut ticks = 0;
    for entry in fs::read_dir("/proc").context("cannot list processes")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_err() || name == own {
            continue;
        }
        // One that ended since it was listed has given its time to who waited for it.
        let Ok(words) = fs::read(entry.path().join("cmdline")) else { continue };
        let program = words.split(|byte| *byte == 0).next().unwrap_or_default();
        let program = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let is_its_own =
            program.starts_with(b"containerd") && String::from_utf8_lossy(&words).contains(dir.as_str());
        if is_its_own && let Ok(stat) = fs::read_to_string(entry.path().join("stat")) {
            ticks += cpu_ticks(&stat).unwrap_or(0);
        }
    }
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The four times of a `stat` line: own and of children waited for, user and system.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(4);
    let times: Option<Vec<u64>> = fields.map(|field| field.parse().ok()).collect();
    times.filter(|times| times.len() == 4).map(|times| times.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_that_have_ended_count() {
        assert_eq!(cpu_ticks("42 (a) b) S 1 2 3 4 5 6 7 8 9 10 100 20 3000 400 20 0"), Some(3520));
        assert_eq!(cpu_ticks("42 (a) S 1 2 3 4 5 6 7 8 9 10 100 20"), None);
    }
}
