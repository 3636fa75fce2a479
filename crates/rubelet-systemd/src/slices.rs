//! Slices: units of systemd that stand for a control group with others below it.
//!
//! A slice is started transient, with its properties, or given them when it is there. systemd makes the directory and
//! writes its files; what it has no property for is the caller's to write.

use std::num::NonZeroUsize;

use futures::StreamExt as _;
use zbus::{OwnedObjectPath, Variant};

use crate::{Bus, BusError, LIMIT, Service};

const MANAGER: Service = Service {
    name: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
/// How many signals wait to be read: of jobs that end while one of ours is waited for.
const SIGNALS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// A value of a unit's property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    /// A switch, such as `MemoryAccounting`.
    Flag(bool),
    /// A number, such as `CPUWeight` or `MemoryMax`; `u64::MAX` is no limit.
    Number(u64),
    /// A text, such as `Description`.
    Text(String),
    /// Names of units, such as `Wants`.
    Units(Vec<String>),
    /// A set of bits, lowest first, such as `AllowedCPUs`.
    Bits(Vec<u8>),
}

impl Property {
    fn value(&self) -> Variant<'_> {
        match self {
            Self::Flag(flag) => Variant::from(*flag),
            Self::Number(number) => Variant::from(*number),
            Self::Text(text) => Variant::from(text.as_str()),
            Self::Units(names) => Variant::from(names.clone()),
            Self::Bits(bits) => Variant::from(bits.clone()),
        }
    }
}

type Assignments<'a> = Vec<(&'a str, Variant<'a>)>;

fn assignments<'a>(properties: &'a [(&'a str, Property)]) -> Assignments<'a> {
    properties.iter().map(|(name, property)| (*name, property.value())).collect()
}

impl Bus {
    /// Starts a slice with these properties and waits until it is there; one that is there already gets them.
    ///
    /// # Errors
    /// [`BusError`]; the slice may have been started all the same when no answer came.
    pub async fn start_slice(&self, name: &str, properties: &[(&str, Property)]) -> Result<(), BusError> {
        let none: Vec<(&str, Assignments<'_>)> = vec![];
        let body = (name, "replace", assignments(properties), none);
        match self.job("StartTransientUnit", name, "started", &body).await {
            Err(error) if error.is(UNIT_EXISTS) => {
                // Some can only be given at the start.
                let later: Vec<_> =
                    properties.iter().filter(|(name, _)| !AT_START.contains(name)).cloned().collect();
                self.set_properties(name, &later).await
            }
            done => done,
        }
    }

    /// Gives a unit properties, until the next boot.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn set_properties(&self, unit: &str, properties: &[(&str, Property)]) -> Result<(), BusError> {
        self.call(&MANAGER, "SetUnitProperties", &(unit, true, assignments(properties))).await.map(|_| ())
    }

    /// Stops a unit and waits until it is gone; one that is not there is fine.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn stop_unit(&self, unit: &str) -> Result<(), BusError> {
        match self.job("StopUnit", unit, "stopped", &(unit, "replace")).await {
            Err(error) if error.is(NO_SUCH_UNIT) => Ok(()),
            done => done,
        }
    }

    /// Has a service read its configuration again, in the way that `SIGHUP` asks for.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn hang_up(&self, unit: &str) -> Result<(), BusError> {
        const SIGHUP: i32 = 1;
        self.call(&MANAGER, "KillUnit", &(unit, "all", SIGHUP)).await.map(|_| ())
    }

    /// Asks for a job and waits until it has ended. systemd tells the end to whoever asked for it.
    async fn job<B>(
        &self,
        call: &'static str,
        unit: &str,
        wanted: &'static str,
        body: &B,
    ) -> Result<(), BusError>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        let broken = |error: zbus::Error| BusError::of(call, error);
        // Followed before it is asked for: it may end at once.
        let mut ended = self.signals(&MANAGER, "JobRemoved", SIGNALS).await?;
        let answer = self.call(&MANAGER, call, body).await?;
        let job: OwnedObjectPath = answer.body().deserialize().map_err(broken)?;
        let waiting = async {
            while let Some(signal) = ended.next().await {
                let signal = signal?;
                let body = signal.body();
                let (_, path, _, result): (u32, OwnedObjectPath, String, String) = body.deserialize()?;
                if path == job {
                    return Ok(result);
                }
            }
            Err(zbus::Error::InputOutput(std::sync::Arc::new(std::io::ErrorKind::UnexpectedEof.into())))
        };
        match tokio::time::timeout(LIMIT, waiting).await {
            Ok(Ok(result)) if result == "done" || result == "skipped" => Ok(()),
            Ok(Ok(result)) => Err(BusError::Job { unit: unit.to_owned(), wanted, result }),
            Ok(Err(error)) => Err(BusError::of(call, error)),
            Err(_) => Err(BusError::Silent { call, seconds: LIMIT.as_secs() }),
        }
    }
}

/// Properties that a unit that runs cannot be given.
const AT_START: [&str; 5] = ["Description", "Wants", "DefaultDependencies", "Slice", "Delegate"];
