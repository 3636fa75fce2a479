//! Tables and properties for the certificate rules.

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn facts(not_before: i64, not_after: i64) -> CertificateFacts {
    CertificateFacts {
        validity: Validity { not_before: at(not_before), not_after: at(not_after) },
        common_name: "system:node:n1".to_owned(),
        organizations: BTreeSet::from([NODES_GROUP.to_owned()]),
        dns_names: BTreeSet::new(),
        ip_addresses: BTreeSet::new(),
    }
}

#[test]
fn renewal_begins_between_seventy_and_ninety_percent_of_the_life() {
    let validity = facts(1000, 2000).validity;
    for (jitter, deadline) in
        [(0.0, 1700), (0.5, 1800), (1.0, 1900), (-3.0, 1700), (7.0, 1900), (f64::NAN, 1700)]
    {
        assert_eq!(validity.rotation_deadline(jitter), at(deadline), "jitter {jitter}");
    }
}

#[test]
fn a_life_that_ends_before_it_begins_is_due_at_once() {
    assert_eq!(facts(2000, 1000).validity.rotation_deadline(0.5), at(2000));
    assert_eq!(facts(2000, 1000).validity.lifetime(), Duration::ZERO);
}

#[test]
fn the_next_step_follows_from_the_certificate_and_the_time() {
    use RenewalReason::{Borrowed, Differs, Due, Expired, Missing};
    use RequestIdentity::{Bootstrap, Current};
    let ours = facts(1000, 2000);
    let other = CertificateFacts { common_name: "system:node:n2".to_owned(), ..ours.clone() };
    let request = |reason, identity| RotationStep::Request { reason, identity };
    let check = |current: Option<&CertificateFacts>, borrowed, can_bootstrap, now, expected: RotationStep| {
        let wanted = WantedCertificate::node("n1");
        let step = next_rotation_step(current, &wanted, borrowed, can_bootstrap, 0.5, at(now));
        assert_eq!(step, expected, "{current:?} at {now}");
    };
    check(None, false, true, 1500, request(Missing, Bootstrap));
    check(None, false, false, 1500, request(Missing, Current));
    check(Some(&ours), false, true, 1000, RotationStep::Wait { until: at(1800) });
    check(Some(&ours), false, true, 1799, RotationStep::Wait { until: at(1800) });
    check(Some(&ours), false, true, 1800, request(Due, Current));
    check(Some(&ours), false, true, 2000, request(Due, Current));
    check(Some(&ours), false, true, 2001, request(Expired, Bootstrap));
    check(Some(&ours), false, false, 2001, request(Expired, Current));
    check(Some(&ours), true, true, 1000, request(Borrowed, Current));
    // Before its time (a clock that lags behind) there is nothing to do either.
    check(Some(&ours), false, true, 10, RotationStep::Wait { until: at(1800) });
    let differs = "it is for \"system:node:n2\", not for \"system:node:n1\"".to_owned();
    check(Some(&other), false, true, 1000, request(Differs(differs), Current));
}

#[test]
fn a_serving_certificate_has_to_hold_every_name_and_address() {
    let address: IpAddr = "10.0.0.7".parse().unwrap();
    let wanted = WantedCertificate {
        dns_names: BTreeSet::from(["n1".to_owned()]),
        ip_addresses: BTreeSet::from([address]),
        ..WantedCertificate::node("n1")
    };
    let mut have = facts(0, 10);
    assert_eq!(wanted.missing_in(&have).as_deref(), Some("it lacks the names n1"));
    have.dns_names = BTreeSet::from(["n1".to_owned(), "extra".to_owned()]);
    assert_eq!(wanted.missing_in(&have).as_deref(), Some("it lacks the addresses 10.0.0.7"));
    have.ip_addresses.insert(address);
    assert_eq!(wanted.missing_in(&have), None);
    have.organizations.clear();
    assert_eq!(wanted.missing_in(&have).as_deref(), Some("it lacks the organizations system:nodes"));
}

#[test]
fn usages_follow_purpose_and_key() {
    let client = CertificatePurpose::Client;
    assert_eq!(client.usages(false), ["digital signature", "client auth"]);
    assert_eq!(client.usages(true), ["digital signature", "key encipherment", "client auth"]);
    assert_eq!(CertificatePurpose::Serving.usages(false), ["digital signature", "server auth"]);
}

#[test]
fn attempts_are_spaced_two_to_thirty_two_seconds() {
    let seconds: Vec<u64> = (1..=7).map(|failures| retry_delay(failures, 0.0).as_secs()).collect();
    assert_eq!(seconds, [2, 4, 8, 16, 32, 32, 32]);
    assert_eq!(retry_delay(1, 1.0), Duration::from_millis(2200));
    assert_eq!(retry_delay(u32::MAX, 0.0).as_secs(), 32);
}

