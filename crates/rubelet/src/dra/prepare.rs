//! Preparing a pod's claims and giving them back. A claim that pods share is dealt with for one of them at a time. May be
//! dropped at any await: what a driver may have done is in the book before it is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use rubelet_core::dra::answers::{self, BadAnswer};
use rubelet_core::dra::book::{Batches, BookError, ClaimId};
use rubelet_core::dra::checkpoint;
use rubelet_core::dra::references::{
    AllowedClaim, ClaimReference, ClaimRefused, ReferenceError, check_claim, has_claims,
};
use rubelet_core::dra::{ClaimKey, Device};
use rubelet_core::ids::{PodUid, pod_uid};
use rubelet_core::lifecycle::ContainersStopped;
use rubelet_plugins::dra::{DraClient, DraError};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::Claims;
use crate::fs_pool::FsError;

/// Reason of the event about claims that could not be prepared.
pub const FAILED_PREPARE: &str = "FailedPrepareDynamicResources";

/// Why claims are not prepared, or not given back. The words are upstream's where it has any. All of it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ClaimsError {
    /// Which claims they are is not known.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// This node knows no API server.
    #[error("there is no API server to read ResourceClaim {0} from")]
    NoApi(String),
    /// A claim could not be read.
    #[error("fetch ResourceClaim {claim}: {reason}")]
    Fetch {
        /// Its name.
        claim: String,
        /// Why.
        reason: String,
    },
    /// A claim is not there for the pod.
    #[error(transparent)]
    Refused(#[from] ClaimRefused),
    /// A driver is not here, or not any more.
    #[error("DRA driver {0} is not registered")]
    NotRegistered(String),
    /// A claim has another one's name.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The checkpoint could not be written.
    #[error("checkpoint ResourceClaim state")]
    Checkpoint(#[from] FsError),
    /// A driver did not answer, or refused.
    #[error("{call}: {problem}")]
    Call {
        /// The call.
        call: &'static str,
        /// What became of it.
        problem: DraError,
    },
    /// A driver's answer is none.
    #[error(transparent)]
    Answer(#[from] BadAnswer),
    /// A claim that a container wants is not in the book.
    #[error("unable to get claim info for ResourceClaim {0}")]
    Unknown(ClaimKey),
    /// The checkpoint was lost, and who uses what is not known again yet.
    #[error(
        "which ResourceClaims are prepared is not known yet: the record was damaged and is being made again"
    )]
    Amnesia,
}

const PREPARE: &str = "NodePrepareResources";
const UNPREPARE: &str = "NodeUnprepareResources";

/// Claims that nobody else may have prepared or given back while this lives.
type Turn = Vec<OwnedMutexGuard<()>>;

impl Claims {
    /// Has everything that the pod claims prepared. `new_sandbox`: its sandbox is yet to be made; in one that is there what
    /// is in the book is good, also what an earlier agent prepared.
    ///
    /// # Errors
    /// See [`ClaimsError`].
    pub async fn prepare(&self, pod: &Pod, new_sandbox: bool) -> Result<(), ClaimsError> {
        if !has_claims(pod, self.0.settings.extended) {
            return Ok(());
        }
        let uid = pod_uid(pod);
        if !new_sandbox {
            let known = self.claims_of(pod)?.into_iter().map(|reference| reference.claim);
            if self.0.book().knows(&uid, known) {
                return Ok(());
            }
        }
        let began = Instant::now();
        let result = self.prepare_claims(pod, &uid).await;
        self.count("PrepareResources", began, result.is_err());
        result
    }

    async fn prepare_claims(&self, pod: &Pod, uid: &PodUid) -> Result<(), ClaimsError> {
        let mut allowed = vec![];
        for reference in self.claims_of(pod)? {
            let claim = self.read(&reference).await?;
            allowed.push(check_claim(pod, &reference, &claim)?);
        }
        // Nothing is in the book before everyone is here who has to be asked: a pod that was never prepared ends without
        // them too.
        let drivers = self.find_drivers(uid, &allowed)?;
        let _turn = self.turn(allowed.iter().map(|claim| claim.key.clone())).await;
        let batches = self.0.book().begin(uid, &allowed)?;
        self.0.book_grew.notify_one();
        self.save().await?;
        if batches.is_empty() {
            return Ok(());
        }
        let problem = self.ask_to_prepare(&drivers, &batches).await;
        self.save().await?;
        match problem {
            None => Ok(()),
            Some(problem) => Err(problem),
        }
    }

