//! `clientCAFile`: whose client certificates count.

use std::path::PathBuf;

use rubelet_server::tls::ClientCa;

use super::follow::Followed;
use super::pair::read;
use crate::fs_pool::FsPool;
use crate::logging::chain;

/// The file, and what is told of it.
pub(super) struct Authorities {
    file: PathBuf,
    clients: ClientCa,
    fs: FsPool,
}

impl Authorities {
    pub(super) fn new(file: PathBuf, clients: ClientCa, fs: FsPool) -> Self {
        Self { file, clients, fs }
    }
}

impl Followed for Authorities {
    fn name(&self) -> &'static str {
        "clientCAFile"
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.file.clone()]
    }

    fn without(&self) -> &'static str {
        "no client certificate is accepted until it is mended"
    }

    async fn look(&mut self) -> Result<bool, String> {
        let (what, file) = (format!("read {}", self.file.display()), self.file.clone());
        let pem = self.fs.run(what, move || read(&file)).await.map_err(|problem| chain(&problem))?;
        let replaced = self.clients.replace(&pem);
        replaced.map_err(|problem| format!("{}: {}", self.file.display(), chain(&problem)))
    }
}
