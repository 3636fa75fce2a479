//! Takes away what was mounted for a pod, by layout and journal, in this run of the agent or an earlier one, an upstream
//! kubelet's included. Needs no spec and no API, and nothing but the proof that the pod's containers are gone.
//!
//! Each volume goes by itself, so that one that hangs or is busy keeps none of the others. Nothing is deleted across a
//! mount point, and what is mounted is not looked at: its server may be gone. Called by the pod's worker at its end,
//! and by the sweep for pods that are long gone.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use futures::future::{join, join_all};
use rubelet_core::ids::PodUid;
use rubelet_core::lifecycle::ContainersStopped;
use rubelet_linux::fs_pool::FsError;
use rubelet_linux::{mounts, remove};

use super::Volumes;
use crate::csi::CsiProblems;
use crate::kinds;
use crate::layout::{self, Home};

/// A pod's volumes that are still there, at least one.
#[derive(Debug)]
pub struct TearDownErrors(pub Vec<TearDownError>);

/// Why volumes are still there.
#[derive(Debug, thiserror::Error)]
pub enum TearDownError {
    /// The file system did not do it.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Drivers did not do it.
    #[error(transparent)]
    Csi(#[from] CsiProblems),
    /// The journal has volumes of drivers, and this agent speaks to none.
    #[error("volumes of CSI drivers are mounted, and this agent has no drivers")]
    NoDrivers,
}

impl std::error::Error for TearDownErrors {}

impl fmt::Display for TearDownErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{error}")?;
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                write!(f, ": {cause}")?;
                source = cause.source();
            }
        }
        Ok(())
    }
}

impl Volumes {
    /// Unmounts and removes every volume that was made for a pod, in this run of the agent or an earlier one, and
    /// forgets its tokens; idempotent, needs no spec. hostPaths are never touched.
    ///
    /// # Errors
    /// Every volume that is still there, one with a foreign mount below it for one: nothing below that is deleted.
    pub async fn tear_down(&self, proof: &ContainersStopped, pod_dir: &Path) -> Result<(), TearDownErrors> {
        let uid = proof.uid();
        if let Some(tokens) = &self.tokens {
            tokens.forget(uid);
        }
        // Sub-paths lie above volumes.
        self.take(format!("remove the sub-paths of pod {uid}"), pod_dir, rubelet_linux::sub_path::tear_down)
            .await
            .map_err(one)?;
        let homes =
            self.take(format!("look for the volumes of pod {uid}"), pod_dir, homes_of).await.map_err(one)?;
        let homes = join_all(homes.into_iter().map(|(home, volume)| self.take_volume(home, volume)));
        let (homes, drivers) = join(homes, self.take_driven(proof, pod_dir)).await;
        let errors = homes.into_iter().filter_map(Result::err).map(TearDownError::from);
        let errors: Vec<TearDownError> = errors.chain(drivers.err()).collect();
        if !errors.is_empty() {
            return Err(TearDownErrors(errors));
        }
        self.take(format!("remove the volumes of pod {uid}"), pod_dir, remove_homes).await.map_err(one)?;
        self.step("forget record");
        self.journal.forget(uid).await.map_err(one)?;
        self.step("forgot record");
        Ok(())
    }

    /// Pods that have, or may have, something mounted outside of their directories.
    pub fn journaled_pods(&self) -> Vec<PodUid> {
        self.journal.pods()
    }

    /// Gives back volumes of drivers that no pod has, from whatever time they are. To be called when every source has
    /// told its pods, and then seldom: it reads directories.
    pub async fn unstage_unused(&self) {
        if let Some(csi) = &self.csi {
            csi.unstage_unused().await;
        }
    }

    /// One step with directories of the agent's own.
    async fn take<T: Send + 'static>(
        &self,
        what: String,
        pod_dir: &Path,
        work: fn(&Path) -> io::Result<T>,
    ) -> Result<T, FsError> {
        self.step(&what);
        let dir = pod_dir.to_owned();
        let done = self.fs.run(what, move || work(&dir)).await;
        self.step("done");
        done
    }

    async fn take_volume(&self, home: Home, volume: PathBuf) -> Result<(), FsError> {
        let what = format!("remove volume {}", volume.display());
        self.step(&what);
        let hangs = self.fs.hangs(&volume);
        let done = self.fs.run(what, move || remove_volume(home, &volume, hangs)).await;
        self.step("removed volume");
        done
    }

    async fn take_driven(&self, proof: &ContainersStopped, pod_dir: &Path) -> Result<(), TearDownError> {
        let known = self.journal.csi_volumes(proof.uid());
        let Some(csi) = &self.csi else {
            return if known.is_empty() { Ok(()) } else { Err(TearDownError::NoDrivers) };
        };
        self.step("unpublish");
        let done = csi.tear_down(proof, pod_dir, &known).await;
        self.step("unpublished");
        Ok(done?)
    }
}

fn one(error: FsError) -> TearDownErrors {
    TearDownErrors(vec![error.into()])
}

/// The volumes that have a directory of the agent's own, and of which kind they are.
fn homes_of(pod_dir: &Path) -> io::Result<Vec<(Home, PathBuf)>> {
    let mut found = Vec::new();
    for home in Home::ALL {
        let entries = match fs::read_dir(home.dir(pod_dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            found.push((home, entry?.path()));
        }
    }
    Ok(found)
}

/// Unmounts a volume and removes its directory, with what is in it where that is the pod's own. `hangs`: something in
/// it does not answer, so that the kernel is told to give up on it when it is still in use: no container uses it.
fn remove_volume(home: Home, volume: &Path, hangs: bool) -> io::Result<()> {
    // What a container mounted over the volume lies above what the agent mounted.
    let unmounted = mounts::unmount_all(volume).or_else(|error| {
        if !hangs || error.kind() != io::ErrorKind::ResourceBusy {
            return Err(error);
        }
        mounts::give_up(volume);
        mounts::unmount_all(volume)
    });
    let named = |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    unmounted.map_err(|error| named("unmount", error))?;
    if home == Home::Local {
        // Before its directory goes, by which an agent that is killed here is told to do it again.
        kinds::release_local(volume)?;
    }
    let removed = if Home::OURS.contains(&home) {
        remove::remove_tree(volume).or_else(|error| match error.kind() {
            io::ErrorKind::NotADirectory => fs::remove_file(volume),
            _ => Err(error),
        })
    } else {
        // Nothing is ever deleted through a bind that went unnoticed.
        fs::remove_dir(volume)
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named("remove", error)),
        _ => Ok(()),
    }
}

/// Removes the directories that volumes were in, and the marks of those that were made; gives back local devices.
fn remove_homes(pod_dir: &Path) -> io::Result<()> {
    kinds::tear_down_devices(pod_dir)?;
    let not_found = |removed: io::Result<()>| match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    for home in Home::ALL {
        not_found(fs::remove_dir(home.dir(pod_dir)))?;
    }
    not_found(remove::remove_tree(&layout::marks(pod_dir)))
}

/// All of it at once, for tests of kinds.
#[cfg(test)]
pub(crate) fn tear_down(pod_dir: &Path) -> io::Result<()> {
    rubelet_linux::sub_path::tear_down(pod_dir)?;
    for (home, volume) in homes_of(pod_dir)? {
        remove_volume(home, &volume, false)?;
    }
    remove_homes(pod_dir)
}
