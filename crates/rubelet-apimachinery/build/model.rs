//! The published types that the registered kinds reach: `k8s-openapi`'s schemas joined with the fact table.
//!
//! `k8s-openapi` says names, descriptions, fields and formats; lists of kinds, which it has no schemas for, are made
//! here.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api;
use k8s_openapi::apimachinery::pkg::{apis::meta::v1 as meta, version::Info};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

use crate::Failure;
use crate::facts::{Empty, FactTable, Facts};
use crate::kinds::{self, Resource, Served};
use crate::metrics;

/// What values look like in JSON; named types by their full name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// Text.
    String,
    /// A whole number.
    Integer {
        /// Of 64 bits.
        wide: bool,
    },
    /// A floating point number.
    Number,
    /// True or false.
    Boolean,
    /// Base64.
    Bytes,
    /// A type with a name.
    Named(String),
    /// Items in order.
    List(Box<Shape>),
    /// Values by key.
    Map(Box<Shape>),
}

/// One field of a struct.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its name in JSON.
    pub name: String,
    /// Its published description.
    pub description: String,
    /// What it holds.
    pub shape: Shape,
    /// Whether it is always there.
    pub required: bool,
    /// What becomes of an empty value.
    pub empty: Empty,
    /// What else is published of it.
    pub facts: Facts,
}

/// What a named type is.
#[derive(Debug, Clone)]
pub enum Body {
    /// Named fields, sorted.
    Struct(Vec<Field>),
    /// An amount.
    Quantity,
    /// A whole number or text.
    IntOrString,
    /// A time in seconds.
    Time,
    /// A time in microseconds.
    MicroTime,
    /// Any object.
    Any,
}

/// A named type.
#[derive(Debug, Clone)]
pub struct Definition {
    /// Its published description.
    pub description: String,
    /// What it is.
    pub body: Body,
    /// Whether server-side apply owns it as a whole.
    pub atomic: bool,
    /// Group, version and kind of the objects it describes.
    pub kinds: Vec<(String, String, String)>,
}

/// All named types, by full name.
pub type Definitions = BTreeMap<String, Definition>;

type Register = fn(&mut SchemaGenerator);

fn register<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

