//! PATCH: three ways of changing what is there, and server-side apply.

use http::Response;
use rubelet_apimachinery::decode;
use rubelet_apimachinery::managed_fields::{self, ApplyCall};
use rubelet_apimachinery::patch::{self, Patch, PatchKind};
use rubelet_apimachinery::status::{self, ApiError, bad_request};
use rubelet_apimachinery::strategy::{self, Warnings};
use serde_json::{Value, json};

use super::dispatch::Call;
use super::options::WriteOptions;
use super::write::{self, Write, Written};
use super::{body, lookup, media};
use crate::node::Body;
use crate::store::Transaction;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY_PATCH: &str = "application/apply-patch+yaml";
const KINDS: &[&str] = &[JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, APPLY_PATCH];

/// What the body of a patch says.
enum Wish {
    Change(Patch),
    Apply(Value),
}

/// PATCH of an object, or of what is below it.
pub(crate) async fn patch(call: Call, body: Body) -> Result<Response<Body>, ApiError> {
    let kind = match media::content_type(&call.headers) {
        JSON_PATCH => Some(PatchKind::Json),
        MERGE_PATCH => Some(PatchKind::Merge),
        STRATEGIC_MERGE_PATCH => Some(PatchKind::Strategic),
        APPLY_PATCH => None,
        other => return Err(status::unsupported_media_type(other, KINDS)),
    };
    let bytes = body::read(&call.headers, body).await?;
    let options = WriteOptions::read(&call.info.query, "PatchOptions", kind.is_none())?;
    let mut warnings = Warnings::new();
    let wish = match kind {
        Some(kind) => Wish::Change(patch::read(kind, &bytes)?),
        None => {
            let (applied, said) = decode::apply_configuration(&bytes, options.validation)?;
            warnings = said;
            Wish::Apply(applied)
        }
    };
    let write = Write::of(&call, options);
    let written = write.run(move |write, tx| carry_out(write, tx, &wish)).await?;
    write::answer(&call, written, warnings)
}

fn carry_out(write: &Write, tx: &mut Transaction<'_>, wish: &Wish) -> Result<Written, ApiError> {
    let old = lookup::get(tx, write.resource, &write.namespace, &write.name)?;
    match (wish, old) {
        (Wish::Change(patch), Some(old)) => change(write, tx, patch, &old),
        (Wish::Apply(applied), Some(old)) => {
            let live = lookup::from_stored(write.resource, old.clone());
            let new = apply(write, Some(&live), applied)?;
            write.replace(tx, &old, new, true)
        }
        (Wish::Apply(applied), None) if write.subresource.is_empty() => {
            let uid = applied["metadata"]["uid"].as_str().unwrap_or_default();
            if !uid.is_empty() {
                let why = format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                );
                return Err(status::conflict(write.resource, &write.name, &why));
            }
            let new = apply(write, None, applied)?;
            write.create(tx, new, true)
        }
        (_, None) => Err(status::not_found(write.resource, &write.name)),
    }
}

fn change(write: &Write, tx: &mut Transaction<'_>, patch: &Patch, old: &Value) -> Result<Written, ApiError> {
    let of = write::type_of(write.resource)?;
    let live = lookup::from_stored(write.resource, old.clone());
    let patched = patch::apply(patch.kind, of, &live, &patch.value)?;
    let api_version = write.resource.api_version();
    for (field, expected) in [("kind", write.resource.kind), ("apiVersion", api_version.as_str())] {
        if patched[field] != expected {
            return Err(bad_request(format!(
                "the patch makes {field} of the object {}, which must be {expected} here",
                patched[field]
            )));
        }
    }
    let (patched, mut warnings) = patch::finish(patch, of, patched, write.options.validation)?;
    let mut written = write.replace(tx, old, patched, false)?;
    warnings.append(&mut written.warnings);
    written.warnings = warnings;
    Ok(written)
}

/// The object that a server-side apply leads to.
fn apply(write: &Write, live: Option<&Value>, applied: &Value) -> Result<Value, ApiError> {
    let name = applied["metadata"]["name"].as_str().unwrap_or_default();
    if !name.is_empty() && name != write.name {
        return Err(bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            write.name
        )));
    }
    let mut applied = applied.clone();
    if applied["metadata"].is_null() {
        applied["metadata"] = json!({});
    }
    if let Some(metadata) = applied["metadata"].as_object_mut() {
        metadata.entry("name").or_insert_with(|| json!(write.name));
        if write.resource.namespaced {
            metadata.entry("namespace").or_insert_with(|| json!(write.namespace));
        }
    }
    let call = ApplyCall { by: write.tracking(), force: write.options.force };
    let merged = managed_fields::apply(&call, live, applied)?;
    let (mut object, _) = decode::conform(write::type_of(write.resource)?, merged)?;
    strategy::defaults(write.resource, &mut object);
    Ok(object)
}
