//! The connection under a client: opened when first needed, opened again after it broke, with a back-off between
//! failed tries. While the back-off lasts calls fail at once with the reason of the last failure.
//! Owned by [`crate::CriClient`]; knows nothing of CRI.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::backoff::Backoff;
use crate::endpoint::CriEndpoint;

/// Flow-control window: a list of a full node fits into a few round trips.
const WINDOW_BYTES: u32 = 1 << 20;

/// What is known about the socket; shared by the connector and the client.
#[derive(Debug)]
pub(crate) struct Link {
    endpoint: CriEndpoint,
    state: Mutex<LinkState>,
}

#[derive(Debug)]
struct LinkState {
    backoff: Backoff,
    /// The last failure and when the socket may be tried again; empty while the last try succeeded.
    failure: Option<(String, Instant)>,
}

/// A failed try, as the connector hands it to the transport.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct ConnectFailure(String);

impl Link {
    /// A channel to the endpoint, and the shared knowledge about it. Needs a tokio runtime around it.
    pub(crate) fn open(endpoint: CriEndpoint) -> (Channel, Arc<Self>) {
        let state = LinkState { backoff: Backoff::for_connection(), failure: None };
        let link = Arc::new(Self { endpoint, state: Mutex::new(state) });
        let connector = {
            let link = Arc::clone(&link);
            tower::service_fn(move |_: Uri| {
                let link = Arc::clone(&link);
                async move { link.connect().await.map(TokioIo::new) }
            })
        };
        // The authority is never resolved; the Go servers accept this one from any client.
        let channel = Endpoint::from_static("http://localhost")
            .initial_connection_window_size(WINDOW_BYTES)
            .initial_stream_window_size(WINDOW_BYTES)
            .connect_with_connector_lazy(connector);
        (channel, link)
    }

    /// The path of the socket.
    pub(crate) fn path(&self) -> &Path {
        self.endpoint.path()
    }

    /// Why the last try to connect failed and how long until the next, if it did fail.
    pub(crate) fn failure(&self) -> Option<(String, Duration)> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (text, not_before) = state.failure.as_ref()?;
        Some((text.clone(), not_before.saturating_duration_since(Instant::now())))
    }

    async fn connect(&self) -> Result<UnixStream, ConnectFailure> {
        if let Some((text, wait)) = self.failure()
            && !wait.is_zero()
        {
            return Err(ConnectFailure(text));
        }
        let result = UnixStream::connect(self.path()).await;
        let problem = match &result {
            Ok(_) => None,
            Err(error) => Some(explain(self.path(), error).await),
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match (result, problem) {
            (Ok(stream), _) => {
                state.backoff.reset();
                state.failure = None;
                Ok(stream)
            }
            (Err(_), problem) => {
                let text = problem.unwrap_or_default();
                let delay = state.backoff.after_failure();
                state.failure = Some((text.clone(), Instant::now() + delay));
                Err(ConnectFailure(text))
            }
        }
    }
}

/// Says in words of the user's world why a socket cannot be opened.
async fn explain(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!("{shown} does not exist; is the container runtime running?"),
        io::ErrorKind::PermissionDenied => format!("no permission to open {shown}"),
        io::ErrorKind::ConnectionRefused => match tokio::fs::metadata(path).await {
            Ok(meta) if !meta.file_type().is_socket() => format!("{shown} is not a socket"),
            _ => format!("nothing listens on {shown}; is the container runtime running?"),
        },
        _ => format!("cannot connect to {shown}: {error}"),
    }
}
