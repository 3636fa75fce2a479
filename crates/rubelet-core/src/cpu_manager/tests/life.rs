//! Pods that come and go: nothing is given twice, nothing is lost, and what is promised is kept.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::machines::{Numbering, Role, any_machine, even, pod, set};
use super::super::{
    CpuManager, CpuManagerError, CpuPolicy, ReservedCpus, StaticOptions, exclusive_cpus, pod_exclusive_cpus,
};
use super::manager;
use crate::Pod;
use crate::containers::{regular_containers, spec_of};
use crate::cpu_set::CpuSet;
use crate::ids::PodUid;
use crate::topology::{Hint, HintProvider, MachineTopology, NumaMask};

const ANYWHERE: Hint = Hint { nodes: None, preferred: true };

/// Gives all containers of a pod what they ask for, as the topology manager does, and lists it.
fn allocate(manager: &mut CpuManager, pod: &Pod, near: &Hint) -> Result<Vec<String>, String> {
    let uid = PodUid::from(pod.metadata.uid.as_deref().unwrap());
    let mut given = Vec::new();
    for container in regular_containers(spec_of(pod)) {
        manager
            .allocate(pod, container, near)
            .map_err(|error| format!("{}: {}", error.reason, error.message))?;
        let own = manager.exclusive(&uid, &container.name);
        given.push(own.map(ToString::to_string).unwrap_or_default());
    }
    Ok(given)
}

#[track_caller]
fn check(
    machine: &MachineTopology,
    options: StaticOptions,
    reserved: &str,
    containers: &[(Role, &str)],
    near: Option<u64>,
    expected: Result<&[&str], &str>,
) {
    let mut manager = manager(machine, options, reserved);
    let near = Hint { nodes: near.map(NumaMask::from_bits), preferred: true };
    let given = allocate(&mut manager, &pod("a", containers), &near);
    let expected =
        expected.map(|sets| sets.iter().map(|cpus| (*cpus).to_owned()).collect()).map_err(str::to_owned);
    assert_eq!(given, expected);
}

fn quad() -> MachineTopology {
    even([1, 1, 4, 2, 4], Numbering::Far)
}

#[test]
fn who_gets_cpus_of_its_own() {
    let plain = StaticOptions::default();
    check(&quad(), plain, "0,4", &[(Role::App, "2")], None, Ok(&["1,5"]));
    check(&quad(), plain, "0,4", &[(Role::App, "2500m")], None, Ok(&[""]));
    check(
        &quad(),
        plain,
        "0,4",
        &[(Role::App, "1"), (Role::App, "500m"), (Role::App, "3")],
        None,
        Ok(&["1", "", "2,5-6"]),
    );
    check(
        &quad(),
        plain,
        "0,4",
        &[(Role::App, "7")],
        None,
        Err(
            "UnexpectedAdmissionError: Allocate failed due to not enough cpus available to satisfy request: requested=7, available=6, which is unexpected",
        ),
    );
    // Those of init containers are used again, those of sidecars are not.
    check(
        &quad(),
        plain,
        "0,4",
        &[(Role::Init, "4"), (Role::App, "2"), (Role::App, "2")],
        None,
        Ok(&["1-2,5-6", "1,5", "2,6"]),
    );
    check(
        &quad(),
        plain,
        "0,4",
        &[(Role::Init, "2"), (Role::Sidecar, "2"), (Role::Init, "4"), (Role::App, "4")],
        None,
        Ok(&["1,5", "1,5", "2-3,6-7", "2-3,6-7"]),
    );

    let dual = even([2, 1, 4, 1, 4], Numbering::Far);
    check(&dual, plain, "0", &[(Role::App, "2")], Some(0b10), Ok(&["4-5"]));
    check(&dual, plain, "0", &[(Role::App, "5")], Some(0b01), Ok(&["1-5"]));
    let four = even([2, 2, 2, 1, 2], Numbering::Far);
    check(&four, plain, "0", &[(Role::App, "3")], Some(0b0100), Ok(&["4-6"]));
    let by_socket = StaticOptions { align_by_socket: true, ..plain };
    check(&four, by_socket, "0", &[(Role::App, "4")], Some(0b0100), Ok(&["4-7"]));

    let mut best_effort = pod("b", &[(Role::App, "1")]);
    best_effort.spec.as_mut().unwrap().containers[0].resources.as_mut().unwrap().limits = None;
    assert_eq!(
        exclusive_cpus(&best_effort, &spec_of(&best_effort).containers[0]),
        0,
        "a burstable pod shares"
    );
}

