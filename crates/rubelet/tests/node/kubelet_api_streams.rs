//! What a connection to the kubelet API becomes: a WebSocket with channels, or SPDY/3.1 with streams, as much of both as
//! clients of exec, attach and port-forward say.

use std::io::{Read as _, Write as _};

use crate::kubelet_api::{Answer, Client, Connection};

/// Asks for another protocol; the answer where it is refused.
fn upgraded(client: &Client, target: &str, headers: &str) -> Result<(Connection, Answer), Answer> {
    let mut connection = client.connect();
    let head = format!(
        "{target} HTTP/1.1\r\nHost: node-1\r\nConnection: Upgrade\r\n{}{headers}\r\n",
        client.headers
    );
    connection.get_mut().write_all(head.as_bytes()).unwrap();
    let answer = Answer::read(&mut connection).unwrap();
    if answer.code == 101 { Ok((connection, answer)) } else { Err(answer) }
}

fn take<const N: usize>(connection: &mut Connection) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    connection.read_exact(&mut bytes).ok().map(|()| bytes)
}

fn take_all(connection: &mut Connection, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    connection.read_exact(&mut bytes).unwrap();
    bytes
}

/// A WebSocket whose messages begin with the number of a channel.
pub struct WebSocket(Connection);

/// What came on one channel after the other.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub stdout: String,
    pub stderr: String,
    /// The last word: a Status in JSON, or nothing.
    pub error: String,
}

impl WebSocket {
    /// Opens one that speaks `protocol`.
    pub fn open(client: &Client, path: &str, protocol: &str) -> Result<Self, Answer> {
        let headers = format!(
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\n"
        );
        let (connection, answer) = upgraded(client, &format!("GET {path}"), &headers)?;
        assert_eq!(answer.header("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "{}", answer.head);
        assert_eq!(answer.header("sec-websocket-protocol"), protocol, "{}", answer.head);
        Ok(Self(connection))
    }

    /// Sends a message on a channel.
    pub fn send(&mut self, channel: u8, text: &[u8]) {
        let payload = [&[channel], text].concat();
        let mut frame = vec![0x82];
        match payload.len() {
            length @ 0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
            length => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
        }
        let mask = [7, 11, 13, 17];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        let stream = self.0.get_mut();
        stream.write_all(&frame).unwrap();
        stream.flush().unwrap();
    }

    /// The next message with its channel; None when the other side has closed.
    pub fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let [first, length] = take(&mut self.0)?;
            assert!(length & 0x80 == 0, "servers do not mask");
            let length = match length {
                126 => usize::from(u16::from_be_bytes(take(&mut self.0)?)),
                127 => usize::try_from(u64::from_be_bytes(take(&mut self.0)?)).unwrap(),
                length => usize::from(length),
            };
            let mut payload = take_all(&mut self.0, length);
            match first & 0x0f {
                8 => return None,
                9 | 10 => {}
                _ if payload.is_empty() => {}
                _ => return Some((payload.remove(0), payload)),
            }
        }
    }

    /// Reads a command's streams to their end.
    pub fn rest(mut self) -> Said {
        let mut said = Said::default();
        while let Some((channel, text)) = self.receive() {
            let text = String::from_utf8(text).unwrap();
            match channel {
                1 => said.stdout += &text,
                2 => said.stderr += &text,
                3 => said.error += &text,
                255 => {}
                other => panic!("channel {other}: {text}"),
            }
        }
        said
    }

    /// Reads one channel until it has said `wanted`.
    pub fn wait(&mut self, channel: u8, wanted: &str) -> String {
        let mut said = String::new();
        while !said.contains(wanted) {
            let (from, text) = self.receive().unwrap_or_else(|| panic!("closed without {wanted:?}: {said}"));
            assert!(from == channel || text.is_empty(), "{from}: {}", String::from_utf8_lossy(&text));
            said += &String::from_utf8_lossy(&text);
        }
        said
    }
}

/// A SPDY/3.1 connection. Heads of streams are sent as deflate's stored blocks, which need no dictionary.
pub struct Spdy {
    connection: Connection,
    next: u32,
    begun: bool,
}

impl Spdy {
    /// Opens one that speaks `protocol` on its streams.
    pub fn open(client: &Client, target: &str, protocol: &str) -> Result<Self, Answer> {
        let headers = format!("Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n");
        let (connection, answer) = upgraded(client, target, &headers)?;
        assert_eq!(answer.header("x-stream-protocol-version"), protocol, "{}", answer.head);
        assert_eq!(answer.header("upgrade"), "SPDY/3.1", "{}", answer.head);
        Ok(Self { connection, next: 1, begun: false })
    }

    /// Opens a stream, and gives its number.
    pub fn stream(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let text = |text: &str| [&u32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
        let mut block = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for (name, value) in headers {
            block.extend(text(name));
            block.extend(text(value));
        }
        let length = u16::try_from(block.len()).unwrap();
        let mut body = [id.to_be_bytes(), [0; 4]].concat();
        body.extend([0, 0]);
        if !std::mem::replace(&mut self.begun, true) {
            body.extend([0x78, 0x01]);
        }
        body.push(0);
        body.extend(length.to_le_bytes());
        body.extend((!length).to_le_bytes());
        body.extend(block);
        // An empty block, after which all before it can be read.
        body.extend([0, 0, 0, 0xff, 0xff]);
        self.frame([0x80, 3, 0, 1], 0, &body);
        id
    }

    /// Sends on a stream; the last word with `end`.
    pub fn send(&mut self, stream: u32, text: &[u8], end: bool) {
        self.frame(stream.to_be_bytes(), u8::from(end), text);
    }

    fn frame(&mut self, head: [u8; 4], flags: u8, body: &[u8]) {
        let [_, length @ ..] = u32::try_from(body.len()).unwrap().to_be_bytes();
        let frame = [&head[..], &[flags], &length, body].concat();
        let stream = self.connection.get_mut();
        stream.write_all(&frame).unwrap();
        stream.flush().unwrap();
    }

    /// What comes on some streams until all of them, or the connection, have ended.
    pub fn rest(&mut self, streams: &[u32]) -> Vec<String> {
        let mut said = vec![Vec::new(); streams.len()];
        let mut open = streams.to_vec();
        while !open.is_empty() {
            let Some(head) = take::<8>(&mut self.connection) else { break };
            let [kind @ .., flags, a, b, c] = head;
            let body =
                take_all(&mut self.connection, usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap());
            let (is_data, number) = (kind[0] & 0x80 == 0, u32::from_be_bytes(kind));
            let ended = match (is_data, kind) {
                (true, _) => number,
                // A stream that is given up.
                (false, [_, _, 0, 3]) => u32::from_be_bytes([body[0], body[1], body[2], body[3]]),
                // GOAWAY
                (false, [_, _, 0, 7]) => break,
                _ => continue,
            };
            if let Some(at) = streams.iter().position(|stream| *stream == number).filter(|_| is_data) {
                said[at].extend(body);
            }
            if !is_data || flags & 1 == 1 {
                open.retain(|stream| *stream != ended);
            }
        }
        said.into_iter().map(|bytes| String::from_utf8(bytes).unwrap()).collect()
    }
}
