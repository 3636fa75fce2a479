//! Pages and watch events out of bytes, each object on its own, so that one that cannot be decoded is named and the
//! others are not hidden by it. Pure.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Watched;
use super::failure::Failure;
use super::place::path_at;

/// An object that exists and cannot be decoded. Metadata is read as far as it is legible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BadObject {
    /// `metadata.namespace`, empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.name`, empty if not legible.
    pub name: String,
    /// `metadata.uid`, empty if not legible.
    pub uid: String,
    /// `metadata.resourceVersion`, if legible.
    pub resource_version: Option<String>,
    /// What is wrong, with the path of the field.
    pub error: String,
}

impl fmt::Display for BadObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} cannot be decoded: {}", self.namespace, self.name, self.error)
    }
}

/// One page of a list.
#[derive(Debug)]
pub(super) struct Page<K> {
    pub items: Vec<Arc<K>>,
    pub bad: Vec<BadObject>,
    pub resource_version: String,
    /// Where the next page is, unless this is the last.
    pub token: Option<String>,
}

#[derive(Deserialize)]
struct RawPage<'a> {
    metadata: RawListMeta,
    /// Go writes an empty list as `null` at times.
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawListMeta {
    resource_version: String,
    #[serde(default, rename = "continue")]
    token: Option<String>,
}

impl<K: Watched> Page<K> {
    pub(super) fn decode(body: &[u8], clean: fn(&mut K)) -> Result<Self, Failure> {
        let text = text(body);
        let page: RawPage<'_> = serde_json::from_str(&text).map_err(Failure::garbled)?;
        let metadata = page.metadata;
        if metadata.resource_version.is_empty() {
            return Err(Failure::garbled("a list without a resource version"));
        }
        let raw = page.items.unwrap_or_default();
        let mut items = Vec::with_capacity(raw.len());
        let mut bad = Vec::new();
        for item in raw {
            match decode_object(item, clean) {
                Ok(item) => items.push(Arc::new(item)),
                Err(item) => bad.push(item),
            }
        }
        let token = metadata.token.filter(|token| !token.is_empty());
        Ok(Self { items, bad, resource_version: metadata.resource_version, token })
    }
}

/// One line of a watch.
#[derive(Debug)]
pub(super) enum Event<K> {
    Applied(Arc<K>),
    Deleted(Arc<K>),
    Bad { object: BadObject, deleted: bool },
    Bookmark(Option<String>),
    Error(Failure),
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

impl<K: Watched> Event<K> {
    /// The error says why the line is no event at all.
    pub(super) fn decode(line: &[u8], clean: fn(&mut K)) -> Result<Self, String> {
        let text = text(line);
        let event: RawEvent<'_> = serde_json::from_str(&text).map_err(|error| {
            let start: String = text.chars().take(80).collect();
            format!("{error} in a line that starts with {start:?}")
        })?;
        let deleted = event.kind == "DELETED";
        match &*event.kind {
            "ADDED" | "MODIFIED" | "DELETED" => Ok(match decode_object(event.object, clean).map(Arc::new) {
                Ok(object) if deleted => Self::Deleted(object),
                Ok(object) => Self::Applied(object),
                Err(object) => Self::Bad { object, deleted },
            }),
            // A bookmark is an object of which only the version is set.
            "BOOKMARK" => Ok(Self::Bookmark(legible(event.object).resource_version)),
            "ERROR" => {
                let status: Value = serde_json::from_str(event.object.get()).unwrap_or_default();
                Ok(Self::Error(Failure::from_event(&status)))
            }
            other => Err(format!("an event of unknown type {other:?}")),
        }
    }
}

/// Bytes that are not UTF-8 spoil the objects they are in, not the whole answer.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn decode_object<K: Watched>(raw: &RawValue, clean: fn(&mut K)) -> Result<K, BadObject> {
    let mut object: K = match serde_json::from_str(raw.get()) {
        Ok(object) => object,
        Err(error) => return Err(BadObject { error: explain(raw, &error), ..legible(raw) }),
    };
    if object.metadata().name.as_deref().unwrap_or_default().is_empty() {
        return Err(BadObject { error: "metadata.name is missing".to_owned(), ..legible(raw) });
    }
    clean(&mut object);
    Ok(object)
}

/// The error with the path of the field that is wrong.
fn explain(raw: &RawValue, error: &serde_json::Error) -> String {
    match path_at(raw.get(), error.line(), error.column()) {
        path if path.is_empty() => error.to_string(),
        path => format!("{path}: {error}"),
    }
}

