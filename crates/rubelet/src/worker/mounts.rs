//! The volumes of a container as the runtime gets them: mounts, with sub-paths bound to places of the agent's own, and
//! block devices. Called when a container's configuration is made; what is mounted where is `rubelet_core::mounts`'
//! decision.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Container;
use rubelet_core::mounts::{MountError, MountSource, PlannedMount, plan_devices};
use rubelet_core::status::StartError;
use rubelet_cri::translate::{TranslateError, volume_mount};
use rubelet_cri::v1;
use rubelet_volumes::VolumePaths;
use tracing::warn;

use super::PodWorker;
use super::config::{config_failed, failed};
use super::image::ImageMounts;

/// The volumes that are ready, as mounts are planned from them.
pub(super) fn mount_sources(volumes: &VolumePaths, images: &ImageMounts) -> BTreeMap<String, MountSource> {
    let sources = volumes.iter().map(|(name, volume)| {
        let source =
            MountSource { path: volume.path.clone(), read_only: volume.read_only, relabel: volume.ours };
        (name.clone(), source)
    });
    // The runtime mounts images; they lie nowhere that the agent knows.
    let image = MountSource { path: PathBuf::new(), read_only: true, relabel: true };
    sources.chain(images.keys().map(|name| (name.clone(), image.clone()))).collect()
}

impl PodWorker {
    /// The mounts of a container's volumes; sub-paths are bound first.
    pub(super) async fn volume_mounts(
        &self,
        container: &Container,
        planned: &[PlannedMount],
        images: &ImageMounts,
    ) -> Result<Vec<v1::Mount>, StartError> {
        let services = &self.services;
        let paths = self.paths().map_err(|error| config_failed(&error))?;
        let mut mounts = Vec::with_capacity(planned.len());
        for mount in planned {
            if let Some(image) = images.get(&mount.volume) {
                let place = volume_mount(mount, &mount.volume_path, services.node.selinux);
                let (image, image_sub_path) = (Some(image.clone()), mount.sub_path.clone());
                mounts.push(v1::Mount { image, image_sub_path, ..place });
                continue;
            }
            let host_path = match mount.sub_path.as_str() {
                "" => mount.volume_path.clone(),
                _ => {
                    let bound = services.volumes.bind_sub_path(&paths.dir, &container.name, mount).await;
                    bound.map_err(|problem| {
                        // The cause is not for the pod's owner, whom it would tell of the node's files.
                        warn!(pod = %self.uid, problem = crate::logging::chain(&problem), "no sub-path");
                        failed(TranslateError::REASON, problem.to_string())
                    })?
                }
            };
            mounts.push(volume_mount(mount, &host_path, services.node.selinux));
        }
        Ok(mounts)
    }

    /// The block devices of a container's volumes. What is no link to a block device is not handed out.
    pub(super) async fn volume_devices(
        &self,
        container: &Container,
        sources: &BTreeMap<String, MountSource>,
    ) -> Result<Vec<v1::Device>, StartError> {
        let planned = plan_devices(container, sources).map_err(|error| config_failed(&error))?;
        let mut devices = Vec::with_capacity(planned.len());
        for device in planned {
            let link = device.host_path.clone();
            let look =
                move || Ok(link.is_symlink() && std::fs::metadata(&link)?.file_type().is_block_device());
            let what = format!("look at device {}", device.host_path.display());
            if !self.services.fs.run(what, look).await.map_err(|error| config_failed(&error))? {
                let (volume, container) = (device.volume, container.name.clone());
                return Err(config_failed(&MountError::NoDevice { volume, container }));
            }
            devices.push(v1::Device {
                container_path: device.container_path,
                host_path: device.host_path.to_string_lossy().into_owned(),
                permissions: device.permissions.to_owned(),
            });
        }
        Ok(devices)
    }
}
