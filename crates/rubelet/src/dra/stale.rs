//! Claims of pods that nobody works for any more: a pod that was removed by force while no agent ran, and of which the
//! runtime has nothing. They are given back, for nobody else would. After the checkpoint was lost, claims of the pods that
//! are there are taken into the book first.

use std::time::Duration;

use rubelet_core::dra::references::{check_claim, has_claims};
use rubelet_core::ids::PodUid;
use rubelet_core::phase::Phase;
use tracing::{info, warn};

use super::prepare::ClaimsError;
use super::{Claims, Surroundings};

/// How often they are looked for while there are claims (upstream `defaultReconcilePeriod`).
const PERIOD: Duration = Duration::from_secs(60);
/// Pause before claims that could not be read are read again.
const ADOPT_PAUSE: Duration = Duration::from_secs(5);

impl Claims {
    /// Gives back what nobody works for. At rest while the book is empty.
    pub(super) async fn give_back_stale(&self, around: &Surroundings) {
        let mut desired = around.desired.clone();
        // Before every source has spoken a pod may be wanted that is not known yet.
        if desired.wait_for(|desired| desired.complete).await.is_err() {
            return;
        }
        while *self.0.amnesia.borrow() {
            if let Err(problem) = self.adopt(around).await {
                warn!("claims of pods that run are not known yet: {}", crate::logging::chain(&problem));
                tokio::time::sleep(ADOPT_PAUSE).await;
            }
        }
        loop {
            if self.0.book().is_empty() {
                // A permit is kept if the book grows in between.
                self.0.book_grew.notified().await;
            }
            let pods = self.0.book().pods();
            for uid in pods {
                if is_stale(&uid, around).await
                    && let Err(problem) = self.give_back(&uid).await
                {
                    info!(pod = %uid, "claims of a pod that is gone stay: {}", crate::logging::chain(&problem));
                }
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Takes claims of the pods that are there into the book, prepared or not: drivers are asked again before they are
    /// used, and at the pods' ends.
    async fn adopt(&self, around: &Surroundings) -> Result<(), ClaimsError> {
        let desired = around.desired.borrow().clone();
        for (uid, pod) in &desired.pods {
            let pod = &pod.pod;
            let over = pod.status.as_ref().and_then(Phase::of).is_some_and(Phase::is_terminal);
            if over || !has_claims(pod, self.0.settings.extended) {
                continue;
            }
            let mut allowed = vec![];
            // One that no controller has made yet was never prepared.
            for reference in self.claims_of(pod).unwrap_or_default() {
                // Nor was one that is not there for the pod.
                if let Ok(claim) = check_claim(pod, &reference, &self.read(&reference).await?) {
                    allowed.push(claim);
                }
            }
            self.0.book().begin(uid, &allowed)?;
        }
        self.save().await?;
        self.0.amnesia.send_replace(false);
        self.0.book_grew.notify_one();
        Ok(())
    }
}

/// Whether no worker has the pod, nobody wants it, and the runtime has nothing of it that can run.
async fn is_stale(uid: &PodUid, around: &Surroundings) -> bool {
    if around.table.get(uid).is_some() || around.desired.borrow().pods.contains_key(uid) {
        return false;
    }
    match around.pleg.observe(uid).await {
        Ok(observed) => !observed.may_run() && !observed.has_ready_sandbox(),
        Err(_) => false,
    }
}
