//! The pod and its spec: scheduling, DNS, pod-wide security.
//!
//! A table of facts (see the parent module): the order and the names are upstream's, because the hash is
//! made of them. No logic.

use super::Field;
use super::Source::{Inline, Internal, Key};
use super::Type::{self, Bool, Int32, Int64, List, Map, Pointer, Quantity, Struct, Text};
use super::container::{
    APP_ARMOR_PROFILE, CONTAINER, EPHEMERAL_CONTAINER, RESOURCE_REQUIREMENTS, SE_LINUX_OPTIONS,
    SECCOMP_PROFILE, WINDOWS_SECURITY_CONTEXT_OPTIONS,
};
use super::shared::{LABEL_SELECTOR, LOCAL_OBJECT_REFERENCE, OBJECT_META, TYPE_META};
use super::status::POD_STATUS;
use super::volume::VOLUME;

pub(super) static SYSCTL: Type = Struct(
    "core.Sysctl",
    &[Field("Name", Key("name"), &Text("string")), Field("Value", Key("value"), &Text("string"))],
    &[],
);

pub(super) static POD_SECURITY_CONTEXT: Type = Struct(
    "core.PodSecurityContext",
    &[
        Field("HostNetwork", Internal("hostNetwork"), &Bool),
        Field("HostPID", Internal("hostPID"), &Bool),
        Field("HostIPC", Internal("hostIPC"), &Bool),
        Field("ShareProcessNamespace", Internal("shareProcessNamespace"), &Pointer(&Bool)),
        Field("HostUsers", Internal("hostUsers"), &Pointer(&Bool)),
        Field("SELinuxOptions", Key("seLinuxOptions"), &Pointer(&SE_LINUX_OPTIONS)),
        Field("WindowsOptions", Key("windowsOptions"), &Pointer(&WINDOWS_SECURITY_CONTEXT_OPTIONS)),
        Field("RunAsUser", Key("runAsUser"), &Pointer(&Int64)),
        Field("RunAsGroup", Key("runAsGroup"), &Pointer(&Int64)),
        Field("RunAsNonRoot", Key("runAsNonRoot"), &Pointer(&Bool)),
        Field("SupplementalGroups", Key("supplementalGroups"), &List(&Int64)),
        Field(
            "SupplementalGroupsPolicy",
            Key("supplementalGroupsPolicy"),
            &Pointer(&Text("core.SupplementalGroupsPolicy")),
        ),
        Field("FSGroup", Key("fsGroup"), &Pointer(&Int64)),
        Field(
            "FSGroupChangePolicy",
            Key("fsGroupChangePolicy"),
            &Pointer(&Text("core.PodFSGroupChangePolicy")),
        ),
        Field("Sysctls", Key("sysctls"), &List(&SYSCTL)),
        Field("SeccompProfile", Key("seccompProfile"), &Pointer(&SECCOMP_PROFILE)),
        Field("AppArmorProfile", Key("appArmorProfile"), &Pointer(&APP_ARMOR_PROFILE)),
        Field(
            "SELinuxChangePolicy",
            Key("seLinuxChangePolicy"),
            &Pointer(&Text("core.PodSELinuxChangePolicy")),
        ),
    ],
    &[],
);

pub(super) static NODE_SELECTOR_REQUIREMENT: Type = Struct(
    "core.NodeSelectorRequirement",
    &[
        Field("Key", Key("key"), &Text("string")),
        Field("Operator", Key("operator"), &Text("core.NodeSelectorOperator")),
        Field("Values", Key("values"), &List(&Text("string"))),
    ],
    &[],
);

pub(super) static NODE_SELECTOR_TERM: Type = Struct(
    "core.NodeSelectorTerm",
    &[
        Field("MatchExpressions", Key("matchExpressions"), &List(&NODE_SELECTOR_REQUIREMENT)),
        Field("MatchFields", Key("matchFields"), &List(&NODE_SELECTOR_REQUIREMENT)),
    ],
    &[],
);

