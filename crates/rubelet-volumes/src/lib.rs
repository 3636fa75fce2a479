//! What a pod can mount: each kind with its own file, volumes of CSI drivers, sub-paths, the atomic writer below those
//! that show API data, and the journal of what is mounted for whom.
//!
//! [`Volumes`] is the one entrance. Decisions (which files, which modes, when a token is renewed) are
//! `rubelet_core::projection`'s; this crate gathers and does. It never speaks to the API server: the shell gives it an
//! [`ObjectReader`] and a [`TokenSource`].

pub mod atomic;
mod claims;
pub mod csi;
mod error;
mod group;
mod journal;
mod kinds;
mod layout;
mod measured;
mod objects;
mod sub_paths;
mod tokens;
mod volumes;

pub use error::{Problem, VolumeError, VolumeErrors};
pub use group::Notices;
pub use journal::{MountEntry, MountJournal, MountSource, MountState};
pub use kinds::tmpfs::Tmpfs;
pub use measured::{DriverVolume, MeasuredVolume};
pub use objects::{ObjectReader, VolumeApi};
pub use sub_paths::SubPathProblem;
pub use tokens::{CurrentToken, TokenError, TokenManager, TokenSource};
pub use volumes::pending::remaining_volumes;
pub use volumes::{
    MountedVolumes, ReadyVolume, Steps, TearDownError, TearDownErrors, VolumeFacts, VolumeObserver,
    VolumeOperation, VolumePaths, VolumeWarning, Volumes,
};
