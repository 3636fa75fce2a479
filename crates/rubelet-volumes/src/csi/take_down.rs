//! Taking volumes down: unpublished for a pod with the proof that nothing of it runs, unstaged when nobody has them any
//! more. A pod waits for its own volumes to be unpublished, nobody for the unstaging.

use std::path::Path;
use std::sync::{Arc, PoisonError, Weak};

use futures::future::join_all;
use rubelet_core::ids::PodUid;
use rubelet_core::lifecycle::ContainersStopped;
use rubelet_core::volumes::{CsiVolume, VolumeMode};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{info, warn};

use super::disk::{self, Found};
use super::paths::{escaped, mount, pod_device, pod_volume};
use super::problem::{CsiCause, CsiProblem, CsiProblems, CsiStep};
use super::state::{Reached, Turn};
use super::vol_data::{entries, gone};
use super::{Csi, Shared};

impl Csi {
    /// Unpublishes every volume of drivers that the pod has, those of an earlier run of the agent and of a kubelet
    /// included; idempotent. `known` are volumes that the caller has written down for the pod: they count where the
    /// pod's directory tells nothing. Unstaging follows by itself.
    ///
    /// # Errors
    /// Every volume that is still there, or may be.
    pub async fn tear_down(
        &self,
        proof: &ContainersStopped,
        pod_dir: &Path,
        known: &[CsiVolume],
    ) -> Result<(), CsiProblems> {
        let shared = &self.0;
        let uid = proof.uid();
        shared.drivers.forget(uid);
        let (places, dir) = (shared.places.clone(), pod_dir.to_owned());
        let what = format!("look for the volumes of pod {uid}");
        let found = shared.fs.run(what, move || disk::of_pod(&places, &dir)).await.map_err(|error| {
            CsiProblems(vec![(String::new(), CsiProblem::new(CsiStep::TearDown, error.into()))])
        })?;
        let (volumes, unknown) = all_of(found, shared.table.of_pod(uid), known);
        let taken = volumes.into_iter().map(async |volume| {
            let name = volume.spec_name.clone();
            (name, Box::pin(shared.take_down(volume, uid, pod_dir)).await)
        });
        let cleared = unknown.into_iter().map(async |(name, mode, why)| {
            let problem = shared.clear_unknown(&name, mode, uid, pod_dir, why).await;
            (name, problem)
        });
        let (taken, cleared) = futures::future::join(join_all(taken), join_all(cleared)).await;
        let problems: Vec<_> = taken
            .into_iter()
            .chain(cleared)
            .filter_map(|(name, result)| Some((name, result.err()?)))
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(CsiProblems(problems)) }
    }

    /// Unstages what no pod has, from whatever time it is. To be called when every pod's source has told what it wants,
    /// and then seldom: it reads directories.
    pub async fn unstage_unused(&self) {
        let places = self.0.places.clone();
        let looked = self.0.fs.run("look for staged volumes", move || {
            disk::remove_empty_stagings(&places)?;
            disk::staged(&places)
        });
        match looked.await {
            Ok(volumes) => {
                for volume in volumes {
                    self.0.unstage_later(volume);
                }
            }
            Err(error) => warn!("staged volumes cannot be looked for: {}", CsiCause::from(error)),
        }
    }

    /// Driver and unique name of every volume that may be staged or published on this node, inline ones left out, from
    /// disk and memory: what `volumesInUse` of the node must not lose when the agent starts.
    ///
    /// # Errors
    /// The directories cannot be read.
    pub async fn in_use(&self) -> Result<Vec<(String, String)>, CsiProblem> {
        let places = self.0.places.clone();
        let found = self.0.fs.run("look for volumes in use", move || {
            let mut volumes = disk::staged(&places)?;
            for pod in entries(&places.pods())? {
                volumes.extend(disk::of_pod(&places, &pod.path())?.iter().filter_map(Found::volume));
            }
            Ok(volumes)
        });
        let found = found.await.map_err(|error| CsiProblem::new(CsiStep::TearDown, error.into()))?;
        let mut names: Vec<_> = found
            .into_iter()
            .filter(|volume| !volume.inline)
            .map(|volume| (volume.driver.clone(), volume.unique_name()))
            .collect();
        names.sort();
        names.dedup();
        Ok(names)
    }
}

