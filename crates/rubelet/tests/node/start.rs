//! What a started pod is like: status, logs, environment, identity, namespaces.

use std::fs;

use crate::node::{CONTAINER_LOGS, NAME, Node};
use crate::pods::{self, condition, container, container_id, status};
use crate::wait::{self, PATIENCE};

#[test]
fn a_plain_pod_runs_and_its_status_says_so() {
    let node = Node::start();
    node.apply(
        "plain",
        "
containers:
- name: main
  image: $IMAGE
  command: [sh, -c, 'echo hello; echo problem >&2; exec sleep 1000']
",
    );
    let pod = node.wait_ready("plain");
    for kind in ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready", "PodScheduled"] {
        assert!(condition(&pod, kind), "{kind}: {:?}", status(&pod).conditions);
    }
    let told = status(&pod);
    let ip = told.pod_ip.clone().unwrap();
    assert!(ip.starts_with("10."), "{ip}");
    assert_eq!(told.pod_ips.unwrap()[0].ip, ip);
    assert!(told.host_ip.is_some() && told.start_time.is_some());
    assert_eq!(told.qos_class.as_deref(), Some("BestEffort"));
    assert_eq!(pod.spec.as_ref().unwrap().node_name.as_deref(), Some(NAME));
    let main = container(&pod, "main");
    assert!(main.ready && main.started == Some(true) && main.restart_count == 0);
    assert!(main.container_id.unwrap().starts_with("containerd://"));
    assert_eq!(main.image, "rubelet.local/busybox:1");
    assert!(main.image_id.contains("sha256:"), "{}", main.image_id);

    assert_eq!(node.wait_log(&pod, "main", "problem").lines().count(), 2);
    let log = node.log_dir(&pod).join("main/0.log");
    let raw = fs::read_to_string(&log).unwrap();
    assert!(raw.contains(" stdout F hello\n") && raw.contains(" stderr F problem\n"), "{raw}");
    let link = format!("plain-{NAME}_default_main-{}.log", container_id(&pod, "main"));
    assert_eq!(fs::read_link(std::path::Path::new(CONTAINER_LOGS).join(link)).unwrap(), log);
    assert!(!node.cgroups(&pods::uid(&pod)).is_empty(), "the pod has no control group");
}

