//! Who gets in at the kubelet API's port, and where: certificates and tokens judged over real TLS, rights asked of the
//! API server, as upstream answers each of them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use rubelet_localapi::pki::{Ca, Identity, LIFETIME};
use rubelet_testkit::fake_api::User;
use serde_json::json;

use crate::cluster::Cluster;
use crate::kubectl::Version;
use crate::kubelet_api::{Client, authority, identity, open_node, serve_by, serving, write_authority};
use crate::local::LocalNode;

/// Every endpoint: a request, what it is to the authorizer (verb and subresources, any of which is enough), and the
/// answer to who may. There is no pod here: what is asked of one is not found.
const ENDPOINTS: &[(&str, &str, &str, u16)] = &[
    ("GET /healthz", "get", "healthz proxy", 200),
    ("GET /healthz?verbose", "get", "healthz proxy", 200),
    ("GET /healthz/ping", "get", "healthz proxy", 200),
    ("GET /healthz/log", "get", "healthz proxy", 200),
    ("GET /healthz/syncloop", "get", "healthz proxy", 200),
    ("GET /pods", "get", "pods proxy", 200),
    ("GET /pods/", "get", "pods proxy", 200),
    ("GET /runningpods/", "get", "pods proxy", 200),
    ("GET /stats/summary", "get", "stats", 200),
    ("POST /stats/summary", "create", "stats", 200),
    ("GET /metrics", "get", "metrics", 200),
    ("GET /metrics/slis", "get", "metrics", 200),
    ("GET /metrics/cadvisor", "get", "metrics", 200),
    ("GET /metrics/resource", "get", "metrics", 200),
    ("GET /metrics/probes", "get", "metrics", 200),
    ("GET /logs/", "get", "log", 200),
    ("GET /logs/none", "get", "log", 404),
    ("GET /containerLogs/default/none/main", "get", "proxy", 404),
    ("GET /exec/default/none/main?command=id&output=1", "get", "proxy", 404),
    ("POST /exec/default/none/main?command=id&output=1", "create", "proxy", 404),
    ("POST /exec/default/none/uid/main?command=id&output=1", "create", "proxy", 404),
    ("GET /attach/default/none/main?output=1", "get", "proxy", 404),
    ("POST /attach/default/none/uid/main?output=1", "create", "proxy", 404),
    ("GET /portForward/default/none", "get", "proxy", 404),
    ("POST /portForward/default/none/uid", "create", "proxy", 404),
    ("POST /run/default/none/main?cmd=id", "create", "proxy", 404),
    ("POST /run/default/none/uid/main?cmd=id", "create", "proxy", 404),
    ("POST /checkpoint/default/none/main", "create", "checkpoint", 404),
    ("GET /configz", "get", "configz proxy", 200),
    ("GET /flagz", "get", "configz", 200),
    ("GET /statusz", "get", "statusz", 200),
    ("GET /debug/pprof/", "get", "proxy", 200),
    ("GET /debug/pprof/cmdline", "get", "proxy", 200),
    ("GET /debug/flags/v", "get", "proxy", 406),
    ("PUT /debug/flags/v", "update", "proxy", 200),
    ("GET /", "get", "proxy", 404),
    ("GET /none", "get", "proxy", 404),
    ("DELETE /pods", "delete", "pods proxy", 405),
    ("PATCH /exec/default/none/main", "patch", "proxy", 405),
];

/// A cluster whose node asks it who may in.
struct Guarded {
    cluster: Cluster,
    serving: Ca,
}

impl Guarded {
    fn start() -> Self {
        let mut cluster = Cluster::without_agent("");
        let serving_authority = authority("serving");
        serve_by(&serving_authority, &cluster.node);
        let clients = cluster.dir.path().join("clients.crt");
        write_authority(&cluster.api.ca_pem(), &clients);
        cluster.node.configure(&serving(&cluster.node));
        cluster.node.configure(&format!("authentication: {{x509: {{clientCAFile: {}}}}}", clients.display()));
        cluster.start_agent();
        let guarded = Self { cluster, serving: serving_authority };
        guarded.nobody().wait_open();
        guarded
    }

    fn nobody(&self) -> Client {
        Client::of(&self.cluster.node, &[&self.serving], None)
    }

    /// Somebody with a certificate of the cluster.
    fn named(&self, name: &str, groups: &[&str], lifetime: Duration) -> Client {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let user = User { name: name.to_owned(), groups };
        let identity = self.cluster.served.identity(&user, lifetime);
        Client::of(&self.cluster.node, &[&self.serving], Some(&identity))
    }

    /// The token of a new service account.
    fn token(&self, account: &str) -> String {
        self.cluster.api.create_json(&json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": account, "namespace": "default"}}));
        self.cluster.runtime.block_on(async {
            let client = self.cluster.api.client("admin");
            let accounts: Api<ServiceAccount> = Api::namespaced(client, "default");
            let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() };
            let wish = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
            let answer = accounts.create_token_request(account, &PostParams::default(), &wish).await;
            answer.unwrap().status.unwrap().token.unwrap()
        })
    }
}

