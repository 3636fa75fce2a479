//! What the agent itself does with the directories of a driver's volumes. Blocks; for the file system pool. Removes
//! nothing but empty directories and files of its own, and nothing that is mounted.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};

use rubelet_core::ids::PodUid;
use rubelet_core::volumes::{CsiVolume, VolumeMode};
use rubelet_linux::{block, mounts};

use super::paths::{CsiPlaces, GLOBAL_MOUNT, mount, pod_device, pod_devices, pod_volume, pod_volumes};
use super::vol_data::{self, VolumeData, entries, gone};

/// Makes a directory of the agent's own with those above it.
pub(super) fn make_dirs(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)
}

/// Whether something is mounted at `path`.
pub(super) fn is_mounted(path: &Path) -> io::Result<bool> {
    match mounts::is_mount_point(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(false)
        }
        told => told,
    }
}

/// Whether anything is at `path`.
pub(super) fn is_there(path: &Path) -> io::Result<bool> {
    if is_mounted(path)? {
        return Ok(true);
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => found.map(|_| true),
    }
}

/// Takes away a place that a driver mounted at, with the facts beside it, unless it is mounted still; then the answer is
/// `false`. A directory that is not empty is an error: what is in it is nobody's to delete.
pub(super) fn remove_place(place: &Path, data: &Path) -> io::Result<bool> {
    if is_mounted(place)? {
        return Ok(false);
    }
    let named = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("remove {}: {error}", path.display()))
    };
    let removed = match fs::symlink_metadata(place) {
        Err(error) => Err(error),
        Ok(found) if found.is_dir() => fs::remove_dir(place),
        Ok(_) => fs::remove_file(place),
    };
    gone(removed).map_err(|error| named(place, error))?;
    vol_data::remove(data).map_err(|error| named(data, error))?;
    gone(fs::remove_dir(data)).map_err(|error| named(data, error))?;
    Ok(true)
}

/// Makes way for the staging of a volume. The facts first: without them nobody would know what the directory is for.
pub(super) fn prepare_staging(places: &CsiPlaces, volume: &CsiVolume, data: &VolumeData) -> io::Result<()> {
    let home = places.staging_data(volume);
    make_dirs(&home)?;
    data.save(&home)?;
    make_dirs(&places.staging(volume))
}

/// Takes away directories of stagings that have no facts: an agent that was killed while it made or removed them left
/// them behind. One in which anything lies or is mounted stays.
pub(super) fn remove_empty_stagings(places: &CsiPlaces) -> io::Result<()> {
    for driver in entries(&places.plugin())? {
        if driver.path() == places.devices() || !driver.file_type()?.is_dir() {
            continue;
        }
        for home in entries(&driver.path())? {
            let name = home.file_name();
            let is_hash = name.len() == 64 && name.as_encoded_bytes().iter().all(u8::is_ascii_hexdigit);
            if is_hash && matches!(VolumeData::load(&home.path()), Ok(None)) {
                // What is not empty, or is mounted on, cannot be removed, and is to stay.
                let _ = fs::remove_dir(home.path().join(GLOBAL_MOUNT));
                let _ = fs::remove_dir(home.path());
            }
        }
    }
    Ok(())
}

/// Makes way for publishing a volume for a pod, and leaves the trace by which it is found again.
pub(super) fn prepare_target(
    places: &CsiPlaces,
    volume: &CsiVolume,
    pod: &PodUid,
    pod_dir: &Path,
    data: &VolumeData,
) -> io::Result<()> {
    match volume.mode {
        VolumeMode::Filesystem => {
            let home = pod_volume(pod_dir, &volume.spec_name);
            make_dirs(&home)?;
            data.save(&home)
        }
        VolumeMode::Block => {
            let home = places.device_data(&volume.spec_name);
            make_dirs(&home)?;
            data.save(&home)?;
            make_dirs(&places.device_publish_dir(&volume.spec_name))?;
            make_dirs(&pod_devices(pod_dir))?;
            // Before it is published: the link is how a pod's devices are found when they are taken down.
            let (target, link) =
                (places.device_publish(&volume.spec_name, pod), pod_device(pod_dir, &volume.spec_name));
            if fs::read_link(&link).is_ok_and(|present| present == target) {
                return Ok(());
            }
            gone(fs::remove_file(&link))?;
            std::os::unix::fs::symlink(target, link)
        }
    }
}

