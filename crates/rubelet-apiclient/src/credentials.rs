//! Who the agent is right now: the certificate that new connections present and the header that requests carry,
//! from sources that change on disk.
//!
//! Certificate and key files are read again at each new connection, and looked at at most every 30 s while requests
//! are made; token files at most once a minute; exec plugins run when their answer has expired or was refused.
//! There are no timers: a source nobody asks is not read. Used by `connection`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use http::HeaderValue;
use tokio::time::Instant;

use crate::Now;
use crate::exec_plugin::{ExecAnswer, ExecError, ExecPlugin};
use crate::identity::{ClientIdentity, IdentityError};
use crate::kubeconfig::{CredentialSources, PemSource, Secret};

/// How often certificate files are looked at while requests are made. Upstream: every five minutes.
const FILE_INTERVAL: Duration = Duration::from_secs(30);
/// How long a token from a file is used before the file is read again, as in client-go.
const TOKEN_INTERVAL: Duration = Duration::from_secs(60);

/// A credential that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file that cannot be read.
    #[error("{what} {path} cannot be read; check that it exists and that the agent may read it")]
    Read {
        /// `client certificate`, `client key` or `token file`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate or key that cannot be used.
    #[error("client certificate {certificate} with key {key} cannot be used")]
    Identity {
        /// Where the certificate comes from.
        certificate: String,
        /// Where the key comes from.
        key: String,
        /// Why.
        source: IdentityError,
    },
    /// A token that cannot be sent.
    #[error("{origin} {problem}; it must hold one line with a bearer token")]
    Token {
        /// Where it comes from.
        origin: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A plugin that failed.
    #[error(transparent)]
    Exec(Arc<ExecError>),
}

/// The credentials of one kubeconfig user, loaded when needed.
pub(crate) struct Credentials {
    sources: CredentialSources,
    identity: ArcSwapOption<ClientIdentity>,
    exec: Option<ExecPlugin>,
    files: tokio::sync::Mutex<FileContents>,
    /// When the files were last looked at. Apart from `files`, so that a request never waits for a read.
    looked: Mutex<Option<Instant>>,
    token: Mutex<Option<(Instant, Secret)>>,
}

#[derive(Default)]
struct FileContents {
    /// What `identity` was made of, so that an unchanged file does not undo `set_identity`.
    read: Option<(Vec<u8>, Vec<u8>)>,
    /// The last complaint, told once.
    complained: String,
}

/// What a request was sent with, to be judged when the answer is 401.
#[derive(Default)]
pub(crate) struct Used {
    pub(crate) header: Option<HeaderValue>,
    exec: Option<Arc<ExecAnswer>>,
}

impl Credentials {
    pub(crate) fn new(sources: CredentialSources, cluster_info: serde_json::Value, now: Now) -> Self {
        let exec = sources.exec.clone().map(|config| ExecPlugin::new(config, cluster_info, now));
        Self {
            sources,
            identity: ArcSwapOption::empty(),
            exec,
            files: tokio::sync::Mutex::default(),
            looked: Mutex::default(),
            token: Mutex::default(),
        }
    }

    /// The certificate that a new connection presents.
    pub(crate) fn identity(&self) -> Option<Arc<ClientIdentity>> {
        self.identity.load_full()
    }

    /// Use this one from now on; files count again when they change.
    pub(crate) fn set_identity(&self, identity: ClientIdentity) {
        self.identity.store(Some(Arc::new(identity)));
    }

    /// Where the client certificate comes from, for messages.
    pub(crate) fn describe_certificate(&self) -> Option<String> {
        self.sources.client_certificate.as_ref().map(|(certificate, _)| describe(certificate))
    }

    /// Whether it is time to look at the certificate files again; says so to one caller only.
    pub(crate) fn look_is_due(&self) -> bool {
        let Some((certificate, key)) = &self.sources.client_certificate else { return false };
        if matches!((certificate, key), (PemSource::Data(_), PemSource::Data(_))) {
            return false;
        }
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = looked.is_none_or(|at| at.elapsed() >= FILE_INTERVAL);
        if due {
            *looked = Some(Instant::now());
        }
        due
    }

    /// Reads certificate and key again. True when the identity is another one than before. Files that cannot be
    /// used (one of the two is replaced a moment before the other) leave the identity that was there.
    pub(crate) async fn reload(&self) -> Result<bool, CredentialError> {
        let Some((certificate, key)) = &self.sources.client_certificate else { return Ok(false) };
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let mut files = self.files.lock().await;
        match self.read_identity(&mut files, certificate, key).await {
            Ok(changed) => {
                files.complained.clear();
                Ok(changed)
            }
            Err(error) if self.identity.load().is_none() => Err(error),
            Err(error) => {
                let text = chain(&error);
                if files.complained != text {
                    tracing::warn!(
                        error = text,
                        "the client certificate cannot be read again; the last one stays in use"
                    );
                    files.complained = text;
                }
                Ok(false)
            }
        }
    }

    async fn read_identity(
        &self,
        files: &mut FileContents,
        certificate: &PemSource,
        key: &PemSource,
    ) -> Result<bool, CredentialError> {
        let read = (read_pem("client certificate", certificate).await?, read_pem("client key", key).await?);
        if files.read.as_ref() == Some(&read) {
            return Ok(false);
        }
        let identity = ClientIdentity::from_pem(&read.0, &read.1).map_err(|source| {
            CredentialError::Identity { certificate: describe(certificate), key: describe(key), source }
        })?;
        files.read = Some(read);
        // The same certificate as `set_identity` gave is no news.
        if self.identity.load().as_ref().is_some_and(|known| known.certified.cert == identity.certified.cert)
        {
            return Ok(false);
        }
        tracing::info!(
            subject = identity.common_name,
            expires = %identity.not_after,
            "client certificate loaded from {}",
            describe(certificate)
        );
        self.identity.store(Some(Arc::new(identity)));
        Ok(true)
    }

    /// To be called before a connection is made: certificates from files and from the plugin are brought up to date.
    pub(crate) async fn prepare(&self) -> Result<(), CredentialError> {
        self.reload().await?;
        if let Some(exec) = &self.exec {
            let answer = exec.answer().await.map_err(CredentialError::Exec)?;
            if let Some(identity) = &answer.identity {
                self.identity.store(Some(identity.clone()));
            }
        }
        Ok(())
    }

    /// The Authorization header for a request; `changed` is true when the plugin told another certificate than the
    /// one that connections present.
    pub(crate) async fn authorization(&self) -> Result<(Used, bool), CredentialError> {
        if let Some((user, password)) = &self.sources.basic {
            let pair = format!("{user}:{}", password.expose());
            let text = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
            return Ok((Used { header: sensitive(&text), exec: None }, false));
        }
        if let Some(token) = self.token().await? {
            return Ok((Used { header: Some(bearer(&token.0, &token.1)?), exec: None }, false));
        }
        let Some(exec) = &self.exec else { return Ok((Used::default(), false)) };
        let answer = exec.answer().await.map_err(CredentialError::Exec)?;
        let mut changed = false;
        if let Some(identity) = &answer.identity {
            let known = self.identity.load();
            changed = known.as_ref().is_some_and(|known| !Arc::ptr_eq(known, identity));
            self.identity.store(Some(identity.clone()));
        }
        let header = match &answer.token {
            Some(token) => Some(bearer(token, "the exec plugin's token")?),
            None => None,
        };
        Ok((Used { header, exec: Some(answer) }, changed))
    }

    /// The server does not know who sent `used`. True when there is something new to come with.
    pub(crate) async fn refused(&self, used: &Used) -> bool {
        if let (Some(exec), Some(answer)) = (&self.exec, &used.exec) {
            exec.refused(answer).await;
            return true;
        }
        if let Some(path) = &self.sources.token_file
            && let Ok(token) = read_token(path).await
        {
            let fresh = bearer(&token, "").ok();
            *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), token));
            return fresh.is_some() && fresh != used.header;
        }
        self.reload().await.unwrap_or(false)
    }

    /// The token and where it comes from.
    async fn token(&self) -> Result<Option<(Secret, String)>, CredentialError> {
        let Some(path) = &self.sources.token_file else {
            return Ok(self.sources.token.clone().map(|token| (token, "the kubeconfig's token".to_owned())));
        };
        let origin = path.display().to_string();
        let known = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, token)) = &known
            && at.elapsed() < TOKEN_INTERVAL
        {
            return Ok(Some((token.clone(), origin)));
        }
        let token = match (read_token(path).await, known, &self.sources.token) {
            (Ok(token), _, _) => token,
            (Err(error), Some((_, old)), _) => {
                tracing::warn!(
                    error = chain(&error),
                    "the token file cannot be read again; the last token stays in use"
                );
                old
            }
            (Err(_), None, Some(inline)) => inline.clone(),
            (Err(error), None, None) => return Err(error),
        };
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), token.clone()));
        Ok(Some((token, origin)))
    }
}

