//! The store's layout, what a crash may leave of it, and what must not be taken for a certificate.

use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::*;
use crate::csr::test_ca::TestCa;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A pair and the moment it begins.
fn pair(year: i32) -> (CertPair, Timestamp) {
    let start = at(&format!("{year}-03-01T10:20:30Z"));
    (TestCa::new().pair(start, start + std::time::Duration::from_secs(3600)), start)
}

fn open(directory: &TempDir) -> CertStore {
    CertStore::open(&directory.path().join("pki"), CertificatePurpose::Client).unwrap()
}

fn not_after(store: &CertStore) -> String {
    store.load().unwrap().facts().validity.not_after.to_string()
}

fn names(store: &CertStore) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(&store.directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_layout_is_upstreams() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    assert!(matches!(store.load(), Err(StoreError::Missing { .. })));
    let (first, start) = pair(2026);
    store.store(&first, start).unwrap();
    assert_eq!(names(&store), ["kubelet-client-2026-03-01-10-20-30.pem", "kubelet-client-current.pem"]);
    let file = store.directory.join("kubelet-client-2026-03-01-10-20-30.pem");
    assert_eq!(fs::read_link(store.current_path()).unwrap(), file);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    let labels: Vec<&str> = text.lines().filter(|line| line.starts_with("-----BEGIN")).collect();
    assert_eq!(labels, ["-----BEGIN CERTIFICATE-----", "-----BEGIN PRIVATE KEY-----"]);
    let facts = store.load().unwrap().facts().clone();
    assert_eq!(facts.common_name, "system:node:n1");
    assert!(facts.organizations.contains("system:nodes"));
}

#[test]
fn the_link_goes_to_the_newest_and_the_old_file_stays() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    for year in [2026, 2027] {
        let (pair, start) = pair(year);
        store.store(&pair, start).unwrap();
    }
    assert_eq!(not_after(&store), "2027-03-01T11:20:30Z");
    assert_eq!(names(&store).len(), 3);
}

#[test]
fn two_certificates_in_one_second_leave_a_whole_one() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    let (first, start) = pair(2026);
    let (second, _) = pair(2027);
    store.store(&first, start).unwrap();
    store.store(&second, start).unwrap();
    assert_eq!(not_after(&store), "2027-03-01T11:20:30Z");
    assert_eq!(names(&store).len(), 2);
}

#[test]
fn the_serving_certificate_has_files_of_its_own() {
    let directory = TempDir::new().unwrap();
    let store = CertStore::open(directory.path(), CertificatePurpose::Serving).unwrap();
    let (serving, start) = pair(2026);
    store.store(&serving, start).unwrap();
    assert_eq!(names(&store), ["kubelet-server-2026-03-01-10-20-30.pem", "kubelet-server-current.pem"]);
}

/// A store as it is after a crash: the first pair in use, the second in its file.
fn interrupted() -> (TempDir, CertStore, PathBuf) {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    let (first, start) = pair(2026);
    store.store(&first, start).unwrap();
    let newer = store.directory.join("kubelet-client-2027-03-01-10-20-30.pem");
    fs::write(&newer, pair(2027).0.to_combined_pem()).unwrap();
    (directory, store, newer)
}

#[test]
fn a_crash_while_writing_leaves_the_old_pair_in_use() {
    let (directory, store, newer) = interrupted();
    fs::write(store.directory.join("kubelet-client.pem.tmp"), "-----BEGIN CERT").unwrap();
    fs::write(&newer, "torn").unwrap();
    assert_eq!(not_after(&open(&directory)), "2026-03-01T11:20:30Z");
    let (third, start) = pair(2028);
    store.store(&third, start).unwrap();
    assert_eq!(not_after(&open(&directory)), "2028-03-01T11:20:30Z");
    assert!(!names(&store).contains(&"kubelet-client.pem.tmp".to_owned()));
}

