//! What becomes of container logs: when one is looked at, when it is rotated, what its rotated files are called and
//! which of them go. Pure; `crates/rubelet/src/log_rotation` carries it out.
//!
//! Facts are upstream's `pkg/kubelet/logs`: names, how many files stay, which are compressed. Ours is when to look: a log
//! that does not grow is not looked at, and one that grows often enough that it cannot pass its limit by more than a
//! second of data, however its rate changes.

mod files;
mod pace;

use std::time::Duration;

pub use files::{Listing, RotatedFile, next_stamp};
pub use pace::{Next, Pace, Seen};

/// Free space that is enough to go on with, however large the limits are.
const ENOUGH_SPACE: u64 = 64 << 20;

/// What a log may come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationSettings {
    /// Bytes of one file: `containerLogMaxSize`.
    pub max_size: u64,
    /// Files of one log, the one that is written among them: `containerLogMaxFiles`, 2 or more.
    pub max_files: usize,
    /// The longest time between two looks at a log that grows, and between two tries of a rotation that fails:
    /// `containerLogMonitorInterval`.
    pub monitor_interval: Duration,
}

impl RotationSettings {
    /// Whether a disk with so many free bytes is as good as full: there is no room for another file, so that old ones
    /// have to go and nothing is compressed, which takes space before it gives some.
    pub fn is_tight(&self, free_bytes: u64) -> bool {
        free_bytes < self.max_size.min(ENOUGH_SPACE)
    }

    /// Bytes of all files of a log.
    pub fn budget(&self) -> u64 {
        self.max_size.saturating_mul(self.max_files as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_when_no_other_file_fits() {
        let check = |max_size, free, tight| {
            let settings = RotationSettings { max_size, max_files: 3, monitor_interval: Duration::ZERO };
            assert_eq!(settings.is_tight(free), tight, "{free} of {max_size}");
        };
        check(10, 9, true);
        check(10, 10, false);
        check(1 << 40, (64 << 20) - 1, true);
        check(1 << 40, 64 << 20, false);
        check(u64::MAX, 1 << 30, false);
    }
}
