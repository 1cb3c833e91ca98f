//! A ring of bytes in memory that a forked process shares: what was put in before this process was
//! killed can be taken out by the other.
//!
//! One end puts in, one takes out, and neither waits for the other. How far the taking has come is
//! known together with how long the file is that it went to: the two change at once.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

/// How much fits. Memory is taken page by page, when it is first written to.
pub(super) const CAPACITY: usize = 64 << 20;
/// Where the bytes begin, behind [`Head`].
const DATA: usize = 4096;

/// Memory that outlives this process as long as a fork of it lives.
#[derive(Debug)]
pub(super) struct Ring {
    memory: NonNull<u8>,
}

// SAFETY: what is shared is atomic, or is written by the one end that puts in before it is published
// to the one that takes out.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

/// What both processes know of the ring; zeros at first.
#[repr(C)]
struct Head {
    /// How much was ever put in.
    put: AtomicU64,
    /// Which of `taken` counts.
    current: AtomicUsize,
    taken: [TakenCell; 2],
    /// By direction: what did not fit since the last piece that did.
    missed: [MissedCell; 2],
    /// Nothing is to be taken out any more.
    stopped: AtomicBool,
}

#[repr(C)]
struct TakenCell {
    upto: AtomicU64,
    file: AtomicU64,
}

#[repr(C)]
struct MissedCell {
    bytes: AtomicU64,
    lines: AtomicU64,
    ends_line: AtomicBool,
}

/// How far the taking has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// How much of what was ever put in.
    pub(super) upto: u64,
    /// How long the file is that it went to.
    pub(super) file: u64,
}

/// What was left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::monitor) struct Missed {
    pub(in crate::monitor) bytes: u64,
    pub(in crate::monitor) lines: u64,
    /// Whether the last byte was the end of a line.
    pub(in crate::monitor) ends_line: bool,
}

impl Ring {
    pub(super) fn new() -> io::Result<Self> {
        const { assert!(size_of::<Head>() <= DATA) };
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::NORESERVE);
        // SAFETY: a new mapping, wherever there is room.
        let memory = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), DATA + CAPACITY, access, flags)? };
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory })
    }

    fn head(&self) -> &Head {
        // SAFETY: the mapping begins on a page, is longer than this, and is there as long as `self`; its
        // zeros are a value of this type, all of which is atomic.
        unsafe { self.memory.cast().as_ref() }
    }

    /// How much was ever put in.
    pub(super) fn put_upto(&self) -> u64 {
        self.head().put.load(Ordering::Acquire)
    }

    /// How much lies in the ring. Nothing, where a restart was cut short.
    pub(super) fn filled(&self) -> usize {
        self.put_upto().saturating_sub(self.taken().upto) as usize
    }

    /// Puts in what fits as one: both processes see all of it or nothing. For one thread at a time.
    pub(super) fn put(&self, parts: &[&[u8]]) {
        let mut at = self.put_upto();
        for part in parts {
            self.write(at, part);
            at += part.len() as u64;
        }
        self.head().put.store(at, Ordering::Release);
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let (offset, first) = split(at, bytes.len());
        // SAFETY: both parts lie in the mapping, in what is free: nobody reads it before it is published.
        unsafe {
            let data = self.memory.as_ptr().add(DATA);
            ptr::copy_nonoverlapping(bytes.as_ptr(), data.add(offset), first);
            ptr::copy_nonoverlapping(bytes.as_ptr().add(first), data, bytes.len() - first);
        }
    }

    /// Reads what was put in at this place.
    pub(super) fn read(&self, at: u64, into: &mut [u8]) {
        let (offset, first) = split(at, into.len());
        // SAFETY: both parts lie in the mapping; what was published is not written to before it was taken.
        unsafe {
            let data = self.memory.as_ptr().add(DATA);
            ptr::copy_nonoverlapping(data.add(offset), into.as_mut_ptr(), first);
            ptr::copy_nonoverlapping(data, into.as_mut_ptr().add(first), into.len() - first);
        }
    }

    pub(super) fn taken(&self) -> Taken {
        let cell = &self.head().taken[self.head().current.load(Ordering::Acquire) & 1];
        Taken { upto: cell.upto.load(Ordering::Acquire), file: cell.file.load(Ordering::Acquire) }
    }

    /// Gives back what was taken out. For one thread at a time.
    pub(super) fn take(&self, taken: Taken) {
        let head = self.head();
        let next = 1 - (head.current.load(Ordering::Acquire) & 1);
        head.taken[next].upto.store(taken.upto, Ordering::Release);
        head.taken[next].file.store(taken.file, Ordering::Release);
        head.current.store(next, Ordering::Release);
    }

    /// Begins at the front again, so that no more pages are used than have to be. While it is empty and
    /// nobody puts in.
    pub(super) fn restart(&self) {
        let taken = self.taken();
        // Between the two less was put in than was taken out: nothing.
        self.head().put.store(0, Ordering::Release);
        self.take(Taken { upto: 0, ..taken });
    }

    pub(super) fn missed(&self, direction: usize) -> Missed {
        let cell = &self.head().missed[direction];
        Missed {
            bytes: cell.bytes.load(Ordering::Acquire),
            lines: cell.lines.load(Ordering::Acquire),
            ends_line: cell.ends_line.load(Ordering::Acquire),
        }
    }

    pub(super) fn set_missed(&self, direction: usize, missed: Missed) {
        let cell = &self.head().missed[direction];
        cell.bytes.store(missed.bytes, Ordering::Release);
        cell.lines.store(missed.lines, Ordering::Release);
        cell.ends_line.store(missed.ends_line, Ordering::Release);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.head().stopped.load(Ordering::Acquire)
    }

    pub(super) fn stop(&self) {
        self.head().stopped.store(true, Ordering::Release);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is this long, and nobody refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.memory.as_ptr().cast(), DATA + CAPACITY) };
    }
}

/// Where a place is in the ring, and how much lies there before the ring's end.
fn split(at: u64, length: usize) -> (usize, usize) {
    // What does not fit was never put in; the copies below would leave the mapping.
    assert!(length <= CAPACITY);
    let offset = (at % CAPACITY as u64) as usize;
    (offset, length.min(CAPACITY - offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_comes_out_also_around_the_end() {
        let ring = Ring::new().unwrap();
        let pieces: Vec<Vec<u8>> = (0..70u8).map(|n| vec![n; (1 << 20) + usize::from(n)]).collect();
        let mut at = 0;
        for piece in &pieces {
            ring.put(&[b"head", piece]);
            assert_eq!(ring.filled(), piece.len() + 4);
            let mut read = vec![0; piece.len() + 4];
            ring.read(at, &mut read);
            assert!(read.starts_with(b"head") && read[4..] == piece[..]);
            at += read.len() as u64;
            ring.take(Taken { upto: at, file: at / 2 });
        }
        assert_eq!(ring.taken(), Taken { upto: at, file: at / 2 });
        ring.restart();
        assert_eq!((ring.taken(), ring.filled()), (Taken { upto: 0, file: at / 2 }, 0));
    }
}
