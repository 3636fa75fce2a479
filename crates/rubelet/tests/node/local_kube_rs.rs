//! kube-rs on a node of its own: typed objects, the runtime's watcher and reflector, and streams over WebSockets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt as _, TryStreamExt as _};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{
    Api, AttachParams, DeleteParams, EvictParams, ListParams, LogParams, Patch, PatchParams, PostParams,
    WatchEvent, WatchParams,
};
use kube::runtime::reflector::{ObjectRef, store};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::local::LocalNode;
use crate::wait::PATIENCE;

/// A client of kube-rs. What carries its requests is made here, as the agent's own connections upgrade to no WebSocket:
/// a connection of HTTP/1.1 for each.
fn client(node: &LocalNode) -> kube::Client {
    let config: Value = serde_saphyr::from_str(&std::fs::read_to_string(&node.kubeconfig).unwrap()).unwrap();
    let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
    let pem = |value: &Value| STANDARD.decode(value.as_str().unwrap()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem(&cluster["certificate-authority-data"])).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(&pem(&user["client-certificate-data"])).unwrap()],
            PrivateKeyDer::from_pem_slice(&pem(&user["client-key-data"])).unwrap(),
        )
        .unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let address: SocketAddr =
        cluster["server"].as_str().unwrap().strip_prefix("https://").unwrap().parse().unwrap();
    let service = tower::service_fn(move |mut request: http::Request<kube::client::Body>| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let stream = connector.connect(address.ip().into(), stream).await?;
            let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(io::Error::other)?;
            tokio::spawn(connection.with_upgrades());
            request.headers_mut().insert("host", http::HeaderValue::from_static("node"));
            send.send_request(request).await.map_err(io::Error::other)
        }
    });
    kube::Client::new(service, "default")
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"app": "kube"}}, "data": {"a": value},
    }))
    .unwrap()
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_rs_reads_writes_and_follows() {
    let node = LocalNode::start();
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&node));
    let made = maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let again = maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap_err();
    assert!(matches!(&again, kube::Error::Api(status) if status.is_already_exists()), "{again}");
    let missing = maps.get("none").await.unwrap_err();
    assert!(matches!(&missing, kube::Error::Api(status) if status.is_not_found()), "{missing}");
    let mut changed = made.clone();
    changed.data.as_mut().unwrap().insert("a".to_owned(), "2".to_owned());
    maps.replace("a", &PostParams::default(), &changed).await.unwrap();
    let stale = maps.replace("a", &PostParams::default(), &changed).await.unwrap_err();
    assert!(matches!(&stale, kube::Error::Api(status) if status.is_conflict()), "{stale}");
    let value = |map: ConfigMap| map.data.unwrap_or_default().get("a").cloned();
    let merge = Patch::Merge(json!({"data": {"a": "3"}}));
    assert_eq!(value(maps.patch("a", &PatchParams::default(), &merge).await.unwrap()).unwrap(), "3");
    let strategic = Patch::Strategic(json!({"data": {"a": "4"}}));
    assert_eq!(value(maps.patch("a", &PatchParams::default(), &strategic).await.unwrap()).unwrap(), "4");
    let apply = Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "5"}}));
    let conflict = maps.patch("a", &PatchParams::apply("me"), &apply).await.unwrap_err();
    assert!(matches!(&conflict, kube::Error::Api(status) if status.is_conflict()), "{conflict}");
    let forced = maps.patch("a", &PatchParams::apply("me").force(), &apply).await.unwrap();
    assert_eq!(value(forced).unwrap(), "5");
    let metadata = maps.get_metadata("a").await.unwrap();
    assert_eq!(metadata.metadata.uid, made.metadata.uid);

    // The plain watch, from a version on.
    let from = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    maps.create(&PostParams::default(), &config_map("b", "1")).await.unwrap();
    maps.delete("b", &DeleteParams::default()).await.unwrap();
    let params = WatchParams::default().labels("app=kube");
    let events = maps.watch(&params, &from).await.unwrap().take(2).try_collect::<Vec<_>>();
    let events = within("two events", events).await.unwrap();
    assert!(matches!(&events[..], [WatchEvent::Added(_), WatchEvent::Deleted(_)]), "{events:?}");

    // A reflector, both by list and watch and by streaming lists, keeps up.
    for config in [
        watcher::Config::default().labels("app=kube"),
        watcher::Config::default().labels("app=kube").streaming_lists(),
    ] {
        let (reader, writer) = store::<ConfigMap>();
        let stream = reflector(writer, watcher(maps.clone(), config)).default_backoff().applied_objects();
        let running = tokio::spawn(stream.for_each(|_| std::future::ready(())));
        within("the reflector to be ready", reader.wait_until_ready()).await.unwrap();
        assert_eq!(reader.len(), 1);
        for number in 0..30 {
            maps.create(&PostParams::default(), &config_map(&format!("n{number}"), "1")).await.unwrap();
        }
        let last = ObjectRef::new("n29").within("default");
        within("the reflector to see the last", async {
            while reader.get(&last).is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert_eq!(reader.len(), 31);
        let page = maps.list(&ListParams::default().labels("app=kube").limit(10)).await.unwrap();
        assert_eq!(
            (page.items.len(), page.metadata.remaining_item_count),
            (10, None),
            "selected lists do not count"
        );
        let mut all = page.items;
        let mut token = page.metadata.continue_.unwrap();
        while !token.is_empty() {
            let params = ListParams::default().labels("app=kube").limit(10).continue_token(&token);
            let page = maps.list(&params).await.unwrap();
            all.extend(page.items);
            token = page.metadata.continue_.unwrap_or_default();
        }
        assert_eq!(all.len(), 31);
        let selected = ListParams::default().labels("app=kube,app!=other").fields("metadata.name!=a");
        maps.delete_collection(&DeleteParams::default(), &selected).await.unwrap();
        within("the reflector to see them go", async {
            while reader.len() != 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        running.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_rs_runs_a_pod_and_talks_to_it() {
    let node = LocalNode::start();
    let pods: Api<Pod> = Api::default_namespaced(client(&node));
    let script = "echo one; echo two; nc -ll -p 8080 -e cat & trap 'exit 0' TERM; while read line; do echo heard $line; done; sleep 1000 & wait";
    let pod: Pod = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "main", "image": node.node().filled_in("$IMAGE"), "imagePullPolicy": "Never",
            "command": ["sh", "-c", script], "stdin": true,
        }]},
    }))
    .unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let running = await_condition(pods.clone(), "web", conditions::is_pod_running());
    within("the pod to run", running).await.unwrap();

    within("the log", async {
        let lines =
            pods.log_stream("web", &LogParams { follow: true, ..LogParams::default() }).await.unwrap();
        let lines: Vec<String> = futures::AsyncBufReadExt::lines(lines).take(2).try_collect().await.unwrap();
        assert_eq!(lines, ["one", "two"]);
    })
    .await;

    let mut exec = pods
        .exec("web", ["sh", "-c", "cat; echo error >&2; exit 3"], &AttachParams::default().stdin(true))
        .await
        .unwrap();
    within("the command", async {
        let (mut stdin, mut stdout, mut stderr) =
            (exec.stdin().unwrap(), exec.stdout().unwrap(), exec.stderr().unwrap());
        let status = exec.take_status().unwrap();
        let long = "0123456789".repeat(30_000);
        let writing = async {
            stdin.write_all(long.as_bytes()).await.unwrap();
            stdin.shutdown().await.unwrap();
            drop(stdin);
        };
        let (mut out, mut err) = (String::new(), String::new());
        let (_, read, _) =
            tokio::join!(writing, stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
        read.unwrap();
        assert!(out == long && err == "error\n", "{} bytes, {err:?}", out.len());
        let status = status.await.unwrap();
        assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"), "{status:?}");
        let causes = status.details.unwrap().causes.unwrap();
        assert_eq!(causes[0].message.as_deref(), Some("3"), "{causes:?}");
    })
    .await;

    let mut attached = pods.attach("web", &AttachParams::default().stdin(true)).await.unwrap();
    within("the attached container to answer", async {
        let (mut stdin, mut stdout) = (attached.stdin().unwrap(), attached.stdout().unwrap());
        stdin.write_all(b"me\n").await.unwrap();
        let mut heard = vec![0; "heard me\n".len()];
        stdout.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, b"heard me\n");
    })
    .await;
    drop(attached);

    let mut forward = pods.portforward("web", &[8080]).await.unwrap();
    within("the port to answer", async {
        let mut port = forward.take_stream(8080).unwrap();
        let long = "abcdefgh".repeat(50_000);
        let mut heard = vec![0; long.len()];
        let (mut reader, mut writer) = tokio::io::split(&mut port);
        let (sent, read) = tokio::join!(writer.write_all(long.as_bytes()), reader.read_exact(&mut heard));
        sent.unwrap();
        read.unwrap();
        assert!(heard == long.as_bytes());
    })
    .await;
    drop(forward);

    let gone = pods.get("none").await.unwrap_err();
    assert!(matches!(&gone, kube::Error::Api(status) if status.code == 404), "{gone}");
    let refused = pods.exec("none", ["true"], &AttachParams::default()).await.err().unwrap();
    assert!(refused.to_string().contains("404"), "{refused}");

    let uid = pods.get("web").await.unwrap().metadata.uid.unwrap();
    pods.evict("web", &EvictParams::default()).await.unwrap();
    within("the pod to be gone", await_condition(pods, "web", conditions::is_deleted(&uid))).await.unwrap();
}
