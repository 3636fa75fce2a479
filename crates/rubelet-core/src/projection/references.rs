//! Which API objects a pod needs: through volumes, environment and image pull secrets.
//!
//! Owns the walk over the spec; never reads an object. The shell holds a watch on each while the pod lives.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::core::v1::{Pod, ProjectedVolumeSource};

use super::{FilesSource, Needs, TokenKey};
use crate::containers::{ephemeral_as_container, regular_containers, spec_of};
use crate::env::env_references;

/// Kind of an object that a pod can need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

/// One object of the API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectReference {
    /// Kind.
    pub kind: ObjectKind,
    /// Namespace: always the pod's.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectReference {
    /// A reference to a ConfigMap.
    pub fn config_map(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind: ObjectKind::ConfigMap, namespace: namespace.into(), name: name.into() }
    }

    /// A reference to a Secret.
    pub fn secret(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind: ObjectKind::Secret, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ObjectKind::ConfigMap => "configMap",
            ObjectKind::Secret => "secret",
        };
        write!(f, "{kind} {}/{}", self.namespace, self.name)
    }
}

/// Collects references of one pod.
struct Found {
    namespace: String,
    needs: Needs,
}

impl Found {
    fn of(pod: &Pod) -> Self {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        Self { namespace, needs: Needs::default() }
    }

    fn add(&mut self, kind: ObjectKind, name: &str) {
        if !name.is_empty() {
            let reference =
                ObjectReference { kind, namespace: self.namespace.clone(), name: name.to_owned() };
            self.needs.objects.insert(reference);
        }
    }

    fn files(&mut self, source: FilesSource<'_>, pod: &Pod) {
        match source {
            FilesSource::ConfigMap(source) => self.add(ObjectKind::ConfigMap, &source.name),
            FilesSource::Secret(source) => {
                self.add(ObjectKind::Secret, source.secret_name.as_deref().unwrap_or_default());
            }
            FilesSource::DownwardApi(_) => {}
            FilesSource::Projected(source) => self.projected(source, pod),
        }
    }

    fn projected(&mut self, projected: &ProjectedVolumeSource, pod: &Pod) {
        for source in projected.sources.iter().flatten() {
            if let Some(secret) = &source.secret {
                self.add(ObjectKind::Secret, &secret.name);
            } else if let Some(config_map) = &source.config_map {
                self.add(ObjectKind::ConfigMap, &config_map.name);
            } else if let Some(token) = &source.service_account_token {
                self.needs.tokens.insert(TokenKey::of(pod, token));
            } else if source.cluster_trust_bundle.is_some() {
                self.needs.trust_bundles = true;
            }
        }
    }
}

/// What the files of one volume need.
pub fn needs(source: FilesSource<'_>, pod: &Pod) -> Needs {
    let mut found = Found::of(pod);
    found.files(source, pod);
    found.needs
}

/// Whether a volume of the pod shows trust bundles of the cluster.
pub fn wants_trust_bundles(pod: &Pod) -> bool {
    let mut volumes = spec_of(pod).volumes.iter().flatten().filter_map(FilesSource::of);
    volumes.any(|source| needs(source, pod).trust_bundles)
}

/// Every ConfigMap and Secret that a pod refers to, optional ones included.
pub fn references(pod: &Pod) -> BTreeSet<ObjectReference> {
    let spec = spec_of(pod);
    let mut found = Found::of(pod);
    for source in spec.volumes.iter().flatten().filter_map(FilesSource::of) {
        found.files(source, pod);
    }
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(ephemeral_as_container);
    for container in regular_containers(spec).cloned().chain(ephemeral) {
        let env = env_references(&container);
        env.config_maps.iter().for_each(|name| found.add(ObjectKind::ConfigMap, name));
        env.secrets.iter().for_each(|name| found.add(ObjectKind::Secret, name));
    }
    for secret in spec.image_pull_secrets.iter().flatten() {
        found.add(ObjectKind::Secret, &secret.name);
    }
    found.needs.objects
}
