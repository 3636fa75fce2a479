//! What the driver is, what it was asked, what it has prepared, and the faults that a test has ordered. Values and their
//! bookkeeping.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rubelet_plugins::dra::wire::{health, v1};
use tokio::sync::watch;
use tonic::Code;

/// A call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `NodePrepareResources`.
    Prepare,
    /// `NodeUnprepareResources`.
    Unprepare,
}

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call is refused with this code; nothing was done.
    Refuse(Code),
    /// The answer says that it failed for the claim, in these words; nothing was done.
    Fail(String),
    /// Done, and the answer says that it failed.
    DoThenFail(String),
    /// Not done and not answered until the fault is stopped.
    Hang,
    /// Done, and not answered until the fault is stopped.
    DoThenHang,
    /// Done, and the claim is left out of the answer.
    Forget,
    /// Done, and the answer tells of a claim that nobody asked about.
    Invent,
}

/// How a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It works.
    Healthy,
    /// It does not.
    Unhealthy,
    /// Nobody knows.
    Unknown,
}

/// A device that the driver gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Requests that it is for; all when there is none.
    pub requests: Vec<String>,
    /// CDI devices.
    pub cdi: Vec<String>,
    /// Its share.
    pub share: Option<String>,
}

/// What the driver tells of itself, and gives. May be changed while it runs.
#[derive(Clone, Debug)]
pub struct Character {
    /// Its name.
    pub name: String,
    /// The pool of all its devices.
    pub pool: String,
    /// The versions that it registers with.
    pub versions: Vec<String>,
    /// Whether it tells of health; as it is at the start.
    pub tells_health: bool,
    /// Seconds that a report is good for; 0 for the node's default.
    pub health_seconds: i64,
    /// What it gives for claims, by name.
    pub devices: BTreeMap<String, Vec<Device>>,
}

impl Character {
    /// A driver that speaks everything.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            pool: "pool".to_owned(),
            versions: vec!["v1.DRAPlugin".to_owned(), "v1beta1.DRAPlugin".to_owned()],
            tells_health: true,
            health_seconds: 0,
            devices: BTreeMap::new(),
        }
    }

    /// The same, with one more device for a claim.
    #[must_use]
    pub fn giving(mut self, claim: &str, device: &str, requests: &[&str], cdi: &[&str]) -> Self {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let device =
            Device { name: device.to_owned(), requests: texts(requests), cdi: texts(cdi), share: None };
        self.devices.entry(claim.to_owned()).or_default().push(device);
        self
    }
}

/// One call, as the driver saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which.
    pub method: Method,
    /// In which version.
    pub version: &'static str,
    /// Names of the claims.
    pub claims: Vec<String>,
    /// The fault it met.
    pub fault: Option<Fault>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.method {
            Method::Prepare => "prepare",
            Method::Unprepare => "unprepare",
        };
        match &self.fault {
            None => write!(f, "{name}"),
            Some(fault) => write!(f, "{name} => {fault:?}"),
        }
    }
}

/// An ordered fault: says how often it struck, and ends it.
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

#[derive(Debug, Default)]
struct Book {
    calls: Vec<Call>,
    mistakes: Vec<String>,
    /// UID and name.
    prepared: BTreeMap<String, String>,
    faults: Vec<(Method, String, Fault, FaultHandle)>,
    verdict: Option<Result<(), String>>,
}

/// Everything that the driver's services share.
#[derive(Debug)]
pub(super) struct Shared {
    book: Mutex<Book>,
    character: Mutex<Character>,
    /// What was told of devices last.
    pub(super) health: watch::Sender<Option<health::NodeWatchResourcesResponse>>,
}

impl Shared {
    pub(super) fn new(character: Character) -> Self {
        Self { book: Mutex::default(), character: Mutex::new(character), health: watch::Sender::new(None) }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn character(&self) -> MutexGuard<'_, Character> {
        self.character.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add_fault(&self, method: Method, claim: &str, fault: Fault) -> FaultHandle {
        let handle = FaultHandle { stopped: Arc::new(watch::Sender::new(false)), hits: Arc::default() };
        self.book().faults.push((method, claim.to_owned(), fault, handle.clone()));
        handle
    }

    /// Notes a call, and gives the fault that it meets.
    pub(super) fn note(
        &self,
        method: Method,
        version: &'static str,
        claims: &[v1::Claim],
    ) -> Option<(Fault, FaultHandle)> {
        let mut book = self.book();
        for claim in claims {
            if claim.name.is_empty() || claim.namespace.is_empty() || claim.uid.is_empty() {
                book.mistakes.push(format!("{method:?} of a claim without a name or UID: {claim:?}"));
            }
        }
        if claims.is_empty() {
            book.mistakes.push(format!("{method:?} of nothing"));
        }
        let names: Vec<String> = claims.iter().map(|claim| claim.name.clone()).collect();
        let struck = book.faults.iter().find(|(of, claim, _, handle)| {
            *of == method && !*handle.stopped.borrow() && (claim.is_empty() || names.contains(claim))
        });
        let struck = struck.map(|(_, _, fault, handle)| (fault.clone(), handle.clone()));
        if let Some((_, handle)) = &struck {
            handle.hits.fetch_add(1, Ordering::SeqCst);
        }
        let fault = struck.as_ref().map(|(fault, _)| fault.clone());
        book.calls.push(Call { method, version, claims: names, fault });
        struck
    }

    pub(super) fn prepare(&self, claim: &v1::Claim) -> Vec<v1::Device> {
        self.book().prepared.insert(claim.uid.clone(), claim.name.clone());
        let character = self.character();
        let devices = character.devices.get(&claim.name).into_iter().flatten();
        let device = |device: &Device| v1::Device {
            request_names: device.requests.clone(),
            pool_name: character.pool.clone(),
            device_name: device.name.clone(),
            cdi_device_ids: device.cdi.clone(),
            share_id: device.share.clone(),
        };
        devices.map(device).collect()
    }

    pub(super) fn unprepare(&self, claim: &v1::Claim) {
        self.book().prepared.remove(&claim.uid);
    }

    pub(super) fn tell(&self, devices: &[(&str, Health, &str)]) {
        let (pool, seconds) = {
            let character = self.character();
            (character.pool.clone(), character.health_seconds)
        };
        let device = |(name, state, words): &(&str, Health, &str)| health::DeviceHealth {
            device: Some(health::DeviceIdentifier {
                pool_name: pool.clone(),
                device_name: (*name).to_owned(),
            }),
            health: match state {
                Health::Healthy => health::HealthStatus::Healthy,
                Health::Unhealthy => health::HealthStatus::Unhealthy,
                Health::Unknown => health::HealthStatus::Unknown,
            }
            .into(),
            last_updated_time: 0,
            health_check_timeout_seconds: seconds,
            message: (*words).to_owned(),
        };
        let devices = devices.iter().map(device).collect();
        self.health.send_replace(Some(health::NodeWatchResourcesResponse { devices }));
    }

    pub(super) fn set_verdict(&self, verdict: Result<(), String>) {
        self.book().verdict = Some(verdict);
    }

    pub(super) fn verdict(&self) -> Option<Result<(), String>> {
        self.book().verdict.clone()
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.book().calls.clone()
    }

    pub(super) fn prepared(&self) -> Vec<String> {
        self.book().prepared.values().cloned().collect()
    }

    pub(super) fn mistakes(&self) -> Vec<String> {
        self.book().mistakes.clone()
    }
}
