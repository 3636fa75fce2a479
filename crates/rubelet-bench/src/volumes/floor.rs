//! The bare work below volumes: directories, tmpfs mounts, files swapped in by a link, `chown -R`. Nothing is checked,
//! shared or remembered. Called by the plan of the volumes' part.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tokio::time::Instant;

use super::objects::Eight;

/// Files of one directory of a tree.
const PER_DIRECTORY: usize = 100;

/// Makes the directories, mounts and files of eight volumes and takes them away; seconds that making them took.
pub(super) fn eight_volumes(dir: &Path, eight: Eight) -> Result<f64> {
    fs::create_dir_all(dir)?;
    let began = Instant::now();
    let volumes: Vec<_> = (0..8).map(|number| dir.join(format!("v{number}"))).collect();
    for (number, volume) in volumes.iter().enumerate() {
        fs::create_dir(volume)?;
        if number < eight.in_memory() {
            rubelet_linux::mounts::mount_tmpfs(volume, None, 0o1777, None)
                .with_context(|| format!("cannot mount {}", volume.display()))?;
        }
    }
    for number in 0..eight.files() {
        write_set(&volumes[number % 6], "value")?;
    }
    let took = began.elapsed().as_secs_f64();
    for volume in volumes.iter().take(eight.in_memory()) {
        rubelet_linux::mounts::unmount(volume)?;
    }
    fs::remove_dir_all(dir)?;
    Ok(took)
}

/// Writes files anew beside the present ones and swaps them in; seconds.
pub(super) fn change(dir: &Path, number: usize) -> Result<f64> {
    fs::create_dir_all(dir)?;
    let began = Instant::now();
    write_set(dir, &number.to_string())?;
    Ok(began.elapsed().as_secs_f64())
}

/// Two files in a directory of their own, to which a link is renamed; what it led to before is removed.
fn write_set(dir: &Path, text: &str) -> Result<()> {
    let data = dir.join("..data");
    let before = fs::read_link(&data).ok();
    let name = if before.as_deref() == Some(Path::new("..1")) { "..2" } else { "..1" };
    let set = dir.join(name);
    fs::create_dir(&set)?;
    for file in ["key", "other"] {
        fs::write(set.join(file), text)?;
    }
    let link = dir.join("..data_tmp");
    symlink(name, &link)?;
    fs::rename(&link, &data)?;
    if let Some(before) = before {
        fs::remove_dir_all(dir.join(before))?;
    }
    Ok(())
}

/// Makes so many empty files.
pub(super) fn make_tree(dir: &Path, files: usize) -> Result<()> {
    for number in 0..files {
        let folder = dir.join(format!("d{}", number / PER_DIRECTORY));
        if number % PER_DIRECTORY == 0 {
            fs::create_dir_all(&folder)?;
        }
        fs::File::create(folder.join(format!("f{number}")))?;
    }
    Ok(())
}

/// `chown -R` to a group; seconds.
pub(super) fn hand_over(dir: &Path, group: u32) -> Result<f64> {
    timed(&["chown", "-R", &format!(":{group}")], dir)
}

/// `chmod -R` as a volume's group needs it; seconds.
pub(super) fn open(dir: &Path) -> Result<f64> {
    timed(&["chmod", "-R", "g+rwX"], dir)
}

fn timed(words: &[&str], dir: &Path) -> Result<f64> {
    let began = Instant::now();
    let mut command = Command::new(words[0]);
    let status = command.args(&words[1..]).arg(dir).stdin(Stdio::null()).status()?;
    if !status.success() {
        bail!("{words:?} {} ended with {status}", dir.display());
    }
    Ok(began.elapsed().as_secs_f64())
}

/// Fails unless the tree, by its root and one of its files, belongs to that group.
pub(super) fn must_be_of(dir: &Path, group: u32) -> Result<()> {
    for path in [dir.to_owned(), dir.join("d0/f0")] {
        let found = fs::metadata(&path)?.gid();
        if found != group {
            bail!("{} belongs to group {found}, not to {group}: nothing was measured", path.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_swapped_and_trees_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("set");
        for number in 0..3 {
            change(&root, number).unwrap();
            assert_eq!(fs::read_to_string(root.join("..data/key")).unwrap(), number.to_string());
            assert_eq!(fs::read_dir(&root).unwrap().count(), 2, "one set and the link");
        }
        let tree = dir.path().join("tree");
        make_tree(&tree, 101).unwrap();
        assert!(tree.join("d0/f99").is_file() && tree.join("d1/f100").is_file());
        let own = fs::metadata(&tree).unwrap().gid();
        hand_over(&tree, own).unwrap();
        open(&tree).unwrap();
        must_be_of(&tree, own).unwrap();
        assert!(must_be_of(&tree, own + 1).is_err());
    }
}
