//! Tests of the pages: what is rendered against upstream's catalogue and `docs/metrics.md`, and the text itself.

use std::collections::BTreeMap;

use rubelet_core::stats::exposition::{ParsedFamily, lint, parse};
use rubelet_core::stats::usage::{ContainerUsage, FsUsage, PodUsage, VolumeUsage};

use super::*;

/// A line of the catalogue.
struct Known {
    here: bool,
    kind: String,
    stability: String,
    labels: Vec<String>,
    buckets: Vec<f64>,
}

fn catalogue() -> BTreeMap<String, Known> {
    let list = |text: &str| -> Vec<String> {
        if text == "-" { vec![] } else { text.split(',').map(str::to_owned).collect() }
    };
    let lines = include_str!("catalogue.txt").lines().filter(|line| !line.starts_with('#'));
    let rows = lines.map(|line| {
        let [here, name, kind, stability, labels, buckets] =
            line.split(' ').collect::<Vec<_>>().try_into().expect(line);
        let known = Known {
            here: here == "+",
            kind: kind.to_owned(),
            stability: stability.to_owned(),
            labels: list(labels),
            buckets: list(buckets).iter().map(|bound| bound.parse().expect(line)).collect(),
        };
        (name.to_owned(), known)
    });
    rows.collect()
}

fn all_descs(metrics: &Metrics) -> Vec<&'static Desc> {
    let families = [metrics.kubelet_families(), metrics.probes.families(), metrics.slis.families()].concat();
    let collected = [pods::ALL, node::ALL, process::ALL].concat();
    families.into_iter().map(Family::desc).chain(collected).collect()
}

#[test]
fn names_types_labels_and_buckets_are_upstreams() {
    let catalogue = catalogue();
    let metrics = Metrics::new();
    let descs = all_descs(&metrics);
    for desc in &descs {
        let Some(known) = catalogue.get(desc.name) else {
            let page = include_str!("../../../../docs/metrics.md");
            assert!(desc.name.starts_with("rubelet_"), "{} is no metric of upstream's", desc.name);
            assert!(page.contains(&format!("`{}`", desc.name)), "{} is not in docs/metrics.md", desc.name);
            continue;
        };
        assert!(known.here, "{} is there and the catalogue says it is not", desc.name);
        assert_eq!(desc.kind.as_str(), known.kind, "{}", desc.name);
        let stability = if desc.stability == Stability::Unmarked { "-" } else { desc.stability.name() };
        assert_eq!(stability, known.stability, "{}", desc.name);
        let mut labels = desc.labels.to_vec();
        labels.sort_unstable();
        assert_eq!(labels, known.labels, "{}", desc.name);
        assert_eq!(desc.buckets, known.buckets, "{}", desc.name);
        assert!(desc.help.trim().len() > 10, "{} has no help", desc.name);
    }
    let mut names: Vec<&str> = descs.iter().map(|desc| desc.name).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "two metrics have one name");
    for (name, _) in catalogue.iter().filter(|(_, known)| known.here) {
        assert!(names.contains(&name.as_str()), "{name} is in the catalogue and not there");
    }
}

#[test]
fn the_page_of_documentation_names_every_metric_in_the_right_half() {
    let page = include_str!("../../../../docs/metrics.md");
    let (there, missing) = page.split_once("\n## Not there\n").unwrap();
    for (name, known) in catalogue() {
        let quoted = format!("`{name}`");
        assert_eq!(there.contains(&quoted), known.here, "{name}: among those that are there");
        let (missing, _) = missing.split_once("\n## ").unwrap();
        assert_eq!(missing.contains(&quoted), !known.here, "{name}: among those that are missing");
    }
}

