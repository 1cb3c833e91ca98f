//! `--record`: what passes, in a file that is right even if `km` is killed.
//!
//! ```text
//! pump ──► ring (memory shared with the guard) ──► recorder thread ──► file
//!                                └──────► guard, when km is gone ──────┘
//! ```
//!
//! A pump puts each piece into the ring before it forwards it, and waits for no disk: what does not
//! fit is left out, and counted. The recorder writes whole zstd frames, and notes after each how far
//! it has come. What lies in the ring when `km` is killed is written by the guard.

mod format;
mod reader;
mod ring;
mod writer;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use km_package::failure::{Failure, Kind};
use km_proto::Direction;

pub(super) use format::{Content, Entry};
pub(super) use reader::Reader;
pub(super) use ring::Missed;

use super::remarks::Remarks;
use ring::Ring;
use writer::{Writer, gap_record, piece_head, room_for};

/// How many bytes of pieces make a frame.
const FRAME: usize = 1 << 20;
/// How long pieces are gathered into one.
const GATHER: Duration = Duration::from_millis(200);
/// Kept free for the last words of both directions.
const RESERVE: usize = 1024;

/// A file that is to be written, and the ring before it: made before the guard is forked.
#[derive(Debug)]
pub(crate) struct Recording {
    path: PathBuf,
    file: File,
    ring: Ring,
    started: Timestamp,
    begun: Instant,
}

/// Writes a recording beside the session.
#[derive(Debug, Clone)]
pub(super) struct Recorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    recording: Recording,
    gate: Mutex<Gate>,
    /// There is something to write, or nothing more comes; and: everything is written.
    changed: Condvar,
}

/// What whoever puts into the ring goes through, one at a time.
#[derive(Debug, Default)]
struct Gate {
    closed: bool,
    /// The recorder waits for so much in the ring.
    wanted: Option<usize>,
    /// The recorder has ended.
    done: bool,
    /// Bytes that were left out.
    left_out: u64,
}

/// One direction's way into the recording. It ends when dropped.
#[derive(Debug)]
pub(super) struct Track {
    recorder: Recorder,
    direction: Direction,
}

impl Recording {
    /// Makes the file, which must not be there yet.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => {
                Failure::new(Kind::Conflict, format_args!("{} is there already", path.display()))
                    .help("record into a new file: none is overwritten")
            }
            _ => Failure::file("create", path, &e),
        })?;
        let ring = Ring::new().map_err(|e| {
            Failure::new(Kind::Local, format_args!("there is no memory for a recording: {e}"))
        })?;
        let (started, begun) = (Timestamp::now(), Instant::now());
        Ok(Self { path: path.to_owned(), file, ring, started, begun })
    }

    /// Removes it again: there was no session.
    pub(crate) fn discard(self) {
        let _ = std::fs::remove_file(&self.path);
    }

    /// Writes what still lies in the ring. For the guard, when `km` is gone.
    pub(crate) fn salvage(&self) {
        if self.ring.is_stopped() {
            return;
        }
        // What `km` was just writing is no whole frame.
        let cut = self.file.set_len(self.ring.taken().file);
        // Nobody is left to hear of a failure; what was written before holds in any case.
        let _ = cut.and_then(|()| Writer::new(self)).and_then(|mut writer| writer.write_rest());
    }
}

impl Recorder {
    pub(super) fn start(recording: Recording) -> io::Result<Self> {
        let gate = Mutex::new(Gate::default());
        let recorder = Self(Arc::new(Inner { recording, gate, changed: Condvar::new() }));
        let writing = recorder.clone();
        thread::Builder::new().name("recorder".to_owned()).spawn(move || writing.0.run())?;
        Ok(recorder)
    }

    pub(super) fn track(&self, direction: Direction) -> Track {
        Track { recorder: self.clone(), direction }
    }

