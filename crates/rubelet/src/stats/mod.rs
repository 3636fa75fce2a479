//! What the node and its pods use, read when somebody asks.
//!
//! [`Collector::usage`] puts one [`NodeUsage`] together of control groups, the runtime's figures, disks and volumes. One
//! question at a time reads; whoever asks within a second gets the same answer. Nothing runs while nobody asks: a few
//! minutes after the last question files are closed, walks end and what was remembered is dropped.
//!
//! Called by the kubelet API. Starts nothing, stops nothing, and never fails: what cannot be read is missing, with a
//! text that says so.

mod assemble;
mod disk;
mod groups;
mod rates;
mod runtime;
mod volumes;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use rubelet_config::{FeatureGates, Gate, KubeletConfiguration};
use rubelet_core::Pod;
use rubelet_core::ids::PodUid;
use rubelet_core::paths::pod_paths;
use rubelet_core::qos::{QosClass, pod_qos};
use rubelet_core::resources::{CgroupRoot, cgroup_path};
use rubelet_core::stats::usage::{MachineUsage, NodeUsage, PodUsage};
use rubelet_cri::{ImageService, RuntimeService};
use rubelet_linux::node_facts::{self, NodeMachine};
use rubelet_linux::usage::{Effort, Groups, MachineMemory, boot_time, machine_usage};
use rubelet_server::node::Extent;
use rubelet_volumes::Volumes;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use self::disk::{DiskFigures, Disks, PodFiles};
use self::groups::{GroupReader, ReadPod, Round, Wanted, WantedPod};
use self::runtime::{Figures, RuntimeFigures};
use self::volumes::{IDLE, VolumeFigures};
use crate::clock::Clock;
use crate::fs_pool::FsPool;
use crate::pleg::{AlivePod, Pleg};
use crate::runtime_monitor::RuntimeState;
use crate::services::{NodeSettings, Services};
use crate::table::{PodRow, PodTable};

/// How long a reading is good.
const FRESH: Duration = Duration::from_secs(1);
/// Files of control groups that stay open. Each costs the kernel about a page; a pod of two containers has up to 100.
const OPEN_FILES: usize = 12_000;
/// How long control groups or disks are waited for.
const WAIT: Duration = Duration::from_secs(5);

/// Fills in what a pod uses, where there is no machine to look at.
pub type PodFigures = Arc<dyn Fn(&mut PodUsage) + Send + Sync>;

/// What the collector asks.
#[derive(Clone)]
pub struct Sources {
    /// Wall clock; a simulated one means that there is no machine to look at.
    pub clock: Clock,
    /// Where blocking work goes.
    pub fs: FsPool,
    /// The runtime.
    pub runtime: Arc<dyn RuntimeService>,
    /// Its images.
    pub images: Arc<dyn ImageService>,
    /// What is alive.
    pub pleg: Pleg,
    /// What the pods are.
    pub table: PodTable,
    /// Where volumes lie.
    pub volumes: Volumes,
    /// What the runtime told of itself.
    pub runtime_state: watch::Receiver<RuntimeState>,
    /// What pods use on a simulated clock; `None` means that nothing is known of them.
    pub figures: Option<PodFigures>,
}

impl Sources {
    /// Those of the agent.
    pub fn of(services: &Services, images: Arc<dyn ImageService>) -> Self {
        Self {
            clock: services.clock.clone(),
            fs: services.fs.clone(),
            runtime: services.runtime.clone(),
            images,
            pleg: services.pleg.clone(),
            table: services.table.clone(),
            volumes: services.volumes.clone(),
            runtime_state: services.runtime_state.clone(),
            figures: None,
        }
    }
}

/// Where the collector looks.
#[derive(Clone, Debug)]
pub struct StatsSettings {
    /// Node name.
    pub node_name: String,
    /// `--root-dir`.
    pub root_dir: PathBuf,
    /// `podLogsDir`.
    pub pod_logs_dir: PathBuf,
    /// Where the tree of pod cgroups hangs.
    pub cgroups: CgroupRoot,
    /// Where control groups are mounted.
    pub cgroup_mount: PathBuf,
    /// The machine; `None` reads it.
    pub machine: Option<NodeMachine>,
    /// `kubeletCgroups`; empty means the group the agent is in.
    pub kubelet_group: String,
    /// `--runtime-cgroups`; empty means that nothing is told of the runtime.
    pub runtime_group: String,
    /// `systemCgroups`; empty means that nothing is told of the rest of the system.
    pub system_group: String,
    /// `volumeStatsAggPeriod`; `None` measures no volumes.
    pub volume_period: Option<Duration>,
    /// Whether is told what drivers say of the health of volumes (feature gate CSIVolumeHealth).
    pub volume_health: bool,
}

