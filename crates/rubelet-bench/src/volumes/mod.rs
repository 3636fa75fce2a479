//! The volumes' part: what volumes add to the start of a pod, how soon a change of a ConfigMap is in the files, and
//! what handing many files to a group costs.
//!
//! Owns the runs and their order. The runtime is the scripted one, so that no container's start is in the times; the
//! agent, its mounts and the files are real. The floor is the bare mounts, files and `chown -R` (`floor`), the words are
//! in `report`. Called by the plan of the benchmark.

mod floor;
mod objects;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::Value;
use tokio::time::Instant;

use self::objects::{Eight, MAP};
use crate::agent::{ControlPlane, Process};
use crate::api::cluster::Cluster;
use crate::plan::{Bench, LIMIT, SETTLE, Size};
use crate::report::Report;
use crate::say;
use crate::server::world::World;

/// How often a file is looked at that is to change.
const LOOK: Duration = Duration::from_millis(1);
/// How long a million files may take.
const LONG: Duration = Duration::from_secs(1800);

/// Everything that was measured of volumes.
#[derive(Debug, Default)]
struct Measured {
    pods: usize,
    files: usize,
    starts: Vec<Starts>,
    /// From the change of a ConfigMap until its file is new, seconds.
    changes: Vec<f64>,
    /// The same until the files of all pods are new.
    changes_of_many: Vec<f64>,
    /// Writing the same files anew and swapping them in, seconds.
    bare_changes: Vec<f64>,
    groups: Vec<Handed>,
    refused: Vec<String>,
}

/// Starts of pods with and without volumes of one sort, one after the other. Seconds.
#[derive(Debug)]
struct Starts {
    eight: Eight,
    /// From bound to Ready: a pod without volumes, and one with eight.
    runs: Vec<(f64, f64)>,
    /// The bare mounts and files.
    bare: Vec<f64>,
}

/// A tree of files handed to a group. Seconds; the agent's are from bound to Ready, less a pod without volumes.
#[derive(Clone, Copy, Debug)]
struct Handed {
    /// `chown -R`, and with `chmod -R` after it, which is what has to be done.
    chown: f64,
    chmod: f64,
    /// A pod with another group.
    change: f64,
    /// The same group once more, looking at every file.
    again: f64,
    /// The same group once more, looking at the root only.
    on_root_mismatch: f64,
}

/// Measures the volumes' part.
pub(crate) async fn measure(bench: &mut Bench) -> Result<Report> {
    let dir = bench.site.dir.join("cluster");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let cluster = Cluster::start(&dir).await?;
    let mut world = World::make(&bench.site)?;
    world.site.control_plane = ControlPlane::Cluster(cluster.kubeconfig());
    objects::create(&cluster);
    bench.note_load();
    let agent = Process::start(&world.site).await?;
    let mut part = Part { bench, cluster, world, agent, number: 0 };
    let measured = part.measure().await?;
    let Part { bench, cluster, world, agent, .. } = part;
    agent.stop().await?;
    let dir = world.site.dir.clone();
    drop((world, cluster));
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    Ok(report::report(&measured, bench.conditions().await?))
}

/// The part with its tools.
struct Part<'a> {
    bench: &'a mut Bench,
    cluster: Cluster,
    world: World,
    agent: Process,
    /// Pods so far: each has a name of its own.
    number: usize,
}

