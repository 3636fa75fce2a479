//! Tells the log what is wrong with the way to the API server and what to do about it: once for all who ask it, a
//! lasting trouble every few minutes, and that it is over. Asked by `service` after each request.
//!
//! It knows only of what no request gets past: no connection, no credentials, credentials that are not accepted. What
//! an answer means for a request is for who sent it to say.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::{ConnectFailure, TransportError};

/// How long a trouble that was told is not told again.
const AGAIN: Duration = Duration::from_secs(300);

/// What keeps every request from being answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// Nobody is there.
    Unreachable,
    /// Server and agent do not trust each other.
    Tls,
    /// There are no credentials to come with.
    Credentials,
    /// The server does not accept the credentials.
    Unauthorized,
}

impl Trouble {
    /// The trouble behind a failed request; `None` for one that only that request has. `tls` says whether TLS was the
    /// reason.
    pub(super) fn of(error: &TransportError, tls: bool) -> Option<Self> {
        match error {
            _ if tls => Some(Self::Tls),
            TransportError::Connect(failure) if matches!(**failure, ConnectFailure::GivenUp) => None,
            TransportError::Connect(_) => Some(Self::Unreachable),
            TransportError::Credentials(_) => Some(Self::Credentials),
            _ => None,
        }
    }
}

/// What was told, and when.
#[derive(Debug, Default)]
pub(super) struct Teller {
    told: Mutex<BTreeMap<Trouble, Instant>>,
}

impl Teller {
    /// Whether the trouble is to be told now.
    pub(super) fn is_news(&self, trouble: Trouble, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let news = told.get(&trouble).is_none_or(|at| now.duration_since(*at) >= AGAIN);
        if news {
            told.insert(trouble, now);
        }
        news
    }

    /// The server has taken a request. Whether a trouble that was told is over with that.
    pub(super) fn is_over(&self) -> bool {
        !std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner)).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_once_until_it_is_over() {
        let (teller, start) = (Teller::default(), Instant::now());
        assert!(!teller.is_over(), "nothing was told");
        assert!(teller.is_news(Trouble::Unreachable, start));
        assert!(!teller.is_news(Trouble::Unreachable, start + Duration::from_secs(10)));
        assert!(teller.is_news(Trouble::Tls, start + Duration::from_secs(20)), "something else is wrong");
        assert!(teller.is_news(Trouble::Unreachable, start + AGAIN));
        assert!(teller.is_over());
        assert!(!teller.is_over(), "it is said once");
        assert!(teller.is_news(Trouble::Unreachable, start + AGAIN));
    }

    #[test]
    fn what_only_one_request_has_is_its_own_matter() {
        let deadline = TransportError::Deadline {
            method: http::Method::GET,
            path: "/".into(),
            after: Duration::from_secs(1),
        };
        assert_eq!(Trouble::of(&deadline, false), None);
        assert_eq!(Trouble::of(&TransportError::Connect(ConnectFailure::GivenUp.into()), false), None);
        assert_eq!(Trouble::of(&deadline, true), Some(Trouble::Tls));
    }
}