impl StatsSettings {
    /// From the configuration, `--runtime-cgroups`, and what is known of the node.
    pub fn new(config: &KubeletConfiguration, runtime_group: &str, node: &NodeSettings) -> Self {
        Self {
            node_name: node.name.clone(),
            root_dir: node.root_dir.clone(),
            pod_logs_dir: node.pod_logs_dir.clone(),
            cgroups: node.cgroups.clone(),
            cgroup_mount: PathBuf::from(rubelet_linux::cgroup::MOUNT),
            machine: None,
            kubelet_group: config.kubelet_cgroups.clone(),
            runtime_group: runtime_group.to_owned(),
            system_group: config.system_cgroups.clone(),
            volume_period: Some(config.volume_stats_agg_period.to_std()).filter(|period| !period.is_zero()),
            volume_health: FeatureGates::from_settings(&config.feature_gates)
                .0
                .enabled(Gate::CSIVolumeHealth),
        }
    }
}

/// Reads what node and pods use; cheap to clone.
#[derive(Clone)]
pub struct Collector(Arc<Shared>);

struct Shared {
    sources: Sources,
    settings: StatsSettings,
    /// When the agent started.
    started_at: Timestamp,
    /// One reading of each extent at a time.
    turns: [tokio::sync::Mutex<()>; EXTENTS.len()],
    /// Made with the first question. Held by the thread that reads.
    reader: Arc<tokio::sync::Mutex<Option<GroupReader>>>,
    facts: Arc<OnceLock<Facts>>,
    runtime: RuntimeFigures,
    disks: Disks,
    volumes: VolumeFigures,
    kept: Mutex<Kept>,
    /// Held by the attendant too, which holds nothing else while it waits.
    asked: Arc<Notify>,
}

/// What lasts from one question to the next.
#[derive(Default)]
struct Kept {
    /// Readings by extent.
    readings: [Option<(Instant, Arc<NodeUsage>)>; EXTENTS.len()],
    asked_at: Option<Instant>,
    attendant: Option<JoinHandle<()>>,
}

/// What does not change while the agent runs.
#[derive(Clone, Debug, Default)]
struct Facts {
    machine: MachineUsage,
    boot_time: Option<Timestamp>,
}

/// A pod of which something runs.
struct Running {
    uid: PodUid,
    row: PodRow,
    alive: AlivePod,
}

/// What was read of the machine and its control groups.
#[derive(Default)]
struct Ground {
    round: Round,
    facts: Facts,
    memory: MachineMemory,
    pids: Option<(i64, i64)>,
}

/// What was read beside that.
#[derive(Default)]
struct Storage {
    runtime: Figures,
    disk: DiskFigures,
    sandbox_images: std::collections::BTreeMap<String, String>,
}

impl Collector {
    /// A collector that has read nothing yet.
    pub fn new(sources: Sources, settings: StatsSettings) -> Self {
        let runtime = RuntimeFigures::new(sources.runtime.clone(), sources.images.clone());
        let volumes = VolumeFigures::new(
            sources.fs.clone(),
            sources.clock.clone(),
            settings.volume_period,
            sources.volumes.clone(),
            settings.volume_health,
        );
        let started_at = sources.clock.now();
        Self(Arc::new(Shared {
            sources,
            settings,
            started_at,
            turns: Default::default(),
            reader: Arc::default(),
            facts: Arc::default(),
            runtime,
            disks: Disks::default(),
            volumes,
            kept: Mutex::default(),
            asked: Arc::default(),
        }))
    }

