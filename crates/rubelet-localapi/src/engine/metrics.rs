//! `metrics.k8s.io`: what node and pods use, read from the node agent when somebody asks. Nothing is measured at rest.
//!
//! The rates are `rubelet_core::stats::rates`', the objects `rubelet_apimachinery::node_metrics`'; here they are put
//! together with the Nodes and Pods of the store, whose labels they have. After a pause two readings are taken, a moment
//! apart.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Response;
use rubelet_apimachinery::kinds::{self, Resource};
use rubelet_apimachinery::node_metrics;
use rubelet_apimachinery::selector::Selector;
use rubelet_apimachinery::status::{self, ApiError};
use rubelet_core::stats::rates::{self, LONGEST_WINDOW, NodeRates, PodRate, Points};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::dispatch::Call;
use super::lookup::{self, Shown};
use super::media::Form;
use super::options::ListOptions;
use super::{encode, respond, tables};
use crate::node::{Body, NodeStreams};
use rubelet_apimachinery::strategy::Lookup as _;

/// Between two readings, where one does not do.
const MOMENT: Duration = Duration::from_millis(1100);
/// So many readings are taken for one answer at most: the agent may give the same one for a few seconds.
const READINGS: usize = 8;

/// What is kept of earlier readings: the oldest that a rate may be of, and the newest.
#[derive(Debug, Default)]
pub(crate) struct Measured(Mutex<Vec<Points>>);

impl Measured {
    /// What node and containers use now. Those who ask at the same time wait for one another, and share readings.
    async fn rates(&self, node: &dyn NodeStreams) -> Option<NodeRates> {
        let mut kept = self.0.lock().await;
        let mut found = None;
        for reading in 0..READINGS {
            if reading > 0 {
                tokio::time::sleep(MOMENT).await;
            }
            let latest = node.usage().await?;
            let points = Points::of(&latest);
            kept.retain(|earlier| match (earlier.at(), points.at()) {
                (Some(earlier), Some(now)) => now.duration_since(earlier) <= LONGEST_WINDOW,
                _ => false,
            });
            let rates = rates::rates(&kept, &latest);
            keep(&mut kept, points);
            let complete = !rates.incomplete;
            found = Some(rates);
            // What is still missing after two more readings than the first has just been started: it can wait.
            if complete || found.as_ref().is_some_and(|rates| rates.node.is_some() && reading >= 2) {
                break;
            }
        }
        found
    }
}

/// Keeps the first reading, which makes the longest window, and the last, which has the newest containers.
fn keep(kept: &mut Vec<Points>, points: Points) {
    if kept.last().is_some_and(|last| last.at() == points.at()) {
        kept.pop();
    }
    kept.truncate(1);
    kept.push(points);
}

/// GET of metrics: of one object, or of all that are selected.
pub(crate) async fn read(call: Call) -> Result<Response<Body>, ApiError> {
    let of = kinds::find("", "v1", call.resource.plural).ok_or_else(status::unknown_path)?;
    let name = call.info.name.clone();
    if call.info.verb == "get" {
        let object = Shown::new(call.api.store())
            .get(of, call.namespace(), &name)
            .ok_or_else(|| status::not_found(of, &name))?;
        let measured = objects(&call, of, vec![object]).await?.pop();
        let object = measured.ok_or_else(|| not_measured(&call, &name))?;
        return respond::object(200, call.resource, object, call.accepted, &call.info.query, call.api.now());
    }
    let options = ListOptions::read(&call.info.query, false)?;
    let selector = Selector::parse(call.resource, &options.fields, &options.labels)?;
    let snapshot = call.api.store().snapshot().map_err(lookup::failed)?;
    let selected = lookup::pick(&snapshot, of, call.namespace(), &selector, 0)?;
    drop(snapshot);
    let objects = objects(&call, of, selected).await?;
    list(&call, objects)
}

/// There is such an object, and nothing is known of what it uses.
fn not_measured(call: &Call, name: &str) -> ApiError {
    let (plural, named) = match call.namespace() {
        "" => ("nodemetrics", name.to_owned()),
        namespace => ("podmetrics", format!("{namespace}/{name}")),
    };
    status::not_found(&Resource { plural, ..*call.resource }, &named)
}

/// The metrics of these Nodes or Pods, of those that are measured.
async fn objects(call: &Call, of: &Resource, of_objects: Vec<Value>) -> Result<Vec<Value>, ApiError> {
    let Some((own, node)) = &call.api.inner.node else { return Err(status::unknown_path()) };
    if of_objects.is_empty() {
        return Ok(Vec::new());
    }
    let rates = call.api.measured.rates(node.as_ref()).await.ok_or_else(|| {
        let mut error = ApiError::new(503, "ServiceUnavailable", "the node agent is not ready");
        error.retry_after = Some(1);
        error
    })?;
    let now = call.api.now();
    let text =
        |object: &Value, field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    if of.plural == "nodes" {
        let nodes = of_objects.iter().filter(|node| text(node, "name") == *own);
        return Ok(nodes.filter_map(|of| Some(node_metrics::node(of, rates.node.as_ref()?, now))).collect());
    }
    let by_name: BTreeMap<(String, String), &PodRate> =
        rates.pods.iter().map(|pod| ((pod.namespace.clone(), pod.name.clone()), pod)).collect();
    let measured = of_objects.iter().filter_map(|pod| {
        let rate = by_name.get(&(text(pod, "namespace"), text(pod, "name")))?;
        node_metrics::pod(pod, rate, now)
    });
    Ok(measured.collect())
}

/// A list in the form that was agreed on.
fn list(call: &Call, mut objects: Vec<Value>) -> Result<Response<Body>, ApiError> {
    let resource = call.resource;
    let whole = match call.accepted.form {
        Form::Table(version) => {
            let options = tables::options(&call.info.query)?;
            tables::table(resource, &objects, &options, version, call.api.now())
        }
        Form::Metadata(version) | Form::MetadataList(version) => {
            let items: Vec<Value> =
                objects.iter_mut().map(|object| encode::metadata_only(object, version)).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": version, "metadata": {}, "items": items})
        }
        Form::Whole => {
            for fields in objects.iter_mut().filter_map(Value::as_object_mut) {
                fields.remove("kind");
                fields.remove("apiVersion");
            }
            let kind = format!("{}List", resource.kind);
            json!({"kind": kind, "apiVersion": resource.api_version(), "metadata": {}, "items": objects})
        }
    };
    Ok(respond::value(200, &whole, call.accepted))
}
