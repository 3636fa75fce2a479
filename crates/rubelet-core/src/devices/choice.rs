//! Which IDs a container gets (upstream `devicesToAllocate`, `filterByAffinity`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{DeviceBook, Plugin, Resource, SETTLING};
use crate::ids::pod_uid;
use crate::topology::{Hint, NumaMask};

/// What a container still needs of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// It has it.
    Nothing,
    /// It cannot be said yet; what is waited for.
    Wait(String),
    /// These devices.
    Choose(Choice),
}

/// Why a container cannot have what it asks for; upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No plugin offers it.
    #[error("cannot allocate unregistered device {0}")]
    Unregistered(String),
    /// Its plugin has no device that is well.
    #[error("no healthy devices present; cannot allocate unhealthy devices {0}")]
    NoneHealthy(String),
    /// Others have them.
    #[error(
        "requested number of devices unavailable for {resource}. Requested: {requested}, Available: {available}"
    )]
    TooFew {
        /// The resource.
        resource: String,
        /// How many are still needed.
        requested: usize,
        /// How many are free.
        available: usize,
    },
}

/// A question for the plugin: which of these it would rather give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// IDs to choose from.
    pub available: Vec<String>,
    /// IDs that are chosen already.
    pub must_include: Vec<String>,
    /// How many there are to be in all.
    pub size: usize,
}

/// A choice that the plugin may have a say in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Chosen whatever the plugin says.
    fixed: Vec<String>,
    /// Where the rest comes from, best first; what the plugin prefers goes before.
    pool: Vec<String>,
    /// How many in all.
    size: usize,
    /// The question, where there is something to choose.
    pub ask: Option<Ask>,
}

impl Choice {
    /// The IDs, with what the plugin prefers; what it names that it was not asked for is left out.
    pub fn settle(self, preferred: &[String]) -> Vec<String> {
        let Self { mut fixed, pool, size, ask } = self;
        let offered: BTreeSet<&String> = if ask.is_some() { pool.iter().collect() } else { BTreeSet::new() };
        let wished = preferred.iter().filter(|id| offered.contains(id));
        for id in wished.chain(&pool) {
            if fixed.len() == size {
                break;
            }
            if !fixed.contains(id) {
                fixed.push(id.clone());
            }
        }
        fixed
    }
}

impl DeviceBook {
    /// What a container still needs of a resource of which it asks for so many, near `affinity`. For a container that does
    /// not run.
    ///
    /// # Errors
    /// It cannot have it.
    pub fn need(
        &self,
        pod: &Pod,
        container: &Container,
        (resource, size): (&str, usize),
        affinity: &Hint,
        now: Duration,
    ) -> Result<Need, Refusal> {
        let Some(known) = self.resources.get(resource) else {
            return Err(Refusal::Unregistered(resource.to_owned()));
        };
        let since = match known.plugin {
            Plugin::Missing { .. } => {
                return Ok(Need::Wait(format!(
                    "waiting for the device plugin of {resource}, which has not registered yet"
                )));
            }
            Plugin::Here { listed: false, .. } => {
                return Ok(Need::Wait(format!(
                    "waiting for the device plugin of {resource} to list its devices"
                )));
            }
            Plugin::Here { since, .. } => since,
        };
        let uid = pod_uid(pod);
        let healthy: BTreeSet<&str> = known.healthy().collect();
        let had = self.of_container(&uid, &container.name).find(|(name, _)| *name == resource);
        if let Some(had) = had.map(|(_, allocation)| allocation.id_set())
            && had.len() == size
            && had.is_subset(&healthy)
        {
            return Ok(Need::Nothing);
        }
        let settles = now < since + SETTLING;
        if healthy.len() < size && settles {
            let count = healthy.len();
            return Ok(Need::Wait(format!(
                "waiting for the device plugin of {resource}: it has just started and {count} of {size} devices are healthy"
            )));
        }
        if healthy.is_empty() {
            return Err(Refusal::NoneHealthy(resource.to_owned()));
        }
        let mut fixed: Vec<String> = self.reusable(pod, container, resource).into_iter().collect();
        fixed.retain(|id| healthy.contains(id.as_str()));
        fixed.truncate(size);
        if fixed.len() == size {
            return Ok(Need::Choose(Choice { fixed, pool: Vec::new(), size, ask: None }));
        }
        let used = self.in_use(resource, (&uid, &container.name));
        let taken: BTreeSet<&str> = used.into_iter().chain(fixed.iter().map(String::as_str)).collect();
        let available: Vec<&str> = healthy.into_iter().filter(|id| !taken.contains(id)).collect();
        let needed = size - fixed.len();
        if available.len() < needed {
            let (resource, available) = (resource.to_owned(), available.len());
            return Err(Refusal::TooFew { resource, requested: needed, available });
        }
        Ok(Need::Choose(choose(known, fixed, &available, size, affinity)))
    }
}

/// Devices at the nodes of the hint first, then those elsewhere, then those that do not tell. The plugin may choose where
/// there is more than is needed.
fn choose(
    known: &Resource,
    mut fixed: Vec<String>,
    available: &[&str],
    size: usize,
    affinity: &Hint,
) -> Choice {
    let aligned_to = affinity.nodes.filter(|_| known.is_aligned());
    let nodes_of = |id: &str| known.devices.get(id).map_or(NumaMask::default(), |device| device.nodes);
    let mut population: BTreeMap<u32, usize> = BTreeMap::new();
    for node in available.iter().flat_map(|id| nodes_of(id).iter().collect::<Vec<_>>()) {
        *population.entry(node).or_default() += 1;
    }
    let rank = |id: &&str| {
        let nodes = nodes_of(id);
        // Where few are left is used up first, so that the others stay whole.
        let fewest = |nodes: NumaMask| nodes.iter().filter_map(|node| population.get(&node)).min().copied();
        match aligned_to {
            None => (0, 0),
            Some(wanted) if !nodes.and(wanted).is_empty() => (0, fewest(nodes.and(wanted)).unwrap_or(0)),
            Some(_) if !nodes.is_empty() => (1, fewest(nodes).unwrap_or(0)),
            Some(_) => (2, 0),
        }
    };
    let mut ranked: Vec<&str> = available.to_vec();
    ranked.sort_by_key(|id| (rank(id), *id));
    let aligned = match aligned_to {
        Some(_) => ranked.iter().take_while(|id| rank(id).0 == 0).count(),
        None => 0,
    };
    let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<String>>();
    let needed = size - fixed.len();
    let (offered, pool) = if needed < aligned {
        let pool = owned(ranked.get(..aligned).unwrap_or_default());
        (pool.clone(), pool)
    } else {
        fixed.extend(owned(ranked.get(..aligned).unwrap_or_default()));
        let rest = owned(ranked.get(aligned..).unwrap_or_default());
        (rest.clone(), rest)
    };
    let mut all: Vec<String> = fixed.iter().cloned().chain(offered).collect();
    all.sort();
    let ask = (fixed.len() < size).then(|| Ask { available: all, must_include: fixed.clone(), size });
    Choice { fixed, pool, size, ask }
}
