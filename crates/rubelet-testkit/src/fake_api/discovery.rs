//! Paths that name no resource: health, version and the lists of what is served.

use serde_json::{Value, json};

use super::handle::Reply;
use super::resources;
use super::status::{self, ApiError};

/// The version the fake says it has.
const GIT_VERSION: &str = "v1.36.2";

/// Answers a path without a resource.
pub(crate) fn answer(path: &str) -> Result<Reply, ApiError> {
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    Ok(match segments.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => Reply::Text("ok"),
        ["version"] => Reply::Object(
            200,
            json!({"major": "1", "minor": "36", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
                   "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux/amd64"}),
        ),
        ["api"] => Reply::Object(200, json!({"kind": "APIVersions", "versions": ["v1"]})),
        ["apis"] => Reply::Object(200, groups()),
        ["api", "v1"] => Reply::Object(200, list("", "v1")),
        ["apis", group, version] => Reply::Object(200, list(group, version)),
        _ => return Err(status::unknown_path()),
    })
}

fn groups() -> Value {
    let mut groups: Vec<(&str, &str)> =
        resources::all().iter().filter(|r| !r.group.is_empty()).map(|r| (r.group, r.version)).collect();
    groups.dedup();
    let groups: Vec<Value> = groups
        .into_iter()
        .map(|(group, version)| {
            let version = json!({"groupVersion": format!("{group}/{version}"), "version": version});
            json!({"name": group, "versions": [version], "preferredVersion": version})
        })
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn list(group: &str, version: &str) -> Value {
    let rows: Vec<Value> = resources::all()
        .iter()
        .filter(|r| r.group == group && r.version == version)
        .map(|r| {
            json!({"name": r.plural, "singularName": r.kind.to_lowercase(), "namespaced": r.namespaced,
                   "kind": r.kind, "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"]})
        })
        .collect();
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": rows})
}
