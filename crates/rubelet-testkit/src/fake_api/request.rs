//! What a request asks for, read from its method, path and query as a real server reads it.
//!
//! Parsing only; called once at the start of each request.

use std::collections::BTreeMap;

use http::Method;

use super::resources::{self, ResourceRef};

/// Who asks, as authentication found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user name, such as `system:node:n1`.
    pub name: String,
    /// The groups besides `system:authenticated`.
    pub groups: Vec<String>,
}

impl User {
    /// A user with the groups its name implies: nodes, bootstrap tokens, service accounts; `admin` may do everything.
    pub fn named(name: &str) -> Self {
        let groups: Vec<String> = if name.starts_with("system:node:") {
            vec!["system:nodes".into()]
        } else if name.starts_with("system:bootstrap:") {
            vec!["system:bootstrappers".into(), "system:bootstrappers:kubeadm:default-node-token".into()]
        } else if let Some(account) = name.strip_prefix("system:serviceaccount:") {
            let namespace = account.split(':').next().unwrap_or_default();
            vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")]
        } else if name == "admin" {
            vec!["system:masters".into()]
        } else if name == "system:anonymous" {
            vec!["system:unauthenticated".into()]
        } else {
            vec![]
        };
        Self { name: name.to_owned(), groups }
    }

    /// The node this user is, if it is one in name and group.
    pub fn node(&self) -> Option<&str> {
        let in_group = self.groups.iter().any(|g| g == "system:nodes");
        self.name.strip_prefix("system:node:").filter(|_| in_group)
    }
}

/// A request as authorization, faults and tests see it.
#[derive(Debug, Clone)]
pub struct ApiRequest {
    /// The user's name.
    pub user: String,
    /// get, list, watch, create, update, patch, delete or deletecollection; for other paths the method in lower case.
    pub verb: &'static str,
    /// API group, empty for core.
    pub group: String,
    /// Resource in the plural; empty for paths that name none.
    pub resource: String,
    /// Such as `status` or `token`; empty without one.
    pub subresource: String,
    /// Empty for cluster-wide requests.
    pub namespace: String,
    /// The object's name; for list and watch the name a field selector asks for, as in a real server.
    pub name: String,
    /// The path.
    pub path: String,
    /// Decoded query parameters.
    pub query: BTreeMap<String, String>,
    pub(crate) version: String,
}

impl ApiRequest {
    /// Reads method and URI.
    pub(crate) fn parse(user: &User, method: &Method, uri: &http::Uri) -> Self {
        let query = parse_query(uri.query().unwrap_or_default());
        let mut request = Self {
            user: user.name.clone(),
            verb: "get",
            group: String::new(),
            resource: String::new(),
            subresource: String::new(),
            namespace: String::new(),
            name: String::new(),
            path: uri.path().to_owned(),
            query,
            version: String::new(),
        };
        let segments: Vec<String> =
            uri.path().split('/').filter(|s| !s.is_empty()).map(|s| percent_decode(s, false)).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let rest = match segments.as_slice() {
            ["api", version, rest @ ..] => {
                request.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] => {
                request.group = (*group).to_owned();
                request.version = (*version).to_owned();
                rest
            }
            _ => &[],
        };
        let (namespace, rest) = match rest {
            // A namespace is itself an object; its own subresources are the only thing two segments deep.
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => ("", rest),
            ["namespaces", namespace, rest @ ..] => (*namespace, rest),
            _ => ("", rest),
        };
        request.namespace = namespace.to_owned();
        let fields = [&mut request.resource, &mut request.name, &mut request.subresource];
        for (field, value) in fields.into_iter().zip(rest) {
            (*value).clone_into(field);
        }
        if request.resource == "namespaces" && request.namespace.is_empty() {
            // The real server takes the namespace's own name for the namespace of the request as well.
            request.namespace = String::new();
        }
        request.verb = request.verb_of(method);
        if matches!(request.verb, "list" | "watch" | "deletecollection") && request.name.is_empty() {
            request.name = request.selected("metadata.name").unwrap_or_default();
        }
        request
    }

    fn verb_of(&self, method: &Method) -> &'static str {
        if self.resource.is_empty() {
            return match method.as_str() {
                "POST" => "post",
                "PUT" => "put",
                "PATCH" => "patch",
                "DELETE" => "delete",
                _ => "get",
            };
        }
        match method.as_str() {
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" if self.name.is_empty() => "deletecollection",
            "DELETE" => "delete",
            _ if self.flag("watch") => "watch",
            _ if self.name.is_empty() => "list",
            _ => "get",
        }
    }

    /// Whether a query parameter is switched on.
    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.query.get(name).map(String::as_str), Some("true" | "1"))
    }

    /// A query parameter, if given and not empty.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// The value the field selector demands of a field, when it demands exactly one.
    pub(crate) fn selected(&self, field: &str) -> Option<String> {
        self.param("fieldSelector")?.split(',').find_map(|term| {
            let (key, value) = term.split_once('=')?;
            (key == field && !key.ends_with('!')).then(|| value.trim_start_matches('=').to_owned())
        })
    }

    /// The resource, if the fake serves it.
    pub(crate) fn target(&self) -> Option<ResourceRef> {
        resources::find(&self.group, &self.version, &self.resource)
    }
}

/// Decodes a query string; of repeated parameters the last one counts.
fn parse_query(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(key, true), percent_decode(value, true))
        })
        .collect()
}

fn percent_decode(text: &str, plus_is_space: bool) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[at], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) if plus_is_space => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
