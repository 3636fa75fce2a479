//! What is said to a credential provider plugin and what it answers
//! (`CredentialProviderRequest`/`Response` of `credentialprovider.kubelet.k8s.io`).
//!
//! Owns both forms. Errors never hold what a plugin wrote on its standard output: that may be a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::provider_config::PROTOCOL_V1;
use super::{DockerConfig, RegistryAuth};

/// What a plugin is asked.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProviderRequest {
    /// Repository of the image: registry and path, no tag.
    pub image: String,
    /// A token of the pod's service account, or empty.
    pub service_account_token: String,
    /// Annotations of the service account that the plugin wants.
    pub service_account_annotations: BTreeMap<String, String>,
}

impl fmt::Debug for ProviderRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderRequest").field("image", &self.image).finish_non_exhaustive()
    }
}

/// For which images an answer may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheKeyType {
    /// The same repository.
    Image,
    /// The same registry.
    Registry,
    /// Every image the plugin is asked about.
    Global,
}

/// A plugin's answer.
#[derive(Clone, PartialEq, Eq)]
pub struct ProviderResponse {
    /// For what it may be used again.
    pub cache_key_type: CacheKeyType,
    /// For how long, in nanoseconds; `None`: as configured.
    pub cache_nanos: Option<i64>,
    /// Credentials by location.
    pub auth: DockerConfig,
}

impl ProviderResponse {
    /// Until when the answer may be used again; `None`: it may not.
    pub fn expires(&self, default: Duration, now: Timestamp) -> Option<Timestamp> {
        let lasts = match self.cache_nanos {
            Some(nanos) => SignedDuration::from_nanos(nanos),
            None => SignedDuration::try_from(default).ok()?,
        };
        lasts.is_positive().then(|| now.checked_add(lasts).unwrap_or(Timestamp::MAX))
    }

    /// Whether the plugin gave a token back that it was only lent (allowed where answers are kept per token).
    pub fn echoes(&self, token: &str) -> bool {
        !token.is_empty() && self.auth.values().any(|auth| auth.password == token)
    }
}

/// Why an answer cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// Not JSON.
    #[error("the plugin's answer is not valid JSON (line {line}, column {column})")]
    NotJson {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// Another version than asked for.
    #[error("the plugin's answer has apiVersion {actual:?}, expected {expected:?}")]
    ApiVersion {
        /// As configured.
        expected: String,
        /// As answered.
        actual: String,
    },
    /// Another kind of object.
    #[error("the plugin's answer has kind {0:?}, expected \"CredentialProviderResponse\"")]
    Kind(String),
    /// A field is not what it should be.
    #[error("{0} in the plugin's answer is not valid")]
    Field(&'static str),
    /// The required field is something else.
    #[error("cacheKeyType in the plugin's answer is {0:?}, expected Image, Registry or Global")]
    CacheKeyType(String),
}

/// The request as JSON, in a version of the protocol. Older versions know the image alone.
pub fn encode_request(api_version: &str, request: &ProviderRequest) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire<'a> {
        kind: &'a str,
        api_version: &'a str,
        image: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        service_account_token: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        service_account_annotations: Option<&'a BTreeMap<String, String>>,
    }
    let with_account = api_version == PROTOCOL_V1;
    let wire = Wire {
        kind: "CredentialProviderRequest",
        api_version,
        image: &request.image,
        service_account_token: if with_account { &request.service_account_token } else { "" },
        service_account_annotations: Some(&request.service_account_annotations)
            .filter(|all| with_account && !all.is_empty()),
    };
    // Texts and a map of texts always have a JSON form.
    serde_json::to_vec(&wire).unwrap_or_default()
}

/// Reads what a plugin printed. `duration` reads Go's durations, as nanoseconds.
///
/// # Errors
/// [`ResponseError`].
pub fn decode_response(
    output: &[u8],
    api_version: &str,
    duration: impl Fn(&str) -> Option<i64>,
) -> Result<ProviderResponse, ResponseError> {
    #[derive(Deserialize)]
    struct Auth {
        #[serde(default)]
        username: String,
        #[serde(default)]
        password: String,
    }
    let answer: Value = serde_json::from_slice(output)
        .map_err(|error| ResponseError::NotJson { line: error.line(), column: error.column() })?;
    let text = |field: &str| answer.get(field).and_then(Value::as_str).unwrap_or_default();
    if text("apiVersion") != api_version {
        let (expected, actual) = (api_version.to_owned(), shortened(text("apiVersion")));
        return Err(ResponseError::ApiVersion { expected, actual });
    }
    if text("kind") != "CredentialProviderResponse" {
        return Err(ResponseError::Kind(shortened(text("kind"))));
    }
    let cache_key_type = match text("cacheKeyType") {
        "Image" => CacheKeyType::Image,
        "Registry" => CacheKeyType::Registry,
        "Global" => CacheKeyType::Global,
        other => return Err(ResponseError::CacheKeyType(shortened(other))),
    };
    let cache_nanos = match answer.get("cacheDuration") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let nanos = value.as_str().and_then(duration);
            Some(nanos.ok_or(ResponseError::Field("cacheDuration"))?)
        }
    };
    let auth: BTreeMap<String, Auth> = match answer.get("auth") {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(auth) => BTreeMap::deserialize(auth).map_err(|_| ResponseError::Field("auth"))?,
    };
    let auth = auth.into_iter().map(|(location, Auth { username, password })| {
        (location, RegistryAuth { username, password, ..Default::default() })
    });
    Ok(ProviderResponse { cache_key_type, cache_nanos, auth: auth.collect() })
}

