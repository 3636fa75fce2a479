//! The control groups that are told of, each with the labels that all its samples have. Called by `cadvisor`.
//!
//! Labels are those of upstream's `containerPrometheusLabelsFunc` over containerd: a container has its ID as `name`; the
//! sandbox too, with an empty `container`; a pod's own group has pod and namespace; all others have their path alone.

use std::collections::BTreeSet;

use crate::stats::exposition::Labels;
use crate::stats::told;
use crate::stats::usage::{
    FilesystemUsage, FsUsage, GroupUsage, MachineUsage, NetworkUsage, NodeUsage, PodUsage,
};

/// A control group that is told of.
pub(super) struct Subject<'a> {
    /// container, id, image, name, namespace, pod.
    pub(super) labels: Labels,
    pub(super) group: &'a GroupUsage,
    /// When it was read, milliseconds since the epoch.
    pub(super) at: Option<i64>,
    /// When it started, whole seconds since the epoch.
    pub(super) started: Option<i64>,
    /// The network that is told of with it: a pod's with its sandbox, the node's with the root.
    pub(super) network: Option<&'a NetworkUsage>,
    /// The node's file systems, with the root.
    pub(super) filesystems: &'a [FilesystemUsage],
    /// The writable layer of a container.
    pub(super) layer: Option<&'a FsUsage>,
    /// The machine, whose memory is the limit of the root.
    pub(super) machine: Option<&'a MachineUsage>,
    /// Whether it is there to hold the groups of containers, which are told of by themselves.
    pub(super) holds_containers: bool,
}

/// What a sample's labels say beside the path of the group.
#[derive(Clone, Copy, Default)]
struct Words<'a> {
    container: &'a str,
    image: &'a str,
    name: &'a str,
    namespace: &'a str,
    pod: &'a str,
}

/// The groups by container and path, each path once: what belongs to a pod is told of as the pod's.
pub(super) fn subjects(usage: &NodeUsage) -> Vec<Subject<'_>> {
    let mut found = Found::default();
    let root = Words::default();
    if let Some(subject) = found.subject("/", &usage.root, root) {
        subject.network = usage.network.as_ref();
        subject.filesystems = &usage.filesystems;
        subject.machine = Some(&usage.machine);
        subject.started = seconds(usage.root.created_at.or(usage.boot_time));
    }
    for pod in &usage.pods {
        found.pod(usage, pod);
    }
    let system = usage.system.iter().map(|system| (&system.group, system.name == "pods"));
    for (group, holds_containers) in system.chain(usage.other_groups.iter().map(|group| (group, true))) {
        if let Some(subject) = found.subject(&group.path, group, Words::default()) {
            subject.holds_containers = holds_containers;
        }
    }
    found.subjects.sort_by_key(|(order, _)| *order);
    found.subjects.into_iter().map(|(_, subject)| subject).collect()
}

#[derive(Default)]
struct Found<'a> {
    paths: BTreeSet<&'a str>,
    /// With container and path, by which they are sorted.
    subjects: Vec<((&'a str, &'a str), Subject<'a>)>,
}

impl<'a> Found<'a> {
    fn pod(&mut self, usage: &'a NodeUsage, pod: &'a PodUsage) {
        let of_pod = Words { namespace: told::namespace(pod), pod: told::name(pod), ..Words::default() };
        if let Some(group) = &pod.group
            && let Some(subject) = self.subject(&group.path, group, of_pod)
        {
            subject.holds_containers = true;
        }
        if let Some(group) = &pod.sandbox_group {
            let words = Words { image: &pod.sandbox_image, name: &pod.sandbox_id, ..of_pod };
            if let Some(subject) = self.subject(&group.path, group, words) {
                subject.network = told::network(usage, pod);
                subject.started = subject.started.or_else(|| seconds(pod.started_at));
            }
        }
        for container in &pod.containers {
            let Some(group) = &container.group else { continue };
            let words =
                Words { container: &container.name, image: &container.image, name: &container.id, ..of_pod };
            if let Some(subject) = self.subject(&group.path, group, words) {
                subject.layer = container.rootfs.as_ref();
                subject.started = subject.started.or_else(|| seconds(container.started_at));
            }
        }
    }

    /// Adds a group that has a path not seen before and of which something is known.
    fn subject(
        &mut self,
        path: &'a str,
        group: &'a GroupUsage,
        words: Words<'a>,
    ) -> Option<&mut Subject<'a>> {
        if path.is_empty() || !is_known(group) || !self.paths.insert(path) {
            return None;
        }
        let labels = Labels::new(&[
            ("container", words.container),
            ("id", path),
            ("image", words.image),
            ("name", words.name),
            ("namespace", words.namespace),
            ("pod", words.pod),
        ]);
        let subject = Subject {
            labels,
            group,
            at: Some(group.at.as_millisecond()).filter(|at| *at > 0),
            started: seconds(group.created_at),
            network: None,
            filesystems: &[],
            layer: None,
            machine: None,
            holds_containers: false,
        };
        self.subjects.push(((words.container, path), subject));
        self.subjects.last_mut().map(|(_, subject)| subject)
    }
}

fn is_known(group: &GroupUsage) -> bool {
    group.cpu.is_some() || group.memory.is_some() || group.processes.is_some() || !group.devices.is_empty()
}

fn seconds(at: Option<jiff::Timestamp>) -> Option<i64> {
    at.map(jiff::Timestamp::as_second).filter(|at| *at > 0)
}
