//! The wiring: makes the parts, joins them, and runs them until told to stop. Stopping drops tasks and
//! connections and touches no container.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rubelet_apiclient::level::Level;
use rubelet_config::{Gate, KubeletConfiguration, KubeletFlags, flags_in_force};
use rubelet_core::Pod;
use rubelet_core::admission;
use rubelet_core::backoff::BackoffPolicy;
use rubelet_core::node::capacity::node_allocatable;
use rubelet_core::node::info::go_arch;
use rubelet_core::quantity::Amount;
use rubelet_core::resources::{CgroupDriver, CgroupRoot, ResourceFacts};
use rubelet_core::static_pod::NodeIdentity;
use rubelet_cri::{
    ContainerdContent, CriClient, Deadlines, EndpointError, ImageService, PullWatch, RuntimeService,
};
use rubelet_linux::facts::MachineFacts;
use rubelet_linux::node_facts::NodeMachine;
use rubelet_server::api::{Api, Site};
use rubelet_server::listen::ListenError;
use rubelet_volumes::{ObjectReader, Tmpfs, TokenManager, Volumes};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use tracing::{info, warn};

use crate::api_objects::ApiObjects;
use crate::clock::Clock;
use crate::control_plane::{self, AccessError, ApiServer, ControlPlane, Parts};
use crate::desired::{PodConfig, SourceKind};
use crate::embedded::{EmbeddedPods, RunPodError, RunningPod};
use crate::events::{Event, EventRecorder};
use crate::exec_watch::ProcExecWatch;
use crate::fs_pool::FsPool;
use crate::http::{self, Health};
use crate::images::{ImageManager, PullLimits};
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
use crate::pod_streams::PodStreams;
use crate::prober::Prober;
use crate::pull_credentials::{
    ProviderConfigError, ProviderFiles, PullCredentialSettings, PullCredentials, ServiceAccounts,
};
use crate::reviews::ApiReviews;
use crate::runtime_monitor::{self, RuntimeState};
use crate::secure_port::{self, SecurePort, SecurePortError};
use crate::service_account_tokens::{ApiServiceAccounts, ApiTokens};
use crate::services::{NodeSettings, Services};
use crate::serving_cert::{self, ServingError, ServingParams};
use crate::sources::file::FileSource;
use crate::sources::http::HttpSource;
use crate::stats::{Collector, Sources, StatsSettings};
use crate::sync_loop::SyncLoop;
use crate::table::{PodRow, PodTable};
use crate::tracing_export;
use crate::user_namespaces::UserNamespaces;

