//! A certificate signing request's way through the API server: created or found again, watched until it is
//! decided, its certificate checked.
//!
//! Sends only what bootstrap tokens and nodes may send: create, get, and list or watch of the one request.
//! Called by `bootstrap` and `rotation`, which retry.

use std::time::Duration;

use futures::TryStreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Api, ListParams, PostParams, WatchEvent, WatchParams};
use rubelet_core::certificates::{CsrVerdict, judge_csr, retry_delay};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use super::PrivateKey;
use crate::cert_store::{CertPair, PairError};

/// Longest time one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the server keeps one watch, in seconds; a half-open connection is given up a little later.
const WATCH_SECONDS: u32 = 290;

/// How long to wait for a certificate, and when to speak of it.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// When to give up and let the caller start over (which finds the same request again).
    pub limit: Duration,
    /// When to say for the first time that approval is awaited: later than an automatic approval takes.
    pub first_word: Duration,
    /// How often to say it again.
    pub reminder: Duration,
}

impl Patience {
    /// Speaks after ten seconds and then every ten minutes.
    pub fn for_at_most(limit: Duration) -> Self {
        Self { limit, first_word: Duration::from_secs(10), reminder: Duration::from_secs(600) }
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The server answered no.
    #[error("the API server refused to {action} ({code} {reason}): {message}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// HTTP status.
        code: u16,
        /// The server's word for it.
        reason: String,
        /// The server's sentence.
        message: String,
    },
    /// There was no answer, or none that can be read.
    #[error("cannot {action}")]
    NoAnswer {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The server took too long.
    #[error("the API server did not answer within {} s to {action}", CALL_TIMEOUT.as_secs())]
    Slow {
        /// What was tried.
        action: &'static str,
    },
    /// An administrator or controller said no.
    #[error(
        "certificate signing request {name} was denied ({reason}: {message}); to let the node ask again, \
         delete the request"
    )]
    Denied {
        /// Name of the request.
        name: String,
        /// Reason given.
        reason: String,
        /// Message given.
        message: String,
    },
    /// The signer could not sign.
    #[error(
        "the signer could not sign certificate signing request {name} ({reason}: {message}); to let the node \
         ask again, delete the request"
    )]
    Failed {
        /// Name of the request.
        name: String,
        /// Reason given.
        reason: String,
        /// Message given.
        message: String,
    },
    /// It went away before it was signed.
    #[error("certificate signing request {name} was deleted or replaced before it was signed")]
    Gone {
        /// Name of the request.
        name: String,
    },
    /// There is another request in its place.
    #[error("certificate signing request {name} exists and {why}")]
    Incompatible {
        /// Name of the request.
        name: String,
        /// In what way it is not ours.
        why: &'static str,
    },
    /// The certificate is no good.
    #[error("the certificate issued for {name} cannot be used")]
    Unusable {
        /// Name of the request.
        name: String,
        /// Why.
        #[source]
        source: PairError,
    },
    /// The certificate's time is over.
    #[error("the certificate issued for {name} expired at {not_after}; is the clock of this machine right?")]
    Expired {
        /// Name of the request.
        name: String,
        /// When.
        not_after: Timestamp,
    },
    /// Nobody decided in time.
    #[error(
        "nobody signed certificate signing request {name} within {} minutes: kubectl certificate approve {name}",
        waited.as_secs() / 60
    )]
    TimedOut {
        /// Name of the request.
        name: String,
        /// How long was waited.
        waited: Duration,
    },
}

impl RequestError {
    fn of(action: &'static str, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused {
                action,
                code: status.code,
                reason: status.reason.clone(),
                message: status.message.clone(),
            },
            other => Self::NoAnswer { action, source: Box::new(other) },
        }
    }

    /// Whether another try with the same key would meet the same request and end the same way.
    pub fn wants_new_key(&self) -> bool {
        matches!(self, Self::Incompatible { .. } | Self::Unusable { .. } | Self::Expired { .. })
    }

    /// Whether the server does not accept the credential.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Refused { code: 401, .. })
    }
}

