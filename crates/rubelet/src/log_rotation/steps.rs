//! What is done with the files of one log. Every step may be the last one that the agent ever did: whatever it leaves is
//! either what was meant, or put right by the next look.
//!
//! | the agent ends after | there is | and the next agent |
//! |---|---|---|
//! | the rename | no file of the log's name | has the runtime open one |
//! | the reopening | the log, begun anew | goes on |
//! | a part of a compression | a `.tmp` | removes it and compresses again |
//! | the compressed file has its name | both | removes the plain one |

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rubelet_core::ids::ContainerId;
use rubelet_core::log_rotation::{Listing, Next, Pace, RotationSettings, Seen, next_stamp};
use rubelet_linux::log_files::{LogDir, WriteWatches};
use tracing::{debug, warn};

use super::Reopen;
use crate::clock::Clock;
use crate::fs_pool::FsPool;

/// How often the size of a log is looked at while the runtime has not opened another one yet.
const WHILE_WAITING: Duration = Duration::from_millis(400);
/// When a log is looked at again that changed while the watch on it was set up.
const AGAIN: Duration = Duration::from_millis(200);
/// How many names are tried for a rotated file.
const NAMES: usize = 5;

/// What the steps are done with; cheap to clone.
#[derive(Clone)]
pub(super) struct Steps {
    pub(super) reopen: Reopen,
    pub(super) fs: FsPool,
    pub(super) limits: RotationSettings,
    pub(super) clock: Clock,
}

/// One log to look at.
pub(super) struct Asked {
    pub(super) key: u64,
    pub(super) path: Arc<Path>,
    pub(super) pace: Pace,
    /// Whether files of it are being compressed right now.
    pub(super) compressing: bool,
    /// Whether there may be something to clean up or to compress.
    pub(super) unsettled: bool,
}

/// What a look came to.
pub(super) struct Looked {
    pub(super) key: u64,
    pub(super) pace: Pace,
    /// `Err` when it cannot be looked at; the words say why.
    pub(super) next: Result<Next, String>,
    /// Names of files to compress.
    pub(super) compress: Vec<String>,
    /// Whether it was settled: see [`Asked::unsettled`].
    pub(super) settled: bool,
}

/// What a rotation came to.
pub(super) enum Rotated {
    /// The log begins anew; these files are to be compressed.
    Done { compress: Vec<String> },
    /// It stays as it is; the words say why.
    Failed(String),
}

impl Steps {
    /// Looks at logs, all in one go.
    pub(super) async fn look(
        self,
        now: Duration,
        asked: Vec<Asked>,
        watches: Option<WriteWatches>,
    ) -> Option<Vec<Looked>> {
        let limits = self.limits;
        let looked = self.fs.run("look at container logs", move || {
            Ok(asked.into_iter().map(|log| look(log, now, &limits, watches.as_ref())).collect())
        });
        looked.await.inspect_err(|error| debug!("{}", crate::logging::chain(error))).ok()
    }

    /// Gives the log's file another name and has the runtime begin a new one. When it does not, the file gets its name
    /// back.
    pub(super) async fn rotate(self, id: ContainerId, path: Arc<Path>, compressing: bool) -> Rotated {
        let (limits, now, at) = (self.limits, self.clock.now(), path.clone());
        let renamed = self
            .fs
            .run(format!("rotate {}", path.display()), move || {
                let (dir, log) = open(&at)?;
                set_aside(&dir, log, &limits, now, compressing)
            })
            .await;
        let rotated = match renamed {
            Ok(rotated) => rotated,
            Err(error) => return Rotated::Failed(crate::logging::chain(&error)),
        };
        let reopened = self.reopen(&id, path.clone(), rotated.clone()).await;
        let at = path.clone();
        let rest = self
            .fs
            .run(format!("finish the rotation of {}", path.display()), move || {
                let (dir, log) = open(&at)?;
                if let Err(error) = reopened {
                    match dir.rename(&rotated, log) {
                        Ok(()) => {
                            return Ok(Rotated::Failed(format!("the runtime does not reopen it: {error}")));
                        }
                        // It was reopened all the same.
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                        Err(error) => return Err(error),
                    }
                }
                // What is compressed takes up space before it frees some.
                if limits.is_tight(dir.free_bytes()?) {
                    return Ok(Rotated::Done { compress: vec![] });
                }
                let listing = Listing::of(log, borrow(&dir.list(log)?));
                Ok(Rotated::Done { compress: listing.compressible(log, 0, &limits, false) })
            })
            .await;
        rest.unwrap_or_else(|error| Rotated::Failed(crate::logging::chain(&error)))
    }

    /// Has the runtime open a log anew. Until it has, the old file, which goes by the name `written`, is kept within what
    /// all files of the log may be together.
    pub(super) async fn reopen(
        &self,
        id: &ContainerId,
        path: Arc<Path>,
        written: String,
    ) -> Result<(), String> {
        let mut reopened = (self.reopen)(id);
        loop {
            // The call goes on where it was when it is asked again.
            match tokio::time::timeout(WHILE_WAITING, &mut reopened).await {
                Ok(result) => return result,
                Err(_) => self.cut(path.clone(), written.clone()).await,
            }
        }
    }

    /// Has the runtime open a log that has no file.
    pub(super) async fn reopen_missing(self, id: ContainerId, path: Arc<Path>) -> Result<(), String> {
        (self.reopen)(&id).await?;
        let at = path.clone();
        let there = self.fs.run(format!("look at {}", path.display()), move || {
            let (dir, log) = open(&at)?;
            Ok(dir.look(log)?.is_some())
        });
        match there.await {
            Ok(true) => Ok(()),
            Ok(false) => Err("the runtime reopened it, and there is no file".to_owned()),
            Err(error) => Err(crate::logging::chain(&error)),
        }
    }

