//! Where the managers of devices and claims plug in: what they are asked while a pod is given its share of the machine.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Container;
use rubelet_core::Pod;
use rubelet_core::ids::PodUid;
use rubelet_core::topology::{Hint, ProviderHints, Unallocatable};

use super::ContainerShare;

/// Why a pod has not got its share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unallocated {
    /// It cannot have it on this node: it is rejected.
    #[error(transparent)]
    Rejected(#[from] Unallocatable),
    /// It may get it later and waits; what for.
    #[error("{0}")]
    Waiting(String),
}

/// A manager of what containers get, whose work takes I/O. Every method but [`Self::concerns`] is only called for pods
/// that concern it or whatever it said so of before; calls of one pod never overlap.
pub trait ContainerProvider: Send + Sync {
    /// Whether it has anything to do for this pod. Most pods have no wishes, and wait for nobody else's.
    fn concerns(&self, pod: &Pod) -> bool;
    /// Where what the container asks for could come from (`HintProvider::hints`).
    fn hints(&self, _pod: &Pod, _container: &Container) -> ProviderHints {
        ProviderHints::new()
    }
    /// Where what the whole pod asks for could come from.
    fn pod_hints(&self, _pod: &Pod) -> ProviderHints {
        ProviderHints::new()
    }
    /// Assigns what the container asks for, near `affinity`; changes nothing for one that has it. One pod at a time:
    /// others wait meanwhile, so it needs a deadline.
    fn allocate<'a>(
        &'a self,
        _pod: &'a Pod,
        _container: &'a Container,
        _affinity: Hint,
    ) -> BoxFuture<'a, Result<(), Unallocated>> {
        async { Ok(()) }.boxed()
    }
    /// What the container got; asked each time that one is made.
    fn share(&self, _uid: &PodUid, _container: &str) -> ContainerShare {
        ContainerShare::default()
    }
    /// Right before the runtime starts an instance of the container; an error is the reason why it does not start.
    fn before_start<'a>(
        &'a self,
        _uid: &'a PodUid,
        _container: &'a str,
    ) -> BoxFuture<'a, Result<(), String>> {
        async { Ok(()) }.boxed()
    }
    /// Takes back what the pod got: nothing of it runs, or it never began.
    fn release(&self, _uid: &PodUid) {}
    /// Takes back what pods got that are gone, those that are not known; now and then.
    fn sweep(&self, _known: &dyn Fn(&PodUid) -> bool) {}
}
