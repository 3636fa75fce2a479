//! `CredentialProviderConfig`: which plugins there are, for which images, and what they are told (upstream
//! `validateCredentialProviderConfig`). Owns the document's shape and rules; the shell reads and merges files.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::Location;

/// API group and versions of the document.
const CONFIG_VERSIONS: [&str; 3] =
    ["kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"];
/// The version of the protocol that can carry a service account's token.
pub(super) const PROTOCOL_V1: &str = "credentialprovider.kubelet.k8s.io/v1";
/// Versions of what is said to plugins.
const PROTOCOL_VERSIONS: [&str; 3] =
    [PROTOCOL_V1, "credentialprovider.kubelet.k8s.io/v1beta1", "credentialprovider.kubelet.k8s.io/v1alpha1"];

/// A configuration file as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProviderDocument {
    /// Group and version.
    #[serde(default)]
    pub api_version: String,
    /// `CredentialProviderConfig`.
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    providers: Vec<ProviderEntry>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProviderEntry {
    #[serde(default)]
    name: String,
    #[serde(default)]
    match_images: Vec<String>,
    #[serde(default)]
    default_cache_duration: Option<String>,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<EnvEntry>>,
    #[serde(default)]
    token_attributes: Option<TokenEntry>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvEntry {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TokenEntry {
    #[serde(default)]
    service_account_token_audience: String,
    #[serde(default)]
    cache_type: String,
    #[serde(default)]
    require_service_account: Option<bool>,
    #[serde(default)]
    required_service_account_annotation_keys: Vec<String>,
    #[serde(default)]
    optional_service_account_annotation_keys: Vec<String>,
}

/// A plugin, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderConfig {
    /// Name of the executable in `--image-credential-provider-bin-dir`.
    pub name: String,
    /// The images it is asked about.
    pub match_images: Vec<Location>,
    /// How long an answer holds that does not say.
    pub default_cache_duration: Duration,
    /// Version of what is said to it.
    pub api_version: String,
    /// Arguments.
    pub args: Vec<String>,
    /// Variables added to the agent's own.
    pub env: Vec<(String, String)>,
    /// What it is told about the pod's service account.
    pub token: Option<TokenAttributes>,
}

impl ProviderConfig {
    /// Whether the plugin is asked about a repository (registry and path, no tag).
    pub fn matches(&self, repository: &str) -> bool {
        Location::parse(repository).is_ok_and(|target| self.match_images.iter().any(|at| at.covers(&target)))
    }
}

/// What a plugin wants to know about the pod's service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenAttributes {
    /// Audience of the token.
    pub audience: String,
    /// What credentials are remembered for.
    pub cache_type: TokenCacheType,
    /// A pod without service account is not asked for.
    pub require_service_account: bool,
    /// Annotations without which the plugin is not asked.
    pub required_annotations: Vec<String>,
    /// Annotations passed on where there are any.
    pub optional_annotations: Vec<String>,
}

/// What credentials that were given for a service account's token are remembered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenCacheType {
    /// Every pod of the service account.
    ServiceAccount,
    /// That token.
    Token,
}

/// Something wrong at a place of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldProblem {
    /// Path of the field.
    pub field: String,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

/// Collects problems with their paths.
#[derive(Default)]
struct Problems(Vec<FieldProblem>);

impl Problems {
    fn say(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push(FieldProblem { field: field.into(), problem: problem.into() });
    }
}

