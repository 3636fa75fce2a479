//! `/flagz` and `/statusz`: a text for people, and the objects of `config.k8s.io` for programs that ask for them.
//!
//! What a client accepts is read as upstream's negotiation reads it: JSON or YAML only together with the kind and
//! version that are wanted (`application/json;as=Statusz;v=v1beta1;g=config.k8s.io`), text for everybody else.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use http::header::{ACCEPT, WARNING};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::settings::ApiSettings;
use super::{Api, answers};
use crate::body::Body;
use crate::problem::Problem;

/// The component that this is, for who looks at several.
const COMPONENT: &str = "kubelet";
const GROUP: &str = "config.k8s.io";
/// What upstream says above either text.
const CAUTION: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.";

/// One of the two pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Flagz,
    Statusz,
}

/// How a page is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Object { yaml: bool, version: &'static str, pretty: bool },
}

impl Api {
    /// Answers `/flagz`.
    pub(super) fn flagz(&self, headers: &HeaderMap) -> Response<Body> {
        let flags: BTreeMap<String, String> = self.node.flags().into_iter().collect();
        page(Page::Flagz, headers, |text| match text {
            None => json!({ "flags": flags }),
            Some(text) => {
                for (name, value) in &flags {
                    let _ = writeln!(text, "{name}={value}");
                }
                Value::Null
            }
        })
    }

    /// Answers `/statusz`.
    pub(super) fn statusz(&self, headers: &HeaderMap) -> Response<Body> {
        let settings = &self.settings;
        let (started, paths) = (settings.started, paths(settings));
        let up = (settings.now)().duration_since(started).as_secs().max(0);
        let version = settings.version.trim_start_matches('v');
        let minor: Vec<&str> = version.splitn(3, '.').take(2).collect();
        let minor = minor.join(".");
        let program = format!("none ({})", settings.program);
        page(Page::Statusz, headers, |text| match text {
            None => json!({
                "startTime": seconds(started).to_string(), "uptimeSeconds": up, "goVersion": program,
                "binaryVersion": version, "emulationVersion": minor, "paths": paths,
            }),
            Some(text) => {
                let started = started.to_zoned(jiff::tz::TimeZone::UTC).strftime("%a %b %e %H:%M:%S UTC %Y");
                let (hours, minutes, seconds) = (up / 3600, up / 60 % 60, up % 60);
                let paths = paths.join(" ");
                let _ = write!(
                    text,
                    "\nStarted: {started}\nUp: {hours} hr {minutes:02} min {seconds:02} sec\nGo version: {program}\n\
                     Binary version: {version}\nEmulation version: {minor}\nPaths: {paths}\n"
                );
                Value::Null
            }
        })
    }
}

/// A time as the API writes it.
fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// The first parts of the paths that upstream lists: of what is no list of pods, log or stream.
fn paths(settings: &ApiSettings) -> Vec<&'static str> {
    let mut paths = vec!["/configz", "/healthz", "/metrics", "/debug"];
    if settings.flagz {
        paths.push("/flagz");
    }
    if !settings.system_log_handler {
        paths.push("/logs");
    }
    paths.sort_unstable();
    paths
}

/// Makes a page. `fill` appends to the text it is given, or returns what the object has besides its head.
fn page(page: Page, headers: &HeaderMap, fill: impl FnOnce(Option<&mut String>) -> Value) -> Response<Body> {
    let (name, kind) = match page {
        Page::Flagz => ("flagz", "Flagz"),
        Page::Statusz => ("statusz", "Statusz"),
    };
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match negotiate(accept, kind) {
        None => Problem::new(
            StatusCode::NOT_ACCEPTABLE,
            "only the following media types are accepted: application/json, application/yaml, text/plain",
        )
        .response(),
        Some(Form::Text) => {
            let mut text = format!("\n{COMPONENT} {name}\n{CAUTION}\n");
            fill(Some(&mut text));
            answers::text(StatusCode::OK, text)
        }
        Some(Form::Object { yaml, version, pretty }) => {
            let mut object = fill(None);
            object["kind"] = kind.into();
            object["apiVersion"] = format!("{GROUP}/{version}").into();
            object["metadata"] = json!({ "name": COMPONENT });
            let (content, media) = match (yaml, pretty) {
                (true, _) => (as_yaml(&object), "application/yaml"),
                (false, true) => {
                    (serde_json::to_string_pretty(&object).unwrap_or_default() + "\n", "application/json")
                }
                (false, false) => (format!("{object}\n"), "application/json"),
            };
            let mut response = answers::of(StatusCode::OK, HeaderValue::from_static(media), content);
            if version == "v1alpha1" {
                let warning = format!(
                    "299 - \"This version of the {name} endpoint is deprecated. Please use a newer version.\""
                );
                if let Ok(warning) = HeaderValue::from_str(&warning) {
                    response.headers_mut().insert(WARNING, warning);
                }
            }
            response
        }
    }
}

