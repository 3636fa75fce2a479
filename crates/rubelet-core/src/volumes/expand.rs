//! Whether a volume has to grow on this node, and what a driver's refusal means.
//!
//! Owns the comparison of volume, claim and what the node last had (upstream `NodeExpander.runPreCheck` and the older
//! `legacyCallNodeExpandOnPlugin`). The claim's status is `claim_status`'s.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use crate::quantity::listed;

const STORAGE: &str = "storage";

/// On a claim whose volume has nothing to grow on nodes.
const NOT_REQUIRED: &str = "volume.kubernetes.io/node-expansion-not-required";

/// What is known when a volume is mounted, or looked at again while it is.
#[derive(Clone, Copy, Debug)]
pub struct ExpansionFacts<'a> {
    /// The volume.
    pub volume: &'a PersistentVolume,
    /// Its claim.
    pub claim: &'a PersistentVolumeClaim,
    /// The pod only reads it.
    pub read_only: bool,
    /// The size that it has on this node, bytes, as it was mounted or grew since; `None` while it is being mounted,
    /// when the claim's status is believed.
    pub node_bytes: Option<i64>,
    /// The driver has refused to let it grow for good (a final error) since it was mounted.
    pub refused: bool,
}

/// What is to be done for a volume to have its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expansion {
    /// Nothing: it has it, or somebody else has to do his part first.
    None,
    /// Nothing, and it has this size now: bytes.
    Done(i64),
    /// It should, but is only read: the events of pod and claim say so (`requested read-only file system`).
    ReadOnly,
    /// The driver is to be called.
    Expand(NodeExpansion),
}

/// A call to let a volume grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeExpansion {
    /// The size it is to have, bytes.
    pub bytes: i64,
    /// The claim does not say that size yet: its status says first that the node is at it, and then that it is done.
    pub update_claim: bool,
    /// The resize controller is of the kind that lets claims recover, so that failures are told in the claim's status.
    pub tell_claim: bool,
    /// If it fails for good, it is marked infeasible, because the user has asked for another size meanwhile.
    pub infeasible_on_failure: bool,
}

/// Whether a volume has to grow on this node, and to what.
pub fn needs_node_expansion(facts: &ExpansionFacts<'_>) -> Expansion {
    let status = facts.claim.status.as_ref();
    let bytes = |amount: Option<crate::quantity::Amount>| amount.map_or(0, |amount| amount.value());
    let wanted = bytes(listed(facts.volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()), STORAGE));
    let of_claim = bytes(listed(status.and_then(|status| status.capacity.as_ref()), STORAGE));
    if facts.node_bytes.unwrap_or(of_claim) >= wanted || facts.node_bytes == Some(0) {
        return Expansion::None;
    }
    if facts.read_only {
        return Expansion::ReadOnly;
    }
    let allocated = status.and_then(|status| status.allocated_resources.as_ref());
    let step = status
        .and_then(|status| status.allocated_resource_statuses.as_ref())
        .and_then(|statuses| statuses.get(STORAGE))
        .map(String::as_str)
        .unwrap_or_default();
    if step.is_empty() && allocated.is_none() {
        return Expansion::Expand(NodeExpansion {
            bytes: wanted,
            update_claim: of_claim < wanted,
            tell_claim: false,
            infeasible_on_failure: false,
        });
    }
    let target = listed(allocated, STORAGE).map_or(wanted, |amount| amount.value());
    let asked = facts.claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let asked = bytes(listed(asked.and_then(|resources| resources.requests.as_ref()), STORAGE));
    let call = NodeExpansion {
        bytes: target,
        update_claim: true,
        tell_claim: true,
        infeasible_on_failure: facts.refused && asked != target,
    };
    let told = of_claim >= target && step.is_empty();
    if told {
        // Another node has done it; a volume of many nodes grows on each of them.
        return if is_of_many(facts.claim) && !is_excused(facts.claim) {
            Expansion::Expand(NodeExpansion { update_claim: false, ..call })
        } else {
            Expansion::Done(target)
        };
    }
    match step {
        "NodeResizePending" | "NodeResizeInProgress" => Expansion::Expand(call),
        _ => Expansion::None,
    }
}