/// What nobody knows the volume of: the name of its directory, and why.
type Unknown = (String, VolumeMode, String);

/// Every volume of a pod once, from what its directory, memory and the caller say, in this order.
fn all_of(found: Vec<Found>, memory: Vec<CsiVolume>, known: &[CsiVolume]) -> (Vec<CsiVolume>, Vec<Unknown>) {
    let mut volumes: Vec<CsiVolume> = Vec::new();
    let mut unknown = Vec::new();
    for found in found {
        let told = memory
            .iter()
            .chain(known)
            .find(|volume| escaped(&volume.spec_name) == found.name && volume.mode == found.mode)
            .cloned();
        match (found.volume().or(told), found.data) {
            (Some(volume), _) => volumes.push(volume),
            (None, Err(why)) => unknown.push((found.name, found.mode, why)),
            (None, Ok(_)) => {
                unknown.push((found.name, found.mode, "it has no vol_data.json".to_owned()));
            }
        }
    }
    let rest =
        memory.into_iter().chain(known.iter().filter(|volume| volume.mode == VolumeMode::Block).cloned());
    for volume in rest {
        let is_same = |present: &CsiVolume| {
            present.unique_name() == volume.unique_name() && present.spec_name == volume.spec_name
        };
        if !volumes.iter().any(is_same) {
            volumes.push(volume);
        }
    }
    (volumes, unknown)
}

