//! Tests of the fake itself: a fake that is wrong makes every test that uses it wrong.

mod basics;
mod deletion;
mod faults;
mod identity;
mod node_rules;
mod pods;
mod served;
mod watching;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::FakeApi;

/// A typed object from JSON.
fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A pod of one container, bound to a node unless that is empty.
fn pod(name: &str, node: &str) -> Pod {
    object(json!({"metadata": {"name": name, "namespace": "default"},
                  "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}}))
}

fn node(name: &str) -> Node {
    object(json!({"metadata": {"name": name}}))
}

/// The code and the reason of a refusal.
fn refusal<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> (u16, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.reason.clone()),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// The message of a refusal.
fn message<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> String {
    match result {
        Err(kube::Error::Api(status)) => status.message.clone(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn api_with_node(name: &str) -> FakeApi {
    let api = FakeApi::new();
    api.create(&node(name));
    api
}
