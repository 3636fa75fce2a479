//! Objects as tables, for kubectl: the options of the request, the rows from `rubelet-apimachinery`.

use jiff::Timestamp;
use rubelet_apimachinery::kinds::Resource;
use rubelet_apimachinery::status::{ApiError, bad_request};
use serde_json::{Value, json};

use super::request::{Query, quoted};

/// What the client wants in each row.
#[derive(Debug, Clone)]
pub(crate) struct TableOptions {
    pub(crate) include: IncludeObject,
    /// Whether the columns are left out.
    pub(crate) no_headers: bool,
}

/// Reads the options of a table.
///
/// # Errors
/// 400 for an `includeObject` that there is not.
pub(crate) fn options(query: &Query) -> Result<TableOptions, ApiError> {
    let include = match query.text("includeObject") {
        None | Some("Metadata") => IncludeObject::Metadata,
        Some("None") => IncludeObject::None,
        Some("Object") => IncludeObject::Object,
        Some(other) => {
            return Err(bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {}: must be 'Metadata', \
                 'Object', 'None', or empty",
                quoted(other)
            )));
        }
    };
    Ok(TableOptions { include, no_headers: false })
}

/// The table of these objects, in this version of `meta.k8s.io`.
pub(crate) fn table(
    resource: &'static Resource,
    objects: &[Value],
    options: &TableOptions,
    version: &str,
    now: Timestamp,
) -> Value {
    let mut table = plain(resource, objects, options, now);
    if version != "meta.k8s.io/v1" {
        table["apiVersion"] = json!(version);
        for row in table["rows"].as_array_mut().into_iter().flatten() {
            if row["object"]["kind"] == "PartialObjectMetadata" {
                row["object"]["apiVersion"] = json!(version);
            }
        }
    }
    table
}

/// What a row holds of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    None,
    Metadata,
    Object,
}

fn plain(_: &Resource, objects: &[Value], options: &TableOptions, _: Timestamp) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut row =
                json!({"cells": [object["metadata"]["name"], object["metadata"]["creationTimestamp"]]});
            match options.include {
                IncludeObject::None => {}
                IncludeObject::Object => row["object"] = object.clone(),
                IncludeObject::Metadata => {
                    row["object"] = super::encode::metadata_only(&mut object.clone(), "meta.k8s.io/v1");
                }
            }
            row
        })
        .collect();
    let columns = if options.no_headers {
        json!([])
    } else {
        json!([{"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0},
               {"name": "Created At", "type": "date", "format": "", "description": "", "priority": 0}])
    };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": columns, "rows": rows})
}
