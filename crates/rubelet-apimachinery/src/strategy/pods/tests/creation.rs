//! New pods: what they get, what they are refused for, what their authors are warned of.

use super::*;

/// What a created pod has at a path of its JSON.
#[track_caller]
fn gets(spec: Value, pointer: &str, expected: Value) {
    let (stored, _) = create(pod(spec)).unwrap();
    assert_eq!(stored.pointer(pointer).cloned().unwrap_or_default(), expected, "{pointer}");
}

#[test]
fn a_plain_pod_is_stored_as_on_a_cluster() {
    let (stored, warnings) = create(pod(json!({}))).unwrap();
    assert_eq!(warnings, Warnings::new());
    let mount = json!({
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "name": "kube-api-access-xxxxx",
        "readOnly": true,
    });
    let toleration = |key: &str| json!({"effect": "NoExecute", "key": key, "operator": "Exists", "tolerationSeconds": 300});
    assert_eq!(
        stored,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u1", "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {
                "containers": [{
                    "name": "app", "image": "app:1", "imagePullPolicy": "IfNotPresent", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    "volumeMounts": [mount],
                }],
                "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority",
                "priority": 0, "restartPolicy": "Always", "schedulerName": "default-scheduler",
                "securityContext": {}, "serviceAccount": "default", "serviceAccountName": "default",
                "terminationGracePeriodSeconds": 30,
                "tolerations": [
                    toleration("node.kubernetes.io/not-ready"), toleration("node.kubernetes.io/unreachable"),
                ],
                "volumes": [{"name": "kube-api-access-xxxxx", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                    {"configMap": {"items": [{"key": "ca.crt", "path": "ca.crt"}], "name": "kube-root-ca.crt"}},
                    {"downwardAPI": {"items": [
                        {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}, "path": "namespace"},
                    ]}},
                ]}}],
            },
            "status": {"phase": "Pending", "qosClass": "BestEffort"},
        })
    );
}

#[test]
fn plugins_fill_in() {
    let null = Value::Null;
    let quiet = json!({"serviceAccount": "quiet"});
    gets(quiet.clone(), "/spec/serviceAccountName", json!("quiet"));
    gets(quiet.clone(), "/spec/imagePullSecrets", json!([{"name": "registry"}]));
    gets(quiet.clone(), "/spec/volumes", null.clone());
    gets(
        json!({"serviceAccountName": "quiet", "automountServiceAccountToken": true, "imagePullSecrets": [{"name": "own"}]}),
        "/spec/imagePullSecrets",
        json!([{"name": "own"}]),
    );
    let mounted = json!({
        "volumes": [{"name": "m", "emptyDir": {}}],
        "containers": [{"name": "a", "image": "a", "volumeMounts": [
            {"name": "m", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
        ]}],
    });
    gets(mounted, "/spec/volumes", json!([{"name": "m", "emptyDir": {}}]));

    gets(json!({"priorityClassName": "high"}), "/spec/priority", json!(1000));
    gets(json!({"priorityClassName": "high"}), "/spec/preemptionPolicy", json!("Never"));
    gets(json!({"priorityClassName": "system-node-critical"}), "/spec/priority", json!(2_000_001_000));

    let kata = json!({"runtimeClassName": "kata"});
    gets(kata.clone(), "/spec/overhead", json!({"cpu": "250m", "memory": "120Mi"}));
    gets(kata.clone(), "/spec/nodeSelector", json!({"kata": "yes"}));
    gets(kata, "/spec/tolerations/2", json!({"key": "kata", "operator": "Exists"}));
    gets(
        json!({"runtimeClassName": "kata", "overhead": {"cpu": "0.25", "memory": "122880Ki"}}),
        "/spec/overhead/cpu",
        json!("250m"),
    );

    gets(
        json!({"tolerations": [{"operator": "Exists"}]}),
        "/spec/tolerations",
        json!([{"operator": "Exists"}]),
    );
    gets(json!({"nodeName": "n1"}), "/metadata/labels", json!({"topology.kubernetes.io/zone": "z1"}));
    gets(json!({"nodeName": "elsewhere"}), "/metadata/labels", null);
    let gated = json!([{
        "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
        "message": "Scheduling is blocked due to non-empty scheduling gates",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]);
    gets(json!({"schedulingGates": [{"name": "wait"}]}), "/status/conditions", gated);
    gets(json!({"terminationGracePeriodSeconds": -3}), "/spec/terminationGracePeriodSeconds", json!(1));
    gets(
        json!({"containers": [{"name": "a", "image": "a", "lifecycle": {"stopSignal": "SIGTERM"}}]}),
        "/spec/containers/0/lifecycle",
        Value::Null,
    );
    let limited = json!({"containers": [{"name": "a", "image": "a", "resources": {"limits": {"cpu": "1", "memory": "1024Mi"}}}]});
    gets(limited.clone(), "/status/qosClass", json!("Guaranteed"));
    gets(limited, "/spec/containers/0/resources/requests", json!({"cpu": "1", "memory": "1Gi"}));
}

#[test]
fn selectors_are_completed_from_the_pods_own_labels() {
    let mut pod = pod(json!({
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {},
            "matchLabelKeys": ["version", "absent"],
        }],
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "zone", "labelSelector": {}, "mismatchLabelKeys": ["version"]},
        ]}},
    }));
    pod["metadata"]["labels"] = json!({"version": "3"});
    let (stored, _) = create(pod).unwrap();
    let at = |pointer: &str| stored.pointer(pointer).cloned().unwrap();
    assert_eq!(
        at("/spec/topologySpreadConstraints/0/labelSelector"),
        json!({"matchExpressions": [{"key": "version", "operator": "In", "values": ["3"]}]})
    );
    assert_eq!(
        at("/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/0/labelSelector"),
        json!({"matchExpressions": [{"key": "version", "operator": "NotIn", "values": ["3"]}]})
    );
}

