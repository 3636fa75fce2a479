//! Merging of hints: tables, and properties against an exhaustive search.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::topology::NumaNode;

fn mask(nodes: &[u32]) -> NumaMask {
    nodes.iter().copied().collect()
}

fn hint(nodes: &[u32], preferred: bool) -> Hint {
    Hint { nodes: Some(mask(nodes)), preferred }
}

const ANY: Hint = Hint { nodes: None, preferred: true };
/// What a policy of one node says when there is none.
const NOWHERE: Hint = Hint { nodes: None, preferred: false };

/// A machine in which nodes of one pair are near each other.
fn machine(nodes: u32) -> MachineTopology {
    let distance = |a: u32, b: u32| match (a == b, a / 2 == b / 2) {
        (true, _) => 10,
        (_, true) => 12,
        _ => 32,
    };
    let node = |id| NumaNode {
        id,
        distances: (0..nodes).map(|other| distance(id, other)).collect(),
        ..NumaNode::default()
    };
    MachineTopology { cpus: vec![], nodes: (0..nodes).map(node).collect() }
}

fn manager(policy: &str, nodes: u32, options: &[(&str, &str)]) -> TopologyManager {
    let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    TopologyManager::new(policy, "container", &options, &machine(nodes)).unwrap()
}

fn provider(hints: &[(&str, Option<Vec<Hint>>)]) -> ProviderHints {
    hints.iter().map(|(name, list)| ((*name).to_owned(), list.clone())).collect()
}

#[track_caller]
fn check(policy: &str, providers: &[ProviderHints], expected: Hint, admit: bool) {
    assert_eq!(manager(policy, 2, &[]).merge(providers), Merged { hint: expected, admit }, "{policy}");
}

#[test]
fn the_policies() {
    let both = || vec![hint(&[0], true), hint(&[1], true), hint(&[0, 1], false)];
    let cpu = |list: Vec<Hint>| provider(&[("cpu", Some(list))]);
    let nic = |list: Vec<Hint>| provider(&[("example.com/nic", Some(list))]);
    // Nobody is asked.
    check("none", &[cpu(vec![])], Hint { nodes: None, preferred: false }, true);
    // Nobody has a wish.
    let none = [ProviderHints::new(), provider(&[("a", None)])];
    check("best-effort", &none, hint(&[0, 1], true), true);
    check("restricted", &none, hint(&[0, 1], true), true);
    check("single-numa-node", &none, ANY, true);
    // Both agree on a node.
    let agree = [cpu(both()), nic(vec![hint(&[1], true), hint(&[0, 1], false)])];
    for policy in ["best-effort", "restricted", "single-numa-node"] {
        check(policy, &agree, hint(&[1], true), true);
    }
    // They cannot be together.
    let apart = [cpu(vec![hint(&[0], true)]), nic(vec![hint(&[1], true)])];
    check("best-effort", &apart, hint(&[0, 1], false), true);
    check("restricted", &apart, hint(&[0, 1], false), false);
    check("single-numa-node", &apart, NOWHERE, false);
    // One needs both nodes.
    let wide = [cpu(vec![hint(&[0, 1], true)]), ProviderHints::new()];
    check("best-effort", &wide, hint(&[0, 1], true), true);
    check("restricted", &wide, hint(&[0, 1], true), true);
    check("single-numa-node", &wide, NOWHERE, false);
    // One cannot be served.
    let cannot = [cpu(both()), nic(vec![])];
    check("best-effort", &cannot, hint(&[0], false), true);
    check("restricted", &cannot, hint(&[0], false), false);
    check("single-numa-node", &cannot, NOWHERE, false);
}

#[test]
fn nodes_near_each_other() {
    let lists = [provider(&[("cpu", Some(vec![hint(&[0, 2], true), hint(&[2, 3], true)]))])];
    assert_eq!(manager("best-effort", 4, &[]).merge(&lists).hint, hint(&[0, 2], true));
    let closest = [("prefer-closest-numa-nodes", "true")];
    assert_eq!(manager("best-effort", 4, &closest).merge(&lists).hint, hint(&[2, 3], true));
    // Fewer nodes win over near ones.
    let lists = [provider(&[("cpu", Some(vec![hint(&[2, 3], true), hint(&[0, 1, 2], true)]))])];
    assert_eq!(manager("restricted", 4, &closest).merge(&lists).hint, hint(&[2, 3], true));
}

