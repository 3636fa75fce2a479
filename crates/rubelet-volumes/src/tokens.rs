//! Keeps the service account tokens of running pods, so that each is asked for once and renewed in time.
//!
//! Owns the cache; when a token is due is decided in `rubelet_core::projection`, how one is asked for by the
//! [`TokenSource`]. A token that cannot be renewed is used until it ends. Read by the volumes alone.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use rubelet_core::ids::PodUid;
use rubelet_core::projection::{IssuedToken, TokenKey, refresh_at, retry_at};
use tracing::warn;

/// How long the API server may take for a token.
const DEADLINE: Duration = Duration::from_secs(30);
/// The same while there is a token that is still good: containers that are to start again do not wait for a better one.
const RENEWAL_DEADLINE: Duration = Duration::from_secs(5);

/// Asks the API server for tokens (TokenRequest, bound to the pod).
pub trait TokenSource: Send + Sync {
    /// A new token, or why there is none, in the API server's words.
    fn mint<'a>(&'a self, key: &'a TokenKey) -> BoxFuture<'a, Result<IssuedToken, String>>;
}

/// A token to put into a volume.
#[derive(Clone, PartialEq, Eq)]
pub struct CurrentToken {
    /// The token itself.
    pub token: Arc<str>,
    /// When it ends.
    pub expires: Timestamp,
    /// When to ask for it again.
    pub refresh_at: Timestamp,
}

impl fmt::Debug for CurrentToken {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token to be renewed at {}", self.refresh_at)
    }
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The first one could not be had.
    #[error("failed to fetch token: {0}")]
    Fetch(String),
    /// It ended before it could be renewed.
    #[error("token of service account {account} expired and refresh failed: {problem}")]
    Expired {
        /// Namespace and name of the service account.
        account: String,
        /// Why it could not be renewed.
        problem: String,
    },
}

#[derive(Clone)]
struct Cached {
    issued: IssuedToken,
    refresh_at: Timestamp,
}

/// The cache; shared by all pods.
pub struct TokenManager {
    source: Arc<dyn TokenSource>,
    /// Bounded by the pods of the node: an entry goes with its pod. Ordered by pod.
    cache: Mutex<BTreeMap<TokenKey, Cached>>,
}

impl fmt::Debug for TokenManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenManager of {} tokens", self.cache().len())
    }
}

impl TokenManager {
    /// An empty cache.
    pub fn new(source: Arc<dyn TokenSource>) -> Self {
        Self { source, cache: Mutex::default() }
    }

    /// The token for a key: the present one while it is not due, else a new one, else the present one to its end.
    ///
    /// # Errors
    /// When there is none that is valid.
    pub async fn token(&self, key: &TokenKey, now: Timestamp) -> Result<CurrentToken, TokenError> {
        let present = self.cache().get(key).cloned();
        if let Some(present) = &present
            && now < present.refresh_at
        {
            return Ok(present.current());
        }
        let is_good = present.as_ref().is_some_and(|present| now < present.issued.expires);
        let deadline = if is_good { RENEWAL_DEADLINE } else { DEADLINE };
        let answer = match tokio::time::timeout(deadline, self.source.mint(key)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", deadline.as_secs())),
        };
        let cached = match (answer, present) {
            (Ok(issued), _) => Cached { refresh_at: refresh_at(key, &issued, now), issued },
            (Err(problem), None) => return Err(TokenError::Fetch(problem)),
            (Err(problem), Some(present)) => {
                let account = format!("{}/{}", key.namespace, key.service_account);
                if present.issued.expires <= now {
                    return Err(TokenError::Expired { account, problem });
                }
                warn!(
                    pod = format!("{}/{}", key.namespace, key.pod_name),
                    "the token of service account {account} cannot be renewed, the present one is used until {}: \
                     {problem}",
                    present.issued.expires
                );
                Cached { refresh_at: retry_at(key, now), ..present }
            }
        };
        let current = cached.current();
        self.cache().insert(key.clone(), cached);
        Ok(current)
    }

    /// Whether there is a token for this key.
    pub fn knows(&self, key: &TokenKey) -> bool {
        self.cache().contains_key(key)
    }

    /// Takes over a token that an earlier run of the agent got. One that is known already stays.
    pub fn adopt(&self, key: TokenKey, issued: IssuedToken) {
        // A token that was due when it was found is renewed at once.
        let refresh_at = refresh_at(&key, &issued, Timestamp::MIN);
        self.cache().entry(key).or_insert(Cached { issued, refresh_at });
    }

