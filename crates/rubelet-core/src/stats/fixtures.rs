//! Readings for the tests of documents: one in which everything is known, small ones, and any at all.

use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;

use super::usage::*;
use crate::pod_builder::{ContainerBuilder, PodBuilder};

/// The time of all readings, milliseconds since the epoch.
pub(super) const AT: i64 = 1_700_000_000_250;

pub(super) fn at() -> Timestamp {
    Timestamp::from_millisecond(AT).unwrap()
}

/// So many seconds before the reading.
pub(super) fn before(seconds: i64) -> Timestamp {
    Timestamp::from_millisecond(AT - 1000 * seconds).unwrap()
}

pub(super) fn psi(total: u64) -> Psi {
    let line = |total| PsiLine { avg10: 0.5, avg60: 0.0, avg300: 12.25, total };
    Psi { some: line(total), full: line(total / 2) }
}

/// A control group in which everything is known; figures are told apart by `seed`.
pub(super) fn full_group(path: &str, seed: u64) -> GroupUsage {
    GroupUsage {
        at: at(),
        path: path.to_owned(),
        created_at: Some(before(100)),
        cpu: Some(CpuUsage {
            total: seed * 1_500_000_000,
            user: seed * 1_000_000_000,
            system: seed * 500_000_000,
            periods: Some(seed + 10),
            throttled_periods: Some(seed + 5),
            throttled: Some(seed * 250_000_000),
            burst_periods: Some(seed + 1),
            burst: Some(seed * 125_000_000),
            shares: Some(2),
            quota: Some(50_000),
            period: Some(100_000),
        }),
        nanocores: Some(seed * 1_000_000),
        memory: Some(MemoryUsage {
            usage: seed * 4096,
            max_usage: Some(seed * 8192),
            cache: Some(seed * 1024),
            rss: Some(seed * 2048),
            working_set: seed * 3072,
            mapped_file: Some(seed * 256),
            kernel: Some(seed * 512),
            active_file: Some(seed * 300),
            inactive_file: Some(seed * 1024),
            swap: Some(seed * 100),
            failures: Some(seed),
            page_faults: Some(seed * 10),
            major_page_faults: Some(seed * 2),
            tree_page_faults: Some(seed * 20),
            tree_major_page_faults: Some(seed * 3),
            oom_kills: Some(1),
            limit: Some(seed * 16_384),
            soft_limit: Some(seed * 1000),
            swap_limit: Some(seed * 200),
        }),
        devices: vec![
            DeviceIo {
                device: "/dev/sda".to_owned(),
                major: 8,
                minor: 0,
                read_bytes: seed * 512,
                written_bytes: seed * 1024,
                reads: seed,
                writes: seed * 2,
            },
            DeviceIo { major: 252, minor: 1, read_bytes: 7, ..DeviceIo::default() },
            DeviceIo { major: 252, minor: 2, read_bytes: 8, ..DeviceIo::default() },
        ],
        processes: Some(ProcessUsage {
            processes: seed,
            threads: Some(seed * 4),
            threads_max: None,
            file_descriptors: Some(seed * 9),
            sockets: Some(seed * 3),
            soft_limit_open_files: Some(1_048_576),
            tasks: Some(TaskStates { sleeping: seed, running: 1, ..TaskStates::default() }),
        }),
        pressure: Pressure {
            cpu: Some(psi(seed * 1_000_000)),
            memory: Some(psi(seed * 2_000_000)),
            io: Some(psi(seed * 3_000_000)),
        },
    }
}

pub(super) fn interface(name: &str, seed: u64) -> InterfaceUsage {
    InterfaceUsage {
        name: name.to_owned(),
        rx_bytes: seed * 1000,
        rx_packets: seed * 10,
        rx_errors: 1,
        rx_dropped: 2,
        tx_bytes: seed * 2000,
        tx_packets: seed * 20,
        tx_errors: 3,
        tx_dropped: 4,
    }
}

pub(super) fn fs(used: u64) -> FsUsage {
    FsUsage {
        at: at(),
        available: Some(600_000),
        capacity: Some(1_000_000),
        used: Some(used),
        inodes_free: Some(900),
        inodes: Some(1000),
        inodes_used: Some(used / 1000),
        device: "/dev/sda1".to_owned(),
    }
}

/// A pod of which only its names are known.
pub(super) fn pod(name: &str, namespace: &str) -> PodUsage {
    let container = ContainerBuilder::new("app", "example.com/app:1");
    PodUsage {
        pod: Arc::new(
            PodBuilder::new(name)
                .namespace(namespace)
                .uid(&format!("uid-{name}"))
                .container(container)
                .build(),
        ),
        status: Arc::default(),
        sandbox_id: String::new(),
        sandbox_image: String::new(),
        started_at: Some(before(60)),
        group: None,
        sandbox_group: None,
        network: None,
        containers: Vec::new(),
        volumes: Vec::new(),
        other_ephemeral: None,
    }
}

