//! Service account tokens for volumes, asked for by TokenRequest and bound to the pod.
//!
//! Owns the one request and what its answer means; when to ask is the `TokenManager`'s affair (`rubelet-volumes`).
//! The Node authorizer allows it for service accounts of pods on this node, with the audiences the pod names.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use rubelet_core::projection::{IssuedToken, TokenKey};
use rubelet_volumes::{TokenManager, TokenSource};
use tokio::time::sleep;

use crate::clock::Clock;
use crate::pull_credentials::{ServiceAccountFacts, ServiceAccounts, TokenWanted};

/// The API server as a source of tokens.
#[derive(Clone)]
pub struct ApiTokens {
    client: Client,
}

impl ApiTokens {
    /// Tokens from the server of this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl TokenSource for ApiTokens {
    fn mint<'a>(&'a self, key: &'a TokenKey) -> BoxFuture<'a, Result<IssuedToken, String>> {
        Box::pin(async move {
            let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.namespace);
            let mut pauses = NOT_YET.iter();
            loop {
                let asked = accounts
                    .create_token_request(&key.service_account, &PostParams::default(), &request(key))
                    .await;
                match (asked, pauses.next()) {
                    (Ok(answer), _) => return issued(key, answer),
                    (Err(kube::Error::Api(status)), Some(pause)) if status.code == 403 => {
                        sleep(Duration::from_millis(*pause)).await;
                    }
                    (Err(error), _) => return Err(told(error)),
                }
            }
        })
    }
}

/// The request for a token, bound to the pod: it ends with it.
fn request(key: &TokenKey) -> TokenRequest {
    let audiences = (!key.audience.is_empty()).then(|| vec![key.audience.clone()]);
    let pod = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(key.pod_name.clone()),
        uid: Some(key.pod_uid.to_string()),
    };
    let spec = TokenRequestSpec {
        audiences,
        bound_object_ref: Some(pod),
        expiration_seconds: Some(key.expiration_seconds),
    };
    TokenRequest { spec: Some(spec), ..TokenRequest::default() }
}

/// The token in an answer. The server may grant another life than was asked for.
fn issued(key: &TokenKey, answer: TokenRequest) -> Result<IssuedToken, String> {
    let life_seconds = answer.spec.and_then(|spec| spec.expiration_seconds).unwrap_or(key.expiration_seconds);
    let status = answer.status.unwrap_or_default();
    let token = status.token.filter(|token| !token.is_empty());
    let expires: Option<Timestamp> = status.expiration_timestamp.map(|time| time.0);
    match (token, expires) {
        (Some(token), Some(expires)) => Ok(IssuedToken { token: token.into(), expires, life_seconds }),
        _ => Err("the API server's answer to the TokenRequest holds no token with an end".to_owned()),
    }
}

/// Pauses in milliseconds between attempts that are forbidden: the Node authorizer hears of a pod's binding a moment later than this
/// node does.
const NOT_YET: [u64; 5] = [50, 100, 200, 400, 800];
/// Life of a token for a credential provider plugin, in seconds: what the API server gives when nothing is said.
const PLUGIN_TOKEN_SECONDS: i64 = 3600;

/// Service accounts and their tokens for credential provider plugins.
#[derive(Clone)]
pub struct ApiServiceAccounts {
    client: Client,
    tokens: Arc<TokenManager>,
    clock: Clock,
}

impl ApiServiceAccounts {
    /// Accounts from the server of this client; tokens are shared with the volumes' and end with their pod.
    pub fn new(client: Client, tokens: Arc<TokenManager>, clock: Clock) -> Self {
        Self { client, tokens, clock }
    }
}

impl ServiceAccounts for ApiServiceAccounts {
    fn get(&self, namespace: &str, name: &str) -> BoxFuture<'static, Result<ServiceAccountFacts, String>> {
        let (accounts, name) =
            (Api::<ServiceAccount>::namespaced(self.client.clone(), namespace), name.to_owned());
        Box::pin(async move {
            let account = accounts.get(&name).await.map_err(told)?;
            Ok(ServiceAccountFacts {
                uid: account.metadata.uid.unwrap_or_default(),
                annotations: account.metadata.annotations.unwrap_or_default(),
            })
        })
    }

    fn token(&self, wanted: TokenWanted) -> BoxFuture<'static, Result<String, String>> {
        let (tokens, now) = (self.tokens.clone(), self.clock.now());
        Box::pin(async move {
            let key = TokenKey {
                pod_uid: wanted.pod_uid.into(),
                pod_name: wanted.pod_name,
                namespace: wanted.namespace,
                service_account: wanted.service_account,
                audience: wanted.audience,
                expiration_seconds: PLUGIN_TOKEN_SECONDS,
            };
            let current = tokens.token(&key, now).await.map_err(|error| error.to_string())?;
            Ok(current.token.to_string())
        })
    }
}

/// The server's own words where there are any: they go into the pod's event.
fn told(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => crate::logging::chain(&other),
    }
}

#[cfg(test)]
mod tests {
    use rubelet_testkit::fake_api::FakeApi;
    use serde_json::json;

    use super::*;

    fn api() -> FakeApi {
        let api = FakeApi::new();
        api.ensure_namespace("shop");
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot", "namespace": "shop"}});
        api.create_json(&account);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop"}, "spec": {
            "nodeName": "n1", "serviceAccountName": "robot", "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "t"}}, {"serviceAccountToken": {"path": "v", "audience": "vault"}},
            ]}}],
        }});
        api.create_json(&pod);
        api
    }

    fn key(api: &FakeApi, audience: &str, account: &str) -> TokenKey {
        let pod = api.get::<k8s_openapi::api::core::v1::Pod>("shop", "web").unwrap();
        TokenKey {
            pod_uid: rubelet_core::ids::pod_uid(&pod),
            pod_name: "web".into(),
            namespace: "shop".into(),
            service_account: account.into(),
            audience: audience.into(),
            expiration_seconds: 1200,
        }
    }

    #[tokio::test]
    async fn tokens_are_bound_to_the_pod() {
        let api = api();
        let source = ApiTokens::new(api.client("system:node:n1"));
        for audience in ["", "vault"] {
            let key = key(&api, audience, "robot");
            let issued = source.mint(&key).await.unwrap();
            assert!(!issued.token.is_empty());
            assert_eq!(issued.life_seconds, 1200);
        }
        assert!(api.violations().is_empty(), "{:?}", api.violations());
        let refused = source.mint(&key(&api, "", "nobody")).await.unwrap_err();
        assert!(refused.contains("nobody"), "{refused}");
    }

    #[test]
    fn an_answer_without_a_token_is_an_error() {
        let key = TokenKey {
            pod_uid: "u".into(),
            pod_name: "web".into(),
            namespace: "shop".into(),
            service_account: "robot".into(),
            audience: String::new(),
            expiration_seconds: 1200,
        };
        assert!(issued(&key, TokenRequest::default()).unwrap_err().contains("holds no token"));
        let spec = request(&key).spec.unwrap();
        assert_eq!((spec.audiences, spec.expiration_seconds), (None, Some(1200)));
        assert_eq!(spec.bound_object_ref.unwrap().uid.as_deref(), Some("u"));
    }
}
