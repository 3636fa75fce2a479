//! What a server tells clients of itself: its version, its groups, and the resources in them, in the form of one
//! document a group version and in the aggregated form that kubectl takes since 1.26.
//!
//! Pure functions over the registry ([`crate::kinds`]); the engine answers `/version`, `/api` and `/apis` with them.
//! Kinds that need a cluster, and those that this server could serve and does not, are listed with `create` alone, so
//! that clients know the kind and the server's answer can say where it can be had. kubectl's drain also takes the group
//! `policy` for the sign that pods can be evicted.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::kinds::{self, Resource, Served, Subresource};

/// Whether a kind that not every server serves ([`Served::OnRequest`], [`Served::Measured`]) is served by this one.
pub type Switched<'a> = &'a dyn Fn(&Resource) -> bool;

/// Which paths an aggregated document is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// `/api`: the core group.
    Core,
    /// `/apis`: all other groups.
    Groups,
}

/// The version of an aggregated document (`apidiscovery.k8s.io`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregated {
    /// `v2`, since Kubernetes 1.30.
    V2,
    /// `v2beta1`, since Kubernetes 1.26.
    V2Beta1,
}

impl Aggregated {
    /// The `Content-Type` of the answer; clients look at all of it.
    pub fn content_type(self) -> &'static str {
        match self {
            Aggregated::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Aggregated::V2Beta1 => {
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
            }
        }
    }

    /// The form that an `Accept` header asks `/api` and `/apis` for: the first of its entries that can be had. `None` is
    /// the plain form ([`core_versions`], [`groups`]).
    pub fn accepted(accept: &str) -> Option<Aggregated> {
        for entry in accept.split(',') {
            let mut words = entry.split(';').map(str::trim);
            if !matches!(words.next(), Some("application/json" | "application/*" | "*/*")) {
                continue;
            }
            let (mut group, mut version, mut form) = (None, None, None);
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                match key.trim() {
                    "g" => group = Some(value.trim()),
                    "v" => version = Some(value.trim()),
                    "as" => form = Some(value.trim()),
                    _ => {}
                }
            }
            match (group, version, form) {
                (None, None, None) => return None,
                (Some("apidiscovery.k8s.io"), Some("v2"), Some("APIGroupDiscoveryList")) => {
                    return Some(Aggregated::V2);
                }
                (Some("apidiscovery.k8s.io"), Some("v2beta1"), Some("APIGroupDiscoveryList")) => {
                    return Some(Aggregated::V2Beta1);
                }
                _ => {}
            }
        }
        None
    }

    fn api_version(self) -> &'static str {
        match self {
            Aggregated::V2 => "apidiscovery.k8s.io/v2",
            Aggregated::V2Beta1 => "apidiscovery.k8s.io/v2beta1",
        }
    }
}

/// The verbs and subresources that a resource is listed with.
fn offered(
    resource: &'static Resource,
    on: Switched<'_>,
) -> (&'static [&'static str], &'static [Subresource]) {
    if matches!(resource.served, Served::OnRequest | Served::Measured) && !on(resource) {
        return (&["create"], &[]);
    }
    (resource.verbs, resource.subresources)
}

/// Group and version of all groups but the core, in the registry's order.
fn versions() -> Vec<(&'static str, &'static str)> {
    let mut seen = BTreeSet::new();
    let named = kinds::all().iter().filter(|r| !r.group.is_empty());
    named.map(|r| (r.group, r.version)).filter(|version| seen.insert(*version)).collect()
}

/// Those of one group version, sorted by name.
fn in_version(group: &str, version: &str) -> Vec<&'static Resource> {
    let mut resources: Vec<_> =
        kinds::all().iter().filter(|r| r.group == group && r.version == version).collect();
    resources.sort_by_key(|r| r.plural);
    resources
}

/// `/version`, for a version such as `v1.36.2+rubelet.0.1.0`.
pub fn version_info(git_version: &str) -> Value {
    let mut numbers = git_version.trim_start_matches('v').split(['.', '+', '-']);
    let major = numbers.next().unwrap_or_default();
    let minor = numbers.next().unwrap_or_default();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": minor,
        "gitVersion": git_version,
        "gitCommit": "",
        "gitTreeState": "",
        // Clients show it and some parse it; builds here are reproducible, so that none has a date.
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{architecture}"),
    })
}

