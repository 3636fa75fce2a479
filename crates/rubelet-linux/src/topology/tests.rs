//! Machines as recorded trees.

use super::*;

/// Writes a tree: paths below `/sys/devices/system` with their content.
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{content}\n")).unwrap();
    }
    dir
}

/// Files of one CPU: socket, core, threads of the core, CPUs of the third-level cache.
fn cpu(id: u32, socket: &str, core: &str, siblings: &str, cache: &str) -> Vec<(String, String)> {
    let mut files = vec![
        ("topology/physical_package_id", socket),
        ("topology/core_id", core),
        ("topology/core_cpus_list", siblings),
        ("cache/index2/level", "2"),
        ("cache/index2/shared_cpu_list", siblings),
    ];
    if !cache.is_empty() {
        files.extend([("cache/index3/level", "3"), ("cache/index3/shared_cpu_list", cache)]);
    }
    files.retain(|(_, content)| !content.is_empty());
    files.into_iter().map(|(path, content)| (format!("cpu/cpu{id}/{path}"), content.to_owned())).collect()
}

/// A machine in words: each CPU as core/socket/node/cache, each node as memory and distances.
#[track_caller]
fn check(
    cpus: Vec<Vec<(String, String)>>,
    files: &[(&str, &str)],
    expected: Result<(&[&str], &[&str]), &str>,
) {
    let mut all: Vec<(&str, &str)> =
        cpus.iter().flatten().map(|(path, content)| (path.as_str(), content.as_str())).collect();
    all.extend(files);
    let tree = tree(&all);
    let machine = read_below(tree.path()).map_err(|error| error.to_string());
    let machine = machine.map(|machine| {
        let cpus = machine.cpus.iter();
        let cpus =
            cpus.map(|cpu| format!("{}: {}/{}/{}/{}", cpu.id, cpu.core, cpu.socket, cpu.numa, cpu.cache));
        let nodes = machine.nodes.iter();
        let nodes = nodes
            .map(|node| format!("{}: {} {:?} {:?}", node.id, node.memory, node.huge_pages, node.distances));
        (cpus.collect::<Vec<_>>(), nodes.collect::<Vec<_>>())
    });
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let expected = expected.map(|(cpus, nodes)| (owned(cpus), owned(nodes))).map_err(str::to_owned);
    assert_eq!(machine, expected);
}

#[test]
fn two_sockets_with_threads_and_offline_cpus() {
    // Core numbers of the kernel repeat in each socket; CPU 4 is offline, so is the thread it would share a core with.
    let cpus = vec![
        cpu(0, "0", "0", "0,4", "0-1,4-5"),
        cpu(1, "0", "1", "1,5", "0-1,4-5"),
        cpu(2, "1", "0", "2,6", "2-3,6-7"),
        cpu(3, "1", "1", "3,7", "2-3,6-7"),
        cpu(5, "0", "1", "1,5", "0-1,4-5"),
        cpu(6, "1", "0", "2,6", "2-3,6-7"),
        cpu(7, "1", "1", "3,7", "2-3,6-7"),
    ];
    let nodes = [
        ("cpu/online", "0-3,5-7"),
        ("node/online", "0-2"),
        ("node/node0/cpulist", "0-1,4-5"),
        ("node/node0/meminfo", "Node 0 MemTotal:        1024 kB\nNode 0 MemFree:  1 kB"),
        ("node/node0/distance", "10 21 17"),
        ("node/node0/hugepages/hugepages-2048kB/nr_hugepages", "3"),
        ("node/node1/cpulist", "2-3,6-7"),
        ("node/node1/meminfo", "Node 1 MemTotal:        2048 kB"),
        ("node/node1/distance", "21 10 nonsense"),
        // Memory without CPUs.
        ("node/node2/cpulist", ""),
        ("node/node2/meminfo", "Node 2 MemTotal:        4096 kB"),
        ("node/has_cpu", "0-1"),
    ];
    check(
        cpus,
        &nodes,
        Ok((
            &[
                "0: 0/0/0/0",
                "1: 1/0/0/0",
                "2: 2/1/1/2",
                "3: 3/1/1/2",
                "5: 1/0/0/0",
                "6: 2/1/1/2",
                "7: 3/1/1/2",
            ],
            &["0: 1048576 {2097152: 3} [10, 21, 17]", "1: 2097152 {} []", "2: 4194304 {} []"],
        )),
    );
}

#[test]
fn caches_of_parts_of_a_node() {
    // Two caches in a node; small cores without one.
    let cpus = vec![
        cpu(0, "0", "0", "0", "0-1"),
        cpu(1, "0", "1", "1", "0-1"),
        cpu(2, "0", "2", "2", "2"),
        cpu(3, "0", "3", "3", ""),
        cpu(4, "0", "4", "4", ""),
    ];
    let nodes = [("cpu/online", "0-4"), ("node/node0/cpulist", "0-4")];
    let expected = ["0: 0/0/0/0", "1: 1/0/0/0", "2: 2/0/0/2", "3: 3/0/0/3", "4: 4/0/0/3"];
    check(cpus, &nodes, Ok((&expected, &["0: 0 {} []"])));
}

#[test]
fn machines_that_tell_little() {
    // No NUMA, no caches, socket -1, no lists of threads; and nothing at all.
    let cpus = vec![cpu(0, "-1", "0", "", ""), cpu(1, "-1", "0", "", ""), cpu(2, "-1", "1", "", "")];
    check(
        cpus,
        &[("cpu/online", "0-3")],
        Ok((&["0: 0/0/0/0", "1: 0/0/0/0", "2: 2/0/0/0", "3: 3/0/0/0"], &["0: 0 {} []"])),
    );
    check(vec![], &[("cpu/online", "")], Err("no CPU is online"));
    check(
        vec![],
        &[("cpu/online", "0"), ("node/node64/cpulist", "0")],
        Err("NUMA node 64: only nodes below 64 can be told apart"),
    );
    let nonsense = tree(&[("cpu/online", "zero")]);
    assert!(read_below(nonsense.path()).is_err() && read_below(Path::new("/nonexistent")).is_err());
}

#[test]
fn this_machine() {
    let machine = read().unwrap();
    assert!(!machine.cpus.is_empty() && !machine.nodes.is_empty());
    assert!(machine.nodes.iter().map(|node| node.memory).sum::<u64>() > 0);
    let nodes = machine.all_nodes();
    assert!(machine.cpus.iter().all(|cpu| nodes.contains(cpu.numa)));
    assert!(machine.cpus.iter().all(|cpu| machine.cpu(cpu.core).is_some_and(|first| first.core == cpu.core)));
}
