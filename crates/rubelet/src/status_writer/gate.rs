//! How many requests may be under way, over all pods: all of them while the API server answers, one at a time
//! while it does not, and slowly more when it comes back.
//!
//! Owns the pause that everyone shares. Never knows what is sent; the writer asks before it starts a request and
//! tells how it went.

use std::time::Duration;

use rubelet_core::ids::PodUid;
use tokio::time::Instant;

use super::pause::pause;

/// Most requests at once.
const WIDEST: usize = 16;
/// First pause after a failure that concerns everyone; doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(30);

/// Permission to send one request; given back with how it went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket(u64);

/// The gate.
#[derive(Debug)]
pub(super) struct Gate {
    /// Requests allowed at once; grows by one with each answer.
    window: usize,
    /// Requests under way since the gate last closed.
    under_way: usize,
    /// Times it has closed: requests from before a closing say nothing new by failing too.
    epoch: u64,
    /// Failures in a row; it is open at 0.
    failures: u32,
    /// While closed, when the next one may try.
    again: Option<Instant>,
    /// A hint does not make it earlier than this: the first pause, or the one that the server asked for.
    earliest: Option<Instant>,
    /// The pod whose request failed by itself last; two of them are everyone's problem.
    suspect: Option<PodUid>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            window: WIDEST,
            under_way: 0,
            epoch: 0,
            failures: 0,
            again: None,
            earliest: None,
            suspect: None,
        }
    }
}

impl Gate {
    /// A ticket, if a request may start now.
    pub(super) fn ticket(&mut self, now: Instant) -> Option<Ticket> {
        let open = match self.again {
            Some(again) => now >= again && self.under_way == 0,
            None => self.under_way < self.window,
        };
        open.then(|| {
            self.under_way += 1;
            Ticket(self.epoch)
        })
    }

    /// The ticket was not needed.
    pub(super) fn unused(&mut self, ticket: Ticket) {
        self.give_back(ticket);
    }

    /// When to ask again although nothing comes back: while it is closed and nobody tries.
    pub(super) fn opens_at(&self) -> Option<Instant> {
        self.again.filter(|_| self.under_way == 0)
    }

    /// The server answered. Returns whether that ends an outage.
    pub(super) fn answered(&mut self, ticket: Ticket) -> bool {
        self.give_back(ticket);
        self.window = (self.window + 1).min(WIDEST);
        self.failures = 0;
        self.suspect = None;
        self.again.take().is_some()
    }

    /// A request failed for a reason that concerns everyone.
    pub(super) fn failed(&mut self, ticket: Ticket, now: Instant, retry_after: Option<Duration>) {
        if ticket.0 != self.epoch {
            return;
        }
        self.epoch += 1;
        self.under_way = 0;
        self.window = 1;
        self.failures = self.failures.saturating_add(1);
        self.earliest = Some(now + FIRST.max(retry_after.unwrap_or_default()));
        let pause = pause(FIRST, LONGEST, self.failures, "everyone");
        self.again = Some(now + pause.max(retry_after.unwrap_or_default()));
    }

    /// A request of this pod failed, perhaps only because of the pod. Returns whether it is taken as everyone's.
    pub(super) fn failed_alone(&mut self, ticket: Ticket, now: Instant, uid: &PodUid) -> bool {
        let everyone = self.suspect.as_ref().is_some_and(|suspect| suspect != uid);
        if everyone {
            self.failed(ticket, now, None);
        } else {
            self.suspect = Some(uid.clone());
            self.give_back(ticket);
        }
        everyone
    }

    /// Something else shows that the server is there again: the next one may try, unless one just did.
    pub(super) fn hint(&mut self, now: Instant) {
        let earliest = self.earliest.map_or(now, |earliest| earliest.max(now));
        self.again = self.again.map(|again| again.min(earliest));
    }

    fn give_back(&mut self, ticket: Ticket) {
        if ticket.0 == self.epoch {
            self.under_way = self.under_way.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(from: Instant, to: Option<Instant>) -> f64 {
        to.unwrap().duration_since(from).as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_leaves_one_at_a_time_and_ends_slowly() {
        let mut gate = Gate::default();
        let now = Instant::now();
        let tickets: Vec<Ticket> = std::iter::from_fn(|| gate.ticket(now)).collect();
        assert_eq!(tickets.len(), WIDEST);
        // All of them fail together: that is one failure.
        for ticket in tickets {
            gate.failed(ticket, now, None);
        }
        assert!((0.75..=1.25).contains(&seconds(now, gate.opens_at())));
        assert!(gate.ticket(now).is_none());
        let later = now + Duration::from_secs(2);
        let probe = gate.ticket(later).unwrap();
        assert!(gate.ticket(later).is_none() && gate.opens_at().is_none());
        gate.failed(probe, later, Some(Duration::from_secs(60)));
        gate.hint(later);
        assert!((59.9..=60.1).contains(&seconds(later, gate.opens_at())));
        let later = later + Duration::from_secs(60);
        let probe = gate.ticket(later).unwrap();
        gate.failed(probe, later, None);
        gate.hint(later);
        assert!(gate.ticket(later).is_none());
        let later = later + Duration::from_secs(1);
        let probe = gate.ticket(later).unwrap();
        assert!(gate.answered(probe));
        // Two, then four, then eight.
        for expected in [2, 4, 8, 16, 16] {
            let tickets: Vec<Ticket> = std::iter::from_fn(|| gate.ticket(later)).collect();
            assert_eq!(tickets.len(), expected);
            for ticket in tickets {
                assert!(!gate.answered(ticket));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_pod_alone_does_not_close_it() {
        let mut gate = Gate::default();
        let now = Instant::now();
        for _ in 0..5 {
            let ticket = gate.ticket(now).unwrap();
            assert!(!gate.failed_alone(ticket, now, &"a".into()));
        }
        let ticket = gate.ticket(now).unwrap();
        assert!(gate.failed_alone(ticket, now, &"b".into()));
        assert!(gate.ticket(now).is_none());
    }
}
