//! Tables of configurations: a pod as JSON in, single fields of the wire messages out. Plain values are compared
//! field by field, so that a failing test shows one line instead of two messages.

use rubelet_core::security::{IdMapping, UserNamespaceFacts};
use serde_json::{Value, json};

use super::*;
use crate::v1::NamespaceMode;

fn pod(spec: Value) -> Pod {
    let mut spec = spec;
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "app", "image": "busybox"}]);
    }
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "labels": {"l": "1"}, "annotations": {"a": "2"}},
        "spec": spec,
    }))
    .unwrap()
}

fn security() -> SecurityFacts {
    SecurityFacts { seccomp_root: "/root-dir/seccomp".into(), ..SecurityFacts::default() }
}

fn sandbox_with(pod: &Pod, security: &SecurityFacts) -> Result<v1::PodSandboxConfig, TranslateError> {
    let dns = DnsSettings {
        servers: vec!["10.0.0.10".into()],
        searches: vec!["x".into()],
        options: vec!["ndots:5".into()],
    };
    let facts = SandboxFacts {
        attempt: 2,
        dns: &dns,
        cluster_domain: "cluster.local",
        log_directory: Path::new("/logs/shop_web_u-1"),
        cgroup_parent: "/kubepods/besteffort/podu-1",
        exclusive_cpus: false,
        security,
        resources: &ResourceFacts::default(),
    };
    sandbox_config(pod, &facts)
}

fn sandbox(spec: Value) -> v1::PodSandboxConfig {
    sandbox_with(&pod(spec), &security()).unwrap()
}

/// What a test changes about a container's surroundings.
#[derive(Default)]
struct Around {
    user: ImageUser,
    mounts: Vec<v1::Mount>,
    devices: DeviceInputs,
    target: Option<ContainerId>,
    user_namespace: UserNamespaceFacts,
    resources: ResourceFacts,
}

fn container_with(spec: Value, around: &Around) -> Result<v1::ContainerConfig, TranslateError> {
    let pod = pod(spec);
    let container = pod.spec.as_ref().unwrap().containers[0].clone();
    let env =
        [EnvVar { name: "A".into(), value: "1".into() }, EnvVar { name: "B".into(), value: "2".into() }];
    let security = SecurityFacts { user_namespace: around.user_namespace.clone(), ..security() };
    let inputs = ContainerInputs {
        restart_count: 3,
        image_ref: "sha256:abc",
        image_user: &around.user,
        env: &env,
        mounts: &around.mounts,
        devices: &around.devices,
        target: around.target.as_ref(),
        exclusive_cpus: false,
        security: &security,
        resources: &around.resources,
    };
    container_config(&pod, &container, &inputs)
}

fn container(fields: Value) -> v1::ContainerConfig {
    let mut fields = fields;
    fields["name"] = "app".into();
    fields["image"] = "busybox".into();
    container_with(json!({"containers": [fields]}), &Around::default()).unwrap()
}

fn linux(config: v1::ContainerConfig) -> v1::LinuxContainerSecurityContext {
    config.linux.unwrap().security_context.unwrap()
}

#[test]
fn a_sandbox_says_who_it_is() {
    let config = sandbox(json!({}));
    let metadata = config.metadata.unwrap();
    assert_eq!(
        (metadata.name.as_str(), metadata.namespace.as_str(), metadata.uid.as_str()),
        ("web", "shop", "u-1")
    );
    assert_eq!((metadata.attempt, config.hostname.as_str()), (2, "web"));
    assert_eq!(config.log_directory, "/logs/shop_web_u-1");
    assert_eq!(config.dns_config.unwrap().servers, ["10.0.0.10"]);
    assert_eq!(config.labels.len(), 4);
    assert_eq!(config.labels["io.kubernetes.pod.uid"], "u-1");
    assert_eq!(config.annotations["a"], "2");
    let linux = config.linux.unwrap();
    assert_eq!(linux.cgroup_parent, "/kubepods/besteffort/podu-1");
    assert_eq!(linux.resources.unwrap().cpu_shares, 2);
    assert_eq!(linux.overhead, Some(v1::LinuxContainerResources::default()));
}

#[test]
fn host_network_has_no_host_name_and_a_bad_one_is_an_error() {
    assert_eq!(sandbox(json!({"hostNetwork": true, "hostname": "x"})).hostname, "");
    assert_eq!(
        sandbox(json!({"hostname": "x", "subdomain": "s", "setHostnameAsFQDN": true})).hostname,
        "x.s.shop.svc.cluster.local"
    );
    let error = sandbox_with(&pod(json!({"hostname": "Bad"})), &security()).unwrap_err();
    assert_eq!(error.to_string(), "pod Hostname \"Bad\" is not a valid DNS label");
}

