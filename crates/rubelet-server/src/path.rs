//! The path of a request: one reading of it, for whoever judges (`auth`) and for whoever routes (`api`, `node_logs`).
//!
//! Pure. A path with `.`, `..` or empty segments is not served but redirected to the clean one, before anyone is asked
//! who they are, as Go's `http.ServeMux` does. Escaped dots and slashes are part of a name to it, and to us.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, Response, StatusCode};

use crate::body::{self, Body};

/// The path without its percent escapes, as Go's `URL.Path`; `None` when an escape is none. Bytes that are no UTF-8
/// are replaced: no endpoint has them.
pub(crate) fn decoded(escaped: &str) -> Option<Cow<'_, str>> {
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

/// The shortest path that means the same; a slash at its end stays. Always begins with a slash, never with two.
pub(crate) fn clean(path: &str) -> String {
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

/// The answer that sends a client to a clean path of this server (307), as Go's `http.Redirect` writes it.
pub(crate) fn redirect(method: &Method, path: &str, query: Option<&str>) -> Response<Body> {
    let mut target = String::with_capacity(path.len());
    // Browsers read a backslash as a slash: `/\example.com` would be another server.
    escape(path, |byte| byte.is_ascii_alphanumeric() || b"/%-._~!$&'()*+,;=:@".contains(&byte), &mut target);
    if let Some(query) = query {
        target.push('?');
        escape(query, |byte| byte.is_ascii_graphic(), &mut target);
    }
    let mut response = Response::new(body::whole(match *method {
        Method::GET | Method::HEAD => {
            format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", html_escaped(&target))
        }
        _ => String::new(),
    }));
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    if matches!(*method, Method::GET | Method::HEAD) {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    }
    if let Ok(target) = HeaderValue::from_str(&target) {
        response.headers_mut().insert(LOCATION, target);
    }
    response
}

/// Appends `text`, with percent escapes for the bytes that do not fit.
fn escape(text: &str, fits: impl Fn(u8) -> bool, out: &mut String) {
    for byte in text.bytes() {
        if fits(byte) {
            out.push(char::from(byte));
        } else {
            // Writing into a text does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// Text with what HTML would read as markup escaped.
pub(crate) fn html_escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&#34;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cleans_as_go_does() {
        for (path, cleaned) in [
            ("/", "/"),
            ("", "/"),
            ("//", "/"),
            ("/pods", "/pods"),
            ("/pods/", "/pods/"),
            ("//healthz", "/healthz"),
            ("/pods//", "/pods/"),
            ("/pods/.", "/pods"),
            ("/logs/./", "/logs/"),
            ("/logs/...", "/logs/..."),
            ("/a/../b/c", "/b/c"),
            ("/../../etc", "/etc"),
            ("/a/..", "/"),
            ("/a/../", "/"),
            ("/stats/..//pods/%41", "/pods/%41"),
            ("/%2e%2e/etc", "/%2e%2e/etc"),
            ("/a%2f%2fb", "/a%2f%2fb"),
            ("*", "/*"),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }

    #[test]
    fn escapes_are_decoded_once() {
        for (path, text) in [
            ("/a%2Fb%20c+d", "/a/b c+d"),
            ("/%70ods", "/pods"),
            ("/%252e%252e", "/%2e%2e"),
            ("/%c3%a4", "/ä"),
            ("/%ff", "/\u{fffd}"),
        ] {
            assert_eq!(decoded(path).as_deref(), Some(text), "{path}");
        }
        for bad in ["/%", "/%4", "/%zz", "/a%", "/%+1", "/a%2/b", "/%-1"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_redirect_stays_on_this_server_and_is_no_markup() {
        use http_body_util::BodyExt as _;
        for (path, query, location) in [
            ("/pods", None, "/pods"),
            ("/a%2Fb", Some("x=//y&z='"), "/a%2Fb?x=//y&z='"),
            ("/\\example.com", None, "/%5Cexample.com"),
            ("/x\"onclick=y", Some("ä"), "/x%22onclick=y?%C3%A4"),
            ("/ä", None, "/%C3%A4"),
        ] {
            let response = redirect(&Method::GET, path, query);
            assert_eq!(response.headers()[LOCATION], location, "{path}");
            let text = response.into_body().collect().await.unwrap().to_bytes();
            let link = format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", html_escaped(location));
            assert_eq!(text, link, "{path}");
        }
        assert!(!redirect(&Method::POST, "/pods", None).headers().contains_key(CONTENT_TYPE));
    }

    proptest! {
        #[test]
        fn a_clean_path_has_nothing_to_clean(path in "[/.a%2]{0,30}") {
            let cleaned = clean(&path);
            prop_assert_eq!(clean(&cleaned), cleaned.clone());
            prop_assert!(cleaned.starts_with('/') && !cleaned.starts_with("//"));
            prop_assert!(!cleaned.split('/').any(|segment| segment == ".." || segment == "."));
        }

        #[test]
        fn any_text_is_read(path in "\\PC{0,30}") {
            let _ = decoded(&path);
            let _ = redirect(&Method::GET, &clean(&path), Some(&path));
        }
    }
}
