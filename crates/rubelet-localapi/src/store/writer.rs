//! The one that writes: takes what is queued into one transaction of the file, which is on the disk with one fsync,
//! tells watchers, then answers.
//!
//! Tasks: one thread for a store in a folder, which ends when the last handle is gone; none for a store in memory,
//! where the caller does the same work under a lock. It owns the queue and decides what leaves the log.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use redb::{Database, ReadableTable, Table};
use tokio::sync::{mpsc, oneshot};

use super::disk::panic_text;
use super::error::{StoreError, WriteError};
use super::event::Event;
use super::shared::Shared;
use super::tables::{Change, LOG, LogRow, Logged, META, OBJECTS, ObjectKey, ObjectRow, Position};
use super::transaction::Transaction;

/// Writes that wait; who comes later waits for a place.
const QUEUE: usize = 256;
/// Writes that share an fsync.
const BATCH: usize = 128;
/// Rows that leave the log with one write at most, so that no write waits long.
const COMPACTED_AT_ONCE: usize = 512;
/// The log may be longer than its limit by one part in this many, so that not every write has to shorten it.
const SLACK: u64 = 16;

/// One caller's write.
trait Job: Send {
    /// Runs it; whether its changes are to be kept.
    fn run(&mut self, transaction: &mut Transaction<'_>) -> bool;
    /// Answers, once it is known what became of all that ran with it.
    fn settle(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Work<T, E, F> {
    job: Option<F>,
    result: Option<Result<T, WriteError<E>>>,
    reply: oneshot::Sender<Result<T, WriteError<E>>>,
}

impl<T, E, F> Job for Work<T, E, F>
where
    F: FnOnce(&mut Transaction<'_>) -> Result<T, E> + Send,
    T: Send,
    E: Send,
{
    fn run(&mut self, transaction: &mut Transaction<'_>) -> bool {
        let Some(job) = self.job.take() else { return false };
        // A job that panics has changed nothing but its own transaction, which is thrown away.
        let result = match catch_unwind(AssertUnwindSafe(|| job(transaction))) {
            Ok(result) => result.map_err(WriteError::Rejected),
            Err(panic) => Err(WriteError::Panicked { message: panic_text(panic) }),
        };
        self.result.insert(result).is_ok()
    }

    fn settle(mut self: Box<Self>, outcome: Result<(), StoreError>) {
        let result = match (outcome, self.result.take()) {
            // Also when it said no: it may have seen what was not kept.
            (Err(error), _) => Err(WriteError::Store(error)),
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => return,
        };
        // Whoever is gone need not be told.
        drop(self.reply.send(result));
    }
}

enum Means {
    Inline(Mutex<()>),
    Thread { queue: mpsc::Sender<Box<dyn Job>>, thread: JoinHandle<()> },
}

/// How writes get to the file. Dropped, it waits until what is queued is written.
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// `None` only while it is dropped.
    means: Option<Means>,
}

impl Writer {
    /// For a store in memory.
    pub(super) fn inline(shared: Arc<Shared>) -> Self {
        Self { shared, means: Some(Means::Inline(Mutex::default())) }
    }

    /// For a store in a folder.
    pub(super) fn thread(shared: Arc<Shared>) -> std::io::Result<Self> {
        let (queue, queued) = mpsc::channel(QUEUE);
        let inside = shared.clone();
        let thread =
            std::thread::Builder::new().name("store".to_owned()).spawn(move || serve(&inside, queued))?;
        Ok(Self { shared, means: Some(Means::Thread { queue, thread }) })
    }

    /// See `Store::write`.
    pub(super) async fn write<T, E, F>(&self, job: F) -> Result<T, WriteError<E>>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        let closed = || WriteError::Store(StoreError::Closed { path: self.shared.origin.clone() });
        let (reply, mut answer) = oneshot::channel();
        let work: Box<dyn Job> = Box::new(Work { job: Some(job), result: None, reply });
        match &self.means {
            Some(Means::Inline(lock)) => {
                let writing = lock.lock().unwrap_or_else(PoisonError::into_inner);
                run(&self.shared, vec![work]);
                drop(writing);
                answer.try_recv().unwrap_or_else(|_| Err(closed()))
            }
            Some(Means::Thread { queue, .. }) => {
                queue.send(work).await.map_err(|_| closed())?;
                answer.await.unwrap_or_else(|_| Err(closed()))
            }
            None => Err(closed()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        match self.means.take() {
            Some(Means::Thread { queue, thread }) => {
                drop(queue);
                // The last handle can go within a job, on that very thread.
                if thread.thread().id() != std::thread::current().id() {
                    drop(thread.join());
                }
            }
            Some(Means::Inline(_)) | None => self.shared.close(),
        }
    }
}

/// The thread.
fn serve(shared: &Shared, mut queued: mpsc::Receiver<Box<dyn Job>>) {
    while let Some(first) = queued.blocking_recv() {
        let mut jobs = vec![first];
        while jobs.len() < BATCH
            && let Ok(job) = queued.try_recv()
        {
            jobs.push(job);
        }
        run(shared, jobs);
    }
    shared.close();
}

/// Runs jobs as one transaction and answers them.
fn run(shared: &Shared, mut jobs: Vec<Box<dyn Job>>) {
    let written = shared.with_writable(|database| {
        let attempt = catch_unwind(AssertUnwindSafe(|| write(shared, database, &mut jobs)));
        // The engine panics on damage that it did not expect.
        attempt.unwrap_or_else(|panic| {
            Err(StoreError::new(&shared.origin, redb::Error::Corrupted(panic_text(panic))))
        })
    });
    let outcome = match written {
        Ok(Some((events, position))) => {
            shared.hub.publish(events, position.revision, position.floor);
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a write to the store failed");
            Err(error)
        }
    };
    for job in jobs {
        job.settle(outcome.clone());
    }
}

/// Runs jobs and commits; what there is to tell, if there was anything to keep.
fn write(
    shared: &Shared,
    database: &Database,
    jobs: &mut [Box<dyn Job>],
) -> Result<Option<(Vec<Event>, Position)>, StoreError> {
    let path = &shared.origin;
    let transaction = database.begin_write().map_err(|error| StoreError::new(path, error))?;
    let mut events = vec![];
    let (before, position) = {
        let open = |error: redb::TableError| StoreError::new(path, error);
        let mut objects = transaction.open_table(OBJECTS).map_err(open)?;
        let mut log = transaction.open_table(LOG).map_err(open)?;
        let mut meta = transaction.open_table(META).map_err(open)?;
        let before = Position::load(&meta, path)?;
        // A revision that someone may have seen is never used again, not even when a disk has lost what it held.
        let mut position = Position { revision: before.revision.max(shared.hub.announced()), ..before };
        let now = u64::try_from((shared.options.now)().as_millisecond()).unwrap_or(0);
        for job in jobs {
            let mut view = Transaction::new(&objects, position.revision, path);
            let succeeded = job.run(&mut view);
            let outcome = view.finish(succeeded)?;
            if !outcome.keep {
                continue;
            }
            for change in outcome.changes {
                apply(&change, now, &mut objects, &mut log, &mut position)
                    .map_err(|error| StoreError::new(path, error))?;
                events.push(change.into_event());
            }
            if let Some(revision) = outcome.compact_to {
                compact_to(shared, revision, &mut log, &mut position)?;
            }
        }
        if !events.is_empty() {
            compact(shared, before.revision, now, &mut log, &mut position)?;
        }
        if position != before {
            position.store(&mut meta).map_err(|error| StoreError::new(path, error))?;
        }
        (before, position)
    };
    if position == before {
        transaction.abort().map_err(|error| StoreError::new(path, error))?;
        return Ok(None);
    }
    shared.hub.announce(position.revision);
    transaction.commit().map_err(|error| StoreError::new(path, error))?;
    Ok(Some((events, position)))
}

fn apply(
    change: &Change,
    now: u64,
    objects: &mut Table<'_, ObjectKey, ObjectRow>,
    log: &mut Table<'_, u64, LogRow>,
    position: &mut Position,
) -> Result<(), redb::StorageError> {
    let key = change.key.parts();
    if change.kind == super::EventKind::Deleted {
        objects.remove(key)?;
    } else {
        objects.insert(key, (change.created, change.revision, &change.bytes[..]))?;
    }
    log.insert(change.revision, change.row(now))?;
    position.revision = change.revision;
    position.rows += 1;
    position.bytes += change.weight();
    Ok(())
}

/// Shortens the log when it is too long, but leaves what this write has added.
fn compact(
    shared: &Shared,
    before: u64,
    now: u64,
    log: &mut Table<'_, u64, LogRow>,
    position: &mut Position,
) -> Result<(), StoreError> {
    let limits = shared.options.log;
    let oldest_kept = now.saturating_sub(u64::try_from(limits.age.as_millis()).unwrap_or(u64::MAX));
    let over = |count: u64, limit: u64, slack: bool| count > limit + if slack { limit / SLACK } else { 0 };
    let mut slack = true;
    for _ in 0..COMPACTED_AT_ONCE {
        let too_long =
            over(position.rows, limits.changes, slack) || over(position.bytes, limits.bytes, slack);
        let (revision, weight) = {
            let first = log.first().map_err(|error| StoreError::new(&shared.origin, error))?;
            let Some((revision, row)) = first else { return Ok(()) };
            let logged = Logged::new(&shared.origin, revision.value(), row.value())?;
            if logged.revision > before || !(too_long || logged.time < oldest_kept) {
                return Ok(());
            }
            (logged.revision, logged.weight())
        };
        forget(shared, revision, weight, log, position)?;
        // Once begun, down to the limit itself.
        slack = false;
    }
    Ok(())
}

/// Forgets all changes up to a revision.
fn compact_to(
    shared: &Shared,
    until: u64,
    log: &mut Table<'_, u64, LogRow>,
    position: &mut Position,
) -> Result<(), StoreError> {
    let until = until.min(position.revision);
    loop {
        let (revision, weight) = {
            let first = log.first().map_err(|error| StoreError::new(&shared.origin, error))?;
            let Some((revision, row)) = first.filter(|(revision, _)| revision.value() <= until) else {
                break;
            };
            (revision.value(), Logged::new(&shared.origin, revision.value(), row.value())?.weight())
        };
        forget(shared, revision, weight, log, position)?;
    }
    position.floor = position.floor.max(until);
    Ok(())
}

fn forget(
    shared: &Shared,
    revision: u64,
    weight: u64,
    log: &mut Table<'_, u64, LogRow>,
    position: &mut Position,
) -> Result<(), StoreError> {
    log.remove(revision).map_err(|error| StoreError::new(&shared.origin, error))?;
    position.floor = position.floor.max(revision);
    position.rows = position.rows.saturating_sub(1);
    position.bytes = position.bytes.saturating_sub(weight);
    Ok(())
}
