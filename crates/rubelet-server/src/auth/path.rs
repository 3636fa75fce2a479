//! The path of a request: one reading of it, for whoever judges and for whoever routes.
//!
//! Pure. A path with `.`, `..` or empty segments is not served but redirected to the clean one, before anyone is asked
//! who they are, as Go's `http.ServeMux` does. Escaped dots and slashes are part of a name to it, and to us.

use std::borrow::Cow;

use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use crate::body::{self, Body};

/// The path without its percent escapes, as Go's `URL.Path`; `None` when an escape is none. Bytes that are no UTF-8
/// are replaced: no endpoint has them.
pub fn decoded(escaped: &str) -> Option<Cow<'_, str>> {
    if !escaped.contains('%') {
        return Some(Cow::Borrowed(escaped));
    }
    let text = String::from_utf8(unescaped(escaped)?);
    Some(Cow::Owned(text.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())))
}

/// The same with every byte as it is.
pub(crate) fn unescaped(escaped: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    Some(bytes)
}

/// The answer to a request whose path is not clean: where the clean one is (307).
pub fn redirect<B>(request: &Request<B>) -> Option<Response<Body>> {
    let path = request.uri().path();
    if request.method() == Method::CONNECT || is_clean(path) {
        return None;
    }
    let mut target = clean(path);
    if let Some(query) = request.uri().query() {
        target = format!("{target}?{query}");
    }
    let text = match *request.method() {
        Method::GET => format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", target.replace('&', "&amp;")),
        _ => String::new(),
    };
    let mut response = Response::new(body::whole(text));
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    // It is made of parts of a URI, which are always fit for a header.
    if let Ok(target) = HeaderValue::from_str(&target) {
        headers.insert(LOCATION, target);
    }
    Some(response)
}

fn is_clean(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    (rest.is_empty() && path == "/")
        || !rest.is_empty() && rest.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
}

/// The shortest path that means the same; a slash at its end stays.
fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    let end = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    format!("/{}{end}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unclean_paths_are_sent_to_the_clean_one() {
        let check = |uri: &str, expected: Option<&str>| {
            let request = Request::get(uri).body(()).unwrap();
            let location = redirect(&request).map(|response| {
                assert_eq!(response.status(), 307);
                response.headers()[LOCATION].to_str().unwrap().to_owned()
            });
            assert_eq!(location.as_deref(), expected, "{uri}");
        };
        for clean in ["/", "/pods", "/pods/", "/logs/a/b", "/logs/...", "/logs/%2e%2e/pods", "/a%2f%2fb"] {
            check(clean, None);
        }
        check("//pods", Some("/pods"));
        check("//", Some("/"));
        check("/logs/../exec/a?b=//c", Some("/exec/a?b=//c"));
        check("/logs/.", Some("/logs"));
        check("/logs/./", Some("/logs/"));
        check("/logs//", Some("/logs/"));
        check("/../../..", Some("/"));
        check("/stats/..//pods/%41", Some("/pods/%41"));
    }

    #[test]
    fn escapes_are_decoded_once() {
        assert_eq!(decoded("/a%2Fb%20c+d").as_deref(), Some("/a/b c+d"));
        assert_eq!(decoded("/%252e%252e").as_deref(), Some("/%2e%2e"));
        for bad in ["/%", "/%4", "/%zz", "/a%", "/%+1"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
        assert_eq!(decoded("/%ff").as_deref(), Some("/\u{fffd}"));
    }

    proptest! {
        #[test]
        fn a_clean_path_stays(path in "/?([a-z.]{0,3}/){0,5}[a-z.]{0,3}") {
            let cleaned = clean(&path);
            prop_assert!(is_clean(&cleaned), "{cleaned}");
            prop_assert_eq!(clean(&cleaned), cleaned.clone());
            if is_clean(&path) {
                prop_assert_eq!(cleaned, path);
            }
        }

        #[test]
        fn any_bytes_decode_or_not(path in "\\PC{0,30}") {
            let _ = decoded(&path);
        }
    }
}
