//! The connections between the agent and the fake API server, with what the real ones do: deadlines, the client's own
//! pace, Retry-After, and connections that are noticed to be dead. Shows every answer to whoever judges.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::header::RETRY_AFTER;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use kube::Client;
use rubelet_apiclient::Connections;
use rubelet_apiclient::rate_limit::{Pause, TokenBucket};
use rubelet_testkit::FakeApi;
use rubelet_testkit::fake_api::{Disconnected, ResponseBody, User};
use rubelet_testkit::scripted::Phase;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use crate::gate::{Gate, Side};
use crate::story::Story;

/// How often a request is sent again because the server says so.
const ORDERED_RETRIES: u32 = 10;

/// What the simulation sees of a request that was answered, or that lost its connection.
pub struct Asked<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub body: &'a [u8],
    /// 0 without an answer.
    pub code: u16,
}

type Look = Box<dyn Fn(&Asked<'_>) + Send + Sync>;

/// The connection is gone.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Lost(String);

/// All connections of one agent after the other.
pub struct Wire {
    api: FakeApi,
    user: User,
    gate: Arc<Gate>,
    story: Story,
    look: Look,
    /// Connections that were open at a cut are gone.
    cut: Notify,
    cuts: AtomicU64,
    traffic: Mutex<Traffic>,
}

/// What went over the wire.
#[derive(Default)]
struct Traffic {
    /// When each request went out.
    sent: Vec<Instant>,
    open: usize,
    most_open: usize,
}

/// One kind of connection.
struct Lane {
    timeout: Duration,
    bucket: Option<TokenBucket>,
    pause: Arc<Pause>,
}

struct OpenRequest<'a>(&'a Wire);

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        self.0.traffic.lock().unwrap_or_else(PoisonError::into_inner).open -= 1;
    }
}

impl Wire {
    /// Connections of a node.
    pub fn new(api: &FakeApi, node: &str, gate: Arc<Gate>, story: Story, look: Look) -> Arc<Self> {
        Arc::new(Self {
            api: api.clone(),
            user: User::named(&format!("system:node:{node}")),
            gate,
            story,
            look,
            cut: Notify::new(),
            cuts: AtomicU64::new(0),
            traffic: Mutex::default(),
        })
    }

    /// Connections for a new agent.
    pub fn connect(self: &Arc<Self>) -> Connections {
        let pause = Arc::new(Pause::default());
        let lane =
            |seconds, bucket| Lane { timeout: Duration::from_secs(seconds), bucket, pause: pause.clone() };
        Connections {
            requests: self.client(lane(60, TokenBucket::new(50.0, 100))),
            urgent: self.client(lane(60, None)),
            heartbeats: self.client(Lane { pause: Arc::default(), ..lane(10, None) }),
        }
    }

