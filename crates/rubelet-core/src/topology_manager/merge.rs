//! Merging of hints: one of each list is taken, their nodes are intersected, and of all such choices the best one wins
//! (upstream `HintMerger`).
//!
//! Upstream goes through every combination, whose number is the product of the lists' lengths. What a combination comes
//! to is only a set of nodes and whether it is preferred, so the lists are folded one after another into the results
//! that are possible so far, of which there are never many.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::topology::{Hint, NumaMask, ProviderHints};

/// The lists of all providers. One without wishes says that any place is fine; an empty list says that none is.
pub(super) fn lists(providers: &[ProviderHints]) -> Vec<Vec<Hint>> {
    let any = |preferred| vec![Hint { nodes: None, preferred }];
    let mut lists = Vec::new();
    for hints in providers {
        if hints.is_empty() {
            lists.push(any(true));
        }
        lists.extend(hints.values().map(|list| match list {
            None => any(true),
            Some(list) if list.is_empty() => any(false),
            Some(list) => list.clone(),
        }));
    }
    lists
}

/// What some hints, one of each list so far, come to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Partial {
    nodes: NumaMask,
    preferred: bool,
    /// The nodes that all hints with nodes agree on; meaningless once it is not preferred.
    agreed: Option<NumaMask>,
}

impl Partial {
    fn with(self, hint: &Hint) -> Self {
        let Some(nodes) = hint.nodes else {
            return self.unless(hint.preferred);
        };
        let agrees = self.agreed.is_none_or(|agreed| agreed == nodes);
        let next = Self { nodes: self.nodes.and(nodes), agreed: Some(nodes), ..self };
        next.unless(hint.preferred && agrees)
    }

    fn unless(self, preferred: bool) -> Self {
        match self.preferred && preferred {
            true => self,
            false => Self { preferred: false, agreed: None, ..self },
        }
    }
}

/// What hints are compared by.
pub(super) struct Merging<'a> {
    /// All nodes of the machine.
    pub(super) nodes: NumaMask,
    /// Distances between nodes, when those near each other are to be preferred.
    pub(super) distances: Option<&'a BTreeMap<(u32, u32), u64>>,
}

impl Merging<'_> {
    /// The best choice of one hint from each list.
    pub(super) fn best(&self, lists: &[Vec<Hint>]) -> Hint {
        let fewest = fewest_nodes(lists);
        let start = Partial { nodes: self.nodes, preferred: true, agreed: None };
        let mut results = BTreeSet::from([start]);
        for list in lists {
            results = results.iter().flat_map(|so_far| list.iter().map(|hint| so_far.with(hint))).collect();
        }
        let candidates = results
            .into_iter()
            .filter(|result| !result.nodes.is_empty())
            .map(|result| (result.nodes, result.preferred));
        let best = candidates.min_by(|a, b| self.compare(*a, *b, fewest));
        let (nodes, preferred) = best.unwrap_or((self.nodes, false));
        Hint { nodes: Some(nodes), preferred }
    }

    /// The better one is the lesser. Preferred ones come first. Of the others, those come first that have as many nodes
    /// as the neediest list needs, then those that have fewer, the more the better, then those with more.
    fn compare(&self, a: (NumaMask, bool), b: (NumaMask, bool), fewest: u32) -> Ordering {
        let rank = |(nodes, preferred): (NumaMask, bool)| {
            let count = nodes.count();
            match preferred {
                true => (0, 0),
                false if count <= fewest => (1, fewest - count),
                false => (2, count),
            }
        };
        rank(a).cmp(&rank(b)).then_with(|| self.fitter(a.0, b.0))
    }

    fn fitter(&self, a: NumaMask, b: NumaMask) -> Ordering {
        let by_distance = || match self.distances {
            // As many nodes have as many distances: their sum orders as their mean.
            Some(distances) => sum_of_distances(a, distances).cmp(&sum_of_distances(b, distances)),
            None => Ordering::Equal,
        };
        a.count().cmp(&b.count()).then_with(by_distance).then_with(|| a.bits().cmp(&b.bits()))
    }
}

fn sum_of_distances(nodes: NumaMask, distances: &BTreeMap<(u32, u32), u64>) -> u64 {
    let pairs = nodes.iter().flat_map(|one| nodes.iter().map(move |other| (one, other)));
    pairs.filter_map(|pair| distances.get(&pair)).sum()
}

/// How many nodes the neediest list needs: the largest of each list's smallest number.
fn fewest_nodes(lists: &[Vec<Hint>]) -> u32 {
    let of_list = |list: &Vec<Hint>| list.iter().filter_map(|hint| hint.nodes).map(NumaMask::count).min();
    lists.iter().filter_map(of_list).max().unwrap_or(0)
}
