//! The wiring: makes the parts, joins them, and runs them until told to stop. Stopping drops tasks and
//! connections and touches no container.

mod builder;
mod settings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rubelet_config::KubeletConfiguration;
use rubelet_core::Pod;
use rubelet_cri::EndpointError;
use rubelet_server::api::{Api, Site};
use rubelet_server::listen::ListenError;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::DropGuard;
use tracing::{info, warn};

use crate::api_objects::ApiObjects;
use crate::control_plane::AccessError;
use crate::embedded::{EmbeddedPods, RunPodError, RunningPod};
use crate::events::{Event, EventRecorder};
use crate::http::{self, Health};
use crate::metrics::{self, Metrics};
use crate::node_view::NodeView;
use crate::pod_streams::PodStreams;
use crate::pull_credentials::ProviderConfigError;
use crate::reviews::ApiReviews;
use crate::secure_port::{self, SecurePort, SecurePortError};
use crate::services::Services;
use crate::serving_cert::{self, ServingError, ServingParams};
use crate::stats::Collector;
use crate::table::{PodRow, PodTable};
use crate::volume_api::ApiVolumes;

pub use builder::KubeletBuilder;
pub use settings::check_machine;
use settings::{ip, port};

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

/// A running agent. Dropping it stops every task and leaves containers as they are.
pub struct Kubelet {
    handle: KubeletHandle,
    tasks: JoinSet<()>,
    health: Health,
    /// What goes on by itself while anybody has it.
    objects: Option<ApiObjects>,
    volume_api: Option<Arc<ApiVolumes>>,
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
        if let Some(api) = &self.volume_api {
            api.end();
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