#[test]
fn plugins_refuse() {
    let check = |spec: Value, why: &str| {
        let error = create(pod(spec)).unwrap_err();
        assert_eq!((error.code, error.reason), (403, "Forbidden"));
        assert_eq!(error.message, format!("pods \"web\" is forbidden: {why}"));
    };
    check(
        json!({"serviceAccountName": "nope"}),
        "error looking up service account shop/nope: serviceaccount \"nope\" not found",
    );
    check(json!({"priorityClassName": "none"}), "no PriorityClass with name none was found");
    check(
        json!({"priority": 5}),
        "the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 0 \
         from the given PriorityClass name",
    );
    check(
        json!({"preemptionPolicy": "Never"}),
        "the string value of PreemptionPolicy (Never) must not be provided in pod spec; priority admission controller \
         computed PreemptLowerPriority from the given PriorityClass name",
    );
    check(json!({"runtimeClassName": "none"}), "pod rejected: RuntimeClass \"none\" not found");
    check(
        json!({"runtimeClassName": "kata", "overhead": {"cpu": "1"}}),
        "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
    );
    check(
        json!({"overhead": {"cpu": "1"}}),
        "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
    );
    check(
        json!({"runtimeClassName": "kata", "nodeSelector": {"kata": "no"}}),
        "conflict: runtimeClass.scheduling.nodeSelector[kata] = yes; pod.spec.nodeSelector[kata] = no",
    );
}

#[test]
fn mirror_pods_stand_alone() {
    let mirror = |spec: Value| {
        let mut pod = pod(spec);
        pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        create(pod)
    };
    let (stored, _) = mirror(json!({"nodeName": "n1"})).unwrap();
    assert_eq!(
        (&stored["spec"]["serviceAccountName"], &stored["spec"]["volumes"]),
        (&Value::Null, &Value::Null)
    );
    let check = |spec: Value, code: u16, why: &str| refused(mirror(spec), code, &[why]);
    check(
        json!({}),
        422,
        "metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror pod \
         annotation is set",
    );
    let forbidden = "pods \"web\" is forbidden: a mirror pod may not";
    check(json!({"serviceAccountName": "default"}), 403, &format!("{forbidden} reference service accounts"));
    check(json!({"imagePullSecrets": [{"name": "a"}]}), 403, &format!("{forbidden} reference secrets"));
    check(
        json!({"volumes": [{"name": "a", "secret": {"secretName": "b"}}]}),
        403,
        &format!("{forbidden} reference secrets"),
    );
    check(
        json!({"volumes": [{"name": "a", "projected": {"sources": [{"serviceAccountToken": {"path": "b"}}]}}]}),
        403,
        &format!("{forbidden} use ServiceAccountToken volume projections"),
    );
    check(
        json!({"nodeName": "n1", "resourceClaims": [{"name": "a", "resourceClaimName": "b"}]}),
        422,
        "[]: Forbidden: static pods do not support resource claims",
    );
}