impl Part<'_> {
    async fn measure(&mut self) -> Result<Measured> {
        let size = self.bench.size.clone();
        self.cluster.wait_node_ready(&mut self.agent, LIMIT).await?;
        tokio::time::sleep(SETTLE).await;
        // The first pods bring programs and caches into memory.
        for warm in [Value::Null, Eight::OfObjects.volumes(), Eight::OfTheNode.volumes()] {
            self.start_and_end(&warm, None).await?;
        }
        let mut measured = Measured { pods: size.pods, files: size.files, ..Measured::default() };
        for eight in Eight::ALL.into_iter().filter(|_| size.runs > 0) {
            measured.starts.push(self.starts(eight, &size).await?);
        }
        if size.changes > 0 {
            self.changes(&mut measured, &size).await?;
        }
        if size.files > 0 {
            measured.groups = self.groups(&size).await?;
        }
        measured.refused = self.cluster.refused();
        Ok(measured)
    }

    /// Pods without and with eight volumes, in turn.
    async fn starts(&mut self, eight: Eight, size: &Size) -> Result<Starts> {
        // They take milliseconds: a few more say more.
        let runs = size.runs * 5;
        say(&format!("{runs} pods with eight volumes {} and as many without", eight.words()));
        let mut starts = Starts { eight, runs: vec![], bare: vec![] };
        for _ in 0..runs {
            self.bench.note_load();
            let without = self.start_and_end(&Value::Null, None).await?;
            let with = self.start_and_end(&eight.volumes(), None).await?;
            starts.runs.push((without, with));
            starts.bare.push(floor::eight_volumes(&self.world.site.dir.join("bare"), eight)?);
        }
        Ok(starts)
    }

    /// Changes of a ConfigMap, each when the one before was seen everywhere.
    async fn changes(&mut self, measured: &mut Measured, size: &Size) -> Result<()> {
        for (pods, changes) in [(1, size.changes), (size.pods, size.changes.div_ceil(10))] {
            say(&format!("{changes} changes of a ConfigMap that {pods} pods show"));
            self.bench.note_load();
            let names: Vec<String> = (0..pods).map(|_| self.name()).collect();
            let manifests: Vec<Value> =
                names.iter().map(|name| objects::pod(name, &Eight::OfObjects.volumes(), None)).collect();
            self.cluster.create(&manifests);
            self.cluster.forget().await;
            self.cluster.bind(&names);
            self.cluster.wait_ready(&mut self.agent, pods, LIMIT).await?;
            let files: Vec<PathBuf> = names.iter().map(|name| self.map_file(name)).collect::<Result<_>>()?;
            tokio::time::sleep(SETTLE).await;
            for change in 0..changes {
                let took = self.change(&files, &format!("{pods} pods, change {change}")).await?;
                if pods == 1 { &mut measured.changes } else { &mut measured.changes_of_many }.push(took);
            }
            self.end(&names).await?;
        }
        let dir = self.world.site.dir.join("bare");
        measured.bare_changes =
            (0..size.changes).map(|change| floor::change(&dir, change)).collect::<Result<_>>()?;
        fs::remove_dir_all(dir)?;
        Ok(())
    }

    /// Changes the ConfigMap and waits until all of these files show it.
    async fn change(&mut self, files: &[PathBuf], text: &str) -> Result<f64> {
        let began = Instant::now();
        self.cluster.api().modify::<ConfigMap>("default", MAP, |map| {
            map.data.get_or_insert_default().insert("key".to_owned(), text.to_owned());
        });
        for file in files {
            while fs::read(file).is_ok_and(|content| content != text.as_bytes()) {
                if began.elapsed() > LIMIT {
                    bail!("{} does not change", file.display());
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(began.elapsed().as_secs_f64())
    }

    /// Hands a tree of files to one group after another.
    async fn groups(&mut self, size: &Size) -> Result<Vec<Handed>> {
        let tree = self.world.site.dir.join("tree");
        say(&format!("making {} files", size.files));
        floor::make_tree(&tree, size.files)?;
        objects::claim(&self.cluster, &tree);
        let mut handed = vec![];
        for round in 1..=size.rounds.max(1) {
            say(&format!("{} files for a group, round {round}", size.files));
            self.bench.note_load();
            let group = 20_000 + u32::try_from(round)? * 2;
            let volumes = objects::claimed();
            let none = self.start_and_end(&Value::Null, None).await?;
            let chown = floor::hand_over(&tree, group)?;
            let chmod = floor::open(&tree)?;
            let mut start = async |policy: &'static str| -> Result<f64> {
                Ok((self.start_and_end(&volumes, Some((group + 1, policy))).await? - none).max(0.0))
            };
            let change = start("Always").await?;
            floor::must_be_of(&tree, group + 1)?;
            let again = start("Always").await?;
            let on_root_mismatch = start("OnRootMismatch").await?;
            handed.push(Handed { chown, chmod: chown + chmod, change, again, on_root_mismatch });
        }
        Ok(handed)
    }

    /// Runs a pod with these volumes from nothing to nothing; seconds from bound to Ready.
    async fn start_and_end(&mut self, volumes: &Value, group: Option<(u32, &str)>) -> Result<f64> {
        let name = self.name();
        self.cluster.create(&[objects::pod(&name, volumes, group)]);
        self.cluster.forget().await;
        let names = [name];
        let began_at = self.cluster.bind(&names);
        let ready = self.cluster.wait_ready(&mut self.agent, 1, LONG).await?;
        let took = ready.first().context("no pod is ready")? - began_at;
        self.end(&names).await?;
        Ok(took)
    }

    async fn end(&mut self, names: &[String]) -> Result<()> {
        self.cluster.forget().await;
        self.cluster.delete(names);
        self.cluster.wait_gone(&mut self.agent, names.len(), LIMIT).await?;
        Ok(())
    }

    fn name(&mut self) -> String {
        self.number += 1;
        format!("pod-{}", self.number)
    }

    /// Where a pod has the ConfigMap's file.
    fn map_file(&self, pod: &str) -> Result<PathBuf> {
        let pod: Pod = self.cluster.api().get("default", pod).context("the pod is gone")?;
        let uid = pod.metadata.uid.context("the pod has no UID")?;
        let volumes = Path::new("pods").join(uid).join("volumes/kubernetes.io~configmap");
        Ok(self.world.site.places.root_dir.join(volumes).join("map/key"))
    }
}
