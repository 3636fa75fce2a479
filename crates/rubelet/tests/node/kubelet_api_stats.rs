//! Figures of a pod whose use is known: `/stats/summary` and the pages of metrics tell it, say whose it is, go on over a
//! restart of the agent, and end with the pod. Prometheus' own checker reads every page.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rubelet_core::stats::exposition::{ParsedFamily, ParsedSample, lint, parse};
use serde_json::Value;

use crate::kubectl::finish;
use crate::kubelet_api::{Client, open_node};
use crate::node::{Node, http_get};
use crate::pods::{self, container_id, uid};
use crate::runtime::{output, xtask};
use crate::wait::{self, PATIENCE};

const MIB: u64 = 1 << 20;

/// One container for each figure.
const USERS: &str = "
terminationGracePeriodSeconds: 1
containers:
- name: busy
  image: $IMAGE
  command: [sh, -c, 'while :; do :; done']
  resources: {limits: {cpu: 200m}}
- name: holder
  image: $IMAGE
  command: [sh, -c, '(head -c 33554432 /dev/zero; echo held > /share/held; sleep 1000) | tail -c 33554432']
  resources: {limits: {memory: 100Mi}}
  volumeMounts: [{name: share, mountPath: /share}]
- name: writer
  image: $IMAGE
  command: [sh, -c, 'head -c 8388608 /dev/zero > /data; head -c 4194304 /dev/zero > /empty/data; head -c 2097152 /dev/zero > /tmp/page; for i in $(seq 1000); do echo $(printf %01000d 0); done; echo written > /share/written; exec httpd -f -p 8080 -h /tmp']
  volumeMounts: [{name: share, mountPath: /share}, {name: empty, mountPath: /empty}]
volumes: [{name: share, hostPath: {path: $SHARE}}, {name: empty, emptyDir: {}}]
";

/// What the kernel says of a container's CPU time, nanoseconds.
fn cpu_time(node: &Node, uid: &str, id: &str) -> u64 {
    let group = |name: &str| -> Option<PathBuf> {
        let mut groups = node.cgroups(uid).into_iter().filter_map(|pod| {
            let own = fs::read_dir(&pod).ok()?.flatten().map(|entry| entry.path());
            own.into_iter().find(|path| path.to_string_lossy().contains(id) && path.join(name).exists())
        });
        groups.next()
    };
    if let Some(group) = group("cpuacct.usage") {
        return fs::read_to_string(group.join("cpuacct.usage")).unwrap().trim().parse().unwrap();
    }
    let text = fs::read_to_string(group("cpu.stat").unwrap().join("cpu.stat")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap();
    line.parse::<u64>().unwrap() * 1000
}

fn families(client: &Client, path: &str) -> Vec<ParsedFamily> {
    let text = client.page(path);
    let families = parse(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert!(!families.is_empty(), "{path}");
    families
}

/// The samples of a family whose labels are like these.
fn samples<'a>(families: &'a [ParsedFamily], name: &str, labels: &[(&str, &str)]) -> Vec<&'a ParsedSample> {
    let family = families.iter().filter(|family| family.name == name);
    let like = |sample: &&ParsedSample| labels.iter().all(|(key, value)| sample.label(key) == Some(*value));
    family.flat_map(|family| &family.samples).filter(like).collect()
}

/// The only such sample.
#[track_caller]
fn sample(families: &[ParsedFamily], name: &str, labels: &[(&str, &str)]) -> f64 {
    let found = samples(families, name, labels);
    assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
    found[0].value
}

/// The pod's part of the summary.
fn summary(client: &Client) -> Result<Value, String> {
    let summary = client.json("/stats/summary");
    let pods = summary["pods"].as_array().cloned().unwrap_or_default();
    let mut pods = pods.into_iter().filter(|pod| pod["podRef"]["name"] == "users-node-1");
    pods.next().ok_or_else(|| summary.to_string())
}

fn container(pod: &Value, name: &str) -> Value {
    let containers = pod["containers"].as_array().cloned().unwrap_or_default();
    containers.into_iter().find(|container| container["name"] == name).unwrap_or_default()
}

#[track_caller]
fn between(what: &str, seen: f64, least: f64, most: f64) {
    assert!((least..=most).contains(&seen), "{what}: {seen}, not from {least} to {most}");
}

/// Whether a figure is there and what was written, with a quarter more for what writing needs.
fn about(value: &Value, bytes: u64) -> bool {
    value.as_u64().is_some_and(|seen| seen >= bytes && seen <= bytes + bytes / 4 + 256 * 1024)
}

