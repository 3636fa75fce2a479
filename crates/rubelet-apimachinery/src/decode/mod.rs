//! From the body of a request to an object of the type that its path wants, or the error that kube-apiserver answers
//! with.
//!
//! Syntax, kinds, types and unknown fields only; what values may be is decided by [`crate::strategy`]. The size of
//! bodies is limited by the server.

mod conform;
mod go;
mod protobuf;
mod scalars;
mod syntax;
#[cfg(test)]
pub(crate) mod tests;

use serde_json::{Map, Value};

use crate::kinds;
use crate::schema::Type;
use crate::status::{ApiError, bad_request, internal};
use crate::strategy::Warnings;
pub use conform::{check, conform};
pub use protobuf::protobuf;
pub use syntax::{Read, SyntaxError, json, yaml, yaml_documents};

/// Objects nest no deeper; a body that does is refused before anything walks it.
pub const MAX_DEPTH: usize = 128;
/// More unknown or repeated fields are not listed, as upstream.
pub const MAX_PROBLEMS: usize = 100;

/// The language of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// `application/json`; what a body without a type is taken for.
    Json,
    /// `application/yaml`; JSON is a part of it.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`, in which clients written in Go say objects of built-in types.
    Protobuf,
}

impl Media {
    /// The language of a `Content-Type`; none for those that are not read here.
    pub fn of(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "" | "*/*" | "application/json" => Some(Self::Json),
            "application/yaml" | "application/apply-patch+yaml" => Some(Self::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(Self::Protobuf),
            _ => None,
        }
    }

    fn read(self, body: &[u8]) -> Result<Read, SyntaxError> {
        match self {
            Self::Json => json(body),
            Self::Yaml => yaml(body),
            Self::Protobuf => protobuf(body).map(|value| Read { value, duplicates: Vec::new() }),
        }
    }
}

/// What becomes of fields that are unknown or occur twice (`fieldValidation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// They are dropped; the last of equal ones counts.
    Ignore,
    /// Likewise, and the client is told.
    #[default]
    Warn,
    /// The request is refused.
    Strict,
}

impl FieldValidation {
    /// The value of the query parameter; none when there is no such value.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Ignore" => Some(Self::Ignore),
            "" | "Warn" => Some(Self::Warn),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }

    /// The warnings that problems give, or the text of the error.
    pub(crate) fn judge(self, mut problems: Vec<String>) -> Result<Warnings, String> {
        problems.truncate(MAX_PROBLEMS);
        match self {
            Self::Ignore => Ok(Vec::new()),
            Self::Warn => Ok(problems),
            Self::Strict if problems.is_empty() => Ok(problems),
            Self::Strict => Err(format!("strict decoding error: {}", problems.join(", "))),
        }
    }
}

/// Reads an object of the kind that a path wants (`apiVersion` and kind), in the form in which it is stored. Body
/// without `apiVersion` or `kind` get those of the path.
///
/// # Errors
/// 400 with kube-apiserver's words when the body is no such object.
pub fn decode(
    expected: (&str, &str),
    body: &[u8],
    media: Media,
    validation: FieldValidation,
) -> Result<(Value, Warnings), ApiError> {
    let (api_version, kind) = expected;
    let t = Type::of(api_version, kind)
        .ok_or_else(|| internal(format_args!("no type for {api_version} {kind}")))?;
    let unrecognized = |why: String| {
        let summary = summary(body);
        bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {why} ({summary})"
        ))
    };
    let interpret = |why: &str| format!("couldn't get version/kind; json parse error: {why}");
    let read = media.read(body).map_err(|error| {
        unrecognized(match error {
            SyntaxError::Json(why) => interpret(&why),
            SyntaxError::Yaml(_) | SyntaxError::Protobuf(_) => error.to_string(),
        })
    })?;
    let mut fields = match read.value {
        Value::Object(fields) => fields,
        Value::Null => Map::new(),
        other => {
            let into = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
            let got = crate::patch::json_kind(&other);
            return Err(unrecognized(interpret(&format!(
                "json: cannot unmarshal {got} into Go value of type {into}"
            ))));
        }
    };
    let said = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(unrecognized(interpret(&format!(
            "json: cannot unmarshal {} into Go struct field .{name} of type string",
            crate::patch::json_kind(other)
        )))),
    };
    let (said_version, said_kind) = (said("apiVersion")?, said("kind")?);
    if said_version.matches('/').count() > 1 {
        return Err(unrecognized(format!("unexpected GroupVersion string: {said_version}")));
    }
    let said_version = if said_version.is_empty() { api_version.to_owned() } else { said_version };
    let said_kind = if said_kind.is_empty() { kind.to_owned() } else { said_kind };
    let said_version = current(&said_version, &said_kind).to_owned();
    let refuse = |why: &str| {
        let version = said_version.rsplit('/').next().unwrap_or_default();
        bad_request(format!("{said_kind} in version {version:?} cannot be handled as a {kind}: {why}"))
    };
    // What every group has, such as DeleteOptions, belongs to a group of its own too.
    let common = said_version == "meta.k8s.io/v1" && said_kind == kind && t.name().contains(".meta.v1.");
    if !common
        && (said_version.as_str(), said_kind.as_str()) != expected
        && Type::of(&said_version, &said_kind) != Some(t)
    {
        return Err(match mismatch(expected, (&said_version, &said_kind)) {
            Mismatch::Version => bad_request(format!(
                "the API version in the data ({said_version}) does not match the expected API version ({api_version})"
            )),
            Mismatch::Kind(why) => refuse(&why),
        });
    }
    fields.insert("apiVersion".to_owned(), Value::String(said_version.clone()));
    fields.insert("kind".to_owned(), Value::String(said_kind.clone()));
    let (value, unknown) = conform(t, Value::Object(fields)).map_err(|error| refuse(&error.message))?;
    let warnings = validation.judge(problems(&read.duplicates, unknown)).map_err(|why| refuse(&why))?;
    Ok((value, warnings))
}

