//! The kubelet API's part: what followers of logs, commands and scrapes cost the agent, over TLS on its own port.
//!
//! Owns the runs and their order. Followers and the many pods live in `world`, where this program is the runtime;
//! commands and the pods of one machine are the real runtime's. The words are in `report`. Called by the plan of the
//! benchmark, whose cleaning-up it uses.

mod client;
mod exec;
mod followers;
mod pki;
mod report;
mod scrapes;
pub(crate) mod world;

use std::time::Duration;

use anyhow::{Context, Result};
use rubelet_core::labels::POD_NAME;
use rubelet_cri::{RuntimeService, v1};
use serde_json::{Value, json};
use tokio::time::Instant;

use self::client::{Door, Protocol};
use self::exec::{Execs, Place, Sessions};
use self::followers::{Amount, Delivery, Followed, Log, Slow};
use self::pki::Pki;
use self::scrapes::{DOCUMENTS, Document, FLOOR, OF_THE_RUNTIME, Scraped};
use self::world::World;
use crate::agent::{Agent, Site};
use crate::plan::{Bench, LIMIT, POLL_MANY, SETTLE, SETTLE_IDLE, Size};
use crate::procfs::{self, Memory};
use crate::report::Report;
use crate::{local, pods, say};

/// From scrape to scrape: longer than the agent takes a reading for fresh.
const PERIOD: Duration = Duration::from_millis(1100);
/// The same as it is in life, when the runtime is asked anew, too.
const LONG_PERIOD: Duration = Duration::from_secs(15);
/// Scrapes for each of which the runtime is asked anew.
const LONG_SCRAPES: usize = 5;
/// Scrapes of each document in a round.
const SCRAPES: usize = 7;
/// Round trips of a command for each of `--runs`.
const ROUND_TRIPS: usize = 5;
/// Lines that are written to followers in a round.
const LINES: usize = 5;
/// Readers that never read.
const SLOW_READERS: usize = 100;
/// How long a log is written to at full speed.
const FULL_SPEED: Duration = Duration::from_secs(5);
/// The longest that followers are watched at rest.
const FOLLOWERS_REST: Duration = Duration::from_secs(10);
/// The longest that memory is given to be given back.
const GIVING_BACK: Duration = Duration::from_secs(40);
/// Has the commands.
const BUSYBOX: &str = "rubelet.local/busybox:1";

/// Everything that was measured of the kubelet API.
#[derive(Debug)]
struct Measured {
    size: Size,
    /// The floor of the lines' way to followers.
    sockets: Vec<Delivery>,
    followed: Vec<Followed>,
    slow: Vec<Slow>,
    execs: Option<Execs>,
    sessions: Option<Sessions>,
    scrapes: Vec<Scrapes>,
    /// `rubelet local` with pods at rest, before scrapes and after.
    local: Option<(Memory, Memory)>,
}

/// Scrapes of one agent.
#[derive(Debug)]
struct Scrapes {
    /// Whether the containers are the real runtime's.
    real: bool,
    pods: usize,
    /// CPU time of the agent in a second without scrapes, seconds.
    at_rest: f64,
    floor: Scraped,
    /// In the order of [`DOCUMENTS`].
    documents: Vec<Scraped>,
    /// In the order of [`OF_THE_RUNTIME`]; empty when there was no time.
    with_runtime: Vec<Scraped>,
    /// Before the first, after the last, and some time later.
    before: Memory,
    after: Memory,
    later: Option<Memory>,
}

/// Measures the kubelet API's part.
pub(crate) async fn measure(bench: &mut Bench) -> Result<Report> {
    let pki = Pki::make(&bench.site.dir.join("pki"))?;
    let mut extra = pki.configuration();
    // A node that is short of disk, as this machine may be from other work, would refuse pods.
    extra["evictionHard"] = json!({"memory.available": "1Mi"});
    let site = Site { extra, ..bench.site.clone() };
    let mut part = Part { bench, site, pki };
    let measured = part.measure().await?;
    Ok(report::report(&measured, part.bench.conditions().await?))
}

/// The part with its tools.
struct Part<'a> {
    bench: &'a mut Bench,
    site: Site,
    pki: Pki,
}

