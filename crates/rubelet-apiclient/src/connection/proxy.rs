//! A proxy between the agent and the API server: the kubeconfig's, or the environment's as Go programs understand it
//! (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`, also in small letters). Only `http://` proxies, which tunnel by CONNECT.

use std::net::IpAddr;

use base64::Engine as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::error::ConnectFailure;
use crate::kubeconfig::{ClusterAccess, without_userinfo};

/// A proxy's answer to CONNECT is never longer.
const MAX_ANSWER: usize = 16 * 1024;

/// A proxy that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the proxy {url:?} in {variable} cannot be used: only http:// proxies, which tunnel by CONNECT, are supported; change it, or add the API server to NO_PROXY"
)]
pub struct ProxyError {
    /// The variable.
    pub variable: String,
    /// Its value, without user and password.
    pub url: String,
}

/// A proxy that tunnels.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) host: String,
    pub(super) port: u16,
    /// The value of Proxy-Authorization.
    authorization: Option<String>,
}

impl Proxy {
    /// The kubeconfig's proxy, else the one that the environment has for this server. `variable` looks one up.
    pub(super) fn find(
        access: &ClusterAccess,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, ProxyError> {
        if let Some(url) = &access.proxy_url {
            return Ok(Some(Self::new(url)));
        }
        let either = |name: &str| {
            [name.to_owned(), name.to_lowercase()]
                .into_iter()
                .find_map(|name| variable(&name).filter(|value| !value.is_empty()).map(|value| (name, value)))
        };
        let name = if access.is_tls() { "HTTPS_PROXY" } else { "HTTP_PROXY" };
        let Some((name, value)) = either(name) else { return Ok(None) };
        let exceptions = either("NO_PROXY").map(|(_, value)| value).unwrap_or_default();
        if is_excepted(access.host(), access.port(), &exceptions) {
            return Ok(None);
        }
        let with_scheme = if value.contains("://") { value.clone() } else { format!("http://{value}") };
        match with_scheme.parse::<http::Uri>() {
            Ok(url) if url.scheme_str() == Some("http") && url.host().is_some() => Ok(Some(Self::new(&url))),
            _ => Err(ProxyError { variable: name, url: without_userinfo(&value) }),
        }
    }

    fn new(url: &http::Uri) -> Self {
        let host = url.host().unwrap_or_default();
        let user =
            url.authority().and_then(|authority| authority.as_str().rsplit_once('@')).map(|(user, _)| user);
        let encode = |user| base64::engine::general_purpose::STANDARD.encode(percent_decode(user));
        Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: url.port_u16().unwrap_or(80),
            authorization: user.map(|user| format!("Basic {}", encode(user))),
        }
    }

    /// Asks for a tunnel to `address` over a new connection to the proxy.
    pub(super) async fn tunnel(&self, tcp: &mut TcpStream, address: &str) -> Result<(), ConnectFailure> {
        let refused = |answer: String| ConnectFailure::Proxy {
            proxy: super::dial::join(&self.host, self.port),
            address: address.to_owned(),
            answer,
        };
        let authorization = self
            .authorization
            .as_ref()
            .map_or_else(String::new, |value| format!("Proxy-Authorization: {value}\r\n"));
        let request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n{authorization}\r\n");
        tcp.write_all(request.as_bytes()).await.map_err(|error| refused(error.to_string()))?;
        let mut answer = Vec::new();
        // Byte by byte: what follows the empty line belongs to the server.
        while !answer.ends_with(b"\r\n\r\n") {
            match tcp.read_u8().await {
                Ok(byte) if answer.len() < MAX_ANSWER => answer.push(byte),
                Ok(_) => return Err(refused("an endless answer".to_owned())),
                Err(error) => return Err(refused(error.to_string())),
            }
        }
        let text = String::from_utf8_lossy(&answer);
        let line = text.lines().next().unwrap_or_default();
        match line.split(' ').nth(1) {
            Some(code) if code.starts_with('2') => Ok(()),
            _ => Err(refused(line.to_owned())),
        }
    }
}

