//! Reads a kubeconfig file: where the API server is, how to know that it is the right one, and as whom to come.
//!
//! Only the current context counts, as for the upstream agent. Inline data is decoded and checked here; files that
//! are named are opened later, by `credentials` and `connection`, because they change. Called by the shell at start
//! and by the TLS bootstrap.

mod file;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;

use self::file::{Cluster, Extension, File, Named, User};
use crate::exec_plugin::{ExecConfig, ExecConfigError};
use crate::identity::{ClientIdentity, IdentityError, parse_certificates};

/// A text that never shows up in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, to be sent to the API server and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// PEM text: inline in the kubeconfig, or a file that may be replaced at any time.
#[derive(Clone, PartialEq, Eq)]
pub enum PemSource {
    /// Decoded from a `…-data` field.
    Data(Vec<u8>),
    /// A file, absolute or relative to the working directory.
    File(PathBuf),
}

impl fmt::Debug for PemSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(data) => write!(f, "Data({} bytes)", data.len()),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// Who may sign the API server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaSource {
    /// The machine's own bundle, when the kubeconfig names no authority.
    System,
    /// The cluster's own authority.
    Pem(PemSource),
}

/// As whom to come. Several may be set; a certificate and a token together are allowed, as for client-go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CredentialSources {
    /// Certificate and key; both may be the same file (`kubelet-client-current.pem`).
    pub client_certificate: Option<(PemSource, PemSource)>,
    /// A bearer token; when `token_file` is set too, only used until that could be read.
    pub token: Option<Secret>,
    /// A file with a bearer token, read again at most once a minute.
    pub token_file: Option<PathBuf>,
    /// User name and password.
    pub basic: Option<(String, Secret)>,
    /// A program that tells token or certificate.
    pub exec: Option<ExecConfig>,
}

/// All that is needed to reach one API server.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterAccess {
    /// The kubeconfig this came from, for messages.
    pub kubeconfig: PathBuf,
    /// `https://host:port`, maybe with a path before every request's; `http://` works too.
    pub server: http::Uri,
    /// The name the server's certificate must bear when it is not the host of `server`.
    pub tls_server_name: Option<String>,
    /// Who may sign the server's certificate.
    pub ca: CaSource,
    /// Take any certificate of the server.
    pub insecure_skip_tls_verify: bool,
    /// An `http://` proxy that tunnels by CONNECT.
    pub proxy_url: Option<http::Uri>,
    /// As whom to come.
    pub credentials: CredentialSources,
    /// The context's namespace.
    pub namespace: Option<String>,
}

/// A kubeconfig that cannot be used. Every message names the file and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// Missing or unreadable file.
    #[error(
        "kubeconfig {path} cannot be read; check the flag that names it (--kubeconfig or --bootstrap-kubeconfig) and the file's permissions"
    )]
    Read {
        /// The kubeconfig.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not YAML or JSON, or not of a kubeconfig's shape.
    #[error("kubeconfig {path} is not a kubeconfig: {message}")]
    Parse {
        /// The kubeconfig.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// No current context.
    #[error(
        "kubeconfig {path} has no current-context; set it to one of: {known} (kubectl config use-context --kubeconfig {path} NAME)"
    )]
    NoCurrentContext {
        /// The kubeconfig.
        path: PathBuf,
        /// Names of its contexts.
        known: String,
    },
    /// A name that leads nowhere.
    #[error(
        "kubeconfig {path}: {referrer} names the {kind} {name:?}, which is not in the file; it has: {known}"
    )]
    Unknown {
        /// The kubeconfig.
        path: PathBuf,
        /// Who names it: `current-context` or `context "x"`.
        referrer: String,
        /// `context`, `cluster` or `user`.
        kind: &'static str,
        /// The name.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A field with a value that cannot be.
    #[error("kubeconfig {path}: {field} {problem}")]
    Field {
        /// The kubeconfig.
        path: PathBuf,
        /// `cluster "x": server` and the like.
        field: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Inline certificate data that cannot be used.
    #[error("kubeconfig {path}: {field}: not usable")]
    Pem {
        /// The kubeconfig.
        path: PathBuf,
        /// The field.
        field: String,
        /// Why.
        source: IdentityError,
    },
    /// An exec section that cannot be used.
    #[error("kubeconfig {path}: user {user:?}: exec: not usable")]
    Exec {
        /// The kubeconfig.
        path: PathBuf,
        /// The user.
        user: String,
        /// Why.
        source: ExecConfigError,
    },
}

/// The name under which a cluster's extensions hold what an exec plugin wants to know.
const EXEC_EXTENSION: &str = "client.authentication.k8s.io/exec";

impl ClusterAccess {
    /// Reads the file and takes what its current context says. Paths in it are relative to its directory.
    pub fn load(path: &Path) -> Result<Self, KubeconfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// As `load`, from the file's text.
    pub fn parse(text: &str, path: &Path) -> Result<Self, KubeconfigError> {
        let file: File = if text.trim().is_empty() {
            File::default()
        } else {
            serde_saphyr::from_str(text).map_err(|error| KubeconfigError::Parse {
                path: path.to_owned(),
                // A snippet of the file could show a key or a token.
                message: error.without_snippet().to_string(),
            })?
        };
        Reader { path, directory: path.parent().unwrap_or(Path::new("")) }.read(file)
    }

    /// The server's URL as one writes it, without a slash at the end.
    pub fn server_url(&self) -> String {
        self.server.to_string().trim_end_matches('/').to_owned()
    }

    /// The host of the server, without brackets.
    pub fn host(&self) -> &str {
        let host = self.server.host().unwrap_or_default();
        host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
    }

    /// The port of the server.
    pub fn port(&self) -> u16 {
        self.server.port_u16().unwrap_or(if self.is_tls() { 443 } else { 80 })
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.server.scheme_str() == Some("https")
    }

    /// Where the authority's certificates come from, for messages.
    pub fn describe_ca(&self) -> String {
        match &self.ca {
            CaSource::System => format!(
                "this machine's own bundle, because {} has no certificate-authority",
                self.kubeconfig.display()
            ),
            CaSource::Pem(PemSource::Data(_)) => {
                format!("the certificate-authority-data in {}", self.kubeconfig.display())
            }
            CaSource::Pem(PemSource::File(file)) => file.display().to_string(),
        }
    }
}

/// Carries what every message needs.
struct Reader<'a> {
    path: &'a Path,
    directory: &'a Path,
}

