//! Faults on requests, and the record of what was asked.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use tokio::time::Instant;

use super::{api_with_node, refusal};
use crate::fake_api::{Failure, Fault};

#[tokio::test(start_paused = true)]
async fn faults_strike_what_they_match_and_end() {
    let api = api_with_node("n");
    let nodes: Api<Node> = Api::all(api.client("system:node:n"));
    api.fail(Fault::on("get", "nodes", Failure::Status(429, Some(2))).times(2).after(1));
    assert!(nodes.get("n").await.is_ok());
    let Err(kube::Error::Api(status)) = nodes.get("n").await else { panic!("expected 429") };
    assert_eq!(status.details.clone().map(|d| d.retry_after_seconds), Some(2));
    assert_eq!(refusal(nodes.get("n").await), (429, "TooManyRequests".into()));
    assert!(nodes.get("n").await.is_ok());

    let handle = api.fail(Fault::on("*", "*", Failure::Reset).named("n").user("system:node:n"));
    assert!(matches!(nodes.get("n").await, Err(kube::Error::Service(_))));
    handle.stop();
    assert!(nodes.get("n").await.is_ok());

    api.fail(Fault::on("get", "nodes", Failure::Garbage).once());
    assert!(nodes.get("n").await.is_err());
    api.fail(Fault::on("get", "nodes", Failure::CutBody).once());
    assert!(nodes.get("n").await.is_err());
    assert_eq!(
        api.requests().iter().map(|r| r.code).collect::<Vec<_>>(),
        [200, 429, 429, 200, 0, 200, 200, 200]
    );
    assert_eq!(api.counts()["get nodes"], 8);
}

#[tokio::test(start_paused = true)]
async fn slow_and_hanging_answers_take_their_time() {
    let api = api_with_node("n");
    let nodes: Api<Node> = Api::all(api.client("system:node:n"));
    let start = Instant::now();
    api.latency(Duration::from_millis(20));
    nodes.get("n").await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(20));
    api.fail(Fault::on("get", "nodes", Failure::SlowBody(Duration::from_secs(7))).once());
    nodes.get("n").await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(7040));
    api.fail(Fault::on("get", "nodes", Failure::Hang).once());
    assert!(tokio::time::timeout(Duration::from_secs(60), nodes.get("n")).await.is_err());
}
