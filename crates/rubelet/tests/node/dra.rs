//! ResourceClaims on a real node: a driver on real sockets, which fails, hangs and vanishes as the test orders; the test is
//! the scheduler, which allocates and reserves. At the end of every test the driver was asked for nothing that a node must
//! not ask.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimStatus, ResourceSlice};
use rubelet_testkit::dra_driver::{Character, DraDriver, Fault, FaultHandle, Health, Method};
use serde_json::json;
use tonic::Code;

use crate::cluster::Cluster;
use crate::node::NAME;
use crate::pods::{container_id, phase, restarts, uid};
use crate::wait::{self, PATIENCE};

const DRIVER: &str = "gpu.dra.test";

/// A node with a driver that has registered.
struct DraNode {
    driver: DraDriver,
    cluster: Cluster,
}

impl DraNode {
    fn start(character: Character) -> Self {
        let mut node = Self::prepared(character);
        node.driver.start().unwrap();
        node.cluster.start_agent();
        node.wait_registered();
        node
    }

    fn prepared(character: Character) -> Self {
        let cluster = Cluster::without_agent("");
        let driver = DraDriver::new(character, "gpu", &cluster.node.root());
        Self { driver, cluster }
    }

    fn wait_registered(&self) {
        wait::until("the driver to be taken", PATIENCE, || match self.driver.verdict() {
            Some(Ok(())) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// Makes a claim that nothing is allocated for.
    fn claim(&self, name: &str) {
        let request = json!({"name": "one", "exactly": {"deviceClassName": "gpu"}});
        self.cluster.api.create_json(&json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"namespace": "default", "name": name}, "spec": {"devices": {"requests": [request]}}}));
    }

    /// Allocates it, and reserves it for these pods.
    fn reserve(&self, name: &str, pods: &[&Pod]) {
        let consumer = |pod: &&Pod| json!({"resource": "pods", "name": pod.metadata.name, "uid": uid(pod)});
        let result = json!({"request": "one", "driver": DRIVER, "pool": "pool", "device": "dev"});
        let status = json!({"allocation": {"devices": {"results": [result]}},
            "reservedFor": pods.iter().map(consumer).collect::<Vec<_>>()});
        let status: ResourceClaimStatus = serde_json::from_value(status).unwrap();
        self.cluster.api.modify_status::<ResourceClaim>("default", name, |claim| claim.status = Some(status));
    }

    /// Runs a pod that uses a claim.
    fn run(&self, name: &str, claim: &str, script: &str) -> Pod {
        self.cluster.run(
            name,
            &format!(
                "
terminationGracePeriodSeconds: 2
restartPolicy: Never
resourceClaims: [{{name: gpu, resourceClaimName: {claim}}}]
containers:
- name: c
  image: $IMAGE
  command: [sh, -c, '{script}']
  resources: {{claims: [{{name: gpu}}]}}
"
            ),
        )
    }

    fn wait_calls(&self, claim: &str, wanted: &[&str]) {
        wait::until(&format!("calls about {claim}"), PATIENCE, || {
            let calls = self.driver.calls_of(claim);
            if calls == wanted { Ok(()) } else { Err(format!("{calls:?}, not {wanted:?}")) }
        });
    }

    fn wait_struck(&self, fault: &FaultHandle) {
        wait::until("the call to come", PATIENCE, || {
            if fault.hits() > 0 { Ok(()) } else { Err(format!("{:?}", self.driver.calls())) }
        });
    }

    /// Waits for an event about claims of a pod with these words.
    fn wait_told(&self, pod: &str, words: &str) {
        wait::until(&format!("{pod} to say {words}"), PATIENCE, || {
            let of_claims = |event: &k8s_openapi::api::core::v1::Event| {
                event.reason.as_deref() == Some("FailedPrepareDynamicResources")
            };
            let events = self.cluster.events(pod).into_iter().filter(of_claims);
            let told: Vec<String> = events.filter_map(|event| event.message).collect();
            if told.iter().any(|text| text.contains(words)) { Ok(()) } else { Err(format!("{told:?}")) }
        });
    }

    fn end(&self, pod: &Pod) {
        self.cluster.api.delete::<Pod>("default", pod.metadata.name.as_deref().unwrap());
        self.cluster.wait_gone(pod);
        self.cluster.wait_nothing_left(pod);
    }

    fn checkpoint(&self) -> String {
        std::fs::read_to_string(self.cluster.node.root().join("dra_manager_state")).unwrap_or_default()
    }

    /// Health of the first device of a container's first resource.
    fn health(&self, pod: &str) -> String {
        let status = self.cluster.pod(pod).status.unwrap_or_default();
        let container = status.container_statuses.unwrap_or_default().into_iter().next();
        let resource = container.and_then(|of| of.allocated_resources_status?.into_iter().next());
        let device = resource.and_then(|of| of.resources?.into_iter().next());
        device
            .map(|of| format!("{} {}", of.health.unwrap_or_default(), of.message.unwrap_or_default()))
            .unwrap_or_default()
    }
}

