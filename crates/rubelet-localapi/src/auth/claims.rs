//! What a service account token says, and who its bearer is: pure decisions of TokenRequest and of authentication.
//!
//! The claims are those of upstream's `pkg/serviceaccount`, the refusals those of its token registry.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use rubelet_apimachinery::kinds::{self, Resource};
use rubelet_apimachinery::status::ApiError;
use rubelet_apimachinery::strategy::{Lookup, text};
use rubelet_apimachinery::user::SERVICE_ACCOUNTS;
use rubelet_apimachinery::{User, user};
use serde_json::{Value, json};

use super::tokens::ISSUER;
use crate::engine::TokenWish;

/// The lifetime that the admission plugin writes into pods: such tokens last a year, and only warn after an hour
/// (upstream's `WarnOnlyBoundTokenExpirationSeconds`).
const WARN_ONLY_SECONDS: i64 = 60 * 60 + 7;
/// How long those last.
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;
/// The shortest lifetime.
const MIN_SECONDS: i64 = 600;
/// How long after the time of its deletion an object that is still there makes tokens good (upstream's `DefaultLeeway`).
const LEEWAY_SECONDS: i64 = 60;

fn resource(plural: &str) -> Option<&'static Resource> {
    kinds::find("", "v1", plural)
}

/// What a TokenRequest gets, before its claims are signed.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// What the token is to say.
    pub claims: Value,
    /// When the client is to count it as expired.
    pub expires: Timestamp,
}

/// Answers a wish for a token. `id` is the token's own, random.
///
/// # Errors
/// Lifetimes under ten minutes or beyond 2^32 seconds.
pub fn grant(wish: &TokenWish<'_>, now: Timestamp, id: &str) -> Result<Grant, ApiError> {
    let spec = &wish.request["spec"];
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(MIN_SECONDS);
    if seconds < MIN_SECONDS {
        return Err(refuse(seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > 1 << 32 {
        return Err(refuse(seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    let audiences = match spec["audiences"].as_array() {
        Some(asked) if !asked.is_empty() => json!(asked),
        _ => json!([ISSUER]),
    };
    let (namespace, name) =
        (text(wish.account, &["metadata", "namespace"]), text(wish.account, &["metadata", "name"]));
    let who = |object: &Value| json!({"name": object["metadata"]["name"], "uid": object["metadata"]["uid"]});
    let mut own = json!({"namespace": namespace, "serviceaccount": who(wish.account)});
    let bound = wish.bound.map(|object| (text(spec, &["boundObjectRef", "kind"]).to_lowercase(), object));
    let is_pods = bound.as_ref().is_some_and(|(kind, _)| kind == "pod");
    if let Some((kind, object)) = &bound {
        own[kind.as_str()] = who(object);
        let node = text(object, &["spec", "nodeName"]);
        if is_pods && !node.is_empty() {
            own["node"] = wish.node.map_or_else(|| json!({"name": node}), who);
        }
    }
    let extended = is_pods && seconds == WARN_ONLY_SECONDS && audiences == json!([ISSUER]);
    let issued = now.as_second();
    if extended {
        own["warnafter"] = json!(issued + seconds);
    }
    let lasts = if extended { EXTENDED_SECONDS } else { seconds };
    let claims = json!({
        "aud": audiences, "exp": issued + lasts, "iat": issued, "nbf": issued, "iss": ISSUER,
        "jti": id, "sub": format!("system:serviceaccount:{namespace}:{name}"), "kubernetes.io": own,
    });
    Ok(Grant { claims, expires: now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now) })
}

fn refuse(seconds: i64, why: &str) -> ApiError {
    let message = format!("Invalid value: {seconds}: {why}");
    let field = "spec.expirationSeconds".to_owned();
    let mut error = ApiError::new(
        422,
        "Invalid",
        format!("TokenRequest.authentication.k8s.io \"\" is invalid: {field}: {message}"),
    );
    error.details = json!({
        "group": "authentication.k8s.io", "kind": "TokenRequest",
        "causes": [{"reason": "FieldValueInvalid", "field": field, "message": message}],
    });
    error
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
            .is_some_and(|stored| {
                let end = text(&stored, &["metadata", "deletionTimestamp"]).parse::<Timestamp>();
                let is_over = end.is_ok_and(|end| end.as_second() < seconds - LEEWAY_SECONDS);
                stored["metadata"]["uid"] == claimed["uid"] && !is_over
            })
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
        let world = world();
        let get =
            |plural: &str, namespace: &str, name: &str| world.get(resource(plural).unwrap(), namespace, name);
        let request = json!({"spec": spec});
        let bound = get("pods", "ns", text(&request, &["spec", "boundObjectRef", "name"]));
        let node = get("nodes", "", "n");
        let wish = TokenWish {
            request: &request,
            account: &get("serviceaccounts", "ns", "sa").unwrap(),
            bound: bound.as_ref(),
            node: node.as_ref(),
        };
        grant(&wish, now(), "id-1")
    }

    #[test]
    fn tokens_of_pods_last_a_year_and_say_where_the_pod_is() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u-p"});
        let grant = ask(json!({"expirationSeconds": 3607, "boundObjectRef": pod})).unwrap();
        assert_eq!(grant.claims["exp"], 1_800_000_000 + 365 * 24 * 3600);
        assert_eq!(grant.claims["kubernetes.io"]["warnafter"], 1_800_003_607);
        assert_eq!(grant.claims["kubernetes.io"]["pod"], json!({"name": "p", "uid": "u-p"}));
        assert_eq!(grant.claims["kubernetes.io"]["node"], json!({"name": "n", "uid": "u-n"}));
        assert_eq!(grant.expires.as_second(), 1_800_003_607);
        let user = bearer(&world(), &grant.claims, &[ISSUER], now()).unwrap();
        assert_eq!(user.name, "system:serviceaccount:ns:sa");
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert!(user.is_in("system:serviceaccounts:ns"));
    }

    #[test]
    fn lifetimes_are_bounded_as_upstream_bounds_them() {
        let error = ask(json!({"expirationSeconds": 10})).unwrap_err();
        assert_eq!(
            error.message,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 10: may not \
             specify a duration less than 10 minutes"
        );
        assert_eq!(ask(json!({"expirationSeconds": 1_i64 << 33})).unwrap_err().code, 422);
        let plain = ask(json!({"expirationSeconds": 3607})).unwrap();
        assert_eq!(plain.claims["exp"], 1_800_003_607, "only tokens of pods are extended");
    }

    #[test]
    fn a_token_is_worth_nothing_once_time_or_its_objects_have_gone() {
        let claims = ask(json!({"expirationSeconds": 3600, "boundObjectRef": {"kind": "Pod", "name": "p"}}))
            .unwrap()
            .claims;
        let hour = SignedDuration::from_secs(3600);
        assert_eq!(bearer(&world(), &claims, &[ISSUER], now() + hour), Err("token has expired"));
        assert!(bearer(&world(), &claims, &["vault"], now()).is_err());
        let mut ending = world();
        ending.0[2].1["metadata"]["deletionTimestamp"] = json!(now().to_string());
        assert!(bearer(&ending, &claims, &[ISSUER], now() + SignedDuration::from_secs(60)).is_ok());
        assert!(bearer(&ending, &claims, &[ISSUER], now() + SignedDuration::from_secs(61)).is_err());
        let mut without_pod = world();
        without_pod.0.retain(|(_, object)| object["metadata"]["name"] != "p");
        assert!(bearer(&without_pod, &claims, &[ISSUER], now()).is_err());
        assert!(bearer(&World(Vec::new()), &claims, &[ISSUER], now()).is_err());
    }
}
