//! What creates, updates and patches do to `managedFields`.

use serde_json::Value;

use super::entries::{self, Id, Managers, Operation};
use super::{UpdateCall, note, typed};

/// Notes in `new` who owns what of it, now that `live` becomes `new` (upstream's `FieldManager.UpdateNoErrors`).
///
/// `live` is none for a create. Call it with defaults filled in but before anything else the server sets: nobody owns
/// what the server adds. A client may send other `managedFields` than the live object's, and takes part in the rules with
/// them; unreadable ones count as not sent, and an empty list ends all ownership until the next apply.
pub fn track(call: &UpdateCall<'_>, live: Option<&Value>, new: &mut Value) {
    let sent = entries::take(new);
    let Some(of) = call.of() else { return };
    if !new.is_object() {
        return;
    }
    let live_entries = || entries::read(live.map_or(&Value::Null, entries::entries_of)).unwrap_or_default();
    let mut managers = if !call.subresource.is_empty() {
        live_entries()
    } else if entries::is_reset(&sent) {
        Managers::new()
    } else {
        entries::read(&sent).ok().filter(|managers| !managers.is_empty()).unwrap_or_else(live_entries)
    };
    // Objects that nobody owned stay so until they are applied.
    if managers.is_empty() && live.is_some_and(has_uid) {
        return;
    }
    let id = Id::new(call.manager, Operation::Update, &call.resource.api_version(), call.subresource);
    match live {
        Some(live) => {
            let mut live = live.clone();
            entries::take(&mut live);
            note(call, of, &mut managers, id, &live, new);
        }
        None => note(call, of, &mut managers, id, &typed::zero(of.t), new),
    }
    entries::cap(&mut managers);
    entries::write(&managers, new);
}

fn has_uid(object: &Value) -> bool {
    object["metadata"]["uid"].as_str().is_some_and(|uid| !uid.is_empty())
}

/// Puts back the times of `old`'s entries where the times are all that changed, so that writing the same again is no
/// change (upstream's `IgnoreManagedFieldsTimestampsTransformer`). For every update, right before `old` and `new` are
/// compared and stored.
pub fn keep_times(old: &Value, new: &mut Value) {
    let timeless = |object: &Value| {
        let mut entries = entries::entries_of(object).clone();
        for entry in entries.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            entry.remove("time");
        }
        entries
    };
    if entries::entries_of(old) == entries::entries_of(new) || timeless(old) != timeless(new) {
        return;
    }
    let bare = |object: &Value| {
        let mut object = object.clone();
        entries::take(&mut object);
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
        }
        object
    };
    if bare(old) == bare(new) {
        entries::put(new, entries::entries_of(old).clone());
    }
}
