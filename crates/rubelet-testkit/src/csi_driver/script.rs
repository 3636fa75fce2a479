//! What a test orders in advance: what goes wrong in which call of the driver, and what the driver tells of itself.
//! Values and their bookkeeping only; `calls` acts on them.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tonic::Code;

/// A call of the driver, by its name in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[allow(missing_docs, reason = "the names are the protocol's")]
pub enum Method {
    GetInfo,
    NotifyRegistrationStatus,
    GetPluginInfo,
    GetPluginCapabilities,
    Probe,
    NodeGetInfo,
    NodeGetCapabilities,
    NodeStageVolume,
    NodeUnstageVolume,
    NodePublishVolume,
    NodeUnpublishVolume,
    NodeExpandVolume,
    NodeGetVolumeStats,
}

impl Method {
    /// Every call.
    pub const ALL: [Self; 13] = [
        Self::GetInfo,
        Self::NotifyRegistrationStatus,
        Self::GetPluginInfo,
        Self::GetPluginCapabilities,
        Self::Probe,
        Self::NodeGetInfo,
        Self::NodeGetCapabilities,
        Self::NodeStageVolume,
        Self::NodeUnstageVolume,
        Self::NodePublishVolume,
        Self::NodeUnpublishVolume,
        Self::NodeExpandVolume,
        Self::NodeGetVolumeStats,
    ];

    /// Whether it changes a volume: a driver does one such call of a volume at a time.
    pub fn changes(self) -> bool {
        matches!(
            self,
            Self::NodeStageVolume
                | Self::NodeUnstageVolume
                | Self::NodePublishVolume
                | Self::NodeUnpublishVolume
                | Self::NodeExpandVolume
        )
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refused with this code; nothing was done.
    Fail(Code),
    /// Done, and answered with this code.
    DoThenFail(Code),
    /// Not done and not answered until the fault is stopped; then it is done and answered.
    Hang,
    /// Done, and not answered until the fault is stopped.
    DoThenHang,
    /// Done and answered after this time.
    Late(Duration),
    /// Answered as if it were done; nothing was.
    Lie,
}

/// A fault and the calls it is for.
#[derive(Clone, Debug)]
pub struct Rule {
    method: Method,
    what: Fault,
    volume: Option<String>,
    times: Option<usize>,
    after: usize,
}

impl Rule {
    /// For every such call, until the handle is stopped.
    pub fn on(method: Method, what: Fault) -> Self {
        Self { method, what, volume: None, times: None, after: 0 }
    }

    /// Only for this volume.
    #[must_use]
    pub fn volume(self, handle: &str) -> Self {
        Self { volume: Some(handle.to_owned()), ..self }
    }

    /// Only so many times.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times: Some(times), ..self }
    }

    /// Lets so many matching calls pass first.
    #[must_use]
    pub fn after(self, passes: usize) -> Self {
        Self { after: passes, ..self }
    }
}

/// An ordered fault: says how often it struck, and ends it. Dropping the handle leaves the fault as it is.
#[derive(Clone, Debug)]
pub struct FaultHandle {
    stopped: Arc<watch::Sender<bool>>,
    hits: Arc<AtomicUsize>,
}

impl FaultHandle {
    /// No call meets the fault from now on, and those that hang in it go on.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// How many calls met it.
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    pub(super) async fn stopped(&self) {
        let mut stopped = self.stopped.subscribe();
        // The sender is this handle's own.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

/// The faults in force.
#[derive(Debug, Default)]
pub(super) struct Faults {
    ordered: Vec<(Rule, FaultHandle, usize)>,
}

impl Faults {
    pub(super) fn add(&mut self, rule: Rule) -> FaultHandle {
        let handle = FaultHandle { stopped: Arc::new(watch::channel(false).0), hits: Arc::default() };
        self.ordered.push((rule, handle.clone(), 0));
        handle
    }

    /// The first fault that this call meets; it counts as struck.
    pub(super) fn strike(&mut self, method: Method, volume: &str) -> Option<(Fault, FaultHandle)> {
        for (rule, handle, seen) in &mut self.ordered {
            let spent = *handle.stopped.borrow() || rule.times.is_some_and(|times| handle.hits() >= times);
            if spent || rule.method != method || rule.volume.as_ref().is_some_and(|of| of != volume) {
                continue;
            }
            *seen += 1;
            if *seen > rule.after {
                handle.hits.fetch_add(1, Ordering::SeqCst);
                return Some((rule.what, handle.clone()));
            }
        }
        None
    }
}

/// Words that are no order.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not `CALL FAULT [TIMES]`, with a fault of fail, do-then-fail, hang, do-then-hang, late, lie"
)]
pub struct NotARule(String);

/// As a line of text: `NodeStageVolume do-then-fail 2`. Failures are Internal, and late is five seconds.
impl FromStr for Rule {
    type Err = NotARule;

