//! How many runs there may be at a time: sockets that are open, execs that are being started, execs that take long.
//!
//! Starting a process in a container costs the runtime 50 to 100 ms of CPU; waiting for it costs nothing. So a slot
//! for starting is held during the first moments of an exec only, and of execs that take longer there may be many
//! more. Those that were quick the last time are kept from waiting behind the others: a part of the slots is theirs.
//! Nothing here knows what is run.

use std::future::Future;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

/// How long an exec counts as being started.
pub(super) const STARTING: Duration = Duration::from_millis(500);
/// The fewest execs that may be started at a time, however few CPUs there are.
const STARTS: usize = 8;
/// Execs that take longer than [`STARTING`]. When there are so many, those that come after keep their slots.
const SLOW: usize = 256;
/// Probes over the network: each holds a socket or two.
const SOCKETS: usize = 1024;

/// What a run needs a slot for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// A connection to a container.
    Socket,
    /// A process in a container. `proven`: the last one of this probe was quick.
    Exec {
        /// Whether it was.
        proven: bool,
    },
}

/// All slots of the node.
#[derive(Debug)]
pub(super) struct Slots {
    starts: Semaphore,
    /// Those of `starts` that execs may have that are not proven to be quick.
    unproven: Semaphore,
    slow: Semaphore,
    sockets: Semaphore,
}

/// A slot; given back when dropped. One for an exec is held only while it is being started.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    is_exec: bool,
    _permit: SemaphorePermit<'a>,
    _unproven: Option<SemaphorePermit<'a>>,
}

impl Slots {
    /// The slots of a machine with so many CPUs.
    pub(super) fn new(cpus: usize) -> Self {
        let starts = cpus.saturating_mul(2).clamp(STARTS, SLOW);
        Self {
            starts: Semaphore::new(starts),
            unproven: Semaphore::new(starts * 3 / 4),
            slow: Semaphore::new(SLOW),
            sockets: Semaphore::new(SOCKETS),
        }
    }

    /// Waits for a slot, first come first served; `None` when there was none until then.
    pub(super) async fn take(&self, lane: Lane, until: Instant) -> Option<Slot<'_>> {
        let taken = timeout_at(until, async {
            let (is_exec, all) = match lane {
                Lane::Socket => (false, &self.sockets),
                Lane::Exec { .. } => (true, &self.starts),
            };
            let unproven = match lane {
                Lane::Exec { proven: false } => Some(self.unproven.acquire().await.ok()?),
                _ => None,
            };
            Some(Slot { is_exec, _permit: all.acquire().await.ok()?, _unproven: unproven })
        });
        taken.await.ok().flatten()
    }

    /// Carries a run out in its slot. One that is not being started any more passes its slot on.
    pub(super) async fn carry<T>(&self, slot: Slot<'_>, run: impl Future<Output = T>) -> T {
        if !slot.is_exec {
            return run.await;
        }
        let mut run = std::pin::pin!(run);
        if let Ok(answer) = timeout(STARTING, &mut run).await {
            return answer;
        }
        // Cancel-safe: the run is only polled, and who stops waiting for a permit has none.
        tokio::select! {
            biased;
            answer = &mut run => answer,
            _slow = self.slow.acquire() => {
                drop(slot);
                run.await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt as _;

    use super::*;

    const EXEC: Lane = Lane::Exec { proven: true };
    const UNPROVEN: Lane = Lane::Exec { proven: false };

    /// Begins an exec that never ends, which holds its slots until it is aborted.
    fn hang(slots: &Arc<Slots>, lane: Lane) -> tokio::task::AbortHandle {
        let slots = slots.clone();
        let hang = async move {
            let slot = slots.take(lane, Instant::now() + Duration::from_secs(3600)).await.unwrap();
            slots.carry(slot, std::future::pending::<()>()).await;
        };
        tokio::spawn(hang).abort_handle()
    }

    fn is_free(slots: &Slots, lane: Lane) -> bool {
        slots.take(lane, Instant::now()).now_or_never().flatten().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_long_passes_its_slot_on() {
        let slots = Arc::new(Slots::new(1));
        let hanging: Vec<_> = (0..STARTS).map(|_| hang(&slots, EXEC)).collect();
        tokio::task::yield_now().await;
        assert!(!is_free(&slots, EXEC));
        assert!(is_free(&slots, Lane::Socket));
        tokio::time::sleep(STARTING + Duration::from_millis(1)).await;
        assert!(is_free(&slots, EXEC));
        assert_eq!(slots.slow.available_permits(), SLOW - STARTS);
        for hanging in hanging {
            hanging.abort();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(slots.slow.available_permits(), SLOW, "nothing is left of runs that are given up");
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_take_long_are_bounded_too() {
        let slots = Arc::new(Slots::new(1));
        for _ in 0..SLOW + STARTS {
            hang(&slots, EXEC);
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((slots.slow.available_permits(), slots.starts.available_permits()), (0, 0));
        assert!(is_free(&slots, Lane::Socket));
    }

    #[tokio::test(start_paused = true)]
    async fn the_unproven_leave_slots_to_the_proven() {
        let slots = Arc::new(Slots::new(1));
        for _ in 0..100 {
            hang(&slots, UNPROVEN);
        }
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(73)).await;
            assert!(is_free(&slots, EXEC));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_gets_none() {
        let slots = Slots::new(64);
        let mut taken = vec![];
        while let Some(slot) = slots.take(EXEC, Instant::now()).now_or_never().flatten() {
            taken.push(slot);
        }
        assert_eq!(taken.len(), 128);
        let began = Instant::now();
        assert!(slots.take(EXEC, began + Duration::from_secs(2)).await.is_none());
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        taken.pop();
        assert!(slots.take(EXEC, began).await.is_some(), "one that is free is given however late it is");
    }
}
