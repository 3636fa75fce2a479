//! The kubeconfig a node gets with its first certificate (upstream `writeKubeconfigFromBootstrapping`): the
//! server and authority of the bootstrap kubeconfig, the certificate under `--cert-dir`. Called by bootstrap.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::Serialize;

use crate::cert_store::files::replace_private;
use crate::kubeconfig::{CaSource, ClusterAccess, PemSource};

/// Why the kubeconfig could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteKubeconfigError {
    /// It could not be put into words.
    #[error("the kubeconfig has no YAML form")]
    Yaml(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The file system refused.
    #[error("cannot write {path}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    clusters: [NamedCluster; 1],
    contexts: [NamedContext; 1],
    current_context: &'static str,
    kind: &'static str,
    users: [NamedUser; 1],
}

#[derive(Serialize)]
struct NamedCluster {
    cluster: Cluster,
    name: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_authority: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_authority_data: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    insecure_skip_tls_verify: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy_url: Option<String>,
    server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_server_name: Option<String>,
}

#[derive(Serialize)]
struct NamedContext {
    context: Context,
    name: &'static str,
}

#[derive(Serialize)]
struct Context {
    cluster: &'static str,
    namespace: &'static str,
    user: &'static str,
}

#[derive(Serialize)]
struct NamedUser {
    name: &'static str,
    user: User,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: String,
    client_key: String,
}

/// The text of the kubeconfig that reaches `access` with the pair at `pair`. Server name and proxy, which upstream
/// leaves out, are kept where the bootstrap kubeconfig has them: without them the server is not reached.
fn generate(access: &ClusterAccess, pair: &Path) -> Result<String, WriteKubeconfigError> {
    let (certificate_authority, certificate_authority_data) = match &access.ca {
        CaSource::System => (None, None),
        CaSource::Pem(PemSource::File(path)) => {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            (Some(absolute.display().to_string()), None)
        }
        CaSource::Pem(PemSource::Data(pem)) => {
            (None, Some(base64::engine::general_purpose::STANDARD.encode(pem)))
        }
    };
    let pair = pair.display().to_string();
    let file = File {
        api_version: "v1",
        clusters: [NamedCluster {
            cluster: Cluster {
                certificate_authority,
                certificate_authority_data,
                insecure_skip_tls_verify: access.insecure_skip_tls_verify,
                proxy_url: access.proxy_url.as_ref().map(url),
                server: url(&access.server),
                tls_server_name: access.tls_server_name.clone(),
            },
            name: "default-cluster",
        }],
        contexts: [NamedContext {
            context: Context { cluster: "default-cluster", namespace: "default", user: "default-auth" },
            name: "default-context",
        }],
        current_context: "default-context",
        kind: "Config",
        users: [NamedUser {
            name: "default-auth",
            user: User { client_certificate: pair.clone(), client_key: pair },
        }],
    };
    // Long text on one line, as upstream writes it and scripts that cut lines expect it.
    let one_line = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(&file, one_line)
        .map_err(|error| WriteKubeconfigError::Yaml(error.to_string().into()))
}

/// A URL without the slash that stands for an empty path.
fn url(uri: &http::Uri) -> String {
    let text = uri.to_string();
    match text.strip_suffix('/') {
        Some(bare) if uri.path() == "/" => bare.to_owned(),
        _ => text,
    }
}

/// Writes the kubeconfig whole, for its owner's eyes only, and makes its directory.
pub(super) fn write(path: &Path, access: &ClusterAccess, pair: &Path) -> Result<(), WriteKubeconfigError> {
    let text = generate(access, pair)?;
    let error = |source| WriteKubeconfigError::Io { path: path.to_owned(), source };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(error)?;
    }
    replace_private(path, text.as_bytes()).map_err(error)
}