/// What is left behind of a volume for a pod is taken away; `false` when it is mounted still.
pub(super) fn remove_target(
    places: &CsiPlaces,
    volume: &CsiVolume,
    pod: &PodUid,
    pod_dir: &Path,
) -> io::Result<bool> {
    match volume.mode {
        VolumeMode::Filesystem => {
            remove_place(&mount(pod_dir, &volume.spec_name), &pod_volume(pod_dir, &volume.spec_name))
        }
        VolumeMode::Block => {
            let target = places.device_publish(&volume.spec_name, pod);
            if is_mounted(&target)? {
                return Ok(false);
            }
            gone(fs::remove_file(target))?;
            gone(fs::remove_file(pod_device(pod_dir, &volume.spec_name)))?;
            Ok(true)
        }
    }
}

/// Shows a published device at the place where upstream looks who uses it. The published file has to be a device.
pub(super) fn bind_device(places: &CsiPlaces, volume: &CsiVolume, pod: &PodUid) -> io::Result<bool> {
    let target = places.device_publish(&volume.spec_name, pod);
    if !fs::metadata(&target).is_ok_and(|found| found.file_type().is_block_device()) {
        return Ok(false);
    }
    let binds = places.device_binds(&volume.spec_name);
    make_dirs(&binds)?;
    let bind = binds.join(pod.as_str());
    block::bind_device(&fs::canonicalize(target)?, &bind)?;
    // As upstream: held open, the device's name is not given to another one meanwhile.
    block::attach_loop(&bind)?;
    Ok(true)
}

/// Undoes [`bind_device`], or what a kubelet did in its place.
pub(super) fn unbind_device(places: &CsiPlaces, volume: &CsiVolume, pod: &PodUid) -> io::Result<()> {
    block::unbind_device(&places.device_binds(&volume.spec_name).join(pod.as_str()))
}

/// What is left behind of a staged volume is taken away; `false` when it is mounted still.
pub(super) fn remove_staging(places: &CsiPlaces, volume: &CsiVolume) -> io::Result<bool> {
    let staging = places.staging(volume);
    match volume.mode {
        VolumeMode::Filesystem => remove_place(&staging, &places.staging_data(volume)),
        VolumeMode::Block => {
            if is_mounted(&staging)? {
                return Ok(false);
            }
            gone(fs::remove_dir(places.device_publish_dir(&volume.spec_name)))?;
            // Both are the agent's own; upstream too removes what a driver left in the first.
            gone(rubelet_linux::remove::remove_tree(&staging))?;
            gone(rubelet_linux::remove::remove_tree(&places.device_home(&volume.spec_name)))?;
            Ok(true)
        }
    }
}

