//! What the engine asks of others: who may do what ([`Authorize`]), who else has a say in a write ([`Admit`]), and what
//! only keys can answer ([`Reviews`]).
//!
//! Traits and plain values; `auth` implements them, the engine calls them. Without an implementation everyone may do
//! everything, and tokens are neither made nor known.

use rubelet_apimachinery::strategy::{Change, Lookup};
use rubelet_apimachinery::{ApiError, User};
use serde_json::{Value, json};

pub use crate::auth::authorize::Attributes;
use crate::auth::authorize::{Rules, rules_of};

/// Whether a request may be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may.
    Allow,
    /// It may not; the text says why and can be empty.
    Deny(String),
}

/// Decides who may do what.
pub trait Authorize: Send + Sync {
    /// Whether `user` may do what `attributes` say. `lookup` is the store as of now.
    fn allowed(&self, user: &User, attributes: &Attributes, lookup: &dyn Lookup) -> Decision;

    /// What `user` may do in `namespace`, as `SelfSubjectRulesReview` lists it: resource rules and path rules.
    fn rules(&self, _user: &User, _namespace: &str) -> (Vec<Value>, Vec<Value>) {
        let resources = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
        (vec![resources], vec![json!({"verbs": ["*"], "nonResourceURLs": ["*"]})])
    }
}

impl Authorize for Rules {
    fn allowed(&self, user: &User, attributes: &Attributes, _: &dyn Lookup) -> Decision {
        match self.allow(user, attributes) {
            Ok(()) => Decision::Allow,
            Err(why) => Decision::Deny(why),
        }
    }

    fn rules(&self, user: &User, namespace: &str) -> (Vec<Value>, Vec<Value>) {
        rules_of(*self, user, namespace)
    }
}

/// Everyone may do everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

impl Authorize for AllowAll {
    fn allowed(&self, _: &User, _: &Attributes, _: &dyn Lookup) -> Decision {
        Decision::Allow
    }
}

/// What a write is about to do. Objects are as the client sent them or as its patch left them, with defaults, before
/// the kind's own rules have looked at them.
#[derive(Debug)]
pub enum Operation<'a> {
    /// Makes an object; below an object, posts to it: an eviction, a binding, a request for a token.
    Create(&'a mut Value),
    /// Puts one state of an object in the place of another.
    Update {
        /// What is to be.
        new: &'a mut Value,
        /// What is stored.
        old: &'a Value,
    },
    /// Deletes this object.
    Delete(&'a Value),
}

/// Has a say in writes besides the rules of the kinds, as an admission plugin of a cluster does: may change what is
/// written, or refuse it. Asked within the transaction.
pub trait Admit: Send + Sync {
    /// Lets a write go on.
    ///
    /// # Errors
    /// The answer to a write that may not.
    fn admit(&self, change: &Change<'_>, operation: Operation<'_>) -> Result<(), ApiError>;
}

/// Nobody else has a say.
#[derive(Debug, Clone, Copy, Default)]
pub struct AdmitAll;

impl Admit for AdmitAll {
    fn admit(&self, _: &Change<'_>, _: Operation<'_>) -> Result<(), ApiError> {
        Ok(())
    }
}

/// A wish for a service account's token that the engine has checked: the account is there, the object bound to too.
pub struct TokenWish<'a> {
    /// The `TokenRequest`, with name, namespace, UID and audiences as sent; `spec.expirationSeconds` has its default.
    pub request: &'a Value,
    /// The ServiceAccount.
    pub account: &'a Value,
    /// The object of `spec.boundObjectRef`: a Pod, Secret or Node.
    pub bound: Option<&'a Value>,
    /// The Node of a bound Pod, if it is there.
    pub node: Option<&'a Value>,
}

/// What takes the server's keys, or knowledge of who people are.
pub trait Reviews: Send + Sync {
    /// The `status` of a `TokenReview` with this `spec`.
    ///
    /// # Errors
    /// When the spec is wrong; a token nobody knows is no error but `authenticated: false`.
    fn token_review(&self, lookup: &dyn Lookup, spec: &Value) -> Result<Value, ApiError>;

    /// The `status` of a `TokenRequest`: token and expirationTimestamp.
    ///
    /// # Errors
    /// When the request's spec is wrong or signing fails.
    fn issue_token(&self, wish: &TokenWish<'_>) -> Result<Value, ApiError>;

    /// The document at `/.well-known/openid-configuration`.
    fn openid_configuration(&self) -> Option<Value>;

    /// The document at `/openid/v1/jwks`.
    fn jwks(&self) -> Option<Value>;
}

/// No keys: no token is known, none is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoReviews;

impl Reviews for NoReviews {
    fn token_review(&self, _: &dyn Lookup, _: &Value) -> Result<Value, ApiError> {
        Ok(json!({"authenticated": false, "user": {}}))
    }

    fn issue_token(&self, _: &TokenWish<'_>) -> Result<Value, ApiError> {
        Err(ApiError::new(500, "InternalError", "this server has no key to sign tokens with"))
    }

    fn openid_configuration(&self) -> Option<Value> {
        None
    }

    fn jwks(&self) -> Option<Value> {
        None
    }
}
