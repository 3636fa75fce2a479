//! Whose token it is: by TokenReview, remembered for a while (upstream's delegating authenticator with its token cache).
//!
//! Remembered are users and a plain "nobody's"; not errors, and not a "nobody's" that comes with an error, which is how
//! kube-apiserver answers for most bad tokens.

use std::sync::Arc;
use std::time::Duration;

use ring::error::Unspecified;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;

use super::UserInfo;
use super::cache::{Cache, Digester};
use super::flights::Flights;
use super::reviews::{AT_ONCE, TokenReviews, insist};

/// How many answers are remembered, of each kind: tokens that are nobody's do not push out users.
const REMEMBERED: usize = 2048;

type Found = Result<Arc<UserInfo>, String>;

/// Checks tokens.
pub(super) struct TokenCheck {
    inner: Arc<Inner>,
    flights: Flights<Found>,
}

struct Inner {
    reviews: Arc<dyn TokenReviews>,
    ttl: Duration,
    digester: Digester,
    users: Cache<Arc<UserInfo>>,
    nobodys: Cache<()>,
    places: Semaphore,
}

/// Upstream's word for a token that is nobody's.
fn invalid() -> String {
    "invalid bearer token".to_owned()
}

impl TokenCheck {
    pub(super) fn new(
        reviews: Arc<dyn TokenReviews>,
        ttl: Duration,
        random: &SystemRandom,
    ) -> Result<Self, Unspecified> {
        let inner = Inner {
            reviews,
            ttl,
            digester: Digester::new(random)?,
            users: Cache::new(REMEMBERED),
            nobodys: Cache::new(REMEMBERED),
            places: Semaphore::new(AT_ONCE),
        };
        Ok(Self { inner: Arc::new(inner), flights: Flights::new() })
    }

    /// The token's user, or why there is none.
    pub(super) async fn check(&self, token: String) -> Found {
        let key = self.inner.digester.key([token.as_str()]);
        if let Some(known) = self.inner.known(&key) {
            return known;
        }
        let inner = self.inner.clone();
        self.flights
            .join(key, async move {
                // The answer may have come between the look above and this one.
                if let Some(known) = inner.known(&key) {
                    return known;
                }
                let answer = insist(&inner.places, || inner.reviews.review(&token)).await?;
                match answer.user {
                    Some(user) => {
                        let user = Arc::new(user.authenticated());
                        inner.users.put(key, user.clone(), inner.ttl);
                        Ok(user)
                    }
                    None if answer.error.is_empty() => {
                        inner.nobodys.put(key, (), inner.ttl);
                        Err(invalid())
                    }
                    None => Err(answer.error),
                }
            })
            .await
    }
}

impl Inner {
    fn known(&self, key: &[u8; 32]) -> Option<Found> {
        let user = self.users.get(key).map(Ok);
        user.or_else(|| self.nobodys.get(key).map(|()| Err(invalid())))
    }
}
