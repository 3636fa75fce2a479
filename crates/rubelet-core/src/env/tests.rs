//! Tables of environments: container and gathered objects in, `NAME=value` lines or an error out.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn pod() -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"containers": []}}),
    )
    .unwrap()
}

fn container(json: Value) -> Container {
    let mut json = json;
    json["name"] = "app".into();
    serde_json::from_value(json).unwrap()
}

fn objects() -> EnvObjects {
    let config = [("A", "cm-a"), ("B", "cm-b")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let secret = [("A", b"s-a".to_vec()), ("RAW", vec![0xff])].map(|(k, v)| (k.to_owned(), v));
    EnvObjects {
        config_maps: BTreeMap::from([
            ("cm".to_owned(), Ok(config.into())),
            ("gone".to_owned(), Err(Missing::NotFound("configmap \"gone\" not found".into()))),
            ("down".to_owned(), Err(Missing::Failed("connection refused".into()))),
        ]),
        secrets: BTreeMap::from([("s".to_owned(), Ok(secret.into()))]),
        files: BTreeMap::from([
            (("v".to_owned(), "e.env".to_owned()), Ok("X='from file'\n".to_owned())),
            (("v".to_owned(), "bad.env".to_owned()), Ok("X=1".to_owned())),
            (("v".to_owned(), "none.env".to_owned()), Err(Missing::NotFound("no such file".into()))),
        ]),
    }
}

#[track_caller]
fn check(spec: Value, services: &[(&str, &str)], expected: Result<&[&str], &str>) {
    let services = services.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let found = make_env(&pod(), &container(spec), &objects(), &services, &DownwardFacts::default());
    match (found, expected) {
        (Ok(found), Ok(expected)) => {
            let lines: Vec<String> = found.iter().map(|v| format!("{}={}", v.name, v.value)).collect();
            assert_eq!(lines, expected);
        }
        (Err(found), Err(expected)) => assert_eq!(found.to_string(), expected),
        (found, _) => panic!("{found:?}"),
    }
}

#[test]
fn values_are_expanded_against_what_came_before() {
    check(
        json!({"env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)-$(C)-$(SVC)-$$(A)"},
            {"name": "C", "value": "3"},
            {"name": "A", "value": "$(A)2"},
            {"name": "EMPTY"},
        ]}),
        &[("SVC", "svc")],
        Ok(&["A=12", "B=1-$(C)-svc-$(A)", "C=3", "EMPTY=", "SVC=svc"]),
    );
}

#[test]
fn env_from_is_overridden_by_later_sources_and_by_env() {
    check(
        json!({"envFrom": [{"configMapRef": {"name": "cm"}}, {"prefix": "P_", "configMapRef": {"name": "cm"}}],
               "env": [{"name": "B", "value": "own $(A)"}]}),
        &[],
        Ok(&["A=cm-a", "B=own cm-a", "P_A=cm-a", "P_B=cm-b"]),
    );
}

#[test]
fn services_come_last_and_never_override() {
    check(
        json!({"env": [{"name": "HOST", "value": "mine"}]}),
        &[("HOST", "svc"), ("PORT", "1")],
        Ok(&["HOST=mine", "PORT=1"]),
    );
}

#[test]
fn keys_of_objects_and_files() {
    let from = |source: Value| json!({"env": [{"name": "V", "valueFrom": source}]});
    check(from(json!({"configMapKeyRef": {"name": "cm", "key": "A"}})), &[], Ok(&["V=cm-a"]));
    check(from(json!({"secretKeyRef": {"name": "s", "key": "A"}})), &[], Ok(&["V=s-a"]));
    check(
        from(json!({"fileKeyRef": {"volumeName": "v", "path": "e.env", "key": "X"}})),
        &[],
        Ok(&["V=from file"]),
    );
    check(from(json!({"fieldRef": {"fieldPath": "metadata.name"}})), &[], Ok(&["V=web"]));
    check(from(json!({"configMapKeyRef": {"name": "cm", "key": "Z", "optional": true}})), &[], Ok(&[]));
    check(from(json!({"configMapKeyRef": {"name": "gone", "key": "A", "optional": true}})), &[], Ok(&[]));
    check(
        from(json!({"fileKeyRef": {"volumeName": "v", "path": "e.env", "key": "Y", "optional": true}})),
        &[],
        Ok(&[]),
    );
}

