//! What names a stored object, and what is stored of it. Values only.

use std::fmt;

use bytes::Bytes;

/// The name of an object: the order is that of lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Storage name of the kind, such as `pods`.
    pub resource: String,
    /// Empty for what has none.
    pub namespace: String,
    /// The object's own name.
    pub name: String,
}

impl Key {
    /// The key of an object. Any text is a key of its own: the parts cannot run into each other.
    pub fn new(resource: impl Into<String>, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }

    pub(super) fn parts(&self) -> (&str, &str, &str) {
        (&self.resource, &self.namespace, &self.name)
    }

    pub(super) fn of(parts: (&str, &str, &str)) -> Self {
        Self::new(parts.0, parts.1, parts.2)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, namespace, name } = self;
        if namespace.is_empty() {
            write!(formatter, "{resource}/{name}")
        } else {
            write!(formatter, "{resource}/{namespace}/{name}")
        }
    }
}

/// An object as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The revision at which it came to be.
    pub created: u64,
    /// The revision of its last change.
    pub modified: u64,
    /// Its JSON, as it was given.
    pub bytes: Bytes,
}
