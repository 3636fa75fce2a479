//! URLs as Go's `net/url` has them, so far as a GET needs: what users write as `path` is parsed, escaped and shown by
//! these rules, oddities included, because pods that work are written against them.
//!
//! A path is kept in its escaped form only: that is what is sent, shown and resolved against.

use super::quote::quote;

/// A parsed URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Url {
    /// In lower case; empty for a reference without one.
    pub scheme: String,
    /// What follows the scheme of a URL without slash: `x@y` of `mailto:x@y`.
    pub opaque: String,
    /// Who is asking.
    pub user: Option<User>,
    /// Host and port, an IPv6 address in brackets.
    pub host: String,
    /// The path as it is sent.
    pub path: String,
    /// There is a query, and it is empty.
    pub force_query: bool,
    /// The query, untouched.
    pub query: String,
    /// The fragment as it is shown; it is never sent.
    pub fragment: String,
    /// `scheme:/path`: nothing stands between scheme and path.
    pub omit_host: bool,
}

/// Name and password of a URL, unescaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub name: Vec<u8>,
    pub password: Option<Vec<u8>>,
}

/// What part of a URL a byte stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Path,
    Host,
    Zone,
    User,
    Fragment,
}

impl Url {
    /// Parses a URL or a reference.
    ///
    /// # Errors
    /// A text in the words of Go: `parse "…": …`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let mut url = Self::parse_rest(rest)
            .map_err(|problem| format!("parse {}: {problem}", quote(rest.as_bytes())))?;
        url.fragment = normalized(fragment, Part::Fragment)
            .map_err(|problem| format!("parse {}: {problem}", quote(text.as_bytes())))?;
        Ok(url)
    }

    /// A URL that is nothing but a path, whatever is in it.
    pub fn of_path(path: &str) -> Self {
        Self { path: escape(path.as_bytes(), Part::Path), ..Self::default() }
    }

    fn parse_rest(text: &str) -> Result<Self, String> {
        if text.bytes().any(|b| b < b' ' || b == 0x7f) {
            return Err("net/url: invalid control character in URL".into());
        }
        let mut url = Self::default();
        if text == "*" {
            url.path = text.into();
            return Ok(url);
        }
        let (scheme, mut rest) = split_scheme(text)?;
        url.scheme = scheme.to_ascii_lowercase();
        if rest.ends_with('?') && rest.matches('?').count() == 1 {
            url.force_query = true;
            rest = &rest[..rest.len() - 1];
        } else if let Some((path, query)) = rest.split_once('?') {
            url.query = query.into();
            rest = path;
        }
        if !rest.starts_with('/') {
            if !url.scheme.is_empty() {
                url.opaque = rest.into();
                return Ok(url);
            }
            if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
                return Err("first path segment in URL cannot contain colon".into());
            }
        }
        let may_have_host = !url.scheme.is_empty() || !rest.starts_with("///");
        if let (true, Some(authority)) = (may_have_host, rest.strip_prefix("//")) {
            let end = authority.find('/').unwrap_or(authority.len());
            rest = &authority[end..];
            (url.user, url.host) = parse_authority(&url.scheme, &authority[..end])?;
        } else if !url.scheme.is_empty() && rest.starts_with('/') {
            url.omit_host = true;
        }
        url.path = normalized(rest, Part::Path)?;
        Ok(url)
    }

    /// Where a reference leads from here, such as that of a `Location` header.
    ///
    /// # Errors
    /// As [`Url::parse`].
    pub fn join(&self, reference: &str) -> Result<Self, String> {
        let mut url = Self::parse(reference)?;
        let absolute = !url.scheme.is_empty();
        if !absolute {
            url.scheme.clone_from(&self.scheme);
        }
        if absolute || !url.host.is_empty() || url.user.is_some() {
            url.path = normalized(&resolve_path(&url.path, ""), Part::Path)?;
            return Ok(url);
        }
        if url.path.is_empty() && !url.force_query && url.query.is_empty() {
            url.query.clone_from(&self.query);
            if url.fragment.is_empty() {
                url.fragment.clone_from(&self.fragment);
            }
        }
        if url.path.is_empty() && !self.opaque.is_empty() {
            url.opaque.clone_from(&self.opaque);
            return Ok(url);
        }
        url.host.clone_from(&self.host);
        url.user.clone_from(&self.user);
        url.path = normalized(&resolve_path(&self.path, &url.path), Part::Path)?;
        Ok(url)
    }

    /// What the first line of a request asks for.
    pub fn request_target(&self) -> String {
        let mut target = match (self.opaque.as_str(), self.path.as_str()) {
            ("", "") => "/".to_owned(),
            ("", path) => path.to_owned(),
            (opaque, _) if opaque.starts_with("//") => format!("{}:{opaque}", self.scheme),
            (opaque, _) => opaque.to_owned(),
        };
        self.push_query(&mut target);
        target
    }

    /// Host without port and brackets.
    pub fn hostname(&self) -> &str {
        let host = self.split_port().0;
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// The port; that of the scheme where none is given, `None` when what is given is none.
    pub fn port(&self) -> Option<u16> {
        match self.split_port().1 {
            "" if self.scheme == "https" => Some(443),
            "" => Some(80),
            port => port.parse().ok(),
        }
    }

    fn split_port(&self) -> (&str, &str) {
        match self.host.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
            _ => (&self.host, ""),
        }
    }

    /// The URL as text; `user` is what stands before the host.
    fn text(&self, user: Option<String>) -> String {
        let mut text = String::new();
        if !self.scheme.is_empty() {
            text.push_str(&self.scheme);
            text.push(':');
        }
        if !self.opaque.is_empty() {
            text.push_str(&self.opaque);
        } else {
            let bare = self.host.is_empty() && user.is_none();
            let after_scheme = !self.scheme.is_empty() && !self.omit_host && !self.path.is_empty();
            if !bare || after_scheme {
                text.push_str("//");
            }
            if let Some(user) = user {
                text.push_str(&user);
                text.push('@');
            }
            text.push_str(&escape(self.host.as_bytes(), Part::Host));
            if !self.path.is_empty() && !self.path.starts_with('/') && !self.host.is_empty() {
                text.push('/');
            }
            if text.is_empty() && self.path.split('/').next().is_some_and(|segment| segment.contains(':')) {
                text.push_str("./");
            }
            text.push_str(&self.path);
        }
        self.push_query(&mut text);
        if !self.fragment.is_empty() {
            text.push('#');
            text.push_str(&self.fragment);
        }
        text
    }

    fn push_query(&self, text: &mut String) {
        if self.force_query || !self.query.is_empty() {
            text.push('?');
            text.push_str(&self.query);
        }
    }

    /// The URL with name and password.
    pub fn full(&self) -> String {
        self.text(self.user.as_ref().map(|user| {
            let name = escape(&user.name, Part::User);
            match &user.password {
                Some(password) => format!("{name}:{}", escape(password, Part::User)),
                None => name,
            }
        }))
    }

    /// The URL for messages: without the password.
    pub fn shown(&self) -> String {
        match &self.user {
            Some(User { name, password: Some(_) }) => {
                self.text(Some(format!("{}:***", String::from_utf8_lossy(name))))
            }
            _ => self.full(),
        }
    }

    /// The URL for a `Referer` header: without user.
    pub fn referer(&self) -> String {
        self.text(None)
    }
}

fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme".into()),
            b':' => return Ok((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn parse_authority(scheme: &str, authority: &str) -> Result<(Option<User>, String), String> {
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let host = parse_host(scheme, host)?;
    let Some(user) = user else { return Ok((None, host)) };
    if !user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b)) {
        return Err("net/url: invalid userinfo".into());
    }
    let (name, password) = match user.split_once(':') {
        Some((name, password)) => (name, Some(unescape(password, Part::User)?)),
        None => (user, None),
    };
    Ok((Some(User { name: unescape(name, Part::User)?, password }), host))
}

fn parse_host(scheme: &str, host: &str) -> Result<String, String> {
    let port = |text: &str| match text.strip_prefix(':') {
        None if text.is_empty() => Ok(()),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
        _ => Err(format!("invalid port {} after host", quote(text.as_bytes()))),
    };
    let lossy = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    match host.rfind('[') {
        Some(0) => {
            let close = host.rfind(']').ok_or("missing ']' in host")?;
            port(&host[close + 1..])?;
            let inner = &host[1..close];
            let name = match inner.find("%25") {
                Some(zone) => {
                    lossy(unescape(&inner[..zone], Part::Host)?)
                        + &lossy(unescape(&inner[zone..], Part::Zone)?)
                }
                None => lossy(unescape(inner, Part::Host)?),
            };
            let (address, zone) = name.split_once('%').unwrap_or((&name, "-"));
            if address.parse::<std::net::Ipv4Addr>().is_ok() {
                return Err("invalid IP-literal".into());
            }
            if address.parse::<std::net::Ipv6Addr>().is_err() || zone.is_empty() {
                return Err(format!("invalid host: {} is not an IPv6 address", quote(name.as_bytes())));
            }
            return Ok(format!("[{name}]{}", &host[close + 1..]));
        }
        Some(_) => return Err("invalid IP-literal".into()),
        None => {}
    }
    // Of a scheme that is not HTTP, only what follows the last colon has to be a port.
    let colon = match scheme {
        "http" | "https" => host.find(':'),
        _ => host.rfind(':'),
    };
    if let Some(colon) = colon {
        port(&host[colon..])?;
    }
    unescape(host, Part::Host).map(lossy)
}

