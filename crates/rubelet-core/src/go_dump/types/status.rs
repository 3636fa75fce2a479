//! The status, which a hand-written manifest seldom holds but the hash covers.
//!
//! A table of facts (see the parent module): the order and the names are upstream's, because the hash is
//! made of them. No logic.

use super::Field;
use super::Source::Key;
use super::Type::{self, Bool, Int32, Int64, List, Map, Pointer, Quantity, Struct, Text, Time};
use super::container::RESOURCE_REQUIREMENTS;

pub(super) static POD_CONDITION: Type = Struct(
    "core.PodCondition",
    &[
        Field("Type", Key("type"), &Text("core.PodConditionType")),
        Field("ObservedGeneration", Key("observedGeneration"), &Int64),
        Field("Status", Key("status"), &Text("core.ConditionStatus")),
        Field("LastProbeTime", Key("lastProbeTime"), &Time),
        Field("LastTransitionTime", Key("lastTransitionTime"), &Time),
        Field("Reason", Key("reason"), &Text("string")),
        Field("Message", Key("message"), &Text("string")),
    ],
    &[],
);

pub(super) static HOST_IP: Type = Struct("core.HostIP", &[Field("IP", Key("ip"), &Text("string"))], &[]);

pub(super) static POD_IP: Type = Struct("core.PodIP", &[Field("IP", Key("ip"), &Text("string"))], &[]);

pub(super) static CONTAINER_STATE_WAITING: Type = Struct(
    "core.ContainerStateWaiting",
    &[Field("Reason", Key("reason"), &Text("string")), Field("Message", Key("message"), &Text("string"))],
    &[],
);

pub(super) static CONTAINER_STATE_RUNNING: Type =
    Struct("core.ContainerStateRunning", &[Field("StartedAt", Key("startedAt"), &Time)], &[]);

pub(super) static CONTAINER_STATE_TERMINATED: Type = Struct(
    "core.ContainerStateTerminated",
    &[
        Field("ExitCode", Key("exitCode"), &Int32),
        Field("Signal", Key("signal"), &Int32),
        Field("Reason", Key("reason"), &Text("string")),
        Field("Message", Key("message"), &Text("string")),
        Field("StartedAt", Key("startedAt"), &Time),
        Field("FinishedAt", Key("finishedAt"), &Time),
        Field("ContainerID", Key("containerID"), &Text("string")),
    ],
    &[],
);

pub(super) static CONTAINER_STATE: Type = Struct(
    "core.ContainerState",
    &[
        Field("Waiting", Key("waiting"), &Pointer(&CONTAINER_STATE_WAITING)),
        Field("Running", Key("running"), &Pointer(&CONTAINER_STATE_RUNNING)),
        Field("Terminated", Key("terminated"), &Pointer(&CONTAINER_STATE_TERMINATED)),
    ],
    &[],
);

pub(super) static IMAGE_VOLUME_STATUS: Type =
    Struct("core.ImageVolumeStatus", &[Field("ImageRef", Key("imageRef"), &Text("string"))], &[]);

pub(super) static VOLUME_STATUS: Type =
    Struct("core.VolumeStatus", &[Field("Image", Key("image"), &Pointer(&IMAGE_VOLUME_STATUS))], &[]);

pub(super) static VOLUME_MOUNT_STATUS: Type = Struct(
    "core.VolumeMountStatus",
    &[
        Field("Name", Key("name"), &Text("string")),
        Field("MountPath", Key("mountPath"), &Text("string")),
        Field("ReadOnly", Key("readOnly"), &Bool),
        Field("RecursiveReadOnly", Key("recursiveReadOnly"), &Pointer(&Text("core.RecursiveReadOnlyMode"))),
        Field("VolumeStatus", Key("volumeStatus"), &Pointer(&VOLUME_STATUS)),
    ],
    &[],
);

pub(super) static LINUX_CONTAINER_USER: Type = Struct(
    "core.LinuxContainerUser",
    &[
        Field("UID", Key("uid"), &Int64),
        Field("GID", Key("gid"), &Int64),
        Field("SupplementalGroups", Key("supplementalGroups"), &List(&Int64)),
    ],
    &[],
);

pub(super) static CONTAINER_USER: Type =
    Struct("core.ContainerUser", &[Field("Linux", Key("linux"), &Pointer(&LINUX_CONTAINER_USER))], &[]);

pub(super) static RESOURCE_HEALTH: Type = Struct(
    "core.ResourceHealth",
    &[
        Field("ResourceID", Key("resourceID"), &Text("core.ResourceID")),
        Field("Health", Key("health"), &Text("core.ResourceHealthStatus")),
        Field("Message", Key("message"), &Pointer(&Text("string"))),
    ],
    &[],
);

pub(super) static RESOURCE_STATUS: Type = Struct(
    "core.ResourceStatus",
    &[
        Field("Name", Key("name"), &Text("core.ResourceName")),
        Field("Resources", Key("resources"), &List(&RESOURCE_HEALTH)),
    ],
    &[],
);

