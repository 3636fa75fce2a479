//! Tables of admission: pod and node in, nothing or the rejection out.

use serde_json::{Value, json};

use super::*;

fn pod(spec: Value) -> Pod {
    let mut spec = spec;
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "a"}]);
    }
    serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec, "status": {"phase": "Pending"}}))
        .unwrap()
}

fn node() -> NodeFacts {
    let allocatable =
        [("cpu", "2"), ("memory", "4Gi"), ("ephemeral-storage", "10Gi"), ("pods", "3"), ("vendor/gpu", "1")];
    NodeFacts {
        name: "n1".into(),
        labels: [("zone", "a"), ("size", "7")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        allocatable: allocatable.map(|(k, v)| (k.to_owned(), Amount::parse(v).unwrap())).into(),
        kernel: (6, 1),
        apparmor: true,
        supplemental_groups_policy: true,
        ..NodeFacts::default()
    }
}

#[track_caller]
fn check(pod: &Pod, others: &[Pod], node: &NodeFacts, expected: Result<(), (&str, &str)>) {
    let found = admit(pod, others.iter(), node);
    let found = found.as_ref().map_err(|r| (r.reason.as_str(), r.message.as_str())).copied();
    assert_eq!(found, expected);
}

#[track_caller]
fn alone(spec: Value, expected: Result<(), (&str, &str)>) {
    check(&pod(spec), &[], &node(), expected);
}

#[test]
fn kernel_parameters() {
    let with = |name: &str, spec: Value| {
        let mut spec = spec;
        spec["securityContext"] = json!({"sysctls": [{"name": name, "value": "1"}]});
        spec
    };
    let forbidden = |message| Err(("SysctlForbidden", message));
    alone(with("net.ipv4.tcp_syncookies", json!({})), Ok(()));
    alone(with("net/ipv4/tcp_syncookies", json!({})), Ok(()));
    alone(with("kernel.msgmax", json!({})), forbidden("forbidden sysctl: \"kernel.msgmax\" not allowlisted"));
    alone(
        with("net.ipv4.tcp_syncookies", json!({"hostNetwork": true})),
        forbidden("forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host Net enabled"),
    );
    alone(
        with("kernel.shm_rmid_forced", json!({"hostIPC": true})),
        forbidden("forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host IPC enabled"),
    );
    let pod = pod(with("net.ipv4.tcp_rmem", json!({})));
    check(&pod, &[], &node(), Ok(()));
    check(
        &pod,
        &[],
        &NodeFacts { kernel: (4, 14), ..node() },
        forbidden("forbidden sysctl: \"net.ipv4.tcp_rmem\" not allowlisted"),
    );
}

#[test]
fn unsafe_kernel_parameters_can_be_allowed() {
    let node = NodeFacts {
        allowed_unsafe_sysctls: vec!["kernel.msg*".into(), "net/core/somaxconn".into()],
        ..node()
    };
    let with = |name: &str| pod(json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}}));
    check(&with("kernel.msgmax"), &[], &node, Ok(()));
    check(&with("net.core.somaxconn"), &[], &node, Ok(()));
    check(
        &with("kernel.sem"),
        &[],
        &node,
        Err(("SysctlForbidden", "forbidden sysctl: \"kernel.sem\" not allowlisted")),
    );
    assert_eq!(check_sysctl_pattern("kernel.msg*"), Ok(()));
    assert_eq!(check_sysctl_pattern("net.*"), Ok(()));
    assert_eq!(
        check_sysctl_pattern("vm.swappiness"),
        Err(SysctlPatternError::NotNamespaced("vm.swappiness".into()))
    );
    for bad in ["", "*", "net.*.x", "Net.x", ".net"] {
        assert_eq!(check_sysctl_pattern(bad), Err(SysctlPatternError::Syntax(bad.into())));
    }
}

#[test]
fn operating_system() {
    alone(json!({"os": {"name": "linux"}}), Ok(()));
    alone(
        json!({"os": {"name": "windows"}}),
        Err(("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")),
    );
    let mut labelled = pod(json!({}));
    labelled.metadata.labels = Some([("kubernetes.io/os".to_owned(), "windows".to_owned())].into());
    check(
        &labelled,
        &[],
        &node(),
        Err((
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        )),
    );
}

#[test]
fn strict_groups_need_the_runtime() {
    let pod = pod(json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}}));
    check(&pod, &[], &node(), Ok(()));
    check(
        &pod,
        &[],
        &NodeFacts { supplemental_groups_policy: false, ..node() },
        Err((
            "SupplementalGroupsPolicyNotSupported",
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        )),
    );
}

fn requesting(requests: Value) -> Pod {
    pod(json!({"containers": [{"name": "a", "resources": {"requests": requests}}]}))
}