#[test]
fn whole_cores_or_nothing() {
    let whole = StaticOptions { full_cores_only: true, ..StaticOptions::default() };
    check(&quad(), whole, "0,4", &[(Role::App, "2")], None, Ok(&["1,5"]));
    check(
        &quad(),
        whole,
        "0,4",
        &[(Role::App, "3")],
        None,
        Err("SMTAlignmentError: SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2"),
    );
    // Reserved: one thread of two cores, the others of which are no whole cores.
    check(&quad(), whole, "0-1", &[(Role::App, "4")], None, Ok(&["2-3,6-7"]));
    check(
        &quad(),
        whole,
        "0-1",
        &[(Role::App, "6")],
        None,
        Err(
            "SMTAlignmentError: SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 4, requested CPUs = 6, CPUs per core = 2",
        ),
    );
    // What its init container had counts: upstream refuses this pod.
    check(&quad(), whole, "0,4", &[(Role::Init, "4"), (Role::App, "6")], None, Ok(&["1-2,5-6", "1-3,5-7"]));
}

#[test]
fn reservations() {
    let new = |explicit: &str, count| {
        let reserved = ReservedCpus { explicit: set(explicit), count };
        let made = CpuManager::new(quad(), CpuPolicy::Static(StaticOptions::default()), &reserved);
        made.map(|manager| manager.reserved().to_string())
    };
    assert_eq!(new("", 2), Ok("0,4".to_owned()));
    assert_eq!(new("1,2", 0), Ok("1-2".to_owned()));
    assert_eq!(new("", 0), Err(CpuManagerError::NothingReserved));
    assert_eq!(new("", 9), Err(CpuManagerError::TooManyReserved { wanted: 9, available: 8 }));
    assert_eq!(new("7,8,9", 0), Err(CpuManagerError::UnknownReserved(set("8-9"))));
    let by_socket = StaticOptions { align_by_socket: true, ..StaticOptions::default() };
    let mut odd = quad();
    odd.cpus[7].socket = 1;
    let reserved = ReservedCpus { explicit: CpuSet::new(), count: 1 };
    assert!(matches!(
        CpuManager::new(odd, CpuPolicy::Static(by_socket), &reserved),
        Err(CpuManagerError::Options(_))
    ));
}

#[test]
fn what_everybody_else_runs_on() {
    let strict = StaticOptions { strict_reservation: true, ..StaticOptions::default() };
    let (a, b) = (PodUid::from("a"), PodUid::from("b"));
    for (options, before, after) in [(StaticOptions::default(), "0-7", "0,4"), (strict, "1-3,5-7", "")] {
        let mut manager = manager(&quad(), options, "0,4");
        assert_eq!(manager.shared_pool(), &set(before));
        allocate(&mut manager, &pod("a", &[(Role::App, "6")]), &ANYWHERE).unwrap();
        assert_eq!(manager.shared_pool(), &set(after));
        assert_eq!(manager.cpus(&a, "c0"), Some(set("1-3,5-7")));
        // Never empty: that would be every CPU.
        assert_eq!(manager.cpus(&b, "c0"), Some(set("0,4")));
        assert!(manager.pod_has_exclusive(&a) && !manager.pod_has_exclusive(&b));
        let figures = manager.figures();
        assert_eq!((figures.shared_pool_millis, figures.exclusive), (0, 6));
        assert_eq!(figures.exclusive_by_node, BTreeMap::from([(0, 6)]));
        manager.retain(|uid| *uid == b);
        assert_eq!((manager.shared_pool(), manager.figures().shared_pool_millis), (&set(before), 6000));
    }
    let mut none = CpuManager::none(quad());
    assert_eq!(allocate(&mut none, &pod("a", &[(Role::App, "2")]), &ANYWHERE), Ok(vec![String::new()]));
    assert_eq!((none.cpus(&a, "c0"), none.allocatable()), (None, CpuSet::new()));
    assert!(
        none.hints(&pod("a", &[(Role::App, "2")]), &spec_of(&pod("a", &[(Role::App, "2")])).containers[0])
            .is_empty()
    );
}

