//! Three thousand watches at once: what they cost in memory and at rest, and that each sees what happens.

use std::time::Duration;

use http::Method;
use serde_json::json;

use crate::client::{Client, config_map};
use crate::program::Program;
use crate::wait;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WATCHES: usize = 3000;
/// As many as one connection may have.
const EACH: usize = 250;

#[tokio::test(flavor = "multi_thread")]
async fn three_thousand_watches_at_once() {
    let program = Program::start();
    let writer = Client::owner(&program).await.unwrap();
    let (_, list) = writer.get(MAPS).await.unwrap();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let without = program.memory();
    let (growth, mut watches) = program
        .growth(async {
            let mut watches = vec![];
            for _ in 0..WATCHES / EACH {
                let client = Client::owner(&program).await.unwrap();
                for _ in 0..EACH {
                    watches.push(
                        client
                            .watch(&format!(
                                "{MAPS}?watch=1&resourceVersion={version}&allowWatchBookmarks=true"
                            ))
                            .await
                            .unwrap(),
                    );
                }
            }
            watches
        })
        .await;
    println!("{WATCHES} watches: memory grew by {growth} KiB, {} bytes each", growth * 1024 / WATCHES as u64);
    assert!(growth < WATCHES as u64 * 10, "memory grew by {growth} KiB");
    let (before, span) = (program.wakeups(), Duration::from_secs(3));
    tokio::task::spawn_blocking(move || wait::pause(span)).await.unwrap();
    let woken = program.wakeups() - before;
    println!("{woken} wake-ups in {span:?} at rest");
    assert!(woken < 300, "{woken} wake-ups in {span:?} with nothing to do");
    let begun = wait::uptime();
    let (growth, ()) = program
        .growth(async {
            for number in 0..5 {
                let made =
                    writer.call(Method::POST, MAPS, &config_map(&format!("m{number}"), 2000)).await.unwrap();
                assert_eq!(made.0, 201);
            }
            let all = watches.iter_mut().map(|watch| async move {
                for number in 0..5 {
                    let event = watch.next().await.expect("an event");
                    assert_eq!(event["object"]["metadata"]["name"], json!(format!("m{number}")));
                }
            });
            futures::future::join_all(all).await;
        })
        .await;
    println!(
        "5 changes told to {WATCHES} watches in {:.2} s; memory grew by {growth} KiB",
        wait::uptime() - begun
    );
    // 30 MB if every watch kept its events to itself.
    assert!(growth < 24 * 1024, "memory grew by {growth} KiB");
    drop(watches);
    wait::until("the memory of watches to come back", Duration::from_secs(40), || {
        let (code, length) = (200, program.memory());
        if length < without + 12 * 1024 { Ok(code) } else { Err(format!("{length} KiB")) }
    });
}
