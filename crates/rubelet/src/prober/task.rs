//! The loop of the prober: sleeps until something is due, lets it run, and takes back what was found. Without probes
//! it has no timer and nothing wakes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::book::{Begun, Book, Ran, RunKey};
use super::deliver::deliver;
use super::run::{Handlers, run};
use super::slots::Slots;
use super::{Shared, tell};

/// The task of the prober, to be run once; dropping it ends all that is under way.
pub struct ProberTask {
    shared: Arc<Shared>,
    handlers: Arc<dyn Handlers>,
    slots: Arc<Slots>,
    /// Runs, and deliveries of verdicts.
    under_way: JoinSet<Done>,
    skips: tell::Skips,
}

impl Drop for ProberTask {
    /// What is tracked holds on to those who hear of it, and they to the handle: nothing is to outlive the task.
    fn drop(&mut self) {
        let left = std::mem::replace(&mut *self.shared.book(), Book::closed());
        drop(left);
    }
}

/// What a task of the prober's has done.
enum Done {
    Run(RunKey, Ran),
    Delivery,
}

impl ProberTask {
    pub(super) fn new(shared: Arc<Shared>, handlers: Arc<dyn Handlers>) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let slots = Arc::new(Slots::new(cpus));
        Self { shared, handlers, slots, under_way: JoinSet::new(), skips: tell::Skips::default() }
    }

    /// Probes until it is dropped.
    pub async fn run(mut self) {
        loop {
            let next = self.begin_due();
            // All cancel-safe: who waits for a wake-up that has come gets it the next time, a task that has ended stays
            // in the set until it is taken out, and a time that has come is found by `begin_due`.
            tokio::select! {
                biased;
                Some(done) = self.under_way.join_next() => match done {
                    Ok(Done::Run(key, ran)) => self.ended(key, &ran),
                    // Of a run that was aborted nobody wants to know anything. Panics are caught in the runs.
                    Ok(Done::Delivery) | Err(_) => {}
                },
                () = self.shared.wake.notified() => {}
                () = until(next) => {}
            }
        }
    }

    /// Begins all runs that are due, and says when there will be more.
    fn begin_due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        loop {
            let mut book = self.shared.book();
            let Some(begun) = book.begin(now) else { return book.next() };
            let key = begun.key;
            let handle = self.under_way.spawn(carry_out(
                begun,
                self.handlers.clone(),
                self.slots.clone(),
                InFlight::new(&self.shared.in_flight),
            ));
            book.started(key, handle);
        }
    }

    /// A run has ended: what it means, who hears of it.
    fn ended(&mut self, key: RunKey, ran: &Ran) {
        let now = Instant::now();
        let ended = self.shared.book().finish(key, ran, now);
        let Some(ended) = ended else { return };
        if ended.deliver {
            let delivery = deliver(self.shared.clone(), ended.uid.clone());
            self.under_way.spawn(async move {
                delivery.await;
                Done::Delivery
            });
        }
        match ran {
            Ran::Skipped => {
                self.shared.lateness().skip();
                self.skips.skipped(&ended.probed(), now);
            }
            Ran::Made { outcome, took, late } => {
                self.shared.lateness().began(*late);
                let Shared { events, metrics, .. } = &*self.shared;
                tell::answered(events, metrics, &ended.probed(), outcome, *took, ended.early);
                // Somebody may have forgotten the pod since: nothing is counted of pods that are gone.
                if !self.shared.book().is_tracked(&ended.uid) {
                    tell::forget(metrics, &ended.uid, &ended.pod);
                }
            }
        }
    }
}

/// Until then; for ever if there is no such time.
async fn until(next: Option<Instant>) {
    match next {
        Some(next) => sleep_until(next).await,
        None => std::future::pending().await,
    }
}

async fn carry_out(
    begun: Begun,
    handlers: Arc<dyn Handlers>,
    slots: Arc<Slots>,
    in_flight: InFlight,
) -> Done {
    let _in_flight = in_flight;
    let ran = run(&begun, &*handlers, &slots).await;
    Done::Run(begun.key, ran)
}

/// Counts a run as long as it is there, however it ends.
struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