#[track_caller]
fn check_hints(manager: &CpuManager, pod: &Pod, expected: &str) {
    let hints = manager.pod_hints(pod);
    let hints = hints.get("cpu").map(|hints| hints.as_deref().unwrap_or_default());
    let words = hints.map(|hints| {
        let words = hints
            .iter()
            .map(|hint| format!("{}{}", hint.nodes.unwrap(), if hint.preferred { "!" } else { "" }));
        words.collect::<Vec<_>>().join(" ")
    });
    assert_eq!(words.as_deref().unwrap_or("no wish"), expected);
}

#[test]
fn hints() {
    let four = even([2, 2, 4, 1, 4], Numbering::Far);
    let plain = manager(&four, StaticOptions::default(), "0");
    check_hints(&plain, &pod("a", &[(Role::App, "500m")]), "no wish");
    // One node is enough for four CPUs, though the first has only three to give.
    check_hints(
        &plain,
        &pod("a", &[(Role::App, "4")]),
        "1! 2! 3! 0,1 0,2 1,2 0,3 1,3 2,3 0,1,2 0,1,3 0,2,3 1,2,3 0,1,2,3",
    );
    check_hints(&plain, &pod("a", &[(Role::App, "12")]), "1,2,3! 0,1,2,3");
    check_hints(&plain, &pod("a", &[(Role::App, "16")]), "");
    let by_socket = manager(&four, StaticOptions { align_by_socket: true, ..StaticOptions::default() }, "0");
    check_hints(
        &by_socket,
        &pod("a", &[(Role::App, "4")]),
        "1! 2! 3! 0,1! 0,2 1,2 0,3 1,3 2,3! 0,1,2 0,1,3 0,2,3 1,2,3 0,1,2,3",
    );

    // A pod that has its CPUs is told where they are.
    let mut holds = manager(&four, StaticOptions::default(), "0");
    let a = pod("a", &[(Role::Init, "4"), (Role::App, "4")]);
    holds.allocate(&a, &spec_of(&a).init_containers.as_ref().unwrap()[0], &ANYWHERE).unwrap();
    check_hints(&holds, &a, "1! 0,1 1,2 1,3 0,1,2 0,1,3 1,2,3 0,1,2,3");
    // Of another size than it has now: it cannot be served.
    check_hints(&holds, &pod("a", &[(Role::Init, "3"), (Role::App, "4")]), "");
}

