//! The container runtime around the runs: connecting, looking what is there, and emptying it.
//!
//! Never part of a measurement. Called by the plan of the benchmark before, between and after runs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt as _;
use rubelet_cri::{CriClient, Deadlines, RuntimeService, v1};
use tokio::time::Instant;

/// How often an expected state is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// How many sandboxes are taken away at a time.
const REMOVE_AT_ONCE: usize = 16;

/// A client of the runtime at a socket, its connection opened.
pub(crate) async fn connect(socket: &Path) -> Result<CriClient> {
    let client = CriClient::new(&format!("unix://{}", socket.display()), Deadlines::default())?;
    client
        .version(v1::VersionRequest { version: "v1".to_owned() })
        .await
        .context("the runtime does not answer")?;
    Ok(client)
}

/// Name and version of the runtime.
pub(crate) async fn version(client: &CriClient) -> Result<String> {
    let told = client.version(v1::VersionRequest { version: "v1".to_owned() }).await?;
    Ok(format!("{} {}", told.runtime_name, told.runtime_version))
}

/// Every sandbox of the runtime.
pub(crate) async fn sandboxes(client: &CriClient) -> Result<Vec<v1::PodSandbox>> {
    Ok(client.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?.items)
}

/// Fails when the runtime already holds pods: they would be measured too, and emptying it would end them.
pub(crate) async fn must_be_empty(client: &CriClient) -> Result<()> {
    match sandboxes(client).await?.len() {
        0 => Ok(()),
        count => bail!("the runtime holds {count} pod(s) already: the benchmark needs one of its own"),
    }
}

/// Waits until nothing is left; returns whether that came true in time.
pub(crate) async fn becomes_empty(client: &CriClient, limit: Duration) -> Result<bool> {
    let began = Instant::now();
    loop {
        let containers = client.list_containers(v1::ListContainersRequest::default()).await?.containers;
        if containers.is_empty() && sandboxes(client).await?.is_empty() {
            return Ok(true);
        }
        if began.elapsed() > limit {
            return Ok(false);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Takes every pod away.
pub(crate) async fn empty(client: &CriClient) -> Result<()> {
    let removals = sandboxes(client).await?.into_iter().map(|sandbox| async move {
        let id = sandbox.id;
        client.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
        client.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id }).await
    });
    let removed: Vec<_> = futures::stream::iter(removals).buffer_unordered(REMOVE_AT_ONCE).collect().await;
    for result in removed {
        result.context("cannot empty the runtime")?;
    }
    Ok(())
}