fn legible(raw: &RawValue) -> BadObject {
    let object: Value = serde_json::from_str(raw.get()).unwrap_or_default();
    let metadata = &object["metadata"];
    let word = |name: &str| metadata[name].as_str().unwrap_or_default().to_owned();
    BadObject {
        namespace: word("namespace"),
        name: word("name"),
        uid: word("uid"),
        resource_version: metadata["resourceVersion"].as_str().map(str::to_owned),
        error: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::super::drop_managed_fields;
    use super::*;

    fn line(text: &str) -> String {
        match Event::<Service>::decode(text.as_bytes(), drop_managed_fields) {
            Ok(Event::Bad { object, deleted }) => format!("bad deleted={deleted} {object}"),
            Ok(Event::Applied(object)) => {
                format!("applied {}", object.metadata.name.as_deref().unwrap_or("-"))
            }
            Ok(Event::Deleted(object)) => {
                format!("deleted {}", object.metadata.name.as_deref().unwrap_or("-"))
            }
            Ok(Event::Bookmark(version)) => format!("bookmark {version:?}"),
            Ok(Event::Error(failure)) => {
                format!("error {:?} {:?} {}", failure.kind, failure.class, failure.message)
            }
            Err(error) => format!("garbage: {error}"),
        }
    }

    #[test]
    fn each_line_is_judged_on_its_own() {
        #[rustfmt::skip]
        let table = [
            (r#"{"type":"ADDED","object":{"kind":"Service","apiVersion":"v1","metadata":{"name":"a"}}}"#, "applied a"),
            (r#"{"type":"DELETED","object":{"metadata":{"name":"a"}}}"#, "deleted a"),
            (r#"{"type":"MODIFIED","object":{"metadata":{"name":"a","namespace":"n"},"spec":{"ports":[{"port":"x"}]}}}"#,
             r#"bad deleted=false n/a cannot be decoded: spec.ports[0].port: invalid type: string "x", expected i32 at line 1 column 69"#),
            (r#"{"type":"DELETED","object":{"metadata":{"name":"a","labels":7}}}"#,
             "bad deleted=true /a cannot be decoded: metadata.labels: invalid type: integer `7`, expected a map at line 1 column 34"),
            (r#"{"type":"ADDED","object":{"metadata":{}}}"#, "bad deleted=false / cannot be decoded: metadata.name is missing"),
            (r#"{"type":"ADDED","object":7}"#,
             "bad deleted=false / cannot be decoded: invalid type: integer `7`, expected Service at line 1 column 1"),
            (r#"{"type":"BOOKMARK","object":{"kind":"Service","metadata":{"resourceVersion":"12","name":null}}}"#, r#"bookmark Some("12")"#),
            (r#"{"type":"ERROR","object":{"code":410,"reason":"Expired","message":"too old"}}"#, "error Refused Expired too old"),
            (r#"{"type":"ERROR","object":{"code":418,"message":"teapot"}}"#, "error Refused Hopeless teapot"),
            (r#"{"type":"ERROR","object":"what"}"#,
             "error Garbled Hopeless the watch ended with an error without a message (code 0)"),
            (r#"{"type":"NOVEL","object":{}}"#, r#"garbage: an event of unknown type "NOVEL""#),
            (r#"<html>"#, r#"garbage: expected value at line 1 column 1 in a line that starts with "<html>""#),
        ];
        for (text, expected) in table {
            assert_eq!(line(text), expected, "{text}");
        }
    }

    #[test]
    fn one_bad_object_hides_nothing() {
        let body = br#"{"kind":"ServiceList","metadata":{"resourceVersion":"9","continue":""},"items":[
            {"metadata":{"name":"a","managedFields":[{"manager":"x"}]}},
            {"metadata":{"name":"b","resourceVersion":"4"},"spec":7},
            {"metadata":{"name":"c","annotations":{"bytes":"@@"}}}]}"#;
        let mut body = body.to_vec();
        let at = body.windows(2).position(|pair| pair == b"@@").unwrap();
        body[at] = 0xff;
        let page = Page::<Service>::decode(&body, drop_managed_fields).unwrap();
        let names: Vec<_> = page.items.iter().filter_map(|item| item.metadata.name.as_deref()).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(page.items[0].metadata.managed_fields, None);
        assert_eq!(page.bad[0].name, "b");
        assert_eq!(page.bad[0].resource_version.as_deref(), Some("4"));
        assert_eq!((page.resource_version.as_str(), page.token), ("9", None));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for body in
            ["", "{}", "[]", r#"{"metadata":{},"items":[]}"#, r#"{"metadata":{"resourceVersion":""}}"#]
        {
            assert!(Page::<Service>::decode(body.as_bytes(), drop_managed_fields).is_err(), "{body}");
        }
        let empty = r#"{"metadata":{"resourceVersion":"1"},"items":null}"#;
        assert!(Page::<Service>::decode(empty.as_bytes(), drop_managed_fields).is_ok());
    }
}
