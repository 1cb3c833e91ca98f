//! The relay: one thread for each direction, each knowing two pipes and the tap.
//!
//! Bytes are forwarded as they come, whatever they are. Reading waits for nothing but the reader's
//! own pipe and the writer's: a reader that stops reading holds up the writer, as a pipe would.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use km_proto::Direction;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::tap::Tap;

/// As much as a pipe holds.
const CHUNK: usize = 64 * 1024;

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

/// Forwards until one of the two pipes ends. Both are closed then, so that either side sees what
/// it would see without a relay: the reader its end of file, the writer a broken pipe.
pub(super) fn pump(
    from: OwnedFd,
    to: OwnedFd,
    direction: Direction,
    tap: Option<&Tap>,
    progress: &Progress,
) -> Ended {
    let mut buffer = vec![0; CHUNK];
    let mut ended = Ended::Writer;
    while let Ok(count @ 1..) = read(from.as_fd(), &mut buffer) {
        progress.read();
        let bytes = &buffer[..count];
        // Before it is forwarded: a request is seen before the reply to it.
        if let Some(tap) = tap {
            tap.copy(direction, bytes);
        }
        if write_all(to.as_fd(), bytes).is_err() {
            ended = Ended::Reader;
            break;
        }
        progress.wrote();
    }
    progress.wrote();
    drop((from, to));
    if let Some(tap) = tap {
        tap.end(direction);
    }
    ended
}

fn read(from: std::os::fd::BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(from, &mut *buffer) {
            Ok(count) => return Ok(count),
            // A file that somebody else made non-blocking: it is shared, and left as it is.
            Err(Errno::AGAIN) => wait_for(from, PollFlags::IN)?,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn write_all(to: std::os::fd::BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
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

fn wait_for(file: std::os::fd::BorrowedFd<'_>, flags: PollFlags) -> io::Result<()> {
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
        let pump = std::thread::spawn(move || pump(from.into(), to.into(), Direction::Inbound, None, &seen));
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
        pump(from.into(), to.into(), Direction::Inbound, None, &Progress::new());
        assert_eq!(client.write_all(b"y").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    fn pipe() -> (File, File) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        (reader.into(), writer.into())
    }
}
