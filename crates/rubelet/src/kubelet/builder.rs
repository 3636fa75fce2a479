//! Makes the parts of an agent from a configuration and what the caller gives, and joins them. It starts tasks and
//! decides nothing about pods; called once, by whoever embeds the agent, the program included.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rubelet_apiclient::level::Level;
use rubelet_apiclient::watch::seed_of;
use rubelet_config::{Gate, KubeletConfiguration, KubeletFlags, flags_in_force};
use rubelet_core::node::capacity::{capacity as node_capacity, node_allocatable};
use rubelet_core::resources::reservation_problem;
use rubelet_core::static_pod::NodeIdentity;
use rubelet_cri::{ImageService, RuntimeService};
use rubelet_linux::cgroup;
use rubelet_linux::facts::MachineFacts;
use rubelet_linux::node_facts::NodeMachine;
use rubelet_plugins::{PluginHandler, PluginRegistry};
use rubelet_server::api::{Api, Site};
use rubelet_volumes::csi::{Csi, CsiParts, CsiPlaces};
use rubelet_volumes::{MountJournal, Notices, ObjectReader, Tmpfs, TokenManager, VolumeApi, Volumes};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

use crate::allocation::Allocations;
use crate::cgroups::{
    self, CgroupParts, CgroupSettings, Cgroups, systemd::SystemdWriter, writer::FileWriter,
};
use crate::clean_up::{CleanUp, CleanUpParts, CleanUpSettings};
use crate::clock::Clock;
use crate::container_manager::{self, Books, ContainerManager, ContainerParts};
use crate::control_plane::{self, ApiServer, ControlPlane, Parts};
use crate::csi_drivers::CsiDrivers;
use crate::desired::{PodConfig, SourceKind};
use crate::devices::{DeviceParts, Devices, PodResourcesSource, serve_pod_resources};
use crate::dra::{ApiClaims, ClaimReader, Claims, ClaimsParts, ClaimsSettings, Surroundings};
use crate::embedded::EmbeddedPods;
use crate::events::{EventRecorder, EventSubject};
use crate::eviction::{Eviction, EvictionParts, eviction_config};
use crate::exec_watch::ProcExecWatch;
use crate::fs_pool::FsPool;
use crate::http::Health;
use crate::images::ImageManager;
use crate::journal::Journal;
use crate::log_rotation::{LogRotation, LogRotationSettings};
use crate::metered_runtime::metered;
use crate::metrics::{self, Metrics, StartupLatency};
use crate::node_agent::{MachineProbe, NodeAgent, NodeAgentParams, NodeAgentSettings, NodeFlags, NodeProbe};
use crate::node_api::{NodeApi, api_settings};
use crate::node_health;
use crate::node_view::NodeView;
use crate::oom::{self, OomParts, OomWatch};
use crate::pleg::Pleg;
use crate::pod_kills::PodKills;
use crate::pod_streams::PodStreams;
use crate::pod_wakes::PodWakes;
use crate::prober::Prober;
use crate::pull_credentials::{ProviderFiles, PullCredentialSettings, PullCredentials, ServiceAccounts};
use crate::runtime_monitor::{self, RuntimeState};
use crate::service_account_tokens::{ApiServiceAccounts, ApiTokens};
use crate::services::Services;
use crate::shutdown::{self, Shutdown};
use crate::sources::file::FileSource;
use crate::sources::http::HttpSource;
use crate::stats::{Collector, PodFigures, Sources, StatsSettings};
use crate::sync_loop::SyncLoop;
use crate::table::PodTable;
use crate::user_namespaces::UserNamespaces;
use crate::volume_api::ApiVolumes;
use crate::volumes_in_use::VolumesInUse;

use super::settings::{
    RuntimeServices, admission_facts, connect, node_settings, pull_limits, pulled_images, resize_settings,
    suits,
};
use super::{Kubelet, KubeletHandle, SecureParts, StartError};

/// Blocking file system operations at a time, hung ones included.
const FS_THREADS: usize = 24;
/// The same of what is on the node's own disk and no volume is to hold up: the journal, without which no readiness is
/// told, and logs, which have to be rotated.
const DISK_THREADS: usize = 8;

