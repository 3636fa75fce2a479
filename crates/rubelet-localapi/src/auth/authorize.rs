//! Who may do what on a node of its own: the owner everything, the node agent its work, service accounts what the owner
//! says. There is no RBAC: roles are objects of a cluster.
//!
//! Pure; asked by the engine before each request and by the reviews.

use rubelet_apimachinery::User;
use rubelet_apimachinery::user::{AUTHENTICATED, MASTERS, NODES, SERVICE_ACCOUNTS};

/// What a request wants to do, as `SubjectAccessReview` says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; HTTP's for other paths.
    pub verb: String,
    /// The API group.
    pub group: String,
    /// The resource; empty for paths that are none.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The path, when there is no resource.
    pub path: String,
    /// The field selector of a list, watch or deletecollection, as the client says it.
    pub field_selector: String,
}

/// What service accounts may do (`--service-account-access`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServiceAccountAccess {
    /// Learn who they are and what the server serves.
    None,
    /// Also read their own namespace, without its Secrets.
    #[default]
    View,
    /// Everything, as the owner does. A pod with it owns the machine.
    Admin,
}

/// The rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// What service accounts may do.
    pub service_accounts: ServiceAccountAccess,
}

/// What everyone may read who has proved who they are (upstream's `system:discovery` and
/// `system:public-info-viewer`).
const PUBLIC_PATHS: [&str; 16] = [
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/healthz/*",
    "/livez",
    "/livez/*",
    "/readyz",
    "/readyz/*",
    "/version",
    "/version/",
    "/openapi/*",
    "/.well-known/openid-configuration",
    "/openid/v1/jwks",
    "/openid/v1/jwks/",
];

impl Rules {
    /// Whether the user may, and why not.
    ///
    /// # Errors
    /// Why not, for people; never empty.
    pub fn allow(self, user: &User, wanted: &Attributes) -> Result<(), String> {
        if user.is_in(MASTERS) || user.is_in(NODES) {
            return Ok(());
        }
        if user.is_in(AUTHENTICATED) && is_for_everyone(wanted) {
            return Ok(());
        }
        let Some(own) = own_namespace(user) else {
            return Err(
                "this node's local API knows only its owner, its node agent and service accounts".to_owned()
            );
        };
        match self.service_accounts {
            ServiceAccountAccess::Admin => Ok(()),
            ServiceAccountAccess::View
                if !wanted.resource.is_empty() && wanted.namespace == own && is_view(wanted) =>
            {
                Ok(())
            }
            ServiceAccountAccess::View => {
                Err("service accounts may only read their own namespace, without its secrets \
                 (rubelet local --service-account-access)"
                    .to_owned())
            }
            ServiceAccountAccess::None => {
                Err("service accounts have no access (rubelet local --service-account-access)".to_owned())
            }
        }
    }
}

fn is_for_everyone(wanted: &Attributes) -> bool {
    if wanted.resource.is_empty() {
        return matches!(wanted.verb.as_str(), "get" | "head")
            && PUBLIC_PATHS.iter().any(|p| is_below(p, &wanted.path));
    }
    let own_reviews = match wanted.group.as_str() {
        "authorization.k8s.io" => {
            matches!(wanted.resource.as_str(), "selfsubjectaccessreviews" | "selfsubjectrulesreviews")
        }
        "authentication.k8s.io" => wanted.resource == "selfsubjectreviews",
        _ => false,
    };
    own_reviews && wanted.verb == "create"
}

fn is_below(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == pattern,
    }
}

fn own_namespace(user: &User) -> Option<&str> {
    user.groups.iter().find_map(|g| g.strip_prefix(SERVICE_ACCOUNTS)?.strip_prefix(':'))
}

/// Reading, of what the built-in role `view` may read.
fn is_view(wanted: &Attributes) -> bool {
    matches!(wanted.verb.as_str(), "get" | "list" | "watch")
        && wanted.resource != "secrets"
        && matches!(wanted.subresource.as_str(), "" | "status" | "log")
}

/// What the user may do, as `SelfSubjectRulesReview` lists it.
pub fn rules_of(
    rules: Rules,
    user: &User,
    namespace: &str,
) -> (Vec<serde_json::Value>, Vec<serde_json::Value>) {
    use serde_json::json;
    let everything = || vec![json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})];
    let all_paths = || vec![json!({"verbs": ["*"], "nonResourceURLs": ["*"]})];
    let own = own_namespace(user);
    if user.is_in(MASTERS)
        || user.is_in(NODES)
        || own.is_some() && rules.service_accounts == ServiceAccountAccess::Admin
    {
        return (everything(), all_paths());
    }
    let mut resources = vec![
        json!({"verbs": ["create"], "apiGroups": ["authorization.k8s.io"],
               "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]}),
        json!({"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]}),
    ];
    if own == Some(namespace) && rules.service_accounts == ServiceAccountAccess::View {
        let mut readable: Vec<String> = rubelet_apimachinery::kinds::all()
            .iter()
            .filter(|r| r.namespaced && r.plural != "secrets" && r.verbs.contains(&"list"))
            .map(|r| r.plural.to_owned())
            .collect();
        readable.extend(["pods/log".to_owned(), "pods/status".to_owned()]);
        readable.sort();
        readable.dedup();
        resources.push(json!({"verbs": ["get", "list", "watch"], "apiGroups": ["*"], "resources": readable}));
    }
    (resources, vec![json!({"verbs": ["get"], "nonResourceURLs": PUBLIC_PATHS})])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> User {
        User::new("system:serviceaccount:ns:sa", &[SERVICE_ACCOUNTS, "system:serviceaccounts:ns"])
    }

    fn on(verb: &str, namespace: &str, resource: &str, subresource: &str) -> Attributes {
        Attributes {
            verb: verb.to_owned(),
            namespace: namespace.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            ..Attributes::default()
        }
    }

    fn path(path: &str) -> Attributes {
        Attributes { verb: "get".to_owned(), path: path.to_owned(), ..Attributes::default() }
    }

    #[test]
    fn a_service_account_may_what_the_owner_says() {
        use ServiceAccountAccess::{Admin, None, View};
        let check = |wanted: Attributes, expected: [bool; 3]| {
            let is = [None, View, Admin]
                .map(|service_accounts| Rules { service_accounts }.allow(&account(), &wanted).is_ok());
            assert_eq!(is, expected, "{wanted:?}");
        };
        check(on("list", "ns", "pods", ""), [false, true, true]);
        check(on("get", "ns", "pods", "log"), [false, true, true]);
        check(on("get", "ns", "pods", "exec"), [false, false, true]);
        check(on("create", "ns", "pods", "exec"), [false, false, true]);
        check(on("list", "ns", "secrets", ""), [false, false, true]);
        check(on("list", "other", "pods", ""), [false, false, true]);
        check(on("list", "", "pods", ""), [false, false, true]);
        check(on("list", "", "nodes", ""), [false, false, true]);
        check(on("create", "ns", "configmaps", ""), [false, false, true]);
        check(path("/api"), [true; 3]);
        check(path("/apis/apps/v1"), [true; 3]);
        check(path("/readyz/ping"), [true; 3]);
        check(path("/openapi/v2"), [true; 3]);
        check(path("/metrics"), [false, false, true]);
        check(path("/apiary"), [false, false, true]);
    }

    #[test]
    fn the_owner_and_the_node_may_everything_and_strangers_nothing() {
        let anything = on("delete", "kube-system", "secrets", "");
        let rules = Rules::default();
        rules.allow(&User::admin(), &anything).unwrap();
        rules.allow(&User::node("n"), &anything).unwrap();
        let stranger = User::new("jane", &["developers"]);
        assert!(rules.allow(&stranger, &anything).unwrap_err().contains("owner"));
        rules.allow(&stranger, &path("/version")).unwrap();
        let nobody = User { name: "system:anonymous".to_owned(), ..User::default() };
        assert!(rules.allow(&nobody, &path("/version")).is_err());
    }
}
