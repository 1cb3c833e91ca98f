//! What a plugin writes: the handshake line, and everything else as lines to the host's sink.
//!
//! Pipes are drained for as long as the plugin lives, whatever comes out of them, so that a plugin
//! never blocks on writing and nothing that it writes can stop the host.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::error::{PluginError, Trouble, one_line};
use super::log::LogEntry;
use super::runner::Pipe;
use crate::channel::Channel;
use crate::handshake::HandshakeLine;
use crate::services::StdioData;
use crate::services::grpc_stdio_client::GrpcStdioClient;
use crate::services::stdio_data::Channel as StdioChannel;

/// Longest piece handed on as one line; a longer line comes in pieces.
const MAX_LINE: usize = 64 * 1024;
/// How long the last lines of a plugin that has ended are waited for.
const DRAIN: Duration = Duration::from_millis(200);
/// Bytes to make room for before reading.
const READ: usize = 8 * 1024;
/// Most bytes on stdout before the handshake.
const MAX_NOISE: usize = 64 * 1024;
/// Lines kept for error messages.
const TAIL_LINES: usize = 6;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The plugin's stdout, on which nothing but the handshake should come.
    Stdout,
    /// The plugin's stderr.
    Stderr,
    /// What the author's code printed, streamed over the connection (`GRPCStdio`).
    Stdio,
}

/// Gets each line that a plugin writes, without its newline. It must not block.
pub type LineSink = Arc<dyn Fn(Source, &[u8]) + Send + Sync>;

/// Where a plugin's lines go.
#[derive(Clone)]
struct Lines {
    sink: LineSink,
    tail: Arc<Mutex<VecDeque<String>>>,
}

/// A plugin's output.
pub(super) struct Output {
    lines: Lines,
    stdout: Option<LineReader>,
    draining: Vec<JoinHandle<()>>,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Output")
    }
}

impl Output {
    pub(super) fn attach(stdout: Pipe, stderr: Pipe, sink: LineSink) -> Self {
        let lines = Lines { sink, tail: Arc::default() };
        let stderr = LineReader::new(stderr);
        let draining = vec![tokio::spawn(stderr.drain(Source::Stderr, lines.clone()))];
        Self { lines, stdout: Some(LineReader::new(stdout)), draining }
    }

    /// Reads stdout up to the handshake line; other lines go where all lines go. Cancelling it
    /// loses nothing that matters: the process is killed then.
    pub(super) async fn handshake(&mut self) -> Result<HandshakeLine, Trouble> {
        let mut stdout = self.stdout.take().ok_or(Trouble::NoHandshake)?;
        let mut noise = 0;
        loop {
            let Some(line) = stdout.next().await else { return Err(Trouble::NoHandshake) };
            if HandshakeLine::is_candidate(&line) {
                let handshake = HandshakeLine::parse(&line)?;
                self.draining.push(tokio::spawn(stdout.drain(Source::Stdout, self.lines.clone())));
                return Ok(handshake);
            }
            self.lines.take(Source::Stdout, &line);
            noise += line.len() + 1;
            if noise > MAX_NOISE {
                return Err(Trouble::Noise(MAX_NOISE));
            }
        }
    }

    /// Takes what a Go plugin prints, too: it comes as a stream over the connection. Never awaited:
    /// the call is answered with the first piece, which may never come.
    pub(super) fn stream(&mut self, channel: Channel) {
        let lines = self.lines.clone();
        self.draining.push(tokio::spawn(async move {
            let mut client = GrpcStdioClient::new(channel);
            // Older plugins have no such service.
            let Ok(answer) = client.stream_stdio(()).await else { return };
            let mut pieces = answer.into_inner();
            // Each channel has lines of its own.
            let mut cutters: [LineCutter; 2] = Default::default();
            while let Ok(Some(StdioData { channel, data })) = pieces.message().await {
                let cutter = &mut cutters[usize::from(channel == StdioChannel::Stderr as i32)];
                cutter.push(&data);
                while let Some(line) = cutter.next() {
                    lines.take(Source::Stdio, &line);
                }
            }
            let rests = cutters.into_iter().filter_map(LineCutter::rest);
            rests.for_each(|line| lines.take(Source::Stdio, &line));
        }));
    }

    /// Waits a moment for the last lines of a process that has ended.
    pub(super) async fn drain(&mut self) {
        let deadline = Instant::now() + DRAIN;
        for task in &mut self.draining {
            // A descendant may hold the pipe open.
            let _ = tokio::time::timeout_at(deadline, task).await;
        }
        self.abort();
    }

