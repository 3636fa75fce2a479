//! Tests of the summary: documents in full, and where figures come from.

use serde_json::{Value, json};

use super::summary;
use crate::stats::fixtures::{before, container, fs, full, full_group, full_pod, interface, pod};
use crate::stats::usage::{
    ContainerUsage, FsUsage, GroupUsage, MemoryUsage, NetworkUsage, NodeUsage, PodUsage,
};

fn value(usage: &NodeUsage) -> Value {
    serde_json::from_slice(&summary(usage, false)).unwrap()
}

/// A node with these pods, of which nothing else is known.
fn node(pods: Vec<PodUsage>) -> NodeUsage {
    NodeUsage { node_name: "node-1".to_owned(), pods, ..NodeUsage::default() }
}

#[test]
fn a_small_node_in_full() {
    let mut pod = pod("web", "shop");
    let group = GroupUsage { pressure: Default::default(), ..full_group("/kubepods/web", 2) };
    pod.containers = vec![ContainerUsage { rootfs: Some(fs(3000)), ..container("app", Some(group)) }];
    let usage = NodeUsage { boot_time: Some(before(1000)), fs: Some(fs(400_000)), ..node(vec![pod]) };
    let expected = r#"{
 "node": {
  "nodeName": "node-1",
  "startTime": "2023-11-14T21:56:40Z",
  "fs": {
   "time": "2023-11-14T22:13:20Z",
   "availableBytes": 600000,
   "capacityBytes": 1000000,
   "usedBytes": 400000,
   "inodesFree": 900,
   "inodes": 1000,
   "inodesUsed": 400
  }
 },
 "pods": [
  {
   "podRef": {
    "name": "web",
    "namespace": "shop",
    "uid": "uid-web"
   },
   "startTime": "2023-11-14T22:12:20Z",
   "containers": [
    {
     "name": "app",
     "startTime": "2023-11-14T22:12:30Z",
     "cpu": {
      "time": "2023-11-14T22:13:20Z",
      "usageNanoCores": 2000000,
      "usageCoreNanoSeconds": 3000000000
     },
     "memory": {
      "time": "2023-11-14T22:13:20Z",
      "availableBytes": 26624,
      "usageBytes": 8192,
      "workingSetBytes": 6144,
      "rssBytes": 4096,
      "pageFaults": 20,
      "majorPageFaults": 4
     },
     "rootfs": {
      "time": "2023-11-14T22:13:20Z",
      "availableBytes": 600000,
      "capacityBytes": 1000000,
      "usedBytes": 3000,
      "inodesFree": 900,
      "inodes": 1000,
      "inodesUsed": 3
     },
     "swap": {
      "time": "2023-11-14T22:13:20Z",
      "swapAvailableBytes": 200,
      "swapUsageBytes": 200
     }
    }
   ],
   "cpu": {
    "time": "2023-11-14T22:13:20Z",
    "usageNanoCores": 2000000,
    "usageCoreNanoSeconds": 3000000000
   },
   "memory": {
    "time": "2023-11-14T22:13:20Z",
    "availableBytes": 26624,
    "usageBytes": 8192,
    "workingSetBytes": 6144,
    "rssBytes": 4096,
    "pageFaults": 20,
    "majorPageFaults": 4
   },
   "ephemeral-storage": {
    "time": "2023-11-14T22:13:20Z",
    "availableBytes": 600000,
    "capacityBytes": 1000000,
    "usedBytes": 3000,
    "inodesFree": 900,
    "inodes": 1000,
    "inodesUsed": 3
   },
   "process_stats": {
    "process_count": 2
   },
   "swap": {
    "time": "2023-11-14T22:13:20Z",
    "swapAvailableBytes": 200,
    "swapUsageBytes": 200
   }
  }
 ]
}"#;
    assert_eq!(String::from_utf8(summary(&usage, false)).unwrap(), expected);
}

