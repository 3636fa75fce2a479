//! Tokens and certificates as the server hands them out.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::Api;
use kube::api::PostParams;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};

use super::{object, pod, refusal};
use crate::fake_api::{FakeApi, Signing};

fn claims_of(token: &str) -> Value {
    let claims = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_token_says_whose_it_is_and_how_long() {
    let api = FakeApi::new();
    let mut mine = pod("p", "n");
    let volume = json!([{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]);
    mine.spec.as_mut().unwrap().volumes = Some(object(volume));
    let uid = api.create(&mine).metadata.uid;
    let accounts: Api<ServiceAccount> = Api::default_namespaced(api.client("system:node:n"));
    let ask = |seconds: i64| {
        let accounts = accounts.clone();
        let request: TokenRequest = object(json!({"spec": {"audiences": [], "expirationSeconds": seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid}}}));
        async move { accounts.create_token_request("default", &PostParams::default(), &request).await }
    };
    let answer = ask(600).await.unwrap().status.unwrap();
    let token = answer.token.unwrap();
    let claims = claims_of(&token);
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 600);
    assert_eq!(claims["exp"].as_i64().unwrap(), answer.expiration_timestamp.unwrap().0.as_second());
    assert_eq!(claims["sub"], "system:serviceaccount:default:default");
    assert_eq!(claims["kubernetes.io"]["pod"]["name"], "p");
    assert_ne!(ask(600).await.unwrap().status.unwrap().token.unwrap(), token);
    assert_eq!(refusal(ask(599).await), (422, "Invalid".into()));
    let long = ask(3607).await.unwrap().status.unwrap().token.unwrap();
    let year = claims["exp"].as_i64().unwrap() + 360 * 24 * 3600;
    assert!(claims_of(&long)["exp"].as_i64().unwrap() > year);

    assert!(api.bearer(&token).is_some());
    tokio::time::sleep(Duration::from_secs(601)).await;
    assert_eq!(api.bearer(&token), None);
    assert!(api.bearer(&long).is_some());
    api.delete_with_grace::<Pod>("default", "p", 0);
    assert_eq!(api.bearer(&long), None);
}

fn request(common_name: &str, usage: &str) -> CertificateSigningRequest {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    let key = KeyPair::generate().unwrap();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    object(json!({"metadata": {"generateName": "csr-"}, "spec": {"request": STANDARD.encode(pem),
        "signerName": "kubernetes.io/kube-apiserver-client-kubelet", "usages": ["digital signature", usage]}}))
}

#[tokio::test(start_paused = true)]
async fn requests_for_certificates_are_signed_denied_or_kept_waiting() {
    let api = FakeApi::new();
    let requests: Api<CertificateSigningRequest> = Api::all(api.client("system:bootstrap:abcdef"));
    let ask = |csr: CertificateSigningRequest| {
        let requests = requests.clone();
        async move {
            let name = requests.create(&PostParams::default(), &csr).await.unwrap().metadata.name.unwrap();
            let answered = requests.get(&name).await.unwrap();
            let conditions = answered.status.clone().unwrap_or_default().conditions.unwrap_or_default();
            let kinds: Vec<String> = conditions.into_iter().map(|c| c.type_).collect();
            (name, kinds.join(","), answered.status.unwrap_or_default().certificate.is_some())
        }
    };
    let (_, conditions, signed) = ask(request("system:node:n", "client auth")).await;
    assert_eq!((conditions.as_str(), signed), ("Approved", true));
    let (_, conditions, signed) = ask(request("someone", "client auth")).await;
    assert_eq!((conditions.as_str(), signed), ("Approved,Failed", false));
    let (_, conditions, signed) = ask(request("system:node:n", "server auth")).await;
    assert_eq!((conditions.as_str(), signed), ("Approved,Failed", false));
    api.signing(Signing::Deny, Duration::from_secs(3600));
    let (_, conditions, signed) = ask(request("system:node:n", "client auth")).await;
    assert_eq!((conditions.as_str(), signed), ("Denied", false));
    api.signing(Signing::Manual, Duration::from_secs(3600));
    let (name, conditions, signed) = ask(request("system:node:n", "client auth")).await;
    assert_eq!((conditions.as_str(), signed), ("", false));
    api.approve(&name);
    let stored: CertificateSigningRequest = api.get("", &name).unwrap();
    assert_eq!(stored.spec.username.as_deref(), Some("system:bootstrap:abcdef"));
    assert!(stored.status.unwrap().certificate.is_some());
    // A node may ask only for itself.
    let own: Api<CertificateSigningRequest> = Api::all(api.client("system:node:n"));
    let other = own.create(&PostParams::default(), &request("system:node:m", "client auth")).await;
    assert_eq!(refusal(other), (403, "Forbidden".into()));
}
