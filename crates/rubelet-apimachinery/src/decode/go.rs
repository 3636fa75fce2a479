//! What Go's types are called in the errors that people know.

use crate::schema::{Shape, Type};

/// A type's name without its package: `PodSpec`.
pub(super) fn short_name(t: Type) -> &'static str {
    t.name().rsplit('.').next().unwrap_or_default()
}

/// A type as Go writes it: `v1.PodSpec`, `[]v1.Container`, `map[string]string`.
pub(super) fn type_name(t: Type) -> String {
    match t.shape() {
        Shape::String | Shape::Time | Shape::MicroTime => "string".to_owned(),
        Shape::Integer { wide: true } => "int64".to_owned(),
        Shape::Integer { wide: false } | Shape::IntOrString => "int32".to_owned(),
        Shape::Number => "float64".to_owned(),
        Shape::Boolean => "bool".to_owned(),
        Shape::Quantity => "resource.Quantity".to_owned(),
        Shape::Bytes => "[]uint8".to_owned(),
        Shape::Any => "interface {}".to_owned(),
        Shape::Struct => {
            let mut words = t.name().rsplit('.');
            let name = words.next().unwrap_or_default();
            words.next().map_or_else(|| name.to_owned(), |package| format!("{package}.{name}"))
        }
        Shape::List { item, .. } => format!("[]{}", type_name(item)),
        Shape::Map { value } if value.shape() == Shape::Quantity => "v1.ResourceList".to_owned(),
        Shape::Map { value } => format!("map[string]{}", type_name(value)),
    }
}

/// The Go struct that holds a field on behalf of another: JSON shows no trace of it, errors do.
pub(super) fn embedded(t: Type, field: &str) -> Option<&'static str> {
    match (short_name(t), field) {
        ("Volume", "name") | ("EphemeralContainer", "targetContainerName") => None,
        ("Volume", _) => Some("VolumeSource"),
        ("EphemeralContainer", _) => Some("EphemeralContainerCommon"),
        ("Probe", "exec" | "httpGet" | "tcpSocket" | "grpc") => Some("ProbeHandler"),
        (
            "ConfigMapEnvSource"
            | "ConfigMapKeySelector"
            | "ConfigMapProjection"
            | "ConfigMapVolumeSource"
            | "SecretEnvSource"
            | "SecretKeySelector"
            | "SecretProjection",
            "name",
        ) => Some("LocalObjectReference"),
        ("PersistentVolumeSpec", "hostPath" | "nfs" | "local" | "csi" | "iscsi" | "fc") => {
            Some("PersistentVolumeSource")
        }
        _ => None,
    }
}

/// Fields that Go writes as null when there is nothing, because a pointer is behind them: they are left out here.
pub(super) fn is_pointer_always_written(t: Type, field: &str) -> bool {
    matches!(
        (short_name(t), field),
        ("TokenRequestSpec", "expirationSeconds" | "boundObjectRef")
            | ("AzureFilePersistentVolumeSource", "secretNamespace")
            | ("GRPCAction", "service")
            | ("ScaleIOPersistentVolumeSource" | "ScaleIOVolumeSource", "secretRef")
            | ("TypedLocalObjectReference" | "TypedObjectReference", "apiGroup")
            | ("CapacityRequestPolicy", "default")
    )
}