    /// What node and pods use, at most about a second old. Cancel-safe: who goes away leaves the reading to the next.
    pub async fn usage(&self, extent: Extent) -> Arc<NodeUsage> {
        let shared = &self.0;
        if shared.sources.clock.is_simulated() {
            return Arc::new(shared.made_up());
        }
        if let Some(kept) = shared.kept_reading(extent) {
            return kept;
        }
        let _turn = shared.turns[number(extent)].lock().await;
        // Whoever had the turn before may have read for us.
        if let Some(kept) = shared.kept_reading(extent) {
            return kept;
        }
        self.attend();
        let usage = Arc::new(shared.read(extent).await);
        let mut kept = shared.kept();
        kept.readings[number(extent)] = Some((Instant::now(), usage.clone()));
        drop(kept);
        shared.asked.notify_one();
        usage
    }

    /// Measures these volumes of a pod now: bytes by name. What is on no disk of the node, or cannot be measured, is
    /// missing. Cancel-safe.
    pub async fn measure(&self, pod: &Pod, names: &[String]) -> BTreeMap<String, u64> {
        let shared = &self.0;
        let mut found = BTreeMap::new();
        let settings = &shared.settings;
        if names.is_empty() || shared.sources.clock.is_simulated() {
            return found;
        }
        let Ok(paths) = pod_paths(&settings.root_dir, &settings.pod_logs_dir, pod) else { return found };
        for volume in shared.sources.volumes.measured(pod, &paths.dir) {
            if volume.driver.is_none()
                && names.contains(&volume.name)
                && let Some(used) = shared.volumes.now(&volume.path).await.and_then(|figures| figures.used)
            {
                found.insert(volume.name, used);
            }
        }
        found
    }

    /// Sees to it that what is kept for the next question is dropped when none comes.
    fn attend(&self) {
        let mut kept = self.0.kept();
        kept.asked_at = Some(Instant::now());
        if kept.attendant.as_ref().is_none_or(JoinHandle::is_finished) {
            let task = attend(Arc::downgrade(&self.0), self.0.asked.clone());
            kept.attendant = Some(tokio::spawn(task));
        }
    }
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reading that is fresh and holds enough; the smallest that does.
    fn kept_reading(&self, extent: Extent) -> Option<Arc<NodeUsage>> {
        let kept = self.kept();
        let enough = EXTENTS.iter().zip(&kept.readings).filter(|(kept, _)| holds(**kept, extent));
        let mut fresh = enough.filter_map(|(_, kept)| kept.as_ref()).filter(|(at, _)| at.elapsed() < FRESH);
        fresh.next().map(|(_, usage)| usage.clone())
    }

    /// A reading without a machine.
    fn made_up(&self) -> NodeUsage {
        let node_name = self.settings.node_name.clone();
        let mut usage = NodeUsage { node_name, ..NodeUsage::default() };
        let Some(figures) = &self.sources.figures else { return usage };
        for running in self.running() {
            let mut pod = self.pod(running, ReadPod::default(), None);
            figures(&mut pod);
            usage.pods.push(pod);
        }
        usage
    }

    async fn read(&self, extent: Extent) -> NodeUsage {
        let pods = self.running();
        let mut problems = Vec::new();
        let (ground, storage) = match extent {
            Extent::CpuAndMemory => (self.read_groups(&pods, extent, &mut problems).await, None),
            Extent::Storage => {
                let storage = self.read_storage(&pods, extent, &mut problems).await;
                (Ground::default(), Some(storage))
            }
            Extent::Summary | Extent::Everything => {
                let mut storage_problems = Vec::new();
                let storage = self.read_storage(&pods, extent, &mut storage_problems);
                let (ground, storage) =
                    futures::join!(self.read_groups(&pods, extent, &mut problems), storage);
                problems.extend(storage_problems);
                (ground, Some(storage))
            }
        };
        self.assemble(pods, ground, storage, problems)
    }

    /// The pods of which something runs, by namespace and name.
    fn running(&self) -> Vec<Running> {
        let mut rows = self.sources.table.snapshot();
        let alive = self.sources.pleg.alive().into_iter();
        let mut running: Vec<Running> =
            alive.filter_map(|(uid, alive)| Some(Running { row: rows.remove(&uid)?, uid, alive })).collect();
        let name = |pod: &Running| {
            let metadata = &pod.row.pod.metadata;
            (metadata.namespace.clone(), metadata.name.clone(), pod.uid.clone())
        };
        running.sort_by_cached_key(name);
        running
    }

