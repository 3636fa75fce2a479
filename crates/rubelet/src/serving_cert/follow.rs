//! Looks at files again when they may have changed: a hint of the kernel's, and once a minute for what gives none
//! (links into other directories, network file systems).
//!
//! Knows nothing of what is in the files: a [`Followed`] does. Tells of a problem once, and only when it lasts: two
//! files that belong together are rarely replaced at the same moment.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, select_all};
use rubelet_linux::watch::DirWatch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use crate::fs_pool::FsPool;

/// How often files are looked at without a hint.
const POLL: Duration = Duration::from_secs(60);
/// How long files that cannot be used are waited for before that is told.
const SETTLE: Duration = Duration::from_secs(2);
/// Pause before a directory that was replaced is watched anew.
const REWATCH: Duration = Duration::from_millis(50);

/// Something that is read from files.
pub(super) trait Followed: Send + 'static {
    /// What it is, for the log: "the serving certificate".
    fn name(&self) -> &'static str;
    /// Where it is read from.
    fn files(&self) -> Vec<PathBuf>;
    /// What it means that there is none, for the log.
    fn without(&self) -> &'static str;
    /// Reads the files and uses what is in them. Returns whether that is news; the error is why it cannot be used, and
    /// then what was used before still is.
    fn look(&mut self) -> impl Future<Output = Result<bool, String>> + Send;
}

/// Looks for the first time; then follows, unless `reload` is off. What could not be used is followed all the same.
pub(super) async fn begin(mut followed: impl Followed, fs: FsPool, reload: bool) -> BoxFuture<'static, ()> {
    let problem = followed.look().await.err();
    if let Some(problem) = &problem {
        error!("{} cannot be used, {}: {problem}", followed.name(), followed.without());
    }
    if reload || problem.is_some() {
        follow(followed, fs, problem).boxed()
    } else {
        std::future::pending().boxed()
    }
}

/// Follows for ever. `said` is the problem that was told already.
async fn follow(mut followed: impl Followed, fs: FsPool, mut said: Option<String>) {
    let mut watches = Watches::default();
    loop {
        watches.establish(&followed.files(), &fs).await;
        let mut found = followed.look().await;
        if let Err(problem) = &found
            && said.as_ref() != Some(problem)
        {
            sleep(SETTLE).await;
            found = followed.look().await;
        }
        match found {
            Ok(news) => {
                if news || said.is_some() {
                    info!("{} was read anew", followed.name());
                }
                said = None;
            }
            Err(problem) => {
                if said.as_ref() != Some(&problem) {
                    warn!("{} cannot be used, goes on with what was read before: {problem}", followed.name());
                    said = Some(problem);
                }
            }
        }
        watches.wait().await;
    }
}

/// Watches of directories, as far as there are any.
#[derive(Default)]
struct Watches(BTreeMap<PathBuf, DirWatch>);

impl Watches {
    /// Watches the directories of `files` that are not watched yet. One that cannot be watched is looked at less often.
    async fn establish(&mut self, files: &[PathBuf], fs: &FsPool) {
        for directory in files.iter().filter_map(|file| file.parent()) {
            if !self.0.contains_key(directory) {
                let (what, wanted) = (format!("watch {}", directory.display()), directory.to_owned());
                if let Ok(watch) = fs.run(what, move || DirWatch::new(&wanted)).await {
                    self.0.insert(directory.to_owned(), watch);
                }
            }
        }
    }

    /// Waits until something may have changed, or it is time to look.
    async fn wait(&mut self) {
        let until = Instant::now() + POLL;
        // Cancel safe: a timer, and watches whose events stay in the kernel.
        tokio::select! { biased;
            gone = self.changed() => {
                if let Some(gone) = gone {
                    self.0.remove(&gone);
                    sleep(REWATCH).await;
                }
            }
            () = sleep_until(until) => {}
        }
    }

    /// A directory that is gone, or nothing when something in one may have changed.
    async fn changed(&mut self) -> Option<PathBuf> {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let waits = self.0.iter_mut().map(|(directory, watch)| {
            async move {
                let changed: io::Result<()> = watch.changed().await;
                changed.err().map(|_| directory.clone())
            }
            .boxed()
        });
        select_all(waits).await.0
    }
}
