//! One request to the API server, from kube's hands to the head of the answer: pace, pause, credentials, connection,
//! retries that a caller need not know of, deadline, count.
//!
//! Retried: what the server cannot have seen; a GET whose connection ended; 429 and 5xx with Retry-After, as
//! client-go does; a 401 once, when there are new credentials to come with. Everything else is the caller's.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use tokio::time::Instant;
use tower::Service;

use super::Hub;
use super::body::LeasedBody;
use super::error::TransportError;
use super::observe::Observed;
use super::pool::{Lease, Pool, RequestBody};
use crate::credentials::Used;
use crate::rate_limit::{Pause, TokenBucket};

/// How often a request is sent again because the server says so, as in client-go.
const MAX_ORDERED_RETRIES: u32 = 10;
/// How often it is sent again because a connection ended.
const MAX_LOST_RETRIES: u32 = 3;
/// A server that says 0 seconds is not asked again at once.
const MIN_RETRY_AFTER: Duration = Duration::from_millis(100);

/// Put into a request's extensions to pass the client's own rate limit. `Connections::urgent` does so for all.
#[derive(Clone, Copy, Debug)]
pub struct Urgent;

/// A way to the server: connections, pace and deadline.
#[derive(Clone)]
pub(super) struct Lane {
    pub(super) pool: Pool,
    pub(super) bucket: Option<Arc<TokenBucket>>,
    pub(super) pause: Arc<Pause>,
    pub(super) timeout: Duration,
}

/// What `kube::Client` sends requests into. Always ready; all waiting is in the future of a call.
#[derive(Clone)]
pub(super) struct ApiService {
    hub: Arc<Hub>,
    lane: Arc<Lane>,
    user_agent: HeaderValue,
}

impl ApiService {
    pub(super) fn new(hub: Arc<Hub>, lane: Lane, user_agent: HeaderValue) -> Self {
        Self { hub, lane: Arc::new(lane), user_agent }
    }
}

impl Service<Request<kube::client::Body>> for ApiService {
    type Response = Response<LeasedBody>;
    type Error = TransportError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { service.handle(request).await })
    }
}

/// A request that can be sent any number of times.
struct Template {
    head: http::request::Parts,
    body: Bytes,
    deadline: Instant,
    is_watch: bool,
}

/// What became of one attempt.
enum Attempt {
    Answer(Response<hyper::body::Incoming>, Lease),
    /// Try again on another connection.
    Lost(TransportError),
    Failed(TransportError),
}

impl ApiService {
    async fn handle(
        self,
        request: Request<kube::client::Body>,
    ) -> Result<Response<LeasedBody>, TransportError> {
        self.hub.look_at_files();
        let (mut head, body) = request.into_parts();
        let body =
            body.collect().await.map_err(|error| TransportError::RequestBody(error.to_string()))?.to_bytes();
        head.headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        head.headers.insert(USER_AGENT, self.user_agent.clone());
        if let (Some(bucket), None) = (&self.lane.bucket, head.extensions.get::<Urgent>()) {
            let waits = bucket.reserve(Instant::now());
            let (method, host) = (&head.method, self.hub.host.as_str());
            self.hub.observer.tell(&Observed::Paced { method, host, waits });
            wait(waits).await;
        }
        let (method, path, is_watch) = (head.method.clone(), head.uri.path().to_owned(), is_watch(&head.uri));
        let deadline = Instant::now() + self.lane.timeout;
        let template = Template { head, body, deadline, is_watch };
        let began = Instant::now();
        match tokio::time::timeout_at(deadline, self.attempts(&template)).await {
            Ok(Ok(answer)) => {
                self.hub.tell_answer(answer.status());
                Ok(answer)
            }
            Ok(Err(error)) => {
                self.hub.tell_failure(&error);
                Err(error)
            }
            Err(_) => {
                self.hub.count(&method, None, began.elapsed(), template.body.len());
                Err(TransportError::Deadline { method, path, after: self.lane.timeout })
            }
        }
    }

    async fn attempts(&self, template: &Template) -> Result<Response<LeasedBody>, TransportError> {
        let method = &template.head.method;
        let (mut ordered, mut lost, mut refused) = (0, 0, false);
        loop {
            wait(self.lane.pause.reserve(Instant::now())).await;
            let (used, changed) =
                self.hub.credentials.authorization().await.map_err(TransportError::Credentials)?;
            if changed {
                self.hub.close_all();
            }
            let began = Instant::now();
            let count = |code| self.hub.count(method, code, began.elapsed(), template.body.len());
            let (response, lease) = match self.attempt(template, &used).await {
                Attempt::Answer(response, lease) => (response, lease),
                Attempt::Lost(_) if lost < MAX_LOST_RETRIES => {
                    lost += 1;
                    continue;
                }
                Attempt::Lost(error) | Attempt::Failed(error) => {
                    count(None);
                    return Err(error);
                }
            };
            count(Some(response.status().as_u16()));
            if response.status() == StatusCode::UNAUTHORIZED
                && !refused
                && self.hub.credentials.refused(&used).await
            {
                refused = true;
                // A certificate belongs to a connection, so new ones are needed; a token does not.
                if self.hub.credentials.identity().is_some() {
                    self.hub.close_all();
                }
                continue;
            }
            if let Some(after) = ordered_wait(&response)
                && ordered < MAX_ORDERED_RETRIES
                && Instant::now() + after < template.deadline
            {
                ordered += 1;
                let (host, code) = (self.hub.host.as_str(), response.status().as_u16());
                self.hub.observer.tell(&Observed::Retried { method, host, code });
                self.lane.pause.order(Instant::now(), after);
                drain(response, lease);
                wait(after).await;
                continue;
            }
            let deadline = (!template.is_watch).then_some(template.deadline);
            return Ok(response.map(|incoming| LeasedBody::new(incoming, lease, deadline)));
        }
    }

