//! Facts of the published types.

use super::{Empty, Field, ListKind, PatchRule, Shape, Type};
use crate::kinds::{self, Served};

fn named(name: &str) -> Type {
    Type::named(&format!("io.k8s.{name}")).unwrap_or_else(|| panic!("no type {name}"))
}

fn field(of: &str, name: &str) -> Field {
    named(of).field(name).unwrap_or_else(|| panic!("{of} has no field {name}"))
}

#[track_caller]
fn check_list(of: &str, name: &str, kind: ListKind, merge_key: Option<&'static str>) {
    let field = field(of, name);
    let Shape::List { kind: found, .. } = field.of.shape() else { panic!("{of}.{name} is no list") };
    assert_eq!(found, kind, "{of}.{name}");
    assert_eq!(field.patch.merge_key, merge_key, "{of}.{name}");
    assert_eq!(field.patch.merge, merge_key.is_some() || name == "finalizers", "{of}.{name}");
}

#[test]
fn lists_merge_as_published() {
    check_list("api.core.v1.PodSpec", "containers", ListKind::Map(&["name"]), Some("name"));
    check_list("api.core.v1.PodSpec", "tolerations", ListKind::Atomic, None);
    check_list(
        "api.core.v1.Container",
        "ports",
        ListKind::Map(&["containerPort", "protocol"]),
        Some("containerPort"),
    );
    check_list("api.core.v1.Container", "args", ListKind::Atomic, None);
    check_list("api.core.v1.ServiceSpec", "ports", ListKind::Map(&["port", "protocol"]), Some("port"));
    check_list("apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers", ListKind::Set, None);
    check_list(
        "apimachinery.pkg.apis.meta.v1.ObjectMeta",
        "ownerReferences",
        ListKind::Map(&["uid"]),
        Some("uid"),
    );
    check_list("api.core.v1.PodStatus", "conditions", ListKind::Map(&["type"]), Some("type"));
}

#[test]
fn patch_rules_and_atomic_fields() {
    let volumes = field("api.core.v1.PodSpec", "volumes");
    assert_eq!(
        volumes.patch,
        PatchRule { merge: true, merge_key: Some("name"), retain_keys: true, replace: false }
    );
    assert!(field("api.core.v1.PodSpec", "nodeSelector").atomic);
    assert!(!field("api.core.v1.PodSpec", "overhead").atomic);
    assert!(named("api.core.v1.NodeSelector").is_atomic());
    assert!(field("api.core.v1.ContainerPort", "protocol").default == Some("\"TCP\""));
    assert!(named("api.core.v1.ObjectReference").is_atomic());
    assert!(!field("api.core.v1.PersistentVolumeSpec", "claimRef").atomic);
    // The type says it, so its fields do.
    assert!(field("api.core.v1.EnvVarSource", "fieldRef").atomic);
}

#[test]
fn shapes() {
    #[track_caller]
    fn check(of: &str, name: &str, shape: Shape) {
        assert_eq!(field(of, name).of.shape(), shape, "{of}.{name}");
    }
    check("api.core.v1.ContainerPort", "containerPort", Shape::Integer { wide: false });
    check("apimachinery.pkg.apis.meta.v1.ObjectMeta", "generation", Shape::Integer { wide: true });
    check("apimachinery.pkg.apis.meta.v1.ObjectMeta", "creationTimestamp", Shape::Time);
    check("api.coordination.v1.LeaseSpec", "renewTime", Shape::MicroTime);
    check("apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry", "fieldsV1", Shape::Any);
    check("api.core.v1.HTTPGetAction", "port", Shape::IntOrString);
    check("api.core.v1.PodSpec", "hostNetwork", Shape::Boolean);
    let Shape::Map { value } = field("api.core.v1.ResourceRequirements", "limits").of.shape() else {
        panic!("limits are no map")
    };
    assert_eq!(
        (value.shape(), value.name()),
        (Shape::Quantity, "io.k8s.apimachinery.pkg.api.resource.Quantity")
    );
    let Shape::Map { value } = field("api.core.v1.Secret", "data").of.shape() else {
        panic!("data is no map")
    };
    assert_eq!((value.shape(), value.name()), (Shape::Bytes, ""));
}

#[test]
fn empty_values() {
    #[track_caller]
    fn check(of: &str, name: &str, empty: Empty) {
        assert_eq!(field(of, name).empty, empty, "{of}.{name}");
    }
    check("api.core.v1.PodSpec", "hostNetwork", Empty::Dropped);
    check("api.core.v1.PodSpec", "automountServiceAccountToken", Empty::Kept);
    check("api.core.v1.Container", "resources", Empty::Written);
    check("api.core.v1.Container", "name", Empty::Written);
    check("api.core.v1.Container", "securityContext", Empty::Kept);
    check("apimachinery.pkg.apis.meta.v1.ObjectMeta", "creationTimestamp", Empty::Dropped);
    check("api.core.v1.Pod", "status", Empty::Written);
    check("api.core.v1.TypedLocalObjectReference", "apiGroup", Empty::Null);
}

#[test]
fn every_registered_kind_has_a_type() {
    for resource in kinds::all() {
        let of = Type::of(&resource.api_version(), resource.kind);
        assert_eq!(of.is_some(), resource.served != Served::NeedsCluster, "{}", resource.qualified());
        let Some(of) = of else { continue };
        for name in ["apiVersion", "kind", "metadata"] {
            assert!(of.field(name).is_some(), "{} lacks {name}", of.name());
        }
        let list = Type::of(&resource.api_version(), &format!("{}List", resource.kind));
        assert_eq!(list.is_some(), resource.verbs.contains(&"list"), "{}", resource.qualified());
        if let Some(items) = list.and_then(|l| l.field("items")) {
            assert!(matches!(items.of.shape(), Shape::List { item, .. } if item == of));
        }
        for sub in resource.subresources.iter().filter(|s| !s.kind.ends_with("Options")) {
            assert!(Type::of(sub.api_version, sub.kind).is_some(), "{} {}", sub.api_version, sub.kind);
        }
        assert!(Type::of(&resource.api_version(), "DeleteOptions").is_some());
    }
    assert_eq!(Type::of("v1", "Status").map(Type::name), Some("io.k8s.apimachinery.pkg.apis.meta.v1.Status"));
    assert_eq!(Type::of("v1", "Nonsense"), None);
    assert_eq!(Type::of("v9", "Pod"), None);
}

#[test]
fn every_row_can_be_found_again() {
    for (api_version, kind, of) in Type::kinds() {
        assert_eq!(Type::of(api_version, kind), Some(of));
        assert_eq!(Type::named(of.name()), Some(of), "{}", of.name());
        let mut last = "";
        for field in of.fields() {
            assert!(last < field.name, "{} {}", of.name(), field.name);
            last = field.name;
            assert_eq!(of.field(field.name), Some(field));
        }
    }
}
