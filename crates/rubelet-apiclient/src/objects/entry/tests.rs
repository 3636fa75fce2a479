//! What watch and GETs say of one object, in orders that only several threads or several API servers bring about.

use k8s_openapi::api::core::v1::ConfigMap;

use super::*;
use crate::watch::WatchProblem;

fn object(version: &str) -> Arc<ConfigMap> {
    let metadata = ObjectMeta {
        name: Some("a".to_owned()),
        uid: Some("u".to_owned()),
        resource_version: Some(version.to_owned()),
        ..ObjectMeta::default()
    };
    Arc::new(ConfigMap { metadata, ..ConfigMap::default() })
}

fn set(versions: &[&str]) -> Update<ConfigMap> {
    Update::Set { items: versions.iter().map(|version| object(version)).collect(), bad: Vec::new() }
}

fn held() -> Entry<ConfigMap> {
    let entry = Entry::new("n", "a");
    entry.hold(&PodUid::from("p"));
    entry
}

fn show(verdict: Verdict<ConfigMap>) -> String {
    match verdict {
        Verdict::Answer(Ok(object)) => object.metadata.resource_version.clone().unwrap_or_default(),
        Verdict::Answer(Err(error)) => error.to_string(),
        Verdict::Wait => "wait".to_owned(),
        Verdict::Fetch => "fetch".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_version_that_comes_late_changes_nothing() {
    let (entry, now) = (held(), Instant::now());
    assert_eq!(show(entry.verdict()), "wait");
    entry.learn(&Ok(object("10")), now);
    assert_eq!(show(entry.verdict()), "10");
    entry.observe(set(&["8"]), now);
    assert_eq!(show(entry.verdict()), "10");
    entry.observe(Update::Deleted { object: object("9") }, now);
    assert_eq!(show(entry.verdict()), "10");
    entry.observe(Update::Applied(object("11")), now);
    entry.learn(&Ok(object("10")), now);
    assert_eq!(show(entry.verdict()), "11");
    // Much later it is no race any more but another history.
    entry.observe(set(&["3"]), now + OVERTAKING);
    assert_eq!(show(entry.verdict()), "3");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_out_of_date_when_it_is_given_pokes() {
    let (entry, now) = (held(), Instant::now());
    entry.observe(set(&["1"]), now);
    assert!(entry.observe(Update::Applied(object("2")), now).is_empty(), "nobody has asked yet");
    assert_eq!(entry.note_answer(&Ok(object("1"))).len(), 1);
    assert!(entry.note_answer(&Ok(object("2"))).is_empty());
    assert_eq!(entry.observe(Update::Applied(object("3")), now).len(), 1);
    assert!(entry.observe(Update::Applied(object("3")), now).is_empty());
}

#[tokio::test(start_paused = true)]
async fn failures_poke_once_something_is_known_and_never_in_circles() {
    let (entry, now) = (held(), Instant::now());
    let failed = Err(ObjectError::Failed("away".to_owned()));
    assert!(entry.note_answer(&failed).is_empty());
    // A list says it is missing; the GET that should make sure fails.
    assert!(entry.observe(set(&[]), now).is_empty());
    assert_eq!(show(entry.verdict()), "fetch");
    assert!(entry.learn(&failed, now).is_empty());
    assert_eq!(entry.after_turn(now), Some(failed.clone()));
    assert!(entry.note_answer(&failed).is_empty());
    assert_eq!(entry.observe(Update::Applied(object("1")), now).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_known_counts_only_while_nobody_answers() {
    let problem = |kind| {
        let (what, message) = (String::new(), String::new());
        Update::Problem(WatchProblem { kind, what, message, retry_in: Duration::ZERO })
    };
    let (entry, now) = (held(), Instant::now());
    entry.observe(set(&["1"]), now);
    for (kind, expected) in [
        (ProblemKind::Unreachable, "1"),
        (ProblemKind::Stalled, "1"),
        (ProblemKind::Forbidden, "fetch"),
        (ProblemKind::ServerFault, "fetch"),
    ] {
        entry.observe(problem(kind), now);
        assert_eq!(show(entry.verdict()), expected, "{kind:?}");
    }
    entry.observe(Update::Recovered, now);
    assert_eq!(show(entry.verdict()), "1");
}