impl ProviderDocument {
    /// The plugins of a file. `tokens_allowed` is the gate `KubeletServiceAccountTokenForCredentialProviders`;
    /// `duration` reads Go's durations, as nanoseconds.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn validate(
        &self,
        tokens_allowed: bool,
        duration: impl Fn(&str) -> Result<i64, String>,
    ) -> Result<Vec<ProviderConfig>, Vec<FieldProblem>> {
        let mut problems = Problems::default();
        if !CONFIG_VERSIONS.contains(&self.api_version.as_str()) {
            let (found, allowed) = (&self.api_version, CONFIG_VERSIONS.join(", "));
            problems.say("apiVersion", format!("{found:?} is not supported; use one of {allowed}"));
        }
        if self.kind != "CredentialProviderConfig" {
            problems.say("kind", format!("{:?} is not CredentialProviderConfig", self.kind));
        }
        if self.providers.is_empty() {
            problems.say("providers", "at least one provider is required");
        }
        let mut names = BTreeSet::new();
        let mut configs = Vec::new();
        for (n, entry) in self.providers.iter().enumerate() {
            let at = format!("providers[{n}]");
            check_name(entry, &at, &mut problems);
            if !names.insert(&entry.name) {
                problems.say(format!("{at}.name"), format!("{:?} is there twice", entry.name));
            }
            if entry.token_attributes.is_some() && self.api_version != CONFIG_VERSIONS[0] {
                let problem = format!("is only known in {}", CONFIG_VERSIONS[0]);
                problems.say(format!("{at}.tokenAttributes"), problem);
            }
            configs.push(ProviderConfig {
                name: entry.name.clone(),
                match_images: match_images(entry, &at, &mut problems),
                default_cache_duration: cache_duration(entry, &at, &duration, &mut problems),
                api_version: entry.api_version.clone(),
                args: entry.args.clone().unwrap_or_default(),
                env: entry.env.iter().flatten().map(|env| (env.name.clone(), env.value.clone())).collect(),
                token: token_attributes(entry, &at, tokens_allowed, &mut problems),
            });
        }
        if problems.0.is_empty() { Ok(configs) } else { Err(problems.0) }
    }
}

fn check_name(entry: &ProviderEntry, at: &str, problems: &mut Problems) {
    let name = &entry.name;
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', ' ']) {
        let problem =
            format!("{name:?} cannot be the name of an executable; it must hold no '/' and no space");
        problems.say(format!("{at}.name"), problem);
    }
    if !PROTOCOL_VERSIONS.contains(&entry.api_version.as_str()) {
        let (found, allowed) = (&entry.api_version, PROTOCOL_VERSIONS.join(", "));
        problems.say(format!("{at}.apiVersion"), format!("{found:?} is not supported; use one of {allowed}"));
    }
    for (n, env) in entry.env.iter().flatten().enumerate() {
        if env.name.is_empty() || env.name.contains(['=', '\0']) || env.value.contains('\0') {
            problems.say(format!("{at}.env[{n}]"), "is not a variable that a program can be given");
        }
    }
}

fn match_images(entry: &ProviderEntry, at: &str, problems: &mut Problems) -> Vec<Location> {
    if entry.match_images.is_empty() {
        problems.say(format!("{at}.matchImages"), "at least one pattern is required");
    }
    let mut locations = Vec::new();
    for (n, pattern) in entry.match_images.iter().enumerate() {
        match Location::parse(pattern) {
            Ok(location) => locations.push(location),
            Err(problem) => problems.say(format!("{at}.matchImages[{n}]"), format!("{pattern:?}: {problem}")),
        }
    }
    locations
}

fn cache_duration(
    entry: &ProviderEntry,
    at: &str,
    duration: impl Fn(&str) -> Result<i64, String>,
    problems: &mut Problems,
) -> Duration {
    let field = format!("{at}.defaultCacheDuration");
    match entry.default_cache_duration.as_deref().map(duration) {
        None => problems.say(field, "is required, for example \"12h\""),
        Some(Err(problem)) => problems.say(field, problem),
        Some(Ok(nanos)) => match u64::try_from(nanos) {
            Ok(nanos) => return Duration::from_nanos(nanos),
            Err(_) => problems.say(field, "must not be negative"),
        },
    }
    Duration::ZERO
}

