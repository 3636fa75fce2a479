//! Watches: what they begin with, what they tell, how they end.

use std::time::Duration;

use super::*;

struct Frames {
    body: Body,
    rest: Vec<u8>,
}

impl Frames {
    async fn open(server: &Server, line: &str) -> Self {
        let response = server.send(line, "").await;
        assert_eq!(response.status(), 200, "{line}");
        Self { body: response.into_body(), rest: Vec::new() }
    }

    /// The next frame; `None` at the end of the watch.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let frame: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&frame).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.rest.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    #[track_caller]
    fn check(frame: Option<Value>, kind: &str, name: &str) -> Value {
        let frame = frame.unwrap();
        let found = frame["object"]["metadata"]["name"].as_str().unwrap_or_default();
        assert_eq!((frame["type"].as_str().unwrap(), found), (kind, name), "{frame:#}");
        frame["object"].clone()
    }
}

async fn make(server: &Server, name: &str, label: &str) -> Value {
    let mut map = config_map(name, json!({}));
    map["metadata"]["labels"] = json!({"l": label});
    server.check(&format!("POST {MAPS}"), map, 201, json!({})).await
}

async fn label(server: &Server, name: &str, label: &str) -> Value {
    let patch = json!({"metadata": {"labels": {"l": label}}});
    server.check(&format!("PATCH {MAPS}/{name} merge"), patch, 200, json!({})).await
}