    /// Forgets the tokens of a pod that is gone.
    pub fn forget(&self, pod: &PodUid) {
        self.cache().retain(|key, _| key.pod_uid != *pod);
    }

    fn cache(&self) -> MutexGuard<'_, BTreeMap<TokenKey, Cached>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cached {
    fn current(&self) -> CurrentToken {
        CurrentToken {
            token: self.issued.token.clone(),
            expires: self.issued.expires,
            refresh_at: self.refresh_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Gives these answers one after another, then none ever.
    struct Scripted(Mutex<VecDeque<Answer>>);

    /// Token, end and life, or what is wrong.
    type Answer = Result<(&'static str, i64, i64), &'static str>;

    impl TokenSource for Scripted {
        fn mint<'a>(&'a self, _: &'a TokenKey) -> BoxFuture<'a, Result<IssuedToken, String>> {
            let next = self.0.lock().unwrap().pop_front();
            Box::pin(async move {
                match next {
                    None => futures::future::pending().await,
                    Some(Err(problem)) => Err(problem.to_owned()),
                    Some(Ok((token, expires, life_seconds))) => {
                        Ok(IssuedToken { token: token.into(), expires: at(expires), life_seconds })
                    }
                }
            })
        }
    }

    fn manager(answers: &[Answer]) -> TokenManager {
        TokenManager::new(Arc::new(Scripted(Mutex::new(answers.iter().copied().collect()))))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key() -> TokenKey {
        TokenKey {
            pod_uid: "u1".into(),
            pod_name: "web".into(),
            namespace: "shop".into(),
            service_account: "robot".into(),
            audience: String::new(),
            expiration_seconds: 3600,
        }
    }

    async fn ask(manager: &TokenManager, now: i64) -> String {
        match manager.token(&key(), at(now)).await {
            Ok(current) => current.token.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn a_token_is_asked_for_once_and_renewed_when_due() {
        let manager = manager(&[Ok(("first", 3600, 3600)), Ok(("second", 7200, 3600))]);
        assert_eq!(ask(&manager, 0).await, "first");
        assert_eq!(ask(&manager, 2800).await, "first");
        assert_eq!(ask(&manager, 2880).await, "second");
        assert_eq!(ask(&manager, 5000).await, "second");
        assert!(!format!("{manager:?}").contains("second"));
    }

    #[tokio::test]
    async fn the_old_one_serves_until_it_ends() {
        let manager = manager(&[
            Ok(("first", 3600, 3600)),
            Err("refused"),
            Err("refused again"),
            Ok(("new", 9000, 3600)),
        ]);
        assert_eq!(ask(&manager, 0).await, "first");
        let kept = manager.token(&key(), at(3000)).await.unwrap();
        assert_eq!(&*kept.token, "first");
        assert!((3060..=3070).contains(&kept.refresh_at.as_second()));
        assert_eq!(ask(&manager, 3050).await, "first", "not asked again so soon");
        assert_eq!(
            ask(&manager, 3700).await,
            "token of service account shop/robot expired and refresh failed: refused again"
        );
        assert_eq!(ask(&manager, 3800).await, "new");
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_told_and_what_hangs_ends() {
        let manager = manager(&[Err("serviceaccounts \"robot\" not found")]);
        assert_eq!(ask(&manager, 0).await, "failed to fetch token: serviceaccounts \"robot\" not found");
        assert_eq!(ask(&manager, 0).await, "failed to fetch token: no answer within 30 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_token_is_not_waited_for_long() {
        let manager = manager(&[Ok(("first", 3600, 3600))]);
        assert_eq!(ask(&manager, 0).await, "first");
        let begun = tokio::time::Instant::now();
        assert_eq!(ask(&manager, 3000).await, "first");
        assert_eq!(begun.elapsed(), RENEWAL_DEADLINE);
    }

    #[tokio::test]
    async fn tokens_are_adopted_and_forgotten() {
        let manager = manager(&[Ok(("minted", 9000, 3600))]);
        let left = IssuedToken { token: "left".into(), expires: at(3600), life_seconds: 3600 };
        manager.adopt(key(), left);
        assert_eq!(ask(&manager, 100).await, "left");
        manager.forget(&"another".into());
        assert!(manager.knows(&key()));
        manager.forget(&"u1".into());
        assert!(!manager.knows(&key()));
        assert_eq!(ask(&manager, 100).await, "minted");
    }
}
