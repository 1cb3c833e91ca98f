//! The relay: one thread for each direction, each knowing two pipes and the tap.
//!
//! Bytes are forwarded as they come, whatever they are. Reading waits for nothing but the reader's
//! own pipe and the writer's: a reader that stops reading holds up the writer, as a pipe would.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

use super::record::Track;
use super::tap::TapStream;
use crate::host::guard;

/// As much as a pipe of the server holds.
const CHUNK: usize = guard::PIPE;

/// What a pump has done so far, for those who decide when the session ends.
#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<ProgressInner>);

#[derive(Debug)]
struct ProgressInner {
    begun: Instant,
    /// Microseconds from the beginning to the last byte that was read; 0 before the first.
    last_byte: AtomicU64,
    writing: AtomicBool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self(Arc::new(ProgressInner {
            begun: Instant::now(),
            last_byte: AtomicU64::new(0),
            writing: AtomicBool::new(false),
        }))
    }

    /// When the last byte came; none before the first.
    pub(super) fn last_byte(&self) -> Option<Instant> {
        match self.0.last_byte.load(Ordering::Acquire) {
            0 => None,
            micros => Some(self.0.begun + Duration::from_micros(micros)),
        }
    }

    /// Whether bytes were read that the other side has not taken yet.
    pub(super) fn is_writing(&self) -> bool {
        self.0.writing.load(Ordering::Acquire)
    }

    fn read(&self) {
        self.0.writing.store(true, Ordering::Release);
        let micros = self.0.begun.elapsed().as_micros() as u64;
        self.0.last_byte.store(micros.max(1), Ordering::Release);
    }

    fn wrote(&self) {
        self.0.writing.store(false, Ordering::Release);
    }
}

/// Which of a pump's two sides ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Nothing more comes.
    Writer,
    /// Nobody reads any more.
    Reader,
}

/// Who gets a copy of what passes.
#[derive(Debug, Default)]
pub(super) struct Copies {
    pub(super) tap: Option<TapStream>,
    pub(super) track: Option<Track>,
}

/// Forwards until one of the two pipes ends. Both are closed then, so that either side sees what
/// it would see without a relay: the reader its end of file, the writer a broken pipe.
pub(super) fn pump(from: OwnedFd, to: OwnedFd, copies: Copies, progress: &Progress) -> Ended {
    let mut movable = can_be_moved(from.as_fd());
    let ended = loop {
        let (from, to) = (from.as_fd(), to.as_fd());
        let ended = if movable && !copies.are_taken() {
            movable = false;
            move_pages(from, to, progress)
        } else {
            copy(from, to, &copies, movable, progress)
        };
        if let Some(ended) = ended {
            break ended;
        }
    };
    progress.wrote();
    ended
}

impl Copies {
    /// Whether anybody wants them; who does not will not later.
    fn are_taken(&self) -> bool {
        self.track.is_some() || self.tap.as_ref().is_some_and(TapStream::is_taken)
    }
}

/// Whether what is read can be handed on without a copy, and nobody changes it on the way: not so with
/// a file.
fn can_be_moved(from: BorrowedFd<'_>) -> bool {
    let kind = rustix::fs::fstat(from).map(|stat| FileType::from_raw_mode(stat.st_mode));
    matches!(kind, Ok(FileType::Fifo | FileType::Socket))
}

/// Hands the pages of one pipe on to the other: nobody sees the bytes. None where that cannot be done.
fn move_pages(from: BorrowedFd<'_>, to: BorrowedFd<'_>, progress: &Progress) -> Option<Ended> {
    loop {
        // Waiting for bytes and waiting for somebody to take them are two things to who looks on.
        if wait_for(from, PollFlags::IN).is_err() {
            return Some(Ended::Writer);
        }
        progress.read();
        match splice(from, None, to, None, CHUNK, SpliceFlags::empty()) {
            Ok(0) => return Some(Ended::Writer),
            Ok(_) => progress.wrote(),
            Err(Errno::INTR) => {}
            // One of the two was made non-blocking by somebody else.
            Err(Errno::AGAIN) => match wait_for(to, PollFlags::OUT) {
                Ok(()) => {}
                Err(_) => return Some(Ended::Reader),
            },
            // Not every file can take pages (one that is opened for appending, a terminal).
            Err(Errno::INVAL) => return None,
            Err(_) => return Some(Ended::Reader),
        }
    }
}

/// Forwards, and hands out copies. None when nobody takes them any more, and there is a better way.
fn copy(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    copies: &Copies,
    movable: bool,
    progress: &Progress,
) -> Option<Ended> {
    let mut buffer = Vec::with_capacity(CHUNK);
    loop {
        let bytes = match read(from, &mut buffer) {
            Ok(bytes) if !bytes.is_empty() => bytes,
            _ => return Some(Ended::Writer),
        };
        progress.read();
        // Before it is forwarded: a request is seen before the reply to it, and what was forwarded is
        // recorded.
        if let Some(track) = &copies.track {
            track.put(&bytes);
        }
        if let Some(tap) = &copies.tap {
            tap.copy(&bytes);
        }
        if write_all(to, &bytes).is_err() {
            return Some(Ended::Reader);
        }
        progress.wrote();
        if movable && !copies.are_taken() {
            return None;
        }
    }
}

/// The next bytes. A buffer that is well filled is handed over as it is, and replaced.
fn read(from: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> io::Result<Bytes> {
    buffer.clear();
    loop {
        match rustix::io::read(from, rustix::buffer::spare_capacity(buffer)) {
            Ok(_) if buffer.len() < CHUNK / 8 => return Ok(Bytes::copy_from_slice(buffer)),
            Ok(_) => return Ok(std::mem::replace(buffer, Vec::with_capacity(CHUNK)).into()),
            // A file that somebody else made non-blocking: it is shared, and left as it is.
            Err(Errno::AGAIN) => wait_for(from, PollFlags::IN)?,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::AGAIN) => wait_for(to, PollFlags::OUT)?,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn wait_for(file: BorrowedFd<'_>, flags: PollFlags) -> io::Result<()> {
    match rustix::event::poll(&mut [PollFd::from_borrowed_fd(file, flags)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn bytes_pass_as_they_are_and_the_end_is_passed_on() {
        let (from, mut client) = pipe();
        let (mut server, to) = pipe();
        let progress = Progress::new();
        let seen = progress.clone();
        let pump = std::thread::spawn(move || pump(from.into(), to.into(), Copies::default(), &seen));
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n / 3) as u8).collect();
        let copy = sent.clone();
        let writer = std::thread::spawn(move || client.write_all(&copy));
        let mut received = Vec::new();
        server.read_to_end(&mut received).unwrap();
        writer.join().unwrap().unwrap();
        pump.join().unwrap();
        assert!(received == sent && progress.last_byte().is_some() && !progress.is_writing());
    }

    #[test]
    fn a_reader_that_is_gone_is_a_broken_pipe_for_the_writer() {
        let (from, mut client) = pipe();
        let (server, to) = pipe();
        drop(server);
        client.write_all(b"x").unwrap();
        pump(from.into(), to.into(), Copies::default(), &Progress::new());
        assert_eq!(client.write_all(b"y").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    fn pipe() -> (File, File) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        (reader.into(), writer.into())
    }
}
