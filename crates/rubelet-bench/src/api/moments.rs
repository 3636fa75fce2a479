//! Pods that tell when they began to run, and how late the API heard of it.
//!
//! The first act of such a pod's container is to write the kernel's clock, in microseconds, into a folder it shares
//! with the benchmark. Beside that stands when the runtime says it had started the container. Owns the manifest and
//! reading both. Called by the plan of the control plane's part.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rubelet_core::labels::POD_NAME;
use rubelet_cri::{CriClient, RuntimeService, v1};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::pods;

/// Has a shell and `adjtimex`, which prints the time of day with microseconds.
const IMAGE: &str = "rubelet.local/busybox:1";
/// How long a container may take to write, after it was seen ready.
const LIMIT: Duration = Duration::from_secs(10);
/// How often the file is looked for.
const LOOK: Duration = Duration::from_millis(10);
/// The bit in the status of `adjtimex` that says that the clock's fraction is told in nanoseconds.
const STA_NANO: u64 = 0x2000;

/// The beginning of one container. Times in seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// When its first act was under way.
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
    // The first process of a container gets no signal that it does not ask for.
    let script = format!("adjtimex >/share/{name}; trap 'exit 0' TERM; sleep 1000000 & wait");
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

async fn acted(file: &Path) -> Result<f64> {
    let began = Instant::now();
    loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        if let Some(at) = time_of_day(&text) {
            return Ok(at);
        }
        if began.elapsed() > LIMIT {
            bail!("{} does not tell the time: {text:?}", file.display());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Seconds since 1970 out of what `adjtimex` prints; `None` while it is not all there.
fn time_of_day(text: &str) -> Option<f64> {
    // The last line says that the ones before are whole.
    text.lines().find(|line| line.contains("return value:"))?;
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.split_once(key))?.1;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let unit = if value("status:")? & STA_NANO == 0 { 1e-6 } else { 1e-9 };
    Some(value("time.tv_sec:")? as f64 + value("time.tv_usec:")? as f64 * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: &str, fraction: &str, wanted: f64) {
        let text = format!(
            "    mode:         0\n    status:       {status}\n-t  tick:         10000 us\n    time.tv_sec:  1795416692\n    \
             time.tv_usec: {fraction}\n    return value: 5 (clock not synchronized)\n"
        );
        assert!((time_of_day(&text).unwrap() - wanted).abs() < 1e-6, "{text}");
        assert_eq!(time_of_day(&text[..text.len() / 2]), None);
    }

    #[test]
    fn the_time_is_read_in_both_units() {
        check("64 (UNSYNC)", "269738", 1_795_416_692.269_738);
        check("8193 (PLL)", "269738000", 1_795_416_692.269_738);
    }
}
