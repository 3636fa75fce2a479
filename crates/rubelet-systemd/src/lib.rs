//! systemd and logind over D-Bus: slices for control groups, and a say before the machine goes down.
//!
//! Owns the calls and their types; decides nothing, and knows no pod. A [`Bus`] is one connection; what it is asked on a
//! machine without systemd fails with [`BusError::NoBus`]. Called by the agent's control groups and its shutdown.

mod error;
mod logind;
mod slices;

use std::num::NonZeroUsize;
use std::time::Duration;

use zbus::OwnedVariant;
use zbus::message::Message;
use zbus::{Connection, MatchRule, MessageStream};

pub use error::BusError;
pub use logind::{InhibitLock, ShutdownSignals};
pub use slices::Property;

/// How long systemd may take for an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// A connection to a message bus; cheap to clone.
#[derive(Clone, Debug)]
pub struct Bus(Connection);

impl Bus {
    /// The machine's own bus, at `DBUS_SYSTEM_BUS_ADDRESS` or where every machine has it.
    ///
    /// # Errors
    /// [`BusError::NoBus`] when there is none.
    pub async fn system() -> Result<Self, BusError> {
        let connecting = zbus::connection::Builder::system().build();
        within("connect", connecting).await.map(Self).map_err(BusError::no_bus)
    }

    /// The bus at an address such as `unix:path=/run/bus`.
    ///
    /// # Errors
    /// [`BusError::NoBus`] when there is none.
    pub async fn at(address: &str) -> Result<Self, BusError> {
        let connecting = zbus::connection::Builder::address(address).build();
        within("connect", connecting).await.map(Self).map_err(BusError::no_bus)
    }

    async fn call<B>(&self, to: &Service, method: &'static str, body: &B) -> Result<Message, BusError>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        let calling = self.0.call_method(Some(to.name), to.path, Some(to.interface), method, body);
        within(method, calling).await
    }

    /// A property of something on the bus.
    async fn property(&self, of: &Service, name: &'static str) -> Result<OwnedVariant, BusError> {
        let properties = Service { interface: "org.freedesktop.DBus.Properties", ..*of };
        let answer = self.call(&properties, "Get", &(of.interface, name)).await?;
        answer.body().deserialize().map_err(|error| BusError::of(name, error))
    }

    /// Signals of something on the bus, from now on; `queue` of them wait to be read.
    async fn signals(
        &self,
        of: &Service,
        name: &'static str,
        queue: NonZeroUsize,
    ) -> Result<MessageStream, BusError> {
        let rule = MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .interface(of.interface)
            .member(name)
            .path(of.path)
            .build()
            .map_err(|error| BusError::of(name, error))?;
        within(name, MessageStream::for_match_rule(rule, &self.0, Some(queue))).await
    }
}

/// A property that is not of the type it has to be.
fn wrong(error: zbus::Error) -> BusError {
    BusError::of("Get", error)
}

/// Something on the bus.
struct Service {
    name: &'static str,
    path: &'static str,
    interface: &'static str,
}

/// A call with its deadline.
async fn within<T>(call: &'static str, doing: impl Future<Output = zbus::Result<T>>) -> Result<T, BusError> {
    match tokio::time::timeout(LIMIT, doing).await {
        Ok(answer) => answer.map_err(|error| BusError::of(call, error)),
        Err(_) => Err(BusError::Silent { call, seconds: LIMIT.as_secs() }),
    }
}
