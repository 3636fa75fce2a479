//! The claims that may be prepared on this node, for which pods, and what drivers gave for them. A claim is in the book
//! from before the first driver is asked to prepare it until every driver has said that nothing of it is left: a crash in
//! between leaves an entry too much, never one too little.
//!
//! Knows no clock and does nothing. Written by the shell's `dra`, which keeps the whole of it in a checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use super::references::{AllowedClaim, ContainerClaim};
use super::{ClaimKey, Device};
use crate::ids::PodUid;

/// One claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimEntry {
    /// UID of the claim.
    pub uid: String,
    /// Pods that use it, or may.
    pub pods: BTreeSet<PodUid>,
    /// Every driver that has a part in it, with the devices it gave.
    pub drivers: BTreeMap<String, Vec<Device>>,
    /// All drivers have prepared it since this agent began. What an earlier agent knew is good for containers that run,
    /// and asked for again before a new sandbox.
    pub prepared: bool,
}

/// A claim as drivers are asked about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimId {
    /// Its name.
    pub key: ClaimKey,
    /// Its UID.
    pub uid: String,
}

/// What each driver is to be asked.
pub type Batches = BTreeMap<String, Vec<ClaimId>>;

/// What a pod gives back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnpreparePlan {
    /// What drivers are to be asked first.
    pub batches: Batches,
    /// Claims that are forgotten when all of them have answered.
    pub last: Vec<ClaimKey>,
    /// Claims that other pods use: only the pod's part in them goes.
    pub shared: Vec<ClaimKey>,
}

impl UnpreparePlan {
    /// The pod uses nothing.
    pub fn is_empty(&self) -> bool {
        self.last.is_empty() && self.shared.is_empty()
    }
}

/// Why a claim cannot be taken into the book.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// A claim of that name was deleted and made anew while the old one is still prepared.
    #[error(
        "old ResourceClaim with same name {name} and different UID {uid} still exists (previous pod force-deleted?!)"
    )]
    OtherUid {
        /// Name of the claim.
        name: String,
        /// UID of the old one.
        uid: String,
    },
}

/// The book.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimBook {
    claims: BTreeMap<ClaimKey, ClaimEntry>,
}

impl ClaimBook {
    /// A book with what an earlier agent left.
    pub fn restore(claims: impl IntoIterator<Item = (ClaimKey, ClaimEntry)>) -> Self {
        let unsure = |(key, entry)| (key, ClaimEntry { prepared: false, ..entry });
        Self { claims: claims.into_iter().map(unsure).collect() }
    }

    /// Every claim.
    pub fn claims(&self) -> &BTreeMap<ClaimKey, ClaimEntry> {
        &self.claims
    }

    /// One claim.
    pub fn get(&self, key: &ClaimKey) -> Option<&ClaimEntry> {
        self.claims.get(key)
    }

    /// Whether nothing is prepared, nor may be.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// Whether the pod uses any claim, or may.
    pub fn has_pod(&self, pod: &PodUid) -> bool {
        self.claims.values().any(|entry| entry.pods.contains(pod))
    }

    /// Pods that use claims.
    pub fn pods(&self) -> BTreeSet<PodUid> {
        self.claims.values().flat_map(|entry| entry.pods.iter().cloned()).collect()
    }

    /// Whether the book has all these claims for the pod, prepared by this agent or an earlier one: enough for a
    /// container in a sandbox that is there.
    pub fn knows(&self, pod: &PodUid, claims: impl IntoIterator<Item = ClaimKey>) -> bool {
        claims.into_iter().all(|key| self.claims.get(&key).is_some_and(|entry| entry.pods.contains(pod)))
    }

    /// Takes claims in for a pod, and says what drivers are to be asked. Nothing changes on an error.
    ///
    /// # Errors
    /// See [`BookError`].
    pub fn begin(&mut self, pod: &PodUid, wanted: &[AllowedClaim]) -> Result<Batches, BookError> {
        for claim in wanted {
            if let Some(entry) = self.claims.get(&claim.key)
                && entry.uid != claim.uid
            {
                let (name, uid) = (claim.key.name.clone(), entry.uid.clone());
                return Err(BookError::OtherUid { name, uid });
            }
        }
        let mut batches = Batches::new();
        for claim in wanted {
            let entry = self.claims.entry(claim.key.clone()).or_default();
            entry.uid.clone_from(&claim.uid);
            entry.pods.insert(pod.clone());
            // A driver that is new to the claim has prepared nothing of it.
            let known = claim.drivers.iter().all(|driver| entry.drivers.contains_key(driver));
            entry.prepared &= known;
            for driver in &claim.drivers {
                entry.drivers.entry(driver.clone()).or_default();
            }
            if entry.prepared {
                continue;
            }
            let id = ClaimId { key: claim.key.clone(), uid: claim.uid.clone() };
            for driver in &claim.drivers {
                batches.entry(driver.clone()).or_default().push(id.clone());
            }
        }
        Ok(batches)
    }

