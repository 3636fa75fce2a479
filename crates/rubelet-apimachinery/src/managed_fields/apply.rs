//! Server-side apply.

use std::collections::BTreeMap;

use rubelet_core::hash::go_escaped_json;
use serde_json::{Map, Value, json};

use super::compare::{Comparison, remove, with_structs, with_wholes};
use super::element::{print, same};
use super::entries::{self, Entry, Id, Managers, Operation};
use super::merge::merge;
use super::set::Set;
use super::typed::{Of, check, paths_of, zero};
use super::{ApplyCall, Conflict, UpdateCall, note, reset, take_over};
use crate::status::{ApiError, bad_request};

/// Who is named the owner of what was there before anyone applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// The manager that kubectl applies as, for which the annotation of client-side apply counts too.
const KUBECTL: &str = "kubectl";
/// Where client-side apply keeps what was applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The most that annotations may amount to together (`TotalAnnotationSizeLimitB`).
const MOST_ANNOTATION_BYTES: usize = 256 * 1024;

/// The live object with the applied one in it (upstream's `FieldManager.Apply`).
///
/// `live` is none when the object is to be created. `applied` is as the client sent it: it holds what the manager wants
/// to own and nothing else, so nothing may be defaulted in it. What comes back may hold nulls and text that
/// `decode::conform` puts right, and defaults are still to be filled in. An apply that changes nothing gives the live
/// object, with the manager among its owners.
///
/// Errors: 400 for another kind or version, or with `managedFields`; 409 with one cause for each field that somebody else
/// owns; 500, as upstream has it, for what does not fit the type.
pub fn apply(call: &ApplyCall<'_>, live: Option<&Value>, applied: Value) -> Result<Value, ApiError> {
    let by = &call.by;
    let (found, expected) = (group_version_kind(&applied), (by.resource.api_version(), by.resource.kind));
    if (found.0.as_str(), found.1.as_str()) != (expected.0.as_str(), expected.1) {
        return Err(bad_request(format!("invalid object type: {}", print_kind(&found.0, &found.1))));
    }
    let Some(of) = by.of() else {
        return Err(failed(format!("no corresponding type for {}", print_kind(&found.0, &found.1))));
    };
    if entries::entries_of(&applied).is_array() {
        return Err(bad_request("metadata.managedFields must be nil"));
    }
    let mut base = live.cloned().unwrap_or_else(|| zero(of.t));
    let before = entries::take(&mut base);
    let mut managers = entries::read(&before)
        .map_err(|error| failed(format!("failed to decode managed fields: {error}")))?;
    if managers.is_empty() && live.is_some() {
        let first =
            Id::new(BEFORE_FIRST_APPLY, Operation::Update, &by.resource.api_version(), by.subresource);
        note(by, of, &mut managers, first, &zero(of.t), &base);
        entries::cap(&mut managers);
    }
    let problems = check(of, &applied);
    if !problems.is_empty() {
        return Err(failed(format!(
            "failed to create typed patch object ({}): {}",
            print_object(&applied, by),
            listed(&problems)
        )));
    }
    let merged = match step(by, of, &base, &applied, managers.clone(), call.force) {
        Err(conflicts) if by.manager == KUBECTL => {
            // What client-side apply wrote and nobody has changed since is kubectl's own.
            let Some(own) = last_applied(of, &base, &by.resource.api_version()) else {
                return Err(refused(&conflicts));
            };
            let left: Vec<Conflict> = conflicts.into_iter().filter(|c| !own.has(&c.path)).collect();
            if !left.is_empty() {
                return Err(refused(&left));
            }
            step(by, of, &base, &applied, managers, true)
        }
        done => done,
    };
    let (mut object, managers) = merged.map_err(|conflicts| refused(&conflicts))?;
    if by.manager == KUBECTL {
        renew_last_applied(&mut object, applied);
    }
    entries::write(&managers, &mut object);
    Ok(object)
}

/// Merges, removes what the manager no longer applies, and settles who owns what.
fn step(
    by: &UpdateCall<'_>,
    of: Of,
    live: &Value,
    applied: &Value,
    mut managers: Managers,
    force: bool,
) -> Result<(Value, Managers), Vec<Conflict>> {
    let api_version = by.resource.api_version();
    let id = Id::new(by.manager, Operation::Apply, &api_version, by.subresource);
    let filter = |set| reset::without_reset(by.resource, by.subresource, set);
    for entry in managers.values_mut() {
        entry.set = with_wholes(of, &entry.set);
    }
    let merged = merge(of, Some(live), Some(applied)).unwrap_or_else(|| json!({}));
    let last = managers.get(&id).cloned();
    let time = last.as_ref().and_then(|entry| entry.time);
    let set = filter(paths_of(of, applied));
    managers.insert(id.clone(), Entry { set, api_version: api_version.clone(), time });
    let merged = match last.filter(|last| last.api_version == api_version && !last.set.is_empty()) {
        Some(last) => prune(of, merged, &managers, &last.set, &api_version),
        None => merged,
    };
    let change = Comparison::of(of, live, &merged).filtered(filter);
    take_over(&mut managers, &change, Some(&id), by.resource, force)?;
    let changed = !same(live, &merged);
    if let Some(entry) = managers.get_mut(&id) {
        entry.set = entry.set.difference(&reset::never_owned());
        if changed {
            entry.time = Some(by.now);
        }
        if entry.set.is_empty() {
            managers.remove(&id);
        }
    }
    Ok((if changed { merged } else { live.clone() }, managers))
}

