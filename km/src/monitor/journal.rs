//! The messages of a session, for as long as a plugin may still need them.
//!
//! ```text
//!              acknowledged   sent            end
//! reader A          │          │               │
//! positions  0 ─────┼──────────┼───────────────┤
//!            forgotten  on disk  │  in memory  │
//! ```
//!
//! One log for all plugins, each of which reads at its own pace. In memory are the last messages, up to
//! a limit; older ones that somebody still needs are on disk, once for all; past the disk's limit the
//! oldest go, and are counted for whom they were meant.

mod disk;
mod entry;
mod leftovers;
mod lost;
mod reader;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use km_package::name::PluginName;
use tokio::sync::Notify;

use super::allowance::Allowance;
use super::message::Message;
use super::session_id::SessionId;
use disk::Disk;
use reader::Cursor;

pub(crate) use entry::{Entry, PIECE};
pub(crate) use leftovers::{Leftover, claim};
pub(crate) use reader::{Counters, Reader};

/// The messages of a session, and who reads them.
#[derive(Debug)]
pub(crate) struct Journal {
    session: SessionId,
    /// Most bytes in memory.
    memory: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The last messages; the position after them is `end`.
    memory: VecDeque<Arc<Message>>,
    /// What they take, in bytes.
    weight: usize,
    end: u64,
    disk: Disk,
    /// Why the disk takes nothing, once that was said.
    disk_trouble: Option<String>,
    cursors: Vec<Cursor>,
    /// Sequence number of the last message.
    last_sequence: u64,
    closed: bool,
    /// When it was last written down how far durable plugins are.
    noted: Option<Instant>,
}

/// How often that is, should this process be killed: what was acknowledged since comes again.
const NOTE_EVERY: Duration = Duration::from_millis(100);

impl Journal {
    /// An empty one, which makes its folder in `spool` when it needs one.
    pub(super) fn new(
        session: SessionId,
        memory: usize,
        allowance: Arc<Allowance>,
        spool: &std::path::Path,
    ) -> Arc<Self> {
        let folder = spool.join(session.as_str());
        Self::with(session, memory, Disk::new(folder, allowance), 0)
    }

    /// What an earlier session left on disk.
    fn reopened(session: SessionId, disk: Disk) -> Arc<Self> {
        let end = disk.end().unwrap_or_default();
        let journal = Self::with(session, 0, disk, end);
        {
            let mut inner = journal.lock();
            inner.last_sequence = inner.disk.last_sequence();
            inner.closed = true;
        }
        journal
    }

    fn with(session: SessionId, memory: usize, disk: Disk, end: u64) -> Arc<Self> {
        let inner = Inner {
            memory: VecDeque::new(),
            weight: 0,
            end,
            disk,
            disk_trouble: None,
            cursors: Vec::new(),
            last_sequence: 0,
            closed: false,
            noted: None,
        };
        Arc::new(Self { session, memory, inner: Mutex::new(inner) })
    }

    pub(crate) fn session(&self) -> &SessionId {
        &self.session
    }

    /// A reader for a plugin, which gets all messages from here on.
    pub(crate) fn subscribe(self: &Arc<Self>, plugin: PluginName) -> Reader {
        let changed = Arc::new(Notify::new());
        let mut inner = self.lock();
        let index = inner.cursors.len();
        let (end, last) = (inner.end, inner.last_sequence);
        inner.cursors.push(Cursor::new(plugin.clone(), Arc::clone(&changed), end, last));
        Reader::new(Arc::clone(self), plugin, index, changed)
    }

    /// Adds a message.
    pub(super) fn push(&self, message: Message) {
        let mut inner = self.lock();
        inner.weight += message.weight();
        inner.end += 1;
        inner.last_sequence = message.sequence;
        inner.memory.push_back(Arc::new(message));
        inner.drop_for_those_who_refuse();
        // Some at a time: each goes to disk with others.
        if inner.weight > self.memory.saturating_add(SOME) {
            inner.settle(self.memory);
        }
    }

    /// Counts messages that were lost before they came here.
    pub(super) fn lost(&self, first: u64, count: u64) {
        let mut inner = self.lock();
        inner.last_sequence = inner.last_sequence.max(first.saturating_add(count - 1));
        inner.cursors.iter_mut().for_each(|cursor| cursor.lose(first, count, count));
    }