/// Blocking file system operations at a time, hung ones included.
const FS_THREADS: usize = 24;
/// Where control groups are mounted.
const CGROUP_MOUNT: &str = "/sys/fs/cgroup";
/// Pulls at a time when the configuration does not say: upstream would pull one image after another.
const PARALLEL_PULLS: usize = 5;
/// How long an agent that stops waits for its tasks to be gone.
const LAST_MOMENT: Duration = Duration::from_secs(2);

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The runtime endpoint is no usable address.
    #[error("containerRuntimeEndpoint")]
    Endpoint(#[from] EndpointError),
    /// A configured value cannot be used on this machine.
    #[error("{0}")]
    Setting(String),
    /// Something of the machine cannot be read.
    #[error("cannot read facts about this machine")]
    Machine(#[source] std::io::Error),
    /// The root directory cannot be used.
    #[error("the root directory cannot be used")]
    RootDir(#[source] crate::fs_pool::FsError),
    /// The configuration of credential provider plugins.
    #[error("--image-credential-provider-config cannot be used")]
    CredentialProviders(#[from] ProviderConfigError),
    /// The way to the API server.
    #[error(transparent)]
    ApiServer(#[from] AccessError),
    /// A port cannot be served.
    #[error(transparent)]
    Port(#[from] ListenError),
    /// Certificates and TLS of the kubelet API.
    #[error("the kubelet API cannot be served")]
    Serving(#[from] ServingError),
    /// Who may use the kubelet API, and where it is.
    #[error("the kubelet API cannot be served (address and port say where, authentication for whom)")]
    SecurePort(#[from] SecurePortError),
}

/// The two services of a runtime, which may be one object.
type RuntimeServices = (Arc<dyn RuntimeService>, Arc<dyn ImageService>);
type Downloads = Arc<dyn PullWatch>;

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
        let fs = if clock.is_simulated() { FsPool::inline() } else { FsPool::new(FS_THREADS) };
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
        let ((runtime, images), downloads) = match self.runtime {
            Some(given) => (given, None),
            None => connect(&config)?,
        };
        let (runtime, images) = metered(runtime, images, &metrics);
        let (runtime, calls) = node_health::watched(runtime);
        let journal = Journal::new(&node.root_dir, fs.clone());
        let loaded = journal.load().await.map_err(StartError::RootDir)?;
        for problem in loaded.problems {
            warn!("a damaged journal record: {problem}");
        }

        let gates = rubelet_config::FeatureGates::from_settings(&config.feature_gates).0;
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
            })),
        };
        let (node_agent, node_view) = match node_agent {
            Some((agent, view)) => (Some(agent), view),
            None => (None, NodeView::default()),
        };
        let startups = StartupLatency::new(metrics.clone());
        let commands = ProcExecWatch::new(runtime.clone(), fs.clone(), PathBuf::from(CGROUP_MOUNT));
        let (prober, probing) = Prober::with_exec_watch(
            runtime.clone(),
            Arc::new(commands),
            events.clone(),
            metrics.clone(),
            clock.clone(),
        );
        let (logs, rotating) = match LogRotationSettings::of(&config) {
            Some(settings) => {
                let (logs, task) = LogRotation::new(runtime.clone(), fs.clone(), settings, clock.clone());
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
            cgroup_mount: PathBuf::from(CGROUP_MOUNT),
        });
        pleg.set_oom_watch(oom.clone());
        let services = Arc::new(Services {
            metrics: metrics.clone(),
            startups: startups.clone(),
            clock: clock.clone(),
            runtime: runtime.clone(),
            images: ImageManager::new(images, pull_limits(&config), downloads),
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
                .with_observer(metrics::volumes(&metrics)),
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
        let usage = Collector::new(Sources::of(&services, measured_images), stats);
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
            };
            kubelet.tasks.spawn(control.run(parts));
        }
        kubelet.tasks.spawn(runtime_monitor::run(runtime, pleg.clone(), runtime_state));
        kubelet.tasks.spawn(probing.run());
        if let Some(rotating) = rotating {
            kubelet.tasks.spawn(rotating);
        }
        kubelet.tasks.spawn(oom.run(pleg.clone()));
        let health = node_health::Parts {
            pleg: pleg.clone(),
            runtime_state: services.runtime_state.clone(),
            events: services.events.clone(),
            metrics: services.metrics.clone(),
            node_name: services.node.name.clone(),
        };
        kubelet.tasks.spawn(node_health::run(calls, health));
        kubelet.tasks.spawn(async move { pleg.run().await });
        kubelet.tasks.spawn(sync_loop.run());
        Ok(kubelet)
    }
}

/// A running agent. Dropping it stops every task and leaves containers as they are.
pub struct Kubelet {
    handle: KubeletHandle,
    tasks: JoinSet<()>,
    health: Health,
    /// What goes on by itself while anybody has it.
    objects: Option<ApiObjects>,
    /// Ways into containers end with the agent, whoever still has a handle.
    _streams: DropGuard,
}

/// Looks into a running agent and gives it pods; cheap to clone.
#[derive(Clone)]
pub struct KubeletHandle {
    table: PodTable,
    events: EventRecorder,
    embedded: EmbeddedPods,
    streams: PodStreams,
    api: Api,
    usage: Collector,
    node_name: String,
    metrics: Metrics,
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
            credential_providers: None,
            home_dir: None,
            expects_cluster_dns: true,
        }
    }

    /// A handle to look and to give pods with.
    pub fn handle(&self) -> KubeletHandle {
        self.handle.clone()
    }

    /// What `/healthz` answers from.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Runs until `stop` is done, or a part of the agent ends, which is a bug.
    ///
    /// # Errors
    /// Which part ended and how.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), String> {
        // Both arms are cancel-safe: the caller's future is dropped with us, join_next loses nothing.
        let ended = tokio::select! {
            () = stop => {
                info!("stopping; containers go on running");
                Ok(())
            }
            ended = self.tasks.join_next() => Err(match ended {
                Some(Err(problem)) => format!("a part of the agent failed: {problem}"),
                _ => "a part of the agent ended".to_owned(),
            }),
        };
        // Whoever stops the API server next is not to be told that the agent misses it.
        if let Some(objects) = &self.objects {
            objects.end();
        }
        let _ = tokio::time::timeout(LAST_MOMENT, self.tasks.shutdown()).await;
        ended
    }

    /// Opens the ports.
    async fn serve(
        &mut self,
        config: &KubeletConfiguration,
        api: &Api,
        secure: SecureParts<'_>,
    ) -> Result<(), StartError> {
        if config.healthz_port > 0 {
            let (address, port) =
                (ip("healthzBindAddress", &config.healthz_bind_address)?, port(config.healthz_port)?);
            let listener = http::bind("the health port", address, port).await?;
            self.tasks.spawn(http::serve(listener, api.at(Site::Healthz)));
        }
        if config.read_only_port > 0 {
            let (address, port) = (ip("address", &config.address)?, port(config.read_only_port)?);
            let listener = http::bind("the read-only port", address, port).await?;
            self.tasks.spawn(http::serve(listener, api.at(Site::ReadOnly)));
        }
        if config.enable_server {
            self.serve_securely(config, api, secure).await?;
        }
        Ok(())
    }

    /// Opens the kubelet API's own port.
    async fn serve_securely(
        &mut self,
        config: &KubeletConfiguration,
        api: &Api,
        parts: SecureParts<'_>,
    ) -> Result<(), StartError> {
        let SecureParts { cert_dir, client, node, services } = parts;
        if client.is_none() && !secure_port::serves_alone(config) {
            warn!(
                "the kubelet API is not served: without an API server nobody could get in (set \
                 authentication.x509.clientCAFile and authorization.mode: AlwaysAllow, or enableServer: false to have \
                 this line go)"
            );
            return Ok(());
        }
        let serving = serving_cert::prepare(ServingParams {
            config,
            cert_dir: &cert_dir,
            node_name: &services.node.name,
            node_ips: &services.node.ips,
            node,
            client: client.clone(),
            clock: services.clock.clone(),
            fs: services.fs.clone(),
        })
        .await?;
        if config.server_tls_bootstrap {
            metrics::serving_certificate(&services.metrics, serving.status, services.clock.clone());
        }
        let port = SecurePort {
            config,
            address: SocketAddr::new(ip("address", &config.address)?, port(config.port)?),
            tls: serving.tls,
            clients: serving.clients,
            reviews: client.map(|client| ApiReviews::new(client).with_metrics(services.metrics.clone())),
            clock: services.clock.clone(),
            node_name: &services.node.name,
            api: api.clone(),
        };
        self.tasks.spawn(port.open().await?);
        self.tasks.spawn(serving.task);
        Ok(())
    }
}