#[test]
fn a_crash_before_the_switch_leaves_the_old_pair_in_use() {
    let (directory, store, newer) = interrupted();
    symlink(&newer, store.directory.join("kubelet-client-updated.pem")).unwrap();
    assert_eq!(not_after(&open(&directory)), "2026-03-01T11:20:30Z");
    let (third, start) = pair(2028);
    store.store(&third, start).unwrap();
    assert_eq!(not_after(&store), "2028-03-01T11:20:30Z");
}

#[test]
fn a_switch_that_upstream_left_half_done_is_finished() {
    let (directory, store, newer) = interrupted();
    symlink(&newer, store.directory.join("kubelet-client-updated.pem")).unwrap();
    fs::remove_file(store.current_path()).unwrap();
    assert_eq!(not_after(&open(&directory)), "2027-03-01T11:20:30Z");
}

#[test]
fn a_file_in_the_place_of_the_link_is_read_but_never_replaced() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    let (first, start) = pair(2026);
    store.make_directory().unwrap();
    fs::write(store.current_path(), first.to_combined_pem()).unwrap();
    assert_eq!(not_after(&store), "2026-03-01T11:20:30Z");
    assert!(matches!(store.store(&first, start), Err(StoreError::NotALink { .. })));
    assert_eq!(not_after(&store), "2026-03-01T11:20:30Z");
}

#[test]
fn what_is_not_a_whole_pair_is_refused_with_its_place() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    store.make_directory().unwrap();
    let (one, _) = pair(2026);
    let (other, _) = pair(2026);
    let certificate = crate::csr::encode_pem("CERTIFICATE", &one.chain()[0]);
    let check = |text: String, expected: &str| {
        fs::write(store.current_path(), text).unwrap();
        let error = crate::watch::chain(&store.load().unwrap_err());
        assert!(error.contains("kubelet-client-current.pem") && error.contains(expected), "{error}");
    };
    check(String::new(), "holds no certificate");
    check("hello".to_owned(), "holds no certificate");
    check(one.key().to_pem(), "holds no certificate");
    check(certificate.clone(), "holds no private key");
    check(certificate.clone() + &other.key().to_pem(), "does not belong to the certificate");
    check(
        certificate.replacen("MII", "MIX", 1) + &one.key().to_pem(),
        "certificate 1 of the chain is damaged",
    );
    check(certificate.replace("-----END CERTIFICATE-----\n", ""), "not PEM");
}

#[test]
fn an_older_layout_and_named_files_are_read_while_there_is_no_link() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    store.make_directory().unwrap();
    let write = |name: &str, pair: &CertPair| {
        let (certificate, key) = (format!("{name}.crt"), format!("{name}.key"));
        let pem = crate::csr::encode_pem("CERTIFICATE", &pair.chain()[0]);
        fs::write(store.directory.join(&certificate), pem).unwrap();
        fs::write(store.directory.join(&key), pair.key().to_pem()).unwrap();
        (store.directory.join(certificate), store.directory.join(key))
    };
    write("kubelet-client", &pair(2026).0);
    assert_eq!(not_after(&store), "2026-03-01T11:20:30Z");
    let (certificate, key) = write("named", &pair(2027).0);
    let store = store.clone().with_fallback(certificate, key);
    assert_eq!(not_after(&store), "2027-03-01T11:20:30Z");
    let (own, start) = pair(2028);
    store.store(&own, start).unwrap();
    assert_eq!(not_after(&store), "2028-03-01T11:20:30Z");
}

#[test]
fn the_pending_key_is_kept_until_it_is_discarded() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    let key = store.pending_key().unwrap();
    let path = store.directory.join("kubelet-client.key.tmp");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(store.pending_key().unwrap().public_key_der(), key.public_key_der());
    fs::write(&path, "torn").unwrap();
    let fresh = store.pending_key().unwrap();
    assert_ne!(fresh.public_key_der(), key.public_key_der());
    store.discard_pending_key().unwrap();
    store.discard_pending_key().unwrap();
    assert!(!path.exists());
}
