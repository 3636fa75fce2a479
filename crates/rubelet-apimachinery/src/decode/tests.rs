//! Bodies in, objects or refusals out.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn pod(body: &str, validation: FieldValidation) -> Result<(Value, Warnings), ApiError> {
    decode(("v1", "Pod"), body.as_bytes(), Media::Json, validation)
}

#[track_caller]
fn check_error(body: &str, expected: &str) {
    let error = pod(body, FieldValidation::Strict).unwrap_err();
    assert_eq!((error.code, error.reason), (400, "BadRequest"));
    assert_eq!(error.message, expected, "{body}");
}

/// An error that names the type, after kube-apiserver's beginning.
#[track_caller]
fn check_type_error(body: Value, expected: &str) {
    let expected = format!("Pod in version \"v1\" cannot be handled as a Pod: {expected}");
    check_error(&body.to_string(), &expected);
}

#[test]
fn errors_read_as_those_of_the_api_server() {
    let unrecognized = |why: &str, summary: &str| {
        format!(
            "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: \
             {why} ({summary})"
        )
    };
    check_error("", &unrecognized("unexpected end of JSON input", "<empty>"));
    check_error("{\"a\"", &unrecognized("unexpected end of JSON input", "{\"a\""));
    check_error("nope", &unrecognized("invalid character 'o' in literal", "6e6f7065"));
    check_error("{\"a\":1]", &unrecognized("invalid character ']' after object key:value pair", "{\"a\":1]"));
    check_error(
        "{\"kind\":1}",
        &unrecognized(
            "json: cannot unmarshal number into Go struct field .kind of type string",
            "{\"kind\":1}",
        ),
    );
    check_error(
        r#"{"kind":"Service","apiVersion":"v1"}"#,
        "Service in version \"v1\" cannot be handled as a Pod: converting (v1.Service) to (core.Pod): unknown conversion",
    );
    check_error(
        r#"{"kind":"Deployment","apiVersion":"apps/v1"}"#,
        "Deployment in version \"v1\" cannot be handled as a Pod: converting (v1.Deployment) to (core.Pod): unknown \
         conversion",
    );
    check_error(
        r#"{"kind":"Pod","apiVersion":"v2"}"#,
        "Pod in version \"v2\" cannot be handled as a Pod: no kind \"Pod\" is registered for version \"v2\" in scheme \
         \"pkg/api/legacyscheme/scheme.go:30\"",
    );
    let event = decode(
        ("events.k8s.io/v1", "Event"),
        br#"{"kind":"Event","apiVersion":"v1"}"#,
        Media::Json,
        FieldValidation::Warn,
    );
    assert_eq!(
        event.unwrap_err().message,
        "the API version in the data (v1) does not match the expected API version (events.k8s.io/v1)"
    );
}

