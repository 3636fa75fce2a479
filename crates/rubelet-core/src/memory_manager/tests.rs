//! Memory of NUMA nodes: tables, checkpoints of upstream, and properties.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::topology::NumaNode;

const GI: u64 = 1 << 30;

/// Nodes with so many GiB each, of which the first keeps one.
fn machine(sizes: &[u64]) -> MachineTopology {
    let node = |(id, size): (usize, &u64)| NumaNode {
        id: u32::try_from(id).unwrap(),
        memory: size * GI,
        huge_pages: BTreeMap::from([(2 << 20, 512)]),
        distances: vec![],
    };
    MachineTopology { cpus: vec![], nodes: sizes.iter().enumerate().map(node).collect() }
}

fn one_gib() -> BTreeMap<String, u64> {
    BTreeMap::from([("memory".to_owned(), GI)])
}

fn manager(sizes: &[u64]) -> MemoryManager {
    let reserved = BTreeMap::from([(0, one_gib())]);
    MemoryManager::new("Static", &machine(sizes), &reserved, &one_gib()).unwrap()
}

/// A guaranteed pod: init containers (a trailing `+` is a sidecar) and containers with their GiB.
fn pod(uid: &str, inits: &[(&str, u64)], containers: &[(&str, u64)]) -> Pod {
    let container = |(name, size): &(&str, u64)| {
        let list = json!({"cpu": "1", "memory": format!("{size}Gi")});
        let mut made = json!({
            "name": name.trim_end_matches('+'), "resources": {"requests": list, "limits": list},
        });
        if name.ends_with('+') {
            made["restartPolicy"] = "Always".into();
        }
        made
    };
    serde_json::from_value(json!({
        "metadata": {"name": uid, "namespace": "default", "uid": uid},
        "spec": {
            "initContainers": inits.iter().map(container).collect::<Vec<_>>(),
            "containers": containers.iter().map(container).collect::<Vec<_>>(),
        },
    }))
    .unwrap()
}

const ANYWHERE: Hint = Hint { nodes: None, preferred: false };

fn all_containers(pod: &Pod) -> Vec<Container> {
    let spec = spec_of(pod);
    init_containers(spec).iter().chain(&spec.containers).cloned().collect()
}

fn allocate(manager: &mut MemoryManager, pod: &Pod, affinity: Hint) -> Result<(), String> {
    all_containers(pod)
        .iter()
        .try_for_each(|container| manager.allocate(pod, container, &affinity))
        .map_err(|error| error.to_string())
}

fn nodes(manager: &MemoryManager, pod: &str, container: &str) -> String {
    manager.nodes(&PodUid::from(pod), container).map(|nodes| nodes.to_string()).unwrap_or_default()
}

fn free(manager: &MemoryManager) -> Vec<u64> {
    manager.machine().values().map(|node| node.memory["memory"].free / GI).collect()
}

#[test]
fn nodes_of_containers() {
    // One GiB of each node is huge pages.
    let mut manager = manager(&[10, 10, 10]);
    assert_eq!(free(&manager), [8, 9, 9]);
    let small = pod("small", &[], &[("a", 8), ("b", 8)]);
    allocate(&mut manager, &small, ANYWHERE).unwrap();
    assert_eq!((nodes(&manager, "small", "a"), nodes(&manager, "small", "b")), ("0".into(), "1".into()));
    // More than one node has: nodes that are used alone are not mixed in.
    let wide = pod("wide", &[], &[("a", 12)]);
    assert_eq!(
        allocate(&mut manager, &wide, ANYWHERE).unwrap_err(),
        "Allocate failed due to [memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available, which is unexpected"
    );
    manager.release(&PodUid::from("small"));
    allocate(&mut manager, &wide, ANYWHERE).unwrap();
    assert_eq!(nodes(&manager, "wide", "a"), "0,1");
    assert_eq!(free(&manager), [0, 5, 9]);
    // A group is used by the group only.
    allocate(&mut manager, &pod("alone", &[], &[("a", 1)]), ANYWHERE).unwrap();
    assert_eq!(nodes(&manager, "alone", "a"), "2");
    let on_one = Hint { nodes: Some(NumaMask::from_bits(0b10)), preferred: true };
    assert_eq!(
        allocate(&mut manager, &pod("x", &[], &[("a", 1)]), on_one).unwrap_err(),
        "Allocate failed due to [memorymanager] preferred hint violates NUMA node allocation, which is unexpected"
    );
    // Asked again nothing changes.
    allocate(&mut manager, &wide, ANYWHERE).unwrap();
    assert_eq!(free(&manager), [0, 5, 8]);
}

