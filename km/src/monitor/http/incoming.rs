//! One side's bytes as they come: heads, and bodies that are forwarded piece by piece.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::super::tap::TapStream;
use super::body::{Body, Malformed};

/// Most that is read at once, and most that is held of a body.
const CHUNK: usize = 64 * 1024;
/// Content shorter than this is copied, and does not keep the whole buffer.
const SHORT: usize = CHUNK / 4;

/// Longest head.
pub(super) const LONGEST_HEAD: usize = 128 * 1024;

/// What has come of one side, and is not taken yet.
#[derive(Debug)]
pub(super) struct Incoming<R> {
    from: R,
    waiting: BytesMut,
}

/// Why there is no head.
#[derive(Debug)]
pub(super) enum NoHead {
    TooLarge,
    /// What comes is no HTTP.
    NotHttp,
    Broken,
}

/// Why a body did not pass whole.
#[derive(Debug)]
pub(super) enum Cut {
    /// It ended too early, as the end of a connection shows it.
    Ended,
    /// The connection that it came on broke, or it is not what was announced.
    Broken,
    /// Nobody takes it.
    Refused,
}

impl From<Malformed> for Cut {
    fn from(_: Malformed) -> Self {
        Self::Broken
    }
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, waiting: BytesMut::new() }
    }

    /// Waits for more; 0 at the end. Nothing is lost when this is dropped.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        self.waiting.reserve(CHUNK);
        self.from.read_buf(&mut self.waiting).await
    }

    /// Everything that waits.
    pub(super) fn take(&mut self) -> Bytes {
        self.waiting.split().freeze()
    }

    /// Waits until something is there; false at the end.
    pub(super) async fn begins(&mut self) -> Result<bool, NoHead> {
        loop {
            // Empty lines before a request are nothing.
            let empty = self.waiting.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.waiting.advance(empty);
            if !self.waiting.is_empty() {
                return Ok(true);
            }
            if self.fill().await.map_err(|_| NoHead::Broken)? == 0 {
                return Ok(false);
            }
        }
    }

    /// The next head with its empty line; none at the end.
    pub(super) async fn head(&mut self) -> Result<Option<Bytes>, NoHead> {
        if !self.begins().await? {
            return Ok(None);
        }
        if !self.waiting[0].is_ascii_uppercase() {
            return Err(NoHead::NotHttp);
        }
        let mut searched: usize = 0;
        loop {
            let end = memchr::memmem::find(&self.waiting[searched..], b"\r\n\r\n");
            if let Some(end) = end {
                return Ok(Some(self.waiting.split_to(searched + end + 4).freeze()));
            }
            searched = self.waiting.len().saturating_sub(3);
            if self.waiting.len() > LONGEST_HEAD {
                return Err(NoHead::TooLarge);
            }
            if !matches!(self.fill().await, Ok(1..)) {
                return Err(NoHead::Broken);
            }
        }
    }

    /// Forwards a head and the body after it, each piece when it comes.
    pub(super) async fn forward(
        &mut self,
        mut head: Bytes,
        mut body: Body,
        mut tap: Option<TapStream>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), Cut> {
        loop {
            let mut bytes = self.take();
            let taken = body.take(&bytes, &mut |content| copy(tap.as_ref(), &content))?;
            self.waiting = bytes.split_off(taken).into();
            if body.is_done() {
                // Before it is forwarded: a request is seen before the response to it.
                tap = None;
            }
            to.write_all_buf(&mut (&mut head).chain(bytes)).await.map_err(|_| Cut::Refused)?;
            to.flush().await.map_err(|_| Cut::Refused)?;
            if body.is_done() {
                return Ok(());
            }
            match self.fill().await {
                Ok(1..) => {}
                Ok(0) if body == Body::UntilEnd => return Ok(()),
                Ok(0) => return Err(Cut::Ended),
                Err(_) => return Err(Cut::Broken),
            }
        }
    }
}

fn copy(tap: Option<&TapStream>, content: &Bytes) {
    match tap {
        Some(tap) if content.len() < SHORT => tap.copy(&Bytes::copy_from_slice(content)),
        Some(tap) => tap.copy(content),
        None => {}
    }
}
