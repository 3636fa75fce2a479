//! A TCP connection to a host and port, and the words for why there is none.
//!
//! One socket for each call, no pool; a host that is an IP needs no resolver. Names are looked up on few threads at a
//! time, so that a resolver that hangs holds up probes by name and nothing else.
//!
//! Upstream gives its sockets a linger time of a second, to spend less time in TIME_WAIT. On Linux it does not do that
//! (measured: as many sockets stay, as long), and it makes closing a socket wait, up to that second, for a peer that is
//! gone, on the thread that serves all other probes. Ours have none.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// So many names are looked up at one time.
const LOOKUPS: usize = 8;
/// What an address gets at least of the time that is left, as long as there are others to try.
const LEAST_SHARE: Duration = Duration::from_secs(2);

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum DialError {
    /// The network or the peer did not let it come about.
    Refused(SocketAddr, io::Error),
    /// The name has no address.
    Lookup(String, String),
    /// The time was up.
    Timeout(String),
    /// This process or this machine has no room for another connection, which says nothing about the peer.
    NoRoom(String, io::Error),
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(address, error) => write!(f, "dial tcp {address}: connect: {}", os_text(error)),
            Self::Lookup(host, problem) => write!(f, "dial tcp: lookup {host}: {problem}"),
            Self::Timeout(address) => write!(f, "dial tcp {address}: i/o timeout"),
            Self::NoRoom(address, error) => write!(f, "dial tcp {address}: socket: {}", os_text(error)),
        }
    }
}

/// Connects to the first address of a host that answers. `deadline` bounds all of it.
///
/// # Errors
/// What the first address said, when there are several.
pub(crate) async fn connect(
    host: &str,
    port: u16,
    deadline: Option<Instant>,
) -> Result<TcpStream, DialError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return one(SocketAddr::new(ip, port), deadline).await;
    }
    let addresses = match by(deadline, addresses(host, port)).await {
        Some(found) => found.map_err(|problem| DialError::Lookup(host.to_owned(), problem))?,
        None => return Err(DialError::Lookup(host.to_owned(), "i/o timeout".to_owned())),
    };
    let mut first = None;
    for (tried, address) in addresses.iter().enumerate() {
        let share = deadline.map(|deadline| share(deadline, addresses.len() - tried));
        match one(*address, share).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    Err(first.unwrap_or_else(|| DialError::Lookup(host.to_owned(), "no such host".to_owned())))
}

/// Waits no longer than until `deadline`; `None` is for ever.
pub(crate) async fn by<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}

/// The system's words for an error, without the number and in lower case: what Go programs print.
pub(crate) fn os_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    // "Connection refused", but not "EOF" or "I/O error".
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => first.to_lowercase().chain(chars).collect(),
        _ => text.to_owned(),
    }
}

async fn one(address: SocketAddr, deadline: Option<Instant>) -> Result<TcpStream, DialError> {
    match by(deadline, TcpStream::connect(address)).await {
        Some(Ok(stream)) => Ok(stream),
        Some(Err(error)) if is_our_own(&error) => Err(DialError::NoRoom(address.to_string(), error)),
        Some(Err(error)) => Err(DialError::Refused(address, error)),
        None => Err(DialError::Timeout(address.to_string())),
    }
}

/// Whether an error is about this process or machine: descriptors, memory, local ports.
pub(crate) fn is_our_own(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL]
        .iter()
        .any(|ours| errno == Some(*ours))
}

/// When the next of so many addresses has had its share of the time.
fn share(deadline: Instant, addresses: usize) -> Instant {
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    let parts = u32::try_from(addresses).unwrap_or(u32::MAX).max(1);
    deadline.min(now + (left / parts).max(LEAST_SHARE))
}

async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    static TURNS: OnceLock<Arc<Semaphore>> = OnceLock::new();
    let turns = TURNS.get_or_init(|| Arc::new(Semaphore::new(LOOKUPS))).clone();
    let Ok(turn) = turns.acquire_owned().await else { return Err("no such host".to_owned()) };
    let host = host.to_owned();
    let lookup = tokio::task::spawn_blocking(move || {
        // Given back when the resolver returns, not when the probe has given up on it.
        let _turn = turn;
        (host.as_str(), port).to_socket_addrs().map(Iterator::collect)
    });
    match lookup.await {
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err(lookup_text(&error)),
        Err(_) => Err("no such host".to_owned()),
    }
}

fn lookup_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.rsplit(": ").next().unwrap_or_default();
    match text {
        "Name or service not known" | "No address associated with hostname" => "no such host".to_owned(),
        text => text.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_system() {
        for (errno, text) in [
            (rustix::io::Errno::CONNREFUSED, "connection refused"),
            (rustix::io::Errno::HOSTUNREACH, "no route to host"),
            (rustix::io::Errno::NETUNREACH, "network is unreachable"),
            (rustix::io::Errno::CONNRESET, "connection reset by peer"),
            (rustix::io::Errno::MFILE, "too many open files"),
        ] {
            assert_eq!(os_text(&io::Error::from(errno)), text);
        }
        assert_eq!(os_text(&io::Error::other("I/O error")), "I/O error");
        assert_eq!(os_text(&io::Error::other("")), "");
    }

    #[test]
    fn what_is_short_here_is_not_the_peers_fault() {
        let none_left = io::Error::from(rustix::io::Errno::MFILE);
        assert!(is_our_own(&none_left));
        assert!(!is_our_own(&io::Error::from(rustix::io::Errno::CONNREFUSED)));
        assert!(!is_our_own(&io::Error::other("x")));
        let error = DialError::NoRoom("10.0.0.1:80".into(), none_left);
        assert_eq!(error.to_string(), "dial tcp 10.0.0.1:80: socket: too many open files");
    }

    #[tokio::test]
    async fn names_are_tried_address_by_address() {
        // Whatever localhost is here, one of its addresses listens.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let deadline = Some(Instant::now() + Duration::from_secs(10));
        connect("localhost", port, deadline).await.unwrap();
        let error = connect("not a name", port, deadline).await.unwrap_err().to_string();
        assert!(error.starts_with("dial tcp: lookup not a name: "), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_share_the_time() {
        let start = Instant::now();
        let check = |seconds, addresses, expected| {
            let share = share(start + Duration::from_secs(seconds), addresses);
            assert_eq!(share - start, Duration::from_secs(expected), "{seconds} s for {addresses}");
        };
        check(30, 3, 10);
        check(30, 1, 30);
        check(3, 3, 2);
        check(1, 3, 1);
    }
}