#[test]
fn the_node_tells_of_network_file_systems_processes_and_pressure() {
    let node = &value(&full(0))["node"];
    let time = json!("2023-11-14T22:13:20Z");
    assert_eq!(
        node["network"],
        json!({
            "time": time, "name": "ens3", "rxBytes": 50_000, "rxErrors": 1, "txBytes": 100_000, "txErrors": 3,
            "interfaces": [{"name": "ens3", "rxBytes": 50_000, "rxErrors": 1, "txBytes": 100_000, "txErrors": 3}],
        })
    );
    assert_eq!(node["rlimit"], json!({"time": time, "maxpid": 32_768, "curproc": 321}));
    assert_eq!(
        node["swap"],
        json!({"time": time, "swapAvailableBytes": 1_500_000, "swapUsageBytes": 500_000})
    );
    assert_eq!(node["memory"]["availableBytes"], 40_000_000);
    assert_eq!(node["runtime"]["imageFs"]["usedBytes"], 200_000);
    assert_eq!(node["runtime"]["containerFs"], node["runtime"]["imageFs"]);
    let line = |total: u64| json!({"total": total, "avg10": 0.5, "avg60": 0, "avg300": 12.25});
    let full = line(1_500_000_000);
    assert_eq!(node["io"], json!({"time": time, "psi": {"full": full, "some": line(3_000_000_000)}}));
    let system = node["systemContainers"].as_array().unwrap();
    let names: Vec<&Value> = system.iter().map(|container| &container["name"]).collect();
    assert_eq!(names, ["kubelet", "pods"]);
    assert_eq!(system[0]["memory"]["workingSetBytes"], 4 * 3072);
    assert!(system[0].get("rootfs").is_none());
}

#[test]
fn whole_numbers_have_no_point_and_objects_upstreams_order() {
    let text = String::from_utf8(summary(&full(1), false)).unwrap();
    assert!(text.contains("\"avg60\": 0,\n") && text.contains("\"avg10\": 0.5,\n"), "{text}");
    let order = |from: &str, keys: &[&str]| {
        let start = text.find(from).unwrap();
        let found: Vec<usize> =
            keys.iter().map(|key| text[start..].find(&format!("\"{key}\":")).unwrap()).collect();
        assert!(found.is_sorted(), "{keys:?} {found:?}");
    };
    order("\"systemContainers\"", &["network", "fs", "runtime", "rlimit", "pods"]);
    order(
        "\"pods\": [",
        &[
            "podRef",
            "containers",
            "rootfs",
            "logs",
            "network",
            "volume",
            "ephemeral-storage",
            "process_stats",
        ],
    );
}

#[test]
fn only_cpu_and_memory_has_nothing_else() {
    let json: Value = serde_json::from_slice(&summary(&full(1), true)).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&json["node"]), ["cpu", "memory", "nodeName", "startTime", "swap", "systemContainers"]);
    assert_eq!(json["node"]["startTime"], "2023-11-14T22:11:40Z", "the root control group's");
    assert_eq!(keys(&json["pods"][0]), ["containers", "cpu", "memory", "podRef", "startTime", "swap"]);
    assert_eq!(keys(&json["pods"][0]["containers"][0]), ["cpu", "memory", "name", "startTime", "swap"]);
    assert!(json["pods"][0]["cpu"].get("psi").is_some());
}

#[test]
fn ephemeral_storage_is_layers_logs_volumes_of_the_node_and_other_files() {
    let check = |pod: PodUsage, used: Value, inodes_used: Value| {
        let usage = NodeUsage { fs: Some(fs(400_000)), ..node(vec![pod]) };
        let storage = &value(&usage)["pods"][0]["ephemeral-storage"];
        assert_eq!((&storage["usedBytes"], &storage["inodesUsed"]), (&used, &inodes_used));
        assert_eq!(storage["capacityBytes"], 1_000_000);
    };
    // Layer 3000, logs 1000, scratch 5000, hosts file 400.
    check(full_pod("web", "shop"), json!(9400), json!(3 + 1 + 5 + 1));
    let mut without_layer = full_pod("web", "shop");
    without_layer.containers[0].rootfs = None;
    check(without_layer, json!(5400), json!(6));
    let mut unknown = pod("web", "shop");
    unknown.containers = vec![container("app", None)];
    check(unknown.clone(), Value::Null, Value::Null);
    assert!(value(&node(vec![unknown]))["pods"][0].get("ephemeral-storage").is_none());
}

#[test]
fn volumes_name_their_claims_and_come_after_those_of_the_node() {
    let volumes = &value(&full(1))["pods"][0]["volume"];
    assert_eq!(
        volumes[0],
        json!({
            "time": "2023-11-14T22:13:20Z", "availableBytes": 600_000, "capacityBytes": 1_000_000, "usedBytes": 5000,
            "inodesFree": 900, "inodes": 1000, "inodesUsed": 5, "name": "scratch",
        })
    );
    assert_eq!(volumes[1]["name"], "data");
    assert_eq!(volumes[1]["pvcRef"], json!({"name": "claim", "namespace": "shop"}));
    assert_eq!(volumes[1]["volumeHealthStats"], json!({"abnormal": false}));
}

