//! Certificates that appear, change, break and end while the agent runs, and those that have to be asked for.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeStatus};
use rubelet_apiclient::cert_store::{CertPair, CertStore};
use rubelet_apiclient::csr::PrivateKey;
use rubelet_core::certificates::CertificatePurpose;
use rubelet_localapi::pki::{Ca, Identity};
use rubelet_server::listen::Peer;
use rubelet_server::tls::self_signed::self_signed;
use rubelet_testkit::fake_api::{FakeApi, Options, Signing};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::follow::Followed as _;
use super::*;

const START: &str = "2026-01-01T00:00:00Z";
const HOUR: Duration = Duration::from_secs(3600);
const NAME: &str = "n1";

struct Rig {
    root: TempDir,
    config: KubeletConfiguration,
    clock: Clock,
    node: watch::Sender<Option<Arc<Node>>>,
}

impl Rig {
    fn new() -> Self {
        Self {
            root: TempDir::new().unwrap(),
            config: KubeletConfiguration::default(),
            clock: Clock::simulated(START.parse().unwrap()),
            node: watch::Sender::new(None),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        // As a whole, as whoever replaces certificates should.
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The files in the directory that begin so.
    fn files(&self, begin: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.starts_with(begin)).collect();
        names.sort();
        names
    }

    async fn try_start(&self, client: Option<kube::Client>) -> Result<Running, ServingError> {
        let node = NodeView::new(self.node.subscribe(), mpsc::channel(1).0);
        let Serving { cert, clients, task, .. } = prepare(ServingParams {
            config: &self.config,
            cert_dir: self.root.path(),
            node_name: NAME,
            node_ips: &["192.0.2.1".parse().unwrap()],
            node,
            client,
            clock: self.clock.clone(),
            fs: FsPool::inline(),
        })
        .await?;
        Ok(Running { cert, clients, task: tokio::spawn(task) })
    }

    async fn start(&self) -> Running {
        self.try_start(None).await.unwrap()
    }

    fn pair(&self, host: &str) -> Identity {
        let made = self_signed(host, &[], self.clock.now()).unwrap();
        Identity { cert_pem: made.certificates, key_pem: made.key }
    }
}

struct Running {
    cert: ServingCert,
    clients: ClientCa,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    /// Waits until it is so, an hour at most.
    async fn until(&self, is: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is(self) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(HOUR, wait).await.expect("it becomes so");
        assert!(!self.task.is_finished(), "the task goes on for ever");
    }

