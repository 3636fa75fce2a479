//! Who may come in: nobody without a certificate or a token that is good now.

use std::fs;
use std::time::Duration;

use rubelet::clock::Clock;
use rubelet_apimachinery::user::MASTERS;
use rubelet_localapi::auth::tokens::{ISSUER, TokenKey};
use rubelet_localapi::pki::{Ca, Identity};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::client::{self, Answer, Client, ask, connect, refused, request, say};
use crate::program::Program;

const PODS: &str = "/api/v1/namespaces/default/pods";
const HOUR: Duration = Duration::from_secs(3600);

async fn answer(program: &Program, identity: Option<&Identity>, headers: &str, path: &str) -> Answer {
    let stream = connect(program, identity, "http/1.1").await.unwrap();
    say(stream, &request("GET", path, headers, b"")).await
}

fn own_ca(program: &Program) -> Ca {
    let pki = program.data_dir().join("pki");
    let read = |name: &str| fs::read_to_string(pki.join(name)).unwrap();
    Ca::from_pem(Identity { cert_pem: read("ca.crt"), key_pem: read("ca.key") }).unwrap()
}

fn key_of(pem: &str) -> TokenKey {
    TokenKey::new(PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap().secret_der()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_of_this_authority_and_of_today() {
    let program = Program::start();
    let now = Clock::system().now();
    let (own, foreign) = (own_ca(&program), Ca::new("rubelet-local-ca", now).unwrap());
    let groups = [MASTERS.to_owned()];
    for (what, identity) in [
        ("none", None),
        ("expired", Some(own.client("kubernetes-admin", &groups, now, Duration::ZERO).unwrap())),
        ("foreign", Some(foreign.client("kubernetes-admin", &groups, now, HOUR).unwrap())),
        ("a server's", Some(own.server(&["localhost"], &[], now, HOUR).unwrap())),
        ("the authority itself", Some(own.identity())),
    ] {
        for path in [PODS, "/healthz", "/readyz", "/version", "/", "/rubelet/backup", "/openapi/v2"] {
            let told = answer(&program, identity.as_ref(), "", path).await;
            assert_eq!(refused(&format!("{what} {path}"), &told, 401, "Unauthorized"), "Unauthorized");
        }
        for header in [
            "Impersonate-User: kubernetes-admin",
            "X-Remote-User: kubernetes-admin",
            "Authorization: Basic YTpi",
        ] {
            let told = answer(&program, identity.as_ref(), &format!("{header}\r\n"), PODS).await;
            refused(&format!("{what} {header}"), &told, 401, "Unauthorized");
        }
    }
    let stranger = own.client("jane", &["developers".to_owned()], now, HOUR).unwrap();
    let told = answer(&program, Some(&stranger), "", PODS).await;
    let message = refused("a stranger", &told, 403, "Forbidden");
    assert!(
        message.starts_with("pods is forbidden: User \"jane\" cannot list resource \"pods\""),
        "{message}"
    );
    let told = answer(&program, Some(&stranger), "", "/rubelet/backup").await;
    refused("a stranger's backup", &told, 403, "Forbidden");
    assert_eq!(answer(&program, Some(&stranger), "", "/version").await.status, 200);
    client::others_are_served(&program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_acts_as_somebody_else() {
    let program = Program::start();
    for header in [
        "Impersonate-User: jane",
        "Impersonate-Group: developers",
        "Impersonate-Uid: 1",
        "Impersonate-Extra-a: b",
    ] {
        let told = ask(&program, "GET", PODS, &format!("{header}\r\n"), b"").await;
        let message = refused(header, &told, 403, "Forbidden");
        assert!(message.contains("impersonat"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_signed_here_and_good_today() {
    let program = Program::start();
    let owner = Client::owner(&program).await.unwrap();
    let path = "/api/v1/namespaces/default/serviceaccounts/default";
    let (_, account) = owner.get(path).await.unwrap();
    let wish = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}});
    let (code, made) = owner.call(http::Method::POST, &format!("{path}/token"), &wish).await.unwrap();
    assert_eq!(code, 201, "{made}");
    let good = made["status"]["token"].as_str().unwrap().to_owned();
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let told = answer(&program, None, &bearer(&good), PODS).await;
    assert_eq!(told.json()["kind"], "PodList", "{}", told.head);

    let own = key_of(&fs::read_to_string(program.data_dir().join("pki/sa.key")).unwrap());
    let foreign = key_of(&Ca::new("x", Clock::system().now()).unwrap().identity().key_pem);
    let now = Clock::system().now().as_second();
    let claims = |change: &dyn Fn(&mut Value)| {
        let mut claims = json!({
            "aud": [ISSUER], "exp": now + 600, "iat": now, "nbf": now, "iss": ISSUER, "jti": "1",
            "sub": "system:serviceaccount:default:default",
            "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "default", "uid": account["metadata"]["uid"]}},
        });
        change(&mut claims);
        claims
    };
    let signed = |change: &dyn Fn(&mut Value)| own.sign(&claims(change)).unwrap();
    assert_eq!(
        answer(&program, None, &bearer(&signed(&|_| {})), PODS).await.status,
        200,
        "the forger's tool works"
    );
    let mut parts: Vec<&str> = good.split('.').collect();
    let other = signed(&|c| c["sub"] = json!("system:serviceaccount:kube-system:default"));
    parts[1] = other.split('.').nth(1).unwrap();
    let (swapped, unsigned) = (parts.join("."), format!("{}.{}.", parts[0], parts[1]));
    for (what, token) in [
        ("of nothing", String::new()),
        ("of dots", "..".to_owned()),
        ("of much", "a".repeat(30_000)),
        ("swapped claims", swapped),
        ("no signature", unsigned),
        ("a foreign key", foreign.sign(&claims(&|_| {})).unwrap()),
        ("expired", signed(&|c| c["exp"] = json!(now - 1))),
        ("without an end", signed(&|c| c["exp"] = Value::Null)),
        ("not yet", signed(&|c| c["nbf"] = json!(now + 600))),
        ("another audience", signed(&|c| c["aud"] = json!(["vault"]))),
        ("another issuer", signed(&|c| c["iss"] = json!("https://elsewhere"))),
        ("another account's uid", signed(&|c| c["kubernetes.io"]["serviceaccount"]["uid"] = json!("1"))),
        ("no account", signed(&|c| c["kubernetes.io"]["serviceaccount"]["name"] = json!("nobody"))),
        (
            "a pod that is not there",
            signed(&|c| c["kubernetes.io"]["pod"] = json!({"name": "p", "uid": "1"})),
        ),
        (
            "a secret that is not there",
            signed(&|c| c["kubernetes.io"]["secret"] = json!({"name": "p", "uid": "1"})),
        ),
        (
            "a node that is not there",
            signed(&|c| c["kubernetes.io"]["node"] = json!({"name": "p", "uid": "1"})),
        ),
        ("no claims", own.sign(&json!([])).unwrap()),
    ] {
        let told = answer(&program, None, &bearer(&token), PODS).await;
        refused(what, &told, 401, "Unauthorized");
    }
    // The certificate wins: the owner's word is not spoiled by a bad token.
    let identity = program.owner().identity;
    assert_eq!(answer(&program, Some(&identity), &bearer("nonsense"), PODS).await.status, 200);
}