#[test]
fn wrong_types_are_named_as_go_names_them() {
    check_type_error(
        json!({"spec": {"containers": [{"name": "a", "ports": "x"}]}}),
        "json: cannot unmarshal string into Go struct field Container.spec.containers.ports of type []v1.ContainerPort",
    );
    check_type_error(
        json!({"spec": {"containers": [{"env": [{"name": "A", "value": 1}]}]}}),
        "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
    );
    check_type_error(
        json!({"spec": []}),
        "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec",
    );
    check_type_error(
        json!({"spec": {"priority": 3_000_000_000_u64}}),
        "json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
    );
    check_type_error(
        json!({"spec": {"terminationGracePeriodSeconds": 1.5}}),
        "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64",
    );
    check_type_error(
        json!({"metadata": {"labels": {"a": true}}}),
        "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
    );
    check_type_error(
        json!({"spec": {"volumes": [{"name": "v", "hostPath": 1}]}}),
        "json: cannot unmarshal number into Go struct field Volume.spec.volumes.VolumeSource.hostPath of type \
         v1.HostPathVolumeSource",
    );
    check_type_error(
        json!({"spec": {"overhead": {"cpu": "1x"}}}),
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
    check_type_error(
        json!({"spec": {"overhead": {"cpu": "1KiB"}}}),
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
    check_type_error(json!({"spec": {"overhead": {"cpu": "1Kk"}}}), "unable to parse quantity's suffix");
    check_type_error(
        json!({"status": {"startTime": "yesterday"}}),
        "parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"yesterday\" as \"2006\"",
    );
    check_type_error(
        json!({"status": {"startTime": "2026-02-30T00:00:00Z"}}),
        "parsing time \"2026-02-30T00:00:00Z\": day out of range",
    );
    let secret = |text: &str| {
        let body = json!({"data": {"a": text}}).to_string();
        decode(("v1", "Secret"), body.as_bytes(), Media::Json, FieldValidation::Warn)
    };
    assert!(secret("a b=").unwrap_err().message.ends_with("illegal base64 data at input byte 1"));
    assert!(secret("abc").unwrap_err().message.ends_with("illegal base64 data at input byte 3"));
    assert_eq!(secret("YWJj\n").unwrap().0["data"]["a"], json!("YWJj"));
}

#[test]
fn unknown_and_repeated_fields_are_judged() {
    let body =
        r#"{"spec":{"foo":{"x":1,"x":2},"containers":[{"name":"a","name":"b","Image":"c"}]},"spec2":1}"#;
    let expected = [
        "duplicate field \"spec.containers[0].name\"",
        "unknown field \"spec.containers[0].Image\"",
        "unknown field \"spec.foo\"",
        "unknown field \"spec2\"",
    ];
    let (value, warnings) = pod(body, FieldValidation::Warn).unwrap();
    assert_eq!(warnings, expected);
    assert_eq!(value["spec"]["containers"][0], json!({"name": "b", "resources": {}}));
    assert_eq!(pod(body, FieldValidation::Ignore).unwrap(), (value, vec![]));
    check_error(
        body,
        &format!(
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: {}",
            expected.join(", ")
        ),
    );
    let many: String = (0..500).map(|n| format!("\"f{n}\":1,")).collect();
    let (_, warnings) = pod(&format!("{{{many}\"kind\":\"Pod\"}}"), FieldValidation::Warn).unwrap();
    assert_eq!(warnings.len(), MAX_PROBLEMS);
}

#[track_caller]
fn check_form(kind: (&str, &str), body: Value, expected: Value) {
    let body = body.to_string();
    let (mut value, warnings) = decode(kind, body.as_bytes(), Media::Json, FieldValidation::Strict).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    let fields = value.as_object_mut().unwrap();
    assert_eq!(fields.remove("apiVersion"), Some(json!(kind.0)));
    assert_eq!(fields.remove("kind"), Some(json!(kind.1)));
    assert_eq!(value, expected);
    // The form is stable.
    let t = Type::of(kind.0, kind.1).unwrap();
    assert_eq!(conform(t, value.clone()).unwrap(), (value, vec![]));
}

#[test]
fn values_get_the_form_go_writes() {
    check_form(
        ("v1", "Pod"),
        json!({
            "metadata": {"name": "a", "creationTimestamp": null, "labels": {}, "finalizers": [], "namespace": ""},
            "spec": {
                "hostNetwork": false, "automountServiceAccountToken": false, "securityContext": {}, "volumes": null,
                "terminationGracePeriodSeconds": 0, "priority": 5.0, "nodeSelector": {"a": null},
                "containers": [{
                    "name": "c", "image": "", "tty": false, "args": [], "ports": [{"containerPort": 80, "hostPort": 0}],
                    "resources": {"limits": {"cpu": "1000m", "memory": 1024}, "requests": {"cpu": 0.5}},
                    "livenessProbe": {"httpGet": {"port": "web"}, "initialDelaySeconds": 0},
                    "env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
                }],
            },
            "status": {"startTime": "2026-05-01T12:00:00.75+02:00", "conditions": [{"type": "A", "status": "True",
                "lastProbeTime": null, "lastTransitionTime": "0001-01-01T00:00:00Z"}]},
        }),
        json!({
            "metadata": {"name": "a"},
            "spec": {
                "automountServiceAccountToken": false, "securityContext": {}, "terminationGracePeriodSeconds": 0,
                "priority": 5, "nodeSelector": {"a": ""},
                "containers": [{
                    "name": "c", "ports": [{"containerPort": 80}],
                    "resources": {"limits": {"cpu": "1", "memory": "1024"}, "requests": {"cpu": "500m"}},
                    "livenessProbe": {"httpGet": {"port": "web"}},
                    "env": [{"name": "A",
                        "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}}}],
                }],
            },
            "status": {"startTime": "2026-05-01T10:00:00Z", "conditions": [{"type": "A", "status": "True"}]},
        }),
    );
    check_form(("v1", "Pod"), json!({}), json!({"metadata": {}, "spec": {"containers": []}, "status": {}}));
    check_form(
        ("v1", "Pod"),
        json!({"status": {"containerStatuses": [{"name": "c"}]}}),
        json!({"metadata": {}, "spec": {"containers": []}, "status": {"containerStatuses": [{
            "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {}, "lastState": {},
        }]}}),
    );
    check_form(
        ("coordination.k8s.io/v1", "Lease"),
        json!({"spec": {"renewTime": "2026-05-01T10:00:00Z", "holderIdentity": ""}}),
        json!({"metadata": {}, "spec": {"renewTime": "2026-05-01T10:00:00.000000Z", "holderIdentity": ""}}),
    );
    check_form(
        ("authentication.k8s.io/v1", "TokenRequest"),
        json!({"spec": {"audiences": []}}),
        json!({"metadata": {}, "spec": {"audiences": []}, "status": {"token": ""}}),
    );
}

#[test]
fn what_is_applied_keeps_only_what_it_says() {
    let t = Type::of("v1", "Pod").unwrap();
    let applied = json!({"spec": {"hostNetwork": false, "containers": [{"name": "a", "image": "", "x": 1}]}});
    assert_eq!(
        check(t, applied).unwrap(),
        (
            json!({"spec": {"hostNetwork": false, "containers": [{"name": "a", "image": ""}]}}),
            vec!["unknown field \"spec.containers[0].x\"".to_owned()]
        )
    );
    let text = b"spec: {a: 1, a: 2}";
    assert_eq!(apply_configuration(text, FieldValidation::Warn).unwrap().0, json!({"spec": {"a": 2}}));
    let error = apply_configuration(text, FieldValidation::Strict).unwrap_err();
    assert_eq!(
        error.message,
        "error strict decoding YAML: strict decoding error: duplicate field \"spec.a\""
    );
}

#[test]
fn yaml_means_what_it_means_upstream() {
    let body =
        b"spec:\n  volumes:\n  - name: v\n    configMap: {name: c, defaultMode: 0644, optional: yes}\n";
    let (value, _) = decode(("v1", "Pod"), body, Media::Yaml, FieldValidation::Strict).unwrap();
    assert_eq!(
        value["spec"]["volumes"][0]["configMap"],
        json!({"name": "c", "defaultMode": 420, "optional": true})
    );
    let error = decode(("v1", "Pod"), b"a: [", Media::Yaml, FieldValidation::Warn).unwrap_err();
    let start =
        "the object provided is unrecognized (must be of type Pod): error converting YAML to JSON: yaml: ";
    assert!(error.message.starts_with(start), "{}", error.message);
}

#[test]
fn options_go_by_every_group() {
    for api_version in ["v1", "policy/v1", "meta.k8s.io/v1"] {
        let body =
            json!({"apiVersion": api_version, "kind": "DeleteOptions", "gracePeriodSeconds": 0}).to_string();
        let read = decode(("v1", "DeleteOptions"), body.as_bytes(), Media::Json, FieldValidation::Strict);
        assert_eq!(read.unwrap().0["gracePeriodSeconds"], json!(0), "{api_version}");
    }
}

#[test]
fn deep_nesting_is_refused_before_the_stack_ends() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("{\"a\":[", "]}")] {
        for depth in [130, 10_000, 200_000] {
            let body = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            for media in [Media::Json, Media::Yaml] {
                let error = decode(("v1", "Pod"), body.as_bytes(), media, FieldValidation::Warn).unwrap_err();
                assert_eq!(error.code, 400);
            }
            assert!(json(body.as_bytes()).unwrap_err().to_string().contains("exceeded max depth"));
        }
    }
}

/// Any JSON, with keys that are fields of pods more often than not.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9:.=-]{0,6}".prop_map(Value::from),
    ];
    let key = prop_oneof![
        proptest::sample::select(vec![
            "metadata",
            "spec",
            "status",
            "containers",
            "name",
            "env",
            "value",
            "ports",
            "containerPort",
            "labels",
            "finalizers",
            "ownerReferences",
            "uid",
            "conditions",
            "type",
            "resources",
            "limits",
            "volumes",
            "$patch",
            "$retainKeys",
            "$setElementOrder/containers",
            "$deleteFromPrimitiveList/finalizers",
            "hostNetwork",
            "creationTimestamp",
            "$setElementOrder/ports",
        ])
        .prop_map(str::to_owned),
        "[a-z$/]{0,4}",
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            proptest::collection::btree_map(key.clone(), inner, 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

#[test]
fn evictions_of_old_clients_are_read() {
    let body = br#"{"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": "p"}}"#;
    let (object, _) = decode(("policy/v1", "Eviction"), body, Media::Json, FieldValidation::Strict).unwrap();
    assert_eq!(object["apiVersion"], "policy/v1");
}

proptest! {
    #[test]
    fn any_bytes_give_an_object_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        for media in [Media::Json, Media::Yaml] {
            let _ = decode(("v1", "Pod"), &bytes, media, FieldValidation::Warn);
        }
    }

    #[test]
    fn the_form_of_any_json_is_stable(value in any_json()) {
        let t = Type::of("v1", "Pod").unwrap();
        if let Ok((once, _)) = conform(t, value.clone()) {
            let (twice, unknown) = conform(t, once.clone()).unwrap();
            prop_assert_eq!(unknown, Vec::<String>::new());
            prop_assert_eq!(twice, once);
        }
        let _ = check(t, value);
    }
}
