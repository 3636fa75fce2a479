//! How full a volume is and whether it is well, as its driver tells. Never more than one question about a volume at a
//! time: a driver that does not answer costs one call, however often it is asked for.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use rubelet_core::ids::PodUid;
use rubelet_core::volumes::CsiVolume;
use rubelet_csi::{StatsRequest, VolumeStats};

use super::problem::{CsiCause, CsiProblem, CsiStep};
use super::{Csi, Shared};

/// A question that is under way.
struct Asked {
    shared: Arc<Shared>,
    target: PathBuf,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.shared.measuring.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.target);
    }
}

impl Csi {
    /// What the driver tells of a pod's volume. The condition is left out unless the driver says that it knows it.
    ///
    /// # Errors
    /// It cannot tell (`NotSupported`), does not, or has not answered the last question yet.
    pub async fn stats(
        &self,
        volume: &CsiVolume,
        pod: &PodUid,
        pod_dir: &Path,
    ) -> Result<VolumeStats, CsiProblem> {
        let problem = |cause| CsiProblem::new(CsiStep::SetUp, cause);
        let name = &volume.driver;
        let driver =
            self.0.drivers.get(name).ok_or_else(|| problem(CsiCause::NotRegistered(name.clone())))?;
        if !driver.can.volume_stats {
            let text = format!("get metrics is not supported by CSI driver {name}");
            return Err(problem(CsiCause::NotSupported(text)));
        }
        let target = self.0.places.target(volume, pod, pod_dir);
        let fresh = self.0.measuring.lock().unwrap_or_else(PoisonError::into_inner).insert(target.clone());
        if !fresh {
            let text = format!("CSI driver {name} has not yet answered the last NodeGetVolumeStats");
            return Err(problem(CsiCause::NotSupported(text)));
        }
        let _asked = Asked { shared: self.0.clone(), target: target.clone() };
        let request =
            StatsRequest { volume_id: volume.handle.clone(), volume_path: target, staging_path: None };
        let mut stats = driver.client.stats(request).await.map_err(|error| problem(error.into()))?;
        if !driver.can.volume_condition {
            stats.condition = None;
        }
        Ok(stats)
    }
}
