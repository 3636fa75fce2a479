//! Which handler is asked, and with what.

use rubelet_testkit::scripted::{RuntimeKind, ScriptedCri};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::prober::handlers::ContainerHandlers;

struct NoWatch;

impl rubelet_probes::exec::ExecWatch for NoWatch {
    fn spot(
        &self,
        _: &ContainerId,
        _: &[String],
        _: Duration,
    ) -> BoxFuture<'static, Option<Box<dyn rubelet_probes::exec::SpottedExec>>> {
        futures::future::ready(None).boxed()
    }
}

/// Makes the liveness probe of a container `c` in pod `shop/web`, which has a port `web`.
async fn asked(probe: Value, ip: Option<&str>, port: u16) -> ProbeOutcome {
    let container = json!({
        "name": "c", "livenessProbe": probe, "ports": [{"name": "web", "containerPort": port}],
    });
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1"}, "spec": {"containers": [container]},
    }))
    .unwrap();
    let ask = Ask {
        pod: Arc::new(pod),
        container: "c".to_owned(),
        id: "no-such-container".into(),
        ip: ip.map(str::to_owned),
        kind: ProbeKind::Liveness,
        timeout: seconds(5),
    };
    let runtime = Arc::new(ScriptedCri::new(RuntimeKind::Containerd2));
    ContainerHandlers { runtime, exec_watch: Arc::new(NoWatch) }.ask(&ask).await
}

fn error(outcome: ProbeOutcome) -> String {
    match outcome {
        ProbeOutcome::Error(error) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_probe_finds_its_handler() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let here = Some("127.0.0.1");
    let tcp = json!({"tcpSocket": {"port": "web"}});
    assert_eq!(asked(tcp.clone(), here, port).await, ProbeOutcome::Success);
    let _connection = server.accept().await.unwrap();

    let answer = async {
        let (mut connection, _) = server.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = connection.read(&mut request).await.unwrap();
        connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        String::from_utf8_lossy(&request[..length]).to_lowercase()
    };
    let http = json!({"httpGet": {"path": "/well", "port": "web"}});
    let (outcome, request) = tokio::join!(asked(http.clone(), here, port), answer);
    assert_eq!(outcome, ProbeOutcome::Success);
    assert!(
        request.starts_with("get /well ") && request.contains("user-agent: kube-probe/1.36"),
        "{request}"
    );

    drop(server);
    let grpc = json!({"grpc": {"port": port}});
    let outcome = asked(grpc, here, port).await;
    assert!(matches!(&outcome, ProbeOutcome::Failure(text) if text.contains("connect")), "{outcome:?}");

    for probe in [tcp, http] {
        assert!(error(asked(probe, None, port).await).contains("the pod has no IP"), "never the node itself");
    }
    let exec = error(asked(json!({"exec": {"command": ["true"]}}), here, port).await);
    assert!(exec.contains("NotFound"), "{exec}");
    let none = error(asked(json!({}), here, port).await);
    assert_eq!(none, "missing probe handler for web_shop(u1):c");
}