/// A plugin that writes something else must not fill the log.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_by_version() {
        let request = ProviderRequest {
            image: "r.io/a".into(),
            service_account_token: "tok".into(),
            service_account_annotations: [("k".to_owned(), "v".to_owned())].into(),
        };
        let check = |version: &str, request: &ProviderRequest, expected: Value| {
            let wire: Value = serde_json::from_slice(&encode_request(version, request)).unwrap();
            assert_eq!(wire, expected);
        };
        let beta = "credentialprovider.kubelet.k8s.io/v1beta1";
        let kind = "CredentialProviderRequest";
        check(
            PROTOCOL_V1,
            &request,
            json!({"kind": kind, "apiVersion": PROTOCOL_V1, "image": "r.io/a", "serviceAccountToken": "tok",
                   "serviceAccountAnnotations": {"k": "v"}}),
        );
        check(beta, &request, json!({"kind": kind, "apiVersion": beta, "image": "r.io/a"}));
        let bare = ProviderRequest { image: "r.io/a".into(), ..Default::default() };
        check(PROTOCOL_V1, &bare, json!({"kind": kind, "apiVersion": PROTOCOL_V1, "image": "r.io/a"}));
        assert!(!format!("{request:?}").contains("tok"));
    }

    #[track_caller]
    fn check(change: Value, expected: Result<ProviderResponse, &str>) {
        let mut answer = json!({
            "apiVersion": PROTOCOL_V1, "kind": "CredentialProviderResponse", "cacheKeyType": "Registry",
            "cacheDuration": "7", "auth": {"r.io": {"username": "ann", "password": "pw"}},
        });
        for (key, value) in change.as_object().unwrap() {
            answer[key] = value.clone();
        }
        let output = serde_json::to_vec(&answer).unwrap();
        let found = decode_response(&output, PROTOCOL_V1, |text| text.parse().ok());
        assert!(
            found.as_ref().map_err(ToString::to_string)
                == expected.as_ref().map_err(|text| (*text).to_owned()),
            "{change}: {:?}",
            found.err()
        );
    }

    #[test]
    fn responses() {
        let auth = RegistryAuth { username: "ann".into(), password: "pw".into(), ..Default::default() };
        let good = ProviderResponse {
            cache_key_type: CacheKeyType::Registry,
            cache_nanos: Some(7),
            auth: [("r.io".to_owned(), auth)].into(),
        };
        check(json!({}), Ok(good.clone()));
        check(json!({"new": 1}), Ok(good.clone()));
        check(json!({"cacheDuration": null}), Ok(ProviderResponse { cache_nanos: None, ..good.clone() }));
        check(json!({"auth": null}), Ok(ProviderResponse { auth: [].into(), ..good.clone() }));
        check(
            json!({"cacheKeyType": "Global"}),
            Ok(ProviderResponse { cache_key_type: CacheKeyType::Global, ..good }),
        );
        check(json!({"auth": {"r.io": "secret"}}), Err("auth in the plugin's answer is not valid"));
        check(json!({"cacheDuration": "x"}), Err("cacheDuration in the plugin's answer is not valid"));
        check(
            json!({"cacheKeyType": "x"}),
            Err("cacheKeyType in the plugin's answer is \"x\", expected Image, Registry or Global"),
        );
        check(
            json!({"kind": "Pod"}),
            Err("the plugin's answer has kind \"Pod\", expected \"CredentialProviderResponse\""),
        );
        check(
            json!({"apiVersion": "v1"}),
            Err(
                "the plugin's answer has apiVersion \"v1\", expected \"credentialprovider.kubelet.k8s.io/v1\"",
            ),
        );
        let error = decode_response(b"secret", PROTOCOL_V1, |_| None).err().unwrap().to_string();
        assert_eq!(error, "the plugin's answer is not valid JSON (line 1, column 1)");
    }

    #[test]
    fn how_long_an_answer_holds() {
        let check = |nanos, default, expected: Option<i64>| {
            let response = ProviderResponse {
                cache_key_type: CacheKeyType::Image,
                cache_nanos: nanos,
                auth: DockerConfig::new(),
            };
            let expires = response.expires(Duration::from_secs(default), Timestamp::UNIX_EPOCH);
            assert_eq!(expires.map(|at| at.as_second()), expected);
        };
        check(None, 60, Some(60));
        check(None, 0, None);
        check(Some(0), 60, None);
        check(Some(-5), 60, None);
        check(Some(2_000_000_000), 60, Some(2));
        check(Some(i64::MAX), 60, Some(9_223_372_036));
    }
}
