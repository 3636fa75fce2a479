//! `cargo xtask package`: the agent as a Debian package and as a tarball.
//!
//! Owns what is in a package and where it goes: the program, its systemd units and first configuration, manual page,
//! shell completions, documents, the notices of the crates in it and the list of them (SBOM). Never installs anything.
//! The same sources give the same bytes: times are the last commit's. Called by people who make a release, see
//! docs/install.md.

mod archives;
mod components;
mod notices;
mod pages;
mod sbom;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::host;
use crate::process::{command, output, say, step};
use crate::programs;
use archives::Entry;

/// How to package.
#[derive(Debug, clap::Args)]
pub(crate) struct PackageOptions {
    /// Where the packages go.
    #[arg(long, default_value = "target/package")]
    out: PathBuf,
    /// The cargo profile the agent is built with.
    #[arg(long, default_value = "release")]
    profile: String,
}

/// What packages of this version are called by.
struct Release {
    version: &'static str,
    /// Debian's name of the architecture.
    architecture: &'static str,
    /// When the sources were committed, in seconds since 1970: every file's time.
    epoch: String,
}

/// Builds both packages and prints where they are.
pub(crate) fn package(options: &PackageOptions) -> Result<()> {
    let root = host::repository();
    let release = Release {
        version: env!("CARGO_PKG_VERSION"),
        architecture: architecture()?,
        epoch: commit_time(&root)?,
    };
    let agent = step(&format!("building the agent (profile {})", options.profile), || {
        programs::build("rubelet", &options.profile)
    })?;
    let entries = step("collecting what goes with it", || contents(&root, &agent))?;
    fs::create_dir_all(&options.out).with_context(|| format!("cannot create {}", options.out.display()))?;
    let glibc = glibc_needed(&fs::read(&agent).with_context(|| format!("cannot read {}", agent.display()))?);
    for made in [
        step("packing the tarball", || archives::tarball(&release, &entries, &options.out))?,
        step("packing the Debian package", || {
            archives::deb(&release, glibc.as_deref(), &root.join("packaging"), &entries, &options.out)
        })?,
    ] {
        let size = fs::metadata(&made).with_context(|| format!("{} is not there", made.display()))?.len();
        say(&format!("{} ({:.1} MiB)", made.display(), mebibytes(size)));
        println!("{}", made.display());
    }
    Ok(())
}

/// For people.
fn mebibytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0
}

fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("there is no Debian name for {other} here: add it to xtask/src/package"),
    }
}

fn commit_time(root: &Path) -> Result<String> {
    let time = output(command(["git", "log", "-1", "--format=%ct"]).current_dir(root))?;
    Ok(time.trim().to_owned())
}

/// Everything that is installed.
fn contents(root: &Path, agent: &Path) -> Result<Vec<Entry>> {
    let packaging = root.join("packaging");
    let components = components::of_agent(root)?;
    let words = |arguments: &[&str]| output(command([agent.as_os_str()]).args(arguments));
    let cli = pages::command_line(&words(&["--help"])?, &words(&["local", "--help"])?)?;
    let mut entries = vec![
        Entry::program("usr/bin/rubelet", agent),
        Entry::file("usr/lib/systemd/system/rubelet.service", &packaging.join("rubelet.service")),
        Entry::file("usr/lib/systemd/system/rubelet-local.service", &packaging.join("rubelet-local.service")),
        Entry::file("etc/rubelet/config.yaml", &packaging.join("config.yaml")),
        Entry::file("etc/default/rubelet", &packaging.join("default")),
        Entry::text("usr/share/bash-completion/completions/rubelet", pages::completion(&cli, "bash")?),
        Entry::text("usr/share/zsh/vendor-completions/_rubelet", pages::completion(&cli, "zsh")?),
        Entry::text("usr/share/fish/vendor_completions.d/rubelet.fish", pages::completion(&cli, "fish")?),
    ];
    for (name, page) in pages::manuals(&cli)? {
        entries.push(Entry::text(&format!("usr/share/man/man8/{name}.gz"), gzip(&page)?));
    }
    let mut document =
        |name: &str, bytes| entries.push(Entry::text(&format!("usr/share/doc/rubelet/{name}"), bytes));
    document("copyright", notices::copyright(&components).into_bytes());
    document("third-party-notices.gz", gzip(notices::notices(&components)?.as_bytes())?);
    document("sbom.cdx.json", sbom::cyclonedx(&components)?.into_bytes());
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    document("changelog.gz", gzip(&read(&root.join("CHANGELOG.md"))?)?);
    document("README.md", read(&root.join("README.md"))?);
    document("examples/10-kubeadm.conf", read(&packaging.join("10-kubeadm.conf"))?);
    document("examples/hello.yaml", read(&root.join("examples/hello.yaml"))?);
    for entry in fs::read_dir(root.join("docs")).context("cannot read docs")? {
        let path = entry.context("cannot read docs")?.path();
        if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && path.is_file()
        {
            document(&format!("docs/{name}"), read(&path)?);
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// As Debian wants documents: the smallest, and without a time in it.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut child = command(["gzip", "-9", "--no-name", "--stdout"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start gzip")?;
    let mut stdin = child.stdin.take().context("gzip takes no input")?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || stdin.write_all(bytes));
        let output = child.wait_with_output().context("gzip failed")?;
        writer.join().ok().context("gzip was not fed")?.context("gzip does not read")?;
        if !output.status.success() {
            bail!("gzip ended with {}", output.status);
        }
        Ok(output.stdout)
    })
}

/// The oldest C library that a program runs with: the newest version that it names.
fn glibc_needed(program: &[u8]) -> Option<String> {
    const MARK: &[u8] = b"GLIBC_2.";
    let minor = |at: usize| -> Option<u32> {
        let digits: Vec<u8> =
            program.get(at + MARK.len()..)?.iter().copied().take_while(u8::is_ascii_digit).take(4).collect();
        std::str::from_utf8(&digits).ok()?.parse().ok()
    };
    let newest = (0..program.len().saturating_sub(MARK.len()))
        .filter(|at| program[*at] == b'G' && program[*at..].starts_with(MARK))
        .filter_map(minor)
        .max()?;
    Some(format!("2.{newest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_named_is_what_is_needed() {
        for (program, needed) in [
            (&b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0"[..], Some("2.34")),
            (b"GLIBC_2.", None),
            (b"GLIBC_PRIVATE", None),
            (b"", None),
        ] {
            assert_eq!(glibc_needed(program).as_deref(), needed);
        }
    }

    #[test]
    fn what_is_packed_can_be_unpacked() {
        let packed = gzip(&[7; 300_000]).unwrap();
        assert!(packed.len() < 3000);
        assert_eq!(packed[..2], [0x1f, 0x8b]);
    }
}
