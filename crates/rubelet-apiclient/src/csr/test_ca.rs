//! For tests: a certificate authority, and the part of an API server that handles signing requests.
//!
//! In process, on the tests' paused clock. Records every request, and can fail, refuse, forge and fall silent.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::PrivateKey;
use crate::Now;
use crate::cert_store::CertPair;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A wall clock that goes with tokio's paused one.
pub(crate) fn test_clock(base: Timestamp) -> Now {
    let start = Instant::now();
    Arc::new(move || base + start.elapsed())
}

/// An authority with a key of its own.
pub(crate) struct TestCa(rcgen::Issuer<'static, rcgen::KeyPair>);

impl TestCa {
    pub(crate) fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(rcgen::Issuer::new(params, rcgen::KeyPair::generate().unwrap()))
    }

    /// Signs a request; the certificate in PEM.
    pub(crate) fn sign(&self, request_pem: &[u8], not_before: Timestamp, not_after: Timestamp) -> String {
        let text = std::str::from_utf8(request_pem).unwrap();
        let mut request = rcgen::CertificateSigningRequestParams::from_pem(text).unwrap();
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let time = |at: Timestamp| epoch + Duration::from_secs(at.as_second().cast_unsigned());
        request.params.not_before = time(not_before);
        request.params.not_after = time(not_after);
        super::encode_pem("CERTIFICATE", request.signed_by(&self.0).unwrap().der())
    }

    /// A pair for the node `n1`.
    pub(crate) fn pair(&self, not_before: Timestamp, not_after: Timestamp) -> CertPair {
        let key = PrivateKey::generate().unwrap();
        let wanted = rubelet_core::certificates::WantedCertificate::node("n1");
        let request = super::request_pem(&key, &wanted).unwrap();
        let certificate = self.sign(request.as_bytes(), not_before, not_after);
        CertPair::from_pem_and_key(certificate.as_bytes(), key).unwrap()
    }
}

/// What becomes of new requests.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Policy {
    /// Nobody decides.
    Leave,
    /// Approved and signed for so long, after a while.
    Sign { after: Duration, life: Duration },
    /// Denied.
    Deny,
    /// Approved, but the signer fails.
    Fail,
    /// Signed for somebody else's key.
    Forge,
}

/// What the server answers instead.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// A status.
    Status(u16, &'static str),
    /// No connection.
    Unreachable,
}

struct State {
    policy: Policy,
    requests: BTreeMap<String, CertificateSigningRequest>,
    faults: VecDeque<Fault>,
    always: Option<Fault>,
    log: Vec<String>,
    created: u32,
    version: u64,
    signer_lags: Duration,
}

struct Inner {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    ca: TestCa,
    now: Now,
}

/// The server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct FakeCsrApi(Arc<Inner>);

impl FakeCsrApi {
    pub(crate) fn new(policy: Policy, now: Now) -> Self {
        let state = State {
            policy,
            requests: BTreeMap::new(),
            faults: VecDeque::new(),
            always: None,
            log: Vec::new(),
            created: 0,
            version: 1,
            signer_lags: Duration::ZERO,
        };
        let changes = watch::Sender::new(1);
        Self(Arc::new(Inner { state: Mutex::new(state), changes, ca: TestCa::new(), now }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    pub(crate) fn ca(&self) -> &TestCa {
        &self.0.ca
    }

    /// A client that comes as `user`, whose name the log holds.
    pub(crate) fn client(&self, user: &'static str) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { api.handle(user, request).await }
        });
        kube::Client::new(service, "default")
    }

    pub(crate) fn set_policy(&self, policy: Policy) {
        self.state().policy = policy;
    }

    /// Lets the signer's clock be so far behind.
    pub(crate) fn let_signer_lag(&self, time: Duration) {
        self.state().signer_lags = time;
    }

    /// Answers the next requests so, one each.
    pub(crate) fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.extend(faults);
    }

    /// Answers every request so, or none any more.
    pub(crate) fn fail_always(&self, fault: Option<Fault>) {
        self.state().always = fault;
    }

    /// All requests so far: `user METHOD path?query`.
    pub(crate) fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    /// Names of the requests there are.
    pub(crate) fn names(&self) -> Vec<String> {
        self.state().requests.keys().cloned().collect()
    }

    /// How many were made.
    pub(crate) fn created(&self) -> u32 {
        self.state().created
    }

    /// Waits until there are requests, and tells the name of the last.
    pub(crate) async fn wait_for_request(&self) -> String {
        let mut changes = self.0.changes.subscribe();
        loop {
            if let Some(name) = self.names().pop() {
                return name;
            }
            changes.changed().await.unwrap();
        }
    }

    /// Puts a request there that nobody here made, or changes one.
    pub(crate) fn put(&self, request: CertificateSigningRequest) {
        self.state().requests.insert(request.metadata.name.clone().unwrap(), request);
        self.bump();
    }

    pub(crate) fn get(&self, name: &str) -> CertificateSigningRequest {
        self.state().requests[name].clone()
    }

    pub(crate) fn delete(&self, name: &str) {
        self.state().requests.remove(name);
        self.bump();
    }

