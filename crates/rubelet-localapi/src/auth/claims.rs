//! What a service account token says, and who its bearer is: pure decisions of TokenRequest and of authentication.
//!
//! The claims are those of upstream's `pkg/serviceaccount`, the refusals those of its token registry.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use rubelet_apimachinery::kinds::{self, Resource};
use rubelet_apimachinery::status::{self, ApiError, Cause, bad_request};
use rubelet_apimachinery::strategy::Lookup;
use rubelet_apimachinery::user::SERVICE_ACCOUNTS;
use rubelet_apimachinery::{User, user};
use serde_json::{Value, json};

use super::tokens::ISSUER;

/// The lifetime that the admission plugin writes into pods: such tokens last a year, and only warn after an hour
/// (upstream's `WarnOnlyBoundTokenExpirationSeconds`).
const WARN_ONLY_SECONDS: i64 = 60 * 60 + 7;
/// How long those last.
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;
/// What a request that says nothing gets.
const DEFAULT_SECONDS: i64 = 3600;
/// The shortest lifetime.
const MIN_SECONDS: i64 = 600;

fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    path.iter().fold(value, |value, key| &value[*key]).as_str().unwrap_or_default()
}

fn resource(plural: &str) -> Option<&'static Resource> {
    kinds::find("", "v1", plural)
}

/// A time as objects show it: whole seconds.
fn shown(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What a TokenRequest gets, before its claims are signed.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// What the token is to say.
    pub claims: Value,
    /// The answer, in which only `status.token` is missing.
    pub answer: Value,
}

/// Answers a TokenRequest for the service account `name` of `namespace`. `id` is the token's own, random.
///
/// # Errors
/// Unknown accounts and objects, lifetimes under ten minutes, an object that is not the account's.
pub fn grant(
    lookup: &dyn Lookup,
    namespace: &str,
    name: &str,
    mut request: Value,
    now: Timestamp,
    id: &str,
) -> Result<Grant, ApiError> {
    let (Some(accounts), Some(request_kind)) =
        (resource("serviceaccounts"), kinds::find("", "v1", "serviceaccounts"))
    else {
        return Err(status::unknown_path());
    };
    let account = lookup.get(accounts, namespace, name).ok_or_else(|| status::not_found(accounts, name))?;
    let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    let refuse = |why: &str| {
        let message = format!("Invalid value: {seconds}: {why}");
        let field = "spec.expirationSeconds".to_owned();
        let mut error =
            status::invalid(request_kind, "", &[Cause { field, reason: "FieldValueInvalid", message }]);
        error.message = error.message.replacen("ServiceAccount", "TokenRequest.authentication.k8s.io", 1);
        error
    };
    if seconds < MIN_SECONDS {
        return Err(refuse("may not specify a duration less than 10 minutes"));
    }
    if seconds > 1 << 32 {
        return Err(refuse("may not specify a duration larger than 2^32 seconds"));
    }
    let asks_for_api = request["spec"]["audiences"].as_array().is_none_or(Vec::is_empty);
    if asks_for_api {
        request["spec"]["audiences"] = json!([ISSUER]);
    }
    let mut own =
        json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": account["metadata"]["uid"]}});
    let bound = bind(lookup, &request["spec"]["boundObjectRef"], namespace, name, &mut own)?;
    let extended = bound == Some("pods")
        && seconds == WARN_ONLY_SECONDS
        && request["spec"]["audiences"] == json!([ISSUER]);
    let issued = now.as_second();
    if extended {
        own["warnafter"] = json!(issued + seconds);
    }
    let lasts = if extended { EXTENDED_SECONDS } else { seconds };
    let claims = json!({
        "aud": request["spec"]["audiences"], "exp": issued + lasts, "iat": issued, "nbf": issued, "iss": ISSUER,
        "jti": id, "sub": format!("system:serviceaccount:{namespace}:{name}"), "kubernetes.io": own,
    });
    let expires = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
    request["kind"] = json!("TokenRequest");
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    request["spec"]["expirationSeconds"] = json!(seconds);
    request["metadata"] = json!({"name": name, "namespace": namespace, "creationTimestamp": shown(now)});
    request["status"] = json!({"expirationTimestamp": shown(expires)});
    Ok(Grant { claims, answer: request })
}

