//! What controllers tell people: Events, each said once until something else is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

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

/// Tells Events in a controller's name. Clones share what they have told.
#[derive(Clone)]
pub(crate) struct Recorder {
    client: Client,
    component: &'static str,
    told: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Recorder {
    pub(crate) fn new(client: Client, component: &'static str) -> Self {
        Self { client, component, told: Arc::default() }
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
        let now = self.client.api().time_text();
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"generateName": format!("{name}."), "namespace": namespace},
            "involvedObject": {
                "apiVersion": subject["apiVersion"], "kind": subject["kind"], "name": name,
                "namespace": subject["metadata"]["namespace"], "uid": uid,
                "resourceVersion": subject["metadata"]["resourceVersion"],
            },
            "reason": reason, "message": message,
            "type": if kind == Kind::Normal { "Normal" } else { "Warning" },
            "source": {"component": self.component}, "reportingComponent": self.component, "reportingInstance": "",
            "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        });
        if let Err(problem) = self.client.create(core("events"), namespace, &event).await {
            debug!("an event about {name} is lost: {problem}");
        }
    }
}
