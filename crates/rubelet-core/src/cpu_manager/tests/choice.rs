//! Which CPUs are chosen: upstream's vectors (`TestTakeByTopology…`) and the best there is by exhaustive search.

use proptest::prelude::*;

use super::super::distribute::distributed;
use super::super::layout::{Layout, Level};
use super::super::machines::{Numbering, any_machine, even, set};
use super::super::take::{Wishes, packed};
use crate::cpu_set::CpuSet;
use crate::topology::{MachineTopology, NumaMask};

const PLAIN: Wishes = Wishes { few_caches: false, spread_cores: false };
const CACHES: Wishes = Wishes { few_caches: true, spread_cores: false };
const SPREAD: Wishes = Wishes { few_caches: false, spread_cores: true };

fn single_ht() -> MachineTopology {
    even([1, 1, 4, 2, 4], Numbering::Far)
}
fn dual_ht() -> MachineTopology {
    even([2, 1, 3, 2, 3], Numbering::Interleaved)
}
fn four_nodes() -> MachineTopology {
    even([2, 2, 10, 2, 10], Numbering::Far)
}

#[track_caller]
fn check(machine: MachineTopology, wishes: Wishes, available: &str, wanted: usize, expected: &str) {
    let chosen = packed(&Layout::new(machine), &set(available), wanted, wishes);
    assert_eq!(chosen.map(|cpus| cpus.to_string()), Some(set(expected).to_string()));
}

#[test]
fn packed_as_upstream() {
    assert_eq!(packed(&Layout::new(single_ht()), &set("0,2,4,6"), 5, PLAIN), None);
    check(single_ht(), PLAIN, "0-7", 0, "");
    check(single_ht(), PLAIN, "0-7", 1, "0");
    check(single_ht(), PLAIN, "1,3,5-7", 1, "6");
    check(single_ht(), PLAIN, "0-7", 2, "0,4");
    check(single_ht(), PLAIN, "0-7", 8, "0-7");
    check(single_ht(), PLAIN, "0-3,6", 2, "2,6");
    check(dual_ht(), PLAIN, "0-11", 6, "0,2,4,6,8,10");
    check(dual_ht(), PLAIN, "1-5,7-11", 1, "2");
    check(dual_ht(), PLAIN, "0-11", 8, "0,6,2,8,4,10,1,7");
    check(four_nodes(), PLAIN, "0-79", 40, "0-19,40-59");
    check(four_nodes(), PLAIN, "0-79", 20, "0-9,40-49");
    check(four_nodes(), PLAIN, "10-39,50-79", 20, "10-19,50-59");
    check(four_nodes(), PLAIN, "0-79", 60, "0-29,40-69");
    check(four_nodes(), PLAIN, "1-39,41-79", 60, "10-39,50-79");
    check(four_nodes(), PLAIN, "0-79", 64, "0-29,40-69,30,31,70,71");
}

#[test]
fn few_caches_as_upstream() {
    let single = || even([1, 1, 16, 1, 4], Numbering::Far);
    let dual = || even([2, 1, 8, 1, 4], Numbering::Far);
    let smt = || even([1, 1, 8, 2, 4], Numbering::Far);
    check(single(), CACHES, "1-15", 10, "1,2,4-11");
    check(dual(), CACHES, "0-15", 4, "0-3");
    check(dual(), CACHES, "2-15", 6, "2-7");
    check(dual(), CACHES, "8-15", 4, "8-11");
    check(even([1, 2, 8, 1, 4], Numbering::Far), CACHES, "3-8,12", 2, "4,5");
    check(smt(), CACHES, "2-7,10-15", 6, "4-6,12-14");
    check(smt(), CACHES, "1-7,9-15", 10, "4-7,12-15,1,9");
}

#[test]
fn spread_over_cores_as_upstream() {
    check(single_ht(), SPREAD, "0-7", 3, "0-2");
    check(dual_ht(), SPREAD, "0-11", 3, "0,2,4");
    check(dual_ht(), SPREAD, "0-11", 8, "0,2,4,6,8,10,1,3");
    check(four_nodes(), SPREAD, "0-79", 8, "0-7");
    // Threads of a core numbered one after the other: still one of each core, where upstream takes 0 to 2.
    check(even([1, 1, 4, 2, 4], Numbering::Adjacent), SPREAD, "0-7", 3, "0,2,4");
}