#[test]
fn every_broken_rule_is_told() {
    let check = |spec: Value, causes: &[&str]| refused(create(pod(spec)), 422, causes);
    check(json!({"containers": []}), &["spec.containers: Required value"]);
    check(
        json!({"ephemeralContainers": [{"name": "d", "image": "x"}]}),
        &["spec.ephemeralContainers: Forbidden: cannot be set on create"],
    );
    check(
        json!({"schedulingGates": [{"name": "a"}], "nodeName": "n1"}),
        &["spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"],
    );
    check(
        json!({"volumes": [
            {"name": "a", "secret": {}},
            {"name": "b", "configMap": {"name": "c", "items": [{"key": "k", "path": "../x", "mode": 4096}]}},
            {"name": "c", "persistentVolumeClaim": {}},
            {"name": "d", "csi": {"driver": "x", "nodePublishSecretRef": {}}},
            {"name": "e", "ephemeral": {}},
            {"name": "f", "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce", "X"]}}}},
            {"name": "g", "image": {}},
            {"name": "h", "persistentVolumeClaim": {"claimName": "web-e"}},
        ]}),
        &[
            "spec.volumes[0].secret.secretName: Required value",
            "spec.volumes[1].configMap.items[0].path: Invalid value: \"../x\": must not contain '..'",
            "spec.volumes[1].configMap.items[0].mode: Invalid value: 4096: must be a number between 0 and 0777 \
             (octal), both inclusive",
            "spec.volumes[2].persistentVolumeClaim.claimName: Required value",
            "spec.volumes[3].csi.nodePublishSecretRef.name: Required value",
            "spec.volumes[4].ephemeral.volumeClaimTemplate: Required value",
            "spec.volumes[5].ephemeral.volumeClaimTemplate.spec.accessModes: Unsupported value: \"X\": supported \
             values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
            "spec.volumes[5].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value",
            "spec.volumes[6].image.reference: Required value",
            "spec.volumes[7].persistentVolumeClaim.claimName: Invalid value: \"web-e\": must not reference a PVC that \
             gets created for an ephemeral volume",
        ],
    );
    check(
        json!({"volumes": [{"name": "p", "projected": {"sources": [
            {"secret": {"name": "s", "items": [{"key": "a", "path": "x"}]}},
            {"configMap": {"name": "m", "items": [{"key": "a", "path": "x"}]}},
            {"serviceAccountToken": {"path": "t", "expirationSeconds": 1}},
        ]}}]}),
        &[
            "spec.volumes[0].projected: Invalid value: \"m\": conflicting duplicate paths",
            "spec.volumes[0].projected.sources[2].serviceAccountToken.expirationSeconds: Invalid value: 1: may not \
             specify a duration less than 10 minutes",
        ],
    );
    check(
        json!({"os": {"name": "windows"}, "hostPID": true, "securityContext": {"runAsUser": 1}}),
        &[
            "spec.hostPID: Forbidden: cannot be set for a windows pod",
            "spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
        ],
    );
    let mut pod = pod(json!({}));
    pod["metadata"]["annotations"] = json!({
        "controller.kubernetes.io/pod-deletion-cost": "+1",
        "container.apparmor.security.beta.kubernetes.io/app": "bad",
        "container.apparmor.security.beta.kubernetes.io/none": "unconfined",
    });
    refused(
        create(pod),
        422,
        &[
            "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"+1\": must be a 32bit \
             integer",
            "metadata.annotations[container.apparmor.security.beta.kubernetes.io/app]: Invalid value: \"bad\": invalid \
             AppArmor profile name: \"bad\"",
            "metadata.annotations[container.apparmor.security.beta.kubernetes.io/none]: Invalid value: \"none\": \
             container not found",
        ],
    );
}

#[test]
fn authors_are_warned() {
    let check = |spec: Value, expected: &[&str]| {
        let (_, warnings) = create(pod(spec)).unwrap();
        assert_eq!(warnings, expected);
    };
    let app = |fields: Value| {
        let mut container = json!({"name": "app", "image": "app:1"});
        merge(&mut container, &fields);
        json!({"containers": [container]})
    };
    check(
        json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}}),
        &[
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
        ],
    );
    check(
        app(json!({"env": [
            {"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "A", "value": "$(A)3"},
        ]})),
        &[
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
        ],
    );
    check(
        app(json!({"resources": {"limits": {"memory": "1500m"}}})),
        &[
            "spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an \
             integer",
            "spec.containers[0].resources.requests[memory]: fractional byte value \"1500m\" is invalid, must be an \
             integer",
        ],
    );
    check(
        app(json!({"ports": [
            {"containerPort": 80, "hostIP": "1.1.1.1"}, {"containerPort": 80, "hostPort": 5},
            {"containerPort": 80, "hostPort": 5, "hostIP": "1.2.3.4"},
        ]})),
        &[
            "spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 Protocol:TCP \
             HostIP:1.1.1.1}",
            "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
            "spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[0]",
            "spec.containers[0].ports[2]: dangerously ambiguous port definition with spec.containers[0].ports[1]",
        ],
    );
    check(
        json!({"volumes": [{"name": "p", "projected": {"sources": [
            {"secret": {"name": "s", "items": [{"key": "a", "path": "x"}]}},
            {"configMap": {"name": "m", "items": [{"key": "a", "path": "x/y"}]}},
        ]}}]}),
        &["volume \"p\" (Projected): overlapping paths: \"x/y\" (ConfigMap \"m\") with \"x\" (Secret \"s\")"],
    );
    check(
        json!({"hostAliases": [{"ip": "1.2.3.4"}, {"ip": "1.2.3.4"}], "imagePullSecrets": [{}]}),
        &[
            "spec.hostAliases[1].ip: duplicate ip \"1.2.3.4\"",
            "spec.imagePullSecrets[0].name: invalid empty name \"\"",
        ],
    );
    let mut pod = pod(json!({}));
    pod["metadata"]["annotations"] =
        json!({"container.apparmor.security.beta.kubernetes.io/app": "localhost/x"});
    let (stored, warnings) = create(pod).unwrap();
    assert_eq!(
        warnings,
        [
            "metadata.annotations[container.apparmor.security.beta.kubernetes.io/app]: deprecated since v1.30; use the \
          \"appArmorProfile\" field instead"
        ]
    );
    assert_eq!(
        stored["spec"]["containers"][0]["securityContext"]["appArmorProfile"],
        json!({"type": "Localhost", "localhostProfile": "x"})
    );
}
