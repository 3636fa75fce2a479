//! Reads `--image-credential-provider-config`, a file or a directory of them, and checks that the plugins are
//! there. Only at start: a change takes a restart, as upstream. What a valid document is, core says.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rubelet_config::GoDuration;
use rubelet_core::image_credentials::{ProviderConfig, ProviderDocument};

/// The two flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderFiles {
    /// `--image-credential-provider-config`: a file, or a directory whose `*.json`, `*.yaml` and `*.yml` are merged
    /// in the order of their names.
    pub config: PathBuf,
    /// `--image-credential-provider-bin-dir`.
    pub bin_dir: PathBuf,
}

/// Why there are no plugins to run.
#[derive(Debug, thiserror::Error)]
pub enum ProviderConfigError {
    /// Something cannot be read.
    #[error("image credential providers: cannot read {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory without configuration.
    #[error(
        "image credential providers: {} holds no *.json, *.yaml or *.yml file; write a CredentialProviderConfig there",
        .0.display()
    )]
    EmptyDirectory(PathBuf),
    /// A file is no such document.
    #[error("image credential providers: {}: {problem}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        problem: String,
    },
    /// A file has fields that are wrong.
    #[error("image credential providers: {}: {problems}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Each with its field.
        problems: String,
    },
    /// Two files name the same provider.
    #[error(
        "image credential providers: {name:?} is in both {} and {}; remove one",
        first.display(), second.display()
    )]
    Duplicate {
        /// Name of the provider.
        name: String,
        /// A file.
        first: PathBuf,
        /// Another.
        second: PathBuf,
    },
    /// A plugin is not an executable file.
    #[error(
        "image credential providers: {name:?} of {}: {} is {problem}; install it there or set --image-credential-provider-bin-dir",
        config.display(), path.display()
    )]
    NoPlugin {
        /// Name of the provider.
        name: String,
        /// The file that names it.
        config: PathBuf,
        /// Where it should be.
        path: PathBuf,
        /// What is there instead.
        problem: String,
    },
}

/// The plugins of all files in their order, with the path of their executable.
pub(super) fn load(
    files: &ProviderFiles,
    tokens_allowed: bool,
) -> Result<Vec<(PathBuf, ProviderConfig)>, ProviderConfigError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| ProviderConfigError::Read { path, source }
    };
    std::fs::metadata(&files.bin_dir).map_err(read(&files.bin_dir))?;
    let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut plugins = Vec::new();
    for path in documents(&files.config)? {
        let text = std::fs::read_to_string(&path).map_err(read(&path))?;
        for config in parse(&path, &text, tokens_allowed)? {
            if let Some(first) = seen.insert(config.name.clone(), path.clone()) {
                return Err(ProviderConfigError::Duplicate { name: config.name, first, second: path });
            }
            let executable = files.bin_dir.join(&config.name);
            check_executable(&config.name, &path, &executable)?;
            plugins.push((executable, config));
        }
    }
    Ok(plugins)
}

/// The file itself, or the files of a directory by name.
fn documents(config: &Path) -> Result<Vec<PathBuf>, ProviderConfigError> {
    let failed = |source| ProviderConfigError::Read { path: config.to_owned(), source };
    if !std::fs::metadata(config).map_err(failed)?.is_dir() {
        return Ok(vec![config.to_owned()]);
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(config).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let known = path.extension().is_some_and(|end| end == "json" || end == "yaml" || end == "yml");
        if known && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        return Err(ProviderConfigError::EmptyDirectory(config.to_owned()));
    }
    Ok(paths)
}

fn parse(path: &Path, text: &str, tokens_allowed: bool) -> Result<Vec<ProviderConfig>, ProviderConfigError> {
    // The lines around the place are left out: arguments and variables may be secret.
    let document: ProviderDocument = serde_saphyr::from_str(text).map_err(|error| {
        ProviderConfigError::Decode { path: path.to_owned(), problem: error.without_snippet().to_string() }
    })?;
    document
        .validate(tokens_allowed, |text| match text.parse::<GoDuration>() {
            Ok(duration) => Ok(duration.as_nanos()),
            Err(error) => Err(format!("{text:?} is not a duration: {error}")),
        })
        .map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            ProviderConfigError::Invalid { path: path.to_owned(), problems: problems.join("; ") }
        })
}

fn check_executable(name: &str, config: &Path, path: &Path) -> Result<(), ProviderConfigError> {
    let problem = match std::fs::metadata(path) {
        Ok(about) if about.is_dir() => "a directory".to_owned(),
        Ok(about) if about.permissions().mode() & 0o111 == 0 => "not executable".to_owned(),
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "missing".to_owned(),
        Err(error) => format!("not readable ({error})"),
    };
    Err(ProviderConfigError::NoPlugin {
        name: name.to_owned(),
        config: config.to_owned(),
        path: path.to_owned(),
        problem,
    })
}
