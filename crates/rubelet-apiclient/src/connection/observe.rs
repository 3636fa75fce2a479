//! What is told of each request to whoever counts them: method, host, code, times. Nothing here knows what a metric is.

use std::sync::Arc;
use std::time::Duration;

use http::Method;

/// Something that happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed<'a> {
    /// An attempt ended: with the head of an answer, or without one.
    Answered {
        /// GET, PUT and so on.
        method: &'a Method,
        /// The server's host and port, as the kubeconfig has them.
        host: &'a str,
        /// The HTTP status; `None` without an answer.
        code: Option<u16>,
        /// Time of the attempt, credentials and connection included, waiting for the pace not.
        took: Duration,
        /// Bytes of the request's body.
        bytes: usize,
    },
    /// It waits for the client's own rate limit.
    Paced {
        /// GET, PUT and so on.
        method: &'a Method,
        /// The server's host and port.
        host: &'a str,
        /// For how long; zero is the common case.
        waits: Duration,
    },
    /// It is sent again because the server asked for that.
    Retried {
        /// GET, PUT and so on.
        method: &'a Method,
        /// The server's host and port.
        host: &'a str,
        /// The HTTP status that asked for it.
        code: u16,
    },
}

/// Is told of requests; must not block. Nobody, by default.
#[derive(Clone, Default)]
pub struct Observer(Option<Arc<Tell>>);

type Tell = dyn Fn(&Observed<'_>) + Send + Sync;

impl Observer {
    /// An observer that calls `tell`.
    pub fn new(tell: impl Fn(&Observed<'_>) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    pub(super) fn tell(&self, observed: &Observed<'_>) {
        if let Some(tell) = &self.0 {
            tell(observed);
        }
    }
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Observer").field(&self.0.is_some()).finish()
    }
}