/// Pods that have the volume, as the disk tells: facts and links in pods' directories, published devices, and mounts of
/// what is staged.
pub(super) fn users(places: &CsiPlaces, volume: &CsiVolume) -> io::Result<Vec<String>> {
    let mut users: Vec<String> = match volume.mode {
        VolumeMode::Filesystem => {
            let pods = vol_data::users(&places.pods(), &volume.driver, &volume.handle)?;
            pods.into_iter().map(|pod| pod.to_string()).collect()
        }
        VolumeMode::Block => {
            let mut users = names(&places.device_publish_dir(&volume.spec_name))?;
            users.extend(names(&places.device_binds(&volume.spec_name))?);
            for pod in entries(&places.pods())? {
                if fs::symlink_metadata(pod_device(&pod.path(), &volume.spec_name)).is_ok() {
                    users.push(pod.file_name().to_string_lossy().into_owned());
                }
            }
            users
        }
    };
    let staging = places.staging(volume);
    if volume.mode == VolumeMode::Filesystem && is_there(&staging)? {
        let pods = fs::canonicalize(places.pods()).unwrap_or_else(|_| places.pods());
        let others = mounts::other_mounts_of(&staging)?;
        users.extend(
            others.iter().filter(|other| other.starts_with(&pods)).map(|other| other.display().to_string()),
        );
    }
    users.sort();
    users.dedup();
    Ok(users)
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    Ok(entries(dir)?.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// One volume that was found in a directory.
#[derive(Debug)]
pub(super) struct Found {
    /// Name of its directory or link.
    pub(super) name: String,
    pub(super) mode: VolumeMode,
    /// Its facts; `None` when there are none, the words when they cannot be read.
    pub(super) data: Result<Option<VolumeData>, String>,
}

impl Found {
    /// The volume, when it is known which.
    pub(super) fn volume(&self) -> Option<CsiVolume> {
        let data = self.data.as_ref().ok()?.as_ref()?;
        let spec_name = if data.spec_name.is_empty() { self.name.clone() } else { data.spec_name.clone() };
        Some(bare_volume(data, spec_name, self.mode))
    }
}

/// As much of a volume as taking it down needs.
fn bare_volume(data: &VolumeData, spec_name: String, mode: VolumeMode) -> CsiVolume {
    CsiVolume {
        driver: data.driver.clone(),
        handle: data.handle.clone(),
        spec_name,
        inline: data.is_inline(),
        mode,
        fs_type: String::new(),
        attributes: Default::default(),
        read_only: false,
        access_modes: Vec::new(),
        mount_options: Vec::new(),
        stage_secret: None,
        publish_secret: None,
        expand_secret: None,
        migrated: false,
    }
}

/// The volumes of a pod, by its directories.
pub(super) fn of_pod(places: &CsiPlaces, pod_dir: &Path) -> io::Result<Vec<Found>> {
    let loaded = |dir: PathBuf| VolumeData::load(&dir).map_err(|error| error.to_string());
    let mut found = Vec::new();
    for name in names(&pod_volumes(pod_dir))? {
        let data = loaded(pod_volumes(pod_dir).join(&name));
        found.push(Found { name, mode: VolumeMode::Filesystem, data });
    }
    for name in names(&pod_devices(pod_dir))? {
        let data = loaded(places.device_data(&name));
        found.push(Found { name, mode: VolumeMode::Block, data });
    }
    Ok(found)
}

/// The volumes that are staged, or were to be. Those whose facts cannot be read are left alone.
pub(super) fn staged(places: &CsiPlaces) -> io::Result<Vec<CsiVolume>> {
    let mut volumes = Vec::new();
    for driver in entries(&places.plugin())? {
        if driver.path() == places.devices() {
            continue;
        }
        for home in entries(&driver.path())? {
            let Ok(Some(data)) = VolumeData::load(&home.path()) else { continue };
            let volume = bare_volume(&data, data.spec_name.clone(), VolumeMode::Filesystem);
            // Upstream once named these directories in other ways: only what would be found again counts.
            if places.staging_data(&volume) == home.path() {
                volumes.push(volume);
            }
        }
    }
    for home in entries(&places.devices())? {
        let name = home.file_name().to_string_lossy().into_owned();
        if let Ok(Some(data)) = VolumeData::load(&places.device_data(&name)) {
            volumes.push(bare_volume(&data, name, VolumeMode::Block));
        }
    }
    Ok(volumes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_stagings_without_facts_go() {
        let root = tempfile::tempdir().unwrap();
        let places = CsiPlaces { root: root.path().to_owned(), node_name: "n".to_owned() };
        let driver = places.plugin().join("csi.example.com");
        let home = |digit: &str| driver.join(digit.repeat(64));
        for (digit, inside) in [("a", ""), ("b", GLOBAL_MOUNT), ("c", "globalmount/file"), ("d", "other")] {
            fs::create_dir_all(home(digit).join(inside)).unwrap();
        }
        fs::create_dir_all(home("e")).unwrap();
        fs::write(home("e").join("vol_data.json"), "torn").unwrap();
        fs::create_dir_all(driver.join("sockets")).unwrap();
        remove_empty_stagings(&places).unwrap();
        let left = ["a", "b", "c", "d", "e"].map(|digit| home(digit).exists());
        assert_eq!(left, [false, false, true, true, true]);
        assert!(home("c").join("globalmount/file").exists() && driver.join("sockets").exists());
    }
}
