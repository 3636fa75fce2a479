//! HTTP/2 as attackers write it: frames by hand. Memory stays bounded, the connection is closed where that is the only
//! answer, and others are served.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::{self, Raw, connect, owners};
use crate::program::Program;

/// What a flood is called, and what is sent the nth time.
type Case<'a> = (&'a str, &'a dyn Fn(usize) -> Vec<u8>);

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Headers without compression.
fn headers(list: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = vec![];
    for (name, value) in list {
        for text in [name, value] {
            if std::ptr::eq(text, name) {
                bytes.push(0);
            }
            bytes.push(u8::try_from(text.len()).unwrap());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

fn get(path: &str) -> Vec<u8> {
    headers(&[(":method", "GET"), (":scheme", "https"), (":authority", "x"), (":path", path)])
}

fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

/// Reads frames until the connection ends, or nothing comes for a while: kind, stream and payload of each.
async fn frames(stream: &mut Raw) -> Vec<(u8, u32, Vec<u8>)> {
    let mut found = vec![];
    loop {
        let mut head = [0; 9];
        let read = tokio::time::timeout(Duration::from_secs(3), stream.read_exact(&mut head)).await;
        let Ok(Ok(_)) = read else { return found };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).await.is_err() {
            return found;
        }
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        found.push((head[3], id, payload));
    }
}

/// Sends a flood piece by piece, as long as the server takes it, without reading; what was sent, and by how much the
/// server's memory grew.
async fn flood(program: &Program, pieces: usize, piece: impl Fn(usize) -> Vec<u8>) -> (usize, u64, Raw) {
    let mut stream = owners(program, "h2").await;
    stream.write_all(&preface()).await.unwrap();
    let (growth, sent) = program
        .growth(async {
            let mut sent = 0;
            for number in 0..pieces {
                let bytes = piece(number);
                // A server that does not read on is an answer, too.
                match tokio::time::timeout(Duration::from_secs(2), stream.write_all(&bytes)).await {
                    Ok(Ok(())) => sent += bytes.len(),
                    _ => break,
                }
            }
            sent
        })
        .await;
    (sent, growth, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_are_bounded() {
    let program = Program::start();
    let id = |number: usize| u32::try_from(number * 2 + 1).unwrap();
    let many = |number: usize, one: &dyn Fn(usize) -> Vec<u8>| -> Vec<u8> {
        (number * 1000..(number + 1) * 1000).flat_map(one).collect()
    };
    let list = get("/api/v1/namespaces/default/configmaps");
    let reset = |number: usize| {
        let cancel = frame(RST_STREAM, 0, id(number), &8_u32.to_be_bytes());
        [frame(HEADERS, END_STREAM | END_HEADERS, id(number), &list), cancel].concat()
    };
    let ping = |_: usize| frame(PING, 0, 0, &[7; 8]);
    let settings = |_: usize| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]);
    let unfinished = |number: usize| frame(HEADERS, END_HEADERS, id(number), &list);
    let endless = |number: usize| match number {
        0 => frame(HEADERS, END_STREAM, 1, &list),
        _ => frame(CONTINUATION, 0, 1, &headers(&[("x-a", &"a".repeat(120))])),
    };
    let empty = |number: usize| match number {
        0 => frame(HEADERS, END_HEADERS, 1, &list),
        _ => frame(0, 0, 1, &[]),
    };
    let cases: [Case<'_>; 6] = [
        ("rapid reset", &reset),
        ("pings", &ping),
        ("settings", &settings),
        ("unfinished streams", &unfinished),
        ("endless headers", &endless),
        ("empty data", &empty),
    ];
    for (what, one) in cases {
        let (sent, growth, mut stream) = flood(&program, 200, |number| many(number, one)).await;
        client::others_are_served(&program).await;
        let heard = frames(&mut stream).await;
        let away = heard.iter().any(|(kind, ..)| *kind == GOAWAY);
        println!(
            "{what}: {} KiB sent, memory grew by {growth} KiB, {} frames heard, told to go: {away}",
            sent / 1024,
            heard.len()
        );
        assert!(growth < 12 * 1024, "{what}: memory grew by {growth} KiB");
        if matches!(what, "rapid reset" | "endless headers") {
            assert!(away || heard.is_empty(), "{what} goes on");
        }
    }
    client::others_are_served(&program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_one_answer_each_and_no_more() {
    let program = Program::start();
    let mut stream = connect(&program, None, "h2").await.unwrap();
    let mut bytes = preface();
    for number in 0..50 {
        let path = get("/api/v1/namespaces/default/configmaps?watch=1");
        bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, number * 2 + 1, &path));
    }
    stream.write_all(&bytes).await.unwrap();
    let heard = frames(&mut stream).await;
    assert!(heard.iter().any(|(kind, ..)| *kind == GOAWAY), "{heard:?}");
    let status = heard.iter().find(|(kind, _, payload)| *kind == 0 && !payload.is_empty());
    let status: serde_json::Value = serde_json::from_slice(&status.unwrap().2).unwrap();
    assert_eq!((status["kind"].as_str(), status["code"].as_u64()), (Some("Status"), Some(401)));
    // It goes once it knows that it was heard.
    let (_, _, asked) = heard.iter().rfind(|(kind, ..)| *kind == PING).unwrap();
    stream.write_all(&frame(PING, 1, 0, asked)).await.unwrap();
    let mut rest = vec![];
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection goes on");
}