/// The path that a reference makes of a base path, without `.` and `..`.
fn resolve_path(base: &str, reference: &str) -> String {
    let full = match reference {
        "" => base.to_owned(),
        reference if reference.starts_with('/') => reference.to_owned(),
        reference => format!("{}{reference}", &base[..base.rfind('/').map_or(0, |slash| slash + 1)]),
    };
    if full.is_empty() {
        return full;
    }
    // What is built always begins with a slash of its own, which a path that has one makes a second.
    let mut built = String::from("/");
    let mut first = true;
    let mut last = "";
    for element in full.split('/') {
        last = element;
        match element {
            "." => first = false,
            ".." => {
                built.truncate(built[1..].rfind('/').map_or(1, |slash| slash + 1));
                first = built.len() == 1;
            }
            _ => {
                if !first {
                    built.push('/');
                }
                built.push_str(element);
                first = false;
            }
        }
    }
    if last == "." || last == ".." {
        built.push('/');
    }
    if built[1..].starts_with('/') {
        built.remove(0);
    }
    built
}

/// A part as it is sent: as written when that is well-formed, escaped anew otherwise.
fn normalized(text: &str, part: Part) -> Result<String, String> {
    let bytes = unescape(text, part)?;
    let well_formed = text
        .bytes()
        .all(|b| matches!(b, b'%' | b'[' | b']') || b"!$&'()*+,;=:@".contains(&b) || !escaped(b, part));
    Ok(if well_formed { text.to_owned() } else { escape(&bytes, part) })
}

/// Whether a byte is escaped in a part.
fn escaped(byte: u8, part: Part) -> bool {
    if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
        return false;
    }
    match part {
        Part::Host | Part::Zone => !b"!$&'()*+,;=:[]<>\"".contains(&byte),
        Part::Path => !b"$&+,/:;=@".contains(&byte),
        Part::User => !b"$&+,;=".contains(&byte),
        Part::Fragment => !b"$&+,/:;=?@!()*".contains(&byte),
    }
}

fn escape(bytes: &[u8], part: Part) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match escaped(*byte, part) {
            true => text.push_str(&format!("%{byte:02X}")),
            false => text.push(char::from(*byte)),
        }
    }
    text
}

fn unescape(text: &str, part: Part) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first != b'%' {
            if matches!(part, Part::Host | Part::Zone) && *first < 0x80 && escaped(*first, part) {
                return Err(format!("invalid character {} in host name", quote(&[*first])));
            }
            bytes.push(*first);
            rest = after;
            continue;
        }
        let bad = || Err(format!("invalid URL escape {}", quote(&rest[..rest.len().min(3)])));
        let [high, low, after @ ..] = after else { return bad() };
        let (Some(high), Some(low)) = (char::from(*high).to_digit(16), char::from(*low).to_digit(16)) else {
            return bad();
        };
        // Both are below 16.
        let byte = u8::try_from(high * 16 + low).unwrap_or_default();
        match part {
            // Bytes that are not ASCII, and the percent sign that begins a zone.
            Part::Host if byte < 0x80 && byte != b'%' => return bad(),
            Part::Zone if byte != b'%' && byte != b' ' && escaped(byte, Part::Host) => return bad(),
            _ => bytes.push(byte),
        }
        rest = after;
    }
    Ok(bytes)
}
