//! The way of one request: faults, authorization, the verb, the record of it.
//!
//! Everything that judges or changes objects happens under one lock and without waiting, so that what a request sees
//! is one moment. Waiting (latency, faults) happens around that.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use serde_json::{Value, json};

use super::body::{self, Disconnected, ResponseBody};
use super::fault::{Failure, Outage};
use super::request::{ApiRequest, User};
use super::status::{self, ApiError};
use super::watch::{self, OpenWatch};
use super::{FakeApi, Inner, Options, RecordedRequest, State, Violation, authorizer, discovery, verbs};

/// A request being carried out: what every rule may look at.
pub(crate) struct Call<'a> {
    pub options: &'a Options,
    pub user: &'a User,
    pub request: &'a ApiRequest,
    pub body: &'a Bytes,
    pub headers: &'a HeaderMap,
    pub now: jiff::Timestamp,
}

impl Call<'_> {
    /// The client program, as managedFields name it.
    pub(crate) fn manager(&self) -> String {
        let agent = self.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("unknown");
        agent.split('/').next().unwrap_or(agent).to_owned()
    }

    pub(crate) fn content_type(&self) -> &str {
        self.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

/// What a request comes to.
pub(crate) enum Reply {
    Object(u16, Value),
    Text(&'static str),
    Watch(Box<OpenWatch>),
}

impl FakeApi {
    /// Answers one request of an authenticated user.
    ///
    /// # Errors
    /// When a fault or an outage breaks the connection.
    pub async fn handle(
        &self,
        user: &User,
        request: Request<Bytes>,
    ) -> Result<Response<ResponseBody>, Disconnected> {
        let (parts, payload) = request.into_parts();
        let asked = ApiRequest::parse(user, &parts.method, &parts.uri);
        let (failure, outage, latency) = {
            let mut state = self.inner.state();
            (state.faults.strike(&asked), state.outage, state.latency)
        };
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let lost = |code| self.inner.record(&asked, &payload, code, 0);
        match (outage, &failure) {
            (Outage::Refuse, _) | (_, Some(Failure::Reset)) => {
                lost(0);
                return Err(Disconnected);
            }
            (Outage::Hang, _) | (_, Some(Failure::Hang)) => {
                lost(0);
                return std::future::pending().await;
            }
            (_, Some(Failure::HalfOpen)) if asked.verb != "watch" => {
                lost(0);
                return std::future::pending().await;
            }
            (_, Some(Failure::Status(code, retry_after))) => {
                let error = injected(*code, *retry_after);
                return Ok(self.answer_error(&asked, &payload, &error));
            }
            _ => {}
        }
        let call = Call {
            options: &self.inner.options,
            user,
            request: &asked,
            body: &payload,
            headers: &parts.headers,
            now: (self.inner.options.now)(),
        };
        let outcome = {
            let mut state = self.inner.state();
            let mut outcome = carry_out(&mut state, &call);
            if let (Ok(Reply::Watch(open)), Some(failure)) = (&mut outcome, &failure) {
                watch::afflict(&mut state, open, failure);
            }
            outcome
        };
        if failure == Some(Failure::ResetAfter) && asked.verb != "watch" {
            lost(0);
            return Err(Disconnected);
        }
        Ok(match outcome {
            Ok(Reply::Object(code, object)) => {
                let bytes = Bytes::from(object.to_string());
                self.inner.record(&asked, &payload, code, bytes.len());
                let body = match failure {
                    Some(Failure::SlowBody(pause)) => body::slow(bytes, pause),
                    Some(Failure::CutBody) => body::cut(&bytes),
                    Some(Failure::Garbage) => body::whole(Bytes::from_static(b"<html>\x00\xff{not json")),
                    _ => body::whole(bytes),
                };
                answer(code, "application/json", body)
            }
            Ok(Reply::Text(text)) => {
                self.inner.record(&asked, &payload, 200, text.len());
                answer(200, "text/plain", body::whole(Bytes::from_static(text.as_bytes())))
            }
            Ok(Reply::Watch(open)) => {
                self.inner.record(&asked, &payload, 200, 0);
                let slow = match failure {
                    Some(Failure::SlowBody(pause)) => Some(pause),
                    _ => None,
                };
                answer(200, "application/json", watch::stream(&self.inner, *open, slow))
            }
            Err(error) => self.answer_error(&asked, &payload, &error),
        })
    }

    /// Answers a request whose user could not be found out.
    pub(crate) fn unauthenticated(&self, request: &Request<Bytes>) -> Response<ResponseBody> {
        let user = User { name: String::new(), groups: vec![] };
        let asked = ApiRequest::parse(&user, request.method(), request.uri());
        self.answer_error(&asked, request.body(), &status::unauthorized())
    }

    fn answer_error(&self, asked: &ApiRequest, payload: &Bytes, error: &ApiError) -> Response<ResponseBody> {
        let bytes = Bytes::from(error.body().to_string());
        self.inner.record(asked, payload, error.code, bytes.len());
        let mut response = answer(error.code, "application/json", body::whole(bytes));
        if let Some(seconds) = error.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

fn answer(code: u16, content_type: &'static str, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// The error a fault orders, with the reason a real server gives for the code.
fn injected(code: u16, retry_after: Option<u32>) -> ApiError {
    let (reason, message) = match code {
        400 => ("BadRequest", "the server rejected our request for an unknown reason"),
        401 => ("Unauthorized", "Unauthorized"),
        403 => ("Forbidden", "forbidden: ordered by the test"),
        404 => ("NotFound", "the server could not find the requested resource"),
        409 => (
            "Conflict",
            "the object has been modified; please apply your changes to the latest version and try again",
        ),
        410 => ("Expired", "too old resource version: 1 (2)"),
        429 => ("TooManyRequests", "Too many requests, please try again later."),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
        504 => ("Timeout", "Timeout: request did not complete within the allotted timeout"),
        _ => ("InternalError", "Internal error occurred: ordered by the test"),
    };
    let mut error = ApiError::new(code, reason, message);
    error.details = json!({});
    error.retry_after = retry_after;
    error
}

fn carry_out(state: &mut State, call: &Call<'_>) -> Result<Reply, ApiError> {
    if call.request.resource.is_empty() {
        return discovery::answer(&call.request.path);
    }
    let resource = call.request.target().ok_or_else(status::unknown_path)?;
    if call.options.authorize {
        let allowed = authorizer::authorize(state, call, resource);
        if let Err(error) = &allowed {
            state.violate(call, error);
        }
        allowed?;
    }
    verbs::dispatch(state, call, resource)
}

impl State {
    /// Keeps what a node was refused.
    pub(crate) fn violate(&mut self, call: &Call<'_>, error: &ApiError) {
        let request = call.request;
        self.violations.push(Violation {
            user: request.user.clone(),
            verb: request.verb,
            resource: request.resource.clone(),
            subresource: request.subresource.clone(),
            namespace: request.namespace.clone(),
            name: request.name.clone(),
            message: error.message.clone(),
        });
    }
}

impl Inner {
    pub(crate) fn record(self: &Arc<Self>, asked: &ApiRequest, payload: &Bytes, code: u16, bytes: usize) {
        let record = RecordedRequest {
            at: (self.options.now)(),
            request: asked.clone(),
            body: payload.clone(),
            code,
            bytes,
        };
        self.state().requests.push(record);
    }
}
