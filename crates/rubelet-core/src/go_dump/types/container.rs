//! Containers: environment, probes, hooks, security, restart rules.
//!
//! A table of facts (see the parent module): the order and the names are upstream's, because the hash is
//! made of them. No logic.

use super::Field;
use super::Source::{Inline, Key};
use super::Type::{self, Bool, Int32, Int64, IntOrString, List, Map, Pointer, Quantity, Struct, Text};
use super::shared::{LOCAL_OBJECT_REFERENCE, OBJECT_FIELD_SELECTOR, RESOURCE_FIELD_SELECTOR};

pub(super) static CONTAINER_PORT: Type = Struct(
    "core.ContainerPort",
    &[
        Field("Name", Key("name"), &Text("string")),
        Field("HostPort", Key("hostPort"), &Int32),
        Field("ContainerPort", Key("containerPort"), &Int32),
        Field("Protocol", Key("protocol"), &Text("core.Protocol")),
        Field("HostIP", Key("hostIP"), &Text("string")),
    ],
    &[],
);

pub(super) static CONFIG_MAP_ENV_SOURCE: Type = Struct(
    "core.ConfigMapEnvSource",
    &[
        Field("LocalObjectReference", Inline, &LOCAL_OBJECT_REFERENCE),
        Field("Optional", Key("optional"), &Pointer(&Bool)),
    ],
    &[],
);

pub(super) static SECRET_ENV_SOURCE: Type = Struct(
    "core.SecretEnvSource",
    &[
        Field("LocalObjectReference", Inline, &LOCAL_OBJECT_REFERENCE),
        Field("Optional", Key("optional"), &Pointer(&Bool)),
    ],
    &[],
);

pub(super) static ENV_FROM_SOURCE: Type = Struct(
    "core.EnvFromSource",
    &[
        Field("Prefix", Key("prefix"), &Text("string")),
        Field("ConfigMapRef", Key("configMapRef"), &Pointer(&CONFIG_MAP_ENV_SOURCE)),
        Field("SecretRef", Key("secretRef"), &Pointer(&SECRET_ENV_SOURCE)),
    ],
    &[],
);

pub(super) static CONFIG_MAP_KEY_SELECTOR: Type = Struct(
    "core.ConfigMapKeySelector",
    &[
        Field("LocalObjectReference", Inline, &LOCAL_OBJECT_REFERENCE),
        Field("Key", Key("key"), &Text("string")),
        Field("Optional", Key("optional"), &Pointer(&Bool)),
    ],
    &[],
);

pub(super) static SECRET_KEY_SELECTOR: Type = Struct(
    "core.SecretKeySelector",
    &[
        Field("LocalObjectReference", Inline, &LOCAL_OBJECT_REFERENCE),
        Field("Key", Key("key"), &Text("string")),
        Field("Optional", Key("optional"), &Pointer(&Bool)),
    ],
    &[],
);

pub(super) static FILE_KEY_SELECTOR: Type = Struct(
    "core.FileKeySelector",
    &[
        Field("VolumeName", Key("volumeName"), &Text("string")),
        Field("Path", Key("path"), &Text("string")),
        Field("Key", Key("key"), &Text("string")),
        Field("Optional", Key("optional"), &Pointer(&Bool)),
    ],
    &[],
);

pub(super) static ENV_VAR_SOURCE: Type = Struct(
    "core.EnvVarSource",
    &[
        Field("FieldRef", Key("fieldRef"), &Pointer(&OBJECT_FIELD_SELECTOR)),
        Field("ResourceFieldRef", Key("resourceFieldRef"), &Pointer(&RESOURCE_FIELD_SELECTOR)),
        Field("ConfigMapKeyRef", Key("configMapKeyRef"), &Pointer(&CONFIG_MAP_KEY_SELECTOR)),
        Field("SecretKeyRef", Key("secretKeyRef"), &Pointer(&SECRET_KEY_SELECTOR)),
        Field("FileKeyRef", Key("fileKeyRef"), &Pointer(&FILE_KEY_SELECTOR)),
    ],
    &[],
);

pub(super) static ENV_VAR: Type = Struct(
    "core.EnvVar",
    &[
        Field("Name", Key("name"), &Text("string")),
        Field("Value", Key("value"), &Text("string")),
        Field("ValueFrom", Key("valueFrom"), &Pointer(&ENV_VAR_SOURCE)),
    ],
    &[],
);

pub(super) static RESOURCE_CLAIM: Type = Struct(
    "core.ResourceClaim",
    &[Field("Name", Key("name"), &Text("string")), Field("Request", Key("request"), &Text("string"))],
    &[],
);