#[test]
fn room() {
    let half = requesting(json!({"cpu": "1500m", "memory": "1Gi"}));
    check(&half, &[], &node(), Ok(()));
    check(
        &half,
        std::slice::from_ref(&half),
        &node(),
        Err((
            "OutOfcpu",
            "Node didn't have enough resource: cpu, requested: 1500, used: 1500, capacity: 2000",
        )),
    );
    check(
        &requesting(json!({"memory": "5Gi"})),
        &[],
        &node(),
        Err((
            "OutOfmemory",
            "Node didn't have enough resource: memory, requested: 5368709120, used: 0, capacity: 4294967296",
        )),
    );
    check(
        &requesting(json!({"vendor/gpu": "2"})),
        &[],
        &node(),
        Err((
            "OutOfvendor/gpu",
            "Node didn't have enough resource: vendor/gpu, requested: 2, used: 0, capacity: 1",
        )),
    );
    check(&requesting(json!({"cluster/license": "2"})), &[], &node(), Ok(()));
    check(
        &requesting(json!({"hugepages-2Mi": "2Mi"})),
        &[],
        &node(),
        Err((
            "OutOfhugepages-2Mi",
            "Node didn't have enough resource: hugepages-2Mi, requested: 2097152, used: 0, capacity: 0",
        )),
    );
    check(
        &pod(json!({})),
        &vec![pod(json!({})); 3],
        &node(),
        Err(("OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3")),
    );
    check(&requesting(json!({"cpu": "1000"})), &[], &NodeFacts::default(), Ok(()));
}

#[test]
fn the_missing_resources_are_listed_when_nothing_else_is_wrong() {
    let greedy = requesting(json!({"cpu": "3", "memory": "5Gi"}));
    let rejection = admit(&greedy, [].into_iter(), &node()).unwrap_err();
    assert_eq!(
        rejection.insufficient.iter().map(|i| i.resource.as_str()).collect::<Vec<_>>(),
        ["cpu", "memory"]
    );
    let mut elsewhere = greedy;
    elsewhere.spec.as_mut().unwrap().node_name = Some("n2".into());
    let rejection = admit(&elsewhere, [].into_iter(), &node()).unwrap_err();
    assert_eq!((rejection.reason.as_str(), rejection.insufficient.len()), ("OutOfcpu", 0));
}

#[test]
fn node_name_and_selector() {
    let affinity = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    alone(json!({"nodeName": "n1"}), Ok(()));
    alone(
        json!({"nodeName": "n2"}),
        Err(("NodeName", "Predicate NodeName failed: node(s) didn't match the requested node name")),
    );
    alone(json!({"nodeSelector": {"zone": "a", "kubernetes.io/os": "linux"}}), Ok(()));
    alone(json!({"nodeSelector": {"zone": "b"}}), Err(("NodeAffinity", affinity)));
    alone(json!({"nodeSelector": {"none": ""}}), Err(("NodeAffinity", affinity)));
}

