//! Going through objects in order: what is in the file, with some of it overlaid by what is not (yet, or any more).
//! Copies one object at a time. Used by snapshots of the past and by transactions over their own changes.

use std::iter::Peekable;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::Range;

use super::error::StoreError;
use super::key::{Key, Record};
use super::tables::{ObjectKey, ObjectRow};

/// An object, or why there is none.
pub(super) type Item = Result<(Key, Record), StoreError>;
/// An object that stands for what the file has of it; `None` hides that.
pub(super) type Overlay = Result<(Key, Option<Record>), StoreError>;

/// Which objects a list is of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub resource: &'a str,
    pub namespace: Option<&'a str>,
    /// Namespace and name of the last object that is not wanted any more.
    pub after: Option<(&'a str, &'a str)>,
}

impl Scope<'_> {
    /// Where it begins in the order of keys.
    pub(super) fn start(&self) -> Bound<(&str, &str, &str)> {
        match self.after {
            Some((namespace, name)) => Bound::Excluded((self.resource, namespace, name)),
            None => Bound::Included((self.resource, self.namespace.unwrap_or_default(), "")),
        }
    }

    /// Whether a key is of it.
    pub(super) fn holds(&self, (resource, namespace, name): (&str, &str, &str)) -> bool {
        resource == self.resource
            && self.namespace.is_none_or(|wanted| wanted == namespace)
            && self.after.is_none_or(|after| (namespace, name) > after)
    }
}

/// The rows of a scope, which are next to each other.
pub(super) struct Rows<'t> {
    range: Range<'t, ObjectKey, ObjectRow>,
    resource: String,
    namespace: Option<String>,
    path: PathBuf,
    done: bool,
}

impl<'t> Rows<'t> {
    pub(super) fn new(range: Range<'t, ObjectKey, ObjectRow>, scope: &Scope<'_>, path: &Path) -> Self {
        Self {
            range,
            resource: scope.resource.to_owned(),
            namespace: scope.namespace.map(str::to_owned),
            path: path.to_path_buf(),
            done: false,
        }
    }

    /// What `look` makes of the next row, where it is.
    pub(super) fn next_with<T>(
        &mut self,
        look: impl FnOnce((&str, &str, &str), (u64, u64, &[u8])) -> T,
    ) -> Option<Result<T, StoreError>> {
        if self.done {
            return None;
        }
        let found = match self.range.next() {
            Some(Ok((key, row))) => {
                let parts = key.value();
                let ours = parts.0 == self.resource
                    && self.namespace.as_deref().is_none_or(|namespace| namespace == parts.1);
                ours.then(|| Ok(look(parts, row.value())))
            }
            Some(Err(error)) => {
                self.done = true;
                return Some(Err(StoreError::new(&self.path, error)));
            }
            None => None,
        };
        self.done = found.is_none();
        found
    }
}

impl Iterator for Rows<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        self.next_with(|parts, row| (Key::of(parts), record(row)))
    }
}

/// A row of the objects, taken out.
pub(super) fn record((created, modified, bytes): (u64, u64, &[u8])) -> Record {
    Record { created, modified, bytes: Bytes::copy_from_slice(bytes) }
}

/// Two orderly sequences as one; where both have a key, the overlay's counts.
pub(super) struct Merge<B: Iterator, O: Iterator> {
    base: Peekable<B>,
    overlay: Peekable<O>,
}

impl<B: Iterator<Item = Item>, O: Iterator<Item = Overlay>> Merge<B, O> {
    pub(super) fn new(base: B, overlay: O) -> Self {
        Self { base: base.peekable(), overlay: overlay.peekable() }
    }
}

impl<B: Iterator<Item = Item>, O: Iterator<Item = Overlay>> Iterator for Merge<B, O> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        loop {
            let order = match (self.base.peek(), self.overlay.peek()) {
                (_, None) | (Some(Err(_)), _) => return self.base.next(),
                (_, Some(Err(_))) | (None, _) => std::cmp::Ordering::Greater,
                (Some(Ok((base, _))), Some(Ok((overlay, _)))) => base.cmp(overlay),
            };
            if order.is_lt() {
                return self.base.next();
            }
            if order.is_eq() {
                // Superseded.
                self.base.next();
            }
            match self.overlay.next()? {
                Ok((key, Some(record))) => return Some(Ok((key, record))),
                Ok((_, None)) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The objects of a snapshot, in the order of their keys. It keeps the snapshot's state alive by itself.
pub struct Objects {
    pub(super) merged: Box<dyn Iterator<Item = Item> + Send>,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Objects").finish_non_exhaustive()
    }
}

impl Iterator for Objects {
    type Item = Result<(Key, Record), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.merged.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Record {
        Record { created: 1, modified: 1, bytes: Bytes::copy_from_slice(text.as_bytes()) }
    }

    /// `a=1` is the object a with the content 1, `a-` hides a.
    fn check(base: &str, overlay: &str, expected: &str) {
        let key = |name: &str| Key::new("r", "", name);
        let base = base.split_whitespace().map(|item| {
            let (name, text) = item.split_once('=').unwrap();
            Ok((key(name), record(text)))
        });
        let overlay = overlay.split_whitespace().map(|item| match item.split_once('=') {
            Some((name, text)) => Ok((key(name), Some(record(text)))),
            None => Ok((key(item.trim_end_matches('-')), None)),
        });
        let merged: Vec<String> = Merge::new(base, overlay)
            .map(|item| item.unwrap())
            .map(|(key, record)| format!("{}={}", key.name, str::from_utf8(&record.bytes).unwrap()))
            .collect();
        assert_eq!(merged.join(" "), expected);
    }

    #[test]
    fn overlays_win_hide_and_add() {
        check("", "", "");
        check("a=1 b=1", "", "a=1 b=1");
        check("", "a- b=2 c-", "b=2");
        check("a=1 b=1 c=1", "b=2", "a=1 b=2 c=1");
        check("a=1 b=1 c=1", "a- c-", "b=1");
        check("b=1 d=1", "a=2 b- c=2 d=2 e=2 f-", "a=2 c=2 d=2 e=2");
    }

    #[test]
    fn errors_come_where_they_are() {
        let error = || StoreError::Closed { path: "here".into() };
        let base = [Ok((Key::new("r", "", "a"), record("1"))), Err(error())];
        let overlay = [Ok((Key::new("r", "", "b"), Some(record("2")))), Err(error())];
        let merged = Merge::new(base.into_iter(), overlay.into_iter());
        let told: Vec<bool> = merged.map(|item| item.is_ok()).collect();
        assert_eq!(told, [true, false, true, false]);
    }
}
