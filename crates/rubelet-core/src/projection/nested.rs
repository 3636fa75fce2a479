//! Places in a volume where a container mounts another volume.
//!
//! Owns the search for them (upstream `getNestedMountpoints`): volumes of API data are mounted read-only, so that
//! the runtime cannot make these directories itself. Never makes them.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, VolumeMount};

use super::{Payload, clean_path};
use crate::containers::{regular_containers, spec_of};

/// Directories to make in a volume, relative to it: wherever a container mounts something below one of its mounts
/// of the volume.
///
/// A place that the payload's own files occupy is left to them. Mounts of a sub-path do not show the volume's
/// root, so nothing can be nested in it there.
pub fn nested_mount_points(pod: &Pod, volume: &str, payload: &Payload) -> BTreeSet<String> {
    let spec = spec_of(pod);
    let lists = regular_containers(spec).map(|container| &container.volume_mounts);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| &container.volume_mounts);
    let taken: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    let mut found = BTreeSet::new();
    for mounts in lists.chain(ephemeral).map(|list| list.as_deref().unwrap_or_default()) {
        for own in mounts.iter().filter(|mount| mount.name == volume && shows_root(mount)) {
            let Some(base) = absolute(&own.mount_path) else { continue };
            for path in mounts.iter().filter_map(|mount| absolute(&mount.mount_path)) {
                let below = path.strip_prefix(&base).and_then(|rest| rest.strip_prefix('/'));
                // The writer's own names are refused here too.
                let Some(below) = below.and_then(|path| clean_path(path).ok()) else { continue };
                let top = below.split('/').next().unwrap_or_default();
                if !taken.contains(top) {
                    found.insert(below);
                }
            }
        }
    }
    // What lies in another nested mount is that one's affair.
    let inner = |path: &String| {
        found.iter().any(|other| path.strip_prefix(other.as_str()).is_some_and(|rest| rest.starts_with('/')))
    };
    found.iter().filter(|path| !inner(path)).cloned().collect()
}

fn shows_root(mount: &VolumeMount) -> bool {
    let set = |path: &Option<String>| path.as_deref().is_some_and(|path| !path.is_empty());
    !set(&mount.sub_path) && !set(&mount.sub_path_expr)
}

/// A mount path as an absolute clean one without the last `/`; `None` when it goes up.
fn absolute(path: &str) -> Option<String> {
    let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    if names.contains(&"..") {
        return None;
    }
    Some(names.iter().map(|name| format!("/{name}")).collect())
}
