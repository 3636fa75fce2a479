//! Tells systemd that the agent is ready and alive, where there is a systemd to tell (`NOTIFY_SOCKET`,
//! `WATCHDOG_USEC`).

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{error, info, warn};

use crate::http::Health;

/// Pause before what could not be said is said again.
const RETRY: Duration = Duration::from_secs(1);

/// Says READY=1. Without a notify socket nothing happens.
pub fn ready() {
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        warn!("cannot tell systemd that the agent is ready: {error}");
    }
}

/// Says STOPPING=1.
pub fn stopping() {
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
}

/// Says WATCHDOG=1 at half the time systemd asks for, as long as the agent's own checks pass (upstream's watchdog asks
/// the same three). Never returns.
pub async fn watchdog(health: Health) {
    let period = match sd_notify::watchdog_enabled() {
        Some(limit) if limit >= Duration::from_secs(1) => limit / 2,
        Some(limit) => {
            warn!(?limit, "WatchdogSec is too short to be kept; it is ignored");
            return std::future::pending().await;
        }
        None => return std::future::pending().await,
    };
    info!(?period, "keeping systemd's watchdog");
    keep(health, period, || sd_notify::notify(&[NotifyState::Watchdog])).await
}

/// Calls `notify` every period while `health` has no problem; once more after a moment where that fails.
async fn keep(health: Health, period: Duration, notify: impl Fn() -> std::io::Result<()>) -> ! {
    let mut was_well = true;
    loop {
        tokio::time::sleep(period).await;
        let problem = health.problem();
        if let Some((name, why)) = &problem
            && was_well
            // A log that is blocked would keep this task for ever.
            && *name != "log"
        {
            error!("the watchdog is not kept, systemd will restart the agent: {name}: {why}");
        }
        was_well = problem.is_none();
        if was_well && notify().is_err() {
            tokio::time::sleep(RETRY.min(period / 4)).await;
            if let Err(error) = notify() {
                warn!("cannot tell systemd that the agent is alive: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::watch;
    use tokio::time::{Instant, advance};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_kept_while_the_sync_loop_goes_round() {
        let (beat, heartbeat) = watch::channel(Instant::now());
        let health = Health { heartbeat, limit: Duration::from_secs(300) };
        let kept = Cell::new(0);
        let notify = || {
            kept.set(kept.get() + 1);
            // The first one is lost.
            if kept.get() == 1 { Err(std::io::Error::other("busy")) } else { Ok(()) }
        };
        let keeping = keep(health, Duration::from_secs(30), notify);
        tokio::pin!(keeping);
        let mut run = async |seconds| {
            assert!(tokio::time::timeout(Duration::from_secs(seconds), &mut keeping).await.is_err());
            kept.get()
        };
        assert_eq!(run(32).await, 2);
        assert_eq!(run(260).await, 10);
        advance(Duration::from_secs(60)).await;
        let before = run(1).await;
        assert_eq!(run(300).await, before, "the loop rests");
        beat.send_replace(Instant::now());
        assert_eq!(run(40).await, before + 1);
    }
}
