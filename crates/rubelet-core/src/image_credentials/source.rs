//! Whose credentials are: what is remembered of a pull is who may do it again.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::RegistryAuth;
use crate::pulled_images::{PodCredentials, PullSecret, PullServiceAccount, PulledWith};

/// Where credentials come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CredentialSource {
    /// The node: its files, or a plugin that was told of no service account. Every pod has them.
    #[default]
    Node,
    /// A pull secret.
    Secret {
        /// `metadata.uid`.
        uid: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A plugin that was given a token of this account.
    ServiceAccount(PullServiceAccount),
}

/// Credentials and whose they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourcedAuth {
    /// What the registry is shown.
    pub auth: RegistryAuth,
    /// Whose it is.
    pub source: CredentialSource,
}

impl From<RegistryAuth> for SourcedAuth {
    fn from(auth: RegistryAuth) -> Self {
        Self { auth, source: CredentialSource::Node }
    }
}

impl SourcedAuth {
    /// What is to be remembered of a pull with them.
    pub fn pulled_with(&self) -> PulledWith {
        match &self.source {
            CredentialSource::Node => PulledWith::node(),
            CredentialSource::Secret { .. } => PulledWith {
                kubernetes_secrets: self.secret().into_iter().collect(),
                ..PulledWith::default()
            },
            CredentialSource::ServiceAccount(account) => {
                PulledWith { kubernetes_service_accounts: vec![account.clone()], ..PulledWith::default() }
            }
        }
    }

    fn secret(&self) -> Option<PullSecret> {
        let CredentialSource::Secret { uid, namespace, name } = &self.source else { return None };
        let [uid, namespace, name] = [uid, namespace, name].map(String::clone);
        Some(PullSecret { uid, namespace, name, credential_hash: credential_hash(&self.auth) })
    }
}

/// What a pod that has these credentials could show. Those of the node are none of its own.
pub fn pod_credentials(found: &[SourcedAuth]) -> PodCredentials {
    let account = |found: &SourcedAuth| match &found.source {
        CredentialSource::ServiceAccount(account) => Some(account.clone()),
        _ => None,
    };
    PodCredentials {
        secrets: found.iter().filter_map(SourcedAuth::secret).collect(),
        service_account: found.iter().find_map(account),
    }
}

/// Tells credentials from others without telling them: SHA-256 of their JSON as Go writes it (upstream
/// `hashAuthConfig`). An e-mail address, which upstream hashes too where a secret has one, is not among them.
pub fn credential_hash(auth: &RegistryAuth) -> String {
    let fields = [
        ("username", &auth.username),
        ("password", &auth.password),
        ("identitytoken", &auth.identity_token),
        ("registrytoken", &auth.registry_token),
    ];
    let mut json = String::from("{");
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        if json.len() > 1 {
            json.push(',');
        }
        // Writing to a string cannot fail.
        let _ = write!(json, "\"{name}\":{}", go_string(value));
    }
    json.push('}');
    format!("{:x}", Sha256::digest(json))
}

/// A JSON string with the escapes of Go's encoder, which is made for HTML.
fn go_string(text: &str) -> String {
    let plain = serde_json::Value::from(text).to_string();
    let mut escaped = String::with_capacity(plain.len());
    for character in plain.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(escaped, "\\u{:04x}", u32::from(character));
            }
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(username: &str, password: &str) -> RegistryAuth {
        RegistryAuth { username: username.into(), password: password.into(), ..RegistryAuth::default() }
    }

    #[test]
    fn hashes_are_upstreams() {
        // From upstream's tests of secrets.
        let hash = "a55436fc140d516560d072c5fe8700385ce9f41629abf65c1edcbcb39fac691d";
        assert_eq!(credential_hash(&auth("user", "password")), hash);
        assert_ne!(credential_hash(&auth("user", "")), hash);
        assert_eq!(go_string("a<b>&\u{2028}\"\\\n"), r#""a\u003cb\u003e\u0026\u2028\"\\\n""#);
    }

    #[test]
    fn what_is_remembered_of_a_pull_is_whose_credentials_did_it() {
        let source = CredentialSource::Secret { uid: "1".into(), namespace: "ns".into(), name: "s".into() };
        let secret = SourcedAuth { auth: auth("user", "password"), source };
        let account = PullServiceAccount { uid: "2".into(), namespace: "ns".into(), name: "sa".into() };
        let lent =
            SourcedAuth { auth: auth("a", "b"), source: CredentialSource::ServiceAccount(account.clone()) };
        let node = SourcedAuth::from(auth("n", "n"));
        assert_eq!(node.pulled_with(), PulledWith::node());
        assert_eq!(lent.pulled_with().kubernetes_service_accounts, std::slice::from_ref(&account));
        let pod = pod_credentials(&[node, lent, secret.clone()]);
        assert_eq!(pod.service_account, Some(account));
        assert_eq!(pod.secrets, secret.pulled_with().kubernetes_secrets);
        assert_eq!(pod.secrets[0].credential_hash, credential_hash(&secret.auth));
        assert!(!format!("{:?}", pod.secrets).contains("password"));
    }
}
