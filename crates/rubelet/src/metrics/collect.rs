//! Values that are asked for when `/metrics` is: pods and containers as they are at that moment, certificates, gates.
//! Only reads what others publish.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;
use rubelet_apiclient::connection::IdentityHandle;
use rubelet_apiclient::rotation::RotationStatus;
use rubelet_config::{FeatureGates, KUBERNETES_VERSION};
use rubelet_core::Pod;
use rubelet_core::ids::PodUid;
use rubelet_core::lifecycle::{PodState, TerminationCause};
use rubelet_core::node::info::go_arch;
use rubelet_core::observed::ObservedState;
use rubelet_core::phase::Phase;
use rubelet_core::tally::volume_plugin;
use rubelet_cri::observe::ListedPod;
use rubelet_plugins::PluginState;
use rubelet_server::metrics::{Collected, Metrics, node as node_metrics, pods as pod_metrics};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::desired::DesiredPods;
use crate::pleg::Pleg;
use crate::sync_loop::WorkerCounts;
use crate::table::{PodRow, PodTable};

/// Where the figures of pods come from.
pub(crate) struct PodFacts {
    /// What should run.
    pub(crate) desired: watch::Receiver<Arc<DesiredPods>>,
    /// What the workers say.
    pub(crate) table: PodTable,
    /// What the runtime holds.
    pub(crate) pleg: Pleg,
    /// Workers of pods that only the runtime knew.
    pub(crate) workers: WorkerCounts,
    /// Whether there is an API server, which shows static pods by mirror pods.
    pub(crate) mirrors: bool,
    /// Wall clock.
    pub(crate) clock: Clock,
}

/// What does not change while the agent runs.
pub(crate) struct NodeFacts {
    /// Its name.
    pub(crate) name: String,
    /// Whether control groups are of version 2.
    pub(crate) cgroup_v2: bool,
    /// Gates in force.
    pub(crate) gates: FeatureGates,
}

/// Where the client certificate's figures come from.
#[derive(Clone)]
pub(crate) struct ClientCertificate {
    /// Who the agent is, once it is somebody.
    pub(crate) identity: watch::Receiver<Option<IdentityHandle>>,
    /// How renewing it goes.
    pub(crate) rotation: watch::Receiver<RotationStatus>,
}

/// Has the figures of pods told.
pub(crate) fn pods(metrics: &Metrics, facts: PodFacts) {
    metrics.collect_with(move |out| {
        let desired = facts.desired.borrow().clone();
        let rows = facts.table.snapshot();
        tell_desired(&desired, &rows, facts.mirrors, out);
        tell_workers(&desired, &rows, facts.workers.strangers(), out);
        tell_volumes(&desired, &rows, out);
        let mut held = Held::default();
        if facts.pleg.visit_seen(|pod| held.count(pod)) {
            held.tell(out);
        }
        if let Some(at) = facts.pleg.last_list() {
            let now = facts.clock.now();
            let age = Instant::now().saturating_duration_since(at);
            if let Ok(seen) = now.checked_sub(age) {
                out.tell(&node_metrics::PLEG_LAST_SEEN, &[], seen.as_second() as f64);
            }
        }
    });
}

/// Has what is true of this node as long as the agent runs told.
pub(crate) fn node(metrics: &Metrics, facts: NodeFacts) {
    metrics.collect_with(move |out| {
        out.tell(&node_metrics::NODE_NAME, &[&facts.name], 1.0);
        out.tell(&node_metrics::CGROUP_VERSION, &[], if facts.cgroup_v2 { 2.0 } else { 1.0 });
        out.tell(&node_metrics::METRICS_PROVIDER, &["cadvisor"], 1.0);
        let mut version = KUBERNETES_VERSION.trim_start_matches('v').split('.');
        let (major, minor) = (version.next().unwrap_or_default(), version.next().unwrap_or_default());
        let platform = format!("{}/{}", std::env::consts::OS, go_arch());
        // What was built, when and by what Go this is not: no label says anything that is not so.
        let build = [major, minor, KUBERNETES_VERSION, "", "", "", "", "rustc", platform.as_str()];
        out.tell(&node_metrics::BUILD_INFO, &build, 1.0);
        for (gate, enabled) in facts.gates.all() {
            let labels = [gate.name, gate.stage.name()];
            out.tell(&node_metrics::FEATURE_ENABLED, &labels, f64::from(u8::from(enabled)));
        }
    });
}

