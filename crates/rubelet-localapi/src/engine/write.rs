//! Create and update, and what all writes share: decoding the body, one transaction, what is stored and answered.
//!
//! A write is carried out by the store's writer, one after another: what it reads in its transaction is what it is
//! stored against, so a patch never conflicts with another and nothing is tried twice.

use http::{Response, header};
use jiff::Timestamp;
use rubelet_apimachinery::User;
use rubelet_apimachinery::decode::{self, FieldValidation};
use rubelet_apimachinery::kinds::Resource;
use rubelet_apimachinery::managed_fields::{self, UpdateCall};
use rubelet_apimachinery::schema::Type;
use rubelet_apimachinery::status::{self, ApiError};
use rubelet_apimachinery::strategy::{self, Change, Lookup, Warnings};
use serde_json::Value;

use super::dispatch::Call;
use super::lookup::{self, Seen};
use super::media;
use super::options::WriteOptions;
use super::{Api, Operation, body, random, respond};
use crate::node::Body;
use crate::store::Transaction;

/// How often a generated name is tried again when it is taken.
const NAME_ATTEMPTS: usize = 8;

/// A write, with all it needs of its request.
#[derive(Clone)]
pub(crate) struct Write {
    pub(crate) api: Api,
    pub(crate) user: User,
    /// The resource of the path.
    pub(crate) resource: &'static Resource,
    /// Empty for the object itself.
    pub(crate) subresource: &'static str,
    pub(crate) namespace: String,
    /// Empty for a create.
    pub(crate) name: String,
    pub(crate) options: WriteOptions,
    /// Who managedFields names.
    pub(crate) manager: String,
    pub(crate) now: Timestamp,
}

/// What a write came to.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) code: u16,
    pub(crate) object: Value,
    pub(crate) warnings: Warnings,
}

impl Write {
    /// The write that a request asks for.
    pub(crate) fn of(call: &Call, options: WriteOptions) -> Self {
        let agent = call.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let manager = managed_fields::manager_name(&options.manager, agent.unwrap_or_default());
        Self {
            api: call.api.clone(),
            user: call.user.clone(),
            resource: call.resource,
            subresource: call.subresource.map_or("", |s| s.name),
            namespace: call.namespace().to_owned(),
            name: call.info.name.clone(),
            options,
            manager,
            now: call.api.now(),
        }
    }

    /// Lets the rules of the kind decide about an object.
    pub(crate) fn decide<T>(&self, tx: &mut Transaction<'_>, rule: impl FnOnce(&Change<'_>) -> T) -> T {
        self.decide_by(&Seen::new(tx), rule)
    }

    /// [`Self::decide`], by what `lookup` shows.
    pub(crate) fn decide_by<T>(&self, lookup: &dyn Lookup, rule: impl FnOnce(&Change<'_>) -> T) -> T {
        let source = &self.api.inner.random;
        let change = Change {
            resource: self.resource,
            subresource: self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            user: &self.user,
            now: self.now,
            lookup,
            random: &|length| random::name(source, length),
            uid: &|| random::uid(source),
            settings: &self.api.inner.settings,
        };
        rule(&change)
    }

    /// Asks who else has a say.
    pub(crate) fn admit(&self, change: &Change<'_>, operation: Operation<'_>) -> Result<(), ApiError> {
        self.api.inner.admit.admit(change, operation)
    }

    /// Carries the write out in a transaction of its own; a dry run leaves nothing of it.
    pub(crate) async fn run(
        self,
        carry_out: impl FnOnce(&Self, &mut Transaction<'_>) -> Result<Written, ApiError> + Send + 'static,
    ) -> Result<Written, ApiError> {
        let store = self.api.inner.store.clone();
        lookup::in_transaction(&store, move |tx| carry_out(&self, tx)).await
    }

    /// Stores a new object. `object` is in the form of the path's resource; `tracked` says that its managedFields are
    /// those of a server-side apply already.
    pub(crate) fn create(
        &self,
        tx: &mut Transaction<'_>,
        object: Value,
        tracked: bool,
    ) -> Result<Written, ApiError> {
        let resource = self.resource;
        let generated = object["metadata"]["name"].as_str().unwrap_or_default().is_empty();
        let mut object = object;
        if !tracked {
            strategy::defaults(resource, &mut object);
            managed_fields::track(&self.tracking(), None, &mut object);
        }
        let object = lookup::to_stored(resource, object);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut new = object.clone();
            let warnings = self.decide(tx, |change| {
                self.admit(change, Operation::Create(&mut new))?;
                strategy::create(change, &mut new)
            })?;
            let name = new["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if lookup::get(tx, resource, &self.namespace, &name)?.is_some() {
                if !generated {
                    return Err(status::already_exists(resource, &name));
                }
                if attempt < NAME_ATTEMPTS {
                    continue;
                }
                let mut error = status::already_exists(resource, &name);
                error.message += ", the server was not able to generate a unique name for the object";
                error.retry_after = Some(1);
                return Err(error);
            }
            if let Some(metadata) = new["metadata"].as_object_mut() {
                metadata.remove("resourceVersion");
            }
            if !self.options.dry_run {
                lookup::put(tx, resource, &self.namespace, &name, &mut new)?;
            }
            let object = lookup::from_stored(resource, new);
            return Ok(Written { code: 201, object, warnings });
        }
    }

    /// Puts `new`, in the form of the path's resource, in the place of `old`, which is in its stored form; `tracked` as
    /// for [`Self::create`].
    ///
    /// Nothing is written when nothing changes; an object whose last finalizer goes is gone.
    pub(crate) fn replace(
        &self,
        tx: &mut Transaction<'_>,
        old: &Value,
        mut new: Value,
        tracked: bool,
    ) -> Result<Written, ApiError> {
        let resource = self.resource;
        if !tracked {
            strategy::defaults(resource, &mut new);
            let live = lookup::from_stored(resource, old.clone());
            managed_fields::track(&self.tracking(), Some(&live), &mut new);
        }
        let mut new = lookup::to_stored(resource, new);
        let warnings = self.decide(tx, |change| {
            self.admit(change, Operation::Update { new: &mut new, old })?;
            strategy::update(change, &mut new, old)
        })?;
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        managed_fields::keep_times(old, &mut new);
        if new != *old && !self.options.dry_run {
            if strategy::removed_by_update(resource, &new, old) {
                lookup::remove(tx, resource, &self.namespace, &self.name, old.clone())?;
            } else {
                lookup::put(tx, resource, &self.namespace, &self.name, &mut new)?;
            }
        }
        Ok(Written { code: 200, object: lookup::from_stored(resource, new), warnings })
    }

    /// Who writes, for managedFields.
    pub(crate) fn tracking(&self) -> UpdateCall<'_> {
        UpdateCall {
            resource: self.resource,
            subresource: self.subresource,
            manager: &self.manager,
            now: self.now,
        }
    }
}