pub(super) static NODE_SELECTOR: Type = Struct(
    "core.NodeSelector",
    &[Field("NodeSelectorTerms", Key("nodeSelectorTerms"), &List(&NODE_SELECTOR_TERM))],
    &[],
);

pub(super) static PREFERRED_SCHEDULING_TERM: Type = Struct(
    "core.PreferredSchedulingTerm",
    &[Field("Weight", Key("weight"), &Int32), Field("Preference", Key("preference"), &NODE_SELECTOR_TERM)],
    &[],
);

pub(super) static NODE_AFFINITY: Type = Struct(
    "core.NodeAffinity",
    &[
        Field(
            "RequiredDuringSchedulingIgnoredDuringExecution",
            Key("requiredDuringSchedulingIgnoredDuringExecution"),
            &Pointer(&NODE_SELECTOR),
        ),
        Field(
            "PreferredDuringSchedulingIgnoredDuringExecution",
            Key("preferredDuringSchedulingIgnoredDuringExecution"),
            &List(&PREFERRED_SCHEDULING_TERM),
        ),
    ],
    &[],
);

pub(super) static POD_AFFINITY_TERM: Type = Struct(
    "core.PodAffinityTerm",
    &[
        Field("LabelSelector", Key("labelSelector"), &Pointer(&LABEL_SELECTOR)),
        Field("Namespaces", Key("namespaces"), &List(&Text("string"))),
        Field("TopologyKey", Key("topologyKey"), &Text("string")),
        Field("NamespaceSelector", Key("namespaceSelector"), &Pointer(&LABEL_SELECTOR)),
        Field("MatchLabelKeys", Key("matchLabelKeys"), &List(&Text("string"))),
        Field("MismatchLabelKeys", Key("mismatchLabelKeys"), &List(&Text("string"))),
    ],
    &[],
);

pub(super) static WEIGHTED_POD_AFFINITY_TERM: Type = Struct(
    "core.WeightedPodAffinityTerm",
    &[
        Field("Weight", Key("weight"), &Int32),
        Field("PodAffinityTerm", Key("podAffinityTerm"), &POD_AFFINITY_TERM),
    ],
    &[],
);

pub(super) static POD_AFFINITY: Type = Struct(
    "core.PodAffinity",
    &[
        Field(
            "RequiredDuringSchedulingIgnoredDuringExecution",
            Key("requiredDuringSchedulingIgnoredDuringExecution"),
            &List(&POD_AFFINITY_TERM),
        ),
        Field(
            "PreferredDuringSchedulingIgnoredDuringExecution",
            Key("preferredDuringSchedulingIgnoredDuringExecution"),
            &List(&WEIGHTED_POD_AFFINITY_TERM),
        ),
    ],
    &[],
);

pub(super) static POD_ANTI_AFFINITY: Type = Struct(
    "core.PodAntiAffinity",
    &[
        Field(
            "RequiredDuringSchedulingIgnoredDuringExecution",
            Key("requiredDuringSchedulingIgnoredDuringExecution"),
            &List(&POD_AFFINITY_TERM),
        ),
        Field(
            "PreferredDuringSchedulingIgnoredDuringExecution",
            Key("preferredDuringSchedulingIgnoredDuringExecution"),
            &List(&WEIGHTED_POD_AFFINITY_TERM),
        ),
    ],
    &[],
);

pub(super) static AFFINITY: Type = Struct(
    "core.Affinity",
    &[
        Field("NodeAffinity", Key("nodeAffinity"), &Pointer(&NODE_AFFINITY)),
        Field("PodAffinity", Key("podAffinity"), &Pointer(&POD_AFFINITY)),
        Field("PodAntiAffinity", Key("podAntiAffinity"), &Pointer(&POD_ANTI_AFFINITY)),
    ],
    &[],
);