/// Has it told which sockets of plugins there are, and which are registered.
pub(crate) fn plugins(metrics: &Metrics, plugins: watch::Receiver<PluginState>) {
    metrics.collect_with(move |out| {
        for plugin in &plugins.borrow().plugins {
            let socket = plugin.socket.display().to_string();
            out.tell(&pod_metrics::TOTAL_PLUGINS, &[&socket, "desired_state_of_world"], 1.0);
            if plugin.registered.is_some() {
                out.tell(&pod_metrics::TOTAL_PLUGINS, &[&socket, "actual_state_of_world"], 1.0);
            }
        }
    });
}

/// Has the end of the client certificate told.
pub(crate) fn certificates(metrics: &Metrics, client: ClientCertificate, clock: Clock) {
    metrics.collect_with(move |out| {
        let expires = client.identity.borrow().as_ref().and_then(IdentityHandle::expires_at);
        out.tell(&node_metrics::CLIENT_CERTIFICATE_TTL, &[], time_to_live(expires, clock.now()));
        let errors = client.rotation.borrow().renew_errors;
        out.tell(&node_metrics::CLIENT_RENEW_ERRORS, &[], errors as f64);
    });
}

/// Has the end of the serving certificate told, and how renewing it goes (`serverTLSBootstrap`).
pub fn serving_certificate(metrics: &Metrics, status: watch::Receiver<RotationStatus>, clock: Clock) {
    let ages = metrics.clone();
    let last = Mutex::new(None);
    metrics.collect_with(move |out| {
        let status = status.borrow().clone();
        let ttl = time_to_live(status.expires, clock.now());
        out.tell(&node_metrics::SERVER_CERTIFICATE_TTL, &[], ttl);
        out.tell(&node_metrics::SERVER_RENEW_ERRORS, &[], status.renew_errors as f64);
        // Certificates live for days, pages are asked for every minute: none is missed.
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *last, status.expires) != status.expires
            && let Some(lived) = status.previous_lived
        {
            ages.node.server_certificate_age.observe_duration(lived);
        }
    });
}

/// Whole seconds until a certificate ends, less than 0 when it has; infinity without one.
fn time_to_live(expires: Option<Timestamp>, now: Timestamp) -> f64 {
    expires.map_or(f64::INFINITY, |at| at.duration_since(now).as_secs() as f64)
}

type Rows = BTreeMap<PodUid, PodRow>;

/// How the label says that a pod is static.
fn static_label(is_static: bool) -> &'static str {
    if is_static { "true" } else { "" }
}

fn tell_desired(desired: &DesiredPods, rows: &Rows, mirrors: bool, out: &mut Collected) {
    let (mut wanted, mut active, mut ephemeral, mut mirrored) = ([0_u32; 2], [0_u32; 2], 0, 0);
    for (uid, pod) in &desired.pods {
        let is_static = pod.source.is_static();
        wanted[usize::from(is_static)] += 1;
        let row = rows.get(uid);
        // What has ended or was rejected takes nothing from others.
        let ended = row.is_some_and(|row| {
            Phase::of(&row.status).is_some_and(Phase::is_terminal)
                || matches!(row.state, PodState::Terminated { .. } | PodState::Finished { .. })
        });
        active[usize::from(is_static)] += u32::from(!ended);
        let rejected = row.is_some_and(|row| is_rejected(&row.state));
        mirrored += u32::from(is_static && !rejected);
        ephemeral += pod.pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten()).count();
    }
    for is_static in [false, true] {
        let label = [static_label(is_static)];
        out.tell(&pod_metrics::DESIRED_PODS, &label, wanted[usize::from(is_static)].into());
        out.tell(&pod_metrics::ACTIVE_PODS, &label, active[usize::from(is_static)].into());
    }
    if mirrors {
        out.tell(&pod_metrics::MIRROR_PODS, &[], mirrored.into());
    }
    out.tell(&pod_metrics::EPHEMERAL_CONTAINERS, &[], ephemeral as f64);
}

/// Whether a pod was not admitted.
fn is_rejected(state: &PodState) -> bool {
    matches!(state, PodState::Finished { cause: TerminationCause::Killed { reason: "Rejected", .. } })
}

