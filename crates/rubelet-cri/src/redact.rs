//! `Debug` for messages that carry secrets: says which fields are set, never what they hold.
//! Used implicitly by whoever logs a [`PullImageRequest`](crate::v1::PullImageRequest).

use std::fmt;

use crate::v1::AuthConfig;

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = |text: &str| if text.is_empty() { "" } else { "[redacted]" };
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("password", &secret(&self.password))
            .field("auth", &secret(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &secret(&self.identity_token))
            .field("registry_token", &secret(&self.registry_token))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::v1::{AuthConfig, PullImageRequest};

    #[test]
    fn debug_of_a_pull_request_shows_no_secret() {
        let auth = AuthConfig {
            username: "ann".into(),
            password: "hunter2".into(),
            auth: "c2VjcmV0".into(),
            identity_token: "id-tok".into(),
            registry_token: "reg-tok".into(),
            ..Default::default()
        };
        let text = format!("{:?}", PullImageRequest { auth: Some(auth), ..Default::default() });
        assert!(text.contains("ann"), "{text}");
        for secret in ["hunter2", "c2VjcmV0", "id-tok", "reg-tok"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}
