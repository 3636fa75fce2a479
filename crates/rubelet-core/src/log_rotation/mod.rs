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
    /// Bytes of all files of a log.
    pub fn budget(&self) -> u64 {
        self.max_size.saturating_mul(self.max_files as u64)
    }
}