/// `/api` in the plain form (`APIVersions`); `address` is the host and port clients reach the server at.
pub fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis` in the plain form (`APIGroupList`).
pub fn groups() -> Value {
    let groups: Vec<Value> =
        versions().into_iter().map(|(group, version)| say_group(group, version)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>` (`APIGroup`); none for a group that is not served.
pub fn group(name: &str) -> Option<Value> {
    let (group, version) = versions().into_iter().find(|(group, _)| *group == name)?;
    let mut said = say_group(group, version);
    said["kind"] = "APIGroup".into();
    said["apiVersion"] = "v1".into();
    Some(said)
}

fn say_group(group: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({"name": group, "versions": [version], "preferredVersion": version})
}

/// `/api/v1` and `/apis/<group>/<version>` (`APIResourceList`); none for a version that is not served.
pub fn resources(group: &str, version: &str, on: Switched<'_>) -> Option<Value> {
    let resources = in_version(group, version);
    let group_version = resources.first()?.api_version();
    let mut rows = Vec::new();
    for resource in resources {
        let (verbs, subresources) = offered(resource, on);
        let mut row = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": verbs,
        });
        also(&mut row, resource);
        rows.push(row);
        for sub in subresources {
            let mut row = json!({
                "name": format!("{}/{}", resource.plural, sub.name),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": sub.kind,
                "verbs": sub.verbs,
            });
            if sub.api_version != group_version {
                let (group, version) = split(sub);
                row["group"] = group.into();
                row["version"] = version.into();
            }
            rows.push(row);
        }
    }
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": rows}),
    )
}

/// Short names and categories, where there are any.
fn also(row: &mut Value, resource: &Resource) {
    if !resource.short_names.is_empty() {
        row["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        row["categories"] = json!(resource.categories);
    }
}

fn split(sub: &Subresource) -> (&'static str, &'static str) {
    sub.api_version.split_once('/').unwrap_or(("", sub.api_version))
}

/// `/api` and `/apis` in the aggregated form (`APIGroupDiscoveryList`).
pub fn aggregated(root: Root, form: Aggregated, on: Switched<'_>) -> Value {
    let versions = match root {
        Root::Core => vec![("", "v1")],
        Root::Groups => versions(),
    };
    let items: Vec<Value> = versions
        .into_iter()
        .map(|(group, version)| {
            let resources: Vec<Value> =
                in_version(group, version).into_iter().map(|resource| say_resource(resource, on)).collect();
            let mut metadata = Map::new();
            if !group.is_empty() {
                metadata.insert("name".to_owned(), group.into());
            }
            json!({
                "metadata": metadata,
                "versions": [{"version": version, "resources": resources, "freshness": "Current"}],
            })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": form.api_version(),
        "metadata": {},
        "items": items,
    })
}

fn say_resource(resource: &'static Resource, on: Switched<'_>) -> Value {
    let Resource { group, version, kind, .. } = resource;
    let (verbs, subresources) = offered(resource, on);
    let mut said = json!({
        "resource": resource.plural,
        "responseKind": {"group": group, "version": version, "kind": kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": verbs,
    });
    also(&mut said, resource);
    if !subresources.is_empty() {
        let subresources: Vec<Value> = subresources
            .iter()
            .map(|sub| {
                let (group, version) = split(sub);
                json!({
                    "subresource": sub.name,
                    "responseKind": {"group": group, "version": version, "kind": sub.kind},
                    "verbs": sub.verbs,
                })
            })
            .collect();
        said["subresources"] = subresources.into();
    }
    said
}

/// `/`: the paths that a client can go on from.
pub fn paths() -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for (group, version) in versions() {
        paths.push(format!("/apis/{group}"));
        paths.push(format!("/apis/{group}/{version}"));
    }
    let others = [
        "/.well-known/openid-configuration",
        "/healthz",
        "/livez",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ];
    paths.extend(others.map(str::to_owned));
    paths.sort();
    json!({"paths": paths})
}

#[cfg(test)]
mod tests;
