//! logind: holding back a shutdown for as long as it lets one, and hearing of it.

use std::num::NonZeroUsize;
use std::time::Duration;

use futures::StreamExt as _;
use zbus::MessageStream;
use zbus::OwnedFd;

use crate::{Bus, BusError, Service, wrong};

const LOGIND: Service = Service {
    name: "org.freedesktop.login1",
    path: "/org/freedesktop/login1",
    interface: "org.freedesktop.login1.Manager",
};
const PREPARE: &str = "PrepareForShutdown";
/// How many signals wait to be read.
const SIGNALS: NonZeroUsize = NonZeroUsize::new(8).expect("not zero");

/// Holds back a shutdown until it is dropped, or until logind has waited for its longest delay.
#[derive(Debug)]
pub struct InhibitLock {
    _file: OwnedFd,
}

/// What logind says of shutdowns.
#[derive(Debug)]
pub struct ShutdownSignals(MessageStream);

impl ShutdownSignals {
    /// Waits for the next word: true when a shutdown begins, false when it was called off; `None` when the connection
    /// is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<bool> {
        loop {
            let signal = self.0.next().await?.ok()?;
            // What is no such signal says nothing.
            if let Ok(begins) = signal.body().deserialize::<bool>() {
                return Some(begins);
            }
        }
    }
}

impl Bus {
    /// How long logind lets a shutdown be held back (`InhibitDelayMaxSec`).
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn inhibit_delay_max(&self) -> Result<Duration, BusError> {
        let value = self.property(&LOGIND, "InhibitDelayMaxUSec").await?;
        let micros = u64::try_from(value).map_err(wrong)?;
        Ok(Duration::from_micros(micros))
    }

    /// Takes a lock that delays shutdowns, in the name of the kubelet.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn inhibit_shutdown(&self) -> Result<InhibitLock, BusError> {
        let call = "Inhibit";
        let words = ("shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay");
        let answer = self.call(&LOGIND, call, &words).await?;
        let file = answer.body().deserialize::<OwnedFd>().map_err(|error| BusError::of(call, error))?;
        Ok(InhibitLock { _file: file })
    }

    /// Follows shutdowns from now on.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn shutdown_signals(&self) -> Result<ShutdownSignals, BusError> {
        self.signals(&LOGIND, PREPARE, SIGNALS).await.map(ShutdownSignals)
    }

    /// Whether a shutdown is under way (`PreparingForShutdown`): an agent that starts in the middle of one has not
    /// heard of it.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn is_shutting_down(&self) -> Result<bool, BusError> {
        let value = self.property(&LOGIND, "PreparingForShutdown").await?;
        bool::try_from(value).map_err(wrong)
    }
}
