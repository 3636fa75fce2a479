//! Which control group belongs to whom, and one round of reading them all. For a thread that may block.
//!
//! A pod's group is where core's layout has it; the groups of its sandbox and containers are found by their IDs among
//! those below it, once, and remembered while they are there.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rubelet_core::stats::usage::{GroupUsage, NetworkUsage, SystemGroup};
use rubelet_linux::usage::{Effort, Groups, network_of, node_network};

use super::rates::Rates;

/// Control groups that runtimes put containers into which have no parent of ours.
const HOMELESS: [&str; 2] = ["/k8s.io", "/system.slice"];
/// For so many seconds a container without a group is not looked for again.
const LOOK_SECONDS: i64 = 5;

/// What is to be read in a round.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Pods, in the order of the answer.
    pub(super) pods: Vec<WantedPod>,
    /// Parts of the node that are no pods, with their groups.
    pub(super) system: Vec<(&'static str, String)>,
    /// Other groups.
    pub(super) others: Vec<String>,
}

/// One pod to be read.
#[derive(Debug, Default)]
pub(super) struct WantedPod {
    /// Its group; empty when pods have none.
    pub(super) path: String,
    /// ID of its sandbox.
    pub(super) sandbox: Option<String>,
    /// Whether it has a network of its own.
    pub(super) own_network: bool,
    /// IDs of its containers.
    pub(super) containers: Vec<String>,
}

/// What was read of a pod.
#[derive(Debug, Default)]
pub(super) struct ReadPod {
    pub(super) group: Option<GroupUsage>,
    pub(super) sandbox: Option<GroupUsage>,
    pub(super) network: Option<NetworkUsage>,
    /// In the order in which they were asked for.
    pub(super) containers: Vec<Option<GroupUsage>>,
}

/// What was read in a round.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) root: Option<GroupUsage>,
    pub(super) network: Option<NetworkUsage>,
    pub(super) system: Vec<SystemGroup>,
    pub(super) others: Vec<GroupUsage>,
    pub(super) pods: Vec<ReadPod>,
}

/// Reads rounds.
pub(super) struct GroupReader {
    groups: Groups,
    rates: Rates,
    /// Groups by the ID of their container or sandbox.
    places: BTreeMap<String, String>,
    /// When an ID without a group was last looked for.
    looked_for: BTreeMap<String, i64>,
    /// The group of this process: `None` before it was asked for.
    own: Option<Option<String>>,
}

impl GroupReader {
    pub(super) fn new(groups: Groups) -> Self {
        Self {
            groups,
            rates: Rates::default(),
            places: BTreeMap::new(),
            looked_for: BTreeMap::new(),
            own: None,
        }
    }

    /// Reads everything that is wanted; what is not there is left out.
    pub(super) fn round(&mut self, wanted: &Wanted, effort: Effort, now: &dyn Fn() -> Timestamp) -> Round {
        self.groups.begin();
        let mut round = Round { root: self.read("/", effort, now), ..Round::default() };
        for (name, path) in &wanted.system {
            let group = self.read(path, effort, now);
            round.system.extend(group.map(|group| SystemGroup { name, group }));
        }
        for path in &wanted.others {
            round.others.extend(self.read(path, effort, now));
        }
        if effort >= Effort::Summary {
            round.network = node_network(now()).ok();
        }
        for pod in &wanted.pods {
            round.pods.push(self.pod(pod, effort, now));
        }
        self.forget_others(wanted);
        round
    }

    /// The group this process is in, unless that is the root.
    pub(super) fn own_group(&mut self) -> Option<String> {
        self.own.get_or_insert_with(|| self.groups.own_group().filter(|path| path != "/")).clone()
    }

    /// Closes every file; readings to compare with are kept no longer either.
    pub(super) fn close(&mut self) {
        self.groups.close();
        self.rates = Rates::default();
        self.places.clear();
        self.looked_for.clear();
    }

