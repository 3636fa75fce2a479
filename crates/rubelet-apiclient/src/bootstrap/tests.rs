//! From an empty certificate directory to a kubeconfig, with a server that helps, waits, refuses or is away.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;
use tokio::time::sleep;

use super::*;
use crate::csr::test_ca::{FakeCsrApi, Fault, Policy, test_clock};
use crate::csr::test_log::TestLog;

const HOUR: Duration = Duration::from_secs(3600);
const SOON: Policy = Policy::Sign { after: Duration::from_secs(3), life: HOUR };

const BOOTSTRAP_KUBECONFIG: &str = "\
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: 'https://10.0.0.1:6443', certificate-authority: /etc/kubernetes/pki/ca.crt}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
users: [{name: u, user: {token: abcdef.0123456789abcdef}}]
";

struct Node {
    directory: TempDir,
    api: FakeCsrApi,
    params: BootstrapParams,
}

fn node(policy: Policy) -> Node {
    let directory = TempDir::new().unwrap();
    let now = test_clock("2026-01-01T00:00:00Z".parse().unwrap());
    let api = FakeCsrApi::new(policy, Arc::clone(&now));
    let bootstrap_kubeconfig = directory.path().join("bootstrap-kubelet.conf");
    fs::write(&bootstrap_kubeconfig, BOOTSTRAP_KUBECONFIG).unwrap();
    let (server, path) = (api.clone(), bootstrap_kubeconfig.clone());
    let connect: BootstrapConnect = Arc::new(move || {
        let (server, path) = (server.clone(), path.clone());
        Box::pin(async move { Ok((server.client("boot"), ClusterAccess::load(&path)?)) })
    });
    let params = BootstrapParams {
        node_name: "n1".to_owned(),
        cert_dir: directory.path().join("pki"),
        kubeconfig: directory.path().join("etc/kubelet.conf"),
        bootstrap_kubeconfig,
        connect,
        now,
    };
    Node { directory, api, params }
}

impl Node {
    fn needed(&self) -> Option<String> {
        needed(&self.params.kubeconfig, (self.params.now)())
    }

    fn pending_key(&self) -> PathBuf {
        self.params.cert_dir.join("kubelet-client.key.tmp")
    }