#[test]
fn what_is_missing_is_named() {
    let from = |source: Value| json!({"env": [{"name": "V", "valueFrom": source}]});
    let fails = |spec, message| check(spec, &[], Err(message));
    fails(
        from(json!({"configMapKeyRef": {"name": "cm", "key": "Z"}})),
        "couldn't find key Z in ConfigMap shop/cm",
    );
    fails(from(json!({"secretKeyRef": {"name": "s", "key": "Z"}})), "couldn't find key Z in Secret shop/s");
    fails(from(json!({"configMapKeyRef": {"name": "gone", "key": "A"}})), "configmap \"gone\" not found");
    fails(
        from(json!({"configMapKeyRef": {"name": "down", "key": "A", "optional": true}})),
        "connection refused",
    );
    fails(
        from(json!({"secretKeyRef": {"name": "none", "key": "A", "optional": true}})),
        "couldn't get secret shop/none, no kubeClient defined",
    );
    fails(
        json!({"envFrom": [{"configMapRef": {"name": "none"}}]}),
        "couldn't get configMap shop/none, no kubeClient defined",
    );
    fails(
        from(json!({"secretKeyRef": {"name": "s", "key": "RAW"}})),
        "value of key RAW in Secret shop/s is not valid UTF-8 and cannot be an environment variable",
    );
    fails(
        from(json!({"fileKeyRef": {"volumeName": "x", "path": "e.env", "key": "X"}})),
        "cannot find the volume \"x\" referenced by FileKeyRef",
    );
    fails(
        from(json!({"fileKeyRef": {"volumeName": "v", "path": "bad.env", "key": "X"}})),
        "couldn't parse env file",
    );
    fails(
        from(json!({"fileKeyRef": {"volumeName": "v", "path": "none.env", "key": "X", "optional": true}})),
        "couldn't parse env file",
    );
    fails(
        from(json!({"fileKeyRef": {"volumeName": "v", "path": "e.env", "key": "Y"}})),
        "environment variable key \"Y\" not found in file \"e.env\"",
    );
    fails(from(json!({"fieldRef": {"fieldPath": "spec.x"}})), "field label not supported: spec.x");
}

#[test]
fn references_are_all_found() {
    let spec = container(json!({
        "envFrom": [{"configMapRef": {"name": "a"}}, {"secretRef": {"name": "b"}}],
        "env": [
            {"name": "1", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
            {"name": "2", "valueFrom": {"secretKeyRef": {"name": "d", "key": "k"}}},
            {"name": "3", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}}},
        ],
    }));
    let expected = EnvReferences {
        config_maps: ["a", "c"].map(str::to_owned).into(),
        secrets: ["b", "d"].map(str::to_owned).into(),
        files: [("v".to_owned(), "p".to_owned())].into(),
    };
    assert_eq!(env_references(&spec), expected);
}

fn env(pairs: &[(&str, &str)]) -> Vec<EnvVar> {
    pairs.iter().map(|(n, v)| EnvVar { name: (*n).into(), value: (*v).into() }).collect()
}

#[test]
fn command_and_args_are_expanded() {
    let spec = container(json!({"command": ["sh", "$(A)"], "args": ["$$(A)", "$(NONE)", "$(A)$(A)"]}));
    let (command, args) = expand_command(&spec, &env(&[("A", "1")]));
    assert_eq!(command, ["sh", "1"]);
    assert_eq!(args, ["$(A)", "$(NONE)", "11"]);
}

#[test]
fn sub_paths_need_every_variable() {
    let mount = |path: &str, expression: &str| VolumeMount {
        sub_path: Some(path.into()),
        sub_path_expr: Some(expression.into()),
        ..VolumeMount::default()
    };
    let env = env(&[("A", "a"), ("EMPTY", "")]);
    assert_eq!(expand_sub_path(&mount("plain/$(A)", ""), &env), Ok("plain/$(A)".into()));
    assert_eq!(expand_sub_path(&mount("", "x/$(A)"), &env), Ok("x/a".into()));
    let error = expand_sub_path(&mount("", "$(Z)/$(EMPTY)/$(A)"), &env).unwrap_err();
    assert_eq!(error.to_string(), "missing value for EMPTY, Z");
}

proptest! {
    /// Names are unique whatever the sources say, and expansion ends.
    #[test]
    fn each_name_stands_once(vars in proptest::collection::vec(("[A-D]", "[$()A-D]{0,8}"), 0..12)) {
        let list: Vec<Value> = vars.iter().map(|(n, v)| json!({"name": n, "value": v})).collect();
        let made = make_env(&pod(), &container(json!({"env": list})), &EnvObjects::default(),
            &BTreeMap::new(), &DownwardFacts::default()).unwrap();
        let names: BTreeSet<&str> = made.iter().map(|v| v.name.as_str()).collect();
        prop_assert_eq!(names.len(), made.len());
        prop_assert_eq!(names, vars.iter().map(|(n, _)| n.as_str()).collect::<BTreeSet<_>>());
    }
}
