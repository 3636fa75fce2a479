//! Answers as upstream's handlers write them: two kinds of error texts, JSON, pages of metrics.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use jiff::Timestamp;
use rubelet_core::stats::exposition::Exposition;

use crate::body::{self, Body};
use crate::problem::Problem;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// The text format; metric names here need no escaping, whatever scheme is asked for.
const METRICS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");
/// When the process started, in seconds since 1970: promhttp's header.
const PROCESS_START: HeaderName = HeaderName::from_static("process-start-time-unix");

/// How long a client that came at a busy time is told to wait, seconds (upstream's lifetime of a streaming URL).
const BUSY: HeaderValue = HeaderValue::from_static("60");

/// An answer of a kind.
pub(super) fn of(code: StatusCode, kind: HeaderValue, content: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(body::whole(content));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Plain text, as it is.
pub(super) fn text(code: StatusCode, content: impl Into<Bytes>) -> Response<Body> {
    of(code, TEXT, content)
}

/// Plain text that a browser is to take as nothing else.
pub(super) fn plain(code: StatusCode, content: impl Into<Bytes>) -> Response<Body> {
    let mut response = text(code, content);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    response
}

/// An error with a line end, as Go's `http.Error` writes it.
pub(super) fn error(code: StatusCode, message: &str) -> Response<Body> {
    plain(code, format!("{message}\n"))
}

/// A problem as the node's port says it.
pub(super) fn problem(problem: &Problem) -> Response<Body> {
    let mut response = problem.text_response();
    if problem.code == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(RETRY_AFTER, BUSY);
    }
    response
}

/// JSON.
pub(super) fn json(content: impl Into<Bytes>) -> Response<Body> {
    of(StatusCode::OK, HeaderValue::from_static("application/json"), content)
}

/// JSON that a browser is to take as nothing else.
pub(super) fn plain_json(content: impl Into<Bytes>) -> Response<Body> {
    let mut response = json(content);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    response
}

/// A short page of metrics, compressed when the client likes it so.
pub(super) fn metrics(request: &HeaderMap, started: Option<Timestamp>, page: String) -> Response<Body> {
    if !accepts_gzip(request) {
        return page_of(started, page.into_bytes(), false);
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    match encoder.write_all(page.as_bytes()).and_then(|()| encoder.finish()) {
        Ok(compressed) => page_of(started, compressed, true),
        Err(_) => page_of(started, page.into_bytes(), false),
    }
}

/// A page of metrics that a node with many pods has megabytes of. `write` runs on another thread, and its text is not
/// held as a whole when it is compressed.
pub(super) async fn long_metrics(
    request: &HeaderMap,
    started: Option<Timestamp>,
    write: impl FnOnce(&mut Exposition) + Send + 'static,
) -> Response<Body> {
    let compressed = accepts_gzip(request);
    let page = tokio::task::spawn_blocking(move || match compressed {
        true => gzip(write),
        false => {
            let mut page = Exposition::new();
            write(&mut page);
            Some(page.into_string().into_bytes())
        }
    });
    match page.await {
        Ok(Some(page)) => page_of(started, page, compressed),
        _ => error(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be written"),
    }
}

fn page_of(started: Option<Timestamp>, page: Vec<u8>, compressed: bool) -> Response<Body> {
    let mut response = of(StatusCode::OK, METRICS, page);
    if compressed {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Some(started) = started {
        response.headers_mut().insert(PROCESS_START, HeaderValue::from(started.as_second()));
    }
    response
}

/// What is written, compressed part by part.
fn gzip(write: impl FnOnce(&mut Exposition)) -> Option<Vec<u8>> {
    let encoder = Arc::new(Mutex::new(GzEncoder::new(Vec::new(), Compression::fast())));
    let sink = encoder.clone();
    let mut page = Exposition::streamed(move |part| {
        // Writing into memory does not fail.
        let _ = sink.lock().unwrap_or_else(PoisonError::into_inner).write_all(part.as_bytes());
    });
    write(&mut page);
    // It hands on the rest, and lets go of the sink.
    let _ = page.into_string();
    let encoder = Arc::into_inner(encoder)?.into_inner().unwrap_or_else(PoisonError::into_inner);
    encoder.finish().ok()
}

/// Whether the client names gzip among what it accepts, and not with a weight of zero.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let listed = headers.get_all(ACCEPT_ENCODING).into_iter().filter_map(|value| value.to_str().ok());
    listed.flat_map(|value| value.split(',')).any(|part| {
        let mut parts = part.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=")).and_then(|text| text.parse::<f64>().ok());
        name.eq_ignore_ascii_case("gzip") && weight.is_none_or(|weight| weight > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compresses_for_who_accepts_it() {
        for (header, wanted) in [
            ("gzip", true),
            ("gzip;q=1.0,*;q=0.1", true),
            ("deflate, GZIP ;q=0.5", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("x-gzipped", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(header));
            assert_eq!(accepts_gzip(&headers), wanted, "{header}");
        }
    }
}
