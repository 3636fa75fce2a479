//! Which volumes this node uses, as `status.volumesInUse` of its Node says: what is named there is not detached.
//!
//! Owns the set and what of it the API server has. Volumes add and take away, the node agent writes the status and says
//! what it has written. Never talks to anybody.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Node;
use rubelet_apiclient::level::Level;
use tokio::sync::watch;

/// The set; cheap to clone.
#[derive(Clone)]
pub struct VolumesInUse(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Counts changes of what is used.
    asked: watch::Sender<u64>,
    /// Counts changes of what has been written.
    told: Level<u64>,
}

#[derive(Default)]
struct State {
    used: BTreeSet<String>,
    /// Of the used ones those that the API server has heard of since they were used.
    written: BTreeSet<String>,
    /// Whether volumes that an earlier run of the agent left are among the used ones. Until then nothing that the Node
    /// says is taken back.
    is_complete: bool,
}

impl Default for VolumesInUse {
    fn default() -> Self {
        let shared = Shared { state: Mutex::default(), asked: watch::Sender::new(0), told: Level::new(0) };
        Self(Arc::new(shared))
    }
}

impl VolumesInUse {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete when the lock is released.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The volume is used from now on; ends when the Node says so. Cancel-safe: the volume stays used.
    pub async fn hold(&self, name: &str) {
        // Before the look, so that no news is lost.
        let mut told = self.0.told.follow();
        if self.state().used.insert(name.to_owned()) {
            self.0.asked.send_modify(|count| *count += 1);
        }
        while !self.state().written.contains(name) {
            if told.changed().await.is_err() {
                return;
            }
        }
    }

    /// The volume is not used any more.
    pub fn release(&self, name: &str) {
        let mut state = self.state();
        // Who uses it again waits until the Node says so again: a status without it may be on its way.
        state.written.remove(name);
        let was_used = state.used.remove(name);
        drop(state);
        if was_used {
            self.0.asked.send_modify(|count| *count += 1);
        }
    }

    /// These are used since an earlier run of the agent, and there are no others.
    pub fn adopt(&self, names: impl IntoIterator<Item = String>) {
        let mut state = self.state();
        state.used.extend(names);
        state.is_complete = true;
        drop(state);
        self.0.asked.send_modify(|count| *count += 1);
    }

    /// What the Node is to say, given what it says.
    pub fn names(&self, node: Option<&Node>) -> Vec<String> {
        let state = self.state();
        let mut names = state.used.clone();
        if !state.is_complete {
            let told = node.and_then(|node| node.status.as_ref()?.volumes_in_use.as_ref());
            names.extend(told.into_iter().flatten().cloned());
        }
        names.into_iter().collect()
    }

    /// The Node says this now, which [`Self::names`] gave.
    pub fn written(&self, names: &[String]) {
        let mut state = self.state();
        let written: BTreeSet<String> =
            names.iter().filter(|name| state.used.contains(*name)).cloned().collect();
        let is_news = written != state.written;
        state.written = written;
        drop(state);
        if is_news {
            self.0.told.update(|count| *count += 1);
        }
    }

    /// Changes when the Node is to say something else.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.asked.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::poll;
    use k8s_openapi::api::core::v1::NodeStatus;

    use super::*;

    fn node(names: &[&str]) -> Node {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Node {
            status: Some(NodeStatus { volumes_in_use: Some(names), ..Default::default() }),
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn a_volume_is_held_once_the_node_says_so() {
        let volumes = VolumesInUse::default();
        let mut holding = pin!(volumes.hold("a"));
        assert!(poll!(&mut holding).is_pending());
        let names = volumes.names(None);
        assert_eq!(names, ["a"]);
        volumes.written(&names);
        assert!(poll!(&mut holding).is_ready());
        assert!(poll!(pin!(volumes.hold("a"))).is_ready());
    }

    #[tokio::test]
    async fn a_status_on_its_way_does_not_count_for_what_came_after() {
        let volumes = VolumesInUse::default();
        volumes.adopt(["a".to_owned()]);
        volumes.written(&volumes.names(None));
        volumes.release("a");
        let on_its_way = volumes.names(None);
        let mut holding = pin!(volumes.hold("a"));
        assert!(poll!(&mut holding).is_pending(), "the status without it has not arrived yet");
        volumes.written(&on_its_way);
        assert!(poll!(&mut holding).is_pending());
        volumes.written(&volumes.names(None));
        assert!(poll!(&mut holding).is_ready());
    }

    #[test]
    fn nothing_is_taken_back_before_all_is_known() {
        let volumes = VolumesInUse::default();
        let before = node(&["old", "gone"]);
        assert_eq!(volumes.names(Some(&before)), ["gone", "old"]);
        volumes.release("gone");
        assert_eq!(volumes.names(Some(&before)), ["gone", "old"]);
        volumes.adopt(["old".to_owned()]);
        assert_eq!(volumes.names(Some(&before)), ["old"]);
        volumes.release("old");
        assert!(volumes.names(Some(&before)).is_empty());
    }
}