#[test]
fn who_is_concerned() {
    let mut guaranteed = pod("p", &[], &[("a", 1)]);
    assert!(manager(&[10]).concerns(&guaranteed));
    assert!(!MemoryManager::none().concerns(&guaranteed));
    let resources = guaranteed.spec.as_mut().unwrap().containers[0].resources.as_mut().unwrap();
    resources.limits.as_mut().unwrap().remove("cpu");
    let mut manager = manager(&[10]);
    assert!(!manager.concerns(&guaranteed));
    assert_eq!(manager.pod_hints(&guaranteed), ProviderHints::new());
    allocate(&mut manager, &guaranteed, ANYWHERE).unwrap();
    assert_eq!(nodes(&manager, "p", "a"), "");
}

#[test]
fn hints_name_where_there_is_room() {
    let mut manager = manager(&[10, 10]);
    let asks = pod("p", &[], &[("a", 9)]);
    let container = &spec_of(&asks).containers[0];
    let hints = |manager: &MemoryManager| -> Vec<(String, bool)> {
        let mut hints = manager.hints(&asks, container)["memory"].clone().unwrap();
        hints.sort_by_key(|hint| hint.nodes);
        hints.iter().map(|hint| (hint.nodes.unwrap().to_string(), hint.preferred)).collect()
    };
    assert_eq!(hints(&manager), [("1".to_owned(), true), ("0,1".to_owned(), false)]);
    allocate(
        &mut manager,
        &pod("other", &[], &[("a", 1)]),
        Hint { nodes: Some(NumaMask::from_bits(2)), preferred: true },
    )
    .unwrap();
    assert_eq!(hints(&manager), []);
    // What has its memory names where that is.
    manager.release(&PodUid::from("other"));
    allocate(&mut manager, &asks, ANYWHERE).unwrap();
    assert_eq!(hints(&manager), [("1".to_owned(), true)]);
    assert_eq!(manager.pod_hints(&asks), manager.hints(&asks, container));
}

#[test]
fn what_init_containers_had_is_used_again() {
    let mut manager = manager(&[10, 10]);
    // The sidecar keeps what it has.
    let it = pod("p", &[("one", 4), ("side+", 2), ("two", 6)], &[("a", 3), ("b", 3)]);
    let on_one = Hint { nodes: Some(NumaMask::from_bits(2)), preferred: true };
    allocate(&mut manager, &it, on_one).unwrap();
    assert_eq!(free(&manager), [8, 1]);
    assert_eq!(manager.pod_hints(&it).keys().collect::<Vec<_>>(), ["memory"]);
    assert_eq!(pod_requests(&it)["memory"], 8 * GI);
    manager.release(&PodUid::from("p"));
    assert_eq!(free(&manager), [8, 9]);
}

#[test]
fn a_hint_that_is_too_narrow_is_widened() {
    let mut manager = manager(&[10, 10]);
    let narrow = Hint { nodes: Some(NumaMask::from_bits(1)), preferred: true };
    allocate(&mut manager, &pod("p", &[], &[("a", 12)]), narrow).unwrap();
    assert_eq!(nodes(&manager, "p", "a"), "0,1");
}