/// Every combination is told, zeros too, as upstream does.
fn tell_workers(desired: &DesiredPods, rows: &Rows, strangers: usize, out: &mut Collected) {
    let mut counts: BTreeMap<[&str; 3], u32> = BTreeMap::new();
    for lifecycle in ["sync", "terminating", "terminated"] {
        for is_static in ["", "true"] {
            counts.insert([lifecycle, "desired", is_static], 0);
            counts.insert([lifecycle, "orphan", is_static], 0);
        }
        counts.insert([lifecycle, "runtime_only", "unknown"], 0);
    }
    for (uid, row) in rows {
        let lifecycle = match row.state {
            PodState::WaitingForPredecessor => continue,
            PodState::Syncing => "sync",
            PodState::Terminating { .. } => "terminating",
            PodState::Terminated { .. } | PodState::Finished { .. } => "terminated",
        };
        let is_static = rubelet_core::admission::is_static_pod(&row.pod);
        let config = if desired.pods.contains_key(uid) { "desired" } else { "orphan" };
        *counts.entry([lifecycle, config, static_label(is_static)]).or_default() += 1;
    }
    // A pod without a spec is being ended from its first moment on.
    let strangers = u32::try_from(strangers).unwrap_or(u32::MAX);
    counts.insert(["terminating", "runtime_only", "unknown"], strangers);
    for (labels, count) in counts {
        out.tell(&pod_metrics::WORKING_PODS, &labels, count.into());
    }
}

fn tell_volumes(desired: &DesiredPods, rows: &Rows, out: &mut Collected) {
    let mut counts: BTreeMap<[&str; 2], u32> = BTreeMap::new();
    let mut count = |pod: &Pod, state: &'static str| {
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            *counts.entry([volume_plugin(volume), state]).or_default() += 1;
        }
    };
    for (uid, wanted) in &desired.pods {
        if !rows.get(uid).is_some_and(|row| matches!(row.state, PodState::Finished { .. })) {
            count(&wanted.pod, "desired_state_of_world");
        }
    }
    for row in rows.values() {
        let has_them = match row.state {
            PodState::Syncing | PodState::Terminating { .. } => has_sandbox(&row.status),
            PodState::Terminated { .. } => true,
            PodState::WaitingForPredecessor | PodState::Finished { .. } => false,
        };
        if has_them {
            count(&row.pod, "actual_state_of_world");
        }
    }
    for (labels, count) in counts {
        out.tell(&pod_metrics::TOTAL_VOLUMES, &labels, count.into());
    }
}

/// Whether a pod has got its sandbox, before which all its volumes are made.
fn has_sandbox(status: &PodStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|c| c.type_ == "PodReadyToStartContainers" && c.status == "True")
}

/// What the runtime holds.
#[derive(Default)]
struct Held {
    running_pods: u32,
    states: BTreeMap<&'static str, u32>,
}

impl Held {
    fn count(&mut self, pod: &ListedPod) {
        self.running_pods += u32::from(pod.sandboxes.values().any(|ready| *ready));
        for container in pod.containers.values() {
            let state = match container.state {
                ObservedState::Created => "created",
                ObservedState::Running => "running",
                ObservedState::Exited => "exited",
                ObservedState::Unknown => "unknown",
            };
            *self.states.entry(state).or_default() += 1;
        }
    }

