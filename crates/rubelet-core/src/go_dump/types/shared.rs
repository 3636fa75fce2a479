//! Metadata, selectors and small references that several objects hold.
//!
//! A table of facts (see the parent module): the order and the names are upstream's, because the hash is
//! made of them. No logic.

use super::Field;
use super::Source::Key;
use super::Type::{self, Bool, FieldsV1, Int32, Int64, List, Map, Pointer, Quantity, Struct, Text, Time};

pub(super) static TYPE_META: Type = Struct(
    "v1.TypeMeta",
    &[Field("Kind", Key("kind"), &Text("string")), Field("APIVersion", Key("apiVersion"), &Text("string"))],
    &[],
);

pub(super) static OWNER_REFERENCE: Type = Struct(
    "v1.OwnerReference",
    &[
        Field("APIVersion", Key("apiVersion"), &Text("string")),
        Field("Kind", Key("kind"), &Text("string")),
        Field("Name", Key("name"), &Text("string")),
        Field("UID", Key("uid"), &Text("types.UID")),
        Field("Controller", Key("controller"), &Pointer(&Bool)),
        Field("BlockOwnerDeletion", Key("blockOwnerDeletion"), &Pointer(&Bool)),
    ],
    &[],
);

pub(super) static MANAGED_FIELDS_ENTRY: Type = Struct(
    "v1.ManagedFieldsEntry",
    &[
        Field("Manager", Key("manager"), &Text("string")),
        Field("Operation", Key("operation"), &Text("v1.ManagedFieldsOperationType")),
        Field("APIVersion", Key("apiVersion"), &Text("string")),
        Field("Time", Key("time"), &Pointer(&Time)),
        Field("FieldsType", Key("fieldsType"), &Text("string")),
        Field("FieldsV1", Key("fieldsV1"), &Pointer(&FieldsV1)),
        Field("Subresource", Key("subresource"), &Text("string")),
    ],
    &[],
);

pub(super) static OBJECT_META: Type = Struct(
    "v1.ObjectMeta",
    &[
        Field("Name", Key("name"), &Text("string")),
        Field("GenerateName", Key("generateName"), &Text("string")),
        Field("Namespace", Key("namespace"), &Text("string")),
        Field("SelfLink", Key("selfLink"), &Text("string")),
        Field("UID", Key("uid"), &Text("types.UID")),
        Field("ResourceVersion", Key("resourceVersion"), &Text("string")),
        Field("Generation", Key("generation"), &Int64),
        Field("CreationTimestamp", Key("creationTimestamp"), &Time),
        Field("DeletionTimestamp", Key("deletionTimestamp"), &Pointer(&Time)),
        Field("DeletionGracePeriodSeconds", Key("deletionGracePeriodSeconds"), &Pointer(&Int64)),
        Field("Labels", Key("labels"), &Map("map[string]string", &Text("string"))),
        Field("Annotations", Key("annotations"), &Map("map[string]string", &Text("string"))),
        Field("OwnerReferences", Key("ownerReferences"), &List(&OWNER_REFERENCE)),
        Field("Finalizers", Key("finalizers"), &List(&Text("string"))),
        Field("ManagedFields", Key("managedFields"), &List(&MANAGED_FIELDS_ENTRY)),
    ],
    &[],
);

pub(super) static KEY_TO_PATH: Type = Struct(
    "core.KeyToPath",
    &[
        Field("Key", Key("key"), &Text("string")),
        Field("Path", Key("path"), &Text("string")),
        Field("Mode", Key("mode"), &Pointer(&Int32)),
    ],
    &[],
);

pub(super) static LOCAL_OBJECT_REFERENCE: Type =
    Struct("core.LocalObjectReference", &[Field("Name", Key("name"), &Text("string"))], &[]);

pub(super) static OBJECT_FIELD_SELECTOR: Type = Struct(
    "core.ObjectFieldSelector",
    &[
        Field("APIVersion", Key("apiVersion"), &Text("string")),
        Field("FieldPath", Key("fieldPath"), &Text("string")),
    ],
    &[],
);

pub(super) static RESOURCE_FIELD_SELECTOR: Type = Struct(
    "core.ResourceFieldSelector",
    &[
        Field("ContainerName", Key("containerName"), &Text("string")),
        Field("Resource", Key("resource"), &Text("string")),
        Field("Divisor", Key("divisor"), &Quantity),
    ],
    &[],
);

pub(super) static LABEL_SELECTOR_REQUIREMENT: Type = Struct(
    "v1.LabelSelectorRequirement",
    &[
        Field("Key", Key("key"), &Text("string")),
        Field("Operator", Key("operator"), &Text("v1.LabelSelectorOperator")),
        Field("Values", Key("values"), &List(&Text("string"))),
    ],
    &[],
);

pub(super) static LABEL_SELECTOR: Type = Struct(
    "v1.LabelSelector",
    &[
        Field("MatchLabels", Key("matchLabels"), &Map("map[string]string", &Text("string"))),
        Field("MatchExpressions", Key("matchExpressions"), &List(&LABEL_SELECTOR_REQUIREMENT)),
    ],
    &[],
);
