//! The agent's certificates on disk, under `--cert-dir`, in upstream's layout (`certificate.NewFileStore`).
//!
//! Owns `<prefix>-<date>.pem` (certificates and key, mode 0600), the link `<prefix>-current.pem` that names the
//! one in use, `<prefix>-updated.pem` while the link is switched, and `<prefix>.key.tmp`, the key of a request
//! that has no certificate yet. Never asks for a certificate and never decides when. Its functions block for
//! as long as a few small files take; async callers use `spawn_blocking`. Called by `bootstrap`, `rotation`.
//!
//! - `pair`: a certificate and key, read and checked
//! - `files`: writing a secret file whole

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rubelet_core::certificates::CertificatePurpose;

use crate::csr::{KeyError, PrivateKey};

pub(crate) mod files;
mod pair;
#[cfg(test)]
mod tests;

pub use files::replace_private;
pub use pair::{CertPair, PairError, chain_not_after};

/// Why the store could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no certificate yet.
    #[error("there is no certificate at {path}")]
    Missing {
        /// Where it would be.
        path: PathBuf,
    },
    /// What is there cannot be used.
    #[error("{path} cannot be used")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: PairError,
    },
    /// A new key could not be made.
    #[error("no private key for a certificate request")]
    Key(#[from] KeyError),
    /// Something else lies where the store keeps a link.
    #[error("{path} is a file, not a link to the certificate in use; move it away")]
    NotALink {
        /// The file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One kind of certificate under a directory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CertStore {
    directory: PathBuf,
    prefix: &'static str,
    /// Certificate and key to read while the store itself has none.
    fallback: Option<(PathBuf, PathBuf)>,
}

impl CertStore {
    /// Opens the store and finishes a switch that was interrupted. A directory that does not exist yet is an
    /// empty store.
    pub fn open(directory: &Path, purpose: CertificatePurpose) -> Result<Self, StoreError> {
        // The link and the kubeconfig name files absolutely, whatever the working directory is later.
        let directory = std::path::absolute(directory).map_err(io_error("resolve", directory))?;
        let store = Self { directory, prefix: purpose.file_prefix(), fallback: None };
        store.finish_switch()?;
        Ok(store)
    }

    /// Reads these files while the store has no certificate of its own: those that the configuration or the
    /// kubeconfig names.
    #[must_use]
    pub fn with_fallback(self, certificate: PathBuf, key: PathBuf) -> Self {
        Self { fallback: Some((certificate, key)), ..self }
    }

    /// The link to the pair in use; a kubeconfig names this path.
    pub fn current_path(&self) -> PathBuf {
        self.file("current")
    }

    /// The pair in use: behind the link, else the fallback files, else `<prefix>.crt` and `<prefix>.key`.
    /// Expired pairs are returned too.
    pub fn load(&self) -> Result<CertPair, StoreError> {
        let current = self.current_path();
        if let Some(pem) = read_if_exists(&current)? {
            return CertPair::from_combined_pem(&pem)
                .map_err(|source| StoreError::Unusable { path: current, source });
        }
        let own = (
            self.directory.join(format!("{}.crt", self.prefix)),
            self.directory.join(format!("{}.key", self.prefix)),
        );
        for (certificate, key) in self.fallback.iter().chain([&own]) {
            if let (Some(certificates), Some(key_pem)) = (read_if_exists(certificate)?, read_if_exists(key)?)
            {
                return PrivateKey::from_pem(&key_pem)
                    .map_err(|source| (key, PairError::Key(source)))
                    .and_then(|loaded| {
                        CertPair::from_pem_and_key(&certificates, loaded).map_err(|e| (certificate, e))
                    })
                    .map_err(|(path, source)| StoreError::Unusable { path: path.clone(), source });
            }
        }
        Err(StoreError::Missing { path: current })
    }

    /// Keeps a pair and makes it the one in use. `now` dates the file. At every moment the link names a whole
    /// pair, the old or the new.
    pub fn store(&self, pair: &CertPair, now: Timestamp) -> Result<(), StoreError> {
        self.make_directory()?;
        let path = self.file(&now.strftime("%Y-%m-%d-%H-%M-%S").to_string());
        let temporary = self.directory.join(format!("{}.pem.tmp", self.prefix));
        files::replace_private_by(&temporary, &path, pair.to_combined_pem().as_bytes())
            .map_err(io_error("write", &path))?;
        self.switch_to(&path)
    }

    /// The key for the next request: the one kept from an unfinished request, else a new one, which is kept.
    pub fn pending_key(&self) -> Result<PrivateKey, StoreError> {
        let path = self.pending_key_path();
        if let Some(pem) = read_if_exists(&path)? {
            match PrivateKey::from_pem(&pem) {
                Ok(key) => return Ok(key),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "replaces a damaged pending key")
                }
            }
        }
        let key = PrivateKey::generate()?;
        self.make_directory()?;
        files::replace_private(&path, key.to_pem().as_bytes()).map_err(io_error("write", &path))?;
        Ok(key)
    }

    /// Forgets the key of an unfinished request, so that the next request is a new one.
    pub fn discard_pending_key(&self) -> Result<(), StoreError> {
        let path = self.pending_key_path();
        remove_if_exists(&path).map_err(io_error("remove", &path))
    }

    /// Runs a few of these operations off the async threads.
    pub(crate) async fn blocking<T, E>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let store = self.clone();
        tokio::task::spawn_blocking(move || work(&store)).await.unwrap_or_else(|stopped| {
            Err(io_error("finish work on", &self.directory)(io::Error::other(stopped)).into())
        })
    }

    fn pending_key_path(&self) -> PathBuf {
        self.directory.join(format!("{}.key.tmp", self.prefix))
    }

    fn file(&self, qualifier: &str) -> PathBuf {
        self.directory.join(format!("{}-{qualifier}.pem", self.prefix))
    }

    fn make_directory(&self) -> Result<(), StoreError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.directory);
        made.map_err(io_error("create", &self.directory))
    }

    /// Points the link at `target` by renaming a second link over it.
    fn switch_to(&self, target: &Path) -> Result<(), StoreError> {
        let (current, updated) = (self.current_path(), self.file("updated"));
        for link in [&current, &updated] {
            if is_link(link)? == Some(false) {
                return Err(StoreError::NotALink { path: link.clone() });
            }
        }
        remove_if_exists(&updated).map_err(io_error("remove", &updated))?;
        symlink(target, &updated).map_err(io_error("create", &updated))?;
        fs::rename(&updated, &current).map_err(io_error("replace", &current))?;
        files::sync_directory_of(&current).map_err(io_error("sync the directory of", &current))
    }

    /// Upstream removes the link before it renames the other over it; a crash in between leaves only the other.
    fn finish_switch(&self) -> Result<(), StoreError> {
        let (current, updated) = (self.current_path(), self.file("updated"));
        if current.try_exists().map_err(io_error("look for", &current))? {
            return Ok(());
        }
        match is_link(&updated)? {
            None => Ok(()),
            Some(false) => Err(StoreError::NotALink { path: updated }),
            Some(true) => fs::rename(&updated, &current).map_err(io_error("replace", &current)),
        }
    }
}

/// Whether something at `path` is a link; nothing when there is nothing.
fn is_link(path: &Path) -> Result<Option<bool>, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata.is_symlink())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error("look at", path)(source)),
    }
}

fn read_if_exists(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error("read", path)(source)),
    }
}

fn remove_if_exists(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}
