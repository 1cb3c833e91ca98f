//! An answer to a download, as it comes, and no slower than it may.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::CONTENT_RANGE;
use reqwest::{RequestBuilder, Response, StatusCode};
use tokio::time::{Instant, timeout_at};

use super::rate::MinimumRate;
use crate::api::innermost;

/// Most characters of what another side says that are repeated.
const MAX_WORDS: usize = 200;

/// Why a place did not give what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    /// For people.
    pub(super) why: String,
    pub(super) cause: Cause,
}

/// What to think of a place that did not give what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A connection broke, a server is being started again: it may be well in a moment.
    Passing,
    /// It takes its time: asking it for the rest would take as long.
    Slow,
    /// It has something else, or nothing.
    Lasting,
    /// What it gave is not what was signed.
    Wrong,
}

impl Broken {
    pub(super) fn new(cause: Cause, why: impl fmt::Display) -> Self {
        let why = km_cli::printable_line(&why.to_string()).chars().take(MAX_WORDS).collect();
        Self { why, cause }
    }

    /// By an answer that is no success.
    pub(super) fn status(status: StatusCode) -> Self {
        let is_passing = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        Self::new(if is_passing { Cause::Passing } else { Cause::Lasting }, status)
    }
}

/// What comes of one request.
#[derive(Debug)]
pub(super) struct Body {
    response: Response,
    rate: MinimumRate,
    window: Duration,
}

impl Body {
    /// Asks, and waits for the answer to begin. Its first bytes are part of the first window.
    pub(super) async fn open(request: RequestBuilder, window: Duration) -> Result<Self, Broken> {
        let rate = MinimumRate::new(window, Instant::now());
        let response = timeout_at(rate.deadline(), request.send())
            .await
            .map_err(|_| Broken::new(Cause::Slow, format_args!("no answer within {window:?}")))?
            .map_err(|e| Broken::new(Cause::Passing, innermost(&e)))?;
        Ok(Self { response, rate, window })
    }

    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// How long it says that it is.
    pub(super) fn length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// Where the range begins that it says it is.
    pub(super) fn range_start(&self) -> Option<u64> {
        let range = self.response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
        let (start, _) = range.trim().strip_prefix("bytes ")?.split_once('-')?;
        start.trim().parse().ok()
    }

    /// The next bytes; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        let slow =
            |_| Broken::new(Cause::Slow, format_args!("too slow: less than 1 KiB/s for {:?}", self.window));
        let piece = timeout_at(self.rate.deadline(), self.response.chunk())
            .await
            .map_err(slow)?
            .map_err(|e| Broken::new(Cause::Passing, format_args!("it broke off: {}", innermost(&e))))?;
        if let Some(piece) = &piece {
            self.rate.received(piece.len(), Instant::now());
        }
        Ok(piece)
    }

    /// All of it, if it is no more than this.
    pub(super) async fn read(mut self, most: usize) -> Result<Vec<u8>, Broken> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.next().await? {
            if bytes.len() + piece.len() > most {
                return Err(Broken::new(Cause::Lasting, format_args!("longer than {most} bytes")));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}