#[test]
fn reservations() {
    let made = |reserved: &[(u32, &str, u64)], kept: &[(&str, u64)]| {
        let mut by_node: BTreeMap<u32, BTreeMap<String, u64>> = BTreeMap::new();
        for (node, kind, bytes) in reserved {
            by_node.entry(*node).or_default().insert((*kind).to_owned(), *bytes);
        }
        let kept = kept.iter().map(|(kind, bytes)| ((*kind).to_owned(), *bytes)).collect();
        MemoryManager::new("Static", &machine(&[10, 10]), &by_node, &kept).map(drop)
    };
    assert_eq!(made(&[(0, "memory", 1), (1, "memory", 2)], &[("memory", 3), ("cpu", 7)]), Ok(()));
    assert_eq!(made(&[], &[]), Err(MemoryManagerError::NothingReserved));
    assert_eq!(made(&[(2, "memory", 1)], &[("memory", 1)]), Err(MemoryManagerError::NoSuchNode(2)));
    let wrong = made(&[(0, "memory", 1)], &[("memory", 2)]).unwrap_err().to_string();
    assert_eq!(
        wrong,
        "reservedMemory: the total amount 1 of type \"memory\" is not equal to the value 2 determined by Node Allocatable feature"
    );
    assert!(made(&[(0, "memory", 1), (0, "hugepages-2Mi", 5)], &[("memory", 1)]).is_err());
    // More than the node has leaves nothing; it does not wrap around.
    let all = BTreeMap::from([(0, BTreeMap::from([("memory".to_owned(), 99 * GI)]))]);
    let kept = BTreeMap::from([("memory".to_owned(), 99 * GI)]);
    assert_eq!(free(&MemoryManager::new("Static", &machine(&[10]), &all, &kept).unwrap()), [0]);
}

/// A file of upstream's, from its own tests.
const UPSTREAM: &str = r#"{"policyName":"static","machineState":{"0":{"numberOfAssignments":0,"memoryMap":{"memory":{"total":2048,"systemReserved":512,"allocatable":1536,"reserved":512,"free":1024}},"cells":[]}},"entries":{"pod":{"container1":[{"numaAffinity":[0],"type":"memory","size":512}]}},"checksum":4215593881}"#;
const UPSTREAM_V2: &str = r#"{"policyName":"static","machineState":{"0":{"numberOfAssignments":0,"memoryMap":{"memory":{"total":2048,"systemReserved":512,"allocatable":1536,"reserved":512,"free":1024}},"cells":[]}},"entries":{"pod":{"container1":[{"numaAffinity":[0],"type":"memory","size":512}]}},"podEntries":{"pod":{"memoryBlocks":[{"numaAffinity":[0],"type":"memory","size":512}]}},"checksum":1278640530}"#;

#[test]
fn files_of_upstream() {
    // Their policy is a made-up one; that it is looked at says that the checksum was right.
    for text in [UPSTREAM, UPSTREAM_V2] {
        assert_eq!(manager(&[10]).restore(text.as_bytes()), ["it is of policy \"static\""]);
        let broken = text.replace("512}", "513}");
        assert_eq!(manager(&[10]).restore(broken.as_bytes()), ["its checksum is wrong"]);
    }
    assert_eq!(manager(&[10]).restore(b"{").len(), 1);
}

#[test]
fn what_was_written_is_read() {
    let mut before = manager(&[10, 10, 10]);
    let mut wide = pod("wide", &[("i", 3)], &[("a", 12)]);
    let containers = &mut wide.spec.as_mut().unwrap().containers;
    let resources = containers[0].resources.as_mut().unwrap();
    for list in [&mut resources.requests, &mut resources.limits] {
        list.as_mut().unwrap().insert(
            "hugepages-2Mi".to_owned(),
            k8s_openapi::apimachinery::pkg::api::resource::Quantity("64Mi".to_owned()),
        );
    }
    allocate(&mut before, &wide, ANYWHERE).unwrap();
    allocate(&mut before, &pod("p", &[], &[("a", 2)]), ANYWHERE).unwrap();
    let mut after = manager(&[10, 10, 10]);
    assert_eq!(after.restore(before.state().as_bytes()), Vec::<String>::new());
    assert_eq!((after.machine(), after.state()), (before.machine(), before.state()));
    // On another machine what still fits is kept.
    let mut smaller = manager(&[10, 10]);
    let problems = smaller.restore(before.state().as_bytes());
    assert!(problems.iter().any(|problem| problem.contains("has changed")), "{problems:?}");
    let mut none = MemoryManager::none();
    assert_eq!(none.restore(before.state().as_bytes()), Vec::<String>::new());
    assert_eq!(none.machine(), MachineMemory::new());
}

#[test]
fn what_runs_is_entered_as_it_is() {
    let mut manager = manager(&[10, 10]);
    let it = pod("p", &[], &[("a", 4)]);
    let container = spec_of(&it).containers[0].clone();
    // Node 7 is not there.
    manager.adopt(&it, &container, NumaMask::from_bits(0b1000_0010));
    assert_eq!((nodes(&manager, "p", "a"), free(&manager)), ("1".into(), vec![8, 5]));
    manager.adopt(&it, &container, NumaMask::from_bits(1));
    assert_eq!(nodes(&manager, "p", "a"), "1");
}

