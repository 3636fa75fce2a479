//! What device plugins tell, put into the book.

use rubelet_core::devices::{PluginOptions, ToldDevice};
use rubelet_plugins::device::v1beta1::Device;
use rubelet_plugins::device::{DeviceEvents, DevicePlugin};
use tracing::{debug, info, warn};

use super::State;

/// What a plugin calls a device that is well.
const HEALTHY: &str = "Healthy";
/// How many mistakes of one list are told.
const MISTAKES: usize = 5;

impl DeviceEvents for State {
    fn accepts(&self, resource: &str) -> bool {
        rubelet_core::node::capacity::is_extended_resource_name(resource)
    }

    fn asked(&self, resource: &str) {
        // A name that cannot be one is not counted: it would be a label for ever.
        if self.accepts(resource) {
            self.parts.metrics.devices.registrations.with([resource]).inc();
        }
    }

    fn connected(&self, plugin: &DevicePlugin) {
        let told = plugin.options();
        let options = PluginOptions {
            pre_start: told.pre_start_required,
            preferred: told.get_preferred_allocation_available,
        };
        self.book().connected(plugin.resource(), options, self.now());
        self.news.notify_one();
    }

    fn listed(&self, plugin: &DevicePlugin, devices: Vec<Device>) {
        let resource = plugin.resource();
        let told = devices.into_iter().map(|device| ToldDevice {
            healthy: device.health == HEALTHY,
            nodes: device.topology.into_iter().flat_map(|at| at.nodes).map(|node| node.id).collect(),
            id: device.id,
        });
        let news = self.book().listed(resource, told.collect());
        for problem in news.problems.iter().take(MISTAKES) {
            warn!(resource, problem, "a device plugin lists what cannot be");
        }
        if news.registered {
            self.changed();
        }
        if news.changed {
            let count = self.book().counts().get(resource).copied().unwrap_or_default();
            debug!(
                resource,
                devices = count.capacity,
                healthy = count.allocatable,
                "a device plugin lists its devices"
            );
            self.told.send_modify(|version| *version += 1);
        }
        for uid in &news.pods {
            self.parts.wakes.wake(uid);
        }
        self.wake_waiting();
    }

    fn ended(&self, plugin: &DevicePlugin, problem: &str) {
        info!(
            resource = plugin.resource(),
            problem, "a device plugin has gone; what it gave stays with its pods"
        );
        self.book().disconnected(plugin.resource(), self.now());
        self.told.send_modify(|version| *version += 1);
        self.changed();
    }
}
