//! Which CPUs when a request that needs several NUMA nodes is to be spread evenly (`distribute-cpus-across-numa`).
//!
//! Owns the algorithm of KEP-2902: as few nodes as can be, the same number of CPUs on each, what does not divide going
//! where it leaves the machine most balanced. Within a node the choice is [`super::take`]'s.

use std::collections::BTreeMap;

use super::layout::{Layout, Level};
use super::take::{Wishes, combinations_of, packed};
use crate::cpu_set::CpuSet;

/// More nodes than this are not compared set by set: the packed choice is made instead.
const COMPARED_NODES: usize = 12;

/// How many CPUs each node is to give, in the order in which they are asked.
type Plan = Vec<(u32, usize)>;

/// So many of these CPUs in groups of so many; `None` when there are fewer.
pub(super) fn distributed(
    layout: &Layout,
    available: &CpuSet,
    wanted: usize,
    group: usize,
    wishes: Wishes,
) -> Option<CpuSet> {
    let free = layout.known(available);
    if free.len() < wanted {
        return None;
    }
    let nodes = layout.ordered(Level::Node, &free);
    let group = group.max(1);
    if wanted > 0 && wanted.is_multiple_of(group) && nodes.len() <= COMPARED_NODES {
        let counts: Vec<(u32, usize)> = nodes.iter().map(|node| (node.id, node.cpus.len())).collect();
        let all_groups = layout.machine.cpus.len().div_ceil(group);
        let per_node = all_groups.div_ceil(layout.nodes().iter().count().max(1)).max(1);
        let groups = wanted / group;
        for size in groups.div_ceil(per_node)..=groups.min(counts.len()) {
            let Some(plan) = best_plan(&counts, size, wanted, group) else { continue };
            let mut taken = CpuSet::new();
            for (id, share) in plan {
                let node = nodes.iter().find(|node| node.id == id)?;
                let within: CpuSet = node.cpus.iter().map(|cpu| cpu.id).collect();
                taken = taken.union(&packed(layout, &within.difference(&taken), share, wishes)?);
            }
            return Some(taken);
        }
    }
    packed(layout, available, wanted, wishes)
}

/// The most balanced plan over exactly so many of the nodes, if there is one.
fn best_plan(counts: &[(u32, usize)], size: usize, wanted: usize, group: usize) -> Option<Plan> {
    let free: BTreeMap<u32, usize> = counts.iter().copied().collect();
    let ids: Vec<u32> = counts.iter().map(|(id, _)| *id).collect();
    let mut best: Option<(u64, Plan)> = None;
    for combo in combinations_of(&ids, size) {
        let Some((balance, plan)) = plan_of(&free, &combo, wanted, group) else { continue };
        if best.as_ref().is_none_or(|(least, _)| balance < *least) {
            let even = balance == 0;
            best = Some((balance, plan));
            if even {
                break;
            }
        }
    }
    best.map(|(_, plan)| plan)
}

/// The best plan over these nodes and how unbalanced it leaves the machine.
fn plan_of(free: &BTreeMap<u32, usize>, combo: &[u32], wanted: usize, group: usize) -> Option<(u64, Plan)> {
    let count = |node: &u32| free.get(node).copied().unwrap_or(0);
    let groups: usize = combo.iter().map(|node| count(node) / group).sum();
    let each = wanted / combo.len() / group * group;
    if groups * group < wanted || combo.iter().any(|node| count(node) < each) {
        return None;
    }
    let mut left = free.clone();
    for node in combo {
        if let Some(left) = left.get_mut(node) {
            *left -= each;
        }
    }
    let base: Plan = combo.iter().map(|node| (*node, each)).filter(|(_, share)| *share > 0).collect();
    let rest = wanted - each * combo.len();
    if rest == 0 {
        return Some((imbalance(&left), base));
    }
    let able: Vec<u32> =
        combo.iter().copied().filter(|node| left.get(node).is_some_and(|left| *left >= group)).collect();
    let mut best: Option<(u64, Plan)> = None;
    // From many to few: the rest is spread, too.
    for size in (1..=able.len()).rev() {
        for subset in combinations_of(&able, size) {
            let Some((left, shares)) = spread_rest(&left, &subset, rest, group) else { continue };
            let balance = imbalance(&left);
            if best.as_ref().is_none_or(|(least, _)| balance < *least) {
                let mut plan = base.clone();
                for (node, share) in shares {
                    match plan.iter_mut().find(|(planned, _)| *planned == node) {
                        Some((_, planned)) => *planned += share,
                        None => plan.push((node, share)),
                    }
                }
                best = Some((balance, plan));
            }
        }
    }
    best
}

/// Hands out the rest in groups, round by round; `None` where these nodes do not have it.
fn spread_rest(
    left: &BTreeMap<u32, usize>,
    nodes: &[u32],
    mut rest: usize,
    group: usize,
) -> Option<(BTreeMap<u32, usize>, BTreeMap<u32, usize>)> {
    let (mut left, mut shares) = (left.clone(), BTreeMap::new());
    while rest > 0 {
        let before = rest;
        for node in nodes {
            let Some(has) = left.get_mut(node) else { continue };
            if rest > 0 && *has >= group {
                *has -= group;
                *shares.entry(*node).or_default() += group;
                rest -= group;
            }
        }
        if rest == before {
            return None;
        }
    }
    Some((left, shares))
}

/// How uneven these numbers are, in thousandths of their standard deviation, rounded as upstream rounds it, so that
/// the same sets tie.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn imbalance(left: &BTreeMap<u32, usize>) -> u64 {
    let thousandths = |value: f64| (value * 1000.0).round();
    let count = left.len() as f64;
    let mean = thousandths(left.values().map(|value| *value as f64).sum::<f64>() / count) / 1000.0;
    let squares: f64 = left.values().map(|value| (*value as f64 - mean).powi(2)).sum();
    thousandths((squares / count).sqrt()) as u64
}
