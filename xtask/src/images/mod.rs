//! The images that need no registry: the sandbox image and one small workload image.
//!
//! Owns their names and what is in them. Never talks to a runtime: it leaves archives in a folder. Called by
//! `cargo xtask images`, by the private containerd and by `make run`.

mod oci;
mod pause;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::host;
use crate::process::{command, output};
use oci::{Image, LayerBuilder};

/// The image of pod sandboxes.
pub(crate) const PAUSE: &str = "rubelet.local/pause:1";
/// The image of the sample pod and of the node tests.
pub(crate) const BUSYBOX: &str = "rubelet.local/busybox:1";

/// Archives that were built, in the order in which they should be imported.
pub(crate) struct Archives(pub(crate) Vec<Archive>);

/// One image archive, as `ctr images import` takes it.
pub(crate) struct Archive {
    /// The image's name in the archive.
    pub(crate) image: &'static str,
    /// The archive.
    pub(crate) path: PathBuf,
}

/// Where the archives of an earlier build are expected in `dir`.
pub(crate) fn archives_in(dir: &Path) -> Archives {
    Archives(vec![
        Archive { image: PAUSE, path: dir.join("pause.tar") },
        Archive { image: BUSYBOX, path: dir.join("busybox.tar") },
    ])
}

/// What the pause program is made of: archives that are newer than it are not made again.
pub(crate) fn pause_source() -> PathBuf {
    pause::source()
}

/// Where the archives are built when nobody says otherwise.
pub(crate) fn default_dir() -> PathBuf {
    host::repository().join("target/xtask/images")
}

/// Builds into `dir` the archives that are not there or older than what they are made of. Several builders at once do
/// no harm: each archive appears whole.
pub(crate) fn build(dir: &Path) -> Result<Archives> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let own = std::env::current_exe().context("cannot find this program")?;
    let archives = archives_in(dir);
    for archive in &archives.0 {
        match archive.image {
            PAUSE if is_newer(&archive.path, &[own.clone(), pause::source()]) => {}
            PAUSE => write_whole(&archive.path, &pause_image()?.archive(PAUSE)?)?,
            image => {
                let busybox = host::static_busybox()?;
                if !is_newer(&archive.path, &[own.clone(), busybox.clone()]) {
                    write_whole(&archive.path, &busybox_image(&busybox)?.archive(image)?)?;
                }
            }
        }
    }
    Ok(archives)
}

/// Whether `built` is there and newer than everything it is made of.
fn is_newer(built: &Path, parts: &[PathBuf]) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let Some(built) = changed(built) else { return false };
    parts.iter().all(|part| changed(part).is_some_and(|part| part < built))
}

/// Writes a file so that a reader sees all of it or the one before.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let part = path.with_extension(format!("part-{}", std::process::id()));
    fs::write(&part, bytes).with_context(|| format!("cannot write {}", part.display()))?;
    fs::rename(&part, path).with_context(|| format!("cannot write {}", path.display()))
}

fn pause_image() -> Result<Image> {
    let mut layer = LayerBuilder::new();
    layer.file("pause", 0o755, &pause::build()?)?;
    Ok(Image {
        layer: layer.finish()?,
        entrypoint: vec!["/pause".to_owned()],
        command: Vec::new(),
        // An unprivileged user and group, as the upstream sandbox image has.
        user: "65535:65535".to_owned(),
        working_dir: "/".to_owned(),
    })
}

fn busybox_image(busybox: &Path) -> Result<Image> {
    let applets = output(command([busybox]).arg("--list"))?;
    let binary = fs::read(busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
    busybox_layer(&binary, applets.lines()).map(|layer| Image {
        layer,
        entrypoint: Vec::new(),
        command: vec!["sh".to_owned()],
        user: String::new(),
        working_dir: "/".to_owned(),
    })
}

fn busybox_layer<'a>(binary: &[u8], applets: impl Iterator<Item = &'a str>) -> Result<Vec<u8>> {
    let mut layer = LayerBuilder::new();
    for (folder, mode) in [("bin", 0o755), ("etc", 0o755), ("home", 0o755), ("root", 0o700), ("tmp", 0o1777)]
    {
        layer.folder(folder, mode)?;
    }
    for (folder, mode) in [("usr", 0o755), ("var", 0o755), ("var/log", 0o755), ("www", 0o755)] {
        layer.folder(folder, mode)?;
    }
    layer.file("bin/busybox", 0o755, binary)?;
    let mut count = 0;
    for applet in applets.filter(|applet| !applet.is_empty() && *applet != "busybox") {
        layer.link(&format!("bin/{applet}"), "busybox")?;
        count += 1;
    }
    if count == 0 {
        bail!("busybox lists no applets");
    }
    layer.link("usr/bin", "../bin")?;
    layer.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    // `user` is in `extra` by the image, which is what supplementalGroupsPolicy Merge and Strict differ in.
    layer.file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\nextra:x:50000:user\nnogroup:x:65534:\n")?;
    layer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workload_image_has_its_programs_users_and_a_place_to_write() {
        let layer = busybox_layer(b"binary", ["busybox", "sh", "sleep", "[", ""].into_iter()).unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let seen: Vec<(String, u32, Option<String>)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let link = entry.link_name().unwrap().map(|name| name.display().to_string());
                (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap(), link)
            })
            .collect();
        for wanted in [
            ("tmp/", 0o1777, None),
            ("bin/busybox", 0o755, None),
            ("bin/sh", 0o777, Some("busybox")),
            ("bin/[", 0o777, Some("busybox")),
            ("etc/passwd", 0o644, None),
            ("etc/group", 0o644, None),
        ] {
            let wanted = (wanted.0.to_owned(), wanted.1, wanted.2.map(str::to_owned));
            assert!(seen.contains(&wanted), "{wanted:?} is missing in {seen:?}");
        }
        assert_eq!(seen.iter().filter(|(path, ..)| path == "bin/busybox").count(), 1);
    }

    #[test]
    fn an_archive_is_built_again_when_a_part_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (part, built) = (folder.path().join("part"), folder.path().join("built"));
        let write = |path: &Path, seconds: u64| {
            let file = fs::File::create(path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
        };
        write(&part, 10);
        assert!(!is_newer(&built, std::slice::from_ref(&part)), "nothing is built yet");
        write(&built, 20);
        assert!(is_newer(&built, std::slice::from_ref(&part)));
        write(&part, 30);
        assert!(!is_newer(&built, &[part]));
    }

    #[test]
    fn a_busybox_without_applets_is_refused() {
        assert!(busybox_layer(b"binary", ["busybox"].into_iter()).is_err());
    }
}
