//! local: a directory of the node that a PersistentVolume names, bound into the pod's directory; or a block device,
//! whose file system is mounted once for all pods and bound into each, or which is handed out as it is.
//!
//! Unmounted at the end, never emptied: what is in it is the volume's, not the pod's.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use rubelet_core::claims::BindFlag;
use rubelet_linux::disk::{self, DEFAULT_FS_TYPE, DiskError};
use rubelet_linux::ownership::{self, Grant};
use rubelet_linux::tool::Tools;
use rubelet_linux::{block, mounts};

use super::make_dirs;
use super::tmpfs::Tmpfs;
use crate::error::Problem;
use crate::layout::{Home, LocalDevice};

/// A local volume to mount.
#[derive(Clone, Debug)]
pub(crate) struct LocalPlan {
    /// Where it is bound.
    pub(crate) path: PathBuf,
    source: PathBuf,
    /// Name of the PersistentVolume.
    name: String,
    flags: Vec<BindFlag>,
    /// Nobody writes to the volume, whatever the pod asks for: its own options say so.
    never_written: bool,
    read_only: bool,
    /// The pod's fsGroup.
    group: Option<u32>,
    /// A tree whose root looks right is taken to be right.
    trust_root: bool,
    device: LocalDevice,
    /// What the file system of a device is, or is made to be; empty means the default.
    fs_type: String,
    /// Options that only the file system of a device can have.
    options: Vec<String>,
}

/// What is still to be done to bind a volume.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LocalStep {
    /// What is bound.
    pub(crate) from: PathBuf,
    /// It has to be handed to the pod's group before.
    pub(crate) grant: Option<Grant>,
    /// A warning for the pod's events.
    pub(crate) warning: Option<String>,
}

impl LocalPlan {
    /// Plans it. `read_only`: no volume of the pod needs to write to it.
    pub(crate) fn of(
        name: &str,
        source: &str,
        flags: &[BindFlag],
        read_only: bool,
        pod: &Pod,
        pod_dir: &Path,
    ) -> Self {
        let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let policy = context.and_then(|context| context.fs_group_change_policy.as_deref());
        let mut flags = flags.to_vec();
        let never_written = flags.contains(&BindFlag::ReadOnly);
        if read_only && !flags.contains(&BindFlag::ReadOnly) {
            flags.push(BindFlag::ReadOnly);
        }
        Self {
            path: Home::Local.volume(pod_dir, name),
            source: source.into(),
            name: name.to_owned(),
            flags,
            never_written,
            read_only,
            group: context.and_then(|context| context.fs_group).and_then(|group| u32::try_from(group).ok()),
            trust_root: policy == Some("OnRootMismatch"),
            device: LocalDevice::of(pod_dir, name),
            fs_type: String::new(),
            options: Vec::new(),
        }
    }

    /// Says how the file system of a device is made and mounted, should it be one.
    pub(crate) fn with_file_system(self, fs_type: &str, options: &[String]) -> Self {
        Self { fs_type: fs_type.to_owned(), options: options.to_vec(), ..self }
    }