#[test]
fn available_memory_is_the_limit_without_the_working_set() {
    let check = |limit: Option<u64>, working_set: u64, expected: Value| {
        let memory = MemoryUsage { limit, working_set, ..MemoryUsage::default() };
        let group = GroupUsage { memory: Some(memory), ..GroupUsage::default() };
        let pod = PodUsage { containers: vec![container("app", Some(group))], ..pod("web", "shop") };
        let container = &value(&node(vec![pod]))["pods"][0]["containers"][0];
        assert_eq!(container["memory"]["availableBytes"], expected);
        assert!(container.get("swap").is_none(), "where swap is not accounted");
    };
    check(Some(1000), 400, json!(600));
    check(Some(1000), 1400, json!(0));
    check(None, 400, Value::Null);
    check(Some(9_223_372_036_854_771_712), 400, Value::Null);
}

#[test]
fn a_pod_without_a_group_is_the_sum_of_its_containers() {
    let mut of_group = full_pod("web", "shop");
    assert_eq!(
        value(&node(vec![of_group.clone()]))["pods"][0]["cpu"]["usageCoreNanoSeconds"],
        9_000_000_000_u64
    );
    of_group.group = None;
    let pod = &value(&node(vec![of_group]))["pods"][0];
    assert_eq!(pod["cpu"]["usageCoreNanoSeconds"], (3 + 2) * 1_500_000_000_u64);
    assert_eq!(pod["memory"]["workingSetBytes"], (3 + 2) * 3072);
    assert_eq!(pod["swap"]["swapUsageBytes"], (3 + 2) * 100);
    assert!(pod["cpu"].get("psi").is_none() && pod.get("io").is_none(), "pressure does not add up");
    assert_eq!(pod["process_stats"]["process_count"], 3 + 2);
}

#[test]
fn one_pod_of_a_name_and_one_container_of_a_name_are_told_of() {
    let mut old = full_pod("web", "shop");
    old.started_at = Some(before(600));
    let mut new = full_pod("web", "shop");
    new.containers.push(ContainerUsage { attempt: 1, ..container("app", Some(full_group("/new", 9))) });
    let without_containers = pod("empty", "shop");
    let pods = &value(&node(vec![new, old, without_containers, full_pod("api", "shop")]))["pods"];
    let names: Vec<&Value> = pods.as_array().unwrap().iter().map(|pod| &pod["podRef"]["name"]).collect();
    assert_eq!(names, ["api", "web"]);
    assert_eq!(pods[1]["startTime"], "2023-11-14T22:12:20Z");
    let containers = pods[1]["containers"].as_array().unwrap();
    let names: Vec<&Value> = containers.iter().map(|container| &container["name"]).collect();
    assert_eq!(names, ["app", "side"]);
    assert_eq!(containers[0]["memory"]["workingSetBytes"], 9 * 3072);
}

#[test]
fn a_pod_in_the_nodes_network_has_the_nodes() {
    let in_nodes = |host: bool| {
        let mut pod = full_pod("web", "shop");
        pod.network = None;
        let mut object = (*pod.pod).clone();
        object.spec.as_mut().unwrap().host_network = Some(host);
        pod.pod = object.into();
        let network = NetworkUsage {
            interfaces: vec![interface("wlan0", 1), interface("eth0", 2)],
            ..Default::default()
        };
        let usage = NodeUsage { network: Some(network), ..node(vec![pod]) };
        value(&usage)["pods"][0]["network"].clone()
    };
    assert_eq!(in_nodes(true)["name"], "eth0");
    assert_eq!(in_nodes(true)["interfaces"].as_array().unwrap().len(), 2);
    assert_eq!(in_nodes(false), Value::Null);
}

#[test]
fn files_without_a_reading_have_no_time() {
    let usage = NodeUsage { fs: Some(FsUsage { used: Some(1), ..FsUsage::default() }), ..node(Vec::new()) };
    assert_eq!(value(&usage)["node"]["fs"], json!({"time": null, "usedBytes": 1}));
}
