//! What the driver does for real: folders that are bound, images that are attached to loop devices, and the state by which
//! it knows what it did. It refuses what the protocol forbids; the reason of a refusal that only a client's mistake can
//! bring about begins with [`MISTAKE`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::mount::{MountFlags, UnmountFlags};
use tonic::{Code, Status};

/// How a refusal begins that a client without mistakes never meets.
pub(super) const MISTAKE: &str = "mistake of the client: ";

pub(super) fn mistake(code: Code, what: impl std::fmt::Display) -> Status {
    Status::new(code, format!("{MISTAKE}{what}"))
}

fn internal(what: &str) -> impl Fn(io::Error) -> Status {
    move |error| Status::internal(format!("{what}: {error}"))
}

/// How a volume is wanted, as far as the disk is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub block: bool,
    pub mount_flags: Vec<String>,
    pub group: Option<u32>,
    pub read_only: bool,
    pub inline: bool,
    /// Written as files into inline volumes.
    pub content: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Volume {
    /// Bytes.
    capacity: i64,
    block: bool,
    staged: Option<PathBuf>,
    published: BTreeMap<PathBuf, Wanted>,
    /// The device of a block volume that is staged or published.
    device: Option<PathBuf>,
}

/// The driver's volumes.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    volumes: Mutex<BTreeMap<String, Volume>>,
}

impl Disk {
    pub(super) fn new(root: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        Ok(Self { root, volumes: Mutex::default() })
    }

    /// Where the files of a volume really are.
    pub(super) fn folder(&self, handle: &str) -> PathBuf {
        self.root.join(handle.replace('/', "_"))
    }

    fn image(&self, handle: &str) -> PathBuf {
        self.folder(handle).with_extension("img")
    }

    fn volumes(&self) -> MutexGuard<'_, BTreeMap<String, Volume>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a volume of so many bytes, as a controller would.
    pub(super) fn provide(&self, handle: &str, capacity: i64, block: bool) -> io::Result<()> {
        if block {
            let file = fs::File::create(self.image(handle))?;
            file.set_len(u64::try_from(capacity).unwrap_or_default())?;
        } else {
            fs::create_dir_all(self.folder(handle))?;
        }
        self.volumes().insert(handle.to_owned(), Volume { capacity, block, ..Volume::default() });
        Ok(())
    }

    pub(super) fn capacity(&self, handle: &str) -> Option<i64> {
        self.volumes().get(handle).map(|volume| volume.capacity)
    }

    /// Where each volume is staged and published.
    pub(super) fn places(&self) -> Vec<(String, PathBuf)> {
        let volumes = self.volumes();
        let places = volumes.iter().flat_map(|(handle, volume)| {
            volume.staged.iter().chain(volume.published.keys()).map(|place| (handle.clone(), place.clone()))
        });
        places.collect()
    }

    pub(super) fn stage(&self, handle: &str, place: &Path, wanted: &Wanted) -> Result<(), Status> {
        if !place.is_dir() {
            return Err(mistake(
                Code::Internal,
                format!("there is no staging directory {}", place.display()),
            ));
        }
        let mut volumes = self.volumes();
        let volume = find(&mut volumes, handle)?;
        agree(volume, wanted)?;
        if let Some(staged) = &volume.staged {
            if staged == place {
                return Ok(());
            }
            return Err(mistake(Code::AlreadyExists, format!("{handle} is staged at {}", staged.display())));
        }
        if volume.block {
            volume.device = Some(attach(&self.image(handle))?);
        } else {
            self.hand_over(handle, wanted)?;
            bind(&self.folder(handle), place, &wanted.mount_flags, false)?;
        }
        volume.staged = Some(place.to_owned());
        Ok(())
    }

