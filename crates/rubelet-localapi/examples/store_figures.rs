//! What the store costs on this machine: time of writes, lists and opening, and memory. `cargo run --release --example
//! store_figures [folder]`.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rubelet_localapi::store::{Key, Store, StoreError, StoreOptions};
use tokio::time::Instant;

const OBJECTS: usize = 10_000;
const SIZE: usize = 5_000;
const WRITERS: usize = 64;
const SINGLE: usize = 500;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "store-figures".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(Path::new(&folder)))?;
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

/// Resident and anonymous kilobytes of this process.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).unwrap_or("?").to_owned()
    };
    format!("RSS {} kB, anonymous {} kB", field("VmRSS"), field("RssAnon"))
}

/// Bytes that this process has caused to be written to disks.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).unwrap_or_default()
}

fn tell(what: &str, since: Instant, count: usize) {
    let elapsed = since.elapsed();
    let each = elapsed.as_secs_f64() * 1000.0 / count.max(1) as f64;
    println!("{what:<48} {:>9.1} ms {each:>8.3} ms each   {}", elapsed.as_secs_f64() * 1000.0, memory());
}

async fn write(store: &Store, number: usize) -> Result<u64, Box<dyn std::error::Error>> {
    let key = Key::new("pods", format!("namespace-{}", number % 10), format!("pod-{number:05}"));
    let text = format!("{{\"number\":{number},\"weight\":\"{}\"}}", "x".repeat(SIZE));
    Ok(store.write(move |transaction| transaction.put(key, text)).await?)
}

async fn measure(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let options = StoreOptions::new(Arc::new(|| Timestamp::UNIX_EPOCH));
    println!("before: {}", memory());
    let start = Instant::now();
    let store = Store::open(folder, options.clone())?;
    tell("open, new", start, 1);

    let (start, before) = (Instant::now(), written());
    for number in 0..SINGLE {
        write(&store, number).await?;
    }
    tell("write, one after the other", start, SINGLE);
    println!("{} bytes on the disk for each write of {SIZE}", (written() - before) / SINGLE as u64);

    let start = Instant::now();
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(SINGLE));
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (store, next) = (store.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if number >= OBJECTS || write(&store, number).await.is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await?;
    }
    tell("write, 64 at a time", start, OBJECTS - SINGLE);

    for _ in 0..2 {
        let start = Instant::now();
        let mut bytes = 0;
        for item in store.snapshot()?.list("pods", None, None)? {
            bytes += item?.1.bytes.len();
        }
        tell(&format!("list all, {bytes} bytes"), start, OBJECTS);
    }

    let start = Instant::now();
    let (revision, mut after, mut pages): (u64, Option<(String, String)>, usize) =
        (store.revision(), None, 0);
    loop {
        let snapshot = store.snapshot_at(revision)?;
        let cursor = after.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        let page: Vec<_> =
            snapshot.list("pods", None, cursor)?.take(500).collect::<Result<_, StoreError>>()?;
        let Some((last, _)) = page.last() else { break };
        after = Some((last.namespace.clone(), last.name.clone()));
        pages += 1;
        for number in 0..20 {
            write(&store, number * 7).await?;
        }
    }
    tell("walk in pages of 500, 20 writes between", start, pages);

    let start = Instant::now();
    let count = store.snapshot()?.count("pods", None, None)?;
    tell(&format!("count {count}"), start, 1);

    let start = Instant::now();
    let watchers: Vec<_> = (0..5000)
        .map(|number| store.watch("configmaps", Some("a"), Some(&format!("{number}")), store.revision()))
        .collect::<Result<_, _>>()?;
    tell("5000 watches of single objects", start, watchers.len());
    let start = Instant::now();
    for number in 0..SINGLE {
        write(&store, number).await?;
    }
    tell("write beside them, one after the other", start, SINGLE);
    drop(watchers);

    let start = Instant::now();
    let saved = folder.join("saved");
    let backup = store.backup(&saved)?;
    tell(&format!("backup of {} objects", backup.objects), start, 1);
    println!(
        "file {} bytes, backup {} bytes",
        std::fs::metadata(folder.join("store.redb"))?.len(),
        std::fs::metadata(&saved)?.len()
    );

    // As a crash leaves it: the file of a store that is open.
    let killed = folder.join("killed");
    std::fs::create_dir(&killed)?;
    std::fs::copy(folder.join("store.redb"), killed.join("store.redb"))?;
    let start = Instant::now();
    drop(store);
    tell("close", start, 1);
    let start = Instant::now();
    let store = Store::open(folder, options.clone())?;
    tell("open, checked", start, 1);
    drop(store);
    let start = Instant::now();
    let store = Store::open(folder, StoreOptions { check_on_open: false, ..options.clone() })?;
    tell("open, unchecked", start, 1);
    drop(store);
    let start = Instant::now();
    let store = Store::open(&killed, options)?;
    tell("open, killed", start, 1);
    drop(store);
    Ok(())
}
