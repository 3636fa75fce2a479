//! Sets of NUMA nodes, 64 at most (upstream `bitmask`).

use std::fmt;

/// A set of NUMA nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NumaMask(u64);

impl NumaMask {
    /// How many nodes can be told apart.
    pub const NODES: u32 = 64;

    /// The set of these bits.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
    /// Its bits, node 0 the lowest.
    pub fn bits(self) -> u64 {
        self.0
    }
    /// How many nodes it has.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }
    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Whether it has this node.
    pub fn contains(self, node: u32) -> bool {
        node < Self::NODES && self.0 & (1 << node) != 0
    }
    /// What is in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
    /// What is in either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// Whether the other has all of this one's.
    pub fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
    /// Its nodes in ascending order.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..Self::NODES).filter(move |node| self.contains(*node))
    }
    /// Whether it has fewer nodes than the other or, with as many, lower ones (upstream `IsNarrowerThan`).
    pub fn is_narrower_than(self, other: Self) -> bool {
        match self.count().cmp(&other.count()) {
            std::cmp::Ordering::Equal => self.0 < other.0,
            order => order.is_lt(),
        }
    }
    /// Every set of this one's nodes that is not empty, small numbers of bits not necessarily first.
    pub fn subsets(self) -> impl Iterator<Item = Self> {
        // Counts through the bits of the mask only: the classic walk over submasks, downwards.
        let mut next = (self.0 != 0).then_some(self.0);
        std::iter::from_fn(move || {
            let bits = next?;
            let below = (bits - 1) & self.0;
            next = (below != 0).then_some(below);
            Some(Self(bits))
        })
    }
}

impl FromIterator<u32> for NumaMask {
    /// Numbers of 64 and more are left out.
    fn from_iter<I: IntoIterator<Item = u32>>(nodes: I) -> Self {
        Self(nodes.into_iter().filter(|node| *node < Self::NODES).fold(0, |bits, node| bits | 1 << node))
    }
}

impl fmt::Display for NumaMask {
    /// As a list of nodes: `0,2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for node in self.iter() {
            write!(f, "{separator}{node}")?;
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(nodes: &[u32]) -> NumaMask {
        nodes.iter().copied().collect()
    }

    #[test]
    fn sets_of_nodes() {
        let both = mask(&[0, 2, 63, 64, 99]);
        assert_eq!((both.count(), both.to_string().as_str()), (3, "0,2,63"));
        assert!(both.contains(63) && !both.contains(64) && mask(&[2]).is_subset(both));
        assert_eq!(both.and(mask(&[2, 3])).or(mask(&[5])), mask(&[2, 5]));
        assert!(mask(&[7]).is_narrower_than(mask(&[0, 1])) && mask(&[0]).is_narrower_than(mask(&[1])));
        assert!(!mask(&[1]).is_narrower_than(mask(&[1])));
    }

    #[test]
    fn every_subset_is_named_once() {
        let all: std::collections::BTreeSet<_> = mask(&[1, 3, 63]).subsets().collect();
        assert_eq!(all.len(), 7);
        assert!(all.iter().all(|subset| !subset.is_empty() && subset.is_subset(mask(&[1, 3, 63]))));
        assert_eq!(NumaMask::default().subsets().count(), 0);
    }
}
