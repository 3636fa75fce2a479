//! Which form an answer takes and which form a body has: the Accept and Content-Type headers.
//!
//! Rules are those of `k8s.io/apiserver/pkg/endpoints/handlers/negotiation`. Protobuf is read and not
//! written here; clients that offer JSON beside it are answered in JSON.

use http::{HeaderMap, header};
use rubelet_apimachinery::decode::Media;
use rubelet_apimachinery::status::{self, ApiError};

use super::request::Query;

/// The media types this server writes and reads.
pub(crate) const JSON: &str = "application/json";
/// See [`JSON`].
pub(crate) const YAML: &str = "application/yaml";
/// What this server reads only.
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MADE: &[&str] = &[JSON, YAML];
const READ: &[&str] = &[JSON, YAML, PROTOBUF];

/// How an answer is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Encoding {
    #[default]
    Json,
    Yaml,
}

/// What the client wants an object or list turned into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Form {
    /// As it is.
    #[default]
    Whole,
    /// `meta.k8s.io` Table of this version.
    Table(&'static str),
    /// `meta.k8s.io` PartialObjectMetadata of this version.
    Metadata(&'static str),
    /// `meta.k8s.io` PartialObjectMetadataList of this version.
    MetadataList(&'static str),
}

/// What was agreed on for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Accepted {
    pub(crate) encoding: Encoding,
    pub(crate) form: Form,
    pub(crate) pretty: bool,
}

impl Accepted {
    /// The Content-Type of the answer.
    pub(crate) fn content_type(self) -> &'static str {
        match self.encoding {
            Encoding::Json => JSON,
            Encoding::Yaml => YAML,
        }
    }
}

/// One entry of an Accept header.
struct Clause<'a> {
    kind: &'a str,
    quality: u32,
    params: Vec<(&'a str, &'a str)>,
}

/// Agrees on the form of an answer. `transforms` says whether objects can be had as tables and metadata there.
///
/// # Errors
/// 406 when nothing the client takes is made here.
pub(crate) fn negotiate(headers: &HeaderMap, query: &Query, transforms: bool) -> Result<Accepted, ApiError> {
    let accept: Vec<&str> =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let accept = accept.join(",");
    let human = is_human(headers, query);
    if accept.trim().is_empty() {
        return Ok(Accepted { pretty: human, ..Accepted::default() });
    }
    let mut clauses: Vec<Clause<'_>> = accept.split(',').filter_map(clause).collect();
    // Better liked first, exact types before wildcards, else in the client's order.
    clauses.sort_by_key(|c| (std::cmp::Reverse(c.quality), c.kind.contains('*')));
    for clause in &clauses {
        let encodings: &[Encoding] = match clause.kind {
            JSON | "application/*" | "*/*" => &[Encoding::Json],
            YAML => &[Encoding::Yaml],
            _ => &[],
        };
        for &encoding in encodings {
            if let Some((form, pretty)) = form(&clause.params, transforms) {
                return Ok(Accepted { encoding, form, pretty: pretty || human });
            }
        }
    }
    Err(status::not_acceptable(MADE))
}

fn clause(text: &str) -> Option<Clause<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let kind = parts.next().filter(|kind| !kind.is_empty())?;
    let mut params = Vec::new();
    let mut quality = 1000;
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        if key == "q" {
            let value: f32 = value.parse().unwrap_or(1.0);
            // Thousandths are all that the header's grammar knows.
            quality = (value.clamp(0.0, 1.0) * 1000.0) as u32;
        } else {
            params.push((key, value.trim_matches('"')));
        }
    }
    Some(Clause { kind, quality, params })
}

/// The form that the parameters of one entry ask for; `None` when it cannot be had.
fn form(params: &[(&str, &str)], transforms: bool) -> Option<(Form, bool)> {
    let get = |name: &str| params.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| *value);
    if get("stream").is_some_and(|stream| !stream.is_empty() && stream != "watch") {
        return None;
    }
    if get("sv").is_some_and(|version| !version.is_empty() && version != "v1") {
        return None;
    }
    let pretty = get("pretty") == Some("1");
    if get("as").is_none() && get("g").is_none() && get("v").is_none() {
        return Some((Form::Whole, pretty));
    }
    let version = match (get("g"), get("v")) {
        (Some("meta.k8s.io"), Some("v1")) => "meta.k8s.io/v1",
        (Some("meta.k8s.io"), Some("v1beta1")) => "meta.k8s.io/v1beta1",
        _ => return None,
    };
    let form = match get("as") {
        Some("Table") => Form::Table(version),
        Some("PartialObjectMetadata") => Form::Metadata(version),
        Some("PartialObjectMetadataList") => Form::MetadataList(version),
        _ => return None,
    };
    transforms.then_some((form, pretty))
}

/// Whether a person reads the answer: they say so, or use a program for people.
fn is_human(headers: &HeaderMap, query: &Query) -> bool {
    if let Some(pretty) = query.text("pretty") {
        return matches!(pretty, "1" | "t" | "T" | "true" | "True" | "TRUE");
    }
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|program| agent.starts_with(program))
}

/// The media type of a body without its parameters; empty when the client does not say.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// How a body that holds an object is written.
///
/// # Errors
/// 415 for types that are not read here.
pub(crate) fn body_encoding(headers: &HeaderMap) -> Result<Media, ApiError> {
    match content_type(headers) {
        "" | JSON => Ok(Media::Json),
        YAML => Ok(Media::Yaml),
        PROTOBUF => Ok(Media::Protobuf),
        other => Err(status::unsupported_media_type(other, READ)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(accept: &str) -> Result<Accepted, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        negotiate(&headers, &Query::default(), true)
    }

    #[track_caller]
    fn check(accept: &str, encoding: Encoding, form: Form) {
        let found = accepted(accept).unwrap();
        assert_eq!((found.encoding, found.form), (encoding, form), "{accept}");
    }

    #[test]
    fn what_clients_send() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,\
                     application/json";
        check(table, Encoding::Json, Form::Table("meta.k8s.io/v1"));
        check(
            "application/json;as=Table;g=meta.k8s.io;v=v1beta1",
            Encoding::Json,
            Form::Table("meta.k8s.io/v1beta1"),
        );
        check("application/json;as=Table;g=meta.k8s.io;v=v9, */*", Encoding::Json, Form::Whole);
        check("application/vnd.kubernetes.protobuf, */*", Encoding::Json, Form::Whole);
        check("application/vnd.kubernetes.protobuf,application/json", Encoding::Json, Form::Whole);
        check("application/json;q=0.1, application/yaml", Encoding::Yaml, Form::Whole);
        check("*/*, application/yaml", Encoding::Yaml, Form::Whole);
        check("application/json;stream=watch", Encoding::Json, Form::Whole);
        check(
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            Encoding::Json,
            Form::MetadataList("meta.k8s.io/v1"),
        );
    }

    #[test]
    fn what_is_not_made_here() {
        for accept in
            ["application/vnd.kubernetes.protobuf", "text/html", "application/json;as=Wat;g=meta.k8s.io;v=v1"]
        {
            assert_eq!(accepted(accept).unwrap_err().code, 406, "{accept}");
        }
    }
}
