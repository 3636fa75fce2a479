//! A kubelet in a program of one's own: make a node, run a pod on it, watch its status, delete it.
//!
//! Needs root, a containerd and an image it has or can pull:
//! ```text
//! cargo run -p rubelet --example node_and_pod -- --runtime unix:///run/containerd/containerd.sock --image busybox:1
//! ```

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use rubelet::{ContainerBuilder, Kubelet, KubeletConfiguration, PodBuilder};

#[derive(Parser)]
struct Options {
    /// The container runtime's socket.
    #[arg(long, default_value = "unix:///run/containerd/containerd.sock")]
    runtime: String,
    /// What the pod runs; it needs a shell.
    #[arg(long, default_value = "busybox:1")]
    image: String,
    /// Where the kubelet keeps its files and the pod's logs.
    #[arg(long, default_value = "/tmp/node-and-pod")]
    dir: PathBuf,
    /// The cgroup below which pods are put.
    #[arg(long, default_value = "/")]
    cgroup_root: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();

    // A kubelet for a node name. It needs no API server: this program is what tells it which pods to run.
    let config = KubeletConfiguration {
        container_runtime_endpoint: options.runtime.clone(),
        pod_logs_dir: options.dir.join("logs").display().to_string(),
        cgroup_root: options.cgroup_root.clone(),
        fail_cgroup_v1: false,
        fail_swap_on: false,
        // Nobody but this program is to look into it.
        enable_server: false,
        healthz_port: 0,
        // A disk that is rather full is good enough for one pod.
        eviction_hard: [("memory.available".to_owned(), "50Mi".to_owned())].into(),
        ..KubeletConfiguration::default()
    };
    let kubelet = Kubelet::builder(config)
        .node_name("node-1")
        .root_dir(options.dir.join("kubelet"))
        .container_logs_dir(options.dir.join("containers"))
        .embedded()
        .build()
        .await
        .context("the kubelet cannot start")?;
    let node = kubelet.handle();
    println!("node {}", node.node_name());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let agent = tokio::spawn(kubelet.run(async { stopped.await.unwrap_or_default() }));

    // A pod spec, and the pod of it.
    let pod = PodBuilder::new("hello")
        .label("app", "hello")
        .grace(2)
        .container(
            ContainerBuilder::new("main", &options.image)
                .command([
                    "sh",
                    "-c",
                    "trap 'exit 0' TERM; echo hello from $POD; while :; do sleep 1 & wait $!; done",
                ])
                .env("POD", "node-1")
                .request("cpu", "50m")
                .limit("memory", "32Mi"),
        )
        .build();
    let mut pod = node.run_pod(pod)?;
    println!("pod hello has the UID {}", pod.pod().metadata.uid.as_deref().unwrap_or_default());

    // Its status, as it changes.
    let running = tokio::time::timeout(Duration::from_secs(60), async {
        let mut phase = String::new();
        pod.wait_for(|status| {
            let now = status.phase.clone().unwrap_or_default();
            if now != phase {
                println!("phase {now}");
                phase = now;
            }
            status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
        })
        .await
    })
    .await
    .context("the pod is not ready after a minute")?;
    println!("ready at {}", running.pod_ip.as_deref().unwrap_or("an address of the node"));

    // And its end. What it said last is known until nothing of it is left.
    let last = pod.delete(None).await;
    let ended = last
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .find_map(|container| container.state.as_ref()?.terminated.as_ref());
    println!("ended with exit code {}", ended.map_or(-1, |terminated| terminated.exit_code));

    let _ = stop.send(());
    agent.await?.map_err(anyhow::Error::msg)
}
