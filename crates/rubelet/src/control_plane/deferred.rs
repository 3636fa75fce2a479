//! Connections that exist before the agent may connect: with a bootstrap token the first certificate may take
//! minutes, and static pods must not wait for it. Requests made before wait; dropping them is fine.

use kube::Client;
use kube::client::Body;
use rubelet_apiclient::Connections;
use tokio::sync::watch;

/// The other end: connects them.
pub(super) struct Connect(watch::Sender<Option<Connections>>);

impl Connect {
    /// From now on requests go out, those that waited too.
    pub(super) fn now(&self, connections: Connections) {
        self.0.send_replace(Some(connections));
    }
}

/// Why a request did not go out.
#[derive(Debug, thiserror::Error)]
#[error("the agent is stopping")]
struct Stopping;

/// Connections that wait for [`Connect::now`]. Must be called inside a tokio runtime.
pub(super) fn connections() -> (Connections, Connect) {
    let (sender, receiver) = watch::channel(None);
    let deferred = Connections {
        requests: client(receiver.clone(), |connections| &connections.requests),
        urgent: client(receiver.clone(), |connections| &connections.urgent),
        heartbeats: client(receiver, |connections| &connections.heartbeats),
    };
    (deferred, Connect(sender))
}

fn client(connected: watch::Receiver<Option<Connections>>, pick: fn(&Connections) -> &Client) -> Client {
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let mut connected = connected.clone();
        async move {
            let client = match connected.wait_for(Option::is_some).await {
                Ok(connections) => connections.as_ref().map(|connections| pick(connections).clone()),
                Err(_) => None,
            };
            match client {
                Some(client) => client.send(request).await.map_err(tower::BoxError::from),
                None => Err(Stopping.into()),
            }
        }
    });
    Client::new(service, "default")
}
