//! Many clients that follow logs: how soon all of them have a line, and what they cost the agent.
//!
//! Owns the clients, which are tasks of this program, and the lines, which it writes into the log files itself, so
//! that it knows when. The floor is the same line written by one loop to as many plain sockets. Called by the plan of
//! this part.

use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::client::{Client, Door, Protocol};
use crate::numbers::quantile;
use crate::procfs::{self, Idle, Memory};

/// How many followers are opened at a time.
const OPENED_AT_ONCE: usize = 32;
/// Logs that are followed over one connection of HTTP/2.
const STREAMS: usize = 100;
/// Rest between two lines.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a line may take to reach everybody.
const LIMIT: Duration = Duration::from_secs(20);
/// What the system keeps for a client that does not read.
const KEPT: u32 = 16 << 10;
/// The least that is written for slow readers, whatever the time, and the most.
const WRITTEN: (u64, u64) = (32 << 20, 512 << 20);
/// What is written to a log at a time at full speed.
const BLOCK: usize = 64 << 10;

/// A log that can be followed.
#[derive(Clone, Debug)]
pub(super) struct Log {
    /// Its pod, as the API calls it.
    pub(super) pod: String,
    /// Its file.
    pub(super) file: PathBuf,
}

/// One line's way to everybody, seconds since just before it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery {
    /// Until half of them had it.
    pub(super) half: f64,
    /// Until the last had it.
    pub(super) last: f64,
}

/// What many followers cost.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) protocol: Protocol,
    pub(super) logs: usize,
    pub(super) followers: usize,
    /// From the first request to the last head of an answer, seconds.
    pub(super) opened: f64,
    /// The agent before the first and with all of them.
    pub(super) before: Memory,
    pub(super) with: Memory,
    /// At rest, nothing being written.
    pub(super) idle: Option<Idle>,
    pub(super) deliveries: Vec<Delivery>,
    /// CPU time of the agent for each line of each follower, seconds.
    pub(super) cpu_of_a_line: f64,
    /// When all lines were delivered.
    pub(super) written: Memory,
    /// Some time after all of them went away.
    pub(super) after: Memory,
}

/// What readers that never read cost, while one of the same log reads.
#[derive(Debug)]
pub(super) struct Slow {
    pub(super) protocol: Protocol,
    pub(super) readers: usize,
    /// What was written to the log, and what the reading one got of it meanwhile, bytes.
    pub(super) written: u64,
    pub(super) read: u64,
    /// How long was written, seconds.
    pub(super) seconds: f64,
    pub(super) before: Memory,
    /// The end of the writing; its peak is that of all the time.
    pub(super) with: Memory,
    /// Some time after all of them went away.
    pub(super) after: Memory,
}

/// What tells when a line was there.
type Arrivals = UnboundedReceiver<Instant>;

/// How many follow, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount {
    pub(super) followers: usize,
    /// Lines that are written to each log.
    pub(super) lines: usize,
    /// How long they are watched while nothing is written.
    pub(super) rest: Duration,
    /// How long memory is given to be given back when they have gone.
    pub(super) giving_back: Duration,
}

