//! The mounted hierarchies and groups in them: which controllers there are, making a group in all of them, writing
//! settings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rubelet_core::cpu_set::CpuSet;
use rubelet_core::resources::{GroupSettings, GroupWrite, group_writes};

use super::{hierarchies, relative};

/// Where the kernel tells its huge page sizes.
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages";
/// Controllers that the agent sets something of; a group without one of those that the machine has is unusable.
const NEEDED: [&str; 5] = ["cpu", "cpuset", "memory", "hugetlb", "pids"];

/// The cgroup hierarchies of a machine. Cheap to clone; found once, for what is mounted does not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupTree {
    layout: Layout,
    page_sizes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Layout {
    /// One hierarchy for every controller.
    Unified { root: PathBuf, controllers: BTreeSet<String> },
    /// A hierarchy for each controller, or some together; beside them may be a unified one without controllers, where
    /// runtimes make groups too.
    Separate { roots: Vec<PathBuf>, beside: Vec<PathBuf>, controllers: BTreeMap<String, PathBuf> },
}

impl CgroupTree {
    /// The tree below a mount (`/sys/fs/cgroup`).
    ///
    /// # Errors
    /// When nothing is mounted there.
    pub fn find(mount: &Path) -> io::Result<Self> {
        Self::with_page_sizes(mount, page_sizes(Path::new(HUGE_PAGES)))
    }