macro_rules! types {
    ($($api_version:literal, $kind:literal, $of:ty;)*) => {
        /// The Rust type of each kind.
        const TYPES: &[(&str, &str, Register, fn() -> std::borrow::Cow<'static, str>)] = &[
            $(($api_version, $kind, register::<$of>, <$of as JsonSchema>::schema_name),)*
        ];
    };
}

types! {
    "v1", "Binding", api::core::v1::Binding;
    "v1", "ConfigMap", api::core::v1::ConfigMap;
    "v1", "Endpoints", api::core::v1::Endpoints;
    "v1", "Event", api::core::v1::Event;
    "v1", "Namespace", api::core::v1::Namespace;
    "v1", "Node", api::core::v1::Node;
    "v1", "PersistentVolume", api::core::v1::PersistentVolume;
    "v1", "PersistentVolumeClaim", api::core::v1::PersistentVolumeClaim;
    "v1", "Pod", api::core::v1::Pod;
    "v1", "Secret", api::core::v1::Secret;
    "v1", "Service", api::core::v1::Service;
    "v1", "ServiceAccount", api::core::v1::ServiceAccount;
    "authentication.k8s.io/v1", "SelfSubjectReview", api::authentication::v1::SelfSubjectReview;
    "authentication.k8s.io/v1", "TokenRequest", api::authentication::v1::TokenRequest;
    "authentication.k8s.io/v1", "TokenReview", api::authentication::v1::TokenReview;
    "authorization.k8s.io/v1", "LocalSubjectAccessReview", api::authorization::v1::LocalSubjectAccessReview;
    "authorization.k8s.io/v1", "SelfSubjectAccessReview", api::authorization::v1::SelfSubjectAccessReview;
    "authorization.k8s.io/v1", "SelfSubjectRulesReview", api::authorization::v1::SelfSubjectRulesReview;
    "authorization.k8s.io/v1", "SubjectAccessReview", api::authorization::v1::SubjectAccessReview;
    "certificates.k8s.io/v1", "CertificateSigningRequest", api::certificates::v1::CertificateSigningRequest;
    "coordination.k8s.io/v1", "Lease", api::coordination::v1::Lease;
    "discovery.k8s.io/v1", "EndpointSlice", api::discovery::v1::EndpointSlice;
    "events.k8s.io/v1", "Event", api::events::v1::Event;
    "node.k8s.io/v1", "RuntimeClass", api::node::v1::RuntimeClass;
    "policy/v1", "Eviction", api::policy::v1::Eviction;
    "policy/v1", "PodDisruptionBudget", api::policy::v1::PodDisruptionBudget;
    "resource.k8s.io/v1", "ResourceClaim", api::resource::v1::ResourceClaim;
    "resource.k8s.io/v1", "ResourceSlice", api::resource::v1::ResourceSlice;
    "scheduling.k8s.io/v1", "PriorityClass", api::scheduling::v1::PriorityClass;
    "storage.k8s.io/v1", "CSIDriver", api::storage::v1::CSIDriver;
    "storage.k8s.io/v1", "CSINode", api::storage::v1::CSINode;
    "storage.k8s.io/v1", "StorageClass", api::storage::v1::StorageClass;
    "storage.k8s.io/v1", "VolumeAttachment", api::storage::v1::VolumeAttachment;
    "meta.k8s.io/v1", "APIGroup", meta::APIGroup;
    "meta.k8s.io/v1", "APIGroupList", meta::APIGroupList;
    "meta.k8s.io/v1", "APIResourceList", meta::APIResourceList;
    "meta.k8s.io/v1", "APIVersions", meta::APIVersions;
    "meta.k8s.io/v1", "DeleteOptions", meta::DeleteOptions;
    "meta.k8s.io/v1", "ListMeta", meta::ListMeta;
    "meta.k8s.io/v1", "Patch", meta::Patch;
    "meta.k8s.io/v1", "Status", meta::Status;
    "meta.k8s.io/v1", "WatchEvent", meta::WatchEvent<api::core::v1::Pod>;
    "", "Info", Info;
}

/// Kinds whose objects go by every group version.
const EVERYWHERE: &[&str] = &["DeleteOptions", "WatchEvent"];
/// Kinds of the API itself, which go by `v1` in JSON.
const COMMON: &[&str] = &["APIGroup", "APIGroupList", "APIResourceList", "APIVersions", "Status"];

/// The group and the version of an `apiVersion`.
pub fn split(api_version: &str) -> (String, String) {
    match api_version.split_once('/') {
        Some((group, version)) => (group.to_owned(), version.to_owned()),
        None => (String::new(), api_version.to_owned()),
    }
}

/// Whether the documents describe objects of this kind.
pub fn described(resource: &Resource) -> bool {
    resource.served != Served::NeedsCluster
}

/// The full name of the type of a kind.
pub fn name_of(api_version: &str, kind: &str) -> Option<String> {
    if api_version == metrics::API_VERSION {
        return Some(metrics::name_of(kind));
    }
    let (_, _, _, name) = TYPES.iter().find(|t| t.0 == api_version && t.1 == kind)?;
    Some(name().into_owned())
}

/// Gathers the definitions.
pub fn definitions(facts: &FactTable) -> Result<Definitions, Failure> {
    let mut generator = SchemaGenerator::default();
    for (_, _, register, _) in TYPES {
        register(&mut generator);
    }
    let mut all = Definitions::new();
    for (name, schema) in generator.definitions() {
        let schema = schema.as_object().ok_or_else(|| format!("{name} has no schema"))?;
        all.insert(name.clone(), definition(name, schema, facts)?);
    }
    all.extend(metrics::definitions());
    let mut versions = BTreeSet::new();
    for resource in kinds::all().iter().filter(|r| described(r)) {
        let api_version = resource.api_version();
        let name = name_of(&api_version, resource.kind)
            .ok_or_else(|| format!("build/model.rs lacks {api_version} {}", resource.kind))?;
        let kind = (resource.group.to_owned(), resource.version.to_owned());
        versions.insert(kind.clone());
        if resource.verbs.contains(&"list") {
            let mut list = list_of(&name);
            list.kinds.push((kind.0.clone(), kind.1.clone(), format!("{}List", resource.kind)));
            all.insert(format!("{name}List"), list);
        }
        kind_of(&mut all, &name)?.push((kind.0, kind.1, resource.kind.to_owned()));
    }
    for (api_version, kind) in [("policy/v1", "Eviction"), ("authentication.k8s.io/v1", "TokenRequest")] {
        let name = name_of(api_version, kind).ok_or_else(|| format!("build/model.rs lacks {kind}"))?;
        let (group, version) = split(api_version);
        kind_of(&mut all, &name)?.push((group, version, kind.to_owned()));
    }
    for kind in EVERYWHERE {
        let name = name_of("meta.k8s.io/v1", kind).ok_or_else(|| format!("build/model.rs lacks {kind}"))?;
        let of = kind_of(&mut all, &name)?;
        of.extend(
            versions.iter().map(|(group, version)| (group.clone(), version.clone(), (*kind).to_owned())),
        );
    }
    for kind in COMMON {
        let name = name_of("meta.k8s.io/v1", kind).ok_or_else(|| format!("build/model.rs lacks {kind}"))?;
        kind_of(&mut all, &name)?.push((String::new(), "v1".to_owned(), (*kind).to_owned()));
    }
    check_facts(&all, facts)?;
    Ok(all)
}

fn kind_of<'a>(
    all: &'a mut Definitions,
    name: &str,
) -> Result<&'a mut Vec<(String, String, String)>, Failure> {
    Ok(&mut all.get_mut(name).ok_or_else(|| format!("{name} has no definition"))?.kinds)
}