    pub(super) fn unstage(&self, handle: &str, place: &Path) -> Result<(), Status> {
        let mut volumes = self.volumes();
        let Some(volume) = volumes.get_mut(handle) else { return Ok(()) };
        if let Some(target) = volume.published.keys().next() {
            let what = format!("{handle} is unstaged while it is published at {}", target.display());
            return Err(mistake(Code::FailedPrecondition, what));
        }
        match &volume.staged {
            Some(staged) if staged == place => {}
            // As the protocol has it, what is not there is gone.
            _ => return Ok(()),
        }
        if let Some(device) = &volume.device {
            detach(device)?;
        } else {
            unbind(place)?;
        }
        volume.device = None;
        volume.staged = None;
        Ok(())
    }

    pub(super) fn publish(
        &self,
        handle: &str,
        staging: Option<&Path>,
        target: &Path,
        wanted: &Wanted,
    ) -> Result<(), Status> {
        if !target.parent().is_some_and(Path::is_dir) {
            return Err(mistake(Code::Internal, format!("{} has no parent directory", target.display())));
        }
        let mut volumes = self.volumes();
        if wanted.inline && !volumes.contains_key(handle) {
            fs::create_dir_all(self.folder(handle)).map_err(internal("making an inline volume"))?;
            volumes.insert(handle.to_owned(), Volume::default());
        }
        let volume = find(&mut volumes, handle)?;
        agree(volume, wanted)?;
        if staging != volume.staged.as_deref() {
            let what = format!("{handle} is published from {staging:?} but staged at {:?}", volume.staged);
            return Err(mistake(Code::FailedPrecondition, what));
        }
        if wanted.inline {
            for (file, text) in &wanted.content {
                let path = self.folder(handle).join(file.replace('/', "_"));
                fs::write(path, text).map_err(internal("writing an inline volume"))?;
            }
        }
        if let Some(before) = volume.published.get_mut(target) {
            if (before.read_only, before.group) != (wanted.read_only, wanted.group) {
                return Err(mistake(Code::AlreadyExists, format!("{handle} is published otherwise")));
            }
            before.content.clone_from(&wanted.content);
            return Ok(());
        }
        if volume.block {
            let device = match &volume.device {
                Some(device) => device.clone(),
                None => attach(&self.image(handle))?,
            };
            fs::File::create(target).map_err(internal("making the target"))?;
            volume.device = Some(device.clone());
            bind(&device, target, &[], false)?;
        } else {
            self.hand_over(handle, wanted)?;
            fs::create_dir_all(target).map_err(internal("making the target"))?;
            let source = staging.map_or_else(|| self.folder(handle), Path::to_owned);
            bind(&source, target, &wanted.mount_flags, wanted.read_only)?;
        }
        volume.published.insert(target.to_owned(), wanted.clone());
        Ok(())
    }

    pub(super) fn unpublish(&self, handle: &str, target: &Path) -> Result<(), Status> {
        let mut volumes = self.volumes();
        let Some(volume) = volumes.get_mut(handle) else { return Ok(()) };
        if !volume.published.contains_key(target) {
            return Ok(());
        }
        unbind(target)?;
        let removed = if volume.block { fs::remove_file(target) } else { fs::remove_dir(target) };
        removed.map_err(internal("removing the target"))?;
        let wanted = volume.published.remove(target).unwrap_or_default();
        if volume.block
            && volume.staged.is_none()
            && volume.published.is_empty()
            && let Some(device) = volume.device.take()
        {
            detach(&device)?;
        }
        if wanted.inline && volume.published.is_empty() {
            volumes.remove(handle);
            fs::remove_dir_all(self.folder(handle)).map_err(internal("removing an inline volume"))?;
        }
        Ok(())
    }

    /// Lets a volume grow to so many bytes.
    pub(super) fn expand(&self, handle: &str, place: &Path, capacity: i64) -> Result<i64, Status> {
        let mut volumes = self.volumes();
        let volume = find(&mut volumes, handle)?;
        volume.holds(handle, place)?;
        volume.capacity = volume.capacity.max(capacity);
        if let Some(device) = &volume.device {
            let size = u64::try_from(volume.capacity).unwrap_or_default();
            let image = fs::File::options().write(true).open(self.image(handle));
            image.and_then(|image| image.set_len(size)).map_err(internal("growing the image"))?;
            losetup(&["--set-capacity".as_ref(), device])?;
        }
        Ok(volume.capacity)
    }

