//! TCP probes: a port that takes connections is well. Nothing is sent; the connection is closed at once.

use std::time::Duration;

use k8s_openapi::api::core::v1::TCPSocketAction;
use rubelet_core::probes::ProbeOutcome;
use tokio::time::Instant;

use crate::dial::{self, DialError};
use crate::target::{Target, resolve_host, resolve_port};

/// Connects to the port of an action.
pub async fn connect(action: &TCPSocketAction, target: &Target<'_>, timeout: Duration) -> ProbeOutcome {
    let place = resolve_port(&action.port, target.ports())
        .and_then(|port| Ok((resolve_host(action.host.as_deref(), target.pod_ip)?, port)));
    let (host, port) = match place {
        Ok(place) => place,
        Err(error) => return ProbeOutcome::Error(error.to_string()),
    };
    match dial::connect(host, port, Some(Instant::now() + timeout)).await {
        Ok(_) => ProbeOutcome::Success,
        Err(error @ DialError::NoRoom(..)) => ProbeOutcome::Error(error.to_string()),
        Err(error) => ProbeOutcome::Failure(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Container, ContainerPort};
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use tokio::net::{TcpListener, TcpSocket};

    async fn probe(host: Option<&str>, pod_ip: &str, port: IntOrString, web: u16) -> ProbeOutcome {
        let ports = vec![ContainerPort {
            name: Some("web".into()),
            container_port: web.into(),
            ..Default::default()
        }];
        let container = Container { ports: Some(ports), ..Default::default() };
        let action = TCPSocketAction { host: host.map(str::to_owned), port };
        connect(&action, &Target { container: &container, pod_ip }, Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn listening_refusing_and_nowhere_to_go() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap().port();
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().port()
        };
        let int = |port: u16| IntOrString::Int(port.into());
        let name = |name: &str| IntOrString::String(name.into());
        let refused = format!("dial tcp 127.0.0.1:{closed}: connect: connection refused");
        let error = |text: &str| ProbeOutcome::Error(text.into());
        for (host, ip, port, expected) in [
            (None, "127.0.0.1", int(open), ProbeOutcome::Success),
            (None, "127.0.0.1", name("web"), ProbeOutcome::Success),
            (Some("127.0.0.1"), "192.0.2.1", int(open), ProbeOutcome::Success),
            (Some("localhost"), "", int(open), ProbeOutcome::Success),
            (None, "127.0.0.1", int(closed), ProbeOutcome::Failure(refused)),
            (None, "127.0.0.1", IntOrString::Int(0), error("invalid port number: 0")),
            (None, "127.0.0.1", name("x"), error("port \"x\" not found: the container has web")),
            (None, "", int(open), error("no host to connect to: the pod has no IP and `host` is not set")),
        ] {
            assert_eq!(probe(host, ip, port, open).await, expected);
        }
    }

    #[tokio::test]
    async fn a_connection_is_closed_in_peace() {
        use tokio::io::AsyncReadExt as _;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (outcome, peer) =
            tokio::join!(probe(None, "127.0.0.1", IntOrString::Int(port.into()), 1), listener.accept());
        assert_eq!(outcome, ProbeOutcome::Success);
        let (mut stream, _) = peer.unwrap();
        // The end of the stream, not a reset, which servers log as an error.
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_queue_that_is_full_is_a_timeout() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        // One connection fits into a queue of length 0; others are left without an answer.
        let mut held = vec![];
        let limit = Duration::from_millis(200);
        while let Ok(Ok(stream)) = tokio::time::timeout(limit, tokio::net::TcpStream::connect(address)).await
        {
            held.push(stream);
        }
        let container = Container::default();
        let action = TCPSocketAction { host: None, port: IntOrString::Int(address.port().into()) };
        let target = Target { container: &container, pod_ip: "127.0.0.1" };
        let outcome = connect(&action, &target, limit).await;
        assert_eq!(outcome, ProbeOutcome::Failure(format!("dial tcp {address}: i/o timeout")));
    }
}
