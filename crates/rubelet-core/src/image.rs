//! Image names and pull decisions.
//!
//! Owns the grammar of image references, the default tag and the table policy × present; never pulls.

use std::fmt;

use jiff::Timestamp;

/// Why an image name is invalid. The container waits with the reason `InvalidImageName`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {name:?}: {problem}")]
pub struct ImageNameError {
    /// The name as written.
    pub name: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl ImageNameError {
    /// The waiting reason.
    pub const REASON: &'static str = "InvalidImageName";
}

/// An image reference taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// Registry and repository with the defaults filled in: what credentials are matched against.
    pub repository: String,
    /// Tag, when there is one.
    pub tag: Option<String>,
    /// Digest, when there is one.
    pub digest: Option<String>,
}

const INVALID: &str = "invalid reference format";

/// Parses a reference the way container engines do (`distribution/reference`, `ParseNormalizedNamed`).
pub fn parse_image_name(name: &str) -> Result<ImageName, ImageNameError> {
    let fail = |problem| ImageNameError { name: name.to_owned(), problem };
    if name.is_empty() {
        return Err(fail("repository name must have at least one component"));
    }
    if name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(fail("invalid repository name, cannot specify 64-byte hexadecimal strings"));
    }
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (name, None),
    };
    let (domain, path) = split_domain(rest);
    let (path, tag) = match path.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (path, None),
    };
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(fail("invalid reference format: repository name must be lowercase"));
    }
    if !is_domain(&domain) || !path.split('/').all(is_path_component) || !tag.is_none_or(is_tag) {
        return Err(fail(INVALID));
    }
    if let Some(digest) = digest {
        check_digest(digest).map_err(fail)?;
    }
    let repository = if domain == "docker.io" && !path.contains('/') {
        format!("{domain}/library/{path}")
    } else {
        format!("{domain}/{path}")
    };
    if repository.len() > 255 {
        return Err(fail("repository name must not be more than 255 characters"));
    }
    Ok(ImageName { repository, tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
}

/// The name that is asked of the runtime: as written, with `:latest` when it has neither tag nor digest. Short
/// names stay short, for the runtime knows its own default registry.
pub fn image_with_default_tag(name: &str) -> Result<String, ImageNameError> {
    let parsed = parse_image_name(name)?;
    let bare = parsed.tag.is_none() && parsed.digest.is_none();
    Ok(if bare { format!("{name}:latest") } else { name.to_owned() })
}

/// The first part is a registry when it looks like a host: a dot, a port, `localhost` or capitals.
fn split_domain(name: &str) -> (String, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            let domain = if first == "index.docker.io" { "docker.io" } else { first };
            (domain.to_owned(), rest)
        }
        _ => ("docker.io".to_owned(), name),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = if let Some(bracketed) = domain.strip_prefix('[') {
        let Some((address, tail)) = bracketed.split_once(']') else { return false };
        let address_fits = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        let port = match tail.strip_prefix(':') {
            Some(port) => Some(port),
            None if tail.is_empty() => None,
            None => return false,
        };
        if !address_fits {
            return false;
        }
        (None, port)
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        }
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.is_none_or(|host| host.split('.').all(label))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower-case alphanumerics, joined by one dot, one or two underscores, or dashes.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let edges = component.bytes().next().zip(component.bytes().last());
    if !edges.is_some_and(|(first, last)| alphanumeric(first) && alphanumeric(last)) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .filter(|separator| !separator.is_empty())
        .all(|separator| matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn check_digest(digest: &str) -> Result<(), &'static str> {
    let (algorithm, hex) = digest.split_once(':').ok_or(INVALID)?;
    let part = |part: &str| {
        part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    if !algorithm.split(['-', '_', '+', '.']).all(part)
        || hex.len() < 32
        || !hex.bytes().all(|b| b.is_ascii_hexdigit())
    {
        return Err(INVALID);
    }
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err("unsupported digest algorithm"),
    };
    if hex.len() != length {
        Err("invalid checksum digest length")
    } else if hex.bytes().any(|b| b.is_ascii_uppercase()) {
        Err("invalid checksum digest format")
    } else {
        Ok(())
    }
}

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Ask the registry each time.
    Always,
    /// Use what is there.
    IfNotPresent,
    /// Only use what is there.
    Never,
}

/// The policy of a container: its field, else Always for `:latest` and no tag, IfNotPresent for the rest (the API
/// server's default).
pub fn pull_policy(field: Option<&str>, image: &str) -> PullPolicy {
    match field {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        _ => {
            let latest = parse_image_name(image).is_ok_and(|name| {
                name.digest.is_none() && name.tag.as_deref().unwrap_or("latest") == "latest"
            });
            if latest { PullPolicy::Always } else { PullPolicy::IfNotPresent }
        }
    }
}

