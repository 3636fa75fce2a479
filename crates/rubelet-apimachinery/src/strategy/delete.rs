//! What a deletion makes of an object: preconditions, grace, finalizers, propagation.
//!
//! After `rest.BeforeDelete` and the generic store's `Delete`. Namespaces go their own way in `namespaces`; who depends
//! on a deleted object is `ownership`'s question.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::rules::Rules;
use super::value::{at, items, set, text, texts};
use super::{Change, meta, namespaces};
use crate::kinds::Resource;
use crate::status::{self, ApiError};

/// The finalizer of an object that waits for its dependents to be deleted.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object whose dependents are to lose it as their owner.
pub const ORPHAN: &str = "orphan";

/// What becomes of an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted after the object.
    Background,
    /// They are deleted before the object.
    Foreground,
    /// They stay.
    Orphan,
}

impl Propagation {
    /// What the API calls it; nothing for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Background" => Some(Self::Background),
            "Foreground" => Some(Self::Foreground),
            "Orphan" => Some(Self::Orphan),
            _ => None,
        }
    }
}

/// What a client says with a deletion (`meta/v1.DeleteOptions`), already checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeleteOptions {
    /// Seconds until the object may be ended by force.
    pub grace_period_seconds: Option<i64>,
    /// What becomes of dependents.
    pub propagation: Option<Propagation>,
    /// The old way to say it.
    pub orphan_dependents: Option<bool>,
    /// Only the object with this UID is meant.
    pub uid: Option<String>,
    /// Only this version of the object is meant.
    pub resource_version: Option<String>,
}

/// What is to be done with the stored object.
#[derive(Debug, Clone, PartialEq)]
pub enum Deletion {
    /// Take it out of the store; this is its last state, where that is another than the stored one.
    Remove(Option<Value>),
    /// Store this instead: it ends later.
    Mark(Value),
    /// Nothing; this is what the client is told.
    Unchanged(Value),
}

impl DeleteOptions {
    /// Whether dependents are to lose the object as their owner; `None` when the client leaves it open.
    fn orphans(&self) -> Option<bool> {
        self.orphan_dependents.or(self.propagation.map(|policy| policy == Propagation::Orphan))
    }

    /// Whether the object is to wait for its dependents; `None` when the client leaves it open.
    fn waits(&self) -> Option<bool> {
        match self.orphan_dependents {
            Some(_) => Some(false),
            None => self.propagation.map(|policy| policy == Propagation::Foreground),
        }
    }
}

/// What a deletion makes of the object; see [`super::delete`].
pub(crate) fn delete(
    change: &Change<'_>,
    rules: &dyn Rules,
    old: &Value,
    options: &DeleteOptions,
) -> Result<Deletion, ApiError> {
    if namespaces::is_namespace(change.resource) {
        namespaces::check_mortal(change)?;
    }
    check_preconditions(change, old, options)?;
    if namespaces::is_namespace(change.resource)
        && let Some(deletion) = namespaces::delete(change, old, options)
    {
        return Ok(deletion);
    }
    let mut new = old.clone();
    let grace = soften(change, rules, &mut new, options);
    if grace == Grace::Pending {
        return Ok(Deletion::Unchanged(old.clone()));
    }
    if rules.collected() {
        set_finalizers(&mut new, options);
    }
    let finalized = items(&new, &["metadata", "finalizers"]).is_empty();
    match grace {
        Grace::None | Grace::Pending if finalized => return Ok(Deletion::Remove(None)),
        Grace::Period(0) if finalized => return Ok(Deletion::Remove(Some(new))),
        Grace::None | Grace::Pending => mark(change.now, &mut new),
        Grace::Period(_) => {}
    }
    Ok(if new == *old { Deletion::Unchanged(new) } else { Deletion::Mark(new) })
}

fn check_preconditions(change: &Change<'_>, old: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    // kube-apiserver names the kind here, where everywhere else it names the resource.
    let named = Resource { plural: change.resource.kind, ..*change.resource };
    let uid = text(old, &["metadata", "uid"]);
    if let Some(asked) = options.uid.as_deref().filter(|asked| *asked != uid) {
        let why = format!(
            "the UID in the precondition ({asked}) does not match the UID in record ({uid}). The object might have \
             been deleted and then recreated"
        );
        return Err(status::conflict(&named, change.name, &why));
    }
    let version = text(old, &["metadata", "resourceVersion"]);
    if let Some(asked) = options.resource_version.as_deref().filter(|asked| *asked != version) {
        let why = format!(
            "the ResourceVersion in the precondition ({asked}) does not match the ResourceVersion in record \
             ({version}). The object might have been modified"
        );
        return Err(status::conflict(&named, change.name, &why));
    }
    Ok(())
}

