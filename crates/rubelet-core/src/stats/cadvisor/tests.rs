//! Tests of what is told of which control group.

use super::*;
use crate::stats::exposition::{ParsedFamily, parse};
use crate::stats::fixtures::{before, container, fs, full, full_group, full_pod, pod};
use crate::stats::usage::{
    ContainerUsage, CpuUsage, GroupUsage, MachineUsage, MemoryUsage, PodUsage, SystemGroup,
};

fn written(usage: &NodeUsage) -> String {
    let mut document = Exposition::new();
    write(usage, &mut document);
    document.into_string()
}

fn families(usage: &NodeUsage) -> Vec<ParsedFamily> {
    parse(&written(usage)).unwrap()
}

/// The sample lines of one family.
fn lines(usage: &NodeUsage, name: &str) -> Vec<String> {
    let text = written(usage);
    let begins = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    text.lines().filter(begins).map(|line| line[name.len()..].to_owned()).collect()
}

/// A group of which only CPU time is known.
fn idle(path: &str) -> GroupUsage {
    let cpu = CpuUsage { total: 2_000_000_000, ..CpuUsage::default() };
    GroupUsage { at: before(0), path: path.to_owned(), cpu: Some(cpu), ..GroupUsage::default() }
}

#[test]
fn a_small_node_in_full() {
    let mut pod = pod("web", "shop");
    pod.containers = vec![container("app", Some(idle("/kubepods/web/app")))];
    let machine = MachineUsage { cpus: 2, memory: 1024, kernel: "6.8".to_owned(), ..MachineUsage::default() };
    let usage = NodeUsage { machine, pods: vec![pod], ..NodeUsage::default() };
    let expected = r#"# HELP cadvisor_version_info Always 1; its labels tell the versions of kernel and operating system
# TYPE cadvisor_version_info gauge
cadvisor_version_info{cadvisorRevision="",cadvisorVersion="",dockerVersion="",kernelVersion="6.8",osVersion=""} 1
# HELP container_cpu_system_seconds_total CPU time spent in the kernel, in seconds
# TYPE container_cpu_system_seconds_total counter
container_cpu_system_seconds_total{container="app",id="/kubepods/web/app",image="example.com/app:1",name="app-id",namespace="shop",pod="web"} 0 1700000000250
# HELP container_cpu_usage_seconds_total CPU time used, in seconds
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="app",cpu="total",id="/kubepods/web/app",image="example.com/app:1",name="app-id",namespace="shop",pod="web"} 2 1700000000250
# HELP container_cpu_user_seconds_total CPU time spent in user mode, in seconds
# TYPE container_cpu_user_seconds_total counter
container_cpu_user_seconds_total{container="app",id="/kubepods/web/app",image="example.com/app:1",name="app-id",namespace="shop",pod="web"} 0 1700000000250
# HELP container_health_state Result of the container's health check; -1 without one, which no container of a pod has
# TYPE container_health_state gauge
container_health_state{container="app",id="/kubepods/web/app",image="example.com/app:1",name="app-id",namespace="shop",pod="web"} -1 1700000000250
# HELP container_last_seen When the container was last seen, in seconds since the epoch
# TYPE container_last_seen gauge
container_last_seen{container="app",id="/kubepods/web/app",image="example.com/app:1",name="app-id",namespace="shop",pod="web"} 1.7e+09 1700000000250
# HELP container_scrape_error 1 when something could not be read, otherwise 0
# TYPE container_scrape_error gauge
container_scrape_error 0
# HELP container_start_time_seconds When the container started, in seconds since the epoch
# TYPE container_start_time_seconds gauge
container_start_time_seconds{container="app",id="/kubepods/web/app",image="example.com/app:1",name="app-id",namespace="shop",pod="web"} 1.69999995e+09
# HELP machine_cpu_cores Logical CPUs
# TYPE machine_cpu_cores gauge
machine_cpu_cores{boot_id="",machine_id="",system_uuid=""} 2
# HELP machine_memory_bytes Memory of the machine, in bytes
# TYPE machine_memory_bytes gauge
machine_memory_bytes{boot_id="",machine_id="",system_uuid=""} 1024
# HELP machine_scrape_error 1 when the machine could not be read, otherwise 0
# TYPE machine_scrape_error gauge
machine_scrape_error 0
# HELP machine_swap_bytes Swap of the machine, in bytes
# TYPE machine_swap_bytes gauge
machine_swap_bytes{boot_id="",machine_id="",system_uuid=""} 0
"#;
    assert_eq!(written(&usage), expected);
}