impl Drop for DraNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("calls: {:#?}", self.driver.calls());
            eprintln!("checkpoint: {}", self.checkpoint());
        } else {
            assert_eq!(self.driver.mistakes(), Vec::<String>::new());
        }
    }
}

const FOREVER: &str = "trap \"exit 0\" TERM; echo GPU=$GPU; while :; do sleep 1 & wait $!; done";

/// A file that says what a CDI device brings. Removed when dropped.
struct CdiFile(std::path::PathBuf);

impl CdiFile {
    fn new(kind: &str, device: &str, env: &str) -> Self {
        let dir = Path::new("/var/run/cdi");
        std::fs::create_dir_all(dir).unwrap();
        let path = dir.join(format!("{}.json", kind.replace('/', "-")));
        let device = json!({"name": device, "containerEdits": {"env": [env]}});
        let spec = json!({"cdiVersion": "0.5.0", "kind": kind, "devices": [device]});
        std::fs::write(&path, spec.to_string()).unwrap();
        Self(path)
    }
}

impl Drop for CdiFile {
    fn drop(&mut self) {
        let _it_is_gone = std::fs::remove_file(&self.0);
    }
}

#[test]
fn dra_claims_are_prepared_before_the_pod_and_given_back_before_its_end_is_told() {
    let kind = format!("dra-{}.test/gpu", std::process::id());
    let _cdi = CdiFile::new(&kind, "seven", "GPU=seven");
    let modern = std::env::var("RUBELET_TEST_CONTAINERD").is_ok_and(|version| version.starts_with('2'));
    let id = format!("{kind}=seven");
    // Older runtimes know no CDI, or have it switched off.
    let ids = if modern { vec![id.as_str()] } else { vec![] };
    let node = DraNode::start(Character::named(DRIVER).giving("claim", "dev", &["one"], &ids));
    node.claim("claim");
    let pod = node.run("pod", "claim", "echo GPU=$GPU; sleep 1");
    node.wait_told("pod", "is not allowed to use ResourceClaim claim");
    assert_eq!(node.driver.calls(), []);
    let hangs = node.driver.fault(Method::Unprepare, "claim", Fault::DoThenHang);
    node.reserve("claim", &[&pod]);
    node.wait_struck(&hangs);
    assert!(node.checkpoint().contains("\\\"ClaimName\\\":\\\"claim\\\""), "{}", node.checkpoint());
    // Nothing runs any more, and yet the pod has not ended: its devices are not free.
    assert_eq!(phase(&node.cluster.pod("pod")), "Running");
    hangs.stop();
    node.cluster.wait_phase("pod", "Succeeded");
    node.wait_calls("claim", &["prepare", "unprepare => DoThenHang"]);
    if modern {
        node.cluster.node.wait_log(&pod, "c", "GPU=seven");
    }
    assert!(!node.checkpoint().contains("ClaimName"), "{}", node.checkpoint());
    node.end(&pod);
}

#[test]
fn dra_a_shared_claim_is_prepared_once_and_given_back_with_its_last_pod() {
    let node = DraNode::start(Character::named(DRIVER));
    node.claim("shared");
    let pods = [node.run("a", "shared", FOREVER), node.run("b", "shared", FOREVER)];
    node.reserve("shared", &[&pods[0], &pods[1]]);
    node.cluster.wait_ready("a");
    node.cluster.wait_ready("b");
    node.end(&pods[0]);
    assert_eq!(node.driver.calls_of("shared"), ["prepare"]);
    node.end(&pods[1]);
    node.wait_calls("shared", &["prepare", "unprepare"]);
}

#[test]
fn dra_what_a_driver_gets_wrong_is_told_and_tried_again() {
    let node = DraNode::start(Character::named(DRIVER));
    for (name, fault, words) in [
        (
            "refused",
            Fault::Refuse(Code::Internal),
            "NodePrepareResources: rpc error: code = Internal desc = as the test",
        ),
        (
            "failed",
            Fault::Fail("broken".to_owned()),
            "NodePrepareResources failed for ResourceClaim failed: broken",
        ),
        ("forgotten", Fault::Forget, "NodePrepareResources skipped 1 ResourceClaims"),
        ("invented", Fault::Invent, "NodePrepareResources returned result for unknown claim UID not-"),
    ] {
        let fault = node.driver.fault(Method::Prepare, name, fault);
        node.claim(name);
        let pod = node.run(name, name, FOREVER);
        node.reserve(name, &[&pod]);
        node.wait_told(name, words);
        assert_eq!(node.cluster.containers_of(&pod), Vec::<String>::new());
        fault.stop();
        node.cluster.wait_ready(name);
        node.end(&pod);
    }
    // One that hangs keeps nobody from ending.
    let hangs = node.driver.fault(Method::Prepare, "hangs", Fault::Hang);
    node.claim("hangs");
    let pod = node.run("hangs", "hangs", FOREVER);
    node.reserve("hangs", &[&pod]);
    node.wait_struck(&hangs);
    node.end(&pod);
    node.wait_calls("hangs", &["prepare => Hang", "unprepare"]);
    hangs.stop();
}

