//! The two forms of a package: a `.deb` and a `.tar.gz`, from one list of files.
//!
//! Owns modes, owners and times in them, and what the package says of itself to dpkg. Both are packed by the system's
//! own programs. Called by `package` only.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::package::Release;
use crate::process::{command, run};

/// A file of the package.
pub(super) struct Entry {
    /// Where it goes, below the root of the file system.
    pub(super) path: String,
    mode: u32,
    content: Content,
}

enum Content {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl Entry {
    /// A program that is built.
    pub(super) fn program(path: &str, from: &Path) -> Self {
        Self { path: path.to_owned(), mode: 0o755, content: Content::File(from.to_owned()) }
    }

    /// A file of the repository.
    pub(super) fn file(path: &str, from: &Path) -> Self {
        Self { path: path.to_owned(), mode: 0o644, content: Content::File(from.to_owned()) }
    }

    /// What is made here.
    pub(super) fn text(path: &str, bytes: Vec<u8>) -> Self {
        Self { path: path.to_owned(), mode: 0o644, content: Content::Bytes(bytes) }
    }

    fn put(&self, root: &Path) -> Result<()> {
        let to = root.join(&self.path);
        match &self.content {
            Content::File(from) => {
                fs::create_dir_all(to.parent().unwrap_or(root))
                    .and_then(|()| fs::copy(from, &to))
                    .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
            }
            Content::Bytes(bytes) => write(&to, bytes)?,
        }
        set_mode(&to, self.mode)
    }
}

/// Lays the files out below a folder as they are to be installed.
fn lay_out(entries: &[Entry], root: &Path) -> Result<()> {
    set_mode(root, 0o755)?;
    entries.iter().try_for_each(|entry| entry.put(root))
}

fn write(to: &Path, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))
        .and_then(|()| fs::write(to, bytes))
        .with_context(|| format!("cannot write {}", to.display()))
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

/// A tarball of one folder with the tree in it, to be unpacked over the root or anywhere else.
pub(super) fn tarball(release: &Release, entries: &[Entry], out: &Path) -> Result<PathBuf> {
    let staging = tempfile::tempdir().context("cannot create a folder to pack in")?;
    let name = format!("rubelet-{}", release.version);
    let tree = staging.path().join(&name);
    fs::create_dir(&tree).context("cannot create a folder to pack in")?;
    lay_out(entries, &tree)?;
    let made = out.join(format!("{name}-linux-{}.tar.gz", release.architecture));
    run(command(["tar", "--create", "--sort=name", "--owner=root:0", "--group=root:0", "--mode=u+rw,go-w"])
        // gzip would note when and from which file.
        .args(["--use-compress-program=gzip -9 --no-name"])
        .arg(format!("--mtime=@{}", release.epoch))
        .arg("--directory")
        .arg(staging.path())
        .arg("--file")
        .arg(std::path::absolute(&made).context("there is no working directory")?)
        .arg(&name))?;
    Ok(made)
}

/// A package for dpkg, with the scripts in `packaging`.
pub(super) fn deb(
    release: &Release,
    glibc: Option<&str>,
    packaging: &Path,
    entries: &[Entry],
    out: &Path,
) -> Result<PathBuf> {
    let staging = tempfile::tempdir().context("cannot create a folder to pack in")?;
    let tree = staging.path();
    lay_out(entries, tree)?;
    let size: u64 = entries
        .iter()
        .map(|entry| fs::metadata(tree.join(&entry.path)).map_or(0, |file| file.len().div_ceil(1024)))
        .sum();
    write(&tree.join("DEBIAN/control"), control(release, glibc, size).as_bytes())?;
    write(&tree.join("DEBIAN/conffiles"), conffiles(entries).as_bytes())?;
    for script in ["postinst", "prerm", "postrm"] {
        let to = tree.join("DEBIAN").join(script);
        fs::copy(packaging.join(script), &to).with_context(|| format!("cannot copy {script}"))?;
        set_mode(&to, 0o755)?;
    }
    let made = out.join(format!("rubelet_{}_{}.deb", release.version, release.architecture));
    run(command(["dpkg-deb", "--root-owner-group", "-Zxz", "--build"])
        .args([tree, &made])
        .env("SOURCE_DATE_EPOCH", &release.epoch))?;
    Ok(made)
}

/// What dpkg asks about before it replaces it.
fn conffiles(entries: &[Entry]) -> String {
    entries.iter().filter(|entry| entry.path.starts_with("etc/")).map(|e| format!("/{}\n", e.path)).collect()
}

/// What the package says of itself; the size is in KiB.
fn control(release: &Release, glibc: Option<&str>, size: u64) -> String {
    let depends = glibc.map_or_else(String::new, |version| format!("Depends: libc6 (>= {version}), mount\n"));
    format!(
        "Package: rubelet\n\
         Version: {}\n\
         Architecture: {}\n\
         Maintainer: The Rubelet authors <rubelet@localhost>\n\
         Installed-Size: {size}\n\
         Section: admin\n\
         Priority: optional\n\
         {depends}\
         Recommends: containerd | containerd.io, containernetworking-plugins | kubernetes-cni, iptables\n\
         Suggests: nfs-common\n\
         Description: node agent of Kubernetes\n \
         Runs pods on a container runtime, as a node of a cluster in the place of\n \
         the kubelet, or on its own with an API that plain kubectl talks to.\n",
        release.version, release.architecture
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        vec![
            Entry::text("etc/rubelet/config.yaml", b"kind: KubeletConfiguration\n".to_vec()),
            Entry { mode: 0o755, ..Entry::text("usr/bin/rubelet", b"#!/bin/sh\n".to_vec()) },
        ]
    }

    fn release() -> Release {
        Release { version: "1.2.3", architecture: "amd64", epoch: "1700000000".to_owned() }
    }

    /// The scripts as they are, and what dpkg and tar read of what was packed.
    #[test]
    fn both_packages_hold_the_files_and_are_the_same_every_time() {
        let packaging = crate::host::repository().join("packaging");
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let made = [&first, &second].map(|out| {
            let tarball = tarball(&release(), &entries(), out.path()).unwrap();
            let deb = deb(&release(), Some("2.34"), &packaging, &entries(), out.path()).unwrap();
            [tarball, deb]
        });
        for (a, b) in made[0].iter().zip(&made[1]) {
            assert_eq!(fs::read(a).unwrap(), fs::read(b).unwrap(), "{}", a.display());
        }
        let [tarball, deb] = &made[0];
        let listed = crate::process::output(command(["tar", "-tvf"]).arg(tarball)).unwrap();
        assert!(listed.contains("-rwxr-xr-x root/root"), "{listed}");
        assert!(listed.contains("rubelet-1.2.3/etc/rubelet/config.yaml"), "{listed}");
        let listed = crate::process::output(command(["dpkg-deb", "--contents"]).arg(deb)).unwrap();
        assert!(listed.contains("-rwxr-xr-x root/root"), "{listed}");
        let told = crate::process::output(command(["dpkg-deb", "--info"]).arg(deb)).unwrap();
        for line in ["Version: 1.2.3", "Depends: libc6 (>= 2.34), mount", "Architecture: amd64"] {
            assert!(told.contains(line), "{line} is missing in:\n{told}");
        }
        assert_eq!(conffiles(&entries()), "/etc/rubelet/config.yaml\n");
    }
}
