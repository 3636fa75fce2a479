//! Service account tokens: what a TokenRequest gets, and who the bearer of one is.
//!
//! Tokens look like the real ones (a JWT with the claims the server writes) but are signed by nobody.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::State;
use super::handle::{Call, Reply};
use super::meta;
use super::references::items;
use super::request::User;
use super::resources::{self, ResourceRef};
use super::restriction;
use super::status::{self, ApiError, bad_request};
use super::store::Key;

/// The audience of tokens that ask for none, and their issuer.
pub const API_AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

/// The lifetime for which the server hands out a token that lasts a year, and only warns.
const WARN_ONLY_SECONDS: i64 = 60 * 60 + 7;

/// POST to `serviceaccounts/{name}/token`.
pub(crate) fn create(state: &mut State, call: &Call<'_>, resource: ResourceRef) -> Result<Reply, ApiError> {
    let mut request: Value = serde_json::from_slice(call.body)
        .map_err(|e| bad_request(format!("error decoding TokenRequest: {e}")))?;
    if request.get("kind").and_then(Value::as_str).is_some_and(|kind| kind != "TokenRequest") {
        return Err(bad_request("the body is no TokenRequest"));
    }
    let (namespace, name) = (call.request.namespace.clone(), call.request.name.clone());
    if call.options.restrict {
        let verdict = restriction::admit_token(state, call, resource, &request);
        verdict.inspect_err(|error| state.violate(call, error))?;
    }
    let account = state
        .store
        .get(&Key::new(resource, &namespace, &name))
        .cloned()
        .ok_or_else(|| status::not_found(resource, &name))?;
    let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(3600);
    if !(600..=1 << 32).contains(&seconds) {
        let what = format!("Invalid value: {seconds}: may not specify a duration less than 10 minutes");
        return Err(status::invalid(resource, &name, &[("spec.expirationSeconds".to_owned(), what)]));
    }
    if items(&request["spec"], "audiences").next().is_none() {
        request["spec"]["audiences"] = json!([API_AUDIENCE]);
    }
    let pod = bound_pod(state, &request["spec"]["boundObjectRef"], &namespace, &name)?;
    let extended = seconds == WARN_ONLY_SECONDS && request["spec"]["audiences"] == json!([API_AUDIENCE]);
    let now = call.now.as_second();
    let mut own =
        json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": meta::uid(&account)}});
    if let Some(pod) = &pod {
        own["pod"] = json!({"name": meta::name(pod), "uid": meta::uid(pod)});
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        if !node.is_empty() {
            own["node"] = json!({"name": node});
            if let Some(stored) = state.store.get(&Key::new(resources::named("nodes"), "", node)) {
                own["node"]["uid"] = json!(meta::uid(stored));
            }
        }
        if extended {
            own["warnafter"] = json!(now + seconds);
        }
    }
    let lasts = if extended && pod.is_some() { 365 * 24 * 3600 } else { seconds };
    let number = state.store.next_id();
    let claims = json!({
        "aud": request["spec"]["audiences"], "exp": now + lasts, "iat": now, "nbf": now, "iss": API_AUDIENCE,
        "jti": format!("{number:032x}"), "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "kubernetes.io": own,
    });
    let token = encode(&claims, number);
    let expires = call.now + SignedDuration::from_secs(seconds);
    request["kind"] = json!("TokenRequest");
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    request["spec"]["expirationSeconds"] = json!(seconds);
    request["metadata"] = json!({"name": name, "namespace": namespace, "uid": meta::uid(&account),
                                 "creationTimestamp": meta::time(call.now)});
    request["status"] = json!({"token": token, "expirationTimestamp": meta::time(expires)});
    Ok(Reply::Object(201, request))
}

fn bound_pod(
    state: &State,
    bound: &Value,
    namespace: &str,
    account: &str,
) -> Result<Option<std::sync::Arc<Value>>, ApiError> {
    if bound["kind"] != "Pod" {
        return Ok(None);
    }
    let pods = resources::named("pods");
    let name = bound["name"].as_str().unwrap_or_default();
    let pod =
        state.store.get(&Key::new(pods, namespace, name)).ok_or_else(|| status::not_found(pods, name))?;
    if pod["spec"]["serviceAccountName"] != account {
        return Err(bad_request(format!(
            "cannot bind token for serviceaccount \"{account}\" to pod running with different serviceaccount name."
        )));
    }
    let uid = bound["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && uid != meta::uid(pod) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        );
        return Err(status::conflict(pods, name, &why));
    }
    Ok(Some(pod.clone()))
}

fn encode(claims: &Value, number: u64) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signature = URL_SAFE_NO_PAD.encode(number.to_be_bytes().repeat(32));
    format!("{}.{}.{signature}", part(&json!({"alg": "RS256", "kid": "fake"})), part(claims))
}

/// The claims of a token this server made; `None` when it is no such token.
pub(crate) fn claims(token: &str) -> Option<Value> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// Who the bearer of a service account token is, while it and what it is bound to last.
pub(crate) fn bearer(state: &State, token: &str, now: Timestamp) -> Option<User> {
    let claims = claims(token)?;
    if claims["iss"] != API_AUDIENCE || claims["exp"].as_i64()? <= now.as_second() {
        return None;
    }
    let own = &claims["kubernetes.io"];
    let exists = |plural: &str, object: &Value| {
        let key = Key::new(
            resources::named(plural),
            own["namespace"].as_str().unwrap_or_default(),
            object["name"].as_str().unwrap_or_default(),
        );
        state.store.get(&key).is_some_and(|stored| stored["metadata"]["uid"] == object["uid"])
    };
    let pod_lives = own.get("pod").is_none_or(|pod| exists("pods", pod));
    (exists("serviceaccounts", &own["serviceaccount"]) && pod_lives)
        .then(|| User::named(claims["sub"].as_str().unwrap_or_default()))
}
