//! The drivers that have registered on this node, each with its client and what it can do; and the pods that wait for
//! one that has not. Owns that list alone; a driver is asked once, when it registers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rubelet_core::ids::PodUid;
use rubelet_csi::client::CallObserver;
use rubelet_csi::{CsiClient, CsiDeadlines, NodeCapabilities, NodeInfo};
use tokio::sync::Notify;

use super::Csi;
use super::paths::is_file_name;
use super::problem::{CsiCause, CsiProblem, CsiStep};

/// A driver as it registered.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) client: CsiClient,
    pub(super) can: NodeCapabilities,
    version: Version,
}

/// Major, minor and the rest of a version, as numbers.
type Version = Vec<u32>;

/// All drivers. Bounded by what registers on the node, and by its pods.
#[derive(Debug, Default)]
pub(super) struct Drivers(Mutex<Inner>, Arc<Notify>);

#[derive(Debug, Default)]
struct Inner {
    registered: BTreeMap<String, Arc<Driver>>,
    /// Pods that could not go on without the driver.
    waiting: BTreeMap<String, BTreeSet<PodUid>>,
}

impl Drivers {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver of this name.
    pub(super) fn get(&self, name: &str) -> Option<Arc<Driver>> {
        self.inner().registered.get(name).cloned()
    }

    /// The same; when it is not there the pod is woken once it is.
    pub(super) fn wanted(&self, name: &str, pod: &PodUid, step: CsiStep) -> Result<Arc<Driver>, CsiProblem> {
        let mut inner = self.inner();
        if let Some(driver) = inner.registered.get(name) {
            return Ok(driver.clone());
        }
        inner.waiting.entry(name.to_owned()).or_default().insert(pod.clone());
        Err(CsiProblem::new(step, CsiCause::NotRegistered(name.to_owned())))
    }

    /// The pod waits for nobody any more.
    pub(super) fn forget(&self, pod: &PodUid) {
        self.inner().waiting.retain(|_, pods| {
            pods.remove(pod);
            !pods.is_empty()
        });
    }

    /// Tells whenever one registers.
    pub(super) fn registered(&self) -> Arc<Notify> {
        self.1.clone()
    }

    /// Names of all that are registered.
    fn names(&self) -> Vec<String> {
        self.inner().registered.keys().cloned().collect()
    }
}

impl Csi {
    /// Whether a driver may register under this name with these versions of the protocol.
    ///
    /// # Errors
    /// No version 1 among them, or another driver has the name already.
    pub fn validate(&self, name: &str, endpoint: &Path, versions: &[String]) -> Result<(), CsiProblem> {
        self.accepted(name, endpoint, versions).map(|_| ())
    }

    fn accepted(&self, name: &str, endpoint: &Path, versions: &[String]) -> Result<Version, CsiProblem> {
        let refused = |why: String| Err(CsiProblem::new(CsiStep::Register, CsiCause::Refused(why)));
        // It becomes the name of a directory.
        if !is_file_name(name) || name == "volumeDevices" {
            return refused(format!("{name:?} cannot be the name of a CSI driver"));
        }
        let version = match highest_version(versions) {
            Ok(version) => version,
            Err(why) => return refused(format!("CSI driver {name:?}: {why}")),
        };
        let present = self.0.drivers.get(name);
        // The same driver again is no other one.
        if let Some(present) = present.filter(|present| present.client.socket() != endpoint)
            && present.version >= version
        {
            return refused(format!(
                "CSI driver {name:?}: another driver with the same name is already registered with a higher supported \
                 version: {:?}",
                written(&present.version)
            ));
        }
        Ok(version)
    }