/// Whether NO_PROXY (or being on this machine) keeps the host from going through a proxy.
fn is_excepted(host: &str, port: u16, exceptions: &str) -> bool {
    let host = host.trim_end_matches('.').to_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    exceptions.split(',').map(|entry| entry.trim().to_lowercase()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let Some((network, bits)) = entry.split_once('/') {
            let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
                return false;
            };
            return address.is_some_and(|address| in_network(address, network, bits));
        }
        let bare: Option<IpAddr> = entry.trim_start_matches('[').trim_end_matches(']').parse().ok();
        let (name, only_port) = match entry.rsplit_once(':') {
            Some((name, digits)) if bare.is_none() => (name.to_owned(), digits.parse::<u16>().ok()),
            _ => (entry, None),
        };
        if only_port.is_some_and(|only| only != port) {
            return false;
        }
        let name = name.trim_start_matches('[').trim_end_matches(']');
        match (address, name.parse::<IpAddr>()) {
            (Some(address), Ok(excepted)) => address == excepted,
            (None, Err(_)) if !name.is_empty() => {
                let domain = name.trim_start_matches('*').trim_start_matches('.');
                host.strip_suffix(domain).is_some_and(|rest| match rest {
                    // A leading dot means subdomains only.
                    "" => !name.starts_with(['.', '*']),
                    _ => rest.ends_with('.'),
                })
            }
            _ => false,
        }
    })
}

fn in_network(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(a) & mask == u32::from(n) & mask
        }
        (IpAddr::V6(a), IpAddr::V6(n)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            u128::from(a) & mask == u128::from(n) & mask
        }
        _ => false,
    }
}

fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (*byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_unescaped() {
        let proxy = Proxy::new(&"http://user:p%40ss%3A@127.0.0.1:3128".parse().unwrap());
        assert_eq!((proxy.host.as_str(), proxy.port), ("127.0.0.1", 3128));
        let expected = base64::engine::general_purpose::STANDARD.encode("user:p@ss:");
        assert_eq!(proxy.authorization, Some(format!("Basic {expected}")));
    }

    #[test]
    fn no_proxy_is_read_as_go_does() {
        let check = |host, entries, expected| {
            assert_eq!(is_excepted(host, 6443, entries), expected, "{host} with NO_PROXY={entries}");
        };
        check("10.0.0.1", "", false);
        check("127.0.0.1", "", true);
        check("::1", "", true);
        check("localhost", "", true);
        check("10.0.0.1", "a, *", true);
        check("10.0.0.1", "192.168.0.0/16,10.0.0.0/8", true);
        check("11.0.0.1", "10.0.0.0/8", false);
        check("11.0.0.1", "0.0.0.0/0", true);
        check("fd00::5", "fd00::/8", true);
        check("10.0.0.1", "10.0.0.1", true);
        check("fd00::5", "fd00::5", true);
        check("fd00::5", "[fd00::5]:6443", true);
        check("10.0.0.1", "10.0.0.1:6443", true);
        check("10.0.0.1", "10.0.0.1:443", false);
        check("api.example.com", "example.com", true);
        check("example.com", "example.com", true);
        check("API.Example.com.", ".example.com", true);
        check("example.com", ".example.com", false);
        check("api.example.com", "*.example.com", true);
        check("badexample.com", "example.com", false);
        check("api.example.com", "example.com:6443", true);
        check("api.example.com", "10.0.0.0/8,,", false);
    }

    #[test]
    fn the_environment_counts_when_the_kubeconfig_is_silent() {
        let find = |server: &str, variables: &[(&str, &str)]| {
            let text = format!(
                "current-context: x\ncontexts: [{{name: x, context: {{cluster: c}}}}]\n\
                 clusters: [{{name: c, cluster: {{server: '{server}'}}}}]"
            );
            let access = ClusterAccess::parse(&text, std::path::Path::new("k")).unwrap();
            let variable = |name: &str| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            Proxy::find(&access, variable).map(|proxy| proxy.map(|proxy| (proxy.host, proxy.port)))
        };
        let proxy = |host: &str, port| Ok(Some((host.to_owned(), port)));
        assert_eq!(find("https://10.0.0.1", &[]), Ok(None));
        assert_eq!(find("https://10.0.0.1", &[("HTTPS_PROXY", "p:3128")]), proxy("p", 3128));
        assert_eq!(find("https://10.0.0.1", &[("https_proxy", "http://p")]), proxy("p", 80));
        assert_eq!(find("http://10.0.0.1", &[("https_proxy", "http://p")]), Ok(None));
        assert_eq!(find("http://10.0.0.1", &[("http_proxy", "p")]), proxy("p", 80));
        assert_eq!(find("https://10.0.0.1", &[("HTTPS_PROXY", "p"), ("NO_PROXY", "10.0.0.1")]), Ok(None));
        let socks = find("https://10.0.0.1", &[("HTTPS_PROXY", "socks5://p")]).unwrap_err();
        assert!(socks.to_string().contains("\"socks5://p\" in HTTPS_PROXY"));
    }
}
