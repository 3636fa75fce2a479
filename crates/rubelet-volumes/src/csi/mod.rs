//! Volumes of CSI drivers: brought to the node once (staged), given to each pod that has them (published), and all of it
//! undone in the opposite order.
//!
//! [`Csi`] is the one entrance. It owns the drivers that have registered and what is known of each volume; the order of
//! calls, paths and `vol_data.json` are upstream's, so that a node with mounts of a kubelet is taken over by reading
//! them. Decisions are `rubelet_core::volumes`', the protocol is `rubelet_csi`'s.
//!
//! # What holds
//! - One operation at a time on a volume. It runs in a task of its own: who waits for it may give up at any moment, and
//!   the next one finds what came of it.
//! - Whatever may be there is on disk before a driver is asked for it, and goes from the disk after the driver has said
//!   that it is gone. An answer that leaves it open, or none, counts as done when taking down and as not done when
//!   setting up.
//! - Nothing is unstaged while memory, any pod's directory or the list of mounts knows a user.
//! - At rest there is no task, no timer and no call; what failed is asked for again no sooner than its back-off lets.

mod backoff;
mod disk;
mod drivers;
mod expand;
mod gather;
mod paths;
mod problem;
mod set_up;
mod state;
mod stats;
mod take_down;
mod vol_data;
mod work;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use rubelet_core::ids::PodUid;
use rubelet_csi::client::CallObserver;
use rubelet_csi::{CsiClient, CsiDeadlines, CsiError};
use rubelet_linux::fs_pool::{FsError, FsPool};

pub use self::paths::CsiPlaces;
pub use self::problem::{CsiCause, CsiProblem, CsiProblems, CsiStep};
use crate::group::Notices;
use crate::objects::{ObjectReader, VolumeApi};
use crate::tokens::TokenManager;
use crate::volumes::{ReadyVolume, VolumeWarning};
use drivers::Drivers;
use state::Table;

/// Name of upstream's plugin.
pub const CSI_PLUGIN: &str = "kubernetes.io/csi";

/// Is told of a driver that could not take a volume more although it had said so, by its name; must not block.
pub type TellFull = Arc<dyn Fn(&str) + Send + Sync>;

/// Wakes the worker of a pod whose volumes may be tried again. Must not block.
pub type WakePod = Arc<dyn Fn(&PodUid) + Send + Sync>;

/// Volumes of drivers. Cheap to clone.
#[derive(Clone)]
pub struct Csi(Arc<Shared>);

/// What all operations share.
struct Shared {
    places: CsiPlaces,
    fs: FsPool,
    objects: Option<Arc<dyn ObjectReader>>,
    api: Option<Arc<dyn VolumeApi>>,
    tokens: Option<Arc<TokenManager>>,
    observer: Option<CallObserver>,
    wake: Option<WakePod>,
    file_label: Option<String>,
    notices: Option<Notices>,
    full: Option<TellFull>,
    deadlines: CsiDeadlines,
    drivers: Drivers,
    table: Table,
    /// Volumes that wait to be unstaged, each by the task that does it. Bounded by the volumes that are staged.
    unstaging: Mutex<BTreeSet<String>>,
    /// Volumes whose statistics have been asked for and not been told yet.
    measuring: Mutex<BTreeSet<PathBuf>>,
}

impl std::fmt::Debug for Csi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Csi below {}", self.0.places.root.display())
    }
}

/// What [`Csi`] is made of.
pub struct CsiParts {
    /// Where and on which node.
    pub places: CsiPlaces,
    /// For everything that touches a path.
    pub fs: FsPool,
    /// Reads Secrets, claims and PersistentVolumes; none on a node without an API server.
    pub objects: Option<Arc<dyn ObjectReader>>,
    /// Everything else that has to do with the API; likewise.
    pub api: Option<Arc<dyn VolumeApi>>,
    /// Tokens of pods, for drivers that want them.
    pub tokens: Option<Arc<TokenManager>>,
    /// Is told of every call of a driver.
    pub observer: Option<CallObserver>,
    /// Is told of pods that waited for a driver, when it registers.
    pub wake: Option<WakePod>,
    /// Is told of a driver that could not take a volume more although it had said so.
    pub full: Option<TellFull>,
    /// SELinux label of files of containers on this node; none without SELinux.
    pub file_label: Option<String>,
    /// Is told when handing a volume to a pod's group takes long.
    pub notices: Option<Notices>,
    /// How long drivers may take.
    pub deadlines: CsiDeadlines,
}

impl CsiParts {
    /// The parts without which there is no CSI.
    pub fn new(places: CsiPlaces, fs: FsPool) -> Self {
        Self {
            places,
            fs,
            objects: None,
            api: None,
            tokens: None,
            observer: None,
            wake: None,
            full: None,
            file_label: None,
            notices: None,
            deadlines: CsiDeadlines::default(),
        }
    }
}

/// For whom a volume is set up.
#[derive(Clone, Copy, Debug)]
pub struct CsiUse<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its directory.
    pub pod_dir: &'a Path,
    /// The pod's name for the volume.
    pub name: &'a str,
    /// Its containers may only read the volume.
    pub read_only: bool,
    /// Namespace and name of the claim; none for an inline volume.
    pub claim: Option<(&'a str, &'a str)>,
    /// The time now.
    pub now: Timestamp,
}

/// A volume that a pod may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsiReady {
    /// Where it lies: the mount, or the link to the device.
    pub volume: ReadyVolume,
    /// When to set it up again at the latest: the driver wants that, or it may have to grow.
    pub refresh_at: Option<Timestamp>,
    /// What could not be brought up to date; the volume is as it was before.
    pub behind: Option<CsiProblem>,
    /// What else is to be told.
    pub warnings: Vec<VolumeWarning>,
}

impl Csi {
    /// Volumes of drivers of this node. Nothing is read or asked yet.
    pub fn new(parts: CsiParts) -> Self {
        let CsiParts {
            places,
            fs,
            objects,
            api,
            tokens,
            observer,
            wake,
            full,
            file_label,
            notices,
            deadlines,
        } = parts;
        Self(Arc::new(Shared {
            places,
            fs,
            objects,
            api,
            tokens,
            observer,
            wake,
            full,
            file_label,
            notices,
            deadlines,
            drivers: Drivers::default(),
            table: Table::default(),
            unstaging: Mutex::default(),
            measuring: Mutex::default(),
        }))
    }
}

impl Shared {
    fn client(&self, endpoint: &Path, name: &str) -> CsiClient {
        drivers::client(endpoint, name, self.deadlines, self.observer.as_ref())
    }
}

impl From<CsiError> for CsiCause {
    fn from(error: CsiError) -> Self {
        Self::Call { text: error.to_string(), finished: error.final_ }
    }
}

impl From<FsError> for CsiCause {
    fn from(error: FsError) -> Self {
        let mut text = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            text = format!("{text}: {source}");
        }
        Self::Node(text)
    }
}