/// Has so many followers follow the logs in turn and writes so many lines into each.
pub(super) async fn follow(
    door: &Door,
    pid: u32,
    protocol: Protocol,
    logs: &[Log],
    amount: Amount,
) -> Result<Followed> {
    let Amount { followers, lines, rest, giving_back } = amount;
    // The first connection brings code and tables into memory that are no follower's.
    door.connect(protocol).await?.get("/healthz", None).await?;
    let before = procfs::memory(pid)?;
    let began = Instant::now();
    let bodies = open(door, protocol, logs, followers, None).await?;
    let opened = began.elapsed().as_secs_f64();
    let (sender, mut arrivals) = unbounded_channel();
    let mut tasks = JoinSet::new();
    for (client, body) in bodies {
        tasks.spawn(take_lines(client, body, sender.clone()));
    }
    drop(sender);
    let mut files = logs
        .iter()
        .map(|log| {
            File::options().append(true).open(&log.file).with_context(|| log.file.display().to_string())
        })
        .collect::<Result<Vec<_>>>()?;
    // What the first line starts is not the price of a line.
    deliver(&mut files, &mut arrivals, followers, 0).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let with = procfs::memory(pid)?;
    let idle = match rest.is_zero() {
        true => None,
        false => Some(procfs::watch(pid, rest).await?),
    };
    let (mut deliveries, cpu) = (vec![], procfs::cpu_seconds(pid)?);
    for number in 1..=lines {
        tokio::time::sleep(PAUSE).await;
        deliveries.push(deliver(&mut files, &mut arrivals, followers, number).await?);
    }
    let cpu = procfs::cpu_seconds(pid)? - cpu;
    let written = procfs::memory(pid)?;
    tasks.shutdown().await;
    tokio::time::sleep(giving_back).await;
    Ok(Followed {
        protocol,
        logs: logs.len(),
        followers,
        opened,
        before,
        with,
        idle,
        deliveries,
        cpu_of_a_line: cpu / (lines * followers).max(1) as f64,
        written,
        after: procfs::memory(pid)?,
    })
}

/// The floor: so many plain sockets, to which one loop writes each line.
pub(super) async fn floor(followers: usize, lines: usize) -> Result<Vec<Delivery>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let (sender, mut arrivals) = unbounded_channel();
    let (mut tasks, mut writers) = (JoinSet::new(), vec![]);
    for _ in 0..followers {
        let (reader, accepted) = tokio::try_join!(TcpStream::connect(address), listener.accept())?;
        accepted.0.set_nodelay(true)?;
        writers.push(accepted.0);
        let (mut reader, sender) = (reader, sender.clone());
        tasks.spawn(async move {
            let mut buffer = vec![0; 1024];
            while let Ok(length @ 1..) = reader.read(&mut buffer).await {
                if !tell(&buffer[..length], &sender) {
                    return;
                }
            }
        });
    }
    let mut deliveries = vec![];
    for number in 0..=lines {
        tokio::time::sleep(PAUSE).await;
        let (line, began) = (line(number), Instant::now());
        for writer in &mut writers {
            writer.write_all(line.as_bytes()).await?;
        }
        let delivery = collect(&mut arrivals, followers, began).await?;
        if number > 0 {
            deliveries.push(delivery);
        }
    }
    tasks.shutdown().await;
    Ok(deliveries)
}

/// Has readers that never read, and one that does, follow a log that is written to at full speed for some time.
pub(super) async fn slow(
    door: &Door,
    pid: u32,
    protocol: Protocol,
    log: &Log,
    readers: usize,
    time: Duration,
) -> Result<Slow> {
    let logs = std::slice::from_ref(log);
    door.connect(protocol).await?.get("/healthz", None).await?;
    let before = procfs::memory(pid)?;
    let stuck = open(door, protocol, logs, readers, Some(KEPT)).await?;
    let (client, mut body) = open(door, protocol, logs, 1, None).await?.pop().context("no reader")?;
    let read = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&read);
    let reading = tokio::spawn(async move {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, bytes::Bytes::len);
            counted.fetch_add(length as u64, Ordering::Relaxed);
        }
        drop(client);
    });
    procfs::forget_peak(pid)?;
    let mut file = File::options().append(true).open(&log.file)?;
    let began = Instant::now();
    let written = tokio::task::spawn_blocking(move || {
        let line = line(0);
        let block = line.repeat(BLOCK / line.len());
        let mut written = 0;
        while (began.elapsed() < time || written < WRITTEN.0) && written < WRITTEN.1 {
            file.write_all(block.as_bytes())?;
            written += block.len() as u64;
        }
        Ok::<u64, std::io::Error>(written)
    });
    let written = written.await??;
    let seconds = began.elapsed().as_secs_f64();
    let read = read.load(Ordering::Relaxed);
    // Whoever is still to be filled is filled now.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let with = procfs::memory(pid)?;
    reading.abort();
    drop(stuck);
    tokio::time::sleep(Duration::from_secs(3)).await;
    // The rest of the runs is not to read all of this.
    File::options().write(true).truncate(true).open(&log.file)?;
    Ok(Slow { protocol, readers, written, read, seconds, before, with, after: procfs::memory(pid)? })
}