#[test]
fn distributed_as_upstream() {
    #[track_caller]
    fn check(machine: MachineTopology, available: &str, wanted: usize, group: usize, expected: &str) {
        let chosen = distributed(&Layout::new(machine), &set(available), wanted, group, PLAIN);
        assert_eq!(chosen.map(|cpus| cpus.to_string()), Some(set(expected).to_string()));
    }
    check(dual_ht(), "0-11", 8, 1, "0,6,2,8,1,7,3,9");
    check(four_nodes(), "0-79", 64, 1, "0-7,10-17,20-27,30-37,40-47,50-57,60-67,70-77");
    check(four_nodes(), "0-79", 48, 1, "0-7,10-17,20-27,40-47,50-57,60-67");
    check(four_nodes(), "1-29,32-39,41-69,72-79", 48, 1, "1-8,10-17,20-27,41-48,50-57,60-67");
    check(four_nodes(), "2-29,31-39,42-69,71-79", 48, 1, "10-17,20-27,31-38,50-57,60-67,71-78");
    let eighths = "0-2,10-12,20-22,30-32,40-41,50-51,60-61,70-71";
    check(four_nodes(), eighths, 16, 1, "0-1,10-11,20-21,30-31,40-41,50-51,60-61,70-71");
    check(dual_ht(), "1-5,7-11", 1, 1, "1");
    check(dual_ht(), "1-5,7-11", 1, 2, "2");
    check(four_nodes(), "0-79", 26, 1, "0-6,10-16,40-45,50-55");
    check(four_nodes(), "0-79", 26, 2, "0-6,10-15,40-46,50-55");
    check(four_nodes(), "0-79", 62, 1, "0-7,10-17,20-27,30-37,40-47,50-57,60-66,70-76");
    check(four_nodes(), "0-79", 62, 2, "0-7,10-17,20-27,30-36,40-47,50-57,60-67,70-76");
    let two_short = "0-8,10-18,20-39,40-48,50-58,60-79";
    check(four_nodes(), two_short, 62, 1, "0-7,10-17,20-27,30-37,40-46,50-56,60-67,70-77");
    check(four_nodes(), two_short, 62, 2, "0-7,10-16,20-27,30-37,40-47,50-56,60-67,70-77");
    let uneven = "0-3,10-13,20-23,30-36,40-43,50-53,60-63,70-76";
    check(four_nodes(), uneven, 34, 1, "0-3,10-13,20-23,30-34,40-43,50-53,60-63,70-74");
    // Upstream takes 96 for 233: it adds what does not divide a CPU at a time, so that a tenth one breaks a core.
    check(
        even([2, 4, 16, 2, 16], Numbering::Far),
        "0,128,30,31,158,159,43-47,171-175,62,63,190,191,75-79,203-207,94,96,222,223,101-111,229-239,126,127,254,255",
        28,
        1,
        "43-47,75-79,101-105,171-174,203-206,229-233",
    );
}

/// What fits one node is not scattered over the remains of two: upstream takes 2 to 5 of the first node here, then
/// goes on in the second.
#[test]
fn one_node_where_one_is_enough() {
    check(even([2, 1, 8, 1, 8], Numbering::Far), PLAIN, "2-5,9-15", 6, "9-14");
}

/// Numbers of free CPUs of parts.
fn counts(layout: &Layout, level: Level, cpus: &CpuSet) -> Vec<(u32, usize)> {
    layout.parts(level, &layout.known(cpus)).iter().map(|part| (part.id, part.cpus.len())).collect()
}

/// The fewest parts that hold so many, by trying all sets of them.
fn fewest_by_search(sizes: &[usize], wanted: usize) -> u32 {
    let sets = (0..1_u32 << sizes.len()).filter(|set| {
        let chosen = sizes.iter().enumerate().filter(|(at, _)| set & (1 << at) != 0);
        chosen.map(|(_, size)| size).sum::<usize>() >= wanted
    });
    sets.map(u32::count_ones).min().unwrap()
}

/// A machine, some of its CPUs and how many of them are wanted.
fn any_request() -> impl Strategy<Value = (MachineTopology, CpuSet, usize)> {
    any_machine().prop_flat_map(|machine| {
        let count = machine.cpus.len();
        let some = proptest::collection::vec(any::<bool>(), count);
        (Just(machine), some, 0..=count).prop_map(|(machine, some, wanted)| {
            let available: CpuSet =
                machine.cpus.iter().zip(some).filter(|(_, free)| *free).map(|(cpu, _)| cpu.id).collect();
            let wanted = wanted.min(available.len());
            (machine, available, wanted)
        })
    })
}

