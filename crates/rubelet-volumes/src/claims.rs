//! Claimed volumes of pods: the claim and its PersistentVolume are asked for until the volume is mounted, and then
//! known from the journal while the pod has it, so that a pod at rest, a restart or an API server that is away costs
//! nothing.
//!
//! Owns the order; what claims mean is `rubelet_core::claims`'.

use std::collections::BTreeMap;
use std::path::Path;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Volume};
use rubelet_core::claims::{
    Claim, ClaimError, ClaimFacts, ClaimedSource, ClaimedVolume, VolumeUse, bound_volume, claimed_volume,
};
use rubelet_core::env::Missing;
use rubelet_core::ids::PodUid;
use rubelet_core::volumes::VolumeMode;
use rubelet_linux::tool::Tools;

use crate::csi::CsiUse;
use crate::error::Problem;
use crate::group::hand_over;
use crate::journal::MountSource;
use crate::kinds::{LocalPlan, LocalStep, NfsPlan, VolumePlan};
use crate::volumes::{Mounted, Outcome, ReadyVolume, VolumeFacts, VolumeWarning, Volumes};

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
        let mut shared: BTreeMap<String, Vec<(&Volume, ClaimedVolume)>> = BTreeMap::new();
        for ((volume, _), found) in wanted.into_iter().zip(found) {
            match found {
                Ok(claimed) => shared.entry(claimed.name.clone()).or_default().push((volume, claimed)),
                Err(problem) => outcomes.push((volume, Outcome::failed(&volume.name, None, problem.into()))),
            }
        }
        let mounts = shared.into_values().map(async |of_one| {
            let mut outcomes = Vec::with_capacity(of_one.len());
            // One after another: volumes of one claim share a mount.
            for (volume, claimed) in of_one {
                let read_only = !written.contains(&claimed.name);
                let plugin = claimed.source.plugin();
                let _working = self.pending.begin(&uid, &volume.name);
                let source = MountSource::Claimed(claimed.clone());
                let mount = self.mount(&claimed, &volume.name, read_only, pod, pod_dir, facts);
                let mount = self.journaled(&uid, &volume.name, source, mount);
                let outcome = match self.observed(plugin, "volume_mount", mount).await {
                    Ok(mounted) => mounted.into_outcome(&volume.name, Some(&claimed.name)),
                    Err(problem) => Outcome::failed(&volume.name, Some(&claimed.name), problem),
                };
                outcomes.push((volume, outcome));
            }
            outcomes
        });
        outcomes.extend(join_all(mounts).await.into_iter().flatten());
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
        name: &str,
        read_only: bool,
        pod: &Pod,
        pod_dir: &Path,
        facts: &VolumeFacts,
    ) -> Result<Mounted, Problem> {
        if let ClaimedSource::Csi(volume) = &claimed.source {
            let claim = Some((claimed.claim.0.as_str(), claimed.claim.1.as_str()));
            let call = CsiUse { pod, pod_dir, name, read_only, claim, now: facts.now };
            let mut mounted = self.set_up_csi(volume, &call).await?;
            mounted.ready.read_only = claimed.read_only;
            return Ok(mounted);
        }
        match &claimed.source {
            ClaimedSource::Csi(_) => Err(Problem::Unsupported("csi")),
            ClaimedSource::Local { .. } => self.mount_local(claimed, read_only, pod, pod_dir).await,
            _ if claimed.mode == VolumeMode::Block => Err(Problem::Unsupported("block device")),
            ClaimedSource::Nfs(volume) => {
                let plan = VolumePlan::Nfs(NfsPlan::of(&claimed.name, volume, pod_dir));
                let ready = self.execute(plan, facts.now).await?;
                let read_only = ready.read_only || claimed.read_only;
                Ok(Mounted::plain(ReadyVolume { read_only, ..ready }))
            }
            ClaimedSource::HostPath(source) => {
                let ready = self.execute(VolumePlan::host_path(source), facts.now).await?;
                Ok(Mounted::plain(ReadyVolume { read_only: claimed.read_only, ..ready }))
            }
        }
    }

    /// Binds a directory or the file system of a device, or hands the device itself out.
    async fn mount_local(
        &self,
        claimed: &ClaimedVolume,
        read_only: bool,
        pod: &Pod,
        pod_dir: &Path,
    ) -> Result<Mounted, Problem> {
        let ClaimedSource::Local { path, flags, options, fs_type } = &claimed.source else {
            return Err(Problem::Unsupported("local"));
        };
        let (place, tmpfs) = (Path::new(path).to_owned(), self.tmpfs);
        let plan = LocalPlan::of(&claimed.name, path, flags, read_only, pod, pod_dir);
        let plan = plan.with_file_system(fs_type, options);
        if claimed.mode == VolumeMode::Block {
            let what = format!("hand out device {path}");
            let link = self.fs.run_in(&place, what, move || plan.map(tmpfs)).await??;
            return Ok(Mounted::plain(ReadyVolume { path: link, ours: true, read_only: claimed.read_only }));
        }
        let ready = ReadyVolume { path: plan.path.clone(), ours: true, read_only: claimed.read_only };
        let (preparing, what) = (plan.clone(), format!("prepare {path} for {}", plan.path.display()));
        let step =
            self.fs.run_in(&place, what, move || preparing.prepare(tmpfs, &Tools::default())).await??;
        let Some(LocalStep { from, grant, warning }) = step else { return Ok(Mounted::plain(ready)) };
        // Before it is bound, so that an agent killed in between does all of it again.
        if let Some(grant) = grant {
            hand_over(&self.fs, self.notices.as_ref(), pod, &from, grant).await?;
        }
        let what = format!("bind {} to {}", from.display(), plan.path.display());
        self.fs.run_in(&place, what, move || plan.bind(&from)).await?;
        let warnings = warning.into_iter().map(|message| VolumeWarning {
            reason: "AlreadyMountedVolume",
            message,
            normal: false,
        });
        Ok(Mounted { warnings: warnings.collect(), ..Mounted::plain(ready) })
    }
}

fn uid_of(pod: &Pod) -> PodUid {
    PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default())
}
