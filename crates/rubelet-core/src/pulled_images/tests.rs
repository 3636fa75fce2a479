//! Who may use an image that is there, in tables.

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const NOW: Timestamp = Timestamp::constant(1_729_513_600, 500);

fn secret(uid: &str, hash: &str) -> PullSecret {
    PullSecret {
        uid: uid.to_owned(),
        namespace: "ns".to_owned(),
        name: format!("name-of-{uid}"),
        credential_hash: hash.to_owned(),
    }
}

fn account(uid: &str) -> PullServiceAccount {
    PullServiceAccount { uid: uid.to_owned(), namespace: "ns".to_owned(), name: "sa".to_owned() }
}

fn with_secrets(secrets: &[PullSecret]) -> PulledWith {
    PulledWith { kubernetes_secrets: secrets.to_vec(), ..PulledWith::default() }
}

fn with_account(uid: &str) -> PulledWith {
    PulledWith { kubernetes_service_accounts: vec![account(uid)], ..PulledWith::default() }
}

#[test]
fn files_are_named_and_written_as_upstreams() {
    assert_eq!(
        file_name("repo.repo/test/test:v1"),
        "sha256-ee81caca15454863449fb55a1d942904d56d5ed9f9b20a7cb3453944ea2c7e11"
    );
    assert!(is_record_file(&file_name("a")));
    for other in ["a", "sha256-00.tmp", "x-sha256-00"] {
        assert!(!is_record_file(other));
    }
    let intent = ImagePullIntent { image: "repo.repo/test/test:v1".to_owned() };
    let text = concat!(
        r#"{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1beta1","#,
        r#""image":"repo.repo/test/test:v1"}"#,
        "\n"
    );
    assert_eq!(String::from_utf8(intent.encode().unwrap()).unwrap(), text);
    assert_eq!(ImagePullIntent::decode(text.as_bytes()).unwrap(), intent);
    let text = concat!(
        r#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1","#,
        r#""lastUpdatedTime":"2024-10-21T12:26:40Z","imageRef":"testimageref","credentialMapping":"#,
        r#"{"docker.io/testing/test":{"kubernetesSecrets":[{"uid":"testsecretuid","namespace":"default","#,
        r#""name":"pull-secret","credentialHash":"testsecrethash"}]}}}"#,
        "\n"
    );
    let record = ImagePulledRecord::decode(text.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(record.encode().unwrap()).unwrap(), text);
    let mut made = ImagePulledRecord::without_credentials("testimageref", NOW);
    let secret = PullSecret {
        uid: "testsecretuid".into(),
        namespace: "default".into(),
        name: "pull-secret".into(),
        credential_hash: "testsecrethash".into(),
    };
    assert!(made.add("docker.io/testing/test", &with_secrets(&[secret]), NOW));
    assert_eq!(made, record);
}

