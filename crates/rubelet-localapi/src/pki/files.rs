//! The keys and certificates of a local API on disk, and the kubeconfig of its owner.
//!
//! ```text
//! <data-dir>/pki/ca.crt, ca.key                 the authority; its key is made once, its certificate lasts ten years
//! <data-dir>/pki/apiserver.crt, apiserver.key   what the server shows; made again when its names or its end ask for it
//! <data-dir>/pki/sa.key                         signs service account tokens; made once
//! ```
//! Keys and kubeconfigs are only for root (0600). What cannot be read is an error that names the file: making a new
//! authority would lock out everybody who trusts the old one. A certificate that is missing beside its key, as after a
//! first start that was cut off, is made again of the key: who trusts the old one trusts it too. So is one that is not
//! valid now, or not for long: a machine may have been started first with a clock that knew nothing of the year.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Ca, Identity, LIFETIME, PkiError};

/// What the authority calls itself.
const AUTHORITY: &str = "rubelet-local-ca";
/// A certificate is made again within this time of its end.
const RENEW_BEFORE: Duration = Duration::from_secs(60 * 24 * 3600);

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file cannot be read or written.
    #[error("{path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What is in a file is no certificate or key.
    #[error("{path} cannot be used: put the file back, or remove {dir} to begin with a new authority")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The folder of all of them.
        dir: PathBuf,
        /// What is wrong with it.
        source: PkiError,
    },
    /// Making a certificate failed.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// What a local API's start needs of its folder.
pub struct Files {
    /// The authority.
    pub ca: Ca,
    /// What the server shows.
    pub server: Identity,
    /// Signs service account tokens: P-256, PKCS #8 DER.
    pub token_key: Vec<u8>,
}

/// Reads what is in `dir`, and makes what is missing. The server's certificate is good for `names` and `addresses`.
///
/// # Errors
/// [`FilesError`].
pub fn open(dir: &Path, names: &[&str], addresses: &[IpAddr], now: Timestamp) -> Result<Files, FilesError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| FilesError::Io { path, source }
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io(dir))?;
    let damaged = |path: &Path| {
        let (path, dir) = (path.to_owned(), dir.to_owned());
        move |source: PkiError| FilesError::Damaged { path, dir, source }
    };
    let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    let ca = match (read(&certificate)?, read(&key)?) {
        (Some(cert_pem), Some(key_pem)) if !is_out_of_time(&cert_pem, now) => {
            Ca::from_pem(Identity { cert_pem, key_pem }).map_err(damaged(&certificate))?
        }
        (Some(_), Some(key_pem)) => {
            let ca = Ca::with_key(AUTHORITY, &key_pem, now).map_err(damaged(&key))?;
            tracing::warn!(
                "the authority's certificate {} was not valid at this time and was made again: kubeconfigs other than \
                 the owner's need the new one",
                certificate.display()
            );
            write(&certificate, ca.pem().as_bytes(), 0o644).map_err(io(&certificate))?;
            ca
        }
        (None, there) => {
            let ca = match &there {
                Some(key_pem) => Ca::with_key(AUTHORITY, key_pem, now).map_err(damaged(&key))?,
                None => Ca::new(AUTHORITY, now)?,
            };
            let made = ca.identity();
            if there.is_none() {
                write_private(&key, made.key_pem.as_bytes()).map_err(io(&key))?;
            }
            write(&certificate, made.cert_pem.as_bytes(), 0o644).map_err(io(&certificate))?;
            ca
        }
        (Some(_), None) => {
            return Err(FilesError::Io {
                path: key,
                source: io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("is missing beside its certificate: put it back, or remove {}", dir.display()),
                ),
            });
        }
    };
    let server = server_identity(dir, &ca, names, addresses, now)?;
    let path = dir.join("sa.key");
    let pem = match read(&path)? {
        Some(pem) => pem,
        None => {
            let pem = KeyPair::generate().map_err(PkiError)?.serialize_pem();
            write_private(&path, pem.as_bytes()).map_err(io(&path))?;
            pem
        }
    };
    let token_key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| damaged(&path)(PkiError(rcgen::Error::CouldNotParseKeyPair)))?
        .secret_der()
        .to_vec();
    Ok(Files { ca, server, token_key })
}

