//! The NodeRestriction admission plugin: what a node may write of what it may reach.

use serde_json::Value;

use super::State;
use super::handle::Call;
use super::resources::ResourceRef;
use super::status::ApiError;

/// A create of `object`.
pub(crate) fn admit_create(_: &State, _: &Call<'_>, _: ResourceRef, _object: &Value) -> Result<(), ApiError> {
    Ok(())
}

/// An update from `old` to `new`.
pub(crate) fn admit_update(
    _: &State,
    _: &Call<'_>,
    _: ResourceRef,
    _old: &Value,
    _new: &Value,
) -> Result<(), ApiError> {
    Ok(())
}

/// A delete of `object`.
pub(crate) fn admit_delete(_: &State, _: &Call<'_>, _: ResourceRef, _object: &Value) -> Result<(), ApiError> {
    Ok(())
}
