//! What `km` itself and its plugins have to say during a session: on stderr, never in anybody's way.
//!
//! Some clients never read the stderr of a server. From [`Remarks::start`] on a thread of its own
//! writes, and who has something to say waits for nothing: what does not fit is dropped, and counted.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Most bytes of plugins' lines that wait for stderr.
const WAITING: usize = 1 << 20;
/// What `km`'s own lines may take besides: no plugin can silence it.
const OWN: usize = 64 << 10;

/// Says things on stderr.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remarks;

/// Lines on their way to stderr. One for the process, as stderr is.
static LINES: OnceLock<Lines> = OnceLock::new();

#[derive(Debug, Default)]
struct Lines {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that did not fit since the last that did.
    dropped: u64,
    /// One is being written.
    writing: bool,
}

impl Remarks {
    /// From here on nothing waits for stderr.
    pub(crate) fn start(self) -> io::Result<()> {
        let lines = LINES.get_or_init(Lines::default);
        // Never joined: a full stderr would hold it for ever.
        std::thread::Builder::new().name("stderr".to_owned()).spawn(move || lines.write())?;
        Ok(())
    }

    /// One line of `km`'s own, in one piece.
    pub(crate) fn say(self, text: &str) {
        self.hand_over(format!("km: {text}\n").into_bytes(), WAITING + OWN);
    }

    /// A line of a plugin, with its newline, in one piece.
    pub(crate) fn write(self, line: Vec<u8>) {
        self.hand_over(line, WAITING);
    }

    fn hand_over(self, line: Vec<u8>, limit: usize) {
        match LINES.get() {
            Some(lines) => lines.push(line, limit),
            // A stderr that nobody reads any more is no reason to stop.
            None => drop(io::stderr().write_all(&line)),
        }
    }

    /// Waits until everything was written, as far as stderr takes it in this time.
    pub(crate) fn finish(self, time: Duration) {
        if let Some(lines) = LINES.get() {
            lines.drain(time);
        }
    }
}

impl Waiting {
    /// Says how many lines are missing at this place.
    fn tell_dropped(&mut self) {
        if self.dropped > 0 {
            let dropped = std::mem::take(&mut self.dropped);
            let notice = format!("km: {dropped} lines were dropped here: stderr was not read in time\n");
            self.bytes += notice.len();
            self.lines.push_back(notice.into_bytes());
        }
    }
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: Vec<u8>, limit: usize) {
        let mut waiting = self.lock();
        if waiting.bytes + line.len() > limit {
            waiting.dropped += 1;
            return;
        }
        waiting.tell_dropped();
        waiting.bytes += line.len();
        waiting.lines.push_back(line);
        self.changed.notify_all();
    }

    fn write(&self) {
        loop {
            let mut waiting = self.lock();
            let line = loop {
                match waiting.lines.pop_front() {
                    Some(line) => break line,
                    None => waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                }
            };
            waiting.bytes -= line.len();
            waiting.writing = true;
            drop(waiting);
            let _ = io::stderr().write_all(&line);
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }

    fn drain(&self, time: Duration) {
        let deadline = Instant::now() + time;
        let mut waiting = self.lock();
        waiting.tell_dropped();
        self.changed.notify_all();
        while !waiting.lines.is_empty() || waiting.writing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let lines = Lines::default();
        lines.push(vec![b'x'; WAITING - 1], WAITING);
        for _ in 0..3 {
            lines.push(b"lost\n".to_vec(), WAITING);
        }
        lines.lock().lines.clear();
        lines.push(b"km: heard\n".to_vec(), WAITING + OWN);
        lines.push(b"lost\n".to_vec(), WAITING);
        lines.drain(Duration::ZERO);
        let waiting: Vec<_> = lines.lock().lines.drain(..).collect();
        let notice =
            |n| format!("km: {n} lines were dropped here: stderr was not read in time\n").into_bytes();
        assert_eq!(waiting, [notice(3), b"km: heard\n".to_vec(), notice(1)]);
    }
}
