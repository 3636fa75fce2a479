//! Tables of security contexts: pod and container fields in, the effective context out.

use serde_json::{Value, json};

use super::*;

fn pod(pod_context: Value, spec: Value) -> Pod {
    let mut spec = spec;
    spec["containers"] = json!([]);
    spec["securityContext"] = pod_context;
    serde_json::from_value(
        json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": spec}),
    )
    .unwrap()
}

fn container(context: Value) -> Container {
    serde_json::from_value(json!({"name": "app", "securityContext": context})).unwrap()
}

fn facts() -> SecurityFacts {
    SecurityFacts { seccomp_root: "/root-dir/seccomp".into(), ..SecurityFacts::default() }
}

fn effective(pod_context: Value, context: Value, user: ImageUser) -> EffectiveSecurity {
    effective_security(&pod(pod_context, json!({})), &container(context), &user, None, &facts()).unwrap()
}

#[test]
fn nothing_said_is_root_with_the_usual_paths_hidden() {
    let found = effective(json!({}), Value::Null, ImageUser::Unset);
    assert_eq!(found.run_as_user, Some(0));
    assert_eq!(found.masked_paths, MASKED_PATHS);
    assert_eq!(found.readonly_paths, READONLY_PATHS);
    assert_eq!(found.seccomp, Profile::Unconfined);
    assert_eq!((found.apparmor, found.capabilities, found.se_linux), (None, None, None));
    assert!(!found.privileged && !found.read_only_root && !found.no_new_privileges);
    assert!(found.supplemental_groups.is_empty());
}

#[test]
fn the_container_overrides_the_pod() {
    let of_pod = json!({"runAsUser": 1, "runAsGroup": 2, "seLinuxOptions": {"level": "s0"}});
    let found = effective(
        of_pod.clone(),
        json!({"runAsUser": 3, "seLinuxOptions": {"type": "t"}}),
        ImageUser::Uid(9),
    );
    assert_eq!((found.run_as_user, found.run_as_group), (Some(3), Some(2)));
    assert_eq!(found.se_linux.unwrap().type_.as_deref(), Some("t"));
    let found = effective(of_pod, json!({"runAsGroup": 4}), ImageUser::Name("www".into()));
    assert_eq!(
        (found.run_as_user, found.run_as_group, found.run_as_username.as_str()),
        (Some(1), Some(4), "")
    );
    assert_eq!(found.se_linux.unwrap().level.as_deref(), Some("s0"));
}

#[test]
fn the_image_decides_the_user_last() {
    let found = effective(json!({}), json!({}), ImageUser::Uid(7));
    assert_eq!((found.run_as_user, found.run_as_username.as_str()), (Some(7), ""));
    let found = effective(json!({}), json!({}), ImageUser::Name("www".into()));
    assert_eq!((found.run_as_user, found.run_as_username.as_str()), (None, "www"));
}