#[test]
fn kubelet_api_tells_true_figures() {
    // Who watches for pressure has looked at logs before they are complete: the next look is not to be a minute off.
    let (mut node, client, _) = open_node("volumeStatsAggPeriod: 10s\n");
    node.apply("users", USERS);
    let pod = node.wait_ready("users");
    node.wait_line("held", "held");
    node.wait_line("written", "written");
    in_summary(&node, &client);
    in_metrics(&node, &client);

    // Counters are the kernel's: they go on when the agent starts anew.
    let busy = [("container", "busy"), ("namespace", "default"), ("pod", "users-node-1")];
    let cpu = |client: &Client| {
        sample(&families(client, "/metrics/resource"), "container_cpu_usage_seconds_total", &busy)
    };
    let before = cpu(&client);
    node.stop_agent();
    node.start_agent();
    client.wait_open();
    let resumed = node.wait_ready("users");
    assert_eq!(uid(&resumed), uid(&pod));
    let after = wait::until("figures after the restart", PATIENCE, || {
        let families = families(&client, "/metrics/resource");
        let found = samples(&families, "container_cpu_usage_seconds_total", &busy);
        found.first().map(|sample| sample.value).ok_or_else(|| "none".to_owned())
    });
    assert!(after >= before, "{after} after {before}");

    node.remove("users");
    node.wait_gone("users");
    wait::until("the pod's figures to be gone", PATIENCE, || {
        for path in ["/stats/summary", "/metrics/cadvisor", "/metrics/resource"] {
            let page = client.page(path);
            if page.contains("users-node-1") || page.contains(&uid(&pod)) {
                return Err(path.to_owned());
            }
        }
        Ok(())
    });
}

fn in_summary(node: &Node, client: &Client) {
    let pod = node.pod("users");
    let (uid, id) = (uid(&pod), container_id(&pod, "busy"));
    // The runtime looks at writable layers, and the agent at volumes, from time to time.
    let all = wait::until("all figures", PATIENCE, || {
        let all = summary(client)?;
        let empty = all["volume"].as_array().into_iter().flatten().find(|volume| volume["name"] == "empty");
        let writer = container(&all, "writer");
        let told = empty.is_some_and(|volume| about(&volume["usedBytes"], 4 * MIB))
            && about(&writer["rootfs"]["usedBytes"], 10 * MIB)
            && writer["logs"]["usedBytes"].as_u64().is_some_and(|bytes| bytes >= 1_000_000)
            && container(&all, "busy")["cpu"]["usageNanoCores"].as_u64().is_some();
        if told { Ok(all) } else { Err(all.to_string()) }
    });
    assert_eq!(all["podRef"]["namespace"], "default");
    assert_eq!(all["podRef"]["uid"], uid.as_str());
    let logs = &container(&all, "writer")["logs"]["usedBytes"];
    // Each line has the runtime's prefix.
    between("logs", logs.as_f64().unwrap_or_default(), 1_000_000.0, 1_300_000.0);
    let holder = container(&all, "holder");
    for figure in ["workingSetBytes", "rssBytes"] {
        let seen = holder["memory"][figure].as_f64().unwrap_or_default();
        between(figure, seen, 32.0 * MIB as f64, 40.0 * MIB as f64);
    }
    let available = holder["memory"]["availableBytes"].as_u64().unwrap();
    assert_eq!(available, 100 * MIB - holder["memory"]["workingSetBytes"].as_u64().unwrap());
    let pod_memory = all["memory"]["workingSetBytes"].as_f64().unwrap_or_default();
    between(
        "the pod's memory",
        pod_memory,
        holder["memory"]["workingSetBytes"].as_f64().unwrap(),
        200.0 * MIB as f64,
    );

    // CPU time is the kernel's, between two looks at it.
    let before = cpu_time(node, &uid, &id);
    let busy = wait::until("a new reading", PATIENCE, || {
        let busy = container(&summary(client)?, "busy")["cpu"].clone();
        if busy["usageCoreNanoSeconds"].as_u64() >= Some(before) { Ok(busy) } else { Err(busy.to_string()) }
    });
    let total = busy["usageCoreNanoSeconds"].as_u64().unwrap();
    assert!(total <= cpu_time(node, &uid, &id), "{total}");
    // Never more than its quota, with what a period more or less makes; less where the machine is busy.
    between("cores", busy["usageNanoCores"].as_f64().unwrap(), 1e6, 300e6);

    // Bytes that are sent are counted, with their packets' heads.
    let sent = |all: &Value| all["network"]["txBytes"].as_u64();
    let first = sent(&all).unwrap();
    assert_eq!(all["network"]["name"], "eth0");
    let address = format!("{}:8080", pods::status(&pod).pod_ip.unwrap());
    assert_eq!(http_get(&address, "/page").unwrap().len() as u64, 2 * MIB);
    wait::until("the bytes to be told", PATIENCE, || {
        let all = summary(client)?;
        let more = sent(&all).unwrap_or_default().saturating_sub(first);
        if (2 * MIB..3 * MIB).contains(&more) { Ok(()) } else { Err(more.to_string()) }
    });
    let system = client.json("/stats/summary?only_cpu_and_memory=true");
    assert_eq!(system["node"]["nodeName"], "node-1");
    assert!(system["node"].get("fs").is_none() && system["pods"][0].get("network").is_none(), "{system}");
    assert!(system["pods"][0]["containers"][0]["cpu"].is_object(), "{system}");
}