pub(super) static TOLERATION: Type = Struct(
    "core.Toleration",
    &[
        Field("Key", Key("key"), &Text("string")),
        Field("Operator", Key("operator"), &Text("core.TolerationOperator")),
        Field("Value", Key("value"), &Text("string")),
        Field("Effect", Key("effect"), &Text("core.TaintEffect")),
        Field("TolerationSeconds", Key("tolerationSeconds"), &Pointer(&Int64)),
    ],
    &[],
);

pub(super) static HOST_ALIAS: Type = Struct(
    "core.HostAlias",
    &[Field("IP", Key("ip"), &Text("string")), Field("Hostnames", Key("hostnames"), &List(&Text("string")))],
    &[],
);

pub(super) static POD_DNS_CONFIG_OPTION: Type = Struct(
    "core.PodDNSConfigOption",
    &[Field("Name", Key("name"), &Text("string")), Field("Value", Key("value"), &Pointer(&Text("string")))],
    &[],
);

pub(super) static POD_DNS_CONFIG: Type = Struct(
    "core.PodDNSConfig",
    &[
        Field("Nameservers", Key("nameservers"), &List(&Text("string"))),
        Field("Searches", Key("searches"), &List(&Text("string"))),
        Field("Options", Key("options"), &List(&POD_DNS_CONFIG_OPTION)),
    ],
    &[],
);

pub(super) static POD_READINESS_GATE: Type = Struct(
    "core.PodReadinessGate",
    &[Field("ConditionType", Key("conditionType"), &Text("core.PodConditionType"))],
    &[],
);

pub(super) static TOPOLOGY_SPREAD_CONSTRAINT: Type = Struct(
    "core.TopologySpreadConstraint",
    &[
        Field("MaxSkew", Key("maxSkew"), &Int32),
        Field("TopologyKey", Key("topologyKey"), &Text("string")),
        Field("WhenUnsatisfiable", Key("whenUnsatisfiable"), &Text("core.UnsatisfiableConstraintAction")),
        Field("LabelSelector", Key("labelSelector"), &Pointer(&LABEL_SELECTOR)),
        Field("MinDomains", Key("minDomains"), &Pointer(&Int32)),
        Field("NodeAffinityPolicy", Key("nodeAffinityPolicy"), &Pointer(&Text("core.NodeInclusionPolicy"))),
        Field("NodeTaintsPolicy", Key("nodeTaintsPolicy"), &Pointer(&Text("core.NodeInclusionPolicy"))),
        Field("MatchLabelKeys", Key("matchLabelKeys"), &List(&Text("string"))),
    ],
    &[],
);

pub(super) static POD_OS: Type =
    Struct("core.PodOS", &[Field("Name", Key("name"), &Text("core.OSName"))], &[]);

pub(super) static POD_SCHEDULING_GATE: Type =
    Struct("core.PodSchedulingGate", &[Field("Name", Key("name"), &Text("string"))], &[]);

pub(super) static POD_RESOURCE_CLAIM: Type = Struct(
    "core.PodResourceClaim",
    &[
        Field("Name", Key("name"), &Text("string")),
        Field("ResourceClaimName", Key("resourceClaimName"), &Pointer(&Text("string"))),
        Field("ResourceClaimTemplateName", Key("resourceClaimTemplateName"), &Pointer(&Text("string"))),
    ],
    &[],
);

pub(super) static POD_SCHEDULING_GROUP: Type = Struct(
    "core.PodSchedulingGroup",
    &[Field("PodGroupName", Key("podGroupName"), &Pointer(&Text("string")))],
    &[],
);

