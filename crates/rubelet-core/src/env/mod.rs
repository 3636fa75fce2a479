//! The environment of a container, and everything that `$(NAME)` is expanded in.
//!
//! Owns the order in which sources override each other (upstream `makeEnvironmentVariables`). Never fetches an
//! object or opens a file: the shell asks [`env_references`] what is needed, gathers it into [`EnvObjects`] and
//! calls [`make_env`] when the pod's addresses are known.

mod expand;
mod file;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, VolumeMount};

pub use self::expand::expand;
pub use self::file::{EnvFileError, env_file_value};
use crate::downward::{DownwardError, DownwardFacts, field_value, resource_value};

/// One variable of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EnvVar {
    /// Name.
    pub name: String,
    /// Value after expansion.
    pub value: String,
}

/// Objects and files that an environment needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvReferences {
    /// ConfigMap names, in the pod's namespace.
    pub config_maps: BTreeSet<String>,
    /// Secret names, in the pod's namespace.
    pub secrets: BTreeSet<String>,
    /// Env files: volume name and path in it.
    pub files: BTreeSet<(String, String)>,
}

/// Why an object or file is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// It does not exist; fine where the reference is optional. The text is the API's message.
    NotFound(String),
    /// It could not be read.
    Failed(String),
}

/// What was gathered. A reference that is not in here at all fails as on a node without an API server.
#[derive(Clone, Debug, Default)]
pub struct EnvObjects {
    /// ConfigMap data by name.
    pub config_maps: BTreeMap<String, Result<BTreeMap<String, String>, Missing>>,
    /// Secret data by name.
    pub secrets: BTreeMap<String, Result<BTreeMap<String, Vec<u8>>, Missing>>,
    /// Text of env files by volume name and path.
    pub files: BTreeMap<(String, String), Result<String, Missing>>,
}

/// Why there is no environment. The container waits with the reason [`EnvError::REASON`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// An object is needed and there is no API server to ask.
    #[error("couldn't get {kind} {namespace}/{name}, no kubeClient defined")]
    NoApi {
        /// `configMap` or `secret`.
        kind: &'static str,
        /// Namespace of the pod.
        namespace: String,
        /// Name of the object.
        name: String,
    },
    /// The API server's answer.
    #[error("{0}")]
    Object(String),
    /// The object has no such key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        /// Key.
        key: String,
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Namespace of the pod.
        namespace: String,
        /// Name of the object.
        name: String,
    },
    /// CRI carries text only.
    #[error(
        "value of key {key} in Secret {namespace}/{name} is not valid UTF-8 and cannot be an environment variable"
    )]
    NotText {
        /// Key.
        key: String,
        /// Namespace of the pod.
        namespace: String,
        /// Name of the object.
        name: String,
    },
    /// `fileKeyRef` names a volume the container's pod does not have mounted.
    #[error("cannot find the volume {0:?} referenced by FileKeyRef")]
    NoVolume(String),
    /// An env file is not in the strict format.
    #[error("couldn't parse env file")]
    File(#[source] EnvFileError),
    /// An env file cannot be read.
    #[error("couldn't parse env file")]
    UnreadableFile,
    /// An env file has no such key. The path is the one in the volume: host paths are not shown to users.
    #[error("environment variable key {key:?} not found in file {path:?}")]
    NoFileKey {
        /// Key.
        key: String,
        /// Path in the volume.
        path: String,
    },
    /// A field or resource reference.
    #[error(transparent)]
    Downward(#[from] DownwardError),
}

impl EnvError {
    /// The waiting reason of a container whose environment cannot be made.
    pub const REASON: &'static str = "CreateContainerConfigError";
}

/// What has to be gathered before a container's environment can be made.
pub fn env_references(container: &Container) -> EnvReferences {
    let mut found = EnvReferences::default();
    for source in container.env_from.iter().flatten() {
        if let Some(config_map) = &source.config_map_ref {
            found.config_maps.insert(config_map.name.clone());
        }
        if let Some(secret) = &source.secret_ref {
            found.secrets.insert(secret.name.clone());
        }
    }
    for source in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
        if let Some(config_map) = &source.config_map_key_ref {
            found.config_maps.insert(config_map.name.clone());
        }
        if let Some(secret) = &source.secret_key_ref {
            found.secrets.insert(secret.name.clone());
        }
        if let Some(file) = &source.file_key_ref {
            found.files.insert((file.volume_name.clone(), file.path.clone()));
        }
    }
    found
}

