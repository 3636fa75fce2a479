//! How much has to go, by the file system of images, and what is said when that cannot be had.

use super::{ImagePlan, ImagePolicy};

/// The file system of images says that it has no room at all, not even used room. The text is the message of the event
/// `InvalidDiskCapacity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid capacity 0 on image filesystem")]
pub struct InvalidCapacity;

/// A file system of images that is too full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Usage in percent.
    pub used_percent: u8,
    /// Size in bytes.
    pub capacity: u64,
    /// Bytes to free down to the lower threshold.
    pub bytes: u64,
}

/// How much is to be freed, if usage is at the upper threshold or above it.
///
/// # Errors
/// When the capacity is 0.
pub fn shortage(
    policy: &ImagePolicy,
    capacity: u64,
    available: u64,
) -> Result<Option<Shortage>, InvalidCapacity> {
    if capacity == 0 {
        return Err(InvalidCapacity);
    }
    let available = available.min(capacity);
    let percent = |of: u64, share: u64| u128::from(of) * u128::from(share) / 100;
    let free = u128::from(available) * 100 / u128::from(capacity);
    let used_percent = 100 - u8::try_from(free).unwrap_or(100);
    if used_percent < policy.high_percent {
        return Ok(None);
    }
    let low = u64::from(100_u8.saturating_sub(policy.low_percent));
    let target = u64::try_from(percent(capacity, low)).unwrap_or(u64::MAX);
    Ok(Some(Shortage { used_percent, capacity, bytes: target.saturating_sub(available) }))
}

/// The message of the event `FreeDiskSpaceFailed`: upstream's, and what there is to remove.
pub fn free_space_failed(shortage: &Shortage, freed: u64, left: &ImagePlan) -> String {
    format!(
        "Insufficient free disk space on the node's image filesystem ({}% of {} used). Failed to free sufficient \
         space by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by active \
         images, logs, volumes, or other data. {} images are needed or pinned; {} unused ones of {} are left.",
        shortage.used_percent,
        size(shortage.capacity),
        left.kept,
        left.unused,
        size(left.unused_bytes),
    )
}

/// A size for people (upstream `formatSize`).
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut whole = bytes;
    while whole >= 1024 * 1024 && unit < UNITS.len() - 1 {
        whole /= 1024;
        unit += 1;
    }
    // Ten times the size in this unit, rounded: one decimal without floats.
    let tenths =
        (u128::from(bytes) * 10 * 2 / 1024_u128.pow(u32::try_from(unit).unwrap_or(0) + 1)).div_ceil(2);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}
