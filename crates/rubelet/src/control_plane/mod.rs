//! The agent's side of the control plane: gets an identity, connects, and runs the tasks that talk to the API server.
//! Everything here may fail or wait for as long as it likes: pods that run go on without it.
//!
//! | task | reads | writes |
//! |---|---|---|
//! | pods | the watch of this node's pods | desired pods, the view of the API |
//! | own node | the watch of this node | the node agent's view |
//! | `node_agent` | the machine, the runtime | Node, Lease |
//! | `status_writer` | the table, the view of the API | `pods/status`, deletions |
//! | `mirror` | static pods, the view of the API | mirror pods |
//! | `event_sink` | recorded events | Events |
//! | certificate | the certificate's age | `--cert-dir` |

mod access;
mod deferred;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use rubelet_apiclient::connection::{ConnectOptions, IdentityHandle, Observer};
use rubelet_apiclient::level::Level;
use rubelet_apiclient::objects::{ChangeDetection, ObjectCache};
use rubelet_apiclient::reflector::{Reflector, trim_service};
use rubelet_apiclient::rotation::RotationStatus;
use rubelet_apiclient::wake::{Wake, Waker};
use rubelet_apiclient::watch::{self as api_watch, Update, WatchSpec, seed_of};
use rubelet_apiclient::{Connections, Now};
use rubelet_config::{FeatureGates, Gate, KUBERNETES_VERSION, KubeletConfiguration};
use rubelet_core::ids::PodUid;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::api_objects::ApiObjects;
use crate::api_pods::ApiPodSet;
use crate::clock::Clock;
use crate::desired::{DesiredPods, PodConfig};
use crate::event_sink::{EventSink, EventSinkConfig};
use crate::events::EventRecorder;
use crate::fs_pool::FsPool;
use crate::metrics::{ClientCertificate, Metrics, StartupLatency};
use crate::mirror::MirrorTask;
use crate::node_agent::{CloseConnections, NodeAgent};
use crate::node_view::NodeView;
use crate::sources::api::ApiSource;
use crate::status_writer::StatusWriter;
use crate::table::PodTable;
use crate::trust_bundles::TrustBundles;

use access::Access;
pub use access::AccessError;

/// Seconds that a controller wants answers to count as fresh (`configMapAndSecretChangeDetectionStrategy: Cache`).
const TTL_ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// How the agent reaches its API server.
#[expect(clippy::large_enum_variant, reason = "there is one, handed over once at the start")]
pub enum ApiServer {
    /// Through files: `--kubeconfig` and what belongs to it.
    Files(ApiFiles),
    /// Through connections that the embedding program made.
    Connected(Connections),
}

/// The files of a node's identity.
#[derive(Clone, Debug)]
pub struct ApiFiles {
    /// `--kubeconfig`.
    pub kubeconfig: PathBuf,
    /// `--bootstrap-kubeconfig`, if there is one.
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// `--cert-dir`.
    pub cert_dir: PathBuf,
}

/// What is known when the agent is put together, before anything was asked.
pub(crate) struct ControlPlane {
    node_name: String,
    seed: u64,
    connections: Connections,
    state: State,
    objects: ApiObjects,
    identity: watch::Sender<Option<IdentityHandle>>,
    /// Passes on that the server answers again, to those who were made before there was a way to it.
    waker: Waker,
    /// How renewing the client certificate goes.
    rotation: watch::Sender<RotationStatus>,
}

/// How far the way to the server is.
#[expect(clippy::large_enum_variant, reason = "there is one, handed over once at the start")]
enum State {
    /// Connections of the embedding program's.
    Given,
    /// By files, connected.
    Connected {
        access: Access,
        connections: Connections,
        identity: IdentityHandle,
        connect: deferred::Connect,
    },
    /// By files, and the first certificate is still to come.
    Bootstrap { access: Access, connect: deferred::Connect },
}

/// The parts of the agent that the tasks here work with.
pub(crate) struct Parts {
    pub(crate) pods: PodConfig,
    pub(crate) desired: watch::Receiver<Arc<DesiredPods>>,
    pub(crate) table: PodTable,
    pub(crate) events: EventRecorder,
    pub(crate) clock: Clock,
    /// Collects events since the agent was put together.
    pub(crate) sink: EventSink,
    pub(crate) node_agent: NodeAgent,
    pub(crate) node_view: NodeView,
    /// Told of what the watch of the own node sees.
    pub(crate) own_node: watch::Sender<Option<Arc<Node>>>,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// How long pods take to start.
    pub(crate) startups: StartupLatency,
    /// Told of what the API holds.
    pub(crate) api_pods: Arc<Level<Arc<ApiPodSet>>>,
}

