//! Credentials by location, and which of them to try for an image (upstream `BasicDockerKeyring`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;

use super::docker_config::{DockerConfig, DockerConfigError, parse_config_json, parse_dockercfg};
use super::{CredentialSource, Location, SourcedAuth};

/// Where Docker Hub's credentials are kept, whatever the image says.
const DOCKER_HUB: &str = "index.docker.io";

/// Credentials by location. Made by [`Self::add`], asked by [`Self::lookup`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    by_location: BTreeMap<String, (Location, Vec<SourcedAuth>)>,
}

/// What is wrong with a pull secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pull secret {name:?}, key {key:?}")]
pub struct PullSecretError {
    /// Name of the secret.
    pub name: String,
    /// Key in its data.
    pub key: &'static str,
    /// What is wrong there.
    #[source]
    pub problem: DockerConfigError,
}

impl Keyring {
    /// Adds the credentials of a file of the node, as [`Self::add_from`].
    pub fn add(&mut self, config: DockerConfig) -> Vec<DockerConfigError> {
        self.add_from(config, &CredentialSource::Node)
    }

    /// Adds credentials; those added earlier are tried first where locations are equal. Gives the locations that are
    /// none, which are left out.
    pub fn add_from(&mut self, config: DockerConfig, source: &CredentialSource) -> Vec<DockerConfigError> {
        let mut problems = Vec::new();
        for (location, auth) in config {
            match Location::parse_entry(&location) {
                Ok(parsed) => {
                    let entry = self.by_location.entry(parsed.key()).or_insert_with(|| (parsed, Vec::new()));
                    entry.1.push(SourcedAuth { auth, source: source.clone() });
                }
                Err(problem) => problems.push(DockerConfigError::Entry { location, problem }),
            }
        }
        problems
    }

    /// The keyring of a pod's pull secrets. Secrets of other types count for nothing, as upstream; a broken one
    /// is named and does not hide the others.
    pub fn of_secrets<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> (Self, Vec<PullSecretError>) {
        let (mut keyring, mut problems) = (Self::default(), Vec::new());
        for secret in secrets {
            let (key, parse): (_, fn(&[u8]) -> _) = match secret.type_.as_deref() {
                Some("kubernetes.io/dockerconfigjson") => (".dockerconfigjson", parse_config_json),
                Some("kubernetes.io/dockercfg") => (".dockercfg", parse_dockercfg),
                _ => continue,
            };
            let data = secret.data.as_ref().and_then(|data| data.get(key)).filter(|data| !data.0.is_empty());
            let Some(data) = data else { continue };
            let (config, mut found) = parse(&data.0);
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let name = text(&secret.metadata.name);
            let source = CredentialSource::Secret {
                uid: text(&secret.metadata.uid),
                namespace: text(&secret.metadata.namespace),
                name: name.clone(),
            };
            found.extend(keyring.add_from(config, &source));
            problems.extend(found.into_iter().map(|problem| PullSecretError {
                name: name.clone(),
                key,
                problem,
            }));
        }
        (keyring, problems)
    }

    /// The credentials to try for a repository (registry and path, no tag), best first: the more specific the
    /// location, the earlier. Docker Hub's images may also be covered by `index.docker.io` alone.
    pub fn lookup(&self, repository: &str) -> Vec<SourcedAuth> {
        if let Ok(target) = Location::parse(repository) {
            let covering = self.by_location.values().rev().filter(|(location, _)| location.covers(&target));
            let found: Vec<_> = covering.flat_map(|(_, auths)| auths).cloned().collect();
            if !found.is_empty() {
                return found;
            }
        }
        match self.by_location.get(DOCKER_HUB) {
            Some((_, auths)) if is_on_docker_hub(repository) => auths.clone(),
            _ => Vec::new(),
        }
    }
}

