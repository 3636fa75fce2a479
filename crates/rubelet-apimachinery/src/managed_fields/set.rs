//! Sets of paths into an object: what one manager owns, and what differs between two objects.
//!
//! A trie, as `fieldsV1` writes it. The operations are those of structured-merge-diff's `fieldpath.Set`: a path and its
//! prefix are different members.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::element::{Element, Malformed};

/// No object is nested as deeply as this; what claims to be is refused before it can use up the stack.
const DEEPEST: usize = 128;

/// A set of paths. No child is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    pub(super) members: BTreeSet<Element>,
    pub(super) children: BTreeMap<Element, Set>,
}

impl Set {
    /// The set of these paths of fields.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            set.insert(&path.iter().map(|&name| Element::field(name)).collect::<Vec<_>>());
        }
        set
    }

    /// Reads a `fieldsV1`.
    pub fn parse(fields: &Value) -> Result<Self, Malformed> {
        Ok(Self::read(fields, 0)?.0)
    }

    /// The set, and whether the path that leads to it is a member too: for `.`, and where nothing follows.
    fn read(fields: &Value, depth: usize) -> Result<(Self, bool), Malformed> {
        if depth > DEEPEST {
            return Err(Malformed::TooDeep);
        }
        let mut set = Self::default();
        let mut member = false;
        for (key, below) in fields.as_object().ok_or(Malformed::NotAnObject)? {
            if key == "." {
                member = true;
                continue;
            }
            let Some(element) = Element::parse(key)? else { continue };
            let (child, is_member) = Self::read(below, depth + 1)?;
            if is_member {
                set.members.insert(element.clone());
            }
            set.put(element, child);
        }
        let member = member || set.is_empty();
        Ok((set, member))
    }

    /// The `fieldsV1` of the set.
    pub fn fields(&self) -> Value {
        Value::Object(self.write())
    }

    fn write(&self) -> Map<String, Value> {
        let mut out = Map::new();
        for element in &self.members {
            out.insert(element.serialize(), json!({}));
        }
        for (element, child) in &self.children {
            let mut below = child.write();
            if self.members.contains(element) {
                below.insert(".".to_owned(), json!({}));
            }
            out.insert(element.serialize(), Value::Object(below));
        }
        out
    }

    /// Adds a path.
    pub fn insert(&mut self, path: &[Element]) {
        let Some((last, above)) = path.split_last() else { return };
        let mut set = self;
        for element in above {
            set = set.children.entry(element.clone()).or_default();
        }
        set.members.insert(last.clone());
    }

    /// Whether there is no path in it.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    /// Whether this very path is in it.
    pub fn has(&self, path: &[Element]) -> bool {
        let Some((last, above)) = path.split_last() else { return false };
        let mut set = self;
        for element in above {
            let Some(child) = set.children.get(element) else { return false };
            set = child;
        }
        set.members.contains(last)
    }

    /// All its paths: those of one level before those below.
    pub fn paths(&self) -> Vec<Vec<Element>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, above: &mut Vec<Element>, out: &mut Vec<Vec<Element>>) {
        for element in &self.members {
            let mut path = above.clone();
            path.push(element.clone());
            out.push(path);
        }
        for (element, child) in &self.children {
            above.push(element.clone());
            child.collect(above, out);
            above.pop();
        }
    }

    /// Keeps the promise that no child is empty.
    pub(super) fn put(&mut self, element: Element, child: Self) {
        if !child.is_empty() {
            self.children.insert(element, child);
        }
    }

    /// Paths of either.
    pub fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.absorb(other);
        out
    }

    /// Adds all paths of `other`.
    pub fn absorb(&mut self, other: &Self) {
        self.members.extend(other.members.iter().cloned());
        for (element, child) in &other.children {
            self.children.entry(element.clone()).or_default().absorb(child);
        }
    }

    /// Paths of both.
    pub fn intersection(&self, other: &Self) -> Self {
        let mut out =
            Self { members: self.members.intersection(&other.members).cloned().collect(), ..Self::default() };
        for (element, child) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                out.put(element.clone(), child.intersection(theirs));
            }
        }
        out
    }

    /// Paths that are not in `other`; what is below a path of `other` stays.
    pub fn difference(&self, other: &Self) -> Self {
        let mut out =
            Self { members: self.members.difference(&other.members).cloned().collect(), ..Self::default() };
        for (element, child) in &self.children {
            let left = match other.children.get(element) {
                Some(theirs) => child.difference(theirs),
                None => child.clone(),
            };
            out.put(element.clone(), left);
        }
        out
    }

    /// Paths that neither are in `other` nor start with one of its paths.
    pub fn recursive_difference(&self, other: &Self) -> Self {
        let mut out =
            Self { members: self.members.difference(&other.members).cloned().collect(), ..Self::default() };
        for (element, child) in &self.children {
            if other.members.contains(element) {
                continue;
            }
            let left = match other.children.get(element) {
                Some(theirs) => child.recursive_difference(theirs),
                None => child.clone(),
            };
            out.put(element.clone(), left);
        }
        out
    }
}
