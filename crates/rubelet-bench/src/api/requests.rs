//! What the agent asked of the API server: requests as they were answered, and the arithmetic over them.
//!
//! Pure; the requests come from `cluster`. Called by the plan of the control plane's part and by its report.

use std::collections::BTreeMap;

use rubelet_testkit::fake_api::RecordedRequest;
use serde_json::Value;

/// How a pod's status is written.
pub(crate) const STATUS_WRITE: &str = "patch pods/status";
/// How a pod whose containers are gone is taken away.
const LAST_WORD: &str = "delete pods";

/// One request, as much of it as is looked at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    /// When the server had carried it out, seconds since 1970: from then on everyone sees what it changed.
    pub(crate) at: f64,
    /// `verb resource/subresource`.
    pub(crate) kind: String,
    /// The object's name; empty without one.
    pub(crate) name: String,
    /// The HTTP code.
    pub(crate) code: u16,
    /// Bytes of both bodies; what a watch streams is not in it.
    pub(crate) bytes: usize,
    /// Whether it says of its object that it is Ready.
    pub(crate) says_ready: bool,
}

impl Request {
    /// What the server recorded of a request.
    pub(crate) fn of(record: &RecordedRequest) -> Self {
        Self {
            at: record.at.as_nanosecond() as f64 / 1e9,
            kind: record.summary(),
            name: record.request.name.clone(),
            code: record.code,
            bytes: record.body.len() + record.bytes,
            says_ready: matches!(record.request.verb, "create" | "patch" | "update")
                && says_ready(&record.json()),
        }
    }

    fn succeeded(&self) -> bool {
        (200..300).contains(&self.code)
    }
}

/// Whether an object, or the patch of one, has a condition Ready that is true.
fn says_ready(body: &Value) -> bool {
    let conditions = body["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// When a node was first said to be Ready.
pub(crate) fn node_ready(requests: &[Request]) -> Option<f64> {
    let ready = |r: &&Request| r.says_ready && r.succeeded() && r.kind.contains(" nodes");
    requests.iter().find(ready).map(|r| r.at)
}

/// When each pod was first said to be Ready, by its name.
pub(crate) fn pods_ready(requests: &[Request]) -> BTreeMap<&str, f64> {
    first(requests, |r| r.kind == STATUS_WRITE && r.says_ready)
}

/// When each pod was taken away for good, by its name.
pub(crate) fn pods_gone(requests: &[Request]) -> BTreeMap<&str, f64> {
    first(requests, |r| r.kind == LAST_WORD)
}

fn first(requests: &[Request], wanted: impl Fn(&Request) -> bool) -> BTreeMap<&str, f64> {
    let mut times = BTreeMap::new();
    for request in requests.iter().filter(|r| r.succeeded() && wanted(r)) {
        times.entry(request.name.as_str()).or_insert(request.at);
    }
    times
}

/// How often the status of each pod was written up to and with the write that said Ready.
pub(crate) fn writes_until_ready(requests: &[Request]) -> Vec<usize> {
    let ready = pods_ready(requests);
    let writes = |(name, at): (&&str, &f64)| {
        let is_write = |r: &&Request| r.kind == STATUS_WRITE && r.name == **name && r.at <= *at;
        requests.iter().filter(is_write).count()
    };
    ready.iter().map(writes).collect()
}

/// Requests of some time, counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    /// How many, by `verb resource/subresource`.
    pub(crate) by_kind: BTreeMap<String, usize>,
    /// Bytes of their bodies.
    pub(crate) bytes: usize,
    /// Bytes on the agent's connections in both directions, encrypted, watches included. Unknown without `ss`.
    pub(crate) wire: Option<u64>,
    /// How many were answered with an error.
    pub(crate) failed: usize,
}

impl Tally {
    /// Counts requests.
    pub(crate) fn of(requests: &[Request], wire: Option<u64>) -> Self {
        let mut by_kind = BTreeMap::new();
        for request in requests {
            *by_kind.entry(request.kind.clone()).or_default() += 1;
        }
        Self {
            by_kind,
            bytes: requests.iter().map(|r| r.bytes).sum(),
            wire,
            failed: requests.iter().filter(|r| !r.succeeded()).count(),
        }
    }

    /// How many in all.
    pub(crate) fn total(&self) -> usize {
        self.by_kind.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(at: f64, kind: &str, name: &str, says_ready: bool) -> Request {
        let (kind, name) = (kind.to_owned(), name.to_owned());
        Request { at, kind, name, code: 200, bytes: 10, says_ready }
    }

    #[test]
    fn only_a_true_condition_says_ready() {
        let body =
            |kind: &str, status: &str| json!({"status": {"conditions": [{"type": kind, "status": status}]}});
        assert!(says_ready(&body("Ready", "True")));
        assert!(!says_ready(&body("Ready", "False")));
        assert!(!says_ready(&body("ContainersReady", "True")));
        assert!(!says_ready(&Value::Null));
    }

    #[test]
    fn the_first_success_counts() {
        let mut refused = request(1.0, STATUS_WRITE, "a", true);
        refused.code = 409;
        let requests = [
            refused,
            request(2.0, STATUS_WRITE, "a", false),
            request(3.0, STATUS_WRITE, "a", true),
            request(4.0, STATUS_WRITE, "a", true),
            request(5.0, LAST_WORD, "a", false),
            request(6.0, "create nodes", "n", true),
        ];
        assert_eq!(pods_ready(&requests), BTreeMap::from([("a", 3.0)]));
        assert_eq!(pods_gone(&requests), BTreeMap::from([("a", 5.0)]));
        assert_eq!(node_ready(&requests), Some(6.0));
        // What was refused was written too, as far as the server's work goes.
        assert_eq!(writes_until_ready(&requests), [3]);
    }

    #[test]
    fn a_tally_counts_by_kind_and_errors() {
        let mut lost = request(1.0, "get nodes", "n", false);
        lost.code = 0;
        let tally = Tally::of(&[lost.clone(), lost, request(2.0, "create events", "", false)], None);
        assert_eq!(tally.by_kind, BTreeMap::from([("create events".into(), 1), ("get nodes".into(), 2)]));
        assert_eq!((tally.total(), tally.bytes, tally.failed), (3, 30, 2));
    }
}
