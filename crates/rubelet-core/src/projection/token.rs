//! Service account tokens in volumes: what tells one from another, who may read the file, when it is renewed.
//!
//! Owns upstream's rules (`requiresRefresh`: at 80 % of the life or after 24 hours, up to ten seconds early;
//! `FsUserFrom`). Never asks for a token. Jitter comes of the pod's UID, so that simulations replay.

use std::fmt;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection};
use serde_json::Value;

use crate::containers::{ephemeral_as_container, regular_containers, spec_of};
use crate::ids::{PodUid, pod_uid};

/// Life of a token whose volume names none, seconds (the API's default).
const DEFAULT_LIFE_SECONDS: i64 = 3600;
/// A token is renewed after this long however long it lives.
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);
/// Renewal is up to this much early.
const MAX_JITTER_MILLIS: u64 = 10_000;
/// The shortest time between two attempts for one token, seconds: after a failure, and against clocks that differ so
/// much that a new token seems old.
pub const TOKEN_RETRY_SECONDS: i64 = 60;

/// Everything that tells one token of a pod from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenKey {
    /// The pod it is bound to.
    pub pod_uid: PodUid,
    /// Name of the pod.
    pub pod_name: String,
    /// Namespace of the pod and its service account.
    pub namespace: String,
    /// Name of the service account.
    pub service_account: String,
    /// For whom it is; empty for the API server itself.
    pub audience: String,
    /// Life asked for, seconds.
    pub expiration_seconds: i64,
}

impl TokenKey {
    /// The token that a projection of this pod asks for.
    pub fn of(pod: &Pod, projection: &ServiceAccountTokenProjection) -> Self {
        let named = |text: &Option<String>| text.clone().unwrap_or_default();
        let account = spec_of(pod).service_account_name.as_deref().filter(|name| !name.is_empty());
        Self {
            pod_uid: pod_uid(pod),
            pod_name: named(&pod.metadata.name),
            namespace: named(&pod.metadata.namespace),
            service_account: account.unwrap_or("default").to_owned(),
            audience: named(&projection.audience),
            expiration_seconds: projection.expiration_seconds.unwrap_or(DEFAULT_LIFE_SECONDS),
        }
    }
}

/// A token as the API server gave it.
#[derive(Clone, PartialEq, Eq)]
pub struct IssuedToken {
    /// The token itself.
    pub token: Arc<str>,
    /// When it ends.
    pub expires: Timestamp,
    /// Its life as granted, seconds.
    pub life_seconds: i64,
}

impl fmt::Debug for IssuedToken {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token of {} s until {}", self.life_seconds, self.expires)
    }
}

/// When a token is to be renewed, given when it was received.
pub fn refresh_at(key: &TokenKey, issued: &IssuedToken, received: Timestamp) -> Timestamp {
    let life = SignedDuration::from_secs(issued.life_seconds.max(0));
    let begin = before(issued.expires, life);
    let old = begin.checked_add(MAX_AGE).unwrap_or(Timestamp::MAX);
    let late = before(issued.expires, SignedDuration::from_secs(issued.life_seconds.max(0) / 5));
    before(old.min(late), jitter(key)).max(after(received, TOKEN_RETRY_SECONDS))
}

/// When to ask again after an attempt that failed. Pods spread over ten seconds, so that an API server that comes
/// back is not met by all of them at once.
pub fn retry_at(key: &TokenKey, now: Timestamp) -> Timestamp {
    after(now, TOKEN_RETRY_SECONDS).checked_add(jitter(key)).unwrap_or(Timestamp::MAX)
}

fn before(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_sub(by).unwrap_or(Timestamp::MIN)
}

fn after(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// Up to ten seconds, the same for one token each time (64-bit FNV-1a of its key).
fn jitter(key: &TokenKey) -> SignedDuration {
    let parts = [key.pod_uid.as_str(), &key.service_account, &key.audience];
    let hash = parts
        .iter()
        .flat_map(|part| part.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    // The low bits of FNV are the weak ones.
    let millis = (hash >> 17) % MAX_JITTER_MILLIS;
    SignedDuration::from_millis(i64::try_from(millis).unwrap_or(0))
}

/// The user that every container of the pod runs as, when all of them say so: the token belongs to that user.
pub fn file_user(pod: &Pod) -> Option<u32> {
    let spec = spec_of(pod);
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(ephemeral_as_container);
    let mut users = regular_containers(spec)
        .cloned()
        .chain(ephemeral)
        .map(|container| container.security_context.and_then(|context| context.run_as_user).or(of_pod));
    let first = users.next()??;
    if users.all(|user| user == Some(first)) { u32::try_from(first).ok() } else { None }
}

/// A token that an earlier run of the agent left in the pod's volume, if it is one for this key and still valid:
/// so a restart of the agent asks the API server for none.
///
/// The claims are believed without a signature check: the file lies in a directory that only root writes to.
pub fn adopted_token(key: &TokenKey, file: &[u8], now: Timestamp) -> Option<IssuedToken> {
    let token = std::str::from_utf8(file).ok()?;
    let claims = claims(token)?;
    let bound = &claims["kubernetes.io"];
    let audience_fits = match &claims["aud"] {
        _ if key.audience.is_empty() => true,
        Value::String(audience) => *audience == key.audience,
        Value::Array(all) => matches!(all.as_slice(), [Value::String(audience)] if *audience == key.audience),
        _ => false,
    };
    let fits = bound["namespace"] == key.namespace.as_str()
        && bound["pod"]["uid"] == key.pod_uid.as_str()
        && bound["serviceaccount"]["name"] == key.service_account.as_str();
    if !fits || !audience_fits {
        return None;
    }
    let begin = claims["iat"].as_i64()?;
    // API servers may let a token live for a year and say when it should have been renewed instead.
    let ends =
        [claims["exp"].as_i64(), bound["warnafter"].as_i64(), begin.checked_add(key.expiration_seconds)];
    let end = ends.into_iter().flatten().min()?;
    let expires = Timestamp::from_second(end).ok().filter(|expires| *expires > now)?;
    Some(IssuedToken { token: token.into(), expires, life_seconds: end.saturating_sub(begin) })
}

/// The claims of a JSON web token.
fn claims(token: &str) -> Option<Value> {
    let mut text: String = token
        .split('.')
        .nth(1)?
        .chars()
        .map(|character| match character {
            '-' => '+',
            '_' => '/',
            other => other,
        })
        .collect();
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    // The API's byte strings are base64.
    let ByteString(json) = serde_json::from_value(Value::String(text)).ok()?;
    serde_json::from_slice(&json).ok()
}
