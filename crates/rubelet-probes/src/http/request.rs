//! What is asked: an `httpGet` action made into a request, and that request as the bytes of HTTP/1.1.
//!
//! The rules are those of upstream's `NewRequestForHTTPGetAction` and of Go's client behind it, down to the order of
//! the headers. Nothing is sent here.

use std::net::Ipv6Addr;

use base64::Engine as _;
use k8s_openapi::api::core::v1::{ContainerPort, HTTPGetAction};

use super::quote::quote;
use super::url::Url;
use crate::target::{resolve_host, resolve_port};

/// Headers that a request carries once, from elsewhere, or never.
const NOT_COPIED: [&str; 5] = ["Host", "User-Agent", "Content-Length", "Transfer-Encoding", "Trailer"];

/// A GET.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub url: Url,
    /// The Host header of the action; empty: that of the URL.
    host: String,
    /// Headers by canonical name, sorted by it, equal ones in the order given.
    headers: Vec<(String, String)>,
    /// The Referer header, of a request that follows a redirect.
    referer: Option<String>,
}

impl Request {
    /// The request of an action; `user` is the user agent.
    ///
    /// # Errors
    /// What is wrong with the action: it can never be sent, and nothing is said about the container.
    pub fn new(
        action: &HTTPGetAction,
        ports: &[ContainerPort],
        pod_ip: &str,
        user: &str,
    ) -> Result<Self, String> {
        let port = resolve_port(&action.port, ports).map_err(|error| error.to_string())?;
        let host = resolve_host(action.host.as_deref(), pod_ip).map_err(|error| error.to_string())?;
        let path = action.path.as_deref().unwrap_or_default();
        let mut url = Url::parse(path).unwrap_or_else(|_| Url::of_path(path));
        url.scheme = match action.scheme.as_deref().unwrap_or_default() {
            "" => "http".to_owned(),
            scheme => scheme.to_lowercase(),
        };
        url.host = match host.contains([':', '%']) {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        // Read again, as upstream does: this is where a host that is none shows.
        let url = Url::parse(&url.full())?;

        let mut headers: Vec<(String, String)> = Vec::with_capacity(4);
        for header in action.http_headers.iter().flatten() {
            headers.push((canonical(&header.name), header.value.clone()));
        }
        match first(&headers, "Accept") {
            None => headers.push(("Accept".into(), "*/*".into())),
            Some("") => headers.retain(|(name, _)| name != "Accept"),
            Some(_) => {}
        }
        if first(&headers, "User-Agent").is_none() {
            headers.push(("User-Agent".into(), user.into()));
        }
        if let Some(user) = &url.user
            && first(&headers, "Authorization").unwrap_or_default().is_empty()
        {
            headers.retain(|(name, _)| name != "Authorization");
            let password = user.password.as_deref().unwrap_or_default();
            let pair = [&user.name, &b":"[..], password].concat();
            let value = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
            headers.push(("Authorization".into(), value));
        }
        headers.sort_by(|(a, _), (b, _)| a.cmp(b));
        let host = first(&headers, "Host").unwrap_or_default().to_owned();
        Ok(Self { url, host, headers, referer: None })
    }

    /// The same over HTTP, where everybody on the way can read it: without credentials.
    pub fn over_http(mut self) -> Self {
        self.url.scheme = "http".into();
        self.headers.retain(|(name, _)| name != "Authorization");
        self
    }

    /// The request that follows a redirect of this one to `url`.
    pub fn redirected(&self, url: Url, location: &str) -> Self {
        let relative = Url::parse(location).is_ok_and(|location| location.scheme.is_empty());
        let host = match relative && self.host != self.url.host {
            true => self.host.clone(),
            false => String::new(),
        };
        let referer = match first(&self.headers, "Referer") {
            _ if self.url.scheme == "https" && url.scheme == "http" => None,
            Some(own) if !own.is_empty() => Some(own.to_owned()),
            _ => Some(self.url.referer()),
        };
        Self { url, host, headers: self.headers.clone(), referer }
    }

    /// Whether it can be sent at all.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub fn check(&self) -> Result<(), String> {
        let http = matches!(self.url.scheme.as_str(), "http" | "https");
        for (name, value) in &self.headers {
            if http && !is_token(name) {
                return Err(format!("net/http: invalid header field name {}", quote(name.as_bytes())));
            }
            if http && value.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f) {
                return Err(format!("net/http: invalid header field value for {}", quote(name.as_bytes())));
            }
        }
        if !http {
            return Err(format!("unsupported protocol scheme {}", quote(self.url.scheme.as_bytes())));
        }
        if self.url.host.is_empty() {
            return Err("http: no Host in request URL".into());
        }
        Ok(())
    }

    /// The Host header, or what stands for it in HTTP/2. A host that is none is left empty.
    pub fn host_header(&self) -> String {
        let host = match self.host.is_empty() {
            true => &self.url.host,
            false => &self.host,
        };
        if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"!$%&()*+,-.:;=['_]~".contains(&b)) {
            return String::new();
        }
        // The zone of an address means something on this machine only.
        match (host.starts_with('['), host.find('%'), host.rfind(']')) {
            (true, Some(zone), Some(end)) if zone < end => format!("{}{}", &host[..zone], &host[end..]),
            _ => host.clone(),
        }
    }

    /// All headers but Host, in the order in which they are sent.
    pub fn headers(&self) -> Vec<(&str, &str)> {
        let mut headers = Vec::with_capacity(self.headers.len() + 2);
        if let Some(user) = first(&self.headers, "User-Agent").filter(|user| !user.is_empty()) {
            headers.push(("User-Agent", user.trim_matches([' ', '\t'])));
        }
        let mut referer = self.referer.as_deref();
        for (name, value) in &self.headers {
            if NOT_COPIED.contains(&name.as_str()) {
                continue;
            }
            if let Some(value) = referer.filter(|_| name.as_str() >= "Referer") {
                headers.push(("Referer", value));
                referer = None;
            }
            if self.referer.is_some() && name == "Referer" {
                continue;
            }
            headers.push((name, value.trim_matches([' ', '\t'])));
        }
        headers.extend(referer.map(|value| ("Referer", value)));
        headers
    }

    /// The request as HTTP/1.1 sends it; the connection ends with the answer.
    pub fn http1(&self) -> Vec<u8> {
        let target = self.url.request_target();
        let mut text = String::with_capacity(160 + target.len());
        for part in ["GET ", &target, " HTTP/1.1\r\nHost: ", &self.host_header(), "\r\n"] {
            text.push_str(part);
        }
        for (name, value) in self.headers() {
            for part in [name, ": ", value, "\r\n"] {
                text.push_str(part);
            }
        }
        let closes = first(&self.headers, "Connection").is_some_and(|value| has_token(value, "close"));
        if !closes && !self.switches() {
            text.push_str("Connection: close\r\n");
        }
        text.push_str("\r\n");
        text.into_bytes()
    }

    /// Whether it asks for another protocol, which may take the connection over.
    fn switches(&self) -> bool {
        let all = |name: &'static str| self.headers.iter().filter(move |(n, _)| n == name);
        first(&self.headers, "Upgrade").is_some_and(|value| !value.is_empty())
            && all("Connection").any(|(_, value)| has_token(value, "upgrade"))
    }
}

/// Whether a header's list has this word.
pub(super) fn has_token(list: &str, token: &str) -> bool {
    list.split(',').any(|word| word.trim_matches([' ', '\t']).eq_ignore_ascii_case(token))
}

fn first<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

/// Whether this can be a header's name.
pub(super) fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(is_token_byte)
}

/// Whether a header's name can have this byte.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// `x-real-ip` as `X-Real-Ip`; what is no name of a header stays as it is.
pub(super) fn canonical(name: &str) -> String {
    if !is_token(name) {
        return name.to_owned();
    }
    let mut upper = true;
    let canonical = |c: char| {
        let canonical = if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
        upper = c == '-';
        canonical
    };
    name.chars().map(canonical).collect()
}

/// The host of a URL as TLS names it: an IPv6 address without its zone.
pub(super) fn without_zone(host: &str) -> &str {
    match host.split_once('%') {
        Some((address, _)) if address.parse::<Ipv6Addr>().is_ok() => address,
        _ => host,
    }
}
