//! What the sync loop sees of its own Node: labels and taints for admission. Written
//! by the watch of the own Node; on a node without an API there is nothing to see.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use tokio::sync::{mpsc, watch};

/// The view; cheap to clone.
#[derive(Clone, Default)]
pub struct NodeView {
    node: Option<watch::Receiver<Option<Arc<Node>>>>,
    refresh: Option<mpsc::Sender<()>>,
}

impl NodeView {
    /// A view of these; a message to `refresh` has the Node asked for anew, after which `node` is sent again.
    pub fn new(node: watch::Receiver<Option<Arc<Node>>>, refresh: mpsc::Sender<()>) -> Self {
        Self { node: Some(node), refresh: Some(refresh) }
    }

    /// The Node as the API has it, once known.
    pub fn get(&self) -> Option<Arc<Node>> {
        self.node.as_ref()?.borrow().clone()
    }

    /// Has the Node asked for. Returns whether there will be an answer, which [`Self::changed`] tells.
    pub fn refresh(&self) -> bool {
        // A message that waits already is answered for everybody.
        let asked = self.refresh.as_ref().map(|refresh| refresh.try_send(()));
        matches!(asked, Some(Ok(()) | Err(mpsc::error::TrySendError::Full(()))))
    }

    /// Waits until the Node was seen anew. Cancel-safe: the watch keeps its news.
    pub async fn changed(&mut self) {
        match &mut self.node {
            Some(node) => {
                if node.changed().await.is_err() {
                    // Its writer is gone: the agent is stopping.
                    std::future::pending::<()>().await;
                }
            }
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_is_for_everybody_who_asked() {
        let node = watch::channel(None).1;
        let (refresh, refreshes) = mpsc::channel(1);
        let view = NodeView::new(node, refresh);
        assert!(view.refresh() && view.refresh());
        drop(refreshes);
        assert!(!view.refresh() && !NodeView::default().refresh());
    }
}
