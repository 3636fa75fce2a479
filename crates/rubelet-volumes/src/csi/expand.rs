//! Letting a volume grow on the node into the room that it was given: when it is mounted, and while it is in use, as
//! upstream's node expander. Whether there is something to do is decided by `rubelet_core::volumes::expand`.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use rubelet_core::ids::PodUid;
use rubelet_core::volumes::access::csi_access_mode;
use rubelet_core::volumes::expand::{
    Expansion, ExpansionFacts, ExpansionFailure, NodeExpansion, needs_node_expansion,
};
use rubelet_core::volumes::{CsiVolume, VolumeMode};
use rubelet_csi::{Access, Capability, ExpandRequest, Secrets};
use tokio::time::Instant;
use tracing::warn;

use super::drivers::Driver;
use super::gather::{on_the_wire, words};
use super::problem::{CsiCause, CsiProblem, CsiStep};
use super::set_up::Grown;
use super::state::Turn;
use super::{CsiUse, Shared};
use crate::volumes::VolumeWarning;

/// How often the claim of a volume in use is looked at. Nodes may not watch claims; upstream reads each about every
/// minute.
const LOOK: SignedDuration = SignedDuration::from_secs(120);

/// A call to let a volume grow, with all that it needs.
struct Growing {
    volume: CsiVolume,
    uid: PodUid,
    target: PathBuf,
    driver: Arc<Driver>,
    /// Namespace and name.
    claim: (String, String),
    call: NodeExpansion,
    secrets: Secrets,
}

fn problem(cause: CsiCause) -> CsiProblem {
    CsiProblem::new(CsiStep::Expand, cause)
}

impl Shared {
    /// Lets the volume grow if it has to. A pod does not start on one that is too small; one that runs goes on.
    ///
    /// # Errors
    /// It has just been mounted, should grow and does not.
    pub(super) async fn grow(
        self: &Arc<Self>,
        volume: &CsiVolume,
        uid: &PodUid,
        call: &CsiUse<'_>,
    ) -> Result<Grown, CsiProblem> {
        let (Some((namespace, name)), false) = (call.claim, volume.inline) else {
            return Ok(Grown::default());
        };
        let size = self.table.turn(volume.unique_name()).await.user(uid, &volume.spec_name).size;
        let in_use = size.bytes.is_some() || size.taken_over;
        let Some(driver) = self.drivers.get(&volume.driver) else {
            return Ok(Grown { refresh_at: later(call), ..Grown::default() });
        };
        if in_use && !driver.can.expand {
            return Ok(Grown::default());
        }
        if let Some(next) = size.looked.filter(|_| in_use).and_then(|at| at.checked_add(LOOK).ok())
            && call.now < next
        {
            return Ok(Grown { refresh_at: Some(next), ..Grown::default() });
        }
        let grown = match self.size_now(volume, namespace, name).await {
            Ok((claim, persistent)) => {
                let facts = ExpansionFacts {
                    volume: &persistent,
                    claim: &claim,
                    read_only: volume.read_only,
                    node_bytes: size.bytes,
                    refused: size.refused,
                };
                let grown = self.act(volume, uid, call, &driver, &facts).await;
                let mut turn = self.table.turn(volume.unique_name()).await;
                let size = &mut turn.user(uid, &volume.spec_name).size;
                size.looked = Some(call.now);
                if grown.is_ok() && size.bytes.is_none() {
                    size.bytes = Some(capacity(&claim));
                }
                grown
            }
            Err(problem) => Err(problem),
        };
        let refresh_at = driver.can.expand.then(|| later(call)).flatten();
        match grown {
            Ok(warnings) => Ok(Grown { refresh_at, behind: None, warnings }),
            Err(problem) if in_use => {
                let problem = CsiProblem::new(CsiStep::ExpandInUse, problem.cause);
                Ok(Grown { refresh_at, behind: Some(problem), warnings: Vec::new() })
            }
            Err(problem) => Err(problem),
        }
    }

    /// The claim and its volume as the API server has them.
    async fn size_now(
        &self,
        volume: &CsiVolume,
        namespace: &str,
        name: &str,
    ) -> Result<(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>), CsiProblem> {
        let failed = |what: &str, why: &str| {
            problem(CsiCause::Api(format!("mountVolume.NodeExpandVolume get {what} failed : {why}")))
        };
        let objects = self.objects.as_ref().ok_or_else(|| failed("PVC", "this node has no API server"))?;
        let claim = objects.claim(namespace, name);
        let persistent = objects.persistent_volume(&volume.spec_name);
        let (claim, persistent) = futures::future::join(claim, persistent).await;
        Ok((
            claim.map_err(|missing| failed("PVC", &words(&missing)))?,
            persistent.map_err(|missing| failed("PV", &words(&missing)))?,
        ))
    }

