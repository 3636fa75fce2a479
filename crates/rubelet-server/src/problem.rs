//! What an answer says when it cannot be given: a code, a reason and a text, as a `Status` object (for the API) or as
//! plain text (as the node's own port says it).

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use crate::body::{self, Body};

/// Why a request was not served.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// The HTTP status code.
    pub code: StatusCode,
    /// The text people read.
    pub message: String,
    /// The `details` of the `Status`; null where there are none.
    pub details: Value,
}

impl Problem {
    /// A problem without details.
    pub fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Value::Null }
    }

    /// The request makes no sense (400).
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// What was asked for is not there (404).
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// The node or the runtime failed (500).
    pub fn internal(why: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("Internal error occurred: {why}"))
    }

    /// The API's word for the code (upstream `metav1.StatusReason`).
    pub fn reason(&self) -> &'static str {
        match self.code.as_u16() {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            405 => "MethodNotAllowed",
            406 => "NotAcceptable",
            409 => "Conflict",
            422 => "Invalid",
            429 => "TooManyRequests",
            500 => "InternalError",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "",
        }
    }

    /// The `Status` object.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason(), "code": self.code.as_u16(),
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }

    /// The answer as a `Status` object.
    pub fn response(&self) -> Response<Body> {
        self.answer("application/json", self.status().to_string())
    }

    /// The answer as plain text, as the node's own port gives it.
    pub fn text_response(&self) -> Response<Body> {
        self.answer("text/plain; charset=utf-8", self.message.clone())
    }

    fn answer(&self, kind: &'static str, text: String) -> Response<Body> {
        let mut response = Response::new(body::whole(text));
        *response.status_mut() = self.code;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }
}
