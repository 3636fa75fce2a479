//! The pool for file system calls under the name the shell knows it by; it lives in `rubelet-linux`, where the
//! volumes use it too.

pub use rubelet_linux::fs_pool::{DEADLINE, FsError, FsPool};
