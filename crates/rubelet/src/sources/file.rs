//! Static pods from a file or a directory. A scan gives the full set; inotify only says when to scan at once
//! instead of at the next poll. A file that cannot be read or decoded keeps the pod it last gave: a half-written
//! manifest must not stop what runs. A file that is gone takes its pod with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rubelet_core::Pod;
use rubelet_core::ids::{PodKey, PodUid, pod_uid};
use rubelet_core::static_pod::{self, NodeIdentity, Origin};
use rubelet_linux::watch::DirWatch;
use tracing::{info, warn};

use super::yaml;
use crate::clock::Clock;
use crate::desired::{PodConfig, SourceKind};
use crate::fs_pool::FsPool;

/// Longest manifest (upstream: 10 MiB).
const MAX_BYTES: u64 = 10 * 1024 * 1024;
/// Pause before a directory that was replaced is watched anew.
const REWATCH: Duration = Duration::from_millis(50);

/// The source and what it remembers between scans.
pub struct FileSource {
    path: PathBuf,
    period: Duration,
    node: NodeIdentity,
    clock: Clock,
    fs: FsPool,
    config: PodConfig,
    files: BTreeMap<PathBuf, Known>,
    told: BTreeSet<String>,
    delivered: bool,
    /// UIDs of the set delivered last.
    kept: BTreeSet<PodUid>,
    /// The path was a directory when last looked at.
    is_dir: bool,
}

/// What one file last gave.
struct Known {
    stamp: Stamp,
    pod: Option<Arc<Pod>>,
    seen: jiff::Timestamp,
}

/// What tells whether a file has changed: device, inode, size, and both times in nanoseconds.
type Stamp = (u64, u64, u64, i128, i128);

/// The stamp of a file that could not be read: equal to no real one.
const UNREAD: Stamp = (0, 0, 0, 0, 0);

/// One file as a scan found it.
struct Found {
    path: PathBuf,
    stamp: Stamp,
    /// Content, when the file is new or has changed.
    bytes: Option<Result<Vec<u8>, String>>,
}

impl FileSource {
    /// A source over `staticPodPath`, scanned every `fileCheckFrequency`.
    pub fn new(
        path: PathBuf,
        period: Duration,
        node: NodeIdentity,
        clock: Clock,
        fs: FsPool,
        config: PodConfig,
    ) -> Self {
        Self {
            path,
            period,
            node,
            clock,
            fs,
            config,
            files: BTreeMap::new(),
            told: BTreeSet::new(),
            delivered: false,
            kept: BTreeSet::new(),
            is_dir: false,
        }
    }

    /// Scans for ever.
    pub async fn run(mut self) {
        let mut watch: Option<DirWatch> = None;
        let mut watched: Option<PathBuf> = None;
        loop {
            self.scan().await;
            // A directory that appears, or is replaced by a file, is watched itself from then on.
            let wanted =
                if self.is_dir { Some(self.path.clone()) } else { self.path.parent().map(Path::to_owned) };
            if watch.is_none() || watched != wanted {
                watch = match wanted.clone() {
                    Some(dir) => {
                        let what = format!("watch {}", dir.display());
                        self.fs.run(what, move || DirWatch::new(&dir)).await.ok()
                    }
                    None => None,
                };
                watched = wanted;
                if watch.is_some() {
                    // What came in before the watch stood is found now.
                    self.scan().await;
                }
            }
            // Both arms are cancel-safe: a timer, and a watch whose events stay in the kernel.
            tokio::select! {
                () = tokio::time::sleep(self.period) => {}
                hint = changed(&mut watch) => {
                    if hint.is_err() {
                        watch = None;
                        tokio::time::sleep(REWATCH).await;
                    }
                }
            }
        }
    }

