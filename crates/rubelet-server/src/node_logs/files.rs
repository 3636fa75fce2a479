//! Files and directories, as a client of Go's `http.FileServer` sees them: redirects to the right kind of path,
//! `index.html`, conditions, ranges, kinds.
//!
//! Which file that is and whether it may be read is `beneath`'s affair.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LAST_MODIFIED, LOCATION,
    X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};

use super::beneath::{self, OpenError, Opened};
use super::blocks::{self, Piece};
use super::conditions::{self, Span, Wanted};
use super::{NodeLogs, listing, media};
use crate::body::{self, Body};

const INDEX: &[u8] = b"/index.html";

/// An error as Go's `http.Error` writes it.
pub(super) fn error(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut text: String = text.into();
    text.push('\n');
    let mut response = of(code, "text/plain; charset=utf-8", text);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn of(code: StatusCode, kind: &'static str, content: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(body::whole(content));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Sets a header of which every byte is known to be fit; what is not is left out.
fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// What can be told of an error: nothing of the system (upstream `toHTTPError`).
fn refusal(why: &OpenError) -> Response<Body> {
    match why {
        OpenError::Missing => error(StatusCode::NOT_FOUND, "404 page not found"),
        OpenError::Outside | OpenError::Odd => error(StatusCode::FORBIDDEN, "403 Forbidden"),
        OpenError::Io(why) if why.kind() == io::ErrorKind::PermissionDenied => {
            error(StatusCode::FORBIDDEN, "403 Forbidden")
        }
        OpenError::Io(why) => {
            tracing::warn!("a file of the node's logs cannot be opened: {why}");
            error(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error")
        }
    }
}

/// A redirect within the directory: relative, so that it holds behind a proxy.
fn elsewhere(parts: &Parts, target: &str) -> Response<Body> {
    let mut response = Response::new(body::whole(""));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let query = parts.uri.query().map_or_else(String::new, |query| format!("?{query}"));
    set(&mut response, LOCATION, &format!("{target}{query}"));
    response
}

/// What was found and read at once.
enum Found {
    File(Content),
    Directory {
        page: String,
        changed: i64,
    },
    /// A directory whose path does not end in a slash, or a file whose path does.
    Elsewhere(String),
}

/// A file to be served.
struct Content {
    file: File,
    size: u64,
    changed: i64,
    kind: &'static str,
}

/// Serves what `path` names below the directory. `path` is decoded and begins with a slash.
pub(super) async fn serve(logs: &NodeLogs, parts: &Parts, path: Vec<u8>) -> Response<Body> {
    if path.ends_with(INDEX) {
        return elsewhere(parts, "./");
    }
    let Ok(place) = logs.open.clone().try_acquire_owned() else {
        return error(
            StatusCode::TOO_MANY_REQUESTS,
            "there are too many files of this node's logs open, try again later",
        );
    };
    let root = logs.root.clone();
    let found = match logs.reads.run(move || find(&root, &path)).await {
        Ok(found) => found,
        Err(why) => Err(why.into()),
    };
    match found {
        Ok(Found::Elsewhere(target)) => elsewhere(parts, &target),
        Ok(Found::Directory { changed, .. }) if conditions::is_known(&parts.headers, changed) => {
            bare(StatusCode::NOT_MODIFIED)
        }
        Ok(Found::Directory { page, changed }) => {
            let mut response = of(StatusCode::OK, "text/html; charset=utf-8", page);
            tell_change(&mut response, changed);
            response
        }
        Ok(Found::File(content)) => match answer(parts, &content) {
            Answer::Short(response) => *response,
            Answer::Long(mut response, pieces) => {
                let length: u64 = pieces.iter().map(Piece::length).sum();
                response.headers_mut().insert(CONTENT_LENGTH, length.into());
                if parts.method != Method::HEAD {
                    *response.body_mut() = blocks::body(logs.reads.clone(), content.file, pieces, place);
                }
                *response
            }
        },
        Err(why) => refusal(&why),
    }
}

/// Finds, opens and lists. Blocking.
fn find(root: &Path, path: &[u8]) -> Result<Found, OpenError> {
    let clean = clean(path);
    let name = clean.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let has_slash = path.ends_with(b"/");
    match beneath::open(root, &clean)? {
        Opened::File(_) if has_slash => Ok(Found::Elsewhere(format!("../{}", listing::escape_path(name)))),
        Opened::File(file) => content(file, name).map(Found::File),
        Opened::Directory(_) if !has_slash => {
            Ok(Found::Elsewhere(format!("{}/", listing::escape_path(base(path)))))
        }
        Opened::Directory(directory) => {
            let index = [&clean, INDEX].concat();
            let index = index.strip_prefix(b"/").unwrap_or(&index);
            if let Ok(Opened::File(file)) = beneath::open(root, index) {
                return content(file, b"index.html").map(Found::File);
            }
            let changed = directory.metadata()?.mtime();
            let (entries, more) = beneath::entries(&directory, listing::LIMIT)?;
            Ok(Found::Directory { page: listing::page(&entries, more), changed })
        }
    }
}

/// The path below the root without `.`, `..` and empty components; `..` at the root stays there, as in Go.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    kept.join(&b'/')
}

/// The last component as it was written.
fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

fn content(file: File, name: &[u8]) -> Result<Content, OpenError> {
    let metadata = file.metadata()?;
    let kind = match media::by_name(name) {
        Some(kind) => kind,
        None => {
            let mut begin = [0; media::SNIFFED];
            let count = file.read_at(&mut begin, 0)?;
            media::by_content(&begin[..count])
        }
    };
    Ok(Content { size: metadata.len(), changed: metadata.mtime(), kind, file })
}

fn bare(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(body::whole(""));
    *response.status_mut() = code;
    response
}

fn tell_change(response: &mut Response<Body>, changed: i64) {
    if let Some(date) = conditions::http_date(changed) {
        set(response, LAST_MODIFIED, &date);
    }
}

enum Answer {
    Short(Box<Response<Body>>),
    Long(Box<Response<Body>>, Vec<Piece>),
}

/// The answer's head, and what of the file comes after it (upstream `serveContent`).
fn answer(parts: &Parts, content: &Content) -> Answer {
    let short = |mut response: Response<Body>| {
        tell_change(&mut response, content.changed);
        Answer::Short(Box::new(response))
    };
    let range = match conditions::judge(&parts.headers, content.changed) {
        Wanted::NotModified => return short(bare(StatusCode::NOT_MODIFIED)),
        Wanted::Failed => return short(bare(StatusCode::PRECONDITION_FAILED)),
        Wanted::Content(range) => range,
    };
    let spans = match range.map_or(Ok(Vec::new()), |range| conditions::spans(range, content.size)) {
        Ok(spans) => spans,
        Err(why) => {
            let mut response = error(StatusCode::RANGE_NOT_SATISFIABLE, why.to_string());
            if why == conditions::RangeError::NoOverlap {
                set(&mut response, CONTENT_RANGE, &format!("bytes */{}", content.size));
            }
            return Answer::Short(Box::new(response));
        }
    };
    let mut response = of(StatusCode::OK, content.kind, "");
    tell_change(&mut response, content.changed);
    response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let pieces = match spans.as_slice() {
        [] => vec![Piece::Span(Span { start: 0, length: content.size })],
        [one] => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(&mut response, CONTENT_RANGE, &one.content_range(content.size));
            vec![Piece::Span(*one)]
        }
        many => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let boundary = boundary();
            set(&mut response, CONTENT_TYPE, &format!("multipart/byteranges; boundary={boundary}"));
            parts_of(many, content, &boundary)
        }
    };
    Answer::Long(Box::new(response), pieces)
}

/// Several ranges, each with its head.
fn parts_of(spans: &[Span], content: &Content, boundary: &str) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(spans.len() * 2 + 1);
    for (index, span) in spans.iter().enumerate() {
        let line = if index == 0 { "" } else { "\r\n" };
        let range = span.content_range(content.size);
        let head =
            format!("{line}--{boundary}\r\nContent-Range: {range}\r\nContent-Type: {}\r\n\r\n", content.kind);
        pieces.push(Piece::Text(head.into()));
        pieces.push(Piece::Span(*span));
    }
    pieces.push(Piece::Text(format!("\r\n--{boundary}--\r\n").into()));
    pieces
}

/// What is not in the file, in all likelihood.
fn boundary() -> String {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; 30];
    // Without chance it is a fixed one, which is still hardly in a log.
    let _ = ring::rand::SystemRandom::new().fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_below_the_root() {
        for (path, expected) in [
            ("/", ""),
            ("/a/b", "a/b"),
            ("/a//b/./", "a/b"),
            ("/a/../b", "b"),
            ("/../../etc/passwd", "etc/passwd"),
            ("/a/..", ""),
            ("/..\\..\\x", "..\\..\\x"),
            ("/...", "..."),
        ] {
            assert_eq!(clean(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }
}
