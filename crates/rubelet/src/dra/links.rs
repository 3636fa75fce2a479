//! A connection to each driver, held so that its death is noticed at once, and what drivers tell of their devices over it.
//! One small task for each driver; at rest while nothing comes.

use std::collections::BTreeSet;
use std::time::Duration;

use rubelet_core::dra::health::DeviceName;
use rubelet_plugins::dra::{DraClient, DraLink};
use tokio::task::JoinSet;
use tracing::debug;

use super::Claims;
use super::drivers::Unlinked;

/// Pause before a connection, or a stream of reports, is tried again (upstream's).
const AGAIN: Duration = Duration::from_secs(5);

impl Claims {
    /// Holds a connection for each registration as long as that lasts.
    pub(super) async fn hold_links(&self) {
        let mut changes = self.0.drivers.changes();
        let mut links = JoinSet::new();
        loop {
            for unlinked in self.0.drivers.take_unlinked() {
                links.spawn(self.clone().hold_link(unlinked));
            }
            // Both keep their news when the other one is taken.
            tokio::select! {
                biased;
                changed = changes.changed() => if changed.is_err() { return },
                Some(_ended) = links.join_next() => {}
            }
        }
    }

    async fn hold_link(self, mut unlinked: Unlinked) {
        let (client, number) = (unlinked.client, unlinked.number);
        let driver = client.driver().to_owned();
        loop {
            let held = async {
                self.hold(&client, number).await;
                self.0.drivers.set_connected(&driver, number, false);
                self.clear_health(&driver, number);
                tokio::time::sleep(AGAIN).await;
            };
            // Nothing but the end of the registration comes over the channel. A connection that is dropped is closed.
            tokio::select! {
                biased;
                _ended = unlinked.registered.changed() => {
                    self.clear_health(&driver, number);
                    return;
                }
                () = held => {}
            }
        }
    }

    /// Holds one connection until it breaks.
    async fn hold(&self, client: &DraClient, number: u64) {
        let driver = client.driver();
        let link = match client.link().await {
            Ok(link) => link,
            Err(problem) => return debug!(driver, "{problem}"),
        };
        self.0.drivers.set_connected(driver, number, true);
        self.0.wake_waiting(driver);
        tokio::select! {
            biased;
            () = link.closed() => {}
            () = self.watch_health(driver, number, &link) => {}
        }
    }

    /// Takes reports of health as long as the connection lasts. A driver that has none is not asked again.
    async fn watch_health(&self, driver: &str, number: u64, link: &DraLink) {
        if !self.0.settings.health {
            return std::future::pending().await;
        }
        loop {
            match link.watch_health().await {
                Ok(None) => return std::future::pending().await,
                Err(problem) => debug!(driver, "{problem}"),
                Ok(Some(mut reports)) => loop {
                    match reports.next().await {
                        Ok(Some(report)) => {
                            let now = self.0.clock.now();
                            let changed = self.0.health().report(driver, report, now);
                            self.0.health_told.notify_one();
                            self.tell_pods(driver, &changed);
                        }
                        Ok(None) => break,
                        Err(problem) => {
                            debug!(driver, "{problem}");
                            break;
                        }
                    }
                },
            }
            self.clear_health(driver, number);
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Nobody tells of the driver's devices any more. A registration that came later tells of its own.
    fn clear_health(&self, driver: &str, number: u64) {
        if !self.0.drivers.is_replaced(driver, number) {
            let changed = self.0.health().clear(driver);
            self.tell_pods(driver, &changed);
        }
    }

    /// Has pods with these devices tell their status again.
    fn tell_pods(&self, driver: &str, devices: &BTreeSet<DeviceName>) {
        if devices.is_empty() {
            return;
        }
        let pods = self.0.book().pods_with(driver, devices);
        for uid in pods {
            self.0.wakes.wake(&uid);
        }
    }

    /// Forgets reports that are too old, when they get so.
    pub(super) async fn follow_health(&self) {
        loop {
            let next = self.0.health().next_expiry();
            let too_old = async {
                match next {
                    // A millisecond later, so that it is past.
                    Some(at) => {
                        tokio::time::sleep(self.0.clock.until(at) + Duration::from_millis(1)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            // A permit is kept when the timer is first.
            tokio::select! {
                biased;
                () = self.0.health_told.notified() => continue,
                () = too_old => {}
            }
            let now = self.0.clock.now();
            let expired = self.0.health().expire(now);
            for (driver, devices) in expired {
                self.tell_pods(&driver, &devices);
            }
        }
    }
}