    /// Looks once and delivers the full set.
    async fn scan(&mut self) {
        let (path, stamps) =
            (self.path.clone(), self.files.iter().map(|(p, k)| (p.clone(), k.stamp)).collect());
        let what = format!("read static pods from {}", self.path.display());
        let found = match self.fs.run(what, move || Ok((path.is_dir(), read_all(&path, &stamps)?))).await {
            Ok((is_dir, found)) => {
                self.is_dir = is_dir;
                found
            }
            Err(error) => {
                // What is not known is not missing: nothing is delivered, nothing is torn down.
                self.tell(format!("{}; the pods known before are kept", crate::logging::chain(&error)));
                return;
            }
        };
        let present: BTreeSet<PathBuf> = found.iter().map(|file| file.path.clone()).collect();
        let mut changed = !self.delivered;
        self.files.retain(|path, _| {
            let stays = present.contains(path);
            changed |= !stays;
            stays
        });
        for file in found {
            let Some(bytes) = file.bytes else { continue };
            let origin = Origin::File(file.path.display().to_string());
            let unread = bytes.is_err();
            let was_in_doubt = self.files.get(&file.path).is_some_and(|known| known.pod.is_none());
            let decoded = bytes.and_then(|bytes| self.decode(&bytes, &origin));
            let now = self.clock.now();
            let known = self.files.entry(file.path.clone()).or_insert(Known {
                stamp: file.stamp,
                pod: None,
                seen: now,
            });
            // What could not be read (and was not just wrong) is read again at the next look.
            known.stamp = if unread { UNREAD } else { file.stamp };
            match decoded {
                Ok((mut pod, warnings)) => {
                    // A file that was touched and says the same is the same pod, seen when it was first seen.
                    if known.pod.as_ref().is_none_or(|old| old.metadata.uid != pod.metadata.uid) {
                        known.seen = now;
                    }
                    static_pod::mark(&mut pod, "file", known.seen);
                    if known.pod.as_deref() != Some(&pod) {
                        changed = true;
                        known.pod = Some(Arc::new(pod));
                    }
                    for warning in warnings {
                        self.tell(format!("{}: {warning}", file.path.display()));
                    }
                }
                Err(problem) => {
                    // A file nothing is known of makes the whole set doubtful, which has to be told.
                    changed |= known.pod.is_none() && !was_in_doubt;
                    let kept = match known.pod {
                        Some(_) => "; the pod it held before is kept until the file is valid or gone",
                        None => {
                            "; the file is left out, and pods that no source asks for stay until it is valid or gone"
                        }
                    };
                    self.tell(format!("static pod file {}: {problem}{kept}", file.path.display()));
                }
            }
        }
        if changed {
            self.deliver();
        }
    }

    fn decode(&self, bytes: &[u8], origin: &Origin) -> Result<(Pod, Vec<String>), String> {
        let mut parsed = yaml::parse(bytes).map_err(|error| crate::logging::chain(&error))?;
        let decoded = static_pod::decode(parsed.value, origin, &self.node)
            .map_err(|error| crate::logging::chain(&error))?;
        parsed.warnings.extend(decoded.warnings);
        Ok((decoded.pod, parsed.warnings))
    }

    fn deliver(&mut self) {
        let mut pods: Vec<Arc<Pod>> = self.files.values().filter_map(|known| known.pod.clone()).collect();
        // Of two pods of one name the one that was there first stays, whatever its file is called.
        pods.sort_by_key(|pod| !self.kept.contains(&pod_uid(pod)));
        let (pods, dropped) = static_pod::filter_invalid(pods);
        for bad in dropped {
            let holds = |known: &Known| known.pod.as_ref().is_some_and(|pod| PodKey::of(pod) == bad.key);
            let files: Vec<String> = self
                .files
                .iter()
                .filter(|(_, known)| holds(known))
                .map(|(path, _)| path.display().to_string())
                .collect();
            self.tell(format!("{}: {bad}", files.join(" and ")));
        }
        info!(count = pods.len(), path = %self.path.display(), "static pods");
        self.kept = pods.iter().map(|pod| pod_uid(pod)).collect();
        let doubtful = self.files.values().any(|known| known.pod.is_none());
        self.config.publish(SourceKind::File, pods, doubtful);
        self.delivered = true;
    }

    /// Tells a problem once until something else is told.
    fn tell(&mut self, problem: String) {
        if self.told.len() > 1000 {
            self.told.clear();
        }
        if self.told.insert(problem.clone()) {
            warn!("{problem}");
        }
    }
}

async fn changed(watch: &mut Option<DirWatch>) -> io::Result<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Lists the manifests and reads those whose stamp is new. A path that does not exist is an empty set.
fn read_all(path: &Path, known: &BTreeMap<PathBuf, Stamp>) -> io::Result<Vec<Found>> {
    let paths: Vec<PathBuf> = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
        Err(error) => return Err(error),
        Ok(metadata) if metadata.is_dir() => {
            let mut paths = vec![];
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                    paths.push(entry.path());
                }
            }
            paths.sort();
            paths
        }
        Ok(_) => vec![path.to_owned()],
    };
    let mut found = vec![];
    for path in paths {
        let metadata = match fs::metadata(&path) {
            // Renamed or removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata,
        };
        let file = match metadata {
            Ok(metadata) if metadata.is_dir() => continue,
            Ok(metadata) => {
                let time = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
                let stamp = (
                    metadata.dev(),
                    metadata.ino(),
                    metadata.len(),
                    time(metadata.mtime(), metadata.mtime_nsec()),
                    time(metadata.ctime(), metadata.ctime_nsec()),
                );
                let bytes = (known.get(&path) != Some(&stamp)).then(|| read_one(&path, &metadata));
                Found { path, stamp, bytes }
            }
            Err(error) => Found { path, stamp: UNREAD, bytes: Some(Err(error.to_string())) },
        };
        found.push(file);
    }
    Ok(found)
}