pub(super) fn container(name: &str, group: Option<GroupUsage>) -> ContainerUsage {
    ContainerUsage {
        name: name.to_owned(),
        id: format!("{name}-id"),
        image: format!("example.com/{name}:1"),
        started_at: Some(before(50)),
        group,
        ..ContainerUsage::default()
    }
}

/// One pod of which everything is known.
pub(super) fn full_pod(name: &str, namespace: &str) -> PodUsage {
    let path = format!("/kubepods/pod-{namespace}-{name}");
    PodUsage {
        sandbox_id: format!("{name}-sandbox"),
        sandbox_image: "example.com/pause:3".to_owned(),
        group: Some(full_group(&path, 6)),
        sandbox_group: Some(full_group(&format!("{path}/sandbox"), 1)),
        network: Some(NetworkUsage {
            at: at(),
            interfaces: vec![interface("eth0", 1), interface("net1", 2)],
        }),
        containers: vec![
            ContainerUsage {
                rootfs: Some(fs(3000)),
                logs: Some(fs(1000)),
                ..container("app", Some(full_group(&format!("{path}/app"), 3)))
            },
            container("side", Some(full_group(&format!("{path}/side"), 2))),
        ],
        volumes: vec![
            VolumeUsage {
                name: "data".to_owned(),
                claim: Some((namespace.to_owned(), "claim".to_owned())),
                fs: fs(70_000),
                abnormal: Some(false),
                ephemeral: false,
            },
            VolumeUsage {
                name: "scratch".to_owned(),
                fs: fs(5000),
                ephemeral: true,
                ..VolumeUsage::default()
            },
        ],
        other_ephemeral: Some(FsUsage { used: Some(400), inodes_used: Some(1), ..FsUsage::default() }),
        ..pod(name, namespace)
    }
}

/// A node of which everything is known.
pub(super) fn full(pods: usize) -> NodeUsage {
    let disk = DiskCounters { reads: 1, read_ms: 1500, io_ms: 20, in_progress: 3, ..DiskCounters::default() };
    NodeUsage {
        node_name: "node-1".to_owned(),
        machine: MachineUsage {
            cpus: 8,
            physical_cores: 4,
            sockets: 1,
            memory: 64_000_000,
            swap: 2_000_000,
            machine_id: "machine".to_owned(),
            system_uuid: "uuid".to_owned(),
            boot_id: "boot".to_owned(),
            kernel: "6.8.0".to_owned(),
            os: "Some Linux 12".to_owned(),
        },
        boot_time: Some(before(100_000)),
        root: full_group("/", 1000),
        memory_available: Some(40_000_000),
        swap: Some((500_000, 1_500_000)),
        network: Some(NetworkUsage {
            at: at(),
            interfaces: vec![interface("ens3", 50), interface("lo", 9), interface("veth12", 8)],
        }),
        fs: Some(fs(400_000)),
        filesystems: vec![
            FilesystemUsage { fs: fs(400_000), disk: Some(disk.clone()) },
            FilesystemUsage { fs: FsUsage { device: "/dev/sda".to_owned(), ..fs(1) }, disk: Some(disk) },
        ],
        image_fs: Some(fs(200_000)),
        container_fs: None,
        pids: Some((32_768, 321)),
        system: vec![
            SystemGroup { name: "kubelet", group: full_group("/system.slice/kubelet.service", 4) },
            SystemGroup { name: "pods", group: full_group("/kubepods", 500) },
        ],
        other_groups: vec![full_group("/kubepods", 500), full_group("/system.slice", 5)],
        pods: (0..pods).map(|index| full_pod(&format!("web-{index}"), "shop")).collect(),
        problems: Vec::new(),
    }
}

/// Any reading: anything may be unknown, and names, paths and devices may come more than once.
pub(super) fn any_node() -> impl Strategy<Value = NodeUsage> {
    let pods = proptest::collection::vec(any_pod().boxed(), 0..4);
    let groups = proptest::collection::vec(any_group().boxed(), 0..4);
    let filesystems = proptest::collection::vec(any_filesystem().boxed(), 0..3);
    let fs = proptest::option::of(any_fs().boxed());
    let root = (
        any_group().boxed(),
        proptest::option::of(any_network().boxed()),
        any::<Option<u64>>(),
        any::<Option<(u64, u64)>>(),
    );
    (root, pods, groups, filesystems, fs, any::<bool>(), text()).prop_map(
        |((root, network, memory_available, swap), pods, other_groups, filesystems, fs, known, node_name)| {
            let system = other_groups.first().map(|group| SystemGroup { name: "misc", group: group.clone() });
            NodeUsage {
                machine: if known { full(0).machine } else { MachineUsage::default() },
                problems: if known { Vec::new() } else { vec![node_name.clone()] },
                node_name,
                root,
                memory_available,
                swap,
                network,
                image_fs: fs.clone(),
                fs,
                filesystems,
                system: system.into_iter().collect(),
                other_groups,
                pods,
                ..NodeUsage::default()
            }
        },
    )
}

