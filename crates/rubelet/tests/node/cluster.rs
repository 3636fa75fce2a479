//! A node that belongs to a cluster: the scripted API server inside the test process, on a thread of its own, and a
//! [`Node`] whose agent talks to it over TLS.
//!
//! Pods are created already bound, as a DaemonSet's would be after scheduling; tests are the controllers. What every
//! test of a cluster must hold is checked at its end: no request that a real cluster would have refused.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Event, Node as NodeObject, Pod};
use rubelet_testkit::FakeApi;
use rubelet_testkit::fake_api::{Options, RecordedRequest, Served};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::node::{NAME, Node};
use crate::pods::{self, manifest, summary};
use crate::wait::{self, PATIENCE};

/// A cluster's name server; and other work on this machine may use up its disk, which is not to keep pods away.
const CONFIG: &str =
    "clusterDNS: [10.96.0.10]\nclusterDomain: cluster.local\nevictionHard: {memory.available: 1Mi}";

/// A node and its API server. Fields are dropped in this order: the agent ends before its server.
pub struct Cluster {
    pub node: Node,
    pub api: FakeApi,
    pub served: Served,
    /// The server's.
    pub runtime: Runtime,
    /// Where kubeconfigs are.
    pub dir: TempDir,
}

impl Cluster {
    /// A cluster whose only node is Ready.
    pub fn start() -> Self {
        let mut cluster = Self::without_agent("");
        cluster.start_agent();
        cluster
    }

    /// A cluster with more lines in the node's configuration, whose agent is yet to be started.
    pub fn without_agent(more: &str) -> Self {
        Self::on_containerd(&[], more)
    }

