//! One operation that brings a volume to a pod: stage and publish. Everything it needs has been
//! gathered; it holds the volume's turn, runs in a task of its own and leaves behind what came of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rubelet_core::ids::PodUid;
use rubelet_core::volumes::attach::attachment_name;
use rubelet_core::volumes::group::FsGroupPlan;
use rubelet_core::volumes::lifecycle::lifecycle_mode;
use rubelet_core::volumes::{CsiVolume, VolumeMode};
use rubelet_csi::{Access, AccessMode, Capability, PublishRequest, Secrets, StageRequest};
use tokio::time::Instant;

use super::Shared;
use super::disk;
use super::drivers::Driver;
use super::problem::{CsiCause, CsiProblem, CsiStep};
use super::state::{Reached, Turn};
use super::vol_data::VolumeData;

/// All that is needed to bring a volume to a pod.
pub(super) struct Work {
    pub(super) volume: CsiVolume,
    pub(super) uid: PodUid,
    pub(super) pod_dir: PathBuf,
    pub(super) driver: Arc<Driver>,
    pub(super) read_only: bool,
    pub(super) access_mode: AccessMode,
    /// What the attach left behind.
    pub(super) publish_context: BTreeMap<String, String>,
    pub(super) stage_secrets: Secrets,
    pub(super) publish_secrets: Secrets,
    /// The volume's parameters with what the driver wants to know of the pod.
    pub(super) publish_attributes: BTreeMap<String, String>,
    /// Options of the mount, an SELinux context among them if there is one.
    pub(super) mount_flags: Vec<String>,
    pub(super) selinux: String,
    pub(super) group: FsGroupPlan,
}

impl Work {
    fn is_block(&self) -> bool {
        self.volume.mode == VolumeMode::Block
    }

    fn capability(&self) -> Capability {
        let access = if self.is_block() {
            Access::Block
        } else {
            let group = match self.group {
                FsGroupPlan::Driver { group } => Some(group),
                _ => None,
            };
            Access::Mount { fs_type: self.volume.fs_type.clone(), flags: self.mount_flags.clone(), group }
        };
        Capability { access, mode: self.access_mode }
    }

    /// The facts for the directory of the staged volume.
    fn staged_data(&self, shared: &Shared) -> VolumeData {
        let data = VolumeData {
            handle: self.volume.handle.clone(),
            driver: self.volume.driver.clone(),
            selinux: self.selinux.clone(),
            ..VolumeData::default()
        };
        if self.is_block() { self.published_data(shared) } else { data }
    }

    /// The facts for the pod's directory.
    fn published_data(&self, shared: &Shared) -> VolumeData {
        let node = &shared.places.node_name;
        // As upstream, those of a device do not say.
        let lifecycle = if self.is_block() { "" } else { lifecycle_mode(&self.volume) };
        VolumeData {
            spec_name: self.volume.spec_name.clone(),
            handle: self.volume.handle.clone(),
            driver: self.volume.driver.clone(),
            node: node.clone(),
            attachment: attachment_name(&self.volume.handle, &self.volume.driver, node),
            lifecycle: lifecycle.to_owned(),
            selinux: self.selinux.clone(),
        }
    }

    /// Brings the volume to the pod, from wherever an earlier attempt left it.
    pub(super) async fn run(self, shared: Arc<Shared>, mut turn: Turn) -> Result<(), CsiProblem> {
        if !self.volume.inline && self.driver.can.stage_unstage && turn.staged != Reached::Done {
            let staged = self.stage(&shared, &mut turn).await;
            if let Err(problem) = staged {
                return Err(turn.stage.failed(problem, Instant::now()));
            }
            turn.stage.clear();
        }
        let published = self.publish_and_map(&shared, &mut turn).await;
        published.map_err(|problem| {
            turn.user(&self.uid, &self.volume.spec_name).set_up.failed(problem, Instant::now())
        })
    }

    async fn stage(&self, shared: &Arc<Shared>, turn: &mut Turn) -> Result<(), CsiProblem> {
        let step = if self.is_block() { CsiStep::SetUpDevice } else { CsiStep::MountDevice };
        let problem = |cause| CsiProblem::new(step, cause);
        let (places, volume, data) = (shared.places.clone(), self.volume.clone(), self.staged_data(shared));
        let what = format!("prepare the staging of volume {}", volume.spec_name);
        let prepared = shared.fs.run(what, move || disk::prepare_staging(&places, &volume, &data)).await;
        prepared.map_err(|error| problem(error.into()))?;
        let request = StageRequest {
            volume_id: self.volume.handle.clone(),
            staging_path: shared.places.staging(&self.volume),
            capability: self.capability(),
            publish_context: self.publish_context.clone(),
            volume_context: self.volume.attributes.clone(),
            secrets: self.stage_secrets.clone(),
        };
        let before = std::mem::replace(&mut turn.staged, Reached::Uncertain);
        match self.driver.client.stage(request).await {
            Ok(()) => {
                turn.staged = Reached::Done;
                Ok(())
            }
            Err(error) => {
                let cause = CsiCause::from(error);
                // What an earlier run of the agent may have staged stays in question, whatever is answered now.
                if before == Reached::Found {
                    turn.staged = Reached::Found;
                } else if cause.is_finished() {
                    turn.staged = Reached::No;
                    self.forget_staging(shared, turn).await;
                }
                Err(problem(cause))
            }
        }
    }