    fn read(&mut self, path: &str, effort: Effort, now: &dyn Fn() -> Timestamp) -> Option<GroupUsage> {
        let mut group = self.groups.read(path, effort, now())?;
        self.rates.rate(&mut group);
        Some(group)
    }

    fn pod(&mut self, wanted: &WantedPod, effort: Effort, now: &dyn Fn() -> Timestamp) -> ReadPod {
        let mut pod = ReadPod::default();
        if !wanted.path.is_empty() {
            pod.group = self.read(&wanted.path, effort, now);
        }
        self.find(wanted, now().as_second());
        // Only who is told everything is told of sandboxes.
        if effort == Effort::Everything {
            pod.sandbox = wanted.sandbox.as_ref().and_then(|id| self.read_place(id, effort, now));
        }
        pod.containers = wanted.containers.iter().map(|id| self.read_place(id, effort, now)).collect();
        if wanted.own_network && effort >= Effort::Summary {
            let mut places =
                wanted.sandbox.iter().chain(&wanted.containers).filter_map(|id| self.places.get(id));
            let pid = places.find_map(|path| self.groups.process_of(path, now()));
            pod.network = pid.and_then(|pid| network_of(pid, now()).ok());
        }
        pod
    }

    fn read_place(&mut self, id: &str, effort: Effort, now: &dyn Fn() -> Timestamp) -> Option<GroupUsage> {
        let path = self.places.get(id)?.clone();
        let group = self.read(&path, effort, now);
        if group.is_none() {
            self.places.remove(id);
        }
        group
    }

    /// Looks for the groups of IDs that have none yet.
    fn find(&mut self, pod: &WantedPod, second: i64) {
        let ids = || pod.sandbox.iter().chain(&pod.containers);
        let looked = |at: &i64| (0..LOOK_SECONDS).contains(&(second - at));
        let missing: Vec<&String> = ids()
            .filter(|id| !self.places.contains_key(*id) && !self.looked_for.get(*id).is_some_and(looked))
            .collect();
        if missing.is_empty() {
            return;
        }
        let parents: &[&str] = if pod.path.is_empty() { &HOMELESS } else { &[&pod.path] };
        for parent in parents {
            let names = self.groups.children(parent);
            for id in &missing {
                if let Some(name) = names.iter().find(|name| is_group_of(name, id)) {
                    self.places.insert((*id).clone(), format!("{parent}/{name}"));
                }
            }
        }
        for id in missing {
            if self.places.contains_key(id) {
                self.looked_for.remove(id);
            } else {
                self.looked_for.insert(id.clone(), second);
            }
        }
    }

    /// Bounded by what is wanted: the rest is forgotten.
    fn forget_others(&mut self, wanted: &Wanted) {
        let ids: BTreeSet<&str> = wanted
            .pods
            .iter()
            .flat_map(|pod| pod.sandbox.iter().chain(&pod.containers))
            .map(String::as_str)
            .collect();
        self.places.retain(|id, _| ids.contains(id.as_str()));
        self.looked_for.retain(|id, _| ids.contains(id.as_str()));
        let named = wanted.system.iter().map(|(_, path)| path).chain(&wanted.others);
        let pods = wanted.pods.iter().map(|pod| &pod.path);
        let paths: BTreeSet<&str> =
            named.chain(pods).chain(self.places.values()).map(String::as_str).chain(["/"]).collect();
        self.groups.retain(|path| paths.contains(path));
        self.rates.retain(|path| paths.contains(path));
    }
}

