//! hostPath: a path of the node, checked against its type. Never removed.

use std::fs::{self, DirBuilder, FileType};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use crate::error::Problem;

/// The types there are.
const KINDS: [&str; 8] =
    ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];

/// A path and what has to be there.
#[derive(Debug)]
pub(crate) struct HostPathPlan {
    pub(super) path: PathBuf,
    kind: String,
}

impl HostPathPlan {
    /// Plans it.
    pub(super) fn of(source: &HostPathVolumeSource) -> Self {
        Self { path: PathBuf::from(&source.path), kind: source.type_.clone().unwrap_or_default() }
    }

    /// Checks it, and makes what an `…OrCreate` type asks for.
    pub(super) fn set_up(&self) -> io::Result<Result<(), Problem>> {
        if !KINDS.contains(&self.kind.as_str()) {
            return Ok(Err(Problem::HostPathUnknownType(self.kind.clone())));
        }
        let fits = check_host_path(&self.path, &self.kind)?;
        Ok(fits.map_err(|wanted| Problem::HostPathType { path: self.path.display().to_string(), wanted }))
    }
}

/// Checks a hostPath against its type (upstream `host_path.go`), creating what `…OrCreate` asks for.
fn check_host_path(path: &Path, kind: &str) -> io::Result<Result<(), &'static str>> {
    let is = |test: fn(&FileType) -> bool| match fs::metadata(path) {
        Ok(found) => Ok(test(&found.file_type())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(error) => Err(error),
    };
    let (fits, wanted): (bool, _) = match kind {
        "" => (true, ""),
        "DirectoryOrCreate" => {
            if !path.exists() {
                DirBuilder::new().recursive(true).mode(0o755).create(path)?;
            }
            (is(FileType::is_dir)?, "a directory")
        }
        "Directory" => (is(FileType::is_dir)?, "a directory"),
        "FileOrCreate" => {
            if !path.exists() {
                fs::File::create(path)?.set_permissions(fs::Permissions::from_mode(0o644))?;
            }
            (is(FileType::is_file)?, "a file")
        }
        "File" => (is(FileType::is_file)?, "a file"),
        "Socket" => (is(FileType::is_socket)?, "a socket file"),
        "CharDevice" => (is(FileType::is_char_device)?, "a character device"),
        "BlockDevice" => (is(FileType::is_block_device)?, "a block device"),
        _ => (false, "of a known type"),
    };
    Ok(if fits { Ok(()) } else { Err(wanted) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("dir")).unwrap();
        fs::write(root.path().join("file"), "x").unwrap();
        let shown = root.path().display().to_string();
        let check = |path: &str, kind: &str, expected: Result<(), &str>| {
            let path = path.replace("ROOT", &shown);
            let source = HostPathVolumeSource { path: path.clone(), type_: Some(kind.to_owned()) };
            let done = HostPathPlan::of(&source).set_up().unwrap();
            let expected =
                expected.map_err(|wanted| format!("hostPath type check failed: {path} is not {wanted}"));
            assert_eq!(done.map_err(|problem| problem.to_string()), expected, "{path} {kind}");
        };
        check("ROOT/nothing", "", Ok(()));
        check("ROOT/new/deep", "DirectoryOrCreate", Ok(()));
        check("ROOT/new-file", "FileOrCreate", Ok(()));
        assert!(root.path().join("new/deep").is_dir() && root.path().join("new-file").is_file());
        check("ROOT/dir", "Directory", Ok(()));
        check("ROOT/file", "File", Ok(()));
        check("ROOT/file", "Directory", Err("a directory"));
        check("ROOT/file/below", "Directory", Err("a directory"));
        check("ROOT/dir", "File", Err("a file"));
        check("ROOT/file", "Socket", Err("a socket file"));
        check("/dev/null", "CharDevice", Ok(()));
        check("/dev/null", "BlockDevice", Err("a block device"));
        let unheard = HostPathVolumeSource { path: shown, type_: Some("Unheard".to_owned()) };
        let done = HostPathPlan::of(&unheard).set_up().unwrap();
        assert_eq!(done.unwrap_err().to_string(), "Unheard is an invalid volume type");
    }
}