/// Whether an image without a registry of its own in its name comes from Docker Hub (`isDefaultRegistryMatch`).
fn is_on_docker_hub(repository: &str) -> bool {
    match repository.split_once('/') {
        None => !repository.is_empty(),
        Some(("", _)) => false,
        Some(("docker.io" | DOCKER_HUB, _)) => true,
        Some((first, _)) => !first.contains(['.', ':']),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::RegistryAuth;
    use super::*;

    fn auth(name: &str) -> RegistryAuth {
        RegistryAuth { username: name.to_owned(), password: "pw".to_owned(), ..Default::default() }
    }

    fn keyring(locations: &[&str]) -> Keyring {
        let mut keyring = Keyring::default();
        let config = locations.iter().map(|at| ((*at).to_owned(), auth(at))).collect();
        assert_eq!(keyring.add(config), []);
        keyring
    }

    #[track_caller]
    fn check(locations: &[&str], image: &str, expected: &[&str]) {
        let found = keyring(locations).lookup(image);
        let names: Vec<_> = found.iter().map(|found| found.auth.username.as_str()).collect();
        assert_eq!(names, expected, "{image}");
    }

    #[test]
    fn globs_ports_and_paths_hit() {
        for (location, target) in [
            ("https://hello.kubernetes.io", "hello.kubernetes.io"),
            ("https://*.docker.io", "prefix.docker.io"),
            ("https://prefix.*.io", "prefix.docker.io"),
            ("https://prefix.docker.*", "prefix.docker.io"),
            ("https://*.docker.io/path", "prefix.docker.io/path"),
            ("https://prefix.*.io/path", "prefix.docker.io/path/subpath"),
            ("https://*.docker.io:8888", "prefix.docker.io:8888"),
            ("https://*.docker.io/path:1111", "prefix.docker.io/path:1111"),
            ("https://*.docker.io/v1/", "prefix.docker.io/path:1111"),
            ("https://*.docker.io/v2/", "prefix.docker.io/path:1111"),
            ("prefix.docker.io:1111", "prefix.docker.io:1111/path"),
            ("*.docker.io:1111", "prefix.docker.io:1111/path"),
        ] {
            check(&[location], &format!("{target}/foo/bar"), &[location]);
        }
    }

    #[test]
    fn other_places_miss() {
        for (location, target) in [
            ("https://hello.kubernetes.io", "world.mesos.org"),
            ("https://*.docker.com", "prefix.docker.io"),
            ("https://suffix.*.io", "prefix.docker.io"),
            ("https://prefix.docker.c*", "prefix.docker.io"),
            ("https://prefix.*.io/path:1111", "prefix.docker.io/path/subpath:1111"),
            ("https://index.docker.io/v1/", "world.mesos.org"),
        ] {
            check(&[location], &format!("{target}/foo/bar"), &[]);
        }
    }

    #[test]
    fn docker_hub_is_found_by_any_name() {
        let hub = "https://index.docker.io/v1/";
        for image in [
            "google/docker-registry",
            "jenkins",
            "docker.io/library/nginx",
            "index.docker.io/v1//google/docker-registry",
        ] {
            check(&[hub], image, &[hub]);
        }
        for image in ["", "/x", "registry.tld/foo/bar", "registry:5000/foo/bar", "myhostdocker.io/foo/bar"] {
            check(&[hub], image, &[]);
        }
    }

    #[test]
    fn the_more_specific_comes_first() {
        let both = ["bar.example.com/pong", "bar.example.com", "*.example.com"];
        check(&both, "bar.example.com", &["bar.example.com", "*.example.com"]);
        check(&both, "bar.example.com/pong", &["bar.example.com/pong", "bar.example.com", "*.example.com"]);
        check(&both, "bar.example.com/ping", &["bar.example.com", "*.example.com"]);
        check(&both, "bar.example.com/pongz", &["bar.example.com/pong", "bar.example.com", "*.example.com"]);
        check(&both, "example.com", &[]);
        check(&both, "foo.example.com", &["*.example.com"]);
    }

    #[test]
    fn pull_secrets_of_both_kinds_in_their_order() {
        let secret = |name: &str, kind: &str, key: &str, text: &str| -> Secret {
            let data = k8s_openapi::ByteString(text.as_bytes().to_vec());
            serde_json::from_value(json!({"metadata": {"name": name}, "type": kind, "data": {key: data}}))
                .unwrap()
        };
        let new = ("kubernetes.io/dockerconfigjson", ".dockerconfigjson");
        let old = ("kubernetes.io/dockercfg", ".dockercfg");
        let secrets = [
            secret("a", new.0, new.1, r#"{"auths":{"r.io":{"username":"first"}}}"#),
            secret("b", old.0, old.1, r#"{"https://r.io":{"username":"second"}}"#),
            secret("c", "Opaque", new.1, r#"{"auths":{"r.io":{"username":"never"}}}"#),
            secret("d", new.0, old.1, r#"{"r.io":{"username":"never"}}"#),
            secret("e", new.0, new.1, "{"),
            secret(
                "f",
                new.0,
                new.1,
                r#"{"auths":{"bad host":{"username":"x"},"r.io":{"username":"last"}}}"#,
            ),
        ];
        let (keyring, problems) = Keyring::of_secrets(&secrets);
        let names: Vec<_> = keyring.lookup("r.io/a").into_iter().map(|found| found.auth.username).collect();
        assert_eq!(names, ["first", "second", "last"]);
        let problems: Vec<_> = problems.iter().map(|p| format!("{p}: {}", p.problem)).collect();
        assert_eq!(
            problems,
            [
                "pull secret \"e\", key \".dockerconfigjson\": not valid JSON (line 1, column 1)",
                "pull secret \"f\", key \".dockerconfigjson\": entry \"bad host\": invalid character in the host name",
            ]
        );
    }
}
