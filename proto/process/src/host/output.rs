//! What a plugin writes: the handshake line, and everything else as lines to the host's sink.
//!
//! Pipes are drained for as long as the plugin lives, whatever comes out of them, so that a plugin
//! never blocks on writing and nothing that it writes can stop the host.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::error::{PluginError, Trouble};
use crate::handshake::HandshakeLine;
use crate::services::StdioData;
use crate::services::grpc_stdio_client::GrpcStdioClient;
use crate::services::stdio_data::Channel as StdioChannel;

/// Longest piece handed on as one line; a longer line comes in pieces.
const MAX_LINE: usize = 64 * 1024;
/// Most bytes on stdout before the handshake.
const MAX_NOISE: usize = 64 * 1024;
/// Lines kept for error messages, and how much of each.
const TAIL_LINES: usize = 6;
const TAIL_WIDTH: usize = 300;

/// Gets each line that a plugin writes, without its newline. It must not block.
pub type LineSink = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// The reading ends of a plugin's stdout and stderr.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) stdout: Receiver,
    pub(super) stderr: Receiver,
}

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
    pub(super) fn attach(pipes: Pipes, sink: LineSink) -> Self {
        let lines = Lines { sink, tail: Arc::default() };
        let stderr = LineReader::new(pipes.stderr);
        let draining = vec![tokio::spawn(stderr.drain(lines.clone()))];
        Self { lines, stdout: Some(LineReader::new(pipes.stdout)), draining }
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
                self.draining.push(tokio::spawn(stdout.drain(self.lines.clone())));
                return Ok(handshake);
            }
            self.lines.take(&line);
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
            let mut open: [Vec<u8>; 2] = Default::default();
            while let Ok(Some(StdioData { channel, data })) = pieces.message().await {
                let open = &mut open[usize::from(channel == StdioChannel::Stderr as i32)];
                open.extend_from_slice(&data);
                while let Some(at) = open.iter().position(|&b| b == b'\n').or(long_enough(open)) {
                    let rest = open.split_off((at + 1).min(open.len()));
                    let line = std::mem::replace(open, rest);
                    lines.take(line.strip_suffix(b"\n").unwrap_or(&line));
                }
            }
            open.iter().filter(|line| !line.is_empty()).for_each(|line| lines.take(line));
        }));
    }

    /// Waits a moment for the last lines of a process that has ended.
    pub(super) async fn drain(&mut self) {
        for task in self.draining.drain(..) {
            // A descendant may hold the pipe open.
            let _ = tokio::time::timeout(Duration::from_millis(200), task).await;
        }
    }

    /// Joins a trouble with the last lines.
    pub(super) async fn explain(&mut self, trouble: Trouble) -> PluginError {
        self.drain().await;
        let tail = self.lines.tail.lock().unwrap_or_else(PoisonError::into_inner);
        PluginError { trouble, last_lines: tail.iter().cloned().collect() }
    }
}

/// Where a line that is too long is cut.
fn long_enough(open: &[u8]) -> Option<usize> {
    (open.len() >= MAX_LINE).then_some(MAX_LINE)
}

impl Lines {
    fn take(&self, line: &[u8]) {
        (self.sink)(line);
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(String::from_utf8_lossy(line).chars().take(TAIL_WIDTH).collect());
    }
}

/// Cuts a pipe into lines of a bounded length.
struct LineReader {
    pipe: Receiver,
    buffer: Vec<u8>,
    scanned: usize,
}

impl LineReader {
    fn new(pipe: Receiver) -> Self {
        Self { pipe, buffer: Vec::new(), scanned: 0 }
    }

    /// The next line, or piece of an overlong one, without its newline; `None` at the end.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer[self.scanned..].iter().position(|&b| b == b'\n') {
                let rest = self.buffer.split_off(self.scanned + at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                self.scanned = 0;
                line.pop();
                return Some(line);
            }
            self.scanned = self.buffer.len();
            let full = self.buffer.len() >= MAX_LINE;
            let ended = !full && !matches!(self.pipe.read_buf(&mut self.buffer).await, Ok(1..));
            if full || ended {
                self.scanned = 0;
                let line = std::mem::take(&mut self.buffer);
                return (!line.is_empty()).then_some(line);
            }
        }
    }

    async fn drain(mut self, lines: Lines) {
        while let Some(line) = self.next().await {
            lines.take(&line);
        }
    }
}