/// Says a request of the table.
fn code(client: &Client, line: &str) -> (u16, String) {
    let answer = match line {
        "PUT /debug/flags/v" => client.send(line, "", b"4"),
        _ => client.ask(line),
    };
    let text = answer.text();
    for secret in [client.headers.trim_end(), "/tmp/", "rbn-"] {
        let shown = answer.code >= 300 && !secret.is_empty() && text.contains(secret);
        assert!(!shown, "{line} tells {secret}: {text}");
    }
    (answer.code, text)
}

#[test]
fn kubelet_api_lets_in_who_may() {
    let guarded = Guarded::start();
    let api = &guarded.cluster.api;
    let nobody = guarded.nobody();

    // Nothing shown, and what is not to be believed.
    let wrong = authority("kubernetes");
    let masters = ["system:masters"];
    let stranger = identity(&wrong, "kubernetes-admin", &masters, LIFETIME);
    let stranger = Client::of(&guarded.cluster.node, &[&guarded.serving], Some(&stranger));
    let late = guarded.named("kubernetes-admin", &masters, Duration::ZERO);
    let liar = nobody.bearing("made-up");
    for (line, ..) in ENDPOINTS {
        for who in [&nobody, &stranger, &late, &liar] {
            assert_eq!(code(who, line), (401, "Unauthorized".to_owned()), "{line}");
        }
    }

    // Somebody, who may nothing.
    let jane = guarded.named("jane", &["developers"], LIFETIME);
    let weak = nobody.bearing(&guarded.token("weak"));
    for (line, verb, subresources, _) in ENDPOINTS {
        for (who, name) in [(&jane, "jane"), (&weak, "system:serviceaccount:default:weak")] {
            let text = format!(
                "Forbidden (user={name}, verb={verb}, resource=nodes, subresource(s)=[{subresources}])\n"
            );
            assert_eq!(code(who, line), (403, text), "{line}");
        }
    }

    // Somebody who may everything: by the group, by each right of its own, by a right of the fewest.
    let admin = guarded.named("kubernetes-admin", &masters, LIFETIME);
    let strong = nobody.bearing(&guarded.token("strong"));
    let narrow = guarded.named("narrow", &[], LIFETIME);
    for (_, verb, subresources, _) in ENDPOINTS {
        let mut each = subresources.split(' ');
        let (first, last) = (each.next().unwrap(), each.next_back());
        api.grant("narrow", verb, &format!("nodes/{first}"));
        api.grant("system:serviceaccount:default:strong", verb, &format!("nodes/{}", last.unwrap_or(first)));
    }
    // A bad token does no harm to who has a certificate: the first that is somebody counts.
    let both = admin.bearing("made-up");
    for (line, _, _, wanted) in ENDPOINTS {
        for who in [&admin, &strong, &narrow, &both] {
            let (seen, text) = code(who, line);
            assert_eq!(seen, *wanted, "{line}: {text}");
        }
    }

    // One right opens its own door and no other.
    api.grant("scraper", "get", "nodes/metrics");
    let scraper = guarded.named("scraper", &[], LIFETIME);
    for (line, verb, subresources, wanted) in ENDPOINTS {
        let may = *verb == "get" && *subresources == "metrics";
        assert_eq!(code(&scraper, line).0, if may { *wanted } else { 403 }, "{line}");
    }
    // What is judged is what is served: an unclean path is sent away before it is asked for.
    for line in ["GET /metrics/../pods", "GET //pods", "GET /metrics/./../configz"] {
        assert_eq!(code(&scraper, line).0, 307, "{line}");
    }
    for line in ["GET /metrics/%2e%2e/pods", "GET /metrics%2f..%2fpods"] {
        let (seen, text) = code(&scraper, line);
        assert!(seen >= 300, "{line}: {seen} {text}");
    }
    for line in ["GET /%70ods", "GET /p%6fds/"] {
        assert_eq!(code(&scraper, line).0, 403, "{line}");
    }
    // Methods without a verb are nobody's right but that of all.
    assert_eq!(code(&narrow, "OPTIONS /metrics").0, 403);
    assert_eq!(admin.ask("OPTIONS /metrics").code, 200);
}