/// Uses everything once, so that every family has samples.
fn used() -> Metrics {
    let metrics = Metrics::new();
    let Groups { pods, images, devices, runtime, api, node, server, probes, .. } = &*metrics;
    pods.worker_duration.with(["sync"]).observe(0.2);
    pods.first_network_start_sli.set(1.5);
    pods.containers_started.with(["container"]).inc();
    pods.container_start_errors.with(["container", "RunContainerError"]).inc();
    pods.containers_terminated.with(["container", "0", "Completed"]).inc();
    pods.restarted.with(["true"]).inc();
    pods.admission_rejections.with(["Other"]).inc();
    pods.orphan_volumes_cleaned.set(0.0);
    pods.orphan_volumes_errors.set(0.0);
    pods.evictions.with(["memory.available"]).inc();
    pods.eviction_stats_age.with(["memory.available"]).observe(0.5);
    pods.preemptions.with(["cpu"]).inc();
    pods.resizes_requested.with(["cpu", "limits", "increase"]).inc();
    pods.resize_duration.with(["true"]).observe(20.0);
    pods.resizes_pending.with(["deferred"]).set(1.0);
    pods.resizes_infeasible.with(["swap_limitation"]).inc();
    pods.resizes_in_progress.set(0.0);
    pods.resizes_accepted_late.with(["pods_removed"]).inc();
    images.pull_duration.with(["0-10MB"]).observe(2.0);
    images.ensure_requests.with(["always", "false", "true"]).inc();
    images.garbage_collected.with(["age"]).inc();
    images.must_pull_checks.with(["mustAuthenticate"]).inc();
    images.pull_intents.set(0.0);
    images.pulled_records.set(1.0);
    images.plugin_errors.with(["p"]).inc();
    images.plugin_duration.with(["p"]).observe(1.0);
    devices.registrations.with(["example.com/x"]).inc();
    devices.alloc_duration.with(["example.com/x"]).observe(0.1);
    for counter in [
        &devices.pod_resources_requests,
        &devices.list_requests,
        &devices.get_requests,
        &devices.allocatable_requests,
        &devices.list_errors,
        &devices.get_errors,
        &devices.allocatable_errors,
    ] {
        counter.with(["v1"]).inc();
    }
    runtime.operations.with(["version"]).inc();
    runtime.operation_errors.with(["version"]).inc();
    runtime.operation_duration.with(["version"]).observe(0.001);
    runtime.run_sandbox_duration.with([""]).observe(0.1);
    runtime.run_sandbox_errors.with([""]).inc();
    runtime.stuck_pods.set(0.0);
    api.requests.with(["<error>", "GET", "h\"o\\s\nt"]).inc();
    api.request_duration.with(["GET", "h"]).observe(0.1);
    api.request_size.with(["GET", "h"]).observe(1e6);
    api.rate_limiter_duration.with(["GET", "h"]).observe(0.0);
    api.retries.with(["429", "GET", "h"]).inc();
    api.token_reviews.with(["200"]).inc();
    api.token_review_duration.with(["200"]).observe(0.1);
    api.access_reviews.with(["200"]).inc();
    api.access_review_duration.with(["200"]).observe(0.1);
    for gauge in [
        &node.startup,
        &node.startup_pre_kubelet,
        &node.startup_pre_registration,
        &node.startup_registration,
        &node.startup_post_registration,
        &node.shutdown_began,
        &node.shutdown_ended,
        &node.memory_qos_min,
        &node.memory_qos_low,
    ] {
        gauge.set(1.0);
    }
    for counter in [
        &node.cpu_requests,
        &node.cpu_errors,
        &node.memory_requests,
        &node.memory_errors,
        &node.topology_requests,
        &node.topology_errors,
    ] {
        counter.inc();
    }
    node.cgroup_duration.with(["create"]).observe(0.001);
    node.topology_duration.observe(1.0);
    node.aligned.with(["container", "numa_node"]).inc();
    node.misaligned.with(["container", "numa_node"]).inc();
    node.csi_operation.with(["d", "/csi.v1.Node/NodeStageVolume", "OK", "false"]).observe(0.1);
    node.dra_grpc_operation.with(["d", "/v1.DRAPlugin/NodePrepareResources", "OK"]).observe(0.1);
    node.dra_operation.with(["PrepareResources", "false"]).observe(0.1);
    node.storage_operation.with(["kubernetes.io/secret", "volume_mount", "success", "false"]).observe(0.1);
    drop(metrics.http("GET", "/pods", ServerType::ReadWrite));
    metrics.websocket_streaming("exec");
    assert_eq!(server.websocket_streams.with(["exec"]).get(), 1);
    probes.total.with(["Liveness", "successful", "c", "p", "ns", "uid"]).inc();
    probes.duration.with(["Liveness", "c", "p", "ns"]).observe(0.1);
    metrics.observe_checks(
        &[Check::passed("ping", None), Check::new("syncloop", Some("stuck".into()))],
        "healthz",
    );
    metrics.collect_with(|out| {
        let usage = [
            &pods::LOG_BYTES,
            &pods::VOLUME_CAPACITY,
            &pods::VOLUME_AVAILABLE,
            &pods::VOLUME_USED,
            &pods::VOLUME_INODES,
            &pods::VOLUME_INODES_FREE,
            &pods::VOLUME_INODES_USED,
            &pods::VOLUME_ABNORMAL,
        ];
        let others =
            pods::ALL.iter().chain(node::ALL).filter(|desc| !usage.iter().any(|u| u.name == desc.name));
        for desc in others {
            out.tell(desc, &vec!["x"; desc.labels.len()], 1.0);
        }
    });
    metrics
}

