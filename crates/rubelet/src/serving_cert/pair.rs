//! A serving certificate and its key in two files: those that the configuration names, or the agent's own.
//!
//! The agent's own are made when there are none (upstream `InitializeTLS`), used for as long as they are good for
//! something, and never overwritten: what cannot be used is set aside under another name. Whoever puts a better pair in
//! their place is served with it.

use std::fs::{self, Permissions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rubelet_apiclient::Now;
use rubelet_apiclient::cert_store::{CertPair, PairError, replace_private};
use rubelet_apiclient::csr::PrivateKey;
use rubelet_server::tls::ServingCert;
use rubelet_server::tls::self_signed::{SelfSigned, is_self_signed, self_signed};
use tracing::{info, warn};

use super::follow::Followed;
use crate::fs_pool::FsPool;
use crate::logging::chain;

/// Longest file that is taken for a certificate or key.
const MAX_BYTES: u64 = 1 << 20;

/// Certificate and key as they were read.
#[derive(Clone, PartialEq, Eq)]
struct Pem {
    certificates: Vec<u8>,
    key: Vec<u8>,
}

/// Two files, and where they are shown.
pub(super) struct PairFiles {
    certificate: PathBuf,
    key: PathBuf,
    /// How the files are made when they are the agent's own.
    own: Option<OwnPair>,
    cert: ServingCert,
    fs: FsPool,
    /// What is shown.
    shown: Option<Pem>,
    /// When the agent's own pair is to be made anew.
    renew_at: Option<Timestamp>,
    /// A look was taken before.
    begun: bool,
}

/// The agent's own pair.
#[derive(Clone)]
pub(super) struct OwnPair {
    directory: PathBuf,
    host: String,
    addresses: Vec<IpAddr>,
    now: Now,
}

impl OwnPair {
    /// A pair in this directory, for a node of this name and these addresses.
    pub(super) fn new(directory: &Path, host: &str, addresses: &[IpAddr], now: Now) -> Self {
        Self { directory: directory.to_owned(), host: host.to_owned(), addresses: addresses.to_vec(), now }
    }

    fn certificate(&self) -> PathBuf {
        self.directory.join("kubelet.crt")
    }

    fn key(&self) -> PathBuf {
        self.directory.join("kubelet.key")
    }
}

impl PairFiles {
    /// The files that the configuration names.
    pub(super) fn given(certificate: PathBuf, key: PathBuf, cert: ServingCert, fs: FsPool) -> Self {
        Self { certificate, key, own: None, cert, fs, shown: None, renew_at: None, begun: false }
    }

    /// The agent's own files.
    pub(super) fn own(own: OwnPair, cert: ServingCert, fs: FsPool) -> Self {
        let (certificate, key) = (own.certificate(), own.key());
        Self { certificate, key, own: Some(own), cert, fs, shown: None, renew_at: None, begun: false }
    }

    /// Makes the agent's own pair if that is due: at the start, when it has ended, and while nothing can be shown. Where
    /// it cannot be kept it is shown all the same.
    async fn make_own(&mut self) -> Result<bool, String> {
        let Some(own) = self.own.clone() else { return Ok(false) };
        let due = self.renew_at.is_some_and(|end| end < (own.now)());
        if self.begun && !due && self.shown.is_some() {
            return Ok(false);
        }
        let what = format!("look at {}", self.certificate.display());
        let (made, kept) = match self.fs.run(what, move || Ok(make(&own))).await {
            Ok(Ok(None)) => return Ok(false),
            Ok(Ok(Some((made, kept)))) => (made, kept),
            Ok(Err(problem)) => return Err(problem),
            Err(problem) => return Err(chain(&problem)),
        };
        if let Err(problem) = kept {
            let directory = self.certificate.parent().unwrap_or(Path::new("/")).display().to_string();
            warn!(
                "the self-signed certificate cannot be kept in {directory}, the next start makes another: {problem}"
            );
            let shown = self.cert.replace(made.certificates.as_bytes(), made.key.as_bytes());
            shown.map_err(|problem| chain(&problem))?;
            self.shown = Some(Pem { certificates: made.certificates.into(), key: made.key.into() });
            self.renew_at = None;
            return Ok(true);
        }
        info!(path = %self.certificate.display(), "made a self-signed serving certificate");
        Ok(false)
    }

    async fn read(&self) -> Result<Pem, String> {
        let (certificate, key) = (self.certificate.clone(), self.key.clone());
        let what = format!("read {} and {}", certificate.display(), key.display());
        let read = move || {
            let read = |path: &Path| {
                read(path).map_err(|problem| format!("cannot read {}: {problem}", path.display()))
            };
            Ok(read(&certificate).and_then(|certificates| Ok(Pem { certificates, key: read(&key)? })))
        };
        self.fs.run(what, read).await.unwrap_or_else(|problem| Err(chain(&problem)))
    }
}

impl Followed for PairFiles {
    fn name(&self) -> &'static str {
        if self.own.is_some() {
            "the self-signed serving certificate"
        } else {
            "tlsCertFile with tlsPrivateKeyFile"
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.certificate.clone(), self.key.clone()]
    }

    fn without(&self) -> &'static str {
        "TLS handshakes with the kubelet API fail until it is mended"
    }

    async fn look(&mut self) -> Result<bool, String> {
        let made = self.make_own().await;
        self.begun = true;
        if made? {
            return Ok(true);
        }
        let pem = match self.read().await {
            // The pair that could not be kept is better than none.
            Err(_) if self.own.is_some() && self.shown.is_some() => return Ok(false),
            read => read?,
        };
        if self.shown.as_ref() == Some(&pem) {
            return Ok(false);
        }
        let problem = |problem: &dyn std::error::Error| {
            format!("{} and {}: {}", self.certificate.display(), self.key.display(), chain(problem))
        };
        let pair = parse(&pem).map_err(|error| problem(&error))?;
        self.cert.replace(&pem.certificates, &pem.key).map_err(|error| problem(&error))?;
        let facts = pair.facts();
        self.renew_at = is_self_signed(&facts.common_name).then_some(facts.validity.not_after);
        self.shown = Some(pem);
        Ok(true)
    }
}

