//! Keeps valid, while the process runs, what the server shows and what its owner has: a node may run for years.
//!
//! Owns when that is looked after. Certificates and files are made by `files`. Run by the local API.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rubelet_server::tls::ServingCert;
use tracing::{info, warn};

use super::files::{self, FilesError};
use super::{Identity, LIFETIME};
use crate::engine::Now;

/// How often it is looked whether something is due. Certificates are made again weeks before their end.
const PERIOD: Duration = Duration::from_secs(12 * 3600);
/// How old the owner's kubeconfig gets; copies of it go on for the rest of their certificate's life.
const KUBECONFIG_AGE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The identities of a local API that runs.
pub(crate) struct Renewal {
    /// The folder of the authority.
    pub(crate) dir: PathBuf,
    /// What the server is called.
    pub(crate) names: &'static [&'static str],
    /// Where it is reached.
    pub(crate) addresses: Vec<IpAddr>,
    /// What it shows.
    pub(crate) shown: ServingCert,
    /// The owner's user name and groups.
    pub(crate) owner: (&'static str, Vec<String>),
    /// The owner's kubeconfig.
    pub(crate) kubeconfig: PathBuf,
    /// The server's address in it.
    pub(crate) url: String,
    /// When it was written last.
    pub(crate) written: Timestamp,
    /// Tells the time.
    pub(crate) now: Now,
}

impl Renewal {
    /// Looks from time to time; never ends.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(PERIOD).await;
            let looked = tokio::task::spawn_blocking(move || {
                let problem = self.look().err();
                (self, problem)
            });
            let (myself, problem) = match looked.await {
                Ok(looked) => looked,
                Err(panicked) => {
                    warn!("the local API's certificates are not looked after any more: {panicked}");
                    return std::future::pending().await;
                }
            };
            if let Some(problem) = problem {
                let why = std::error::Error::source(&problem).map(ToString::to_string).unwrap_or_default();
                warn!("the local API's certificates cannot be renewed: {problem}: {why}");
            }
            self = myself;
        }
    }

    /// Renews what is due.
    fn look(&mut self) -> Result<(), FilesError> {
        let now = (self.now)();
        let files = files::open(&self.dir, self.names, &self.addresses, now)?;
        if !self.shows(&files.server) {
            match self.shown.replace(files.server.cert_pem.as_bytes(), files.server.key_pem.as_bytes()) {
                Ok(()) => info!("the local API shows a new certificate"),
                Err(problem) => warn!("the local API's new certificate cannot be shown: {problem}"),
            }
        }
        if now.duration_since(self.written).abs() >= KUBECONFIG_AGE {
            let (name, groups) = &self.owner;
            let owner = files.ca.client(name, groups, now, LIFETIME)?;
            let text = files::kubeconfig(&self.url, files.ca.pem(), name, &owner);
            files::write_kubeconfig(&self.kubeconfig, &text)
                .map_err(|source| FilesError::Io { path: self.kubeconfig.clone(), source })?;
            self.written = now;
        }
        Ok(())
    }

    fn shows(&self, server: &Identity) -> bool {
        use rustls_pki_types::pem::PemObject as _;
        let there = rustls_pki_types::CertificateDer::from_pem_slice(server.cert_pem.as_bytes()).ok();
        there.is_some() && self.shown.leaf() == there
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn what_is_shown_and_what_the_owner_has_is_renewed_in_time_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let day = |days: i64| Timestamp::from_second(1_800_000_000 + days * 24 * 3600).unwrap();
        let time = Arc::new(Mutex::new(day(0)));
        let now: Now = {
            let time = time.clone();
            Arc::new(move || *time.lock().unwrap())
        };
        let addresses = vec![IpAddr::from([127, 0, 0, 1])];
        let pki = dir.path().join("pki");
        let made = files::open(&pki, &["localhost"], &addresses, day(0)).unwrap();
        let shown = ServingCert::none();
        shown.replace(made.server.cert_pem.as_bytes(), made.server.key_pem.as_bytes()).unwrap();
        let kubeconfig = dir.path().join("admin.conf");
        files::write_kubeconfig(&kubeconfig, "first").unwrap();
        // Somebody gave it to a user.
        std::os::unix::fs::chown(&kubeconfig, Some(12), Some(34)).unwrap();
        let mut renewal = Renewal {
            dir: pki,
            names: &["localhost"],
            addresses,
            shown: shown.clone(),
            owner: ("o", vec![]),
            kubeconfig: kubeconfig.clone(),
            url: "https://127.0.0.1:1".to_owned(),
            written: day(0),
            now,
        };
        let mut seen = vec![];
        for today in [1, 31, 32, 62, 310, 311] {
            let before = (shown.leaf(), std::fs::read_to_string(&kubeconfig).unwrap());
            *time.lock().unwrap() = day(today);
            renewal.look().unwrap();
            let after = (shown.leaf(), std::fs::read_to_string(&kubeconfig).unwrap());
            seen.push((today, before.0 != after.0, before.1 != after.1));
        }
        let expected = [
            (1, false, false),
            (31, false, true),
            (32, false, false),
            (62, false, true),
            (310, true, true),
            (311, false, false),
        ];
        assert_eq!(seen, expected);
        let file = std::fs::metadata(&kubeconfig).unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (12, 34, 0o600));
    }
}
