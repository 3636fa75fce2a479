//! What the books remember across a restart.

use super::*;
use serde_json::json;

fn pod(cpu: &str) -> Arc<Pod> {
    let spec = json!({"containers": [{"name": "app", "resources": {"requests": {"cpu": cpu}}}]});
    Arc::new(serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap())
}

async fn load(root: &Path) -> Allocations {
    Allocations::load(root, &FsPool::new(1), ResizeSettings::default(), &Metrics::new()).await
}

fn cpu_of(pod: &Pod) -> String {
    let resources = pod.spec.as_ref().unwrap().containers[0].resources.as_ref().unwrap();
    resources.requests.as_ref().unwrap()["cpu"].0.clone()
}

#[tokio::test]
async fn a_restart_knows_what_was_allocated_and_actuated() {
    let dir = tempfile::tempdir().unwrap();
    let uid = PodUid::from("u-1");
    let books = load(dir.path()).await;
    books.allocate(&uid, &pod("1"));
    let resources = pod("500m").spec.clone().unwrap().containers[0].resources.clone();
    books.actuate_container(&uid, &pod("500m"), "app", resources.as_ref());
    books.flush().await;
    let books = load(dir.path()).await;
    assert_eq!(cpu_of(&books.handed(&uid, &pod("2"))), "1");
    let actuated = books.actuated(&uid).unwrap();
    assert_eq!(actuated.containers["app"].requests.as_ref().unwrap()["cpu"].0, "500m");
    books.forget(&uid);
    assert_eq!(cpu_of(&books.handed(&uid, &pod("2"))), "2");
}

#[tokio::test]
async fn a_damaged_book_is_set_aside_and_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(ALLOCATED), "{\"data\":\"{}\",\"checksum\":1}").unwrap();
    let books = load(dir.path()).await;
    let uid = PodUid::from("u-1");
    assert_eq!(cpu_of(&books.handed(&uid, &pod("2"))), "2");
    books.allocate(&uid, &pod("2"));
    books.flush().await;
    assert_eq!(cpu_of(&load(dir.path()).await.handed(&uid, &pod("3"))), "2");
    let aside = std::fs::read_dir(dir.path()).unwrap().flatten();
    assert!(aside.into_iter().any(|entry| entry.file_name().to_string_lossy().contains("damaged")));
}

#[tokio::test]
async fn what_waits_is_news_once() {
    let dir = tempfile::tempdir().unwrap();
    let books = load(dir.path()).await;
    let uid = PodUid::from("u-1");
    let pending = |message: &str, generation| {
        Some(PendingResize { infeasible: false, message: message.to_owned(), generation: Some(generation) })
    };
    assert!(books.tell_pending(&uid, pending("no room", 2)));
    assert!(!books.tell_pending(&uid, pending("no room", 2)));
    assert!(!books.tell_pending(&uid, pending("still no room", 2)));
    assert!(books.tell_pending(&uid, pending("still no room", 3)));
    books.tell_accepted(&uid, Some(3));
    assert_eq!(books.take_news(&uid), ResizeNews { pending: None, accepted: Some(Some(3)) });
    assert_eq!(books.take_news(&uid), ResizeNews::default());
}
