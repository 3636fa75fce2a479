//! Requests against the in-process server: signed, denied, failed, forged, deleted, out of reach, found again.

use std::sync::Arc;

use rubelet_core::certificates::{CertificatePurpose, WantedCertificate};

use super::*;
use crate::csr::generate_csr;
use crate::csr::test_ca::{FakeCsrApi, Fault, Policy, test_clock};
use crate::csr::test_log::TestLog;

const HOUR: Duration = Duration::from_secs(3600);
const SOON: Policy = Policy::Sign { after: Duration::from_secs(3), life: HOUR };

struct Try {
    api: FakeCsrApi,
    key: PrivateKey,
    request: CertificateSigningRequest,
    now: crate::Now,
}

fn start(policy: Policy) -> Try {
    let now = test_clock("2026-01-01T00:00:00Z".parse().unwrap());
    let key = PrivateKey::generate().unwrap();
    let wanted = WantedCertificate::node("n1");
    let request = generate_csr(&key, &wanted, CertificatePurpose::Client, Some(600)).unwrap();
    Try { api: FakeCsrApi::new(policy, Arc::clone(&now)), key, request, now }
}

impl Try {
    async fn obtain(&self) -> Result<CertPair, RequestError> {
        let client = self.api.client("boot");
        obtain(&client, &self.request, &self.key, Patience::for_at_most(HOUR), &*self.now).await
    }

    /// The error of a try, which must come.
    async fn error(&self) -> RequestError {
        self.obtain().await.unwrap_err()
    }
}

#[tokio::test(start_paused = true)]
async fn a_signed_request_gives_a_pair_that_matches_the_key() {
    let this = start(SOON);
    let pair = this.obtain().await.unwrap();
    assert_eq!(pair.key().public_key_der(), this.key.public_key_der());
    assert_eq!(pair.facts().common_name, "system:node:n1");
    let name = this.request.metadata.name.as_deref().unwrap();
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let only = format!("fieldSelector=metadata.name%3D{name}");
    let log = this.api.log();
    assert_eq!(log.len(), 3, "{log:?}");
    assert!(log[0].starts_with(&format!("boot POST {path}")), "{log:?}");
    assert!(log[1].starts_with(&format!("boot GET {path}")) && log[1].contains(&only), "{log:?}");
    assert!(log[2].contains("watch=true") && log[2].contains(&only), "{log:?}");
    assert_eq!(this.api.get(name).spec.expiration_seconds, Some(600));
}

