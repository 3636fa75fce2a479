//! Several containerd versions on one machine.
//!
//! Owns which Debian suite carries which version, and where its unpacked packages are cached. Nothing is installed.
//! Never starts a daemon. Called when a private containerd is started.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process::{command, need_program, output, step};
use crate::{containerd, debian, host};

/// A containerd to run against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Version {
    /// What the machine has installed.
    Installed,
    /// 1.6: config version 2, no container event stream.
    #[value(name = "1.6")]
    V1_6,
    /// 1.7: config version 2, with the container event stream.
    #[value(name = "1.7")]
    V1_7,
    /// 2.x: config version 3.
    #[value(name = "2")]
    V2,
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Installed => "installed",
            Self::V1_6 => "1.6",
            Self::V1_7 => "1.7",
            Self::V2 => "2",
        })
    }
}

impl Version {
    /// How a version of this line begins, and the Debian suite that carries it.
    fn line(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Installed => None,
            Self::V1_6 => Some(("1.6.", "bookworm")),
            Self::V1_7 => Some(("1.7.", "trixie")),
            Self::V2 => Some(("2.", "sid")),
        }
    }
}

/// The programs of one version.
pub(crate) struct Programs {
    pub(crate) version: String,
    pub(crate) containerd: PathBuf,
    pub(crate) ctr: PathBuf,
    pub(crate) runc: PathBuf,
    /// Where containerd finds the shim of its own version.
    pub(crate) folder: PathBuf,
}

impl Programs {
    /// Major and minor version, which decide how the configuration is spelled.
    pub(crate) fn line(&self) -> Result<(u32, u32)> {
        line(&self.version)
            .with_context(|| format!("containerd version {:?} is not understood", self.version))
    }
}

fn line(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Finds the programs of a version: installed, in the cache, or fetched.
pub(crate) fn provide(version: Version) -> Result<Programs> {
    let own = containerd::installed();
    let Some((prefix, suite)) = version.line() else { return programs(own?) };
    if let Ok(own) = own
        && containerd::containerd_version(&own)?.starts_with(prefix)
    {
        return programs(own);
    }
    let folder = host::cache_dir().join("containerd").join(suite);
    let cached = folder.join("usr/bin/containerd");
    if !cached.is_file() {
        step(&format!("fetching containerd {prefix}x from Debian {suite}"), || {
            debian::fetch(suite, &["containerd", "runc"], &folder, "usr/bin/containerd").context(
                "other containerd versions are Debian's: use the installed one instead (--version installed)",
            )
        })?;
    }
    let programs = programs(cached)?;
    if !programs.version.starts_with(prefix) {
        bail!(
            "Debian {suite} now carries containerd {} where {prefix}x was expected: move the version to another suite",
            programs.version
        );
    }
    Ok(programs)
}

fn programs(containerd: PathBuf) -> Result<Programs> {
    let folder = containerd.parent().map(Path::to_path_buf).unwrap_or_default();
    let beside = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
    Ok(Programs {
        version: containerd::containerd_version(&containerd)?,
        ctr: beside("ctr").map_or_else(|| need_program("ctr"), Ok)?,
        runc: runc_for(&folder)?,
        containerd,
        folder,
    })
}

/// The runc that came with the packages when it runs here (it may want a newer libc), else the machine's own.
fn runc_for(folder: &Path) -> Result<PathBuf> {
    let packaged = folder.join("../sbin/runc");
    if folder.starts_with(host::cache_dir())
        && packaged.is_file()
        && output(command([&packaged]).arg("--version")).is_ok()
    {
        return Ok(packaged.canonicalize()?);
    }
    need_program("runc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_lines_are_read_from_every_spelling() {
        for (version, wanted) in
            [("1.6.20~ds1", Some((1, 6))), ("2.1.9+unknown", Some((2, 1))), ("unknown", None)]
        {
            assert_eq!(line(version), wanted, "{version}");
        }
    }
}