proptest! {
    /// No choice there is has fewer nodes, then fewer sockets, then (where wished) fewer caches.
    #[test]
    fn no_choice_is_narrower((machine, available, wanted) in any_request(), caches in any::<bool>()) {
        let layout = Layout::new(machine);
        let wishes = Wishes { few_caches: caches, spread_cores: false };
        let chosen = packed(&layout, &available, wanted, wishes).unwrap();
        prop_assert_eq!(chosen.len(), wanted);
        prop_assert!(chosen.is_subset(&available));
        let best = layout.nodes().subsets().chain([NumaMask::default()]).filter_map(|nodes| {
            let within = available.intersection(&layout.machine.cpus_of(nodes));
            (within.len() >= wanted).then(|| {
                let used = counts(&layout, Level::Socket, &within).len();
                let sizes: Vec<usize> = counts(&layout, Level::Cache, &within).iter().map(|(_, size)| *size).collect();
                let caches = if caches { fewest_by_search(&sizes, wanted) } else { 0 };
                (nodes.count(), used, caches)
            })
        }).min().unwrap();
        let parts = |level| counts(&layout, level, &chosen).len();
        let caches_used = if caches { u32::try_from(parts(Level::Cache)).unwrap() } else { 0 };
        let got = (u32::try_from(parts(Level::Node)).unwrap(), parts(Level::Socket), caches_used);
        prop_assert!(got <= best, "{:?} of {}: {} uses {:?}, {:?} is possible", wanted, available, chosen, got, best);
    }

    /// On one node with even cores no choice keeps more threads together.
    #[test]
    fn no_choice_has_more_whole_cores(free in proptest::collection::vec(any::<bool>(), 10), wanted in 0_usize..10) {
        let layout = Layout::new(even([1, 1, 5, 2, 5], Numbering::Far));
        let available: CpuSet = (0..10).filter(|cpu| free[*cpu as usize]).collect();
        let wanted = wanted.min(available.len());
        let chosen = packed(&layout, &available, wanted, PLAIN).unwrap();
        // Whole cores that are taken, then whole cores that stay free for others.
        let value = |chosen: &CpuSet| {
            (layout.whole_cores(chosen).len(), layout.whole_cores(&available.difference(chosen)).len())
        };
        let best = (0..1_u32 << 10)
            .filter(|bits| bits.count_ones() as usize == wanted)
            .map(|bits| (0..10).filter(|cpu| bits & (1 << cpu) != 0).collect::<CpuSet>())
            .filter(|cpus| cpus.is_subset(&available))
            .map(|cpus| value(&cpus))
            .max()
            .unwrap();
        prop_assert_eq!(value(&chosen), best);
    }

    /// One thread of each core before a second one, within the nodes that are used.
    #[test]
    fn spread_uses_as_many_cores_as_there_are((machine, available, wanted) in any_request()) {
        let layout = Layout::new(machine);
        let chosen = packed(&layout, &available, wanted, SPREAD).unwrap();
        for (socket, taken) in counts(&layout, Level::Socket, &chosen) {
            let of = |cpus: &CpuSet| -> CpuSet {
                layout.known(cpus).iter().filter(|cpu| cpu.socket == socket).map(|cpu| cpu.id).collect()
            };
            let on_nodes = available.intersection(&layout.machine.cpus_of(layout.nodes_of(&chosen)));
            let whole_nodes = layout.known(&chosen).iter().all(|cpu| {
                let node = layout.machine.cpus_of([cpu.numa].into_iter().collect());
                node.is_subset(&chosen)
            });
            let cores = counts(&layout, Level::Core, &of(&on_nodes)).len();
            let used = counts(&layout, Level::Core, &of(&chosen)).len();
            // Nodes that are wanted as a whole are taken first, so only what is on one node or all of it is exact.
            if counts(&layout, Level::Node, &of(&chosen)).len() == 1 || whole_nodes {
                prop_assert_eq!(used, cores.min(taken));
            }
        }
    }

    /// Whatever the groups: the right number, of what is there.
    #[test]
    fn distribution_takes_what_is_wanted((machine, available, wanted) in any_request(), group in 1_usize..3) {
        let layout = Layout::new(machine);
        let chosen = distributed(&layout, &available, wanted, group, PLAIN).unwrap();
        prop_assert_eq!(chosen.len(), wanted);
        prop_assert!(chosen.is_subset(&available));
    }
}
