//! Who may depend on whom.
//!
//! Owns the direction between the crates of the workspace and the short list of what core may use. Never looks at
//! source code. Called by the tidy task with the output of `cargo metadata`.

use serde_json::Value;

/// What each crate may use of the workspace, in shipped code and build scripts.
const MAY_USE: [(&str, &[&str]); 17] = [
    ("rubelet-core", &[]),
    ("rubelet-config", &["rubelet-core"]),
    ("rubelet-cri", &["rubelet-core"]),
    ("rubelet-linux", &["rubelet-core"]),
    ("rubelet-apiclient", &["rubelet-core"]),
    ("rubelet-server", &["rubelet-core"]),
    ("rubelet-apimachinery", &["rubelet-core"]),
    ("rubelet-localapi", &["rubelet-core", "rubelet-apimachinery", "rubelet-server"]),
    ("rubelet-csi", &[]),
    ("rubelet-systemd", &[]),
    ("rubelet-volumes", &["rubelet-core", "rubelet-linux", "rubelet-csi"]),
    ("rubelet-plugins", &["rubelet-core", "rubelet-linux"]),
    ("rubelet-probes", &["rubelet-core", "rubelet-cri"]),
    (
        "rubelet-testkit",
        &[
            "rubelet-core",
            "rubelet-cri",
            "rubelet-csi",
            "rubelet-plugins",
            "rubelet-apimachinery",
            "rubelet-localapi",
            "rubelet-server",
        ],
    ),
    (
        "rubelet",
        &[
            "rubelet-core",
            "rubelet-config",
            "rubelet-cri",
            "rubelet-linux",
            "rubelet-apiclient",
            "rubelet-server",
            "rubelet-apimachinery",
            "rubelet-localapi",
            "rubelet-volumes",
            "rubelet-csi",
            "rubelet-plugins",
            "rubelet-probes",
            "rubelet-systemd",
        ],
    ),
    // The benchmark speaks CRI itself, to measure the floor, and is the API server of the agent, which it meets only as
    // a process.
    ("rubelet-bench", &["rubelet-core", "rubelet-cri", "rubelet-linux", "rubelet-probes", "rubelet-testkit"]),
    ("xtask", &[]),
];

/// The only crates that core may use: vocabulary, values and errors, and nothing that could do anything.
const CORE_ALLOWED: [&str; 6] = ["k8s-openapi", "serde", "serde_json", "jiff", "sha2", "thiserror"];

/// What tests may use on top.
const FOR_TESTS: &str = "rubelet-testkit";

/// The names of the workspace's crates.
pub(crate) fn members(metadata: &Value) -> Vec<String> {
    packages(metadata).filter_map(|package| package["name"].as_str().map(str::to_owned)).collect()
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

/// Every dependency that the rules do not allow, and every crate that the rules do not know.
pub(crate) fn problems(metadata: &Value) -> Vec<String> {
    let members = members(metadata);
    let mut problems = Vec::new();
    for package in packages(metadata) {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, may_use)) = MAY_USE.iter().find(|(known, _)| *known == name) else {
            problems.push(format!("crate {name} has no place in the dependency rules (xtask/src/tidy)"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let in_tests = dependency["kind"] == "dev";
            let allowed = if members.iter().any(|member| member == used) {
                may_use.contains(&used) || (in_tests && used == FOR_TESTS && name != "rubelet-core")
            } else {
                name != "rubelet-core" || in_tests || CORE_ALLOWED.contains(&used)
            };
            if !allowed {
                let tests = if in_tests { " (in its tests)" } else { "" };
                problems.push(format!("{name} must not depend on {used}{tests}"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    type Dependency<'a> = (&'a str, Option<&'a str>);

    /// `(crate, [(dependency, kind)])` in, problems out.
    fn check(crates: &[(&str, &[Dependency<'_>])], wanted: &[&str]) {
        let packages: Vec<Value> = crates
            .iter()
            .map(|(name, dependencies)| {
                let dependencies: Vec<Value> =
                    dependencies.iter().map(|(name, kind)| json!({"name": name, "kind": kind})).collect();
                json!({"name": name, "dependencies": dependencies})
            })
            .collect();
        assert_eq!(problems(&json!({"packages": packages})), wanted);
    }

    #[test]
    fn the_planned_direction_is_allowed() {
        check(
            &[
                ("rubelet-core", &[("serde", None), ("proptest", Some("dev"))]),
                ("rubelet-cri", &[("rubelet-core", None), ("tonic", None)]),
                ("rubelet-testkit", &[("rubelet-cri", None)]),
                ("rubelet", &[("rubelet-cri", None), ("rubelet-testkit", Some("dev"))]),
            ],
            &[],
        );
    }

    #[test]
    fn arrows_against_it_are_not() {
        check(
            &[
                ("rubelet-core", &[("tokio", None), ("rubelet-testkit", Some("dev"))]),
                ("rubelet-cri", &[("rubelet-linux", None), ("rubelet", Some("dev"))]),
                ("rubelet-linux", &[]),
                ("rubelet-testkit", &[]),
                ("rubelet", &[("rubelet-testkit", None)]),
            ],
            &[
                "rubelet-core must not depend on tokio",
                "rubelet-core must not depend on rubelet-testkit (in its tests)",
                "rubelet-cri must not depend on rubelet-linux",
                "rubelet-cri must not depend on rubelet (in its tests)",
                "rubelet must not depend on rubelet-testkit",
            ],
        );
    }

    #[test]
    fn a_new_crate_needs_a_place() {
        check(
            &[("rubelet-extra", &[])],
            &["crate rubelet-extra has no place in the dependency rules (xtask/src/tidy)"],
        );
    }
}