/// What the secure port needs of the agent.
struct SecureParts<'a> {
    cert_dir: PathBuf,
    /// Who is asked for certificates and reviews.
    client: Option<kube::Client>,
    node: NodeView,
    services: &'a Services,
}

impl KubeletHandle {
    /// Name of the node.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// Gives the full set of the embedding program's pods, each with a UID and all defaults; what is missing in it is
    /// ended.
    pub fn set_pods(&self, pods: Vec<Arc<Pod>>) {
        self.embedded.replace(pods);
    }

    /// Runs one more pod. Defaults are filled in, a UID too if it has none.
    ///
    /// With the first pod that is given, the program's pods count as known, and what an earlier run of the program
    /// left is ended: give those that should go on together, through [`Self::set_pods`].
    ///
    /// # Errors
    /// [`RunPodError`]: an invalid pod, a name that is taken, an agent that takes no pods of its program.
    pub fn run_pod(&self, pod: Pod) -> Result<RunningPod, RunPodError> {
        self.embedded.run(pod)
    }

    /// Logs of the agent's pods, and ways into them.
    pub fn streams(&self) -> PodStreams {
        self.streams.clone()
    }

    /// The whole API of the node, for whoever has admitted who asks.
    pub fn api(&self) -> Api {
        self.api.clone()
    }

    /// What reads what node and pods use.
    pub fn usage(&self) -> Collector {
        self.usage.clone()
    }

    /// What the agent counts, as `/metrics` tells it.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Every pod with its newest status.
    pub fn pods(&self) -> Vec<PodRow> {
        self.table.snapshot().into_values().collect()
    }

    /// Changes whenever a pod's status does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.table.changes()
    }

    /// The last events, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.events.snapshot()
    }
}

/// Whether an agent of this configuration may run on this machine; for whoever starts something else beside it first.
///
/// # Errors
/// As [`KubeletBuilder::build`], which asks the same.
pub fn check_machine(config: &KubeletConfiguration) -> Result<(), StartError> {
    suits(config, &rubelet_linux::facts::machine().map_err(StartError::Machine)?)
}

fn suits(config: &KubeletConfiguration, machine: &MachineFacts) -> Result<(), StartError> {
    let refused = |why: &str| Err(StartError::Setting(why.to_owned()));
    if !machine.cgroup_v2 && config.fail_cgroup_v1 {
        return refused(
            "this machine uses cgroup v1, which the configuration refuses: set failCgroupV1: false to use it anyway",
        );
    }
    if machine.swap_in_use && config.fail_swap_on {
        return refused(
            "running with swap on is not supported: turn swap off, or set failSwapOn: false (/proc/swaps lists what is \
             in use)",
        );
    }
    Ok(())
}

fn ip(field: &str, text: &str) -> Result<IpAddr, StartError> {
    text.parse().map_err(|_| StartError::Setting(format!("{field}: {text:?} is not an IP address")))
}

fn port(number: i32) -> Result<u16, StartError> {
    u16::try_from(number).map_err(|_| StartError::Setting(format!("{number} is not a port")))
}

