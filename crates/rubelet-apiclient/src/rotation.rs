//! Keeps a certificate of the node's own fresh (upstream `certificate.Manager`): the client certificate, and the
//! same way a serving certificate that the API server signs.
//!
//! Owns one certificate from the first look at the store on: when the next one is due, it is asked for, stored,
//! and its users are told. Never ends the process over a certificate: it goes on trying, with the bootstrap
//! credential once the node's own is worthless. What to do and when is decided in `rubelet_core::certificates`.
//! Run as one task by the shell, when `rotateCertificates` (or `serverTLSBootstrap`) is on.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use rubelet_core::certificates::{
    CertificateFacts, CertificatePurpose, RenewalReason, RequestIdentity, RotationStep, WantedCertificate,
    jitter_fraction, next_rotation_step, retry_delay, sleep_slice,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::Now;
use crate::bootstrap::{BoxError, Repeats};
use crate::cert_store::{CertPair, CertStore, StoreError};
use crate::csr::{CsrError, Patience, RequestError, generate_csr, obtain};
use crate::watch::chain;

#[cfg(test)]
mod tests;

/// How long one request is waited for before it is sent again (upstream `certificateWaitTimeout`).
const REQUEST_LIMIT: Duration = Duration::from_secs(900);

/// Makes a client to send a request with. Called for every attempt.
pub type ClientSource = Arc<dyn Fn() -> BoxFuture<'static, Result<kube::Client, BoxError>> + Send + Sync>;
/// Called after a new certificate is in the store: to load it and to close connections that use the old one.
pub type Rotated = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// What rotation needs to know.
pub struct RotationParams {
    /// Where certificates are kept.
    pub store: CertStore,
    /// What the certificate is for.
    pub purpose: CertificatePurpose,
    /// What it has to say. Nothing while that is not known yet; a change asks for a new certificate at once.
    pub wanted: watch::Receiver<Option<WantedCertificate>>,
    /// A certificate to come from while the store has none, and to be replaced at once: one embedded in the
    /// kubeconfig, such as kubeadm's on a control plane node.
    pub borrowed: Option<CertificateFacts>,
    /// Sends as the node.
    pub current: ClientSource,
    /// Sends with the bootstrap credential, if there is one.
    pub bootstrap: Option<ClientSource>,
    /// Told of every new certificate.
    pub rotated: Rotated,
    /// Tells the time.
    pub now: Now,
    /// Where the state is published.
    pub status: watch::Sender<RotationStatus>,
}

/// What is known about a certificate, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RotationStatus {
    /// When the certificate in use ends; nothing when there is none
    /// (`kubelet_certificate_manager_client_ttl_seconds` counts down to it).
    pub expires: Option<Timestamp>,
    /// Attempts that failed (`kubelet_certificate_manager_client_expiration_renew_errors`).
    pub renew_errors: u64,
    /// How long the certificate before this one had lived when it was replaced
    /// (`kubelet_certificate_manager_server_rotation_seconds`).
    pub previous_lived: Option<Duration>,
}

