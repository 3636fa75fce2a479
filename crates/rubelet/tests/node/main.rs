//! Rung 5 of the testing ladder: the built agent, as a process of its own, on a real containerd.
//!
//! Every test owns a [`node::Node`]: a private containerd, an agent, a directory of static pods; those named `api_` own
//! a [`cluster::Cluster`], which adds an API server that refuses what a real one would, and those named `csi_` a
//! [`csi::CsiNode`], which adds a driver of volumes that does too. Tests only look from
//! outside: the read-only port, files, control groups, and `ctr`. They wait on values with a deadline and never sleep
//! to let something happen. Called by `cargo xtask test` for each containerd version; see docs/development.md.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails; helpers are not marked as tests"
)]

mod adoption;
mod api_churn;
mod api_claims;
mod api_eviction;
mod api_identity;
mod api_images;
mod api_mirror;
mod api_node;
mod api_objects;
mod api_outage;
mod api_pods;
mod api_volumes;
mod bad_input;
mod cgroups;
mod clean_up;
mod cluster;
mod csi;
mod csi_block;
mod csi_faults;
mod csi_files;
mod csi_node;
mod csi_restart;
mod dra;
mod ending;
mod explain;
mod health_neighbours;
mod health_restart;
mod hooks;
mod http_source;
mod identity;
mod images;
mod init;
mod kubectl;
mod kubectl_apply;
mod kubectl_create;
mod kubectl_delete;
mod kubectl_describe;
mod kubectl_discovery;
mod kubectl_exec;
mod kubectl_get;
mod kubectl_logs;
mod kubectl_node;
mod kubectl_proxy;
mod kubectl_top;
mod kubelet_api;
mod kubelet_api_auth;
mod kubelet_api_input;
mod kubelet_api_pods;
mod kubelet_api_stats;
mod kubelet_api_streams;
mod local;
mod local_accounts;
mod local_kill;
mod local_kube_rs;
mod local_python;
mod local_volumes;
mod log_rotation;
mod messages;
mod network;
mod node;
mod node_health;
mod oom;
mod pinning;
mod pods;
mod probes_cases;
mod probes_exec;
mod probes_http;
mod probes_https;
mod probes_input;
mod probes_kinds;
mod probes_readiness;
mod probes_restart;
mod probes_servers;
mod probes_sidecars;
mod probes_tcp_grpc;
mod recovery;
mod registry;
mod resize;
mod restart;
mod runtime;
mod runtime_loss;
mod security;
mod start;
#[cfg(feature = "vm-tests")]
mod vm;
mod volumes;
mod volumes_devices;
mod volumes_files;
mod volumes_images;
mod volumes_mounts;
mod wait;