    /// Makes everything ready for the bind, which has to follow; `None` when it is bound already. Takes long when a file
    /// system has to be checked or made.
    pub(crate) fn prepare(
        &self,
        tmpfs: Tmpfs,
        tools: &Tools,
    ) -> io::Result<Result<Option<LocalStep>, Problem>> {
        if tmpfs == Tmpfs::PlainDirectory {
            return make_dirs(&self.path).map(|()| Ok(None));
        }
        if mounts::is_mount_point(&self.path)? {
            return Ok(Ok(None));
        }
        let wrong =
            |problem| Ok(Err(Problem::LocalPath { path: self.source.display().to_string(), problem }));
        let from = match fs::metadata(&self.source) {
            Ok(found) if found.is_dir() => match self.options.first() {
                None => self.source.clone(),
                Some(option) => {
                    let error = rubelet_core::claims::not_for_a_directory(&self.name, option);
                    return Ok(Err(error.into()));
                }
            },
            Ok(found) if found.file_type().is_block_device() => {
                // First: by this the pod's end knows that it has something to give back.
                make_dirs(&self.path)?;
                if let Err(problem) = self.mount_device(tools)? {
                    return Ok(Err(problem));
                }
                // It may have taken so long that the pod has ended.
                if !self.path.exists() {
                    release(&self.path)?;
                    let problem = "the pod's directory went while the device was mounted";
                    return Err(io::Error::new(io::ErrorKind::NotFound, problem));
                }
                self.device.mount.clone()
            }
            Ok(_) => return wrong("is neither a directory nor a block device: only these are supported"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return wrong("does not exist"),
            Err(error) => return Err(error),
        };
        make_dirs(&self.path)?;
        let (grant, warning) = match self.group {
            Some(group) => self.grant(group, &from)?,
            None => (None, None),
        };
        Ok(Ok(Some(LocalStep { from, grant, warning })))
    }

    /// Mounts the file system of a device at the place that all pods share, unless it is.
    fn mount_device(&self, tools: &Tools) -> io::Result<Result<(), Problem>> {
        let target = &self.device.mount;
        if mounts::is_mount_point(target)? {
            return Ok(Ok(()));
        }
        make_dirs(target)?;
        let fs_type = if self.fs_type.is_empty() { DEFAULT_FS_TYPE } else { &self.fs_type };
        let failed = |problem: DiskError| {
            let _ = fs::remove_dir(target);
            let (device, target) = (self.source.display().to_string(), target.display().to_string());
            let problem = Box::new(problem);
            Ok(Err(Problem::LocalDevice { device, target, fs_type: fs_type.to_owned(), problem }))
        };
        let mut options = self.options.clone();
        options.extend(self.flags.iter().filter(|flag| **flag != BindFlag::ReadOnly).map(|flag| {
            let name = match flag {
                BindFlag::ReadOnly => "ro",
                BindFlag::NoSuid => "nosuid",
                BindFlag::NoDev => "nodev",
                BindFlag::NoExec => "noexec",
                BindFlag::NoAtime => "noatime",
                BindFlag::NoDirAtime => "nodiratime",
                BindFlag::RelAtime => "relatime",
                BindFlag::StrictAtime => "strictatime",
            };
            name.to_owned()
        }));
        if self.never_written {
            options.push("ro".to_owned());
        }
        // Who only reads makes no file system. Other pods may write: the bind is what is read-only.
        if self.read_only {
            match disk::format_of(tools, &self.source) {
                Ok(found) if found.is_empty() => {
                    let device = self.source.display().to_string();
                    return failed(DiskError::UnformattedReadOnly { device });
                }
                Ok(_) => {}
                Err(error) => return failed(error),
            }
        }
        match disk::format_and_mount(tools, &self.source, target, fs_type, &options) {
            Ok(()) => Ok(Ok(())),
            Err(problem) => failed(problem),
        }
    }

    /// Binds what was made ready.
    pub(crate) fn bind(&self, from: &Path) -> io::Result<()> {
        if mounts::is_mount_point(&self.path)? {
            return Ok(());
        }
        if from != self.device.mount {
            return mounts::bind(from, &self.path, &self.flags);
        }
        // Its last other pod may just have gone and taken the mount along: an open file keeps it, and shows whether it
        // is there.
        let held = fs::File::open(from)?;
        let beside = from.parent().map(fs::metadata).transpose()?;
        let mounted = held.metadata()?.dev();
        if beside.is_none_or(|beside| beside.dev() == mounted) {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "the device is just being unmounted: it is tried again",
            ));
        }
        mounts::bind(from, &self.path, &self.flags)?;
        drop(held);
        Ok(())
    }

    /// The first pod that mounts the volume decides whose it is; one that comes later and wants another group is told.
    fn grant(&self, group: u32, from: &Path) -> io::Result<(Option<Grant>, Option<String>)> {
        let pods = self.path.ancestors().nth(4).map(fs::canonicalize).transpose()?;
        let others = mounts::other_mounts_of(from)?;
        if others.iter().any(|other| pods.as_ref().is_some_and(|pods| other.starts_with(pods))) {
            let present = fs::metadata(from)?.gid();
            let warning = (present != group).then(|| {
                format!(
                    "The requested fsGroup is {group}, but the volume {} has GID {present}. The volume may not be \
                     shareable.",
                    self.name
                )
            });
            return Ok((None, warning));
        }
        let grant = Grant { group, read_only: false };
        let is_right = self.read_only || self.trust_root && ownership::is_handed_over(from, grant)?;
        Ok(((!is_right).then_some(grant), None))
    }

    /// Hands out the device itself: binds it for the pod beside those of other pods, keeps it open, and links it from
    /// the pod's directory. The answer is the link.
    pub(crate) fn map(&self, tmpfs: Tmpfs) -> io::Result<Result<PathBuf, Problem>> {
        let link = self.device.link.clone();
        if tmpfs == Tmpfs::PlainDirectory {
            return block::link_device(&self.source, &link).map(|()| Ok(link));
        }
        let wrong =
            |problem| Ok(Err(Problem::LocalPath { path: self.source.display().to_string(), problem }));
        match fs::metadata(&self.source) {
            Ok(found) if found.file_type().is_block_device() => {}
            Ok(_) => return wrong("is not a block device"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return wrong("does not exist"),
            Err(error) => return Err(error),
        }
        // First: the link is how the pod's devices are found when they are taken back.
        block::link_device(&self.source, &link)?;
        block::bind_device(&self.source, &self.device.bound)?;
        block::attach_loop(&self.device.bound)?;
        Ok(Ok(link))
    }
}

