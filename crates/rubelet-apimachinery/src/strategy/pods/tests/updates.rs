//! Updates of pods, of their ephemeral containers and of their resources.

use super::*;

const MAY_CHANGE: &str = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
                          `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
                          additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set \
                          to 1 if it was previously negative)";

/// The generation after an update that is allowed.
#[track_caller]
fn allowed(subresource: &str, old: &Value, change: Value, generation: i64) -> Value {
    let new = update(subresource, old, &change).unwrap();
    assert_eq!(new["metadata"]["generation"], json!(generation), "{change}");
    new
}

/// The containers of a stored pod, with fields of the first one changed.
fn app(old: &Value, change: Value) -> Value {
    let mut containers = old["spec"]["containers"].clone();
    merge(&mut containers[0], &change);
    json!({"spec": {"containers": containers}})
}

#[test]
fn only_some_fields_change() {
    let own = json!([{"key": "own", "operator": "Exists"}]);
    let old = stored(json!({"activeDeadlineSeconds": 100, "tolerations": own}));
    allowed("", &old, json!({"metadata": {"labels": {"a": "b"}}}), 1);
    allowed("", &old, json!({"metadata": {"generation": 77}, "status": {"phase": "Failed"}}), 1);
    allowed("", &old, app(&old, json!({"image": "app:2"})), 2);
    allowed("", &old, json!({"spec": {"activeDeadlineSeconds": 50}}), 2);
    allowed("", &old, json!({"spec": {"priority": null, "preemptionPolicy": null}}), 1);
    let mut tolerations = old["spec"]["tolerations"].clone();
    tolerations[1]["tolerationSeconds"] = json!(5);
    tolerations.as_array_mut().unwrap().push(json!({"key": "k", "operator": "Exists"}));
    allowed("", &old, json!({"spec": {"tolerations": tolerations}}), 2);
    // What every pod is given comes back by itself.
    allowed("", &old, json!({"spec": {"tolerations": own}}), 1);

    let check = |change: Value, causes: &[&str]| refused(update("", &old, &change), 422, causes);
    check(json!({"spec": {"nodeName": "n1"}}), &[MAY_CHANGE]);
    check(json!({"spec": {"terminationGracePeriodSeconds": 5}}), &[MAY_CHANGE]);
    check(json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "x"}]}}), &[MAY_CHANGE]);
    check(app(&old, json!({"name": "other"})), &[MAY_CHANGE]);
    check(
        json!({"spec": {"containers": [{"name": "a", "image": "a"}, {"name": "b", "image": "b"}]}}),
        &["spec.containers: Forbidden: pod updates may not add or remove containers"],
    );
    check(app(&old, json!({"image": ""})), &["spec.containers[0].image: Required value"]);
    check(
        json!({"spec": {"activeDeadlineSeconds": 200}}),
        &["spec.activeDeadlineSeconds: Invalid value: 200: must be less than or equal to previous value"],
    );
    check(
        json!({"spec": {"activeDeadlineSeconds": null}}),
        &[
            "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value",
        ],
    );
    check(
        json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists"}]}}),
        &[
            "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds",
        ],
    );
    check(
        json!({"spec": {"schedulingGates": [{"name": "a"}]}}),
        &[
            "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'a'",
        ],
    );
    check(
        json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}),
        &[
            "metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror \
             pod annotation is set",
            "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation",
        ],
    );
}

#[test]
fn a_difference_is_shown() {
    let old = stored(json!({}));
    let error = update("", &old, &json!({"spec": {"hostname": "a", "terminationGracePeriodSeconds": 5}}))
        .unwrap_err();
    let (_, difference) = error.message.split_once('\n').unwrap();
    assert_eq!(
        difference,
        "+ spec.hostname: \"a\"\n- spec.terminationGracePeriodSeconds: 30\n+ spec.terminationGracePeriodSeconds: 5\n"
    );
}

#[test]
fn quantities_are_compared_by_value() {
    let resources = |memory: &str| json!({"resources": {"requests": {"memory": memory}}});
    let mut spec = json!({"containers": [{"name": "app", "image": "app:1"}]});
    merge(&mut spec["containers"][0], &resources("1Gi"));
    let old = stored(spec);
    allowed("", &old, app(&old, resources("1073741824")), 1);
    refused(update("", &old, &app(&old, resources("1G"))), 422, &[MAY_CHANGE]);
}

#[test]
fn gated_pods_may_be_narrowed() {
    let terms = |expressions: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": expressions}],
        }}}})
    };
    let exists = |key: &str| json!({"key": key, "operator": "Exists"});
    let mut spec = json!({"schedulingGates": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"x": "y"}});
    merge(&mut spec, &terms(json!([exists("k")])));
    let old = stored(spec);
    allowed("", &old, json!({"spec": {"schedulingGates": [{"name": "b"}]}}), 2);
    allowed("", &old, json!({"spec": {"schedulingGates": null}}), 2);
    allowed("", &old, json!({"spec": {"nodeSelector": {"z": "1"}}}), 2);
    allowed("", &old, json!({"spec": terms(json!([exists("k"), exists("l")]))}), 2);
    let check = |spec: Value, causes: &[&str]| refused(update("", &old, &json!({"spec": spec})), 422, causes);
    check(
        json!({"nodeSelector": {"x": "z"}}),
        &[
            "spec.nodeSelector: Invalid value: {\"x\":\"z\"}: only additions to spec.nodeSelector are allowed (no \
           mutations or deletions)",
        ],
    );
    check(
        terms(json!([exists("l")])),
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]: Invalid \
           value: {\"matchExpressions\":[{\"key\":\"l\",\"operator\":\"Exists\"}]}: only additions are allowed (no \
           mutations or deletions)",
        ],
    );
    check(
        json!({"affinity": null}),
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Invalid value: \
           null: no additions/deletions to non-empty NodeSelectorTerms list are allowed",
        ],
    );
    check(json!({"hostname": "h"}), &[MAY_CHANGE]);
    // What had no affinity may be given one, and is as it was without.
    let old = stored(json!({"schedulingGates": [{"name": "a"}]}));
    allowed("", &old, json!({"spec": terms(json!([exists("k")]))}), 2);
}

#[test]
fn ephemeral_containers_are_only_added() {
    let old = stored(json!({}));
    let with = |containers: Value| json!({"spec": {"ephemeralContainers": containers}});
    let debug = json!({"name": "debug", "image": "busybox:1", "targetContainerName": "app"});
    let mut change = with(json!([debug]));
    merge(
        &mut change,
        &json!({"spec": {"hostname": "h"}, "metadata": {"labels": {"a": "b"}}, "status": {"phase": "Failed"}}),
    );
    let new = allowed("ephemeralcontainers", &old, change, 2);
    assert_eq!(new["spec"]["hostname"], Value::Null);
    assert_eq!(new["metadata"]["labels"], Value::Null);
    assert_eq!(new["status"], old["status"]);
    assert_eq!(new["spec"]["ephemeralContainers"][0]["imagePullPolicy"], "IfNotPresent");

    let check = |old: &Value, containers: Value, causes: &[&str]| {
        refused(update("ephemeralcontainers", old, &with(containers)), 422, causes);
    };
    check(
        &old,
        json!([{"name": "app", "image": "x", "targetContainerName": "none", "ports": [{"containerPort": 1}]}]),
        &[
            "spec.ephemeralContainers[0].name: Duplicate value: \"app\"",
            "spec.ephemeralContainers[0].targetContainerName: Not found: \"none\"",
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
        ],
    );
    let old = new;
    check(
        &old,
        Value::Null,
        &["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debug\" may not be removed"],
    );
    check(
        &old,
        json!([{"name": "debug", "image": "other"}]),
        &["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debug\" may not be changed"],
    );
    let mut mirror = old.clone();
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    check(&mirror, json!([]), &["[]: Forbidden: static pods do not support ephemeral containers"]);
}

#[test]
fn resources_are_resized() {
    let spec = json!({"nodeName": "n1", "containers": [{"name": "app", "image": "app:1", "resources": {
        "requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"},
    }}]});
    let old = stored(spec);
    let with = |resources: Value| app(&old, json!({"resources": resources}));
    let new = allowed(
        "resize",
        &old,
        app(&old, json!({"image": "x", "resources": {"limits": {"cpu": "300m"}}})),
        2,
    );
    assert_eq!(new["spec"]["containers"][0]["image"], "app:1");
    assert_eq!(new["spec"]["containers"][0]["resources"]["limits"]["cpu"], "300m");
    // A limit may be lowered, and a resize to what is there is none.
    allowed("resize", &old, with(json!({"limits": {"memory": "100Mi"}})), 2);
    allowed("resize", &old, json!({}), 1);

    let check = |change: Value, causes: &[&str]| refused(update("resize", &old, &change), 422, causes);
    check(
        with(json!({"requests": {"cpu": "200m", "memory": "128Mi"}})),
        &["spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"],
    );
    check(
        with(json!({"limits": {"memory": null}})),
        &["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"],
    );
    check(
        with(json!({"requests": {"ephemeral-storage": "1Gi"}})),
        &["spec: Forbidden: only cpu and memory resources are mutable"],
    );
    check(
        app(&old, json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]})),
        &["spec: Forbidden: only cpu and memory resources are mutable"],
    );
    check(
        app(&old, json!({"name": "other"})),
        &["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"],
    );
    let error = update("resize", &old, &with(json!({"requests": {"cpu": "100"}, "limits": {"cpu": "100"}})))
        .unwrap_err();
    assert_eq!(
        error.message,
        "pods \"web\" is forbidden: node didn't have enough allocatable resources: cpu, requested: 100000, allocatable: \
         2000"
    );
    assert_eq!(error.details["causes"], json!([{"reason": "NodeCapacity"}]));
    let mut running = old.clone();
    running["status"]["containerStatuses"] = json!([{"name": "app", "state": {"running": {}}}]);
    let change = with(json!({"limits": {"cpu": "300m"}}));
    refused(
        update("resize", &running, &change),
        422,
        &["spec: Forbidden: Pod running on node without support for resize"],
    );
}

#[test]
fn resources_of_the_pod_are_resized() {
    let old =
        stored(json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}}));
    allowed("resize", &old, json!({"spec": {"resources": {"limits": {"cpu": "2"}}}}), 2);
    refused(
        update(
            "resize",
            &old,
            &json!({"spec": {"resources": {"requests": {"cpu": null}, "limits": {"cpu": null}}}}),
        ),
        422,
        &[
            "spec.resources.requests: Forbidden: pod-level resource requests cannot be removed",
            "spec.resources.limits: Forbidden: pod-level resource limits cannot be removed",
        ],
    );
}