    /// Every open connection breaks, as the keep-alive does with one that is dead.
    pub fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::SeqCst);
        self.cut.notify_waiters();
    }

    /// How many requests went out since then, and how many were open at once at most since the last time this was
    /// asked. Watches are requests until they are answered.
    pub fn traffic_since(&self, then: Instant) -> (usize, usize) {
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = traffic.sent.iter().rev().take_while(|at| **at >= then).count();
        let most = traffic.most_open;
        traffic.most_open = traffic.open;
        (sent, most)
    }

    fn client(self: &Arc<Self>, lane: Lane) -> Client {
        let (wire, lane) = (self.clone(), Arc::new(lane));
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (wire, lane) = (wire.clone(), lane.clone());
            async move { wire.send(&lane, request).await }
        });
        Client::new(service, "default")
    }

    async fn send(
        self: Arc<Self>,
        lane: &Lane,
        request: Request<kube::client::Body>,
    ) -> Result<Response<UnsyncBoxBody<Bytes, Lost>>, Lost> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|error| Lost(error.to_string()))?.to_bytes();
        if let Some(bucket) = &lane.bucket {
            wait(bucket.reserve(Instant::now())).await;
        }
        let deadline = Instant::now() + lane.timeout;
        let is_watch = head.uri.query().unwrap_or_default().contains("watch=");
        let request = Request::from_parts(head, body);
        let answer = match timeout_at(deadline, self.attempts(lane, &request, deadline)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(Lost(format!("no answer within {:?}", lane.timeout))),
        };
        let deadline = (!is_watch).then_some(deadline);
        Ok(answer.map(|body| self.guarded(body, deadline)))
    }

    async fn attempts(
        &self,
        lane: &Lane,
        request: &Request<Bytes>,
        deadline: Instant,
    ) -> Result<Response<ResponseBody>, Lost> {
        let mut ordered = 0;
        loop {
            wait(lane.pause.reserve(Instant::now())).await;
            let response = self.attempt(request).await?;
            let Some(after) = ordered_wait(&response) else { return Ok(response) };
            if ordered >= ORDERED_RETRIES || Instant::now() + after >= deadline {
                return Ok(response);
            }
            ordered += 1;
            lane.pause.order(Instant::now(), after);
            wait(after).await;
        }
    }

    async fn attempt(&self, request: &Request<Bytes>) -> Result<Response<ResponseBody>, Lost> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let method = request.method().as_str().to_owned();
        let what = || format!("{method} {path}");
        if !self.gate.pass(Side::Api, Phase::Before, &what) {
            return never().await;
        }
        let _open = {
            let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
            traffic.sent.push(Instant::now());
            traffic.open += 1;
            traffic.most_open = traffic.most_open.max(traffic.open);
            OpenRequest(self)
        };
        // Cancel safe: a request whose connection breaks is lost as a whole.
        let answer = tokio::select! {
            biased;
            () = self.cut.notified() => {
                self.story.tell(format!("API   {method} {path}: connection lost"));
                return Err(Lost("the connection was lost".to_owned()));
            }
            answer = self.api.handle(&self.user, request.clone()) => answer,
        };
        let code = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
        self.story.tell(format!("API   {method} {path}: {code}"));
        (self.look)(&Asked { method: &method, path: request.uri().path(), body: request.body(), code });
        if !self.gate.pass(Side::Api, Phase::After, &what) {
            return never().await;
        }
        answer.map_err(|Disconnected| Lost("connection reset by peer".to_owned()))
    }

    /// A body that ends with its connection, and at its deadline.
    fn guarded(self: Arc<Self>, body: ResponseBody, deadline: Option<Instant>) -> UnsyncBoxBody<Bytes, Lost> {
        let cuts = self.cuts.load(Ordering::SeqCst);
        let frames = stream::unfold(Some(body), move |body| {
            let wire = self.clone();
            async move {
                let mut body = body?;
                let cut = wire.cut.notified();
                if wire.cuts.load(Ordering::SeqCst) != cuts {
                    return Some((Err(Lost("the connection was lost".to_owned())), None));
                }
                // Cancel safe: a frame is taken whole or stays in the body.
                tokio::select! {
                    biased;
                    () = cut => Some((Err(Lost("the connection was lost".to_owned())), None)),
                    () = until(deadline) => Some((Err(Lost("the answer did not end in time".to_owned())), None)),
                    frame = body.frame() => match frame? {
                        Ok(frame) => Some((Ok(frame), Some(body))),
                        Err(Disconnected) => Some((Err(Lost("connection reset by peer".to_owned())), None)),
                    },
                }
            }
        });
        StreamBody::new(frames).boxed_unsync()
    }
}

async fn never<T>() -> T {
    match std::future::pending::<Infallible>().await {}
}

async fn wait(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => never().await,
    }
}

/// What the real connections make of Retry-After.
fn ordered_wait<B>(response: &Response<B>) -> Option<Duration> {
    let status = response.status();
    if status.as_u16() != 429 && !status.is_server_error() {
        return None;
    }
    let seconds: u64 = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).max(Duration::from_millis(100)))
}