pub(super) static RESOURCE_REQUIREMENTS: Type = Struct(
    "core.ResourceRequirements",
    &[
        Field("Limits", Key("limits"), &Map("core.ResourceList", &Quantity)),
        Field("Requests", Key("requests"), &Map("core.ResourceList", &Quantity)),
        Field("Claims", Key("claims"), &List(&RESOURCE_CLAIM)),
    ],
    &[],
);

pub(super) static CONTAINER_RESIZE_POLICY: Type = Struct(
    "core.ContainerResizePolicy",
    &[
        Field("ResourceName", Key("resourceName"), &Text("core.ResourceName")),
        Field("RestartPolicy", Key("restartPolicy"), &Text("core.ResourceResizeRestartPolicy")),
    ],
    &[],
);

pub(super) static CONTAINER_RESTART_RULE_ON_EXIT_CODES: Type = Struct(
    "core.ContainerRestartRuleOnExitCodes",
    &[
        Field("Operator", Key("operator"), &Text("core.ContainerRestartRuleOnExitCodesOperator")),
        Field("Values", Key("values"), &List(&Int32)),
    ],
    &[],
);

pub(super) static CONTAINER_RESTART_RULE: Type = Struct(
    "core.ContainerRestartRule",
    &[
        Field("Action", Key("action"), &Text("core.ContainerRestartRuleAction")),
        Field("ExitCodes", Key("exitCodes"), &Pointer(&CONTAINER_RESTART_RULE_ON_EXIT_CODES)),
    ],
    &[],
);

pub(super) static VOLUME_MOUNT: Type = Struct(
    "core.VolumeMount",
    &[
        Field("Name", Key("name"), &Text("string")),
        Field("ReadOnly", Key("readOnly"), &Bool),
        Field("RecursiveReadOnly", Key("recursiveReadOnly"), &Pointer(&Text("core.RecursiveReadOnlyMode"))),
        Field("MountPath", Key("mountPath"), &Text("string")),
        Field("SubPath", Key("subPath"), &Text("string")),
        Field("MountPropagation", Key("mountPropagation"), &Pointer(&Text("core.MountPropagationMode"))),
        Field("SubPathExpr", Key("subPathExpr"), &Text("string")),
    ],
    &[],
);

pub(super) static VOLUME_DEVICE: Type = Struct(
    "core.VolumeDevice",
    &[Field("Name", Key("name"), &Text("string")), Field("DevicePath", Key("devicePath"), &Text("string"))],
    &[],
);

pub(super) static EXEC_ACTION: Type =
    Struct("core.ExecAction", &[Field("Command", Key("command"), &List(&Text("string")))], &[]);

pub(super) static HTTP_HEADER: Type = Struct(
    "core.HTTPHeader",
    &[Field("Name", Key("name"), &Text("string")), Field("Value", Key("value"), &Text("string"))],
    &[],
);

pub(super) static HTTP_GET_ACTION: Type = Struct(
    "core.HTTPGetAction",
    &[
        Field("Path", Key("path"), &Text("string")),
        Field("Port", Key("port"), &IntOrString),
        Field("Host", Key("host"), &Text("string")),
        Field("Scheme", Key("scheme"), &Text("core.URIScheme")),
        Field("HTTPHeaders", Key("httpHeaders"), &List(&HTTP_HEADER)),
    ],
    &[],
);

pub(super) static TCP_SOCKET_ACTION: Type = Struct(
    "core.TCPSocketAction",
    &[Field("Port", Key("port"), &IntOrString), Field("Host", Key("host"), &Text("string"))],
    &[],
);

pub(super) static GRPC_ACTION: Type = Struct(
    "core.GRPCAction",
    &[Field("Port", Key("port"), &Int32), Field("Service", Key("service"), &Pointer(&Text("string")))],
    &[],
);

pub(super) static PROBE_HANDLER: Type = Struct(
    "core.ProbeHandler",
    &[
        Field("Exec", Key("exec"), &Pointer(&EXEC_ACTION)),
        Field("HTTPGet", Key("httpGet"), &Pointer(&HTTP_GET_ACTION)),
        Field("TCPSocket", Key("tcpSocket"), &Pointer(&TCP_SOCKET_ACTION)),
        Field("GRPC", Key("grpc"), &Pointer(&GRPC_ACTION)),
    ],
    &[],
);

pub(super) static PROBE: Type = Struct(
    "core.Probe",
    &[
        Field("ProbeHandler", Inline, &PROBE_HANDLER),
        Field("InitialDelaySeconds", Key("initialDelaySeconds"), &Int32),
        Field("TimeoutSeconds", Key("timeoutSeconds"), &Int32),
        Field("PeriodSeconds", Key("periodSeconds"), &Int32),
        Field("SuccessThreshold", Key("successThreshold"), &Int32),
        Field("FailureThreshold", Key("failureThreshold"), &Int32),
        Field("TerminationGracePeriodSeconds", Key("terminationGracePeriodSeconds"), &Pointer(&Int64)),
    ],
    &[],
);