#[test]
fn kubelet_api_lets_anybody_in_where_it_is_told_to() {
    let mut guarded = Guarded::start();
    let api = guarded.cluster.api.clone();
    api.grant("system:anonymous", "get", "nodes/healthz");
    let nobody = guarded.nobody();
    assert_eq!(nobody.ask("GET /healthz").code, 401);
    guarded.cluster.node.stop_agent();
    let clients = guarded.cluster.dir.path().join("clients.crt");
    let config = guarded.cluster.node.path("config.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    let old = format!("authentication: {{x509: {{clientCAFile: {}}}}}", clients.display());
    assert!(text.contains(&old));
    let new = format!(
        "authentication: {{x509: {{clientCAFile: {}}}, anonymous: {{enabled: true}}}}",
        clients.display()
    );
    std::fs::write(&config, text.replace(&old, &new)).unwrap();
    guarded.cluster.start_agent();
    nobody.wait_open();
    assert_eq!(nobody.page("/healthz"), "ok");
    let (seen, text) = code(&nobody, "GET /pods");
    assert_eq!(seen, 403);
    assert_eq!(
        text,
        "Forbidden (user=system:anonymous, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"
    );
    // Who shows something that is wrong is not nobody.
    assert_eq!(code(&nobody.bearing("made-up"), "GET /healthz").0, 401);
    let late = guarded.named("jane", &[], Duration::ZERO);
    assert_eq!(code(&late, "GET /healthz").0, 401);
    // An authority that comes later counts without a new start.
    let other = authority("other");
    let newcomer = identity(&other, "kubernetes-admin", &["system:masters"], LIFETIME);
    let newcomer = Client::of(&guarded.cluster.node, &[&guarded.serving], Some(&newcomer));
    assert_eq!(newcomer.ask("GET /pods").code, 401);
    let part = guarded.cluster.dir.path().join("clients.part");
    write_authority(&format!("{}{}", api.ca_pem(), other.pem()), &part);
    std::fs::rename(part, clients).unwrap();
    crate::wait::until("the new authority to count", crate::wait::PATIENCE, || {
        let answer = newcomer.ask("GET /pods");
        if answer.code == 200 { Ok(()) } else { Err(answer.text()) }
    });
}

#[test]
fn kubelet_api_shows_less_where_it_is_told_to() {
    let (node, nobody, _) = open_node("enableDebuggingHandlers: false");
    let (read_only, healthz) = node.open_ports();
    let off = [
        "/run/a/b/c",
        "/exec/a/b/c",
        "/attach/a/b/c",
        "/portForward/a/b",
        "/containerLogs/a/b/c",
        "/runningpods/",
        "/debug/pprof/",
        "/debug/pprof/cmdline",
        "/logs/",
        "/logs/messages",
    ];
    let gone = ["/configz", "/flagz", "/statusz", "/debug/flags/v", "/checkpoint/a/b/c", "/", "/none"];
    let shown = [
        "/healthz",
        "/healthz/ping",
        "/healthz/log",
        "/healthz/syncloop",
        "/pods",
        "/stats/summary",
        "/metrics",
        "/metrics/slis",
        "/metrics/cadvisor",
        "/metrics/resource",
        "/metrics/probes",
    ];
    for client in [&nobody, &Client::plain(read_only)] {
        for path in off {
            for method in ["GET", "POST", "PUT"] {
                let told = code(client, &format!("{method} {path}"));
                assert_eq!(told, (405, "Debug endpoints are disabled.\n".to_owned()), "{method} {path}");
            }
        }
        for path in gone {
            assert_eq!(code(client, &format!("GET {path}")).0, 404, "{path}");
        }
        for path in shown {
            assert_eq!(code(client, &format!("GET {path}")).0, 200, "{path}");
        }
    }
    let health = Client::plain(healthz);
    assert_eq!(health.page("/healthz"), "ok");
    for path in gone.iter().chain(&off).chain(&shown).filter(|path| !path.starts_with("/healthz")) {
        assert_eq!(code(&health, &format!("GET {path}")).0, 404, "{path}");
    }
    // The secure port speaks nothing but TLS.
    assert!(Client::plain(node.api_port()).try_send("GET /healthz", "", b"").is_err());
}

#[test]
fn kubelet_api_asks_the_local_api() {
    for (access, wanted) in [("view", 403), ("admin", 200)] {
        let mut local = LocalNode::prepared(&[&format!("--service-account-access={access}")]);
        let shown = authority("serving");
        serve_by(&shown, local.node());
        local.node().configure(&serving(local.node()));
        local.node_mut().start_agent();
        let kubectl = local.kubectl(Version::V1_35);
        let nobody = Client::of(local.node(), &[&shown], None);
        nobody.wait_open();
        assert_eq!(nobody.ask("GET /pods").code, 401);
        assert_eq!(nobody.bearing("made-up").ask("GET /pods").code, 401);
        let bearer = nobody.bearing(kubectl.ok("create token default").trim());
        let part = |name: &str| {
            let text = kubectl.ok(&format!("config view --raw -o jsonpath={{.users[0].user.{name}}}"));
            String::from_utf8(STANDARD.decode(text.trim()).unwrap()).unwrap()
        };
        let owner = Identity { cert_pem: part("client-certificate-data"), key_pem: part("client-key-data") };
        let owner = Client::of(local.node(), &[&shown], Some(&owner));
        for path in ["/pods", "/metrics/resource", "/stats/summary", "/configz", "/runningpods/", "/logs/"] {
            let answer = bearer.ask(&format!("GET {path}"));
            assert_eq!(answer.code, wanted, "{access} {path}: {}", answer.text());
            assert_eq!(owner.ask(&format!("GET {path}")).code, 200, "{access} {path}");
        }
    }
}