fn token_attributes(
    entry: &ProviderEntry,
    at: &str,
    allowed: bool,
    problems: &mut Problems,
) -> Option<TokenAttributes> {
    let token = entry.token_attributes.as_ref()?;
    let at = format!("{at}.tokenAttributes");
    if !allowed {
        let gate = "KubeletServiceAccountTokenForCredentialProviders";
        problems.say(&at, format!("needs the feature gate {gate}, which is off"));
    }
    if entry.api_version != PROTOCOL_V1 {
        problems.say(&at, format!("needs the provider's apiVersion to be {PROTOCOL_V1}"));
    }
    if token.service_account_token_audience.is_empty() {
        problems.say(format!("{at}.serviceAccountTokenAudience"), "is required");
    }
    if token.require_service_account.is_none() {
        problems.say(format!("{at}.requireServiceAccount"), "is required: true or false");
    }
    let (required, optional) =
        (&token.required_service_account_annotation_keys, &token.optional_service_account_annotation_keys);
    if token.require_service_account == Some(false) && !required.is_empty() {
        let field = format!("{at}.requiredServiceAccountAnnotationKeys");
        problems.say(field, "is only allowed when requireServiceAccount is true");
    }
    for (name, keys) in [("required", required), ("optional", optional)] {
        let mut seen = BTreeSet::new();
        for (n, key) in keys.iter().enumerate() {
            let field = format!("{at}.{name}ServiceAccountAnnotationKeys[{n}]");
            if !is_annotation_key(key) {
                problems.say(&field, format!("{key:?} cannot be the key of an annotation"));
            }
            if !seen.insert(key) {
                problems.say(&field, format!("{key:?} is there twice"));
            }
        }
    }
    if let Some(key) = required.iter().find(|key| optional.contains(key)) {
        problems.say(&at, format!("annotation {key:?} cannot be both required and optional"));
    }
    let cache_type = match token.cache_type.as_str() {
        "ServiceAccount" => TokenCacheType::ServiceAccount,
        "Token" => TokenCacheType::Token,
        other => {
            let problem = format!("{other:?} is not supported; use ServiceAccount or Token");
            problems.say(format!("{at}.cacheType"), problem);
            TokenCacheType::Token
        }
    };
    Some(TokenAttributes {
        audience: token.service_account_token_audience.clone(),
        cache_type,
        require_service_account: token.require_service_account.unwrap_or(true),
        required_annotations: required.clone(),
        optional_annotations: optional.clone(),
    })
}

