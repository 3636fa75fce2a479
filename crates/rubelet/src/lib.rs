//! Rubelet: a Kubernetes node agent as a program and as a library.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use rubelet::{Kubelet, KubeletConfiguration};
//!
//! let mut config = KubeletConfiguration::default();
//! config.static_pod_path = "/etc/kubernetes/manifests".into();
//! config.container_runtime_endpoint = "unix:///run/containerd/containerd.sock".into();
//! let kubelet = Kubelet::builder(config).node_name("node-1").build().await?;
//! kubelet.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A program that is its own control plane gives the agent pods and takes them back:
//! ```no_run
//! # async fn example(config: rubelet::KubeletConfiguration) -> Result<(), Box<dyn std::error::Error>> {
//! use rubelet::{ContainerBuilder, Kubelet, PodBuilder};
//!
//! let kubelet = Kubelet::builder(config).node_name("node-1").embedded().build().await?;
//! let pods = kubelet.handle();
//! let agent = tokio::spawn(kubelet.run(std::future::pending()));
//! let main = ContainerBuilder::new("main", "busybox:1").command(["sleep", "3600"]);
//! let mut pod = pods.run_pod(PodBuilder::new("hello").container(main).build())?;
//! println!("{:?}", pod.wait_ready().await.pod_ip);
//! pod.delete(None).await;
//! agent.abort();
//! # Ok(())
//! # }
//! ```
//! `examples/node_and_pod.rs` is the whole of it.
//!
//! Tasks, each with what it reads and what it writes:
//! - sources (`sources`): files and URLs → `PodConfig`
//! - `pleg`: the runtime → hints, the last full list
//! - `runtime_monitor`: the runtime's `Status`, how `pleg` goes → a watch of the runtime's state
//! - `node_health`: calls that are not answered, the runtime's state → events, a figure
//! - `sync_loop`: desired pods, hints, the list, worker exits → workers and their mailboxes
//! - `prober`: what runs of pods with probes → containers asked → verdicts to their workers, events
//! - `log_rotation`: what runs of pods, writes to its logs → logs rotated and compressed
//! - `worker`, one per pod: mailbox, runtime → runtime, the table, events, the journal
//! - `http`: the plain ports, answered from the table, the runtime and the machine (`node_api`)
//! - `control_plane`, with an API server: the watch of this node's pods → `PodConfig`; and the tasks
//!   `node_agent` (machine, runtime → Node, Lease), `status_writer` (the table → `pods/status`, deletions),
//!   `mirror` (static pods → mirror pods), `event_sink` (events → Events)

pub mod allocation;
pub mod api_objects;
pub mod api_pods;
pub mod cgroups;
pub mod clean_up;
pub mod clock;
pub mod container_manager;
pub mod control_plane;
mod csi_drivers;
pub mod desired;
pub mod devices;
pub mod dra;
mod embedded;
pub mod event_sink;
pub mod events;
pub mod eviction;
pub mod exec_watch;
mod exit_watch;
pub mod fs_pool;
pub mod http;
mod http_client;
pub mod images;
pub mod journal;
mod kubelet;
pub mod local;
mod log_health;
pub mod log_rotation;
pub mod logging;
mod metered_runtime;
pub mod metrics;
pub mod mirror;
pub mod node_agent;
pub mod node_api;
pub mod node_health;
pub mod node_view;
pub mod notify;
pub mod oom;
pub mod pleg;
mod pod_dirs;
mod pod_kills;
pub mod pod_streams;
pub mod pod_wakes;
pub mod preflight;
pub mod prober;
pub mod pull_credentials;
pub mod pulled_images;
pub mod reviews;
pub mod root_lock;
pub mod runtime_monitor;
pub mod secure_port;
pub mod service_account_tokens;
pub mod services;
pub mod serving_cert;
mod shutdown;
mod sources;
pub mod stats;
pub mod status_writer;
mod sweep;
mod sync_loop;
pub mod table;
mod termination_log;
pub mod tracing_export;
pub mod trust_bundles;
mod user_namespaces;
pub mod volume_api;
pub mod volumes_in_use;
pub mod worker;

pub use embedded::{RunPodError, RunningPod};
pub use kubelet::{Kubelet, KubeletBuilder, KubeletHandle, StartError, check_machine};
pub use rubelet_config::KubeletConfiguration;
pub use rubelet_core::Pod;
pub use rubelet_core::pod_builder::{ContainerBuilder, PodBuilder};
