//! Clients that are slow, silent, or never read, in great number: others do not notice.
//!
//! How long they are borne is tested with a clock of its own beside the listener.

use std::time::Duration;

use http::Method;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::client::{self, Client, config_map, connect, owners};
use crate::program::Program;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn the_slow_and_the_silent_keep_nobody_waiting() {
    let program = Program::start();
    let identity = program.owner().identity;
    let post = format!(
        "POST {MAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{{"
    );
    let begins = ["", "G", "GET /api HTTP/1.1\r\nHost: x\r\nX-", &post];
    let (growth, held) = program
        .growth(async {
            let mut held: (Vec<TcpStream>, Vec<client::Raw>) = (vec![], vec![]);
            for number in 0..400 {
                let mut silent = TcpStream::connect(program.address).await.unwrap();
                if number % 2 == 0 {
                    // The beginning of a handshake.
                    silent.write_all(b"\x16\x03\x01\x02").await.unwrap();
                }
                held.0.push(silent);
                let protocol = if number % 5 == 4 { "h2" } else { "http/1.1" };
                let mut slow = connect(&program, Some(&identity), protocol).await.unwrap();
                slow.write_all(begins[number % begins.len()].as_bytes()).await.unwrap();
                slow.flush().await.unwrap();
                held.1.push(slow);
            }
            held
        })
        .await;
    println!("400 silent and 400 slow clients: memory grew by {growth} KiB");
    assert!(growth < 800 * 48, "memory grew by {growth} KiB");
    let client = Client::owner(&program).await.unwrap();
    let served = async {
        for number in 0..20 {
            let (code, _) =
                client.call(Method::POST, MAPS, &config_map(&format!("m{number}"), 9)).await.unwrap();
            assert_eq!(code, 201);
            client::others_are_served(&program).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), served).await.expect("others are served");
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_costs_little() {
    let program = Program::start();
    let writer = Client::owner(&program).await.unwrap();
    let mut deaf = vec![];
    for number in 0..150 {
        let mut stream = owners(&program, "http/1.1").await;
        let query = if number % 2 == 0 {
            "watch=1"
        } else {
            "watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
        };
        let request = format!("GET {MAPS}?{query} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        deaf.push(stream);
    }
    let (growth, lists) = program
        .growth(async {
            for number in 0..150 {
                let map = config_map(&format!("large-{number}"), 200_000);
                assert_eq!(writer.call(Method::POST, MAPS, &map).await.unwrap().0, 201);
            }
            // 30 MB each, and nobody reads them, either.
            let mut lists = vec![];
            for _ in 0..100 {
                let mut stream = owners(&program, "http/1.1").await;
                let request = format!("GET {MAPS} HTTP/1.1\r\nHost: x\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                lists.push(stream);
            }
            client::others_are_served(&program).await;
            lists
        })
        .await;
    println!("150 watches and 100 lists of 30 MB that nobody reads: memory grew by {growth} KiB");
    assert!(growth < 160 * 1024, "memory grew by {growth} KiB of 7 GB that there were to send");
    drop((deaf, lists));
}
