//! What objects cost without pods: ConfigMaps written, listed, watched; one object read and changed in every way.
//!
//! Owns the objects and the order; the server is started by the plan of this part. What a row is compared with is
//! measured beside it: a bare answer over the same connection, and a bare write to the same disk.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::StreamExt as _;
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::client::{Access, Client, JSON};
use crate::procfs;
use crate::say;

/// Bytes of text in each object.
const WEIGHT: usize = 5 * 1024;
/// Writes under way at once.
const AT_ONCE: usize = 32;
/// Objects of a page.
const PAGE: usize = 500;
/// One object in so many has the label that is selected.
const SELECTED: usize = 100;
/// Watches that hear of one change.
pub(super) const WATCHERS: usize = 100;
/// How often a thing is done of which the median is told.
const LISTS: usize = 5;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// What was measured; times in seconds.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) count: usize,
    /// 4 KiB written to a file of the same disk and synced.
    pub(super) sync: Vec<f64>,
    /// An answer that needs nothing.
    pub(super) bare: Vec<f64>,
    /// One object created after the other.
    pub(super) created: Vec<f64>,
    /// Of those created at once: how many a second, and CPU seconds of the server for each.
    pub(super) at_once: f64,
    pub(super) at_once_cpu: f64,
    pub(super) whole: Lists,
    pub(super) pages: Lists,
    pub(super) selected: Lists,
    /// What is there, told by a watch.
    pub(super) watched: Lists,
    /// One object: GET, PUT, patches, apply.
    pub(super) asked: Vec<(&'static str, &'static str, Vec<f64>)>,
    /// From a PUT until one watch has told of it, and until the last of many has.
    pub(super) told: Vec<f64>,
    pub(super) told_to_all: Vec<f64>,
    /// Memory for each watch with a connection of its own, KiB.
    pub(super) watch_kib: f64,
    /// Bytes of the store's folder.
    pub(super) store_bytes: u64,
}

/// A list taken again and again.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) seconds: Vec<f64>,
    /// CPU seconds of the server for each.
    pub(super) cpu: f64,
    /// Bytes of one.
    pub(super) bytes: usize,
    /// The most memory of the server meanwhile, KiB.
    pub(super) peak_kib: u64,
}

fn name(number: usize) -> String {
    format!("map-{number:05}")
}

fn map(number: usize) -> Value {
    let group = if number.is_multiple_of(SELECTED) { "chosen" } else { "other" };
    // Text as it comes in configuration files; the length is what counts.
    let line = format!("key-{number} = some value that says something, and a little more\n");
    let mut text = line.repeat(WEIGHT.div_ceil(line.len()));
    text.truncate(WEIGHT);
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name(number), "namespace": "default", "labels": {"group": group}},
        "data": {"settings.conf": text},
    })
}

/// Measures a server that holds nothing yet. `dir` is on its disk.
pub(super) async fn measure(
    access: &Access,
    pid: u32,
    dir: &Path,
    count: usize,
    single: usize,
) -> Result<Objects> {
    let client = Client::connect(access).await?;
    let mut seen = Objects { count, sync: syncs(dir, single)?, ..Objects::default() };
    seen.bare = timed(single, || client.get("/livez")).await?;

    say(&format!("{count} objects: {single} written one after the other, the rest {AT_ONCE} at once"));
    for number in 0..single {
        let (object, began) = (map(number), Instant::now());
        client.create(MAPS, &object).await?;
        seen.created.push(began.elapsed().as_secs_f64());
    }
    let (began, cpu) = (Instant::now(), procfs::cpu_seconds(pid)?);
    let writes = (single..count).map(|number| {
        let client = client.clone();
        async move { client.create(MAPS, &map(number)).await.map(drop) }
    });
    let written: Vec<Result<()>> = futures::stream::iter(writes).buffer_unordered(AT_ONCE).collect().await;
    written.into_iter().collect::<Result<()>>()?;
    let rest = count.saturating_sub(single).max(1) as f64;
    seen.at_once = rest / began.elapsed().as_secs_f64();
    seen.at_once_cpu = (procfs::cpu_seconds(pid)? - cpu) / rest;

    say("lists");
    seen.whole = lists(pid, || client.drain(MAPS)).await?;
    seen.pages = lists(pid, || pages(&client)).await?;
    let selected = format!("{MAPS}?labelSelector=group%3Dchosen");
    seen.selected = lists(pid, || client.drain(&selected)).await?;
    seen.watched = lists(pid, || watched(&client)).await?;

    say("one object");
    seen.asked = one_object(&client, single).await?;
    say("watches");
    let mut watch = changes(&client).await?;
    for run in 0..single {
        seen.told.push(tell(&client, run, std::slice::from_mut(&mut watch)).await?);
    }
    let before = procfs::memory(pid)?.rss_kib;
    let mut watches = Vec::new();
    for _ in 0..WATCHERS {
        watches.push(changes(&Client::connect(access).await?).await?);
    }
    for run in 0..single.div_ceil(10) {
        seen.told_to_all.push(tell(&client, run, &mut watches).await?);
    }
    seen.watch_kib = procfs::memory(pid)?.rss_kib.saturating_sub(before) as f64 / WATCHERS as f64;
    Ok(seen)
}