    fn shows(&self, pem: &str) -> bool {
        self.cert.leaf() == Some(der(pem))
    }
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn facts(identity: &Identity) -> rubelet_core::certificates::CertificateFacts {
    let key = PrivateKey::from_pem(identity.key_pem.as_bytes()).unwrap();
    CertPair::from_pem_and_key(identity.cert_pem.as_bytes(), key).unwrap().facts().clone()
}

fn own(rig: &Rig) -> Identity {
    Identity { cert_pem: rig.read("kubelet.crt"), key_pem: rig.read("kubelet.key") }
}

#[tokio::test(start_paused = true)]
async fn a_pair_is_made_once_and_used_again() {
    let rig = Rig::new();
    let first = rig.start().await;
    let made = own(&rig);
    assert!(first.shows(&made.cert_pem));
    let facts = facts(&made);
    assert_eq!(facts.common_name, "n1@1767225600");
    assert_eq!(Vec::from_iter(facts.dns_names), ["n1"]);
    assert_eq!(Vec::from_iter(facts.ip_addresses), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    let mode = |name: &str| fs::metadata(rig.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("kubelet.crt"), mode("kubelet.key")), (0o644, 0o600));
    drop(first);
    rig.clock.set_ahead(SignedDuration::from_hours(24));
    assert!(rig.start().await.shows(&made.cert_pem));
    assert_eq!(rig.files("kubelet."), ["kubelet.crt", "kubelet.key"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_there_is_used_if_it_can_be_and_never_lost() {
    let (one, other) = (Rig::new().pair("elsewhere"), Rig::new().pair("elsewhere"));
    for (certificate, key, usable) in [
        (Some(&*one.cert_pem), Some(&*one.key_pem), true),
        (Some(&*one.cert_pem), Some(&*other.key_pem), false),
        (Some("junk"), Some(&*one.key_pem), false),
        (Some(&*one.cert_pem), None, false),
        (None, Some(&*one.key_pem), false),
    ] {
        let rig = Rig::new();
        let files = [("kubelet.crt", certificate), ("kubelet.key", key)];
        for (name, text) in files {
            text.into_iter().for_each(|text| rig.write(name, text));
        }
        let running = rig.start().await;
        let made = own(&rig);
        assert!(running.shows(&made.cert_pem));
        assert_eq!(made.cert_pem == one.cert_pem, usable);
        for (name, text) in files.into_iter().filter_map(|(name, text)| Some((name, text?))) {
            let kept = rig.files(name).into_iter().any(|file| rig.read(&file) == text);
            assert!(kept, "{name} is still somewhere: {:?}", rig.files(name));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pair_of_its_own_is_renewed_when_it_ends_and_that_of_others_is_not() {
    let rig = Rig::new();
    let running = rig.start().await;
    let first = own(&rig);
    rig.clock.set_ahead(SignedDuration::from_hours(24 * 366));
    running.until(|running| !running.shows(&first.cert_pem)).await;
    let second = own(&rig);
    assert!(running.shows(&second.cert_pem));
    drop(running);
    rig.clock.set_ahead(SignedDuration::from_hours(24 * 366));
    assert!(!rig.start().await.shows(&second.cert_pem), "the start looks, too");

    let rig = Rig::new();
    let ca = Ca::new("ours", rig.clock.now()).unwrap();
    let given = ca.server(&["n1"], &[], rig.clock.now(), HOUR).unwrap();
    rig.write("kubelet.crt", &given.cert_pem);
    rig.write("kubelet.key", &given.key_pem);
    rig.clock.set_ahead(SignedDuration::from_hours(2));
    assert!(rig.start().await.shows(&given.cert_pem));
}

#[tokio::test(start_paused = true)]
async fn a_pair_that_cannot_be_kept_is_shown_all_the_same() {
    let mut rig = Rig::new();
    let root = rig.path("file");
    rig.write("file", "");
    let own = OwnPair::new(&root.join("pki"), NAME, &[], Arc::new(|| START.parse().unwrap()));
    let cert = ServingCert::none();
    let mut files = PairFiles::own(own, cert.clone(), FsPool::inline());
    assert_eq!(files.look().await, Ok(true));
    let shown = cert.leaf();
    assert!(shown.is_some());
    assert_eq!(files.look().await, Ok(false), "the next look makes no other");
    assert_eq!(cert.leaf(), shown);

    rig.config.tls_cert_file = "/a/file".into();
    let problem = rig.try_start(None).await.err().unwrap().to_string();
    assert_eq!(problem, "tlsCertFile and tlsPrivateKeyFile belong together: tlsPrivateKeyFile is not set");
}

fn with_files() -> Rig {
    let mut rig = Rig::new();
    rig.config.tls_cert_file = rig.path("tls.crt").to_str().unwrap().to_owned();
    rig.config.tls_private_key_file = rig.path("tls.key").to_str().unwrap().to_owned();
    rig
}

#[tokio::test]
async fn files_that_are_replaced_are_shown_at_once_and_broken_ones_never() {
    let rig = with_files();
    let running = rig.start().await;
    assert_eq!(running.cert.leaf(), None);
    assert_eq!(rig.files("kubelet."), [""; 0], "nothing is made where something is configured");
    let (first, second) = (rig.pair("first"), rig.pair("second"));
    let put = |pair: &Identity| {
        rig.write("tls.crt", &pair.cert_pem);
        rig.write("tls.key", &pair.key_pem);
    };
    put(&first);
    running.until(|running| running.shows(&first.cert_pem)).await;
    rig.write("tls.crt", "junk");
    rig.write("tls.crt", &second.cert_pem);
    assert!(running.shows(&first.cert_pem), "half a pair is not shown");
    rig.write("tls.key", &second.key_pem);
    running.until(|running| running.shows(&second.cert_pem)).await;
    fs::remove_file(rig.path("tls.key")).unwrap();
    drop(running);

    // One look at a time.
    put(&first);
    let cert = ServingCert::none();
    let mut files =
        PairFiles::given(rig.path("tls.crt"), rig.path("tls.key"), cert.clone(), FsPool::inline());
    assert_eq!(files.look().await, Ok(true));
    assert_eq!(files.look().await, Ok(false));
    for (name, text, says) in [
        ("tls.key", &*second.key_pem, "the private key does not belong to the certificate"),
        ("tls.key", "junk", "it holds no private key in PEM"),
        ("tls.crt", "", "it holds no certificate in PEM"),
    ] {
        put(&first);
        rig.write(name, text);
        let problem = files.look().await.unwrap_err();
        assert!(problem.contains(says) && problem.contains("tls.crt"), "{problem}");
        assert_eq!(cert.leaf(), Some(der(&first.cert_pem)));
    }
    fs::remove_file(rig.path("tls.crt")).unwrap();
    let problem = files.look().await.unwrap_err();
    assert!(problem.starts_with("cannot read ") && problem.contains("tls.crt"), "{problem}");
    put(&first);
    assert_eq!(files.look().await, Ok(false), "it is what is shown");
}

#[tokio::test(start_paused = true)]
async fn what_gives_no_hint_is_found_all_the_same() {
    let rig = with_files();
    let elsewhere = Rig::new();
    let (first, second) = (rig.pair("first"), rig.pair("second"));
    let put = |pair: &Identity| {
        elsewhere.write("tls.crt", &pair.cert_pem);
        elsewhere.write("tls.key", &pair.key_pem);
    };
    put(&first);
    for name in ["tls.crt", "tls.key"] {
        symlink(elsewhere.path(name), rig.path(name)).unwrap();
    }
    let running = rig.start().await;
    assert!(running.shows(&first.cert_pem));
    put(&second);
    running.until(|running| running.shows(&second.cert_pem)).await;
}

#[tokio::test]
async fn authorities_are_taken_up_when_they_come_and_kept_when_they_break() {
    let mut rig = Rig::new();
    rig.config.authentication.x509.client_ca_file = rig.path("ca.crt").to_str().unwrap().to_owned();
    let running = rig.start().await;
    let now = rig.clock.now();
    let authority = |name: &str| {
        let ca = Ca::new(name, now).unwrap();
        let client = ca.client("jane", &[], now, HOUR).unwrap();
        let peer = Peer { certificates: vec![der(&client.cert_pem)], address: ([127, 0, 0, 1], 1).into() };
        (ca.pem().to_owned(), peer)
    };
    let ((first, own), (second, other)) = (authority("first"), authority("second"));
    let known = |running: &Running, peer: &Peer| running.clients.verify(peer, now).is_some();
    assert!(!known(&running, &own));
    rig.write("ca.crt", &first);
    running.until(|running| known(running, &own)).await;
    assert!(!known(&running, &other));
    rig.write("ca.crt", "junk");
    rig.write("ca.crt", &format!("{first}{second}"));
    running.until(|running| known(running, &other)).await;
    assert!(known(&running, &own));
    rig.write("ca.crt", &second);
    running.until(|running| !known(running, &own)).await;

    rig.write("ca.crt", "junk");
    let mut file = Authorities::new(rig.path("ca.crt"), running.clients.clone(), FsPool::inline());
    let problem = file.look().await.unwrap_err();
    assert!(problem.ends_with("it holds no certificate in PEM"), "{problem}");
    assert!(known(&running, &other), "those before stay");
}

fn node(addresses: &[(&str, &str)]) -> Node {
    let addresses = addresses
        .iter()
        .map(|(type_, address)| NodeAddress { type_: (*type_).to_owned(), address: (*address).to_owned() });
    let status = NodeStatus { addresses: Some(addresses.collect()), ..NodeStatus::default() };
    Node { status: Some(status), ..Node::default() }
}

#[test]
fn a_certificate_is_asked_for_under_what_the_node_is_called() {
    let check = |addresses: &[(&str, &str)], dns_only: bool, expected: Option<(&[&str], &[&str])>| {
        let wanted = bootstrap::names(&node(addresses), NAME, dns_only);
        let found = wanted.map(|wanted| {
            assert_eq!(wanted.common_name, "system:node:n1");
            assert_eq!(wanted.organizations, ["system:nodes"]);
            let ips: Vec<String> = wanted.ip_addresses.iter().map(ToString::to_string).collect();
            (Vec::from_iter(wanted.dns_names), ips)
        });
        let owned = |texts: &[&str]| texts.iter().map(|&t| t.to_owned()).collect::<Vec<_>>();
        assert_eq!(found, expected.map(|(names, ips)| (owned(names), owned(ips))), "{addresses:?}");
    };
    check(&[], true, None);
    check(&[("Hostname", "n1"), ("InternalDNS", "n1.local")], false, None);
    check(&[("Hostname", "n1"), ("InternalDNS", "n1.local")], true, Some((&["n1", "n1.local"], &[])));
    check(
        &[
            ("InternalIP", "10.0.0.1"),
            ("ExternalIP", "2001:db8::1"),
            ("InternalIP", "10.0.0.1"),
            ("Hostname", "10.0.0.2"),
            ("ExternalDNS", "n1.example"),
            ("InternalIP", "junk"),
            ("InternalIP", ""),
            ("InternalDNS", ""),
            ("Else", "10.0.0.3"),
        ],
        false,
        Some((&["n1.example"], &["10.0.0.1", "10.0.0.2", "2001:db8::1"])),
    );
}

fn requests(api: &FakeApi) -> Vec<serde_json::Value> {
    let requests = api.requests().into_iter();
    let made = requests.filter(|record| record.summary() == "create certificatesigningrequests");
    made.filter(|record| record.code == 201).map(|record| record.json()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_asked_for_waited_for_shown_and_renewed_with_the_addresses() {
    let mut rig = Rig::new();
    rig.config.server_tls_bootstrap = true;
    let clock = rig.clock.clone();
    let api = FakeApi::with(Options { now: Arc::new(move || clock.now()), ..Options::default() });
    api.signing(Signing::Manual, Duration::from_secs(30 * 24 * 3600));
    let client = || Some(api.client("system:node:n1"));
    let running = rig.try_start(client()).await.unwrap();
    tokio::time::sleep(HOUR).await;
    assert_eq!(requests(&api).len(), 0, "a node without addresses has nothing to ask for");

    let see = |addresses: &[(&str, &str)]| rig.node.send_replace(Some(Arc::new(node(addresses))));
    see(&[("Hostname", "n1"), ("InternalIP", "10.0.0.1")]);
    running.until(|_| requests(&api).len() == 1).await;
    let request = requests(&api).remove(0);
    assert_eq!(request["spec"]["signerName"], "kubernetes.io/kubelet-serving");
    assert_eq!(request["spec"]["usages"], serde_json::json!(["digital signature", "server auth"]));
    tokio::time::sleep(HOUR).await;
    assert_eq!(running.cert.leaf(), None, "nobody has approved it");
    assert_eq!(rig.files("kubelet.crt"), [""; 0], "and no other is shown instead");

    api.approve(request["metadata"]["name"].as_str().unwrap());
    running.until(|running| running.cert.leaf().is_some()).await;
    let stored = || CertStore::open(rig.root.path(), CertificatePurpose::Serving).unwrap().load().unwrap();
    let first = stored();
    assert_eq!(running.cert.leaf().as_ref(), first.chain().first());
    assert_eq!(Vec::from_iter(&first.facts().dns_names), ["n1"]);
    assert!(rig.path("kubelet-server-current.pem").exists());

    api.signing(Signing::Auto, Duration::from_secs(30 * 24 * 3600));
    see(&[("Hostname", "n1"), ("InternalIP", "10.0.0.1"), ("InternalIP", "10.0.0.2")]);
    running.until(|running| running.cert.leaf().as_ref() != first.chain().first()).await;
    let second = stored();
    assert_eq!(second.facts().ip_addresses.len(), 2);
    rig.node.send_replace(None);
    drop(running);

    let again = rig.try_start(client()).await.unwrap();
    assert_eq!(again.cert.leaf().as_ref(), second.chain().first(), "what is kept is shown from the start");
    see(&[("Hostname", "n1"), ("InternalIP", "10.0.0.1")]);
    tokio::time::sleep(Duration::from_secs(28 * 24 * 3600)).await;
    again.until(|again| again.cert.leaf().as_ref() != second.chain().first()).await;
    assert_eq!(api.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn without_an_api_server_what_was_given_is_shown_and_nothing_asked() {
    let mut rig = with_files();
    rig.config.server_tls_bootstrap = true;
    let given = rig.pair("given");
    rig.write("tls.crt", &given.cert_pem);
    rig.write("tls.key", &given.key_pem);
    let running = rig.start().await;
    assert!(running.shows(&given.cert_pem));
    tokio::time::sleep(HOUR).await;
    assert!(!running.task.is_finished() && running.shows(&given.cert_pem));
}
