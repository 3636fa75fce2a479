//! Who asks.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Everybody in this group may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of node agents.
pub const NODES: &str = "system:nodes";
/// The group of everyone who has proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of all service accounts; those of one namespace are in `system:serviceaccounts:<namespace>` too.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// An authenticated user, as `authentication.k8s.io`'s `UserInfo` says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The unique name, such as `system:serviceaccount:default:default`.
    pub name: String,
    /// An identifier that outlives renames; empty where there is none.
    pub uid: String,
    /// The groups, sorted as the authenticator gave them.
    pub groups: Vec<String>,
    /// What else the authenticator knows, such as the pod a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user of this name and these groups, and of [`AUTHENTICATED`].
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|&g| g.to_owned()).collect();
        if !groups.iter().any(|g| g == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// The node agent of `node`.
    pub fn node(node: &str) -> Self {
        Self::new(format!("system:node:{node}"), &[NODES])
    }

    /// The one who owns the machine.
    pub fn admin() -> Self {
        Self::new("kubernetes-admin", &[MASTERS])
    }

    /// The server's own controllers.
    pub fn controller(name: &str) -> Self {
        Self::new(format!("system:serviceaccount:kube-system:{name}"), &[MASTERS])
    }

    /// Whether the user is in `group`.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// A user as `authentication.k8s.io`'s `UserInfo` says it.
pub fn info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}
