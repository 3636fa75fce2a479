//! Whether a pattern such as `*.example.com:5000/team` covers an image's repository (upstream `URLsMatch`).
//!
//! Owns the grammar of locations in credential files and of `matchImages`; knows no credentials.

/// A registry host, perhaps with port and path. The host may hold globs, each within one part between dots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    host: String,
    path: String,
}

impl Location {
    /// Reads `host[:port][/path]`, the form of `matchImages` and of repositories.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let end = text.find(['?', '#']).unwrap_or(text.len());
        let (text, _) = text.split_at(end);
        let slash = text.find('/').unwrap_or(text.len());
        let (host, path) = text.split_at(slash);
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        if host.bytes().any(|b| b.is_ascii_control() || b" \"<>`{}\\|%".contains(&b)) {
            return Err("invalid character in the host name");
        }
        let (name, port) = split_port(host);
        if !port.bytes().all(|b| b.is_ascii_digit()) || (name.contains(':') && !host.starts_with('[')) {
            return Err("the port must be a number");
        }
        Ok(Self { host: host.to_owned(), path: path.to_owned() })
    }

    /// Reads a location as credential files write it: also with a scheme, and with Docker's `/v1/` or `/v2/`
    /// before the path, which count for nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_entry(text: &str) -> Result<Self, &'static str> {
        let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        let mut location = Self::parse(bare)?;
        if location.path.starts_with("/v1/") || location.path.starts_with("/v2/") {
            location.path.drain(..3);
        }
        if location.path == "/" {
            location.path.clear();
        }
        Ok(location)
    }

    /// `host[:port][/path]`.
    pub fn key(&self) -> String {
        format!("{}{}", self.host, self.path)
    }

    /// Whether this covers a location without globs: the port is the same, the host has as many parts and each
    /// matches, and this path is the beginning of that one.
    pub fn covers(&self, target: &Self) -> bool {
        let ((ours, our_port), (theirs, their_port)) = (split_port(&self.host), split_port(&target.host));
        let (ours, theirs): (Vec<_>, Vec<_>) = (ours.split('.').collect(), theirs.split('.').collect());
        our_port == their_port
            && ours.len() == theirs.len()
            && target.path.starts_with(&self.path)
            && ours.iter().zip(theirs).all(|(pattern, part)| glob(pattern.as_bytes(), part.as_bytes()))
    }
}

/// Name and port. The brackets of an IPv6 address go, because in a name they would begin a class.
fn split_port(host: &str) -> (&str, &str) {
    if let Some((address, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        && address.contains(':')
    {
        return (address, port.strip_prefix(':').unwrap_or(port));
    }
    host.rsplit_once(':').unwrap_or((host, ""))
}

/// Go's `filepath.Match` for a part of a host name: `*` and classes in brackets (a `?` begins a query there). A broken class matches
/// nothing. Takes time in the product of both lengths at most: patterns come from pods' secrets.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // What follows the last star, and the text that it has not swallowed.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            star = Some((rest, text));
            pattern = rest;
        } else if pattern.is_empty() && text.is_empty() {
            return true;
        } else if let Some((rest, after)) = one(pattern, text) {
            (pattern, text) = (rest, after);
        } else if let Some((rest, [_, after @ ..])) = star {
            star = Some((rest, after));
            (pattern, text) = (rest, after);
        } else {
            return false;
        }
    }
}

/// Matches one character; gives what is left of both.
fn one<'p, 't>(pattern: &'p [u8], text: &'t [u8]) -> Option<(&'p [u8], &'t [u8])> {
    let (first, text) = text.split_first()?;
    let rest = match pattern {
        [b'[', rest @ ..] => class(rest, *first).filter(|(found, _)| *found)?.1,
        [p, rest @ ..] if p == first => rest,
        _ => return None,
    };
    Some((rest, text))
}

/// Whether a character is in the class that `pattern` begins with, after the bracket, and what follows the class.
fn class(pattern: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (negated, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut found = false;
    let mut first = true;
    loop {
        rest = match rest {
            [b']', rest @ ..] if !first => return Some((found != negated, rest)),
            [b']' | b'-', ..] | [] => return None,
            [low, b'-', high, rest @ ..] if *high != b']' => {
                found |= (*low..=*high).contains(&byte);
                rest
            }
            [one, rest @ ..] => {
                found |= *one == byte;
                rest
            }
        };
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, target: &str, expected: bool) {
        let (pattern, target) = (Location::parse(pattern).unwrap(), Location::parse(target).unwrap());
        assert_eq!(pattern.covers(&target), expected, "{pattern:?} {target:?}");
    }

    #[test]
    fn hosts_paths_and_ports() {
        check("*.kubernetes.io", "prefix.kubernetes.io", true);
        check("prefix.*.io", "prefix.kubernetes.io", true);
        check("prefix.kubernetes.*", "prefix.kubernetes.io", true);
        check("*-good.kubernetes.io", "prefix-good.kubernetes.io", true);
        check("*.kubernetes.io/blah", "prefix.kubernetes.io/blah", true);
        check("prefix.*.io/foo", "prefix.kubernetes.io/foo/bar", true);
        check("*.kubernetes.io:1111/blah", "prefix.kubernetes.io:1111/blah", true);
        check("*.kubernetes.io", "kubernetes.io", false);
        check("*.*.kubernetes.io", "prefix.kubernetes.io", false);
        check("*kubernetes.io", "a.kubernetes.io", false);
        check("*kubernetes.io", "kubernetes.io", true);
        check("*.*.*.kubernetes.io", "a.b.c.kubernetes.io", true);
        check("kubernetes.io", "kubernetes.com", false);
        check("k*.io", "quay.io", false);
        check("*.kubernetes.io:1234/blah", "prefix.kubernetes.io:1111/blah", false);
        check("prefix.*.io/foo", "prefix.kubernetes.io:1111/foo/bar", false);
        check("gcr.io/team", "gcr.io/teamwork/x", true);
        check("registry.io:8080/path", "registry.io:8080/path/x", true);
        check("reg[a-f0-9].io", "rege.io", true);
        check("r[^a]g.io", "rag.io", false);
        check("r[a.io", "ra.io", false);
        check("a*b*c", "aXbYbZc", true);
        check("a*b*c", "aXbYbZ", false);
        check(&"*a".repeat(200), &"a".repeat(190), false);
        check("[fd00::1]:5000", "[fd00::1]:5000/a", true);
        check("[fd00::1]", "[fd00::1]:5000/a", false);
    }

    #[test]
    fn entries_may_have_a_scheme_and_a_version() {
        let check = |entry: &str, key: &str| assert_eq!(Location::parse_entry(entry).unwrap().key(), key);
        check("https://index.docker.io/v1/", "index.docker.io");
        check("http://r.io:5000/v2/team", "r.io:5000/team");
        check("r.io/", "r.io");
        check("r.io/v1", "r.io/v1");
        check("https://user:pw@r.io/a?b#c", "r.io/a");
        for bad in ["r.io:abc", "r .io", "a:b:c/d", "{r}.io"] {
            assert!(Location::parse_entry(bad).is_err(), "{bad}");
        }
    }
}
