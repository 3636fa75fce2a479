//! Which headers go through a proxy, in each direction.
//!
//! Pure.

use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Request, Response, StatusCode};

/// A token that a browser's client hides among the protocols of its WebSocket.
const TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

/// Headers that are for the next hop alone.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// What an answer says of other sites; this server speaks for itself.
const CORS: [&str; 4] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

fn texts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

/// Whether the client wants its connection for something else than HTTP.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    texts(headers, &CONNECTION).any(|value| value.to_ascii_lowercase().contains("upgrade"))
}

/// The host as which the client knows this server.
pub(super) fn host<B>(request: &Request<B>) -> String {
    let said = texts(request.headers(), &HOST).next().map(str::to_owned);
    said.or_else(|| request.uri().authority().map(ToString::to_string)).unwrap_or_default()
}

/// Takes out what the client proves itself with, and what would claim another user.
pub(super) fn withhold_credentials(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    headers.remove(PROXY_AUTHORIZATION);
    let claims: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
    let protocols: Vec<&str> = texts(headers, &SEC_WEBSOCKET_PROTOCOL)
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|protocol| !protocol.is_empty())
        .collect();
    if !protocols.iter().any(|protocol| protocol.starts_with(TOKEN)) {
        return;
    }
    let kept: Vec<&str> = protocols.into_iter().filter(|protocol| !protocol.starts_with(TOKEN)).collect();
    match HeaderValue::from_str(&kept.join(", ")) {
        Ok(value) if !kept.is_empty() => headers.insert(SEC_WEBSOCKET_PROTOCOL, value),
        _ => headers.remove(SEC_WEBSOCKET_PROTOCOL),
    };
}

/// Takes out what is for the next hop alone.
pub(super) fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<String> = texts(headers, &CONNECTION)
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Tells a server behind the proxy how it was reached; `host` and `place` are the client's.
pub(super) fn forwarded(headers: &mut HeaderMap, host: &str, place: &str) {
    let said = [("x-forwarded-host", host), ("x-forwarded-proto", "https"), ("x-forwarded-uri", place)];
    for (name, value) in said {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(HOST, host);
    }
}

/// Makes an answer one of this server: `prefix` is the path under which it has what is on the other side, which is known
/// as one of `hosts`.
pub(super) fn answered<B>(response: &mut Response<B>, hosts: &[&str], prefix: &str) {
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    if upgraded {
        return;
    }
    drop_hop_by_hop(headers);
    for name in CORS {
        headers.remove(name);
    }
    let place = texts(headers, &LOCATION).next().and_then(|place| moved(place, hosts, prefix));
    if let Some(place) = place.and_then(|place| HeaderValue::from_str(&place).ok()) {
        headers.insert(LOCATION, place);
    }
}

/// Where a place on the other side is for the client; none when it is right as it is.
fn moved(place: &str, hosts: &[&str], prefix: &str) -> Option<String> {
    let path = match place.split_once("//") {
        Some((scheme, rest)) if scheme.is_empty() || matches!(scheme, "http:" | "https:") => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (host, path) = rest.split_at(end);
            hosts.contains(&host).then_some(path)?
        }
        _ => place,
    };
    let relative = !path.starts_with('/');
    let known = path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match (relative, known) {
        (true, _) => None,
        (false, true) => (path != place).then(|| path.to_owned()),
        (false, false) => Some(format!("{prefix}{path}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("proxy-authorization", "Basic x"),
            ("x-remote-user", "root"),
            ("x-remote-extra-scopes", "all"),
            ("sec-websocket-protocol", "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.abc"),
            ("accept", "text/plain"),
        ] {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        withhold_credentials(&mut headers);
        let mut left: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        left.sort_unstable();
        assert_eq!(left, [("accept", "text/plain"), ("sec-websocket-protocol", "v5.channel.k8s.io")]);
        headers.insert(SEC_WEBSOCKET_PROTOCOL, format!("{TOKEN}abc").parse().unwrap());
        withhold_credentials(&mut headers);
        assert!(!headers.contains_key(SEC_WEBSOCKET_PROTOCOL));
    }

    #[test]
    fn what_is_for_one_hop_stays_on_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Own"),
            ("x-own", "1"),
            ("te", "trailers"),
            ("etag", "e"),
            ("upgrade", "h2c"),
        ] {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        drop_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["etag"]);
    }

    #[test]
    fn places_are_the_proxys() {
        #[track_caller]
        fn check(place: &str, expected: Option<&str>) {
            let prefix = "/api/v1/nodes/n/proxy";
            assert_eq!(
                moved(place, &["10.0.0.1:80", "localhost:6443"], prefix).as_deref(),
                expected,
                "{place}"
            );
        }
        check("/logs/", Some("/api/v1/nodes/n/proxy/logs/"));
        check("/logs/?a=b#c", Some("/api/v1/nodes/n/proxy/logs/?a=b#c"));
        check("http://10.0.0.1:80/x", Some("/api/v1/nodes/n/proxy/x"));
        check("https://localhost:6443/x", Some("/api/v1/nodes/n/proxy/x"));
        check("https://localhost:6443/api/v1/nodes/n/proxy/x", Some("/api/v1/nodes/n/proxy/x"));
        check("//10.0.0.1:80/x", Some("/api/v1/nodes/n/proxy/x"));
        check("https://example.com/x", None);
        check("http://10.0.0.1:80", None);
        check("logs/", None);
        check("?a=//10.0.0.1:80/x", None);
        check("/api/v1/nodes/n/proxy/x", None);
        check("/api/v1/nodes/n/proxyx", Some("/api/v1/nodes/n/proxy/api/v1/nodes/n/proxyx"));
    }
}
