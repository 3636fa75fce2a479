//! The records on disk.
