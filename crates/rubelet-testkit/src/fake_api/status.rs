//! The `Status` objects a server answers errors with: code, reason, message and details as the real one words them.
//!
//! Builders only; who may not do what is decided in the authorizer, the admission plugin and the store.

use serde_json::{Value, json};

use super::resources::Resource;

/// An error answer: the HTTP code and the `Status` object of its body.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiError {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub details: Value,
    /// Seconds for the Retry-After header.
    pub retry_after: Option<u32>,
}

impl ApiError {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null, retry_after: None }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        let mut details = json!({"name": name, "kind": resource.plural});
        if !resource.group.is_empty() {
            details["group"] = json!(resource.group);
        }
        self.details = details;
        self
    }

    /// The object of the body.
    pub(crate) fn body(&self) -> Value {
        let mut body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            body["details"] = self.details.clone();
        }
        if let Some(seconds) = self.retry_after {
            body["details"]["retryAfterSeconds"] = json!(seconds);
        }
        body
    }
}

/// `pods "x"`, with the group where there is one: how messages name an object.
fn qualified(resource: &Resource) -> String {
    if resource.group.is_empty() {
        resource.plural.to_owned()
    } else {
        format!("{}.{}", resource.plural, resource.group)
    }
}

pub(crate) fn not_found(resource: &Resource, name: &str) -> ApiError {
    ApiError::new(404, "NotFound", format!("{} \"{name}\" not found", qualified(resource)))
        .about(resource, name)
}

pub(crate) fn already_exists(resource: &Resource, name: &str) -> ApiError {
    ApiError::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", qualified(resource)))
        .about(resource, name)
}

pub(crate) fn conflict(resource: &Resource, name: &str, why: &str) -> ApiError {
    let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(resource));
    ApiError::new(409, "Conflict", message).about(resource, name)
}

/// The conflict of an update with an old resource version.
pub(crate) fn modified(resource: &Resource, name: &str) -> ApiError {
    conflict(
        resource,
        name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

pub(crate) fn forbidden(resource: &Resource, name: &str, why: &str) -> ApiError {
    let message = if name.is_empty() {
        format!("{} is forbidden: {why}", qualified(resource))
    } else {
        format!("{} \"{name}\" is forbidden: {why}", qualified(resource))
    };
    ApiError::new(403, "Forbidden", message).about(resource, name)
}

/// One or more fields a validation refused: `(path, what is wrong)`.
pub(crate) fn invalid(resource: &Resource, name: &str, causes: &[(String, String)]) -> ApiError {
    let listed: Vec<String> = causes.iter().map(|(field, what)| format!("{field}: {what}")).collect();
    let listed = if listed.len() == 1 { listed[0].clone() } else { format!("[{}]", listed.join(", ")) };
    let kind = if resource.group.is_empty() {
        resource.kind.to_owned()
    } else {
        format!("{}.{}", resource.kind, resource.group)
    };
    let mut error = ApiError::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {listed}"));
    let causes: Vec<Value> = causes
        .iter()
        .map(|(field, what)| json!({"reason": "FieldValueInvalid", "field": field, "message": what}))
        .collect();
    error.details = json!({"name": name, "kind": resource.kind, "causes": causes});
    error
}

pub(crate) fn bad_request(why: impl Into<String>) -> ApiError {
    ApiError::new(400, "BadRequest", why)
}

/// What a watch or a continued list from a forgotten version gets.
pub(crate) fn expired(asked: u64, oldest: u64) -> ApiError {
    ApiError::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
}

pub(crate) fn unknown_path() -> ApiError {
    let mut error = ApiError::new(404, "NotFound", "the server could not find the requested resource");
    error.details = json!({});
    error
}

pub(crate) fn method_not_allowed(resource: &Resource) -> ApiError {
    ApiError::new(
        405,
        "MethodNotAllowed",
        format!("the server does not allow this method on the requested resource ({})", resource.plural),
    )
}

pub(crate) fn unauthorized() -> ApiError {
    ApiError::new(401, "Unauthorized", "Unauthorized")
}

/// The body of a delete that leaves no object to return.
pub(crate) fn success(resource: &Resource, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": resource.plural, "uid": uid});
    if !resource.group.is_empty() {
        details["group"] = json!(resource.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