    async fn act(
        self: &Arc<Self>,
        volume: &CsiVolume,
        uid: &PodUid,
        call: &CsiUse<'_>,
        driver: &Arc<Driver>,
        facts: &ExpansionFacts<'_>,
    ) -> Result<Vec<VolumeWarning>, CsiProblem> {
        let growth = match needs_node_expansion(facts) {
            Expansion::None => return Ok(Vec::new()),
            Expansion::Done(bytes) => {
                self.table.turn(volume.unique_name()).await.user(uid, &volume.spec_name).size.bytes =
                    Some(bytes);
                return Ok(Vec::new());
            }
            Expansion::ReadOnly => {
                return Ok(vec![VolumeWarning {
                    reason: "FileSystemResizeFailed",
                    message: format!(
                        "MountVolume.NodeExpandVolume failed for volume {:?} requested read-only file system",
                        volume.spec_name
                    ),
                    normal: false,
                }]);
            }
            Expansion::Expand(growth) => growth,
        };
        self.table
            .turn(volume.unique_name())
            .await
            .user(uid, &volume.spec_name)
            .expand
            .check(Instant::now())?;
        let secrets = self.secrets("NodeExpandSecretRef", volume.expand_secret.as_ref(), CsiStep::Expand);
        let claim = &facts.claim.metadata;
        let growing = Growing {
            volume: volume.clone(),
            uid: uid.clone(),
            target: self.places.target(volume, uid, call.pod_dir),
            driver: driver.clone(),
            claim: (claim.namespace.clone().unwrap_or_default(), claim.name.clone().unwrap_or_default()),
            call: growth,
            secrets: secrets.await?,
        };
        let turn = self.table.turn(volume.unique_name()).await;
        let task = tokio::spawn(growing.run(self.clone(), turn));
        task.await.unwrap_or_else(|_| Err(problem(CsiCause::Lost)))
    }
}

impl Growing {
    async fn run(self, shared: Arc<Shared>, mut turn: Turn) -> Result<Vec<VolumeWarning>, CsiProblem> {
        let (namespace, name) = (&self.claim.0, &self.claim.1);
        let NodeExpansion { bytes, update_claim, tell_claim, .. } = self.call;
        let api = shared.api.as_deref();
        if let Some(api) = api.filter(|_| tell_claim && update_claim) {
            api.claim_expanding(namespace, name).await.map_err(|missing| {
                let why = words(&missing);
                problem(CsiCause::Api(format!("failed to mark node expansion in progress: {why}")))
            })?;
        }
        let (failure, cause) = match self.ask(&shared).await {
            Ok(()) => {
                if let Some(api) = api.filter(|_| update_claim) {
                    // Not told, it is asked for again, and the driver finds that it is done.
                    api.claim_expanded(namespace, name, bytes).await.map_err(|missing| {
                        let why = words(&missing);
                        problem(CsiCause::Api(format!(
                            "mountVolume.NodeExpandVolume update PVC status failed : {why}"
                        )))
                    })?;
                }
                let user = turn.user(&self.uid, &self.volume.spec_name);
                user.expand.clear();
                (user.size.bytes, user.size.refused) = (Some(bytes), false);
                return Ok(vec![VolumeWarning {
                    reason: "FileSystemResizeSuccessful",
                    message: format!(
                        "MountVolume.NodeExpandVolume succeeded for volume {:?} {}",
                        self.volume.spec_name, shared.places.node_name
                    ),
                    normal: true,
                }]);
            }
            Err(failed) => failed,
        };
        let tell = async |infeasible| {
            let Some(api) = api.filter(|_| tell_claim) else { return };
            let text = cause.to_string();
            if let Err(missing) = api.claim_not_expanded(namespace, name, infeasible, &text).await {
                warn!("claim {namespace}/{name} cannot be told of it: {}", words(&missing));
            }
        };
        match failure {
            ExpansionFailure::NotSupported | ExpansionFailure::InUse => {
                if failure == ExpansionFailure::InUse {
                    tell(false).await;
                }
                warn!("volume {:?} does not grow on this node: {cause}", self.volume.unique_name());
                // Not asked for again while it is mounted.
                turn.user(&self.uid, &self.volume.spec_name).size.bytes = Some(bytes);
                return Ok(Vec::new());
            }
            ExpansionFailure::Again => {}
            ExpansionFailure::Refused | ExpansionFailure::Infeasible => {
                turn.user(&self.uid, &self.volume.spec_name).size.refused = true;
                tell(failure == ExpansionFailure::Infeasible).await;
            }
        }
        Err(turn.user(&self.uid, &self.volume.spec_name).expand.failed(problem(cause), Instant::now()))
    }

    async fn ask(&self, shared: &Shared) -> Result<(), (ExpansionFailure, CsiCause)> {
        if !self.driver.can.expand {
            let text = format!("NodeExpand is not supported by the CSI driver {}", self.volume.driver);
            return Err((ExpansionFailure::not_supported(&self.call), CsiCause::NotSupported(text)));
        }
        let mode = csi_access_mode(&self.volume.access_modes, self.driver.can.single_node_multi_writer);
        let access = match self.volume.mode {
            VolumeMode::Block => Access::Block,
            VolumeMode::Filesystem => Access::Mount {
                fs_type: self.volume.fs_type.clone(),
                flags: self.volume.mount_options.clone(),
                group: None,
            },
        };
        let request = ExpandRequest {
            volume_id: self.volume.handle.clone(),
            volume_path: self.target.clone(),
            staging_path: self.driver.can.stage_unstage.then(|| shared.places.staging(&self.volume)),
            required_bytes: self.call.bytes,
            capability: Capability { access, mode: on_the_wire(mode) },
            secrets: self.secrets.clone(),
        };
        match self.driver.client.expand(request).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let failure = ExpansionFailure::of(&self.call, i32::from(error.code), error.final_);
                let text = format!("Expander.NodeExpand failed to expand the volume : {error}");
                Err((failure, CsiCause::Call { text, finished: error.final_ }))
            }
        }
    }
}

fn later(call: &CsiUse<'_>) -> Option<jiff::Timestamp> {
    call.now.checked_add(LOOK).ok()
}

/// What the claim's status says, bytes; 0 says that nobody knows.
fn capacity(claim: &PersistentVolumeClaim) -> i64 {
    let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
    rubelet_core::quantity::listed(capacity, "storage").map_or(0, |amount| amount.value())
}
