//! Which resources the fake serves, and what a request must know about each: group, kind, scope, status.
//!
//! A table and look-ups in it; it holds no objects.

/// One kind of object the API serves.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    /// API group; empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    /// The name in paths, such as `pods`.
    pub plural: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    /// Whether spec and status are written through different paths.
    pub has_status: bool,
}

/// A row of the table; resources are compared by what they say.
pub(crate) type ResourceRef = &'static Resource;

const fn row(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    has_status: bool,
) -> Resource {
    Resource { group, version, plural, kind, namespaced, has_status }
}

static RESOURCES: &[Resource] = &[
    row("", "v1", "namespaces", "Namespace", false, true),
    row("", "v1", "nodes", "Node", false, true),
    row("", "v1", "pods", "Pod", true, true),
    row("", "v1", "configmaps", "ConfigMap", true, false),
    row("", "v1", "secrets", "Secret", true, false),
    row("", "v1", "services", "Service", true, true),
    row("", "v1", "endpoints", "Endpoints", true, false),
    row("", "v1", "serviceaccounts", "ServiceAccount", true, false),
    row("", "v1", "events", "Event", true, false),
    row("", "v1", "persistentvolumes", "PersistentVolume", false, true),
    row("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", true, true),
    row("coordination.k8s.io", "v1", "leases", "Lease", true, false),
    row("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", false, false),
    row("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", false, false),
    row("storage.k8s.io", "v1", "csidrivers", "CSIDriver", false, false),
    row("storage.k8s.io", "v1", "csinodes", "CSINode", false, false),
    row("storage.k8s.io", "v1", "storageclasses", "StorageClass", false, false),
    row("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", false, true),
    row("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", false, true),
    row("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim", true, true),
    row("resource.k8s.io", "v1", "resourceslices", "ResourceSlice", false, false),
    row("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", false, false),
    row("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", false, false),
    row("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", true, true),
];

impl Resource {
    /// The `apiVersion` of its objects.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// The resource of a path, if the fake serves it.
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<ResourceRef> {
    RESOURCES.iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// The resource with this `apiVersion` and kind: how the admin side finds a typed object's place.
pub(crate) fn by_kind(api_version: &str, kind: &str) -> Option<ResourceRef> {
    RESOURCES.iter().find(|r| r.kind == kind && r.api_version() == api_version)
}

/// A resource of the table by its plural name, for code that names one.
pub(crate) fn named(plural: &str) -> ResourceRef {
    RESOURCES.iter().find(|r| r.plural == plural).unwrap_or_else(|| panic!("the fake serves no {plural}"))
}

/// All rows, for discovery.
pub(crate) fn all() -> &'static [Resource] {
    RESOURCES
}