#[tokio::test(start_paused = true)]
async fn a_second_try_finds_the_request_of_the_first() {
    let this = start(Policy::Leave);
    let waiting = tokio::time::timeout(Duration::from_secs(60), this.obtain()).await;
    assert!(waiting.is_err());
    let name = this.api.wait_for_request().await;
    this.api.decide(&name, SOON);
    this.obtain().await.unwrap();
    assert_eq!(this.api.created(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_is_no_longer_taken_ends_the_wait() {
    let this = start(Policy::Leave);
    let mut obtaining = std::pin::pin!(this.obtain());
    assert!(timeout(Duration::from_secs(60), &mut obtaining).await.is_err());
    // The watch that is open goes on; the next request is refused.
    this.api.fail_next([Fault::Status(401, "Unauthorized")]);
    let error = timeout(Duration::from_secs(600), obtaining).await.unwrap().unwrap_err();
    assert!(error.is_unauthorized(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn refusals_are_told_with_the_request_and_what_to_do() {
    let check = async |policy, expected: &str, new_key| {
        let error = start(policy).error().await;
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
        assert_eq!(error.wants_new_key(), new_key, "{text}");
    };
    check(Policy::Deny, "was denied (TestDenied: by the test); to let the node ask again, delete", false)
        .await;
    check(Policy::Fail, "could not sign certificate signing request node-csr-", false).await;
    check(Policy::Forge, "cannot be used", true).await;
    check(Policy::Leave, "within 60 minutes: kubectl certificate approve node-csr-", false).await;
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_has_expired_is_not_taken() {
    let this = start(Policy::Sign { after: Duration::from_secs(1), life: Duration::ZERO });
    let pause = Duration::from_secs(2);
    let base = Arc::clone(&this.now);
    let late: crate::Now = Arc::new(move || base() + pause);
    let this = Try { now: late, ..this };
    let error = this.error().await;
    assert!(matches!(error, RequestError::Expired { .. }) && error.wants_new_key(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_the_request_ends_the_try() {
    let this = start(SOON);
    this.api.fail_next([Fault::Status(401, "Unauthorized")]);
    let error = this.error().await;
    assert!(error.is_unauthorized(), "{error}");
    this.api.fail_next([Fault::Status(403, "Forbidden")]);
    let expected = "the API server refused to create a certificate signing request (403 Forbidden): \
                    the test says Forbidden";
    assert_eq!(this.error().await.to_string(), expected);
    this.api.fail_next([Fault::Unreachable]);
    assert!(matches!(this.error().await, RequestError::NoAnswer { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_away_while_we_wait_does_not_end_the_try() {
    let this = start(Policy::Leave);
    let server = this.api.clone();
    let outage = tokio::spawn(async move {
        let name = server.wait_for_request().await;
        server.fail_always(Some(Fault::Unreachable));
        sleep(Duration::from_secs(900)).await;
        server.fail_always(Some(Fault::Status(410, "Expired")));
        sleep(Duration::from_secs(60)).await;
        server.fail_always(None);
        server.decide(&name, SOON);
    });
    this.obtain().await.unwrap();
    outage.await.unwrap();
    assert_eq!(this.api.created(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_deleted_or_replaced_ends_the_try() {
    for replaced in [false, true] {
        let this = start(Policy::Leave);
        let server = this.api.clone();
        tokio::spawn(async move {
            let name = server.wait_for_request().await;
            sleep(Duration::from_secs(30)).await;
            let mut other = server.get(&name);
            server.delete(&name);
            if replaced {
                other.metadata.uid = Some("another".to_owned());
                server.put(other);
            }
        });
        let error = this.error().await;
        assert!(matches!(error, RequestError::Gone { .. }), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_foreign_request_of_the_same_name_is_not_taken() {
    let this = start(SOON);
    let other = start(SOON);
    let check = async |foreign: CertificateSigningRequest, expected: &str| {
        this.api.put(foreign);
        let error = this.error().await;
        assert!(error.to_string().ends_with(expected), "{error}");
        assert!(error.wants_new_key());
    };
    let of_another_key =
        CertificateSigningRequest { metadata: this.request.metadata.clone(), ..other.request.clone() };
    check(of_another_key, "exists and is for another key").await;
    let wanted = WantedCertificate::node("n2");
    let mut of_another_node = generate_csr(&this.key, &wanted, CertificatePurpose::Client, None).unwrap();
    of_another_node.metadata = this.request.metadata.clone();
    check(of_another_node, "exists and has another subject").await;
    let mut serving = this.request.clone();
    serving.spec.signer_name = CertificatePurpose::Serving.signer_name().to_owned();
    check(serving, "exists and is for another signer").await;
}

#[tokio::test(start_paused = true)]
async fn that_approval_is_awaited_is_said_once_and_then_rarely() {
    let (log, _guard) = TestLog::listen();
    start(SOON).obtain().await.unwrap();
    assert_eq!(log.lines().len(), 0, "an automatic approval needs no word");
    let this = start(Policy::Leave);
    this.error().await;
    let name = this.api.wait_for_request().await;
    let expected = format!(
        "the certificate signing request {name} waits for approval: kubectl certificate approve {name}"
    );
    // In one hour: after ten seconds, then every ten minutes.
    assert_eq!(log.lines(), vec![expected; 6]);
}