#[test]
fn sleeps_are_short_enough_to_notice_a_clock_that_jumped() {
    let year = Duration::from_secs(365 * 86400);
    let check = |until, lifetime, now, expected| {
        assert_eq!(sleep_slice(at(until), lifetime, at(now)).as_secs(), expected);
    };
    check(10_000_000, year, 0, 600);
    check(30, year, 0, 30);
    check(3000, Duration::from_secs(3600), 0, 36);
    check(5, Duration::from_secs(10), 0, 1);
    check(0, year, 100, 1);
}

#[test]
fn a_kubeconfig_without_a_valid_certificate_needs_bootstrap() {
    let check = |existing: ExistingIdentity, expected: Option<&str>| {
        assert_eq!(bootstrap_reason(&existing, at(100)).as_deref(), expected);
    };
    check(ExistingIdentity::NoKubeconfig, Some("there is no kubeconfig yet"));
    check(ExistingIdentity::Unusable("no".to_owned()), Some("the kubeconfig cannot be used: no"));
    check(ExistingIdentity::NoCertificate, Some("the kubeconfig has no client certificate"));
    let chain =
        |ends: &[i64]| ExistingIdentity::Certificate { not_after: ends.iter().map(|s| at(*s)).collect() };
    check(chain(&[]), Some("the kubeconfig has no client certificate"));
    check(chain(&[100, 200]), None);
    check(
        chain(&[200, 99]),
        Some("the client certificate of the kubeconfig expired at 1970-01-01T00:01:39Z"),
    );
}

fn csr(conditions: &[(&str, &str)], certificate: &[u8]) -> CertificateSigningRequest {
    let conditions = conditions
        .iter()
        .map(|(type_, reason)| CertificateSigningRequestCondition {
            type_: (*type_).to_owned(),
            status: "True".to_owned(),
            reason: Some((*reason).to_owned()),
            ..CertificateSigningRequestCondition::default()
        })
        .collect();
    let status = CertificateSigningRequestStatus {
        certificate: Some(ByteString(certificate.to_vec())),
        conditions: Some(conditions),
    };
    CertificateSigningRequest { status: Some(status), ..CertificateSigningRequest::default() }
}

#[test]
fn the_status_of_a_request_is_read_as_upstream_reads_it() {
    let denied = CsrVerdict::Denied { reason: "No".to_owned(), message: String::new() };
    let failed = CsrVerdict::Failed { reason: "Bad".to_owned(), message: String::new() };
    let check = |conditions: &[(&str, &str)], certificate: &[u8], expected: CsrVerdict| {
        assert_eq!(judge_csr(&csr(conditions, certificate)), expected, "{conditions:?}");
    };
    assert_eq!(judge_csr(&CertificateSigningRequest::default()), CsrVerdict::Pending);
    check(&[], b"", CsrVerdict::Pending);
    check(&[], b"cert", CsrVerdict::Pending);
    check(&[("Approved", "Ok")], b"", CsrVerdict::Approved);
    check(&[("Approved", "Ok")], b"cert", CsrVerdict::Issued(b"cert".to_vec()));
    check(&[("Approved", "Ok"), ("Denied", "No")], b"cert", denied);
    check(&[("Failed", "Bad"), ("Approved", "Ok")], b"cert", failed);
    check(&[("Else", "?")], b"", CsrVerdict::Pending);
}

proptest! {
    #[test]
    fn the_deadline_lies_within_the_window(start in 0_i64..4_000_000_000, life in 1_i64..400_000_000, turn: u64) {
        let validity = facts(start, start + life).validity;
        let deadline = validity.rotation_deadline(jitter_fraction("n1", turn));
        let share = deadline.duration_since(at(start)).as_secs_f64() / life as f64;
        prop_assert!((0.699_999..=0.900_001).contains(&share), "{share}");
    }

    #[test]
    fn waiting_never_lasts_into_the_expiry(start in 0_i64..4_000_000_000, life in 1_i64..400_000_000,
                                           into in 0_i64..500_000_000, turn: u64) {
        let (facts, now) = (facts(start, start + life), at(start + into));
        let jitter = jitter_fraction("n1", turn);
        let step = next_rotation_step(Some(&facts), &WantedCertificate::node("n1"), false, true, jitter, now);
        if let RotationStep::Wait { until } = step {
            prop_assert!(until > now && until <= facts.validity.not_after);
        }
    }

    #[test]
    fn jitter_is_a_fraction_and_differs_by_name(name in "[a-z]{1,12}", turn: u64) {
        let fraction = jitter_fraction(&name, turn);
        prop_assert!((0.0..1.0).contains(&fraction));
        prop_assert_ne!(fraction, jitter_fraction(&format!("{name}x"), turn));
    }
}