/// A pod does not have the volume bound at `volume` any more: what its device holds is unmounted with the last pod's.
///
/// # Errors
/// When the list of mounts cannot be read, or the kernel refuses.
pub(crate) fn release(volume: &Path) -> io::Result<()> {
    let (Some(pod_dir), Some(name)) = (volume.ancestors().nth(3), volume.file_name()) else { return Ok(()) };
    let mount = LocalDevice::of(pod_dir, &name.to_string_lossy()).mount;
    if !mounts::is_mount_point(&mount)? {
        // An agent may have been killed before it came to that.
        let _ = fs::remove_dir(&mount);
        return Ok(());
    }
    let pods = pod_dir.parent().map(fs::canonicalize).transpose()?;
    let others = mounts::other_mounts_of(&mount)?;
    if others.iter().any(|other| pods.as_ref().is_some_and(|pods| other.starts_with(pods))) {
        return Ok(());
    }
    match mounts::unmount_all(&mount) {
        // A pod that is just about to bind it holds it.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        Ok(()) => {
            // Fails when it was mounted again meanwhile, which is right.
            let _ = fs::remove_dir(&mount);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Takes back every local device that was handed to a pod; idempotent.
///
/// # Errors
/// When one is in use, or something that is not the agent's is in its place.
pub(crate) fn tear_down_devices(pod_dir: &Path) -> io::Result<()> {
    let dir = LocalDevice::links(pod_dir);
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        let device = LocalDevice::of(pod_dir, &name.to_string_lossy());
        block::unbind_device(&device.bound)?;
        // Stays while other pods have the device.
        let _ = device.bound.parent().map(fs::remove_dir);
        fs::remove_file(dir.join(&name))?;
    }
    fs::remove_dir(&dir)?;
    // Other kinds have theirs beside it.
    let _ = dir.parent().map(fs::remove_dir);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan(root: &Path, pod: &str, source: &Path, read_only: bool) -> LocalPlan {
        let object: Pod = serde_json::from_value(json!({"spec": {"containers": []}})).unwrap();
        let pod_dir = root.join("pods").join(pod);
        LocalPlan::of("pv", &source.to_string_lossy(), &[], read_only, &object, &pod_dir)
    }

    /// A loop device over a file, given back in the end.
    struct Disk(PathBuf, PathBuf);

    impl Disk {
        fn new(root: &Path) -> Option<Self> {
            if !rustix::process::geteuid().is_root() {
                return None;
            }
            let file = root.join("image");
            fs::File::create(&file).unwrap().set_len(16 << 20).unwrap();
            let device = block::attach_loop(&file).ok()?;
            Some(Self(file, device))
        }
    }

    impl Drop for Disk {
        fn drop(&mut self) {
            let _ = block::detach_loop(&self.0);
        }
    }

    fn take(plan: &LocalPlan) -> io::Result<()> {
        mounts::unmount_all(&plan.path)?;
        fs::remove_dir(&plan.path)?;
        release(&plan.path)
    }

    #[test]
    fn the_file_system_of_a_device_is_made_once_and_shared() {
        let root = tempfile::tempdir().unwrap();
        let Some(disk) = Disk::new(root.path()) else { return };
        let mount = |pod: &str, read_only| {
            let plan = plan(root.path(), pod, &disk.1, read_only);
            let step = plan.prepare(Tmpfs::Mount, &Tools::default()).unwrap();
            let bound = step.map(|step| step.map(|step| plan.bind(&step.from)));
            (plan, bound)
        };
        let refused = mount("reader", true).1.unwrap_err();
        let global = root.path().join("plugins/kubernetes.io/local-volume/mounts/pv");
        let one = mount("one", false);
        let written = fs::write(one.0.path.join("precious"), "x");
        let two = mount("two", true);
        let seen = fs::read_to_string(two.0.path.join("precious"));
        let kept_out = fs::write(two.0.path.join("new"), "x").map_err(|error| error.kind());
        let again = mount("one", false).1;
        let gone = take(&one.0);
        let still = mounts::is_mount_point(&global);
        let gone_too = take(&two.0);
        let left = global.exists();
        let three = mount("three", true);
        let after = fs::read_to_string(three.0.path.join("precious"));
        let last = take(&three.0);
        assert_eq!(
            refused.to_string(),
            format!(
                "local: failed to mount device {} at {} (fstype: ext4)",
                disk.1.display(),
                global.display()
            )
        );
        one.1.unwrap().unwrap().unwrap();
        written.unwrap();
        two.1.unwrap().unwrap().unwrap();
        assert_eq!(seen.unwrap(), "x");
        assert_eq!(kept_out, Err(io::ErrorKind::ReadOnlyFilesystem));
        assert!(again.unwrap().is_none(), "it is bound already");
        gone.unwrap();
        assert!(still.unwrap(), "another pod has it");
        gone_too.unwrap();
        assert!(!left, "nobody has it");
        three.1.unwrap().unwrap().unwrap();
        assert_eq!(after.unwrap(), "x");
        last.unwrap();
    }

    #[test]
    fn what_is_cut_short_leaves_a_trace_for_the_pods_end() {
        let root = tempfile::tempdir().unwrap();
        let Some(disk) = Disk::new(root.path()) else { return };
        let plan = plan(root.path(), "one", &disk.1, false);
        // No tool of the node can be run: it ends where an agent that is killed would.
        let none = Tools { directory: Some(root.path().join("none")) };
        let cut_short = plan.prepare(Tmpfs::Mount, &none).unwrap();
        let trace = plan.path.is_dir();
        fs::create_dir_all(&plan.device.bound).unwrap();
        let not_bound = plan.map(Tmpfs::Mount);
        let link = fs::read_link(&plan.device.link);
        assert!(cut_short.is_err() && trace);
        assert!(not_bound.is_err());
        assert_eq!(link.unwrap(), disk.1);
    }

    #[test]
    fn a_volume_whose_own_options_say_so_is_never_written() {
        let root = tempfile::tempdir().unwrap();
        let Some(disk) = Disk::new(root.path()) else { return };
        let (pod, pod_dir) = (Pod::default(), root.path().join("pods/one"));
        let source = disk.1.to_string_lossy();
        let plan = LocalPlan::of("pv", &source, &[BindFlag::ReadOnly], false, &pod, &pod_dir);
        let refused = plan.prepare(Tmpfs::Mount, &Tools::default()).unwrap();
        let found = disk::format_of(&Tools::default(), &disk.1);
        assert!(refused.is_err());
        assert_eq!(found.unwrap(), "", "no file system is made on it");
    }

    #[test]
    fn a_device_is_handed_out_and_taken_back() {
        let root = tempfile::tempdir().unwrap();
        let Some(disk) = Disk::new(root.path()) else { return };
        let one = plan(root.path(), "one", &disk.1, false);
        let two = plan(root.path(), "two", &disk.1, false);
        let mapped = [one.map(Tmpfs::Mount), one.map(Tmpfs::Mount), two.map(Tmpfs::Mount)];
        let link = root.path().join("pods/one/volumeDevices/kubernetes.io~local-volume/pv");
        let leads = fs::read_link(&link);
        let bound = root.path().join("plugins/kubernetes.io~local-volume/volumeDevices/pv");
        let kept_open = block::loop_of(&bound.join("one"));
        for pod in ["one", "one", "two"] {
            tear_down_devices(&root.path().join("pods").join(pod)).unwrap();
        }
        for mapped in mapped {
            assert!(mapped.unwrap().is_ok());
        }
        assert_eq!(leads.unwrap(), disk.1);
        assert!(kept_open.unwrap().is_some());
        assert!(!bound.exists() && !root.path().join("pods/one/volumeDevices").exists());
        assert_eq!(block::loop_of(&disk.0).unwrap(), Some(disk.1.clone()), "the device itself stays");
        let file = plan(root.path(), "one", &disk.0, false).map(Tmpfs::Mount).unwrap().unwrap_err();
        assert!(file.to_string().ends_with("is not a block device"), "{file}");
    }
}
