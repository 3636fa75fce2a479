//! Keeps the node's Lease: created once the Node is known, renewed every quarter of its duration. It is how the
//! cluster knows that the node lives, so nothing else shares its task.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::PostParams;
use rubelet_apiclient::wake::Wake;
use rubelet_core::node::lease::{NAMESPACE, new_lease, renewed};
use tokio::sync::watch;

use super::complaint::Complaint;
use super::requests::{RequestError, ask};
use super::{CloseConnections, NodeAgentSettings, spread};
use crate::clock::Clock;

/// Tries to renew before the lease is looked at anew.
const TRIES: u32 = 5;
/// First pause between tries.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause while the lease cannot be read or made.
const LONGEST_PAUSE: Duration = Duration::from_secs(7);

pub(super) struct LeaseTask {
    name: String,
    leases: Api<Lease>,
    seconds: i32,
    limit: Duration,
    clock: Clock,
    node: watch::Receiver<Option<Arc<Node>>>,
    close_connections: CloseConnections,
    wake: Wake,
    complaint: Complaint,
}

impl LeaseTask {
    pub(super) fn new(
        name: String,
        settings: &NodeAgentSettings,
        client: kube::Client,
        clock: Clock,
        node: watch::Receiver<Option<Arc<Node>>>,
        close_connections: CloseConnections,
        wake: Wake,
    ) -> Self {
        Self {
            name,
            leases: Api::namespaced(client, NAMESPACE),
            seconds: settings.lease_seconds,
            limit: settings.request_limit(),
            clock,
            node,
            close_connections,
            wake,
            complaint: Complaint::default(),
        }
    }

    pub(super) async fn run(mut self) {
        let interval = Duration::from_secs(u64::try_from(self.seconds).unwrap_or(40)) / 4;
        let mut latest: Option<Lease> = None;
        let mut count = 0;
        loop {
            latest = self.beat(latest).await;
            if latest.is_some() {
                self.complaint.resolved("the node's lease is renewed again");
            }
            count += 1;
            // Nodes that started together must not beat together for ever.
            tokio::time::sleep(interval.mul_f64(1.0 + 0.04 * spread(&self.name, count))).await;
        }
    }

    /// One heartbeat: the lease as last written is renewed without reading it; when that does not work, it is read
    /// or made. Returns the renewed lease.
    async fn beat(&mut self, latest: Option<Lease>) -> Option<Lease> {
        if let Some(lease) = latest
            && let Some(renewed) = self.renew(lease).await
        {
            return Some(renewed);
        }
        let (lease, is_new) = self.find_or_create().await;
        if is_new { Some(lease) } else { self.renew(lease).await }
    }

    async fn renew(&mut self, lease: Lease) -> Option<Lease> {
        let mut pause = FIRST_PAUSE;
        let options = PostParams::default();
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            let uid = self.uid();
            let lease = renewed(lease.clone(), &self.name, uid.as_deref(), self.seconds, self.clock.now());
            match ask(self.limit, self.leases.replace(&self.name, &options, &lease)).await {
                Ok(lease) => return Some(lease),
                // Somebody else wrote or removed it: look at it again.
                Err(RequestError::Refused { code: 404 | 409, .. }) => return None,
                Err(error) => {
                    self.failed("renew", &error, attempt > 0);
                    pause = error.retry_after().unwrap_or(pause);
                }
            }
        }
        None
    }

    /// The lease as it stands, or a new one; tries for ever.
    async fn find_or_create(&mut self) -> (Lease, bool) {
        let mut pause = FIRST_PAUSE;
        let mut failures = 0;
        loop {
            self.wake.forget();
            let error = match ask(self.limit, self.leases.get(&self.name)).await {
                Ok(lease) => return (lease, false),
                Err(RequestError::Refused { code: 404, .. }) => match self.create().await {
                    Ok(lease) => return (lease, true),
                    Err(RequestError::Refused { code: 409, .. }) => continue,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            failures += 1;
            self.failed("get or create", &error, failures > 1);
            // The cluster counts the seconds without it.
            self.wake.pause(error.retry_after().unwrap_or(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn create(&mut self) -> Result<Lease, RequestError> {
        // Without the Node's UID it would have no owner and outlive the Node.
        let uid = loop {
            if let Some(uid) = self.uid() {
                break uid;
            }
            if self.node.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let lease = new_lease(&self.name, &uid, self.seconds, self.clock.now());
        ask(self.limit, self.leases.create(&PostParams::default(), &lease)).await
    }

    fn uid(&self) -> Option<String> {
        self.node.borrow().as_ref()?.metadata.uid.clone()
    }

    fn failed(&mut self, what: &str, error: &RequestError, repeatedly: bool) {
        self.complaint.say(format!(
            "cannot {what} the node's lease {NAMESPACE}/{}: {error}; pods keep running, and the cluster takes the node for lost after {} s without it",
            self.name, self.seconds
        ));
        if repeatedly && error.code().is_none() {
            (self.close_connections)();
        }
    }
}