/// Writes the object that the token is bound to into its claims; gives the object's resource.
fn bind(
    lookup: &dyn Lookup,
    reference: &Value,
    namespace: &str,
    account: &str,
    own: &mut Value,
) -> Result<Option<&'static str>, ApiError> {
    if reference.is_null() {
        return Ok(None);
    }
    let (api_version, kind) = (text(reference, &["apiVersion"]), text(reference, &["kind"]));
    let (plural, scope) = match (api_version, kind) {
        ("v1" | "", "Pod") => ("pods", namespace),
        ("v1" | "", "Secret") => ("secrets", namespace),
        ("v1" | "", "Node") => ("nodes", ""),
        _ => {
            return Err(bad_request(format!(
                "cannot bind token to object of type {api_version}, Kind={kind}"
            )));
        }
    };
    let Some(resource) = resource(plural) else { return Ok(None) };
    let name = text(reference, &["name"]);
    let object = lookup.get(resource, scope, name).ok_or_else(|| status::not_found(resource, name))?;
    let uid = text(&object, &["metadata", "uid"]);
    let wanted = text(reference, &["uid"]);
    if !wanted.is_empty() && wanted != uid {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        );
        return Err(status::conflict(resource, name, &why));
    }
    if plural == "pods" {
        if text(&object, &["spec", "serviceAccountName"]) != account {
            return Err(bad_request(format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
            )));
        }
        let node = text(&object, &["spec", "nodeName"]);
        if !node.is_empty() {
            own["node"] = json!({"name": node});
            let stored = self::resource("nodes").and_then(|nodes| lookup.get(nodes, "", node));
            if let Some(stored) = stored {
                own["node"]["uid"] = stored["metadata"]["uid"].clone();
            }
        }
    }
    let singular = resource.singular;
    own[singular] = json!({"name": name, "uid": uid});
    Ok(Some(plural))
}

