//! `/stats/summary`: what node, pods and volumes use, as an object of stats/v1alpha1 in JSON.
//!
//! Called by the server when a client asks; written straight to bytes, one pod at a time. Which figure comes from where
//! is upstream's CRI stats provider (`cri_stats_provider.go`, `helper.go`, `summary.go`); what is not known is absent,
//! where upstream writes some of it as zero. Custom metrics (`userDefinedMetrics`) and accelerators are never told.

pub(super) mod figures;
#[cfg(test)]
mod tests;
pub(super) mod types;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use serde_json::ser::{PrettyFormatter, Serializer as JsonSerializer};

use self::figures::{Figures, add};
use self::types::{
    ContainerStats, FsStats, InterfaceStats, NetworkStats, NodeStats, PodReference, PodStats, ProcessStats,
    PvcReference, RlimitStats, RuntimeStats, VolumeHealthStats, VolumeStats,
};
use super::told::{self, ToldPod};
use super::usage::{ContainerUsage, FsUsage, NetworkUsage, NodeUsage, SystemGroup, VolumeUsage};

/// The Summary of a reading, indented by one space as upstream's is. With `only_cpu_and_memory` it has CPU, memory and
/// swap alone, as upstream's `GetCPUAndMemoryStats`.
pub fn summary(usage: &NodeUsage, only_cpu_and_memory: bool) -> Vec<u8> {
    let pods = told::pods(usage);
    let containers: usize = pods.iter().map(|pod| pod.containers.len()).sum();
    let mut out = Vec::with_capacity(8192 + 1536 * (pods.len() + containers));
    let mut json = JsonSerializer::with_formatter(&mut out, PrettyFormatter::with_indent(b" "));
    let summary = Summary { usage, pods, all: !only_cpu_and_memory };
    // Writing to memory does not fail, and neither does any of the values: they have no maps with odd keys.
    match summary.serialize(&mut json) {
        Ok(()) => out,
        Err(_) => Vec::new(),
    }
}

struct Summary<'a> {
    usage: &'a NodeUsage,
    pods: Vec<ToldPod<'a>>,
    /// Whether more than CPU, memory and swap is told.
    all: bool,
}

impl Serialize for Summary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Summary", 2)?;
        object.serialize_field("node", &self.node())?;
        object.serialize_field("pods", &Pods(self))?;
        object.end()
    }
}

/// The pods of a summary: each is made when it is written.
struct Pods<'a>(&'a Summary<'a>);

impl Serialize for Pods<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.pods.iter().map(|pod| self.0.pod(pod)))
    }
}

impl<'a> Summary<'a> {
    /// What belongs to the whole summary only.
    fn more<T>(&self, make: impl FnOnce() -> Option<T>) -> Option<T> {
        if self.all { make() } else { None }
    }