pub(super) static POD_SPEC: Type = Struct(
    "core.PodSpec",
    &[
        Field("Volumes", Key("volumes"), &List(&VOLUME)),
        Field("InitContainers", Key("initContainers"), &List(&CONTAINER)),
        Field("Containers", Key("containers"), &List(&CONTAINER)),
        Field("EphemeralContainers", Key("ephemeralContainers"), &List(&EPHEMERAL_CONTAINER)),
        Field("RestartPolicy", Key("restartPolicy"), &Text("core.RestartPolicy")),
        Field("TerminationGracePeriodSeconds", Key("terminationGracePeriodSeconds"), &Pointer(&Int64)),
        Field("ActiveDeadlineSeconds", Key("activeDeadlineSeconds"), &Pointer(&Int64)),
        Field("DNSPolicy", Key("dnsPolicy"), &Text("core.DNSPolicy")),
        Field("NodeSelector", Key("nodeSelector"), &Map("map[string]string", &Text("string"))),
        Field("ServiceAccountName", Key("serviceAccountName"), &Text("string")),
        Field("AutomountServiceAccountToken", Key("automountServiceAccountToken"), &Pointer(&Bool)),
        Field("NodeName", Key("nodeName"), &Text("string")),
        Field("SecurityContext", Key("securityContext"), &Pointer(&POD_SECURITY_CONTEXT)),
        Field("ImagePullSecrets", Key("imagePullSecrets"), &List(&LOCAL_OBJECT_REFERENCE)),
        Field("Hostname", Key("hostname"), &Text("string")),
        Field("Subdomain", Key("subdomain"), &Text("string")),
        Field("SetHostnameAsFQDN", Key("setHostnameAsFQDN"), &Pointer(&Bool)),
        Field("Affinity", Key("affinity"), &Pointer(&AFFINITY)),
        Field("SchedulerName", Key("schedulerName"), &Text("string")),
        Field("Tolerations", Key("tolerations"), &List(&TOLERATION)),
        Field("HostAliases", Key("hostAliases"), &List(&HOST_ALIAS)),
        Field("PriorityClassName", Key("priorityClassName"), &Text("string")),
        Field("Priority", Key("priority"), &Pointer(&Int32)),
        Field("PreemptionPolicy", Key("preemptionPolicy"), &Pointer(&Text("core.PreemptionPolicy"))),
        Field("DNSConfig", Key("dnsConfig"), &Pointer(&POD_DNS_CONFIG)),
        Field("ReadinessGates", Key("readinessGates"), &List(&POD_READINESS_GATE)),
        Field("RuntimeClassName", Key("runtimeClassName"), &Pointer(&Text("string"))),
        Field("Overhead", Key("overhead"), &Map("core.ResourceList", &Quantity)),
        Field("EnableServiceLinks", Key("enableServiceLinks"), &Pointer(&Bool)),
        Field(
            "TopologySpreadConstraints",
            Key("topologySpreadConstraints"),
            &List(&TOPOLOGY_SPREAD_CONSTRAINT),
        ),
        Field("OS", Key("os"), &Pointer(&POD_OS)),
        Field("SchedulingGates", Key("schedulingGates"), &List(&POD_SCHEDULING_GATE)),
        Field("ResourceClaims", Key("resourceClaims"), &List(&POD_RESOURCE_CLAIM)),
        Field("Resources", Key("resources"), &Pointer(&RESOURCE_REQUIREMENTS)),
        Field("HostnameOverride", Key("hostnameOverride"), &Pointer(&Text("string"))),
        Field("SchedulingGroup", Key("schedulingGroup"), &Pointer(&POD_SCHEDULING_GROUP)),
    ],
    &[
        Field("DeprecatedServiceAccount", Key("serviceAccount"), &Text("string")),
        Field("HostNetwork", Key("hostNetwork"), &Bool),
        Field("HostPID", Key("hostPID"), &Bool),
        Field("HostIPC", Key("hostIPC"), &Bool),
        Field("ShareProcessNamespace", Key("shareProcessNamespace"), &Pointer(&Bool)),
        Field("HostUsers", Key("hostUsers"), &Pointer(&Bool)),
    ],
);

pub(crate) static POD: Type = Struct(
    "core.Pod",
    &[
        Field("TypeMeta", Inline, &TYPE_META),
        Field("ObjectMeta", Key("metadata"), &OBJECT_META),
        Field("Spec", Key("spec"), &POD_SPEC),
        Field("Status", Key("status"), &POD_STATUS),
    ],
    &[],
);
