//! Says what is wrong, without saying it again and again: a new problem at once, a lasting one once a minute with
//! how often it came.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

const AGAIN: Duration = Duration::from_secs(60);

/// One thing that can go wrong.
#[derive(Default)]
pub(super) struct Complaint {
    text: String,
    said: Option<Instant>,
    unsaid: u32,
}

impl Complaint {
    /// Something is wrong.
    pub(super) fn say(&mut self, text: String) {
        let now = Instant::now();
        let recent = self.said.is_some_and(|at| now.duration_since(at) < AGAIN);
        if recent && self.text == text {
            self.unsaid += 1;
            return;
        }
        match self.unsaid {
            0 => warn!("{text}"),
            repeated => warn!(repeated, "{text}"),
        }
        *self = Self { text, said: Some(now), unsaid: 0 };
    }

    /// It works again: says so if something was wrong.
    pub(super) fn resolved(&mut self, text: &str) {
        if std::mem::take(self).said.is_some() {
            info!("{text}");
        }
    }
}
