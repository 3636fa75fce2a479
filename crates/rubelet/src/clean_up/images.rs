//! One round of removing images, and the look at the disk that calls for one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rubelet_core::image_gc::{ImagePlan, Need, Shortage, Why, free_space_failed, shortage};
use rubelet_cri::{CriError, v1};
use rubelet_linux::usage::file_system;
use tokio::time::Instant;
use tracing::{info, warn};

use super::uses::listed;
use super::{Freed, ImageState, Shared};

/// How often it is told that the disk is full and nothing can be removed, as long as that is so.
const FULL_AGAIN: Duration = Duration::from_secs(3600);
/// Rounds for one shortage: images share layers, so that less becomes free than was counted.
const ROUNDS: usize = 4;

impl Shared {
    /// Lists images and what needs them, into the book.
    pub(super) async fn see(&self, state: &mut ImageState) -> Result<(), CriError> {
        let images = self.parts.images.list_images(v1::ListImagesRequest::default()).await?;
        let images: Vec<_> = images.images.into_iter().map(listed).collect();
        // After the images: what was begun meanwhile is among the uses.
        let uses = self.uses().await?;
        self.parts.pulled.adopt(&images).await;
        state.book.see(images, &uses, self.age());
        Ok(())
    }

    /// One round: what is too old, and as much as is needed. Gives what is left, too.
    pub(super) async fn free_images(&self, state: &mut ImageState, need: Option<Need>) -> (Freed, ImagePlan) {
        let mut freed = Freed::default();
        if !self.parts.desired.borrow().complete {
            freed.problems.push("it is not known yet which pods are wanted here".to_owned());
            return (freed, ImagePlan::default());
        }
        let policy = &self.parts.settings.images;
        let began = self.parts.clock.now();
        if let Err(error) = self.see(state).await {
            freed.problems.push(format!("cannot tell which images are needed: {error}"));
            return (freed, ImagePlan::default());
        }
        // Everything that may go, should one not go.
        let all = need.map(|_| Need::All);
        for removal in state.book.plan(policy, all, self.age()).remove {
            let is_enough = match need {
                Some(Need::Bytes(wanted)) => freed.bytes >= wanted,
                Some(Need::All) | None => false,
            };
            if removal.why == Why::Space && is_enough {
                break;
            }
            // A pod may have come since the list was made.
            if self.wanted_by_pods().covers(&removal.image) {
                continue;
            }
            let image = v1::ImageSpec {
                image: removal.image.id.clone(),
                runtime_handler: removal.image.handler.clone(),
                ..v1::ImageSpec::default()
            };
            match self.parts.images.remove_image(v1::RemoveImageRequest { image: Some(image) }).await {
                Ok(_) => {
                    let name = removal.image.names.first().unwrap_or(&removal.image.id);
                    info!(
                        image = name,
                        bytes = removal.image.size,
                        why = removal.why.label(),
                        "removed an image"
                    );
                    state.book.removed(&removal.image);
                    self.parts.metrics.images.garbage_collected.with([removal.why.label()]).inc();
                    freed.images += 1;
                    freed.bytes = freed.bytes.saturating_add(removal.image.size);
                }
                Err(error) => freed.problems.push(format!("{}: {error}", removal.image.id)),
            }
        }
        self.parts.pulled.prune(&state.book.ids(), began).await;
        let left = state.book.plan(policy, Some(Need::All), self.age());
        (freed, left)
    }