/// A qualified name: `[prefix/]name`.
fn is_annotation_key(key: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_alphanumeric();
    let part = |text: &str, limit: usize| {
        let bytes = text.as_bytes();
        bytes.len() <= limit
            && bytes.first().is_some_and(edge)
            && bytes.last().is_some_and(edge)
            && bytes.iter().all(|b| edge(b) || b"-_.".contains(b))
    };
    match key.split_once('/') {
        Some((prefix, name)) => part(prefix, 253) && !prefix.contains('_') && part(name, 63),
        None => part(key, 63),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn provider(change: Value) -> Value {
        let mut provider = json!({
            "name": "ecr",
            "matchImages": ["*.dkr.ecr.*.amazonaws.com"],
            "defaultCacheDuration": "5",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        });
        for (key, value) in change.as_object().unwrap() {
            provider[key] = value.clone();
        }
        provider
    }

    fn token(change: Value) -> Value {
        let mut token = json!({
            "serviceAccountTokenAudience": "registry",
            "cacheType": "Token",
            "requireServiceAccount": true,
        });
        for (key, value) in change.as_object().unwrap() {
            token[key] = value.clone();
        }
        provider(json!({"tokenAttributes": token}))
    }

    fn validate(
        version: &str,
        providers: Value,
        gate: bool,
    ) -> Result<Vec<ProviderConfig>, Vec<FieldProblem>> {
        let document = json!({
            "apiVersion": version, "kind": "CredentialProviderConfig", "providers": providers,
        });
        let document: ProviderDocument = serde_json::from_value(document).unwrap();
        document.validate(gate, |text| text.parse().map_err(|_| format!("{text:?} is not a duration")))
    }

    #[track_caller]
    fn check(providers: Value, expected: &[&str]) {
        let problems = validate("kubelet.config.k8s.io/v1", providers, true).err().unwrap_or_default();
        assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_valid_document() {
        let entry =
            token(json!({"cacheType": "ServiceAccount", "optionalServiceAccountAnnotationKeys": ["a.b/c"]}));
        let mut entry = entry;
        entry["env"] = json!([{"name": "A", "value": "b"}]);
        entry["args"] = json!(["--x"]);
        let configs = validate("kubelet.config.k8s.io/v1", json!([entry]), true).unwrap();
        let [config] = &configs[..] else { panic!("{configs:?}") };
        assert_eq!(config.default_cache_duration, Duration::from_nanos(5));
        assert_eq!(config.env, [("A".to_owned(), "b".to_owned())]);
        assert_eq!(config.args, ["--x"]);
        assert_eq!(config.token.as_ref().unwrap().cache_type, TokenCacheType::ServiceAccount);
        assert!(config.matches("1.dkr.ecr.eu.amazonaws.com/team/app"));
        assert!(!config.matches("gcr.io/team/app"));
        for version in CONFIG_VERSIONS {
            assert!(validate(version, json!([provider(json!({}))]), false).is_ok());
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        check(json!([]), &["providers: at least one provider is required"]);
        for name in ["", ".", "..", "a/b", "a b"] {
            let expected = format!(
                "providers[0].name: {name:?} cannot be the name of an executable; it must hold no '/' and no space"
            );
            check(json!([provider(json!({"name": name}))]), &[&expected]);
        }
        check(
            json!([provider(json!({})), provider(json!({}))]),
            &["providers[1].name: \"ecr\" is there twice"],
        );
        check(
            json!([provider(json!({"apiVersion": "v2"}))]),
            &["providers[0].apiVersion: \"v2\" is not supported; use one of \
               credentialprovider.kubelet.k8s.io/v1, credentialprovider.kubelet.k8s.io/v1beta1, \
               credentialprovider.kubelet.k8s.io/v1alpha1"],
        );
        check(
            json!([provider(json!({"matchImages": []}))]),
            &["providers[0].matchImages: at least one pattern is required"],
        );
        check(
            json!([provider(json!({"matchImages": ["a.io", "a b"]}))]),
            &["providers[0].matchImages[1]: \"a b\": invalid character in the host name"],
        );
        for (duration, problem) in [
            (json!(null), "is required, for example \"12h\""),
            (json!("-1"), "must not be negative"),
            (json!("x"), "\"x\" is not a duration"),
        ] {
            let expected = format!("providers[0].defaultCacheDuration: {problem}");
            check(json!([provider(json!({"defaultCacheDuration": duration}))]), &[&expected]);
        }
    }

    #[test]
    fn rules_of_token_attributes() {
        let at = "providers[0].tokenAttributes";
        let one = |change: Value, expected: String| check(json!([token(change)]), &[&expected]);
        one(
            json!({"serviceAccountTokenAudience": ""}),
            format!("{at}.serviceAccountTokenAudience: is required"),
        );
        one(
            json!({"requireServiceAccount": null}),
            format!("{at}.requireServiceAccount: is required: true or false"),
        );
        one(
            json!({"requireServiceAccount": false, "requiredServiceAccountAnnotationKeys": ["a"]}),
            format!(
                "{at}.requiredServiceAccountAnnotationKeys: is only allowed when requireServiceAccount is true"
            ),
        );
        one(
            json!({"requiredServiceAccountAnnotationKeys": ["a", "a"]}),
            format!("{at}.requiredServiceAccountAnnotationKeys[1]: \"a\" is there twice"),
        );
        one(
            json!({"optionalServiceAccountAnnotationKeys": ["a b"]}),
            format!(
                "{at}.optionalServiceAccountAnnotationKeys[0]: \"a b\" cannot be the key of an annotation"
            ),
        );
        one(
            json!({"requiredServiceAccountAnnotationKeys": ["a"], "optionalServiceAccountAnnotationKeys": ["a"]}),
            format!("{at}: annotation \"a\" cannot be both required and optional"),
        );
        one(
            json!({"cacheType": "Pod"}),
            format!("{at}.cacheType: \"Pod\" is not supported; use ServiceAccount or Token"),
        );
        let off = validate("kubelet.config.k8s.io/v1", json!([token(json!({}))]), false).unwrap_err();
        let gate = "KubeletServiceAccountTokenForCredentialProviders";
        assert_eq!(off[0].to_string(), format!("{at}: needs the feature gate {gate}, which is off"));
        let old = validate("kubelet.config.k8s.io/v1beta1", json!([token(json!({}))]), true).unwrap_err();
        assert_eq!(old[0].to_string(), format!("{at}: is only known in kubelet.config.k8s.io/v1"));
    }

    #[test]
    fn the_documents_kind_counts_and_unknown_fields_are_errors() {
        let parse = |document: Value| serde_json::from_value::<ProviderDocument>(document);
        let document = parse(json!({"apiVersion": "v1", "kind": "Pod", "providers": [provider(json!({}))]}));
        let problems = document.unwrap().validate(true, |_| Ok(0)).unwrap_err();
        assert_eq!(problems.len(), 2);
        assert_eq!(problems[1].to_string(), "kind: \"Pod\" is not CredentialProviderConfig");
        let error = parse(json!({"providers": [{"matchImage": []}]})).unwrap_err().to_string();
        assert!(error.contains("unknown field `matchImage`"), "{error}");
    }
}
