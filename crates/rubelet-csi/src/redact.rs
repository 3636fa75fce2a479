//! `Debug` for what carries secrets: says which keys are set, never what they hold. Secrets, what the attach left behind
//! (drivers put credentials there) and the tokens of service accounts among the attributes.
//! Used implicitly by whoever logs a request of [`crate::request`] or [`crate::v1`].

use std::collections::BTreeMap;
use std::fmt;

use crate::v1::{NodeExpandVolumeRequest, NodePublishVolumeRequest, NodeStageVolumeRequest};

/// Attributes under this prefix hold tokens.
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// Shows the keys of a map.
pub(crate) struct Keys<'a>(pub(crate) &'a BTreeMap<String, String>);

impl fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.keys().map(|key| (key, "[redacted]"))).finish()
    }
}

/// Shows the attributes of a volume, but for tokens.
pub(crate) struct Attributes<'a>(pub(crate) &'a BTreeMap<String, String>);

impl fmt::Debug for Attributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(key, value): (_, _)| -> (&String, &str) {
            let (key, value): (&String, &String) = (key, value);
            (key, if key.starts_with(TOKENS) { "[redacted]" } else { value.as_str() })
        };
        f.debug_map().entries(self.0.iter().map(shown)).finish()
    }
}

impl fmt::Debug for NodeStageVolumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeStageVolumeRequest")
            .field("volume_id", &self.volume_id)
            .field("publish_context", &Keys(&self.publish_context))
            .field("staging_target_path", &self.staging_target_path)
            .field("volume_capability", &self.volume_capability)
            .field("secrets", &Keys(&self.secrets))
            .field("volume_context", &Attributes(&self.volume_context))
            .finish()
    }
}

impl fmt::Debug for NodePublishVolumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodePublishVolumeRequest")
            .field("volume_id", &self.volume_id)
            .field("publish_context", &Keys(&self.publish_context))
            .field("staging_target_path", &self.staging_target_path)
            .field("target_path", &self.target_path)
            .field("volume_capability", &self.volume_capability)
            .field("readonly", &self.readonly)
            .field("secrets", &Keys(&self.secrets))
            .field("volume_context", &Attributes(&self.volume_context))
            .finish()
    }
}

impl fmt::Debug for NodeExpandVolumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeExpandVolumeRequest")
            .field("volume_id", &self.volume_id)
            .field("volume_path", &self.volume_path)
            .field("capacity_range", &self.capacity_range)
            .field("staging_target_path", &self.staging_target_path)
            .field("volume_capability", &self.volume_capability)
            .field("secrets", &Keys(&self.secrets))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;
    use crate::request::{ExpandRequest, PublishRequest, StageRequest};

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn check(value: &dyn Debug) {
        let text = format!("{value:?} {value:#?}");
        for hidden in ["hunter2", "iqn-secret", "eyJ"] {
            assert!(!text.contains(hidden), "{hidden} in {text}");
        }
        assert!(text.contains("pass") && text.contains("vol-1"), "{text}");
    }

    #[test]
    fn debug_shows_no_secret() {
        let secrets = map(&[("pass", "hunter2")]);
        let publish_context = map(&[("chap", "iqn-secret")]);
        let volume_context = map(&[(TOKENS, "{\"\":{\"token\":\"eyJ\"}}"), ("pool", "fast")]);
        let stage = StageRequest {
            volume_id: "vol-1".into(),
            secrets: secrets.clone().into(),
            publish_context: publish_context.clone(),
            volume_context: volume_context.clone(),
            ..StageRequest::default()
        };
        let publish = PublishRequest {
            volume_id: "vol-1".into(),
            secrets: secrets.clone().into(),
            publish_context: publish_context.clone(),
            volume_context: volume_context.clone(),
            ..PublishRequest::default()
        };
        let expand = ExpandRequest {
            volume_id: "vol-1".into(),
            secrets: secrets.clone().into(),
            ..ExpandRequest::default()
        };
        check(&stage);
        check(&publish);
        check(&expand);
        assert!(format!("{stage:?}").contains("fast"));
        check(&NodeStageVolumeRequest {
            volume_id: "vol-1".into(),
            secrets: secrets.clone(),
            publish_context: publish_context.clone(),
            volume_context: volume_context.clone(),
            ..Default::default()
        });
        check(&NodePublishVolumeRequest {
            volume_id: "vol-1".into(),
            secrets: secrets.clone(),
            publish_context,
            volume_context,
            ..Default::default()
        });
        check(&NodeExpandVolumeRequest { volume_id: "vol-1".into(), secrets, ..Default::default() });
    }
}