/// Removes what the manager applied last time, does not apply now, and nobody owns (`Updater.prune`). A struct stays
/// while something in it does; an item of a list goes with all that is in it, unless somebody owns the item itself.
fn prune(of: Of, merged: Value, managers: &Managers, last: &Set, api_version: &str) -> Value {
    let named = |set: &Set| with_structs(Some(of), set);
    let without = |set: &Set| remove(of, &merged, set).unwrap_or_else(|| json!({}));
    let last = named(last);
    let mut owned = Set::default();
    for entry in managers.values().filter(|entry| entry.api_version == api_version) {
        owned.absorb(&entry.set);
    }
    let all = named(&paths_of(of, &merged));
    // Once to see what is left when all of the last apply goes, then with all back that somebody owns, then with all
    // back that was never this manager's.
    let rest = named(&paths_of(of, &without(&last)));
    let kept = without(&all.difference(&rest.union(&named(&owned))));
    let gone = all.difference(&named(&paths_of(of, &kept)));
    without(&gone.intersection(&last))
}

/// What client-side apply wrote last and is still so; none when that cannot be said.
fn last_applied(of: Of, live: &Value, api_version: &str) -> Option<Set> {
    let text = live["metadata"]["annotations"][LAST_APPLIED].as_str().filter(|text| !text.is_empty())?;
    let last: Value = serde_json::from_str(text).ok()?;
    if last["apiVersion"] != api_version || !check(of, &last).is_empty() {
        return None;
    }
    let change = Comparison::of(of, &last, live);
    Some(paths_of(of, &last).difference(&change.changed()).difference(&change.removed))
}

/// Keeps the annotation of client-side apply in step with what is applied, where there is one.
fn renew_last_applied(object: &mut Value, mut applied: Value) {
    let Some(annotations) = annotations_of(object) else { return };
    if annotations.get(LAST_APPLIED).and_then(Value::as_str).is_none_or(str::is_empty) {
        return;
    }
    if let Some(own) = annotations_of(&mut applied) {
        own.remove(LAST_APPLIED);
    }
    annotations
        .insert(LAST_APPLIED.to_owned(), Value::from(format!("{}\n", go_escaped_json(&applied.to_string()))));
    let bytes = |(key, value): (&String, &Value)| key.len() + value.as_str().map_or(0, str::len);
    if annotations.iter().map(bytes).sum::<usize>() > MOST_ANNOTATION_BYTES {
        annotations.remove(LAST_APPLIED);
    }
}

fn annotations_of(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()
}

fn refused(conflicts: &[Conflict]) -> ApiError {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|conflict| {
            json!({
                "reason": "FieldManagerConflict",
                "message": format!("conflict with {}", print_manager(&conflict.with)),
                "field": print(&conflict.path),
            })
        })
        .collect();
    let message = match conflicts {
        [only] => format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            print_manager(&only.with),
            print(&only.path)
        ),
        _ => {
            let mut by_manager: BTreeMap<&Id, Vec<String>> = BTreeMap::new();
            for conflict in conflicts {
                by_manager.entry(&conflict.with).or_default().push(format!("- {}", print(&conflict.path)));
            }
            let parts = by_manager
                .iter()
                .map(|(id, paths)| format!("conflicts with {}:\n{}", print_manager(id), paths.join("\n")));
            let parts: Vec<String> = parts.collect();
            format!("Apply failed with {} conflicts: {}", conflicts.len(), parts.join("\n"))
        }
    };
    let mut error = ApiError::new(409, "Conflict", message);
    error.details = json!({ "causes": causes });
    error
}

fn print_manager(id: &Id) -> String {
    let mut out = format!("{:?}", id.manager);
    if !id.subresource.is_empty() {
        out.push_str(&format!(" with subresource {:?}", id.subresource));
    }
    if id.operation == Operation::Update {
        out.push_str(&format!(" using {}", id.api_version));
    }
    out
}

/// An error without a reason, which kube-apiserver makes of what it did not foresee.
fn failed(message: String) -> ApiError {
    ApiError::new(500, "", message)
}

fn listed(problems: &[String]) -> String {
    match problems {
        [only] => only.clone(),
        _ => format!("errors:\n  {}", problems.join("\n  ")),
    }
}

fn group_version_kind(object: &Value) -> (String, String) {
    let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
    (text("apiVersion"), text("kind"))
}

/// `GroupVersionKind.String`.
fn print_kind(api_version: &str, kind: &str) -> String {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    format!("{group}/{version}, Kind={kind}")
}

fn print_object(object: &Value, by: &UpdateCall<'_>) -> String {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    let kind = print_kind(&by.resource.api_version(), by.resource.kind);
    format!("{}/{}; {kind}", text("namespace"), text("name"))
}
