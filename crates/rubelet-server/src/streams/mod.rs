//! Exec, attach and port-forward: a client's connection and the runtime's streaming server, put together.
//!
//! The caller has asked the runtime (CRI `Exec`, `Attach`, `PortForward`) and got a URL. What the runtime's server speaks
//! goes through byte for byte: SPDY/3.1, and WebSockets with `v4.channel.k8s.io` and older, binary or base64. What it
//! does not speak is translated: WebSockets with `v5.channel.k8s.io` (module `command`), and SPDY inside a WebSocket
//! (module `tunnel`).
//!
//! | client | exec and attach | port-forward |
//! |---|---|---|
//! | kubectl to 1.29 | SPDY, through | SPDY, through |
//! | kubectl from 1.30 | WebSocket v5, translated | SPDY in a WebSocket, unwrapped (from 1.31) |
//! | client libraries | WebSocket v4 through, v5 translated | WebSocket v4, through |

mod activity;
mod command;
mod negotiate;
mod options;
mod pump;
mod runtime;
mod spdy;
#[cfg(test)]
mod tests;
mod tunnel;
mod websocket;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use options::{CommandOptions, CommandStreams, Dialect, port_forward_ports};

use crate::body::{self, Body};
use crate::problem::Problem;
use negotiate::Plan;
use runtime::{Opened, Refused};

/// How many messages wait for a side that does not read at once.
const QUEUE: usize = 4;
/// How long a client may take to read the last of what it is sent.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How long a client may take to go when it has been told that all is said.
const LINGER: Duration = Duration::from_secs(2);
/// How often a client hears of this end while its messages cannot be read. kubectl gives up after a minute.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Exec or attach, with these streams.
    Command(CommandStreams),
    /// Port-forward.
    PortForward,
}

/// What lives as long as the session of the request whose extension it is.
#[derive(Clone)]
pub struct Held(pub Arc<dyn Any + Send + Sync>);

/// Whether a client wants its connection to become a stream.
pub(crate) fn is_upgrade(headers: &http::HeaderMap) -> bool {
    negotiate::is_upgrade(headers)
}

/// Whether a client's WebSocket is translated, because the runtime does not speak what is in it; `command` for exec and
/// attach, else it is port-forward.
pub(crate) fn is_translated(headers: &http::HeaderMap, command: bool) -> bool {
    matches!(negotiate::plan(headers, command), Ok(Plan::Translate | Plan::Tunnel(_)))
}

/// Puts streams together.
#[derive(Debug, Clone)]
pub struct Streams {
    idle: Duration,
    places: Arc<Semaphore>,
    end: CancellationToken,
}

impl Streams {
    /// Streams over which nothing went for `idle` end (`streamingConnectionIdleTimeout`, 4 h); there are no more than
    /// `most` at a time.
    pub fn new(idle: Duration, most: usize) -> Self {
        let places = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self { idle, places, end: CancellationToken::new() }
    }

    /// Ends all streams when it is dropped, and lets no more begin.
    #[must_use]
    pub fn until_dropped(&self) -> DropGuard {
        self.end.clone().drop_guard()
    }

    /// How many more there may be now.
    pub fn free(&self) -> usize {
        self.places.available_permits()
    }

    /// Answers `request`, which asks for an upgrade, with a stream to `url`, as the runtime gave it. The session goes on
    /// in a task of its own after the answer is sent.
    ///
    /// # Errors
    /// Why there is no stream, unless the runtime itself answered.
    pub async fn proxy<B>(
        &self,
        url: &str,
        purpose: Purpose,
        mut request: Request<B>,
    ) -> Result<Response<Body>, Problem> {
        match self.begin(url, purpose, &mut request).await {
            Ok(response) => Ok(response),
            Err(Refused::Answer(answer)) => Ok(*answer),
            Err(Refused::Problem(problem)) => {
                tracing::debug!("a stream was refused: {problem}");
                Err(problem)
            }
        }
    }

    async fn begin<B>(
        &self,
        url: &str,
        purpose: Purpose,
        request: &mut Request<B>,
    ) -> Result<Response<Body>, Refused> {
        let plan = negotiate::plan(request.headers(), matches!(purpose, Purpose::Command(_)))?;
        if self.end.is_cancelled() {
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the node agent has stopped").into());
        }
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let why = "there are too many streams on this node, try again later";
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, why).into());
        };
        let held = request.extensions_mut().remove::<Held>();
        let end = self.end.clone();
        let client = Client { upgrade: hyper::upgrade::on(&mut *request), place, held, end };
        let (method, headers) = (request.method(), request.headers());
        let idle = self.idle;
        match (plan, purpose) {
            (Plan::Translate, Purpose::Command(streams)) => {
                let accept = websocket::accept(method, headers).map_err(Problem::bad_request)?;
                let asked = negotiate::spdy_headers(["v4.channel.k8s.io"]);
                let opened = runtime::open(url, Method::POST, asked).await?;
                if opened
                    .headers
                    .get(negotiate::STREAM_PROTOCOL)
                    .is_none_or(|name| name != "v4.channel.k8s.io")
                {
                    return Err(
                        Problem::internal("the runtime speaks another protocol than asked for").into()
                    );
                }
                let session = command::Session::open(opened.connection, streams).await?;
                client.then(move |client| command::translate(client, session, idle));
                Ok(web_socket(&accept, Some(negotiate::V5)))
            }
            (Plan::Tunnel(protocols), _) => {
                let accept = websocket::accept(method, headers).map_err(Problem::bad_request)?;
                let asked = negotiate::spdy_headers(protocols.iter().map(String::as_str));
                let Opened { connection, headers } = runtime::open(url, Method::POST, asked).await?;
                let chosen = headers.get(negotiate::STREAM_PROTOCOL).and_then(|name| name.to_str().ok());
                let chosen = chosen.map(|name| format!("{}{name}", negotiate::TUNNEL));
                client.then(move |client| tunnel::tunnel(client, connection, idle));
                Ok(web_socket(&accept, chosen.as_deref()))
            }
            (Plan::Through | Plan::Translate, _) => {
                let asked = negotiate::request_headers(headers);
                let Opened { connection, headers } = runtime::open(url, method.clone(), asked).await?;
                client.then(move |client| pump::pump(client, connection, idle));
                let mut response = switching();
                response.headers_mut().extend(negotiate::response_headers(&headers, true));
                Ok(response)
            }
        }
    }
}

/// A client whose connection is still to be handed over, and its place among the streams.
struct Client {
    upgrade: OnUpgrade,
    place: OwnedSemaphorePermit,
    held: Option<Held>,
    end: CancellationToken,
}

impl Client {
    /// Carries on in a task of its own once the connection is there.
    fn then<F>(self, session: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tokio::spawn(async move {
            let _until_the_end = (self.place, self.held);
            let carried = async {
                match self.upgrade.await {
                    Ok(upgraded) => session(TokioIo::new(upgraded)).await,
                    Err(error) => tracing::debug!("a client went before its stream began: {error}"),
                }
            };
            // Dropping the session closes both connections, which is what the end asks for.
            tokio::select! { biased;
                () = self.end.cancelled() => {}
                () = carried => {}
            }
        });
    }
}

fn switching() -> Response<Body> {
    let mut response = Response::new(body::whole(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
}

fn web_socket(accept: &str, protocol: Option<&str>) -> Response<Body> {
    let mut response = switching();
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let texts = [(SEC_WEBSOCKET_ACCEPT, Some(accept)), (SEC_WEBSOCKET_PROTOCOL, protocol)];
    for (name, text) in texts {
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert(name, value);
        }
    }
    response
}