    pub(super) fn with_page_sizes(mount: &Path, page_sizes: Vec<String>) -> io::Result<Self> {
        if let Ok(text) = fs::read_to_string(mount.join("cgroup.controllers")) {
            let controllers = words(&text);
            let layout = Layout::Unified { root: mount.to_owned(), controllers };
            return Ok(Self { layout, page_sizes });
        }
        let is_beside = |root: &PathBuf| root.join("cgroup.controllers").exists();
        let (beside, roots): (Vec<PathBuf>, Vec<PathBuf>) =
            hierarchies(mount).into_iter().partition(is_beside);
        let mut controllers = BTreeMap::new();
        for root in &roots {
            let name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
            controllers.extend(name.split(',').map(|controller| (controller.to_owned(), root.clone())));
        }
        if controllers.is_empty() {
            let message = format!("no cgroups are mounted at {}", mount.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        Ok(Self { layout: Layout::Separate { roots, beside, controllers }, page_sizes })
    }

    /// Whether it is the unified hierarchy.
    pub fn is_unified(&self) -> bool {
        matches!(self.layout, Layout::Unified { .. })
    }

    /// Huge page sizes of the machine as the kernel writes them (`2MB`).
    pub fn page_sizes(&self) -> &[String] {
        &self.page_sizes
    }

    /// Whether a controller is there.
    pub fn has(&self, controller: &str) -> bool {
        match &self.layout {
            Layout::Unified { controllers, .. } => controllers.contains(controller),
            Layout::Separate { controllers, .. } => controllers.contains_key(controller),
        }
    }

    /// Controllers that a node needs and this machine lacks.
    pub fn missing(&self) -> Vec<&'static str> {
        // Huge pages are an option of the kernel that few machines without them have.
        NEEDED.into_iter().filter(|name| *name != "hugetlb" && !self.has(name)).collect()
    }

    /// A group's directory in every hierarchy.
    pub(super) fn dirs(&self, group: &str) -> io::Result<Vec<PathBuf>> {
        let relative = relative(group)?;
        Ok(self.roots().map(|root| root.join(relative)).collect())
    }

    /// Every hierarchy in which there may be groups of pods.
    fn roots(&self) -> impl Iterator<Item = &PathBuf> {
        let (roots, beside) = match &self.layout {
            Layout::Unified { root, .. } => (std::slice::from_ref(root), [].as_slice()),
            Layout::Separate { roots, beside, .. } => (roots.as_slice(), beside.as_slice()),
        };
        roots.iter().chain(beside)
    }

    /// A group's directory for one controller; the root group is `/`. `None` without the controller.
    pub(super) fn dir(&self, group: &str, controller: &str) -> Option<PathBuf> {
        let relative = if group.trim_matches('/').is_empty() { "" } else { relative(group).ok()? };
        match &self.layout {
            Layout::Unified { root, controllers } => {
                controllers.contains(controller).then(|| root.join(relative))
            }
            Layout::Separate { controllers, .. } => Some(controllers.get(controller)?.join(relative)),
        }
    }

    /// Whether a group is there for every controller that matters (upstream `Validate`).
    pub fn exists(&self, group: &str) -> bool {
        let there = |controller: &&str| match self.dir(group, controller) {
            Some(dir) if self.is_unified() => fs::read_to_string(dir.join("cgroup.controllers"))
                .is_ok_and(|text| words(&text).contains(*controller)),
            Some(dir) => dir.is_dir(),
            None => true,
        };
        relative(group).is_ok() && NEEDED.iter().all(there)
    }

    /// Makes a group and those above it; groups that are there stay as they are.
    ///
    /// # Errors
    /// When the kernel refuses, or a controller cannot be had for the group.
    pub fn make(&self, group: &str) -> io::Result<()> {
        let relative = relative(group)?;
        match &self.layout {
            Layout::Unified { root, controllers } => {
                let mut dir = root.clone();
                for part in relative.split('/') {
                    enable_controllers(&dir);
                    dir.push(part);
                    make_dir(&dir)?;
                }
                let own = words(&read(&dir.join("cgroup.controllers"))?);
                let needed = NEEDED.into_iter().filter(|name| controllers.contains(*name));
                let lacks: Vec<&str> = needed.filter(|name| !own.contains(*name)).collect();
                if !lacks.is_empty() {
                    return Err(io::Error::other(format!(
                        "cgroup {group:?} has some missing controllers: {}",
                        lacks.join(", ")
                    )));
                }
            }
            Layout::Separate { roots, controllers, .. } => {
                let cpusets = controllers.get("cpuset");
                for root in roots {
                    let mut dir = root.clone();
                    for part in relative.split('/') {
                        let above = dir.clone();
                        dir.push(part);
                        make_dir(&dir)?;
                        if cpusets == Some(root) {
                            inherit_cpuset(&above, &dir)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Sets a group. What another setting has to come before is tried again after it. Controllers that the machine
    /// lacks are left out.
    ///
    /// # Errors
    /// The first refusal that stands, with file and value; the rest is set all the same.
    pub fn set(&self, group: &str, settings: &GroupSettings) -> io::Result<()> {
        relative(group)?;
        let writes = group_writes(settings, self.is_unified(), &self.page_sizes);
        let mut later = vec![];
        for write in &writes {
            if self.write(group, write).is_err() {
                later.push(write);
            }
        }
        let mut refused = None;
        for write in later {
            if let Err(error) = self.write(group, write) {
                refused.get_or_insert(error);
            }
        }
        refused.map_or(Ok(()), Err)
    }

    fn write(&self, group: &str, write: &GroupWrite) -> io::Result<()> {
        let Some(dir) = self.dir(group, &write.controller) else { return Ok(()) };
        match put(&dir.join(&write.file), &write.value) {
            Err(error) if write.optional && error.kind() == io::ErrorKind::NotFound => Ok(()),
            written => written,
        }
    }

    /// CPUs that a group's processes can use; `None` without the controller.
    pub fn cpus(&self, group: &str) -> Option<CpuSet> {
        let dir = self.dir(group, "cpuset")?;
        let file = if self.is_unified() { "cpuset.cpus.effective" } else { "cpuset.cpus" };
        fs::read_to_string(dir.join(file)).ok()?.parse().ok()
    }

    /// Names of the groups right below a group, in any hierarchy.
    pub fn children(&self, group: &str) -> BTreeSet<String> {
        let dirs = self.dirs(group).unwrap_or_default();
        let entries = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
        entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// Removes a group with the empty ones below it; one that is not there is fine.
    ///
    /// # Errors
    /// When a process is in it, or the kernel refuses.
    pub fn remove(&self, group: &str) -> io::Result<()> {
        let roots: Vec<PathBuf> = self.roots().cloned().collect();
        super::remove(&roots, group)
    }
}

/// Whether the kernel can limit swap of groups: asked of a group that is there, for the root has no such file.
pub(crate) fn limits_swap(tree: &CgroupTree, own_group: &str) -> bool {
    let file = if tree.is_unified() { "memory.swap.max" } else { "memory.memsw.limit_in_bytes" };
    let group = if tree.is_unified() { own_group } else { "/" };
    tree.dir(group, "memory").is_some_and(|dir| dir.join(file).exists())
}

impl CgroupTree {
    /// Whether swap of groups can be limited (upstream `checkSwapControllerAvailability`).
    pub fn limits_swap(&self) -> bool {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
        limits_swap(self, own)
    }
}

/// Huge page sizes as the kernel writes them in names of files, in ascending order.
fn page_sizes(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut sizes: Vec<u64> = entries
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
        })
        .filter(|kib| *kib > 0)
        .collect();
    sizes.sort_unstable();
    let text = |kib: u64| {
        let (mut size, mut unit) = (kib, 0);
        while size % 1024 == 0 && unit < 3 {
            size /= 1024;
            unit += 1;
        }
        format!("{size}{}", ["KB", "MB", "GB", "TB"][unit])
    };
    sizes.into_iter().map(text).collect()
}

/// Gives the groups below a directory every controller that it has itself. What the kernel refuses shows in the group
/// that lacks it.
fn enable_controllers(dir: &Path) {
    let has = fs::read_to_string(dir.join("cgroup.controllers")).map(|text| words(&text)).unwrap_or_default();
    let control = dir.join("cgroup.subtree_control");
    let gives = fs::read_to_string(&control).map(|text| words(&text)).unwrap_or_default();
    // One at a time: a group of threads may have some of them and not others.
    for controller in has.difference(&gives) {
        if let Err(error) = put(&control, &format!("+{controller}")) {
            tracing::debug!("{error}");
        }
    }
}

/// A new group of the older generation has neither CPUs nor memory: no process could enter it.
fn inherit_cpuset(above: &Path, dir: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if read(&dir.join(file))?.trim().is_empty() {
            put(&dir.join(file), read(&above.join(file))?.trim())?;
        }
    }
    Ok(())
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(|error| at(dir, "cannot be made", &error)),
    }
}

pub(super) fn read(file: &Path) -> io::Result<String> {
    fs::read_to_string(file).map_err(|error| at(file, "cannot be read", &error))
}

/// Writes a file that is there, in one go.
pub(super) fn put(file: &Path, value: &str) -> io::Result<()> {
    let written =
        fs::OpenOptions::new().write(true).open(file).and_then(|mut open| open.write_all(value.as_bytes()));
    written.map_err(|error| at(file, &format!("cannot be set to {value:?}"), &error))
}

fn at(path: &Path, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{} {what}: {error}", path.display()))
}

pub(super) fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROLLERS: &str = "cpuset cpu io memory hugetlb pids rdma misc\n";

    /// Files of a machine with the unified hierarchy, as a kernel 6.1 has them; below `kubepods` there is one pod.
    fn recorded() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for group in ["", "kubepods", "kubepods/poda"] {
            let dir = root.path().join(group);
            fs::create_dir_all(&dir).unwrap();
            for (file, text) in [
                ("cgroup.controllers", CONTROLLERS),
                ("cgroup.subtree_control", "cpu memory\n"),
                ("cgroup.events", "populated 0\nfrozen 0\n"),
                ("cgroup.kill", ""),
                ("cgroup.procs", ""),
                ("cpu.weight", "100\n"),
                ("cpu.max", "max 100000\n"),
                ("cpuset.cpus", "\n"),
                ("cpuset.cpus.effective", "0-3\n"),
                ("memory.max", "max\n"),
                ("memory.min", "0\n"),
                ("memory.current", "8192\n"),
                ("memory.swap.max", "max\n"),
                ("pids.max", "max\n"),
                ("hugetlb.2MB.max", "max\n"),
            ] {
                fs::write(dir.join(file), text).unwrap();
            }
        }
        root
    }

    fn tree(root: &Path) -> CgroupTree {
        CgroupTree::with_page_sizes(root, vec!["2MB".to_owned()]).unwrap()
    }

    #[test]
    fn the_unified_hierarchy_is_found_with_its_controllers() {
        let root = recorded();
        let tree = tree(root.path());
        assert!(tree.is_unified() && tree.has("hugetlb") && !tree.has("devices"));
        assert_eq!(tree.missing(), Vec::<&str>::new());
        assert!(tree.exists("/kubepods/poda") && !tree.exists("/kubepods/podb") && !tree.exists("/"));
        assert_eq!(tree.cpus("/"), Some([0, 1, 2, 3].into()));
        assert!(limits_swap(&tree, "/kubepods") && !limits_swap(&tree, "/none"));
        assert_eq!(tree.children("/kubepods"), ["poda".to_owned()].into());
    }

    #[test]
    fn making_a_group_gives_it_every_controller_or_says_which_it_lacks() {
        let root = recorded();
        let tree = tree(root.path());
        tree.make("/kubepods/poda").unwrap();
        // A plain file keeps only what was written to it last.
        let control = root.path().join("kubepods/cgroup.subtree_control");
        assert!(fs::read_to_string(control).unwrap().starts_with('+'));
        fs::write(root.path().join("kubepods/poda/cgroup.controllers"), "cpu cpuset memory hugetlb\n")
            .unwrap();
        let error = tree.make("/kubepods/poda").unwrap_err().to_string();
        assert_eq!(error, "cgroup \"/kubepods/poda\" has some missing controllers: pids");
        for bad in ["", "/", "/a/../b", "/a//b"] {
            assert!(tree.make(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn settings_are_written_and_optional_files_may_be_missing() {
        let root = recorded();
        let tree = tree(root.path());
        let settings = GroupSettings {
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            memory: Some(1 << 20),
            pids: Some(9),
            huge_pages: Some(BTreeMap::new()),
            unified: [("memory.min".to_owned(), "5".to_owned())].into(),
            ..Default::default()
        };
        tree.set("/kubepods/poda", &settings).unwrap();
        let text = |file: &str| fs::read_to_string(root.path().join("kubepods/poda").join(file)).unwrap();
        for (file, start) in [
            ("cpu.weight", "39"),
            ("cpu.max", "50000 100000"),
            ("memory.max", "1048576"),
            ("memory.min", "5"),
            ("pids.max", "9"),
            ("hugetlb.2MB.max", "0"),
        ] {
            assert!(text(file).starts_with(start), "{file}: {}", text(file));
        }
    }

    #[test]
    fn a_refusal_names_file_and_value_and_the_rest_is_set() {
        let root = recorded();
        let tree = tree(root.path());
        fs::remove_file(root.path().join("kubepods/poda/memory.max")).unwrap();
        let settings = GroupSettings { memory: Some(7), pids: Some(8), ..Default::default() };
        let error = tree.set("/kubepods/poda", &settings).unwrap_err().to_string();
        assert!(error.contains("kubepods/poda/memory.max cannot be set to \"7\": "), "{error}");
        assert!(fs::read_to_string(root.path().join("kubepods/poda/pids.max")).unwrap().starts_with('8'));
    }

    #[test]
    fn older_hierarchies_are_found_by_controller() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["cpu,cpuacct", "memory", "systemd", "unified"] {
            fs::create_dir(root.path().join(dir)).unwrap();
        }
        fs::write(root.path().join("unified/cgroup.controllers"), "").unwrap();
        let tree = tree(root.path());
        assert!(!tree.is_unified() && tree.has("cpu") && tree.has("cpuacct") && !tree.has("unified"));
        assert_eq!(tree.missing(), ["cpuset", "pids"]);
        tree.make("/kubepods/podx").unwrap();
        assert!(root.path().join("systemd/kubepods/podx").is_dir());
        assert!(!root.path().join("unified/kubepods").exists());
        // A runtime makes its own there.
        fs::create_dir_all(root.path().join("unified/kubepods/podx/c")).unwrap();
        tree.remove("/kubepods/podx").unwrap();
        assert!(!root.path().join("memory/kubepods/podx").exists());
        assert!(!root.path().join("unified/kubepods/podx").exists());
        assert!(CgroupTree::find(&root.path().join("none")).is_err());
    }

    #[test]
    fn page_sizes_as_the_kernel_writes_them() {
        let root = tempfile::tempdir().unwrap();
        for name in
            ["hugepages-1048576kB", "hugepages-2048kB", "hugepages-64kB", "hugepages-xkB", "hugepages-0kB"]
        {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        assert_eq!(page_sizes(root.path()), ["64KB", "2MB", "1GB"]);
    }
}
