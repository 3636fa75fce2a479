//! Values of a request that may stand in its query or in a form in its body, as Go's `Request.ParseForm` reads them.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Limited};

use crate::body::Body;
use crate::query::Query;

/// How long a form, or any other text that is sent to this API, may be.
pub(super) const LONGEST: usize = 64 * 1024;

/// The body of a request.
///
/// # Errors
/// What is wrong with it, in the words of Go.
pub(super) async fn read(body: Body) -> Result<Bytes, String> {
    match Limited::new(body, LONGEST).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err("http: request body too large".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// A form that was sent, over the query.
pub(super) struct Form {
    body: Query,
    query: Query,
}

impl Form {
    /// Reads the values of a request.
    ///
    /// # Errors
    /// As `ParseForm` words it: an escape that is none, a content type that is none, a body that is too long.
    pub(super) async fn read(request: Request<Body>) -> Result<Self, String> {
        let (head, body) = request.into_parts();
        let query = head.uri.query().unwrap_or_default();
        let posted = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
        let body = if posted && is_form(&head.headers)? { read(body).await? } else { Bytes::new() };
        let body = String::from_utf8_lossy(&body);
        check(&body)?;
        check(query)?;
        Ok(Self { body: Query::parse(&body), query: Query::parse(query) })
    }

    /// All values of a name, those of the body first.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        self.body.all(name).chain(self.query.all(name)).collect()
    }

    /// The first value of a name.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.body.first(name).or_else(|| self.query.first(name))
    }
}

fn is_form(headers: &HeaderMap) -> Result<bool, String> {
    let Some(kind) = headers.get(CONTENT_TYPE) else { return Ok(false) };
    let kind = kind.to_str().map_err(|_| "mime: no media type".to_owned())?;
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let token = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    match kind.split_once('/') {
        _ if kind.is_empty() => Err("mime: no media type".to_owned()),
        Some((_, rest)) if !token(rest) => Err(if rest.is_empty() {
            "mime: expected token after slash".to_owned()
        } else {
            "mime: unexpected content after media subtype".to_owned()
        }),
        _ => Ok(kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")),
    }
}

/// Says what Go would not take of a query.
fn check(query: &str) -> Result<(), String> {
    if query.split('&').any(|pair| pair.contains(';')) {
        return Err("invalid semicolon separator in query".to_owned());
    }
    for rest in query.split('%').skip(1) {
        let digits: String = rest.chars().take(2).collect();
        if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(format!("invalid URL escape \"%{digits}\""));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body;
    use proptest::prelude::*;

    async fn form(method: Method, target: &str, kind: &str, text: &str) -> Result<Vec<String>, String> {
        let mut request = Request::builder().method(method).uri(target);
        if !kind.is_empty() {
            request = request.header(CONTENT_TYPE, kind);
        }
        let form = Form::read(request.body(body::whole(text.to_owned())).unwrap()).await?;
        Ok(form.all("cmd").into_iter().map(str::to_owned).collect())
    }

    #[tokio::test]
    async fn a_form_goes_before_the_query() {
        let urlencoded = "application/x-www-form-urlencoded; charset=UTF-8";
        let both = form(Method::POST, "/run?cmd=c", urlencoded, "cmd=a+b&cmd=%20").await;
        assert_eq!(both.unwrap(), ["a b", " ", "c"]);
        assert_eq!(form(Method::GET, "/run?cmd=c", urlencoded, "cmd=a").await.unwrap(), ["c"]);
        assert_eq!(form(Method::POST, "/run?cmd=c", "text/plain", "cmd=a").await.unwrap(), ["c"]);
        assert_eq!(form(Method::POST, "/run?cmd=c", "", "cmd=a").await.unwrap(), ["c"]);
    }

    #[tokio::test]
    async fn says_what_is_wrong() {
        let urlencoded = "application/x-www-form-urlencoded";
        for (target, kind, text, why) in [
            ("/?a=%zz", "", "", "invalid URL escape \"%zz\""),
            ("/?a=%2", "", "", "invalid URL escape \"%2\""),
            ("/?a=1;b=2", "", "", "invalid semicolon separator in query"),
            ("/", urlencoded, "a=%", "invalid URL escape \"%\""),
            ("/", "invalid/content/type", "", "mime: unexpected content after media subtype"),
            ("/", " ", "", "mime: no media type"),
        ] {
            assert_eq!(form(Method::POST, target, kind, text).await.unwrap_err(), why, "{target} {kind}");
        }
        let long = format!("cmd={}", "x".repeat(LONGEST));
        let error = form(Method::POST, "/", urlencoded, &long).await.unwrap_err();
        assert_eq!(error, "http: request body too large");
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(query in ".{0,60}") {
            if check(&query).is_ok() {
                let _ = Query::parse(&query).first("a");
            }
        }
    }
}
