//! Claimed volumes of pods: the claim and its PersistentVolume are asked for until the volume is mounted, and then
//! known from the journal while the pod has it, so that a pod at rest, a restart or an API server that is away costs
//! nothing.
//!
//! Owns the order; what claims mean is `rubelet_core::claims`'.

use std::path::Path;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Volume};
use rubelet_core::claims::{
    Claim, ClaimError, ClaimFacts, ClaimedSource, ClaimedVolume, VolumeUse, bound_volume, claimed_volume,
    not_for_a_directory,
};
use rubelet_core::env::Missing;
use rubelet_core::ids::PodUid;
use rubelet_core::volumes::VolumeMode;

use crate::error::{Problem, VolumeError};
use crate::journal::MountSource;
use crate::kinds::{LocalPlan, VolumePlan};
use crate::volumes::{Outcome, ReadyVolume, VolumeFacts, VolumeWarning, Volumes};

impl Volumes {
    /// Makes the claimed volumes of a pod ready.
    pub(crate) async fn set_up_claims<'a>(
        &self,
        pod: &'a Pod,
        pod_dir: &Path,
        facts: &VolumeFacts,
    ) -> Vec<(&'a Volume, Outcome)> {
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        // As upstream, what no container uses is not waited for.
        let wanted: Vec<(&Volume, Claim)> = volumes
            .filter(|volume| !VolumeUse::of(pod, &volume.name).is_none())
            .filter_map(|volume| Some((volume, Claim::of(pod, volume)?)))
            .collect();
        let uid = uid_of(pod);
        let found = join_all(wanted.iter().map(async |(volume, claim)| {
            let _working = self.pending.begin(&uid, &volume.name);
            self.find(pod, volume, claim, facts).await
        }))
        .await;
        let written: Vec<String> =
            found.iter().flatten().filter(|c| !c.read_only).map(|c| c.name.clone()).collect();
        let mut outcomes = Vec::with_capacity(wanted.len());
        // One after another: volumes of one claim share a mount.
        for ((volume, _), found) in wanted.into_iter().zip(found) {
            let outcome = match found {
                Err(problem) => failed(volume, None, problem.into()),
                Ok(claimed) => {
                    let read_only = !written.contains(&claimed.name);
                    let plugin = claimed.source.plugin();
                    let _working = self.pending.begin(&uid, &volume.name);
                    let source = MountSource::Claimed(claimed.clone());
                    let mount = self.mount(&claimed, read_only, pod, pod_dir, facts);
                    let mount = self.journaled(&uid, &volume.name, source, mount);
                    match self.observed(plugin, "volume_mount", mount).await {
                        Ok((ready, warning)) => Outcome { ready: Some(ready), warning, ..Outcome::default() },
                        Err(problem) => failed(volume, Some(claimed.name), problem),
                    }
                }
            };
            outcomes.push((volume, outcome));
        }
        outcomes
    }

    /// What a volume is: as it is mounted, or as the API server has it now.
    async fn find(
        &self,
        pod: &Pod,
        volume: &Volume,
        claim: &Claim,
        facts: &VolumeFacts,
    ) -> Result<ClaimedVolume, ClaimError> {
        if let Some(known) = self.journal.claimed(&uid_of(pod), &volume.name) {
            return Ok(known);
        }
        let alone = Missing::Failed("this node has no API server".to_owned());
        let object = match &self.objects {
            Some(reader) => reader.claim(&claim.namespace, &claim.name).await,
            None => Err(alone.clone()),
        };
        let (object, name) = bound_volume(pod, claim, object.as_deref())?;
        let persistent = match &self.objects {
            Some(reader) => reader.persistent_volume(name).await,
            None => Err(alone),
        };
        let node_labels = facts.node.as_ref().map(|node| node.metadata.labels.clone().unwrap_or_default());
        let facts =
            ClaimFacts { pod, volume: &volume.name, claim, object, node_labels: node_labels.as_ref() };
        claimed_volume(&facts, name, persistent.as_deref())
    }

    /// Mounts one. `read_only`: no volume of the pod writes to it.
    async fn mount(
        &self,
        claimed: &ClaimedVolume,
        read_only: bool,
        pod: &Pod,
        pod_dir: &Path,
        facts: &VolumeFacts,
    ) -> Result<(ReadyVolume, Option<VolumeWarning>), Problem> {
        if claimed.mode == VolumeMode::Block {
            return Err(Problem::Unsupported("block device"));
        }
        match &claimed.source {
            ClaimedSource::Csi(_) => Err(Problem::Unsupported("csi")),
            ClaimedSource::Nfs(_) => Err(Problem::Unsupported("nfs")),
            ClaimedSource::HostPath(source) => {
                let ready = self.execute(VolumePlan::host_path(source), facts.now).await?;
                Ok((ReadyVolume { read_only: claimed.read_only, ..ready }, None))
            }
            ClaimedSource::Local { path, flags, options, .. } => {
                if let Some(option) = options.first() {
                    return Err(not_for_a_directory(&claimed.name, option).into());
                }
                let plan = LocalPlan::of(&claimed.name, path, flags, read_only, pod, pod_dir);
                let ready = ReadyVolume { path: plan.path.clone(), ours: true, read_only: claimed.read_only };
                let (what, tmpfs) = (format!("bind {path} to {}", plan.path.display()), self.tmpfs);
                let warning = self.fs.run(what, move || plan.set_up(tmpfs)).await??;
                let warning = warning.map(|message| VolumeWarning {
                    reason: "AlreadyMountedVolume",
                    message,
                    normal: false,
                });
                Ok((ready, warning))
            }
        }
    }
}

fn uid_of(pod: &Pod) -> PodUid {
    PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default())
}

fn failed(volume: &Volume, persistent: Option<String>, problem: Problem) -> Outcome {
    let error = VolumeError { volume: volume.name.clone(), persistent, problem };
    Outcome { problem: Some(error), ..Outcome::default() }
}