#[test]
fn records_of_the_older_version_are_read_and_others_are_not() {
    let alpha = r#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1alpha1","lastUpdatedTime":"2024-10-21T12:26:40Z","imageRef":"testimageref-sa","credentialMapping":{"docker.io/testing/test":{"kubernetesServiceAccounts":[{"uid":"test-sa-uid","namespace":"default","name":"test-sa"}]}}}"#;
    let record = ImagePulledRecord::decode(alpha.as_bytes()).unwrap();
    assert_eq!(record.credential_mapping["docker.io/testing/test"].kubernetes_service_accounts.len(), 1);
    let open = r#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1","imageRef":"a","credentialMapping":{"b":{"nodePodsAccessible":true}}}"#;
    let record = ImagePulledRecord::decode(open.as_bytes()).unwrap();
    assert_eq!(record.credential_mapping["b"], PulledWith::node());
    for (text, problem) in [
        ("", "not a record"),
        (r#"{"kind":"ImagePulledRecord","apiVersion":"v1alpha1","imageRef":"x":"y"}"#, "not a record"),
        ("{}", "a \"\" of \"\" where a record was expected"),
        (
            r#"{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1beta1","image":"a"}"#,
            "a \"ImagePullIntent\" of \"kubelet.config.k8s.io/v1beta1\" where a record was expected",
        ),
        (
            r#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v2","imageRef":"a"}"#,
            "a \"ImagePulledRecord\" of \"kubelet.config.k8s.io/v2\" where a record was expected",
        ),
    ] {
        let error = ImagePulledRecord::decode(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(error, problem, "{text}");
    }
}

#[test]
fn names_lose_their_tag_and_digest() {
    for (image, name) in [
        ("nginx", "nginx"),
        ("nginx:1", "nginx"),
        ("localhost:5000/a/b", "localhost:5000/a/b"),
        ("localhost:5000/a/b:v1", "localhost:5000/a/b"),
        (&format!("docker.io/a@sha256:{HEX}"), "docker.io/a"),
        (&format!("hello-world:latest@sha256:{HEX}"), "hello-world"),
    ] {
        assert_eq!(untagged(image).unwrap(), name, "{image}");
    }
    assert!(untagged("A:b").is_err());
}

#[test]
fn credentials_add_up() {
    let mut record = ImagePulledRecord::without_credentials("ref", NOW);
    let later = Timestamp::from_second(NOW.as_second() + 60).unwrap();
    assert!(!record.add("a", &PulledWith::default(), later));
    assert!(record.add("a", &with_secrets(&[secret("2", "h")]), NOW));
    assert!(!record.add("a", &with_secrets(&[secret("2", "h")]), later));
    assert_eq!(record.last_updated_time.unwrap().as_second(), NOW.as_second());
    assert!(record.add("a", &with_secrets(&[secret("1", "h")]), later));
    assert_eq!(record.last_updated_time, Some(later));
    assert!(record.add("a", &with_secrets(&[secret("2", "changed")]), later));
    assert!(record.add("a", &with_account("x"), later));
    assert!(!record.add("a", &with_account("x"), later));
    assert!(record.add("b", &with_account("y"), later));
    let a = &record.credential_mapping["a"];
    assert_eq!(a.kubernetes_secrets, [secret("1", "h"), secret("2", "changed")]);
    assert_eq!(a.kubernetes_service_accounts, [account("x")]);
    // Once everybody may, who may is not kept.
    assert!(record.add("a", &PulledWith::node(), later));
    assert_eq!(record.credential_mapping["a"], PulledWith::node());
    assert!(!record.add("a", &with_secrets(&[secret("3", "h")]), later));
    assert!(!record.credential_mapping["b"].node_pods_accessible);
}

#[test]
fn lists_of_images_that_need_no_check() {
    let list = AllowList::parse(["busybox", "r.example:5000/a/b", "docker.io/team/*"]).unwrap();
    for image in ["busybox", "busybox:1", "r.example:5000/a/b:v1", "docker.io/team/x:1", "docker.io/team/x/y"]
    {
        assert!(list.has(image), "{image}");
    }
    for image in ["docker.io/library/busybox", "busybox2", "r.example:5000/a", "docker.io/teamx/y", "B:x"] {
        assert!(!list.has(image), "{image}");
    }
    for (pattern, problem) in [
        (" a", "leading/trailing spaces are not allowed:  a"),
        ("/*", "at least registry hostname is required: /*"),
        ("a*", "not a valid wildcard pattern, only patterns ending with '/*' are allowed: a*"),
        ("a/*/*", "not a valid wildcard pattern, only patterns ending with '/*' are allowed: a/*/*"),
        ("busybox:1", "neither tag nor digest is accepted in an image reference: busybox:1"),
        ("", "failed to parse as an image name"),
    ] {
        assert_eq!(AllowList::parse([pattern]).unwrap_err().to_string(), problem, "{pattern:?}");
    }
}

#[test]
fn policies() {
    let parse = |word: &str, patterns: &[String]| VerificationPolicy::parse(word, patterns).unwrap().unwrap();
    let requires = |word: &str, image: &str, ours: bool| parse(word, &["a".to_owned()]).requires(image, ours);
    for ours in [false, true] {
        assert!(!requires("NeverVerify", "b", ours));
        assert!(requires("AlwaysVerify", "a", ours));
        assert!(!requires("NeverVerifyAllowlistedImages", "a:1", ours));
        assert!(requires("NeverVerifyAllowlistedImages", "b", ours));
        assert_eq!(requires("NeverVerifyPreloadedImages", "b", ours), ours);
    }
    assert_eq!(VerificationPolicy::parse("neververify", &[]), Ok(None));
    assert!(VerificationPolicy::parse("NeverVerifyAllowlistedImages", &["*".to_owned()]).is_err());
}

#[test]
fn what_is_known_decides_before_credentials_are_looked_up() {
    use Checked::{CredentialPolicyAllowed, CredentialRecordFound, Error, MustAuthenticate};
    let mut record = ImagePulledRecord::without_credentials("ref", NOW);
    record.add("open", &PulledWith::node(), NOW);
    record.add("closed", &with_secrets(&[secret("1", "h")]), NOW);
    record.credential_mapping.insert("empty".to_owned(), PulledWith::default());
    let policy = VerificationPolicy::NeverVerifyPreloadedImages;
    let decided = |image: &str, known: Known<'_>| match check(&policy, image, known) {
        Access::Decided(checked) => Some(checked),
        Access::Compare(_) => None,
    };
    assert_eq!(decided("closed", Known::Nothing), Some(CredentialPolicyAllowed));
    assert_eq!(decided("open:1", Known::Intent), Some(MustAuthenticate));
    assert_eq!(decided("open:1", Known::Record(&record)), Some(CredentialRecordFound));
    assert_eq!(decided("closed:1", Known::Record(&record)), None);
    assert_eq!(decided("empty", Known::Record(&record)), Some(MustAuthenticate));
    assert_eq!(decided("other/open", Known::Record(&record)), Some(MustAuthenticate));
    assert_eq!(decided("A:b", Known::Record(&record)), Some(Error));
    let all = check(&VerificationPolicy::AlwaysVerify, "open", Known::Nothing);
    assert_eq!(all, Access::Decided(MustAuthenticate));
    assert!(!Error.may_use() && !MustAuthenticate.may_use());
}

#[test]
fn a_pod_is_known_by_its_secret_its_content_or_its_account() {
    let known = with_secrets(&[secret("1", "h1"), secret("2", "")]);
    let pod = |secrets: &[PullSecret]| PodCredentials { secrets: secrets.to_vec(), service_account: None };
    let check = |pod: &PodCredentials| check_credentials(&known, pod);
    let found = |learn: Option<PullSecret>| (Checked::CredentialRecordFound, learn);
    let refused = (Checked::MustAuthenticate, None);
    assert_eq!(check(&pod(&[])), refused);
    assert_eq!(check(&pod(&[secret("1", "h1")])), found(None));
    // The same content in another secret, and the same secret with other content.
    assert_eq!(check(&pod(&[secret("3", "h1")])), found(Some(secret("3", "h1"))));
    assert_eq!(check(&pod(&[secret("1", "h9")])), found(Some(secret("1", "h9"))));
    assert_eq!(check(&pod(&[secret("3", "h9"), secret("1", "h1")])), found(None));
    assert_eq!(check(&pod(&[secret("3", "h9")])), refused);
    // A hash that is missing is like no other.
    assert_eq!(check(&pod(&[secret("3", "")])), refused);
    let of_account =
        |uid| PodCredentials { service_account: Some(account(uid)), ..PodCredentials::default() };
    assert_eq!(check(&of_account("1")), refused);
    assert_eq!(check_credentials(&with_account("1"), &of_account("1")), found(None));
    assert_eq!(check_credentials(&with_account("1"), &of_account("2")), refused);
}

#[test]
fn a_record_does_not_grow_for_ever() {
    let many: Vec<_> = (0..100).map(|n| secret(&format!("{n:03}"), "h")).collect();
    let pod = |s: PullSecret| PodCredentials { secrets: vec![s], service_account: None };
    let check = |s| check_credentials(&with_secrets(&many), &pod(s));
    assert_eq!(check(secret("new", "h")), (Checked::CredentialRecordFound, None));
    assert_eq!(check(secret("000", "changed")).0, Checked::MustAuthenticate);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = ImagePulledRecord::decode(&bytes);
        let _ = ImagePullIntent::decode(&bytes);
    }

    /// Adding never takes away who could be recognised before.
    #[test]
    fn whoever_could_use_an_image_still_can(
        adds in proptest::collection::vec((0_u8..3, 0_u8..4, 0_u8..4), 0..12),
    ) {
        let mut record = ImagePulledRecord::without_credentials("ref", NOW);
        let mut could: Vec<PodCredentials> = Vec::new();
        for (kind, uid, hash) in adds {
            let uid = uid.to_string();
            let with = match kind {
                0 => {
                    let secret = secret(&uid, &format!("h{hash}"));
                    could.retain(|pod: &PodCredentials| pod.secrets.first().is_none_or(|s| s.uid != uid));
                    could.push(PodCredentials { secrets: vec![secret.clone()], service_account: None });
                    with_secrets(&[secret])
                }
                1 => {
                    could.push(PodCredentials { service_account: Some(account(&uid)), ..Default::default() });
                    with_account(&uid)
                }
                _ => PulledWith::default(),
            };
            record.add("a", &with, NOW);
            for pod in &could {
                let known = Known::Record(&record);
                let allowed = match check(&VerificationPolicy::AlwaysVerify, "a:1", known) {
                    Access::Decided(checked) => checked.may_use(),
                    Access::Compare(with) => check_credentials(with, pod).0.may_use(),
                };
                prop_assert!(allowed);
            }
        }
        let again = ImagePulledRecord::decode(&record.encode().unwrap()).unwrap();
        prop_assert_eq!(again, record);
    }
}