impl Reader<'_> {
    fn read(&self, file: File) -> Result<ClusterAccess, KubeconfigError> {
        let contexts = file.contexts.unwrap_or_default();
        let Some(current) = text(file.current_context) else {
            return Err(KubeconfigError::NoCurrentContext {
                path: self.path.to_owned(),
                known: names(&contexts),
            });
        };
        let context = self.find(&contexts, "context", &current, "current-context".to_owned())?;
        let context = context.context.clone().unwrap_or_default();
        let referrer = format!("context {current:?}");
        let cluster_name = text(context.cluster)
            .ok_or_else(|| self.field(&referrer, "has no cluster; name one of the file's clusters"))?;
        let cluster = self
            .find(&file.clusters.unwrap_or_default(), "cluster", &cluster_name, referrer.clone())?
            .cluster
            .clone();
        let user = match text(context.user) {
            None => None,
            Some(name) => {
                let user = self.find(&file.users.unwrap_or_default(), "user", &name, referrer)?.user.clone();
                Some((name, user.unwrap_or_default()))
            }
        };
        let (mut access, extensions) = self.cluster(&cluster_name, cluster.unwrap_or_default())?;
        access.namespace = text(context.namespace);
        if let Some((name, user)) = user {
            access.credentials = self.user(&name, user, &extensions)?;
        }
        Ok(access)
    }

    fn find<'n>(
        &self,
        list: &'n [Named],
        kind: &'static str,
        name: &str,
        referrer: String,
    ) -> Result<&'n Named, KubeconfigError> {
        list.iter().find(|entry| entry.name == name).ok_or_else(|| KubeconfigError::Unknown {
            path: self.path.to_owned(),
            referrer,
            kind,
            name: name.to_owned(),
            known: names(list),
        })
    }

    fn cluster(
        &self,
        name: &str,
        cluster: Cluster,
    ) -> Result<(ClusterAccess, Vec<Extension>), KubeconfigError> {
        let field = |key: &str| format!("cluster {name:?}: {key}");
        let server = text(cluster.server)
            .ok_or_else(|| self.field(&field("server"), "is missing; give the API server's URL"))?;
        let server = self.parse_server(&field("server"), &server)?;
        let data = self.data(&field("certificate-authority-data"), cluster.certificate_authority_data)?;
        let ca = match (data, text(cluster.certificate_authority)) {
            (Some(data), _) => {
                parse_certificates(&data).map_err(|source| KubeconfigError::Pem {
                    path: self.path.to_owned(),
                    field: field("certificate-authority-data"),
                    source,
                })?;
                CaSource::Pem(PemSource::Data(data))
            }
            (None, Some(file)) => CaSource::Pem(PemSource::File(self.directory.join(file))),
            (None, None) => CaSource::System,
        };
        let insecure_skip_tls_verify = cluster.insecure_skip_tls_verify.unwrap_or_default();
        if insecure_skip_tls_verify && ca != CaSource::System {
            return Err(self.field(
                &field("insecure-skip-tls-verify"),
                "cannot be true together with a certificate-authority; remove one of them",
            ));
        }
        let proxy_url = match text(cluster.proxy_url) {
            None => None,
            Some(url) => Some(self.parse_proxy(&field("proxy-url"), &url)?),
        };
        let access = ClusterAccess {
            kubeconfig: self.path.to_owned(),
            server,
            tls_server_name: text(cluster.tls_server_name),
            ca,
            insecure_skip_tls_verify,
            proxy_url,
            credentials: CredentialSources::default(),
            namespace: None,
        };
        Ok((access, cluster.extensions.unwrap_or_default()))
    }

    /// A server may be given without a scheme; client-go then takes http for it, which no API server speaks.
    fn parse_server(&self, field: &str, url: &str) -> Result<http::Uri, KubeconfigError> {
        let wrong = || {
            self.field(
                field,
                &format!("is not a URL such as https://192.0.2.1:6443: {:?}", without_userinfo(url)),
            )
        };
        let uri: http::Uri = url.parse().map_err(|_| wrong())?;
        match uri.scheme_str() {
            Some("https" | "http") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(uri),
            _ => Err(wrong()),
        }
    }

    fn parse_proxy(&self, field: &str, url: &str) -> Result<http::Uri, KubeconfigError> {
        let shown = without_userinfo(url);
        let uri: http::Uri = url.parse().map_err(|_| {
            self.field(field, &format!("is not a URL such as http://192.0.2.1:3128: {shown:?}"))
        })?;
        match uri.scheme_str() {
            Some("http") if uri.host().is_some() => Ok(uri),
            _ => Err(self.field(
                field,
                &format!("{shown:?} is not supported: only http:// proxies, which tunnel by CONNECT, are"),
            )),
        }
    }

    fn user(
        &self,
        name: &str,
        user: User,
        extensions: &[Extension],
    ) -> Result<CredentialSources, KubeconfigError> {
        let field = |key: &str| format!("user {name:?}: {key}");
        if user.auth_provider.is_some() {
            return Err(
                self.field(&field("auth-provider"), "is gone from Kubernetes; use an exec plugin instead")
            );
        }
        let token = text(user.token).map(Secret::new);
        let token_file = text(user.token_file).map(|file| self.directory.join(file));
        let basic = match (text(user.username), text(user.password)) {
            (None, None) => None,
            (user, password) => Some((user.unwrap_or_default(), Secret::new(password.unwrap_or_default()))),
        };
        if basic.is_some() && (token.is_some() || token_file.is_some()) {
            return Err(
                self.field(&field("username"), "and a token cannot be used together; remove one of them")
            );
        }
        let certificate =
            self.pem(&field, "client-certificate", user.client_certificate_data, user.client_certificate);
        let key = self.pem(&field, "client-key", user.client_key_data, user.client_key);
        let client_certificate = match (certificate?, key?) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some(_), None) => {
                return Err(self.field(&field("client-key"), "is missing beside client-certificate"));
            }
            (None, Some(_)) => {
                return Err(self.field(&field("client-certificate"), "is missing beside client-key"));
            }
        };
        if let Some((PemSource::Data(certificate), PemSource::Data(key))) = &client_certificate {
            ClientIdentity::from_pem(certificate, key).map_err(|source| KubeconfigError::Pem {
                path: self.path.to_owned(),
                field: field("client-certificate-data and client-key-data"),
                source,
            })?;
        }
        let exec = match user.exec.filter(|exec| !exec.is_null()) {
            None => None,
            Some(exec) => {
                let config =
                    extensions.iter().find(|e| e.name == EXEC_EXTENSION).map(|e| e.extension.clone());
                Some(ExecConfig::from_kubeconfig(exec, self.directory, config).map_err(|source| {
                    KubeconfigError::Exec { path: self.path.to_owned(), user: name.to_owned(), source }
                })?)
            }
        };
        Ok(CredentialSources { client_certificate, token, token_file, basic, exec })
    }

    fn pem(
        &self,
        field: &dyn Fn(&str) -> String,
        key: &str,
        data: Option<String>,
        file: Option<String>,
    ) -> Result<Option<PemSource>, KubeconfigError> {
        let data = self.data(&field(&format!("{key}-data")), data)?;
        Ok(match (data, text(file)) {
            (Some(data), _) => Some(PemSource::Data(data)),
            (None, Some(file)) => Some(PemSource::File(self.directory.join(file))),
            (None, None) => None,
        })
    }

    fn data(&self, field: &str, value: Option<String>) -> Result<Option<Vec<u8>>, KubeconfigError> {
        let Some(value) = text(value) else { return Ok(None) };
        let packed: String = value.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        base64::engine::general_purpose::STANDARD.decode(packed).map(Some).map_err(|error| {
            self.field(field, &format!("is not base64 ({error}); give the PEM text, base64-encoded"))
        })
    }

    fn field(&self, field: &str, problem: &str) -> KubeconfigError {
        KubeconfigError::Field {
            path: self.path.to_owned(),
            field: field.to_owned(),
            problem: problem.to_owned(),
        }
    }
}

/// A URL for messages, without user and password. It may be none, so all before the last `@` goes.
pub(crate) fn without_userinfo(url: &str) -> String {
    let Some((user, rest)) = url.rsplit_once('@') else { return url.to_owned() };
    let is_scheme = |text: &str| text.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c));
    match user.split_once("://") {
        Some((scheme, _)) if is_scheme(scheme) => format!("{scheme}://{rest}"),
        _ => rest.to_owned(),
    }
}

/// Empty texts count as absent, as in Go.
fn text(value: Option<String>) -> Option<String> {
    value.filter(|text| !text.is_empty())
}

fn names(list: &[Named]) -> String {
    if list.is_empty() {
        return "nothing of the kind".to_owned();
    }
    list.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>().join(", ")
}
