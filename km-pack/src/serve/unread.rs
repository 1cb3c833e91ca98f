//! Bodies that are not read to their end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, Version, header};
use hyper::body::{Body, Frame, SizeHint};

/// A body that remembers whether it was read to its end.
pub(super) struct Watched<B> {
    body: B,
    unread: Arc<AtomicBool>,
}

/// Tells what became of a body.
#[derive(Debug)]
pub(super) struct Rest {
    unread: Arc<AtomicBool>,
    version: Version,
}

/// The body of a request of this version, and what tells of its rest.
pub(super) fn watch<B: Body>(body: B, version: Version) -> (Watched<B>, Rest) {
    let unread = Arc::new(AtomicBool::new(!body.is_end_stream()));
    (Watched { body, unread: Arc::clone(&unread) }, Rest { unread, version })
}

impl Rest {
    /// An answer to what was not read is the connection's last one. It says so, or the client would send its
    /// next request into a connection that is closed and never know whether it was heard.
    pub(super) fn announce_close(&self, headers: &mut HeaderMap) {
        if self.unread.load(Ordering::Acquire) && self.version < Version::HTTP_2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.unread.store(false, Ordering::Release);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