    fn from_str(text: &str) -> Result<Self, NotARule> {
        let wrong = || NotARule(text.to_owned());
        let mut words = text.split_whitespace();
        let name = words.next().ok_or_else(wrong)?;
        let method =
            Method::ALL.into_iter().find(|method| format!("{method:?}") == name).ok_or_else(wrong)?;
        let what = match words.next().ok_or_else(wrong)? {
            "fail" => Fault::Fail(Code::Internal),
            "do-then-fail" => Fault::DoThenFail(Code::Internal),
            "hang" => Fault::Hang,
            "do-then-hang" => Fault::DoThenHang,
            "late" => Fault::Late(Duration::from_secs(5)),
            "lie" => Fault::Lie,
            _ => return Err(wrong()),
        };
        let rule = Self::on(method, what);
        match (words.next(), words.next()) {
            (None, _) => Ok(rule),
            (Some(times), None) => Ok(rule.times(times.parse().map_err(|_| wrong())?)),
            _ => Err(wrong()),
        }
    }
}

/// What a driver can do beyond publishing (`NodeServiceCapability`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the protocol's")]
pub enum Capability {
    StageUnstageVolume,
    GetVolumeStats,
    ExpandVolume,
    VolumeCondition,
    SingleNodeMultiWriter,
    VolumeMountGroup,
}

/// How full a volume is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Size in bytes.
    pub total: i64,
    /// Bytes used.
    pub used: i64,
    /// Bytes available.
    pub available: i64,
    /// Inodes: all, used, free.
    pub inodes: (i64, i64, i64),
}

/// What a driver tells of itself. May be changed while it runs.
#[derive(Clone, Debug)]
pub struct Character {
    /// Its name, as registration and identity tell it.
    pub name: String,
    /// The kind of plugin it registers as.
    pub kind: String,
    /// The versions that it registers with.
    pub versions: Vec<String>,
    /// The endpoint it registers with, in place of its real one.
    pub endpoint: Option<String>,
    /// Its name for the node.
    pub node_id: String,
    /// Volumes that the node can have; 0 tells no limit.
    pub max_volumes: i64,
    /// Where the node is.
    pub topology: BTreeMap<String, String>,
    /// What it can do.
    pub capabilities: BTreeSet<Capability>,
    /// How full its volumes are, by handle; what the file system tells for others.
    pub usage: BTreeMap<String, Usage>,
    /// What is wrong with volumes, by handle.
    pub abnormal: BTreeMap<String, String>,
    /// The size that an expansion answers, in place of the one it was asked for.
    pub expanded_to: Option<i64>,
}

impl Character {
    /// A driver that can do everything but take over group and condition.
    pub fn named(name: &str) -> Self {
        let capabilities =
            [Capability::StageUnstageVolume, Capability::GetVolumeStats, Capability::ExpandVolume];
        Self {
            name: name.to_owned(),
            kind: "CSIPlugin".to_owned(),
            versions: vec!["1.0.0".to_owned()],
            endpoint: None,
            node_id: format!("node-of-{name}"),
            max_volumes: 0,
            topology: BTreeMap::new(),
            capabilities: capabilities.into(),
            usage: BTreeMap::new(),
            abnormal: BTreeMap::new(),
            expanded_to: None,
        }
    }

    /// The same with more capabilities.
    #[must_use]
    pub fn that_can(mut self, more: &[Capability]) -> Self {
        self.capabilities.extend(more);
        self
    }

    /// The same without these capabilities.
    #[must_use]
    pub fn that_cannot(mut self, less: &[Capability]) -> Self {
        self.capabilities.retain(|capability| !less.contains(capability));
        self
    }

    /// Whether it has a capability.
    pub fn can(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_strike_as_ordered() {
        let mut faults = Faults::default();
        let stage = Method::NodeStageVolume;
        let twice = faults.add(Rule::on(stage, Fault::Lie).volume("a").times(2).after(1));
        let always = faults.add(Rule::on(stage, Fault::Hang));
        let mut strike = |method, volume: &str| faults.strike(method, volume).map(|(fault, _)| fault);
        assert_eq!(strike(Method::NodeUnstageVolume, "a"), None);
        let met: Vec<_> = (0..4).map(|_| strike(stage, "a").unwrap()).collect();
        assert_eq!(met, [Fault::Hang, Fault::Lie, Fault::Lie, Fault::Hang]);
        assert_eq!(strike(stage, "b"), Some(Fault::Hang));
        always.stop();
        assert_eq!(strike(stage, "b"), None);
        assert_eq!((twice.hits(), always.hits()), (2, 3));
    }

    #[test]
    fn rules_are_read_from_text() {
        let rule: Rule = "NodePublishVolume do-then-fail 2".parse().unwrap();
        assert_eq!((rule.method, rule.times), (Method::NodePublishVolume, Some(2)));
        assert_eq!(rule.what, Fault::DoThenFail(Code::Internal));
        assert!("Probe lie".parse::<Rule>().unwrap().times.is_none());
        for wrong in ["", "Probe", "Probe x", "Other lie", "Probe lie x", "Probe lie 1 2"] {
            assert!(wrong.parse::<Rule>().unwrap_err().to_string().contains("CALL FAULT"), "{wrong}");
        }
    }
}