impl ControlPlane {
    /// Reads the files and makes what needs no answer. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// Files that cannot be used as they are.
    pub(crate) async fn prepare(
        server: ApiServer,
        config: &KubeletConfiguration,
        node_name: &str,
        fs: &FsPool,
        clock: &Clock,
        metrics: &Metrics,
    ) -> Result<Self, AccessError> {
        let (connections, state) = match server {
            ApiServer::Connected(connections) => (connections, State::Given),
            ApiServer::Files(files) => {
                let now: Now = {
                    let clock = clock.clone();
                    Arc::new(move || clock.now())
                };
                let options = connect_options(config, now.clone(), crate::metrics::requests(metrics));
                let access =
                    Access::new(files, config.rotate_certificates, node_name, options, fs.clone(), now);
                let (deferred, connect) = deferred::connections();
                let state = match access.connect_now().await? {
                    Some((connections, identity)) => {
                        State::Connected { access, connections, identity, connect }
                    }
                    None => State::Bootstrap { access, connect },
                };
                (deferred, state)
            }
        };
        let seed = seed_of(node_name);
        let strategy = match config.config_map_and_secret_change_detection_strategy.as_str() {
            "Get" => ChangeDetection::Get,
            "Cache" => ChangeDetection::Cache,
            _ => ChangeDetection::Watch,
        };
        let waker = Waker::default();
        let client = || connections.requests.clone();
        let gates = FeatureGates::from_settings(&config.feature_gates).0;
        let objects = ApiObjects::new(
            ObjectCache::with_wake(client(), strategy, seed, waker.subscribe()),
            strategy,
            Reflector::start(
                client(),
                WatchSpec::all(seed).with_clean(trim_service).with_wake(waker.subscribe()),
            ),
            Reflector::start(client(), WatchSpec::all(seed).with_wake(waker.subscribe())),
            if gates.enabled(Gate::ClusterTrustBundleProjection) {
                let (client, wake) = (client(), waker.subscribe());
                TrustBundles::new(move || Reflector::start(client, WatchSpec::all(seed).with_wake(wake)))
            } else {
                TrustBundles::off()
            },
        );
        let identity = watch::Sender::new(None);
        let rotation = watch::Sender::new(RotationStatus::default());
        let node_name = node_name.to_owned();
        Ok(Self { node_name, seed, connections, state, objects, identity, waker, rotation })
    }

    /// What is to be told of the client certificate; nothing where the connections are the embedding program's.
    pub(crate) fn client_certificate(&self) -> Option<ClientCertificate> {
        let files = !matches!(self.state, State::Given);
        files.then(|| ClientCertificate {
            identity: self.identity.subscribe(),
            rotation: self.rotation.subscribe(),
        })
    }

    /// Objects that pods are built from.
    pub(crate) fn objects(&self) -> ApiObjects {
        self.objects.clone()
    }

    /// The ways to the server; requests wait until there is an identity.
    pub(crate) fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// News that the server answers again.
    pub(crate) fn wake(&self) -> Wake {
        self.waker.subscribe()
    }

    /// Ends connections that do not answer.
    pub(crate) fn close_connections(&self) -> CloseConnections {
        let identity = self.identity.subscribe();
        Arc::new(move || {
            if let Some(identity) = &*identity.borrow() {
                identity.close_all();
            }
        })
    }