    /// Empties a file of a log that is more than all of them may be together, and still written.
    pub(super) async fn cut(&self, path: Arc<Path>, name: String) {
        let (budget, at) = (self.limits.budget(), path.clone());
        let cut = self.fs.run(format!("empty {name} of {}", path.display()), move || {
            let (dir, _) = open(&at)?;
            dir.cut(&name, budget)
        });
        match cut.await {
            Ok(true) => warn!(
                path = %path.display(),
                "the log could not be rotated and was emptied: it had as many bytes as all of its files may have"
            ),
            Ok(false) => {}
            Err(error) => warn!("{}", crate::logging::chain(&error)),
        }
    }

    /// Removes the oldest rotated file, for the disk is full.
    pub(super) async fn trim(self, path: Arc<Path>) {
        let trimmed = self.fs.run(format!("make room beside {}", path.display()), move || {
            let (dir, log) = open(&path)?;
            trim(&dir, log)
        });
        if let Err(error) = trimmed.await {
            debug!("{}", crate::logging::chain(&error));
        }
    }
}

/// The directory of a log, and the log's name in it.
pub(super) fn open(path: &Path) -> io::Result<(LogDir, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not the path of a log"))?;
    Ok((LogDir::of(path)?, name))
}

fn borrow(files: &[(String, u64)]) -> impl Iterator<Item = (&str, u64)> {
    files.iter().map(|(name, bytes)| (name.as_str(), *bytes))
}

fn look(
    mut asked: Asked,
    now: Duration,
    limits: &RotationSettings,
    watches: Option<&WriteWatches>,
) -> Looked {
    let mut looked = Looked {
        key: asked.key,
        pace: std::mem::take(&mut asked.pace),
        next: Ok(Next::AwaitWrite),
        compress: vec![],
        settled: false,
    };
    looked.next = try_look(&asked, now, limits, watches, &mut looked).map_err(|error| error.to_string());
    looked
}

fn try_look(
    asked: &Asked,
    now: Duration,
    limits: &RotationSettings,
    watches: Option<&WriteWatches>,
    looked: &mut Looked,
) -> io::Result<Next> {
    let (dir, log) = open(&asked.path)?;
    let Some(file) = dir.look(log)? else { return Ok(looked.pace.missing(now)) };
    let grew = looked.pace.grows();
    let next = looked.pace.look(now, Seen { inode: file.inode, bytes: file.bytes }, limits);
    if (grew || looked.pace.grows()) && limits.is_tight(dir.free_bytes()?) {
        trim(&dir, log)?;
    }
    if next != Next::AwaitWrite {
        return Ok(next);
    }
    if asked.unsettled && !asked.compressing {
        let listing = tidy(&dir, log)?;
        looked.compress = listing.compressible(log, file.bytes, limits, true);
        looked.settled = true;
    }
    let Some(watches) = watches else { return Ok(Next::LookIn(limits.monitor_interval)) };
    match watches.watch(&dir, log, asked.key) {
        // What was written before the watch was there is told by nobody.
        Ok(()) if dir.look(log)? != Some(file) => Ok(Next::LookIn(AGAIN)),
        Ok(()) => Ok(Next::AwaitWrite),
        Err(error) => {
            debug!(path = %asked.path.display(), "cannot watch a log: {error}");
            Ok(Next::LookIn(limits.monitor_interval))
        }
    }
}

/// Removes what interrupted compressions left.
fn tidy(dir: &LogDir, log: &str) -> io::Result<Listing> {
    let listing = Listing::of(log, borrow(&dir.list(log)?));
    for name in &listing.leftovers {
        dir.remove(name)?;
    }
    Ok(listing)
}

/// Makes room for one more rotated file, and makes the log one. Returns its name.
fn set_aside(
    dir: &LogDir,
    log: &str,
    limits: &RotationSettings,
    now: jiff::Timestamp,
    compressing: bool,
) -> io::Result<String> {
    let Some(file) = dir.look(log)? else { return Err(io::ErrorKind::NotFound.into()) };
    let listing = match compressing {
        // The result that is not whole yet is no leftover.
        true => Listing::of(log, borrow(&dir.list(log)?)),
        false => tidy(dir, log)?,
    };
    let tight = limits.is_tight(dir.free_bytes()?);
    for name in listing.excess(log, file.bytes, limits, tight) {
        // One that stays does not keep the log from being rotated.
        if let Err(error) = dir.remove(&name) {
            debug!(name, "a rotated log stays: {error}");
        }
    }
    let mut stamp = next_stamp(listing.latest(), now);
    for _ in 0..NAMES {
        let name = format!("{log}.{stamp}");
        match dir.rename(log, &name) {
            Ok(()) => return Ok(name),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                stamp = next_stamp(Some(&stamp), now)
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn trim(dir: &LogDir, log: &str) -> io::Result<()> {
    let listing = Listing::of(log, borrow(&dir.list(log)?));
    let Some(oldest) = listing.oldest(log) else { return Ok(()) };
    warn!(log, oldest, "the disk is full: the oldest rotated log goes");
    dir.remove(&oldest)
}

/// The path of a file beside a log.
pub(super) fn beside(path: &Path, name: &str) -> PathBuf {
    path.with_file_name(name)
}
