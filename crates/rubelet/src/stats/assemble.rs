//! Puts what was read together into one reading. Reads nothing itself.

use std::path::Path;

use rubelet_core::stats::usage::{ContainerUsage, FsUsage, NodeUsage, PodUsage};
use rubelet_linux::usage::Space;

use super::disk::DiskFigures;
use super::groups::ReadPod;
use super::runtime::Taken;
use super::{Ground, Running, Shared, Storage};
use crate::pleg::AliveContainer;

impl Shared {
    /// One reading of all that was read.
    pub(super) fn assemble(
        &self,
        pods: Vec<Running>,
        ground: Ground,
        storage: Option<Storage>,
        problems: Vec<String>,
    ) -> NodeUsage {
        let Ground { round, facts, memory, pids } = ground;
        let root = round.root.unwrap_or_default();
        let working_set = root.memory.as_ref().map(|memory| memory.working_set);
        let mut system = round.system;
        for group in system.iter_mut().filter(|group| group.name == "kubelet") {
            group.group.created_at = Some(self.started_at);
        }
        let mut usage = NodeUsage {
            node_name: self.settings.node_name.clone(),
            boot_time: facts.boot_time,
            memory_available: working_set.map(|used| facts.machine.memory.saturating_sub(used)),
            machine: facts.machine,
            root,
            swap: memory.swap_total.zip(memory.swap_used).map(|(all, used)| (used, all.saturating_sub(used))),
            network: round.network,
            pids,
            system,
            other_groups: round.others,
            problems,
            ..NodeUsage::default()
        };
        if let Some(storage) = &storage {
            let disk = &storage.disk;
            usage.fs = disk.places.get(&self.settings.root_dir).cloned();
            usage.filesystems.clone_from(&disk.filesystems);
            usage.image_fs = storage.runtime.images.as_ref().map(|taken| on_place(taken, disk));
            usage.container_fs = storage.runtime.containers.as_ref().map(|taken| on_place(taken, disk));
        }
        if let Some(oom) = self.sources.pleg.oom_watch() {
            oom.learn_owners(&self.sources.pleg);
        }
        let mut read = round.pods.into_iter();
        usage.pods = pods
            .into_iter()
            .map(|pod| self.pod(pod, read.next().unwrap_or_default(), storage.as_ref()))
            .collect();
        usage
    }

    pub(super) fn pod(&self, running: Running, read: ReadPod, storage: Option<&Storage>) -> PodUsage {
        let Running { uid, row, alive } = running;
        let space = storage.and_then(|storage| storage.disk.pods.get(&uid));
        let logs_fs = storage.and_then(|storage| {
            let places = &storage.disk.places;
            places.get(&self.settings.pod_logs_dir).or_else(|| places.get(&self.settings.root_dir))
        });
        let mut groups = read.containers.into_iter();
        let containers = alive.containers.into_iter().map(|container| {
            let AliveContainer { id, name, attempt, image, started_at } = container;
            let layer = storage.and_then(|storage| {
                let taken = storage.runtime.layers.get(id.as_str())?;
                Some(on_place(taken, &storage.disk))
            });
            let mut group = groups.next().flatten();
            let memory = group.as_mut().and_then(|group| group.memory.as_mut());
            if let Some((memory, oom)) = memory.zip(self.sources.pleg.oom_watch()) {
                memory.oom_kills = Some(oom.total(&uid, &name, &id, memory.oom_kills));
            }
            let logs = space.and_then(|space| space.logs.get(&name));
            ContainerUsage {
                logs: logs.zip(logs_fs).map(|(space, fs)| part_of(fs, *space)),
                id: id.to_string(),
                name,
                image,
                attempt,
                started_at,
                group,
                rootfs: layer,
            }
        });
        let sandbox_id = alive.sandbox.as_ref().map(|sandbox| sandbox.id.to_string()).unwrap_or_default();
        let sandbox_image = storage.and_then(|storage| storage.sandbox_images.get(&sandbox_id)).cloned();
        PodUsage {
            containers: containers.collect(),
            pod: row.pod,
            status: row.status,
            sandbox_image: sandbox_image.unwrap_or_default(),
            sandbox_id,
            started_at: alive.sandbox.and_then(|sandbox| sandbox.created_at),
            group: read.group,
            sandbox_group: read.sandbox,
            network: read.network,
            volumes: if storage.is_some() { self.volumes.latest(&uid) } else { vec![] },
            other_ephemeral: space.zip(logs_fs).map(|(space, fs)| part_of(fs, space.other)),
        }
    }
}

/// What the runtime says something takes, on the file system it says that it is on.
fn on_place(taken: &Taken, disk: &DiskFigures) -> FsUsage {
    let fs = disk.places.get(Path::new(&taken.mountpoint)).cloned().unwrap_or_default();
    FsUsage { at: taken.at, used: taken.bytes, inodes_used: taken.inodes, ..fs }
}

/// What files take of the file system they are on.
fn part_of(fs: &FsUsage, space: Space) -> FsUsage {
    FsUsage { used: Some(space.bytes), inodes_used: Some(space.inodes), ..fs.clone() }
}