    /// To be called after some messages were pushed: wakes readers, keeps to the limits.
    pub(super) fn settle(&self) {
        let mut inner = self.lock();
        inner.settle(self.memory);
        let (end, closed) = (inner.end, inner.closed);
        inner.cursors.iter_mut().for_each(|cursor| cursor.wake(end, closed));
    }

    /// Says that no more messages come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.settle();
    }

    /// Takes away what is on disk, but for plugins that want it in the next session.
    pub(super) fn finish(&self) {
        let mut inner = self.lock();
        let end = inner.end;
        if !inner.cursors.iter().any(|cursor| cursor.is_durable() && cursor.needs_from(end) < end) {
            return inner.disk.remove();
        }
        inner.copy_down();
        inner.note_positions();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much may be over the limit before messages go to disk.
const SOME: usize = 256 << 10;

impl Inner {
    /// Position of the first message in memory.
    fn memory_start(&self) -> u64 {
        self.end - self.memory.len() as u64
    }

    /// What nobody needs any more goes, and what is too much for memory.
    fn settle(&mut self, limit: usize) {
        let needed = self.cursors.iter().map(|cursor| cursor.needs_from(self.end)).min().unwrap_or(self.end);
        self.disk.forget_before(needed);
        while self.memory_start() < needed {
            self.forget_front();
        }
        if self.weight > limit {
            // To half of it, or each message would be a write of its own.
            self.write_down(limit / 2);
        }
        if self.cursors.iter().any(Cursor::is_durable) {
            self.copy_down();
            let is_due = self.noted.is_none_or(|noted| noted.elapsed() > NOTE_EVERY);
            if is_due && self.disk.end().is_some() {
                self.note_positions();
            }
        }
        if let Some((position, sequence)) = self.disk.shrink() {
            self.cursors.iter_mut().for_each(|cursor| cursor.pass_over(position + 1, sequence));
        }
    }

    fn forget_front(&mut self) {
        if let Some(message) = self.memory.pop_front() {
            self.weight -= message.weight();
        }
    }

    /// Moves the oldest messages to disk until memory holds no more than this.
    fn write_down(&mut self, limit: usize) {
        let (mut count, mut weight) = (0, self.weight);
        for message in &self.memory {
            if weight <= limit {
                break;
            }
            weight -= message.weight();
            count += 1;
        }
        self.copy_first(count);
        let kept = self.disk.end().unwrap_or_default();
        for _ in 0..count {
            if self.memory_start() < kept {
                self.forget_front();
            } else if self.memory.len() > 1 {
                self.drop_front();
            }
        }
    }

    /// Writes down what durable plugins need, for the next session.
    fn note_positions(&mut self) {
        self.noted = Some(Instant::now());
        let durable = self.cursors.iter().filter(|cursor| cursor.is_durable());
        let positions =
            durable.map(|cursor| (cursor.plugin().clone(), cursor.needs_from(self.end))).collect();
        if let Err(e) = leftovers::write(self.disk.folder(), positions) {
            tracing::warn!("messages cannot be kept for the next session: {e}");
        }
    }

    /// Writes all that is in memory to disk, too.
    fn copy_down(&mut self) {
        self.copy_first(self.memory.len());
    }

    /// Writes the first messages in memory to disk, unless they are there.
    fn copy_first(&mut self, count: usize) {
        let start = self.memory_start();
        let known = self.disk.end().map_or(0, |end| end.saturating_sub(start)) as usize;
        if known >= count {
            return;
        }
        let messages = self.memory.range(known..count).map(|message| &**message);
        match self.disk.append(start + known as u64, messages) {
            Ok(()) => self.disk_trouble = None,
            Err(e) => {
                if self.disk_trouble.is_none() {
                    tracing::warn!("messages cannot wait on disk: {}: {e}", self.disk.folder().display());
                }
                self.disk_trouble = Some(e.to_string());
            }
        }
    }

    /// The oldest message in memory goes, whoever needs it.
    fn drop_front(&mut self) {
        let position = self.memory_start();
        if let Some(message) = self.memory.front() {
            let sequence = message.sequence;
            self.cursors.iter_mut().for_each(|cursor| cursor.pass_over(position + 1, sequence));
        }
        self.forget_front();
    }

    fn drop_for_those_who_refuse(&mut self) {
        let (end, sequence) = (self.end, self.last_sequence);
        self.cursors.iter_mut().filter(|cursor| cursor.is_refusing()).for_each(|cursor| {
            cursor.pass_over(end, sequence);
        });
    }
}