fn is_of_many(claim: &PersistentVolumeClaim) -> bool {
    let modes = claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten());
    modes.into_iter().any(|mode| mode == "ReadWriteMany")
}

fn is_excused(claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(NOT_REQUIRED))
}

/// What a failed call means. The gRPC codes are told by number, as `tonic::Code` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpansionFailure {
    /// It may go better next time; nothing is told.
    Again,
    /// The driver has none of it on nodes, which does no harm to a claim that has its size.
    NotSupported,
    /// The volume cannot grow while it is used: not tried again on this node, and no reason not to mount it.
    InUse,
    /// The driver says no; the claim says so.
    Refused,
    /// The driver can never do it: marked, so that the user may ask for less.
    Infeasible,
}

impl ExpansionFailure {
    /// What code `code` means for a call; `is_final`: the driver has certainly given up on it.
    pub fn of(call: &NodeExpansion, code: i32, is_final: bool) -> Self {
        const INVALID_ARGUMENT: i32 = 3;
        const NOT_FOUND: i32 = 5;
        const FAILED_PRECONDITION: i32 = 9;
        const OUT_OF_RANGE: i32 = 11;
        match code {
            FAILED_PRECONDITION => Self::InUse,
            INVALID_ARGUMENT | NOT_FOUND | OUT_OF_RANGE if call.tell_claim => Self::Infeasible,
            _ if is_final && call.tell_claim && call.infeasible_on_failure => Self::Infeasible,
            _ if is_final && call.tell_claim => Self::Refused,
            _ => Self::Again,
        }
    }

