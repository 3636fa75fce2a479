//! Applying a patch: JSON patch (RFC 6902), JSON merge patch (RFC 7386), strategic merge patch.
//!
//! Values in, values out. Who may patch, what may change and field ownership are decided elsewhere; the result goes
//! through [`finish`], which checks it against the type.

mod json;
mod merge;
mod order;
mod strategic;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use crate::decode::{self, FieldValidation};
use crate::schema::Type;
use crate::status::{ApiError, bad_request};
use crate::strategy::Warnings;
use json::JsonPatchError;
use strategic::StrategicError;

/// The language of a patch, by its content type. Apply patches are server-side apply's and not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// `application/json-patch+json`.
    Json,
    /// `application/merge-patch+json`.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
}

/// A patch that was read, not yet applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// Its language.
    pub kind: PatchKind,
    /// What it says.
    pub value: Value,
    /// What is odd about its text, such as fields that occur twice; [`finish`] wants them.
    pub problems: Vec<String>,
}

/// Reads the body of a patch request.
///
/// # Errors
/// 400 when it is no JSON, or no object (no list, for a JSON patch).
pub fn read(kind: PatchKind, body: &[u8]) -> Result<Patch, ApiError> {
    let prefix = if kind == PatchKind::Strategic { "" } else { "error decoding patch: " };
    let read = decode::json(body).map_err(|error| bad_request(format!("{prefix}{error}")))?;
    if kind != PatchKind::Json && !read.value.is_object() {
        return Err(bad_request(match (&read.value, kind) {
            (Value::Null, PatchKind::Merge) => "Invalid JSON Patch".to_owned(),
            (value, _) => format!(
                "{prefix}json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                json_kind(value)
            ),
        }));
    }
    let origin = if kind == PatchKind::Json { "json patch " } else { "" };
    let mut problems: Vec<String> =
        read.duplicates.iter().map(|path| format!("{origin}duplicate field {path:?}")).collect();
    if kind == PatchKind::Json {
        for (index, operation) in read.value.as_array().into_iter().flatten().enumerate() {
            let known = |key: &str| matches!(key, "op" | "path" | "from" | "value");
            let unknown =
                operation.as_object().into_iter().flat_map(|fields| fields.keys()).filter(|key| !known(key));
            problems.extend(unknown.map(|key| format!("{origin}unknown field \"[{index}].{key}\"")));
            // One line tells enough; a patch may have very many.
            problems.truncate(decode::MAX_PROBLEMS);
        }
    }
    Ok(Patch { kind, value: read.value, problems })
}

/// Applies a patch to an object of type `t`. The result is what the patch says, not yet checked: see [`finish`].
///
/// # Errors
/// 400, 413 or 422 with kube-apiserver's words when the patch does not apply.
pub fn apply(kind: PatchKind, t: Type, current: &Value, patch: &Value) -> Result<Value, ApiError> {
    match kind {
        PatchKind::Json => json::apply(current, patch).map_err(|error| match error {
            JsonPatchError::Malformed(_) => bad_request(error.to_string()),
            JsonPatchError::TooMany(_) => {
                ApiError::new(413, "RequestEntityTooLarge", format!("Request entity too large: {error}"))
            }
            JsonPatchError::Failed(_) => unprocessable(&error),
        }),
        PatchKind::Merge => {
            let mut patched = current.clone();
            merge::apply(&mut patched, patch);
            Ok(patched)
        }
        PatchKind::Strategic => strategic::apply(t, current, patch).map_err(|error| match error {
            StrategicError::ListOfLists => unprocessable(&error),
            _ => bad_request(error.to_string()),
        }),
    }
}

/// Upstream keeps the cause to itself here; people need it.
fn unprocessable(why: &impl std::fmt::Display) -> ApiError {
    let message = format!("the server rejected our request due to an error in our request: {why}");
    let mut error = ApiError::new(422, "Invalid", message);
    error.details = json!({});
    error
}

/// Checks a patched object against its type and brings it into the form in which it is stored.
///
/// # Errors
/// 422 as kube-apiserver words it when a field has the wrong type or, with [`FieldValidation::Strict`], is not known.
pub fn finish(
    patch: &Patch,
    t: Type,
    patched: Value,
    validation: FieldValidation,
) -> Result<(Value, Warnings), ApiError> {
    // Shown in errors only, and then with the object that was refused.
    let shown = match patch.kind {
        PatchKind::Strategic => go_print(&patch.value),
        PatchKind::Json | PatchKind::Merge => patched.to_string(),
    };
    let refuse = |why: &str| {
        let message = format!("Invalid value: {shown:?}: {why}");
        let mut error = ApiError::new(422, "Invalid", format!(" \"\" is invalid: patch: {message}"));
        error.details =
            json!({"causes": [{"reason": "FieldValueInvalid", "field": "patch", "message": message}]});
        error
    };
    let (value, unknown) = decode::conform(t, patched).map_err(|error| refuse(&error.message))?;
    let problems = patch.problems.iter().cloned().chain(unknown).collect();
    let warnings = validation.judge(problems).map_err(|why| refuse(&why))?;
    Ok((value, warnings))
}

/// What Go's JSON errors call a value.
pub(crate) fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A value as Go prints it (`%v`), which is how messages about patches show them.
fn go_print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_print).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(key, value)| format!("{key}:{}", go_print(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}