#[test]
fn flags_capabilities_and_proc_mount() {
    let found = effective(
        json!({}),
        json!({"privileged": true, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
               "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "procMount": "Unmasked"}),
        ImageUser::Unset,
    );
    assert!(found.privileged && found.read_only_root && found.no_new_privileges);
    assert_eq!(found.capabilities, Some((vec!["NET_ADMIN".into()], vec!["ALL".into()])));
    assert!(found.masked_paths.is_empty() && found.readonly_paths.is_empty());
    assert!(
        !effective(json!({}), json!({"allowPrivilegeEscalation": true}), ImageUser::Unset).no_new_privileges
    );
}

#[test]
fn groups_come_from_fs_group_pod_and_volumes() {
    let pod = pod(
        json!({"fsGroup": 5, "supplementalGroups": [6, 7], "supplementalGroupsPolicy": "Strict"}),
        json!({}),
    );
    let facts = SecurityFacts { volume_groups: vec![8], ..facts() };
    let found = effective_security(&pod, &container(json!({})), &ImageUser::Unset, None, &facts).unwrap();
    assert_eq!(found.supplemental_groups, [5, 6, 7, 8]);
    assert_eq!(found.supplemental_groups_policy, SupplementalGroupsPolicy::Strict);
}

#[test]
fn an_unknown_groups_policy_is_an_error() {
    let pod = pod(json!({"supplementalGroupsPolicy": "Odd"}), json!({}));
    assert_eq!(
        supplemental_groups_policy(&pod).unwrap_err().to_string(),
        "unsupported supplementalGroupsPolicy: Odd"
    );
}

#[track_caller]
fn seccomp(of_pod: Value, own: Value, default: bool, expected: Result<Profile, &str>) {
    let facts = SecurityFacts { seccomp_default: default, ..facts() };
    let pod = pod(json!({"seccompProfile": of_pod}), json!({}));
    let found = seccomp_profile(&pod, &container(json!({"seccompProfile": own})), &facts);
    assert_eq!(found.map_err(|error| error.to_string()), expected.map_err(str::to_owned));
}

#[test]
fn seccomp_profiles() {
    let local = |file: &str| json!({"type": "Localhost", "localhostProfile": file});
    let at = |path: &str| Ok(Profile::Localhost(path.to_owned()));
    let runtime = json!({"type": "RuntimeDefault"});
    let unconfined = json!({"type": "Unconfined"});
    seccomp(Value::Null, Value::Null, false, Ok(Profile::Unconfined));
    seccomp(Value::Null, Value::Null, true, Ok(Profile::RuntimeDefault));
    seccomp(Value::Null, unconfined.clone(), true, Ok(Profile::Unconfined));
    seccomp(runtime.clone(), Value::Null, false, Ok(Profile::RuntimeDefault));
    seccomp(runtime, unconfined, false, Ok(Profile::Unconfined));
    seccomp(Value::Null, local("p/a.json"), false, at("/root-dir/seccomp/p/a.json"));
    seccomp(Value::Null, local("/p//./a.json"), false, at("/root-dir/seccomp/p/a.json"));
    seccomp(local("b.json"), Value::Null, true, at("/root-dir/seccomp/b.json"));
    seccomp(
        Value::Null,
        local(""),
        false,
        Err("localhostProfile must be set if seccompProfile type is Localhost"),
    );
    seccomp(
        Value::Null,
        local("../../etc/shadow"),
        false,
        Err(
            "seccomp localhostProfile \"../../etc/shadow\" must stay below the profile directory: \"..\" is not allowed",
        ),
    );
}

#[track_caller]
fn apparmor(of_pod: Value, annotation: Option<&str>, own: Value, expected: Option<Profile>, required: bool) {
    let mut pod = pod(json!({"appArmorProfile": of_pod}), json!({}));
    let own = container(json!({"appArmorProfile": own}));
    pod.spec.as_mut().unwrap().containers = vec![own.clone()];
    let key = format!("container.apparmor.security.beta.kubernetes.io/{}", own.name);
    pod.metadata.annotations = annotation.map(|text| [(key, text.to_owned())].into());
    assert_eq!(apparmor_profile(&pod, &own).unwrap(), expected);
    assert_eq!(requires_apparmor(&pod), required);
}

#[test]
fn apparmor_fields_first_then_annotations_then_the_pod() {
    let local = || Some(Profile::Localhost("p".into()));
    let field = |kind: &str| json!({"type": kind, "localhostProfile": (kind == "Localhost").then_some("p")});
    apparmor(Value::Null, None, Value::Null, None, false);
    apparmor(Value::Null, None, field("Localhost"), local(), true);
    apparmor(field("RuntimeDefault"), None, Value::Null, Some(Profile::RuntimeDefault), true);
    apparmor(field("RuntimeDefault"), Some("localhost/p"), Value::Null, local(), true);
    apparmor(
        field("RuntimeDefault"),
        Some("localhost/q"),
        field("Unconfined"),
        Some(Profile::Unconfined),
        true,
    );
    apparmor(Value::Null, Some("runtime/default"), Value::Null, Some(Profile::RuntimeDefault), true);
    apparmor(Value::Null, Some("unconfined"), Value::Null, Some(Profile::Unconfined), false);
    apparmor(Value::Null, Some("odd"), Value::Null, None, true);
    assert_eq!(local().map(|p| apparmor_legacy_name(&p)).as_deref(), Some("localhost/p"));
}

#[track_caller]
fn non_root(of_pod: Value, own: Value, user: ImageUser, expected: Result<(), &str>) {
    let found =
        verify_non_root(&pod(of_pod, json!({})), &container(own), &user).map_err(|error| error.to_string());
    assert_eq!(found.as_ref().map_err(String::as_str).copied(), expected);
}

#[test]
fn run_as_non_root_is_verified_by_number() {
    let set = json!({"runAsNonRoot": true});
    non_root(json!({}), json!({}), ImageUser::Unset, Ok(()));
    non_root(set.clone(), json!({}), ImageUser::Uid(1), Ok(()));
    non_root(set.clone(), json!({"runAsNonRoot": false}), ImageUser::Unset, Ok(()));
    non_root(set.clone(), json!({"runAsUser": 5}), ImageUser::Unset, Ok(()));
    non_root(
        set.clone(),
        json!({"runAsUser": 0}),
        ImageUser::Uid(1),
        Err("container's runAsUser breaks non-root policy (pod: \"web_shop(u)\", container: app)"),
    );
    non_root(
        set.clone(),
        json!({}),
        ImageUser::Unset,
        Err("container has runAsNonRoot and image will run as root (pod: \"web_shop(u)\", container: app)"),
    );
    non_root(
        set.clone(),
        json!({}),
        ImageUser::Uid(0),
        Err("container has runAsNonRoot and image will run as root (pod: \"web_shop(u)\", container: app)"),
    );
    non_root(
        set.clone(),
        json!({}),
        ImageUser::Name("www".into()),
        Err(
            "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root \
             (pod: \"web_shop(u)\", container: app)",
        ),
    );
    non_root(
        set,
        json!({}),
        ImageUser::Uid(-1),
        Err(
            "container has runAsNonRoot and image has an invalid user id (-1). (Must be 1-(2147483647)): must be \
             between 0 and 2147483647, inclusive (pod: \"web_shop(u)\", container: app)",
        ),
    );
}

#[test]
fn namespaces_follow_the_spec() {
    use NamespaceMode::{Container as Own, Node, Pod as Shared};
    let of = |spec: Value| pod_namespaces(&pod(json!({}), spec), &UserNamespaceFacts::default()).unwrap();
    let modes = |spec: Value| {
        let found = of(spec);
        (found.network, found.pid, found.ipc)
    };
    assert_eq!(modes(json!({})), (Shared, Own, Shared));
    assert_eq!(modes(json!({"hostNetwork": true})), (Node, Own, Shared));
    assert_eq!(modes(json!({"hostPID": true, "shareProcessNamespace": true})), (Shared, Node, Shared));
    assert_eq!(modes(json!({"shareProcessNamespace": true, "hostIPC": true})), (Shared, Shared, Node));
    assert_eq!(of(json!({"hostUsers": true})).user, UserNamespace::Node);
}

#[test]
fn an_ephemeral_container_joins_its_target() {
    let target = ContainerId::from("abc");
    let of = |spec: Value| {
        container_namespaces(&pod(json!({}), spec), Some(&target), &UserNamespaceFacts::default())
            .unwrap()
            .pid
    };
    assert_eq!(of(json!({})), NamespaceMode::Target(target.clone()));
    assert_eq!(of(json!({"hostPID": true})), NamespaceMode::Node);
    assert_eq!(of(json!({"shareProcessNamespace": true})), NamespaceMode::Pod);
}

#[test]
fn user_namespaces_need_support_and_a_range() {
    let pod = pod(json!({}), json!({"hostUsers": false}));
    let range = IdMapping { host_id: 65536, container_id: 0, length: 65536 };
    let check = |supported, handler: &str, range, expected: Result<UserNamespace, &str>| {
        let facts = UserNamespaceFacts { supported, handler: handler.into(), range };
        let found = pod_namespaces(&pod, &facts).map(|n| n.user).map_err(|error| error.to_string());
        assert_eq!(found, expected.map_err(str::to_owned));
    };
    check(true, "", Some(range), Ok(UserNamespace::Pod(range)));
    check(
        false,
        "",
        None,
        Err("can't set `spec.hostUsers: false`, runtime does not support user namespaces"),
    );
    check(
        false,
        "kata",
        Some(range),
        Err(
            "can't set `spec.hostUsers: false`, RuntimeClass handler \"kata\" does not support user namespaces",
        ),
    );
    check(true, "", None, Err("create user namespace: no range of user IDs is set aside for the pod"));
}

#[test]
fn sysctl_names_are_normalised() {
    let check = |name: &str, expected: &str| {
        let pod = pod(json!({"sysctls": [{"name": name, "value": "1"}]}), json!({}));
        assert_eq!(normal_sysctls(&pod).into_keys().collect::<Vec<_>>(), [expected]);
    };
    check("net.ipv4.tcp_rmem", "net.ipv4.tcp_rmem");
    check("net/ipv4/conf/eno2.100/rp_filter", "net.ipv4.conf.eno2/100.rp_filter");
    check("net.ipv4.conf.eno2/100.rp_filter", "net.ipv4.conf.eno2/100.rp_filter");
    check("kernel", "kernel");
}

#[test]
fn any_privileged_container_makes_the_sandbox_privileged() {
    let check = |list: &str, expected: bool| {
        let mut spec = json!({"containers": [{"name": "a"}]});
        spec[list] = json!([{"name": "b", "securityContext": {"privileged": true}}]);
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        assert_eq!(has_privileged_container(&pod), expected, "{list}");
    };
    check("containers", true);
    check("initContainers", true);
    check("ephemeralContainers", true);
    check("other", false);
}
