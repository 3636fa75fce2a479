//! Limits of local storage: of an emptyDir, of a container, of a pod. Owns who has any and who is beyond them
//! (upstream `localStorageEviction`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::rank::Layout;
use crate::admission::is_critical_pod;
use crate::containers::spec_of;
use crate::quantity::{Amount, Format, listed};
use crate::resources::pod_limits;
use crate::stats::usage::{FsUsage, PodUsage};

const STORAGE: &str = "ephemeral-storage";

/// What has to be measured of a pod to hold it to its limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limited {
    /// Volumes with a limit of their own.
    pub volumes: Vec<String>,
    /// Whether logs, layers and all volumes have one together.
    pub storage: bool,
}

/// What of a pod has limits; `None` when nothing does, or nothing would follow: critical pods are never evicted.
pub fn limited(pod: &Pod) -> Option<Limited> {
    if is_critical_pod(pod) {
        return None;
    }
    let volumes = size_limits(pod).map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
    let storage = pod_limits(pod, false).contains_key(STORAGE)
        || spec_of(pod).containers.iter().any(|container| {
            listed(container.resources.as_ref().and_then(|r| r.limits.as_ref()), STORAGE).is_some()
        });
    (storage || !volumes.is_empty()).then_some(Limited { volumes, storage })
}

/// Volumes of emptyDir with a positive limit. Those in memory are limited by the kernel.
fn size_limits(pod: &Pod) -> impl Iterator<Item = (&str, Amount)> {
    spec_of(pod).volumes.iter().flatten().filter_map(|volume| {
        let dir = volume.empty_dir.as_ref()?;
        if dir.medium.as_deref().is_some_and(|medium| medium == "Memory" || medium.starts_with("HugePages")) {
            return None;
        }
        let limit = Amount::of(dir.size_limit.as_ref()?).ok()?;
        (!limit.is_zero() && !limit.is_negative()).then_some((volume.name.as_str(), limit))
    })
}

/// A pod beyond a limit of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// For `kubelet_evictions`.
    pub signal: &'static str,
    /// For status and event.
    pub message: String,
}

/// Whether a pod is beyond one of its limits. `fresh` are volumes measured just now, bytes by name; the others are as
/// `usage` has them, without which only volumes are judged.
pub fn exceeded(
    pod: &Pod,
    usage: Option<&PodUsage>,
    fresh: &BTreeMap<String, u64>,
    layout: Layout,
) -> Option<Exceeded> {
    let told = |name: &str| usage?.volumes.iter().find(|volume| volume.name == name)?.fs.used;
    for (name, limit) in size_limits(pod) {
        let used = fresh.get(name).copied().or_else(|| told(name));
        if used.is_some_and(|used| amount(used) > limit) {
            let message = format!("Usage of EmptyDir volume {name:?} exceeds the limit \"{limit}\". ");
            return Some(Exceeded { signal: "emptydirfs.limit", message });
        }
    }
    let usage = usage?;
    if let Some(limit) = pod_limits(pod, false).get(STORAGE).filter(|limit| !limit.is_zero()) {
        let parts = usage.containers.iter().flat_map(|c| [c.rootfs.as_ref(), c.logs.as_ref()]);
        let used = |fs: Option<&FsUsage>| fs.and_then(|fs| fs.used).unwrap_or(0);
        let containers = parts.map(used).fold(0_u64, u64::saturating_add);
        let mut volumes: BTreeMap<&str, u64> = usage
            .volumes
            .iter()
            .filter(|volume| volume.ephemeral)
            .map(|volume| (volume.name.as_str(), volume.fs.used.unwrap_or(0)))
            .collect();
        volumes.extend(fresh.iter().map(|(name, used)| (name.as_str(), *used)));
        let other = used(usage.other_ephemeral.as_ref());
        let sum = volumes.into_values().fold(containers.saturating_add(other), u64::saturating_add);
        if amount(sum) > *limit {
            let message =
                format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ");
            return Some(Exceeded { signal: "ephemeralpodfs.limit", message });
        }
    }
    for container in &spec_of(pod).containers {
        let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
        let Some(limit) = listed(limits, STORAGE).filter(|limit| !limit.is_zero()) else { continue };
        let Some(found) = usage.containers.iter().find(|used| used.name == container.name) else { continue };
        let logs = found.logs.as_ref().and_then(|fs| fs.used).unwrap_or(0);
        // As upstream: a layer on a disk of its own is no local storage.
        let layer = found.rootfs.as_ref().filter(|_| !layout.image_fs).and_then(|fs| fs.used).unwrap_or(0);
        if amount(logs.saturating_add(layer)) > limit {
            let name = &container.name;
            let message =
                format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". ");
            return Some(Exceeded { signal: "ephemeralcontainerfs.limit", message });
        }
    }
    None
}

fn amount(bytes: u64) -> Amount {
    Amount::units(i64::try_from(bytes).unwrap_or(i64::MAX), Format::BinarySi)
}
