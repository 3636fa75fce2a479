//! What a scrape costs the agent: CPU time, wall time and bytes of each document it makes of the node.
//!
//! Every scrape comes when what the one before it had read is too old to be shown again. Called by the plan of this
//! part, with pods that run.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

use super::client::Client;
use crate::procfs;

/// One document.
pub(super) struct Document {
    /// For keys of the report.
    pub(super) key: &'static str,
    pub(super) path: &'static str,
    /// What the client accepts beside plain text.
    pub(super) encoding: Option<&'static str>,
    /// What it says once of each container, at least.
    mark: &'static str,
}

/// The floor: an answer that takes no reading.
pub(super) const FLOOR: Document = document("healthz", "/healthz", None, "");
/// What is scraped.
pub(super) const DOCUMENTS: [Document; 7] = [
    document("cadvisor", "/metrics/cadvisor", None, "\ncontainer_last_seen{container=\"main\""),
    document("cadvisor_gzip", "/metrics/cadvisor", Some("gzip"), ""),
    document("summary", "/stats/summary", None, "\"main\""),
    document("summary_cpu", "/stats/summary?only_cpu_and_memory=true", None, "\"main\""),
    document("resource", "/metrics/resource", None, "\ncontainer_memory_working_set_bytes{"),
    document("metrics", "/metrics", None, ""),
    document("pods", "/pods", None, "\"containerStatuses\""),
];
/// Those for which the runtime is asked too, now and then.
pub(super) const OF_THE_RUNTIME: [usize; 2] = [0, 2];

const fn document(
    key: &'static str,
    path: &'static str,
    encoding: Option<&'static str>,
    mark: &'static str,
) -> Document {
    Document { key, path, encoding, mark }
}

/// Many scrapes of one document.
#[derive(Clone, Debug)]
pub(super) struct Scraped {
    /// Bytes of the last answer.
    pub(super) bytes: usize,
    /// From the request to the end of the answer, seconds.
    pub(super) wall: Vec<f64>,
    /// CPU time of the agent for each, without what it uses anyway, seconds.
    pub(super) cpu: f64,
}

/// Scrapes a document so many times, once in a period. `at_rest` is the agent's CPU time in a second without that.
pub(super) async fn scrape(
    client: &Client,
    pid: u32,
    document: &Document,
    containers: usize,
    times: usize,
    period: Duration,
    at_rest: f64,
) -> Result<Scraped> {
    // What the first one builds up is not the price of one.
    let first = client.get(document.path, document.encoding).await?;
    let told = count(&first, document.mark.as_bytes());
    if !document.mark.is_empty() && told < containers {
        bail!("{} tells of {told} containers where there are {containers}", document.path);
    }
    tokio::time::sleep(period).await;
    let (mut wall, mut bytes) = (vec![], 0);
    let (began, cpu) = (Instant::now(), procfs::cpu_seconds(pid)?);
    for number in 1..=times {
        let asked = Instant::now();
        bytes = client.get(document.path, document.encoding).await?.len();
        wall.push(asked.elapsed().as_secs_f64());
        let next = began + period * u32::try_from(number).unwrap_or(u32::MAX);
        tokio::time::sleep_until(next).await;
    }
    let cpu = procfs::cpu_seconds(pid)? - cpu - at_rest * began.elapsed().as_secs_f64();
    Ok(Scraped { bytes, wall, cpu: cpu.max(0.0) / times.max(1) as f64 })
}

/// How often a mark is there.
fn count(text: &[u8], mark: &[u8]) -> usize {
    if mark.is_empty() { 0 } else { text.windows(mark.len()).filter(|bytes| *bytes == mark).count() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_counted() {
        assert_eq!(count(b"a{1}\na{2}\nb", b"a{"), 2);
        assert_eq!((count(b"", b"a"), count(b"a", b"")), (0, 0));
    }

    #[test]
    fn the_runtime_has_a_part_in_what_is_said_to() {
        let paths = OF_THE_RUNTIME.map(|index| DOCUMENTS[index].path);
        assert_eq!(paths, ["/metrics/cadvisor", "/stats/summary"]);
    }
}
