//! What hangs costs little and is named, and nobody else notices.

use std::sync::mpsc::{Sender, channel};

use futures::FutureExt as _;

use super::*;

/// An operation that does not answer before its sender is dropped.
fn hang() -> (Sender<()>, impl FnOnce() -> io::Result<()> + Send + 'static) {
    let (release, held) = channel::<()>();
    (release, move || {
        let _ = held.recv();
        Ok(())
    })
}

async fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        std::thread::yield_now();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn errors_name_the_operation() {
    let pool = FsPool::new(2);
    let error = pool.run("read /nowhere", || std::fs::read("/nowhere/at/all")).await.unwrap_err();
    assert_eq!(error.to_string(), "read /nowhere");
    assert_eq!(pool.run("add", || Ok(1 + 1)).await.unwrap(), 2);
}

#[tokio::test]
async fn a_panic_stays_in_the_pool() {
    let pool = FsPool::new(1);
    let error = pool.run("boom", || -> io::Result<()> { panic!("on purpose") }).await.unwrap_err();
    assert!(matches!(error, FsError::Bug { .. }));
    assert_eq!(pool.run("still works", || Ok(7)).await.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn what_hangs_costs_one_thread() {
    let pool = FsPool::new(2);
    let (release, held) = hang();
    // A blocking thread keeps the paused clock from moving by itself.
    let (first, ()) = tokio::join!(pool.run("stat /dead", held), tokio::time::advance(DEADLINE * 2));
    assert!(matches!(first, Err(FsError::Timeout { .. })), "{first:?}");
    for _ in 0..5 {
        assert!(matches!(pool.run("stat /dead", || Ok(())).await, Err(FsError::StillHangs { .. })));
    }
    assert_eq!(pool.run("other", || Ok(1)).await.unwrap(), 1);
    assert_eq!(pool.hanging(), ["stat /dead"]);
    drop(release);
    until(|| pool.hanging().is_empty()).await;
    pool.run("stat /dead", || Ok(())).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_hung_and_panicked_may_be_tried_again() {
    let pool = FsPool::new(2);
    let (release, held) = channel::<()>();
    let hang = pool.run("stat /dead", move || -> io::Result<()> {
        let _ = held.recv();
        panic!("on purpose")
    });
    let (first, ()) = tokio::join!(hang, tokio::time::advance(DEADLINE * 2));
    assert!(matches!(first, Err(FsError::Timeout { .. })), "{first:?}");
    drop(release);
    until(|| pool.hanging().is_empty()).await;
    assert_eq!(pool.run("stat /dead", || Ok(1)).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_place_that_hangs_has_few_threads_and_a_name_and_is_left_alone() {
    let pool = FsPool::new(4);
    let (dead, well) = (Path::new("/pods/u1/volumes/dead"), Path::new("/pods/u2/volumes/well"));
    let (releases, held): (Vec<_>, Vec<_>) = (0..20).map(|_| hang()).unzip();
    let mut asked: Vec<_> =
        held.into_iter().map(|held| Box::pin(pool.run_in(dead, "look at dead", held))).collect();
    for one in &mut asked {
        assert!(one.now_or_never().is_none());
    }
    // Two are in there, and the pool is not full: nobody waits for a deadline.
    assert_eq!(pool.run_in(well, "look at well", || Ok(1)).await.unwrap(), 1);
    assert!(!pool.hangs(dead));
    let (all, ()) = tokio::join!(futures::future::join_all(asked), tokio::time::advance(DEADLINE * 2));
    let timeouts = all.iter().filter(|one| matches!(one, Err(FsError::Timeout { .. }))).count();
    let refused = all.iter().filter(|one| matches!(one, Err(FsError::StillHangs { .. }))).count();
    assert_eq!((timeouts, refused), (PER_PLACE, 20 - PER_PLACE));
    assert!(pool.hangs(dead) && pool.hangs(&dead.join("below")) && pool.hangs(Path::new("/pods/u1")));
    assert!(!pool.hangs(well) && !pool.hangs(Path::new("/pods/u1/volumes/deadly")));
    let refused = pool.run_in(dead, "measure dead", || Ok(())).await;
    assert!(matches!(refused, Err(FsError::StillHangs { .. })), "{refused:?}");
    drop(releases);
    until(|| !pool.hangs(dead)).await;
    pool.run_in(dead, "measure dead", || Ok(())).await.unwrap();
    assert!(pool.places.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_takes_long_or_is_given_up_leaves_the_pool_to_others() {
    let pool = FsPool::new(1);
    let (release_long, long) = hang();
    let (release_left, left) = hang();
    let long = pool.run_in(Path::new("/a"), "long", long);
    let others = async {
        tokio::time::advance(PATIENCE * 2).await;
        {
            let mut left = Box::pin(pool.run_in(Path::new("/b"), "left", left));
            assert!((&mut left).now_or_never().is_none());
        }
        assert_eq!(pool.run("other", || Ok(1)).await.unwrap(), 1);
        drop((release_long, release_left));
    };
    let (long, ()) = tokio::join!(long, others);
    long.unwrap();
    until(|| pool.places.is_empty()).await;
}