/// Makes a [`Kubelet`].
pub struct KubeletBuilder {
    config: KubeletConfiguration,
    root_dir: PathBuf,
    cert_dir: Option<PathBuf>,
    node_name: Option<String>,
    node_ips: Vec<IpAddr>,
    container_logs_dir: PathBuf,
    runtime: Option<RuntimeServices>,
    clock: Option<Clock>,
    embedded: bool,
    machine: Option<MachineFacts>,
    api: Option<ApiServer>,
    node_flags: NodeFlags,
    flags: KubeletFlags,
    node_probe: Arc<dyn NodeProbe>,
    node_machine: Option<NodeMachine>,
    pod_figures: Option<PodFigures>,
    credential_providers: Option<ProviderFiles>,
    home_dir: Option<PathBuf>,
    expects_cluster_dns: bool,
}

impl KubeletBuilder {
    /// `--root-dir`; `/var/lib/kubelet` by default. A relative one is below the working directory: paths in it are
    /// given to the container runtime, which has another.
    pub fn root_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        self.root_dir = std::path::absolute(&dir).unwrap_or(dir);
        self
    }
    /// `--cert-dir`, where the kubelet API's own certificate is kept; `pki` below the root directory by default.
    pub fn cert_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cert_dir = Some(dir.into());
        self
    }
    /// Node name; the machine's host name in lower case by default.
    pub fn node_name(mut self, name: impl Into<String>) -> Self {
        self.node_name = Some(name.into());
        self
    }
    /// The command line, as `/flagz` tells it and the figures of the runtime's own control group need it.
    pub fn flags(mut self, flags: KubeletFlags) -> Self {
        self.flags = flags;
        self
    }
    /// Node addresses, primary family first.
    pub fn node_ips(mut self, ips: impl IntoIterator<Item = IpAddr>) -> Self {
        self.node_ips = ips.into_iter().collect();
        self
    }
    /// Directory of the per-container log symlinks; `/var/log/containers` by default.
    pub fn container_logs_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.container_logs_dir = dir.into();
        self
    }
    /// A runtime of the caller's instead of the one at `containerRuntimeEndpoint`.
    pub fn runtime(mut self, runtime: Arc<dyn RuntimeService>, images: Arc<dyn ImageService>) -> Self {
        self.runtime = Some((runtime, images));
        self
    }
    /// A clock of the caller's instead of the system's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }
    /// Facts of the caller's instead of this machine's.
    pub fn machine(mut self, facts: MachineFacts) -> Self {
        self.machine = Some(facts);
        self
    }
    /// The API server whose node this is; without one the agent is on its own.
    pub fn api_server(mut self, server: ApiServer) -> Self {
        self.api = Some(server);
        self
    }
    /// What flags say about the Node object.
    pub fn node_flags(mut self, flags: NodeFlags) -> Self {
        self.node_flags = flags;
        self
    }
    /// Home directory whose Docker credentials are used for image pulls.
    pub fn home_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.home_dir = Some(dir.into());
        self
    }
    /// This node has no cluster around it whose DNS pods could miss: they get the machine's without a warning.
    pub fn without_cluster_dns(mut self) -> Self {
        self.expects_cluster_dns = false;
        self
    }
    /// Credential provider plugins for image pulls.
    pub fn credential_providers(mut self, files: ProviderFiles) -> Self {
        self.credential_providers = Some(files);
        self
    }
    /// What the Node object says of the machine, and eyes of the caller's to look at it with.
    pub fn node_machine(mut self, machine: NodeMachine, probe: Arc<dyn NodeProbe>) -> Self {
        (self.node_machine, self.node_probe) = (Some(machine), probe);
        self
    }
    /// What pods use, where the clock is a simulated one and there is no machine to look at.
    pub fn pod_figures(mut self, figures: PodFigures) -> Self {
        self.pod_figures = Some(figures);
        self
    }
    /// The caller gives pods, through [`KubeletHandle::run_pod`] or [`KubeletHandle::set_pods`]. Nothing is removed
    /// before it did so once.
    pub fn embedded(mut self) -> Self {
        self.embedded = true;
        self
    }

    /// Makes the parts. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]; the runtime need not be there yet.
    pub async fn build(self) -> Result<Kubelet, StartError> {
        let config = self.config;
        let clock = self.clock.unwrap_or_else(Clock::system);
        let pool = |threads| if clock.is_simulated() { FsPool::inline() } else { FsPool::new(threads) };
        let (fs, disk) = (pool(FS_THREADS), pool(DISK_THREADS));
        let machine = match self.machine {
            Some(machine) => machine,
            None => rubelet_linux::facts::machine().map_err(StartError::Machine)?,
        };
        suits(&config, &machine)?;
        let name = self.node_name.unwrap_or_else(|| machine.hostname.trim().to_lowercase());
        let metrics = Metrics::new();
        let control_plane = match self.api {
            Some(server) => Some(ControlPlane::prepare(server, &config, &name, &fs, &clock, &metrics).await?),
            None => None,
        };
        let settings = NodeAgentSettings::new(&config, &self.node_flags, &name, self.root_dir.clone())
            .map_err(|problem| StartError::Setting(crate::logging::chain(&problem)))?;
        let node_machine = self.node_machine.unwrap_or_else(|| NodeMachine {
            cpus: machine.cpus,
            memory_bytes: machine.memory,
            ..rubelet_linux::node_facts::machine()
        });
        let allocatable =
            node_allocatable(&settings.capacity(&node_machine, None), &settings.node.reservations);
        let mut node = node_settings(
            &config,
            &machine,
            &name,
            self.node_ips,
            (self.root_dir, self.container_logs_dir),
            allocatable,
        );
        node.expects_cluster_dns = self.expects_cluster_dns;
        let has = node_capacity(&settings.capacity(&node_machine, None));
        if let Some(problem) = reservation_problem(&has, &settings.node.reservations) {
            return Err(StartError::Setting(problem));
        }
        let tree = cgroups::machine_tree(clock.is_simulated());
        let group_settings = tree.as_ref().map(|tree| {
            let memory = node.allocatable.get("memory").map_or(0, |memory| memory.value());
            let swap = node_machine.identity.swap_bytes;
            cgroups::complete_facts(&mut node.resources, &config, tree, (memory, swap));
            let named = (node.cgroups.clone(), name.clone());
            let has = (has.clone(), settings.node.reservations.clone());
            CgroupSettings::new(&config, named, node.resources.clone(), has, tree)
        });
        if !clock.is_simulated() {
            let sysctls = Path::new(cgroups::SYSCTLS);
            cgroups::settle_kernel(sysctls, config.protect_kernel_defaults).map_err(StartError::Setting)?;
        }
        let books = books(&config, &settings, &node_machine, clock.is_simulated())?;
        let ((runtime, images), downloads) = match self.runtime {
            Some(given) => (given, None),
            None => connect(&config)?,
        };
        let (runtime, images) = metered(runtime, images, &metrics);
        let (runtime, calls) = node_health::watched(runtime);
        let journal = Journal::new(&node.root_dir, disk.clone());
        let loaded = journal.load().await.map_err(StartError::RootDir)?;
        for problem in loaded.problems {
            warn!("a damaged journal record: {problem}");
        }
        let mounts = MountJournal::new(&node.root_dir, disk.clone());
        for problem in mounts.load().await.map_err(StartError::RootDir)? {
            warn!("a damaged record of what is mounted: {problem}");
        }

        let gates = rubelet_config::FeatureGates::from_settings(&config.feature_gates).0;
        let periods = shutdown::periods(&config, &gates);
        let resizing = resize_settings(&config, &gates);
        let allocations = Allocations::load(&node.root_dir, &disk, resizing, &metrics).await;
        let pleg = Pleg::new(runtime.clone(), fs.clone(), metrics.clone(), clock.clone());
        let runtime_state = Arc::new(Level::new(RuntimeState::default()));
        let events = EventRecorder::new(clock.clone());
        let sources: Vec<SourceKind> = [
            (!config.static_pod_path.is_empty()).then_some(SourceKind::File),
            (!config.static_pod_url.is_empty()).then_some(SourceKind::Http),
            self.embedded.then_some(SourceKind::Embedder),
            control_plane.is_some().then_some(SourceKind::Api),
        ]
        .into_iter()
        .flatten()
        .collect();
        if sources.is_empty() {
            warn!(
                "no source of pods is configured: set staticPodPath or staticPodURL; pods that run are left alone"
            );
        }
        let pods = PodConfig::new(sources);
        let table = PodTable::default();
        let sink =
            control_plane.as_ref().map(|_| control_plane::event_sink(&config, &name, &events, pods.watch()));
        let objects = control_plane.as_ref().map(ControlPlane::objects);
        let reader = objects.clone().map(|objects| Arc::new(objects) as Arc<dyn ObjectReader>);
        let tokens = control_plane.as_ref().map(|control| {
            Arc::new(TokenManager::new(Arc::new(ApiTokens::new(control.connections().urgent))))
        });
        let accounts = control_plane.as_ref().zip(tokens.as_ref()).map(|(control, tokens)| {
            let client = control.connections().urgent;
            Arc::new(ApiServiceAccounts::new(client, tokens.clone(), clock.clone()))
                as Arc<dyn ServiceAccounts>
        });
        let pull_credentials = PullCredentials::load(
            PullCredentialSettings {
                root_dir: node.root_dir.clone(),
                home: self.home_dir,
                providers: self.credential_providers,
                service_account_tokens: gates.enabled(Gate::KubeletServiceAccountTokenForCredentialProviders),
                metrics: metrics.clone(),
            },
            accounts,
            fs.clone(),
            clock.clone(),
        )?;
        let tmpfs = if clock.is_simulated() { Tmpfs::PlainDirectory } else { Tmpfs::Mount };
        let image_service = images.clone();
        let measured_images = images.clone();
        let (own_node, own_node_view) = watch::channel(None);
        let volumes_in_use = VolumesInUse::default();
        let wakes = PodWakes::default();
        let device_parts = DeviceParts {
            nodes: books.topology.nodes(),
            fs: disk.clone(),
            wakes: wakes.clone(),
            tells_health: gates.enabled(Gate::ResourceHealthStatus),
            metrics: metrics.clone(),
        };
        let devices = Devices::load(&node.root_dir, device_parts).await;
        let (pressures, pressure_view) = watch::channel(None);
        let (going_down, shutting_down) = watch::channel(false);
        let (eyes, own_images) = (self.node_probe.clone(), images.clone());
        let node_agent = match &control_plane {
            None => None,
            Some(control) => Some(NodeAgent::new(NodeAgentParams {
                settings,
                machine: node_machine,
                probe: self.node_probe,
                fs: fs.clone(),
                client: control.connections().heartbeats,
                close_connections: control.close_connections(),
                wake: control.wake(),
                watched: own_node_view,
                runtime_state: runtime_state.follow(),
                runtime: runtime.clone(),
                images: image_service,
                clock: clock.clone(),
                events: events.clone(),
                metrics: metrics.clone(),
                volumes_in_use: volumes_in_use.clone(),
                devices: devices.clone(),
                pressures: pressure_view.clone(),
                shutting_down: shutting_down.clone(),
            })),
        };
        let (node_agent, node_view) = match node_agent {
            Some((agent, view)) => (Some(agent), view),
            None => (None, NodeView::default()),
        };
        let volume_api = control_plane.as_ref().map(|control| {
            let client = control.connections().urgent;
            let (in_use, seed) = (volumes_in_use.clone(), seed_of(&name));
            Arc::new(ApiVolumes::new(client, seed, control.wake(), in_use, node_view.clone(), clock.clone()))
        });
        let waker = wakes.clone();
        let places = CsiPlaces { root: node.root_dir.clone(), node_name: name.clone() };
        let (full, drivers_full) = mpsc::unbounded_channel::<String>();
        let csi = Csi::new(CsiParts {
            objects: reader.clone(),
            api: volume_api.clone().map(|api| api as Arc<dyn VolumeApi>),
            tokens: tokens.clone(),
            observer: Some(metrics::csi_calls(&metrics)),
            wake: Some(Arc::new(move |pod| waker.wake(pod))),
            full: Some(Arc::new(move |driver: &str| drop(full.send(driver.to_owned())))),
            file_label: if node.selinux { rubelet_linux::selinux::file_label() } else { None },
            notices: Some(volume_notices(events.clone())),
            ..CsiParts::new(places, fs.clone())
        });
        let told = node_agent.as_ref().zip(volume_api.clone()).map(|(agent, api)| (agent.csi_nodes(), api));
        let csi_drivers = CsiDrivers::new(csi.clone(), volumes_in_use, told);
        let startups = StartupLatency::new(metrics.clone());
        let commands = ProcExecWatch::new(runtime.clone(), fs.clone(), PathBuf::from(cgroup::MOUNT));
        let (prober, probing) = Prober::with_exec_watch(
            runtime.clone(),
            Arc::new(commands),
            events.clone(),
            metrics.clone(),
            clock.clone(),
        );
        let (logs, rotating) = match LogRotationSettings::of(&config) {
            Some(settings) => {
                let (logs, task) = LogRotation::new(runtime.clone(), disk, settings, clock.clone());
                (logs, Some(task))
            }
            None => (LogRotation::disabled(), None),
        };
        let oom = OomWatch::new(OomParts {
            clock: clock.clone(),
            events: events.clone(),
            node_name: name.clone(),
            fs: fs.clone(),
            group_of: oom::group_of(table.clone(), runtime_state.follow(), node.cgroups.clone()),
            cgroup_mount: PathBuf::from(cgroup::MOUNT),
        });
        pleg.set_oom_watch(oom.clone());
        let groups = match (tree, group_settings) {
            (Some(tree), Some(settings)) => Cgroups::new(CgroupParts {
                settings,
                writer: Arc::new(SystemdWriter::new(
                    FileWriter::new(tree.clone(), fs.clone()),
                    tree.is_unified(),
                )),
                tree,
                fs: fs.clone(),
                table: table.clone(),
                runtime_state: runtime_state.follow(),
                events: events.clone(),
                metrics: metrics.clone(),
            }),
            _ => Cgroups::none(),
        };
        let requests = control_plane.as_ref().map(|control| control.connections().urgent);
        let claims_parts = ClaimsParts {
            settings: ClaimsSettings::new(&gates),
            reader: requests.clone().map(|client| Arc::new(ApiClaims::new(client)) as Arc<dyn ClaimReader>),
            fs: fs.clone(),
            clock: clock.clone(),
            wakes: wakes.clone(),
            metrics: metrics.clone(),
        };
        let claims = Claims::load(claims_parts, &node.root_dir).await;
        let pulled = pulled_images(&config, &gates, (&node.root_dir, &fs, &clock, &metrics))?;
        let dirs = (node.pod_logs_dir.clone(), node.container_logs_dir.clone());
        let clean_up = CleanUp::new(CleanUpParts {
            settings: CleanUpSettings::new(&config, &self.flags, &name, dirs),
            clock: clock.clone(),
            fs: fs.clone(),
            runtime: runtime.clone(),
            images: images.clone(),
            pleg: pleg.clone(),
            table: table.clone(),
            desired: pods.watch(),
            events: events.clone(),
            metrics: metrics.clone(),
            pulled: pulled.clone(),
        });
        let hint = clean_up.clone();
        let images = ImageManager::new(images, pull_limits(&config), downloads, pulled.clone(), move || {
            hint.image_pulled();
        });
        let containers = ContainerManager::new(ContainerParts {
            books,
            providers: vec![Arc::new(devices.clone())],
            root_dir: node.root_dir.clone(),
            fs: fs.clone(),
            runtime: runtime.clone(),
            period: config.cpu_manager_reconcile_period.to_std(),
            metrics: metrics.clone(),
        });
        let pinned = containers.clone();
        groups.exclusive_cpus_by(move |uid| pinned.has_exclusive_cpus(uid));
        let services = Arc::new(Services {
            devices: devices.clone(),
            cgroups: groups.clone(),
            metrics: metrics.clone(),
            startups: startups.clone(),
            clock: clock.clone(),
            runtime: runtime.clone(),
            images,
            pulled,
            clean_up: clean_up.clone(),
            pull_credentials,
            pleg: pleg.clone(),
            prober,
            logs,
            events: events.clone(),
            journal,
            user_namespaces: UserNamespaces::new(
                &node.root_dir,
                config.user_namespaces.as_ref().and_then(|u| u.ids_per_pod),
            ),
            fs: fs.clone(),
            volumes: Volumes::new(fs.clone(), reader, tokens)
                .with_tmpfs(tmpfs)
                .with_journal(mounts)
                .with_csi(csi)
                .with_observer(metrics::volumes(&metrics))
                .with_notices(volume_notices(events.clone())),
            containers: containers.clone(),
            claims: claims.clone(),
            pressures: pressure_view,
            shutting_down,
            allocations,
            kills: PodKills::default(),
            wakes,
            api: objects,
            table: table.clone(),
            runtime_state: runtime_state.follow(),
            own_node: node_view.clone(),
            node,
        });
        let (beat, heartbeat) = watch::channel(Instant::now());
        let health =
            Health { heartbeat, limit: (config.sync_frequency.to_std() * 2).max(Duration::from_secs(300)) };
        let sync_loop = SyncLoop::new(
            services.clone(),
            pods.watch(),
            admission_facts(&config, &machine, &services.node, &self.node_flags.node_labels),
            node_view.clone(),
            loaded.records,
            beat,
        );
        let workers = sync_loop.counts();
        let (desired, mirrors) = (pods.watch(), control_plane.is_some());
        let desired_pods = pods.watch();
        let facts = metrics::PodFacts {
            desired,
            table: table.clone(),
            pleg: pleg.clone(),
            workers,
            mirrors,
            clock: clock.clone(),
        };
        metrics::pods(&metrics, facts);
        let cgroup_v2 = machine.cgroup_v2;
        metrics::node(&metrics, metrics::NodeFacts { name: name.clone(), cgroup_v2, gates });
        if let Some(client) = control_plane.as_ref().and_then(ControlPlane::client_certificate) {
            metrics::certificates(&metrics, client, clock.clone());
        }

        let streams = PodStreams::new(services.clone());
        let stats = StatsSettings::new(&config, &self.flags.runtime_cgroups, &services.node);
        let sources = Sources { figures: self.pod_figures, ..Sources::of(&services, measured_images) };
        let usage = Collector::new(sources, stats);
        let eviction = Eviction::new(EvictionParts {
            config: eviction_config(&config),
            services: services.clone(),
            usage: usage.clone(),
            probe: eyes,
            images: own_images,
            cgroup_mount: PathBuf::from(cgroup::MOUNT),
            pressures,
        });
        let node_api = NodeApi {
            services: services.clone(),
            streams: streams.clone(),
            health: health.clone(),
            config: config.to_document(),
            flags: flags_in_force(&config, &self.flags),
            usage: usage.clone(),
        };
        let settings = api_settings(&config, &clock);
        let api = Api::new(Arc::new(node_api), Site::Full, settings, metrics.clone());
        let mut kubelet = Kubelet {
            _streams: streams.until_dropped(),
            handle: KubeletHandle {
                table: table.clone(),
                events: events.clone(),
                embedded: EmbeddedPods::new(pods.clone(), table.clone(), clock.clone(), self.embedded),
                streams,
                api: api.clone(),
                usage,
                node_name: name.clone(),
                metrics: metrics.clone(),
            },
            tasks: JoinSet::new(),
            health: health.clone(),
            objects: services.api.clone(),
            volume_api,
        };
        let secure = SecureParts {
            cert_dir: self.cert_dir.unwrap_or_else(|| services.node.root_dir.join("pki")),
            client: control_plane.as_ref().map(|control| control.connections().urgent),
            node: node_view.clone(),
            services: &services,
        };
        kubelet.serve(&config, &api, secure).await?;
        let identity = NodeIdentity { name };
        if !config.static_pod_path.is_empty() {
            let source = FileSource::new(
                PathBuf::from(&config.static_pod_path),
                config.file_check_frequency.to_std(),
                identity.clone(),
                clock.clone(),
                fs,
                pods.clone(),
            );
            kubelet.tasks.spawn(source.run());
        }
        if !config.static_pod_url.is_empty() {
            let source = HttpSource::new(
                config.static_pod_url.clone(),
                config.static_pod_url_header.0.clone(),
                config.http_check_frequency.to_std(),
                identity,
                clock.clone(),
                pods.clone(),
            );
            kubelet.tasks.spawn(source.run());
        }
        let api_pods = Arc::new(Level::new(Arc::default()));
        let api_view = control_plane.as_ref().map(|_| api_pods.follow());
        if let (Some(control), Some(node_agent), Some(sink)) = (control_plane, node_agent, sink) {
            let desired = pods.watch();
            let parts = Parts {
                sink,
                pods,
                desired,
                table,
                events,
                clock,
                node_agent,
                node_view,
                own_node,
                metrics,
                startups,
                api_pods,
            };
            kubelet.tasks.spawn(control.run(parts));
        }
        let telling = node_health::Parts {
            pleg: pleg.clone(),
            runtime_state: runtime_state.follow(),
            events: services.events.clone(),
            metrics: services.metrics.clone(),
            node_name: services.node.name.clone(),
        };
        // Registration is real sockets, and the clean-up looks at real disks: a simulated node has none.
        if !services.clock.is_simulated() {
            kubelet.tasks.spawn(clean_up.run());
            let folder = services.node.root_dir.join("plugins_registry");
            let handlers: Vec<Arc<dyn PluginHandler>> =
                vec![Arc::new(csi_drivers.clone()), claims.handler(), devices.handler()];
            let registry = PluginRegistry::new(folder, services.fs.clone(), handlers);
            metrics::plugins(&services.metrics, registry.state());
            let told = PodResourcesSource::new(services.clone(), devices.clone());
            kubelet.tasks.spawn(serve_pod_resources(services.node.root_dir.clone(), told));
            kubelet.tasks.spawn(devices.clone().run());
            let around = Surroundings {
                client: requests,
                node_name: services.node.name.clone(),
                desired: desired_pods,
                table: services.table.clone(),
                pleg: pleg.clone(),
            };
            kubelet.tasks.spawn(claims.run(around));
            kubelet.tasks.spawn(registry.run());
        }
        if let Some(periods) = periods.filter(|_| !services.clock.is_simulated()) {
            let task = Shutdown::of(&services, periods, api_view, going_down);
            kubelet.tasks.spawn(task.run());
        }
        kubelet.tasks.spawn(csi_drivers.run(drivers_full));
        kubelet.tasks.spawn(runtime_monitor::run(runtime, pleg.clone(), runtime_state));
        kubelet.tasks.spawn(probing.run());
        if let Some(rotating) = rotating {
            kubelet.tasks.spawn(rotating);
        }
        kubelet.tasks.spawn(groups.run());
        kubelet.tasks.spawn(containers.run());
        kubelet.tasks.spawn(eviction.run());
        kubelet.tasks.spawn(oom.run(pleg.clone()));
        kubelet.tasks.spawn(node_health::run(calls, telling));
        kubelet.tasks.spawn(async move { pleg.run().await });
        kubelet.tasks.spawn(sync_loop.run());
        Ok(kubelet)
    }
}

