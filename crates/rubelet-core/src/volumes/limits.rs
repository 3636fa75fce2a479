//! How many volumes of a driver fit on a node, and what it looks like when no more do.

use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};

/// gRPC's number for `RESOURCE_EXHAUSTED`.
const RESOURCE_EXHAUSTED: i32 = 8;

/// `allocatable.count` of the CSINode for what a driver says (`max_volumes_per_node`); `None` when it sets no limit, or
/// one that cannot be.
pub fn allocatable_count(max_volumes_per_node: i64) -> Option<i32> {
    (max_volumes_per_node > 0).then(|| i32::try_from(max_volumes_per_node).unwrap_or(i32::MAX))
}

/// Whether the node turned out to be full when the volume was to be attached: the pod has to go elsewhere
/// (`VolumeAttachmentLimitExceeded`), and the driver is asked again how many fit. Only drivers whose CSIDriver has
/// `nodeAllocatableUpdatePeriodSeconds` are taken at their word (upstream `VerifyExhaustedResource`).
pub fn is_exhausted(attachment: &VolumeAttachment, driver: Option<&CSIDriver>) -> bool {
    let period = driver.and_then(|driver| driver.spec.node_allocatable_update_period_seconds);
    let error = attachment.status.as_ref().and_then(|status| status.attach_error.as_ref());
    period.is_some_and(|seconds| seconds > 0)
        && error.and_then(|error| error.error_code) == Some(RESOURCE_EXHAUSTED)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn limits_are_counts() {
        let rows = [
            (0, None),
            (-1, None),
            (i64::MIN, None),
            (1, Some(1)),
            (39, Some(39)),
            (1 << 31, Some(i32::MAX)),
            (i64::MAX, Some(i32::MAX)),
        ];
        for (says, expected) in rows {
            assert_eq!(allocatable_count(says), expected, "{says}");
        }
    }

    #[test]
    fn a_full_node_is_told_by_drivers_that_keep_count() {
        let check = |period: Value, code: Value, expected: bool| {
            let driver: CSIDriver =
                serde_json::from_value(json!({"spec": {"nodeAllocatableUpdatePeriodSeconds": period}}))
                    .unwrap();
            let object = json!({"metadata": {}, "spec": {"attacher": "d", "nodeName": "n", "source": {}},
                "status": {"attached": false, "attachError": {"message": "full", "errorCode": code}}});
            let attachment = serde_json::from_value(object).unwrap();
            assert_eq!(is_exhausted(&attachment, Some(&driver)), expected);
            assert!(!is_exhausted(&attachment, None));
        };
        check(json!(60), json!(8), true);
        check(json!(60), json!(14), false);
        check(json!(60), Value::Null, false);
        check(json!(0), json!(8), false);
        check(Value::Null, json!(8), false);
    }
}
