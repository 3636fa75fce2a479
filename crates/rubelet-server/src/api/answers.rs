//! Answers as upstream's handlers write them: two kinds of error texts, JSON, redirects, pages of metrics.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, LOCATION, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

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

/// A redirect to a clean path of this server.
pub(super) fn redirect(method: &Method, location: &str) -> Response<Body> {
    let mut response = if matches!(*method, Method::GET | Method::HEAD) {
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        let link = html_escaped(location);
        of(StatusCode::OK, html, format!("<a href=\"{link}\">Temporary Redirect</a>.\n\n"))
    } else {
        Response::new(body::whole(""))
    };
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// Text with what HTML would read as markup escaped.
pub(super) fn html_escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&#34;")
        .replace('\'', "&#39;")
}

/// A page of metrics, compressed when the client likes it so.
pub(super) async fn metrics(
    request: &HeaderMap,
    started: Option<jiff::Timestamp>,
    page: impl Into<Bytes>,
) -> Response<Body> {
    let page = page.into();
    let wanted = accepts_gzip(request);
    // A node with many pods has megabytes of it, which is work for another thread.
    let compressed = if wanted {
        let page = page.clone();
        tokio::task::spawn_blocking(move || gzip(&page)).await.ok().flatten()
    } else {
        None
    };
    let is_compressed = compressed.is_some();
    let mut response = of(StatusCode::OK, METRICS, compressed.unwrap_or(page));
    if is_compressed {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Some(started) = started {
        response.headers_mut().insert(PROCESS_START, HeaderValue::from(started.as_second()));
    }
    response
}

fn gzip(page: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(page.len() / 8), Compression::fast());
    encoder.write_all(page).ok()?;
    encoder.finish().ok().map(Bytes::from)
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