/// The version that is served for one that says the same and that old clients still say: kubectl before 1.22 drains with
/// it, and kube-apiserver takes it too.
fn current<'a>(api_version: &'a str, kind: &str) -> &'a str {
    if (api_version, kind) == ("policy/v1beta1", "Eviction") { "policy/v1" } else { api_version }
}

/// Reads what a server-side apply says: an object, whose fields are not checked here, because only those that are there
/// count and nothing may be added.
///
/// # Errors
/// 400 when the body is no YAML object or, with [`FieldValidation::Strict`], has a field twice.
pub fn apply_configuration(body: &[u8], validation: FieldValidation) -> Result<(Value, Warnings), ApiError> {
    let read = yaml(body).map_err(|error| bad_request(format!("error decoding YAML: {error}")))?;
    let value = match read.value {
        Value::Null => Value::Object(Map::new()),
        Value::Object(_) => read.value,
        other => {
            let got = crate::patch::json_kind(&other);
            return Err(bad_request(format!(
                "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {got} into \
                 Go value of type map[string]interface {{}}"
            )));
        }
    };
    let warnings = validation
        .judge(problems(&read.duplicates, Vec::new()))
        .map_err(|why| bad_request(format!("error strict decoding YAML: {why}")))?;
    Ok((value, warnings))
}

/// Repeated fields and unknown ones. What is below an unknown field is of no interest.
fn problems(duplicates: &[String], unknown: Vec<String>) -> Vec<String> {
    let paths: Vec<&str> =
        unknown.iter().filter_map(|line| line.strip_prefix("unknown field \"")?.strip_suffix('"')).collect();
    let below_unknown = |path: &str| {
        paths.iter().any(|unknown| {
            path.strip_prefix(unknown).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    };
    let mut problems: Vec<String> = duplicates
        .iter()
        .filter(|path| !below_unknown(path))
        .map(|path| format!("duplicate field {path:?}"))
        .collect();
    problems.extend(unknown);
    problems
}

enum Mismatch {
    /// The same kind in another version.
    Version,
    /// Another kind, or none.
    Kind(String),
}

fn mismatch(expected: (&str, &str), said: (&str, &str)) -> Mismatch {
    let ((api_version, kind), (said_version, said_kind)) = (expected, said);
    if Type::of(said_version, said_kind).is_none() && kinds::by_kind(said_version, said_kind).is_none() {
        return Mismatch::Kind(format!(
            "no kind {said_kind:?} is registered for version {said_version:?} in scheme \
             \"pkg/api/legacyscheme/scheme.go:30\""
        ));
    }
    if kind == said_kind {
        return Mismatch::Version;
    }
    let version = said_version.rsplit('/').next().unwrap_or_default();
    let group = match api_version.split_once('/') {
        None => "core",
        Some((group, _)) => group.split('.').next().unwrap_or_default(),
    };
    Mismatch::Kind(format!("converting ({version}.{said_kind}) to ({group}.{kind}): unknown conversion"))
}

/// The beginning of a body, as errors show it.
fn summary(body: &[u8]) -> String {
    const LENGTH: usize = 30;
    let shown = &body[..body.len().min(LENGTH)];
    let rest = if body.len() > LENGTH { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{rest}", String::from_utf8_lossy(shown)),
        Some(_) => format!("{}{rest}", shown.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

/// How deep a value nests; a plain one has depth 1. Only for values that were read here.
pub(crate) fn depth(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(fields) => fields.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}
