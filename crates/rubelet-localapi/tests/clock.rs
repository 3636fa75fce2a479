//! A machine whose clock jumps: versions and writes go on, and what is good for a time is judged by the clock as it is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use jiff::Timestamp;
use rubelet_apimachinery::User;
use rubelet_core::stats::usage::NodeUsage;
use rubelet_localapi::auth::authorize::Rules;
use rubelet_localapi::local::{LocalApi, LocalOptions};
use rubelet_localapi::node::{Body, Endpoint, NodeStreams};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DAY: i64 = 24 * 3600;
const BEGIN: i64 = 1_800_000_000;

/// A node without containers.
struct Nowhere;

impl NodeStreams for Nowhere {
    fn serve(&self, _: Endpoint, _: Value, request: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        self.proxy(request)
    }

    fn proxy(&self, _: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        async { Response::new(Full::default().map_err(|never| match never {}).boxed_unsync()) }.boxed()
    }

    fn usage(&self) -> BoxFuture<'_, Option<Arc<NodeUsage>>> {
        async { None }.boxed()
    }
}

async fn open(dir: &Path, clock: &Arc<AtomicI64>) -> LocalApi {
    let clock = clock.clone();
    let options = LocalOptions {
        data_dir: dir.to_owned(),
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        advertise: None,
        kubeconfig: dir.join("admin.conf"),
        rules: Rules::default(),
        service_network: ([10, 96, 0, 0].into(), 16),
        node: ("n1".to_owned(), Arc::new(Nowhere)),
        folders: None,
        now: Arc::new(move || Timestamp::from_second(clock.load(Ordering::Relaxed)).unwrap()),
    };
    LocalApi::open(options).await.unwrap()
}

async fn ask(local: &LocalApi, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let bytes = if body.is_null() { String::new() } else { body.to_string() };
    let body: Body = Full::from(bytes).map_err(|never| match never {}).boxed_unsync();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(body)
        .unwrap();
    let response = local.api().handle(User::admin(), request).await;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap())
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

async fn judged(local: &LocalApi, token: &str) -> Value {
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    ask(local, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", &review).await.1["status"].take()
}

#[tokio::test]
async fn the_clock_jumps_and_writes_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicI64::new(BEGIN));
    let local = open(dir.path(), &clock).await;
    let account = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let wish = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
    let (code, made) = ask(&local, "POST", account, &wish).await;
    assert_eq!(code, 201, "{made}");
    let token = made["status"]["token"].as_str().unwrap().to_owned();
    assert_eq!(judged(&local, &token).await["authenticated"], true);

    let (mut last, mut times) = (0, vec![]);
    // Back, to 1970, ahead by ten years, and home.
    for (number, jump) in [0, -DAY, 10 - BEGIN, 3650 * DAY, 60].into_iter().enumerate() {
        clock.store(BEGIN + jump, Ordering::Relaxed);
        let (code, made) = ask(&local, "POST", MAPS, &map(&format!("m{number}"))).await;
        assert_eq!(code, 201, "{made}");
        assert!(version(&made) > last, "{made}");
        last = version(&made);
        times.push(made["metadata"]["creationTimestamp"].as_str().unwrap().to_owned());
        let (code, changed) = ask(&local, "PUT", &format!("{MAPS}/m0"), &map("m0")).await;
        assert_eq!((code, changed["metadata"]["creationTimestamp"].as_str()), (200, Some(times[0].as_str())));
        let good = (0..3600).contains(&jump);
        assert_eq!(judged(&local, &token).await["authenticated"].as_bool().unwrap_or(false), good, "{jump}");
    }
    assert_eq!(times[2], "1970-01-01T00:00:10Z");
    // A pod that is deleted with a grace period under one clock and looked at under another.
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "b"}]}});
    assert_eq!(ask(&local, "POST", "/api/v1/namespaces/default/pods", &pod).await.0, 201);
    let path = "/api/v1/namespaces/default/pods/p";
    assert_eq!(ask(&local, "DELETE", path, &Value::Null).await.0, 200);
    clock.store(BEGIN - DAY, Ordering::Relaxed);
    let (_, waiting) = ask(&local, "GET", path, &Value::Null).await;
    assert_eq!(waiting["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(ask(&local, "DELETE", &format!("{path}?gracePeriodSeconds=0"), &Value::Null).await.0, 200);
    assert_eq!(ask(&local, "GET", path, &Value::Null).await.0, 404);
    drop(local);

    // A start at another time finds everything, and versions go on.
    for jump in [-DAY, 4000 * DAY, 0] {
        clock.store(BEGIN + jump, Ordering::Relaxed);
        let local = open(dir.path(), &clock).await;
        let (_, list) = ask(&local, "GET", MAPS, &Value::Null).await;
        let names =
            list["items"].as_array().unwrap().iter().filter(|i| i["metadata"]["name"] != "kube-root-ca.crt");
        assert_eq!(names.count(), 5, "{jump}");
        let (_, changed) = ask(&local, "PUT", &format!("{MAPS}/m0"), &map("m0")).await;
        assert!(
            version(&changed) > last
                || changed["metadata"]["resourceVersion"] == list["items"][1]["metadata"]["resourceVersion"]
        );
        let (code, made) = ask(&local, "POST", MAPS, &map("again")).await;
        assert_eq!(code, 201);
        assert!(version(&made) > last, "{made}");
        last = version(&made);
        assert_eq!(ask(&local, "DELETE", &format!("{MAPS}/again"), &Value::Null).await.0, 200);
    }
}