#[test]
fn every_group_has_the_labels_upstream_gives_it_once() {
    let usage = NodeUsage {
        root: idle("/"),
        pods: vec![PodUsage {
            sandbox_id: "s1".to_owned(),
            sandbox_image: "pause:3".to_owned(),
            group: Some(idle("/kubepods/web")),
            sandbox_group: Some(idle("/kubepods/web/s1")),
            containers: vec![container("app", Some(idle("/kubepods/web/app"))), container("gone", None)],
            ..pod("web", "shop")
        }],
        system: vec![SystemGroup { name: "pods", group: idle("/kubepods") }],
        // A reader that lists everything below the root finds groups of pods, too.
        other_groups: vec![idle("/kubepods/web"), idle("/system.slice"), idle("/kubepods"), idle("")],
        ..NodeUsage::default()
    };
    assert_eq!(
        lines(&usage, "container_last_seen"),
        [
            r#"{container="",id="/",image="",name="",namespace="",pod=""} 1.7e+09 1700000000250"#,
            r#"{container="",id="/kubepods",image="",name="",namespace="",pod=""} 1.7e+09 1700000000250"#,
            r#"{container="",id="/kubepods/web",image="",name="",namespace="shop",pod="web"} 1.7e+09 1700000000250"#,
            r#"{container="",id="/kubepods/web/s1",image="pause:3",name="s1",namespace="shop",pod="web"} 1.7e+09 1700000000250"#,
            r#"{container="",id="/system.slice",image="",name="",namespace="",pod=""} 1.7e+09 1700000000250"#,
            r#"{container="app",id="/kubepods/web/app",image="example.com/app:1",name="app-id",namespace="shop",pod="web"} 1.7e+09 1700000000250"#,
        ]
    );
}

#[test]
fn networks_are_told_of_with_sandboxes_and_the_root() {
    let families = families(&full(1));
    let family =
        families.iter().find(|family| family.name == "container_network_receive_bytes_total").unwrap();
    let told: Vec<(&str, &str, f64)> = family
        .samples
        .iter()
        .map(|sample| (sample.label("id").unwrap(), sample.label("interface").unwrap(), sample.value))
        .collect();
    let sandbox = "/kubepods/pod-shop-web-0/sandbox";
    assert_eq!(told, [("/", "ens3", 50_000.0), (sandbox, "eth0", 1000.0), (sandbox, "net1", 2000.0)]);
}

#[test]
fn quotas_and_what_comes_of_them_need_a_quota() {
    let with = |quota: Option<i64>| {
        let mut group = full_group("/a", 1);
        group.cpu.as_mut().unwrap().quota = quota;
        let usage = NodeUsage { other_groups: vec![group], ..NodeUsage::default() };
        let told = |name: &str| lines(&usage, name).len();
        [
            told("container_spec_cpu_quota"),
            told("container_cpu_cfs_periods_total"),
            told("container_spec_cpu_period"),
        ]
    };
    assert_eq!(with(Some(50_000)), [1, 1, 1]);
    assert_eq!(with(None), [0, 0, 1]);
    assert_eq!(with(Some(-1)), [0, 0, 1]);
}

