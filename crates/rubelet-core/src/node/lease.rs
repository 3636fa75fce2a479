//! The node's Lease, its heartbeat.
//!
//! Owns what the object says (upstream's lease controller). Never talks to the API server; the shell sends it.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};

/// Namespace of all node leases.
pub const NAMESPACE: &str = "kube-node-lease";

/// The lease as it is created. `node_uid` makes the Node its owner, so that it goes when the Node does.
pub fn new_lease(node: &str, node_uid: &str, duration_seconds: i32, now: Timestamp) -> Lease {
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..Default::default()
        },
        spec: Some(LeaseSpec { holder_identity: Some(node.to_owned()), ..Default::default() }),
    };
    renewed(lease, node, Some(node_uid), duration_seconds, now)
}

/// A lease with a new renew time. The owner is set where there is none and the Node is known.
pub fn renewed(
    mut lease: Lease,
    node: &str,
    node_uid: Option<&str>,
    duration_seconds: i32,
    now: Timestamp,
) -> Lease {
    let spec = lease.spec.get_or_insert_default();
    spec.lease_duration_seconds = Some(duration_seconds);
    spec.renew_time = Some(MicroTime(now));
    lease.metadata.managed_fields = None;
    let owners = lease.metadata.owner_references.get_or_insert_default();
    if let Some(uid) = node_uid.filter(|_| owners.is_empty()) {
        owners.push(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node.to_owned(),
            uid: uid.to_owned(),
            ..Default::default()
        });
    }
    if owners.is_empty() {
        lease.metadata.owner_references = None;
    }
    lease
}

/// Whether somebody renewed the lease so recently that it is still held at `now`.
pub fn is_held(lease: &Lease, now: Timestamp) -> bool {
    let Some(spec) = &lease.spec else { return false };
    let Some(renewed) = &spec.renew_time else { return false };
    let seconds = i64::from(spec.lease_duration_seconds.unwrap_or(40));
    now.duration_since(renewed.0).as_secs().abs() < seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn created_and_renewed() {
        let now = Timestamp::from_microsecond(1_700_000_000_123_456).unwrap();
        let lease = new_lease("node-1", "u-1", 40, now);
        assert_eq!(
            serde_json::to_value(&lease).unwrap(),
            serde_json::json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {
                    "name": "node-1", "namespace": "kube-node-lease",
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "u-1"}],
                },
                "spec": {
                    "holderIdentity": "node-1", "leaseDurationSeconds": 40,
                    "renewTime": "2023-11-14T22:13:20.123456Z",
                },
            })
        );
        let later = Timestamp::from_second(1_700_000_039).unwrap();
        assert!(is_held(&lease, later));
        let renewed = renewed(lease, "node-1", Some("u-2"), 60, later);
        assert!(is_held(&renewed, Timestamp::from_second(1_700_000_098).unwrap()));
        assert!(!is_held(&renewed, Timestamp::from_second(1_700_000_100).unwrap()));
        assert_eq!(renewed.metadata.owner_references.unwrap()[0].uid, "u-1");
    }

    #[test]
    fn an_owner_is_added_when_it_is_known() {
        let lease = renewed(Lease::default(), "node-1", None, 40, Timestamp::UNIX_EPOCH);
        assert_eq!(lease.metadata.owner_references, None);
        assert!(!is_held(&Lease::default(), Timestamp::UNIX_EPOCH));
        let lease = renewed(lease, "node-1", Some("u-1"), 40, Timestamp::UNIX_EPOCH);
        assert_eq!(lease.metadata.owner_references.unwrap()[0].uid, "u-1");
    }
}