fn parse(pem: &Pem) -> Result<CertPair, PairError> {
    CertPair::from_pem_and_key(&pem.certificates, PrivateKey::from_pem(&pem.key)?)
}

/// Blocks. A file that is longer than any certificate is an error, not a use of memory.
/// A file of certificates or keys. What is no file is not waited for, and what is too long is not read.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::metadata(path)?;
    if !file.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if file.len() > MAX_BYTES {
        return Err(io::Error::other("it is too long for certificates or keys"));
    }
    fs::read(path)
}

/// A pair if one was made, and why it could not be kept.
type Made = Option<(SelfSigned, Result<(), String>)>;

/// Makes and keeps a pair where there is none that can be used; blocks. The error is why none could be made.
fn make(own: &OwnPair) -> Result<Made, String> {
    let now = (own.now)();
    let looked = look(own, now);
    if looked == Looked::Usable {
        return Ok(None);
    }
    let made = self_signed(&own.host, &own.addresses, now).map_err(|problem| chain(&problem))?;
    let kept = match looked {
        // Nothing is replaced that could not be looked at.
        Looked::Unknown(problem) => Err(problem),
        _ => keep(own, &made, now).map_err(|problem| problem.to_string()),
    };
    Ok(Some((made, kept)))
}

/// What a look at the agent's own files came to.
#[derive(PartialEq, Eq)]
enum Looked {
    Usable,
    ToBeMade,
    /// The words say why.
    Unknown(String),
}

fn look(own: &OwnPair, now: Timestamp) -> Looked {
    let (certificates, key) = match (read(&own.certificate()), read(&own.key())) {
        (Ok(certificates), Ok(key)) => (certificates, key),
        (certificate, key) => {
            let problems = [certificate.err(), key.err()];
            let other = |problem: &&io::Error| problem.kind() != io::ErrorKind::NotFound;
            let mut found = problems.iter().flatten();
            return match found.find(other) {
                Some(problem) => Looked::Unknown(problem.to_string()),
                None => Looked::ToBeMade,
            };
        }
    };
    match parse(&Pem { certificates, key }) {
        // One that somebody else made is theirs to renew.
        Ok(pair) if pair.facts().validity.is_expired(now) && is_self_signed(&pair.facts().common_name) => {
            info!("the self-signed serving certificate ended at {}", pair.facts().validity.not_after);
            Looked::ToBeMade
        }
        Ok(pair) => {
            if pair.facts().validity.is_expired(now) {
                let (path, end) = (own.certificate(), pair.facts().validity.not_after);
                warn!(path = %path.display(), "the serving certificate ended at {end}");
            }
            Looked::Usable
        }
        Err(problem) => {
            warn!(
                path = %own.certificate().display(),
                "the serving certificate cannot be used: {}",
                chain(&problem)
            );
            Looked::ToBeMade
        }
    }
}

/// Writes the key first: a certificate without its key would be of no use.
fn keep(own: &OwnPair, made: &SelfSigned, now: Timestamp) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(&own.directory)?;
    for path in [own.certificate(), own.key()] {
        let mut aside = path.clone().into_os_string();
        aside.push(now.strftime(".%Y-%m-%d-%H-%M-%S").to_string());
        match fs::rename(&path, &aside) {
            Ok(()) => warn!("set {} aside as {}", path.display(), Path::new(&aside).display()),
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => {}
            Err(problem) => return Err(problem),
        }
    }
    replace_private(&own.key(), made.key.as_bytes())?;
    replace_private(&own.certificate(), made.certificates.as_bytes())?;
    // It is no secret, and upstream's can be read by everybody.
    fs::set_permissions(own.certificate(), Permissions::from_mode(0o644))
}
