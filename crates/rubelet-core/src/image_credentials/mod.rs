//! Which credentials to try for an image: credential files, keyrings, and what is said to and by credential
//! provider plugins (upstream `pkg/credentialprovider`).
//!
//! Owns the grammars, the matching, the order and what may be cached; never reads a file, runs a plugin or asks
//! the API. Nothing here prints a secret: `Debug` says only which fields are set.

mod base64;
mod cache;
mod docker_config;
mod keyring;
mod matching;
mod provider_config;
mod provider_protocol;
mod source;

use std::fmt;

pub use self::cache::{AccountKey, CacheKey, CredentialCache, cache_candidates};
pub use self::docker_config::{DockerConfig, DockerConfigError, parse_config_json, parse_dockercfg};
pub use self::keyring::{Keyring, PullSecretError};
pub use self::matching::Location;
pub use self::provider_config::{
    FieldProblem, ProviderConfig, ProviderDocument, TokenAttributes, TokenCacheType,
};
pub use self::provider_protocol::{
    CacheKeyType, ProviderRequest, ProviderResponse, ResponseError, decode_response, encode_request,
};
pub use self::source::{CredentialSource, SourcedAuth, credential_hash, pod_credentials};

/// What a registry is shown. All empty means: asked with an empty name and password.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// A token to get an access token with.
    pub identity_token: String,
    /// A bearer token for the registry.
    pub registry_token: String,
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = |text: &str| if text.is_empty() { "" } else { "[redacted]" };
        f.debug_struct("RegistryAuth")
            .field("username", &self.username)
            .field("password", &secret(&self.password))
            .field("identity_token", &secret(&self.identity_token))
            .field("registry_token", &secret(&self.registry_token))
            .finish()
    }
}

/// Joins lists of credentials in their order; the same credentials are not tried twice.
pub fn in_order<T: PartialEq>(lists: impl IntoIterator<Item = Vec<T>>) -> Vec<T> {
    let mut all: Vec<T> = Vec::new();
    for auth in lists.into_iter().flatten() {
        if !all.contains(&auth) {
            all.push(auth);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let auth = RegistryAuth {
            username: "ann".into(),
            password: "hunter2".into(),
            identity_token: "id-tok".into(),
            registry_token: "reg-tok".into(),
        };
        let text = format!("{auth:?}");
        assert!(text.contains("ann"), "{text}");
        for secret in ["hunter2", "id-tok", "reg-tok"] {
            assert!(!text.contains(secret), "{text}");
        }
    }

    #[test]
    fn the_same_credentials_are_tried_once() {
        let auth = |name: &str| RegistryAuth { username: name.to_owned(), ..Default::default() };
        let lists = [vec![auth("a"), auth("b")], vec![], vec![auth("a"), auth("c")]];
        assert_eq!(in_order(lists), [auth("a"), auth("b"), auth("c")]);
    }
}
