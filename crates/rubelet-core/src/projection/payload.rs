//! From gathered objects to files.
//!
//! Owns keys, paths, modes, optional references and the messages of upstream's plugins; each message ends up in the
//! pod's FailedMount event. Never gathers anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource,
    Secret, VolumeProjection,
};

use super::{
    DEFAULT_MODE, FilesSource, Gathered, PathError, Payload, ProjectedFile, TokenKey, clean_path, file_user,
    trust_anchors,
};
use crate::containers::spec_of;
use crate::downward::{DownwardError, DownwardFacts, field_value, resource_value};
use crate::env::Missing;

/// Why a volume has no files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProjectionError {
    /// The API server's answer, or why it could not be asked.
    #[error("{0}")]
    Object(String),
    /// An object was not gathered at all.
    #[error("{kind} {namespace}/{name} cannot be read: this node has no API server")]
    NoApi {
        /// `configMap` or `secret`.
        kind: &'static str,
        /// Namespace of the pod.
        namespace: String,
        /// Name of the object.
        name: String,
    },
    /// A ConfigMap has no such key.
    #[error("configmap references non-existent config key: {0}")]
    NoConfigKey(String),
    /// A Secret has no such key.
    #[error("references non-existent secret key: {0}")]
    NoSecretKey(String),
    /// A pod field or container resource.
    #[error(transparent)]
    Downward(#[from] DownwardError),
    /// There is no token for the pod.
    #[error("{0}")]
    Token(String),
    /// A path that no file in a volume may have.
    #[error(transparent)]
    Path(#[from] PathError),
    /// One source's file is another one's directory.
    #[error("path {0} is a file in one source of the volume and a directory in another: change one of them")]
    Conflict(String),
    /// A source that this version cannot project.
    #[error("projected volume source {index} is of kind {kind}, which this version cannot project")]
    Unsupported {
        /// Its place in the list, from 0.
        index: usize,
        /// Its kind.
        kind: &'static str,
    },
}

/// All that is wrong with a volume's files, at least one thing. Printed like upstream's aggregate of errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectionErrors(pub Vec<ProjectionError>);

impl std::error::Error for ProjectionErrors {}

impl fmt::Display for ProjectionErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut seen = BTreeSet::new();
        let texts: Vec<String> =
            self.0.iter().map(ToString::to_string).filter(|text| seen.insert(text.clone())).collect();
        match texts.as_slice() {
            [one] => f.write_str(one),
            all => write!(f, "[{}]", all.join(", ")),
        }
    }
}

/// The files of a volume.
///
/// # Errors
/// Everything that stands against it, not just the first thing.
pub fn payload(
    source: FilesSource<'_>,
    pod: &Pod,
    gathered: &Gathered,
    facts: &DownwardFacts,
) -> Result<Payload, ProjectionErrors> {
    let mut maker = Maker { pod, gathered, facts, files: BTreeMap::new(), errors: Vec::new() };
    match source {
        FilesSource::ConfigMap(source) => {
            let reference = Reference::of(&source.name, source.optional, source.items.as_deref());
            maker.config_map(&reference, mode_of(source.default_mode));
        }
        FilesSource::Secret(source) => {
            let name = source.secret_name.as_deref().unwrap_or_default();
            let reference = Reference::of(name, source.optional, source.items.as_deref());
            maker.secret(&reference, mode_of(source.default_mode));
        }
        FilesSource::DownwardApi(source) => {
            let items = source.items.as_deref().unwrap_or_default();
            maker.downward(items, mode_of(source.default_mode));
        }
        FilesSource::Projected(source) => maker.projected(source),
    }
    maker.finish()
}

fn mode_of(default: Option<i32>) -> i32 {
    default.unwrap_or(DEFAULT_MODE)
}

/// What the sources that name an object have in common.
struct Reference<'a> {
    name: &'a str,
    optional: bool,
    items: &'a [KeyToPath],
}

impl<'a> Reference<'a> {
    fn of(name: &'a str, optional: Option<bool>, items: Option<&'a [KeyToPath]>) -> Self {
        Self { name, optional: optional == Some(true), items: items.unwrap_or_default() }
    }
}