#[tokio::test(start_paused = true)]
async fn a_watch_begins_with_what_is_there_and_goes_on() {
    let server = Server::new().await;
    let first = make(&server, "a", "1").await;
    let mut frames = Frames::open(&server, &format!("GET {MAPS}?watch=1")).await;
    assert_eq!(Frames::check(frames.next().await, "ADDED", "a"), first);
    let second = make(&server, "b", "1").await;
    assert_eq!(Frames::check(frames.next().await, "ADDED", "b"), second);
    let changed = label(&server, "a", "2").await;
    assert_eq!(Frames::check(frames.next().await, "MODIFIED", "a"), changed);
    server.check(&format!("DELETE {MAPS}/a"), Value::Null, 200, json!({})).await;
    let last = Frames::check(frames.next().await, "DELETED", "a");
    let version =
        |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(version(&last) > version(&changed));

    let from = version(&first);
    let mut frames = Frames::open(&server, &format!("GET {MAPS}?watch=1&resourceVersion={from}")).await;
    for (kind, name) in [("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "a")] {
        Frames::check(frames.next().await, kind, name);
    }
    server.stopping.cancel();
    assert_eq!(frames.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn objects_join_and_leave_a_selection() {
    let server = Server::new().await;
    make(&server, "a", "1").await;
    let from = server.api.store().revision();
    let line = format!("GET {MAPS}?watch=1&labelSelector=l%3D1&resourceVersion={from}");
    let mut frames = Frames::open(&server, &line).await;
    make(&server, "other", "2").await;
    let left = label(&server, "a", "2").await;
    let told = Frames::check(frames.next().await, "DELETED", "a");
    // As it was in the selection, with the version at which it left.
    assert_eq!(told["metadata"]["labels"]["l"], "1");
    assert_eq!(told["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    label(&server, "a", "1").await;
    Frames::check(frames.next().await, "ADDED", "a");
    server.check(&format!("DELETE {MAPS}/other"), Value::Null, 200, json!({})).await;
    server.check(&format!("DELETE {MAPS}/a"), Value::Null, 200, json!({})).await;
    Frames::check(frames.next().await, "DELETED", "a");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_initial_events_is_marked() {
    let server = Server::new().await;
    make(&server, "a", "1").await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut frames = Frames::open(&server, &format!("GET {MAPS}?{query}")).await;
    Frames::check(frames.next().await, "ADDED", "a");
    let mark = Frames::check(frames.next().await, "BOOKMARK", "");
    assert_eq!(mark["kind"], "ConfigMap");
    assert_eq!(mark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(mark["metadata"]["resourceVersion"], server.api.store().revision().to_string());
    let line = format!("GET {MAPS}?watch=1&sendInitialEvents=true");
    server.check(&line, Value::Null, 422, json!({"reason": "Invalid"})).await;
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_each_minute_and_before_the_end() {
    let server = Server::new().await;
    let from = server.api.store().revision();
    let query = format!("watch=1&resourceVersion={from}&allowWatchBookmarks=true&timeoutSeconds=150");
    let mut frames = Frames::open(&server, &format!("GET {MAPS}?{query}")).await;
    let start = tokio::time::Instant::now();
    // A change elsewhere moves the version along.
    server.check("POST /api/v1/namespaces", json!({"metadata": {"name": "b"}}), 201, json!({})).await;
    let mut seconds = Vec::new();
    while let Some(frame) = frames.next().await {
        let mark = Frames::check(Some(frame), "BOOKMARK", "");
        assert_eq!(mark["metadata"]["resourceVersion"], server.api.store().revision().to_string());
        seconds.push(start.elapsed().as_secs());
    }
    assert_eq!((seconds, start.elapsed().as_secs()), (vec![60, 120, 148], 150));

    let mut frames = Frames::open(&server, &format!("GET {MAPS}?watch=1")).await;
    let start = tokio::time::Instant::now();
    assert_eq!(frames.next().await, None);
    let lasted = start.elapsed();
    assert!(lasted >= Duration::from_secs(1800) && lasted <= Duration::from_secs(3600), "{lasted:?}");
}

#[tokio::test(start_paused = true)]
async fn forgotten_and_future_versions_are_told_410() {
    let server = Server::with(LogLimits { changes: 5, ..LogLimits::default() }).await;
    let first = make(&server, "a", "1").await;
    let from = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut slow = Frames::open(&server, &format!("GET {MAPS}?watch=1&resourceVersion={from}")).await;
    for value in 0..50 {
        label(&server, "a", &format!("v{value}")).await;
    }
    for version in [from.as_str(), "99999"] {
        let mut frames =
            Frames::open(&server, &format!("GET {MAPS}?watch=1&resourceVersion={version}")).await;
        let frame = frames.next().await.unwrap();
        assert_eq!((&frame["type"], &frame["object"]["code"]), (&json!("ERROR"), &json!(410)), "{frame:#}");
        assert_eq!(frame["object"]["reason"], "Expired");
        assert_eq!(frames.next().await, None);
    }
    // Who reads too slowly is told as well.
    let mut last = Value::Null;
    while let Some(frame) = slow.next().await {
        last = frame;
    }
    assert_eq!((&last["type"], &last["object"]["reason"]), (&json!("ERROR"), &json!("Expired")), "{last:#}");
}

#[tokio::test(start_paused = true)]
async fn watches_come_in_the_form_asked_for() {
    let server = Server::new().await;
    make(&server, "a", "1").await;
    let mut frames = Frames::open(&server, &format!("GET {MAPS}?watch=1 table")).await;
    make(&server, "b", "1").await;
    for (name, headers) in [("a", true), ("b", false)] {
        let table = frames.next().await.unwrap()["object"].clone();
        assert_eq!((&table["kind"], &table["rows"][0]["cells"][0]), (&json!("Table"), &json!(name)));
        let columns = table["columnDefinitions"].as_array().is_some_and(|columns| !columns.is_empty());
        assert_eq!(columns, headers, "{table:#}");
    }
    let mut frames = Frames::open(&server, &format!("GET {MAPS}?watch=1 metadata")).await;
    let object = Frames::check(frames.next().await, "ADDED", "a");
    assert_eq!((&object["kind"], object.get("data")), (&json!("PartialObjectMetadata"), None));
    assert_eq!(server.ask(&format!("GET {MAPS}?watch=1 yaml"), "").await.code, 406);
}

#[tokio::test(start_paused = true)]
async fn one_object_is_watched_the_old_way_and_the_new() {
    let server = Server::new().await;
    make(&server, "a", "1").await;
    make(&server, "b", "1").await;
    for line in [
        "GET /api/v1/watch/namespaces/default/configmaps/b".to_owned(),
        format!("GET {MAPS}?watch=true&fieldSelector=metadata.name%3Db"),
    ] {
        let mut frames = Frames::open(&server, &line).await;
        Frames::check(frames.next().await, "ADDED", "b");
        label(&server, "a", "2").await;
        label(&server, "b", "2").await;
        Frames::check(frames.next().await, "MODIFIED", "b");
        label(&server, "a", "1").await;
        label(&server, "b", "1").await;
    }
}
