//! What one kind of object adds to the rules of all.
//!
//! The order in which they are called is fixed in [`super::create`] and [`super::update`], as kube-apiserver has it:
//! defaults, admission, allocation, preparation, validation, approval.

use rubelet_core::validation::field::Errors;
use rubelet_core::validation::names;
use serde_json::Value;

use super::{Change, Warnings};
use crate::status::ApiError;

/// The rules of one kind. `old` is the stored object, and absent when a new one is made.
pub(crate) trait Rules: Sync {
    /// What is wrong with this text as the name of an object.
    fn name(&self, name: &str) -> Vec<String> {
        names::dns_subdomain(name)
    }

    /// Whether an update that says no resource version overwrites whatever is there (`AllowUnconditionalUpdate`).
    fn overwrites(&self) -> bool {
        true
    }

    /// Whether a PUT to a name that is not there makes the object (`AllowCreateOnUpdate`).
    fn created_by_update(&self) -> bool {
        false
    }

    /// Whether the garbage collector may delay deletions of such objects with its finalizers.
    fn collected(&self) -> bool {
        true
    }

    /// Fills in what clients may leave out (`SetDefaults_*`).
    fn defaults(&self, _object: &mut Value) {}

    /// Admission that may change or refuse the object. Not called for subresources.
    fn admit(&self, _change: &Change<'_>, _new: &mut Value, _old: Option<&Value>) -> Result<(), ApiError> {
        Ok(())
    }

    /// Takes back what this path may not write, and counts generations (`PrepareForCreate`, `PrepareForUpdate`).
    fn prepare(&self, _change: &Change<'_>, _new: &mut Value, _old: Option<&Value>) {}

    /// Takes what has to be unique among all objects, such as cluster IPs. Not called for subresources.
    fn allocate(&self, _change: &Change<'_>, _new: &mut Value, _old: Option<&Value>) -> Result<(), ApiError> {
        Ok(())
    }

    /// Finds every broken rule, besides those of metadata.
    fn validate(&self, _change: &Change<'_>, _new: &Value, _old: Option<&Value>, _errors: &mut Errors) {}

    /// Admission that may refuse a valid object. Not called for subresources.
    fn approve(&self, _change: &Change<'_>, _new: &Value, _old: Option<&Value>) -> Result<(), ApiError> {
        Ok(())
    }

    /// What is allowed but not advisable.
    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Warnings {
        Warnings::new()
    }

    /// Seconds that a deletion gives the object to end by itself; nothing for kinds that end at once
    /// (`CheckGracefulDelete`). `asked` is what the client says, never negative.
    fn grace(&self, _old: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }
}

/// The rules of kinds that have none of their own.
pub(crate) struct Plain;

impl Rules for Plain {}

/// What the shared rules ask of pods; all else is done by [`super::pods`] in one go.
pub(crate) struct Pods;

impl Rules for Pods {
    fn grace(&self, old: &Value, asked: Option<i64>) -> Option<i64> {
        Some(super::pods::deletion(old, asked))
    }
}