    /// Whether a volume is a device, for one that is at that place.
    pub(super) fn is_block(&self, handle: &str, place: &Path) -> Result<bool, Status> {
        let mut volumes = self.volumes();
        let volume = find(&mut volumes, handle)?;
        volume.holds(handle, place)?;
        Ok(volume.block)
    }

    /// Gives the files of a volume to a group, as a driver does that can.
    fn hand_over(&self, handle: &str, wanted: &Wanted) -> Result<(), Status> {
        let Some(group) = wanted.group else { return Ok(()) };
        let folder = self.folder(handle);
        chown(&folder, None, Some(group))
            .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(0o2775)))
            .map_err(internal("giving the volume to its group"))
    }

    /// Takes away every mount and device that is still there.
    pub(super) fn clear(&self) {
        for volume in self.volumes().values_mut() {
            for place in volume.published.keys().chain(&volume.staged) {
                let _it_may_be_gone = rustix::mount::unmount(place, UnmountFlags::DETACH);
            }
            if let Some(device) = volume.device.take() {
                let _it_may_be_gone = detach(&device);
            }
        }
    }
}

impl Volume {
    fn holds(&self, handle: &str, place: &Path) -> Result<(), Status> {
        if self.staged.as_deref() == Some(place) || self.published.contains_key(place) {
            return Ok(());
        }
        Err(mistake(Code::NotFound, format!("{handle} is not at {}", place.display())))
    }
}

fn find<'a>(volumes: &'a mut BTreeMap<String, Volume>, handle: &str) -> Result<&'a mut Volume, Status> {
    volumes.get_mut(handle).ok_or_else(|| Status::not_found(format!("there is no volume {handle:?}")))
}

fn agree(volume: &Volume, wanted: &Wanted) -> Result<(), Status> {
    if volume.block == wanted.block {
        return Ok(());
    }
    Err(mistake(
        Code::InvalidArgument,
        "the volume is asked for as a device and has files, or the other way round",
    ))
}

fn bind(source: &Path, target: &Path, flags: &[String], read_only: bool) -> Result<(), Status> {
    let mut all = MountFlags::BIND;
    for flag in flags {
        all |= match flag.as_str() {
            "ro" => MountFlags::RDONLY,
            "noexec" => MountFlags::NOEXEC,
            "nosuid" => MountFlags::NOSUID,
            "nodev" => MountFlags::NODEV,
            "noatime" => MountFlags::NOATIME,
            other => return Err(Status::invalid_argument(format!("unknown mount option {other:?}"))),
        };
    }
    if read_only {
        all |= MountFlags::RDONLY;
    }
    let told = |error: rustix::io::Errno| Status::internal(format!("binding {}: {error}", target.display()));
    rustix::mount::mount_bind(source, target).map_err(told)?;
    if all != MountFlags::BIND {
        rustix::mount::mount_remount(target, all, "").map_err(told)?;
    }
    Ok(())
}

/// Takes away what the driver has mounted; that it is gone already is somebody else's doing.
fn unbind(place: &Path) -> Result<(), Status> {
    match rustix::mount::unmount(place, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Err(mistake(
            Code::Internal,
            format!("somebody else has unmounted or removed {}", place.display()),
        )),
        Err(error) => Err(Status::internal(format!("unmounting {}: {error}", place.display()))),
    }
}

fn losetup(arguments: &[&Path]) -> Result<String, Status> {
    let answer = Command::new("losetup").args(arguments).output().map_err(internal("losetup"))?;
    if !answer.status.success() {
        return Err(Status::internal(String::from_utf8_lossy(&answer.stderr).into_owned()));
    }
    Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
}

fn attach(image: &Path) -> Result<PathBuf, Status> {
    losetup(&["--find".as_ref(), "--show".as_ref(), image]).map(PathBuf::from)
}

fn detach(device: &Path) -> Result<(), Status> {
    losetup(&["--detach".as_ref(), device]).map(drop)
}
