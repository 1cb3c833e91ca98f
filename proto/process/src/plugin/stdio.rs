//! What the author's code prints to stdout, on its way to the host.
//!
//! go-plugin hosts throw a plugin's raw stdout away and stop reading it at a long line; they want
//! it as a stream (`GRPCStdio`). A host of this crate reads raw output for as long as the plugin
//! lives and says so in the environment: then stdout is left where it is safest, beside stderr,
//! and a crash loses none of it.

use std::io::{self, Read as _};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::thread;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::Leave;
use crate::services::StdioData;
use crate::services::grpc_stdio_server::GrpcStdio;
use crate::services::stdio_data::Channel;

/// Pieces that wait for a host; past that they are dropped, so that printing never blocks.
const WAITING: usize = 256;
/// Bytes of a piece, as go-plugin's own plugins send them.
const PIECE: usize = 1024;

/// The service. Its stream can be had once.
#[derive(Debug)]
pub(super) struct Stdio {
    pieces: Mutex<Option<mpsc::Receiver<StdioData>>>,
    leave: Leave,
}

impl Stdio {
    /// A stream without anything in it: the host reads raw output.
    pub(super) fn silent(leave: Leave) -> Self {
        let (_, pieces) = mpsc::channel(1);
        Self { pieces: Mutex::new(Some(pieces)), leave }
    }

    /// Takes stdout, which must not be needed for the handshake any more.
    pub(super) fn capture(leave: Leave) -> io::Result<Self> {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::stdio::dup2_stdout(writer)?;
        let (sender, pieces) = mpsc::channel(WAITING);
        thread::Builder::new()
            .name("stdout".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || forward(reader.into(), &sender))?;
        Ok(Self { pieces: Mutex::new(Some(pieces)), leave })
    }
}

/// Hands on what is read. What nobody takes in time is dropped, and counted in the stream itself:
/// what prints must not wait for who reads.
fn forward(mut stdout: std::fs::File, sender: &mpsc::Sender<StdioData>) {
    let mut piece = [0; PIECE];
    let mut dropped = 0;
    let send = |data| sender.try_send(StdioData { channel: Channel::Stdout.into(), data }).is_ok();
    while let Ok(count @ 1..) = stdout.read(&mut piece) {
        if dropped > 0 && send(format!("\n[{dropped} bytes of output were dropped]\n").into()) {
            dropped = 0;
        }
        if dropped > 0 || !send(Bytes::copy_from_slice(&piece[..count])) {
            dropped += count;
        }
    }
}

#[tonic::async_trait]
impl GrpcStdio for Stdio {
    type StreamStdioStream = Pin<Box<dyn Stream<Item = Result<StdioData, Status>> + Send>>;

    async fn stream_stdio(&self, _: Request<()>) -> Result<Response<Self::StreamStdioStream>, Status> {
        let taken = self.pieces.lock().unwrap_or_else(PoisonError::into_inner).take();
        match taken {
            Some(pieces) => Ok(Response::new(self.leave.until(pieces))),
            None => Err(Status::failed_precondition("the output is already streamed to somebody")),
        }
    }
}
