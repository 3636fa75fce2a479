//! Which fields a path takes no part in: what the strategy of a kind resets before it stores the object.
//!
//! The facts are upstream's `GetResetFields` of each strategy. Nobody becomes the owner of such
//! a field through that path.

use super::set::Set;
use crate::kinds::Resource;

/// Drops from a set what a write through this path cannot change.
pub fn without_reset(resource: &Resource, subresource: &str, set: Set) -> Set {
    let reset: &[&[&str]] = match (resource.group, resource.plural, subresource) {
        // Upstream's strategies for these have a filter, but what serves the paths does not ask for it.
        ("", "pods", "ephemeralcontainers" | "resize") => return set,
        ("", "pods", "status") => {
            &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]]
        }
        ("certificates.k8s.io", "certificatesigningrequests", "") => &[&["spec"], &["status"]],
        ("certificates.k8s.io", "certificatesigningrequests", "status") => {
            &[&["spec"], &["status", "conditions"]]
        }
        ("certificates.k8s.io", "certificatesigningrequests", "approval") => {
            &[&["spec"], &["status", "certificate"]]
        }
        ("resource.k8s.io", "resourceclaims", "status")
        | ("storage.k8s.io", "volumeattachments", "status") => &[&["metadata"], &["spec"]],
        (_, _, "status") => &[&["spec"]],
        _ if resource.has_status() => &[&["status"]],
        _ => return set,
    };
    set.recursive_difference(&Set::of_fields(reset))
}

/// What is never owned by anyone (`NewStripMetaManager`).
pub fn never_owned() -> Set {
    Set::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
}