impl Kubelet {
    /// Starts a description of an agent.
    pub fn builder(config: KubeletConfiguration) -> KubeletBuilder {
        KubeletBuilder {
            config,
            root_dir: PathBuf::from("/var/lib/kubelet"),
            cert_dir: None,
            node_name: None,
            node_ips: vec![],
            container_logs_dir: PathBuf::from("/var/log/containers"),
            runtime: None,
            clock: None,
            embedded: false,
            machine: None,
            api: None,
            node_flags: NodeFlags::default(),
            flags: KubeletFlags::default(),
            node_probe: Arc::new(MachineProbe),
            node_machine: None,
            pod_figures: None,
            credential_providers: None,
            home_dir: None,
            expects_cluster_dns: true,
        }
    }
}

/// Tells pods of what takes long with their volumes, while it does.
fn volume_notices(events: EventRecorder) -> Notices {
    Arc::new(move |pod, notice| events.warning(&EventSubject::pod(pod), notice.reason, notice.message))
}

/// The books of CPUs and memory. Of a simulated node only the memory is known.
fn books(
    config: &KubeletConfiguration,
    settings: &NodeAgentSettings,
    machine: &NodeMachine,
    simulated: bool,
) -> Result<Books, StartError> {
    let has = rubelet_core::node::capacity::capacity(&settings.capacity(machine, None));
    let kept = settings.node.reservations.of(&has);
    let topology = match simulated {
        true => None,
        false => match rubelet_linux::topology::read() {
            Err(error) if container_manager::needs_topology(config) => {
                return Err(StartError::Machine(error));
            }
            read => read.ok(),
        },
    };
    let topology = topology.unwrap_or_else(|| container_manager::plain_machine(machine.memory_bytes));
    Books::new(config, topology, &kept).map_err(StartError::Setting)
}