/// Why one attempt came to nothing.
#[derive(Debug, thiserror::Error)]
enum RotationError {
    #[error("cannot connect to the API server")]
    Connect(#[source] BoxError),
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the certificate directory cannot be used")]
    Store(#[from] StoreError),
}

/// A serving or client certificate in the making.
struct Rotation {
    params: RotationParams,
    /// The pair that users were told of last, by its leaf.
    known: Option<Vec<u8>>,
    first_look: bool,
    failures: u32,
    /// The server did not accept the node's own identity the last time: the bootstrap credential has a turn.
    refused: bool,
    said: Repeats,
}

/// Keeps the certificate fresh for ever. Cancel safe: the store is whole at every moment, and a request that was
/// sent is found again by the key kept for it.
pub async fn run(params: RotationParams) -> Infallible {
    let mut rotation = Rotation {
        params,
        known: None,
        first_look: true,
        failures: 0,
        refused: false,
        said: Repeats::default(),
    };
    loop {
        let pause = rotation.turn().await;
        // Cancel safe: both only wait, and the next turn looks at everything anew.
        tokio::select! {
            biased;
            () = sleep(pause) => {}
            () = changed(&mut rotation.params.wanted) => {}
        }
    }
}

impl Rotation {
    /// Looks once, does what is due, and tells how long to sleep.
    async fn turn(&mut self) -> Duration {
        let in_use = self.look().await;
        let Some(wanted) = self.params.wanted.borrow_and_update().clone() else {
            // Nothing to ask for yet: a change of `wanted` ends the sleep.
            return Duration::from_secs(600);
        };
        let now = (self.params.now)();
        let good = |facts: &&CertificateFacts| !facts.validity.is_expired(now);
        let lent = self.params.borrowed.as_ref().filter(good);
        let borrowed = in_use.as_ref().filter(good).is_none() && lent.is_some();
        let facts = if borrowed { lent } else { in_use.as_ref() };
        match next_rotation_step(
            facts,
            &wanted,
            borrowed,
            self.params.bootstrap.is_some(),
            deadline_jitter(&wanted, facts),
            now,
        ) {
            RotationStep::Wait { until } => {
                self.failures = 0;
                sleep_slice(until, facts.map(|facts| facts.validity.lifetime()).unwrap_or_default(), now)
            }
            RotationStep::Request { reason, mut identity } => {
                if self.refused && self.params.bootstrap.is_some() {
                    identity = RequestIdentity::Bootstrap;
                }
                let earlier = facts.cloned();
                self.announce(&reason, identity, earlier.as_ref());
                self.renew(&wanted, identity, earlier).await
            }
        }
    }

    /// Reads the store, publishes the end of what is in use, and tells users when somebody else has replaced it.
    async fn look(&mut self) -> Option<CertificateFacts> {
        let pair = match self.params.store.blocking(CertStore::load).await {
            Ok(pair) => Some(pair),
            Err(StoreError::Missing { .. }) => None,
            Err(error) => {
                let text = chain(&error);
                if self.said.is_news(&text, Instant::now()) {
                    tracing::warn!("{}: asks for a new certificate: {text}", self.name());
                }
                None
            }
        };
        let leaf = pair.as_ref().and_then(|pair| pair.chain().first()).map(|leaf| leaf.to_vec());
        let replaced = !self.first_look && leaf.is_some() && leaf != self.known;
        self.first_look = false;
        self.known = leaf;
        let facts = pair.map(|pair| pair.facts().clone());
        let expires = facts.as_ref().or(self.params.borrowed.as_ref()).map(|facts| facts.validity.not_after);
        self.params
            .status
            .send_if_modified(|status| std::mem::replace(&mut status.expires, expires) != expires);
        if replaced {
            tracing::info!("{}: somebody replaced the certificate, uses the new one", self.name());
            (self.params.rotated)().await;
        }
        facts
    }

    /// One attempt, cut short when something else is wanted meanwhile.
    async fn renew(
        &mut self,
        wanted: &WantedCertificate,
        identity: RequestIdentity,
        earlier: Option<CertificateFacts>,
    ) -> Duration {
        let mut wanted_changes = self.params.wanted.clone();
        // Cancel safe: see `obtain`; what was stored is found by the next look.
        let outcome = tokio::select! {
            biased;
            outcome = self.attempt(wanted, identity) => outcome,
            () = changed(&mut wanted_changes) => return Duration::ZERO,
        };
        match outcome {
            Ok(pair) => self.adopt(wanted, &pair, earlier).await,
            Err(error) => {
                self.refused = identity == RequestIdentity::Current
                    && matches!(&error, RotationError::Request(request) if request.is_unauthorized());
                self.params.status.send_modify(|status| status.renew_errors += 1);
                let text = chain(&error);
                if self.said.is_news(&text, Instant::now()) {
                    tracing::warn!("{}: no new certificate, goes on trying: {text}", self.name());
                }
                self.pause_after_failure(wanted)
            }
        }
    }

    async fn attempt(
        &self,
        wanted: &WantedCertificate,
        identity: RequestIdentity,
    ) -> Result<CertPair, RotationError> {
        let source = match (identity, &self.params.bootstrap) {
            (RequestIdentity::Bootstrap, Some(bootstrap)) => bootstrap,
            _ => &self.params.current,
        };
        let client = source().await.map_err(RotationError::Connect)?;
        let store = &self.params.store;
        let key = store.blocking(CertStore::pending_key).await?;
        let request = generate_csr(&key, wanted, self.params.purpose, None)?;
        let patience = Patience::for_at_most(REQUEST_LIMIT);
        match obtain(&client, &request, &key, patience, &*self.params.now).await {
            Ok(pair) => {
                let (kept, now) = (pair.clone(), (self.params.now)());
                let keep = store.blocking(move |store| {
                    store.store(&kept, now)?;
                    store.discard_pending_key()
                });
                keep.await?;
                Ok(pair)
            }
            Err(error) => {
                if error.wants_new_key() {
                    store.blocking(CertStore::discard_pending_key).await?;
                }
                Err(error.into())
            }
        }
    }

    /// Tells the users of a new certificate. One that would have to be replaced at once counts as a failure, so
    /// that a wrong clock or an odd signer does not make the node ask without pause.
    async fn adopt(
        &mut self,
        wanted: &WantedCertificate,
        pair: &CertPair,
        earlier: Option<CertificateFacts>,
    ) -> Duration {
        let (facts, now) = (pair.facts(), (self.params.now)());
        self.refused = false;
        self.known = pair.chain().first().map(|leaf| leaf.to_vec());
        let lived = earlier.and_then(|facts| now.duration_since(facts.validity.not_before).try_into().ok());
        self.params.status.send_modify(|status| {
            status.expires = Some(facts.validity.not_after);
            status.previous_lived = lived;
        });
        tracing::info!(not_after = %facts.validity.not_after, "{}: has a new certificate", self.name());
        (self.params.rotated)().await;
        let jitter = deadline_jitter(wanted, Some(facts));
        match next_rotation_step(Some(facts), wanted, false, false, jitter, now) {
            RotationStep::Wait { .. } => Duration::ZERO,
            RotationStep::Request { reason, .. } => {
                tracing::warn!(
                    "{}: the new certificate is no better ({}); is the clock of this machine right?",
                    self.name(),
                    words(&reason)
                );
                self.pause_after_failure(wanted)
            }
        }
    }

    fn pause_after_failure(&mut self, wanted: &WantedCertificate) -> Duration {
        self.failures = self.failures.saturating_add(1);
        retry_delay(self.failures, jitter_fraction(&wanted.common_name, u64::from(self.failures)))
    }

    fn announce(
        &mut self,
        reason: &RenewalReason,
        identity: RequestIdentity,
        facts: Option<&CertificateFacts>,
    ) {
        if self.failures > 0 {
            return;
        }
        let why = words(reason);
        match (reason, identity, facts) {
            (RenewalReason::Expired, RequestIdentity::Bootstrap, Some(facts)) => tracing::error!(
                "{}: the certificate expired at {}; asks for a new one with the bootstrap credential",
                self.name(),
                facts.validity.not_after
            ),
            (RenewalReason::Expired, RequestIdentity::Current, Some(facts)) => tracing::error!(
                "{}: the certificate expired at {} and there is no bootstrap credential; the API server will \
                 most likely refuse this node until it gets a new --bootstrap-kubeconfig",
                self.name(),
                facts.validity.not_after
            ),
            _ => tracing::info!("{}: asks for a certificate: {why}", self.name()),
        }
    }

    fn name(&self) -> &'static str {
        self.params.purpose.file_prefix()
    }
}

/// The same certificate of the same node is always renewed at the same moment, restarts included.
fn deadline_jitter(wanted: &WantedCertificate, facts: Option<&CertificateFacts>) -> f64 {
    let turn = facts.map_or(0, |facts| facts.validity.not_before.as_second().cast_unsigned());
    jitter_fraction(&wanted.common_name, turn)
}

fn words(reason: &RenewalReason) -> String {
    match reason {
        RenewalReason::Missing => "there is none".to_owned(),
        RenewalReason::Expired => "it has expired".to_owned(),
        RenewalReason::Borrowed => "the one in use is not the node's own".to_owned(),
        RenewalReason::Differs(what) => what.clone(),
        RenewalReason::Due => "most of its life is over".to_owned(),
    }
}

/// Waits for a change; for ever once nobody can make one any more.
async fn changed(wanted: &mut watch::Receiver<Option<WantedCertificate>>) {
    if wanted.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
