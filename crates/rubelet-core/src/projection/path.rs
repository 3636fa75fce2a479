//! Paths of files in a volume. Owns the rules of upstream's `validatePath` (atomic writer); sees no file system.

/// Longest path in a volume, bytes.
const MAX_PATH: usize = 4096;
/// Longest file name, bytes.
const MAX_NAME: usize = 255;

/// A path that no volume may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing is left of it.
    #[error("invalid path: must not be empty: {0:?}")]
    Empty(String),
    /// It starts at the root.
    #[error("invalid path: must be relative path: {0}")]
    Absolute(String),
    /// It is too long.
    #[error("invalid path: must be less than or equal to {MAX_PATH} characters")]
    TooLong,
    /// One of its names is too long.
    #[error("invalid path: filenames must be less than or equal to {MAX_NAME} characters")]
    NameTooLong,
    /// It goes up.
    #[error("invalid path: must not contain '..': {0}")]
    Up(String),
    /// Names that start so are the writer's own.
    #[error("invalid path: must not start with '..': {0}")]
    Reserved(String),
    /// No file can be called so.
    #[error("invalid path: must not contain a null byte: {0:?}")]
    Null(String),
}

/// The path without empty and `.` parts, if it may be in a volume.
pub fn clean_path(path: &str) -> Result<String, PathError> {
    let refused = || path.to_owned();
    if path.starts_with('/') {
        return Err(PathError::Absolute(refused()));
    }
    if path.len() > MAX_PATH {
        return Err(PathError::TooLong);
    }
    if path.contains('\0') {
        return Err(PathError::Null(refused()));
    }
    let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    if names.contains(&"..") {
        return Err(PathError::Up(refused()));
    }
    if names.iter().any(|name| name.len() > MAX_NAME) {
        return Err(PathError::NameTooLong);
    }
    match names.first() {
        None => Err(PathError::Empty(refused())),
        Some(first) if first.starts_with("..") => Err(PathError::Reserved(refused())),
        Some(_) => Ok(names.join("/")),
    }
}
