//! Answers as HTTP: codes, headers, the form that was agreed on.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use rubelet_apimachinery::Resource;
use rubelet_apimachinery::status::{ApiError, not_acceptable};
use rubelet_apimachinery::strategy::Warnings;
use serde_json::{Value, json};

use super::media::{Accepted, Encoding, Form};
use super::request::Query;
use super::{body, encode, page, tables};
use crate::node::Body;

/// The longest text of a warning, as upstream cuts them.
const WARNING_LIMIT: usize = 4096;

/// An answer with this body.
pub(crate) fn answer(code: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// The answer that an error comes to.
pub(crate) fn error(error: &ApiError, accepted: Accepted) -> Response<Body> {
    let bytes = encode::write(&page::body(error), accepted);
    let mut response = answer(error.code, accepted.content_type(), body::whole(bytes));
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// A value as it is: a `Status`, a review, a document.
pub(crate) fn value(code: u16, value: &Value, accepted: Accepted) -> Response<Body> {
    answer(code, accepted.content_type(), body::whole(encode::write(value, accepted)))
}

/// Plain text.
pub(crate) fn text(code: u16, text: impl Into<Bytes>) -> Response<Body> {
    answer(code, "text/plain; charset=utf-8", body::whole(text))
}

/// An object in the form that was agreed on.
///
/// # Errors
/// 406 when the form is one of lists, 400 for wrong options of a table.
pub(crate) fn object(
    code: u16,
    resource: &'static Resource,
    mut object: Value,
    accepted: Accepted,
    query: &Query,
    now: Timestamp,
) -> Result<Response<Body>, ApiError> {
    let object = match accepted.form {
        _ if object["kind"] == "Status" => object,
        Form::Whole => object,
        Form::Metadata(version) => encode::metadata_only(&mut object, version),
        Form::MetadataList(_) => {
            return Err(not_acceptable(&["application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"]));
        }
        Form::Table(version) => {
            let options = tables::options(query)?;
            let meta = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            let mut table = tables::table(resource, &[object], &options, version, now);
            table["metadata"] = meta;
            table
        }
    };
    Ok(value(code, &object, accepted))
}

/// Adds warnings to an answer, each once.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &Warnings) {
    let mut said: Vec<&str> = Vec::new();
    for warning in warnings {
        if said.contains(&warning.as_str()) {
            continue;
        }
        said.push(warning);
        let mut text = String::with_capacity(warning.len() + 10);
        for part in warning.chars() {
            match part {
                '"' | '\\' => text.extend(['\\', part]),
                control if control.is_control() => text.push(' '),
                other => text.push(other),
            }
            if text.len() >= WARNING_LIMIT {
                break;
            }
        }
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{text}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// Whether stored bytes can be sent as they are.
pub(crate) fn is_verbatim(accepted: Accepted) -> bool {
    accepted.encoding == Encoding::Json && accepted.form == Form::Whole && !accepted.pretty
}
