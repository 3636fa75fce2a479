//! Setting a volume up for a pod: look what is there, wait until it is attached, gather, then do it. Called by each
//! pod's worker as often as it likes; what is there already costs no call.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::storage::v1::CSIDriver;
use rubelet_core::ids::{PodUid, pod_uid};
use rubelet_core::volumes::group::{FsGroupPlan, FsGroupPolicy, fs_group_plan};
use rubelet_core::volumes::lifecycle::requires_republish;
use rubelet_core::volumes::{CsiVolume, VolumeMode};
use rubelet_linux::ownership::{self, Grant};
use tokio::time::Instant;

use super::paths::{escaped, is_file_name, mount, pod_device, pod_volume};
use super::problem::{CsiCause, CsiProblem, CsiStep};
use super::state::{Reached, Turn};
use super::vol_data::VolumeData;
use super::{Csi, CsiReady, CsiUse, Shared, disk};
use crate::group::hand_over;
use crate::volumes::{ReadyVolume, VolumeWarning};

/// How often a driver that asks for it (`requiresRepublish`) publishes again: upstream does with every sync of the pod.
const REPUBLISH: SignedDuration = SignedDuration::from_secs(60);
/// When what failed on a volume in use is tried again, where no back-off says otherwise.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

/// What a look at a volume says.
enum Look {
    /// The pod may use it, and nobody wants it published again.
    Ready,
    /// The pod may use it; it is to be published again.
    Again,
    /// It is to be brought to the pod.
    Missing,
}

impl Csi {
    /// Brings a volume to a pod, or says that it is there; idempotent. May be given up at any moment.
    ///
    /// # Errors
    /// What keeps the pod from having it. A volume that was there before stays: see [`CsiReady::behind`].
    pub async fn set_up(&self, volume: &CsiVolume, call: &CsiUse<'_>) -> Result<CsiReady, CsiProblem> {
        let shared = &self.0;
        let volume = &CsiVolume { read_only: call.read_only, ..volume.clone() };
        let uid = pod_uid(call.pod);
        let block = volume.mode == VolumeMode::Block;
        let step = if block { CsiStep::MapDevice } else { CsiStep::SetUp };
        // They become names of directories.
        for name in [escaped(&volume.spec_name), volume.driver.clone()] {
            if !is_file_name(&name) {
                return Err(CsiProblem::new(step, CsiCause::Name(name)));
            }
        }
        let object = shared.driver_object(&volume.driver, step).await;
        // From now on the pod's end has something to take down, were it only the word that the volume is in use.
        shared.table.begin(&uid, volume);
        let looked = {
            let mut turn = shared.table.turn(volume.unique_name()).await;
            let object = object.as_ref().ok().and_then(Option::as_deref);
            shared.look(&mut turn, volume, &uid, call, object).await?;
            let look = looked(&mut turn, &uid, volume, object, call.now);
            if matches!(look, Look::Missing) {
                turn.may_try(&uid, volume, step)?;
            }
            look
        };
        let done = match looked {
            Look::Ready => Ok(()),
            Look::Again | Look::Missing => {
                let object = object.as_ref().map(Option::as_deref);
                Box::pin(shared.bring(volume, &uid, call, object, step)).await
            }
        };
        let behind = match (done, looked) {
            (Ok(()), _) => None,
            (Err(problem), Look::Missing) => return Err(problem),
            (Err(problem), _) => Some(problem),
        };
        let grown = Box::pin(shared.grow(volume, &uid, call)).await?;
        let mut ready = CsiReady {
            volume: shared.ready_volume(volume, call),
            refresh_at: grown.refresh_at,
            behind: behind.or(grown.behind),
            warnings: grown.warnings,
        };
        let republish = object.is_ok_and(|object| requires_republish(object.as_deref()));
        let again = republish.then(|| call.now.checked_add(REPUBLISH).ok()).flatten();
        let retry = ready.behind.as_ref().and_then(|_| call.now.checked_add(RETRY).ok());
        ready.refresh_at = [ready.refresh_at, again, retry].into_iter().flatten().min();
        Ok(ready)
    }
}

