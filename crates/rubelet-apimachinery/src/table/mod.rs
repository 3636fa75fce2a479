//! Objects as rows of a table (`meta.k8s.io/v1` `Table`), which is what `kubectl get` prints.
//!
//! Columns, their order and the texts in cells are those of kube-apiserver (`pkg/printers/internalversion`), because
//! scripts read them; the words that describe columns are our own. Called by the server for every answer in which the
//! client asked for a table. It never fails: what an object does not say is an empty cell or the placeholder that users
//! know (`<none>`, `<unset>`, `<unknown>`).
//!
//! Always with all columns: it is kubectl that leaves out those of lower priority without `-o wide`. A `Status` is never
//! made a table, the server answers it as it is.

mod age;
mod cluster;
mod columns;
mod config;
mod events;
mod metrics;
mod network;
mod nodes;
mod pods;
mod storage;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use self::columns::{Column, NAME, date};
use crate::kinds::Resource;
use crate::strategy::value::{at, text};

/// The version of tables and of the metadata in their rows.
const META_V1: &str = "meta.k8s.io/v1";

/// What stands in a row beside the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The object's metadata.
    #[default]
    Metadata,
    /// The object.
    Object,
}

/// How a client wants its table (`TableOptions`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableOptions {
    /// What stands in a row beside the cells.
    pub include_object: IncludeObject,
    /// Whether the columns are left out, as in all but the first table of a watch.
    pub no_headers: bool,
}

/// How objects of one kind are printed.
struct Printer {
    columns: &'static [Column],
    /// As many cells as there are columns.
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// The table of these objects, a row for each. `metadata` is left empty: the caller knows the list's.
pub fn table(
    resource: &'static Resource,
    objects: &[Value],
    options: &TableOptions,
    now: Timestamp,
) -> Value {
    let printer = printer(resource);
    let columns = match options.no_headers {
        true => Value::Null,
        false => printer.columns.iter().map(Column::definition).collect(),
    };
    let rows: Vec<Value> =
        objects.iter().map(|object| row(resource, printer, object, options, now)).collect();
    json!({"kind": "Table", "apiVersion": META_V1, "metadata": {}, "columnDefinitions": columns, "rows": rows})
}

fn row(
    resource: &Resource,
    printer: &Printer,
    object: &Value,
    options: &TableOptions,
    now: Timestamp,
) -> Value {
    let mut row = Map::new();
    row.insert("cells".to_owned(), Value::Array((printer.cells)(object, now)));
    if is(resource, "", "pods")
        && let Some(completed) = pods::completed(object)
    {
        row.insert("conditions".to_owned(), json!([completed]));
    }
    let beside = match options.include_object {
        IncludeObject::Object => object.clone(),
        IncludeObject::None if !ends_initial_events(object) => Value::Null,
        // Clients find the end of a watch's first events by an annotation, whatever they asked for.
        _ => json!({"kind": "PartialObjectMetadata", "apiVersion": META_V1, "metadata": object["metadata"]}),
    };
    row.insert("object".to_owned(), beside);
    Value::Object(row)
}

fn ends_initial_events(object: &Value) -> bool {
    text(object, &["metadata", "annotations", "k8s.io/initial-events-end"]) == "true"
}

fn is(resource: &Resource, group: &str, plural: &str) -> bool {
    resource.group == group && resource.plural == plural
}

fn printer(resource: &Resource) -> &'static Printer {
    match (resource.group, resource.plural) {
        ("", "configmaps") => &config::CONFIG_MAPS,
        ("", "endpoints") => &network::ENDPOINTS,
        ("", "events") | ("events.k8s.io", "events") => &events::EVENTS,
        ("", "namespaces") => &cluster::NAMESPACES,
        ("", "nodes") => &nodes::NODES,
        ("", "persistentvolumeclaims") => &storage::CLAIMS,
        ("", "persistentvolumes") => &storage::VOLUMES,
        ("", "pods") => &pods::PODS,
        ("", "secrets") => &config::SECRETS,
        ("", "serviceaccounts") => &config::SERVICE_ACCOUNTS,
        ("", "services") => &network::SERVICES,
        ("certificates.k8s.io", "certificatesigningrequests") => &cluster::SIGNING_REQUESTS,
        ("coordination.k8s.io", "leases") => &cluster::LEASES,
        ("discovery.k8s.io", "endpointslices") => &network::ENDPOINT_SLICES,
        ("metrics.k8s.io", "nodes") => &metrics::NODES,
        ("metrics.k8s.io", "pods") => &metrics::PODS,
        ("node.k8s.io", "runtimeclasses") => &cluster::RUNTIME_CLASSES,
        ("policy", "poddisruptionbudgets") => &cluster::DISRUPTION_BUDGETS,
        ("resource.k8s.io", "resourceclaims") => &cluster::RESOURCE_CLAIMS,
        ("resource.k8s.io", "resourceslices") => &cluster::RESOURCE_SLICES,
        ("scheduling.k8s.io", "priorityclasses") => &cluster::PRIORITY_CLASSES,
        ("storage.k8s.io", "csidrivers") => &storage::CSI_DRIVERS,
        ("storage.k8s.io", "csinodes") => &storage::CSI_NODES,
        ("storage.k8s.io", "storageclasses") => &storage::CLASSES,
        ("storage.k8s.io", "volumeattachments") => &storage::ATTACHMENTS,
        _ => &PLAIN,
    }
}

/// Kinds without columns of their own (`rest.NewDefaultTableConvertor`).
static PLAIN: Printer = Printer {
    columns: &[NAME, date("Created At", "When it was made.")],
    cells: |object, _| {
        let made = match text(object, &["metadata", "creationTimestamp"]) {
            "" => "0001-01-01T00:00:00Z",
            made => made,
        };
        vec![name(object), json!(made)]
    },
};

fn name(object: &Value) -> Value {
    cell(object, &["metadata", "name"])
}

/// How long an object has been there.
fn age(object: &Value, now: Timestamp) -> Value {
    json!(age::since(at(object, &["metadata", "creationTimestamp"]), now))
}

/// The text at a path, empty if there is none.
fn cell(object: &Value, path: &[&str]) -> Value {
    json!(text(object, path))
}

/// The text at a path, or what stands for none.
fn cell_or(object: &Value, path: &[&str], none: &str) -> Value {
    json!(or(text(object, path), none))
}

fn or<'a>(value: &'a str, none: &'a str) -> &'a str {
    if value.is_empty() { none } else { value }
}

/// The flag at a path, or what its absence means.
fn flag(object: &Value, path: &[&str], absent: bool) -> Value {
    json!(at(object, path).as_bool().unwrap_or(absent))
}

/// The number at a path, 0 if there is none.
fn number(object: &Value, path: &[&str]) -> i64 {
    at(object, path).as_i64().unwrap_or_default()
}

fn is_being_deleted(object: &Value) -> bool {
    at(object, &["metadata", "deletionTimestamp"]).is_string()
}

/// The first few of a list and how many are left; upstream shows three.
fn first_few(list: &[String]) -> String {
    const SHOWN: usize = 3;
    match list.len() {
        0..=SHOWN => list.join(","),
        all => format!("{} + {} more...", list[..SHOWN].join(","), all - SHOWN),
    }
}
