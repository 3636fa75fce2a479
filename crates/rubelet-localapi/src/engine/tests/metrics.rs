//! What node and pods use, as `metrics.k8s.io` says it.

use std::time::Duration;

use jiff::SignedDuration;
use rubelet_core::stats::usage::{ContainerUsage, CpuUsage, GroupUsage, MemoryUsage, PodUsage};

use super::*;

const NODES: &str = "/apis/metrics.k8s.io/v1beta1/nodes";
const POD_METRICS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods";
/// How old the containers are at the beginning, seconds.
const AGE: i64 = 1000;

/// The node's use so long after the beginning: two cores of it, and a quarter of one in each container. The pods `a` and
/// `b` run two containers each; one of `b` cannot be read.
pub(super) fn reading(passed: Duration) -> NodeUsage {
    let begin = Timestamp::from_second(1_767_225_600).unwrap();
    let at = begin + SignedDuration::try_from(passed).unwrap();
    let group = |cores: f64, memory: u64| {
        let total = ((AGE as f64 + passed.as_secs_f64()) * cores * 1e9) as u64;
        GroupUsage {
            at,
            cpu: Some(CpuUsage { total, ..CpuUsage::default() }),
            memory: Some(MemoryUsage { working_set: memory, ..MemoryUsage::default() }),
            ..GroupUsage::default()
        }
    };
    let container = |pod: &str, name: &str| ContainerUsage {
        name: name.to_owned(),
        id: format!("{pod}-{name}"),
        started_at: Some(begin - SignedDuration::from_secs(AGE)),
        group: (pod, name).ne(&("b", "d")).then(|| group(0.25, 3 << 20)),
        ..ContainerUsage::default()
    };
    let pods = ["a", "b"].map(|name| {
        let mut pod = rubelet_core::Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.namespace = Some("default".to_owned());
        PodUsage {
            pod: Arc::new(pod),
            status: Arc::default(),
            sandbox_id: String::new(),
            sandbox_image: String::new(),
            started_at: None,
            group: None,
            sandbox_group: None,
            network: None,
            containers: vec![container(name, "c"), container(name, "d")],
            volumes: Vec::new(),
            other_ephemeral: None,
        }
    });
    NodeUsage { root: group(2.0, 1 << 30), pods: pods.into(), ..NodeUsage::default() }
}

async fn server() -> Server {
    let server = Server::new().await;
    for name in ["n1", "n2"] {
        let node = json!({"metadata": {"name": name, "labels": {"node": name}}});
        server.check("POST /api/v1/nodes", node, 201, json!({})).await;
    }
    for name in ["a", "b", "c"] {
        let mut pod = pod(name, &["c", "d"]);
        pod["metadata"]["labels"] = json!({"app": name});
        server.check(&format!("POST {PODS}"), pod, 201, json!({})).await;
    }
    server
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_is_of_two_readings() {
    let server = server().await;
    let node = server.get(&format!("{NODES}/n1")).await;
    assert_eq!(
        node,
        json!({"kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
               "metadata": {"name": "n1", "creationTimestamp": "2026-01-01T00:00:01Z", "labels": {"node": "n1"}},
               "timestamp": "2026-01-01T00:00:01Z", "window": "1.1s", "usage": {"cpu": "2", "memory": "1Gi"}})
    );
    tokio::time::advance(Duration::from_secs(20)).await;
    // The reading of a moment ago does: nobody waits.
    let before = tokio::time::Instant::now();
    let list = server.get(NODES).await;
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!((names(&list), &list["items"][0]["window"]), (vec!["n1"], &json!("21.1s")));
    assert_eq!((&list["kind"], &list["items"][0]["kind"]), (&json!("NodeMetricsList"), &Value::Null));
    // After a long pause it says nothing of now.
    tokio::time::advance(Duration::from_secs(600)).await;
    assert_eq!(server.get(NODES).await["items"][0]["window"], "1.1s");
}

#[tokio::test(start_paused = true)]
async fn pods_are_told_of_whose_containers_are_all_measured() {
    let server = server().await;
    let list = server.get(POD_METRICS).await;
    assert_eq!(names(&list), ["a"]);
    assert_eq!(
        list["items"][0]["containers"],
        json!([{"name": "c", "usage": {"cpu": "250m", "memory": "3Mi"}},
               {"name": "d", "usage": {"cpu": "250m", "memory": "3Mi"}}])
    );
    assert_eq!(list["items"][0]["metadata"]["labels"], json!({"app": "a"}));
    for (query, expected) in [
        ("?labelSelector=app%3Da", vec!["a"]),
        ("?labelSelector=app%21%3Da", vec![]),
        ("?fieldSelector=metadata.name%3Da", vec!["a"]),
        ("?fieldSelector=metadata.name%3Db", vec![]),
    ] {
        assert_eq!(names(&server.get(&format!("{POD_METRICS}{query}")).await), expected, "{query}");
    }
    assert_eq!(names(&server.get("/apis/metrics.k8s.io/v1beta1/pods").await), ["a"]);
    assert_eq!(server.get(&format!("{POD_METRICS}/a")).await["kind"], "PodMetrics");
    for (line, code, message) in [
        (format!("GET {POD_METRICS}/b"), 404, "podmetrics.metrics.k8s.io \"default/b\" not found"),
        (format!("GET {POD_METRICS}/x"), 404, "pods \"x\" not found"),
        (format!("GET {NODES}/n2"), 404, "nodemetrics.metrics.k8s.io \"n2\" not found"),
        (
            format!("DELETE {NODES}/n1"),
            405,
            "the server does not allow this method on the requested resource (nodes)",
        ),
        (
            format!("GET {NODES}?watch=1"),
            405,
            "the server does not allow this method on the requested resource (nodes)",
        ),
        (
            format!("GET {POD_METRICS}?fieldSelector=spec.nodeName%3Dn1"),
            400,
            "\"spec.nodeName\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
    ] {
        server.check(&line, Value::Null, code, json!({"message": message})).await;
    }
}

#[tokio::test(start_paused = true)]
async fn kubectl_gets_tables() {
    let server = server().await;
    let table = server.ask(&format!("GET {POD_METRICS} table"), "").await.json();
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"], json!(["a", "500m", "6Mi", "1.1s"]));
    let table = server.ask(&format!("GET {NODES}/n1 table"), "").await.json();
    assert_eq!(table["rows"][0]["cells"][1], "2");
    let group = server.get("/apis/metrics.k8s.io").await;
    assert_eq!(group["preferredVersion"]["version"], "v1beta1");
}
