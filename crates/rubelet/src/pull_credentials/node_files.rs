//! Docker's credential files on the node: the first one found in upstream's places counts. They are read anew for
//! each pull, which is rare, so that a changed file counts at once.

use std::io;
use std::path::{Path, PathBuf};

use rubelet_core::image_credentials::{DockerConfig, DockerConfigError, Keyring};
use rubelet_core::image_credentials::{parse_config_json, parse_dockercfg};

use crate::fs_pool::FsPool;

/// A larger file is no credential file.
const SIZE_LIMIT: u64 = 10 << 20;

type Parse = fn(&[u8]) -> (DockerConfig, Vec<DockerConfigError>);

/// The places.
#[derive(Clone, Debug)]
pub(super) struct NodeFiles {
    candidates: Vec<(PathBuf, Parse)>,
    fs: FsPool,
}

impl NodeFiles {
    /// Upstream's search paths: `config.json` in the root directory, the working directory, `~/.docker` and
    /// `/.docker`; then `.dockercfg` in the root directory, the working directory, the home and `/`.
    pub(super) fn new(root_dir: &Path, home: Option<&Path>, fs: FsPool) -> Self {
        let home = home.unwrap_or(Path::new("/"));
        let json = [root_dir, Path::new("."), &home.join(".docker"), Path::new("/.docker")]
            .map(|dir| (dir.join("config.json"), parse_config_json as Parse));
        let old = [root_dir, Path::new("."), home, Path::new("/")]
            .map(|dir| (dir.join(".dockercfg"), parse_dockercfg as Parse));
        Self { candidates: json.into_iter().chain(old).collect(), fs }
    }

    /// The node's keyring, and what is wrong with files.
    pub(super) async fn read(&self) -> (Keyring, Vec<String>) {
        let candidates = self.candidates.clone();
        let read = self.fs.run("read the node's credential files", move || Ok(read_first(&candidates)));
        read.await.unwrap_or_else(|error| (Keyring::default(), vec![crate::logging::chain(&error)]))
    }
}

fn read_first(candidates: &[(PathBuf, Parse)]) -> (Keyring, Vec<String>) {
    let mut problems = Vec::new();
    for (path, parse) in candidates {
        let text = match read(path) {
            Ok(text) => text,
            Err(error) => {
                if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
                    problems.push(format!("{}: {error}", path.display()));
                }
                continue;
            }
        };
        let (config, mut wrong) = parse(&text);
        let unusable = config.is_empty() && !wrong.is_empty();
        let mut keyring = Keyring::default();
        wrong.extend(keyring.add(config));
        problems.extend(wrong.iter().map(|problem| format!("{}: {problem}", path.display())));
        if !unusable {
            return (keyring, problems);
        }
    }
    (Keyring::default(), problems)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let about = std::fs::metadata(path)?;
    // A pipe would be waited for, and neither it nor a directory is a credential file.
    if !about.is_file() || about.len() > SIZE_LIMIT {
        return Err(io::Error::other("not a credential file (not a regular file, or larger than 10 MiB)"));
    }
    std::fs::read(path)
}
