//! What a connection has to do, and since when it does nothing.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, sleep, sleep_until};

/// How long a connection may have nothing to do, or take nothing of an answer.
const IDLE: Duration = Duration::from_secs(60);
/// How long a connection without a request is kept, once the server is to stop, for what may be on its way.
const LEAVE: Duration = Duration::from_millis(500);

/// What a connection has to do. hyper bounds the head of a request, but neither the wait for the bytes that
/// tell HTTP/2 from HTTP/1.1 nor a client that takes no answer.
#[derive(Debug)]
pub(super) struct Activity {
    /// Requests that have no answer yet; they have a deadline of their own.
    running: AtomicUsize,
    /// Answers that are being sent.
    sending: AtomicUsize,
    /// Until when it may do nothing.
    until: Mutex<Instant>,
}

impl Activity {
    /// A connection that has so long for its first request.
    pub(super) fn begin(time: Duration) -> Arc<Self> {
        let until = Mutex::new(Instant::now() + time);
        Arc::new(Self { running: AtomicUsize::new(0), sending: AtomicUsize::new(0), until })
    }

    /// Done when nothing has been done for too long.
    pub(super) async fn idle(&self) {
        loop {
            let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            match self.running.load(Ordering::Acquire) {
                0 if until <= now => return,
                0 => sleep_until(until).await,
                _ => sleep(IDLE).await,
            }
        }
    }

    /// Done when no request runs, now and a moment later: hyper would wait for the rest of a head.
    pub(super) async fn quiet(&self) {
        let mut quiet = false;
        loop {
            sleep(LEAVE).await;
            let busy = self.running.load(Ordering::Acquire) + self.sending.load(Ordering::Acquire) > 0;
            if quiet && !busy {
                return;
            }
            quiet = !busy;
        }
    }

    fn touch(&self) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + IDLE;
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Running(Arc<Activity>);

impl Running {
    pub(super) fn begin(activity: &Arc<Activity>) -> Self {
        activity.running.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(activity))
    }

    /// The answer is there, and has this body.
    pub(super) fn send<B>(self, body: B) -> Sending<B> {
        self.0.sending.fetch_add(1, Ordering::AcqRel);
        Sending { body, activity: Arc::clone(&self.0) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.touch();
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The body of an answer. Each time that the connection takes some of it, it has done something.
pub(super) struct Sending<B> {
    body: B,
    activity: Arc<Activity>,
}

impl<B> Drop for Sending<B> {
    fn drop(&mut self) {
        self.activity.touch();
        self.activity.sending.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Sending<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.activity.touch();
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
