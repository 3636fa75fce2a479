//! Who is told of what, when, and what it costs.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, Wake, Waker};

use super::*;

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Wakes {
    /// Waits with this watcher, which has nothing to tell.
    fn wait(self: &Arc<Self>, watcher: &mut Watcher) {
        let waker = Waker::from(self.clone());
        assert!(watcher.poll_next(&mut Context::from_waker(&waker)).is_pending());
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_watch_tells_what_it_follows_and_nothing_else() {
    let store = memory();
    let watch = |resource, namespace, name| store.watch(resource, namespace, name, 1).unwrap();
    let mut all = watch("pods", None, None);
    let mut of_namespace = watch("pods", Some("a"), None);
    let mut of_one = watch("pods", Some("a"), Some("x"));
    let mut of_name = watch("pods", None, Some("x"));
    let mut other = watch("nodes", None, None);
    put(&store, "pods/a/x", "1").await;
    put(&store, "pods/a/y", "1").await;
    put(&store, "pods/b/x", "1").await;
    put(&store, "nodes/x", "1").await;
    put(&store, "pods/a/x", "2").await;
    delete(&store, "pods/a/x").await;
    let (ax, ay, bx) = ("2 Added pods/a/x 1", "3 Added pods/a/y 1", "4 Added pods/b/x 1");
    let (changed, gone) = ("6 Modified pods/a/x 2<1", "7 Deleted pods/a/x last<2");
    assert_eq!(drain(&mut all), [ax, ay, bx, changed, gone]);
    assert_eq!(drain(&mut of_namespace), [ax, ay, changed, gone]);
    assert_eq!(drain(&mut of_one), [ax, changed, gone]);
    assert_eq!(drain(&mut of_name), [ax, bx, changed, gone]);
    assert_eq!(drain(&mut other), ["5 Added nodes/x 1"]);
    assert_eq!(store.shared.hub.sizes(), (5, 0, 0));
    // Late or early, it is the same.
    for after in 1..=7 {
        let mut late = store.watch("pods", None, None, after).unwrap();
        let expected: Vec<&str> = [ax, ay, bx, changed, gone]
            .into_iter()
            .filter(|line| line.split_once(' ').unwrap().0.parse::<u64>().unwrap() > after)
            .collect();
        assert_eq!(drain(&mut late), expected, "after {after}");
    }
    let error = store.watch("pods", None, None, 8).unwrap_err();
    assert_eq!(error.to_string(), "too large resource version: 8, current: 7");
}

#[tokio::test]
async fn a_write_wakes_only_those_it_concerns() {
    let store = memory();
    let wakes: [Arc<Wakes>; 5] = Default::default();
    let mut watchers = [
        store.watch("pods", None, None, 1).unwrap(),
        store.watch("pods", Some("a"), None, 1).unwrap(),
        store.watch("pods", Some("a"), Some("x"), 1).unwrap(),
        store.watch("pods", Some("a"), Some("y"), 1).unwrap(),
        store.watch("configmaps", None, None, 1).unwrap(),
    ];
    let mut check = async |at: &str, expected: [usize; 5]| {
        for (watcher, wakes) in watchers.iter_mut().zip(&wakes) {
            drain(watcher);
            wakes.0.store(0, Ordering::SeqCst);
            wakes.wait(watcher);
        }
        put(&store, at, "1").await;
        put(&store, at, "2").await;
        // Once, however much there is to tell.
        assert_eq!(wakes.each_ref().map(|wakes| wakes.count()), expected, "{at}");
    };
    check("pods/a/x", [1, 1, 1, 0, 0]).await;
    check("pods/a/y", [1, 1, 0, 1, 0]).await;
    check("pods/a/z", [1, 1, 0, 0, 0]).await;
    check("pods/b/x", [1, 0, 0, 0, 0]).await;
    check("configmaps/a/x", [0, 0, 0, 0, 1]).await;
    check("secrets/a/x", [0, 0, 0, 0, 0]).await;
}

#[tokio::test(start_paused = true)]
async fn watchers_are_woken_in_the_order_in_which_they_came() {
    let store = memory();
    let woken = Arc::new(Mutex::new(vec![]));
    for number in 0..30 {
        // Three ways to follow the same.
        let (namespace, name) = [(None, None), (Some("a"), None), (Some("a"), Some("x"))][number % 3];
        let mut watcher = store.watch("pods", namespace, name, 1).unwrap();
        let woken = woken.clone();
        tokio::spawn(async move {
            while let Ok(Some(event)) = watcher.next().await {
                woken.lock().unwrap().push((event.revision, number));
            }
        });
    }
    for _ in 0..3 {
        tokio::task::yield_now().await;
        put(&store, "pods/a/x", "1").await;
        tokio::task::yield_now().await;
    }
    let expected: Vec<(u64, usize)> =
        (2..5).flat_map(|revision| (0..30).map(move |number| (revision, number))).collect();
    assert_eq!(*woken.lock().unwrap(), expected);
}

#[tokio::test]
async fn events_are_shared_and_parsed_once() {
    let store = memory();
    let mut watchers = [(); 2].map(|()| store.watch("pods", None, None, 1).unwrap());
    put(&store, "pods/a/x", r#"{"n":1}"#).await;
    put(&store, "pods/a/x", r#"{"n":2}"#).await;
    put(&store, "pods/a/x", "no json").await;
    for expected in [Some(1), Some(2), None] {
        let [Ok(Some(one)), Ok(Some(two))] = [watchers[0].next().await, watchers[1].next().await] else {
            panic!("nothing is told")
        };
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!(one.selectable().map(|object| object["n"].as_i64().unwrap()), expected);
        assert_eq!(one.selectable().map(std::ptr::from_ref), two.selectable().map(std::ptr::from_ref));
        let before = one.previous_selectable().map(|object| object["n"].as_i64().unwrap());
        assert_eq!(before, [None, Some(1), Some(2)][one.revision as usize - 2]);
    }
}

#[tokio::test]
async fn memory_holds_only_what_someone_waits_for() {
    let recent = RecentLimits { events: 8, bytes: 1000 };
    let store = Store::in_memory(StoreOptions { recent, ..options() }).unwrap();
    let sizes = || store.shared.hub.sizes();
    put(&store, "pods/a/x", "1").await;
    assert_eq!(sizes(), (0, 0, 0));

    let mut quick = store.watch("pods", None, None, 2).unwrap();
    let slow = store.watch("pods", Some("a"), None, 2).unwrap();
    put(&store, "nodes/x", "1").await;
    assert_eq!(sizes(), (2, 0, 0));
    put(&store, "pods/a/y", "1234").await;
    put(&store, "pods/b/x", "1234").await;
    assert_eq!(sizes(), (2, 2, 8));
    // One of the two is the quick one's alone.
    assert_eq!(drain(&mut quick).len(), 2);
    assert_eq!(sizes(), (2, 1, 4));
    drop(slow);
    assert_eq!(sizes(), (1, 0, 0));

    // Slow ones do not hold more than the limits.
    for number in 0..100 {
        put(&store, "pods/a/y", &number.to_string()).await;
    }
    assert_eq!(sizes().1, 8);
    for number in 0..100 {
        put(&store, "pods/a/y", &format!("{number:0300}")).await;
    }
    assert_eq!(sizes(), (1, 1, 600));
    // What memory does not have is in the log.
    let lines = drain(&mut quick);
    assert_eq!(lines.len(), 200);
    assert!(lines[0].starts_with("6 Modified pods/a/y 0<1234"), "{}", lines[0]);
    assert!(lines.is_sorted_by_key(|line| line.split(' ').next().unwrap().parse::<u64>().unwrap()));
    assert_eq!(sizes(), (1, 0, 0));
    put(&store, "pods/a/y", &"x".repeat(5000)).await;
    assert_eq!(sizes(), (1, 0, 0));
    assert_eq!(drain(&mut quick).len(), 1);
}

#[tokio::test]
async fn who_is_slower_than_the_log_has_to_list_again() {
    let recent = RecentLimits { events: 2, bytes: 1000 };
    let store = Store::in_memory(StoreOptions { recent, ..options() }).unwrap();
    let mut slow = store.watch("pods", None, None, 1).unwrap();
    let mut still = store.watch("nodes", None, None, 1).unwrap();
    let mut waiting = store.watch("nodes", None, None, 1).unwrap();
    assert!(drain(&mut waiting).is_empty());
    for _ in 0..10 {
        put(&store, "pods/a/x", "1").await;
    }
    store.compact_to(5).await.unwrap();
    let compacted = "too old resource version: the oldest that can be watched is 5";
    assert_eq!(drain(&mut slow), [compacted]);
    assert_eq!(drain(&mut slow), [compacted]);
    assert_eq!(store.watch("pods", None, None, 4).unwrap_err().to_string(), compacted);
    assert_eq!(drain(&mut store.watch("pods", None, None, 5).unwrap()).len(), 6);
    // Nothing that they follow was lost.
    put(&store, "nodes/x", "1").await;
    assert_eq!(drain(&mut still), ["12 Added nodes/x 1"]);
    assert_eq!(drain(&mut waiting), ["12 Added nodes/x 1"]);
}

#[tokio::test]
async fn bookmarks_are_truthful() {
    let store = memory();
    let mut watcher = store.watch("pods", None, None, 1).unwrap();
    assert_eq!(watcher.revision(), 1);
    put(&store, "nodes/x", "1").await;
    assert_eq!(watcher.revision(), 2);
    put(&store, "pods/a/x", "1").await;
    put(&store, "nodes/x", "2").await;
    put(&store, "pods/a/x", "2").await;
    // It has not told of the change 3.
    assert_eq!(watcher.revision(), 2);
    watcher.next().await.unwrap();
    assert!((3..5).contains(&watcher.revision()));
    watcher.next().await.unwrap();
    assert_eq!(watcher.revision(), 5);
    put(&store, "nodes/x", "3").await;
    assert!(drain(&mut watcher).is_empty());
    assert_eq!(watcher.revision(), 6);
    // One that begins in the past has seen nothing yet.
    let mut late = store.watch("nodes", None, None, 1).unwrap();
    assert_eq!(late.revision(), 1);
    assert_eq!(drain(&mut late).len(), 3);
    assert_eq!(late.revision(), 6);
}

#[tokio::test]
async fn a_cancelled_wait_loses_nothing() {
    let store = memory();
    let mut watcher = store.watch("pods", None, None, 1).unwrap();
    {
        let mut next = Box::pin(watcher.next());
        assert!(futures::poll!(&mut next).is_pending());
        put(&store, "pods/a/x", "1").await;
    }
    assert_eq!(drain(&mut watcher), ["2 Added pods/a/x 1"]);
}

#[tokio::test(start_paused = true)]
async fn watches_end_with_the_store() {
    let folder = tempfile::tempdir().unwrap();
    for store in [memory(), open(folder.path())] {
        put(&store, "pods/a/x", "1").await;
        let mut behind = store.watch("pods", None, None, 1).unwrap();
        let mut watcher = store.watch("pods", None, None, 2).unwrap();
        let waiting = tokio::spawn(async move { watcher.next().await.unwrap().is_none() });
        tokio::task::yield_now().await;
        let last = store.clone();
        drop(store);
        put(&last, "nodes/x", "1").await;
        drop(last);
        assert!(waiting.await.unwrap());
        assert_eq!(drain(&mut behind), ["closed"]);
    }
}

#[test]
fn a_thousand_watches_of_single_objects_are_not_in_each_others_way() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = memory();
    let wakes: Vec<Arc<Wakes>> = (0..1000).map(|_| Arc::default()).collect();
    let mut watchers: Vec<Watcher> = (0..1000)
        .map(|number| store.watch("configmaps", Some("a"), Some(&number.to_string()), 1).unwrap())
        .collect();
    for (watcher, wakes) in watchers.iter_mut().zip(&wakes) {
        wakes.wait(watcher);
    }
    for number in (0..1000).step_by(100) {
        runtime.block_on(put(&store, &format!("configmaps/a/{number}"), "1"));
    }
    for (number, wakes) in wakes.iter().enumerate() {
        assert_eq!(wakes.count(), usize::from(number % 100 == 0), "{number}");
    }
    assert_eq!(store.shared.hub.sizes(), (1000, 10, 10));
    let mut context = Context::from_waker(Waker::noop());
    for number in (0..1000).step_by(100) {
        assert!(matches!(watchers[number].poll_next(&mut context), Poll::Ready(Ok(Some(_)))));
    }
    assert_eq!(store.shared.hub.sizes(), (1000, 0, 0));
    drop(watchers);
    assert_eq!(store.shared.hub.sizes(), (0, 0, 0));
}