    async fn attempt(&self, template: &Template, used: &Used) -> Attempt {
        let mut lease = match self.lane.pool.lease().await {
            Ok(lease) => lease,
            Err(failure) => return Attempt::Failed(TransportError::Connect(failure)),
        };
        let request = match self.build(template, used, lease.is_http2()) {
            Ok(request) => request,
            Err(error) => return Attempt::Failed(error),
        };
        match lease.send(request).await {
            Ok(response) => Attempt::Answer(response, lease),
            Err(failure) => {
                lease.discard();
                let method = template.head.method.clone();
                let again = failure.unsent || method == Method::GET;
                let path = template.head.uri.path().to_owned();
                let error = TransportError::Lost { method, path, io: failure.io, source: failure.error };
                if again { Attempt::Lost(error) } else { Attempt::Failed(error) }
            }
        }
    }

    fn build(
        &self,
        template: &Template,
        used: &Used,
        http2: bool,
    ) -> Result<Request<RequestBody>, TransportError> {
        let wrong = || TransportError::Address(template.head.uri.to_string());
        let server = &self.hub.access.server;
        let prefix = server.path().trim_end_matches('/');
        let asked = template.head.uri.path_and_query().map_or("/", |path| path.as_str());
        let path = format!("{prefix}{asked}");
        let authority = server.authority().ok_or_else(wrong)?;
        let host = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
        let uri = if http2 {
            let scheme = server.scheme_str().unwrap_or("https");
            Uri::builder().scheme(scheme).authority(host).path_and_query(path).build()
        } else {
            Uri::builder().path_and_query(path).build()
        };
        let mut request = Request::new(Full::new(template.body.clone()));
        *request.method_mut() = template.head.method.clone();
        *request.uri_mut() = uri.map_err(|_| wrong())?;
        *request.headers_mut() = template.head.headers.clone();
        if !http2 {
            request.headers_mut().insert(HOST, HeaderValue::from_str(host).map_err(|_| wrong())?);
        }
        if let Some(value) = &used.header {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        Ok(request)
    }
}

async fn wait(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// Whether the answer goes on for as long as both sides like.
fn is_watch(uri: &Uri) -> bool {
    uri.query()
        .unwrap_or_default()
        .split('&')
        .any(|pair| matches!(pair, "watch=true" | "watch=1" | "follow=true"))
}

/// How long the server wants us to wait before the same request again, if it wants that.
fn ordered_wait<B>(response: &Response<B>) -> Option<Duration> {
    let status = response.status();
    if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
        return None;
    }
    let seconds: u64 = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).max(MIN_RETRY_AFTER))
}

/// A short body is read so that an HTTP/1 connection can be used again; nobody waits for it.
fn drain(response: Response<hyper::body::Incoming>, lease: Lease) {
    let deadline = Instant::now() + Duration::from_secs(1);
    let body =
        http_body_util::Limited::new(LeasedBody::new(response.into_body(), lease, Some(deadline)), 64 * 1024);
    tokio::spawn(async move {
        // Only the connection matters.
        let _ = body.collect().await;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_are_known_by_their_query() {
        let check = |uri: &str| is_watch(&uri.parse().unwrap());
        assert!(check("/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dn1"));
        assert!(check("/api/v1/pods?fieldSelector=x&watch=1"));
        assert!(!check("/api/v1/pods?watch=false"));
        assert!(!check("/api/v1/pods"));
    }

    #[test]
    fn only_answers_with_retry_after_are_retried() {
        let check = |code: u16, after: Option<&str>| {
            let mut response = Response::builder().status(code);
            if let Some(after) = after {
                response = response.header(RETRY_AFTER, after);
            }
            ordered_wait(&response.body(()).unwrap()).map(|wait| wait.as_millis())
        };
        assert_eq!(check(429, Some("3")), Some(3000));
        assert_eq!(check(503, Some("1")), Some(1000));
        assert_eq!(check(500, Some("0")), Some(100));
        assert_eq!(check(429, None), None);
        assert_eq!(check(429, Some("Wed, 21 Oct 2026 07:28:00 GMT")), None);
        assert_eq!(check(200, Some("1")), None);
        assert_eq!(check(409, Some("1")), None);
    }
}