/// Gets a certificate for `key` by `request` (see `generate_csr`): creates the request, or goes on with the one
/// of the same name that an earlier try has left, and waits until it is decided.
///
/// Cancel safe: a dropped call leaves the request at the server, where the next call finds it.
pub async fn obtain(
    client: &kube::Client,
    request: &CertificateSigningRequest,
    key: &PrivateKey,
    patience: Patience,
    now: &(dyn Fn() -> Timestamp + Send + Sync),
) -> Result<CertPair, RequestError> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let created = create_or_find(&api, request, key).await?;
    let name = created.metadata.name.clone().unwrap_or_default();
    let deadline = Instant::now() + patience.limit;
    let certificates = timeout_at(deadline, wait(&api, &created, patience))
        .await
        .map_err(|_| RequestError::TimedOut { name: name.clone(), waited: patience.limit })??;
    let pair = CertPair::from_pem_and_key(&certificates, key.clone())
        .map_err(|source| RequestError::Unusable { name: name.clone(), source })?;
    let validity = pair.facts().validity;
    if validity.is_expired(now()) {
        return Err(RequestError::Expired { name, not_after: validity.not_after });
    }
    Ok(pair)
}

async fn create_or_find(
    api: &Api<CertificateSigningRequest>,
    request: &CertificateSigningRequest,
    key: &PrivateKey,
) -> Result<CertificateSigningRequest, RequestError> {
    let create = "create a certificate signing request";
    match call(create, api.create(&PostParams::default(), request)).await {
        Ok(created) => {
            tracing::info!(csr = created.metadata.name.as_deref(), "created a certificate signing request");
            Ok(created)
        }
        Err(RequestError::Refused { code: 409, reason, .. }) if reason == "AlreadyExists" => {
            let name = request.metadata.name.as_deref().unwrap_or_default();
            let existing = call("read the certificate signing request", api.get(name)).await?;
            if let Some(why) = incompatibility(&existing, request, key) {
                return Err(RequestError::Incompatible { name: name.to_owned(), why });
            }
            tracing::info!(csr = name, "goes on with the certificate signing request of an earlier try");
            Ok(existing)
        }
        Err(error) => Err(error),
    }
}

/// In what way an existing request is not the one we would make (upstream `ensureCompatible`).
fn incompatibility(
    existing: &CertificateSigningRequest,
    ours: &CertificateSigningRequest,
    key: &PrivateKey,
) -> Option<&'static str> {
    if existing.spec.signer_name != ours.spec.signer_name {
        return Some("is for another signer");
    }
    let decode = |csr: &CertificateSigningRequest| {
        let (_, pem) = x509_parser::pem::parse_x509_pem(&csr.spec.request.0).ok()?;
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
        let info = request.certification_request_info;
        Some((info.subject.to_string(), info.subject_pki.raw.to_vec()))
    };
    match (decode(existing), decode(ours)) {
        (Some((theirs, _)), Some((ours, _))) if theirs != ours => Some("has another subject"),
        (Some((_, theirs)), Some(_)) if theirs != key.public_key_der() => Some("is for another key"),
        (Some(_), Some(_)) => None,
        _ => Some("cannot be read"),
    }
}

/// Waits for the certificates, in PEM. Ends only with a decision; the caller sets the limit.
async fn wait(
    api: &Api<CertificateSigningRequest>,
    created: &CertificateSigningRequest,
    patience: Patience,
) -> Result<Vec<u8>, RequestError> {
    let name = created.metadata.name.as_deref().unwrap_or_default();
    let mut speaker =
        Speaker { next: Instant::now() + patience.first_word, every: patience.reminder, approved: false };
    let mut failures = 0_u32;
    loop {
        match list_and_watch(api, created, name, &mut speaker).await {
            Ok(Some(certificates)) => return Ok(certificates),
            Ok(None) => failures = 0,
            // A credential that has expired meanwhile gets no better by waiting: the caller may have another.
            Err(error) if error.is_unauthorized() => return Err(error),
            Err(
                error @ (RequestError::Refused { .. }
                | RequestError::NoAnswer { .. }
                | RequestError::Slow { .. }),
            ) => {
                failures = failures.saturating_add(1);
                tracing::debug!(csr = name, %error, failures, "lost sight of the certificate signing request");
                sleep(retry_delay(failures, 0.5)).await;
            }
            Err(decided) => return Err(decided),
        }
    }
}

