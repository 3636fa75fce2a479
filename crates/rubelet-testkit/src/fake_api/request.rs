//! Who asks for what, as faults, records and tests see it.
//!
//! The engine's own reading of a request, under the names that tests use.

use std::collections::BTreeMap;

use http::Method;
use rubelet_apimachinery::user::{AUTHENTICATED, MASTERS, NODES, SERVICE_ACCOUNTS};
use rubelet_localapi::engine::RequestInfo;

/// Who asks, as authentication found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user name, such as `system:node:n1`.
    pub name: String,
    /// The groups besides `system:authenticated`.
    pub groups: Vec<String>,
}

/// The group of those who have shown nothing.
const UNAUTHENTICATED: &str = "system:unauthenticated";

impl User {
    /// A user with the groups its name implies: nodes, bootstrap tokens, service accounts; `admin` may do everything.
    pub fn named(name: &str) -> Self {
        let groups: Vec<String> = if name.starts_with("system:node:") {
            vec![NODES.into()]
        } else if name.starts_with("system:bootstrap:") {
            vec!["system:bootstrappers".into(), "system:bootstrappers:kubeadm:default-node-token".into()]
        } else if let Some(account) = name.strip_prefix("system:serviceaccount:") {
            let namespace = account.split(':').next().unwrap_or_default();
            vec![SERVICE_ACCOUNTS.into(), format!("{SERVICE_ACCOUNTS}:{namespace}")]
        } else if name == "admin" {
            vec![MASTERS.into()]
        } else if name == "system:anonymous" {
            vec![UNAUTHENTICATED.into()]
        } else {
            vec![]
        };
        Self { name: name.to_owned(), groups }
    }

    /// The user as the engine knows one.
    pub(crate) fn to_engine(&self) -> rubelet_apimachinery::User {
        let mut groups = self.groups.clone();
        if !groups.iter().any(|group| group == UNAUTHENTICATED || group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        rubelet_apimachinery::User { name: self.name.clone(), groups, ..Default::default() }
    }
}

impl From<rubelet_apimachinery::User> for User {
    fn from(user: rubelet_apimachinery::User) -> Self {
        Self { name: user.name, groups: user.groups }
    }
}

/// The node that a user is, if it is one in name and group.
pub(crate) fn node_of(user: &rubelet_apimachinery::User) -> Option<&str> {
    user.name.strip_prefix("system:node:").filter(|_| user.is_in(NODES))
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
}

impl ApiRequest {
    /// Reads method and URI. What cannot be read has a path and nothing else.
    pub(crate) fn parse(user: &User, method: &Method, uri: &http::Uri) -> Self {
        let info = RequestInfo::parse(method, uri).unwrap_or_default();
        // A namespace is no object of a namespace.
        let namespace = if info.resource == "namespaces" { String::new() } else { info.namespace };
        Self {
            user: user.name.clone(),
            verb: info.verb,
            group: info.group,
            resource: info.resource,
            subresource: info.subresource,
            namespace,
            name: info.name,
            path: uri.path().to_owned(),
            query: info.query.pairs().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        }
    }
}
