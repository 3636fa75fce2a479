//! Reviews: the questions that only the API server can answer, as traits that the shell implements, and how often they
//! are asked again.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::Semaphore;

use super::UserInfo;

/// How often a review is asked for, the first time included (upstream `DefaultAuthWebhookRetryBackoff`).
const ATTEMPTS: u32 = 5;
/// The first pause; each is half as long again as the one before, and up to a fifth longer by chance.
const PAUSE: Duration = Duration::from_millis(500);
/// How long whoever asks waits for an answer, with all attempts (upstream `sharedLookupTimeout`).
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How many reviews of a kind are under way at once. Others wait, so that a flood of made-up tokens is not passed on to
/// the API server.
pub(super) const AT_ONCE: usize = 64;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ReviewError {
    /// What went wrong, for the log.
    pub message: String,
    /// Whether it may be different in a moment: the connection was lost, the server is busy or has an error of its own
    /// (upstream `webhook.DefaultShouldRetry`).
    pub passing: bool,
}

/// What a TokenReview says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenAnswer {
    /// Whose token it is, if anybody's.
    pub user: Option<UserInfo>,
    /// Why it could not be told, or is nobody's; may be empty.
    pub error: String,
}

/// Makes TokenReviews.
pub trait TokenReviews: Send + Sync + 'static {
    /// One attempt to learn whose token this is. The review names no audiences: the API server's own count.
    fn review(&self, token: &str) -> BoxFuture<'static, Result<TokenAnswer, ReviewError>>;
}

/// What a SubjectAccessReview asks: may the user do this with a subresource of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessQuestion {
    /// Who.
    pub user: Arc<UserInfo>,
    /// The verb; may be empty.
    pub verb: &'static str,
    /// The node's name. Group is the core one, version `v1`, resource `nodes`.
    pub node: Arc<str>,
    /// The subresource.
    pub subresource: &'static str,
}

/// What a SubjectAccessReview says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AccessAnswer {
    /// Somebody allows it.
    pub allowed: bool,
    /// Somebody forbids it.
    pub denied: bool,
}

/// Makes SubjectAccessReviews.
pub trait AccessReviews: Send + Sync + 'static {
    /// One attempt to learn whether the user may.
    fn review(&self, question: AccessQuestion) -> BoxFuture<'static, Result<AccessAnswer, ReviewError>>;
}

/// Asks until there is an answer or no hope, not longer than [`PATIENCE`] and only when there is a place.
pub(super) async fn insist<T>(
    places: &Semaphore,
    ask: impl Fn() -> BoxFuture<'static, Result<T, ReviewError>>,
) -> Result<T, String> {
    let mut last = None;
    let asked = tokio::time::timeout(PATIENCE, async {
        // A closed semaphore would mean no limit; it is never closed.
        let _place = places.acquire().await.ok();
        let mut pause = PAUSE;
        for left in (0..ATTEMPTS).rev() {
            match ask().await {
                Err(error) if error.passing && left > 0 => last = Some(error),
                other => return other.map_err(|error| error.message),
            }
            tokio::time::sleep(with_jitter(pause)).await;
            pause = pause * 3 / 2;
        }
        Err("not asked".to_owned())
    })
    .await;
    asked.unwrap_or_else(|_| {
        let why = last.map_or_else(String::new, |error| format!(" ({error})"));
        Err(format!("no answer from the API server within {} s{why}", PATIENCE.as_secs()))
    })
}

fn with_jitter(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without chance the pause is as it is.
    let _ = SystemRandom::new().fill(&mut byte);
    pause + pause / 5 * u32::from(byte[0]) / 255
}