    fn tell(mut self, out: &mut Collected) {
        out.tell(&pod_metrics::RUNNING_PODS, &[], self.running_pods.into());
        // There without containers too: dashboards take what is missing for a failed scrape.
        self.states.entry("running").or_default();
        for (state, count) in self.states {
            out.tell(&pod_metrics::RUNNING_CONTAINERS, &[state], count.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use rubelet_core::ids::{ContainerId, SandboxId};
    use rubelet_cri::observe::ListedContainer;
    use serde_json::{Value, json};

    use super::*;
    use crate::desired::{DesiredPod, SourceKind};

    /// The samples of one metric that `tell` tells.
    fn check(name: &str, tell: impl Fn(&mut Collected) + Send + Sync + 'static, expected: &[&str]) {
        let metrics = Metrics::new();
        metrics.collect_with(tell);
        let page = metrics.render_kubelet(None);
        let prefix = [format!("{name} "), format!("{name}{{")];
        let told: Vec<&str> = page
            .lines()
            .filter(|line| prefix.iter().any(|prefix| line.starts_with(prefix.as_str())))
            .map(|line| &line[name.len()..])
            .collect();
        assert_eq!(told, expected, "{name}");
    }

    fn pod(uid: &str, spec: Value, source: &str) -> Arc<Pod> {
        let value = json!({
            "metadata": { "uid": uid, "name": uid, "namespace": "default",
                "annotations": { "kubernetes.io/config.source": source } },
            "spec": spec,
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn world() -> (DesiredPods, Rows) {
        let volumes = json!({ "containers": [], "volumes": [{ "name": "a", "emptyDir": {} }, { "name": "b", "secret": {} }] });
        let ephemeral = json!({ "containers": [], "ephemeralContainers": [{ "name": "debug" }] });
        let pods = [
            ("api", pod("api", volumes, "api"), SourceKind::Api),
            ("file", pod("file", ephemeral, "file"), SourceKind::File),
            ("rejected", pod("rejected", json!({ "containers": [] }), "file"), SourceKind::File),
            ("embedded", pod("embedded", json!({ "containers": [] }), ""), SourceKind::Embedder),
        ];
        let mut desired = DesiredPods { complete: true, ..Default::default() };
        for (uid, pod, source) in &pods {
            let wanted = DesiredPod { pod: pod.clone(), source: *source, arrival: 0 };
            desired.pods.insert(PodUid::from(*uid), wanted);
        }
        let row = |pod: &Arc<Pod>, state: PodState, status: Value| PodRow {
            pod: pod.clone(),
            status: Arc::new(serde_json::from_value(status).unwrap()),
            state,
        };
        let sandbox = json!({ "conditions": [{ "type": "PodReadyToStartContainers", "status": "True" }] });
        let orphan =
            pod("orphan", json!({ "containers": [], "volumes": [{ "name": "a", "emptyDir": {} }] }), "api");
        let terminating = PodState::Terminating {
            since: Timestamp::UNIX_EPOCH,
            grace: 1,
            cause: TerminationCause::RemovedFromSource,
        };
        let killed =
            TerminationCause::Killed { reason: "Rejected", message: String::new(), disruption: false };
        let rows = [
            ("api", row(&pods[0].1, PodState::Syncing, sandbox)),
            ("file", row(&pods[1].1, PodState::Syncing, json!({ "phase": "Pending" }))),
            ("rejected", row(&pods[2].1, PodState::Finished { cause: killed }, json!({ "phase": "Failed" }))),
            ("orphan", row(&orphan, terminating, json!({}))),
        ];
        (desired, rows.into_iter().map(|(uid, row)| (PodUid::from(uid), row)).collect())
    }

    #[test]
    fn pods_are_counted_by_source_and_stage() {
        let tell = |out: &mut Collected| {
            let (desired, rows) = world();
            tell_desired(&desired, &rows, true, out);
            tell_workers(&desired, &rows, 2, out);
            tell_volumes(&desired, &rows, out);
        };
        check("kubelet_desired_pods", tell, &["{static=\"\"} 2", "{static=\"true\"} 2"]);
        check("kubelet_active_pods", tell, &["{static=\"\"} 2", "{static=\"true\"} 1"]);
        check("kubelet_mirror_pods", tell, &[" 1"]);
        check("kubelet_managed_ephemeral_containers", tell, &[" 1"]);
        let line = |lifecycle: &str, config: &str, is_static: &str, count: u32| {
            format!("{{lifecycle=\"{lifecycle}\",config=\"{config}\",static=\"{is_static}\"}} {count}")
        };
        let mut expected = vec![];
        for lifecycle in ["sync", "terminated", "terminating"] {
            let count = |found: &str| u32::from(lifecycle == found);
            expected.extend([
                line(lifecycle, "desired", "", count("sync")),
                line(lifecycle, "desired", "true", count("sync") + count("terminated")),
                line(lifecycle, "orphan", "", count("terminating")),
                line(lifecycle, "orphan", "true", 0),
                line(lifecycle, "runtime_only", "unknown", 2 * count("terminating")),
            ]);
        }
        check("kubelet_working_pods", tell, &expected.iter().map(String::as_str).collect::<Vec<_>>());
        check(
            "volume_manager_total_volumes",
            tell,
            &[
                "{plugin_name=\"kubernetes.io/empty-dir\",state=\"actual_state_of_world\"} 1",
                "{plugin_name=\"kubernetes.io/empty-dir\",state=\"desired_state_of_world\"} 1",
                "{plugin_name=\"kubernetes.io/secret\",state=\"actual_state_of_world\"} 1",
                "{plugin_name=\"kubernetes.io/secret\",state=\"desired_state_of_world\"} 1",
            ],
        );
        let alone = |out: &mut Collected| tell_desired(&DesiredPods::default(), &Rows::new(), false, out);
        check("kubelet_mirror_pods", alone, &[]);
    }

    #[test]
    fn what_the_runtime_holds_is_counted_by_state() {
        let listed = |ready: bool, states: &[ObservedState]| ListedPod {
            uid: "u".into(),
            name: "p".into(),
            namespace: "default".into(),
            sandboxes: [(SandboxId::from("s"), ready), (SandboxId::from("old"), false)].into(),
            containers: states
                .iter()
                .enumerate()
                .map(|(index, state)| {
                    let id = ContainerId::from(index.to_string().as_str());
                    (id, ListedContainer { sandbox_id: SandboxId::from("s"), state: *state })
                })
                .collect(),
        };
        let tell = |pods: Vec<ListedPod>| {
            move |out: &mut Collected| {
                let mut held = Held::default();
                pods.iter().for_each(|pod| held.count(pod));
                held.tell(out);
            }
        };
        use ObservedState::{Exited, Running};
        let some = tell(vec![listed(true, &[Running, Exited]), listed(false, &[Exited])]);
        check("kubelet_running_pods", some.clone(), &[" 1"]);
        check(
            "kubelet_running_containers",
            some,
            &["{container_state=\"exited\"} 2", "{container_state=\"running\"} 1"],
        );
        check("kubelet_running_containers", tell(vec![]), &["{container_state=\"running\"} 0"]);
    }

    #[test]
    fn the_node_tells_its_name_version_and_gates() {
        let metrics = Metrics::new();
        let gates = FeatureGates::from_settings(&[("EventedPLEG".to_owned(), true)].into()).0;
        node(&metrics, NodeFacts { name: "n1".into(), cgroup_v2: true, gates });
        let page = metrics.render_kubelet(None);
        for line in [
            "kubelet_node_name{node=\"n1\"} 1\n",
            "kubelet_cgroup_version 2\n",
            "kubernetes_feature_enabled{name=\"EventedPLEG\",stage=\"ALPHA\"} 1\n",
            "kubernetes_feature_enabled{name=\"CRIListStreaming\",stage=\"ALPHA\"} 0\n",
            "kubernetes_feature_enabled{name=\"ConsistentListFromCache\",stage=\"\"} 1\n",
            "{major=\"1\",minor=\"36\",git_version=\"v1.36.2\",",
        ] {
            assert!(page.contains(line), "{line} in\n{page}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_serving_certificate_is_told_with_the_age_of_the_one_before() {
        let metrics = Metrics::new();
        let status = watch::Sender::new(RotationStatus::default());
        let clock = Clock::simulated(Timestamp::from_second(1000).unwrap());
        serving_certificate(&metrics, status.subscribe(), clock);
        let check = |lines: &[&str]| {
            // However often it is asked for.
            metrics.render_kubelet(None);
            let page = metrics.render_kubelet(None);
            for line in lines {
                assert!(page.contains(line), "{line} in\n{page}");
            }
        };
        let (ttl, age) = (
            "kubelet_certificate_manager_server_ttl_seconds",
            "kubelet_certificate_manager_server_rotation_seconds_sum",
        );
        check(&[
            &format!("{ttl} +Inf\n"),
            "kubelet_server_expiration_renew_errors 0\n",
            &format!("{age} 0\n"),
        ]);
        for (second, lived) in [(4_000, None), (9_000, Some(3_600))] {
            status.send_replace(RotationStatus {
                expires: Some(Timestamp::from_second(second).unwrap()),
                renew_errors: 2,
                previous_lived: lived.map(std::time::Duration::from_secs),
            });
            let lived = lived.unwrap_or_default();
            check(&[
                &format!("{ttl} {}\n", second - 1_000),
                "kubelet_server_expiration_renew_errors 2\n",
                &format!("{age} {lived}\n"),
            ]);
        }
    }

    #[test]
    fn a_certificate_counts_down_and_none_is_infinite() {
        let now = Timestamp::from_second(1000).unwrap();
        let check = |expires: Option<i64>, expected: f64| {
            let expires = expires.map(|second| Timestamp::from_second(second).unwrap());
            assert_eq!(time_to_live(expires, now), expected);
        };
        check(None, f64::INFINITY);
        check(Some(1060), 60.0);
        check(Some(940), -60.0);
    }
}