impl Turn {
    /// Whether what is missing may be tried now: another pod may have the volume for itself, or the last attempt failed
    /// a moment ago.
    fn may_try(&mut self, uid: &PodUid, volume: &CsiVolume, step: CsiStep) -> Result<(), CsiProblem> {
        let now = Instant::now();
        if volume.access_modes == ["ReadWriteOncePod"] && self.used_by_other(uid) {
            return Err(CsiProblem::new(step, CsiCause::InUse));
        }
        self.stage.check(now)?;
        self.user(uid, &volume.spec_name).set_up.check(now)
    }
}

fn looked(
    turn: &mut Turn,
    uid: &PodUid,
    volume: &CsiVolume,
    object: Option<&CSIDriver>,
    now: Timestamp,
) -> Look {
    let user = turn.user(uid, &volume.spec_name);
    if !user.ready {
        return Look::Missing;
    }
    let due = user.at.is_none_or(|at| now.duration_since(at) >= REPUBLISH);
    let again = due && requires_republish(object) && user.set_up.check(Instant::now()).is_ok();
    if again { Look::Again } else { Look::Ready }
}

impl Shared {
    fn ready_volume(&self, volume: &CsiVolume, call: &CsiUse<'_>) -> ReadyVolume {
        match volume.mode {
            VolumeMode::Filesystem => ReadyVolume {
                path: mount(call.pod_dir, &volume.spec_name),
                ours: !call.read_only,
                read_only: call.read_only,
            },
            VolumeMode::Block => ReadyVolume {
                path: pod_device(call.pod_dir, &volume.spec_name),
                ours: false,
                read_only: call.read_only,
            },
        }
    }

    /// Finds out, once, what an earlier run of the agent or a kubelet left of the volume. What is mounted for the pod
    /// is taken over as it is.
    async fn look(
        &self,
        turn: &mut Turn,
        volume: &CsiVolume,
        uid: &PodUid,
        call: &CsiUse<'_>,
        object: Option<&CSIDriver>,
    ) -> Result<(), CsiProblem> {
        let step = if volume.mode == VolumeMode::Block { CsiStep::MapDevice } else { CsiStep::SetUp };
        if turn.staged == Reached::NotLooked {
            let places = self.places.clone();
            let staged = volume.clone();
            let what = format!("look for the staging of volume {}", volume.spec_name);
            let there = self.fs.run(what, move || {
                let (home, staging) = (places.staging_data(&staged), places.staging(&staged));
                // Facts that cannot be read are a trace too.
                Ok(!matches!(VolumeData::load(&home), Ok(None)) || disk::is_there(&staging)?)
            });
            let there = there.await.map_err(|error| CsiProblem::new(step, error.into()))?;
            turn.staged = if there { Reached::Found } else { Reached::No };
        }
        if turn.user(uid, &volume.spec_name).published != Reached::NotLooked {
            return Ok(());
        }
        let what = format!("look for volume {} of pod {uid}", volume.spec_name);
        // While the driver is not there, a mount is believed to have been finished.
        let hands = self.drivers.get(&volume.driver).is_some_and(|driver| !driver.can.volume_mount_group);
        let plan = FsGroupPolicy::of(object).map(|policy| fs_group_plan(policy, false, volume, call.pod));
        let group = match plan {
            Ok(FsGroupPlan::Agent { group, .. }) if hands => Some(group),
            _ => None,
        };
        let (places, wanted, pod, pod_dir) =
            (self.places.clone(), volume.clone(), uid.clone(), call.pod_dir.to_owned());
        let found = self.fs.run(what, move || match wanted.mode {
            VolumeMode::Filesystem => found_mount(&wanted, &pod_dir, group),
            VolumeMode::Block => {
                let target = places.device_publish(&wanted.spec_name, &pod);
                let link = pod_device(&pod_dir, &wanted.spec_name);
                if !disk::is_there(&target)? && std::fs::symlink_metadata(link).is_err() {
                    return Ok((Reached::No, false));
                }
                // Whose device it is is told by the facts of the volume.
                let data = VolumeData::load(&places.device_data(&wanted.spec_name));
                let same = data.ok().flatten().is_some_and(|data| data.handle == wanted.handle);
                Ok((Reached::Found, same && disk::bind_device(&places, &wanted, &pod)?))
            }
        });
        let (published, ready) = found.await.map_err(|error| CsiProblem::new(step, error.into()))?;
        let user = turn.user(uid, &volume.spec_name);
        (user.published, user.ready) = (published, ready);
        if ready {
            user.published = Reached::Done;
            user.size.taken_over = true;
        }
        Ok(())
    }

