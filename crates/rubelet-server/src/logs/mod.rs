//! A container's log, as a client asks for it: parts of it, followed or not, over rotated files.
//!
//! Better than upstream in three points (`pkg/kubelet/kuberuntime/logs`): lines that were rotated away count and are
//! shown, a follower loses nothing over a rotation, and a line that was logged in parts is one line.
//!
//! A log is read only as fast as its client takes it, a block at a time on a blocking thread, and a follower that
//! waits holds a file descriptor and no buffer. There is no task: all of it goes when the body is dropped. There are only
//! so many at a time: whoever may read logs is not to use up the agent's file descriptors.

mod changes;
mod compose;
mod files;
mod finding;
mod line;
mod options;
mod reader;
mod tail;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

pub use changes::{Changes, InotifyChanges, Watch};
pub use files::LogFiles;
pub use line::{Head, LineError, Output, parse as parse_entry};
pub use options::{LogOptions, OptionsError, Since, Wanted};

use crate::body::Body;
use crate::problem::Problem;
use reader::{LogReader, Step};

/// How many blocks are read at the same time.
const READS: usize = 8;
/// How many logs may be open, most of them followed.
const OPEN: usize = 2048;
/// How often a follower looks when its directory cannot be watched.
const LOOK: Duration = Duration::from_secs(1);
/// The least time between two looks: what is written in between comes at once.
const PACE: Duration = Duration::from_millis(20);

/// Whether anybody has a file open for writing; `None` when that cannot be known. The file is open for reading.
pub type Writers = Arc<dyn Fn(&File) -> Option<bool> + Send + Sync>;

/// Serves logs.
#[derive(Clone)]
pub struct Logs {
    changes: Arc<dyn Changes>,
    writers: Option<Writers>,
    reads: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Logs {
    /// Serves logs, told of changes by `changes`.
    pub fn new(changes: Arc<dyn Changes>) -> Self {
        Self {
            changes,
            writers: None,
            reads: Arc::new(Semaphore::new(READS)),
            places: Arc::new(Semaphore::new(OPEN)),
        }
    }

    /// The same, with somebody who knows who writes a file: a runtime goes on writing to a rotated file for a moment
    /// after it began the next one, and with this a follower stays until it has left.
    #[must_use]
    pub fn with_writers(self, writers: Writers) -> Self {
        Self { writers: Some(writers), ..self }
    }

    /// The log that is written to `path`, as `options` want it; `now` is what seconds are counted back from. A
    /// followed log ends when `ended` is there (the container has ended) and everything was read.
    ///
    /// # Errors
    /// [`Problem`] when there is no such log or it cannot be read, or when too many are open.
    pub async fn serve(
        &self,
        path: PathBuf,
        options: LogOptions,
        now: Timestamp,
        ended: BoxFuture<'static, ()>,
    ) -> Result<Response<Body>, Problem> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            let why = "there are too many logs open on this node, try again later";
            Problem::new(StatusCode::TOO_MANY_REQUESTS, why)
        })?;
        // Upstream answers 400 and its text begins so.
        let failed = {
            let path = path.clone();
            move |error: io::Error| {
                Problem::bad_request(format!("failed to open log file {:?}: {error}", path.display()))
            }
        };
        let files = LogFiles::at(&path).map_err(&failed)?;
        let directory = files.directory().to_owned();
        let writers = self.writers.clone();
        let reader = run(&self.reads, move || LogReader::open(files, writers, &options, now))
            .await
            .map_err(&failed)?;
        let follower = Follower {
            reader: Some(Box::new(reader)),
            directory,
            logs: self.clone(),
            ended: Some(ended),
            watch: Watching::NotYet,
            looked: None,
            _place: place,
        };
        let blocks = stream::unfold(follower, |mut follower| async move {
            let next = follower.next().await.transpose()?;
            Some((next.map(Frame::data), follower))
        });
        let mut response = Response::new(StreamBody::new(blocks).boxed_unsync());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(response)
    }
}

/// Runs a piece of blocking work, when it is its turn.
async fn run<T: Send + 'static>(
    places: &Semaphore,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let _place = places.acquire().await.map_err(io::Error::other)?;
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

enum Watching {
    NotYet,
    Hints(Watch),
    /// There are no hints to be had.
    Looking,
}

/// One client's way through a log.
struct Follower {
    /// Away while a block is read; gone after an error.
    reader: Option<Box<LogReader>>,
    directory: PathBuf,
    logs: Logs,
    /// Gone once it has come true.
    ended: Option<BoxFuture<'static, ()>>,
    watch: Watching,
    looked: Option<Instant>,
    /// Among the logs that are open.
    _place: OwnedSemaphorePermit,
}

impl Follower {
    /// The next block; `None` at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let Some(mut reader) = self.reader.take() else { return Ok(None) };
            let (reader, step) = run(&self.logs.reads, move || {
                let step = reader.step()?;
                Ok((reader, step))
            })
            .await?;
            match step {
                Step::Bytes(bytes) => {
                    self.reader = Some(reader);
                    return Ok(Some(bytes));
                }
                Step::Done => return Ok(None),
                Step::Working => {
                    self.reader = Some(reader);
                    continue;
                }
                Step::CaughtUp => self.reader = Some(reader),
            }
            self.wait().await;
        }
    }

    /// Waits until there may be more to read, or never will be.
    async fn wait(&mut self) {
        if matches!(self.watch, Watching::NotYet) {
            self.watch = match self.logs.changes.watch(&self.directory) {
                Ok(watch) => Watching::Hints(watch),
                Err(error) => {
                    tracing::debug!(directory = %self.directory.display(), "cannot watch logs: {error}");
                    Watching::Looking
                }
            };
            // What was written before the watch was there gave no hint.
            return;
        }
        let Some(ended) = &mut self.ended else {
            // The end was seen, and what the log says about it was read to where it is not whole yet.
            return;
        };
        // Both are cancel-safe: a hint stays until it is taken, and the container's end is a level.
        tokio::select! {
            biased;
            () = ended => {
                self.ended = None;
                if let Some(reader) = &mut self.reader {
                    reader.close();
                }
            }
            () = hint(&mut self.watch, self.looked) => {}
        }
        self.looked = Some(Instant::now());
    }
}

async fn hint(watch: &mut Watching, looked: Option<Instant>) {
    if let Watching::Hints(hints) = watch
        && !hints.changed().await
    {
        *watch = Watching::Looking;
    }
    match watch {
        Watching::Looking => tokio::time::sleep(LOOK).await,
        _ => tokio::time::sleep_until(looked.map_or_else(Instant::now, |looked| looked + PACE)).await,
    }
}