/// Few names, so that they meet; some with what must be escaped.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just(String::new()), "[\"\\\\\nA-Cé/]{1,4}"]
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        Just(Timestamp::UNIX_EPOCH),
        Just(at()),
        (-1_000_000i64..4_000_000_000).prop_map(|second| { Timestamp::from_second(second).unwrap() })
    ]
}

prop_compose! {
    fn any_cpu()(total in any::<u64>(), user in any::<u64>(), known in any::<[Option<u64>; 4]>(), quota in any::<Option<i64>>())
    -> CpuUsage {
        let [periods, throttled, burst, shares] = known;
        CpuUsage { total, user, periods, throttled, burst, shares, quota, ..CpuUsage::default() }
    }
}

prop_compose! {
    fn any_memory()(usage in any::<u64>(), working_set in any::<u64>(), known in any::<[Option<u64>; 6]>()) -> MemoryUsage {
        let [rss, swap, page_faults, limit, swap_limit, oom_kills] = known;
        MemoryUsage { usage, working_set, rss, swap, page_faults, limit, swap_limit, oom_kills, ..MemoryUsage::default() }
    }
}

prop_compose! {
    fn any_device()(device in text(), major in 0u64..3, minor in 0u64..2, read_bytes in any::<u64>()) -> DeviceIo {
        DeviceIo { device, major, minor, read_bytes, reads: read_bytes, ..DeviceIo::default() }
    }
}

prop_compose! {
    fn any_group()(
        (at, path, created_at) in (any_time(), text(), proptest::option::of(any_time())),
        cpu in proptest::option::of(any_cpu().boxed()),
        memory in proptest::option::of(any_memory().boxed()),
        devices in proptest::collection::vec(any_device().boxed(), 0..4),
        (nanocores, processes, avg10) in (any::<Option<u64>>(), any::<Option<(u64, Option<u64>)>>(), any::<Option<f64>>()),
    ) -> GroupUsage {
        let pressure = avg10.map(|avg10| Psi { some: PsiLine { avg10, ..PsiLine::default() }, ..Psi::default() });
        let processes =
            processes.map(|(processes, threads)| ProcessUsage { processes, threads, ..ProcessUsage::default() });
        let pressure = Pressure { cpu: pressure, memory: None, io: pressure };
        GroupUsage { at, path, created_at, cpu, nanocores, memory, devices, processes, pressure }
    }
}

prop_compose! {
    fn any_fs()(at in any_time(), known in any::<[Option<u64>; 6]>(), device in text()) -> FsUsage {
        let [available, capacity, used, inodes_free, inodes, inodes_used] = known;
        FsUsage { at, available, capacity, used, inodes_free, inodes, inodes_used, device }
    }
}

prop_compose! {
    fn any_filesystem()(fs in any_fs().boxed(), reads in any::<Option<u64>>()) -> FilesystemUsage {
        FilesystemUsage { fs, disk: reads.map(|reads| DiskCounters { reads, ..DiskCounters::default() }) }
    }
}

prop_compose! {
    fn any_network()(at in any_time(), interfaces in proptest::collection::vec((text(), 0u64..1_000_000), 0..3)) -> NetworkUsage {
        NetworkUsage { at, interfaces: interfaces.iter().map(|(name, seed)| interface(name, *seed)).collect() }
    }
}

prop_compose! {
    fn any_pod()(
        (name, namespace, host_network) in (text(), text(), any::<bool>()),
        (group, sandbox_group) in (proptest::option::of(any_group().boxed()), proptest::option::of(any_group().boxed())),
        network in proptest::option::of(any_network().boxed()),
        containers in proptest::collection::vec(
            (text(), proptest::option::of(any_group().boxed()), proptest::option::of(any_fs().boxed()), any_time()), 0..3),
        volumes in proptest::collection::vec((text(), any_fs().boxed(), any::<bool>(), any::<Option<bool>>()), 0..3),
        started_at in proptest::option::of(any_time()),
    ) -> PodUsage {
        let mut builder = PodBuilder::new(&name).namespace(&namespace);
        if host_network {
            builder = builder.host_network();
        }
        let containers = containers.into_iter().map(|(name, group, rootfs, started_at)| ContainerUsage {
            logs: rootfs.clone(), rootfs, started_at: Some(started_at), ..container(&name, group)
        });
        let volumes = volumes.into_iter().map(|(name, fs, ephemeral, abnormal)| VolumeUsage {
            claim: (!ephemeral).then(|| (name.clone(), name.clone())), name, fs, ephemeral, abnormal,
        });
        PodUsage {
            pod: Arc::new(builder.build()),
            sandbox_id: name,
            sandbox_image: namespace,
            group, sandbox_group, network, started_at,
            containers: containers.collect(),
            volumes: volumes.collect(),
            ..pod("", "")
        }
    }
}