    fn abort(&mut self) {
        self.draining.drain(..).for_each(|task| task.abort());
    }

    /// Joins a trouble with the last lines of a plugin that has ended.
    pub(super) async fn explain(&mut self, trouble: Trouble) -> PluginError {
        self.drain().await;
        self.so_far(trouble)
    }

    /// Joins a trouble with the last lines that are here already.
    pub(super) fn so_far(&self, trouble: Trouble) -> PluginError {
        let tail = self.lines.tail.lock().unwrap_or_else(PoisonError::into_inner);
        PluginError { trouble, last_lines: tail.iter().cloned().collect() }
    }
}

/// What outlives the plugin and holds its pipes is not its output any more.
impl Drop for Output {
    fn drop(&mut self) {
        self.abort();
    }
}

impl Lines {
    fn take(&self, source: Source, line: &[u8]) {
        (self.sink)(source, line);
        let text = match LogEntry::parse(line) {
            Some(entry) => one_line(&entry.to_string()),
            None => one_line(&String::from_utf8_lossy(line)),
        };
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text);
    }
}

/// Reads a pipe line by line.
struct LineReader {
    pipe: Pipe,
    cutter: LineCutter,
    ended: bool,
}

impl LineReader {
    fn new(pipe: Pipe) -> Self {
        Self { pipe, cutter: LineCutter::default(), ended: false }
    }

    /// The next line, or piece of an overlong one; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.ended {
            if let Some(line) = self.cutter.next() {
                return Some(line);
            }
            self.cutter.buffer.reserve(READ);
            self.ended = !matches!(self.pipe.read_buf(&mut self.cutter.buffer).await, Ok(1..));
        }
        self.cutter.next().or_else(|| std::mem::take(&mut self.cutter).rest())
    }

    async fn drain(mut self, source: Source, lines: Lines) {
        while let Some(line) = self.next().await {
            lines.take(source, &line);
        }
    }
}

/// Cuts bytes into lines of a bounded length.
#[derive(Debug, Default)]
pub(crate) struct LineCutter {
    buffer: BytesMut,
    /// Bytes of it that hold no newline.
    scanned: usize,
}

impl LineCutter {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next line without its newline, or a piece of [`MAX_LINE`] bytes of an overlong one.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let newline = self.buffer[self.scanned..].iter().position(|&b| b == b'\n');
        let at = newline.map(|at| self.scanned + at);
        let (end, skip) = match at {
            Some(at) if at <= MAX_LINE => (at, 1),
            _ if self.buffer.len() >= MAX_LINE => (MAX_LINE, 0),
            _ => {
                self.scanned = self.buffer.len();
                return None;
            }
        };
        self.scanned = 0;
        let line = self.buffer.split_to(end).freeze();
        self.buffer.advance(skip);
        Some(line)
    }

    /// What is left at the end.
    pub(crate) fn rest(self) -> Option<Bytes> {
        (!self.buffer.is_empty()).then(|| self.buffer.freeze())
    }
}

/// Cuts pieces of output as they come into lines.
#[cfg(any(test, fuzzing))]
#[allow(unreachable_pub)]
pub fn cut_lines(pieces: &[&[u8]]) -> Vec<Bytes> {
    let (mut cutter, mut lines) = (LineCutter::default(), Vec::new());
    for piece in pieces {
        cutter.push(piece);
        lines.extend(std::iter::from_fn(|| cutter.next()));
    }
    lines.extend(cutter.rest());
    lines
}

#[cfg(test)]
mod tests {
    use super::{cut_lines as cut, *};

    #[test]
    fn lines_come_out_as_they_went_in() {
        assert_eq!(cut(&[b"a\n\nb", b"c", b"\nd"]), [&b"a"[..], b"", b"bc", b"d"]);
        assert_eq!(cut(&[b"a\n"]), ["a"]);
        assert!(cut(&[b""]).is_empty());
    }

    #[test]
    fn overlong_lines_come_in_pieces() {
        let long = vec![b'x'; 70_000];
        let lines = cut(&[&long, b"\nnext\n"]);
        assert_eq!(lines, [&long[..MAX_LINE], &long[MAX_LINE..], b"next"]);
        let exact = vec![b'y'; MAX_LINE];
        assert_eq!(cut(&[&exact, b"\n"]).concat(), exact);
    }
}
