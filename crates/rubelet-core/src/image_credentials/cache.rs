//! Answers of one credential provider plugin that may be used again. Owns keys and expiry; bounded because what
//! has expired is dropped whenever something is added.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{CacheKeyType, DockerConfig};

/// Stands for every image; no registry is called that.
const GLOBAL: &str = "<global>";

/// The service account an answer was given for. Not printable: it may hold a token.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AccountKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// The annotations the plugin was told.
    pub annotations: BTreeMap<String, String>,
    /// The token, where answers are kept per token.
    pub token: Option<String>,
}

/// What an answer is kept for. Not printable.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheKey {
    base: String,
    account: Option<AccountKey>,
}

impl CacheKey {
    /// The key for an answer about a repository.
    pub fn new(kind: CacheKeyType, repository: &str, account: Option<AccountKey>) -> Self {
        let base = match kind {
            CacheKeyType::Image => repository,
            CacheKeyType::Registry => registry(repository),
            CacheKeyType::Global => GLOBAL,
        };
        Self { base: base.to_owned(), account }
    }
}

/// Where an answer for a repository may be found, in the order to look.
pub fn cache_candidates(repository: &str, account: Option<&AccountKey>) -> [CacheKey; 3] {
    [CacheKeyType::Image, CacheKeyType::Registry, CacheKeyType::Global]
        .map(|kind| CacheKey::new(kind, repository, account.cloned()))
}

fn registry(repository: &str) -> &str {
    repository.split_once('/').map_or(repository, |(registry, _)| registry)
}

/// The answers.
#[derive(Default)]
pub struct CredentialCache {
    entries: BTreeMap<CacheKey, (DockerConfig, Timestamp)>,
}

impl CredentialCache {
    /// An answer that still holds.
    pub fn get(
        &self,
        repository: &str,
        account: Option<&AccountKey>,
        now: Timestamp,
    ) -> Option<&DockerConfig> {
        let mut found = cache_candidates(repository, account).into_iter().map(|key| self.entries.get(&key));
        found.find_map(|entry| entry.filter(|(_, expires)| *expires >= now).map(|(config, _)| config))
    }

    /// Keeps an answer.
    pub fn insert(&mut self, key: CacheKey, config: DockerConfig, expires: Timestamp, now: Timestamp) {
        self.entries.retain(|_, (_, expires)| *expires >= now);
        self.entries.insert(key, (config, expires));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::at;
    use crate::image_credentials::RegistryAuth;

    fn config(name: &str) -> DockerConfig {
        let auth = RegistryAuth { username: name.to_owned(), ..Default::default() };
        [("r.io".to_owned(), auth)].into()
    }

    #[test]
    fn answers_are_found_by_image_registry_and_for_all() {
        let mut cache = CredentialCache::default();
        let mut put = |kind, repository: &str, expires| {
            let key = CacheKey::new(kind, repository, None);
            cache.insert(key, config(&format!("{kind:?}")), at(expires), at(0));
        };
        put(CacheKeyType::Image, "r.io/a/b", 10);
        put(CacheKeyType::Registry, "r.io/x", 20);
        put(CacheKeyType::Global, "other.io/x", 30);
        let check = |repository: &str, now, expected: Option<&str>| {
            let found = cache.get(repository, None, at(now)).and_then(|config| config.get("r.io"));
            assert_eq!(found.map(|auth| auth.username.as_str()), expected, "{repository} at {now}");
        };
        check("r.io/a/b", 0, Some("Image"));
        check("r.io/a/b", 10, Some("Image"));
        check("r.io/a/b", 11, Some("Registry"));
        check("r.io/a/c", 0, Some("Registry"));
        check("q.io/a", 0, Some("Global"));
        check("r.io/a/b", 21, Some("Global"));
        check("r.io/a/b", 31, None);
        let account = AccountKey { name: "sa".into(), ..Default::default() };
        assert!(cache.get("r.io/a/b", Some(&account), at(0)).is_none(), "another service account");
    }

    #[test]
    fn what_expired_is_dropped() {
        let mut cache = CredentialCache::default();
        for n in 0..100 {
            let key = CacheKey::new(CacheKeyType::Image, &format!("r.io/{n}"), None);
            cache.insert(key, config("x"), at(n + 5), at(n));
        }
        assert!(cache.entries.len() < 10);
    }
}
