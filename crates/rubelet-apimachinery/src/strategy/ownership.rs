//! What becomes of objects when their owners go: the decisions of the garbage collector, as pure functions.
//!
//! After `garbagecollector.attemptToDeleteItem`. It looks nothing up and deletes nothing: a controller tells it which
//! owners there are and carries out what it says.

use serde_json::{Value, json};

use super::delete::{FOREGROUND, ORPHAN, Propagation};
use super::meta;
use super::value::{items, remove, set, text, texts};

/// What there is of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// No object of that kind and name has the UID.
    Gone,
    /// It is there.
    There,
    /// It is being deleted and waits for its dependents to go first.
    Waiting,
}

/// What is to be done with a dependent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Keep,
    /// The owners with these UIDs are no longer its owners; see [`release`].
    Release(Vec<String>),
    /// Delete it, with this propagation.
    Remove(Propagation),
}

/// The UIDs of an object's owners.
pub fn owners(object: &Value) -> impl Iterator<Item = &str> {
    items(object, &["metadata", "ownerReferences"]).iter().map(|reference| text(reference, &["uid"]))
}

/// What there is of the owner that a reference names, given the object found under its kind and name.
pub fn owner(reference: &Value, found: Option<&Value>) -> Owner {
    match found {
        Some(object) if text(object, &["metadata", "uid"]) == text(reference, &["uid"]) => {
            if is_waiting(object) { Owner::Waiting } else { Owner::There }
        }
        _ => Owner::Gone,
    }
}

/// Whether a deleted object waits for its dependents to go first.
pub fn is_waiting(object: &Value) -> bool {
    meta::is_deleted(object) && has_finalizer(object, FOREGROUND)
}

/// Whether a deleted object waits for its dependents to lose it as their owner.
pub fn is_orphaning(object: &Value) -> bool {
    meta::is_deleted(object) && has_finalizer(object, ORPHAN)
}

/// What is to be done with an object, given what there is of each owner, by its reference.
/// `has_dependents` says whether other objects have this one as their owner.
pub fn fate(object: &Value, owner: impl Fn(&Value) -> Owner, has_dependents: bool) -> Fate {
    let references = items(object, &["metadata", "ownerReferences"]);
    if references.is_empty() || meta::is_deleted(object) {
        return Fate::Keep;
    }
    let states: Vec<Owner> = references.iter().map(owner).collect();
    let lost: Vec<String> = references
        .iter()
        .zip(&states)
        .filter(|(_, state)| **state != Owner::There)
        .map(|(reference, _)| text(reference, &["uid"]).to_owned())
        .collect();
    if lost.is_empty() {
        return Fate::Keep;
    }
    if states.contains(&Owner::There) {
        return Fate::Release(lost);
    }
    if states.contains(&Owner::Waiting) && has_dependents {
        return Fate::Remove(Propagation::Foreground);
    }
    // The owners are gone; what was asked of this object itself still counts.
    Fate::Remove(match () {
        () if has_finalizer(object, ORPHAN) => Propagation::Orphan,
        () if has_finalizer(object, FOREGROUND) => Propagation::Foreground,
        () => Propagation::Background,
    })
}

/// The object without the owners that have these UIDs.
pub fn release(object: &Value, uids: &[String]) -> Value {
    let mut object = object.clone();
    let left: Vec<Value> = items(&object, &["metadata", "ownerReferences"])
        .iter()
        .filter(|reference| !uids.iter().any(|uid| uid == text(reference, &["uid"])))
        .cloned()
        .collect();
    put(&mut object, "ownerReferences", left);
    object
}

/// Whether a dependent keeps its deleted owner waiting: only where its reference says `blockOwnerDeletion`.
pub fn blocks(dependent: &Value, owner_uid: &str) -> bool {
    items(dependent, &["metadata", "ownerReferences"]).iter().any(|reference| {
        text(reference, &["uid"]) == owner_uid && reference["blockOwnerDeletion"] == json!(true)
    })
}

/// The object without a finalizer: what it waited for has happened.
pub fn without_finalizer(object: &Value, finalizer: &str) -> Value {
    let mut object = object.clone();
    let left =
        texts(&object, &["metadata", "finalizers"]).filter(|f| *f != finalizer).map(Value::from).collect();
    put(&mut object, "finalizers", left);
    object
}

fn put(object: &mut Value, field: &str, list: Vec<Value>) {
    if list.is_empty() {
        remove(object, &["metadata", field]);
    } else {
        set(object, &["metadata", field], list);
    }
}

/// Whether the object waits for this finalizer.
pub(crate) fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    texts(object, &["metadata", "finalizers"]).any(|there| there == finalizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(owners: &[(&str, Owner)], finalizers: &[&str], has_dependents: bool, expected: Fate) {
        let references: Vec<Value> = owners.iter().map(|(uid, _)| json!({"uid": uid})).collect();
        let object = json!({"metadata": {"ownerReferences": references, "finalizers": finalizers}});
        let state = |reference: &Value| {
            owners.iter().find(|(uid, _)| reference["uid"] == *uid).map_or(Owner::Gone, |(_, state)| *state)
        };
        assert_eq!(fate(&object, state, has_dependents), expected, "{owners:?} {finalizers:?}");
    }

    #[test]
    fn dependents_follow_their_last_owner() {
        use Propagation::{Background, Foreground, Orphan};
        let released = |uids: &[&str]| Fate::Release(uids.iter().map(|&uid| uid.to_owned()).collect());
        check(&[], &[], false, Fate::Keep);
        check(&[("a", Owner::There)], &[], false, Fate::Keep);
        check(
            &[("a", Owner::There), ("b", Owner::Gone), ("c", Owner::Waiting)],
            &[],
            true,
            released(&["b", "c"]),
        );
        check(&[("a", Owner::Gone)], &[], true, Fate::Remove(Background));
        check(&[("a", Owner::Gone)], &["orphan"], false, Fate::Remove(Orphan));
        check(&[("a", Owner::Gone)], &["foregroundDeletion"], false, Fate::Remove(Foreground));
        check(&[("a", Owner::Waiting)], &[], false, Fate::Remove(Background));
        check(&[("a", Owner::Gone), ("b", Owner::Waiting)], &[], true, Fate::Remove(Foreground));
    }

    #[test]
    fn what_is_ending_is_left_alone() {
        let object = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"uid": "a"}], "finalizers": ["foregroundDeletion", "x/y"]}});
        assert_eq!(fate(&object, |_| Owner::Gone, false), Fate::Keep);
        assert!(is_waiting(&object) && !is_orphaning(&object));
        assert_eq!(without_finalizer(&object, FOREGROUND)["metadata"]["finalizers"], json!(["x/y"]));
        assert_eq!(release(&object, &["a".into()])["metadata"].get("ownerReferences"), None);
    }

    #[test]
    fn owners_are_told_by_uid_and_block_only_when_they_say_so() {
        let reference = json!({"uid": "a"});
        let found = |uid: &str| json!({"metadata": {"uid": uid}});
        assert_eq!(owner(&reference, Some(&found("a"))), Owner::There);
        assert_eq!(owner(&reference, Some(&found("b"))), Owner::Gone);
        assert_eq!(owner(&reference, None), Owner::Gone);
        let dependent = json!({"metadata": {"ownerReferences": [
            {"uid": "a", "blockOwnerDeletion": true}, {"uid": "b"}]}});
        assert!(blocks(&dependent, "a") && !blocks(&dependent, "b"));
    }
}