    /// What to read of control groups.
    fn wanted(&self, pods: &[Running]) -> Wanted {
        let root = self.sources.runtime_state.borrow().cgroup_root(&self.settings.cgroups);
        let wanted_pods = pods.iter().map(|pod| {
            let host_network = pod.row.pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
            WantedPod {
                path: cgroup_path(&root, pod_qos(&pod.row.pod), Some(&pod.uid)),
                sandbox: pod.alive.sandbox.as_ref().map(|sandbox| sandbox.id.to_string()),
                own_network: !host_network,
                containers: pod.alive.containers.iter().map(|container| container.id.to_string()).collect(),
            }
        });
        let class = |class| cgroup_path(&root, class, None);
        let settings = &self.settings;
        let system = [
            ("kubelet", settings.kubelet_group.clone()),
            ("runtime", settings.runtime_group.clone()),
            ("misc", settings.system_group.clone()),
            ("pods", class(QosClass::Guaranteed)),
        ];
        let others = [class(QosClass::BestEffort), class(QosClass::Burstable)];
        Wanted {
            pods: wanted_pods.collect(),
            system: system.into_iter().filter(|(_, path)| path.starts_with('/')).collect(),
            others: others.into_iter().filter(|path| !path.is_empty()).collect(),
        }
    }

    async fn read_groups(&self, pods: &[Running], extent: Extent, problems: &mut Vec<String>) -> Ground {
        let mut wanted = self.wanted(pods);
        let (mount, machine) = (self.settings.cgroup_mount.clone(), self.settings.machine.clone());
        let own = self.settings.kubelet_group.is_empty();
        let (clock, facts) = (self.sources.clock.clone(), self.facts.clone());
        let reading = async {
            // Held by the thread: one that hangs keeps it, and nobody waits for it on a thread.
            let mut reader = self.reader.clone().lock_owned().await;
            let read = move || {
                let reader = reader.get_or_insert_with(|| GroupReader::new(Groups::new(&mount, OPEN_FILES)));
                if let Some(path) = reader.own_group().filter(|_| own) {
                    wanted.system.insert(0, ("kubelet", path));
                }
                let facts = facts.get_or_init(|| Facts {
                    machine: machine_usage(&machine.unwrap_or_else(node_facts::machine)),
                    boot_time: boot_time(),
                });
                let pids = if extent == Extent::CpuAndMemory { None } else { node_facts::pids_left() };
                Ok(Ground {
                    round: reader.round(&wanted, effort(extent), &|| clock.now()),
                    facts: facts.clone(),
                    memory: MachineMemory::read(),
                    pids: pids.map(|left| (left.capacity, left.capacity - left.available)),
                })
            };
            self.sources.fs.run("read control groups", read).await
        };
        match timeout(WAIT, reading).await {
            Ok(Ok(ground)) => {
                if ground.round.root.is_none() {
                    let mount = self.settings.cgroup_mount.display();
                    problems.push(format!("there are no control groups at {mount}"));
                }
                ground
            }
            Ok(Err(error)) => {
                problems.push(crate::logging::chain(&error));
                Ground::default()
            }
            Err(_) => {
                problems.push("read control groups: the kernel does not answer".to_owned());
                Ground::default()
            }
        }
    }

