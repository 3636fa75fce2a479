//! Moving containers that run, or are about to, when the CPUs they share change. At rest this task does nothing: it is
//! told of every change, and a container that was made during one is noticed right before it starts.

use std::collections::BTreeSet;

use rubelet_core::cpu_manager::CpuPolicy;
use rubelet_core::cpu_set::CpuSet;
use rubelet_core::ids::ContainerId;
use rubelet_cri::v1;
use tracing::{debug, warn};

use super::{ContainerManager, store};

impl ContainerManager {
    /// Moves containers whenever it is told to. Runs until dropped.
    pub async fn run(self) {
        // Known early: what runs is taken up by its worker, and what is gone by the sweep.
        while self.ready().await.is_err() {
            tokio::time::sleep(self.0.period).await;
        }
        self.save().await;
        loop {
            let done = self.move_containers().await;
            if done {
                // A permit is kept if something changes in between.
                self.0.moved.notified().await;
                continue;
            }
            // Both arms are cancel-safe: a timer, and a Notify.
            tokio::select! {
                biased;
                () = tokio::time::sleep(self.0.period) => {}
                () = self.0.moved.notified() => {}
            }
        }
    }

    /// Moves every container that is not where it belongs; whether all are.
    async fn move_containers(&self) -> bool {
        let pins = {
            let state = self.state();
            state.books.cpus.policy() != CpuPolicy::None || state.unpin
        };
        if !pins {
            return true;
        }
        let states = [v1::ContainerState::ContainerCreated, v1::ContainerState::ContainerRunning];
        let live = match store::live_containers(&*self.0.runtime, &states).await {
            Ok(live) => live,
            Err(error) => {
                debug!("containers are moved later: {error}");
                return false;
            }
        };
        let mut all = true;
        for container in &live {
            let Some(cpus) = self.wanted(container) else { continue };
            let linux = v1::LinuxContainerResources { cpuset_cpus: cpus.to_string(), ..Default::default() };
            let request = v1::UpdateContainerResourcesRequest {
                container_id: container.id.clone(),
                linux: Some(linux),
                ..Default::default()
            };
            match self.0.runtime.update_container_resources(request).await {
                Ok(_) => {
                    self.state().applied.insert(ContainerId::from(container.id.as_str()), cpus);
                }
                // It has ended meanwhile.
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    warn!(container = container.id, "cannot be moved to CPUs {cpus}: {error}");
                    all = false;
                }
            }
        }
        let ids: BTreeSet<&str> = live.iter().map(|container| container.id.as_str()).collect();
        let mut state = self.state();
        state.applied.retain(|id, _| ids.contains(id.as_str()));
        if all {
            state.unpin = false;
        }
        all
    }

    /// The CPUs a container belongs on, unless it is there.
    fn wanted(&self, container: &v1::Container) -> Option<CpuSet> {
        let (uid, name) = store::owner(container)?;
        let state = self.state();
        let wanted = match state.books.cpus.cpus(&uid, &name) {
            Some(cpus) => cpus,
            None if state.unpin => state.books.cpus.all_cpus(),
            None => return None,
        };
        let id = ContainerId::from(container.id.as_str());
        let is = state.applied.get(&id).or_else(|| state.given.get(&(uid, name)));
        (!wanted.is_empty() && is != Some(&wanted)).then_some(wanted)
    }
}
