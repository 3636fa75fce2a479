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
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// What health is judged by.
#[derive(Clone)]
pub struct Health {
    /// When the sync loop last went round.
    pub heartbeat: watch::Receiver<Instant>,
    /// How long it may rest (upstream: twice syncFrequency, at least five minutes).
    pub limit: Duration,
}

impl Health {
    /// What is wrong, if anything. Begins as upstream's text does.
    pub fn problem(&self) -> Option<String> {
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
        let problem = health.problem();
        assert_eq!(problem.as_deref(), Some("sync Loop took longer than expected: 301 s, at most 300 s"));
        beat.send_replace(Instant::now());
        assert_eq!(health.problem(), None);
    }
}
