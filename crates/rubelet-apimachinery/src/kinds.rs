//! Which kinds the API knows, and what a request must know about each: names, scope, verbs, subresources.
//!
//! A table and look-ups in it; it holds no objects. It depends on nothing, because the build script reads it too.

/// Whether objects of a kind can be had from the local API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Stored and served.
    Stored,
    /// Answered at once and never stored, such as `TokenReview`.
    Answered,
    /// Stored, but only by a server that is told to: what a node agent's tests need of a cluster.
    OnRequest,
    /// Made of what the node agent measures when somebody asks, and never stored: only beside a node agent.
    Measured,
    /// Known by name only: it takes a cluster's controllers to make such an object true.
    NeedsCluster,
}

/// A path below an object.
#[derive(Debug, PartialEq, Eq)]
pub struct Subresource {
    /// The path's last word, such as `status`.
    pub name: &'static str,
    /// `apiVersion` of the objects it takes and gives.
    pub api_version: &'static str,
    /// Kind of the objects it takes and gives.
    pub kind: &'static str,
    /// API verbs, as discovery lists them.
    pub verbs: &'static [&'static str],
}

/// One kind of object, in one version.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// The version within the group.
    pub version: &'static str,
    /// The name in paths, such as `pods`.
    pub plural: &'static str,
    /// The name of one, such as `pod`.
    pub singular: &'static str,
    /// The name in objects, such as `Pod`.
    pub kind: &'static str,
    /// What kubectl takes for the plural, such as `po`.
    pub short_names: &'static [&'static str],
    /// Groups of resources, such as `all`.
    pub categories: &'static [&'static str],
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// API verbs, as discovery lists them.
    pub verbs: &'static [&'static str],
    /// Paths below its objects.
    pub subresources: &'static [Subresource],
    /// Whether it can be had here.
    pub served: Served,
}

impl Resource {
    /// The `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods`, or `leases.coordination.k8s.io`: how messages name a resource (`GroupResource.String`).
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The path of an object, of its collection (`name` is empty) or of what is below it. Without a namespace it is that
    /// of the objects of all.
    pub fn path(&self, namespace: &str, name: &str, subresource: &str) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if self.namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        for part in [self.plural, name, subresource] {
            if !part.is_empty() {
                path.push('/');
                path.push_str(part);
            }
        }
        path
    }

    /// Whether spec and status are written through different paths.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// The path of this name below its objects.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Events are one store with two faces: the resource under which objects of this one are kept.
    pub fn stored_as(&'static self) -> &'static Resource {
        if self.group == "events.k8s.io" { find("", "v1", "events").unwrap_or(self) } else { self }
    }
}

const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const NO_COLLECTION: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const CREATE: &[&str] = &["create"];
const READ_WRITE: &[&str] = &["get", "patch", "update"];
const STREAM: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

const fn sub(
    name: &'static str,
    api_version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> Subresource {
    Subresource { name, api_version, kind, verbs }
}

/// A stored kind with all verbs, in the core group and a namespace; the table changes what differs.
const CORE: Resource = Resource {
    group: "",
    version: "v1",
    plural: "",
    singular: "",
    kind: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    served: Served::Stored,
};

const fn review(
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
) -> Resource {
    Resource {
        group,
        version: "v1",
        plural,
        singular,
        kind,
        namespaced: false,
        verbs: CREATE,
        served: Served::Answered,
        ..CORE
    }
}

/// A kind of `metrics.k8s.io`, whose kinds have no names for one.
const fn measured(plural: &'static str, kind: &'static str, namespaced: bool) -> Resource {
    Resource {
        group: "metrics.k8s.io",
        version: "v1beta1",
        plural,
        kind,
        namespaced,
        verbs: &["get", "list"],
        served: Served::Measured,
        ..CORE
    }
}

const fn in_cluster(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    short_names: &'static [&'static str],
    namespaced: bool,
) -> Resource {
    Resource {
        group,
        version,
        plural,
        singular,
        kind,
        short_names,
        namespaced,
        verbs: CREATE,
        served: Served::NeedsCluster,
        ..CORE
    }
}