/// One list and one watch; nothing when the watch ended without a decision.
async fn list_and_watch(
    api: &Api<CertificateSigningRequest>,
    created: &CertificateSigningRequest,
    name: &str,
    speaker: &mut Speaker,
) -> Result<Option<Vec<u8>>, RequestError> {
    let action = "watch the certificate signing request";
    let only_it = format!("metadata.name={name}");
    let list = call(action, api.list(&ListParams::default().fields(&only_it))).await?;
    let gone = || RequestError::Gone { name: name.to_owned() };
    let found = list.items.first().ok_or_else(gone)?;
    if let Some(certificates) = decision(found, created, name, speaker)? {
        return Ok(Some(certificates));
    }
    let version = list.metadata.resource_version.unwrap_or_default();
    let params = WatchParams::default().fields(&only_it).timeout(WATCH_SECONDS);
    let stream = call(action, api.watch(&params, &version)).await?;
    let mut stream = std::pin::pin!(stream);
    let end = Instant::now() + Duration::from_secs(u64::from(WATCH_SECONDS) + 10);
    loop {
        // Cancel safe: `try_next` loses no event when dropped, and the sleeps are set anew each time.
        let event = tokio::select! {
            biased;
            event = stream.try_next() => event.map_err(|error| RequestError::of(action, error))?,
            () = sleep_until(end) => return Ok(None),
            () = sleep_until(speaker.next) => {
                speaker.speak(name);
                continue;
            }
        };
        match event {
            Some(WatchEvent::Added(csr) | WatchEvent::Modified(csr)) => {
                if let Some(certificates) = decision(&csr, created, name, speaker)? {
                    return Ok(Some(certificates));
                }
            }
            Some(WatchEvent::Deleted(_)) => return Err(gone()),
            Some(WatchEvent::Bookmark(_)) => {}
            Some(WatchEvent::Error(status)) => {
                return Err(RequestError::of(action, kube::Error::Api(status)));
            }
            None => {
                // A server that ends every watch at once must not be asked without pause.
                sleep(Duration::from_secs(1)).await;
                return Ok(None);
            }
        }
    }
}

/// The certificates if they were issued; an error if they will not be.
fn decision(
    csr: &CertificateSigningRequest,
    created: &CertificateSigningRequest,
    name: &str,
    speaker: &mut Speaker,
) -> Result<Option<Vec<u8>>, RequestError> {
    let name = name.to_owned();
    if csr.metadata.uid != created.metadata.uid {
        return Err(RequestError::Gone { name });
    }
    match judge_csr(csr) {
        CsrVerdict::Pending => Ok(None),
        CsrVerdict::Approved => {
            speaker.approved = true;
            Ok(None)
        }
        CsrVerdict::Issued(certificates) => Ok(Some(certificates)),
        CsrVerdict::Denied { reason, message } => Err(RequestError::Denied { name, reason, message }),
        CsrVerdict::Failed { reason, message } => Err(RequestError::Failed { name, reason, message }),
    }
}

/// Says what is waited for: once it takes longer than usual, and then rarely.
struct Speaker {
    next: Instant,
    every: Duration,
    approved: bool,
}

impl Speaker {
    fn speak(&mut self, name: &str) {
        self.next = Instant::now() + self.every;
        if self.approved {
            tracing::warn!("the certificate signing request {name} is approved and waits for its signer");
        } else {
            tracing::warn!(
                "the certificate signing request {name} waits for approval: kubectl certificate approve {name}"
            );
        }
    }
}

async fn call<T>(
    action: &'static str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, RequestError> {
    match timeout(CALL_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|error| RequestError::of(action, error)),
        Err(_) => Err(RequestError::Slow { action }),
    }
}

#[cfg(test)]
mod tests;
