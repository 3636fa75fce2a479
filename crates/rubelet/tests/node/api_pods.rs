//! Pods from the API: what is reported of them, how they end, and those that cannot run.

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::api::node::v1::RuntimeClass;
use serde_json::json;

use crate::cluster::Cluster;
use crate::node::{NAME, free_port};
use crate::pods::{self, condition, container, status};
use crate::wait::{self, PATIENCE};

/// A pod at rest that ends when it is told to.
const REST: &str = "
terminationGracePeriodSeconds: 5
containers: [{name: c, image: $IMAGE, command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.1; done']}]
";

#[test]
fn api_a_pod_runs_and_everything_is_reported() {
    let cluster = Cluster::start();
    cluster.run("short", REST);
    cluster.wait_ready("short");
    let writes = cluster.status_writes("short");
    assert!(writes.len() <= 4, "{} status writes until Ready: {writes:#?}", writes.len());
    cluster.run(
        "plain",
        "
initContainers: [{name: first, image: $IMAGE, command: ['true']}]
containers:
- {name: main, image: $IMAGE, command: [sh, -c, 'exec sleep 1000'], resources: {requests: {cpu: 10m}}}
",
    );
    let pod = cluster.wait_ready("plain");
    for kind in ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready", "PodScheduled"] {
        assert!(condition(&pod, kind), "{kind}: {:?}", status(&pod).conditions);
    }
    // Two more are the start and the end of the init container.
    let writes = cluster.status_writes("plain");
    assert!(writes.len() <= 6, "{} status writes until Ready: {writes:#?}", writes.len());
    let told = status(&pod);
    assert!(told.pod_ip.clone().unwrap().starts_with("10."), "{:?}", told.pod_ip);
    assert_eq!(told.pod_ips.unwrap()[0].ip, told.pod_ip.unwrap());
    assert!(told.host_ip.is_some() && told.host_ips.is_some() && told.start_time.is_some());
    assert_eq!(told.qos_class.as_deref(), Some("Burstable"));
    assert_eq!(told.observed_generation, Some(1));
    assert_eq!(pods::state(&pod, "first"), "terminated Completed 0");
    let main = container(&pod, "main");
    assert!(main.ready && main.started == Some(true) && main.restart_count == 0, "{main:?}");
    assert!(main.image_id.contains("sha256:") && main.container_id.unwrap().starts_with("containerd://"));

    for (reason, path) in [("Pulled", "spec.containers{main}"), ("Started", "spec.containers{main}")] {
        wait::until(&format!("{reason} of {path}"), PATIENCE, || {
            let events = cluster.events("plain");
            let told = events.iter().any(|event| {
                event.reason.as_deref() == Some(reason)
                    && event.involved_object.field_path.as_deref() == Some(path)
            });
            if told { Ok(()) } else { Err(format!("{} others", events.len())) }
        });
    }
    let event = cluster.wait_event("plain", "Created");
    assert_eq!(event.involved_object.uid, pod.metadata.uid);
    assert_eq!(event.source.unwrap().component.as_deref(), Some("kubelet"));
    assert_eq!(event.reporting_instance.as_deref(), Some(NAME));
}

#[test]
fn api_a_deleted_pod_is_there_until_its_containers_are_gone() {
    let cluster = Cluster::start();
    cluster.run(
        "slow",
        "
terminationGracePeriodSeconds: 20
containers:
- name: c
  image: $IMAGE
  command: [sh, -c, 'trap \"touch /share/told\" TERM; until [ -e /share/told ]; do sleep 0.05; done; until [ -e /share/go ]; do sleep 0.05; done']
  volumeMounts: [{name: share, mountPath: /share}]
volumes: [{name: share, hostPath: {path: $SHARE}}]
",
    );
    let pod = cluster.wait_ready("slow");
    assert!(cluster.api.delete::<Pod>("default", "slow"));
    wait::until("the signal", PATIENCE, || {
        if cluster.node.share("told").exists() { Ok(()) } else { Err(String::new()) }
    });
    let ending = cluster.pod("slow");
    assert!(ending.metadata.deletion_timestamp.is_some());
    assert_eq!(cluster.containers_of(&pod).len(), 2, "container and sandbox");
    std::fs::write(cluster.node.share("go"), "").unwrap();
    // The object goes only after the containers: the last look before it went must not have found them both.
    wait::until("the pod to be gone", PATIENCE, || {
        let left = cluster.node.runtime.ctr(&["tasks", "ls", "-q"]);
        match cluster.try_pod("slow") {
            Ok(_) => Err(left),
            Err(_) => Ok(()),
        }
    });
    let running = cluster.node.runtime.ctr(&["tasks", "ls", "-q"]);
    let left = cluster.containers_of(&pod);
    assert!(left.iter().all(|id| !running.contains(id.as_str())), "{left:?} in {running}");
    cluster.wait_nothing_left(&pod);
    let last = cluster.api.history::<Pod>(&pods::uid(&pod)).pop().unwrap();
    assert_eq!(
        (pods::phase(&last), pods::state(&last, "c")),
        ("Succeeded".into(), "terminated Completed 0".into())
    );
    cluster.wait_event("slow", "Killing");
}

#[test]
fn api_a_pod_deleted_by_force_leaves_nothing_and_its_name_is_free_at_once() {
    let cluster = Cluster::start();
    let old = cluster.run("same", REST);
    cluster.wait_ready("same");
    assert!(cluster.api.delete_with_grace::<Pod>("default", "same", 0));
    assert!(cluster.try_pod("same").is_err());
    let new = cluster.run("same", REST);
    cluster.wait_nothing_left(&old);
    let ready = cluster.wait_ready("same");
    assert_eq!(ready.metadata.uid, new.metadata.uid);
}

#[test]
fn api_a_pod_whose_image_cannot_be_had_can_be_deleted() {
    let cluster = Cluster::start();
    // A port on which nobody listens: the registry is unreachable at once.
    let image = format!("127.0.0.1:{}/team/app:1", free_port());
    let pod = cluster.run("never", &format!("containers: [{{name: c, image: '{image}'}}]"));
    cluster.wait_state("never", "c", "waiting ImagePullBackOff");
    let event = cluster.wait_event("never", "Failed");
    assert_eq!(event.involved_object.field_path.as_deref(), Some("spec.containers{c}"));
    cluster.api.delete::<Pod>("default", "never");
    cluster.wait_gone(&pod);
    cluster.wait_nothing_left(&pod);
}

#[test]
fn api_pods_that_do_not_fit_fail_with_the_reason() {
    let cluster = Cluster::start();
    let pod =
        |more: &str| format!("containers: [{{name: c, image: $IMAGE, command: [sleep, '1000'], {more}}}]");
    cluster.run("big", &pod("resources: {requests: {cpu: '1000'}}"));
    cluster.run("elsewhere", &format!("nodeSelector: {{disk: ssd}}\n{}", pod("")));
    cluster.run("good", REST);
    for (name, reason) in [("big", "OutOfcpu"), ("elsewhere", "NodeAffinity")] {
        let pod = cluster.wait_phase(name, "Failed");
        let told = status(&pod);
        assert_eq!(told.reason.as_deref(), Some(reason));
        assert!(told.message.is_some_and(|message| message.starts_with("Pod was rejected: ")));
        cluster.wait_event(name, reason);
        assert!(cluster.containers_of(&pod).is_empty());
    }
    let ready = cluster.wait_ready("good");
    cluster.api.delete_with_grace::<Pod>("default", "big", 1);
    cluster.api.delete_with_grace::<Pod>("default", "elsewhere", 1);
    wait::until("rejected pods to go", PATIENCE, || {
        let left = cluster.api.list::<Pod>("default").len();
        if left == 1 { Ok(()) } else { Err(format!("{left} pods")) }
    });
    assert_eq!(pods::restarts(&ready, "c"), 0);
}

#[test]
fn api_a_pod_that_cannot_be_decoded_hides_no_other() {
    let cluster = Cluster::start();
    cluster.api.put_raw(&json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "odd", "namespace": "default", "uid": "11111111-1111-1111-1111-111111111111",
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": NAME, "containers": "none"}, "status": {"phase": "Pending"}}));
    cluster.run("good", REST);
    cluster.wait_ready("good");
    println!("{}", cluster.node.wait_agent_log(&["default/odd"]));
    cluster.node.wait_agent_log(&["default/odd", "containers"]);
}

#[test]
fn api_a_missing_runtime_class_is_named() {
    let cluster = Cluster::start();
    cluster.api.create_json(&json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
        "metadata": {"name": "special"}, "handler": "runc"}));
    cluster.create(&cluster.pod_json("classy", &format!("runtimeClassName: special\n{REST}")));
    cluster.api.delete::<RuntimeClass>("", "special");
    cluster.api.bind("default", "classy", NAME);
    let event = cluster.wait_event("classy", "FailedCreatePodSandBox");
    let message = event.message.unwrap();
    println!("{message}");
    assert!(message.contains("RuntimeClass") && message.contains("special"), "{message}");
    // It comes back: the pod goes on by itself.
    cluster.api.create_json(&json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
        "metadata": {"name": "special"}, "handler": "runc"}));
    cluster.wait_ready("classy");
}

#[test]
fn api_a_readiness_gate_keeps_a_pod_from_being_ready() {
    let cluster = Cluster::start();
    cluster.run("gated", &format!("readinessGates: [{{conditionType: example.com/listed}}]{REST}"));
    let pod = cluster.wait_pod("gated", "to have ready containers", |pod| condition(pod, "ContainersReady"));
    assert!(!condition(&pod, "Ready"));
    let ready =
        status(&pod).conditions.unwrap().into_iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!(ready.reason.as_deref(), Some("ReadinessGatesNotReady"));
    let set = |listed: &str| {
        cluster.api.modify_status::<Pod>("default", "gated", |pod| {
            let conditions = pod.status.as_mut().unwrap().conditions.get_or_insert_default();
            conditions.retain(|condition| condition.type_ != "example.com/listed");
            let (type_, status) = ("example.com/listed".to_owned(), listed.to_owned());
            conditions.push(PodCondition { type_, status, ..PodCondition::default() });
        });
    };
    set("True");
    let pod = cluster.wait_ready("gated");
    assert!(condition(&pod, "example.com/listed"), "others' conditions are kept");
    set("False");
    cluster.wait_pod("gated", "not to be ready", |pod| !condition(pod, "Ready"));
}