    /// Takes a driver on: asks it for the node's facts, and wakes the pods that wait for it.
    ///
    /// # Errors
    /// It is not accepted, or does not answer; then nothing has changed.
    pub async fn register(
        &self,
        name: &str,
        endpoint: &Path,
        versions: &[String],
    ) -> Result<NodeInfo, CsiProblem> {
        let version = self.accepted(name, endpoint, versions)?;
        let client = self.0.client(endpoint, name);
        let failed = |error: rubelet_csi::CsiError| CsiProblem::new(CsiStep::Register, CsiCause::from(error));
        let info = client.node_info().await.map_err(failed)?;
        let can = client.capabilities().await.map_err(failed)?;
        let waiting = {
            let mut inner = self.0.drivers.inner();
            inner.registered.insert(name.to_owned(), Arc::new(Driver { client, can, version }));
            inner.waiting.remove(name)
        };
        self.0.drivers.1.notify_waiters();
        if let Some(wake) = &self.0.wake {
            waiting.iter().flatten().for_each(|pod| wake(pod));
        }
        Ok(info)
    }

    /// The driver has gone; what it mounted stays as it is.
    pub fn deregister(&self, name: &str) {
        self.0.drivers.inner().registered.remove(name);
    }

    /// What the driver says of the node now, for a CSINode that is to be brought up to date.
    ///
    /// # Errors
    /// It is not registered or does not answer.
    pub async fn node_info(&self, name: &str) -> Result<NodeInfo, CsiProblem> {
        let problem = |cause| CsiProblem::new(CsiStep::Register, cause);
        let driver =
            self.0.drivers.get(name).ok_or_else(|| problem(CsiCause::NotRegistered(name.to_owned())))?;
        driver.client.node_info().await.map_err(|error| problem(error.into()))
    }

    /// Names of the drivers that are registered now.
    pub fn registered(&self) -> Vec<String> {
        self.0.drivers.names()
    }
}

/// A client of a driver.
pub(super) fn client(
    endpoint: &Path,
    name: &str,
    deadlines: CsiDeadlines,
    observer: Option<&CallObserver>,
) -> CsiClient {
    let client = CsiClient::new(endpoint, name).with_deadlines(deadlines);
    match observer {
        Some(observer) => client.with_observer(observer.clone()),
        None => client,
    }
}

/// The highest version of the protocol that a driver and the agent speak (upstream `HighestSupportedVersion`).
fn highest_version(versions: &[String]) -> Result<Version, String> {
    if versions.is_empty() {
        return Err("plugin returned an empty list for supported versions".to_owned());
    }
    let known = versions.iter().filter_map(|text| parsed(text)).filter(|version| version[0] <= 1);
    match known.max() {
        Some(version) if version[0] == 1 => Ok(version),
        Some(version) => {
            Err(format!("highest supported version reported is {}, must be v1.x", written(&version)))
        }
        None => Err(format!("none of the versions specified {versions:?} are supported")),
    }
}

/// Two numbers or more with dots between them, perhaps after a `v`; what follows the numbers does not count.
fn parsed(text: &str) -> Option<Version> {
    let text = text.trim();
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let numbers: Option<Version> =
        text[..end].trim_end_matches('.').split('.').map(|n| n.parse().ok()).collect();
    numbers.filter(|numbers| numbers.len() >= 2)
}

fn written(version: &[u32]) -> String {
    version.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let check = |versions: &[&str], expected: Result<&str, &str>| {
            let versions: Vec<String> = versions.iter().map(|v| (*v).to_owned()).collect();
            let found = highest_version(&versions).map(|version| written(&version));
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{versions:?}");
        };
        check(&["1.0.0"], Ok("1.0.0"));
        check(&["v1.2", "1.11.0", "1.9.0"], Ok("1.11.0"));
        check(&["2.0.0", "1.3.0-rc1"], Ok("1.3.0"));
        check(&[], Err("plugin returned an empty list for supported versions"));
        check(&["0.3.0"], Err("highest supported version reported is 0.3.0, must be v1.x"));
        check(
            &["2.0", "x", "1"],
            Err("none of the versions specified [\"2.0\", \"x\", \"1\"] are supported"),
        );
    }
}