static RESOURCES: &[Resource] = &[
    Resource {
        plural: "bindings",
        singular: "binding",
        kind: "Binding",
        verbs: CREATE,
        served: Served::Answered,
        ..CORE
    },
    Resource { plural: "configmaps", singular: "configmap", kind: "ConfigMap", short_names: &["cm"], ..CORE },
    Resource { plural: "endpoints", singular: "endpoints", kind: "Endpoints", short_names: &["ep"], ..CORE },
    Resource { plural: "events", singular: "event", kind: "Event", short_names: &["ev"], ..CORE },
    Resource {
        plural: "namespaces",
        singular: "namespace",
        kind: "Namespace",
        short_names: &["ns"],
        namespaced: false,
        verbs: NO_COLLECTION,
        subresources: &[
            sub("finalize", "v1", "Namespace", &["update"]),
            sub("status", "v1", "Namespace", READ_WRITE),
        ],
        ..CORE
    },
    Resource {
        plural: "nodes",
        singular: "node",
        kind: "Node",
        short_names: &["no"],
        namespaced: false,
        subresources: &[
            sub("proxy", "v1", "NodeProxyOptions", PROXY),
            sub("status", "v1", "Node", READ_WRITE),
        ],
        ..CORE
    },
    Resource {
        plural: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        kind: "PersistentVolumeClaim",
        short_names: &["pvc"],
        subresources: &[sub("status", "v1", "PersistentVolumeClaim", READ_WRITE)],
        ..CORE
    },
    Resource {
        plural: "persistentvolumes",
        singular: "persistentvolume",
        kind: "PersistentVolume",
        short_names: &["pv"],
        namespaced: false,
        subresources: &[sub("status", "v1", "PersistentVolume", READ_WRITE)],
        ..CORE
    },
    Resource {
        plural: "pods",
        singular: "pod",
        kind: "Pod",
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            sub("attach", "v1", "PodAttachOptions", STREAM),
            sub("binding", "v1", "Binding", CREATE),
            sub("ephemeralcontainers", "v1", "Pod", READ_WRITE),
            sub("eviction", "policy/v1", "Eviction", CREATE),
            sub("exec", "v1", "PodExecOptions", STREAM),
            sub("log", "v1", "Pod", &["get"]),
            sub("portforward", "v1", "PodPortForwardOptions", STREAM),
            sub("proxy", "v1", "PodProxyOptions", PROXY),
            sub("resize", "v1", "Pod", READ_WRITE),
            sub("status", "v1", "Pod", READ_WRITE),
        ],
        ..CORE
    },
    Resource { plural: "secrets", singular: "secret", kind: "Secret", ..CORE },
    Resource {
        plural: "serviceaccounts",
        singular: "serviceaccount",
        kind: "ServiceAccount",
        short_names: &["sa"],
        subresources: &[sub("token", "authentication.k8s.io/v1", "TokenRequest", CREATE)],
        ..CORE
    },
    Resource {
        plural: "services",
        singular: "service",
        kind: "Service",
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[sub("status", "v1", "Service", READ_WRITE)],
        ..CORE
    },
    review("authentication.k8s.io", "selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview"),
    review("authentication.k8s.io", "tokenreviews", "tokenreview", "TokenReview"),
    Resource {
        namespaced: true,
        ..review(
            "authorization.k8s.io",
            "localsubjectaccessreviews",
            "localsubjectaccessreview",
            "LocalSubjectAccessReview",
        )
    },
    review(
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        "SelfSubjectAccessReview",
    ),
    review(
        "authorization.k8s.io",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        "SelfSubjectRulesReview",
    ),
    review("authorization.k8s.io", "subjectaccessreviews", "subjectaccessreview", "SubjectAccessReview"),
    Resource {
        group: "certificates.k8s.io",
        plural: "certificatesigningrequests",
        singular: "certificatesigningrequest",
        kind: "CertificateSigningRequest",
        short_names: &["csr"],
        namespaced: false,
        served: Served::OnRequest,
        subresources: &[
            sub("approval", "certificates.k8s.io/v1", "CertificateSigningRequest", READ_WRITE),
            sub("status", "certificates.k8s.io/v1", "CertificateSigningRequest", READ_WRITE),
        ],
        ..CORE
    },
    Resource { group: "coordination.k8s.io", plural: "leases", singular: "lease", kind: "Lease", ..CORE },
    Resource {
        group: "discovery.k8s.io",
        plural: "endpointslices",
        singular: "endpointslice",
        kind: "EndpointSlice",
        ..CORE
    },
    Resource {
        group: "events.k8s.io",
        plural: "events",
        singular: "event",
        kind: "Event",
        short_names: &["ev"],
        ..CORE
    },
    Resource {
        group: "node.k8s.io",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        kind: "RuntimeClass",
        namespaced: false,
        ..CORE
    },
    Resource {
        group: "policy",
        plural: "poddisruptionbudgets",
        singular: "poddisruptionbudget",
        kind: "PodDisruptionBudget",
        short_names: &["pdb"],
        served: Served::OnRequest,
        subresources: &[sub("status", "policy/v1", "PodDisruptionBudget", READ_WRITE)],
        ..CORE
    },
    Resource {
        group: "resource.k8s.io",
        plural: "resourceclaims",
        singular: "resourceclaim",
        kind: "ResourceClaim",
        subresources: &[sub("status", "resource.k8s.io/v1", "ResourceClaim", READ_WRITE)],
        ..CORE
    },
    Resource {
        group: "resource.k8s.io",
        plural: "resourceslices",
        singular: "resourceslice",
        kind: "ResourceSlice",
        namespaced: false,
        ..CORE
    },
    Resource {
        group: "scheduling.k8s.io",
        plural: "priorityclasses",
        singular: "priorityclass",
        kind: "PriorityClass",
        short_names: &["pc"],
        namespaced: false,
        ..CORE
    },
    Resource {
        group: "storage.k8s.io",
        plural: "csidrivers",
        singular: "csidriver",
        kind: "CSIDriver",
        namespaced: false,
        ..CORE
    },
    Resource {
        group: "storage.k8s.io",
        plural: "csinodes",
        singular: "csinode",
        kind: "CSINode",
        namespaced: false,
        ..CORE
    },
    Resource {
        group: "storage.k8s.io",
        plural: "storageclasses",
        singular: "storageclass",
        kind: "StorageClass",
        short_names: &["sc"],
        namespaced: false,
        ..CORE
    },
    Resource {
        group: "storage.k8s.io",
        plural: "volumeattachments",
        singular: "volumeattachment",
        kind: "VolumeAttachment",
        namespaced: false,
        subresources: &[sub("status", "storage.k8s.io/v1", "VolumeAttachment", READ_WRITE)],
        ..CORE
    },
    // What people try first, to be told where it can be had.
    in_cluster("", "v1", "limitranges", "limitrange", "LimitRange", &["limits"], true),
    in_cluster(
        "",
        "v1",
        "replicationcontrollers",
        "replicationcontroller",
        "ReplicationController",
        &["rc"],
        true,
    ),
    in_cluster("", "v1", "resourcequotas", "resourcequota", "ResourceQuota", &["quota"], true),
    in_cluster(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "customresourcedefinition",
        "CustomResourceDefinition",
        &["crd", "crds"],
        false,
    ),
    in_cluster("apps", "v1", "daemonsets", "daemonset", "DaemonSet", &["ds"], true),
    in_cluster("apps", "v1", "deployments", "deployment", "Deployment", &["deploy"], true),
    in_cluster("apps", "v1", "replicasets", "replicaset", "ReplicaSet", &["rs"], true),
    in_cluster("apps", "v1", "statefulsets", "statefulset", "StatefulSet", &["sts"], true),
    in_cluster(
        "autoscaling",
        "v2",
        "horizontalpodautoscalers",
        "horizontalpodautoscaler",
        "HorizontalPodAutoscaler",
        &["hpa"],
        true,
    ),
    in_cluster("batch", "v1", "cronjobs", "cronjob", "CronJob", &["cj"], true),
    in_cluster("batch", "v1", "jobs", "job", "Job", &[], true),
    in_cluster("networking.k8s.io", "v1", "ingresses", "ingress", "Ingress", &["ing"], true),
    in_cluster(
        "networking.k8s.io",
        "v1",
        "networkpolicies",
        "networkpolicy",
        "NetworkPolicy",
        &["netpol"],
        true,
    ),
    in_cluster("rbac.authorization.k8s.io", "v1", "clusterroles", "clusterrole", "ClusterRole", &[], false),
    in_cluster(
        "rbac.authorization.k8s.io",
        "v1",
        "clusterrolebindings",
        "clusterrolebinding",
        "ClusterRoleBinding",
        &[],
        false,
    ),
    in_cluster("rbac.authorization.k8s.io", "v1", "roles", "role", "Role", &[], true),
    in_cluster("rbac.authorization.k8s.io", "v1", "rolebindings", "rolebinding", "RoleBinding", &[], true),
    // Last, so that `nodes` and `pods` alone are never these.
    measured("nodes", "NodeMetrics", false),
    measured("pods", "PodMetrics", true),
];

/// The resource of a path.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// The resource with this `apiVersion` and kind.
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.kind == kind && r.api_version() == api_version)
}

/// All rows: groups in the order of the table's first mention.
pub fn all() -> &'static [Resource] {
    RESOURCES
}