    /// Takes nothing more, and waits until everything is written. False when the time was too short.
    pub(super) fn finish(&self, time: Duration) -> bool {
        let (inner, deadline) = (&self.0, Instant::now() + time);
        let mut gate = inner.gate();
        gate.closed = true;
        inner.changed.notify_all();
        while !gate.done {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            gate = inner.changed.wait_timeout(gate, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// What to say at the end of the session.
    pub(super) fn closing_words(&self) -> Option<String> {
        let gate = self.0.gate();
        let path = self.0.recording.path.display();
        if gate.left_out > 0 {
            let left_out = gate.left_out;
            return Some(format!("{path} lacks {left_out} bytes: the disk did not take them in time"));
        }
        (!gate.done).then(|| format!("{path} is complete a little after km has ended: the disk is slow"))
    }
}

impl Track {
    /// Takes a copy of these bytes, if there is room.
    pub(super) fn put(&self, bytes: &[u8]) {
        self.recorder.0.put(self.direction, bytes);
    }
}

impl Drop for Track {
    fn drop(&mut self) {
        self.recorder.0.end(self.direction);
    }
}

impl Inner {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.recording.begun.elapsed().as_nanos() as u64
    }

    fn put(&self, direction: Direction, bytes: &[u8]) {
        let (mut gate, ring) = (self.gate(), &self.recording.ring);
        if gate.closed {
            return;
        }
        let missed = ring.missed(direction as usize);
        if !room_for(ring, bytes.len(), RESERVE) {
            gate.left_out += bytes.len() as u64;
            return ring.set_missed(direction as usize, missed.and(bytes));
        }
        let now = self.now();
        self.put_missed(direction, now);
        ring.put(&[&piece_head(now, direction, bytes.len()), bytes]);
        self.wake(&mut gate);
    }

    fn end(&self, direction: Direction) {
        let mut gate = self.gate();
        if gate.closed {
            return;
        }
        let now = self.now();
        self.put_missed(direction, now);
        if room_for(&self.recording.ring, 0, 0) {
            self.recording.ring.put(&[&writer::end_record(now, direction)]);
        }
        self.wake(&mut gate);
    }

    /// Says what is missing, before what comes behind it.
    fn put_missed(&self, direction: Direction, now: u64) {
        let ring = &self.recording.ring;
        let missed = ring.missed(direction as usize);
        if missed.bytes > 0 && room_for(ring, 0, 0) {
            ring.put(&[&gap_record(now, direction, missed)]);
            ring.set_missed(direction as usize, Missed::default());
        }
    }

    fn wake(&self, gate: &mut Gate) {
        if gate.wanted.is_some_and(|wanted| self.recording.ring.filled() >= wanted) {
            gate.wanted = None;
            self.changed.notify_all();
        }
    }

    /// The recorder's thread.
    fn run(&self) {
        if let Err(e) = self.write() {
            self.recording.ring.stop();
            self.gate().closed = true;
            let path = self.recording.path.display();
            Remarks.say(&format!("the recording {path} ends here, and the session goes on: {e}"));
        }
        self.gate().done = true;
        self.changed.notify_all();
    }

    fn write(&self) -> io::Result<()> {
        let mut writer = Writer::new(&self.recording)?;
        // The first line.
        writer.write_rest()?;
        while self.gather() {
            writer.write_some()?;
        }
        writer.write_rest()
    }

    /// Waits until there is something for a frame. False when nothing more comes.
    fn gather(&self) -> bool {
        let ring = &self.recording.ring;
        let mut gate = self.gate();
        if ring.filled() == 0 {
            ring.restart();
        }
        while ring.filled() == 0 && !gate.closed {
            gate.wanted = Some(1);
            gate = self.changed.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        let until = Instant::now() + GATHER;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if gate.closed || ring.filled() >= FRAME || left.is_zero() {
                gate.wanted = None;
                return !gate.closed;
            }
            gate.wanted = Some(FRAME);
            gate = self.changed.wait_timeout(gate, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Missed {
    /// With these bytes behind what is missing already.
    fn and(self, bytes: &[u8]) -> Self {
        Self {
            bytes: self.bytes + bytes.len() as u64,
            lines: self.lines + memchr::memchr_iter(b'\n', bytes).count() as u64,
            ends_line: bytes.ends_with(b"\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn what_does_not_fit_is_a_gap_and_the_rest_is_salvaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recording");
        let recording = Recording::create(&path).unwrap();
        // Nobody takes anything out.
        let inner = Inner { recording, gate: Mutex::default(), changed: Condvar::new() };
        let chunk = [&vec![b'x'; (1 << 20) - 2][..], b"\nx"].concat();
        (0..70).for_each(|_| inner.put(Direction::Inbound, &chunk));
        inner.end(Direction::Inbound);
        inner.end(Direction::Outbound);
        // As if `km` was killed while it wrote.
        inner.recording.file.write_all_at(b"half a frame", 0).unwrap();
        inner.recording.salvage();

        let mut reader = Reader::open(&path).unwrap();
        let entries: Vec<Entry> = std::iter::from_fn(|| reader.next().unwrap()).collect();
        assert_eq!(reader.damage(), None);
        let [pieces @ .., gap, end, other_end] = &entries[..] else { panic!("{entries:?}") };
        let fit = pieces.len() as u64;
        assert!((60..64).contains(&fit), "{fit}");
        assert!(pieces.iter().all(|piece| piece.content == Content::Bytes(chunk.clone().into())));
        let missed = Missed { bytes: (70 - fit) << 20, lines: 70 - fit, ends_line: false };
        assert_eq!(gap.content, Content::Gap(missed));
        assert_eq!((&end.content, &other_end.content), (&Content::End, &Content::End));
        assert_eq!(inner.gate().left_out, missed.bytes);
    }
}