/// The object of a body, as an object of this kind.
///
/// # Errors
/// 413, 415, and 400 for what is no such object.
pub(crate) async fn decoded(
    call: &Call,
    body: Body,
    kind: (&str, &str),
    validation: FieldValidation,
) -> Result<(Value, Warnings), ApiError> {
    let media = media::body_encoding(&call.headers)?;
    let bytes = body::read(&call.headers, body).await?;
    decode::decode(kind, &bytes, media, validation)
}

/// The type of a resource's objects.
///
/// # Errors
/// 500 when the published types do not have it: a mistake in the registry.
pub(crate) fn type_of(resource: &Resource) -> Result<Type, ApiError> {
    let (api_version, kind) = (resource.api_version(), resource.kind);
    Type::of(&api_version, kind).ok_or_else(|| status::internal(format!("{api_version} {kind} has no type")))
}

/// Answers with what was written.
pub(crate) fn answer(
    call: &Call,
    mut written: Written,
    decoding: Warnings,
) -> Result<Response<Body>, ApiError> {
    let mut warnings = decoding;
    warnings.append(&mut written.warnings);
    let mut response = respond::object(
        written.code,
        call.resource,
        written.object,
        call.accepted,
        &call.info.query,
        call.api.now(),
    )?;
    respond::warn(&mut response, &warnings);
    Ok(response)
}

/// POST to a collection.
pub(crate) async fn create(call: Call, body: Body) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::read(&call.info.query, "CreateOptions", false)?;
    let kind = (&*call.resource.api_version(), call.resource.kind);
    let (object, warnings) = decoded(&call, body, kind, options.validation).await?;
    let write = Write::of(&call, options);
    let written = write.run(move |write, tx| write.create(tx, object, false)).await?;
    answer(&call, written, warnings)
}

/// PUT of an object, or of what is below it.
pub(crate) async fn update(call: Call, body: Body) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::read(&call.info.query, "UpdateOptions", false)?;
    let kind = (&*call.resource.api_version(), call.resource.kind);
    let (object, warnings) = decoded(&call, body, kind, options.validation).await?;
    let write = Write::of(&call, options);
    let written = write
        .run(move |write, tx| match lookup::get(tx, write.resource, &write.namespace, &write.name)? {
            Some(old) => write.replace(tx, &old, object, false),
            None if write.subresource.is_empty() && strategy::created_by_update(write.resource) => {
                write.create(tx, object, false)
            }
            None => Err(status::not_found(write.resource, &write.name)),
        })
        .await?;
    answer(&call, written, warnings)
}
