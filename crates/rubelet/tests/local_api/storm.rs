//! kill -9 in a storm of writes over TLS: what was acknowledged is there, what is there was asked for, and watches go on
//! where they were or are told 410.
//!
//! `RUBELET_KILL_ROUNDS=500` makes a night of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::program::Program;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WRITERS: u64 = 4;
/// Names that each writer uses over and over.
const NAMES: u64 = 12;

/// What became of a write that was asked for.
#[derive(Debug, Clone, PartialEq)]
enum Word {
    /// It was acknowledged with this version: nothing else may be there.
    Kept(u64, Option<String>),
    /// The server died before it answered: as before, or done.
    Open(Box<Word>, Option<String>),
}

type Ledger = Arc<Mutex<BTreeMap<String, Word>>>;

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap()
}

fn text(object: &Value) -> Option<String> {
    object["data"]["a"].as_str().map(str::to_owned)
}

/// Writes until the server is gone.
async fn write(client: Client, writer: u64, mut chance: u64, ledger: Ledger, acknowledged: Arc<AtomicU64>) {
    loop {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let name = format!("w{writer}-{}", (chance >> 33) % NAMES);
        let before = ledger.lock().unwrap().get(&name).cloned().unwrap_or(Word::Kept(0, None));
        let there = matches!(&before, Word::Kept(_, Some(_)));
        let path = format!("{MAPS}/{name}");
        let value = format!("{chance}{}", "x".repeat((chance >> 50) as usize));
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": value}});
        let (method, path, body, wanted) = match (there, chance >> 60) {
            (false, _) => (Method::POST, MAPS, map, Some(value)),
            (true, 0..4) => (Method::DELETE, path.as_str(), Value::Null, None),
            (true, 4..10) => (Method::PATCH, path.as_str(), json!({"data": {"a": value}}), Some(value)),
            (true, _) => (Method::PUT, path.as_str(), map, Some(value)),
        };
        ledger.lock().unwrap().insert(name.clone(), Word::Open(Box::new(before), wanted.clone()));
        match client.call(method.clone(), path, &body).await {
            Ok((200 | 201, answer)) => {
                // What a deletion answers is the object as it was; its version is the deletion's.
                let at =
                    answer["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).unwrap_or(0);
                ledger.lock().unwrap().insert(name, Word::Kept(at, wanted));
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Ok((code, answer)) => panic!("{method} {path}: {code} {answer}"),
            Err(_) => return,
        }
    }
}

/// Follows everything until the server is gone: the last version seen, and what it knows to be there.
async fn follow(
    client: Client,
    from: u64,
    mut known: BTreeMap<String, u64>,
) -> (u64, BTreeMap<String, u64>, bool) {
    let mut last = from;
    let path = format!("{MAPS}?watch=1&resourceVersion={from}");
    let Ok(mut watch) = client.watch(&path).await else { return (last, known, false) };
    while let Some(event) = watch.next().await {
        let object = &event["object"];
        if event["type"] == "ERROR" {
            assert_eq!(object["code"], 410, "{object}");
            return (last, known, true);
        }
        let at = version(object);
        assert!(at > last, "{at} after {last}");
        last = at;
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        match event["type"].as_str().unwrap() {
            "DELETED" => known.remove(&name),
            _ => known.insert(name, at),
        };
    }
    (last, known, false)
}

async fn list(client: &Client) -> (u64, BTreeMap<String, (u64, Option<String>)>) {
    let (code, list) = client.get(MAPS).await.unwrap();
    assert_eq!(code, 200);
    let items = list["items"].as_array().unwrap().iter();
    let items = items
        .map(|item| (item["metadata"]["name"].as_str().unwrap().to_owned(), (version(item), text(item))));
    (version(&list), items.filter(|(name, _)| name.starts_with('w')).collect())
}

/// Asserts that what is there is what was promised, and notes what the open writes came to.
fn settle(ledger: &Ledger, there: &BTreeMap<String, (u64, Option<String>)>) {
    let mut ledger = ledger.lock().unwrap();
    for (name, word) in ledger.iter_mut() {
        let (at, found) = there.get(name).cloned().unwrap_or((0, None));
        let fits = match &*word {
            Word::Kept(promised, text) => found == *text && (at == *promised || text.is_none()),
            Word::Open(before, wanted) => {
                found == *wanted || matches!(&**before, Word::Kept(_, text) if found == *text)
            }
        };
        assert!(fits, "{name}: promised {word:.200?}, found {at} {found:.60?}");
        *word = Word::Kept(at, found);
    }
    for name in there.keys() {
        assert!(ledger.contains_key(name), "nobody wrote {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kills_and_watches_go_on() {
    let rounds = std::env::var("RUBELET_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let mut program = Program::start();
    let ledger = Ledger::default();
    let (mut seen, mut known, mut expired) = (0, BTreeMap::new(), 0);
    let acknowledged = Arc::new(AtomicU64::new(0));
    for round in 0..rounds {
        let client = Client::owner(&program).await.unwrap();
        let (current, there) = list(&client).await;
        settle(&ledger, &there);
        if seen == 0 {
            seen = current;
        }
        let follower: JoinHandle<_> = tokio::spawn(follow(client.clone(), seen, known));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let seed = (round as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    ^ writer.wrapping_mul(0xd134_2543_de82_ef95);
                tokio::spawn(write(client.clone(), writer, seed, ledger.clone(), acknowledged.clone()))
            })
            .collect();
        // It is killed somewhere in the storm, however slow the machine is.
        let begun = acknowledged.load(Ordering::Relaxed) + 2 * WRITERS;
        tokio::time::timeout(Duration::from_secs(60), async {
            while acknowledged.load(Ordering::Relaxed) < begun {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("writes are acknowledged");
        tokio::time::sleep(Duration::from_millis((round as u64 * 37) % 150)).await;
        program.kill();
        for writer in writers {
            writer.await.unwrap();
        }
        let (last, followed, gone) = follower.await.unwrap();
        (seen, known) = (last, followed);
        if gone {
            // As clients do: list anew.
            expired += 1;
            (seen, known) = (0, BTreeMap::new());
        }
        program.launch();
        if gone {
            let client = Client::owner(&program).await.unwrap();
            let (current, there) = list(&client).await;
            seen = current;
            known = there.into_iter().map(|(name, (at, _))| (name, at)).collect();
        }
    }
    let client = Client::owner(&program).await.unwrap();
    let (current, there) = list(&client).await;
    settle(&ledger, &there);
    // The watch catches up to exactly what is there: nothing was left out on the way.
    let follower = tokio::spawn(follow(client.clone(), seen, known));
    let (code, last) = client
        .call(
            Method::POST,
            MAPS,
            &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "wlast"}}),
        )
        .await
        .unwrap();
    assert_eq!(code, 201);
    assert!(version(&last) > current);
    program.stop();
    let (_, known, gone) = follower.await.unwrap();
    if !gone {
        let mut wanted: BTreeMap<String, u64> = there.into_iter().map(|(name, (at, _))| (name, at)).collect();
        wanted.insert("wlast".to_owned(), version(&last));
        assert_eq!(known, wanted);
    }
    let acknowledged = acknowledged.load(Ordering::Relaxed);
    println!(
        "{rounds} kills: {acknowledged} acknowledged writes, none lost; {expired} watches were told 410"
    );
}
