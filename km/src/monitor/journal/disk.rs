//! The messages of one session that wait on disk, in files of a folder of their own.
//!
//! The folder is made with the first message and locked for as long as the session lives. It goes with
//! the session, unless a plugin wants in the next one what it could not be given in this.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::allowance::Allowance;
use super::super::message::Message;
use super::segment::{Place, Segment};
use crate::paths;

/// A file that has grown to this is followed by another.
const SEGMENT: u64 = 16 << 20;
/// Held by the session whose folder it is.
const LOCK: &str = "lock";

/// Files of messages, with no position missing in between.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    lock: Option<File>,
    segments: VecDeque<Segment>,
    allowance: Arc<Allowance>,
}

impl Disk {
    /// Nothing is made before the first message comes.
    pub(super) fn new(folder: PathBuf, allowance: Arc<Allowance>) -> Self {
        Self { folder, lock: None, segments: VecDeque::new(), allowance }
    }

    /// What an earlier session left; none while that lives.
    pub(super) fn reopen(folder: PathBuf) -> io::Result<Option<Self>> {
        let Some(lock) = lock(&folder)? else { return Ok(None) };
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "messages"));
        paths.sort();
        let unlimited = Arc::new(Allowance::new(u64::MAX));
        let mut disk = Self { lock: Some(lock), ..Self::new(folder, unlimited) };
        for path in paths {
            let segment = Segment::reopen(path)?;
            // What comes after a hole is of no use: it was written before what is missing.
            if disk.segments.back().is_some_and(|last| last.end() != segment.first) {
                break;
            }
            if segment.count == 0 {
                break;
            }
            disk.allowance.take_anyway(segment.length);
            disk.segments.push_back(segment);
        }
        Ok(Some(disk))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Position of the first message, if there is any.
    pub(super) fn start(&self) -> Option<u64> {
        self.segments.front().map(|segment| segment.first)
    }

    /// Position after the last message, if there is any.
    pub(super) fn end(&self) -> Option<u64> {
        self.segments.back().map(Segment::end)
    }

    /// Sequence number of the last message.
    pub(super) fn last_sequence(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.last_sequence)
    }

    /// Adds messages, of which the first has this position. After an error nothing is added.
    pub(super) fn append<'a>(
        &mut self,
        first: u64,
        messages: impl Iterator<Item = &'a Message>,
    ) -> io::Result<()> {
        if self.lock.is_none() {
            paths::create_private(&self.folder)?;
            self.lock = lock(&self.folder)?;
        }
        let segment_size = SEGMENT.min(self.allowance.limit() / 4);
        match self.segments.back_mut() {
            Some(last) if last.length < segment_size && last.end() == first => {
                let before = last.length;
                last.append(messages)?;
                self.allowance.take_anyway(last.length - before);
            }
            _ => {
                let mut segment = Segment::create(&self.folder, first)?;
                if let Err(e) = segment.append(messages) {
                    segment.remove();
                    return Err(e);
                }
                self.allowance.take_anyway(segment.length);
                self.segments.push_back(segment);
            }
        }
        Ok(())
    }

    /// Takes the oldest messages away while there are too many. The position and the sequence number of
    /// the last that went.
    pub(super) fn shrink(&mut self) -> Option<(u64, u64)> {
        let mut last = None;
        while self.allowance.is_exceeded() {
            let segment = self.segments.pop_front()?;
            last = Some((segment.end() - 1, segment.last_sequence));
            self.allowance.give_back(segment.length);
            segment.remove();
        }
        last
    }

    /// Takes away what nobody needs: whole files before this position.
    pub(super) fn forget_before(&mut self, position: u64) {
        while let Some(segment) = self.segments.pop_front_if(|segment| segment.end() <= position) {
            self.allowance.give_back(segment.length);
            segment.remove();
        }
    }

    /// Where the message at this position is.
    pub(super) fn place(&self, position: u64) -> Option<Place> {
        let after = self.segments.partition_point(|segment| segment.first <= position);
        self.segments.get(after.checked_sub(1)?)?.place(position)
    }

    /// Takes everything away.
    pub(super) fn remove(&mut self) {
        self.segments.drain(..).for_each(|segment| self.allowance.give_back(segment.length));
        if self.lock.take().is_some() {
            // A folder that cannot be removed is swept by the next session.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Takes the lock of a session's folder; none if another process holds it.
fn lock(folder: &Path) -> io::Result<Option<File>> {
    let file = paths::open_lock(&folder.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(e)) => Err(e),
    }
}
