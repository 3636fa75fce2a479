//! One watch: gives the changes that it follows, one after the other, from memory when they are recent and from the log
//! when not. Holds nothing but its place. `engine` and `controllers` make them through `Store::watch`.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::error::{StoreError, WatchError};
use super::event::Event;
use super::hub::{Interest, Next, WatcherId};
use super::shared::Shared;

/// Follows changes; dropped, it is forgotten.
pub struct Watcher {
    shared: Arc<Shared>,
    interest: Interest,
    id: WatcherId,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Watcher")
            .field("interest", &self.interest)
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.hub.remove(self.id);
    }
}

impl Watcher {
    pub(super) fn new(
        shared: Arc<Shared>,
        resource: &str,
        namespace: Option<&str>,
        name: Option<&str>,
        after: u64,
    ) -> Result<Self, WatchError> {
        let interest = Interest {
            resource: resource.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        };
        let current = shared.hub.announced();
        if after > current {
            return Err(WatchError::Ahead { asked: after, current });
        }
        let oldest = shared.hub.floor();
        if after < oldest {
            return Err(WatchError::Compacted { oldest });
        }
        let id = shared.hub.add(interest.clone(), after);
        Ok(Self { shared, interest, id })
    }

    /// The next change; `None` when the store is closed. Cancel safe: a change is taken only when it is returned.
    ///
    /// # Errors
    /// [`WatchError::Compacted`] when this was so slow that the log has gone over it; asking again says the same.
    pub async fn next(&mut self) -> Result<Option<Arc<Event>>, WatchError> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// [`Self::next`], for streams.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Arc<Event>>, WatchError>> {
        loop {
            match self.shared.hub.next(self.id, context.waker()) {
                Next::Event(event) => return Poll::Ready(Ok(Some(event))),
                Next::Closed => return Poll::Ready(Ok(None)),
                Next::Wait => return Poll::Pending,
                Next::Log(after, until) => match self.read(after, until) {
                    Ok(None) => {}
                    Err(WatchError::Store(StoreError::Closed { .. })) => return Poll::Ready(Ok(None)),
                    found => return Poll::Ready(found),
                },
            }
        }
    }

    /// Everything up to this revision has been returned by [`Self::next`]: what a bookmark tells.
    pub fn revision(&self) -> u64 {
        self.shared.hub.seen(self.id)
    }

    /// The next change as the log has it.
    fn read(&self, after: u64, until: u64) -> Result<Option<Arc<Event>>, WatchError> {
        let snapshot = self.shared.snapshot()?;
        let oldest = snapshot.position().floor;
        if after < oldest {
            return Err(WatchError::Compacted { oldest });
        }
        let found = snapshot.find_logged(after, |logged| {
            if logged.revision > until {
                return Some(None);
            }
            self.interest.matches(logged.key).then(|| Some(Arc::new(logged.event())))
        })?;
        let found = found.flatten();
        let seen = found.as_ref().map_or(until, |event| event.revision);
        self.shared.hub.advance(self.id, seen);
        Ok(found)
    }
}