    /// Nothing was staged: what was made for it goes, unless something is mounted there all the same.
    async fn forget_staging(&self, shared: &Arc<Shared>, turn: &mut Turn) {
        let (places, volume) = (shared.places.clone(), self.volume.clone());
        let what = format!("clean up after the staging of volume {}", volume.spec_name);
        let removed = shared.fs.run(what, move || disk::remove_staging(&places, &volume)).await;
        if !matches!(removed, Ok(true)) {
            turn.staged = Reached::Uncertain;
        }
    }

    async fn publish_and_map(&self, shared: &Arc<Shared>, turn: &mut Turn) -> Result<(), CsiProblem> {
        let step = if self.is_block() { CsiStep::MapDevice } else { CsiStep::SetUp };
        let problem = |cause| CsiProblem::new(step, cause);
        // A walk that failed or was cut short needs no second publishing; a volume that is in use may want it.
        let again = turn.user(&self.uid, &self.volume.spec_name).ready;
        if again || turn.user(&self.uid, &self.volume.spec_name).published != Reached::Done {
            self.publish(shared, turn, again).await.map_err(problem)?;
        }
        if self.is_block() {
            let (places, volume, uid) = (shared.places.clone(), self.volume.clone(), self.uid.clone());
            let what = format!("map block volume {}", volume.spec_name);
            let bound = shared.fs.run(what, move || disk::bind_device(&places, &volume, &uid)).await;
            if !bound.map_err(|error| problem(error.into()))? {
                let target = shared.places.device_publish(&self.volume.spec_name, &self.uid);
                let text = format!(
                    "the driver said that the volume is published, but {} is no block device",
                    target.display()
                );
                return Err(problem(CsiCause::Untrue(text)));
            }
        }
        Ok(())
    }

    async fn publish(&self, shared: &Arc<Shared>, turn: &mut Turn, again: bool) -> Result<(), CsiCause> {
        let target = shared.places.target(&self.volume, &self.uid, &self.pod_dir);
        let what = format!("prepare to publish volume {}", self.volume.spec_name);
        let (places, volume, uid, pod_dir, data) = (
            shared.places.clone(),
            self.volume.clone(),
            self.uid.clone(),
            self.pod_dir.clone(),
            self.published_data(shared),
        );
        shared.fs.run(what, move || disk::prepare_target(&places, &volume, &uid, &pod_dir, &data)).await?;
        let stages = !self.volume.inline && self.driver.can.stage_unstage;
        let request = PublishRequest {
            volume_id: self.volume.handle.clone(),
            staging_path: stages.then(|| shared.places.staging(&self.volume)),
            target_path: target.clone(),
            capability: self.capability(),
            read_only: self.read_only,
            publish_context: self.publish_context.clone(),
            volume_context: self.publish_attributes.clone(),
            secrets: self.publish_secrets.clone(),
        };
        let user = turn.user(&self.uid, &self.volume.spec_name);
        let before = user.published;
        if !again {
            user.published = Reached::Uncertain;
        }
        if let Err(error) = self.driver.client.publish(request).await {
            let cause = CsiCause::from(error);
            // A pod that runs on the volume keeps its mount, and so does what was there before.
            if again {
                return Err(cause);
            }
            if before == Reached::Found {
                turn.user(&self.uid, &self.volume.spec_name).published = Reached::Found;
            } else if cause.is_finished() {
                self.forget_target(shared, turn).await;
            }
            return Err(cause);
        }
        let looked_at = target.clone();
        let what = format!("look at {}", target.display());
        if !shared.fs.run(what, move || disk::is_there(&looked_at)).await? {
            return Err(CsiCause::Untrue(format!(
                "the driver said that the volume is published, but nothing is at {}",
                target.display()
            )));
        }
        turn.user(&self.uid, &self.volume.spec_name).published = Reached::Done;
        Ok(())
    }

    /// Nothing was published: what was made for it goes, unless something is mounted there all the same.
    async fn forget_target(&self, shared: &Arc<Shared>, turn: &mut Turn) {
        let (places, volume, uid, pod_dir) =
            (shared.places.clone(), self.volume.clone(), self.uid.clone(), self.pod_dir.clone());
        let what = format!("clean up after publishing volume {}", volume.spec_name);
        let removed =
            shared.fs.run(what, move || disk::remove_target(&places, &volume, &uid, &pod_dir)).await;
        if matches!(removed, Ok(true)) {
            turn.user(&self.uid, &self.volume.spec_name).published = Reached::No;
        }
    }
}