/// How long 4 KiB take to be on the disk.
fn syncs(dir: &Path, count: usize) -> Result<Vec<f64>> {
    let path = dir.join("sync");
    let mut file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut times = Vec::new();
    for number in 0..=count {
        let began = Instant::now();
        file.rewind()?;
        file.write_all(&[number as u8; 4096])?;
        file.sync_data()?;
        times.push(began.elapsed().as_secs_f64());
    }
    std::fs::remove_file(&path)?;
    // The first one makes the file longer.
    Ok(times.split_off(1))
}

/// How long something takes, again and again.
async fn timed<T, F: Future<Output = Result<T>>>(count: usize, ask: impl Fn() -> F) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        ask().await?;
        times.push(began.elapsed().as_secs_f64());
    }
    Ok(times)
}

/// A list, again and again; `ask` gives its bytes.
async fn lists<F: Future<Output = Result<usize>>>(pid: u32, ask: impl Fn() -> F) -> Result<Lists> {
    procfs::forget_peak(pid)?;
    let cpu = procfs::cpu_seconds(pid)?;
    let mut lists = Lists::default();
    for _ in 0..LISTS {
        let began = Instant::now();
        lists.bytes = ask().await?;
        lists.seconds.push(began.elapsed().as_secs_f64());
    }
    lists.cpu = (procfs::cpu_seconds(pid)? - cpu) / LISTS as f64;
    lists.peak_kib = procfs::memory(pid)?.peak_kib;
    Ok(lists)
}

/// All pages of a list.
async fn pages(client: &Client) -> Result<usize> {
    let (mut length, mut next) = (0, String::new());
    loop {
        let page = client.get(&format!("{MAPS}?limit={PAGE}{next}")).await?;
        length += page.len();
        // The list's metadata is at its end; decoding all of it would be the client's cost.
        let end = &page[page.len().saturating_sub(400)..];
        let end = String::from_utf8_lossy(end);
        match end.rsplit_once("\"continue\":\"").and_then(|(_, rest)| rest.split_once('"')) {
            Some((token, _)) => next = format!("&continue={token}"),
            None => return Ok(length),
        }
    }
}

/// What is there as a watch tells it, up to the mark of its end.
async fn watched(client: &Client) -> Result<usize> {
    let path = format!(
        "{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let (mut watch, mut length) = (client.watch(&path).await?, 0);
    loop {
        let frame = watch.next().await?;
        length += frame.len();
        if frame.starts_with(b"{\"type\":\"BOOKMARK\"") {
            return Ok(length);
        }
    }
}

/// A watch of what happens from now on.
async fn changes(client: &Client) -> Result<super::client::Watch> {
    let list = client.read(&format!("{MAPS}?limit=1")).await?;
    let version = list["metadata"]["resourceVersion"].as_str().context("a list without a version")?;
    client.watch(&format!("{MAPS}?watch=true&resourceVersion={version}")).await
}

/// Changes an object; how long it takes from the request until the last of these watches has told of it.
async fn tell(client: &Client, run: usize, watches: &mut [super::client::Watch]) -> Result<f64> {
    let mut object = map(0);
    object["data"]["told"] = json!(format!("{run} of {}", watches.len()));
    let (path, body) = (format!("{MAPS}/{}", name(0)), Bytes::from(object.to_string()));
    let began = Instant::now();
    let heard = async {
        for watch in watches {
            watch.next().await?;
        }
        Ok::<_, anyhow::Error>(began.elapsed().as_secs_f64())
    };
    let (asked, heard) = tokio::join!(client.ask(Method::PUT, &path, JSON, body), heard);
    asked?;
    heard
}

/// One object, asked for and changed in every way.
async fn one_object(client: &Client, count: usize) -> Result<Vec<(&'static str, &'static str, Vec<f64>)>> {
    let path = format!("{MAPS}/{}", name(1));
    let mut all = vec![("get", "GET", timed(count, || client.get(&path)).await?)];
    let writes = [
        ("put", "PUT", Method::PUT, JSON, ""),
        ("merge", "merge patch", Method::PATCH, "application/merge-patch+json", ""),
        ("strategic", "strategic merge patch", Method::PATCH, "application/strategic-merge-patch+json", ""),
        (
            "apply",
            "server-side apply",
            Method::PATCH,
            "application/apply-patch+yaml",
            "?fieldManager=bench&force=true",
        ),
    ];
    for (key, words, method, media, query) in writes {
        let mut times = Vec::new();
        for run in 0..count {
            let mut object = map(1);
            object["data"]["changed"] = json!(format!("{key} {run}"));
            if key == "merge" || key == "strategic" {
                object = json!({"data": {"changed": format!("{key} {run}")}});
            }
            let began = Instant::now();
            client.ask(method.clone(), &format!("{path}{query}"), media, object.to_string().into()).await?;
            times.push(began.elapsed().as_secs_f64());
        }
        all.push((key, words, times));
    }
    Ok(all)
}