#[test]
fn no_limit_is_zero_and_the_roots_is_the_machines() {
    let unlimited = |path: &str, limit: Option<u64>| {
        let memory = MemoryUsage { limit, ..MemoryUsage::default() };
        GroupUsage { path: path.to_owned(), memory: Some(memory), ..GroupUsage::default() }
    };
    let usage = NodeUsage {
        root: unlimited("/", None),
        other_groups: vec![
            unlimited("/a", None),
            unlimited("/b", Some(u64::MAX)),
            unlimited("/c", Some(4096)),
        ],
        machine: MachineUsage { memory: 100, swap: 20, cpus: 1, ..MachineUsage::default() },
        ..NodeUsage::default()
    };
    let values = |name: &str| -> Vec<String> {
        lines(&usage, name).iter().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
    };
    assert_eq!(values("container_spec_memory_limit_bytes"), ["100", "0", "0", "4096"]);
    assert_eq!(values("container_spec_memory_swap_limit_bytes"), ["20", "0", "0", "0"]);
    assert_eq!(values("container_spec_memory_reservation_limit_bytes"), ["0", "0", "0", "0"]);
}

#[test]
fn disks_without_figures_of_the_root_group_are_told_by_the_kernels() {
    let usage = full(0);
    let of_root = |name: &str| -> Vec<String> {
        let root = |line: &&String| line.contains("id=\"/\"");
        let short = |line: &String| {
            line.split("\",id=").next().unwrap().to_owned() + line.rsplit('}').next().unwrap()
        };
        lines(&usage, name).iter().filter(root).map(short).collect()
    };
    assert_eq!(
        of_root("container_fs_reads_total"),
        [
            r#"{container="",device="/dev/sda 1000 1700000000250"#,
            r#"{container="",device=" 0 1700000000250"#,
            r#"{container="",device="/dev/sda1 1 1700000000250"#,
        ]
    );
    assert_eq!(
        of_root("container_fs_reads_bytes_total"),
        [
            r#"{container="",device="/dev/sda 512000 1700000000250"#,
            r#"{container="",device=" 15 1700000000250"#
        ],
        "devices without a name are told together"
    );
    assert_eq!(
        of_root("container_fs_read_seconds_total"),
        [
            r#"{container="",device="/dev/sda1 1.5 1700000000250"#,
            r#"{container="",device="/dev/sda 1.5 1700000000250"#
        ]
    );
    assert_eq!(of_root("container_blkio_device_usage_total").len(), 6, "by number, each reads and writes");
}

#[test]
fn a_layer_is_told_of_where_its_device_is_known() {
    let usage = |device: &str| {
        let layer = crate::stats::usage::FsUsage { device: device.to_owned(), ..fs(3000) };
        let app = ContainerUsage { rootfs: Some(layer), ..container("app", Some(idle("/app"))) };
        let pod = PodUsage { containers: vec![app], ..pod("web", "shop") };
        NodeUsage { pods: vec![pod], ..NodeUsage::default() }
    };
    let told = lines(&usage("/dev/vda"), "container_fs_usage_bytes");
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with(r#"{container="app",device="/dev/vda",id="/app","#), "{told:?}");
    assert!(told[0].ends_with("} 3000 1700000000250"), "{told:?}");
    assert_eq!(lines(&usage(""), "container_fs_usage_bytes"), [""; 0]);
}

#[test]
fn two_pods_of_one_name_are_both_told_of() {
    let mut old = full_pod("web", "shop");
    old.group = Some(idle("/kubepods/old"));
    let usage = NodeUsage { pods: vec![old, full_pod("web", "shop")], ..NodeUsage::default() };
    let told = lines(&usage, "container_cpu_usage_seconds_total");
    let ids = ["/kubepods/old", "/kubepods/pod-shop-web", "/kubepods/pod-shop-web/app"];
    for id in ids {
        assert_eq!(told.iter().filter(|line| line.contains(&format!("id=\"{id}\""))).count(), 1, "{id}");
    }
}