/// What grace an object gets.
#[derive(Debug, PartialEq, Eq)]
enum Grace {
    /// Its kind knows none, or what it had is over.
    None,
    /// It is ending already, and not later than asked.
    Pending,
    /// So many seconds; written into its metadata.
    Period(i64),
}

fn soften(change: &Change<'_>, rules: &dyn Rules, object: &mut Value, options: &DeleteOptions) -> Grace {
    // A period below zero is taken for the shortest there is.
    let asked = options.grace_period_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds });
    let Some(first) = rules.grace(object, asked) else { return Grace::None };
    if !meta::is_deleted(object) {
        let first = if first < 0 { 1 } else { first };
        set_deadline(object, later(change.now, first), first);
        let generation = meta::generation(object);
        if generation > 0 {
            set(object, &["metadata", "generation"], generation + 1);
        }
        return Grace::Period(first);
    }
    let current = at(object, &["metadata", "deletionGracePeriodSeconds"]).as_i64().unwrap_or(0);
    if current == 0 {
        return Grace::None;
    }
    let Some(mut period) = asked.filter(|period| *period < current) else { return Grace::Pending };
    let deadline: Timestamp = text(object, &["metadata", "deletionTimestamp"]).parse().unwrap_or(change.now);
    let mut deadline = later(later(deadline, -current), period);
    if deadline < change.now {
        // A grace that is over already is cut to the shortest, unless none at all is asked for.
        deadline = change.now;
        period = period.min(1);
    }
    set_deadline(object, deadline, period);
    Grace::Period(period)
}

fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(at)
}

fn set_deadline(object: &mut Value, at: Timestamp, period: i64) {
    set(object, &["metadata", "deletionTimestamp"], meta::time(at));
    set(object, &["metadata", "deletionGracePeriodSeconds"], period);
}

/// The object has only finalizers left to wait for.
fn mark(now: Timestamp, object: &mut Value) {
    let generation = meta::generation(object);
    if !meta::is_deleted(object) && generation > 0 {
        set(object, &["metadata", "generation"], generation + 1);
    }
    let deadline: Option<Timestamp> = text(object, &["metadata", "deletionTimestamp"]).parse().ok();
    if deadline.is_none_or(|deadline| deadline > now) {
        set(object, &["metadata", "deletionTimestamp"], meta::time(now));
    }
    set(object, &["metadata", "deletionGracePeriodSeconds"], 0);
}

/// Adds and takes the garbage collector's finalizers as the client says, or leaves those that are there.
pub(crate) fn set_finalizers(object: &mut Value, options: &DeleteOptions) {
    let has = |name: &str| texts(object, &["metadata", "finalizers"]).any(|there| there == name);
    let wanted = [
        (ORPHAN, options.orphans().unwrap_or_else(|| has(ORPHAN))),
        (FOREGROUND, options.waits().unwrap_or_else(|| has(FOREGROUND))),
    ];
    if wanted.iter().all(|(name, wanted)| has(name) == *wanted) {
        return;
    }
    let mut finalizers: Vec<String> = texts(object, &["metadata", "finalizers"])
        .filter(|there| ![ORPHAN, FOREGROUND].contains(there))
        .map(str::to_owned)
        .collect();
    finalizers.extend(wanted.iter().filter(|(_, wanted)| *wanted).map(|(name, _)| (*name).to_owned()));
    if finalizers.is_empty() {
        super::value::remove(object, &["metadata", "finalizers"]);
    } else {
        set(object, &["metadata", "finalizers"], finalizers);
    }
}

/// Whether an update has taken away the last thing a deleted object waited for, so that it is to be removed instead of
/// stored (`ShouldDeleteDuringUpdate`).
pub(crate) fn removed_by_update(resource: &Resource, new: &Value, old: &Value) -> bool {
    let grace = at(old, &["metadata", "deletionGracePeriodSeconds"]).as_i64().unwrap_or(0);
    let occupied = namespaces::is_namespace(resource) && !items(new, &["spec", "finalizers"]).is_empty();
    let finalized = items(new, &["metadata", "finalizers"]).is_empty();
    meta::is_deleted(old) && grace == 0 && finalized && !occupied
}
