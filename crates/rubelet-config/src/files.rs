//! The one thin place where configuration touches the file system.
//!
//! Owns reading whole files and walking the drop-in directory; knows nothing about their content.
//! `load` takes it as a trait, so that tests and library users can bring files of their own.

use std::io;
use std::path::{Path, PathBuf};

/// Read access to configuration files.
pub trait Files {
    /// The bytes of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// All files below a directory, in the lexical order of Go's `filepath.WalkDir`:
    /// each directory's entries sorted by name, subdirectories in their place.
    fn walk(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;

    /// A path made absolute against the working directory.
    fn absolute(&self, path: &Path) -> io::Result<PathBuf>;
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFiles;

impl Files for OsFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn walk(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        walk_into(directory, &mut files)?;
        Ok(files)
    }

    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        std::path::absolute(path)
    }
}

fn walk_into(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries: Vec<std::fs::DirEntry> = std::fs::read_dir(directory)?.collect::<io::Result<_>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        // Links to directories are not followed, so a loop cannot occur.
        if entry.file_type()?.is_dir() {
            walk_into(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_in_lexical_order_into_subdirectories() {
        let root = tempfile::tempdir().expect("a temporary directory");
        for name in ["b/x.conf", "a.conf", "c.conf", "b/a.conf", "b.conf"] {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("directory");
            std::fs::write(path, name).expect("written");
        }
        let names: Vec<String> = OsFiles
            .walk(root.path())
            .expect("readable")
            .iter()
            .map(|path| path.strip_prefix(root.path()).expect("inside").display().to_string())
            .collect();
        assert_eq!(names, ["a.conf", "b/a.conf", "b/x.conf", "b.conf", "c.conf"]);
        assert_eq!(OsFiles.read(&root.path().join("a.conf")).expect("readable"), b"a.conf");
        assert!(OsFiles.walk(&root.path().join("missing")).is_err());
    }
}