    /// Decides one request by `policy`.
    pub(crate) fn decide(&self, name: &str, policy: Policy) {
        let Some(mut request) = self.state().requests.get(name).cloned() else { return };
        let condition = |type_: &str| CertificateSigningRequestCondition {
            type_: type_.to_owned(),
            status: "True".to_owned(),
            reason: Some(format!("Test{type_}")),
            message: Some("by the test".to_owned()),
            ..CertificateSigningRequestCondition::default()
        };
        let now = (self.0.now)() - self.state().signer_lags;
        let sign = |life: Duration, pem: &[u8]| ByteString(self.0.ca.sign(pem, now, now + life).into_bytes());
        let (conditions, certificate) = match policy {
            Policy::Leave => return,
            Policy::Sign { life, .. } => {
                (vec![condition("Approved")], Some(sign(life, &request.spec.request.0)))
            }
            Policy::Deny => (vec![condition("Denied")], None),
            Policy::Fail => (vec![condition("Approved"), condition("Failed")], None),
            Policy::Forge => {
                let other = PrivateKey::generate().unwrap();
                let wanted = rubelet_core::certificates::WantedCertificate::node("n1");
                let pem = super::request_pem(&other, &wanted).unwrap();
                (vec![condition("Approved")], Some(sign(Duration::from_secs(3600), pem.as_bytes())))
            }
        };
        request.status = Some(CertificateSigningRequestStatus { certificate, conditions: Some(conditions) });
        self.put(request);
    }

    fn bump(&self) {
        let version = {
            let mut state = self.state();
            state.version += 1;
            state.version
        };
        self.0.changes.send_replace(version);
    }

    async fn handle(
        &self,
        user: &str,
        request: Request<kube::client::Body>,
    ) -> Result<Response<Body>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let fault = {
            let mut state = self.state();
            state.log.push(format!("{user} {} {}", parts.method, parts.uri));
            state.faults.pop_front().or_else(|| state.always.clone())
        };
        match fault {
            Some(Fault::Unreachable) => {
                return Err(std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused"));
            }
            Some(Fault::Status(code, reason)) => return Ok(status(code, reason)),
            None => {}
        }
        let query = parts.uri.query().unwrap_or_default();
        let collection = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
        let path = parts.uri.path();
        Ok(match (parts.method.as_str(), path.strip_prefix(collection)) {
            ("GET", None) if path == "/healthz" => answer(200, &json!("ok")),
            ("POST", Some("")) => self.create(&body),
            ("GET", Some("")) if query.contains("watch=true") => self.watch(&selected(query)),
            ("GET", Some("")) => self.list(&selected(query)),
            ("GET", Some(name)) => match self.state().requests.get(name.trim_start_matches('/')) {
                Some(found) => answer(200, &serde_json::to_value(found).unwrap()),
                None => status(404, "NotFound"),
            },
            _ => status(405, "MethodNotAllowed"),
        })
    }

    fn create(&self, body: &[u8]) -> Response<Body> {
        let mut request: CertificateSigningRequest = serde_json::from_slice(body).unwrap();
        let name = request.metadata.name.clone().unwrap();
        let policy = {
            let mut state = self.state();
            if state.requests.contains_key(&name) {
                return status(409, "AlreadyExists");
            }
            state.created += 1;
            request.metadata.uid = Some(format!("uid-{}", state.created));
            state.policy
        };
        self.put(request.clone());
        match policy {
            Policy::Sign { after, .. } => {
                let api = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    api.decide(&name, policy);
                });
            }
            _ => self.decide(&name, policy),
        }
        answer(201, &serde_json::to_value(&request).unwrap())
    }

    fn list(&self, name: &str) -> Response<Body> {
        let state = self.state();
        let items: Vec<Value> =
            state.requests.get(name).iter().map(|found| serde_json::to_value(found).unwrap()).collect();
        answer(
            200,
            &json!({
                "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequestList",
                "metadata": {"resourceVersion": state.version.to_string()}, "items": items,
            }),
        )
    }

    fn watch(&self, name: &str) -> Response<Body> {
        let mut changes = self.0.changes.subscribe();
        // What changed between list and watch is sent, too.
        changes.mark_changed();
        let start = (self.clone(), changes, name.to_owned());
        let lines = futures::stream::unfold(start, |(api, mut changes, name)| async move {
            changes.changed().await.ok()?;
            let found = api.state().requests.get(&name).cloned();
            let event = match found {
                Some(found) => json!({"type": "MODIFIED", "object": found}),
                None => {
                    json!({"type": "DELETED", "object": CertificateSigningRequest::default()})
                }
            };
            let line = Bytes::from(format!("{event}\n"));
            Some((Ok::<_, Infallible>(Frame::data(line)), (api, changes, name)))
        });
        Response::new(StreamBody::new(lines).boxed_unsync())
    }
}

/// The name in `fieldSelector=metadata.name=<name>`: a node may ask for nothing wider.
fn selected(query: &str) -> String {
    let selector = query.split('&').find_map(|part| part.strip_prefix("fieldSelector=")).unwrap_or_default();
    let selector = selector.replace("%3D", "=");
    selector.strip_prefix("metadata.name=").map(str::to_owned).unwrap_or_default()
}

fn answer(code: u16, body: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}

fn status(code: u16, reason: &str) -> Response<Body> {
    answer(
        code,
        &json!({
            "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason,
            "message": format!("the test says {reason}"),
        }),
    )
}