/// The form that fits a client best; `None` when none does.
fn negotiate(accept: &str, kind: &str) -> Option<Form> {
    if accept.trim().is_empty() {
        return Some(Form::Text);
    }
    let mut clauses: Vec<Clause<'_>> = accept.split(',').filter_map(Clause::parse).collect();
    // The order of the header decides between clauses that weigh the same and are as exact.
    clauses.sort_by(|a, b| b.weight.total_cmp(&a.weight).then(b.exactness().cmp(&a.exactness())));
    clauses.iter().find_map(|clause| {
        [("application", "json"), ("application", "yaml"), ("text", "plain")].into_iter().find_map(|media| {
            let fits = (clause.kind == media.0 && clause.subtype == media.1)
                || (clause.subtype == "*" && (clause.kind == media.0 || clause.kind == "*"));
            if !fits {
                return None;
            }
            let wants_object = ["as", "g", "v"].iter().any(|name| clause.parameter(name).is_some());
            if media.0 == "text" {
                return (!wants_object).then_some(Form::Text);
            }
            let version = ["v1alpha1", "v1beta1"].into_iter().find(|v| clause.parameter("v") == Some(v))?;
            let is_ours = clause.parameter("as") == Some(kind) && clause.parameter("g") == Some(GROUP);
            let pretty = clause.parameter("pretty") == Some("1");
            is_ours.then_some(Form::Object { yaml: media.1 == "yaml", version, pretty })
        })
    })
}

/// One part of the header `Accept`.
struct Clause<'a> {
    kind: &'a str,
    subtype: &'a str,
    weight: f64,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next()?;
        let (kind, subtype) = match media.split_once('/') {
            Some((kind, subtype)) => (kind.trim(), subtype.trim()),
            None if media == "*" => ("*", "*"),
            None => return None,
        };
        let parameters: Vec<_> = parts
            .filter_map(|part| part.split_once('='))
            .map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
            .collect();
        let weight = parameters.iter().find(|(name, _)| *name == "q");
        let weight = weight.map_or(Some(1.0), |(_, text)| text.parse().ok()).unwrap_or(1.0);
        Some(Self { kind, subtype, weight, parameters })
    }

    fn exactness(&self) -> usize {
        usize::from(self.kind != "*") + usize::from(self.subtype != "*")
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

/// An object of texts, numbers, lists of texts and maps of texts as YAML. Its texts are written as JSON writes them,
/// which YAML reads.
fn as_yaml(object: &Value) -> String {
    let mut yaml = String::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        match value {
            Value::Object(map) if !map.is_empty() => {
                let _ = writeln!(yaml, "{name}:");
                for (name, value) in map {
                    let _ = writeln!(yaml, "  {name}: {value}");
                }
            }
            Value::Array(items) if !items.is_empty() => {
                let _ = writeln!(yaml, "{name}:");
                for item in items {
                    let _ = writeln!(yaml, "- {item}");
                }
            }
            value => {
                let _ = writeln!(yaml, "{name}: {value}");
            }
        }
    }
    yaml
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn negotiates_as_upstream_does() {
        let object = |yaml, version| Some(Form::Object { yaml, version, pretty: false });
        for (accept, form) in [
            ("", Some(Form::Text)),
            ("*/*", Some(Form::Text)),
            ("text/*", Some(Form::Text)),
            ("text/html, text/plain;q=0.5", Some(Form::Text)),
            ("application/json", None),
            ("application/json, */*", Some(Form::Text)),
            ("application/json;as=Statusz;v=v1beta1;g=config.k8s.io", object(false, "v1beta1")),
            ("application/yaml; g=config.k8s.io; v=v1alpha1; as=Statusz", object(true, "v1alpha1")),
            ("*/*;as=Statusz;v=v1beta1;g=config.k8s.io", object(false, "v1beta1")),
            (
                "text/plain;q=0.1,application/json;as=Statusz;v=v1beta1;g=config.k8s.io",
                object(false, "v1beta1"),
            ),
            ("application/json;as=Statusz;v=v2;g=config.k8s.io", None),
            ("application/json;as=Flagz;v=v1beta1;g=config.k8s.io", None),
            ("application/json;as=Statusz;v=v1beta1;g=config.k8s.io;q=0.2, text/plain", Some(Form::Text)),
            ("text/plain;as=Statusz", None),
            ("application/vnd.kubernetes.protobuf", None),
        ] {
            assert_eq!(negotiate(accept, "Statusz"), form, "{accept}");
        }
        assert_eq!(
            negotiate("application/json;pretty=1;as=Flagz;v=v1beta1;g=config.k8s.io", "Flagz"),
            Some(Form::Object { yaml: false, version: "v1beta1", pretty: true })
        );
    }

    proptest! {
        #[test]
        fn any_header_is_read(accept in ".{0,60}") {
            let _ = negotiate(&accept, "Flagz");
        }
    }
}