    fn node(&self) -> NodeStats<'a> {
        let usage = self.usage;
        let Figures { cpu, memory, swap, io } = Figures::of_node(usage);
        let started = if self.all { None } else { usage.root.created_at };
        NodeStats {
            node_name: &usage.node_name,
            system_containers: usage.system.iter().map(|system| self.system(system)).collect(),
            start_time: started.or(usage.boot_time).into(),
            cpu,
            memory,
            io: self.more(|| io),
            network: self.more(|| network(usage.network.as_ref()?)),
            fs: self.more(|| usage.fs.as_ref().map(fs)),
            runtime: self.more(|| {
                // Without a file system of their own, writable layers are where images are.
                let container_fs = usage.container_fs.as_ref().or(usage.image_fs.as_ref());
                let image_fs = usage.image_fs.as_ref().map(fs);
                container_fs.map(|of| RuntimeStats { image_fs, container_fs: Some(fs(of)) })
            }),
            rlimit: self.more(|| {
                usage.pids.map(|(max_pid, running)| RlimitStats {
                    time: usage.root.at.into(),
                    max_pid,
                    running,
                })
            }),
            swap,
        }
    }

    fn system(&self, system: &'a SystemGroup) -> ContainerStats<'a> {
        let Figures { cpu, memory, swap, io } = Figures::of(Some(&system.group));
        ContainerStats {
            name: system.name,
            start_time: system.group.created_at.into(),
            cpu,
            memory,
            io: self.more(|| io),
            rootfs: None,
            logs: None,
            swap,
        }
    }

    fn pod(&self, pod: &ToldPod<'a>) -> PodStats<'a> {
        let Figures { cpu, memory, swap, io } = Figures::of_pod(pod);
        PodStats {
            pod_ref: PodReference {
                name: pod.name,
                namespace: pod.namespace,
                uid: pod.usage.pod.metadata.uid.as_deref().unwrap_or_default(),
            },
            start_time: pod.usage.started_at.into(),
            containers: pod.containers.iter().map(|container| self.container(container)).collect(),
            cpu,
            memory,
            io: self.more(|| io),
            network: self.more(|| network(told::network(self.usage, pod.usage)?)),
            volume_stats: if self.all { volumes(&pod.usage.volumes) } else { Vec::new() },
            ephemeral_storage: self.more(|| ephemeral_storage(self.usage, pod)),
            process_stats: self.more(|| processes(pod)),
            swap,
        }
    }

    fn container(&self, container: &'a ContainerUsage) -> ContainerStats<'a> {
        let Figures { cpu, memory, swap, io } = Figures::of(container.group.as_ref());
        ContainerStats {
            name: &container.name,
            start_time: container.started_at.into(),
            cpu,
            memory,
            io: self.more(|| io),
            rootfs: self.more(|| container.rootfs.as_ref().map(fs)),
            logs: self.more(|| container.logs.as_ref().map(fs)),
            swap,
        }
    }
}

fn fs(usage: &FsUsage) -> FsStats {
    FsStats {
        time: usage.at.into(),
        available_bytes: usage.available,
        capacity_bytes: usage.capacity,
        used_bytes: usage.used,
        inodes_free: usage.inodes_free,
        inodes: usage.inodes,
        inodes_used: usage.inodes_used,
    }
}

/// All interfaces, and the default one's figures beside them: `eth0`, or else the first.
fn network(usage: &NetworkUsage) -> Option<NetworkStats<'_>> {
    let interfaces: Vec<InterfaceStats<'_>> = told::interfaces(usage)
        .map(|interface| InterfaceStats {
            name: &interface.name,
            rx_bytes: interface.rx_bytes,
            rx_errors: interface.rx_errors,
            tx_bytes: interface.tx_bytes,
            tx_errors: interface.tx_errors,
        })
        .collect();
    let default =
        interfaces.iter().find(|interface| interface.name == "eth0").or(interfaces.first())?.clone();
    Some(NetworkStats { time: usage.at.into(), default, interfaces })
}

/// Volumes, those on the node's own storage first.
fn volumes(volumes: &[VolumeUsage]) -> Vec<VolumeStats<'_>> {
    let (ephemeral, lasting): (Vec<_>, Vec<_>) = volumes.iter().partition(|volume| volume.ephemeral);
    let all = ephemeral.into_iter().chain(lasting);
    all.map(|volume| VolumeStats {
        fs: fs(&volume.fs),
        name: &volume.name,
        pvc_ref: volume.claim.as_ref().map(|(namespace, name)| PvcReference { name, namespace }),
        volume_health_stats: volume.abnormal.map(|abnormal| VolumeHealthStats { abnormal }),
    })
    .collect()
}

/// The node's file system, and what of it the pod uses: layers and logs of its containers, volumes on the node's own
/// storage, and its other files. Logs count only beside a layer that is known, as upstream has it.
fn ephemeral_storage(usage: &NodeUsage, pod: &ToldPod<'_>) -> Option<FsStats> {
    let layers = pod.containers.iter().filter_map(|container| container.rootfs.as_ref());
    let logs = pod.containers.iter().filter(|container| container.rootfs.is_some());
    let logs = logs.filter_map(|container| container.logs.as_ref());
    let volumes = pod.usage.volumes.iter().filter(|volume| volume.ephemeral).map(|volume| &volume.fs);
    let mut parts = layers.chain(logs).chain(volumes).chain(&pod.usage.other_ephemeral).peekable();
    if usage.fs.is_none() && parts.peek().is_none() {
        return None;
    }
    let mut sum = usage.fs.as_ref().map(fs).unwrap_or_default();
    (sum.used_bytes, sum.inodes_used) = (None, None);
    for part in parts {
        sum.time = sum.time.max(part.at.into());
        add(&mut sum.used_bytes, part.used);
        add(&mut sum.inodes_used, part.inodes_used);
    }
    Some(sum)
}

/// Processes of all containers together.
fn processes(pod: &ToldPod<'_>) -> Option<ProcessStats> {
    let mut sum = None;
    for container in &pod.containers {
        let known = container.group.as_ref().and_then(|group| group.processes.as_ref());
        add(&mut sum, known.map(|processes| processes.processes));
    }
    sum.map(|process_count| ProcessStats { process_count })
}
