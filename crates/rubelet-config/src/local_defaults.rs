//! What differs by default when the agent serves the one machine it is on (`rubelet local`).
//!
//! Owns which settings of the kubelet API are stricter there; what the user set is left alone. Called by the program's
//! start.

use crate::KubeletConfiguration;
use crate::problem::Origins;

/// Makes the kubelet API of a local node one for this machine and for people who are known.
///
/// The defaults of a kubelet without a configuration file let everybody in, on every address and once more without TLS
/// (see [`KubeletConfiguration`]); with a local API there is somebody who can say who may, so nothing needs them.
pub fn apply_local_defaults(config: &mut KubeletConfiguration, origins: &Origins) {
    if !origins.is_set("address") {
        config.address = "127.0.0.1".to_owned();
    }
    if !origins.is_set("readOnlyPort") {
        config.read_only_port = 0;
    }
    if !origins.is_set("authentication.anonymous.enabled") {
        config.authentication.anonymous.enabled = false;
    }
    if !origins.is_set("authentication.webhook.enabled") {
        config.authentication.webhook.enabled = true;
    }
    if !origins.is_set("authorization.mode") {
        config.authorization.mode = "Webhook".to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Origin;

    fn without_file() -> KubeletConfiguration {
        let mut config = KubeletConfiguration { read_only_port: 10255, ..Default::default() };
        config.authentication.anonymous.enabled = true;
        config.authentication.webhook.enabled = false;
        config.authorization.mode = "AlwaysAllow".to_owned();
        config
    }

    #[test]
    fn nobody_unknown_gets_in_unless_the_user_says_so() {
        let mut config = without_file();
        apply_local_defaults(&mut config, &Origins::default());
        assert_eq!((config.address.as_str(), config.read_only_port), ("127.0.0.1", 0));
        assert!(!config.authentication.anonymous.enabled && config.authentication.webhook.enabled);
        assert_eq!(config.authorization.mode, "Webhook");

        let mut config = without_file();
        let mut origins = Origins::default();
        for field in [
            "address",
            "readOnlyPort",
            "authentication.anonymous.enabled",
            "authentication.webhook.enabled",
            "authorization.mode",
        ] {
            origins.set(field, Origin::CommandLine);
        }
        apply_local_defaults(&mut config, &origins);
        assert_eq!(config, without_file());
    }
}