    /// The same, on a containerd that is started with more arguments.
    pub fn on_containerd(arguments: &[&'static str], more: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("api-server")
            .enable_all()
            .build()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (api, served) = runtime.block_on(async {
            let api = FakeApi::with(Options { service_accounts: true, ..Options::wall_clock() });
            let served = api.serve_tls(dir.path()).await.unwrap();
            (api, served)
        });
        let node = Node::on_containerd(arguments, &format!("{CONFIG}\n{more}"));
        let mut cluster = Self { node, api, served, runtime, dir };
        let kubeconfig = cluster.served.node_kubeconfig(NAME);
        cluster.identify(&[("--kubeconfig", kubeconfig)]);
        cluster
    }

    /// Says how the agent is to identify itself when it starts the next time.
    pub fn identify(&mut self, flags: &[(&str, PathBuf)]) {
        let mut arguments = vec![format!("--cert-dir={}", self.cert_dir().display())];
        arguments.extend(flags.iter().map(|(flag, path)| format!("{flag}={}", path.display())));
        self.node.arguments = arguments;
    }

    /// Where the agent keeps its certificates.
    pub fn cert_dir(&self) -> PathBuf {
        self.node.root().join("pki")
    }

    /// Starts the agent and waits until its node is Ready.
    pub fn start_agent(&mut self) {
        self.node.start_agent();
        self.wait_node("to be ready", |node| node_condition(node, "Ready") == "True");
    }

    /// Creates a pod on the node from the YAML of its spec; see [`Node::filled_in`] for what may be in it.
    pub fn run(&self, name: &str, spec: &str) -> Pod {
        let mut pod = self.pod_json(name, spec);
        pod["spec"]["nodeName"] = json!(NAME);
        self.create(&pod)
    }

    /// A pod that is bound to no node.
    pub fn pod_json(&self, name: &str, spec: &str) -> Value {
        serde_saphyr::from_str(&self.node.filled_in(&manifest(name, spec))).unwrap()
    }

    /// Creates a pod from JSON.
    pub fn create(&self, pod: &Value) -> Pod {
        serde_json::from_value(self.api.create_json(pod)).unwrap()
    }

    /// A pod as the API has it.
    pub fn try_pod(&self, name: &str) -> Result<Pod, String> {
        self.api.get("default", name).ok_or_else(|| format!("no pod {name}"))
    }

    /// A pod that is there.
    pub fn pod(&self, name: &str) -> Pod {
        self.try_pod(name).unwrap()
    }

    /// Waits until the API has a pod as wanted, and gives it.
    pub fn wait_pod(&self, name: &str, what: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        wait::until(&format!("pod {name} {what}"), PATIENCE, || {
            let pod = self.try_pod(name)?;
            if wanted(&pod) { Ok(pod) } else { Err(summary(&pod)) }
        })
    }

    /// Waits until a pod is Running and Ready.
    pub fn wait_ready(&self, name: &str) -> Pod {
        self.wait_pod(name, "to be ready", pods::ready)
    }

    /// Waits until a pod has that phase.
    pub fn wait_phase(&self, name: &str, phase: &str) -> Pod {
        self.wait_pod(name, &format!("to be {phase}"), |pod| pods::phase(pod) == phase)
    }

    /// Waits until a container's state is `wanted`, in the words of [`pods::state`].
    pub fn wait_state(&self, name: &str, container: &str, wanted: &str) -> Pod {
        let what = format!("to have {container} {wanted}");
        self.wait_pod(name, &what, |pod| pods::state(pod, container) == wanted)
    }

    /// Waits until the API has no pod of that name, or another one.
    pub fn wait_gone(&self, pod: &Pod) {
        let name = pod.metadata.name.as_deref().unwrap();
        wait::until(&format!("pod {name} to be gone"), PATIENCE, || match self.try_pod(name) {
            Ok(there) if there.metadata.uid == pod.metadata.uid => Err(summary(&there)),
            _ => Ok(()),
        });
    }

    /// Waits until containerd has no container and no sandbox of a pod, and the agent's directory of it is gone.
    pub fn wait_nothing_left(&self, pod: &Pod) {
        let (name, dir) = (pod.metadata.name.as_deref().unwrap(), self.pod_dir(pod));
        wait::until(&format!("nothing to be left of {name}"), PATIENCE, || {
            let left = self.containers_of(pod);
            if left.is_empty() && !dir.exists() { Ok(()) } else { Err(format!("{left:?} {}", dir.display())) }
        });
    }

    /// IDs of the containers and sandboxes that containerd has of a pod.
    pub fn containers_of(&self, pod: &Pod) -> Vec<String> {
        let filter = format!("labels.\"io.kubernetes.pod.uid\"=={}", pods::uid(pod));
        let text = self.node.runtime.ctr(&["containers", "ls", "-q", &filter]);
        text.lines().map(str::to_owned).collect()
    }

    /// The agent's directory of a pod.
    pub fn pod_dir(&self, pod: &Pod) -> PathBuf {
        self.node.root().join("pods").join(pods::uid(pod))
    }

    /// Waits until the Node is as wanted, and gives it.
    pub fn wait_node(&self, what: &str, wanted: impl Fn(&NodeObject) -> bool) -> NodeObject {
        wait::until(&format!("the node {what}"), PATIENCE, || match self.api.get::<NodeObject>("", NAME) {
            None => Err("there is none".to_owned()),
            Some(node) if wanted(&node) => Ok(node),
            Some(node) => Err(format!("{:?}", node.status.unwrap_or_default().conditions)),
        })
    }

    /// The node as it is.
    pub fn node_object(&self) -> NodeObject {
        self.api.get("", NAME).unwrap()
    }

    /// Waits until the API has an Event of a pod with this reason, and gives it.
    pub fn wait_event(&self, pod: &str, reason: &str) -> Event {
        wait::until(&format!("an event {reason} of {pod}"), PATIENCE, || {
            let events = self.events(pod);
            let told: Vec<String> =
                events.iter().map(|event| format!("{:?} {:?}", event.reason, event.message)).collect();
            let mut events = events.into_iter();
            events.find(|event| event.reason.as_deref() == Some(reason)).ok_or_else(|| format!("{told:?}"))
        })
    }

    /// The Events of a pod.
    pub fn events(&self, pod: &str) -> Vec<Event> {
        let events = self.api.list::<Event>("default").into_iter();
        events.filter(|event| event.involved_object.name.as_deref() == Some(pod)).collect()
    }

    /// What the agent wrote into a pod's status, write by write.
    pub fn status_writes(&self, pod: &str) -> Vec<Value> {
        let is_write =
            |record: &&RecordedRequest| record.summary() == "patch pods/status" && record.request.name == pod;
        self.api.requests().iter().filter(is_write).map(RecordedRequest::json).collect()
    }

    /// Requests that the node was not allowed to make. A pod removed by force while its token is asked for is no
    /// offence: nobody could know.
    fn refused(&self) -> Vec<String> {
        let violations = self.api.violations();
        let knowable = violations.iter().filter(|violation| {
            violation.subresource != "token" || !violation.message.ends_with("not found")
        });
        let mut refused: Vec<String> = knowable.map(|violation| format!("{violation:?}")).collect();
        for record in self.api.requests().iter().filter(|record| record.code == 403) {
            refused.push(format!("403: {} {}", record.summary(), record.request.name));
        }
        refused
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for pod in self.api.list_all::<Pod>() {
                eprintln!("in the API: {}", summary(&pod));
            }
            eprintln!("requests: {:?}; refused: {:#?}", self.api.counts(), self.refused());
        } else {
            assert_eq!(self.refused(), Vec::<String>::new(), "a real cluster refuses these requests");
        }
    }
}

/// The status of a condition of a Node; empty when there is no such condition.
pub fn node_condition(node: &NodeObject, kind: &str) -> String {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut of_kind = conditions.into_iter().flatten().filter(|condition| condition.type_ == kind);
    of_kind.next().map(|condition| condition.status.clone()).unwrap_or_default()
}
