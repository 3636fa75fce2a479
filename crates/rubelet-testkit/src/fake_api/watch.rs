//! Open watches in hand: the engine's streams, with what tests do to them between two frames.
//!
//! A stream is the engine's until a test meddles. Then what the engine has told so far is taken first, so that an end,
//! a break or garbage comes behind it as on a connection.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::stream;
use http::Response;
use hyper::body::Body as _;
use rubelet_apimachinery::status;
use rubelet_localapi::node::Body;
use serde_json::json;

use super::body::{self, Disconnected, ResponseBody};
use super::fault::Failure;
use super::request::ApiRequest;
use super::{FakeApi, Inner};

/// What a watch is told next.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// Bytes, whatever they mean.
    Bytes(Bytes),
    /// The stream ends as if the server had closed it.
    End,
    /// The connection breaks.
    Reset,
    /// Nothing more is told, ever: the other end believes in a connection that is no more.
    Silence,
}

impl Item {
    /// A frame nobody can read.
    pub(crate) fn garbage() -> Self {
        const GARBAGE: &[u8] =
            b"{\"type\":\"MODIFIED\",\"object\":{\"kind\":\n\x00\xff<html>garbage</html>\n";
        Self::Bytes(Bytes::from_static(GARBAGE))
    }

    /// The frame that says that a version is forgotten.
    pub(crate) fn expiry(version: u64) -> Self {
        let frame = json!({"type": "ERROR", "object": status::expired(version, version + 1).body()});
        Self::Bytes(format!("{frame}\n").into())
    }
}

/// A watch that a client has.
pub(crate) struct Open {
    pub(crate) user: String,
    pub(crate) resource: String,
    stream: Arc<Mutex<Stream>>,
}

struct Stream {
    /// Where frames come from; `None` when nothing comes any more.
    engine: Option<Body>,
    /// What is to be told before that.
    queue: VecDeque<Item>,
    waker: Option<Waker>,
}

impl Open {
    /// Queues items behind what the engine has told so far.
    pub(crate) fn tell(&self, items: impl IntoIterator<Item = Item>) {
        let waker = {
            let mut stream = lock(&self.stream);
            let mut context = Context::from_waker(Waker::noop());
            while let Some(Poll::Ready(item)) =
                stream.engine.as_mut().map(|engine| next(engine, &mut context))
            {
                stream.push(item);
            }
            for item in items {
                stream.push(item);
            }
            stream.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

fn lock(stream: &Mutex<Stream>) -> MutexGuard<'_, Stream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The engine's next frame, or its end.
fn next(engine: &mut Body, context: &mut Context<'_>) -> Poll<Item> {
    loop {
        return match Pin::new(&mut *engine).poll_frame(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(Item::End),
            Poll::Ready(Some(Err(_))) => Poll::Ready(Item::Reset),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(bytes) => Poll::Ready(Item::Bytes(bytes)),
                // Trailers, of which there are none.
                Err(_) => continue,
            },
        };
    }
}

impl Stream {
    fn push(&mut self, item: Item) {
        // Behind an end there is nothing.
        if self.queue.back().is_some_and(|last| !matches!(last, Item::Bytes(_))) {
            return;
        }
        if !matches!(item, Item::Bytes(_)) {
            self.engine = None;
        }
        self.queue.push_back(item);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Item> {
        // Silence stays where it is.
        if !matches!(self.queue.front(), Some(Item::Silence))
            && let Some(item) = self.queue.pop_front()
        {
            return Poll::Ready(item);
        }
        let polled = self.engine.as_mut().map_or(Poll::Pending, |engine| next(engine, context));
        if polled.is_pending() {
            self.waker = Some(context.waker().clone());
        }
        polled
    }
}

/// Forgets the watch when its stream is dropped.
struct Guard {
    api: Weak<Inner>,
    id: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(api) = self.api.upgrade() else { return };
        // Dropped after the lock is given back: the engine's stream goes with it.
        let _open = api.state().watches.remove(&self.id);
    }
}

impl FakeApi {
    /// Takes a watch of the engine in hand, with what a fault does to it from its start.
    pub(crate) fn follow(
        &self,
        asked: &ApiRequest,
        response: Response<Body>,
        failure: Option<&Failure>,
    ) -> Response<ResponseBody> {
        let (parts, engine) = response.into_parts();
        let stream = Stream { engine: Some(engine), queue: VecDeque::new(), waker: None };
        let stream = Arc::new(Mutex::new(stream));
        let open =
            Open { user: asked.user.clone(), resource: asked.resource.clone(), stream: stream.clone() };
        match failure {
            Some(Failure::Garbage) => open.tell([Item::garbage()]),
            Some(Failure::CloseWatch) => open.tell([Item::End]),
            Some(Failure::CutBody | Failure::ResetAfter) => open.tell([Item::Reset]),
            Some(Failure::Expire) => {
                open.tell([Item::expiry(self.inner.engine.store().revision()), Item::End]);
            }
            Some(Failure::HalfOpen) => open.tell([Item::Silence]),
            _ => {}
        }
        let guard = {
            let mut state = self.inner.state();
            let id = state.next_watch;
            state.next_watch += 1;
            state.watches.insert(id, open);
            Guard { api: Arc::downgrade(&self.inner), id }
        };
        let slow = match failure {
            Some(Failure::SlowBody(pause)) => Some(*pause),
            _ => None,
        };
        let frames = stream::unfold(Some((stream, guard, slow)), |state| async move {
            let (stream, guard, slow) = state?;
            if let Some(pause) = slow {
                tokio::time::sleep(pause).await;
            }
            match std::future::poll_fn(|context| lock(&stream).poll(context)).await {
                Item::Bytes(bytes) => Some((Ok(bytes), Some((stream, guard, None)))),
                Item::Reset => Some((Err(Disconnected), None)),
                Item::End | Item::Silence => None,
            }
        });
        Response::from_parts(parts, body::streamed(frames))
    }
}
