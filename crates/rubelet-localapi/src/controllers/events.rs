//! What controllers tell people: Events, each said once until something else is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rubelet_apimachinery::strategy::pods::schedule::SCHEDULER;
use serde_json::{Value, json};
use tracing::debug;

use super::client::Client;
use super::{core, text};

/// How an Event is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// How many objects are remembered by what was last said of them.
const REMEMBERED: usize = 512;

/// Tells Events in a controller's name, in the form in which it does so on a cluster: the scheduler says when to the
/// microsecond (`events.k8s.io`), others how often and when last. Clones share what they have told.
#[derive(Clone)]
pub(crate) struct Recorder {
    client: Client,
    component: &'static str,
    told: Arc<Mutex<BTreeMap<String, String>>>,
    number: Arc<AtomicU32>,
}

impl Recorder {
    pub(crate) fn new(client: Client, component: &'static str) -> Self {
        Self { client, component, told: Arc::default(), number: Arc::default() }
    }

    /// Tells an Event about `subject`, unless it is what was told of it last. One that cannot be written is lost: it
    /// matters less than what it is about.
    pub(crate) async fn tell(&self, subject: &Value, kind: Kind, reason: &str, message: &str) {
        let uid = text(subject, &["metadata", "uid"]).to_owned();
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let line = format!("{reason}: {message}");
            if told.get(&uid) == Some(&line) {
                return;
            }
            if told.len() >= REMEMBERED {
                told.pop_first();
            }
            told.insert(uid.clone(), line);
        }
        let namespace = match text(subject, &["metadata", "namespace"]) {
            "" => "default",
            namespace => namespace,
        };
        let name = text(subject, &["metadata", "name"]);
        let now = self.client.api().now();
        // Names that begin with the time are listed in its order; the number tells what is said at once apart.
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let mut event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{name}.{:x}", now.as_nanosecond() + i128::from(number)), "namespace": namespace},
            "involvedObject": {
                "apiVersion": subject["apiVersion"], "kind": subject["kind"], "name": name,
                "namespace": subject["metadata"]["namespace"], "uid": uid,
                "resourceVersion": subject["metadata"]["resourceVersion"],
            },
            "reason": reason, "message": message,
            "type": if kind == Kind::Normal { "Normal" } else { "Warning" },
            "reportingComponent": self.component,
        });
        if self.component == SCHEDULER {
            event["eventTime"] = json!(format!("{now:.6}"));
            event["action"] = json!(if kind == Kind::Normal { "Binding" } else { "Scheduling" });
            event["reportingInstance"] = json!(self.component);
        } else {
            let now = self.client.api().time_text();
            event["source"] = json!({"component": self.component});
            event["firstTimestamp"] = json!(now);
            event["lastTimestamp"] = json!(now);
            event["count"] = json!(1);
        }
        if let Err(problem) = self.client.create(core("events"), namespace, &event).await {
            debug!("an event about {name} is lost: {problem}");
        }
    }
}
