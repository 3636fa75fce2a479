//! The book of images: since when each is there, when it was last needed, and which go next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ImagePolicy;
use super::uses::{ImageUse, canonical};

/// References whose last use is remembered between two lists; the oldest are forgotten first.
const NOTES: usize = 4096;

/// An image as the runtime lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedImage {
    /// The runtime's ID.
    pub id: String,
    /// Runtime handler it was pulled for; empty for most runtimes.
    pub handler: String,
    /// Its tags and digests.
    pub names: Vec<String>,
    /// Bytes, as the runtime counts them: layers that images share count for each.
    pub size: u64,
    /// The runtime asks to keep it.
    pub pinned: bool,
}

/// How much is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Images of at least this many bytes.
    Bytes(u64),
    /// Everything that may go.
    All,
}

/// Why an image goes: the label `reason` of `image_garbage_collected_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Unused for longer than `imageMaximumGCAge`.
    Age,
    /// Its space is needed.
    Space,
}

impl Why {
    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Space => "space",
        }
    }
}

/// An image to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// The image.
    pub image: ListedImage,
    /// Why it goes.
    pub why: Why,
}

/// What to remove, in this order, and what stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImagePlan {
    /// To remove one after the other.
    pub remove: Vec<Removal>,
    /// Images that nothing needs and nothing pins, those that are too young included.
    pub unused: u32,
    /// Bytes of those.
    pub unused_bytes: u64,
    /// Images that are needed or pinned.
    pub kept: u32,
    /// When the next image that is now too young may go.
    pub next_due: Option<Duration>,
}

/// What is remembered of each image; bounded by what the runtime lists.
#[derive(Clone, Debug, Default)]
pub struct ImageBook {
    images: BTreeMap<Key, Seen>,
    /// Last uses that were noted since the last list, by reference.
    noted: BTreeMap<String, Duration>,
}

/// ID and handler.
type Key = (String, String);

#[derive(Clone, Debug)]
struct Seen {
    image: ListedImage,
    first: Duration,
    used: Option<Duration>,
    in_use: bool,
}

impl Seen {
    /// Last use first, then the age: upstream's order (`byLastUsedAndDetected`); one never used counts as the oldest.
    fn order(&self) -> (Option<Duration>, Duration, &str) {
        (self.used, self.first, &self.image.id)
    }

    fn idle_since(&self) -> Duration {
        self.used.unwrap_or(self.first)
    }

    fn may_go(&self) -> bool {
        !self.in_use && !self.image.pinned
    }
}

impl ImageBook {
    /// These references are needed now. Costs no list: the use is entered when images are listed next.
    pub fn note(&mut self, uses: &ImageUse, now: Duration) {
        for reference in uses.iter() {
            self.noted.insert(reference.to_owned(), now);
        }
        if self.noted.len() > NOTES {
            let mut times: Vec<Duration> = self.noted.values().copied().collect();
            times.sort_unstable();
            let oldest = times[times.len() - NOTES];
            self.noted.retain(|_, used| *used >= oldest);
        }
    }

    /// Takes a full list of the runtime's images and of what needs them. The age of each counts from the first list it
    /// was in.
    pub fn see(&mut self, images: Vec<ListedImage>, uses: &ImageUse, now: Duration) {
        let noted = std::mem::take(&mut self.noted);
        let mut before = std::mem::take(&mut self.images);
        for image in images {
            let key = (image.id.clone(), image.handler.clone());
            let known = before.remove(&key);
            let in_use = uses.covers(&image);
            let names = [&image.id].into_iter().chain(&image.names);
            let noted_at = names.filter_map(|name| noted.get(&canonical(name)).copied()).max();
            let used = known.as_ref().and_then(|known| known.used).max(noted_at);
            let seen = Seen {
                first: known.map_or(now, |known| known.first),
                used: if in_use { Some(now) } else { used },
                in_use,
                image,
            };
            self.images.insert(key, seen);
        }
    }

    /// Forgets one that was removed.
    pub fn removed(&mut self, image: &ListedImage) {
        self.images.remove(&(image.id.clone(), image.handler.clone()));
    }

    /// What to remove: images that are too old, then as many as are needed, those unused for longest first. Without a
    /// need only age counts.
    pub fn plan(&self, policy: &ImagePolicy, need: Option<Need>, now: Duration) -> ImagePlan {
        let mut candidates: Vec<&Seen> = self.images.values().filter(|seen| seen.may_go()).collect();
        candidates.sort_by(|a, b| a.order().cmp(&b.order()));
        let mut plan = ImagePlan {
            unused: count(candidates.len()),
            unused_bytes: sum(candidates.iter().map(|seen| seen.image.size)),
            kept: count(self.images.len() - candidates.len()),
            ..ImagePlan::default()
        };
        let wanted = match need {
            Some(Need::All) => Some(u64::MAX),
            Some(Need::Bytes(bytes)) => Some(bytes),
            None => None,
        };
        // An agent that has just started does not know when images were used before.
        let max_age = policy.max_age.filter(|max| now > *max);
        let is_old = |seen: &Seen| max_age.is_some_and(|max| now.saturating_sub(seen.idle_since()) > max);
        let mut freed = 0_u64;
        for seen in candidates.iter().filter(|seen| is_old(seen)) {
            freed = freed.saturating_add(seen.image.size);
            plan.remove.push(Removal { image: seen.image.clone(), why: Why::Age });
        }
        for seen in candidates.iter().filter(|seen| !is_old(seen)) {
            let grown_up = seen.first.saturating_add(policy.min_age);
            if now < grown_up {
                plan.next_due = plan.next_due.into_iter().chain([grown_up]).min();
            } else if wanted.is_some_and(|wanted| freed < wanted) {
                freed = freed.saturating_add(seen.image.size);
                plan.remove.push(Removal { image: seen.image.clone(), why: Why::Space });
            }
        }
        plan
    }

    /// When the first image will be too old, as far as is known now; `None` when none ever will.
    pub fn oldest_due(&self, policy: &ImagePolicy) -> Option<Duration> {
        let max = policy.max_age?;
        let candidates = self.images.values().filter(|seen| seen.may_go());
        candidates.map(|seen| seen.idle_since().saturating_add(max).max(max)).min()
    }

    /// IDs of every image that is there.
    pub fn ids(&self) -> BTreeSet<&str> {
        self.images.keys().map(|(id, _)| id.as_str()).collect()
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn sum(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}
