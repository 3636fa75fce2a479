//! The floor: the CRI calls that start a pod, with nothing around them.
//!
//! For each pod ImageStatus, RunPodSandbox, CreateContainer, StartContainer, one after the other on a warm connection,
//! with the configurations that the agent makes of the same pod. Nothing is watched, read back or written. Called by
//! the plan of the benchmark, while no agent runs.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt as _;
use rubelet_cri::{CriClient, ImageService, RuntimeService, v1};
use tokio::time::Instant;

use crate::pods::{Asked, IMAGE};
use crate::wall_seconds;

/// How one run of the floor went.
#[derive(Clone, Debug)]
pub(crate) struct FloorRun {
    /// From the first call to the last answer, seconds.
    pub(crate) total: f64,
    /// From the first call to each pod's last answer, seconds, in the order they came.
    pub(crate) each: Vec<f64>,
    /// When the first call was made, seconds since 1970.
    pub(crate) began_at: f64,
}

/// Starts pods, so many at a time.
pub(crate) async fn run(client: &CriClient, pods: &[Asked], at_once: usize) -> Result<FloorRun> {
    let (began_at, began) = (wall_seconds(), Instant::now());
    let starts = pods.iter().cloned().map(|asked| {
        let client = client.clone();
        async move {
            start(&client, asked).await?;
            Ok::<Duration, anyhow::Error>(began.elapsed())
        }
    });
    let done: Vec<Result<Duration>> = futures::stream::iter(starts).buffer_unordered(at_once).collect().await;
    let each = done.into_iter().map(|took| Ok(took?.as_secs_f64())).collect::<Result<Vec<f64>>>()?;
    Ok(FloorRun { total: each.last().copied().unwrap_or_default(), each, began_at })
}

async fn start(client: &CriClient, asked: Asked) -> Result<()> {
    let Asked { sandbox, mut container, .. } = asked;
    let image = v1::ImageSpec { image: IMAGE.to_owned(), ..v1::ImageSpec::default() };
    let request = v1::ImageStatusRequest { image: Some(image), verbose: false };
    let image = client.image_status(request).await?.image.with_context(|| format!("{IMAGE} is not there"))?;
    container.image = Some(v1::ImageSpec {
        image: image.id,
        user_specified_image: IMAGE.to_owned(),
        ..v1::ImageSpec::default()
    });
    let request = v1::RunPodSandboxRequest { config: Some(sandbox.clone()), runtime_handler: String::new() };
    let pod_sandbox_id = client.run_pod_sandbox(request).await?.pod_sandbox_id;
    let request =
        v1::CreateContainerRequest { pod_sandbox_id, config: Some(container), sandbox_config: Some(sandbox) };
    let container_id = client.create_container(request).await?.container_id;
    client.start_container(v1::StartContainerRequest { container_id }).await?;
    Ok(())
}