fn in_metrics(node: &Node, client: &Client) {
    let pod = node.pod("users");
    let (uid, id) = (uid(&pod), container_id(&pod, "busy"));
    let own = |name: &'static str| [("container", name), ("namespace", "default"), ("pod", "users-node-1")];

    let before = cpu_time(node, &uid, &id) as f64 / 1e9;
    let resource = wait::until("a new reading", PATIENCE, || {
        let page = families(client, "/metrics/resource");
        let seen = sample(&page, "container_cpu_usage_seconds_total", &own("busy"));
        if seen >= before { Ok(page) } else { Err(seen.to_string()) }
    });
    let seen = sample(&resource, "container_cpu_usage_seconds_total", &own("busy"));
    between("CPU time", seen, before, cpu_time(node, &uid, &id) as f64 / 1e9);
    let held = sample(&resource, "container_memory_working_set_bytes", &own("holder"));
    between("memory", held, 32.0 * MIB as f64, 40.0 * MIB as f64);
    assert_eq!(sample(&resource, "resource_scrape_error", &[]), 0.0);
    assert_eq!(samples(&resource, "pod_cpu_usage_seconds_total", &[("pod", "users-node-1")]).len(), 1);
    assert_eq!(samples(&resource, "container_start_time_seconds", &[("pod", "users-node-1")]).len(), 3);

    let cadvisor = families(client, "/metrics/cadvisor");
    for name in ["busy", "holder", "writer"] {
        let found = samples(&cadvisor, "container_memory_usage_bytes", &own(name));
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        let group = found[0].label("id").unwrap_or_default();
        assert!(group.contains(&uid) && group.contains(&container_id(&pod, name)), "{group}");
        assert!(found[0].label("image").unwrap_or_default().contains("rubelet.local/busybox"), "{found:?}");
        assert_eq!(found[0].label("name"), Some(container_id(&pod, name).as_str()));
    }
    let rss = sample(&cadvisor, "container_memory_rss", &own("holder"));
    between("memory", rss, 32.0 * MIB as f64, 40.0 * MIB as f64);
    let limit = sample(&cadvisor, "container_spec_memory_limit_bytes", &own("holder"));
    assert_eq!(limit, 100.0 * MIB as f64);
    assert_eq!(sample(&cadvisor, "container_spec_cpu_quota", &own("busy")), 20_000.0);
    let throttled = sample(&cadvisor, "container_cpu_cfs_throttled_periods_total", &own("busy"));
    assert!(throttled > 0.0, "a container with a quota that wants more is throttled");
    let network = [("pod", "users-node-1"), ("interface", "eth0")];
    let sent = sample(&cadvisor, "container_network_transmit_bytes_total", &network);
    between("bytes sent", sent, 2.0 * MIB as f64, 4.0 * MIB as f64);

    // The checker has never a word but about names that upstream gave.
    let promtool = PathBuf::from(output(xtask().arg("promtool")).trim());
    let mut remarks = vec![];
    for path in ["/metrics", "/metrics/slis", "/metrics/probes", "/metrics/resource", "/metrics/cadvisor"] {
        let page = client.page(path);
        let mut checker = Command::new(&promtool);
        checker.args(["check", "metrics"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let said = finish(checker, &page);
        let lines: Vec<&str> = said.stdout.lines().chain(said.stderr.lines()).collect();
        let own = lint(&parse(&page).unwrap());
        assert_eq!(own.is_empty(), lines.is_empty(), "{path}: {own:?} {lines:?}");
        remarks.extend(lines.into_iter().map(|line| format!("{path}: {line}")));
    }
    // One of them is made for each label.
    remarks.dedup();
    assert_eq!(remarks, REMARKS);
    assert!(client.page("/metrics").contains("kubelet_running_pods 1"), "{}", client.page("/metrics"));
}

/// What is said of names that dashboards know.
const REMARKS: &[&str] = &[
    "/metrics: kubelet_cpu_manager_exclusive_cpu_allocation_count non-histogram and non-summary metrics should not have \"_count\" suffix",
    "/metrics: kubelet_evented_pleg_connection_error_count counter metrics should have \"_total\" suffix",
    "/metrics: kubelet_evented_pleg_connection_error_count non-histogram and non-summary metrics should not have \"_count\" suffix",
    "/metrics: kubelet_evented_pleg_connection_success_count counter metrics should have \"_total\" suffix",
    "/metrics: kubelet_evented_pleg_connection_success_count non-histogram and non-summary metrics should not have \"_count\" suffix",
    "/metrics: kubelet_pleg_discard_events counter metrics should have \"_total\" suffix",
    "/metrics: kubelet_topology_manager_admission_duration_ms metric names should not contain abbreviated units",
    "/metrics/cadvisor: cadvisor_version_info label names should be written in 'snake_case' not 'camelCase'",
    "/metrics/cadvisor: container_fs_inodes_total non-counter metrics should not have \"_total\" suffix",
    "/metrics/cadvisor: container_memory_failcnt counter metrics should have \"_total\" suffix",
];