    /// A driver has given these devices for a claim; they take the place of what it gave before.
    pub fn gave(&mut self, claim: &ClaimId, driver: &str, devices: Vec<Device>) {
        if let Some(entry) = self.claims.get_mut(&claim.key).filter(|entry| entry.uid == claim.uid) {
            entry.drivers.insert(driver.to_owned(), devices);
        }
    }

    /// All drivers of these claims have done their part.
    pub fn prepared<'a>(&mut self, claims: impl IntoIterator<Item = &'a ClaimId>) {
        for claim in claims {
            if let Some(entry) = self.claims.get_mut(&claim.key).filter(|entry| entry.uid == claim.uid) {
                entry.prepared = true;
            }
        }
    }

    /// What has to be done before the pod uses nothing any more.
    pub fn plan_unprepare(&self, pod: &PodUid) -> UnpreparePlan {
        let mut plan = UnpreparePlan::default();
        for (key, entry) in self.claims.iter().filter(|(_, entry)| entry.pods.contains(pod)) {
            if entry.pods.len() > 1 {
                plan.shared.push(key.clone());
                continue;
            }
            plan.last.push(key.clone());
            for driver in entry.drivers.keys() {
                let id = ClaimId { key: key.clone(), uid: entry.uid.clone() };
                plan.batches.entry(driver.clone()).or_default().push(id);
            }
        }
        plan
    }

    /// Some driver is about to be asked to take these claims back: they count as prepared no more, whatever comes of it.
    pub fn giving_back(&mut self, plan: &UnpreparePlan) {
        for key in &plan.last {
            if let Some(entry) = self.claims.get_mut(key) {
                entry.prepared = false;
            }
        }
    }

    /// The pod has given back what was planned.
    pub fn gone(&mut self, pod: &PodUid, plan: &UnpreparePlan) {
        for key in plan.last.iter().chain(&plan.shared) {
            let Some(entry) = self.claims.get_mut(key) else { continue };
            entry.pods.remove(pod);
            if entry.pods.is_empty() {
                self.claims.remove(key);
            }
        }
    }

    /// CDI devices for a container that wants these, each once, in the order of claims and drivers.
    ///
    /// # Errors
    /// The name of a claim that the book does not have.
    pub fn cdi_devices(&self, wanted: &[ContainerClaim]) -> Result<Vec<String>, ClaimKey> {
        let mut found: Vec<String> = vec![];
        for claim in wanted {
            let entry = self.claims.get(&claim.claim).ok_or_else(|| claim.claim.clone())?;
            let devices = entry.drivers.values().flatten().filter(|device| device.is_for(&claim.request));
            for name in devices.flat_map(|device| &device.cdi) {
                if !found.contains(name) {
                    found.push(name.clone());
                }
            }
        }
        Ok(found)
    }

    /// Pods that have one of these devices (pool and name) of a driver.
    pub fn pods_with(&self, driver: &str, devices: &BTreeSet<(String, String)>) -> BTreeSet<PodUid> {
        let has = |entry: &&ClaimEntry| {
            let given = entry.drivers.get(driver).into_iter().flatten();
            given.into_iter().any(|device| devices.contains(&(device.pool.clone(), device.device.clone())))
        };
        self.claims.values().filter(has).flat_map(|entry| entry.pods.iter().cloned()).collect()
    }

    /// How many prepared claims each driver has a part in, and how many there are
    /// (`dra_resource_claims_in_use`).
    pub fn in_use(&self) -> (BTreeMap<&str, usize>, usize) {
        let mut by_driver = BTreeMap::new();
        let prepared = self.claims.values().filter(|entry| entry.prepared);
        let mut all = 0;
        for entry in prepared {
            all += 1;
            for driver in entry.drivers.keys() {
                *by_driver.entry(driver.as_str()).or_insert(0) += 1;
            }
        }
        (by_driver, all)
    }
}

#[cfg(test)]
mod tests;
