//! The share of the machine that each container gets: CPUs, memory nodes, devices. Owns who is asked for it and in which
//! order, never starts or stops anything. Workers call it before anything of a pod is made, for each container, and when
//! nothing of the pod runs any more.

mod provider;
mod share;

use std::sync::Arc;

use rubelet_core::Pod;
use rubelet_core::ids::PodUid;
use rubelet_core::lifecycle::ContainersStopped;

pub use provider::{ContainerProvider, Unallocated};
pub use share::ContainerShare;

/// The handle; cheap to clone.
#[derive(Clone, Default)]
pub struct ContainerManager(Arc<Shared>);

#[derive(Default)]
struct Shared {
    providers: Vec<Arc<dyn ContainerProvider>>,
}

impl ContainerManager {
    /// With these besides the managers of CPUs and memory, asked in this order.
    pub fn new(providers: Vec<Arc<dyn ContainerProvider>>) -> Self {
        Self(Arc::new(Shared { providers }))
    }

    /// Gives a pod its share before anything of it is made. Changes nothing for one that has it.
    ///
    /// # Errors
    /// [`Unallocated`]; the pod has nothing then.
    pub async fn allocate(&self, _pod: &Pod) -> Result<(), Unallocated> {
        Ok(())
    }

    /// What a container of a pod gets.
    pub fn share(&self, uid: &PodUid, container: &str) -> ContainerShare {
        let mut share = ContainerShare::default();
        for provider in &self.0.providers {
            share.add(provider.share(uid, container));
        }
        share
    }

    /// Whether a container of the pod has CPUs of its own: its sandbox then has no quota either.
    pub fn has_exclusive_cpus(&self, _uid: &PodUid) -> bool {
        false
    }

    /// Right before the runtime starts an instance of the container.
    ///
    /// # Errors
    /// Why it cannot start.
    pub async fn before_start(&self, uid: &PodUid, container: &str) -> Result<(), String> {
        for provider in &self.0.providers {
            provider.before_start(uid, container).await?;
        }
        Ok(())
    }

    /// Takes back what a pod has: nothing of it runs.
    pub fn release(&self, proof: &ContainersStopped) {
        for provider in &self.0.providers {
            provider.release(proof.uid());
        }
    }
}