#[test]
fn the_environment_is_expanded_and_knows_the_pod() {
    let node = Node::start();
    node.write_manifest(
        "env.yaml",
        b"
apiVersion: v1
kind: Pod
metadata:
  name: env
  labels: {tier: back}
  annotations: {note: hi}
spec:
  serviceAccountName: robot
  containers:
  - name: main
    image: $IMAGE
    command: [sh, -c, 'env; echo \"args: $*\"; exec sleep 1000', sh]
    args: ['$(A)', b, '$(B)/$(NOPE)/$$(A)']
    workingDir: /tmp
    resources: {limits: {cpu: 1500m, memory: 64Mi}}
    env:
    - {name: A, value: one}
    - {name: B, value: $(A)-two}
    - {name: C, value: $(LATER)}
    - {name: D, value: $$(A)}
    - {name: LATER, value: x}
    - {name: E_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: E_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: E_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    - {name: E_LABEL, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['tier']\"}}}
    - {name: E_ANNOTATION, valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['note']\"}}}
    - {name: E_NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: E_POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: E_POD_IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
    - {name: E_HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: E_CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    - {name: E_CPU_MILLI, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
    - {name: E_MEMORY, valueFrom: {resourceFieldRef: {resource: requests.memory, divisor: 1Mi}}}
",
    );
    // A service account is an API object, so the pod must not name one.
    node.wait_agent_log(&["env.yaml", "serviceAccount"]);
    let text = fs::read_to_string(node.manifest_file("env.yaml")).unwrap();
    node.write_manifest("env.yaml", text.replace("  serviceAccountName: robot\n", "").as_bytes());

    let pod = node.wait_ready("env");
    let log = node.wait_log(&pod, "main", "args:");
    let told = status(&pod);
    let (ip, host_ip) = (told.pod_ip.unwrap(), told.host_ip.unwrap());
    for line in [
        "A=one",
        "B=one-two",
        "C=$(LATER)",
        "D=$(A)",
        &format!("E_NAME=env-{NAME}"),
        "E_NAMESPACE=default",
        &format!("E_UID={}", pods::uid(&pod)),
        "E_LABEL=back",
        "E_ANNOTATION=hi",
        &format!("E_NODE={NAME}"),
        &format!("E_POD_IP={ip}"),
        &format!("E_POD_IPS={ip}"),
        &format!("E_HOST_IP={host_ip}"),
        "E_CPU=2",
        "E_CPU_MILLI=1500",
        "E_MEMORY=64",
        "PWD=/tmp",
        &format!("HOSTNAME=env-{NAME}"),
        "args: one b one-two/$(NOPE)/$(A)",
    ] {
        assert!(log.lines().any(|said| said == line), "no line {line:?} in:\n{log}");
    }
    assert_eq!(told.qos_class.as_deref(), Some("Guaranteed"));
}

#[test]
fn a_pod_that_has_ended_is_not_started_again_by_a_new_agent() {
    let mut node = Node::start();
    node.apply(
        "once",
        "
restartPolicy: Never
containers:
- {name: good, image: $IMAGE, command: [sh, -c, 'echo good >> /share/runs']
  , volumeMounts: [{name: share, mountPath: /share}]}
volumes: [{name: share, hostPath: {path: $SHARE}}]
",
    );
    let before = node.wait_phase("once", "Succeeded");
    assert_eq!(pods::state(&before, "good"), "terminated Completed 0");
    assert!(!condition(&before, "Ready"));
    let reason = status(&before).conditions.unwrap().into_iter().find(|c| c.type_ == "Ready").unwrap().reason;
    assert_eq!(reason.as_deref(), Some("PodCompleted"));
    for kill in [true, false] {
        if kill {
            node.kill_agent()
        } else {
            node.stop_agent()
        }
        node.start_agent();
        // A second pod that starts and ends shows that the agent is through with its first looks.
        let name = if kill { "after-kill" } else { "after-stop" };
        node.apply(name, "restartPolicy: Never\ncontainers:\n- {name: c, image: $IMAGE, command: ['true']}");
        node.wait_phase(name, "Succeeded");
        let after = node.pod("once");
        assert_eq!(pods::phase(&after), "Succeeded");
        assert_eq!(container_id(&after, "good"), container_id(&before, "good"));
        assert_eq!(pods::ended(&after, "good"), pods::ended(&before, "good"));
        assert_eq!(node.lines("runs"), ["good"]);
    }
    assert_eq!(node.container_log(&before, "good", 0), "");
    assert!(node.log_dir(&before).join("good/0.log").exists(), "logs stay while the pod is wanted");
}

#[test]
fn containers_share_what_the_pod_says_they_share() {
    let node = Node::start();
    let two = "
containers:
- {name: one, image: $IMAGE, command: [sh, -c, 'exec sleep 1234']}
- {name: two, image: $IMAGE, command: [sh, -c, 'ps; ls /proc/sys/net/ipv4/conf; hostname; echo all $((1 + 1)) told; exec sleep 1000']}
";
    node.apply("apart", two);
    node.apply("together", &format!("shareProcessNamespace: true{two}"));
    node.apply("host", &format!("hostPID: true\nhostIPC: true\nhostNetwork: true{two}"));
    let says = |name: &str| {
        let pod = node.wait_ready(name);
        (node.wait_log(&pod, "two", "all 2 told"), pod)
    };
    let (apart, _) = says("apart");
    assert!(apart.contains("eth0"), "{apart}");
    assert!(!apart.contains("sleep 1234") && !apart.contains("pause"), "{apart}");
    let (together, _) = says("together");
    assert!(together.contains("sleep 1234") && together.contains("pause"), "{together}");
    let (host, pod) = says("host");
    assert!(host.contains("rubelet"), "the node's processes are not in:\n{host}");
    assert!(host.contains("rblt"), "the node's bridges are not in:\n{host}");
    let node_name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(host.lines().rev().nth(1), Some(node_name.trim()), "{host}");
    assert_eq!(status(&pod).pod_ip, status(&pod).host_ip);
}

#[test]
fn many_pods_start_beside_one_that_cannot() {
    let node = Node::start();
    node.apply("stuck", "containers:\n- {name: c, image: $IMAGE, command: [/no/such/program]}");
    for number in 0..12 {
        node.apply(
            &format!("p{number}"),
            "containers:\n- {name: c, image: $IMAGE, command: [sleep, '1000']}",
        );
    }
    for number in 0..12 {
        node.wait_ready(&format!("p{number}"));
    }
    node.wait_pod("stuck", "to say what is wrong", |pod| {
        pods::state(pod, "c").contains("RunContainerError")
            || pods::state(pod, "c").contains("CrashLoopBackOff")
    });
    wait::until("the reason to be told", PATIENCE, || {
        let text = format!("{:?}", container(&node.pod("stuck"), "c"));
        if text.contains("no/such/program") { Ok(()) } else { Err(text) }
    });
}