    /// Gathers what is needed and has it done, in a task that goes on though the caller gives up; then hands the files
    /// to the pod's group, which stops when the caller gives up.
    async fn bring(
        self: &Arc<Self>,
        volume: &CsiVolume,
        uid: &PodUid,
        call: &CsiUse<'_>,
        object: Result<Option<&CSIDriver>, &CsiProblem>,
        step: CsiStep,
    ) -> Result<(), CsiProblem> {
        let object = object.map_err(Clone::clone)?;
        let work = self.gather(volume, uid, call, object, step).await?;
        let mut turn = self.table.turn(volume.unique_name()).await;
        if !turn.user(uid, &volume.spec_name).ready {
            turn.may_try(uid, volume, step)?;
        }
        let group = work.group;
        let task = tokio::spawn(work.run(self.clone(), turn));
        task.await.unwrap_or_else(|_| Err(CsiProblem::new(step, CsiCause::Lost)))?;
        // As upstream also of what was published again: the driver may have brought new files.
        let handed = self.hand_to_group(volume, call, group).await;
        let mut turn = self.table.turn(volume.unique_name()).await;
        let user = turn.user(uid, &volume.spec_name);
        if let Err(cause) = handed {
            return Err(user.set_up.failed(CsiProblem::new(step, cause), Instant::now()));
        }
        user.set_up.clear();
        (user.ready, user.at) = (true, Some(call.now));
        Ok(())
    }

    /// Gives the files to the pod's group, where that is the agent's to do.
    async fn hand_to_group(
        &self,
        volume: &CsiVolume,
        call: &CsiUse<'_>,
        plan: FsGroupPlan,
    ) -> Result<(), CsiCause> {
        let FsGroupPlan::Agent { group, trust_root } = plan else { return Ok(()) };
        let target = mount(call.pod_dir, &volume.spec_name);
        let grant = Grant { group, read_only: false };
        let root = target.clone();
        let what = format!("look whose {} is", target.display());
        let trusted =
            trust_root && self.fs.run_in(&target, what, move || ownership::is_handed(&root, group)).await?;
        if trusted {
            return Ok(());
        }
        let handed = hand_over(&self.fs, self.notices.as_ref(), call.pod, &target, grant).await;
        handed.map_err(|error| {
            let why = CsiCause::from(error);
            CsiCause::Node(format!("applyFSGroup failed for vol {}: {why}", volume.handle))
        })
    }
}

/// Whether the volume is mounted for the pod: the facts are there and so is a mount. One that was cut short before the
/// files were handed to the pod's group, which ends at the root, is not ready.
fn found_mount(volume: &CsiVolume, pod_dir: &Path, group: Option<u32>) -> std::io::Result<(Reached, bool)> {
    let target = mount(pod_dir, &volume.spec_name);
    let data = match VolumeData::load(&pod_volume(pod_dir, &volume.spec_name)) {
        Ok(None) if !disk::is_there(&target)? => return Ok((Reached::No, false)),
        Ok(data) => data,
        Err(_) => None,
    };
    let same = data.is_some_and(|data| data.driver == volume.driver && data.handle == volume.handle);
    if !same || !disk::is_mounted(&target)? {
        return Ok((Reached::Found, false));
    }
    let handed = match group {
        Some(group) => ownership::is_handed(&target, group)?,
        None => true,
    };
    Ok((Reached::Found, handed))
}

/// What came of letting a volume grow.
#[derive(Default)]
pub(super) struct Grown {
    pub(super) refresh_at: Option<Timestamp>,
    pub(super) behind: Option<CsiProblem>,
    pub(super) warnings: Vec<VolumeWarning>,
}

/// How long a volume may take to be attached (upstream `podAttachAndMountTimeout`).
pub(super) const ATTACH_DEADLINE: Duration = Duration::from_secs(123);
