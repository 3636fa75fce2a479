//! Lists: pages, versions, selectors, forms.

use super::*;

async fn fill(server: &Server, count: usize) {
    for index in 0..count {
        let map = config_map(&format!("m{index:04}"), json!({"n": index.to_string()}));
        server.check(&format!("POST {MAPS}"), map, 201, json!({})).await;
    }
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn pages_are_of_one_version() {
    let server = Server::new().await;
    fill(&server, 5).await;
    let first = server.get(&format!("{MAPS}?limit=2")).await;
    assert_eq!(names(&first), ["m0000", "m0001"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    // What happens between the pages is not in them.
    server.check(&format!("DELETE {MAPS}/m0002"), Value::Null, 200, json!({})).await;
    server.check(&format!("POST {MAPS}"), config_map("m0003a", json!({})), 201, json!({})).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(names(&second), ["m0002", "m0003"]);
    assert_eq!(second["metadata"]["remainingItemCount"], 1);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let last = server.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(names(&last), ["m0004"]);
    assert!(
        last["metadata"].get("continue").is_none() && last["metadata"].get("remainingItemCount").is_none()
    );
    let all = server.get(MAPS).await;
    assert_eq!(names(&all), ["m0000", "m0001", "m0003", "m0003a", "m0004"]);
    assert_eq!((&all["kind"], all["items"][0].get("kind")), (&json!("ConfigMapList"), None));
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_page_can_be_gone_on_with_inconsistently() {
    let server = Server::new().await;
    fill(&server, 3).await;
    let first = server.get(&format!("{MAPS}?limit=1")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    server.check(&format!("POST {MAPS}"), config_map("z", json!({})), 201, json!({})).await;
    server.api.store().compact_to(server.api.store().revision()).await.unwrap();
    let line = format!("GET {MAPS}?limit=1&continue={token}");
    let gone = server.check(&line, Value::Null, 410, json!({"reason": "Expired", "code": 410})).await;
    let token = gone["metadata"]["continue"].as_str().unwrap();
    let rest = server.get(&format!("{MAPS}?continue={token}")).await;
    assert_eq!(names(&rest), ["m0001", "m0002", "z"]);
    server.check(&format!("GET {MAPS}?continue=x"), Value::Null, 400, json!({})).await;
}

#[tokio::test(start_paused = true)]
async fn versions_are_exact_or_at_least() {
    let server = Server::new().await;
    fill(&server, 1).await;
    let version = server.get(MAPS).await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    server.check(&format!("POST {MAPS}"), config_map("z", json!({})), 201, json!({})).await;
    let list = |query: String| format!("{MAPS}?resourceVersion={query}");
    let exact = server.get(&list(format!("{version}&resourceVersionMatch=Exact"))).await;
    assert_eq!((names(&exact), &exact["metadata"]["resourceVersion"]), (vec!["m0000"], &json!(version)));
    let newer = server.get(&list(format!("{version}&resourceVersionMatch=NotOlderThan"))).await;
    assert_eq!(names(&newer), ["m0000", "z"]);
    assert_eq!(names(&server.get(&list("0".into())).await), ["m0000", "z"]);
    for query in ["99999", "99999&resourceVersionMatch=Exact"] {
        let answer = server.ask(&format!("GET {}", list(query.into())), "").await;
        assert_eq!((answer.code, answer.header("retry-after")), (504, "1"));
        let expected = json!({"reason": "Timeout", "details": {"retryAfterSeconds": 1,
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]}});
        assert_eq!(holds(&answer.json(), &expected), Ok(()));
    }
    server.check(&format!("GET {}", list("x".into())), Value::Null, 400, json!({})).await;
    let line = format!("GET {MAPS}?resourceVersionMatch=Exact");
    server.check(&line, Value::Null, 422, json!({"reason": "Invalid"})).await;
    server.api.store().compact_to(server.api.store().revision()).await.unwrap();
    let line = format!("GET {}", list(format!("{version}&resourceVersionMatch=Exact")));
    server
        .check(
            &line,
            Value::Null,
            410,
            json!({
        "message": "The resourceVersion for the provided list is too old."}),
        )
        .await;
}

#[tokio::test(start_paused = true)]
async fn selectors_pick() {
    let server = Server::new().await;
    fill(&server, 3).await;
    let mut map = config_map("l", json!({}));
    map["metadata"]["labels"] = json!({"a": "b"});
    server.check(&format!("POST {MAPS}"), map, 201, json!({})).await;
    for (query, expected) in [
        ("labelSelector=a%3Db", vec!["l"]),
        ("labelSelector=!a", vec!["m0000", "m0001", "m0002"]),
        ("fieldSelector=metadata.name%3Dm0001", vec!["m0001"]),
        ("labelSelector=!a&limit=2", vec!["m0000", "m0001"]),
        ("labelSelector=a%3Db&limit=1", vec!["l"]),
    ] {
        let list = server.get(&format!("{MAPS}?{query}")).await;
        assert_eq!(names(&list), expected, "{query}");
        let continues = query == "labelSelector=!a&limit=2";
        assert_eq!(list["metadata"].get("continue").is_some(), continues, "{query}");
        // Only a list of everything knows what is left.
        assert!(list["metadata"].get("remainingItemCount").is_none());
    }
    server.check(&format!("GET {MAPS}?labelSelector=a%20b"), Value::Null, 400, json!({})).await;
    server.check(&format!("GET {MAPS}?fieldSelector=data.x%3D1"), Value::Null, 400, json!({})).await;
}

#[tokio::test(start_paused = true)]
async fn long_lists_come_in_pieces_and_are_whole() {
    let server = Server::new().await;
    let store = server.api.store();
    let text = "x".repeat(2000);
    store
        .write(move |tx| {
            for index in 0..1000 {
                let mut map = config_map(&format!("m{index:04}"), json!({"text": text}));
                map["metadata"]["namespace"] = json!("default");
                let (maps, name) = (
                    rubelet_apimachinery::kinds::find("", "v1", "configmaps").unwrap(),
                    format!("m{index:04}"),
                );
                super::super::lookup::put(tx, maps, "default", &name, &mut map)?;
            }
            Ok::<(), rubelet_apimachinery::ApiError>(())
        })
        .await
        .unwrap();
    let mut body = server.send(&format!("GET {MAPS}"), "").await.into_body();
    let mut pieces = Vec::new();
    while let Some(frame) = body.frame().await {
        pieces.push(frame.unwrap().into_data().unwrap());
        // What changes meanwhile is not seen.
        server
            .check(&format!("DELETE {MAPS}/m0{:03}", 900 + pieces.len()), Value::Null, 200, json!({}))
            .await;
    }
    assert!(pieces.len() > 10 && pieces.iter().all(|piece| piece.len() < 300_000), "{}", pieces.len());
    let list: Value = serde_json::from_slice(&pieces.concat()).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 1000);

    let left = 1000 - pieces.len();
    for (form, rows) in
        [("table", "rows"), ("metadatalist", "items"), ("yaml", "items"), ("user-agent:curl/8", "items")]
    {
        let answer = server.ask(&format!("GET {MAPS} {form}"), "").await;
        if form == "yaml" {
            assert_eq!(answer.text().matches("name: m").count(), left);
            continue;
        }
        let list = answer.json();
        assert_eq!(list[rows].as_array().unwrap().len(), left, "{form}");
        assert!(list["metadata"]["resourceVersion"].is_string(), "{form}");
    }
    let table = server.ask(&format!("GET {MAPS}?labelSelector=none table"), "").await.json();
    assert_eq!((&table["rows"], table["columnDefinitions"].is_array()), (&json!([]), true));
    let empty = server.ask("GET /api/v1/secrets user-agent:curl/8", "").await;
    assert_eq!(empty.json()["items"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn all_namespaces_are_listed_together() {
    let server = Server::new().await;
    server.check("POST /api/v1/namespaces", json!({"metadata": {"name": "b"}}), 201, json!({})).await;
    fill(&server, 1).await;
    server.check("POST /api/v1/namespaces/b/configmaps", config_map("a", json!({})), 201, json!({})).await;
    let first = server.get("/api/v1/configmaps?limit=1").await;
    assert_eq!(names(&first), ["a"]);
    let token = first["metadata"]["continue"].as_str().unwrap();
    assert_eq!(names(&server.get(&format!("/api/v1/configmaps?continue={token}")).await), ["m0000"]);
}

/// A client that gets many frames without data takes it for an attack and closes the connection.
#[tokio::test(start_paused = true)]
async fn what_a_selector_passes_over_makes_no_empty_frames() {
    let server = Server::new().await;
    for index in 0..24 {
        let mut map = config_map(&format!("m{index:02}"), json!({"n": "x".repeat(100_000)}));
        map["metadata"]["labels"] = json!({"chosen": (index % 12 == 11).to_string()});
        server.check(&format!("POST {MAPS}"), map, 201, json!({})).await;
    }
    for query in ["labelSelector=chosen%3Dtrue", "limit=2&labelSelector=chosen%3Dtrue"] {
        let mut body = server.send(&format!("GET {MAPS}?{query}"), "").await.into_body();
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(!data.is_empty());
            whole.extend_from_slice(&data);
        }
        let list: Value = serde_json::from_slice(&whole).unwrap();
        assert_eq!(names(&list), ["m11", "m23"]);
        assert!(list["metadata"].get("continue").is_none());
    }
    let list = server.get(&format!("{MAPS}?limit=1&labelSelector=chosen%3Dtrue")).await;
    assert_eq!(names(&list), ["m11"]);
    let token = list["metadata"]["continue"].as_str().unwrap();
    let rest = server.get(&format!("{MAPS}?limit=1&labelSelector=chosen%3Dtrue&continue={token}")).await;
    assert_eq!(names(&rest), ["m23"]);
}