/// What may happen to a node.
#[derive(Clone, Debug)]
enum Step {
    Start(Vec<(Role, usize)>, u8),
    End(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let role = prop_oneof![Just(Role::Init), Just(Role::Sidecar), Just(Role::App)];
    let containers = proptest::collection::vec((role, 0_usize..6), 1..5);
    prop_oneof![
        3 => (containers, any::<u8>()).prop_map(|(containers, near)| Step::Start(containers, near)),
        1 => (0_usize..8).prop_map(Step::End),
    ]
}

fn any_options() -> impl Strategy<Value = StaticOptions> {
    (any::<[bool; 4]>(), 0..4).prop_map(|([full, strict, socket, one], which)| StaticOptions {
        full_cores_only: full && which != 2,
        strict_reservation: strict,
        align_by_socket: socket,
        distribute_across_nodes: one && which == 0,
        prefer_few_caches: one && which == 1,
        distribute_across_cores: one && which == 2,
    })
}

proptest! {
    #[test]
    fn nothing_is_given_twice_or_lost(
        machine in any_machine(),
        options in any_options(),
        reserved in 1_usize..3,
        steps in proptest::collection::vec(any_step(), 1..25),
    ) {
        let options = StaticOptions {
            align_by_socket: options.align_by_socket && options.check(&machine).is_ok(),
            ..options
        };
        let reserved = ReservedCpus { explicit: CpuSet::new(), count: reserved.min(machine.cpus.len()) };
        let empty = CpuManager::new(machine.clone(), CpuPolicy::Static(options), &reserved).unwrap();
        let mut manager = empty.clone();
        let mut pods: Vec<Pod> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::End(which) if which < pods.len() => {
                    let ended = pods.remove(which);
                    manager.release(&PodUid::from(ended.metadata.uid.as_deref().unwrap()));
                }
                Step::End(_) => {}
                Step::Start(containers, near) => {
                    let texts: Vec<String> = containers.iter().map(|(_, cpus)| cpus.to_string()).collect();
                    let containers: Vec<(Role, &str)> =
                        containers.iter().zip(&texts).map(|((role, _), cpus)| (*role, cpus.as_str())).collect();
                    let uid = format!("pod-{number}");
                    let pod = pod(&uid, &containers);
                    let near = NumaMask::from_bits(u64::from(near)).and(machine.all_nodes());
                    let near = Hint { nodes: Some(near).filter(|near| !near.is_empty()), preferred: true };
                    let room = manager.free().len();
                    match allocate(&mut manager, &pod, &near) {
                        Ok(_) => pods.push(pod),
                        Err(why) => {
                            // With whole cores only a request can fail for its shape.
                            if !options.full_cores_only {
                                prop_assert!(pod_exclusive_cpus(&pod) > room, "{why} with {room} free");
                            }
                            manager.release(&PodUid::from(uid));
                        }
                    }
                }
            }
            let mut seen = manager.shared_pool().clone();
            for pod in &pods {
                let own = manager.assignments().get(&PodUid::from(pod.metadata.uid.as_deref().unwrap()));
                let held: CpuSet = own.into_iter().flat_map(|own| own.values()).flat_map(CpuSet::iter).collect();
                prop_assert!(held.len() <= pod_exclusive_cpus(pod), "a pod holds more than it needs at once");
                prop_assert!(held.is_disjoint(&seen) && held.is_disjoint(manager.reserved()));
                seen = seen.union(&held);
                for container in regular_containers(spec_of(pod)) {
                    let cpus = own.and_then(|own| own.get(&container.name));
                    prop_assert_eq!(cpus.map_or(0, CpuSet::len), exclusive_cpus(pod, container));
                    if let Some(cpus) = cpus.filter(|_| options.full_cores_only) {
                        prop_assert_eq!(&manager.layout.whole_cores(cpus), cpus);
                    }
                }
            }
            let strict = if options.strict_reservation { manager.reserved().clone() } else { CpuSet::new() };
            prop_assert_eq!(seen.union(&strict), machine.all_cpus(), "a CPU is lost");
            // An agent that is started again at any point knows it all.
            let mut again = empty.clone();
            let restored = again.restore(Some(manager.state().as_bytes()), &[]);
            prop_assert!(restored.problems.is_empty(), "{:?}", restored.problems);
            prop_assert_eq!(again.assignments(), manager.assignments());
            prop_assert_eq!(again.shared_pool(), manager.shared_pool());
        }
        for pod in pods {
            manager.release(&PodUid::from(pod.metadata.uid.as_deref().unwrap()));
        }
        prop_assert_eq!(manager.shared_pool(), empty.shared_pool());
        prop_assert!(manager.assignments().is_empty());
    }

    /// A hint is kept: what it says can be had there, and nowhere that it does not name.
    #[test]
    fn hints_are_kept(machine in any_machine(), taken in 0_usize..6, wanted in 1_usize..8) {
        let mut manager = manager(&machine, StaticOptions::default(), "0");
        let (first, second) = (taken.to_string(), wanted.to_string());
        let _ = allocate(&mut manager, &pod("a", &[(Role::App, first.as_str())]), &ANYWHERE);
        let b = pod("b", &[(Role::App, second.as_str())]);
        let container = &spec_of(&b).containers[0];
        let hints = manager.hints(&b, container).remove("cpu").flatten().unwrap();
        let free = manager.shared_pool().difference(manager.reserved());
        let fewest = machine.all_nodes().subsets().filter(|nodes| machine.cpus_of(*nodes).len() >= wanted);
        let fewest = fewest.map(NumaMask::count).min().unwrap_or(machine.all_nodes().count());
        for nodes in machine.all_nodes().subsets() {
            let enough = free.intersection(&machine.cpus_of(nodes)).len() >= wanted;
            let hint = hints.iter().find(|hint| hint.nodes == Some(nodes));
            prop_assert_eq!(hint.is_some(), enough);
            if let Some(hint) = hint {
                prop_assert_eq!(hint.preferred, nodes.count() == fewest);
                let mut trial = manager.clone();
                trial.allocate(&b, container, hint).unwrap();
                let given = trial.exclusive(&PodUid::from("b"), "c0").unwrap();
                prop_assert!(given.is_subset(&machine.cpus_of(nodes)));
            }
        }
    }
}