/// What to do about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullDecision {
    /// Pull it.
    Pull,
    /// Use what is there; the text is the message of the event `Pulled`.
    UsePresent(String),
    /// It is not there and must not be pulled: the container waits with `ErrImageNeverPull`, and the text is both
    /// its message and that of the event of the same name.
    Missing(String),
}

/// The decision for an image that is present or not. With `Always` presence need not be asked for.
pub fn decide_pull(policy: PullPolicy, image: &str, present: bool) -> PullDecision {
    match (policy, present) {
        (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, false) => PullDecision::Pull,
        (PullPolicy::IfNotPresent | PullPolicy::Never, true) => PullDecision::UsePresent(format!(
            "Container image {image:?} already present on machine and can be accessed by the pod"
        )),
        (PullPolicy::Never, false) => PullDecision::Missing(format!(
            "Container image {image:?} is not present with pull policy of Never"
        )),
    }
}

/// Waiting reasons around images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageReason {
    /// The name does not parse.
    InvalidImageName,
    /// The runtime could not be asked.
    ImageInspectError,
    /// A pull failed.
    ErrImagePull,
    /// A pull failed and the next one waits.
    ImagePullBackOff,
    /// Not there, and `Never`.
    ErrImageNeverPull,
    /// The registry does not answer.
    RegistryUnavailable,
    /// The image's signature does not hold.
    SignatureValidationFailed,
}

