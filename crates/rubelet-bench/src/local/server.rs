//! `rubelet local` as a process, seen only through its API.
//!
//! Owns its start, the pods that are made and deleted through it, and waiting for what a watch tells of them. Called by
//! the plan of this part.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::time::Instant;

use super::client::{Access, Client, Watch};
use crate::agent::{Process, Site};
use crate::plan::LIMIT;
use crate::pods::NODE_NAME;

/// How often a starting server is asked.
const LOOK: Duration = Duration::from_millis(1);
const PODS: &str = "/api/v1/namespaces/default/pods";

/// The process and a connection to it.
pub(super) struct Server {
    process: Process,
    /// Its process.
    pub(super) pid: u32,
    /// How to connect to it.
    pub(super) access: Access,
    /// A connection.
    pub(super) client: Client,
}

/// How long a start took, seconds from the start of the process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// Until the first 200 of `/readyz`, with the kubeconfig that was written.
    pub(super) api: f64,
    /// Until the Node said Ready.
    pub(super) node: f64,
}

/// Pods from their creation on; each list in the order of the times, seconds since the first request.
#[derive(Clone, Debug, Default)]
pub(super) struct Came {
    /// Running.
    pub(super) running: Vec<f64>,
    /// Ready, too.
    pub(super) ready: Vec<f64>,
}

impl Server {
    /// Starts it and waits until its API answers and its node is Ready.
    pub(super) async fn start(site: &Site) -> Result<(Self, Start)> {
        let kubeconfig = site.kubeconfig_path().context("no folder for the local API")?;
        // That of an earlier start would be for another port, or another authority.
        let _ = std::fs::remove_file(&kubeconfig);
        let mut process = Process::start(site).await?;
        let began = process.began();
        let (access, client) = loop {
            if let Ok(access) = Access::load(&kubeconfig)
                && let Ok(client) = Client::connect(&access).await
                && client.get("/readyz").await.is_ok()
            {
                break (access, client);
            }
            process.must_run()?;
            if began.elapsed() > LIMIT {
                bail!("the API does not answer; see {}", site.log().display());
            }
            tokio::time::sleep(LOOK).await;
        };
        let api = began.elapsed().as_secs_f64();
        let node = format!("/api/v1/nodes/{NODE_NAME}");
        while !client.read(&node).await.is_ok_and(|node| is_true(&node, "Ready")) {
            process.must_run()?;
            if began.elapsed() > LIMIT {
                bail!("the node is not Ready; see {}", site.log().display());
            }
            tokio::time::sleep(LOOK).await;
        }
        let start = Start { api, node: began.elapsed().as_secs_f64() };
        Ok((Self { pid: process.pid, process, access, client }, start))
    }

    /// Creates pods, all at once, and waits until all are Ready.
    pub(super) async fn create(&self, pods: &[Value]) -> Result<Came> {
        let mut watch = self.watch().await?;
        let began = Instant::now();
        let create = async {
            let posts = pods.iter().map(|pod| self.client.create(PODS, pod));
            futures::future::try_join_all(posts).await
        };
        let wait = async {
            let (mut running, mut ready) = (BTreeMap::new(), BTreeMap::new());
            while ready.len() < pods.len() {
                let (_, pod) = next(&mut watch, began).await?;
                let at = began.elapsed().as_secs_f64();
                let name = name(&pod);
                if pod["status"]["phase"] == "Running" {
                    running.entry(name.clone()).or_insert(at);
                    if is_true(&pod, "Ready") {
                        ready.entry(name).or_insert(at);
                    }
                }
            }
            Ok(Came { running: sorted(running), ready: sorted(ready) })
        };
        let (created, came) = tokio::join!(create, wait);
        created?;
        came
    }

    /// Deletes pods, all at once, and waits until all are gone: when each was, in seconds since the first request.
    pub(super) async fn delete(&self, names: &[String]) -> Result<Vec<f64>> {
        let mut watch = self.watch().await?;
        let began = Instant::now();
        let delete = async {
            let paths: Vec<String> = names.iter().map(|name| format!("{PODS}/{name}")).collect();
            futures::future::try_join_all(paths.iter().map(|path| self.client.delete(path))).await
        };
        let wait = async {
            let mut gone = BTreeMap::new();
            let wanted: BTreeSet<&String> = names.iter().collect();
            while gone.len() < wanted.len() {
                let (kind, pod) = next(&mut watch, began).await?;
                if kind == "DELETED" {
                    gone.entry(name(&pod)).or_insert(began.elapsed().as_secs_f64());
                }
            }
            Ok(sorted(gone))
        };
        let (deleted, gone) = tokio::join!(delete, wait);
        deleted?;
        gone
    }

    /// Ends it as an operator would.
    pub(super) async fn stop(self) -> Result<()> {
        drop(self.client);
        self.process.stop().await
    }

    async fn watch(&self) -> Result<Watch> {
        self.client.watch(&format!("{PODS}?watch=true")).await
    }
}

/// The next event of pods: what it is, and the pod.
async fn next(watch: &mut Watch, began: Instant) -> Result<(String, Value)> {
    let left = LIMIT.saturating_sub(began.elapsed());
    let frame = tokio::time::timeout(left, watch.next()).await.context("pods take too long")??;
    let mut event: Value = serde_json::from_slice(&frame)?;
    let kind = event["type"].as_str().unwrap_or_default().to_owned();
    if kind == "ERROR" {
        bail!("the watch of pods: {}", event["object"]);
    }
    Ok((kind, event["object"].take()))
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn is_true(object: &Value, condition: &str) -> bool {
    let all = object["status"]["conditions"].as_array();
    all.is_some_and(|all| all.iter().any(|c| c["type"] == condition && c["status"] == "True"))
}

fn sorted(times: BTreeMap<String, f64>) -> Vec<f64> {
    let mut times: Vec<f64> = times.into_values().collect();
    times.sort_by(f64::total_cmp);
    times
}