    /// What bootstrap comes to within a time, if it ends.
    async fn run_for(&self, time: Duration) -> Option<Result<(), BootstrapError>> {
        timeout(time, bootstrap(&self.params)).await.ok()
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_directory_becomes_a_kubeconfig_of_upstreams_shape() {
    let node = node(SOON);
    assert_eq!(node.needed().as_deref(), Some("there is no kubeconfig yet"));
    bootstrap(&node.params).await.unwrap();
    assert_eq!(node.needed(), None);
    let text = fs::read_to_string(&node.params.kubeconfig).unwrap();
    let expected = "\
apiVersion: v1
clusters:
- cluster:
    certificate-authority: /etc/kubernetes/pki/ca.crt
    server: https://10.0.0.1:6443
  name: default-cluster
contexts:
- context:
    cluster: default-cluster
    namespace: default
    user: default-auth
  name: default-context
current-context: default-context
kind: Config
users:
- name: default-auth
  user:
    client-certificate: DIR/pki/kubelet-client-current.pem
    client-key: DIR/pki/kubelet-client-current.pem
";
    let value = |text: &str| serde_saphyr::from_str::<serde_json::Value>(text).unwrap();
    let expected = expected.replace("DIR", &node.directory.path().display().to_string());
    assert_eq!(value(&text), value(&expected), "{text}");
    assert_eq!(fs::metadata(&node.params.kubeconfig).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!node.pending_key().exists());
    let access = ClusterAccess::load(&node.params.kubeconfig).unwrap();
    assert_eq!(access.server, ClusterAccess::load(&node.params.bootstrap_kubeconfig).unwrap().server);
}

#[tokio::test(start_paused = true)]
async fn authority_data_and_the_way_to_the_server_are_kept() {
    let node = node(SOON);
    let pem = crate::csr::encode_pem(
        "CERTIFICATE",
        &node.api.ca().pair(Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH).chain()[0],
    );
    let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &pem);
    let text = BOOTSTRAP_KUBECONFIG.replace(
        "certificate-authority: /etc/kubernetes/pki/ca.crt",
        &format!("certificate-authority-data: {data}, tls-server-name: api, proxy-url: 'http://proxy:3128'"),
    );
    fs::write(&node.params.bootstrap_kubeconfig, text).unwrap();
    bootstrap(&node.params).await.unwrap();
    let written = fs::read_to_string(&node.params.kubeconfig).unwrap();
    assert!(written.contains(&format!("    certificate-authority-data: {data}\n")), "{written}");
    let (first, own) = (
        ClusterAccess::load(&node.params.bootstrap_kubeconfig).unwrap(),
        ClusterAccess::load(&node.params.kubeconfig).unwrap(),
    );
    assert_eq!(
        (own.ca, own.tls_server_name, own.proxy_url),
        (first.ca, first.tls_server_name, first.proxy_url)
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_while_approval_is_awaited_finds_the_same_request() {
    let node = node(Policy::Leave);
    for _ in 0..3 {
        assert!(node.run_for(Duration::from_secs(60)).await.is_none());
    }
    let name = node.api.wait_for_request().await;
    node.api.decide(&name, SOON);
    bootstrap(&node.params).await.unwrap();
    assert_eq!(node.api.created(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_denied_request_is_asked_about_but_not_piled_up_and_deletion_lets_the_node_ask_again() {
    let node = node(Policy::Deny);
    assert!(node.run_for(HOUR).await.is_none());
    assert_eq!(node.api.created(), 1);
    node.api.set_policy(SOON);
    let name = node.api.wait_for_request().await;
    node.api.delete(&name);
    bootstrap(&node.params).await.unwrap();
    assert_eq!((node.api.created(), node.api.names()), (2, vec![name]));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_for_another_key_makes_the_node_ask_with_a_new_one() {
    let node = node(Policy::Forge);
    assert!(node.run_for(Duration::from_secs(3)).await.is_none());
    node.api.set_policy(SOON);
    bootstrap(&node.params).await.unwrap();
    assert_eq!(node.api.names().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_or_refuses_is_asked_until_it_helps() {
    let node = node(SOON);
    for fault in [
        Fault::Unreachable,
        Fault::Status(503, ""),
        Fault::Status(401, "Unauthorized"),
        Fault::Status(403, "Forbidden"),
    ] {
        node.api.fail_always(Some(fault));
        assert!(node.run_for(Duration::from_secs(600)).await.is_none());
    }
    // Not a storm: at most a look every two seconds.
    assert!(node.api.log().len() < 4 * 310, "{}", node.api.log().len());
    node.api.fail_always(None);
    bootstrap(&node.params).await.unwrap();
    assert_eq!(node.api.created(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_accepted_is_told_with_its_file() {
    let node = node(SOON);
    // The look at /healthz, then the request.
    node.api.fail_next([Fault::Status(401, "Unauthorized"), Fault::Status(401, "Unauthorized")]);
    let store = CertStore::open(&node.params.cert_dir, CertificatePurpose::Client).unwrap();
    let error = attempt(&node.params, &store, true).await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("bootstrap-kubelet.conf: a token may have expired"), "{text}");
    assert!(text.contains("401 Unauthorized"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_bootstrap_kubeconfig_that_appears_later_is_used() {
    let node = node(SOON);
    let path = &node.params.bootstrap_kubeconfig;
    let text = fs::read_to_string(path).unwrap();
    fs::remove_file(path).unwrap();
    assert!(node.run_for(Duration::from_secs(60)).await.is_none());
    fs::write(path, text).unwrap();
    bootstrap(&node.params).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_certificate_without_kubeconfig_is_asked_for_again_with_its_key() {
    let node = node(SOON);
    bootstrap(&node.params).await.unwrap();
    fs::remove_file(&node.params.kubeconfig).unwrap();
    bootstrap(&node.params).await.unwrap();
    assert_eq!(node.api.created(), 1);
    assert_eq!(node.needed(), None);
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_is_replaced() {
    let node = node(SOON);
    bootstrap(&node.params).await.unwrap();
    sleep(2 * HOUR).await;
    let reason = node.needed().unwrap();
    assert_eq!(reason, "the client certificate of the kubeconfig expired at 2026-01-01T01:00:03Z");
    // The old request is still there and holds the old certificate: the node asks with a new key.
    bootstrap(&node.params).await.unwrap();
    assert_eq!((node.needed(), node.api.names().len()), (None, 2));
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_in_the_way_ends_bootstrap() {
    let node = node(SOON);
    fs::write(&node.params.cert_dir, "a file").unwrap();
    let error = bootstrap(&node.params).await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("--cert-dir") && text.contains("pki"), "{text}");
}

#[test]
fn a_kubeconfig_that_will_not_do_is_told_why() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("kubelet.conf");
    let check = |text: &str, expected: &str| {
        fs::write(&path, text).unwrap();
        let reason = needed(&path, Timestamp::UNIX_EPOCH).unwrap();
        assert!(reason.contains(expected), "{reason}");
    };
    check("{{", "the kubeconfig cannot be used");
    check(BOOTSTRAP_KUBECONFIG, "the kubeconfig has no client certificate");
    let pair = directory.path().join("pair.pem").display().to_string();
    let named = BOOTSTRAP_KUBECONFIG.replace(
        "token: abcdef.0123456789abcdef",
        &format!("client-certificate: {pair}, client-key: {pair}"),
    );
    check(&named, "cannot read");
    fs::write(&pair, "").unwrap();
    check(&named, "no private key");
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_an_hour_is_told_in_a_few_clear_lines() {
    let (log, _guard) = TestLog::listen();
    let node = node(SOON);
    node.api.fail_always(Some(Fault::Unreachable));
    assert!(node.run_for(HOUR).await.is_none());
    let lines = log.lines();
    assert!((4..=7).contains(&lines.len()), "{lines:#?}");
    let expected = "no certificate for this node yet, goes on trying: the API server https://10.0.0.1:6443/ is not \
                    reachable";
    assert!(lines.iter().all(|line| line.starts_with(expected)), "{lines:#?}");
    assert!(lines[0].ends_with("connection refused"), "{lines:#?}");
}
