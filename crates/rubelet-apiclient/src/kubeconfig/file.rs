//! The shape of a kubeconfig file, as far as an agent needs it; fields for people and for kubectl are left out.

use serde::Deserialize;

#[derive(Deserialize, Default)]
pub(super) struct File {
    #[serde(default)]
    pub(super) clusters: Option<Vec<Named>>,
    #[serde(default)]
    pub(super) contexts: Option<Vec<Named>>,
    #[serde(default)]
    pub(super) users: Option<Vec<Named>>,
    #[serde(rename = "current-context", default)]
    pub(super) current_context: Option<String>,
}

/// An entry of the three lists; each list uses one of the bodies.
#[derive(Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
    #[serde(default)]
    pub(super) cluster: Option<Cluster>,
    #[serde(default)]
    pub(super) context: Option<Context>,
    #[serde(default)]
    pub(super) user: Option<User>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Cluster {
    pub(super) server: Option<String>,
    pub(super) tls_server_name: Option<String>,
    pub(super) insecure_skip_tls_verify: Option<bool>,
    pub(super) certificate_authority: Option<String>,
    pub(super) certificate_authority_data: Option<String>,
    pub(super) proxy_url: Option<String>,
    pub(super) extensions: Option<Vec<Extension>>,
}

#[derive(Deserialize, Clone)]
pub(super) struct Extension {
    pub(super) name: String,
    #[serde(default)]
    pub(super) extension: serde_json::Value,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
pub(super) struct Context {
    pub(super) cluster: Option<String>,
    pub(super) user: Option<String>,
    pub(super) namespace: Option<String>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct User {
    pub(super) client_certificate: Option<String>,
    pub(super) client_certificate_data: Option<String>,
    pub(super) client_key: Option<String>,
    pub(super) client_key_data: Option<String>,
    pub(super) token: Option<String>,
    #[serde(rename = "tokenFile")]
    pub(super) token_file: Option<String>,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) exec: Option<serde_json::Value>,
    pub(super) auth_provider: Option<serde_json::Value>,
}