impl Part<'_> {
    async fn measure(&mut self) -> Result<Measured> {
        let size = self.bench.size.clone();
        let mut measured = Measured {
            size: size.clone(),
            sockets: vec![],
            followed: vec![],
            slow: vec![],
            execs: None,
            sessions: None,
            scrapes: vec![],
            local: None,
        };
        if size.rounds > 0 || size.followers > 0 {
            self.scripted(&size, &mut measured).await?;
        }
        if size.rounds > 0 {
            measured.scrapes.push(self.real(&size).await?);
            say(&format!("rubelet local with {} pods", size.pods));
            self.bench.note_load();
            let paths = DOCUMENTS.map(|document| document.path);
            measured.local = Some(local::scraped(self.bench, size.pods, &paths).await?);
        }
        if size.runs > 0 || size.sessions > 0 {
            self.commands(&size, &mut measured).await?;
        }
        Ok(measured)
    }

    /// Everything that needs no real containers.
    async fn scripted(&mut self, size: &Size, measured: &mut Measured) -> Result<()> {
        let mut world = World::make(&self.site)?;
        let mut agent = self.start(&world.site).await?;
        if size.rounds > 0 {
            measured.scrapes.push(self.scrape(&agent, false, 0, size).await?);
        }
        say(&format!("{} pods of the scripted runtime", size.pods));
        self.come(&mut agent, &mut world, size.pods).await?;
        if size.rounds > 0 {
            measured.scrapes.push(self.scrape(&agent, false, size.pods, size).await?);
        }
        agent.stop().await?;

        if size.followers > 0 {
            let lines = LINES * size.rounds.max(1);
            say(&format!("{} followers, floor", size.followers));
            self.bench.note_load();
            measured.sockets = followers::floor(size.followers, lines).await?;
            let logs: Vec<Log> =
                world.logs().map(|(pod, file)| Log { pod: pod.to_owned(), file: file.to_owned() }).collect();
            let one = logs.get(..1).context("no pod has a log")?;
            for protocol in [Protocol::Http2, Protocol::Http1] {
                for logs in [one, &logs] {
                    say(&format!("{} followers of {} logs, {}", size.followers, logs.len(), protocol.name()));
                    let agent = self.adopt(&world.site, size.pods).await?;
                    let door = Door::new(&self.pki, agent.port)?;
                    let rest = size.idle.min(FOLLOWERS_REST);
                    let giving_back = if rest < FOLLOWERS_REST { SETTLE } else { GIVING_BACK };
                    let amount = Amount { followers: size.followers, lines, rest, giving_back };
                    let followed = followers::follow(&door, agent.pid, protocol, logs, amount);
                    measured.followed.push(followed.await?);
                    agent.stop().await?;
                }
                say(&format!("{SLOW_READERS} readers that do not read, {}", protocol.name()));
                let agent = self.adopt(&world.site, size.pods).await?;
                let door = Door::new(&self.pki, agent.port)?;
                let slow =
                    followers::slow(&door, agent.pid, protocol, &one[0], SLOW_READERS, FULL_SPEED).await?;
                measured.slow.push(slow);
                agent.stop().await?;
            }
        }

        if size.rounds > 0 && size.many_pods > size.pods {
            say(&format!("{} pods of the scripted runtime", size.many_pods));
            let mut agent = self.start(&world.site).await?;
            self.come(&mut agent, &mut world, size.many_pods).await?;
            measured.scrapes.push(self.scrape(&agent, false, size.many_pods, size).await?);
            agent.stop().await?;
        }
        Ok(())
    }

    /// Pods of the real runtime.
    async fn real(&mut self, size: &Size) -> Result<Scrapes> {
        say(&format!("{} pods", size.pods));
        let mut agent = self.start(&self.site.clone()).await?;
        agent.run_pods(size.pods, POLL_MANY, LIMIT).await?;
        tokio::time::sleep(SETTLE_IDLE).await;
        let scrapes = self.scrape(&agent, true, size.pods, size).await?;
        self.bench.clear(agent).await?;
        Ok(scrapes)
    }

    /// Commands in a container of the real runtime.
    async fn commands(&mut self, size: &Size, measured: &mut Measured) -> Result<()> {
        let mut agent = self.start(&self.site.clone()).await?;
        agent.run_manifest(&shell_pod(), LIMIT).await?;
        let place = self.place().await?;
        let door = Door::new(&self.pki, agent.port)?;
        if size.runs > 0 {
            say(&format!("commands, {} round trips of each sort", size.runs * ROUND_TRIPS));
            self.bench.note_load();
            let runs = size.runs * ROUND_TRIPS;
            let execs = exec::round_trips(&door, agent.pid, &self.bench.client, &place, runs).await?;
            measured.execs = Some(execs);
        }
        if size.sessions > 0 {
            say(&format!("{} commands", size.sessions));
            self.bench.note_load();
            measured.sessions = Some(exec::sessions(&door, agent.pid, &place, size.sessions).await?);
        }
        self.bench.clear(agent).await
    }

    /// The only container there is.
    async fn place(&self) -> Result<Place> {
        let request = v1::ListContainersRequest::default();
        let containers = self.bench.client.list_containers(request).await?.containers;
        let container = containers.into_iter().next().context("no container is there")?;
        let pod = container.labels.get(POD_NAME).cloned().context("the container is of no pod")?;
        Ok(Place { pod, id: container.id })
    }

    async fn start(&mut self, site: &Site) -> Result<Agent> {
        self.bench.note_load();
        let agent = Agent::start(site).await?;
        tokio::time::sleep(SETTLE).await;
        Ok(agent)
    }

    /// Starts an agent among so many pods.
    async fn adopt(&mut self, site: &Site, pods: usize) -> Result<Agent> {
        let mut agent = self.start(site).await?;
        agent.wait_ready(pods, Instant::now(), POLL_MANY, LIMIT).await?;
        tokio::time::sleep(SETTLE).await;
        Ok(agent)
    }

    /// Has so many pods of the scripted runtime run.
    async fn come(&self, agent: &mut Agent, world: &mut World, pods: usize) -> Result<()> {
        agent.run_pods(pods, POLL_MANY, LIMIT).await?;
        world.furnish()?;
        tokio::time::sleep(SETTLE_IDLE).await;
        Ok(())
    }

    /// Scrapes everything of an agent with so many pods.
    async fn scrape(&mut self, agent: &Agent, real: bool, pods: usize, size: &Size) -> Result<Scrapes> {
        let times = SCRAPES * size.rounds;
        self.bench.note_load();
        let client = Door::new(&self.pki, agent.port)?.connect(Protocol::Http2).await?;
        client.get(FLOOR.path, None).await?;
        let before = procfs::memory(agent.pid)?;
        let began = (Instant::now(), procfs::cpu_seconds(agent.pid)?);
        tokio::time::sleep(size.idle.clamp(SETTLE, GIVING_BACK)).await;
        let at_rest = (procfs::cpu_seconds(agent.pid)? - began.1) / began.0.elapsed().as_secs_f64();
        let one = async |document: &Document, times: usize, period: Duration| {
            say(&format!("{} with {pods} pods, {times} times", document.path));
            scrapes::scrape(&client, agent.pid, document, pods, times, period, at_rest).await
        };
        let floor = one(&FLOOR, times, PERIOD).await?;
        let mut documents = vec![];
        for document in &DOCUMENTS {
            documents.push(one(document, times, PERIOD).await?);
        }
        let mut with_runtime = vec![];
        for index in OF_THE_RUNTIME.into_iter().filter(|_| size.idle >= FOLLOWERS_REST && pods > 0) {
            with_runtime.push(one(&DOCUMENTS[index], LONG_SCRAPES, LONG_PERIOD).await?);
        }
        let after = procfs::memory(agent.pid)?;
        let mut later = None;
        if size.idle >= FOLLOWERS_REST {
            tokio::time::sleep(GIVING_BACK).await;
            later = Some(procfs::memory(agent.pid)?);
        }
        Ok(Scrapes { real, pods, at_rest, floor, documents, with_runtime, before, after, later })
    }
}

/// A pod with a shell, in which commands can run.
fn shell_pod() -> Value {
    let mut pod = pods::manifest(0);
    pod["metadata"]["name"] = json!("shell");
    let container = &mut pod["spec"]["containers"][0];
    container["image"] = json!(BUSYBOX);
    // The first process of a container gets no signal that it does not ask for.
    container["command"] = json!(["sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"]);
    pod
}
