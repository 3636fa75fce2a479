//! Field selectors: the syntax of `fields.ParseSelector`, and the fields that each kind can be selected by, which are
//! those of upstream's field label conversions and `ToSelectableFields`.

use serde_json::Value;

use crate::kinds::Resource;

/// Why a text is no field selector.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum FieldSelectorError {
    /// No operator.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term { selector: String, term: String },
    /// A backslash before something that needs none.
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    /// An operator or comma in a value; its code point.
    #[error("invalid field selector: unescaped character in value: {0}")]
    Unescaped(u32),
    /// The kind cannot be selected by this field.
    #[error("field label not supported: {0}")]
    Unsupported(String),
    /// Likewise, in the words of a newer API group.
    #[error("field label not supported for {kind}: {field}")]
    UnsupportedOf { kind: String, field: String },
    /// Likewise, for kinds that have no fields of their own.
    #[error("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")]
    Unknown { field: String },
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldTerm {
    source: Source,
    equal: bool,
    value: String,
}

/// Where the value of a field comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The text at a JSON pointer; empty where there is none.
    Text(&'static str),
    /// `true` or `false` at a JSON pointer.
    Flag(&'static str),
    /// The first of a pod's addresses.
    FirstPodIp,
    /// The component an event came from, old or new style.
    EventComponent,
    /// Always empty: upstream takes the name and never fills it.
    Nothing,
}

impl FieldTerm {
    pub(super) fn matches(&self, object: &Value) -> bool {
        (self.source.value(object) == self.value) == self.equal
    }

    /// The one value that the field at `pointer` may have.
    pub(super) fn requires(&self, pointer: &str) -> Option<&str> {
        (self.equal && matches!(self.source, Source::Text(at) if at == pointer))
            .then_some(self.value.as_str())
    }
}

impl Source {
    fn value(self, object: &Value) -> &str {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        match self {
            Self::Text(pointer) => text(pointer),
            Self::Flag(pointer) => match object.pointer(pointer) {
                Some(Value::Bool(true)) => "true",
                _ => "false",
            },
            Self::FirstPodIp => text("/status/podIPs/0/ip"),
            Self::EventComponent => match text("/source/component") {
                "" => text("/reportingComponent"),
                component => component,
            },
            Self::Nothing => "",
        }
    }
}

/// The terms of a selector for `resource`.
pub(super) fn parse(resource: &Resource, selector: &str) -> Result<Vec<FieldTerm>, FieldSelectorError> {
    let mut terms = split(selector);
    terms.sort_unstable();
    let mut parsed = Vec::with_capacity(terms.len());
    for term in terms.into_iter().filter(|term| !term.is_empty()) {
        let (field, equal, value) = split_term(term).ok_or_else(|| FieldSelectorError::Term {
            selector: selector.to_owned(),
            term: term.to_owned(),
        })?;
        let value = unescape(value)?;
        parsed.push(FieldTerm { source: source(resource, field)?, equal, value });
    }
    Ok(parsed)
}

/// The parts between commas that no backslash precedes.
fn split(selector: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in selector.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&selector[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&selector[start..]);
    parts
}

/// Field, whether it shall be equal, and the value as it is written.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find('=')?;
    if let Some(before) = term[..at].strip_suffix('!') {
        return Some((before, false, &term[at + 1..]));
    }
    let value = &term[at + 1..];
    Some((&term[..at], true, value.strip_prefix('=').unwrap_or(value)))
}

fn unescape(value: &str) -> Result<String, FieldSelectorError> {
    let mut text = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => text.push(escaped),
                other => return Err(FieldSelectorError::Escape(['\\'].into_iter().chain(other).collect())),
            },
            ',' | '=' => return Err(FieldSelectorError::Unescaped(u32::from(c))),
            _ => text.push(c),
        }
    }
    Ok(text)
}

/// Where a kind's field comes from, or that nobody indexes it.
fn source(resource: &Resource, field: &str) -> Result<Source, FieldSelectorError> {
    let own = match (resource.group, resource.plural) {
        ("", "pods") => pod(field),
        ("", "events") => core_event(field),
        ("events.k8s.io", "events") => new_event(field),
        ("", "nodes") => (field == "spec.unschedulable").then_some(Source::Flag("/spec/unschedulable")),
        ("", "namespaces") => (field == "status.phase").then_some(Source::Text("/status/phase")),
        ("", "secrets") => (field == "type").then_some(Source::Text("/type")),
        ("", "services") => match field {
            "spec.clusterIP" => Some(Source::Text("/spec/clusterIP")),
            "spec.type" => Some(Source::Text("/spec/type")),
            _ => None,
        },
        ("certificates.k8s.io", "certificatesigningrequests") => {
            (field == "spec.signerName").then_some(Source::Text("/spec/signerName"))
        }
        ("resource.k8s.io", "resourceslices") => match field {
            "spec.nodeName" => Some(Source::Text("/spec/nodeName")),
            "spec.driver" => Some(Source::Text("/spec/driver")),
            _ => None,
        },
        _ => {
            return common(field).ok_or_else(|| FieldSelectorError::Unknown { field: field.to_owned() });
        }
    };
    let common = common(field).filter(|_| resource.namespaced || field == "metadata.name");
    own.or(common).ok_or_else(|| {
        let field = field.to_owned();
        if resource.plural == "resourceslices" {
            let kind = format!("{}, Kind={}", resource.api_version(), resource.kind);
            FieldSelectorError::UnsupportedOf { kind, field }
        } else {
            FieldSelectorError::Unsupported(field)
        }
    })
}

fn common(field: &str) -> Option<Source> {
    match field {
        "metadata.name" => Some(Source::Text("/metadata/name")),
        "metadata.namespace" => Some(Source::Text("/metadata/namespace")),
        _ => None,
    }
}

fn pod(field: &str) -> Option<Source> {
    Some(match field {
        // What clients of the first version sent.
        "spec.nodeName" | "spec.host" => Source::Text("/spec/nodeName"),
        "spec.restartPolicy" => Source::Text("/spec/restartPolicy"),
        "spec.schedulerName" => Source::Text("/spec/schedulerName"),
        "spec.serviceAccountName" => Source::Text("/spec/serviceAccountName"),
        "spec.hostNetwork" => Source::Flag("/spec/hostNetwork"),
        "status.phase" => Source::Text("/status/phase"),
        "status.podIP" => Source::FirstPodIp,
        "status.podIPs" => Source::Nothing,
        "status.nominatedNodeName" => Source::Text("/status/nominatedNodeName"),
        _ => return None,
    })
}

fn core_event(field: &str) -> Option<Source> {
    Some(match field {
        "reportingComponent" => Source::Text("/reportingComponent"),
        "source" => Source::EventComponent,
        _ => return event(field, "involvedObject."),
    })
}

fn new_event(field: &str) -> Option<Source> {
    match field {
        "reportingController" => Some(Source::Text("/reportingComponent")),
        _ => event(field, "regarding."),
    }
}

fn event(field: &str, object: &str) -> Option<Source> {
    Some(Source::Text(match field {
        "reason" => "/reason",
        "type" => "/type",
        _ => match field.strip_prefix(object)? {
            "kind" => "/involvedObject/kind",
            "namespace" => "/involvedObject/namespace",
            "name" => "/involvedObject/name",
            "uid" => "/involvedObject/uid",
            "apiVersion" => "/involvedObject/apiVersion",
            "resourceVersion" => "/involvedObject/resourceVersion",
            "fieldPath" => "/involvedObject/fieldPath",
            _ => return None,
        },
    }))
}