fn usage() -> NodeUsage {
    let mut pod = rubelet_core::Pod::default();
    pod.metadata.namespace = Some("ns".into());
    pod.metadata.name = Some("p".into());
    pod.metadata.uid = Some("u".into());
    let fs = FsUsage {
        available: Some(1),
        capacity: Some(2),
        used: Some(3),
        inodes_free: Some(4),
        inodes: Some(5),
        inodes_used: Some(6),
        ..FsUsage::default()
    };
    let volume = |name: &str, claim: Option<&str>| VolumeUsage {
        name: name.into(),
        claim: claim.map(|claim| ("ns".to_owned(), claim.to_owned())),
        fs: fs.clone(),
        abnormal: Some(false),
        ..VolumeUsage::default()
    };
    let container = ContainerUsage { name: "c".into(), logs: Some(fs.clone()), ..ContainerUsage::default() };
    let pod = PodUsage {
        pod: Arc::new(pod),
        status: Arc::default(),
        sandbox_id: String::new(),
        sandbox_image: String::new(),
        started_at: None,
        group: None,
        sandbox_group: None,
        network: None,
        containers: vec![container],
        volumes: vec![volume("a", Some("claim")), volume("b", None), volume("c", Some("claim"))],
        other_ephemeral: None,
    };
    NodeUsage { pods: vec![pod], ..NodeUsage::default() }
}

fn families(page: &str) -> Vec<ParsedFamily> {
    parse(page).unwrap_or_else(|problem| panic!("{problem} in\n{page}"))
}

#[tokio::test]
async fn every_family_is_rendered_as_strict_text_in_order() {
    let metrics = used();
    let pages = [metrics.render_kubelet(Some(&usage())), metrics.render_probes(), metrics.render_slis()];
    let mut rendered = BTreeMap::new();
    for page in &pages {
        let families = families(page);
        assert!(families.is_sorted_by(|a, b| a.name < b.name));
        rendered.extend(families.into_iter().map(|family| (family.name.clone(), family)));
    }
    for (name, known) in catalogue().iter().filter(|(_, known)| known.here) {
        let family = rendered.get(name).unwrap_or_else(|| panic!("{name} is not rendered"));
        assert_eq!(family.kind.as_str(), known.kind, "{name}");
        for sample in &family.samples {
            let mut labels: Vec<&str> = sample.labels.iter().map(|(label, _)| label.as_str()).collect();
            labels.retain(|label| *label != "le");
            labels.sort_unstable();
            assert_eq!(labels, known.labels, "{name}");
        }
        if known.stability != "-" {
            assert!(family.help.starts_with(&format!("[{}] ", known.stability)), "{}", family.help);
        }
    }
    let upstreams = rendered.keys().filter(|name| !name.starts_with("rubelet_")).count();
    assert_eq!(upstreams, catalogue().values().filter(|known| known.here).count());
    let page = include_str!("../../../../docs/metrics.md");
    for name in rendered.keys().filter(|name| name.starts_with("rubelet_")) {
        assert!(page.contains(&format!("`{name}`")), "{name} is not in docs/metrics.md");
    }
}

#[test]
fn what_was_never_used_leaves_no_trace_and_counts_begin_at_zero() {
    let page = Metrics::new().render_kubelet(None);
    let told: Vec<ParsedFamily> = families(&page);
    let find = |name: &str| told.iter().find(|family| family.name == name);
    assert_eq!(find("kubelet_started_pods_total").unwrap().samples[0].value, 0.0);
    assert!(find("kubelet_node_startup_duration_seconds").is_none(), "a gauge that was never set");
    assert!(find("kubelet_runtime_operations_total").is_none());
    assert!(find("kubelet_volume_stats_used_bytes").is_none());
    assert!(find("process_resident_memory_bytes").unwrap().samples[0].value > 0.0);
}

