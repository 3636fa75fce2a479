//! emptyDir, on disk or in memory: a directory that lives as long as the pod.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Volume;
use rubelet_core::quantity::Amount;

use super::tmpfs::{self, Tmpfs};
use super::{PlanFacts, huge_pages, make_dirs, mark_ready};
use crate::error::Problem;
use crate::layout::{Home, ready_mark};

/// A directory to make.
#[derive(Debug)]
pub(crate) struct EmptyDirPlan {
    pub(super) path: PathBuf,
    mark: PathBuf,
    in_memory: bool,
    /// Its pages, bytes, when it is of huge pages.
    page_bytes: Option<u64>,
    /// Bytes it may hold; only memory is limited here.
    size: Option<i64>,
    group: Option<u32>,
}

impl EmptyDirPlan {
    /// Plans it.
    pub(super) fn of(volume: &Volume, facts: &PlanFacts<'_>) -> Result<Self, Problem> {
        let source = volume.empty_dir.as_ref();
        let in_memory = source.is_some_and(|source| source.medium.as_deref() == Some("Memory"));
        let medium = source.and_then(|source| source.medium.as_deref()).filter(|m| huge_pages::is_medium(m));
        let page_bytes = medium.map(|medium| huge_pages::page_bytes(facts.pod, medium)).transpose()?;
        let limit = source.and_then(|source| source.size_limit.as_ref());
        let limit = limit.and_then(|limit| Amount::of(limit).ok());
        Ok(Self {
            path: Home::EmptyDir.volume(facts.pod_dir, &volume.name),
            mark: ready_mark(facts.pod_dir, Home::EmptyDir, &volume.name),
            in_memory,
            page_bytes,
            size: if in_memory { tmpfs::size(facts.pod, facts.downward, limit) } else { None },
            group: facts.group(),
        })
    }

    /// Makes it; one that is there keeps its content, and mode and owner as containers may have changed them.
    pub(super) fn set_up(&self, tmpfs: Tmpfs) -> io::Result<()> {
        make_dirs(self.path.parent().unwrap_or(&self.path))?;
        if self.in_memory && tmpfs == Tmpfs::Mount {
            fs::create_dir_all(&self.path)?;
            tmpfs::ensure(&self.path, self.size, self.group)?;
        } else if let Some(bytes) = self.page_bytes.filter(|_| tmpfs == Tmpfs::Mount) {
            fs::create_dir_all(&self.path)?;
            huge_pages::ensure(&self.path, bytes, self.group)?;
        } else if !self.path.exists() {
            // It gets its name last, so that an agent killed in between leaves none that is half made.
            let name = self.path.file_name().unwrap_or_default().to_string_lossy();
            let part = self.path.with_file_name(format!(".{name}.new"));
            fs::create_dir_all(&part)?;
            if self.group.is_some() {
                std::os::unix::fs::chown(&part, None, self.group)?;
            }
            fs::set_permissions(&part, Permissions::from_mode(open_mode(self.group)))?;
            fs::rename(&part, &self.path)?;
        }
        mark_ready(&self.mark)
    }
}

/// Open to everybody, and with fsGroup handing the group down (upstream `SetVolumeOwnership`).
pub(super) fn open_mode(group: Option<u32>) -> u32 {
    if group.is_some() { 0o2777 } else { 0o777 }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    use k8s_openapi::api::core::v1::Pod;
    use rubelet_core::downward::DownwardFacts;
    use rubelet_core::projection::Gathered;
    use serde_json::json;

    use super::*;

    fn plan(root: &Path, source: serde_json::Value, group: Option<u32>) -> EmptyDirPlan {
        let volume = json!({"name": "v", "emptyDir": source});
        let pod: Pod = serde_json::from_value(
            json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"hugepages-2Mi": "2Mi"}}}], "volumes": [volume], "securityContext": {"fsGroup": group}}}),
        )
        .unwrap();
        let facts = PlanFacts {
            pod: &pod,
            pod_dir: root,
            gathered: &Gathered::default(),
            downward: &DownwardFacts::default(),
        };
        EmptyDirPlan::of(&pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0], &facts).unwrap()
    }

    #[test]
    fn they_are_open_to_every_user_and_keep_their_content() {
        let root = tempfile::tempdir().unwrap();
        let plan = plan(root.path(), json!({}), None);
        plan.set_up(Tmpfs::Mount).unwrap();
        assert_eq!(plan.path, root.path().join("volumes/kubernetes.io~empty-dir/v"));
        assert_eq!(fs::metadata(&plan.path).unwrap().mode() & 0o7777, 0o777);
        assert!(root.path().join("plugins/kubernetes.io~empty-dir/v/ready").is_file());
        fs::write(plan.path.join("kept"), "x").unwrap();
        plan.set_up(Tmpfs::Mount).unwrap();
        assert!(plan.path.join("kept").exists());
        assert_eq!(
            fs::read_dir(plan.path.parent().unwrap()).unwrap().count(),
            1,
            "nothing half made is left"
        );
    }

    #[test]
    fn files_belong_to_the_fs_group() {
        let root = tempfile::tempdir().unwrap();
        let own = fs::metadata(root.path()).unwrap().gid();
        let plan = plan(root.path(), json!({}), Some(own));
        plan.set_up(Tmpfs::Mount).unwrap();
        let metadata = fs::metadata(&plan.path).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (0o2777, own));
    }

    #[test]
    fn huge_pages_are_mounted_once_with_their_size() {
        let root = tempfile::tempdir().unwrap();
        let plan = plan(root.path(), json!({"medium": "HugePages-2Mi"}), Some(7));
        if !Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists()
            || !rustix::process::geteuid().is_root()
        {
            return;
        }
        let done = plan.set_up(Tmpfs::Mount).and_then(|()| plan.set_up(Tmpfs::Mount));
        let size = rubelet_linux::mounts::huge_page_bytes(&plan.path);
        let metadata = fs::metadata(&plan.path).map(|found| (found.mode() & 0o7777, found.gid()));
        let other = EmptyDirPlan { page_bytes: Some(1 << 30), ..plan };
        let differs = other.set_up(Tmpfs::Mount).map_err(|error| error.to_string());
        super::super::tear_down(root.path()).unwrap();
        done.unwrap();
        assert_eq!((size.unwrap(), metadata.unwrap()), (Some(2 << 20), (0o2775, 7)));
        assert!(
            differs
                .unwrap_err()
                .ends_with("pagesize '2097152' and requested medium size '1073741824' differ")
        );
        assert!(!other.path.exists() && !other.mark.exists());
    }

    #[test]
    fn memory_is_mounted_once_with_its_size() {
        let root = tempfile::tempdir().unwrap();
        let plan = plan(root.path(), json!({"medium": "Memory", "sizeLimit": "1Mi"}), Some(7));
        if let Err(error) = plan.set_up(Tmpfs::Mount) {
            assert!(!rustix::process::geteuid().is_root(), "root must be able to mount: {error}");
            assert!(error.to_string().contains("has to run as root"), "{error}");
            return;
        }
        plan.set_up(Tmpfs::Mount).unwrap();
        let size = rustix::fs::statvfs(&plan.path).map(|fs| fs.f_blocks * fs.f_frsize);
        let metadata = fs::metadata(&plan.path).unwrap();
        super::super::tear_down(root.path()).unwrap();
        assert_eq!(size.unwrap(), 1 << 20);
        assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (0o3777, 7));
        assert!(!plan.path.exists() && !plan.mark.exists());
    }
}