    /// Asks all drivers at the same time, and takes down what each has done. Gives the first problem.
    async fn ask_to_prepare(
        &self,
        drivers: &BTreeMap<String, DraClient>,
        batches: &Batches,
    ) -> Option<ClaimsError> {
        let calls = batches.iter().filter_map(|(name, claims)| {
            let driver = drivers.get(name)?;
            Some(async move { (name, claims, driver.prepare(claims).await) })
        });
        let mut failed: BTreeSet<&ClaimId> = BTreeSet::new();
        let mut first = None;
        for (name, claims, answer) in join_all(calls).await {
            let (done, problem) = match answer {
                Ok(results) => {
                    let (done, problem) = answers::read::<Vec<Device>>(PREPARE, claims, results);
                    (done, problem.map(ClaimsError::from))
                }
                Err(problem) => (vec![], Some(ClaimsError::Call { call: PREPARE, problem })),
            };
            let good: BTreeSet<ClaimId> = done.iter().map(|(claim, _)| claim.clone()).collect();
            failed.extend(claims.iter().filter(|claim| !good.contains(claim)));
            let mut book = self.0.book();
            for (claim, devices) in done {
                book.gave(&claim, name, devices);
            }
            first = first.or(problem);
        }
        let all = batches.values().flatten().filter(|claim| !failed.contains(claim));
        self.0.book().prepared(all);
        first
    }

    /// Gives back what the pod has: nothing of it runs. The pod's end must not be told before this has succeeded.
    ///
    /// # Errors
    /// See [`ClaimsError`]; the claims are then taken for prepared still.
    pub async fn unprepare(&self, proof: &ContainersStopped) -> Result<(), ClaimsError> {
        self.give_back(proof.uid()).await
    }

    pub(super) async fn give_back(&self, uid: &PodUid) -> Result<(), ClaimsError> {
        self.0.waiting().remove(uid);
        if *self.0.amnesia.borrow() {
            return Err(ClaimsError::Amnesia);
        }
        if !self.0.book().has_pod(uid) {
            // What was given back before is not forgotten on the disk yet.
            return if self.0.store.is_behind() { self.save().await } else { Ok(()) };
        }
        let began = Instant::now();
        let result = self.give_back_claims(uid).await;
        self.count("UnprepareResources", began, result.is_err());
        result
    }

    async fn give_back_claims(&self, uid: &PodUid) -> Result<(), ClaimsError> {
        let known = self.0.book().plan_unprepare(uid);
        let _turn = self.turn(known.last.into_iter().chain(known.shared)).await;
        // Made again: while the turn was waited for others have come or gone.
        let plan = self.0.book().plan_unprepare(uid);
        let mut drivers = BTreeMap::new();
        for name in plan.batches.keys() {
            let driver = self.0.drivers.get(name).ok_or_else(|| ClaimsError::NotRegistered(name.clone()))?;
            drivers.insert(name, driver);
        }
        self.0.book().giving_back(&plan);
        let calls = plan.batches.iter().filter_map(|(name, claims)| {
            let driver = drivers.get(name)?;
            Some(async move { (claims, driver.unprepare(claims).await) })
        });
        let mut first = None;
        for (claims, answer) in join_all(calls).await {
            let problem = match answer {
                Ok(results) => answers::read::<()>(UNPREPARE, claims, results).1.map(ClaimsError::from),
                Err(problem) => Some(ClaimsError::Call { call: UNPREPARE, problem }),
            };
            first = first.or(problem);
        }
        if let Some(problem) = first {
            return Err(problem);
        }
        self.0.book().gone(uid, &plan);
        self.save().await
    }

    /// A claim as it is in the API.
    pub(super) async fn read(&self, reference: &ClaimReference) -> Result<ResourceClaim, ClaimsError> {
        let claim = reference.claim.name.clone();
        let Some(reader) = &self.0.reader else { return Err(ClaimsError::NoApi(claim)) };
        reader.claim(&reference.claim).await.map_err(|reason| ClaimsError::Fetch { claim, reason })
    }

    /// The drivers of these claims. A pod whose driver is not here is woken when it comes.
    fn find_drivers(
        &self,
        uid: &PodUid,
        claims: &[AllowedClaim],
    ) -> Result<BTreeMap<String, DraClient>, ClaimsError> {
        let names: BTreeSet<String> = claims.iter().flat_map(|claim| claim.drivers.clone()).collect();
        // First, so that a driver that registers in this moment is noticed here or finds the pod.
        self.0.waiting().insert(uid.clone(), names.clone());
        let mut drivers = BTreeMap::new();
        for name in names {
            let driver = self.0.drivers.get(&name).ok_or_else(|| ClaimsError::NotRegistered(name.clone()))?;
            drivers.insert(name, driver);
        }
        self.0.waiting().remove(uid);
        Ok(drivers)
    }

    /// Waits until nobody else is at these claims. Always in the same order, so that no two wait for each other.
    async fn turn(&self, keys: impl IntoIterator<Item = ClaimKey>) -> Turn {
        let sorted: BTreeSet<ClaimKey> = keys.into_iter().collect();
        let locks: Vec<_> = {
            let mut locks = self.0.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            sorted.into_iter().map(|key| locks.entry(key).or_default().clone()).collect()
        };
        let mut turn = vec![];
        for lock in locks {
            turn.push(lock.lock_owned().await);
        }
        turn
    }

    pub(super) async fn save(&self) -> Result<(), ClaimsError> {
        Ok(self.0.store.save(|| checkpoint::encode(&self.0.book())).await?)
    }

    fn count(&self, operation: &str, began: Instant, failed: bool) {
        let labels = [operation, if failed { "true" } else { "false" }];
        self.0.metrics.node.dra_operation.with(labels).observe_duration(began.elapsed());
    }
}
