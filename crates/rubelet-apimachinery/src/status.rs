//! The `Status` objects a server answers errors with: code, reason, message and details as kube-apiserver words them.
//!
//! Builders only; who may not do what is decided elsewhere. The words are those of `k8s.io/apimachinery/pkg/api/errors`,
//! which clients and people search for.

use std::collections::BTreeSet;

use rubelet_core::validation::{FieldError, Reason};
use serde_json::{Value, json};

use crate::kinds::Resource;

/// An error answer: the HTTP code and the `Status` object of its body.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason, such as `NotFound`; empty where kube-apiserver gives none.
    pub reason: &'static str,
    /// What people read.
    pub message: String,
    /// The `details` of the `Status`; null where there are none.
    pub details: Value,
    /// Seconds for the Retry-After header.
    pub retry_after: Option<u32>,
}

/// One refused field, as `details.causes` of a `Status` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The path, such as `spec.containers[0].name`.
    pub field: String,
    /// `FieldValueInvalid`, `FieldValueRequired`, `FieldManagerConflict` and so on.
    pub reason: &'static str,
    /// What is wrong with it, without the path.
    pub message: String,
}

impl ApiError {
    /// An error without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null, retry_after: None }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        let mut details = json!({"kind": resource.plural});
        if !name.is_empty() {
            details["name"] = json!(name);
        }
        if !resource.group.is_empty() {
            details["group"] = json!(resource.group);
        }
        self.details = details;
        self
    }

    /// The object of the body.
    pub fn body(&self) -> Value {
        let mut body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            body["reason"] = json!(self.reason);
        }
        if !self.details.is_null() {
            body["details"] = self.details.clone();
        }
        if let Some(seconds) = self.retry_after {
            body["details"]["retryAfterSeconds"] = json!(seconds);
        }
        body
    }
}

/// There is no such object.
pub fn not_found(resource: &Resource, name: &str) -> ApiError {
    ApiError::new(404, "NotFound", format!("{} \"{name}\" not found", resource.qualified()))
        .about(resource, name)
}

/// There is such an object.
pub fn already_exists(resource: &Resource, name: &str) -> ApiError {
    ApiError::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", resource.qualified()))
        .about(resource, name)
}

/// What was asked for does not fit what is there.
pub fn conflict(resource: &Resource, name: &str, why: &str) -> ApiError {
    let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
    ApiError::new(409, "Conflict", message).about(resource, name)
}

/// The conflict of an update with an old resource version.
pub fn modified(resource: &Resource, name: &str) -> ApiError {
    conflict(
        resource,
        name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

/// The user may not.
pub fn forbidden(resource: &Resource, name: &str, why: &str) -> ApiError {
    let message = if name.is_empty() {
        format!("{} is forbidden: {why}", resource.qualified())
    } else {
        format!("{} \"{name}\" is forbidden: {why}", resource.qualified())
    };
    ApiError::new(403, "Forbidden", message).about(resource, name)
}

/// Fields that a validation refused.
pub fn invalid(resource: &Resource, name: &str, causes: &[Cause]) -> ApiError {
    let mut seen = BTreeSet::new();
    let listed: Vec<String> = causes
        .iter()
        .filter(|cause| seen.insert((&cause.field, &cause.message)))
        .map(|cause| format!("{}: {}", cause.field, cause.message))
        .collect();
    let listed = if listed.len() == 1 { listed.concat() } else { format!("[{}]", listed.join(", ")) };
    let kind = if resource.group.is_empty() {
        resource.kind.to_owned()
    } else {
        format!("{}.{}", resource.kind, resource.group)
    };
    let mut error = ApiError::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {listed}"));
    error = error.about(resource, name);
    error.details["kind"] = json!(resource.kind);
    error.details["causes"] =
        causes.iter().map(|c| json!({"reason": c.reason, "field": c.field, "message": c.message})).collect();
    error
}

/// The cause that core's validation found.
pub fn cause(error: &FieldError) -> Cause {
    let reason = match error.reason {
        Reason::Required => "FieldValueRequired",
        Reason::Invalid => "FieldValueInvalid",
        Reason::Unsupported => "FieldValueNotSupported",
        Reason::Forbidden => "FieldValueForbidden",
        Reason::Duplicate => "FieldValueDuplicate",
        Reason::NotFound => "FieldValueNotFound",
        Reason::TooLong => "FieldValueTooLong",
        Reason::TooMany => "FieldValueTooMany",
    };
    let text = error.to_string();
    let message = text.strip_prefix(error.field.as_str()).and_then(|t| t.strip_prefix(": ")).unwrap_or(&text);
    Cause { field: error.field.clone(), reason, message: message.to_owned() }
}

/// Fields that core's validation refused.
pub fn invalid_fields(resource: &Resource, name: &str, errors: &[FieldError]) -> ApiError {
    invalid(resource, name, &errors.iter().map(cause).collect::<Vec<_>>())
}

/// The request itself is wrong.
pub fn bad_request(why: impl Into<String>) -> ApiError {
    ApiError::new(400, "BadRequest", why)
}

/// What a watch or a continued list from a forgotten version gets.
pub fn expired(asked: u64, oldest: u64) -> ApiError {
    ApiError::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
}

/// Nothing is at this path.
pub fn unknown_path() -> ApiError {
    let mut error = ApiError::new(404, "NotFound", "the server could not find the requested resource");
    error.details = json!({});
    error
}

/// The kind is known and its path right, but it takes a cluster's controllers to make it true.
pub fn needs_cluster(resource: &Resource) -> ApiError {
    ApiError::new(
        404,
        "NotFound",
        format!(
            "{} are not served by this node's local API: they need the controllers of a cluster. Run the pods \
             themselves here, or point kubectl and this node at a cluster (rubelet --kubeconfig <file>)",
            resource.qualified()
        ),
    )
    .about(resource, "")
}

/// The resource has no such verb.
pub fn method_not_allowed(resource: &Resource) -> ApiError {
    ApiError::new(
        405,
        "MethodNotAllowed",
        format!("the server does not allow this method on the requested resource ({})", resource.plural),
    )
}

/// The body is of a type that nobody here reads.
pub fn unsupported_media_type(got: &str, taken: &[&str]) -> ApiError {
    ApiError::new(
        415,
        "UnsupportedMediaType",
        format!(
            "the body of the request was in an unknown format ({got}) - accepted media types include: {}",
            taken.join(", ")
        ),
    )
}

/// None of the types the client takes can be made here.
pub fn not_acceptable(made: &[&str]) -> ApiError {
    ApiError::new(
        406,
        "NotAcceptable",
        format!("only the following media types are accepted: {}", made.join(", ")),
    )
}

/// The body is larger than `limit` bytes.
pub fn too_large(limit: usize) -> ApiError {
    ApiError::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
}

/// Nobody knows who asks.
pub fn unauthorized() -> ApiError {
    ApiError::new(401, "Unauthorized", "Unauthorized")
}

/// The server failed, through no fault of the client.
pub fn internal(why: impl std::fmt::Display) -> ApiError {
    ApiError::new(500, "InternalError", format!("Internal error occurred: {why}"))
}

/// The body of a delete that leaves no object to return.
pub fn success(resource: &Resource, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": resource.plural, "uid": uid});
    if !resource.group.is_empty() {
        details["group"] = json!(resource.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
