//! Memory file systems for volumes. Owns how large one is and what is done where none may be mounted.

use std::io;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use rubelet_core::downward::DownwardFacts;
use rubelet_core::quantity::Amount;
use rubelet_core::resources::{ResourceFacts, pod_group_settings};

/// How volumes in memory are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tmpfs {
    /// As a tmpfs, which takes the right to mount.
    Mount,
    /// As a plain directory: for simulations, which run without privileges and in parallel.
    PlainDirectory,
}

/// Mode of the root of a volume in memory: everybody's and sticky, the kernel's default for a tmpfs, and with a group
/// handing that down.
pub(super) fn root_mode(group: Option<u32>) -> u32 {
    if group.is_some() { 0o3777 } else { 0o1777 }
}

/// Bytes a volume in memory may hold: the smallest of what the node can give to pods, what the pod may use and the
/// volume's own limit. `None` leaves it to the kernel.
pub(super) fn size(pod: &Pod, facts: &DownwardFacts, own_limit: Option<Amount>) -> Option<i64> {
    let node = facts.node_allocatable.get("memory").map(|memory| memory.value());
    let of_pod = pod_group_settings(pod, &ResourceFacts::default(), false).memory;
    let own = own_limit.map(Amount::value);
    [node, of_pod, own].into_iter().flatten().filter(|bytes| *bytes > 0).min()
}

/// Mounts a tmpfs on a directory unless something is mounted there.
///
/// # Errors
/// When the kernel refuses; without privilege the message says what to do.
pub(super) fn ensure(path: &Path, size: Option<i64>, group: Option<u32>) -> io::Result<()> {
    if rubelet_linux::mounts::is_mount_point(path)? {
        return Ok(());
    }
    rubelet_linux::mounts::mount_tmpfs(path, size, root_mode(group), group).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => ": the agent has to run as root (CAP_SYS_ADMIN)",
            _ => "",
        };
        io::Error::new(error.kind(), format!("mount a tmpfs on {}: {error}{hint}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn the_smallest_limit_counts() {
        let amount = |text: &str| Amount::parse(text).unwrap();
        let check = |node: Option<&str>, pod: Option<&str>, own: Option<&str>, expected: Option<i64>| {
            let limits = pod.map(|limit| json!({"limits": {"memory": limit}})).unwrap_or(json!({}));
            let pod: Pod =
                serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "resources": limits}]}}))
                    .unwrap();
            let facts = DownwardFacts {
                node_allocatable: node
                    .map(|node| ("memory".to_owned(), amount(node)))
                    .into_iter()
                    .collect::<BTreeMap<_, _>>(),
                ..DownwardFacts::default()
            };
            assert_eq!(size(&pod, &facts, own.map(amount)), expected);
        };
        check(None, None, None, None);
        check(Some("8Ki"), None, None, Some(8192));
        check(Some("8Ki"), Some("4Ki"), None, Some(4096));
        check(Some("8Ki"), Some("4Ki"), Some("1Ki"), Some(1024));
        check(Some("8Ki"), Some("4Ki"), Some("6Ki"), Some(4096));
        check(Some("8Ki"), None, Some("0"), Some(8192));
    }
}