#[test]
fn claims_and_logs_come_from_a_reading_each_once() {
    let page = Metrics::new().render_kubelet(Some(&usage()));
    for line in [
        "kubelet_volume_stats_used_bytes{namespace=\"ns\",persistentvolumeclaim=\"claim\"} 3\n",
        "kubelet_volume_stats_inodes_free{namespace=\"ns\",persistentvolumeclaim=\"claim\"} 4\n",
        "kubelet_container_log_filesystem_used_bytes{uid=\"u\",namespace=\"ns\",pod=\"p\",container=\"c\"} 3\n",
    ] {
        assert_eq!(page.matches(line).count(), 1, "{line}");
    }
    families(&page);
}

#[test]
fn checks_are_counted_and_the_last_result_is_shown() {
    let metrics = Metrics::new();
    let check = |problem: Option<&str>| vec![Check::new("syncloop", problem.map(str::to_owned))];
    metrics.observe_checks(&check(Some("stuck")), "healthz");
    metrics.observe_checks(&check(None), "healthz");
    let page = metrics.render_slis();
    for line in [
        "kubernetes_healthcheck{name=\"syncloop\",type=\"healthz\"} 1\n",
        "kubernetes_healthchecks_total{name=\"syncloop\",type=\"healthz\",status=\"error\"} 1\n",
        "kubernetes_healthchecks_total{name=\"syncloop\",type=\"healthz\",status=\"success\"} 1\n",
        "# TYPE process_start_time_seconds gauge\n",
    ] {
        assert!(page.contains(line), "{line} in\n{page}");
    }
}

#[test]
fn a_pod_that_is_gone_leaves_no_probes() {
    let metrics = used();
    metrics.probes.total.with(["Liveness", "successful", "c", "other", "ns", "uid2"]).inc();
    metrics.forget_probes("ns", "p", "uid");
    let page = metrics.render_probes();
    assert!(!page.contains("pod=\"p\""), "{page}");
    assert!(page.contains("pod=\"other\""), "{page}");
}

/// What promtool remarks on is what upstream has named so.
#[tokio::test]
async fn only_names_of_upstreams_are_remarked_on() {
    let metrics = used();
    let pages = [metrics.render_kubelet(Some(&usage())), metrics.render_probes(), metrics.render_slis()];
    let remarks: Vec<String> = pages.iter().flat_map(|page| lint(&families(page))).collect();
    let total = "counter metrics should have \"_total\" suffix";
    let count = "only histograms and summaries should have such a suffix";
    let ms = "metric names should not contain abbreviated units";
    let expected = [
        ("kubelet_certificate_manager_client_expiration_renew_errors", total),
        ("kubelet_container_aligned_compute_resources_count", total),
        ("kubelet_container_aligned_compute_resources_count", count),
        ("kubelet_container_aligned_compute_resources_failure_count", total),
        ("kubelet_container_aligned_compute_resources_failure_count", count),
        ("kubelet_cpu_manager_exclusive_cpu_allocation_count", count),
        ("kubelet_evented_pleg_connection_error_count", total),
        ("kubelet_evented_pleg_connection_error_count", count),
        ("kubelet_evented_pleg_connection_success_count", total),
        ("kubelet_evented_pleg_connection_success_count", count),
        ("kubelet_evictions", total),
        ("kubelet_pleg_discard_events", total),
        ("kubelet_pod_resources_endpoint_errors_get", total),
        ("kubelet_pod_resources_endpoint_errors_get_allocatable", total),
        ("kubelet_pod_resources_endpoint_errors_list", total),
        ("kubelet_pod_resources_endpoint_requests_get", total),
        ("kubelet_pod_resources_endpoint_requests_get_allocatable", total),
        ("kubelet_pod_resources_endpoint_requests_list", total),
        ("kubelet_preemptions", total),
        ("kubelet_server_expiration_renew_errors", total),
        ("kubelet_topology_manager_admission_duration_ms", ms),
    ];
    assert_eq!(remarks, expected.map(|(name, remark)| format!("{name}: {remark}")));
}