pub(super) static SLEEP_ACTION: Type =
    Struct("core.SleepAction", &[Field("Seconds", Key("seconds"), &Int64)], &[]);

pub(super) static LIFECYCLE_HANDLER: Type = Struct(
    "core.LifecycleHandler",
    &[
        Field("Exec", Key("exec"), &Pointer(&EXEC_ACTION)),
        Field("HTTPGet", Key("httpGet"), &Pointer(&HTTP_GET_ACTION)),
        Field("TCPSocket", Key("tcpSocket"), &Pointer(&TCP_SOCKET_ACTION)),
        Field("Sleep", Key("sleep"), &Pointer(&SLEEP_ACTION)),
    ],
    &[],
);

pub(super) static LIFECYCLE: Type = Struct(
    "core.Lifecycle",
    &[
        Field("PostStart", Key("postStart"), &Pointer(&LIFECYCLE_HANDLER)),
        Field("PreStop", Key("preStop"), &Pointer(&LIFECYCLE_HANDLER)),
        Field("StopSignal", Key("stopSignal"), &Pointer(&Text("core.Signal"))),
    ],
    &[],
);

pub(super) static CAPABILITIES: Type = Struct(
    "core.Capabilities",
    &[
        Field("Add", Key("add"), &List(&Text("core.Capability"))),
        Field("Drop", Key("drop"), &List(&Text("core.Capability"))),
    ],
    &[],
);

pub(super) static SE_LINUX_OPTIONS: Type = Struct(
    "core.SELinuxOptions",
    &[
        Field("User", Key("user"), &Text("string")),
        Field("Role", Key("role"), &Text("string")),
        Field("Type", Key("type"), &Text("string")),
        Field("Level", Key("level"), &Text("string")),
    ],
    &[],
);

pub(super) static WINDOWS_SECURITY_CONTEXT_OPTIONS: Type = Struct(
    "core.WindowsSecurityContextOptions",
    &[
        Field("GMSACredentialSpecName", Key("gmsaCredentialSpecName"), &Pointer(&Text("string"))),
        Field("GMSACredentialSpec", Key("gmsaCredentialSpec"), &Pointer(&Text("string"))),
        Field("RunAsUserName", Key("runAsUserName"), &Pointer(&Text("string"))),
        Field("HostProcess", Key("hostProcess"), &Pointer(&Bool)),
    ],
    &[],
);

pub(super) static SECCOMP_PROFILE: Type = Struct(
    "core.SeccompProfile",
    &[
        Field("Type", Key("type"), &Text("core.SeccompProfileType")),
        Field("LocalhostProfile", Key("localhostProfile"), &Pointer(&Text("string"))),
    ],
    &[],
);

pub(super) static APP_ARMOR_PROFILE: Type = Struct(
    "core.AppArmorProfile",
    &[
        Field("Type", Key("type"), &Text("core.AppArmorProfileType")),
        Field("LocalhostProfile", Key("localhostProfile"), &Pointer(&Text("string"))),
    ],
    &[],
);

pub(super) static SECURITY_CONTEXT: Type = Struct(
    "core.SecurityContext",
    &[
        Field("Capabilities", Key("capabilities"), &Pointer(&CAPABILITIES)),
        Field("Privileged", Key("privileged"), &Pointer(&Bool)),
        Field("SELinuxOptions", Key("seLinuxOptions"), &Pointer(&SE_LINUX_OPTIONS)),
        Field("WindowsOptions", Key("windowsOptions"), &Pointer(&WINDOWS_SECURITY_CONTEXT_OPTIONS)),
        Field("RunAsUser", Key("runAsUser"), &Pointer(&Int64)),
        Field("RunAsGroup", Key("runAsGroup"), &Pointer(&Int64)),
        Field("RunAsNonRoot", Key("runAsNonRoot"), &Pointer(&Bool)),
        Field("ReadOnlyRootFilesystem", Key("readOnlyRootFilesystem"), &Pointer(&Bool)),
        Field("AllowPrivilegeEscalation", Key("allowPrivilegeEscalation"), &Pointer(&Bool)),
        Field("ProcMount", Key("procMount"), &Pointer(&Text("core.ProcMountType"))),
        Field("SeccompProfile", Key("seccompProfile"), &Pointer(&SECCOMP_PROFILE)),
        Field("AppArmorProfile", Key("appArmorProfile"), &Pointer(&APP_ARMOR_PROFILE)),
    ],
    &[],
);