    /// When the driver cannot let volumes grow on nodes (no `EXPAND_VOLUME`).
    pub fn not_supported(call: &NodeExpansion) -> Self {
        if call.tell_claim && call.update_claim { Self::Refused } else { Self::NotSupported }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const GI: i64 = 1 << 30;

    /// What comes of a volume of 2Gi whose claim has `status`, `read_only` and `node_bytes`.
    fn of(claim: Value, read_only: bool, node_bytes: Option<i64>, refused: bool) -> Expansion {
        let volume = serde_json::from_value(json!({"spec": {"capacity": {"storage": "2Gi"}}})).unwrap();
        let claim = serde_json::from_value(claim).unwrap();
        needs_node_expansion(&ExpansionFacts {
            volume: &volume,
            claim: &claim,
            read_only,
            node_bytes,
            refused,
        })
    }

    fn claim(capacity: &str, allocated: Option<&str>, step: Option<&str>) -> Value {
        json!({
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}},
            "status": {
                "capacity": {"storage": capacity},
                "allocatedResources": allocated.map(|size| json!({"storage": size})),
                "allocatedResourceStatuses": step.map(|step| json!({"storage": step})),
            },
        })
    }

    const CALL: NodeExpansion =
        NodeExpansion { bytes: 2 * GI, update_claim: true, tell_claim: true, infeasible_on_failure: false };
    const OLD: NodeExpansion = NodeExpansion { tell_claim: false, ..CALL };

    #[test]
    fn claim_and_volume_say_whether_it_grows() {
        use Expansion::{Done, Expand, None as No, ReadOnly};
        let two = Some("2Gi");
        let rows = [
            // While it is mounted, the claim's status is believed.
            (claim("2Gi", None, None), None, No),
            (claim("3Gi", None, None), None, No),
            (claim("1Gi", None, None), None, Expand(OLD)),
            (claim("1Gi", two, Some("NodeResizePending")), None, Expand(CALL)),
            (claim("1Gi", two, Some("NodeResizeInProgress")), None, Expand(CALL)),
            (claim("1Gi", two, Some("NodeResizeInfeasible")), None, No),
            (claim("1Gi", two, Some("ControllerResizeInProgress")), None, No),
            (claim("1Gi", two, None), None, No),
            (claim("1Gi", None, Some("NodeResizePending")), None, Expand(CALL)),
            // Less than the volume has may have been allocated.
            (
                claim("1Gi", Some("1536Mi"), Some("NodeResizePending")),
                None,
                Expand(NodeExpansion { bytes: 3 * GI / 2, ..CALL }),
            ),
            (claim("1Gi", Some("1Gi"), None), None, Done(GI)),
            // Later, what the node has.
            (claim("1Gi", two, Some("NodeResizePending")), Some(2 * GI), No),
            (claim("2Gi", two, None), Some(GI), Done(2 * GI)),
            (claim("2Gi", None, None), Some(GI), Expand(NodeExpansion { update_claim: false, ..OLD })),
            (claim("1Gi", two, Some("NodeResizePending")), Some(0), No),
        ];
        for (claim, node, expected) in rows {
            assert_eq!(of(claim.clone(), false, node, false), expected, "{claim} {node:?}");
            let read_only = if expected == No { No } else { ReadOnly };
            // What nobody wants grown is not complained of.
            let found = of(claim.clone(), true, node, false);
            assert!(found == read_only || found == ReadOnly, "{claim} {node:?} {found:?}");
        }
        assert_eq!(of(json!({}), false, None, false), Expand(OLD));
    }

    #[test]
    fn a_volume_of_many_nodes_grows_on_each() {
        let mut many = claim("2Gi", Some("2Gi"), None);
        many["spec"]["accessModes"] = json!(["ReadWriteMany"]);
        let expected = Expansion::Expand(NodeExpansion { update_claim: false, ..CALL });
        assert_eq!(of(many.clone(), false, Some(GI), false), expected);
        many["metadata"] = json!({"annotations": {NOT_REQUIRED: "true"}});
        assert_eq!(of(many, false, Some(GI), false), Expansion::Done(2 * GI));
    }

    #[test]
    fn who_asked_for_less_after_a_refusal_gets_it() {
        let mut asks = claim("1Gi", Some("2Gi"), Some("NodeResizePending"));
        assert_eq!(of(asks.clone(), false, None, true), Expansion::Expand(CALL));
        asks["spec"]["resources"]["requests"]["storage"] = json!("1Gi");
        let expected = NodeExpansion { infeasible_on_failure: true, ..CALL };
        assert_eq!(of(asks.clone(), false, None, true), Expansion::Expand(expected));
        assert_eq!(of(asks, false, None, false), Expansion::Expand(CALL));
        assert_eq!(ExpansionFailure::of(&expected, 13, true), ExpansionFailure::Infeasible);
    }

    #[test]
    fn refusals_mean_different_things() {
        use ExpansionFailure::{Again, InUse, Infeasible, NotSupported, Refused};
        let rows = [(9, true, InUse, InUse), (3, true, Infeasible, Again), (11, true, Infeasible, Again)];
        let more = [(5, true, Infeasible, Again), (13, true, Refused, Again), (14, false, Again, Again)];
        for (code, is_final, with_claim, old) in rows.into_iter().chain(more) {
            assert_eq!(ExpansionFailure::of(&CALL, code, is_final), with_claim, "{code}");
            assert_eq!(ExpansionFailure::of(&OLD, code, is_final), old, "{code}");
        }
        assert_eq!(ExpansionFailure::not_supported(&CALL), Refused);
        assert_eq!(ExpansionFailure::not_supported(&OLD), NotSupported);
        let told = NodeExpansion { update_claim: false, ..CALL };
        assert_eq!(ExpansionFailure::not_supported(&told), NotSupported);
    }

    proptest! {
        #[test]
        fn nothing_ever_shrinks_below_what_the_claim_has(
            node in proptest::option::of(0_i64..4), capacity in 0_i64..4,
            allocated in proptest::option::of(0_i64..4),
            step in proptest::option::of("NodeResizePending|NodeResizeInProgress|NodeResizeInfeasible"),
        ) {
            let gi = |size: i64| format!("{size}Gi");
            let allocated = allocated.map(gi);
            let found = of(claim(&gi(capacity), allocated.as_deref(), step.as_deref()), false, node.map(|n| n * GI), false);
            if let Expansion::Expand(call) = found {
                prop_assert!(call.bytes <= 3 * GI);
                prop_assert!(node.unwrap_or(capacity) < 2, "it is large enough: {call:?}");
                prop_assert!(call.update_claim || capacity * GI >= call.bytes);
            }
        }
    }
}