    async fn read_storage(&self, pods: &[Running], extent: Extent, problems: &mut Vec<String>) -> Storage {
        let all = extent == Extent::Everything;
        let settings = &self.settings;
        let paths = |pod: &Running| pod_paths(&settings.root_dir, &settings.pod_logs_dir, &pod.row.pod).ok();
        self.volumes.want(pods.iter().filter_map(|pod| {
            let dir = paths(pod)?.dir;
            Some((pod.uid.clone(), self.sources.volumes.measured(&pod.row.pod, &dir)))
        }));
        let sandboxes: Vec<String> = if all {
            pods.iter().filter_map(|pod| Some(pod.alive.sandbox.as_ref()?.id.to_string())).collect()
        } else {
            vec![]
        };
        let images =
            async { if all { self.runtime.sandbox_images(&sandboxes).await } else { Default::default() } };
        let figures = async {
            let asked = extent != Extent::Storage;
            if asked { self.runtime.figures().await } else { Figures::default() }
        };
        let (mut runtime, sandbox_images) = futures::join!(figures, images);
        problems.append(&mut runtime.problems);
        let taken = runtime.layers.values().chain(&runtime.images).chain(&runtime.containers);
        let mut places: Vec<PathBuf> = taken
            .map(|taken| PathBuf::from(&taken.mountpoint))
            .filter(|path| path.is_absolute())
            .chain([settings.root_dir.clone(), settings.pod_logs_dir.clone()])
            .collect();
        places.sort();
        places.dedup();
        let files = pods.iter().filter_map(|pod| {
            let paths = paths(pod)?;
            let logs = pod.alive.containers.iter().filter_map(|container| {
                Some((container.name.clone(), paths.container_logs(&container.name).ok()?))
            });
            let logs = logs.collect();
            Some(PodFiles { uid: pod.uid.clone(), logs, hosts: paths.hosts_file(), log_dir: paths.logs })
        });
        let now = self.sources.clock.now();
        let disk = self.disks.figures(&self.sources.fs, places, files.collect(), all, now);
        let disk = match timeout(WAIT, disk).await {
            Ok(Ok(disk)) => disk,
            Ok(Err(error)) => {
                problems.push(crate::logging::chain(&error));
                DiskFigures::default()
            }
            Err(_) => {
                problems.push("the node's file systems do not answer".to_owned());
                DiskFigures::default()
            }
        };
        Storage { runtime, disk, sandbox_images }
    }

    /// Closes and forgets what was kept for the next question.
    async fn rest(&self) {
        // One that hangs closes its files when it comes back and somebody asks again.
        if let Ok(mut reader) = timeout(WAIT, self.reader.lock()).await
            && let Some(reader) = reader.as_mut()
        {
            reader.close();
        }
        self.runtime.clear().await;
        self.disks.clear().await;
    }
}

/// Drops readings when they are old, and everything when nobody has asked for a while.
async fn attend(shared: Weak<Shared>, asked: Arc<Notify>) {
    loop {
        let Some(held) = shared.upgrade() else { return };
        let now = Instant::now();
        let wake = {
            let mut kept = held.kept();
            for reading in &mut kept.readings {
                if reading.as_ref().is_some_and(|(at, _)| *at + FRESH <= now) {
                    *reading = None;
                }
            }
            let ends = kept.asked_at.map_or(now, |at| at + IDLE);
            kept.readings.iter().flatten().map(|(at, _)| *at + FRESH).min().unwrap_or(ends).min(ends)
        };
        if wake <= now {
            held.rest().await;
            let mut kept = held.kept();
            // Under the lock, so that the next question finds that nobody attends.
            if kept.asked_at.is_none_or(|at| at + IDLE <= Instant::now()) {
                kept.attendant = None;
                return;
            }
            continue;
        }
        // Their owner can go meanwhile.
        drop(held);
        // Both arms are cancel-safe: what is kept says what to do, the notification only wakes.
        tokio::select! {
            biased;
            () = asked.notified() => {}
            () = tokio::time::sleep_until(wake) => {}
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(attendant) = &self.attendant {
            attendant.abort();
        }
    }
}

/// Every extent, those that take less work first.
const EXTENTS: [Extent; 4] = [Extent::CpuAndMemory, Extent::Storage, Extent::Summary, Extent::Everything];

/// The place of an extent in [`EXTENTS`].
fn number(extent: Extent) -> usize {
    match extent {
        Extent::CpuAndMemory => 0,
        Extent::Storage => 1,
        Extent::Summary => 2,
        Extent::Everything => 3,
    }
}

/// Whether a reading of one extent has all of another: each has all before it, but storage has no groups.
fn holds(kept: Extent, asked: Extent) -> bool {
    number(kept) >= number(asked) && (kept, asked) != (Extent::Storage, Extent::CpuAndMemory)
}

fn effort(extent: Extent) -> Effort {
    match extent {
        // Nothing is read of groups for storage alone.
        Extent::CpuAndMemory | Extent::Storage => Effort::CpuAndMemory,
        Extent::Summary => Effort::Summary,
        Extent::Everything => Effort::Everything,
    }
}

#[cfg(test)]
mod tests;
