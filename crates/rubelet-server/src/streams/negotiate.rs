//! What a client wants its connection to become, and which headers go on to the runtime and back.
//!
//! Pure. The runtime's server is trusted with what the stream needs and nothing more: no credentials, no cookies.

use http::header::{CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::problem::Problem;

/// The protocol of commands that has a signal for the end of a stream; the runtime does not speak it.
pub(crate) const V5: &str = "v5.channel.k8s.io";
/// What stands before the name of a protocol of SPDY that is spoken inside a WebSocket.
pub(crate) const TUNNEL: &str = "SPDY/3.1+";
/// A token that a browser's client hides among the protocols.
const TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

pub(crate) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// How a client is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// The runtime speaks what the client speaks: bytes go through as they are.
    Through,
    /// Commands over a WebSocket of version 5, which are SPDY for the runtime.
    Translate,
    /// SPDY inside a WebSocket, with these protocols of SPDY.
    Tunnel(Vec<String>),
}

/// Decides how to serve a request; `command` for exec and attach, else it is port-forward.
pub(crate) fn plan(headers: &HeaderMap, command: bool) -> Result<Plan, Problem> {
    if !is_upgrade(headers) {
        return Err(Problem::bad_request("Upgrade request required"));
    }
    if !is_web_socket(headers) {
        return Ok(Plan::Through);
    }
    if command && protocols(headers).any(|protocol| protocol == V5) {
        return Ok(Plan::Translate);
    }
    let tunneled: Vec<String> = tunneled(headers).map(str::to_owned).collect();
    Ok(if command || tunneled.is_empty() { Plan::Through } else { Plan::Tunnel(tunneled) })
}

/// Whether the request is for a WebSocket whose messages are not SPDY.
pub(crate) fn is_plain_web_socket(headers: &HeaderMap) -> bool {
    is_upgrade(headers) && is_web_socket(headers) && tunneled(headers).next().is_none()
}

/// Whether the request asks for another protocol.
pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    texts(headers, &CONNECTION).any(|value| value.to_ascii_lowercase().contains("upgrade"))
}

fn is_web_socket(headers: &HeaderMap) -> bool {
    texts(headers, &UPGRADE).next().is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}

fn texts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    texts(headers, &SEC_WEBSOCKET_PROTOCOL).flat_map(|value| value.split(',')).map(str::trim)
}

fn tunneled(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    protocols(headers).filter_map(|name| name.strip_prefix(TUNNEL)).filter(|name| name.ends_with(".k8s.io"))
}

/// The headers of a request to the runtime that asks for SPDY with these protocols, in the order they are preferred.
pub(crate) fn spdy_headers<'a>(protocols: impl IntoIterator<Item = &'a str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    for protocol in protocols {
        if let Ok(value) = HeaderValue::from_str(protocol) {
            headers.append(STREAM_PROTOCOL, value);
        }
    }
    headers
}

/// The headers of a request that goes through.
pub(crate) fn request_headers(from: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    for (name, value) in from {
        let wanted = name == UPGRADE
            || *name == STREAM_PROTOCOL
            || name == http::header::USER_AGENT
            || (name.as_str().starts_with("sec-websocket-") && name != SEC_WEBSOCKET_PROTOCOL);
        if wanted {
            headers.append(name, value.clone());
        }
    }
    let listed: Vec<&str> =
        protocols(from).filter(|name| !name.is_empty() && !name.starts_with(TOKEN)).collect();
    if let Ok(value) = HeaderValue::from_str(&listed.join(", "))
        && !listed.is_empty()
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    headers
}

/// The headers of the runtime's answer that the client gets.
pub(crate) fn response_headers(from: &HeaderMap, upgraded: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if upgraded {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    for (name, value) in from {
        let wanted = *name == STREAM_PROTOCOL
            || *name == ACCEPTED_PROTOCOLS
            || (upgraded && (name == UPGRADE || name.as_str().starts_with("sec-websocket-")));
        if wanted {
            headers.append(name, value.clone());
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn plans_for_each_client() {
        let socket = |protocol| {
            headers(&[
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "WebSocket"),
                ("sec-websocket-protocol", protocol),
            ])
        };
        let tunnel = Ok(Plan::Tunnel(vec!["portforward.k8s.io".to_owned()]));
        for (name, headers, command, plan) in [
            (
                "kubectl 1.20",
                headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")]),
                true,
                Ok(Plan::Through),
            ),
            ("kubectl 1.35", socket("v5.channel.k8s.io"), true, Ok(Plan::Translate)),
            ("kube-rs", socket("v5.channel.k8s.io, v4.channel.k8s.io"), true, Ok(Plan::Translate)),
            ("python", socket("v4.channel.k8s.io"), true, Ok(Plan::Through)),
            ("browser", socket("v4.base64.channel.k8s.io"), true, Ok(Plan::Through)),
            ("kubectl 1.35 port-forward", socket("SPDY/3.1+portforward.k8s.io"), false, tunnel),
            ("python port-forward", socket("v4.channel.k8s.io"), false, Ok(Plan::Through)),
            ("curl", headers(&[]), true, Err(400)),
        ] {
            assert_eq!(
                super::plan(&headers, command).map_err(|problem| problem.code.as_u16()),
                plan,
                "{name}"
            );
        }
    }

    #[test]
    fn passes_on_what_the_stream_needs() {
        let from = headers(&[
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "k"),
            ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.dG9r, v4.channel.k8s.io"),
            ("authorization", "Bearer tok"),
            ("cookie", "c"),
            ("impersonate-user", "u"),
            ("x-remote-user", "u"),
        ]);
        assert_eq!(
            request_headers(&from),
            headers(&[
                ("connection", "Upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-key", "k"),
                ("sec-websocket-protocol", "v4.channel.k8s.io"),
            ])
        );
        let answer = headers(&[
            ("connection", "upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ("set-cookie", "c"),
        ]);
        assert_eq!(
            response_headers(&answer, true),
            headers(&[
                ("connection", "Upgrade"),
                ("upgrade", "SPDY/3.1"),
                ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ])
        );
    }
}
