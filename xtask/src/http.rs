//! The smallest HTTP client that can poll a local status port.
//!
//! Owns one GET over loopback with a deadline. Never follows anything, never speaks TLS. Called while `make run` waits.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

const TIMEOUT: Duration = Duration::from_secs(5);

/// The body of a 200 answer from this machine's `port`.
pub(crate) fn get(port: u16, path: &str) -> Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream =
        TcpStream::connect_timeout(&address, TIMEOUT).with_context(|| format!("no answer on {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // HTTP/1.0 asks for an answer that is not chunked and ends with the connection. In one write: a server may
    // answer and close as soon as it has seen enough.
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(|| format!("{address}{path} broke off"))?;
    body(&String::from_utf8_lossy(&answer)).with_context(|| format!("GET {address}{path}"))
}

fn body(answer: &str) -> Result<String> {
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("answered {status:?}: {}", body.trim());
    }
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_a_200_has_a_body() {
        assert_eq!(body("HTTP/1.1 200 OK\r\nx: y\r\n\r\nfine\r\n\r\n").unwrap(), "fine\r\n\r\n");
        assert!(
            body("HTTP/1.1 503 Service Unavailable\r\n\r\nnot yet")
                .unwrap_err()
                .to_string()
                .contains("not yet")
        );
        assert!(body("SSH-2.0").is_err());
    }

    #[test]
    fn a_server_on_loopback_is_asked_for_the_path() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let count = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\npods").unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        assert_eq!(get(port, "/pods").unwrap(), "pods");
        assert!(server.join().unwrap().starts_with("GET /pods HTTP/1.0\r\n"));
        assert!(get(port, "/pods").is_err(), "nobody listens any more");
    }
}