fn server_identity(
    dir: &Path,
    ca: &Ca,
    names: &[&str],
    addresses: &[IpAddr],
    now: Timestamp,
) -> Result<Identity, FilesError> {
    let (certificate, key) = (dir.join("apiserver.crt"), dir.join("apiserver.key"));
    if let (Some(cert_pem), Some(key_pem)) = (read(&certificate)?, read(&key)?)
        && is_good_for(&cert_pem, &key_pem, names, addresses, now)
    {
        return Ok(Identity { cert_pem, key_pem });
    }
    let made = ca.server(names, addresses, now, LIFETIME)?;
    let io = |path: &Path, source| FilesError::Io { path: path.to_owned(), source };
    write_private(&key, made.key_pem.as_bytes()).map_err(|e| io(&key, e))?;
    write(&certificate, made.cert_pem.as_bytes(), 0o644).map_err(|e| io(&certificate, e))?;
    Ok(made)
}

/// Whether a certificate is valid now and lasts for a while.
fn lasts(certificate: &X509Certificate<'_>, now: Timestamp) -> bool {
    let wanted_until = now.checked_add(RENEW_BEFORE).unwrap_or(now).as_second();
    let validity = certificate.validity();
    validity.not_before.timestamp() <= now.as_second() && validity.not_after.timestamp() >= wanted_until
}

/// Whether this is a certificate, but none for now.
fn is_out_of_time(pem: &str, now: Timestamp) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return false };
    X509Certificate::from_der(&der).is_ok_and(|(_, parsed)| !lasts(&parsed, now))
}

/// Whether a server's certificate is of this key, names all of these and lasts for a while.
fn is_good_for(pem: &str, key_pem: &str, names: &[&str], addresses: &[IpAddr], now: Timestamp) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return false };
    let Ok((_, parsed)) = X509Certificate::from_der(&der) else { return false };
    let Ok(key) = KeyPair::from_pem(key_pem) else { return false };
    if key.subject_public_key_info() != parsed.public_key().raw || !lasts(&parsed, now) {
        return false;
    }
    let Ok(Some(there)) = parsed.subject_alternative_name() else { return false };
    let there: BTreeSet<String> = there
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
                16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
                _ => None,
            },
            _ => None,
        })
        .collect();
    names.iter().all(|n| there.contains(*n)) && addresses.iter().all(|a| there.contains(&a.to_string()))
}

/// The kubeconfig of a client of `server` (a URL) who shows `identity`.
pub fn kubeconfig(server: &str, ca_pem: &str, user: &str, identity: &Identity) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: rubelet\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {ca}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {cert}\n    \
         client-key-data: {key}\ncontexts:\n- name: {user}@rubelet\n  context:\n    cluster: rubelet\n    user: {user}\n\
         current-context: {user}@rubelet\n",
        ca = STANDARD.encode(ca_pem),
        cert = STANDARD.encode(&identity.cert_pem),
        key = STANDARD.encode(&identity.key_pem),
    )
}

/// Writes the kubeconfig of the machine's owner, whole or not at all, readable for its owner only: root, or whoever was
/// given the one that was there.
///
/// # Errors
/// When the file or its folder cannot be written.
pub fn write_kubeconfig(path: &Path, text: &str) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    let before = fs::metadata(path).ok();
    write_private(path, text.as_bytes())?;
    match before {
        Some(before) => std::os::unix::fs::chown(path, Some(before.uid()), Some(before.gid())),
        None => Ok(()),
    }
}

fn read(path: &Path) -> Result<Option<String>, FilesError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FilesError::Io { path: path.to_owned(), source }),
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write(path, bytes, 0o600)
}

