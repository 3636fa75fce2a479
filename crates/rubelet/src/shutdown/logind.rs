//! How logind is reached: over the system's bus, with the drop-in file that lets it wait longer.

use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;
use rubelet_linux::record;
use rubelet_systemd::{Bus, ShutdownSignals};
use tracing::warn;

use crate::fs_pool::FsPool;

/// The drop-in file, the same as upstream's.
const DROP_IN: &str = "/etc/systemd/logind.conf.d/99-kubelet.conf";
/// How often logind is asked whether it has read the file.
const LOOKS: u32 = 5;
/// Pause before the second look; doubles.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What holds a shutdown back until it is dropped.
pub(super) type Hold = Box<dyn Send + Sync>;

/// Where sessions come from.
pub(super) trait Logind: Send + Sync {
    /// Begins one.
    fn session(&self) -> BoxFuture<'_, Result<Box<dyn Session>, String>>;
}

/// A session with logind.
pub(super) trait Session: Send {
    /// How long it lets a shutdown be held back.
    fn longest_delay(&mut self) -> BoxFuture<'_, Result<Duration, String>>;
    /// Has it let one be held back for this long.
    fn allow_delay(&mut self, delay: Duration) -> BoxFuture<'_, Result<(), String>>;
    /// Holds the next shutdown back.
    fn hold(&mut self) -> BoxFuture<'_, Result<Hold, String>>;
    /// Whether a shutdown is under way.
    fn is_under_way(&mut self) -> BoxFuture<'_, bool>;
    /// Waits for the next word: true when a shutdown begins, false when it is called off; `None` when the session is
    /// over.
    fn next(&mut self) -> BoxFuture<'_, Option<bool>>;
}

/// The machine's own.
pub(super) struct SystemLogind {
    fs: FsPool,
}

impl SystemLogind {
    /// Nothing is asked yet.
    pub(super) fn new(fs: FsPool) -> Self {
        Self { fs }
    }
}

impl Logind for SystemLogind {
    fn session(&self) -> BoxFuture<'_, Result<Box<dyn Session>, String>> {
        Box::pin(async {
            let bus = Bus::system().await.map_err(|error| error.to_string())?;
            // Followed before the lock is taken: nothing is missed in between.
            let signals = bus.shutdown_signals().await.map_err(|error| error.to_string())?;
            Ok(Box::new(SystemSession { bus, signals, fs: self.fs.clone() }) as Box<dyn Session>)
        })
    }
}

struct SystemSession {
    bus: Bus,
    signals: ShutdownSignals,
    fs: FsPool,
}

impl Session for SystemSession {
    fn longest_delay(&mut self) -> BoxFuture<'_, Result<Duration, String>> {
        Box::pin(async { self.bus.inhibit_delay_max().await.map_err(|error| error.to_string()) })
    }

    fn allow_delay(&mut self, delay: Duration) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let text = drop_in(delay);
            let write = self.fs.run(format!("write {DROP_IN}"), move || {
                let path = PathBuf::from(DROP_IN);
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                record::replace(&path, &text)
            });
            write.await.map_err(|error| crate::logging::chain(&error))?;
            self.bus.hang_up("systemd-logind.service").await.map_err(|error| error.to_string())?;
            // It reads the file in its own time.
            let mut pause = LOOK_AGAIN;
            let mut allowed = self.longest_delay().await?;
            for _ in 1..LOOKS {
                if allowed >= delay {
                    return Ok(());
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
                allowed = self.longest_delay().await?;
            }
            if allowed >= delay {
                return Ok(());
            }
            let (allowed, wanted) = (allowed.as_secs(), delay.as_secs());
            Err(format!(
                "logind lets a shutdown wait for {allowed} s only, and {wanted} s are configured: {DROP_IN} was written, \
                 but another file sets InhibitDelayMaxSec after it"
            ))
        })
    }

    fn hold(&mut self) -> BoxFuture<'_, Result<Hold, String>> {
        Box::pin(async {
            let lock = self.bus.inhibit_shutdown().await.map_err(|error| error.to_string())?;
            Ok(Box::new(lock) as Hold)
        })
    }

    fn is_under_way(&mut self) -> BoxFuture<'_, bool> {
        Box::pin(async { self.bus.is_shutting_down().await.unwrap_or(false) })
    }

    fn next(&mut self) -> BoxFuture<'_, Option<bool>> {
        Box::pin(async {
            loop {
                let begins = self.signals.next().await?;
                // Whoever is on the bus can send a signal of that name: logind itself is asked. One that cannot be asked
                // any more is believed.
                if begins && matches!(self.bus.is_shutting_down().await, Ok(false)) {
                    warn!("somebody on the system bus announced a shutdown that logind knows nothing of");
                    continue;
                }
                return Some(begins);
            }
        })
    }
}

fn drop_in(delay: Duration) -> String {
    format!(
        "# Written by the kubelet: time for pods at a shutdown.\n[Login]\nInhibitDelayMaxSec={}\n",
        delay.as_secs()
    )
}
