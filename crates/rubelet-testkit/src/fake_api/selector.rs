//! Field and label selectors: which objects a list or watch is about.
//!
//! Parsing and matching only. A field a real server does not index is refused, as there.

use serde_json::Value;

use super::resources::ResourceRef;
use super::status::{ApiError, bad_request};

/// What a list or watch selects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    namespace: Option<String>,
    fields: Vec<(String, bool, String)>,
    labels: Vec<LabelTerm>,
}

#[derive(Debug, Clone)]
enum LabelTerm {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

impl Selector {
    /// Reads the selectors of a request about `resource`.
    pub(crate) fn parse(
        resource: ResourceRef,
        namespace: &str,
        fields: Option<&str>,
        labels: Option<&str>,
    ) -> Result<Self, ApiError> {
        Ok(Self {
            namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
            fields: parse_fields(resource, fields.unwrap_or_default())?,
            labels: parse_labels(labels.unwrap_or_default())?,
        })
    }

    /// Whether the object is selected.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let text = |pointer: &str| field_text(object, pointer);
        self.namespace.as_ref().is_none_or(|ns| text("/metadata/namespace") == *ns)
            && self.fields.iter().all(|(field, equal, value)| {
                (text(&format!("/{}", field.replace('.', "/"))) == *value) == *equal
            })
            && self.labels.iter().all(|term| term.matches(object))
    }
}

impl LabelTerm {
    fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"].get(key).and_then(Value::as_str);
        match self {
            Self::In(key, values) => label(key).is_some_and(|v| values.iter().any(|w| w == v)),
            Self::NotIn(key, values) => label(key).is_none_or(|v| values.iter().all(|w| w != v)),
            Self::Exists(key) => label(key).is_some(),
            Self::Absent(key) => label(key).is_none(),
        }
    }
}

/// A field as selectors compare it: absent is the empty string, booleans are words.
fn field_text(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(value)) => value.to_string(),
        Some(Value::Number(value)) => value.to_string(),
        None if pointer == "/spec/unschedulable" || pointer == "/spec/hostNetwork" => "false".to_owned(),
        _ => String::new(),
    }
}

fn parse_fields(resource: ResourceRef, text: &str) -> Result<Vec<(String, bool, String)>, ApiError> {
    let mut terms = Vec::new();
    for term in text.split(',').filter(|t| !t.is_empty()) {
        let (field, equal, value) = if let Some((field, value)) = term.split_once("!=") {
            (field, false, value)
        } else if let Some((field, value)) = term.split_once('=') {
            (field, true, value.trim_start_matches('='))
        } else {
            return Err(bad_request(format!("invalid selector: '{term}'; can't understand '{term}'")));
        };
        if !is_indexed(resource, field) {
            return Err(bad_request(format!(
                "Unable to find \"{}, Resource={}\" that match label selector \"\", field selector \"{text}\": \
                 field label not supported: {field}",
                resource.api_version(),
                resource.plural
            )));
        }
        terms.push((field.to_owned(), equal, value.to_owned()));
    }
    Ok(terms)
}

fn is_indexed(resource: ResourceRef, field: &str) -> bool {
    if field == "metadata.name" || (field == "metadata.namespace" && resource.namespaced) {
        return true;
    }
    match resource.plural {
        "pods" => matches!(
            field,
            "spec.nodeName"
                | "spec.restartPolicy"
                | "spec.schedulerName"
                | "spec.serviceAccountName"
                | "spec.hostNetwork"
                | "status.phase"
                | "status.podIP"
                | "status.nominatedNodeName"
        ),
        "nodes" => field == "spec.unschedulable",
        "namespaces" => field == "status.phase",
        "secrets" => field == "type",
        "certificatesigningrequests" => field == "spec.signerName",
        "resourceslices" => matches!(field, "spec.nodeName" | "spec.driver"),
        "events" => matches!(
            field,
            "involvedObject.kind"
                | "involvedObject.namespace"
                | "involvedObject.name"
                | "involvedObject.uid"
                | "involvedObject.apiVersion"
                | "involvedObject.resourceVersion"
                | "involvedObject.fieldPath"
                | "reason"
                | "reportingComponent"
                | "source"
                | "type"
        ),
        _ => false,
    }
}

fn parse_labels(text: &str) -> Result<Vec<LabelTerm>, ApiError> {
    split_outside_parentheses(text).into_iter().map(|term| parse_label(term.trim())).collect()
}

fn parse_label(term: &str) -> Result<LabelTerm, ApiError> {
    let owned = |s: &str| s.trim().to_owned();
    if let Some((head, list)) = term.split_once('(') {
        let values: Vec<String> = list.trim_end_matches(')').split(',').map(owned).collect();
        let head = head.trim();
        return if let Some(key) = head.strip_suffix("notin") {
            Ok(LabelTerm::NotIn(owned(key), values))
        } else if let Some(key) = head.strip_suffix("in") {
            Ok(LabelTerm::In(owned(key), values))
        } else {
            Err(bad_request(format!("unable to parse requirement: found '{head}', expected: in, notin")))
        };
    }
    if let Some((key, value)) = term.split_once("!=") {
        return Ok(LabelTerm::NotIn(owned(key), vec![owned(value)]));
    }
    if let Some((key, value)) = term.split_once('=') {
        return Ok(LabelTerm::In(owned(key), vec![owned(value.trim_start_matches('='))]));
    }
    Ok(match term.strip_prefix('!') {
        Some(key) => LabelTerm::Absent(owned(key)),
        None => LabelTerm::Exists(owned(term)),
    })
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.retain(|p| !p.trim().is_empty());
    parts
}
