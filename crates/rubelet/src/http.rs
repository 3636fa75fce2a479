//! The plain ports: `/healthz` on its own, and the unauthenticated read-only port. What they answer is
//! `rubelet_server::api`'s; nobody is asked who they are.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response};
use rubelet_server::Body;
use rubelet_server::api::Api;
use rubelet_server::listen::{Front, ListenError, Listener, Peer};
use rubelet_server::node::Check;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::log_health;

/// What health is judged by: the agent's own duties. Trouble of others, which a restart of the agent would not mend,
/// is told elsewhere.
#[derive(Clone)]
pub struct Health {
    /// When the sync loop last went round.
    pub heartbeat: watch::Receiver<Instant>,
    /// How long it may rest (upstream: twice syncFrequency, at least five minutes).
    pub limit: Duration,
}

impl Health {
    /// Upstream's three checks, in its order.
    pub fn checks(&self) -> Vec<Check> {
        vec![
            Check::passed("ping", None),
            log_health::check(),
            Check::new("syncloop", self.sync_loop_problem()),
        ]
    }

    /// The name of a check that fails and what is wrong, if anything is.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        self.checks().into_iter().find_map(|check| Some((check.name, check.problem?)))
    }

    /// Begins as upstream's text does.
    fn sync_loop_problem(&self) -> Option<String> {
        let rested = self.heartbeat.borrow().elapsed();
        (rested > self.limit).then(|| {
            let (rested, limit) = (rested.as_secs(), self.limit.as_secs());
            format!("sync Loop took longer than expected: {rested} s, at most {limit} s")
        })
    }
}

/// Answers whoever asks.
struct Open(Api);

impl Front for Open {
    fn answer<'a>(&'a self, _: &'a Peer, request: Request<Body>) -> BoxFuture<'a, Response<Body>> {
        self.0.answer(request).boxed()
    }
}

/// Binds a port; `name` is how the log calls it.
///
/// # Errors
/// [`ListenError`].
pub async fn bind(name: &'static str, address: IpAddr, port: u16) -> Result<Listener, ListenError> {
    let listener = Listener::bind(name, SocketAddr::new(address, port), None).await?;
    info!(address = %listener.address(), "serving {name}");
    Ok(listener)
}

/// Serves for ever; dropping it closes every connection.
pub async fn serve(listener: Listener, api: Api) {
    listener.serve(Arc::new(Open(api)), CancellationToken::new()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sync_loop_that_rests_too_long_is_a_problem() {
        let (beat, heartbeat) = watch::channel(Instant::now());
        let health = Health { heartbeat, limit: Duration::from_secs(300) };
        tokio::time::advance(Duration::from_secs(300)).await;
        assert_eq!(health.problem(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        let text = "sync Loop took longer than expected: 301 s, at most 300 s";
        assert_eq!(health.problem(), Some(("syncloop", text.to_owned())));
        let names: Vec<&str> = health.checks().iter().map(|check| check.name).collect();
        assert_eq!(names, ["ping", "log", "syncloop"]);
        beat.send_replace(Instant::now());
        assert_eq!(health.problem(), None);
    }
}
