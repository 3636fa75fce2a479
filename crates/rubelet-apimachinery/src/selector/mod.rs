//! Field and label selectors: which objects a list, watch or collection delete is about.
//!
//! Parsing and matching; what the answer is used for is the caller's. Objects are matched in the form they are stored
//! in: events in core/v1 form, whichever of their two groups was asked.

mod fields;
mod labels;

use serde_json::Value;

use crate::kinds::Resource;
use crate::status::{ApiError, bad_request};
use fields::FieldTerm;
pub use labels::{LabelSelector, LabelSelectorError};

/// What `fieldSelector` and `labelSelector` of a request select, both together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    fields: Vec<FieldTerm>,
    labels: LabelSelector,
}

impl Selector {
    /// Reads the two query parameters of a request for objects of `resource`; empty text selects everything.
    ///
    /// # Errors
    /// 400 with kube-apiserver's words, when a text cannot be read or a field cannot be selected by.
    pub fn parse(resource: &Resource, fields: &str, labels: &str) -> Result<Self, ApiError> {
        Ok(Self {
            labels: LabelSelector::parse(labels).map_err(|error| bad_request(error.to_string()))?,
            fields: fields::parse(resource, fields).map_err(|error| bad_request(error.to_string()))?,
        })
    }

    /// Whether the stored object is selected.
    pub fn matches(&self, object: &Value) -> bool {
        self.fields.iter().all(|term| term.matches(object))
            && (self.labels.is_everything() || self.labels.matches(&object["metadata"]["labels"]))
    }

    /// Whether there is nothing that it leaves out.
    pub fn is_everything(&self) -> bool {
        self.fields.is_empty() && self.labels.is_everything()
    }

    /// The only name that objects of it have.
    pub fn exact_name(&self) -> Option<&str> {
        self.exact("/metadata/name")
    }

    /// The only namespace that objects of it are in.
    pub fn exact_namespace(&self) -> Option<&str> {
        self.exact("/metadata/namespace")
    }

    fn exact(&self, pointer: &str) -> Option<&str> {
        self.fields.iter().find_map(|term| term.requires(pointer))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::kinds;

    fn resource(group: &str, plural: &str) -> &'static Resource {
        kinds::find(group, "v1", plural).unwrap()
    }

    #[track_caller]
    fn check(plural: &str, fields: &str, labels: &str, object: &Value, expected: bool) {
        let selector = Selector::parse(resource("", plural), fields, labels).unwrap();
        assert_eq!(selector.matches(object), expected, "{fields:?} {labels:?}");
        let part = crate::partial::selectable(object.to_string().as_bytes()).unwrap();
        assert_eq!(selector.matches(&part), expected, "{fields:?} {labels:?} of {part}");
    }

    #[test]
    fn fields_and_labels_select_together() {
        let pod = json!({
            "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "a", "n": "5"}},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
        });
        for (fields, labels, expected) in [
            ("", "", true),
            ("spec.nodeName=n1", "app=a", true),
            ("spec.nodeName==n1,status.phase!=Failed", "", true),
            ("spec.nodeName!=n1", "", false),
            ("spec.nodeName=n1", "app!=a", false),
            ("spec.host=n1", "", true),
            ("spec.hostNetwork=false", "", true),
            ("spec.hostNetwork=true", "", false),
            ("status.podIP=10.0.0.1", "", true),
            ("status.podIPs=10.0.0.1", "", false),
            ("metadata.namespace=shop,metadata.name=web", "n>4,n<6", true),
            ("spec.schedulerName=", "", true),
        ] {
            check("pods", fields, labels, &pod, expected);
        }
        check("nodes", "spec.unschedulable=false", "", &json!({"spec": {}}), true);
        check("nodes", "spec.unschedulable=true", "", &json!({"spec": {"unschedulable": true}}), true);
    }

    #[test]
    fn events_are_selected_in_both_groups_words() {
        let event = json!({"involvedObject": {"kind": "Pod", "name": "web"}, "source": {"component": "kubelet"},
            "reportingComponent": "k2", "reason": "Started"});
        check("events", "involvedObject.kind=Pod,involvedObject.name=web,source=kubelet", "", &event, true);
        check("events", "reportingComponent=k2", "", &event, true);
        check("events", "source=k2", "", &json!({"reportingComponent": "k2"}), true);
        let new = resource("events.k8s.io", "events");
        let selector = Selector::parse(new, "regarding.name=web,reportingController=k2", "").unwrap();
        assert!(selector.matches(&event));
        let error = Selector::parse(new, "involvedObject.name=web", "").unwrap_err();
        assert_eq!(error.message, "field label not supported: involvedObject.name");
    }

    #[test]
    fn fields_nobody_indexes_are_refused() {
        for (group, plural, fields, expected) in [
            ("", "pods", "spec.foo=1", "field label not supported: spec.foo"),
            ("", "nodes", "metadata.namespace=x", "field label not supported: metadata.namespace"),
            (
                "",
                "configmaps",
                "data.x=y",
                "\"data.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            ),
            ("", "pods", "nonsense", "invalid selector: 'nonsense'; can't understand 'nonsense'"),
            ("", "pods", "metadata.name=a\\b", "invalid field selector: invalid escape sequence: \\b"),
            ("", "pods", "metadata.name=a=b", "invalid field selector: unescaped character in value: 61"),
            (
                "resource.k8s.io",
                "resourceslices",
                "spec.x=y",
                "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: spec.x",
            ),
        ] {
            let error = Selector::parse(resource(group, plural), fields, "").unwrap_err();
            assert_eq!((error.code, error.reason, error.message.as_str()), (400, "BadRequest", expected));
        }
    }

    #[test]
    fn exact_names_shorten_the_search() {
        let selector =
            Selector::parse(resource("", "pods"), "metadata.name=a\\,b,metadata.namespace!=c", "").unwrap();
        assert_eq!((selector.exact_name(), selector.exact_namespace()), (Some("a,b"), None));
        assert!(!selector.is_everything());
        assert!(Selector::parse(resource("", "pods"), ",", "").unwrap().is_everything());
    }

    proptest! {
        #[test]
        fn any_text_is_a_selector_or_an_error(fields in ".{0,40}", labels in "[a-c =!<>(),in\u{0}é]{0,30}") {
            let _ = Selector::parse(resource("", "pods"), &fields, "");
            if let Ok(selector) = Selector::parse(resource("", "pods"), "", &labels) {
                selector.matches(&json!({"metadata": {"labels": {"a": "b"}}}));
            }
        }
    }
}