#[test]
fn words_of_the_configuration() {
    let made = |policy: &str, scope: &str, options: &[(&str, &str)], nodes| {
        let options: BTreeMap<_, _> =
            options.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        TopologyManager::new(policy, scope, &options, &machine(nodes)).map_err(|error| error.to_string())
    };
    assert_eq!(made("restricted", "pod", &[], 8).unwrap().scope().as_str(), "pod");
    assert!(made("restricted", "pod", &[("max-allowable-numa-nodes", "16")], 16).is_ok());
    assert!(made("none", "pod", &[("nonsense", "")], 32).is_ok());
    for (policy, scope, options, nodes, expected) in [
        ("strict", "pod", &[][..], 2, "topologyManagerPolicy: unknown value \"strict\""),
        ("restricted", "node", &[], 2, "topologyManagerScope: unknown value \"node\""),
        (
            "restricted",
            "pod",
            &[],
            9,
            "topologyManagerPolicy: unsupported on machines with more than 8 NUMA nodes, this one has 9",
        ),
        (
            "restricted",
            "pod",
            &[("max-allowable-numa-nodes", "4")],
            2,
            "topologyManagerPolicyOptions[max-allowable-numa-nodes]: bad value \"4\"",
        ),
        (
            "restricted",
            "pod",
            &[("prefer-closest-numa-nodes", "maybe")],
            2,
            "topologyManagerPolicyOptions[prefer-closest-numa-nodes]: bad value \"maybe\"",
        ),
    ] {
        assert_eq!(made(policy, scope, options, nodes).unwrap_err(), expected);
    }
}

/// Every choice of one hint from each list, as upstream goes through them, and the same comparisons one after another.
fn exhaustive(lists: &[Vec<Hint>], nodes: NumaMask, distances: Option<&BTreeMap<(u32, u32), u64>>) -> Hint {
    fn choices<'a>(lists: &'a [Vec<Hint>], chosen: &mut Vec<&'a Hint>, each: &mut impl FnMut(&[&Hint])) {
        let Some((first, rest)) = lists.split_first() else { return each(chosen) };
        for hint in first {
            chosen.push(hint);
            choices(rest, chosen, each);
            chosen.pop();
        }
    }
    let needs = lists
        .iter()
        .filter_map(|list| list.iter().filter_map(|hint| hint.nodes).map(NumaMask::count).min())
        .max()
        .unwrap_or(0);
    let mean = |mask: NumaMask| {
        let table = distances.unwrap();
        let pairs: Vec<_> = mask.iter().flat_map(|a| mask.iter().map(move |b| (a, b))).collect();
        pairs.iter().map(|pair| table[pair] as f64).sum::<f64>() / pairs.len() as f64
    };
    let fitter = |current: NumaMask, candidate: NumaMask| {
        if distances.is_none() || current.count() != candidate.count() || mean(current) == mean(candidate) {
            candidate.is_narrower_than(current)
        } else {
            mean(candidate) < mean(current)
        }
    };
    let mut best: Option<(NumaMask, bool)> = None;
    choices(lists, &mut vec![], &mut |chosen: &[&Hint]| {
        let masks: Vec<NumaMask> = chosen.iter().filter_map(|hint| hint.nodes).collect();
        let merged = masks.iter().fold(nodes, |all, mask| all.and(*mask));
        let preferred =
            chosen.iter().all(|hint| hint.preferred) && masks.iter().all(|mask| *mask == masks[0]);
        let count = merged.count();
        let replaces = match best {
            _ if count == 0 => false,
            None => true,
            Some((_, was)) if was != preferred => preferred,
            Some((current, true)) => fitter(current, merged),
            Some((current, false)) if current.count() > needs => fitter(current, merged),
            Some((current, false)) if current.count() == needs => count == needs && fitter(current, merged),
            Some((current, false)) => {
                count == needs
                    || count < needs
                        && (count > current.count() || count == current.count() && fitter(current, merged))
            }
        };
        if replaces {
            best = Some((merged, preferred));
        }
    });
    let (nodes, preferred) = best.unwrap_or((nodes, false));
    Hint { nodes: Some(nodes), preferred }
}

fn lists(nodes: u32) -> impl Strategy<Value = Vec<Vec<Hint>>> {
    let nodes = proptest::option::weighted(0.9, 1u64..1 << nodes);
    let hint = (nodes, any::<bool>())
        .prop_map(|(bits, preferred)| Hint { nodes: bits.map(NumaMask::from_bits), preferred });
    proptest::collection::vec(proptest::collection::vec(hint, 0..6), 0..5)
}

proptest! {
    #[test]
    fn as_good_as_trying_everything(nodes in 1u32..=8, seed in lists(8), closest: bool) {
        let all = machine(nodes).all_nodes();
        // Providers only speak of nodes that there are.
        let lists: Vec<Vec<Hint>> = seed
            .into_iter()
            .map(|list| {
                list.into_iter()
                    .map(|hint| Hint { nodes: hint.nodes.map(|mask| mask.and(all)).filter(|mask| !mask.is_empty()), ..hint })
                    .collect()
            })
            .collect();
        let option = [("prefer-closest-numa-nodes", if closest { "true" } else { "false" })];
        let manager = manager("best-effort", nodes, &option);
        let merging = Merging { nodes: all, distances: closest.then_some(&manager.distances) };
        prop_assert_eq!(merging.best(&lists), exhaustive(&lists, all, closest.then_some(&manager.distances)));
    }

    #[test]
    fn a_single_node_is_one_node(nodes in 2u32..=8, seed in lists(2)) {
        let providers: Vec<ProviderHints> =
            seed.into_iter().map(|list| provider(&[("r", Some(list))])).collect();
        let Merged { hint, admit } = manager("single-numa-node", nodes, &[]).merge(&providers);
        if admit {
            prop_assert!(hint.nodes.is_none_or(|nodes| nodes.count() == 1));
        }
    }
}