/// Replaces a file by rename, so that a crash leaves the old one or the new one; it is on the disk afterwards.
fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NAMES: [&str; 2] = ["localhost", "kubernetes"];

    fn addresses() -> [IpAddr; 2] {
        [IpAddr::from([127, 0, 0, 1]), "::1".parse().unwrap()]
    }

    fn at(days: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + days * 24 * 3600).unwrap()
    }

    #[test]
    fn what_was_made_is_found_again_and_keys_are_for_root_only() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("pki");
        let first = open(&dir, &NAMES, &addresses(), at(0)).unwrap();
        let second = open(&dir, &NAMES, &addresses(), at(1)).unwrap();
        assert_eq!(first.ca.pem(), second.ca.pem());
        assert_eq!(first.server.cert_pem, second.server.cert_pem);
        assert_eq!(first.token_key, second.token_key);
        for key in ["ca.key", "apiserver.key", "sa.key"] {
            assert_eq!(fs::metadata(dir.join(key)).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
        }
    }

    #[test]
    fn the_servers_certificate_is_made_again_for_new_addresses_and_before_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), &NAMES, &addresses(), at(0)).unwrap();
        let more = [addresses()[0], addresses()[1], "10.1.2.3".parse().unwrap()];
        let second = open(dir.path(), &NAMES, &more, at(0)).unwrap();
        assert_ne!(first.server.cert_pem, second.server.cert_pem);
        let same = open(dir.path(), &NAMES, &addresses(), at(200)).unwrap();
        assert_eq!(second.server.cert_pem, same.server.cert_pem, "it names more than was asked for");
        let third = open(dir.path(), &NAMES, &more, at(320)).unwrap();
        assert_ne!(second.server.cert_pem, third.server.cert_pem);
        assert_eq!(first.ca.pem(), third.ca.pem());
    }

    #[test]
    fn a_clock_that_was_wrong_at_the_first_start_is_no_harm_for_ever() {
        let valid = |pem: &str, now: Timestamp| {
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            lasts(&X509Certificate::from_der(&der).unwrap().1, now)
        };
        // Far in the past as on a machine without a battery, and in the future.
        for wrong in [at(-50 * 365), at(400), at(11 * 365)] {
            let dir = tempfile::tempdir().unwrap();
            let first = open(dir.path(), &NAMES, &addresses(), wrong).unwrap();
            let second = open(dir.path(), &NAMES, &addresses(), at(0)).unwrap();
            assert!(valid(second.ca.pem(), at(0)) && valid(&second.server.cert_pem, at(0)), "{wrong}");
            assert_eq!(first.ca.identity().key_pem, second.ca.identity().key_pem, "{wrong}");
            assert_eq!(first.token_key, second.token_key, "{wrong}");
            let third = open(dir.path(), &NAMES, &addresses(), at(1)).unwrap();
            assert_eq!(second.ca.pem(), third.ca.pem(), "{wrong}");
        }
    }

    #[test]
    fn a_certificate_of_another_key_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), &NAMES, &addresses(), at(0)).unwrap();
        // A start that was cut off between key and certificate.
        fs::write(dir.path().join("apiserver.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let second = open(dir.path(), &NAMES, &addresses(), at(0)).unwrap();
        assert_ne!(first.server.cert_pem, second.server.cert_pem);
        assert!(is_good_for(&second.server.cert_pem, &second.server.key_pem, &NAMES, &addresses(), at(0)));
    }

    #[test]
    fn a_damaged_or_halved_authority_is_named_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), &NAMES, &addresses(), at(0)).unwrap();
        fs::write(dir.path().join("ca.crt"), "nothing").unwrap();
        let error = open(dir.path(), &NAMES, &addresses(), at(0)).err().unwrap();
        assert!(error.to_string().contains("ca.crt cannot be used"), "{error}");
        fs::remove_file(dir.path().join("ca.key")).unwrap();
        let error = open(dir.path(), &NAMES, &addresses(), at(0)).err().unwrap();
        assert!(error.to_string().contains("ca.key"), "{error}");
    }

    #[test]
    fn an_authority_whose_certificate_is_gone_is_the_same_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), &NAMES, &addresses(), at(0)).unwrap();
        fs::remove_file(dir.path().join("ca.crt")).unwrap();
        let second = open(dir.path(), &NAMES, &addresses(), at(1)).unwrap();
        assert_eq!(first.ca.identity().key_pem, second.ca.identity().key_pem);
        // What the second signs is good for those who know the first.
        let made = second.ca.client("jane", &[], at(1), LIFETIME).unwrap();
        let der = CertificateDer::from_pem_slice(made.cert_pem.as_bytes()).unwrap();
        let old = CertificateDer::from_pem_slice(first.ca.pem().as_bytes()).unwrap();
        let (_, old) = X509Certificate::from_der(&old).unwrap();
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(parsed.issuer(), old.subject());
        parsed.verify_signature(Some(old.public_key())).unwrap();
    }
}
