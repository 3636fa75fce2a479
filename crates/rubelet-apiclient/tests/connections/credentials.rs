//! Tokens, passwords and exec plugins as the server sees them.

use std::os::unix::fs::PermissionsExt as _;

use rubelet_apiclient::connection::connect;

use crate::server::{Server, text};
use crate::setup::{Setup, get, kubeconfig, options, options_at};

/// A server that takes one bearer token.
async fn takes(token: &'static str) -> Setup {
    Setup::new(move |seen| async move {
        let known = seen.header("authorization") == format!("Bearer {token}");
        if known { text(200, "ok") } else { text(401, "who?") }
    })
    .await
}

#[tokio::test]
async fn static_tokens_and_passwords_are_sent() {
    let setup = Setup::ok().await;
    let (connections, _) = setup.connect("token: abc").await;
    get(&connections.requests, "/").await.unwrap();
    assert_eq!(setup.server.last().header("authorization"), "Bearer abc");
    let (connections, _) = setup.connect("username: me\npassword: pw").await;
    get(&connections.requests, "/").await.unwrap();
    assert_eq!(setup.server.last().header("authorization"), "Basic bWU6cHc=");
}

#[tokio::test]
async fn a_token_file_is_read_again_when_its_token_is_refused() {
    let setup = takes("second").await;
    setup.write("token", "first\n");
    let (connections, _) = setup.connect("tokenFile: token").await;
    assert!(get(&connections.requests, "/").await.is_err());
    setup.write("token", "second\n");
    assert_eq!(get(&connections.requests, "/").await.unwrap(), "ok");
}

/// Writes a plugin that appends to `runs` and then does `body`.
fn plugin(setup: &Setup, body: &str) {
    let script = format!("#!/bin/sh\necho run >> \"$(dirname \"$0\")/runs\"\n{body}\n");
    let path = setup.write("plugin.sh", &script);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn runs(setup: &Setup) -> usize {
    std::fs::read_to_string(setup.path("runs")).unwrap_or_default().lines().count()
}

const EXEC: &str = "exec:
  apiVersion: client.authentication.k8s.io/v1
  command: ./plugin.sh
  args: [one, two]
  env: [{name: TOKEN, value: from-env}]
  interactiveMode: IfAvailable
  installHint: install the plugin from the shelf
  provideClusterInfo: true";

const ANSWER: &str = r#"echo "{\"kind\":\"ExecCredential\",\"apiVersion\":\"client.authentication.k8s.io/v1\",\"status\":{\"token\":\"$TOKEN-$1-$2\"}}""#;

#[tokio::test]
async fn an_exec_plugin_is_run_once_and_told_the_cluster() {
    let setup = takes("from-env-one-two").await;
    plugin(&setup, &format!("echo \"$KUBERNETES_EXEC_INFO\" > \"$(dirname \"$0\")/info\"\n{ANSWER}"));
    let (connections, _) = setup.connect(EXEC).await;
    for _ in 0..3 {
        assert_eq!(get(&connections.requests, "/").await.unwrap(), "ok");
    }
    assert_eq!(runs(&setup), 1);
    let info: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(setup.path("info")).unwrap()).unwrap();
    assert_eq!(info["kind"], "ExecCredential");
    assert_eq!(info["apiVersion"], "client.authentication.k8s.io/v1");
    assert_eq!(info["spec"]["interactive"], false);
    let server = info["spec"]["cluster"]["server"].as_str().unwrap();
    assert_eq!(server, format!("https://{}", setup.server.address));
    assert!(info["spec"]["cluster"]["certificate-authority-data"].is_string());
}

#[tokio::test]
async fn an_exec_plugin_is_run_again_after_a_401_and_after_its_answer_expired() {
    let setup = takes("t2").await;
    let count = r#"N=$(wc -l < "$(dirname "$0")/runs" | tr -d ' ')"#;
    let answer = |expiry: &str| {
        format!(
            r#"{count}
echo "{{\"kind\":\"ExecCredential\",\"apiVersion\":\"client.authentication.k8s.io/v1\",\"status\":{{{expiry}\"token\":\"t$N\"}}}}""#
        )
    };
    plugin(&setup, &answer(""));
    let (connections, _) = setup.connect(EXEC).await;
    assert_eq!(get(&connections.requests, "/").await.unwrap(), "ok");
    assert_eq!(runs(&setup), 2, "once at start, once after the 401");

    // An answer that is always too old is asked for anew with every request.
    plugin(&setup, &answer(r#"\"expirationTimestamp\":\"2026-01-01T00:00:00Z\","#));
    std::fs::remove_file(setup.path("runs")).unwrap();
    let (connections, _) = connect(setup.access(EXEC), options_at("2026-06-01T00:00:00Z")).await.unwrap();
    let before = runs(&setup);
    let _ = get(&connections.requests, "/").await;
    assert!(runs(&setup) > before);
}

#[tokio::test]
async fn an_exec_plugin_can_give_a_certificate() {
    let setup = Setup::ok().await;
    let pair = setup.ca.client("from-plugin");
    let answer = serde_json::json!({
        "kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1",
        "status": { "clientCertificateData": pair.certificate, "clientKeyData": pair.key },
    });
    setup.write("answer.json", &answer.to_string());
    plugin(&setup, "cat \"$(dirname \"$0\")/answer.json\"");
    let (connections, identity) = setup.connect(EXEC).await;
    get(&connections.requests, "/").await.unwrap();
    assert_eq!(setup.server.last().client.as_deref(), Some("from-plugin"));
    assert_eq!(identity.subject().as_deref(), Some("from-plugin"));
}

#[tokio::test]
async fn a_failing_exec_plugin_is_quoted() {
    let setup = Setup::ok().await;
    let fails = async |body: &str, expected: &str| {
        plugin(&setup, body);
        let Err(error) = connect(setup.access(EXEC), options()).await else { panic!("{body} worked") };
        let mut text = error.to_string();
        let mut next: Option<&dyn std::error::Error> = std::error::Error::source(&error);
        while let Some(source) = next {
            text = format!("{text}: {source}");
            next = source.source();
        }
        assert!(text.contains(expected), "{text}");
    };
    fails("echo no luck today >&2; exit 3", "it says: no luck today; install the plugin from the shelf")
        .await;
    fails("echo '{}'", "printed no usable ExecCredential: kind is \"\"").await;
    fails("echo nonsense", "printed no usable ExecCredential").await;
    fails(
        "echo '{\"kind\":\"ExecCredential\",\"apiVersion\":\"client.authentication.k8s.io/v1beta1\",\"status\":{\"token\":\"x\"}}'",
        "the kubeconfig says \"client.authentication.k8s.io/v1\"",
    )
    .await;
}

#[tokio::test]
async fn plain_http_works_and_keeps_its_connection() {
    let server = Server::start(crate::server::Options::default(), |_| async { text(200, "plain") }).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    std::fs::write(&path, kubeconfig(&format!("http://{}/prefix/", server.address), "", "token: abc"))
        .unwrap();
    let access = rubelet_apiclient::kubeconfig::ClusterAccess::load(&path).unwrap();
    let (connections, _) = connect(access, options()).await.unwrap();
    assert_eq!(get(&connections.requests, "/api").await.unwrap(), "plain");
    let seen = server.last();
    assert_eq!((seen.uri.as_str(), seen.version), ("/prefix/api", http::Version::HTTP_11));
    assert_eq!(seen.header("host"), server.address.to_string());
    for _ in 0..20 {
        get(&connections.requests, "/api").await.unwrap();
    }
    assert!(server.last().connection < 21, "connections are used again");
}