    /// Looks at the disk and makes room where there is too little. Says when to look again, if before the next turn.
    pub(super) async fn check_disk(&self, state: &mut ImageState) -> Option<Duration> {
        let policy = &self.parts.settings.images;
        let short = match self.shortage(state).await {
            Ok(short) => short,
            Err(problem) => {
                self.round_failed(state, problem);
                return None;
            }
        };
        let Some(first) = short else {
            state.told_full = None;
            let is_due = state.book.oldest_due(policy).is_some_and(|due| self.age() > due);
            if is_due {
                let (freed, _) = self.free_images(state, None).await;
                self.round_ended(state, &freed, None);
            }
            return None;
        };
        info!(
            used_percent = first.used_percent,
            bytes = first.bytes,
            "the file system of images is too full: removing images that nothing needs"
        );
        let (mut all, mut last, mut left) = (Freed::default(), Some(first), ImagePlan::default());
        for _ in 0..ROUNDS {
            let Some(short) = last else { break };
            let (freed, now_left) = self.free_images(state, Some(Need::Bytes(short.bytes))).await;
            left = now_left;
            let is_over = freed.images == 0 || !freed.problems.is_empty();
            all.images += freed.images;
            all.bytes = all.bytes.saturating_add(freed.bytes);
            all.problems.extend(freed.problems);
            // Down to the lower threshold as the disk itself says.
            last = match self.shortage_to(state, policy.low_percent).await {
                Ok(short) => short,
                Err(_) => break,
            };
            if is_over {
                break;
            }
        }
        self.round_ended(state, &all, Some(first.bytes));
        let is_full = |short: &Shortage| short.used_percent >= policy.high_percent;
        match last.filter(is_full) {
            Some(short) => self.tell_full(state, &short, all.bytes, &left),
            None => state.told_full = None,
        }
        left.next_due.map(|due| due.saturating_sub(self.age()))
    }

    fn tell_full(&self, state: &mut ImageState, short: &Shortage, freed: u64, left: &ImagePlan) {
        if state.told_full.is_some_and(|at| at.elapsed() < FULL_AGAIN) {
            return;
        }
        state.told_full = Some(Instant::now());
        let message = free_space_failed(short, freed, left);
        warn!("{message}");
        self.parts.events.warning(&self.node, "FreeDiskSpaceFailed", message);
    }

    fn round_ended(&self, state: &mut ImageState, freed: &Freed, wanted: Option<u64>) {
        if freed.problems.is_empty() {
            state.failed = false;
            return;
        }
        let problems = freed.problems.join(", ");
        let message = match (wanted, self.parts.settings.images.max_age) {
            (Some(wanted), _) => format!(
                "wanted to free {wanted} bytes, but freed {} bytes space with errors in image deletion: {problems}",
                freed.bytes
            ),
            (None, age) => format!(
                "wanted to free images older than {:?}, encountered errors in image deletion: {problems}",
                age.unwrap_or_default()
            ),
        };
        self.round_failed(state, message);
    }

    /// The first failure may pass by itself: it is logged only, as upstream.
    fn round_failed(&self, state: &mut ImageState, message: String) {
        warn!("clean-up of images failed: {message}");
        if std::mem::replace(&mut state.failed, true) {
            self.parts.events.warning(&self.node, "ImageGCFailed", message);
        }
    }

    async fn shortage(&self, state: &mut ImageState) -> Result<Option<Shortage>, String> {
        self.shortage_to(state, self.parts.settings.images.high_percent).await
    }

    /// How much is missing on the file system of images, if usage is at this threshold or above.
    async fn shortage_to(&self, state: &mut ImageState, percent: u8) -> Result<Option<Shortage>, String> {
        let place = match &state.mountpoint {
            Some(place) => place.clone(),
            None => state.mountpoint.insert(self.mountpoint().await?).clone(),
        };
        let at = self.parts.clock.now();
        let path = place.clone();
        let what = format!("measure {}", place.display());
        let usage = match self.parts.fs.run_in(&place, what, move || file_system(&path, at)).await {
            Ok(usage) => usage,
            Err(error) => {
                // The runtime may keep them elsewhere now.
                state.mountpoint = None;
                return Err(crate::logging::chain(&error));
            }
        };
        let policy =
            rubelet_core::image_gc::ImagePolicy { high_percent: percent, ..self.parts.settings.images };
        shortage(&policy, usage.capacity.unwrap_or(0), usage.available.unwrap_or(0)).map_err(|error| {
            self.parts.events.warning(&self.node, "InvalidDiskCapacity", error.to_string());
            error.to_string()
        })
    }

    /// Where the runtime keeps images.
    async fn mountpoint(&self) -> Result<PathBuf, String> {
        let answer = self.parts.images.image_fs_info(v1::ImageFsInfoRequest {}).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let id = answer.image_filesystems.into_iter().find_map(|usage| usage.fs_id);
        let mountpoint = id.map(|id| id.mountpoint).filter(|place| Path::new(place).is_absolute());
        mountpoint
            .map(PathBuf::from)
            .ok_or_else(|| "the runtime does not tell where it keeps images".to_owned())
    }
}
