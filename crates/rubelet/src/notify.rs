//! Tells systemd that the agent is ready and alive, where there is a systemd to tell (`NOTIFY_SOCKET`,
//! `WATCHDOG_USEC`).

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{info, warn};

use crate::http::Health;

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

/// Says WATCHDOG=1 at half the time systemd asks for, as long as the sync loop goes round. Never returns.
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
    loop {
        tokio::time::sleep(period).await;
        if health.problem().is_none() {
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        }
    }
}
