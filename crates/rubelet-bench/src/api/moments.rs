//! Pods that tell when they began to run, and how late the API heard of it.
//!
//! The first act of such a pod's container is to make a file in a folder it shares with the benchmark; the kernel
//! stamps the file, to a tick of its clock (1 to 10 ms, 4 as a rule, early and never late). Beside that stands when the
//! runtime says it had started the container: containerd writes that down in nanoseconds as soon as the start has
//! succeeded. Owns the manifest and reading both. Called by the plan of the control plane's part.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use rubelet_core::labels::POD_NAME;
use rubelet_cri::{CriClient, RuntimeService, v1};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::pods;

/// Has a shell.
const IMAGE: &str = "rubelet.local/busybox:1";
/// How long a container may take to make its file, after it was seen ready.
const LIMIT: Duration = Duration::from_secs(10);
/// How often the file is looked for.
const LOOK: Duration = Duration::from_millis(10);
/// The beginning of one container. Times in seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// When its file was made.
    pub(crate) acted: f64,
    /// When the runtime says it was started.
    pub(crate) started: f64,
    /// When the API server had the status that says Ready.
    pub(crate) ready: f64,
}

/// The manifest of the telling pod of that name.
pub(crate) fn manifest(name: &str, share: &Path) -> Value {
    let mut pod = pods::manifest(0);
    pod["metadata"]["name"] = json!(name);
    // The shell makes the file itself, before it starts anything. The first process of a container gets no signal that it does not ask for.
    let script = format!(">/share/{name}; trap 'exit 0' TERM; sleep 1000000 & wait");
    let container = &mut pod["spec"]["containers"][0];
    container["image"] = json!(IMAGE);
    container["command"] = json!(["sh", "-c", script]);
    container["volumeMounts"] = json!([{"name": "share", "mountPath": "/share"}]);
    pod["spec"]["volumes"] = json!([{"name": "share", "hostPath": {"path": share}}]);
    pod
}

/// Reads what the pods and the runtime tell of these pods; `ready` has when each became so by its name.
pub(crate) async fn read(
    client: &CriClient,
    share: &Path,
    ready: &BTreeMap<String, f64>,
) -> Result<Vec<Moment>> {
    let mut started = started(client).await?;
    let mut moments = vec![];
    for (name, ready) in ready {
        let acted = acted(&share.join(name)).await?;
        let started =
            started.remove(name).with_context(|| format!("the runtime has no container of {name}"))?;
        moments.push(Moment { acted, started, ready: *ready });
    }
    Ok(moments)
}

/// When each pod's container was started, as the runtime says.
async fn started(client: &CriClient) -> Result<BTreeMap<String, f64>> {
    let containers = client.list_containers(v1::ListContainersRequest::default()).await?.containers;
    let mut started = BTreeMap::new();
    for mut container in containers {
        let request = v1::ContainerStatusRequest { container_id: container.id, verbose: false };
        let status =
            client.container_status(request).await?.status.context("a container without a status")?;
        if let Some(name) = container.labels.remove(POD_NAME) {
            started.insert(name, status.started_at as f64 / 1e9);
        }
    }
    Ok(started)
}

/// When a file was made that is never written again.
async fn acted(file: &Path) -> Result<f64> {
    let began = Instant::now();
    loop {
        match fs::metadata(file).and_then(|metadata| metadata.modified()) {
            Ok(at) => return Ok(at.duration_since(UNIX_EPOCH)?.as_secs_f64()),
            Err(_) if began.elapsed() < LIMIT => tokio::time::sleep(LOOK).await,
            Err(error) => return Err(error).with_context(|| format!("no sign of {}", file.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_time_of_a_file_is_between_those_around_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pod");
        let before = crate::wall_seconds();
        fs::write(&file, "").unwrap();
        let at = acted(&file).await.unwrap();
        assert!(at > before - 0.011 && at <= crate::wall_seconds(), "{before} {at}");
    }

    #[test]
    fn the_script_names_the_pods_own_file() {
        let pod = manifest("turn-001", Path::new("/b/share"));
        assert_eq!(pod["metadata"]["name"], "turn-001");
        assert!(
            pod["spec"]["containers"][0]["command"][2].as_str().unwrap().starts_with(">/share/turn-001;")
        );
        assert_eq!(pod["spec"]["volumes"][0]["hostPath"]["path"], "/b/share");
    }
}
