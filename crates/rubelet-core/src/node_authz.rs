//! What a request to the kubelet API is to the authorizer: a verb on a subresource of this node.
//!
//! Pure; asked by the server's gate before each request. Which subresource grants what is upstream's table
//! (`GetRequestAttributes`, with `KubeletFineGrainedAuthz`, which is locked on).

/// What has to be allowed: the verb on any one of the subresources of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeAccess {
    /// The API's verb; empty for methods that have none, which only a rule for all verbs (`*`) allows.
    pub verb: &'static str,
    /// Subresources of `nodes`, the narrowest first; the first that is allowed opens the door.
    pub subresources: &'static [&'static str],
}

/// Paths with a subresource of their own, each for itself and for what is below. Everything else is `proxy`.
const TABLE: [(&str, &[&str]); 10] = [
    ("/pods", &["pods", "proxy"]),
    ("/healthz", &["healthz", "proxy"]),
    ("/configz", &["configz", "proxy"]),
    ("/runningpods", &["pods", "proxy"]),
    ("/stats", &["stats"]),
    ("/metrics", &["metrics"]),
    ("/logs", &["log"]),
    ("/checkpoint", &["checkpoint"]),
    ("/statusz", &["statusz"]),
    ("/flagz", &["configz"]),
];

/// What a request needs. `path` is the decoded path; `method` is as sent, upper and lower case differ.
pub fn access(method: &str, path: &str) -> NodeAccess {
    let verb = match method {
        "POST" => "create",
        "GET" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    };
    let subresources = TABLE
        .iter()
        .find(|(prefix, _)| is_below(path, prefix))
        .map_or(&["proxy"] as &[&str], |(_, subresources)| subresources);
    NodeAccess { verb, subresources }
}

/// Whether `path` is `prefix` or below it; a slash at the end of the prefix does not matter.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix.strip_suffix('/').unwrap_or(prefix))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn below_is_by_whole_segments() {
        let check =
            |path: &str, prefix: &str, expected: bool| assert_eq!(is_below(path, prefix), expected, "{path}");
        for same in ["", "foo", "/foo", "/foo/", "/foo/bar"] {
            check(same, same, true);
        }
        for path in ["/foo", "/foo/", "/foo/bar"] {
            check(path, "/", true);
            check(path, "/foo", true);
        }
        check("/foo", "/bar", false);
        check("/foo", "/foobar", false);
        check("/foobar", "/foo", false);
    }

    #[test]
    fn each_endpoint_has_upstreams_subresources_in_order() {
        let cases: &[(&str, &[&str])] = &[
            ("/attach/{podNamespace}/{podID}/{containerName}", &["proxy"]),
            ("/attach/{podNamespace}/{podID}/{uid}/{containerName}", &["proxy"]),
            ("/checkpoint/{podNamespace}/{podID}/{containerName}", &["checkpoint"]),
            ("/configz", &["configz", "proxy"]),
            ("/flagz", &["configz"]),
            ("/statusz", &["statusz"]),
            ("/containerLogs/{podNamespace}/{podID}/{containerName}", &["proxy"]),
            ("/debug/flags/v", &["proxy"]),
            ("/debug/pprof/{subpath:*}", &["proxy"]),
            ("/exec/{podNamespace}/{podID}/{containerName}", &["proxy"]),
            ("/exec/{podNamespace}/{podID}/{uid}/{containerName}", &["proxy"]),
            ("/healthz", &["healthz", "proxy"]),
            ("/healthz/log", &["healthz", "proxy"]),
            ("/healthz/ping", &["healthz", "proxy"]),
            ("/healthz/syncloop", &["healthz", "proxy"]),
            ("/logs/", &["log"]),
            ("/logs/{logpath:*}", &["log"]),
            ("/metrics", &["metrics"]),
            ("/metrics/slis", &["metrics"]),
            ("/metrics/cadvisor", &["metrics"]),
            ("/metrics/probes", &["metrics"]),
            ("/metrics/resource", &["metrics"]),
            ("/pods", &["pods", "proxy"]),
            ("/pods/", &["pods", "proxy"]),
            ("/portForward/{podNamespace}/{podID}", &["proxy"]),
            ("/portForward/{podNamespace}/{podID}/{uid}", &["proxy"]),
            ("/run/{podNamespace}/{podID}/{containerName}", &["proxy"]),
            ("/run/{podNamespace}/{podID}/{uid}/{containerName}", &["proxy"]),
            ("/runningpods/", &["pods", "proxy"]),
            ("/runningpods", &["pods", "proxy"]),
            ("/stats/", &["stats"]),
            ("/stats/summary", &["stats"]),
            // What only looks alike, and what there is not.
            ("/podsecrets", &["proxy"]),
            ("/runningPods/", &["proxy"]),
            ("/Pods", &["proxy"]),
            ("/x/pods", &["proxy"]),
            ("//pods", &["proxy"]),
            ("/metricsx", &["proxy"]),
            ("/", &["proxy"]),
            ("", &["proxy"]),
        ];
        for (path, subresources) in cases {
            for (method, verb) in [
                ("POST", "create"),
                ("GET", "get"),
                ("PUT", "update"),
                ("PATCH", "patch"),
                ("DELETE", "delete"),
                ("HEAD", ""),
                ("OPTIONS", ""),
                ("get", ""),
            ] {
                assert_eq!(access(method, path), NodeAccess { verb, subresources }, "{method} {path}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_way_into_containers_is_never_cheap(
            way in prop::sample::select(vec!["exec", "attach", "run", "portForward", "containerLogs", "debug"]),
            rest in "(/[a-z.]{0,8}){0,4}",
        ) {
            prop_assert_eq!(access("POST", &format!("/{way}{rest}")).subresources, ["proxy"]);
        }

        #[test]
        fn any_path_needs_something(method in "\\PC{0,8}", path in "\\PC{0,40}") {
            let access = access(&method, &path);
            prop_assert!(!access.subresources.is_empty());
            // Whoever may proxy to a node may see its pods, health and settings too.
            prop_assert!(access.subresources.len() == 1 || access.subresources.ends_with(&["proxy"]));
        }
    }
}
