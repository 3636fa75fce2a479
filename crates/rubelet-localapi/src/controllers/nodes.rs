//! Nodes: keeps the taints that say what their conditions say.

use rubelet_apimachinery::Resource;
use rubelet_apimachinery::node_taints;
use tracing::warn;

use super::client::{Client, Failure};
use super::queue::Queue;
use super::{Seen, core, text};

/// Taints nodes.
pub(crate) struct Nodes {
    client: Client,
    queue: Queue<String>,
}

impl Nodes {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, queue: Queue::default() }
    }

    pub(crate) fn queue(&mut self) -> &mut Queue<String> {
        &mut self.queue
    }

    /// Takes note of a change.
    pub(crate) fn see(&mut self, resource: &'static Resource, seen: &Seen) {
        if let ("nodes", Seen::Object { object, deleted: false }) = (resource.plural, seen)
            && node_taints::wanted(object).is_some()
        {
            self.queue.add(text(object, &["metadata", "name"]).to_owned());
        }
    }

    /// Makes one node's taints what they should be.
    pub(crate) async fn work(&mut self, name: String) {
        match self.settle(&name).await {
            Ok(()) | Err(Failure::NotFound) => self.queue.done(&name),
            Err(Failure::Conflict) => self.queue.retry(name),
            Err(problem) => {
                warn!("the node {name:?} cannot be tainted: {problem}");
                self.queue.retry(name);
            }
        }
    }

    async fn settle(&self, name: &str) -> Result<(), Failure> {
        let Some(mut node) = self.client.get(core("nodes"), "", name).await? else { return Ok(()) };
        let Some(taints) = node_taints::wanted(&node) else { return Ok(()) };
        node["spec"]["taints"] = taints.into();
        self.client.replace(core("nodes"), "", &node).await.map(|_| ())
    }
}