/// The runtime's services and, where it can tell, what it is downloading.
fn connect(config: &KubeletConfiguration) -> Result<(RuntimeServices, Option<Downloads>), StartError> {
    let deadlines = Deadlines::with_request(config.runtime_request_timeout.to_std());
    let client = |endpoint| {
        let client = CriClient::new(endpoint, deadlines)?;
        Ok::<_, EndpointError>(Arc::new(match config.tracing {
            Some(_) => client.with_metadata(tracing_export::fill_metadata),
            None => client,
        }))
    };
    let runtime = client(&config.container_runtime_endpoint)?;
    if config.image_service_endpoint.is_empty()
        || config.image_service_endpoint == config.container_runtime_endpoint
    {
        let downloads = Arc::new(ContainerdContent::new(&runtime));
        return Ok(((runtime.clone(), runtime), Some(downloads)));
    }
    let images = client(&config.image_service_endpoint)?;
    let downloads = Arc::new(ContainerdContent::new(&images));
    Ok(((runtime, images), Some(downloads)))
}

fn pull_limits(config: &KubeletConfiguration) -> PullLimits {
    let parallel = match config.max_parallel_image_pulls {
        Some(limit) => usize::try_from(limit).unwrap_or(1),
        None if config.serialize_image_pulls => 1,
        None => PARALLEL_PULLS,
    };
    PullLimits {
        parallel,
        qps: f64::from(config.registry_pull_qps),
        burst: u32::try_from(config.registry_burst).unwrap_or(1),
    }
}

fn node_settings(
    config: &KubeletConfiguration,
    machine: &MachineFacts,
    name: &str,
    ips: Vec<IpAddr>,
    (root_dir, container_logs_dir): (PathBuf, PathBuf),
    allocatable: BTreeMap<String, Amount>,
) -> NodeSettings {
    let gates = rubelet_config::FeatureGates::from_settings(&config.feature_gates).0;
    let crash_loop_max = config.crash_loop_back_off.max_container_restart_period.map(|max| max.to_std());
    // What is no address is left out, as upstream does; the configuration has warned of it.
    let cluster_dns = config.cluster_dns.iter().filter_map(|server| server.parse().ok()).collect();
    NodeSettings {
        name: name.to_owned(),
        ips,
        root_dir,
        pod_logs_dir: PathBuf::from(&config.pod_logs_dir),
        container_logs_dir,
        sync_frequency: config.sync_frequency.to_std(),
        stream_idle_timeout: config.streaming_connection_idle_timeout.to_std(),
        crash_loop: BackoffPolicy::crash_loop(
            crash_loop_max,
            gates.enabled(Gate::ReduceDefaultCrashLoopBackOffDecay),
        ),
        seccomp_default: config.seccomp_default,
        cgroups: CgroupRoot {
            root: if config.cgroup_root.is_empty() { "/".to_owned() } else { config.cgroup_root.clone() },
            per_qos: config.cgroups_per_qos,
            driver: if config.cgroup_driver == "systemd" {
                CgroupDriver::Systemd
            } else {
                CgroupDriver::Cgroupfs
            },
        },
        resources: ResourceFacts {
            memory_capacity: i64::try_from(machine.memory).unwrap_or(i64::MAX),
            cpu_quota: config.cpu_cfs_quota,
            cpu_period: i64::try_from(config.cpu_cfs_quota_period.to_std().as_micros()).unwrap_or(100_000),
            cgroup_v2: machine.cgroup_v2,
            single_process_oom_kill: config.single_process_oom_kill.unwrap_or(!machine.cgroup_v2),
            ..Default::default()
        },
        allocatable,
        selinux: machine.selinux,
        thermal_throttle_paths: machine.thermal_throttle_paths.clone(),
        cluster_domain: config.cluster_domain.clone(),
        cluster_dns,
        expects_cluster_dns: true,
        resolv_conf: config.resolv_conf.clone(),
    }
}

/// What admission needs to know of the node.
fn admission_facts(
    config: &KubeletConfiguration,
    machine: &MachineFacts,
    node: &NodeSettings,
    labels: &BTreeMap<String, String>,
) -> admission::NodeFacts {
    admission::NodeFacts {
        name: node.name.clone(),
        labels: [
            ("kubernetes.io/hostname", node.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", go_arch()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        // Those it registers itself with, for as long as its Node cannot be read.
        .chain(labels.clone())
        .collect(),
        taints: vec![],
        allocatable: node.allocatable.clone(),
        kernel: machine.kernel,
        allowed_unsafe_sysctls: config.allowed_unsafe_sysctls.clone(),
        pressure: admission::NodePressure::default(),
        supplemental_groups_policy: false,
        apparmor: machine.apparmor,
        shutting_down: false,
    }
}