/// Whether a group of this name is that of a container: `<id>`, or `<runtime>-<id>.scope`. CRI-O's monitor of a container
/// has a group with the ID in its name too.
fn is_group_of(name: &str, id: &str) -> bool {
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    let Some(before) = stem.strip_suffix(id).filter(|_| !id.is_empty()) else { return false };
    before.is_empty() || (before.ends_with(['-', ':']) && !before.contains("conmon"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn groups_are_known_by_their_names() {
        let check = |name: &str, expected| assert_eq!(is_group_of(name, "abc"), expected, "{name}");
        check("abc", true);
        check("cri-containerd-abc.scope", true);
        check("crio-abc.scope", true);
        check("crio-abc", true);
        check("kubepods-pod1.slice:cri-containerd:abc", true);
        check("crio-conmon-abc.scope", false);
        check("xabc", false);
        check("abcd", false);
        check("abc.slice", false);
        assert!(!is_group_of("crio-", ""));
    }

    /// A group of a unified hierarchy, as far as it is needed here.
    fn group(mount: &Path, path: &str, cpu: u64) {
        let dir = mount.join(path);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("cpu.stat"), format!("usage_usec {cpu}\n")).unwrap();
        fs::write(dir.join("memory.current"), "10\n").unwrap();
    }

    #[test]
    fn a_round_finds_reads_and_forgets() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "").unwrap();
        for (path, cpu) in [
            ("", 1),
            ("kubepods.slice", 2),
            ("kubepods.slice/kubepods-podx.slice", 3),
            ("kubepods.slice/kubepods-podx.slice/cri-containerd-sb.scope", 4),
            ("kubepods.slice/kubepods-podx.slice/cri-containerd-c1.scope", 5),
        ] {
            group(root.path(), path, cpu);
        }
        let mut reader = GroupReader::new(Groups::new(root.path(), 1000));
        let wanted = |containers: &[&str]| Wanted {
            pods: vec![WantedPod {
                path: "/kubepods.slice/kubepods-podx.slice".into(),
                sandbox: Some("sb".into()),
                own_network: false,
                containers: containers.iter().map(|id| (*id).to_owned()).collect(),
            }],
            system: vec![("pods", "/kubepods.slice".into()), ("misc", "/none".into())],
            others: vec!["/kubepods.slice/kubepods-burstable.slice".into()],
        };
        let mut read = |containers: &[&str], second: i64| {
            let now = move || Timestamp::from_second(second).unwrap();
            reader.round(&wanted(containers), Effort::Everything, &now)
        };
        let total = |group: &Option<GroupUsage>| group.as_ref().map(|g| g.cpu.as_ref().unwrap().total / 1000);
        let first = read(&["c1", "c2"], 10);
        assert_eq!((total(&first.root), first.system.len(), first.others.len()), (Some(1), 1, 0));
        assert_eq!((total(&first.pods[0].group), total(&first.pods[0].sandbox)), (Some(3), Some(4)));
        assert_eq!(first.pods[0].containers.iter().map(total).collect::<Vec<_>>(), [Some(5), None]);
        assert_eq!(first.root.unwrap().nanocores, None);
        // A container that comes later is found when it is time to look again.
        group(root.path(), "kubepods.slice/kubepods-podx.slice/cri-containerd-c2.scope", 6);
        group(root.path(), "", 2001);
        let second = read(&["c1", "c2"], 12);
        assert_eq!(total(&second.pods[0].containers[1]), None);
        assert_eq!(second.root.unwrap().nanocores, Some(1_000_000));
        assert_eq!(total(&read(&["c1", "c2"], 15).pods[0].containers[1]), Some(6));
        let gone = root.path().join("kubepods.slice/kubepods-podx.slice/cri-containerd-c1.scope");
        read(&["c2"], 16);
        assert!(!reader.places.contains_key("c1"));
        fs::remove_dir_all(gone).unwrap();
        let now = || Timestamp::from_second(17).unwrap();
        let last = reader.round(&wanted(&["c1", "c2"]), Effort::Everything, &now);
        assert_eq!(last.pods[0].containers.iter().map(total).collect::<Vec<_>>(), [None, Some(6)]);
        reader.close();
        assert_eq!((reader.groups.open_files(), reader.places.len()), (0, 0));
    }
}