impl fmt::Display for ImageReason {
    /// The API's word.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Reason and waiting message of a failed pull, from the runtime's error text: two errors have a word of their
/// own.
pub fn pull_failure(image: &str, error: &str) -> (ImageReason, String) {
    if let Some(rest) = error.strip_prefix("RegistryUnavailable") {
        let message = format!("image pull failed for {image} because the registry is unavailable{rest}");
        (ImageReason::RegistryUnavailable, message)
    } else if let Some(rest) = error.strip_prefix("SignatureValidationFailed") {
        let message = format!("image pull failed for {image} because the signature validation failed{rest}");
        (ImageReason::SignatureValidationFailed, message)
    } else {
        (ImageReason::ErrImagePull, error.to_owned())
    }
}

/// Stands between what went wrong and the time of the next pull.
const NEXT_ATTEMPT: &str = "; next attempt at ";

/// Event and waiting message while a pull waits; the waiting message carries what went wrong before, by the reason and
/// message told last, and says when the next pull is.
pub fn back_off_messages(image: &str, previous: Option<(&str, &str)>, until: Timestamp) -> (String, String) {
    let event = format!("Back-off pulling image {image:?}");
    let is = |reason: &str, known: ImageReason| reason == known.to_string();
    let before = match previous {
        // What is kept of a back-off is the error, not its time.
        Some((reason, message)) if is(reason, ImageReason::ImagePullBackOff) => {
            message.rsplit_once(NEXT_ATTEMPT).map_or(message, |(before, _)| before).to_owned()
        }
        Some((reason, message))
            if [
                ImageReason::ErrImagePull,
                ImageReason::RegistryUnavailable,
                ImageReason::SignatureValidationFailed,
            ]
            .iter()
            .any(|known| is(reason, *known)) =>
        {
            format!("{event}: {reason}: {message}")
        }
        _ => event.clone(),
    };
    let until = Timestamp::from_second(until.as_second()).unwrap_or(until);
    (event, format!("{before}{NEXT_ATTEMPT}{until}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[track_caller]
    fn check(name: &str, repository: &str, with_tag: &str) {
        assert_eq!(parse_image_name(name).unwrap().repository, repository, "{name}");
        assert_eq!(image_with_default_tag(name).unwrap(), with_tag, "{name}");
    }

    #[test]
    fn names_get_a_default_tag_and_stay_short() {
        check("busybox", "docker.io/library/busybox", "busybox:latest");
        check("busybox:1.36", "docker.io/library/busybox", "busybox:1.36");
        check("busybox:latest", "docker.io/library/busybox", "busybox:latest");
        check("foo/bar", "docker.io/foo/bar", "foo/bar:latest");
        check("docker.io/busybox", "docker.io/library/busybox", "docker.io/busybox:latest");
        check("index.docker.io/a/b", "docker.io/a/b", "index.docker.io/a/b:latest");
        check("localhost/a", "localhost/a", "localhost/a:latest");
        check("localhost:5000/a/b:v1", "localhost:5000/a/b", "localhost:5000/a/b:v1");
        check("registry.example/a", "registry.example/a", "registry.example/a:latest");
        check("Host/a", "Host/a", "Host/a:latest");
        check("[fd00::1]:5000/a", "[fd00::1]:5000/a", "[fd00::1]:5000/a:latest");
        check("a.b__c-d---e_f", "docker.io/library/a.b__c-d---e_f", "a.b__c-d---e_f:latest");
        let digest = format!("a@sha256:{HEX}");
        check(&digest, "docker.io/library/a", &digest);
        let both = format!("r.example/a:v1@sha256:{HEX}");
        check(&both, "r.example/a", &both);
    }

    #[test]
    fn invalid_names_say_what_is_wrong() {
        let fails = |name: &str, problem: &str| {
            let error = image_with_default_tag(name).unwrap_err().to_string();
            assert_eq!(error, format!("couldn't parse image name {name:?}: {problem}"));
        };
        fails("", "repository name must have at least one component");
        fails("Busybox", "invalid reference format: repository name must be lowercase");
        fails("foo/Bar:x", "invalid reference format: repository name must be lowercase");
        fails(HEX, "invalid repository name, cannot specify 64-byte hexadecimal strings");
        for name in [
            "a b",
            "a:",
            ":a",
            "a::b",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a//b",
            "/a",
            "a/",
            "a:-x",
            "a@sha256:00",
            "a@b",
            "ho_st.x/a",
            "h.:5000/a",
            "h.x:/a",
            "h.x:port/a",
            "[zz]/a",
            "é",
            "a:é",
        ] {
            fails(name, INVALID);
        }
        fails(&format!("a:{}", "t".repeat(129)), INVALID);
        fails(&format!("a@md5:{HEX}"), "unsupported digest algorithm");
        fails(&format!("a@sha512:{HEX}"), "invalid checksum digest length");
        fails(&format!("a@sha256:{}", HEX.to_uppercase()), "invalid checksum digest format");
        fails("a/".repeat(130).trim_end_matches('/'), "repository name must not be more than 255 characters");
    }

    #[test]
    fn policies() {
        use PullPolicy::{Always, IfNotPresent, Never};
        assert_eq!(pull_policy(None, "a"), Always);
        assert_eq!(pull_policy(None, "a:latest"), Always);
        assert_eq!(pull_policy(Some(""), "a:v1"), IfNotPresent);
        assert_eq!(pull_policy(None, &format!("a@sha256:{HEX}")), IfNotPresent);
        assert_eq!(pull_policy(Some("Never"), "a"), Never);
        assert_eq!(decide_pull(Always, "a", true), PullDecision::Pull);
        assert_eq!(decide_pull(IfNotPresent, "a", false), PullDecision::Pull);
        assert_eq!(
            decide_pull(Never, "a", false),
            PullDecision::Missing("Container image \"a\" is not present with pull policy of Never".into())
        );
        let present = PullDecision::UsePresent(
            "Container image \"a\" already present on machine and can be accessed by the pod".into(),
        );
        assert_eq!(decide_pull(IfNotPresent, "a", true), present);
        assert_eq!(decide_pull(Never, "a", true), present);
    }

    #[test]
    fn failures_have_their_own_words() {
        assert_eq!(
            pull_failure("a", "RegistryUnavailable: down"),
            (
                ImageReason::RegistryUnavailable,
                "image pull failed for a because the registry is unavailable: down".into()
            )
        );
        assert_eq!(
            pull_failure("a", "SignatureValidationFailed"),
            (
                ImageReason::SignatureValidationFailed,
                "image pull failed for a because the signature validation failed".into()
            )
        );
        assert_eq!(pull_failure("a", "not found"), (ImageReason::ErrImagePull, "not found".into()));
    }

    #[test]
    fn a_back_off_keeps_the_error_and_tells_the_next_attempt() {
        let check = |previous: Option<(&str, &str)>, millis: i64, expected: &str| {
            let until = Timestamp::from_millisecond(millis).unwrap();
            let (event, waiting) = back_off_messages("a", previous, until);
            assert_eq!((event.as_str(), waiting.as_str()), ("Back-off pulling image \"a\"", expected));
            waiting
        };
        let at = "; next attempt at 1970-01-01T00:00:10Z";
        let none = format!("Back-off pulling image \"a\"{at}");
        check(None, 10_999, &none);
        check(Some(("CreateContainerError", "no")), 10_000, &none);
        let error = "Back-off pulling image \"a\": ErrImagePull: not found";
        let told = check(Some(("ErrImagePull", "not found")), 10_000, &format!("{error}{at}"));
        // The same until the next pull, then with its time.
        let same = check(Some(("ImagePullBackOff", &told)), 10_000, &told);
        let later = format!("{error}; next attempt at 1970-01-01T00:00:30Z");
        check(Some(("ImagePullBackOff", &same)), 30_000, &later);
        let unsigned = "Back-off pulling image \"a\": SignatureValidationFailed: no";
        check(Some(("SignatureValidationFailed", "no")), 10_000, &format!("{unsigned}{at}"));
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails_and_the_tagged_name_is_stable(name in "[a-zA-Z0-9./:@_\\[\\]-]{0,40}") {
            if let Ok(tagged) = image_with_default_tag(&name) {
                prop_assert_eq!(image_with_default_tag(&tagged).unwrap(), tagged.clone());
                prop_assert_eq!(parse_image_name(&tagged).unwrap().repository, parse_image_name(&name).unwrap().repository);
            }
        }
    }
}
