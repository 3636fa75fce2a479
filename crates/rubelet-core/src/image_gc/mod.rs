//! Which images may go: seen how long, used when, needed by whom, and how much has to go.
//!
//! Owns the book of images and every decision about removing one (upstream `pkg/kubelet/images`, `realImageGCManager`).
//! Asks nobody and removes nothing: the shell's clean-up lists, plans and carries out. Times are counted from the
//! agent's start, so that a clock that is set makes no image old.

mod book;
mod need;
mod uses;

use std::time::Duration;

pub use self::book::{ImageBook, ImagePlan, ListedImage, Need, Removal, Why};
pub use self::need::{InvalidCapacity, Shortage, free_space_failed, shortage};
pub use self::uses::ImageUse;

/// When images go (`imageGC…`, `image…GCAge`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImagePolicy {
    /// Usage in percent at which images are removed; 100 never does.
    pub high_percent: u8,
    /// Usage in percent down to which images are removed.
    pub low_percent: u8,
    /// An image that was seen for a shorter time stays: it may have been pulled for a pod that is about to start.
    pub min_age: Duration,
    /// An image that was unused for longer goes even where there is room, once the agent has run for so long.
    pub max_age: Option<Duration>,
}

#[cfg(test)]
mod tests;