pub(super) static CONTAINER_STATUS: Type = Struct(
    "core.ContainerStatus",
    &[
        Field("Name", Key("name"), &Text("string")),
        Field("State", Key("state"), &CONTAINER_STATE),
        Field("LastTerminationState", Key("lastState"), &CONTAINER_STATE),
        Field("Ready", Key("ready"), &Bool),
        Field("RestartCount", Key("restartCount"), &Int32),
        Field("Image", Key("image"), &Text("string")),
        Field("ImageID", Key("imageID"), &Text("string")),
        Field("ContainerID", Key("containerID"), &Text("string")),
        Field("Started", Key("started"), &Pointer(&Bool)),
        Field("AllocatedResources", Key("allocatedResources"), &Map("core.ResourceList", &Quantity)),
        Field("Resources", Key("resources"), &Pointer(&RESOURCE_REQUIREMENTS)),
        Field("VolumeMounts", Key("volumeMounts"), &List(&VOLUME_MOUNT_STATUS)),
        Field("User", Key("user"), &Pointer(&CONTAINER_USER)),
        Field("AllocatedResourcesStatus", Key("allocatedResourcesStatus"), &List(&RESOURCE_STATUS)),
        Field("StopSignal", Key("stopSignal"), &Pointer(&Text("core.Signal"))),
    ],
    &[],
);

pub(super) static POD_RESOURCE_CLAIM_STATUS: Type = Struct(
    "core.PodResourceClaimStatus",
    &[
        Field("Name", Key("name"), &Text("string")),
        Field("ResourceClaimName", Key("resourceClaimName"), &Pointer(&Text("string"))),
    ],
    &[],
);

pub(super) static CONTAINER_EXTENDED_RESOURCE_REQUEST: Type = Struct(
    "core.ContainerExtendedResourceRequest",
    &[
        Field("ContainerName", Key("containerName"), &Text("string")),
        Field("ResourceName", Key("resourceName"), &Text("string")),
        Field("RequestName", Key("requestName"), &Text("string")),
    ],
    &[],
);

pub(super) static POD_EXTENDED_RESOURCE_CLAIM_STATUS: Type = Struct(
    "core.PodExtendedResourceClaimStatus",
    &[
        Field("RequestMappings", Key("requestMappings"), &List(&CONTAINER_EXTENDED_RESOURCE_REQUEST)),
        Field("ResourceClaimName", Key("resourceClaimName"), &Text("string")),
    ],
    &[],
);

pub(super) static NODE_ALLOCATABLE_RESOURCE_CLAIM_STATUS: Type = Struct(
    "core.NodeAllocatableResourceClaimStatus",
    &[
        Field("ResourceClaimName", Key("resourceClaimName"), &Text("string")),
        Field("Containers", Key("containers"), &List(&Text("string"))),
        Field("Resources", Key("resources"), &Map("map[core.ResourceName]resource.Quantity", &Quantity)),
    ],
    &[],
);

pub(super) static POD_STATUS: Type = Struct(
    "core.PodStatus",
    &[
        Field("ObservedGeneration", Key("observedGeneration"), &Int64),
        Field("Phase", Key("phase"), &Text("core.PodPhase")),
        Field("Conditions", Key("conditions"), &List(&POD_CONDITION)),
        Field("Message", Key("message"), &Text("string")),
        Field("Reason", Key("reason"), &Text("string")),
        Field("NominatedNodeName", Key("nominatedNodeName"), &Text("string")),
        Field("HostIP", Key("hostIP"), &Text("string")),
        Field("HostIPs", Key("hostIPs"), &List(&HOST_IP)),
        Field("PodIPs", Key("podIPs"), &List(&POD_IP)),
        Field("StartTime", Key("startTime"), &Pointer(&Time)),
        Field("QOSClass", Key("qosClass"), &Text("core.PodQOSClass")),
        Field("InitContainerStatuses", Key("initContainerStatuses"), &List(&CONTAINER_STATUS)),
        Field("ContainerStatuses", Key("containerStatuses"), &List(&CONTAINER_STATUS)),
        Field("EphemeralContainerStatuses", Key("ephemeralContainerStatuses"), &List(&CONTAINER_STATUS)),
        Field("Resize", Key("resize"), &Text("core.PodResizeStatus")),
        Field("ResourceClaimStatuses", Key("resourceClaimStatuses"), &List(&POD_RESOURCE_CLAIM_STATUS)),
        Field(
            "ExtendedResourceClaimStatus",
            Key("extendedResourceClaimStatus"),
            &Pointer(&POD_EXTENDED_RESOURCE_CLAIM_STATUS),
        ),
        Field("AllocatedResources", Key("allocatedResources"), &Map("core.ResourceList", &Quantity)),
        Field("Resources", Key("resources"), &Pointer(&RESOURCE_REQUIREMENTS)),
        Field(
            "NodeAllocatableResourceClaimStatuses",
            Key("nodeAllocatableResourceClaimStatuses"),
            &List(&NODE_ALLOCATABLE_RESOURCE_CLAIM_STATUS),
        ),
    ],
    &[Field("PodIP", Key("podIP"), &Text("string"))],
);
