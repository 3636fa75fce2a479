//! Who owns which fields of an object: server-side apply, and what other writes do to `metadata.managedFields`.
//!
//! Pure: objects in, objects out. [`apply`] merges what is applied into what is there, or says with whom it conflicts;
//! [`track`] notes what a create, update or patch changed. Both follow upstream's `fieldmanager` and
//! structured-merge-diff; whoever stores the object calls [`keep_times`] last. Objects are as Go would write them
//! (`decode::conform`); an object whose version is not the call's is none of ours.
//!
//! | file | owns |
//! |---|---|
//! | `element`, `set` | paths, sets of them, `fieldsV1` |
//! | `typed` | what is owned by parts, which element of a list an item is |
//! | `compare`, `merge` | walks over two objects |
//! | `entries` | `managedFields` to and fro |
//! | `reset` | fields that a path takes no part in |
//! | `apply`, `track` | the rules |

mod apply;
mod compare;
mod element;
mod entries;
mod merge;
mod reset;
mod set;
#[cfg(test)]
mod tests;
mod track;
mod typed;

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::{self, Resource};

pub use apply::apply;
pub use track::{keep_times, track};

use compare::Comparison;
use element::Element;
use entries::{Id, Managers};
use typed::Of;

/// A write that owns what it changes.
#[derive(Debug, Clone, Copy)]
pub struct UpdateCall<'a> {
    /// The kind of object, in the version of the request.
    pub resource: &'a Resource,
    /// The subresource written through; empty for the object itself.
    pub subresource: &'a str,
    /// Who writes: see [`manager_name`].
    pub manager: &'a str,
    /// When.
    pub now: Timestamp,
}

/// A server-side apply.
#[derive(Debug, Clone, Copy)]
pub struct ApplyCall<'a> {
    /// Who applies, what and when.
    pub by: UpdateCall<'a>,
    /// Take fields from their owners instead of refusing.
    pub force: bool,
}

/// The longest name of a manager (`FieldManagerMaxLength`).
const LONGEST_MANAGER: usize = 128;

/// The manager of a write: the `fieldManager` asked for, else what the client calls itself before the first slash, as
/// much of it as can be printed and fits.
pub fn manager_name(field_manager: &str, user_agent: &str) -> String {
    if !field_manager.is_empty() {
        return field_manager.to_owned();
    }
    let mut name = String::new();
    for character in user_agent.split('/').next().unwrap_or_default().chars() {
        if character.is_control() {
            continue;
        }
        if name.len() + character.len_utf8() > LONGEST_MANAGER {
            break;
        }
        name.push(character);
    }
    name
}

impl UpdateCall<'_> {
    /// The type of the objects; none for kinds that the schema does not know.
    fn of(&self) -> Option<Of> {
        crate::schema::Type::of(&self.resource.api_version(), self.resource.kind).map(Of::new)
    }
}

/// A field that somebody else owns.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Conflict {
    with: Id,
    path: Vec<Element>,
}

/// Takes from all managers but `me` what the change took from them: everything that went away, and what is different
/// now. Without `force` the latter is refused. Managers without fields are dropped, and so are those of versions that
/// are no longer; those of other versions that are stay as they are (`Updater.update`).
fn take_over(
    managers: &mut Managers,
    change: &Comparison,
    me: Option<&Id>,
    resource: &Resource,
    force: bool,
) -> Result<(), Vec<Conflict>> {
    let api_version = resource.api_version();
    managers.retain(|id, entry| {
        Some(id) == me
            || entry.api_version == api_version
            || kinds::by_kind(&entry.api_version, resource.kind).is_some()
    });
    let changed = change.changed();
    let others =
        |(id, entry): &(&Id, &mut entries::Entry)| Some(*id) != me && entry.api_version == api_version;
    if !force {
        let mut conflicts = Vec::new();
        for (id, entry) in managers.iter_mut().filter(others) {
            let paths = entry.set.intersection(&changed).paths();
            conflicts.extend(paths.into_iter().map(|path| Conflict { with: id.clone(), path }));
        }
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
    }
    for (_, entry) in managers.iter_mut().filter(others) {
        entry.set = entry.set.difference(&changed).difference(&change.removed);
    }
    managers.retain(|_, entry| !entry.set.is_empty());
    Ok(())
}

/// Notes in an existing set of managers what `id` changed from `old` to `new`.
fn note(call: &UpdateCall<'_>, of: Of, managers: &mut Managers, id: Id, old: &Value, new: &Value) {
    let filter = |set| reset::without_reset(call.resource, call.subresource, set);
    for entry in managers.values_mut() {
        entry.set = compare::with_wholes(of, &entry.set);
    }
    let change = Comparison::of(of, old, new).filtered(filter);
    // Nobody can refuse an update.
    let _ = take_over(managers, &change, None, call.resource, true);
    let owned = change.changed().difference(&reset::never_owned());
    if owned.is_empty() {
        return;
    }
    let api_version = call.resource.api_version();
    let entry = managers.entry(id).or_insert_with(|| entries::Entry {
        set: set::Set::default(),
        api_version,
        time: None,
    });
    entry.set.absorb(&owned);
    entry.time = Some(call.now);
}