/// A row that names nothing is a fact lost: the types have moved on.
fn check_facts(all: &Definitions, facts: &FactTable) -> Result<(), Failure> {
    for (of, field) in facts.keys() {
        let known = all.get(&format!("io.k8s.{of}")).is_some_and(|d| match &d.body {
            Body::Struct(fields) => field.is_empty() || fields.iter().any(|f| f.name == *field),
            _ => field.is_empty(),
        });
        if !known && !of.ends_with("List") {
            return Err(format!("facts.txt names {of} {field}, which no kind reaches").into());
        }
    }
    Ok(())
}

fn text(schema: &Map<String, Value>, key: &str) -> String {
    schema.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn definition(name: &str, schema: &Map<String, Value>, table: &FactTable) -> Result<Definition, Failure> {
    let short = name.strip_prefix("io.k8s.").unwrap_or(name);
    let of = |field: &str| table.get(&(short.to_owned(), field.to_owned())).cloned().unwrap_or_default();
    let body = match short {
        "apimachinery.pkg.api.resource.Quantity" => Body::Quantity,
        "apimachinery.pkg.util.intstr.IntOrString" => Body::IntOrString,
        "apimachinery.pkg.apis.meta.v1.Time" => Body::Time,
        "apimachinery.pkg.apis.meta.v1.MicroTime" => Body::MicroTime,
        "apimachinery.pkg.apis.meta.v1.FieldsV1"
        | "apimachinery.pkg.apis.meta.v1.Patch"
        | "apimachinery.pkg.runtime.RawExtension" => Body::Any,
        _ => {
            let empty = Map::new();
            let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
            let is_object = properties.contains_key("kind");
            let required: BTreeSet<&str> = schema
                .get("required")
                .and_then(Value::as_array)
                .map(|names| names.iter().filter_map(Value::as_str).collect())
                .unwrap_or_default();
            let mut fields = Vec::new();
            for (field, property) in properties {
                let property = property.as_object().ok_or_else(|| format!("{name}.{field} has no schema"))?;
                let facts = of(field);
                let shape = shape(property).ok_or_else(|| format!("{name}.{field}: unknown schema"))?;
                let required = facts
                    .required
                    .unwrap_or(required.contains(field.as_str()) && !(is_object && field == "metadata"));
                let description = text(property, "description");
                let empty = facts.empty.unwrap_or_else(|| rule(&shape, required));
                fields.push(Field { name: field.clone(), description, shape, required, empty, facts });
            }
            fields.sort_by(|a, b| a.name.cmp(&b.name));
            Body::Struct(fields)
        }
    };
    Ok(Definition {
        description: text(schema, "description"),
        body,
        atomic: of("").atomic,
        kinds: Vec::new(),
    })
}

/// What becomes of an empty value where the fact table says nothing; `facts.txt` has the rule in words.
fn rule(shape: &Shape, required: bool) -> Empty {
    match shape {
        _ if required => Empty::Written,
        Shape::String | Shape::Bytes | Shape::List(_) | Shape::Map(_) => Empty::Dropped,
        _ => Empty::Kept,
    }
}

fn shape(schema: &Map<String, Value>) -> Option<Shape> {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        return Some(Shape::Named(reference.rsplit('/').next()?.to_owned()));
    }
    let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
    let inner = |key: &str| Some(Box::new(shape(schema.get(key)?.as_object()?)?));
    match schema.get("type").and_then(Value::as_str)? {
        "string" if format == "byte" => Some(Shape::Bytes),
        "string" => Some(Shape::String),
        "boolean" => Some(Shape::Boolean),
        "integer" => Some(Shape::Integer { wide: format == "int64" }),
        "number" => Some(Shape::Number),
        "array" => Some(Shape::List(inner("items")?)),
        "object" => Some(Shape::Map(inner("additionalProperties")?)),
        _ => None,
    }
}

/// A field of a type that is made here.
pub fn field(name: &str, description: &str, shape: Shape, required: bool, empty: Empty) -> Field {
    Field {
        name: name.to_owned(),
        description: description.to_owned(),
        shape,
        required,
        empty,
        facts: Facts::default(),
    }
}

fn list_of(item: &str) -> Definition {
    let kind = item.rsplit('.').next().unwrap_or(item);
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
    Definition {
        description: format!("{kind}List is a list of {kind} objects."),
        body: Body::Struct(vec![
            field("apiVersion", "The group and version of this list.", Shape::String, false, Empty::Dropped),
            field(
                "items",
                "The objects of the list.",
                Shape::List(Box::new(Shape::Named(item.to_owned()))),
                true,
                Empty::Written,
            ),
            field("kind", "The kind of this list.", Shape::String, false, Empty::Dropped),
            field(
                "metadata",
                "What is said of the list as a whole.",
                Shape::Named(meta.to_owned()),
                false,
                Empty::Written,
            ),
        ]),
        atomic: false,
        kinds: Vec::new(),
    }
}