#[test]
fn ports_of_all_app_containers_are_mapped_once() {
    let ports = sandbox(json!({"containers": [
        {"name": "a", "ports": [
            {"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1", "protocol": "TCP"},
            {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "UDP"},
            {"name": "x", "containerPort": 1}, {"name": "x", "containerPort": 2}]},
        {"name": "b", "ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 9, "protocol": "SCTP"}]}],
        "initContainers": [{"name": "i", "ports": [{"containerPort": 7}]}]}))
    .port_mappings;
    let lines: Vec<String> = ports
        .iter()
        .map(|p| {
            format!("{} {}:{}->{}", p.protocol().as_str_name(), p.host_ip, p.host_port, p.container_port)
        })
        .collect();
    assert_eq!(lines, ["TCP 127.0.0.1:8080->80", "UDP :0->53", "TCP :0->1", "UDP :0->53", "SCTP :0->9"]);
}

#[test]
fn a_sandbox_carries_the_pods_security_context() {
    let spec = json!({"hostPID": true, "securityContext": {"runAsUser": 5, "runAsGroup": 6, "fsGroup": 7,
        "supplementalGroups": [8], "supplementalGroupsPolicy": "Strict", "seLinuxOptions": {"level": "s0"},
        "seccompProfile": {"type": "Unconfined"}, "sysctls": [{"name": "net/ipv4/x", "value": "1"}]},
        "containers": [{"name": "a", "securityContext": {"privileged": true}}]});
    let facts = SecurityFacts { volume_groups: vec![9], ..security() };
    let linux = sandbox_with(&pod(spec), &facts).unwrap().linux.unwrap();
    assert_eq!(linux.sysctls["net.ipv4.x"], "1");
    let context = linux.security_context.unwrap();
    assert_eq!((context.run_as_user.unwrap().value, context.run_as_group.unwrap().value), (5, 6));
    assert_eq!(context.supplemental_groups, [7, 9, 8]);
    assert_eq!(context.supplemental_groups_policy(), v1::SupplementalGroupsPolicy::Strict);
    assert_eq!(context.selinux_options.as_ref().unwrap().level, "s0");
    assert!(context.privileged);
    assert_eq!(
        context.seccomp.as_ref().unwrap().profile_type(),
        v1::security_profile::ProfileType::RuntimeDefault
    );
    let namespaces = context.namespace_options.unwrap();
    assert_eq!(
        (namespaces.network(), namespaces.pid(), namespaces.ipc()),
        (NamespaceMode::Pod, NamespaceMode::Node, NamespaceMode::Pod)
    );
    assert_eq!(namespaces.userns_options.unwrap().mode(), NamespaceMode::Node);
}

#[test]
fn a_container_says_what_to_run() {
    let config =
        container(json!({"command": ["sh", "$(A)"], "args": ["$(B)$$"], "workingDir": "/w", "stdin": true,
        "stdinOnce": true, "tty": true, "lifecycle": {"stopSignal": "SIGUSR1"}}));
    let metadata = config.metadata.clone().unwrap();
    assert_eq!((metadata.name.as_str(), metadata.attempt), ("app", 3));
    let image = config.image.clone().unwrap();
    assert_eq!((image.image.as_str(), image.user_specified_image.as_str()), ("sha256:abc", "busybox"));
    assert_eq!((config.command.join(" "), config.args.join(" ")), ("sh 1".into(), "2$".into()));
    assert_eq!((config.working_dir.as_str(), config.log_path.as_str()), ("/w", "app/3.log"));
    assert!(config.stdin && config.stdin_once && config.tty);
    assert_eq!(config.stop_signal(), v1::Signal::Sigusr1);
    assert_eq!(config.envs[1], v1::KeyValue { key: "B".into(), value: b"2".to_vec() });
    assert_eq!(config.labels["io.kubernetes.container.name"], "app");
    assert_eq!(config.annotations["io.kubernetes.container.restartCount"], "3");
    assert!(!config.annotations.contains_key("a"), "pod annotations are not a container's");
}

#[test]
fn stop_signals_by_name() {
    for (name, signal) in [
        ("SIGTERM", v1::Signal::Sigterm),
        ("SIGRTMIN+3", v1::Signal::Sigrtminplus3),
        ("SIGRTMAX-1", v1::Signal::Sigrtmaxminus1),
        ("SIGODD", v1::Signal::RuntimeDefault),
    ] {
        assert_eq!(container(json!({"lifecycle": {"stopSignal": name}})).stop_signal(), signal, "{name}");
    }
    assert_eq!(container(json!({})).stop_signal(), v1::Signal::RuntimeDefault);
}

#[test]
#[expect(deprecated, reason = "the field older runtimes read has to be right as well")]
fn a_container_carries_its_security_context() {
    let context =
        linux(container(json!({"securityContext": {"privileged": true, "runAsUser": 4, "runAsGroup": 5,
        "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
        "capabilities": {"add": ["NET_RAW"], "drop": ["ALL"]},
        "appArmorProfile": {"type": "Localhost", "localhostProfile": "p"},
        "seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}}})));
    assert!(context.privileged && context.readonly_rootfs && context.no_new_privs);
    assert_eq!((context.run_as_user.unwrap().value, context.run_as_group.unwrap().value), (4, 5));
    let capabilities = context.capabilities.unwrap();
    assert_eq!(
        (capabilities.add_capabilities, capabilities.drop_capabilities),
        (vec!["NET_RAW".into()], vec!["ALL".into()])
    );
    assert_eq!(context.apparmor_profile, "localhost/p");
    assert_eq!(context.apparmor.unwrap().localhost_ref, "p");
    assert_eq!(context.seccomp.unwrap().localhost_ref, "/root-dir/seccomp/a.json");
    assert!(
        context.masked_paths.contains(&"/proc/kcore".into())
            && context.readonly_paths.contains(&"/proc/sys".into())
    );
}

#[test]
fn the_images_user_is_used_and_verified() {
    let spec = || json!({"securityContext": {"runAsNonRoot": true}});
    let by_number = container_with(spec(), &Around { user: ImageUser::Uid(7), ..Around::default() }).unwrap();
    assert_eq!(linux(by_number).run_as_user.unwrap().value, 7);
    let around = Around { user: ImageUser::Name("www".into()), ..Around::default() };
    let by_name = container_with(json!({}), &around).unwrap();
    let context = linux(by_name);
    assert_eq!((context.run_as_user, context.run_as_username.as_str()), (None, "www"));
    let error = container_with(spec(), &Around::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "container has runAsNonRoot and image will run as root (pod: \"web_shop(u-1)\", container: app)"
    );
}

#[test]
fn an_ephemeral_container_looks_at_its_target() {
    let around = Around { target: Some(ContainerId::from("target-id")), ..Around::default() };
    let config = container_with(json!({}), &around).unwrap();
    let namespaces = linux(config).namespace_options.unwrap();
    assert_eq!((namespaces.pid(), namespaces.target_id.as_str()), (NamespaceMode::Target, "target-id"));
}

#[test]
fn a_user_namespace_maps_the_mounts_too() {
    let range = IdMapping { host_id: 65536, container_id: 0, length: 65536 };
    let around = Around {
        user_namespace: UserNamespaceFacts { supported: true, handler: String::new(), range: Some(range) },
        mounts: vec![hosts_mount(Path::new("/h"), false)],
        ..Around::default()
    };
    let config = container_with(json!({"hostUsers": false}), &around).unwrap();
    let expected = vec![v1::IdMapping { host_id: 65536, container_id: 0, length: 65536 }];
    assert_eq!((&config.mounts[0].uid_mappings, &config.mounts[0].gid_mappings), (&expected, &expected));
    let user = linux(config).namespace_options.unwrap().userns_options.unwrap();
    assert_eq!((user.mode(), &user.uids, &user.gids), (NamespaceMode::Pod, &expected, &expected));
}

#[test]
fn resources_and_devices_are_passed_on() {
    let devices = DeviceInputs {
        devices: vec![v1::Device {
            container_path: "/dev/x".into(),
            host_path: "/dev/y".into(),
            permissions: "rw".into(),
        }],
        cdi_names: vec!["vendor/x=0".into()],
        annotations: [("vendor".to_owned(), "1".to_owned())].into(),
    };
    let resources = ResourceFacts {
        memory_capacity: 10 << 30,
        huge_page_sizes: vec!["2MB".into()],
        ..ResourceFacts::default()
    };
    let spec = json!({"containers": [{"name": "app", "resources": {"requests": {"cpu": "1", "memory": "5Gi"},
        "limits": {"cpu": "2", "memory": "6Gi", "hugepages-2Mi": "2Mi"}}}]});
    let config = container_with(spec, &Around { devices, resources, ..Around::default() }).unwrap();
    assert_eq!(config.devices[0].host_path, "/dev/y");
    assert_eq!(config.cdi_devices[0].name, "vendor/x=0");
    assert_eq!(config.annotations["vendor"], "1");
    let found = config.linux.unwrap().resources.unwrap();
    assert_eq!((found.cpu_shares, found.cpu_quota, found.cpu_period), (1024, 200_000, 100_000));
    assert_eq!((found.memory_limit_in_bytes, found.oom_score_adj), (6 << 30, 500));
    assert_eq!(found.hugepage_limits, [v1::HugepageLimit { page_size: "2MB".into(), limit: 2 << 20 }]);
    assert_eq!(found.unified["memory.oom.group"], "1");
}

#[test]
fn mounts_as_planned() {
    let planned = PlannedMount {
        volume: "v".into(),
        index: 0,
        container_path: "/data".into(),
        volume_path: "/vol".into(),
        sub_path: String::new(),
        read_only: true,
        recursive_read_only: true,
        relabel: true,
        propagation: rubelet_core::mounts::Propagation::Bidirectional,
    };
    let mount = volume_mount(&planned, Path::new("/vol"), true);
    assert_eq!((mount.container_path.as_str(), mount.host_path.as_str()), ("/data", "/vol"));
    assert!(mount.readonly && mount.recursive_read_only && mount.selinux_relabel);
    assert_eq!(mount.propagation(), v1::MountPropagation::PropagationBidirectional);
    assert!(!volume_mount(&planned, Path::new("/vol"), false).selinux_relabel);
    assert_eq!(hosts_mount(Path::new("/h"), false).container_path, "/etc/hosts");
    let with_path =
        |path: &str| Container { termination_message_path: Some(path.into()), ..Container::default() };
    let mount = termination_mount(&with_path("dev/log"), Path::new("/t/0000beef"), false).unwrap();
    assert_eq!(
        (mount.container_path.as_str(), mount.host_path.as_str(), mount.readonly),
        ("/dev/log", "/t/0000beef", false)
    );
    assert_eq!(termination_mount(&with_path(""), Path::new("/t"), false), None);
}

#[test]
fn a_name_that_is_no_file_name_is_refused() {
    let error = container_with(json!({"containers": [{"name": "../x"}]}), &Around::default()).unwrap_err();
    assert_eq!(error.to_string(), "container \"../x\" cannot be part of a path");
}

/// What is written on a container is what Pleg reads back: adoption after a restart depends on it.
#[test]
fn what_is_written_on_a_container_is_observed_again() {
    let pre_stop = json!({"exec": {"command": ["sh", "-c", "a && b > c"]}});
    let config = container_with(
        json!({"terminationGracePeriodSeconds": 30, "containers": [{"name": "app", "image": "busybox",
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "ports": [{"containerPort": 80}], "lifecycle": {"preStop": pre_stop.clone()}}]}),
        &Around::default(),
    )
    .unwrap();
    let running = v1::ContainerState::ContainerRunning.into();
    let sandbox =
        v1::PodSandbox { id: "s".into(), metadata: sandbox(json!({})).metadata, ..v1::PodSandbox::default() };
    let listed = v1::Container {
        id: "c".into(),
        pod_sandbox_id: "s".into(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        state: running,
        ..v1::Container::default()
    };
    let listing = crate::observe::Listing::observe(&[sandbox], &[listed]);
    let status = v1::ContainerStatus {
        id: "c".into(),
        metadata: config.metadata.clone(),
        labels: config.labels,
        annotations: config.annotations,
        state: running,
        ..v1::ContainerStatus::default()
    };
    let pod = listing.pods.values().next().unwrap();
    let (observed, problems) = crate::observe::observe_pod(pod, &[], &[status]).unwrap();
    assert_eq!(problems, []);
    let found = &observed.containers[0];
    assert_eq!((found.name.as_str(), found.attempt, found.facts.restart_count), ("app", 3, 3));
    let container = Container { name: "app".into(), image: Some("busybox".into()), ..Container::default() };
    assert_eq!(found.facts.hash, Some(rubelet_core::hash::container_hash(&container)));
    assert_eq!(found.facts.termination_message_path, "/dev/termination-log");
    assert_eq!(found.facts.termination_message_policy, "File");
    assert_eq!(
        (found.facts.pod_termination_grace_period, found.facts.pod_deletion_grace_period),
        (Some(30), None)
    );
    let handler: Value = serde_json::from_str(found.facts.pre_stop_handler.as_deref().unwrap()).unwrap();
    assert_eq!(handler, pre_stop);
    assert!(found.facts.ports.is_some());
}
