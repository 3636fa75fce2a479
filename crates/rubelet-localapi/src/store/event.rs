//! One change, as those who watch are told of it. Shared between them; what selectors look at of it is read
//! at most once, and only when someone asks.

use std::sync::OnceLock;

use bytes::Bytes;
use rubelet_apimachinery::partial;
use serde_json::Value;

use super::key::Key;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// It was not there before.
    Added,
    /// It was there and still is.
    Modified,
    /// It is gone.
    Deleted,
}

impl EventKind {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Added => 1,
            Self::Modified => 2,
            Self::Deleted => 3,
        }
    }

    pub(super) fn of(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Added),
            2 => Some(Self::Modified),
            3 => Some(Self::Deleted),
            _ => None,
        }
    }
}

/// One change to one object.
#[derive(Debug)]
pub struct Event {
    /// The revision of the change.
    pub revision: u64,
    /// What happened.
    pub kind: EventKind,
    /// To which object.
    pub key: Key,
    /// The revision at which the object came to be.
    pub created: u64,
    /// The object after the change; what the deleting write gave as its last state, when it is deleted.
    pub bytes: Bytes,
    /// The object before the change, to tell who leaves or joins a selection. Empty for what is added.
    pub previous: Option<Bytes>,
    selectable: OnceLock<Option<Value>>,
    previous_selectable: OnceLock<Option<Value>>,
}

impl Event {
    pub(super) fn new(
        revision: u64,
        kind: EventKind,
        key: Key,
        created: u64,
        bytes: Bytes,
        previous: Option<Bytes>,
    ) -> Self {
        let (selectable, previous_selectable) = (OnceLock::new(), OnceLock::new());
        Self { revision, kind, key, created, bytes, previous, selectable, previous_selectable }
    }

    /// What selectors look at of [`Event::bytes`]; `None` when they are no JSON. The whole tree would take many times
    /// the memory of the bytes, for as long as anybody has yet to be told.
    pub fn selectable(&self) -> Option<&Value> {
        self.selectable.get_or_init(|| partial::selectable(&self.bytes).ok()).as_ref()
    }

    /// What selectors look at of [`Event::previous`]; `None` when there is none, or it is no JSON.
    pub fn previous_selectable(&self) -> Option<&Value> {
        let parse = || partial::selectable(self.previous.as_deref()?).ok();
        self.previous_selectable.get_or_init(parse).as_ref()
    }

    /// How much it weighs in memory, unparsed.
    pub(super) fn weight(&self) -> usize {
        self.bytes.len() + self.previous.as_ref().map_or(0, Bytes::len)
    }
}