    /// Runs until dropped; ends only when one of its tasks does, which is a bug, or when no identity can be had.
    pub(crate) async fn run(self, parts: Parts) {
        let (given, access) = match self.state {
            State::Given => (None, None),
            State::Connected { access, connections, identity, connect } => {
                (Some((connections, identity, connect)), Some(access))
            }
            State::Bootstrap { access, connect } => match access.bootstrap_and_connect().await {
                Ok((connections, identity)) => (Some((connections, identity, connect)), Some(access)),
                Err(problem) => {
                    tracing::error!("{}", crate::logging::chain(&problem));
                    return;
                }
            },
        };
        let identity = given.map(|(connections, identity, connect)| {
            info!(server = %identity.access().server, identity = identity.subject(), "connecting to the API server");
            connect.now(connections);
            self.identity.send_replace(Some(identity.clone()));
            identity
        });
        let connections = self.connections;
        let mut tasks = JoinSet::new();
        let mut source = ApiSource::new(parts.pods, parts.events.clone(), parts.clock.clone())
            .with_startups(parts.startups)
            .with_view(parts.api_pods);
        let (view, view_of_mirrors) = (source.view(), source.view());
        // What the first list does not hold is ended: it has to be what is, not what some server's cache remembers.
        let spec = WatchSpec { latest: true, ..WatchSpec::<Pod>::all(self.seed) }
            .with_fields(format!("spec.nodeName={}", self.node_name))
            .with_wake(self.waker.subscribe());
        let client = connections.urgent.clone();
        tasks.spawn(async move {
            api_watch::run(client, spec, move |update| source.apply(update)).await;
        });
        tasks.spawn(watch_own_node(
            connections.urgent.clone(),
            WatchSpec::one(None, &self.node_name, self.seed).with_wake(self.waker.subscribe()),
            parts.own_node,
        ));
        tasks.spawn(parts.node_agent.run());
        // Statuses are what users wait for: the server's own fairness paces them, not this agent's.
        let writer =
            StatusWriter::new(parts.table.clone(), view, connections.urgent.clone(), parts.clock.clone())
                .with_wake(self.waker.subscribe())
                .with_metrics(parts.metrics);
        tasks.spawn(writer.run());
        let (node_uid, uids) = watch::channel(None);
        tasks.spawn(follow_node(parts.node_view, node_uid, self.objects));
        let mirrors = MirrorTask::new(
            self.node_name.clone(),
            uids,
            parts.desired,
            parts.table.clone(),
            view_of_mirrors,
            connections.requests.clone(),
        );
        tasks.spawn(mirrors.run());
        // It keeps a pace of its own.
        let (sink, client) = (parts.sink, connections.urgent.clone());
        tasks.spawn(async move {
            sink.run(client).await;
        });
        let rotation = self.rotation;
        if let (Some(access), Some(identity)) = (access, identity) {
            let (mut back, waker) = (identity.wake(), self.waker);
            tasks.spawn(async move {
                loop {
                    back.called().await;
                    waker.wake();
                }
            });
            tasks.spawn(async move {
                access.keep_fresh(connections, identity, rotation).await;
            });
        }
        if let Some(Err(problem)) = tasks.join_next().await {
            tracing::error!("a part of the control plane's side failed: {problem}");
        }
    }
}

fn connect_options(config: &KubeletConfiguration, now: Now, observer: Observer) -> ConnectOptions {
    let lease = Duration::from_secs(u64::try_from(config.node_lease_duration_seconds).unwrap_or(40));
    ConnectOptions {
        qps: f64::from(config.kube_api_qps),
        burst: u32::try_from(config.kube_api_burst).unwrap_or(0),
        observer,
        heartbeat_timeout: config.node_status_update_frequency.to_std().min(lease),
        ..ConnectOptions::new(env!("CARGO_PKG_VERSION"), KUBERNETES_VERSION, now)
    }
}

/// Collects a recorder's events for the API from now on. Pods are looked up among those that are desired: a rejected
/// pod never gets further.
pub(crate) fn event_sink(
    config: &KubeletConfiguration,
    node_name: &str,
    events: &EventRecorder,
    desired: watch::Receiver<Arc<DesiredPods>>,
) -> EventSink {
    let settings = EventSinkConfig {
        node_name: node_name.to_owned(),
        qps: f64::from(config.event_record_qps),
        burst: u32::try_from(config.event_burst).unwrap_or(0),
    };
    let find = move |uid: &PodUid| desired.borrow().pods.get(uid).map(|wanted| wanted.pod.clone());
    EventSink::subscribe(events, settings, Arc::new(find))
}

/// Tells of every change of the own node that others make.
async fn watch_own_node(client: kube::Client, spec: WatchSpec<Node>, node: watch::Sender<Option<Arc<Node>>>) {
    api_watch::run(client, spec, move |update| match update {
        Update::Set { items, bad } if bad.is_empty() => {
            node.send_replace(items.into_iter().next());
        }
        Update::Applied(object) => {
            node.send_replace(Some(object));
        }
        Update::Deleted { .. } | Update::BadDeleted(_) => {
            node.send_replace(None);
        }
        Update::Set { bad, .. } => {
            for object in bad {
                warn!("this node's object cannot be decoded: {object}");
            }
        }
        Update::Bad(object) => warn!("this node's object cannot be decoded: {object}"),
        Update::Problem(problem) => warn!("{problem}"),
        Update::Recovered => {}
    })
    .await;
}

/// Passes on what other parts need of the Node: its UID, by which it owns mirror pods, and how long answers count as
/// fresh.
async fn follow_node(mut view: NodeView, uid: watch::Sender<Option<String>>, objects: ApiObjects) {
    loop {
        let ttl = view.get().and_then(|node| {
            let annotations = node.metadata.annotations.as_ref()?;
            annotations.get(TTL_ANNOTATION)?.parse().ok().map(Duration::from_secs)
        });
        objects.set_ttl(ttl);
        let known = view.get().and_then(|node| node.metadata.uid.clone());
        uid.send_if_modified(|current| {
            let changed = *current != known;
            *current = known;
            changed
        });
        view.changed().await;
    }
}
