//! Which images need their credentials verified (`imagePullCredentialsVerificationPolicy`).

use std::collections::BTreeSet;

use super::record::untagged;
use crate::image::ImageNameError;

/// The policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerificationPolicy {
    /// None does.
    NeverVerify,
    /// Those that the agent pulled do.
    NeverVerifyPreloadedImages,
    /// All but these do.
    NeverVerifyAllowlistedImages(AllowList),
    /// All do.
    AlwaysVerify,
}

/// `preloadedImagesVerificationAllowlist`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList {
    names: BTreeSet<String>,
    prefixes: Vec<String>,
}

/// What is wrong with a pattern of the list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// White space around it.
    #[error("leading/trailing spaces are not allowed: {0}")]
    Spaces(String),
    /// A star elsewhere than at the end after a slash.
    #[error("not a valid wildcard pattern, only patterns ending with '/*' are allowed: {0}")]
    Wildcard(String),
    /// Nothing before the star.
    #[error("at least registry hostname is required: {0}")]
    NoHost(String),
    /// A tag or a digest.
    #[error("neither tag nor digest is accepted in an image reference: {0}")]
    Tagged(String),
    /// No image name.
    #[error("failed to parse as an image name")]
    Name(#[source] ImageNameError),
}

impl AllowList {
    /// Reads the patterns: names without tag and digest, or beginnings of them that end in `/*`.
    ///
    /// # Errors
    /// The first pattern that is none.
    pub fn parse<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, PatternError> {
        let mut list = Self::default();
        for pattern in patterns {
            let given = || pattern.to_owned();
            if pattern.trim() != pattern {
                return Err(PatternError::Spaces(given()));
            }
            let prefix = pattern.strip_suffix('*').filter(|prefix| prefix.ends_with('/'));
            if prefix.unwrap_or(pattern).contains('*') {
                return Err(PatternError::Wildcard(given()));
            }
            match prefix {
                Some("/") => return Err(PatternError::NoHost(given())),
                Some(prefix) => list.prefixes.push(prefix.to_owned()),
                None if untagged(pattern).map_err(PatternError::Name)? != pattern => {
                    return Err(PatternError::Tagged(given()));
                }
                None => drop(list.names.insert(given())),
            }
        }
        Ok(list)
    }

    /// Whether the list has this image, as the pod writes it: what is added to short names does not count.
    pub fn has(&self, image: &str) -> bool {
        let name = untagged(image).unwrap_or(image);
        self.names.contains(name) || self.prefixes.iter().any(|prefix| name.starts_with(prefix))
    }
}

impl VerificationPolicy {
    /// Reads the configuration; `None` for a word that is none.
    ///
    /// # Errors
    /// When a pattern of the list is none.
    pub fn parse(word: &str, patterns: &[String]) -> Result<Option<Self>, PatternError> {
        Ok(Some(match word {
            "NeverVerify" => Self::NeverVerify,
            "NeverVerifyPreloadedImages" => Self::NeverVerifyPreloadedImages,
            "NeverVerifyAllowlistedImages" => {
                Self::NeverVerifyAllowlistedImages(AllowList::parse(patterns.iter().map(String::as_str))?)
            }
            "AlwaysVerify" => Self::AlwaysVerify,
            _ => return Ok(None),
        }))
    }

    /// Whether a pod that wants this image has to show that it may.
    pub fn requires(&self, image: &str, pulled_by_us: bool) -> bool {
        match self {
            Self::NeverVerify => false,
            Self::NeverVerifyPreloadedImages => pulled_by_us,
            Self::NeverVerifyAllowlistedImages(list) => !list.has(image),
            Self::AlwaysVerify => true,
        }
    }
}
