//! How long the node took to be there (`kubelet_node_startup_*`, upstream `NodeStartupLatencyTracker`): only of a node
//! that this agent registered as a new one.

use jiff::Timestamp;

use super::Metrics;

/// What has happened so far; kept by the task that registers the node.
pub(crate) struct NodeStartup {
    metrics: Metrics,
    began: Timestamp,
    tried: Option<Timestamp>,
    registered: Option<Timestamp>,
    ready: bool,
}

impl NodeStartup {
    /// The agent has begun.
    pub(crate) fn new(metrics: Metrics, now: Timestamp) -> Self {
        Self { metrics, began: now, tried: None, registered: None, ready: false }
    }

    /// The agent is about to register its Node.
    pub(crate) fn trying(&mut self, now: Timestamp) {
        self.tried.get_or_insert(now);
    }

    /// It created its Node.
    pub(crate) fn registered(&mut self, now: Timestamp) {
        let (Some(tried), None) = (self.tried, self.registered) else { return };
        self.registered = Some(now);
        let node = &self.metrics.node;
        if let Some(booted) = booted() {
            node.startup_pre_kubelet.set(seconds(booted, self.began));
        }
        node.startup_pre_registration.set(seconds(self.began, tried));
        node.startup_registration.set(seconds(tried, now));
    }

    /// The API has its Node as Ready.
    pub(crate) fn ready(&mut self, now: Timestamp) {
        let (Some(registered), false) = (self.registered, self.ready) else { return };
        self.ready = true;
        let node = &self.metrics.node;
        node.startup_post_registration.set(seconds(registered, now));
        if let Some(booted) = booted() {
            node.startup.set(seconds(booted, now));
        }
    }
}

fn seconds(from: Timestamp, until: Timestamp) -> f64 {
    until.duration_since(from).as_secs_f64()
}

/// When the machine started.
fn booted() -> Option<Timestamp> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Timestamp::from_second(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_node_is_measured_and_each_step_once() {
        let at = |second: i64| Timestamp::from_second(4_000_000_000 + second).unwrap();
        let metrics = Metrics::new();
        let mut startup = NodeStartup::new(metrics.clone(), at(0));
        startup.ready(at(1));
        startup.registered(at(1));
        assert_eq!(metrics.node.startup_registration.get(), None, "it was there before");
        startup.trying(at(2));
        startup.trying(at(3));
        startup.registered(at(5));
        startup.registered(at(6));
        startup.ready(at(9));
        startup.ready(at(12));
        assert_eq!(metrics.node.startup_pre_registration.get(), Some(2.0));
        assert_eq!(metrics.node.startup_registration.get(), Some(3.0));
        assert_eq!(metrics.node.startup_post_registration.get(), Some(4.0));
        assert!(metrics.node.startup.get().unwrap() > 9.0);
    }
}
