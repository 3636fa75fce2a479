//! Static pods: from the JSON of a manifest to a pod with the identity it has on this node.
//!
//! Owns decoding, identity (name, namespace, UID, annotations, toleration) and the rules that only static
//! pods have. Never reads files and never parses YAML: the sources in the shell do both and call this. One
//! bad object is reported with everything that is wrong with it and costs no other object anything.
//!
//! Source of the rules: upstream `pkg/kubelet/config/common.go`.

mod identity;
mod merge;
mod references;
mod shape;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

pub use identity::{
    CONFIG_HASH_ANNOTATION, CONFIG_MIRROR_ANNOTATION, CONFIG_SEEN_ANNOTATION, CONFIG_SOURCE_ANNOTATION,
    convert, mark,
};
pub use merge::{Dropped, filter_invalid, unsupported_volumes};
pub use shape::ShapeError;

use crate::validation::{self, FieldError};
use crate::{defaults, go_dump};

/// Where a manifest came from. Part of what the UID is hashed from, so it has to be spelled as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The full path of a file.
    File(String),
    /// The address that was asked.
    Url(String),
}

/// The node that static pods are bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The node's name as registered.
    pub name: String,
}

/// A usable static pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// Defaulted, validated, bound to the node; its phase is Pending.
    pub pod: Pod,
    /// What was accepted but is probably not meant: fields that do not exist, with their path.
    pub warnings: Vec<String>,
}

/// All objects of an answer that may be a list.
#[derive(Clone, Debug, Default)]
pub struct DecodedList {
    /// The usable pods, in order.
    pub pods: Vec<Decoded>,
    /// What could not be used: index in the list, name when there is one, the error.
    pub problems: Vec<ItemProblem>,
}

/// One unusable object of a list.
#[derive(Clone, Debug, thiserror::Error)]
#[error("item {index} ({}) cannot be used", .name.as_deref().unwrap_or("without a name"))]
pub struct ItemProblem {
    /// Position in `items`, from 0.
    pub index: usize,
    /// `metadata.name`, when it could be read.
    pub name: Option<String>,
    /// Why.
    #[source]
    pub error: DecodeError,
}

/// Why a manifest cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DecodeError {
    /// The text holds a scalar or a list.
    #[error("expected an object with apiVersion, kind, metadata and spec, found {0}")]
    NotAnObject(&'static str),
    /// Some other object.
    #[error(
        "apiVersion {api_version:?}, kind {kind:?} is not a pod: a manifest holds exactly one object with \
         apiVersion: v1 and kind: Pod"
    )]
    NotAPod {
        /// `apiVersion` as written.
        api_version: String,
        /// `kind` as written.
        kind: String,
    },
    /// A list where one pod is expected.
    #[error("kind {0:?} in a manifest file: write each pod into a file of its own")]
    List(String),
    /// Values of the wrong type.
    #[error("{}", list(.0))]
    Shape(Vec<ShapeError>),
    /// The typed decoder refused what the shape check let pass.
    #[error("the manifest cannot be decoded: {0}")]
    Typed(String),
    /// `metadata.name` is missing.
    #[error("metadata.name: Required value: a static pod needs a name")]
    Name,
    /// The pod breaks rules; all of them are listed.
    #[error("invalid pod: {}", list(.0))]
    Invalid(Vec<FieldError>),
}

fn list<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join("; ")
}

/// Decodes the one pod of a manifest.
pub fn decode(value: Value, origin: &Origin, node: &NodeIdentity) -> Result<Decoded, DecodeError> {
    let (api_version, kind) = group_kind(&value)?;
    match (api_version.as_str(), kind.as_str()) {
        ("v1", "Pod") => decode_pod(value, origin, node),
        ("v1", "PodList" | "List") => Err(DecodeError::List(kind)),
        _ => Err(DecodeError::NotAPod { api_version, kind }),
    }
}

/// Decodes an answer that holds a pod, a PodList or a List of pods.
pub fn decode_list(value: Value, origin: &Origin, node: &NodeIdentity) -> Result<DecodedList, DecodeError> {
    let (api_version, kind) = group_kind(&value)?;
    if api_version != "v1" || !matches!(kind.as_str(), "PodList" | "List") {
        return Ok(DecodedList { pods: vec![decode(value, origin, node)?], problems: Vec::new() });
    }
    let mut decoded = DecodedList::default();
    let items = match value {
        Value::Object(mut list) => list.remove("items").unwrap_or_default(),
        _ => Value::Null,
    };
    let items = match items {
        Value::Array(items) => items,
        Value::Null => Vec::new(),
        other => return Err(DecodeError::Shape(vec![ShapeError::new("items", "a list", &other)])),
    };
    for (index, mut item) in items.into_iter().enumerate() {
        let name = item.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
        if kind == "PodList"
            && let Value::Object(item) = &mut item
        {
            // The items of a typed list need not repeat what they are.
            item.entry("apiVersion").or_insert_with(|| "v1".into());
            item.entry("kind").or_insert_with(|| "Pod".into());
        }
        match decode(item, origin, node) {
            Ok(pod) => decoded.pods.push(pod),
            Err(error) => decoded.problems.push(ItemProblem { index, name, error }),
        }
    }
    Ok(decoded)
}

fn group_kind(value: &Value) -> Result<(String, String), DecodeError> {
    let Value::Object(object) = value else { return Err(DecodeError::NotAnObject(shape::kind_of(value))) };
    let text = |key| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok((text("apiVersion"), text("kind")))
}

fn decode_pod(mut value: Value, origin: &Origin, node: &NodeIdentity) -> Result<Decoded, DecodeError> {
    let findings = shape::check(&mut value);
    if !findings.errors.is_empty() {
        return Err(DecodeError::Shape(findings.errors));
    }
    let mut pod: Pod =
        crate::json::from_value(&value).map_err(|error| DecodeError::Typed(error.to_string()))?;
    if pod.metadata.name.as_deref().unwrap_or_default().is_empty() {
        return Err(DecodeError::Name);
    }
    let derived = defaults::apply_keeping_quantities(&mut pod);
    identity::convert(&mut pod);
    if pod.metadata.uid.as_deref().unwrap_or_default().is_empty() {
        pod.metadata.uid = Some(uid(&pod, &derived, origin, node)?);
    }
    defaults::canonical_quantities(&mut pod);
    identity::bind(&mut pod, origin, node);

    let mut errors = validation::validate_pod(&pod);
    errors.extend(references::api_references(&pod));
    if !errors.is_empty() {
        return Err(DecodeError::Invalid(errors));
    }
    let pod = shape::without_zero_values(&pod).map_err(|error| DecodeError::Typed(error.to_string()))?;
    Ok(Decoded { pod, warnings: findings.warnings })
}

/// The UID upstream derives: FNV-128a over the dump of the defaulted pod, then the node and the file, or the URL.
fn uid(
    pod: &Pod,
    derived: &go_dump::DerivedQuantities,
    origin: &Origin,
    node: &NodeIdentity,
) -> Result<String, DecodeError> {
    use std::fmt::Write;
    let mut hash = go_dump::Fnv128a::default();
    let written = go_dump::write_pod(pod, derived, &mut hash).and_then(|()| match origin {
        Origin::File(path) => write!(hash, "host:{}file:{path}", node.name),
        Origin::Url(url) => write!(hash, "url:{url}"),
    });
    written.map_err(|_| DecodeError::Typed("its UID cannot be computed".into()))?;
    Ok(hash.to_string())
}

#[cfg(test)]
pub(crate) mod tests;
