//! Objects as tables, for kubectl: the options of the request, the rows from `rubelet-apimachinery`.

use jiff::Timestamp;
use rubelet_apimachinery::kinds::Resource;
use rubelet_apimachinery::status::{ApiError, bad_request};
use rubelet_apimachinery::table::{self, IncludeObject, TableOptions};
use serde_json::{Value, json};

use super::request::{Query, quoted};

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
    Ok(TableOptions { include_object: include, no_headers: false })
}

/// The table of these objects, in this version of `meta.k8s.io`.
pub(crate) fn table(
    resource: &'static Resource,
    objects: &[Value],
    options: &TableOptions,
    version: &str,
    now: Timestamp,
) -> Value {
    let mut table = table::table(resource, objects, options, now);
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
