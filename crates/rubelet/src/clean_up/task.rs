//! When the clean-up looks by itself.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::Shared;

/// Upstream's period of image garbage collection.
const IMAGES: Duration = Duration::from_secs(300);
/// Upstream's period of container garbage collection: here the shortest time between two looks, which need a cause.
const CONTAINERS: Duration = Duration::from_secs(60);
/// Between two looks because of pulls.
const PULLS: Duration = Duration::from_secs(60);
/// A failure is told again after this while it is the same.
const TELL_AGAIN: Duration = Duration::from_secs(3600);

impl Shared {
    pub(super) async fn run(&self) {
        self.wait_until_known().await;
        // The ages of what is there count from now on.
        let mut next_images = Instant::now();
        let mut seen = false;
        let mut listing = self.parts.pleg.listing();
        listing.mark_changed();
        let mut next_containers = Instant::now() + CONTAINERS;
        let mut pulls_until: Option<Instant> = None;
        let mut told: Option<(String, Instant)> = None;
        loop {
            enum Turn {
                Images,
                Pulled,
                Containers,
            }
            let containers = async {
                tokio::time::sleep_until(next_containers).await;
                // For ever, should Pleg be gone: the agent ends then.
                if listing.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            // Every arm is cancel-safe: timers, a watch whose news stays until it is seen, a Notify that keeps a permit.
            let turn = tokio::select! {
                biased;
                () = tokio::time::sleep_until(next_images) => Turn::Images,
                () = containers => Turn::Containers,
                () = self.pulled.notified(), if pulls_until.is_none() => Turn::Pulled,
            };
            match turn {
                Turn::Images => {
                    let mut state = self.images.lock().await;
                    if !seen || pulls_until.take().is_some() {
                        match self.see(&mut state).await {
                            Ok(()) => seen = true,
                            Err(error) => warn!("cannot list images and what needs them: {error}"),
                        }
                    } else {
                        state.book.note(&self.wanted_by_pods(), self.age());
                    }
                    let again = self.check_disk(&mut state).await;
                    drop(state);
                    let pause = again.map_or(IMAGES, |again| again.clamp(Duration::from_secs(1), IMAGES));
                    next_images = Instant::now() + pause;
                }
                Turn::Pulled => {
                    let at = Instant::now() + PULLS;
                    pulls_until = Some(at);
                    next_images = next_images.min(at);
                }
                Turn::Containers => {
                    next_containers = Instant::now() + CONTAINERS;
                    let problems = self.free_containers(false).await.problems;
                    if problems.is_empty() {
                        told = None;
                        continue;
                    }
                    let message = problems.join(", ");
                    let is_known =
                        |(known, at): &(String, Instant)| *known == message && at.elapsed() < TELL_AGAIN;
                    if !told.as_ref().is_some_and(is_known) {
                        warn!("clean-up of containers failed: {message}");
                        self.parts.events.warning(&self.node, "ContainerGCFailed", message.clone());
                        told = Some((message, Instant::now()));
                    }
                }
            }
        }
    }

    /// Waits until every source has delivered and the runtime was listed once: before that nothing is removed.
    async fn wait_until_known(&self) {
        let mut desired = self.parts.desired.clone();
        let mut listing = self.parts.pleg.listing();
        // Neither ends before the agent does.
        let _ = desired.wait_for(|desired| desired.complete).await;
        let _ = listing.wait_for(Option::is_some).await;
    }
}
