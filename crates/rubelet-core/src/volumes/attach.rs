//! Whether a driver's volume has been attached to this node: which object says so, and what it says.
//!
//! Owns the name of the VolumeAttachment and the order of what is looked at in it (upstream `verifyAttachmentStatus`).
//! Attaching itself is the controller's.

use std::collections::BTreeMap;

use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use sha2::{Digest as _, Sha256};

use super::CsiVolume;

/// Name of the VolumeAttachment of a volume on a node (upstream `getAttachmentName`).
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    let digest = Sha256::new().chain_update(handle).chain_update(driver).chain_update(node).finalize();
    super::sources::named_by(&digest)
}

/// Whether the volume has to be attached before the node can mount it: not when it is the pod's own, nor when the
/// CSIDriver says that nothing has to be. A driver without a CSIDriver object attaches.
pub fn is_attachable(volume: &CsiVolume, driver: Option<&CSIDriver>) -> bool {
    !volume.inline && driver.is_none_or(|driver| driver.spec.attach_required != Some(false))
}

/// Why a volume cannot be used, or not yet. Worded as upstream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// Somebody takes it away.
    #[error("volume attachment is being deleted")]
    Going,
    /// The driver could not attach it; its words.
    #[error("{0}")]
    Failed(String),
    /// It will be.
    #[error("volume {handle} is not attached for volume attachment {attachment}")]
    NotYet {
        /// The driver's name for the volume.
        handle: String,
        /// Name of the VolumeAttachment.
        attachment: String,
    },
}

/// What the attach left behind for the node (`publish_context` of the calls), once the volume is attached.
///
/// # Errors
/// It is not, or not any more.
pub fn is_attached(
    attachment: &VolumeAttachment,
    handle: &str,
) -> Result<BTreeMap<String, String>, AttachError> {
    if attachment.metadata.deletion_timestamp.is_some() {
        return Err(AttachError::Going);
    }
    let status = attachment.status.as_ref();
    if let Some(status) = status.filter(|status| status.attached) {
        return Ok(status.attachment_metadata.clone().unwrap_or_default());
    }
    match status.and_then(|status| status.attach_error.as_ref()) {
        Some(error) => Err(AttachError::Failed(error.message.clone().unwrap_or_default())),
        None => Err(AttachError::NotYet {
            handle: handle.to_owned(),
            attachment: attachment.metadata.name.clone().unwrap_or_default(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::volumes::tests::csi_volume;

    #[test]
    fn attachments_are_named_by_volume_driver_and_node() {
        // sha256 of "handledrivernode".
        let name = attachment_name("handle", "driver", "node");
        assert_eq!(name, "csi-fdef298eb16db6fa42906ef1ff09a93a7f3028f8290cc9d71628ff91c237bfa7");
    }

    #[test]
    fn an_attachment_says_yes_no_or_not_yet() {
        let check = |metadata: Value, status: Value, expected: Result<&[(&str, &str)], &str>| {
            let object = json!({"metadata": metadata, "status": status,
                "spec": {"attacher": "d", "nodeName": "n", "source": {}}});
            let attachment: VolumeAttachment = serde_json::from_value(object).unwrap();
            let expected = expected.map_err(str::to_owned).map(|pairs| {
                pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
            });
            assert_eq!(is_attached(&attachment, "h").map_err(|error| error.to_string()), expected);
        };
        let plain = || json!({"name": "csi-1"});
        let going = json!({"name": "csi-1", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let left = json!({"attached": true, "attachmentMetadata": {"devicePath": "/dev/x"}});
        check(plain(), left.clone(), Ok(&[("devicePath", "/dev/x")]));
        check(plain(), json!({"attached": true, "attachError": {"message": "old"}}), Ok(&[]));
        check(going, left, Err("volume attachment is being deleted"));
        check(
            plain(),
            json!({"attached": false, "attachError": {"message": "no such disk"}}),
            Err("no such disk"),
        );
        check(
            plain(),
            json!({"attached": false}),
            Err("volume h is not attached for volume attachment csi-1"),
        );
        check(plain(), Value::Null, Err("volume h is not attached for volume attachment csi-1"));
    }

    #[test]
    fn what_is_the_pods_own_or_needs_none_is_not_attached() {
        let driver = |required: Value| -> CSIDriver {
            serde_json::from_value(json!({"spec": {"attachRequired": required}})).unwrap()
        };
        let inline = CsiVolume { inline: true, ..csi_volume() };
        assert!(is_attachable(&csi_volume(), None));
        assert!(is_attachable(&csi_volume(), Some(&driver(Value::Null))));
        assert!(is_attachable(&csi_volume(), Some(&driver(json!(true)))));
        assert!(!is_attachable(&csi_volume(), Some(&driver(json!(false)))));
        assert!(!is_attachable(&inline, None));
        assert!(!is_attachable(&inline, Some(&driver(json!(true)))));
    }
}