/// What happens to the book.
#[derive(Clone, Debug)]
enum Step {
    Start { init: u64, app: Vec<u64>, on: Option<u64> },
    End(usize),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let start = (0u64..8, proptest::collection::vec(1u64..14, 1..3), proptest::option::of(1u64..256))
        .prop_map(|(init, app, on)| Step::Start { init, app, on });
    prop_oneof![3 => start, 2 => any::<prop::sample::Index>().prop_map(|index| Step::End(index.index(8))), 1 => Just(Step::Restart)]
}

proptest! {
    #[test]
    fn nothing_is_given_twice_and_nothing_is_lost(
        sizes in proptest::collection::vec(2u64..12, 1..=8),
        steps in proptest::collection::vec(step(), 1..30),
    ) {
        let mut book = manager(&sizes);
        let empty = book.machine();
        let mut live: Vec<PodUid> = vec![];
        for (index, step) in steps.into_iter().enumerate() {
            match step {
                Step::Start { init, app, on } => {
                    let name = format!("pod-{index}");
                    let names = ["a", "b"];
                    let app: Vec<_> = names.into_iter().zip(app).collect();
                    let inits: Vec<_> = (init > 0).then_some(("i", init)).into_iter().collect();
                    let it = pod(&name, &inits, &app);
                    let all = (1u64 << sizes.len()) - 1;
                    let nodes = on.map(|bits| bits & all).filter(|bits| *bits != 0).map(NumaMask::from_bits);
                    let uid = PodUid::from(name.as_str());
                    if allocate(&mut book, &it, Hint { nodes, preferred: false }).is_ok() {
                        live.push(uid);
                    } else {
                        book.release(&uid);
                    }
                }
                Step::End(index) if !live.is_empty() => book.release(&live.remove(index % live.len())),
                Step::End(_) => {}
                Step::Restart => {
                    let mut again = manager(&sizes);
                    prop_assert_eq!(again.restore(book.state().as_bytes()), Vec::<String>::new());
                    book = again;
                }
            }
            // Everything that is assigned is really there, and groups do not overlap.
            let machine = book.machine();
            let assigned: u64 = book.entries.values().flat_map(BTreeMap::values).flatten().map(|block| block.size).sum();
            let reserved: u64 = machine.values().flat_map(|node| node.memory.values()).map(|table| table.reserved).sum();
            prop_assert_eq!(assigned, reserved);
            for (id, node) in &machine {
                for cell in &node.cells {
                    prop_assert_eq!(&machine[cell].cells, &node.cells, "node {}", id);
                }
            }
        }
        for uid in live {
            book.release(&uid);
        }
        prop_assert_eq!(book.machine(), empty);
    }

    #[test]
    fn as_few_nodes_as_can_be(sizes in proptest::collection::vec(2u64..12, 1..=6), used in proptest::collection::vec(1u64..10, 0..4), asks in 1u64..40) {
        let mut book = manager(&sizes);
        for (index, size) in used.iter().enumerate() {
            let _ = allocate(&mut book, &pod(&format!("used-{index}"), &[], &[("a", *size)]), ANYWHERE);
        }
        let machine = book.machine();
        // Every set of nodes, by the rules as the documents have them.
        let fits = |mask: &NumaMask| {
            let nodes: Vec<&NodeMemory> = mask.iter().map(|node| &machine[&node]).collect();
            let free: u64 = nodes.iter().map(|node| node.memory["memory"].free).sum();
            let group: Vec<u32> = mask.iter().collect();
            free >= asks * GI && nodes.iter().all(|node| node.assignments == 0 || node.cells == group)
        };
        let best = (1u64..1 << sizes.len()).map(NumaMask::from_bits).filter(fits).map(NumaMask::count).min();
        let it = pod("it", &[], &[("a", asks)]);
        let got = allocate(&mut book, &it, ANYWHERE);
        prop_assert_eq!(got.is_ok(), best.is_some());
        prop_assert_eq!(book.nodes(&PodUid::from("it"), "a").map(NumaMask::count), best);
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        manager(&[4]).restore(&bytes);
    }
}
