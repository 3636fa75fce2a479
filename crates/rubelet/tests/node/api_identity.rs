//! How the agent gets in: TLS bootstrap, renewal of its certificate, and what it says when the door stays shut.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rubelet_testkit::FakeApi;
use rubelet_testkit::fake_api::{Options, Signing};

use crate::cluster::{Cluster, node_condition};
use crate::node::NAME;
use crate::pods::{self, container_id, restarts};
use crate::wait::{self, PATIENCE};

/// A year.
const LONG: Duration = Duration::from_secs(365 * 24 * 3600);
/// A pod at rest.
const REST: &str = "
terminationGracePeriodSeconds: 1
containers: [{name: c, image: $IMAGE, command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.2; done']}]
";

/// Certificate requests that wait for an answer, oldest first.
fn pending(cluster: &Cluster) -> Vec<String> {
    let requests = cluster.api.list_all::<CertificateSigningRequest>().into_iter();
    let is_open = |request: &CertificateSigningRequest| {
        request.status.as_ref().and_then(|status| status.conditions.as_ref()).is_none_or(Vec::is_empty)
    };
    requests.filter(is_open).filter_map(|request| request.metadata.name).collect()
}

/// Waits for a certificate request, and approves it.
fn approve_next(cluster: &Cluster) {
    let name = wait::until("a certificate request", PATIENCE, || {
        pending(cluster).into_iter().next().ok_or_else(|| "there is none".to_owned())
    });
    cluster.api.approve(&name);
}

/// A cluster whose agent has nothing but a bootstrap token; gives the kubeconfig it is to write.
fn unknown_node(more: &str) -> (Cluster, PathBuf) {
    let mut cluster = Cluster::without_agent(more);
    let bootstrap = cluster.served.bootstrap_kubeconfig();
    let kubeconfig = cluster.dir.path().join("kubelet.conf");
    cluster.identify(&[("--bootstrap-kubeconfig", bootstrap), ("--kubeconfig", kubeconfig.clone())]);
    (cluster, kubeconfig)
}

#[test]
fn api_a_node_that_nobody_knows_bootstraps_itself() {
    let (mut cluster, kubeconfig) = unknown_node("");
    cluster.start_agent();
    let current = cluster.cert_dir().join("kubelet-client-current.pem");
    assert!(fs::symlink_metadata(&current).unwrap().is_symlink(), "as upstream's layout");
    let text = fs::read_to_string(&kubeconfig).unwrap();
    assert!(text.contains(&current.display().to_string()), "{text}");
    assert_eq!(cluster.api.list_all::<CertificateSigningRequest>().len(), 1);
    cluster.run("first", REST);
    cluster.wait_ready("first");

    // The next start needs no bootstrap any more.
    cluster.node.kill_agent();
    cluster.api.remove_bootstrap_token("abcdef.0123456789abcdef");
    cluster.start_agent();
    cluster.run("second", REST);
    cluster.wait_ready("second");
    assert_eq!(cluster.api.list_all::<CertificateSigningRequest>().len(), 1);
}

#[test]
fn api_a_certificate_is_renewed_under_running_pods() {
    let (mut cluster, _) = unknown_node("rotateCertificates: true");
    // Certificates begin five minutes early, so this one is due for renewal within ten seconds.
    cluster.api.signing(Signing::Manual, Duration::from_secs(45));
    cluster.node.start_agent();
    approve_next(&cluster);
    cluster.wait_node("to be ready", |node| node_condition(node, "Ready") == "True");
    let current = cluster.cert_dir().join("kubelet-client-current.pem");
    let first = fs::read_to_string(&current).unwrap();
    cluster.run("before", REST);
    let before = cluster.wait_ready("before");
    let written = cluster.api.history::<k8s_openapi::api::core::v1::Pod>(&pods::uid(&before)).len();

    cluster.api.signing(Signing::Manual, LONG);
    approve_next(&cluster);
    wait::until("the renewed certificate", PATIENCE, || {
        let now = fs::read_to_string(&current).unwrap();
        if now == first { Err("the old one is there".to_owned()) } else { Ok(()) }
    });
    // What runs is not touched, and new pods are seen and reported with the new certificate.
    cluster.run("after", REST);
    cluster.wait_ready("after");
    let now = cluster.pod("before");
    assert_eq!((restarts(&now, "c"), container_id(&now, "c")), (0, container_id(&before, "c")));
    assert_eq!(cluster.api.history::<k8s_openapi::api::core::v1::Pod>(&pods::uid(&now)).len(), written);
    assert!(pending(&cluster).is_empty());
}

#[test]
fn api_a_server_of_another_authority_is_not_trusted() {
    let mut cluster = Cluster::without_agent("");
    let other_dir = tempfile::tempdir().unwrap();
    let other = cluster
        .runtime
        .block_on(async { FakeApi::with(Options::wall_clock()).serve_tls(other_dir.path()).await.unwrap() });
    let kubeconfig = other.node_kubeconfig(NAME);
    let text = fs::read_to_string(&kubeconfig).unwrap();
    fs::write(&kubeconfig, text.replace(&other.url, &cluster.served.url)).unwrap();
    cluster.identify(&[("--kubeconfig", kubeconfig)]);
    cluster.node.start_agent();
    let line = cluster.node.wait_agent_log(&[&cluster.served.url, "signed by another authority"]);
    println!("{line}");
    assert!(cluster.api.requests().is_empty(), "nothing was told to a server that is not trusted");
}

#[test]
fn api_an_expired_certificate_is_named() {
    let mut cluster = Cluster::without_agent("");
    let kubeconfig = cluster.served.node_kubeconfig_lasting(NAME, Duration::ZERO);
    cluster.identify(&[("--kubeconfig", kubeconfig)]);
    cluster.node.launch_agent();
    let line = cluster.node.wait_agent_log(&["own client certificate", "expired"]);
    println!("{line}");
}

#[test]
fn api_a_missing_kubeconfig_ends_the_start_with_its_name() {
    let mut cluster = Cluster::without_agent("");
    let kubeconfig = cluster.dir.path().join("no-such.conf");
    cluster.identify(&[("--kubeconfig", kubeconfig.clone())]);
    cluster.node.launch_agent();
    cluster.node.wait_agent_failed();
    let line = cluster.node.wait_agent_log(&["--kubeconfig", &kubeconfig.display().to_string()]);
    println!("{line}");
}