impl Shared {
    /// A directory whose volume nobody knows goes when nothing is mounted in it.
    async fn clear_unknown(
        &self,
        name: &str,
        mode: VolumeMode,
        uid: &PodUid,
        pod_dir: &Path,
        why: String,
    ) -> Result<(), CsiProblem> {
        let problem = |cause| CsiProblem::new(CsiStep::TearDown, cause);
        let (places, uid, pod_dir, spec_name) =
            (self.places.clone(), uid.clone(), pod_dir.to_owned(), name.to_owned());
        let what = format!("clean up volume {name}");
        let removed = self.fs.run(what, move || match mode {
            VolumeMode::Filesystem => {
                disk::remove_place(&mount(&pod_dir, &spec_name), &pod_volume(&pod_dir, &spec_name))
            }
            VolumeMode::Block => {
                let target = places.device_publish(&spec_name, &uid);
                if disk::is_there(&target)? {
                    return Ok(false);
                }
                gone(std::fs::remove_file(pod_device(&pod_dir, &spec_name)))?;
                Ok(true)
            }
        });
        match removed.await {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(problem(CsiCause::Node(format!("it is mounted, and nobody knows by whom: {why}"))))
            }
            Err(error) => Err(problem(error.into())),
        }
    }

    /// Unpublishes one volume, in a task that goes on though the caller gives up.
    async fn take_down(
        self: &Arc<Self>,
        volume: CsiVolume,
        uid: &PodUid,
        pod_dir: &Path,
    ) -> Result<(), CsiProblem> {
        let mut turn = self.table.turn(volume.unique_name()).await;
        turn.user(uid, &volume.spec_name).tear_down.check(Instant::now())?;
        let (tell, told) = oneshot::channel();
        let (shared, uid, pod_dir) = (self.clone(), uid.clone(), pod_dir.to_owned());
        tokio::spawn(async move {
            let gone = shared.unpublish(&mut turn, &volume, &uid, &pod_dir).await;
            let is_gone = gone.is_ok();
            // Nobody may be listening any more.
            let _ = tell.send(gone);
            if is_gone && !shared.table.is_used(&volume.unique_name()) {
                shared.unstage_or_retry(turn, volume).await;
            }
        });
        told.await.unwrap_or_else(|_| Err(CsiProblem::new(CsiStep::TearDown, CsiCause::Lost)))
    }

    async fn unpublish(
        &self,
        turn: &mut Turn,
        volume: &CsiVolume,
        uid: &PodUid,
        pod_dir: &Path,
    ) -> Result<(), CsiProblem> {
        // It was only waited for: nothing was asked of the driver.
        let published = turn.user(uid, &volume.spec_name).published;
        let untouched = matches!(published, Reached::No | Reached::NotLooked);
        let undone = if untouched {
            self.forget_traces(volume, uid, pod_dir, published == Reached::NotLooked).await
        } else {
            Ok(false)
        };
        let undone = match undone {
            Ok(true) => Ok(()),
            Ok(false) => {
                let user = turn.user(uid, &volume.spec_name);
                (user.published, user.ready) = (Reached::Uncertain, false);
                self.ask_to_unpublish(volume, uid, pod_dir).await
            }
            Err(problem) => Err(problem),
        };
        match undone {
            Ok(()) => {
                turn.users.remove(&(uid.clone(), volume.spec_name.clone()));
                self.table.end(uid, volume);
                Ok(())
            }
            Err(problem) => Err(turn.user(uid, &volume.spec_name).tear_down.failed(problem, Instant::now())),
        }
    }

    /// Takes away what was made for a volume that was never published; `false` when there is more than that. `earlier`:
    /// an earlier run of the agent may have asked for it, so that every trace counts.
    async fn forget_traces(
        &self,
        volume: &CsiVolume,
        uid: &PodUid,
        pod_dir: &Path,
        earlier: bool,
    ) -> Result<bool, CsiProblem> {
        let (places, traced, pod, dir) =
            (self.places.clone(), volume.clone(), uid.clone(), pod_dir.to_owned());
        let what = format!("look at volume {} of pod {uid}", volume.spec_name);
        let done = self.fs.run(what, move || {
            let target = places.target(&traced, &pod, &dir);
            let trace = match traced.mode {
                VolumeMode::Filesystem => pod_volume(&dir, &traced.spec_name),
                VolumeMode::Block => pod_device(&dir, &traced.spec_name),
            };
            if disk::is_there(&target)? || earlier && disk::is_there(&trace)? {
                return Ok(false);
            }
            disk::remove_target(&places, &traced, &pod, &dir)
        });
        done.await.map_err(|error| CsiProblem::new(CsiStep::TearDown, error.into()))
    }

    async fn ask_to_unpublish(
        &self,
        volume: &CsiVolume,
        uid: &PodUid,
        pod_dir: &Path,
    ) -> Result<(), CsiProblem> {
        let block = volume.mode == VolumeMode::Block;
        let step = if block { CsiStep::UnmapDevice } else { CsiStep::TearDown };
        let problem = |cause| CsiProblem::new(step, cause);
        let driver = self
            .drivers
            .get(&volume.driver)
            .ok_or_else(|| problem(CsiCause::NotRegistered(volume.driver.clone())))?;
        if block {
            let (places, bound, pod) = (self.places.clone(), volume.clone(), uid.clone());
            let what = format!("unmap block volume {}", volume.spec_name);
            let unbound = self.fs.run(what, move || disk::unbind_device(&places, &bound, &pod)).await;
            unbound.map_err(|error| problem(error.into()))?;
        }
        let target = self.places.target(volume, uid, pod_dir);
        let unpublished = driver.client.unpublish(&volume.handle, &target).await;
        unpublished.map_err(|error| problem(error.into()))?;
        let (places, left, pod, dir) = (self.places.clone(), volume.clone(), uid.clone(), pod_dir.to_owned());
        let what = format!("clean up {}", target.display());
        let removed = self.fs.run(what, move || disk::remove_target(&places, &left, &pod, &dir)).await;
        if removed.map_err(|error| problem(error.into()))? {
            return Ok(());
        }
        Err(problem(CsiCause::Untrue(format!(
            "the driver said that the volume is unpublished, but {} is still mounted",
            target.display()
        ))))
    }

    /// Unstages a volume now, and has it tried again until it is done or somebody uses it.
    async fn unstage_or_retry(self: &Arc<Self>, mut turn: Turn, volume: CsiVolume) {
        if let Err(problem) = self.unstage(&mut turn, &volume).await {
            warn!("{} for volume {:?} : {problem}", problem.step.name(), volume.unique_name());
            turn.unstage.failed(problem, Instant::now());
            drop(turn);
            self.unstage_later(volume);
        }
    }

    /// Has a volume unstaged by a task of its own, which ends when that is done, or when somebody uses the volume.
    fn unstage_later(self: &Arc<Self>, volume: CsiVolume) {
        let name = volume.unique_name();
        if !self.unstaging.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
            return;
        }
        let shared: Weak<Self> = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut told = None;
            while let Some(shared) = shared.upgrade() {
                // Before the look: a driver that registers meanwhile is not missed.
                let registered = shared.drivers.registered();
                let registered = registered.notified();
                let mut turn = shared.table.turn(name.clone()).await;
                let too_early = turn.unstage.until().is_some_and(|until| until > Instant::now());
                let problem = match too_early {
                    true => None,
                    false => match shared.unstage(&mut turn, &volume).await {
                        Ok(()) => {
                            // In turn: who fails next to it begins anew.
                            shared.unstaging.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
                            return;
                        }
                        Err(problem) => Some(turn.unstage.failed(problem, Instant::now())),
                    },
                };
                // Each problem is told once.
                if let Some(problem) = &problem
                    && told.as_ref() != Some(problem)
                {
                    warn!("{} for volume {name:?} : {problem}", problem.step.name());
                    told = Some(problem.clone());
                }
                let until = turn.unstage.until().filter(|until| *until > Instant::now());
                drop(turn);
                drop(shared);
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    // It failed without a back-off: the driver is not there.
                    None => registered.await,
                }
            }
        });
    }

    /// Unstages a volume that nobody has; one that somebody has is left as it is, and that is no error.
    async fn unstage(&self, turn: &mut Turn, volume: &CsiVolume) -> Result<(), CsiProblem> {
        let problem = |cause| CsiProblem::new(CsiStep::UnmountDevice, cause);
        let name = volume.unique_name();
        if volume.inline || self.table.is_used(&name) {
            turn.unstage.clear();
            return Ok(());
        }
        let (places, looked_at) = (self.places.clone(), volume.clone());
        let what = format!("look who uses volume {name}");
        let looked = self.fs.run(what, move || {
            let users = disk::users(&places, &looked_at)?;
            let traces = disk::is_there(&places.staging(&looked_at))?
                || disk::is_there(&places.staging_data(&looked_at))?;
            Ok((users, traces))
        });
        let (users, traces) = looked.await.map_err(|error| problem(error.into()))?;
        if !users.is_empty() {
            info!("volume {name:?} stays staged, it is used by {}", users.join(", "));
            turn.unstage.clear();
            return Ok(());
        }
        if traces {
            self.ask_to_unstage(turn, volume).await?;
        }
        turn.staged = Reached::No;
        turn.stage.clear();
        turn.unstage.clear();
        if let Some(api) = &self.api {
            // A pod that has begun to set it up meanwhile has said again that it is in use.
            self.table.unless_used(&name, || api.release_volume(&name));
        }
        Ok(())
    }

    async fn ask_to_unstage(&self, turn: &mut Turn, volume: &CsiVolume) -> Result<(), CsiProblem> {
        let problem = |cause| CsiProblem::new(CsiStep::UnmountDevice, cause);
        let driver = self
            .drivers
            .get(&volume.driver)
            .ok_or_else(|| problem(CsiCause::NotRegistered(volume.driver.clone())))?;
        let staging = self.places.staging(volume);
        if driver.can.stage_unstage {
            turn.staged = Reached::Uncertain;
            let unstaged = driver.client.unstage(&volume.handle, &staging).await;
            unstaged.map_err(|error| problem(error.into()))?;
        }
        let (places, left) = (self.places.clone(), volume.clone());
        let what = format!("clean up {}", staging.display());
        let removed = self.fs.run(what, move || disk::remove_staging(&places, &left)).await;
        if removed.map_err(|error| problem(error.into()))? {
            return Ok(());
        }
        Err(problem(CsiCause::Untrue(format!(
            "the driver said that the volume is unstaged, but {} is still mounted",
            staging.display()
        ))))
    }
}
