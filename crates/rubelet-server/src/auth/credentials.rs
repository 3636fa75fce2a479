//! What a request shows of its user besides the connection's certificate: a bearer token, in its own header or, for
//! browsers, among the subprotocols of a WebSocket.
//!
//! Pure; used by the gate only.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue};

/// A subprotocol that is a token, in base64url (upstream `bearerProtocolPrefix`).
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// The tokens of a request; an error where one is shown that is none.
pub(super) struct Shown {
    pub(super) bearer: Result<Option<String>, &'static str>,
    pub(super) websocket: Result<Option<String>, &'static str>,
}

impl Default for Shown {
    fn default() -> Self {
        Self { bearer: Ok(None), websocket: Ok(None) }
    }
}

impl Shown {
    pub(super) fn by(headers: &HeaderMap) -> Self {
        Self { bearer: bearer(headers), websocket: websocket(headers) }
    }
}

/// The token of `Authorization: Bearer`. Other schemes, and no token, are nothing.
fn bearer(headers: &HeaderMap) -> Result<Option<String>, &'static str> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let Ok(value) = std::str::from_utf8(value.as_bytes()) else { return Err("invalid bearer token") };
    let mut parts = value.trim().splitn(3, ' ');
    let is_bearer = parts.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer"));
    let token = parts.next().filter(|token| is_bearer && !token.is_empty());
    Ok(token.map(str::to_owned))
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn websocket(headers: &HeaderMap) -> Result<Option<String>, &'static str> {
    let is = |value: &HeaderValue, word: &str| {
        value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains(word))
    };
    let upgrades =
        headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
            && headers.get_all(CONNECTION).iter().any(|value| is(value, "upgrade"));
    if !upgrades {
        return Ok(None);
    }
    let mut tokens = protocols(headers).filter_map(|protocol| protocol.strip_prefix(TOKEN_PROTOCOL));
    let Some(encoded) = tokens.next() else { return Ok(None) };
    if tokens.next().is_some() {
        return Err("multiple base64.bearer.authorization tokens specified");
    }
    let bytes =
        URL_SAFE_NO_PAD.decode(encoded).map_err(|_| "invalid base64.bearer.authorization token encoding")?;
    let token = String::from_utf8(bytes).map_err(|_| "invalid base64.bearer.authorization token")?;
    if token.is_empty() {
        return Ok(None);
    }
    // One has to be left to answer with.
    if protocols(headers).all(|protocol| protocol.starts_with(TOKEN_PROTOCOL)) {
        return Err("missing additional subprotocol");
    }
    Ok(Some(token))
}

/// Takes the tokens out of a request that was let in, so that nobody further in (a container runtime's streaming server,
/// say) sees them, and no token is chosen as the subprotocol of a WebSocket.
pub fn hide_credentials(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    if !protocols(headers).any(|protocol| protocol.starts_with(TOKEN_PROTOCOL)) {
        return;
    }
    let left: Vec<&str> =
        protocols(headers).filter(|protocol| !protocol.starts_with(TOKEN_PROTOCOL)).collect();
    let left = HeaderValue::from_str(&left.join(","));
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Ok(left) = left
        && !left.is_empty()
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, left);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn reads_the_header_as_upstream_does() {
        let check = |value: &str, expected: Option<&str>| {
            let shown = bearer(&headers(&[("authorization", value)])).unwrap();
            assert_eq!(shown.as_deref(), expected, "{value:?}");
        };
        check("Bearer abc", Some("abc"));
        check("  bEARER abc  ", Some("abc"));
        check("Bearer abc def", Some("abc"));
        check("Bearer", None);
        check("Bearer ", None);
        check("Bearer  abc", None);
        check("Basic abc", None);
        check("", None);
        let mut odd = HeaderMap::new();
        odd.insert(AUTHORIZATION, HeaderValue::from_bytes(b"Bearer \xff").unwrap());
        assert_eq!(bearer(&odd), Err("invalid bearer token"));
    }

    #[test]
    fn reads_the_subprotocol_as_upstream_does() {
        let token = format!("{TOKEN_PROTOCOL}{}", URL_SAFE_NO_PAD.encode("tok"));
        let check = |protocols: &[&str], expected: Result<Option<&str>, &str>| {
            let mut pairs = vec![("upgrade", "WebSocket"), ("connection", "keep-alive, Upgrade")];
            pairs.extend(protocols.iter().map(|protocol| ("sec-websocket-protocol", *protocol)));
            let shown = websocket(&headers(&pairs));
            assert_eq!(shown.as_ref().map(Option::as_deref).map_err(|why| *why), expected, "{protocols:?}");
        };
        check(&[], Ok(None));
        check(&["v5.channel.k8s.io"], Ok(None));
        check(&["v5.channel.k8s.io", &token], Ok(Some("tok")));
        check(&[&format!("{token}, v5.channel.k8s.io")], Ok(Some("tok")));
        check(&[&token], Err("missing additional subprotocol"));
        check(&[&token, &token, "x"], Err("multiple base64.bearer.authorization tokens specified"));
        check(
            &[&format!("{TOKEN_PROTOCOL}=="), "x"],
            Err("invalid base64.bearer.authorization token encoding"),
        );
        check(&[&format!("{TOKEN_PROTOCOL}_w"), "x"], Err("invalid base64.bearer.authorization token"));
        check(&[TOKEN_PROTOCOL, "x"], Ok(None));
        // Only a WebSocket has them.
        let plain = headers(&[("sec-websocket-protocol", &token), ("sec-websocket-protocol", "x")]);
        assert_eq!(websocket(&plain), Ok(None));
    }

    #[test]
    fn hides_tokens_and_leaves_the_rest() {
        let token = format!("{TOKEN_PROTOCOL}dG9r");
        let mut map = headers(&[
            ("authorization", "Bearer tok"),
            ("sec-websocket-protocol", &format!("{token}, v5.channel.k8s.io")),
            ("sec-websocket-protocol", "v4.channel.k8s.io"),
            ("x", "y"),
        ]);
        hide_credentials(&mut map);
        assert_eq!(map.len(), 2);
        assert_eq!(map[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io,v4.channel.k8s.io");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(value in prop::collection::vec(any::<u8>(), 0..40)) {
            let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
            let mut map = headers(&[("upgrade", "websocket"), ("connection", "upgrade")]);
            map.insert(AUTHORIZATION, value.clone());
            map.insert(SEC_WEBSOCKET_PROTOCOL, value);
            let _ = Shown::by(&map);
            hide_credentials(&mut map);
            prop_assert!(!map.contains_key(AUTHORIZATION));
        }
    }
}
