//! Where the runtime listens: `containerRuntimeEndpoint` and `imageServiceEndpoint` as text, and what they mean.
//! Pure; the socket itself is opened by the client's connection.

use std::path::{Path, PathBuf};

/// A unix socket of a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CriEndpoint {
    path: PathBuf,
    note: Option<String>,
}

/// Why an endpoint cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Nothing was given.
    #[error("the runtime endpoint is empty; use unix:///path/to/the.sock")]
    Empty,
    /// A scheme that this agent does not speak.
    #[error(
        "runtime endpoint {endpoint:?}: {scheme} is not supported on Linux, only unix; use unix:///path/to/the.sock"
    )]
    Scheme {
        /// The endpoint as given.
        endpoint: String,
        /// Its scheme.
        scheme: String,
    },
    /// `unix://run/x.sock`: the first part would be taken for a host.
    #[error("runtime endpoint {endpoint:?} names a host; for the path /{path} write unix:///{path}")]
    Host {
        /// The endpoint as given.
        endpoint: String,
        /// What was probably meant, without its leading slash.
        path: String,
    },
    /// No path, or something that is neither a path nor an endpoint.
    #[error("runtime endpoint {endpoint:?} has no path to a socket; use unix:///path/to/the.sock")]
    NoPath {
        /// The endpoint as given.
        endpoint: String,
    },
}

impl CriEndpoint {
    /// Reads `unix:///path`, `unix:path` or, with a note, a bare `/path`.
    pub fn parse(endpoint: &str) -> Result<Self, EndpointError> {
        let text = endpoint.trim();
        let owned = || endpoint.to_owned();
        if text.is_empty() {
            return Err(EndpointError::Empty);
        }
        if text.starts_with('/') {
            let note =
                format!("runtime endpoint {text:?} has no scheme, which is deprecated; write unix://{text}");
            return Ok(Self { path: text.into(), note: Some(note) });
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(EndpointError::NoPath { endpoint: owned() });
        };
        if scheme != "unix" {
            return Err(EndpointError::Scheme { endpoint: owned(), scheme: scheme.to_owned() });
        }
        let path = match rest.strip_prefix("//") {
            Some(path) if path.is_empty() || path.starts_with('/') => path,
            Some(path) => return Err(EndpointError::Host { endpoint: owned(), path: path.to_owned() }),
            None => rest,
        };
        if path.is_empty() || path.ends_with('/') {
            return Err(EndpointError::NoPath { endpoint: owned() });
        }
        Ok(Self { path: path.into(), note: None })
    }

    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the user should be told about the way the endpoint is written.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(endpoint: &str, expected: &str) {
        let result = match CriEndpoint::parse(endpoint) {
            Ok(parsed) => {
                let note = if parsed.note().is_some() { " (note)" } else { "" };
                format!("{}{note}", parsed.path().display())
            }
            Err(error) => format!("error: {error}"),
        };
        assert!(result.starts_with(expected), "{endpoint:?} gave {result:?}, wanted {expected:?}");
    }

    #[test]
    fn endpoints_are_read_or_refused_with_advice() {
        check("unix:///run/containerd/containerd.sock", "/run/containerd/containerd.sock");
        check(" unix:///run/x.sock ", "/run/x.sock");
        check("unix:/run/x.sock", "/run/x.sock");
        check("unix:x.sock", "x.sock");
        check("/run/x.sock", "/run/x.sock (note)");
        check("", "error: the runtime endpoint is empty");
        check("   ", "error: the runtime endpoint is empty");
        check(
            "tcp://127.0.0.1:1234",
            "error: runtime endpoint \"tcp://127.0.0.1:1234\": tcp is not supported",
        );
        check(
            "npipe:////./pipe/containerd",
            "error: runtime endpoint \"npipe:////./pipe/containerd\": npipe is not",
        );
        check(
            "unix://run/x.sock",
            "error: runtime endpoint \"unix://run/x.sock\" names a host; for the path /run",
        );
        check("unix://", "error: runtime endpoint \"unix://\" has no path");
        check("unix:///run/", "error: runtime endpoint \"unix:///run/\" has no path");
        check("containerd.sock", "error: runtime endpoint \"containerd.sock\" has no path");
    }
}
