//! Tokens of the pod's service account that a driver wants when it publishes a volume (`tokenRequests`).
//!
//! Owns which are asked for and the words they are told in; they are kept and renewed like those of projected volumes.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection};
use k8s_openapi::api::storage::v1::CSIDriver;
use serde_json::json;

use crate::projection::{IssuedToken, TokenKey};

/// The attribute, or the key of the secrets, that has the tokens.
pub const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// The tokens that a driver wants for a volume of the pod: for each audience, that is as the driver names it.
pub fn token_requests(pod: &Pod, driver: Option<&CSIDriver>) -> BTreeMap<String, TokenKey> {
    let requests = driver.into_iter().flat_map(|driver| driver.spec.token_requests.iter().flatten());
    requests
        .map(|request| {
            let projection = ServiceAccountTokenProjection {
                audience: Some(request.audience.clone()),
                expiration_seconds: request.expiration_seconds,
                path: String::new(),
            };
            (request.audience.clone(), TokenKey::of(pod, &projection))
        })
        .collect()
}

/// Whether the driver wants its tokens among the secrets (`serviceAccountTokenInSecrets`), not among the attributes.
pub fn tokens_in_secrets(driver: Option<&CSIDriver>) -> bool {
    driver.is_some_and(|driver| driver.spec.service_account_token_in_secrets == Some(true))
}

/// The value under [`TOKENS`]: JSON of the tokens by audience, as statuses of TokenRequests. A secret.
pub fn tokens_value<'a>(tokens: impl IntoIterator<Item = (&'a str, &'a IssuedToken)>) -> String {
    let all: BTreeMap<&str, _> = tokens
        .into_iter()
        .map(|(audience, issued)| {
            let expires = issued.expires.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            (audience, json!({"token": &*issued.token, "expirationTimestamp": expires}))
        })
        .collect();
    json!(all).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::fixtures::{at, pod};

    #[test]
    fn each_audience_is_a_token_of_the_pods_account() {
        let pod = pod(json!({"containers": [], "serviceAccountName": "robot"}));
        let driver: CSIDriver = serde_json::from_value(json!({"spec": {"tokenRequests": [
            {"audience": "vault", "expirationSeconds": 600}, {"audience": ""}]}}))
        .unwrap();
        let asked = token_requests(&pod, Some(&driver));
        let told: Vec<_> = asked
            .iter()
            .map(|(audience, key)| {
                assert_eq!((key.service_account.as_str(), key.pod_name.as_str()), ("robot", "web"));
                (audience.as_str(), key.audience.as_str(), key.expiration_seconds)
            })
            .collect();
        assert_eq!(told, [("", "", 3600), ("vault", "vault", 600)]);
        assert!(token_requests(&pod, None).is_empty());
    }

    #[test]
    fn tokens_are_told_as_statuses() {
        let issued =
            |token: &str| IssuedToken { token: token.into(), expires: at(1_700_000_000), life_seconds: 600 };
        let (one, two) = (issued("a\"b"), issued("c"));
        let value: Value = serde_json::from_str(&tokens_value([("x", &one), ("", &two)])).unwrap();
        let expires = "2023-11-14T22:13:20Z";
        let expected = json!({
            "x": {"token": "a\"b", "expirationTimestamp": expires},
            "": {"token": "c", "expirationTimestamp": expires},
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn tokens_are_attributes_unless_asked_for_as_secrets() {
        let of =
            |spec: Value| tokens_in_secrets(Some(&serde_json::from_value(json!({"spec": spec})).unwrap()));
        assert!(!tokens_in_secrets(None));
        assert!(!of(json!({})));
        assert!(of(json!({"serviceAccountTokenInSecrets": true})));
    }
}
