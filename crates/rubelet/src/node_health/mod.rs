//! What the container runtime does to the node's health, told to who can do something about it.
//!
//! Three troubles, each with a reason of its own (upstream has one, "PLEG is not healthy", and the node's pods are
//! evicted for it):
//! - the runtime is silent: the node's condition says so (`node_agent`), after a grace
//! - it answers, and what it runs cannot be listed, or slowly: events on the node; the condition only when nothing at
//!   all could be read for three minutes
//! - it answers, and one pod hangs in it: an event on that pod; on the node only when several do
//!
//! Here are the watch over calls ([`watched`]), the task that tells ([`run`]) and what `/healthz` says of the runtime
//! ([`runtime_check`]). What is trouble and when it is told is decided by `rubelet_core::node` (`lists`, `stuck`,
//! `telling`); the facts are `runtime_monitor`'s and `pleg`'s. Never asks the runtime anything and stops nothing.

mod calls;
mod passed;
mod teller;
#[cfg(test)]
mod tests;

use rubelet_server::node::Check;
use tokio::sync::watch;

pub use calls::{CallWatch, watched};
pub use teller::{Parts, run};

use crate::pleg::Pleg;
use crate::runtime_monitor::RuntimeState;

/// The check of the runtime. It never fails: a new agent would not make the runtime well, and whoever restarts agents
/// whose checks fail would only add to the trouble. `stuck` is how many pods hang in it.
pub fn runtime_check(state: &RuntimeState, pleg: &Pleg, stuck: usize) -> Check {
    let problem = state.runtime_problem.as_deref();
    let note = match (state.silent_since, problem) {
        (Some(since), problem) => Some(format!(
            "the container runtime does not answer since {} s: {}",
            since.elapsed().as_secs(),
            problem.unwrap_or("nobody knows why")
        )),
        (None, Some(problem)) => Some(format!("the container runtime is not ready: {problem}")),
        (None, None) => None,
    };
    let lists = || state.list_problem.clone().or_else(|| Some(pleg.lists().describe(state.list_trouble?)));
    let network = || Some(format!("pods cannot get a network: {}", state.network_problem.as_deref()?));
    let stuck = || match stuck {
        0 => None,
        1 => Some("one pod is stuck in the container runtime".to_owned()),
        many => Some(format!("{many} pods are stuck in the container runtime")),
    };
    Check::passed("containerruntime", note.or_else(lists).or_else(network).or_else(stuck))
}

/// Waits for news; for ever when there will be none. Cancel-safe.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
