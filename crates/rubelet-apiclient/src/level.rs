//! A value that several tasks follow. A watch wakes those who wait for it in random order; here each follower has a
//! watch of its own and they are woken in the order in which they came, so that a simulation can be replayed. Owns no
//! task and never waits. Used wherever several tasks follow one thing, here and in
//! the agent.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The value and those who follow it.
#[derive(Debug)]
pub struct Level<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    value: T,
    followers: Vec<watch::Sender<T>>,
}

impl<T: Clone> Level<T> {
    /// A value nobody follows yet.
    pub fn new(value: T) -> Self {
        Self { state: Mutex::new(State { value, followers: vec![] }) }
    }

    /// The value now.
    pub fn get(&self) -> T {
        self.lock().value.clone()
    }

    /// Follows the value from now on. Clones of the receiver share its place.
    pub fn follow(&self) -> watch::Receiver<T> {
        let mut state = self.lock();
        let sender = watch::Sender::new(state.value.clone());
        let receiver = sender.subscribe();
        state.followers.push(sender);
        receiver
    }

    /// Changes the value and tells everyone.
    pub fn update(&self, change: impl FnOnce(&mut T)) {
        let mut state = self.lock();
        let State { value, followers } = &mut *state;
        change(value);
        // Whoever is gone need not be told.
        followers.retain(|follower| follower.send(value.clone()).is_ok());
    }

    /// Replaces the value and tells everyone.
    pub fn set(&self, value: T) {
        self.update(|current| *current = value);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn followers_are_woken_in_their_order() {
        let level = Level::new(0);
        let woken = Arc::new(Mutex::new(Vec::new()));
        for name in 0..20 {
            let (mut follower, woken) = (level.follow(), woken.clone());
            tokio::spawn(async move {
                while follower.changed().await.is_ok() {
                    woken.lock().unwrap().push((name, *follower.borrow_and_update()));
                }
            });
        }
        drop(level.follow());
        for value in 1..4 {
            tokio::task::yield_now().await;
            level.set(value);
            tokio::task::yield_now().await;
        }
        let expected: Vec<(i32, i32)> =
            (1..4).flat_map(|value| (0..20).map(move |name| (name, value))).collect();
        assert_eq!(*woken.lock().unwrap(), expected);
        assert_eq!(level.lock().followers.len(), 20);
    }
}
