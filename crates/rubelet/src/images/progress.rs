//! How far pulls under way are, for those who wait for one. Nothing is asked of the runtime unless somebody asks
//! here; all who wait for one pull share a look, and a runtime that cannot tell is asked once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rubelet_core::explain::PullStage;
use rubelet_core::pull_progress::PullMeter;
use rubelet_cri::{CriErrorKind, PullWatch};
use tokio::time::Instant;

/// How long a look is good for all who ask.
const FRESH: Duration = Duration::from_secs(4);

/// What looks at the runtime's downloads, and the order in which pulls were asked for.
#[derive(Default)]
pub(super) struct Watching {
    watch: Option<Arc<dyn PullWatch>>,
    /// The runtime has said that it cannot tell.
    silent: AtomicBool,
    next: AtomicU64,
}

/// One pull, as it is followed.
pub(super) struct Follow {
    /// Its place among all pulls.
    pub(super) place: u64,
    began: OnceLock<Instant>,
    looked: tokio::sync::Mutex<Looked>,
}

/// What the last look came to.
struct Looked {
    meter: PullMeter,
    at: Option<Instant>,
    stage: PullStage,
}

impl Watching {
    pub(super) fn new(watch: Option<Arc<dyn PullWatch>>) -> Self {
        Self { watch, ..Self::default() }
    }

    /// Follows a pull that is asked for now.
    pub(super) fn follow(&self, image: &str) -> Arc<Follow> {
        let looked = Looked { meter: PullMeter::new(image), at: None, stage: PullStage::Pulling };
        Arc::new(Follow {
            place: self.next.fetch_add(1, Ordering::Relaxed),
            began: OnceLock::new(),
            looked: tokio::sync::Mutex::new(looked),
        })
    }

    /// How far a pull is that has begun: what was seen last, or a look at what is being downloaded.
    pub(super) async fn stage(&self, image: &str, follow: &Follow) -> PullStage {
        let Some(watch) = self.watch.as_ref().filter(|_| !self.silent.load(Ordering::Relaxed)) else {
            return PullStage::Pulling;
        };
        let mut looked = follow.looked.lock().await;
        if looked.at.is_some_and(|at| at.elapsed() < FRESH) {
            return looked.stage.clone();
        }
        let answer = watch.look(image, looked.meter.manifest()).await;
        let now = Instant::now();
        looked.at = Some(now);
        looked.stage = match answer {
            Ok(look) => {
                let age = follow.began.get().map_or(Duration::ZERO, |began| now - *began);
                looked.meter.read(&look, age).map_or(PullStage::Quiet, PullStage::Downloading)
            }
            Err(error) => {
                if error.kind == CriErrorKind::Unimplemented {
                    self.silent.store(true, Ordering::Relaxed);
                }
                PullStage::Pulling
            }
        };
        looked.stage.clone()
    }
}

impl Follow {
    /// The pull has got its place.
    pub(super) fn begin(&self, now: Instant) {
        let _ = self.began.set(now);
    }

    /// Whether it has got its place.
    pub(super) fn has_begun(&self) -> bool {
        self.began.get().is_some()
    }
}
