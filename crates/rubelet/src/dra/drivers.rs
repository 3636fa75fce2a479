//! Drivers that have registered: how to reach each, and whether it answers. Written by the registry of plugins and the
//! connections that are held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use rubelet_plugins::dra::{CallObserver, DraClient, Service, code_name};
use rubelet_plugins::{DRA_PLUGIN, Plugin, PluginHandler};
use tokio::sync::watch;
use tracing::info;

use super::Claims;
use crate::metrics::Metrics;

/// The drivers.
pub(super) struct Drivers {
    observer: CallObserver,
    state: Mutex<State>,
    /// Grows whenever something else is known of a driver.
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    drivers: BTreeMap<String, Driver>,
    /// Drivers that were here and are not any more. Bounded by names that have registered since the start.
    lost: BTreeSet<String>,
    next: u64,
}

struct Driver {
    client: DraClient,
    /// Tells registrations under the same name apart.
    number: u64,
    connected: bool,
    /// Nobody holds a connection yet.
    unlinked: bool,
    /// Dropped with the registration.
    registered: watch::Sender<()>,
}

/// A registration for which a connection is to be held.
pub(super) struct Unlinked {
    pub(super) client: DraClient,
    pub(super) number: u64,
    /// Ends with the registration.
    pub(super) registered: watch::Receiver<()>,
}

impl Drivers {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let metrics = metrics.clone();
        let observer: CallObserver = Arc::new(move |call| {
            let code = code_name(call.code);
            let labels = [call.driver, call.method, code.as_str()];
            metrics.node.dra_grpc_operation.with(labels).observe_duration(call.took);
        });
        Self { observer, state: Mutex::default(), version: watch::Sender::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// News of drivers.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Whether any has registered.
    pub(super) fn any(&self) -> bool {
        !self.state().drivers.is_empty()
    }

    /// A driver to call.
    pub(super) fn get(&self, name: &str) -> Option<DraClient> {
        self.state().drivers.get(name).map(|driver| driver.client.clone())
    }

    /// Takes the place of what was registered under the name.
    pub(super) fn register(&self, client: DraClient) {
        let client = client.with_observer(self.observer.clone());
        {
            let mut state = self.state();
            state.next += 1;
            let (number, name) = (state.next, client.driver().to_owned());
            let registered = watch::Sender::new(());
            let driver = Driver { client, number, connected: false, unlinked: true, registered };
            state.lost.remove(&name);
            state.drivers.insert(name, driver);
        }
        self.changed();
    }

    fn deregister(&self, name: &str) {
        {
            let mut state = self.state();
            state.drivers.remove(name);
            state.lost.insert(name.to_owned());
        }
        self.changed();
    }

    /// Takes the registrations for which nobody holds a connection yet.
    pub(super) fn take_unlinked(&self) -> Vec<Unlinked> {
        let mut state = self.state();
        let unlinked = state.drivers.values_mut().filter(|driver| driver.unlinked);
        let taken = unlinked.map(|driver| {
            driver.unlinked = false;
            let (client, registered) = (driver.client.clone(), driver.registered.subscribe());
            Unlinked { client, number: driver.number, registered }
        });
        taken.collect()
    }

    /// Says whether a registration's connection is there.
    pub(super) fn set_connected(&self, name: &str, number: u64, connected: bool) {
        {
            let mut state = self.state();
            let Some(driver) = state.drivers.get_mut(name).filter(|driver| driver.number == number) else {
                return;
            };
            if std::mem::replace(&mut driver.connected, connected) == connected {
                return;
            }
        }
        info!(driver = name, connected, "connection of a DRA driver");
        self.changed();
    }

    /// Whether another registration has the name by now.
    pub(super) fn is_replaced(&self, name: &str, number: u64) -> bool {
        self.state().drivers.get(name).is_some_and(|driver| driver.number != number)
    }

    /// Drivers that answer.
    pub(super) fn usable(&self) -> BTreeSet<String> {
        let state = self.state();
        let connected = state.drivers.iter().filter(|(_, driver)| driver.connected);
        connected.map(|(name, _)| name.clone()).collect()
    }

    /// Drivers that were here and do not answer.
    pub(super) fn unusable(&self) -> BTreeSet<String> {
        let state = self.state();
        let silent = state.drivers.iter().filter(|(_, driver)| !driver.connected);
        silent.map(|(name, _)| name).chain(&state.lost).cloned().collect()
    }

    /// Nothing is left to do for a driver that is gone.
    pub(super) fn forget(&self, name: &str) {
        self.state().lost.remove(name);
    }
}

/// The registry's way to the claims.
pub(super) struct Handler(pub(super) Claims);

fn chosen(plugin: &Plugin) -> Result<Service, String> {
    Service::choose(&plugin.versions).map_err(|problem| {
        let (name, endpoint) = (&plugin.name, plugin.endpoint.display());
        format!(
            "invalid supported gRPC versions of DRA driver plugin {name} at endpoint {endpoint}: {problem}"
        )
    })
}

impl PluginHandler for Handler {
    fn kind(&self) -> &str {
        DRA_PLUGIN
    }

    fn validate(&self, plugin: &Plugin) -> Result<(), String> {
        chosen(plugin).map(drop)
    }

    fn register<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let service = chosen(plugin)?;
            let (name, endpoint) = (&plugin.name, &plugin.endpoint);
            self.0.0.drivers.register(DraClient::new(name, endpoint, service));
            info!(driver = name, endpoint = %endpoint.display(), service = service.name(), "DRA driver registered");
            self.0.0.wake_waiting(name);
            Ok(())
        })
    }

    fn deregister<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.0.0.drivers.deregister(&plugin.name);
            info!(driver = plugin.name, "DRA driver deregistered");
        })
    }
}