fn read_one(path: &Path, metadata: &fs::Metadata) -> Result<Vec<u8>, String> {
    if !metadata.is_file() {
        return Err("it is neither a file nor a directory".to_owned());
    }
    let too_long = || format!("it is longer than the {MAX_BYTES} bytes a manifest may have");
    if metadata.len() > MAX_BYTES {
        return Err(too_long());
    }
    let mut bytes = vec![];
    fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_BYTES { Err(too_long()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - {name: c, image: 'busybox:1'}\n";

    struct Bench {
        dir: tempfile::TempDir,
        source: FileSource,
        config: PodConfig,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let config = PodConfig::new([SourceKind::File]);
            let source = FileSource::new(
                dir.path().to_owned(),
                Duration::from_secs(20),
                NodeIdentity { name: "node-1".into() },
                Clock::simulated(jiff::Timestamp::UNIX_EPOCH),
                FsPool::new(1),
                config.clone(),
            );
            Self { dir, source, config }
        }
        fn write(&self, name: &str, content: impl AsRef<[u8]>) {
            fs::write(self.dir.path().join(name), content).unwrap();
        }
        async fn names(&mut self) -> Vec<String> {
            self.source.scan().await;
            let desired = self.config.watch().borrow().clone();
            assert!(desired.complete);
            let mut names: Vec<String> =
                desired.pods.values().map(|wanted| wanted.pod.metadata.name.clone().unwrap()).collect();
            names.sort();
            names
        }
        fn told(&self, text: &str) -> bool {
            self.source.told.iter().any(|told| told.contains(text))
        }
    }

    #[tokio::test]
    async fn one_bad_file_costs_no_other_pod() {
        let mut bench = Bench::new();
        bench.write("good.yaml", GOOD);
        bench.write(".hidden.yaml", GOOD.replace("web", "hidden"));
        bench.write("not-utf8.yaml", [0xff, 0xfe, 0x00]);
        bench.write("empty.yaml", "");
        bench.write("list.yaml", "[1, 2]");
        bench.write("other.yaml", "apiVersion: apps/v1\nkind: Deployment\n");
        fs::create_dir(bench.dir.path().join("sub")).unwrap();
        fs::write(bench.dir.path().join("sub/deep.yaml"), GOOD).unwrap();
        let big = fs::File::create(bench.dir.path().join("big.yaml")).unwrap();
        big.set_len(11 * 1024 * 1024).unwrap();
        assert_eq!(bench.names().await, ["web-node-1"]);
        for name in ["not-utf8.yaml", "empty.yaml", "list.yaml", "other.yaml", "big.yaml"] {
            assert!(bench.told(name), "{name} is not named in {:?}", bench.source.told);
        }
        assert!(bench.told("longer than the 10485760 bytes"));
    }

    #[tokio::test]
    async fn a_torn_file_keeps_its_pod_and_a_removed_one_does_not() {
        let mut bench = Bench::new();
        bench.write("a.yaml", GOOD);
        assert_eq!(bench.names().await, ["web-node-1"]);
        let before = bench.config.watch().borrow().pods.keys().next().cloned().unwrap();
        bench.write("a.yaml", &GOOD[..40]);
        assert_eq!(bench.names().await, ["web-node-1"]);
        assert!(bench.told("kept until the file is valid or gone"));
        bench.write("a.yaml", GOOD.replace("busybox:1", "busybox:2"));
        assert_eq!(bench.names().await, ["web-node-1"]);
        assert_ne!(
            bench.config.watch().borrow().pods.keys().next().cloned().unwrap(),
            before,
            "an edit is a new UID"
        );
        fs::remove_file(bench.dir.path().join("a.yaml")).unwrap();
        assert!(bench.names().await.is_empty());
    }

    #[tokio::test]
    async fn duplicates_are_named_and_the_first_counts() {
        let mut bench = Bench::new();
        bench.write("a.yaml", GOOD);
        bench.write("b.yaml", GOOD);
        assert_eq!(bench.names().await, ["web-node-1"]);
        assert!(bench.told("a.yaml and ") && bench.told("default/web-node-1"), "{:?}", bench.source.told);
        // A file that comes later and sorts first takes nothing from the pod that is there.
        let before = bench.config.watch().borrow().pods.keys().next().cloned().unwrap();
        fs::remove_file(bench.dir.path().join("b.yaml")).unwrap();
        bench.names().await;
        bench.write("0.yaml", GOOD);
        assert_eq!(bench.names().await, ["web-node-1"]);
        assert_eq!(bench.config.watch().borrow().pods.keys().next().cloned().unwrap(), before);
    }
}
