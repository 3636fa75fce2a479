//! Writing a file that holds a secret: whole or not at all, and readable by its owner alone.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Replaces `path` by a file of mode 0600 with these contents, on disk when this returns. Whoever reads sees
/// the old file or the new one. A link is followed, so that the file it points at is the one replaced.
pub fn replace_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut temporary = target.as_os_str().to_owned();
    temporary.push(".new");
    replace_private_by(&PathBuf::from(temporary), &target, contents)
}

/// The same by a given temporary file in the same directory, which a crash may leave behind and the next call
/// overwrites.
pub(crate) fn replace_private_by(temporary: &Path, target: &Path, contents: &[u8]) -> io::Result<()> {
    write_private(temporary, contents)?;
    fs::rename(temporary, target)?;
    sync_directory_of(target)
}

/// Writes a file of mode 0600, on disk when this returns; what was there before is overwritten.
fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    // The mode above only counts for a new file.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(contents)?;
    file.sync_all()
}

/// Makes renames in the directory of `path` durable.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}