/// Opens so many followers, each of which will hear of lines from now on.
async fn open(
    door: &Door,
    protocol: Protocol,
    logs: &[Log],
    count: usize,
    kept: Option<u32>,
) -> Result<Vec<(Client, Incoming)>> {
    let connections = match protocol {
        Protocol::Http1 => count,
        Protocol::Http2 => count.div_ceil(STREAMS),
    };
    let clients: Vec<Client> = futures::stream::iter(0..connections)
        .map(|_| door.connect_with(protocol, kept))
        .buffered(OPENED_AT_ONCE)
        .try_collect()
        .await?;
    futures::stream::iter(0..count)
        .map(|number| {
            let client = clients[number % connections].clone();
            let pod = &logs[number % logs.len()].pod;
            let path = format!("/containerLogs/default/{pod}/main?follow=true&tailLines=0");
            async move {
                let answer = client.open(&path, None).await?;
                Ok((client, answer.into_body()))
            }
        })
        .buffered(OPENED_AT_ONCE)
        .try_collect()
        .await
}

/// Reads a body for ever and tells of each line.
async fn take_lines(client: Client, mut body: Incoming, sender: UnboundedSender<Instant>) {
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref()
            && !tell(data, &sender)
        {
            break;
        }
    }
    drop(client);
}

/// Tells of each line that ends here; `false` when nobody listens.
fn tell(data: &[u8], sender: &UnboundedSender<Instant>) -> bool {
    let lines = data.iter().filter(|byte| **byte == b'\n').count();
    let now = Instant::now();
    (0..lines).all(|_| sender.send(now).is_ok())
}

/// Writes a line into every file and waits until each follower has its own.
async fn deliver(
    files: &mut [File],
    arrivals: &mut Arrivals,
    followers: usize,
    number: usize,
) -> Result<Delivery> {
    let (line, began) = (line(number), Instant::now());
    for file in files {
        file.write_all(line.as_bytes())?;
    }
    collect(arrivals, followers, began).await
}

async fn collect(arrivals: &mut Arrivals, followers: usize, began: Instant) -> Result<Delivery> {
    let mut took = vec![];
    while took.len() < followers {
        match timeout(LIMIT, arrivals.recv()).await {
            Ok(Some(at)) => took.push((at - began).as_secs_f64()),
            Ok(None) => bail!("every follower has gone; {} of {followers} had the line", took.len()),
            Err(_) => bail!("{} of {followers} followers have the line", took.len()),
        }
    }
    took.sort_by(f64::total_cmp);
    Ok(Delivery {
        half: quantile(&took, 0.5).unwrap_or_default(),
        last: took.last().copied().unwrap_or_default(),
    })
}

/// A line as a runtime writes it.
fn line(number: usize) -> String {
    format!(
        "2026-01-01T00:00:00.{number:09}Z stdout F line {number} of a program that tells what it does, as they do\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_floor_reaches_everybody_with_every_line() {
        let deliveries = floor(3, 2).await.unwrap();
        assert_eq!(deliveries.len(), 2);
        assert!(deliveries.iter().all(|delivery| delivery.half <= delivery.last && delivery.half > 0.0));
    }

    #[tokio::test]
    async fn a_line_is_told_of_when_it_ends() {
        let (sender, mut arrivals) = unbounded_channel();
        assert!(tell(b"half", &sender));
        assert!(arrivals.try_recv().is_err());
        assert!(tell(b" a line\nand one\n", &sender));
        let delivery = collect(&mut arrivals, 2, Instant::now() - Duration::from_secs(1)).await.unwrap();
        assert!(delivery.half > 0.5, "counted from when it was written");
        drop(sender);
        assert!(collect(&mut arrivals, 1, Instant::now()).await.is_err(), "nobody is there any more");
        drop(arrivals);
    }
}