struct Maker<'a> {
    pod: &'a Pod,
    gathered: &'a Gathered,
    facts: &'a DownwardFacts,
    files: BTreeMap<String, ProjectedFile>,
    errors: Vec<ProjectionError>,
}

impl Maker<'_> {
    fn projected(&mut self, projected: &ProjectedVolumeSource) {
        let mode = mode_of(projected.default_mode);
        for (index, source) in projected.sources.iter().flatten().enumerate() {
            self.projection(index, source, mode);
        }
    }

    fn trust_bundle(&mut self, projection: &ClusterTrustBundleProjection, mode: i32) {
        let anchors = match &self.gathered.trust_bundles {
            Some(Ok(bundles)) => trust_anchors(projection, bundles),
            Some(Err(Missing::NotFound(message) | Missing::Failed(message))) => Err(message.clone()),
            None => Err("ClusterTrustBundle projection is not supported in static kubelet mode".to_owned()),
        };
        match anchors {
            Ok(anchors) => {
                let (mode, user) = self.identity_mode(mode);
                self.add(&projection.path, anchors.into_bytes(), mode, user);
            }
            Err(message) => self.errors.push(ProjectionError::Object(message)),
        }
    }

    /// Mode and owner of files that are the pod's identity: whoever is not the user or in the group of the pod has no
    /// business with them.
    fn identity_mode(&self, mode: i32) -> (i32, Option<u32>) {
        let user = file_user(self.pod);
        let context = spec_of(self.pod).security_context.as_ref();
        let group = context.and_then(|context| context.fs_group);
        (if user.is_some() || group.is_some() { 0o600 } else { mode }, user)
    }

    fn projection(&mut self, index: usize, source: &VolumeProjection, mode: i32) {
        if let Some(secret) = &source.secret {
            self.secret(&Reference::of(&secret.name, secret.optional, secret.items.as_deref()), mode);
        } else if let Some(map) = &source.config_map {
            self.config_map(&Reference::of(&map.name, map.optional, map.items.as_deref()), mode);
        } else if let Some(downward) = &source.downward_api {
            self.downward(downward.items.as_deref().unwrap_or_default(), mode);
        } else if let Some(projection) = &source.service_account_token {
            let (mode, user) = self.identity_mode(mode);
            match self.gathered.tokens.get(&TokenKey::of(self.pod, projection)) {
                Some(Ok(token)) => {
                    let bytes = token.as_bytes().to_vec();
                    self.add(&projection.path, bytes, mode, user);
                }
                Some(Err(message)) => self.errors.push(ProjectionError::Token(message.clone())),
                None => self.errors.push(ProjectionError::Token(
                    "no service account token: this node has no API server".to_owned(),
                )),
            }
        } else if let Some(projection) = &source.cluster_trust_bundle {
            self.trust_bundle(projection, mode);
        } else if source.pod_certificate.is_some() {
            self.errors.push(ProjectionError::Unsupported { index, kind: "podCertificate" });
        }
    }

    fn config_map(&mut self, reference: &Reference<'_>, mode: i32) {
        static EMPTY: std::sync::LazyLock<ConfigMap> = std::sync::LazyLock::new(ConfigMap::default);
        let object = match self.gathered.config_maps.get(reference.name) {
            Some(Ok(object)) => object.as_ref(),
            Some(Err(Missing::NotFound(_))) if reference.optional => &*EMPTY,
            missing => {
                return self.missing(missing.and_then(|found| found.as_ref().err()), "configMap", reference);
            }
        };
        let binary = |key: &str| object.binary_data.as_ref()?.get(key).map(|ByteString(bytes)| bytes.clone());
        let text = |key: &str| object.data.as_ref()?.get(key).map(|text| text.clone().into_bytes());
        // Where a key is in both, which the API refuses, the binary one wins in full listings, as upstream.
        let keys = object
            .data
            .iter()
            .flat_map(BTreeMap::keys)
            .chain(object.binary_data.iter().flat_map(BTreeMap::keys));
        let keys: Vec<&String> = keys.collect();
        if reference.items.is_empty() {
            for key in keys {
                let bytes = binary(key).or_else(|| text(key)).unwrap_or_default();
                self.add(key, bytes, mode, None);
            }
        }
        for item in reference.items {
            match text(&item.key).or_else(|| binary(&item.key)) {
                Some(bytes) => self.add(&item.path, bytes, item.mode.unwrap_or(mode), None),
                None if reference.optional => {}
                None => self.errors.push(ProjectionError::NoConfigKey(item.key.clone())),
            }
        }
    }

    fn secret(&mut self, reference: &Reference<'_>, mode: i32) {
        static EMPTY: std::sync::LazyLock<Secret> = std::sync::LazyLock::new(Secret::default);
        let object = match self.gathered.secrets.get(reference.name) {
            Some(Ok(object)) => object.as_ref(),
            Some(Err(Missing::NotFound(_))) if reference.optional => &*EMPTY,
            missing => {
                return self.missing(missing.and_then(|found| found.as_ref().err()), "secret", reference);
            }
        };
        if reference.items.is_empty() {
            for (key, ByteString(bytes)) in object.data.iter().flatten() {
                self.add(key, bytes.clone(), mode, None);
            }
        }
        for item in reference.items {
            match object.data.as_ref().and_then(|data| data.get(&item.key)) {
                Some(ByteString(bytes)) => {
                    self.add(&item.path, bytes.clone(), item.mode.unwrap_or(mode), None);
                }
                None if reference.optional => {}
                None => self.errors.push(ProjectionError::NoSecretKey(item.key.clone())),
            }
        }
    }

    fn missing(&mut self, missing: Option<&Missing>, kind: &'static str, reference: &Reference<'_>) {
        self.errors.push(match missing {
            Some(Missing::NotFound(message) | Missing::Failed(message)) => {
                ProjectionError::Object(message.clone())
            }
            None => ProjectionError::NoApi {
                kind,
                namespace: self.pod.metadata.namespace.clone().unwrap_or_default(),
                name: reference.name.to_owned(),
            },
        });
    }

    fn downward(&mut self, items: &[DownwardAPIVolumeFile], mode: i32) {
        for item in items {
            match self.downward_text(item) {
                Ok(text) => self.add(&item.path, text.into_bytes(), item.mode.unwrap_or(mode), None),
                Err(error) => self.errors.push(error.into()),
            }
        }
    }

    fn downward_text(&self, item: &DownwardAPIVolumeFile) -> Result<String, DownwardError> {
        if let Some(field) = &item.field_ref {
            // Files show the pod's metadata only; addresses and the rest are for the environment.
            if !field.field_path.starts_with("metadata.") {
                return Err(DownwardError::NoValue(field.field_path.clone()));
            }
            return field_value(field, self.pod, self.facts);
        }
        let Some(resource) = &item.resource_field_ref else { return Ok(String::new()) };
        let name = resource.container_name.as_deref().unwrap_or_default();
        let spec = spec_of(self.pod);
        let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let container = containers
            .find(|container| container.name == name)
            .ok_or_else(|| DownwardError::Container(name.to_owned()))?;
        resource_value(resource, self.pod, container, self.facts)
    }

    /// Adds a file; of two at one path the later source's stays.
    fn add(&mut self, path: &str, bytes: Vec<u8>, mode: i32, owner: Option<u32>) {
        // Validation keeps modes within the permission bits.
        let mode = u32::try_from(mode).unwrap_or(0o600) & 0o777;
        match clean_path(path) {
            Ok(path) => {
                self.files.insert(path, ProjectedFile { bytes, mode, owner });
            }
            Err(error) => self.errors.push(error.into()),
        }
    }

    fn finish(mut self) -> Result<Payload, ProjectionErrors> {
        for path in self.files.keys() {
            let parents = path.match_indices('/').map(|(end, _)| &path[..end]);
            for parent in parents.filter(|parent| self.files.contains_key(*parent)) {
                self.errors.push(ProjectionError::Conflict(parent.to_owned()));
            }
        }
        if self.errors.is_empty() { Ok(self.files) } else { Err(ProjectionErrors(self.errors)) }
    }
}