pub(super) static CONTAINER: Type = Struct(
    "core.Container",
    &[
        Field("Name", Key("name"), &Text("string")),
        Field("Image", Key("image"), &Text("string")),
        Field("Command", Key("command"), &List(&Text("string"))),
        Field("Args", Key("args"), &List(&Text("string"))),
        Field("WorkingDir", Key("workingDir"), &Text("string")),
        Field("Ports", Key("ports"), &List(&CONTAINER_PORT)),
        Field("EnvFrom", Key("envFrom"), &List(&ENV_FROM_SOURCE)),
        Field("Env", Key("env"), &List(&ENV_VAR)),
        Field("Resources", Key("resources"), &RESOURCE_REQUIREMENTS),
        Field("ResizePolicy", Key("resizePolicy"), &List(&CONTAINER_RESIZE_POLICY)),
        Field("RestartPolicy", Key("restartPolicy"), &Pointer(&Text("core.ContainerRestartPolicy"))),
        Field("RestartPolicyRules", Key("restartPolicyRules"), &List(&CONTAINER_RESTART_RULE)),
        Field("VolumeMounts", Key("volumeMounts"), &List(&VOLUME_MOUNT)),
        Field("VolumeDevices", Key("volumeDevices"), &List(&VOLUME_DEVICE)),
        Field("LivenessProbe", Key("livenessProbe"), &Pointer(&PROBE)),
        Field("ReadinessProbe", Key("readinessProbe"), &Pointer(&PROBE)),
        Field("StartupProbe", Key("startupProbe"), &Pointer(&PROBE)),
        Field("Lifecycle", Key("lifecycle"), &Pointer(&LIFECYCLE)),
        Field("TerminationMessagePath", Key("terminationMessagePath"), &Text("string")),
        Field(
            "TerminationMessagePolicy",
            Key("terminationMessagePolicy"),
            &Text("core.TerminationMessagePolicy"),
        ),
        Field("ImagePullPolicy", Key("imagePullPolicy"), &Text("core.PullPolicy")),
        Field("SecurityContext", Key("securityContext"), &Pointer(&SECURITY_CONTEXT)),
        Field("Stdin", Key("stdin"), &Bool),
        Field("StdinOnce", Key("stdinOnce"), &Bool),
        Field("TTY", Key("tty"), &Bool),
    ],
    &[],
);

pub(super) static EPHEMERAL_CONTAINER_COMMON: Type = Struct(
    "core.EphemeralContainerCommon",
    &[
        Field("Name", Key("name"), &Text("string")),
        Field("Image", Key("image"), &Text("string")),
        Field("Command", Key("command"), &List(&Text("string"))),
        Field("Args", Key("args"), &List(&Text("string"))),
        Field("WorkingDir", Key("workingDir"), &Text("string")),
        Field("Ports", Key("ports"), &List(&CONTAINER_PORT)),
        Field("EnvFrom", Key("envFrom"), &List(&ENV_FROM_SOURCE)),
        Field("Env", Key("env"), &List(&ENV_VAR)),
        Field("Resources", Key("resources"), &RESOURCE_REQUIREMENTS),
        Field("ResizePolicy", Key("resizePolicy"), &List(&CONTAINER_RESIZE_POLICY)),
        Field("RestartPolicy", Key("restartPolicy"), &Pointer(&Text("core.ContainerRestartPolicy"))),
        Field("RestartPolicyRules", Key("restartPolicyRules"), &List(&CONTAINER_RESTART_RULE)),
        Field("VolumeMounts", Key("volumeMounts"), &List(&VOLUME_MOUNT)),
        Field("VolumeDevices", Key("volumeDevices"), &List(&VOLUME_DEVICE)),
        Field("LivenessProbe", Key("livenessProbe"), &Pointer(&PROBE)),
        Field("ReadinessProbe", Key("readinessProbe"), &Pointer(&PROBE)),
        Field("StartupProbe", Key("startupProbe"), &Pointer(&PROBE)),
        Field("Lifecycle", Key("lifecycle"), &Pointer(&LIFECYCLE)),
        Field("TerminationMessagePath", Key("terminationMessagePath"), &Text("string")),
        Field(
            "TerminationMessagePolicy",
            Key("terminationMessagePolicy"),
            &Text("core.TerminationMessagePolicy"),
        ),
        Field("ImagePullPolicy", Key("imagePullPolicy"), &Text("core.PullPolicy")),
        Field("SecurityContext", Key("securityContext"), &Pointer(&SECURITY_CONTEXT)),
        Field("Stdin", Key("stdin"), &Bool),
        Field("StdinOnce", Key("stdinOnce"), &Bool),
        Field("TTY", Key("tty"), &Bool),
    ],
    &[],
);

pub(super) static EPHEMERAL_CONTAINER: Type = Struct(
    "core.EphemeralContainer",
    &[
        Field("EphemeralContainerCommon", Inline, &EPHEMERAL_CONTAINER_COMMON),
        Field("TargetContainerName", Key("targetContainerName"), &Text("string")),
    ],
    &[],
);