#[track_caller]
fn affinity(terms: Value, fits: bool) {
    let spec = json!({"affinity": {"nodeAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
    let found = admit(&pod(spec), [].into_iter(), &node());
    assert_eq!(
        found.map_err(|r| r.reason),
        if fits { Ok(()) } else { Err("NodeAffinity".into()) },
        "{terms}"
    );
}

#[test]
fn affinity_operators() {
    let term = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    for (key, operator, values, fits) in [
        ("zone", "In", &["b", "a"][..], true),
        ("zone", "In", &["b"], false),
        ("none", "In", &["a"], false),
        ("zone", "NotIn", &["b"], true),
        ("zone", "NotIn", &["a"], false),
        ("none", "NotIn", &["a"], true),
        ("none", "NotIn", &[], false),
        ("zone", "Exists", &[], true),
        ("zone", "Exists", &["a"], false),
        ("none", "Exists", &[], false),
        ("none", "DoesNotExist", &[], true),
        ("zone", "DoesNotExist", &[], false),
        ("size", "Gt", &["6"], true),
        ("size", "Gt", &["7"], false),
        ("size", "Lt", &["8"], true),
        ("size", "Lt", &["7"], false),
        ("zone", "Gt", &["1"], false),
        ("size", "Gt", &["x"], false),
        ("size", "Gt", &["1", "2"], false),
        ("zone", "Odd", &["a"], false),
    ] {
        affinity(json!([term(key, operator, values)]), fits);
    }
    affinity(json!([]), false);
    affinity(json!([{}]), false);
    affinity(json!([term("zone", "In", &["b"]), term("zone", "In", &["a"])]), true);
    let field = |operator: &str, values: &[&str]| json!([{"matchFields": [{"key": "metadata.name", "operator": operator, "values": values}]}]);
    affinity(field("In", &["n1"]), true);
    affinity(field("In", &["n2"]), false);
    affinity(field("NotIn", &["n2"]), true);
    affinity(field("In", &["n1", "n2"]), false);
}

#[test]
fn ports_of_the_node() {
    let with = |list: &str, ip: &str, protocol: &str, port: i32| {
        let mut spec = json!({"containers": [{"name": "a"}]});
        spec[list] = json!([{"name": "p", "restartPolicy": (list == "initContainers").then_some("Always"),
            "ports": [{"containerPort": 1, "hostPort": port, "hostIP": ip, "protocol": protocol}]}]);
        pod(spec)
    };
    let app = |ip, protocol, port| with("containers", ip, protocol, port);
    let taken = Err((
        "NodePorts",
        "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
    ));
    let check = |wanted: &Pod, other: Pod, expected| check(wanted, &[other], &node(), expected);
    check(&app("", "TCP", 80), app("", "TCP", 80), taken);
    check(&app("", "", 80), app("0.0.0.0", "TCP", 80), taken);
    check(&app("127.0.0.1", "TCP", 80), app("", "TCP", 80), taken);
    check(&app("", "TCP", 80), app("127.0.0.1", "TCP", 80), taken);
    check(&app("127.0.0.1", "TCP", 80), app("127.0.0.1", "TCP", 80), taken);
    check(&app("127.0.0.1", "TCP", 80), app("127.0.0.2", "TCP", 80), Ok(()));
    check(&app("", "TCP", 80), app("", "UDP", 80), Ok(()));
    check(&app("", "TCP", 80), app("", "TCP", 81), Ok(()));
    check(&app("", "TCP", 0), app("", "TCP", 0), Ok(()));
    check(&app("", "TCP", 80), with("initContainers", "", "TCP", 80), taken);
}

#[test]
fn taints() {
    let taint = |effect: &str| Taint {
        effect: effect.into(),
        key: "k".into(),
        value: Some("v".into()),
        time_added: None,
    };
    let node = NodeFacts { taints: vec![taint("NoSchedule"), taint("NoExecute")], ..node() };
    let with = |toleration: Value| pod(json!({"tolerations": [toleration]}));
    let rejected = Err((
        "TaintToleration",
        "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
    ));
    check(&pod(json!({})), &[], &node, rejected);
    check(&with(json!({"operator": "Exists"})), &[], &node, Ok(()));
    check(&with(json!({"key": "k", "value": "v"})), &[], &node, Ok(()));
    check(&with(json!({"key": "k", "value": "w"})), &[], &node, rejected);
    check(&with(json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"})), &[], &node, rejected);
    check(&with(json!({"key": "k", "operator": "Odd", "value": "v"})), &[], &node, rejected);
    let mut of_file = pod(json!({}));
    of_file.metadata.annotations =
        Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
    check(&of_file, &[], &node, Ok(()));
}

#[test]
fn apparmor_needs_the_kernel_and_a_name() {
    let with = |kind: &str, name: &str| {
        pod(json!({"securityContext": {"appArmorProfile": {"type": kind, "localhostProfile": name}}}))
    };
    let without = NodeFacts { apparmor: false, ..node() };
    let rejected = Err(("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"));
    check(&with("RuntimeDefault", ""), &[], &node(), Ok(()));
    check(&with("RuntimeDefault", ""), &[], &without, rejected);
    check(&with("Unconfined", ""), &[], &without, Ok(()));
    check(
        &with("Localhost", " "),
        &[],
        &node(),
        Err(("AppArmor", "Cannot enforce AppArmor: invalid empty AppArmor profile name")),
    );
    let mut running = with("RuntimeDefault", "");
    running.status.as_mut().unwrap().phase = Some("Running".into());
    check(&running, &[], &without, Ok(()));
}

#[test]
fn a_node_that_shuts_down_takes_nothing() {
    check(
        &pod(json!({})),
        &[],
        &NodeFacts { shutting_down: true, ..node() },
        Err(("NodeShutdown", "Pod was rejected as the node is shutting down.")),
    );
}

#[test]
fn kinds_of_pods() {
    let with = |key: &str, value: &str, priority: i32, class: &str| {
        let mut pod = pod(json!({"priority": priority, "priorityClassName": class}));
        pod.metadata.annotations = Some([(key.to_owned(), value.to_owned())].into());
        (is_static_pod(&pod), is_mirror_pod(&pod), is_critical_pod(&pod), is_node_critical_pod(&pod))
    };
    assert_eq!(with("x", "", 0, ""), (false, false, false, false));
    assert_eq!(with("kubernetes.io/config.source", "file", 0, ""), (true, false, true, false));
    assert_eq!(with("kubernetes.io/config.source", "api", 0, ""), (false, false, false, false));
    assert_eq!(
        with("kubernetes.io/config.mirror", "h", 0, "system-node-critical"),
        (false, true, true, true)
    );
    assert_eq!(with("x", "", 2_000_000_000, "system-cluster-critical"), (false, false, true, false));
    assert_eq!(with("x", "", 1_999_999_999, "system-node-critical"), (false, false, false, false));
}