async fn read_pem(what: &'static str, source: &PemSource) -> Result<Vec<u8>, CredentialError> {
    match source {
        PemSource::Data(data) => Ok(data.clone()),
        PemSource::File(path) => tokio::fs::read(path).await.map_err(|source| CredentialError::Read {
            what,
            path: path.clone(),
            source,
        }),
    }
}

async fn read_token(path: &Path) -> Result<Secret, CredentialError> {
    let text = tokio::fs::read_to_string(path).await.map_err(|source| CredentialError::Read {
        what: "token file",
        path: path.to_owned(),
        source,
    })?;
    match text.trim() {
        "" => Err(CredentialError::Token { origin: path.display().to_string(), problem: "is empty" }),
        token => Ok(Secret::new(token)),
    }
}

fn bearer(token: &Secret, origin: &str) -> Result<HeaderValue, CredentialError> {
    sensitive(&format!("Bearer {}", token.expose())).ok_or_else(|| CredentialError::Token {
        origin: origin.to_owned(),
        problem: "has characters that cannot be sent in a header",
    })
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn describe(source: &PemSource) -> String {
    match source {
        PemSource::Data(_) => "the kubeconfig's inline data".to_owned(),
        PemSource::File(path) => path.display().to_string(),
    }
}

/// An error with all its sources, for a log line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_file_is_read_at_most_once_a_minute() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let sources = CredentialSources { token_file: Some(path.clone()), ..CredentialSources::default() };
        let credentials =
            Credentials::new(sources, serde_json::Value::Null, Arc::new(|| jiff::Timestamp::UNIX_EPOCH));
        let header = async || {
            let (used, _) = credentials.authorization().await?;
            Ok::<_, CredentialError>(used.header.unwrap().to_str().unwrap().to_owned())
        };
        assert!(header().await.unwrap_err().to_string().contains("cannot be read"));
        std::fs::write(&path, " one\n").unwrap();
        assert_eq!(header().await.unwrap(), "Bearer one");
        std::fs::write(&path, "two").unwrap();
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(header().await.unwrap(), "Bearer one");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(header().await.unwrap(), "Bearer two");
        // A file that is gone for a moment takes nothing away.
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(header().await.unwrap(), "Bearer two");
    }

    #[tokio::test(start_paused = true)]
    async fn certificate_files_are_looked_at_every_30_seconds_at_most() {
        let file = |name: &str| PemSource::File(name.into());
        let pair = Some((file("c"), file("k")));
        let sources = CredentialSources { client_certificate: pair, ..CredentialSources::default() };
        let credentials =
            Credentials::new(sources, serde_json::Value::Null, Arc::new(|| jiff::Timestamp::UNIX_EPOCH));
        assert!(credentials.look_is_due());
        assert!(!credentials.look_is_due());
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!(credentials.look_is_due());
    }
}