#[test]
fn dra_pods_wait_for_their_driver_at_both_ends() {
    let mut node = DraNode::prepared(Character::named(DRIVER));
    node.cluster.start_agent();
    node.claim("claim");
    let pod = node.run("pod", "claim", FOREVER);
    node.reserve("claim", &[&pod]);
    node.wait_told("pod", "DRA driver gpu.dra.test is not registered");
    node.driver.start().unwrap();
    node.cluster.wait_ready("pod");
    node.driver.stop();
    node.cluster.api.delete::<Pod>("default", "pod");
    wait::until("the container to end", PATIENCE, || {
        let running = node.cluster.node.runtime.ctr(&["tasks", "ls", "-q"]);
        if running.trim().is_empty() { Ok(()) } else { Err(running) }
    });
    assert!(node.cluster.try_pod("pod").is_ok());
    node.driver.start().unwrap();
    node.cluster.wait_gone(&pod);
    node.wait_calls("claim", &["prepare", "unprepare"]);
}

#[test]
fn dra_what_runs_is_adopted_and_given_back_also_when_the_record_is_lost() {
    let mut node = DraNode::start(Character::named(DRIVER));
    for damaged in [false, true] {
        let name = format!("pod-{damaged}");
        node.claim(&name);
        let pod = node.run(&name, &name, FOREVER);
        node.reserve(&name, &[&pod]);
        let id = container_id(&node.cluster.wait_ready(&name), "c");
        node.cluster.node.kill_agent();
        if damaged {
            std::fs::write(node.cluster.node.root().join("dra_manager_state"), b"{\"Data\":\"").unwrap();
        }
        node.cluster.start_agent();
        let adopted = node.cluster.wait_ready(&name);
        assert_eq!((container_id(&adopted, "c"), restarts(&adopted, "c")), (id, 0));
        node.end(&pod);
        node.wait_calls(&name, &["prepare", "unprepare"]);
    }
    // The pod goes while no agent runs.
    node.claim("gone");
    let pod = node.run("gone", "gone", FOREVER);
    node.reserve("gone", &[&pod]);
    node.cluster.wait_ready("gone");
    node.cluster.node.kill_agent();
    node.cluster.api.delete_with_grace::<Pod>("default", "gone", 0);
    node.cluster.api.delete::<ResourceClaim>("default", "gone");
    node.cluster.start_agent();
    node.cluster.wait_nothing_left(&pod);
    node.wait_calls("gone", &["prepare", "unprepare"]);
}

#[test]
fn dra_slices_of_drivers_that_are_gone_go_too() {
    let mut node = DraNode::prepared(Character::named(DRIVER));
    let slice = |name: &str, host: &str| {
        node.cluster.api.create_json(&json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
            "metadata": {"name": name}, "spec": {"driver": DRIVER, "nodeName": host, "devices": [],
            "pool": {"name": "pool", "generation": 1, "resourceSliceCount": 1}}}));
    };
    slice("old", NAME);
    slice("other", "other-node");
    let names = |node: &DraNode| -> Vec<String> {
        let slices = node.cluster.api.list_all::<ResourceSlice>().into_iter();
        slices.filter_map(|slice| slice.metadata.name).collect()
    };
    let wait_names = |node: &DraNode, wanted: &[&str]| {
        wait::until("slices to go", PATIENCE, || {
            let found = names(node);
            if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
        });
    };
    node.cluster.start_agent();
    wait_names(&node, &["other"]);
    node.driver.start().unwrap();
    node.wait_registered();
    node.cluster.api.create_json(&json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
        "metadata": {"name": "new"}, "spec": {"driver": DRIVER, "nodeName": NAME, "devices": [],
        "pool": {"name": "pool", "generation": 1, "resourceSliceCount": 1}}}));
    node.driver.crash();
    wait_names(&node, &["other"]);
}

#[test]
fn dra_health_of_devices_is_in_the_status() {
    let character = Character::named(DRIVER).giving("claim", "dev", &[], &[]);
    let mut node = DraNode::start(character);
    node.driver.tell(&[("dev", Health::Healthy, "")]);
    node.claim("claim");
    let pod = node.run("pod", "claim", FOREVER);
    node.reserve("claim", &[&pod]);
    node.cluster.wait_ready("pod");
    let wait_health = |node: &DraNode, wanted: &str| {
        wait::until(&format!("the device to be {wanted}"), PATIENCE, || {
            let health = node.health("pod");
            if health.trim() == wanted { Ok(()) } else { Err(health) }
        });
    };
    wait_health(&node, "Healthy");
    node.driver.tell(&[("dev", Health::Unhealthy, "too hot")]);
    wait_health(&node, "Unhealthy too hot");
    node.driver.crash();
    wait_health(&node, "Unknown");
    node.driver.start().unwrap();
    node.end(&pod);
}
