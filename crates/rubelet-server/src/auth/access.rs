//! Whether a user may: by SubjectAccessReview, yes and no remembered for a while each (upstream's delegating authorizer).
//!
//! Errors are not remembered. Upstream does not share reviews that are under way; we do.

use std::sync::Arc;
use std::time::Duration;

use ring::error::Unspecified;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;

use super::UserInfo;
use super::cache::{Cache, Digester, Key};
use super::flights::Flights;
use super::reviews::{AT_ONCE, AccessAnswer, AccessQuestion, AccessReviews, insist};

/// How many answers are remembered (upstream's `LRUExpireCache`). Our keys are digests, so that long names need no
/// exception.
const REMEMBERED: usize = 8192;

/// Checks access to the node.
pub(super) struct AccessCheck {
    inner: Arc<Inner>,
    flights: Flights<Result<AccessAnswer, String>>,
}

struct Inner {
    reviews: Arc<dyn AccessReviews>,
    authorized_ttl: Duration,
    unauthorized_ttl: Duration,
    node: Arc<str>,
    digester: Digester,
    answers: Cache<AccessAnswer>,
    places: Semaphore,
}

impl AccessCheck {
    pub(super) fn new(
        reviews: Arc<dyn AccessReviews>,
        (authorized_ttl, unauthorized_ttl): (Duration, Duration),
        node: &str,
        random: &SystemRandom,
    ) -> Result<Self, Unspecified> {
        let inner = Inner {
            reviews,
            authorized_ttl,
            unauthorized_ttl,
            node: node.into(),
            digester: Digester::new(random)?,
            answers: Cache::new(REMEMBERED),
            places: Semaphore::new(AT_ONCE),
        };
        Ok(Self { inner: Arc::new(inner), flights: Flights::new() })
    }

    /// Whether the user may; an error when that cannot be told.
    pub(super) async fn allows(
        &self,
        user: &Arc<UserInfo>,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<bool, String> {
        let key = self.inner.key(user, verb, subresource);
        let answer = match self.inner.answers.get(&key) {
            Some(answer) => answer,
            None => {
                let (inner, node) = (self.inner.clone(), self.inner.node.clone());
                let question = AccessQuestion { user: user.clone(), verb, node, subresource };
                self.flights.join(key, async move { inner.ask(key, question).await }).await?
            }
        };
        match answer {
            AccessAnswer { allowed: true, denied: true } => {
                Err("the review says both that the user may and that they may not".to_owned())
            }
            AccessAnswer { allowed, .. } => Ok(allowed),
        }
    }
}

impl Inner {
    async fn ask(&self, key: Key, question: AccessQuestion) -> Result<AccessAnswer, String> {
        // The answer may have come between the look before and this one.
        if let Some(answer) = self.answers.get(&key) {
            return Ok(answer);
        }
        let answer = insist(&self.places, || self.reviews.review(question.clone())).await?;
        let ttl = if answer.allowed { self.authorized_ttl } else { self.unauthorized_ttl };
        self.answers.put(key, answer, ttl);
        Ok(answer)
    }

    /// Everything a review says of its user and the wish, with the sizes of lists between.
    fn key(&self, user: &UserInfo, verb: &str, subresource: &str) -> Key {
        let counts = format!("{} {}", user.groups.len(), user.extra.len());
        let sizes: Vec<String> = user.extra.values().map(|values| values.len().to_string()).collect();
        let head = [verb, subresource, &user.name, &user.uid, &counts];
        let extra = user.extra.iter().zip(&sizes).flat_map(|((name, values), size)| {
            [name.as_str(), size.as_str()].into_iter().chain(values.iter().map(String::as_str))
        });
        self.digester.key(head.into_iter().chain(user.groups.iter().map(String::as_str)).chain(extra))
    }
}