/// The environment of a container: `envFrom` in order (later ones win), `env` with expansion against what came
/// before and the service variables, then the service variables that nothing overrode.
///
/// The order of the result is the order of first mention, so it is the same each time.
pub fn make_env(
    pod: &Pod,
    container: &Container,
    objects: &EnvObjects,
    services: &BTreeMap<String, String>,
    facts: &DownwardFacts,
) -> Result<Vec<EnvVar>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut env = OrderedEnv::default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            let data = find_config_map(objects, namespace, &reference.name, reference.optional)?;
            for (key, value) in data.into_iter().flatten() {
                env.set(format!("{prefix}{key}"), value.clone());
            }
        } else if let Some(reference) = &source.secret_ref {
            let data = find_secret(objects, namespace, &reference.name, reference.optional)?;
            for (key, value) in data.into_iter().flatten() {
                env.set(format!("{prefix}{key}"), secret_text(value, key, namespace, &reference.name)?);
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let literal = variable.value.as_deref().unwrap_or_default();
        let value = if !literal.is_empty() {
            Some(expand(literal, |name| env.get(name).or_else(|| services.get(name)).cloned()))
        } else if let Some(source) = &variable.value_from {
            resolve(source, pod, container, objects, facts)?
        } else {
            Some(String::new())
        };
        if let Some(value) = value {
            env.set(variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        if env.get(name).is_none() {
            env.set(name.clone(), value.clone());
        }
    }
    Ok(env.list)
}

/// The value of one `valueFrom`; `None` when it is optional and absent.
fn resolve(
    source: &EnvVarSource,
    pod: &Pod,
    container: &Container,
    objects: &EnvObjects,
    facts: &DownwardFacts,
) -> Result<Option<String>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let no_key = |key: &str, kind, name: &str| EnvError::NoKey {
        key: key.to_owned(),
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    if let Some(field) = &source.field_ref {
        return Ok(Some(field_value(field, pod, facts)?));
    }
    if let Some(resource) = &source.resource_field_ref {
        return Ok(Some(resource_value(resource, pod, container, facts)?));
    }
    if let Some(reference) = &source.config_map_key_ref {
        let Some(data) = find_config_map(objects, namespace, &reference.name, reference.optional)? else {
            return Ok(None);
        };
        return match data.get(&reference.key) {
            Some(value) => Ok(Some(value.clone())),
            None if reference.optional == Some(true) => Ok(None),
            None => Err(no_key(&reference.key, "ConfigMap", &reference.name)),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let Some(data) = find_secret(objects, namespace, &reference.name, reference.optional)? else {
            return Ok(None);
        };
        return match data.get(&reference.key) {
            Some(value) => secret_text(value, &reference.key, namespace, &reference.name).map(Some),
            None if reference.optional == Some(true) => Ok(None),
            None => Err(no_key(&reference.key, "Secret", &reference.name)),
        };
    }
    if let Some(reference) = &source.file_key_ref {
        let place = (reference.volume_name.clone(), reference.path.clone());
        let text = match objects.files.get(&place) {
            Some(Ok(text)) => text.as_str(),
            Some(Err(_)) => return Err(EnvError::UnreadableFile),
            None => return Err(EnvError::NoVolume(reference.volume_name.clone())),
        };
        let value = env_file_value(text, &reference.key).map_err(EnvError::File)?;
        return match value {
            value if !value.is_empty() => Ok(Some(value)),
            _ if reference.optional == Some(true) => Ok(None),
            _ => Err(EnvError::NoFileKey { key: reference.key.clone(), path: reference.path.clone() }),
        };
    }
    Ok(Some(String::new()))
}

fn find_config_map<'a>(
    objects: &'a EnvObjects,
    namespace: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<&'a BTreeMap<String, String>>, EnvError> {
    found(objects.config_maps.get(name), "configMap", namespace, name, optional)
}

fn find_secret<'a>(
    objects: &'a EnvObjects,
    namespace: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<&'a BTreeMap<String, Vec<u8>>>, EnvError> {
    found(objects.secrets.get(name), "secret", namespace, name, optional)
}

fn found<'a, T>(
    entry: Option<&'a Result<T, Missing>>,
    kind: &'static str,
    namespace: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<&'a T>, EnvError> {
    match entry {
        Some(Ok(data)) => Ok(Some(data)),
        Some(Err(Missing::NotFound(_))) if optional == Some(true) => Ok(None),
        Some(Err(Missing::NotFound(message) | Missing::Failed(message))) => {
            Err(EnvError::Object(message.clone()))
        }
        None => Err(EnvError::NoApi { kind, namespace: namespace.to_owned(), name: name.to_owned() }),
    }
}

fn secret_text(value: &[u8], key: &str, namespace: &str, name: &str) -> Result<String, EnvError> {
    String::from_utf8(value.to_vec()).map_err(|_| EnvError::NotText {
        key: key.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

/// Command and arguments with references expanded against the final environment. A reference to nothing stays.
pub fn expand_command(container: &Container, env: &[EnvVar]) -> (Vec<String>, Vec<String>) {
    let values: BTreeMap<&str, &str> = env.iter().map(|v| (v.name.as_str(), v.value.as_str())).collect();
    let expanded = |list: &Option<Vec<String>>| {
        let lookup = |name: &str| values.get(name).map(|value| (*value).to_owned());
        list.iter().flatten().map(|text| expand(text, lookup)).collect()
    };
    (expanded(&container.command), expanded(&container.args))
}

/// A `subPathExpr` references variables that are unset or empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("missing value for {}", .0.join(", "))]
pub struct SubPathError(
    /// The names, sorted.
    pub Vec<String>,
);

/// The sub-path of a mount: `subPathExpr` expanded when there is one, else `subPath`.
pub fn expand_sub_path(mount: &VolumeMount, env: &[EnvVar]) -> Result<String, SubPathError> {
    let Some(expression) = mount.sub_path_expr.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(mount.sub_path.clone().unwrap_or_default());
    };
    let mut missing = BTreeSet::new();
    let expanded = expand::expand_with(expression, |name| {
        match env.iter().rev().find(|v| v.name == name && !v.value.is_empty()) {
            Some(variable) => variable.value.clone(),
            None => {
                missing.insert(name.to_owned());
                String::new()
            }
        }
    });
    if missing.is_empty() { Ok(expanded) } else { Err(SubPathError(missing.into_iter().collect())) }
}

/// Variables in the order of their first mention, with the last value of each.
#[derive(Default)]
struct OrderedEnv {
    list: Vec<EnvVar>,
    places: BTreeMap<String, usize>,
}

impl OrderedEnv {
    fn get(&self, name: &str) -> Option<&String> {
        self.places.get(name).map(|place| &self.list[*place].value)
    }
    fn set(&mut self, name: String, value: String) {
        match self.places.get(&name) {
            Some(place) => self.list[*place].value = value,
            None => {
                self.places.insert(name.clone(), self.list.len());
                self.list.push(EnvVar { name, value });
            }
        }
    }
}

#[cfg(test)]
mod tests;
