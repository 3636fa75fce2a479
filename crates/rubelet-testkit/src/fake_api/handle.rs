//! The way of one request: faults, the engine, what faults do to its answer, the record of it.
//!
//! The engine carries a request out without waiting, so that what it sees is one moment. Waiting (latency, faults)
//! happens around that.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use rubelet_apimachinery::status::{self, ApiError};
use rubelet_localapi::engine;
use rubelet_localapi::node::Body;
use serde_json::{Value, json};

use super::body::{self, Disconnected, ResponseBody};
use super::fault::{Failure, Outage};
use super::request::{ApiRequest, User};
use super::{FakeApi, Inner, RecordedRequest, Violation};

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
        let lost = || self.inner.record(&asked, &payload, 0, 0);
        match (outage, &failure) {
            (Outage::Refuse, _) | (_, Some(Failure::Reset)) => {
                lost();
                return Err(Disconnected);
            }
            (Outage::Hang, _) | (_, Some(Failure::Hang)) => {
                lost();
                return std::future::pending().await;
            }
            (_, Some(Failure::HalfOpen)) if asked.verb != "watch" => {
                lost();
                return std::future::pending().await;
            }
            (_, Some(Failure::Status(code, retry_after))) => {
                let refused = engine::refusal(&injected(*code, *retry_after));
                return Ok(self.answer(&asked, &payload, refused, None).await);
            }
            _ => {}
        }
        let request = Request::from_parts(parts, body::to_engine(payload.clone()));
        let response = self.inner.engine.handle(user.to_engine(), request).await;
        self.settle();
        if asked.verb == "watch" && response.status() == 200 {
            self.inner.record(&asked, &payload, 200, 0);
            return Ok(self.follow(&asked, response, failure.as_ref()));
        }
        if failure == Some(Failure::ResetAfter) {
            lost();
            return Err(Disconnected);
        }
        Ok(self.answer(&asked, &payload, response, failure.as_ref()).await)
    }

    /// Answers a request whose user could not be found out.
    pub(crate) async fn unauthenticated(&self, request: &Request<Bytes>) -> Response<ResponseBody> {
        let user = User { name: String::new(), groups: vec![] };
        let asked = ApiRequest::parse(&user, request.method(), request.uri());
        self.answer(&asked, request.body(), engine::refusal(&status::unauthorized()), None).await
    }

    /// Sends an answer that is not spoiled, or is.
    async fn answer(
        &self,
        asked: &ApiRequest,
        payload: &Bytes,
        response: Response<Body>,
        failure: Option<&Failure>,
    ) -> Response<ResponseBody> {
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.map(|body| body.to_bytes());
        let bytes = bytes.unwrap_or_else(|e| panic!("the engine cut an answer off: {e}"));
        let code = parts.status.as_u16();
        if code == 403 {
            self.inner.violated(asked, &bytes);
        }
        self.inner.record(asked, payload, code, bytes.len());
        let body = match failure.filter(|_| parts.status.is_success()) {
            Some(Failure::SlowBody(pause)) => body::slow(bytes, *pause),
            Some(Failure::CutBody) => body::cut(&bytes),
            Some(Failure::Garbage) => body::whole(Bytes::from_static(b"<html>\x00\xff{not json")),
            _ => body::whole(bytes),
        };
        Response::from_parts(parts, body)
    }
}

/// The error a fault orders, with the reason a real server gives for the code.
fn injected(code: u16, retry_after: Option<u32>) -> ApiError {
    let (reason, message) = match code {
        400 => ("BadRequest", "the server rejected our request for an unknown reason"),
        401 => ("Unauthorized", "Unauthorized"),
        403 => ("Forbidden", ORDERED),
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

/// The message of a 403 that is nobody's fault.
const ORDERED: &str = "forbidden: ordered by the test";

impl Inner {
    pub(crate) fn record(&self, asked: &ApiRequest, payload: &Bytes, code: u16, bytes: usize) {
        let record =
            RecordedRequest { at: self.now(), request: asked.clone(), body: payload.clone(), code, bytes };
        self.state().requests.push(record);
    }

    /// Keeps what someone was refused. A namespace that ends refuses everyone, which is no wrong of theirs.
    fn violated(&self, asked: &ApiRequest, answer: &Bytes) {
        let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
        let message = answer["message"].as_str().unwrap_or_default();
        let ends = answer["details"]["causes"][0]["reason"] == "NamespaceTerminating";
        if ends || message == ORDERED {
            return;
        }
        self.state().violations.push(Violation {
            user: asked.user.clone(),
            verb: asked.verb,
            resource: asked.resource.clone(),
            subresource: asked.subresource.clone(),
            namespace: asked.namespace.clone(),
            name: asked.name.clone(),
            message: message.to_owned(),
        });
    }
}