/// Who the bearer of a token with these claims is.
///
/// # Errors
/// Why nobody: it has expired, is for others than `audiences`, or what it is bound to is gone.
pub fn bearer(
    lookup: &dyn Lookup,
    claims: &Value,
    audiences: &[&str],
    now: Timestamp,
) -> Result<User, &'static str> {
    let seconds = now.as_second();
    if claims["iss"] != ISSUER {
        return Err("the token is of another issuer");
    }
    if claims["exp"].as_i64().is_none_or(|end| end <= seconds) {
        return Err("token has expired");
    }
    if claims["nbf"].as_i64().is_some_and(|begin| begin > seconds + 300) {
        return Err("token is not valid yet");
    }
    let is_for_us = claims["aud"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .any(|a| audiences.contains(&a));
    if !is_for_us {
        return Err("token audiences are not for this server");
    }
    let own = &claims["kubernetes.io"];
    let namespace = text(own, &["namespace"]);
    let lives = |plural: &str, scope: &str, claimed: &Value| {
        resource(plural)
            .and_then(|resource| lookup.get(resource, scope, text(claimed, &["name"])))
            .is_some_and(|stored| stored["metadata"]["uid"] == claimed["uid"])
    };
    if !lives("serviceaccounts", namespace, &own["serviceaccount"]) {
        return Err("service account has been deleted");
    }
    for (plural, singular, scope) in [("pods", "pod", namespace), ("secrets", "secret", namespace)] {
        if own.get(singular).is_some_and(|claimed| !lives(plural, scope, claimed)) {
            return Err("what the token is bound to has been deleted");
        }
    }
    if own.get("node").is_some() && own.get("pod").is_none() && !lives("nodes", "", &own["node"]) {
        return Err("what the token is bound to has been deleted");
    }
    let mut extra = BTreeMap::new();
    let mut tell = |key: &str, value: &str| {
        if !value.is_empty() {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    let id = text(claims, &["jti"]);
    if !id.is_empty() {
        tell("credential-id", &format!("JTI={id}"));
    }
    for singular in ["node", "pod"] {
        tell(&format!("{singular}-name"), text(own, &[singular, "name"]));
        tell(&format!("{singular}-uid"), text(own, &[singular, "uid"]));
    }
    Ok(User {
        name: text(claims, &["sub"]).to_owned(),
        uid: text(own, &["serviceaccount", "uid"]).to_owned(),
        groups: vec![
            SERVICE_ACCOUNTS.to_owned(),
            format!("{SERVICE_ACCOUNTS}:{namespace}"),
            user::AUTHENTICATED.to_owned(),
        ],
        extra,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service account, a node and a pod on it.
    struct World(Vec<(&'static str, Value)>);

    impl Lookup for World {
        fn get(&self, resource: &'static Resource, namespace: &str, name: &str) -> Option<Value> {
            let is = |(plural, object): &&(&str, Value)| {
                *plural == resource.plural
                    && text(object, &["metadata", "namespace"]) == namespace
                    && text(object, &["metadata", "name"]) == name
            };
            self.0.iter().find(is).map(|(_, object)| object.clone())
        }
        fn list(&self, _: &'static Resource, _: &str) -> Vec<Value> {
            Vec::new()
        }
    }

    fn world() -> World {
        World(vec![
            ("serviceaccounts", json!({"metadata": {"namespace": "ns", "name": "sa", "uid": "u-sa"}})),
            ("nodes", json!({"metadata": {"name": "n", "uid": "u-n"}})),
            (
                "pods",
                json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u-p"},
                       "spec": {"serviceAccountName": "sa", "nodeName": "n"}}),
            ),
            (
                "pods",
                json!({"metadata": {"namespace": "ns", "name": "q", "uid": "u-q"},
                       "spec": {"serviceAccountName": "other"}}),
            ),
        ])
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn ask(spec: Value) -> Result<Grant, ApiError> {
        grant(&world(), "ns", "sa", json!({"spec": spec}), now(), "id-1")
    }

    #[test]
    fn tokens_of_pods_last_a_year_and_say_where_the_pod_is() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u-p"});
        let grant = ask(json!({"expirationSeconds": 3607, "boundObjectRef": pod})).unwrap();
        assert_eq!(grant.claims["exp"], 1_800_000_000 + 365 * 24 * 3600);
        assert_eq!(grant.claims["kubernetes.io"]["warnafter"], 1_800_003_607);
        assert_eq!(grant.claims["kubernetes.io"]["pod"], json!({"name": "p", "uid": "u-p"}));
        assert_eq!(grant.claims["kubernetes.io"]["node"], json!({"name": "n", "uid": "u-n"}));
        assert_eq!(grant.answer["status"]["expirationTimestamp"], "2027-01-15T09:00:07Z");
        let user = bearer(&world(), &grant.claims, &[ISSUER], now()).unwrap();
        assert_eq!(user.name, "system:serviceaccount:ns:sa");
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert!(user.is_in("system:serviceaccounts:ns"));
    }

    #[test]
    fn refusals_are_worded_as_upstream_words_them() {
        let check = |spec: Value, code: u16, message: &str| {
            let error = ask(spec).unwrap_err();
            assert_eq!((error.code, error.message.contains(message)), (code, true), "{}", error.message);
        };
        check(json!({"expirationSeconds": 10}), 422, "may not specify a duration less than 10 minutes");
        check(json!({"expirationSeconds": 10}), 422, "TokenRequest.authentication.k8s.io \"\" is invalid");
        check(json!({"boundObjectRef": {"kind": "Pod", "name": "none"}}), 404, "pods \"none\" not found");
        check(json!({"boundObjectRef": {"kind": "Pod", "name": "q"}}), 400, "different serviceaccount name");
        check(
            json!({"boundObjectRef": {"kind": "Pod", "name": "p", "uid": "x"}}),
            409,
            "does not match the UID",
        );
        check(json!({"boundObjectRef": {"kind": "Service", "name": "p"}}), 400, "cannot bind token");
        let error = grant(&world(), "ns", "none", json!({}), now(), "").unwrap_err();
        assert_eq!(error.code, 404);
    }

    #[test]
    fn a_token_is_worth_nothing_once_time_or_its_objects_have_gone() {
        let claims = ask(json!({"boundObjectRef": {"kind": "Pod", "name": "p"}})).unwrap().claims;
        let hour = SignedDuration::from_secs(3600);
        assert_eq!(bearer(&world(), &claims, &[ISSUER], now() + hour), Err("token has expired"));
        assert!(bearer(&world(), &claims, &["vault"], now()).is_err());
        let mut without_pod = world();
        without_pod.0.retain(|(_, object)| object["metadata"]["name"] != "p");
        assert!(bearer(&without_pod, &claims, &[ISSUER], now()).is_err());
        assert!(bearer(&World(Vec::new()), &claims, &[ISSUER], now()).is_err());
    }
}
