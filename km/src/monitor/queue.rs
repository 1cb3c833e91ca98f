//! The messages that wait for one plugin: in memory, past the limit on disk, past that counted.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use km_package::name::PluginName;
use serde::Serialize;
use tokio::sync::Notify;

use super::message::Message;
use super::spool::Spool;

/// What became of a plugin's messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counters {
    /// Handled by the plugin.
    pub(crate) delivered: u64,
    /// Handed over, but not handled.
    pub(crate) failed: u64,
    /// Never handed over.
    pub(crate) dropped: u64,
    /// Waiting.
    pub(crate) waiting: u64,
}

/// The queue of one plugin.
#[derive(Debug)]
pub(crate) struct Queue {
    plugin: PluginName,
    limit: usize,
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    memory: VecDeque<Message>,
    weight: usize,
    disk: Spool,
    counters: Counters,
    lost: Lost,
    closed: bool,
    refusing: bool,
    /// Sequence number of the message that waits longest, and of the one pushed last.
    first_waiting: u64,
    last_pushed: u64,
}

/// Which messages were not delivered, as ranges of sequence numbers.
#[derive(Debug, Default)]
struct Lost(Vec<(u64, u64)>);

impl Lost {
    /// More ranges than anybody reads; the counters still count.
    const MOST: usize = 100;

    fn add(&mut self, first: u64, count: u64) {
        let (end, room) = (first + count, self.0.len() < Self::MOST);
        match self.0.last_mut() {
            Some((_, last)) if *last == first => *last = end,
            _ if room => self.0.push((first, end)),
            _ => {}
        }
    }

    fn describe(&mut self) -> String {
        self.0.sort_unstable();
        self.0.dedup_by(|next, range| {
            let joined = next.0 <= range.1;
            if joined {
                range.1 = range.1.max(next.1);
            }
            joined
        });
        let shown = self.0.iter().take(5).map(|&(first, end)| match end - first {
            1 => first.to_string(),
            _ => format!("{first}-{}", end - 1),
        });
        let text = shown.collect::<Vec<_>>().join(", ");
        if self.0.len() > 5 { format!("{text}, …") } else { text }
    }
}

impl Queue {
    /// An empty queue that keeps up to `limit` bytes in memory, and one message in any case.
    pub(crate) fn new(plugin: PluginName, limit: usize, spool: PathBuf) -> Self {
        let inner = Inner {
            memory: VecDeque::new(),
            weight: 0,
            disk: Spool::new(spool),
            counters: Counters::default(),
            lost: Lost::default(),
            closed: false,
            refusing: false,
            first_waiting: 0,
            last_pushed: 0,
        };
        Self { plugin, limit, inner: Mutex::new(inner), changed: Notify::new() }
    }

    pub(crate) fn plugin(&self) -> &PluginName {
        &self.plugin
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message.
    pub(super) fn push(&self, message: &Message) {
        let mut inner = self.inner();
        if inner.counters.waiting == 0 {
            inner.first_waiting = message.sequence;
        }
        inner.last_pushed = message.sequence;
        let fits = inner.memory.is_empty() || inner.weight + message.weight() <= self.limit;
        if inner.refusing {
            inner.drop_messages(message.sequence, 1);
        } else if inner.disk.is_empty() && fits {
            inner.weight += message.weight();
            inner.memory.push_back(message.clone());
            inner.counters.waiting += 1;
        } else if let Err(e) = inner.disk.push(message) {
            tracing::debug!("{}: message {} cannot wait on disk: {e}", self.plugin, message.sequence);
            inner.drop_messages(message.sequence, 1);
        } else {
            inner.counters.waiting += 1;
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Counts messages that were lost before they reached this queue.
    pub(super) fn lost(&self, first: u64, count: u64) {
        self.inner().drop_messages(first, count);
    }

    /// Says that no more messages come.
    pub(super) fn close(&self) {
        self.inner().closed = true;
        self.changed.notify_one();
    }

    /// The next message; none when there will be no more.
    pub(crate) async fn next(&self) -> Option<Message> {
        loop {
            let changed = self.changed.notified();
            {
                let mut inner = self.inner();
                if let Some(message) = inner.pop(&self.plugin) {
                    return Some(message);
                }
                if inner.closed {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Whether no message waits and none will come.
    pub(crate) fn is_finished(&self) -> bool {
        let inner = self.inner();
        inner.closed && inner.counters.waiting == 0
    }

    /// Counts the message handed over last as handled.
    pub(crate) fn delivered(&self) {
        self.inner().counters.delivered += 1;
    }

    /// Counts a message that was handed over as not handled.
    pub(crate) fn failed(&self, message: &Message) {
        let mut inner = self.inner();
        inner.counters.failed += 1;
        inner.lost.add(message.sequence, 1);
    }

    /// The plugin takes no messages: what waits, and what comes, is dropped.
    pub(crate) fn refuse(&self) {
        let mut inner = self.inner();
        inner.refusing = true;
        inner.drop_waiting();
    }

    /// It takes messages again, from the next one on.
    pub(crate) fn accept(&self) {
        self.inner().refusing = false;
    }

    pub(super) fn counters(&self) -> Counters {
        self.inner().counters
    }

    /// What to say at the end of the session: what was not delivered, if anything, or what was. Takes
    /// no time, however much waits.
    pub(super) fn closing_words(&self, verbose: bool) -> Option<String> {
        let mut inner = self.inner();
        let Counters { delivered, failed, dropped, waiting } = inner.counters;
        let missed = failed + dropped + waiting;
        if missed == 0 {
            return verbose
                .then(|| format!("plugin {}: all {delivered} messages were delivered", self.plugin));
        }
        if waiting > 0 {
            let (first, last) = (inner.first_waiting, inner.last_pushed);
            inner.lost.add(first, last + 1 - first);
        }
        // The framer may not have seen all that passed.
        let at_least = if inner.closed { "" } else { "at least " };
        Some(format!(
            "plugin {}: {at_least}{missed} of {} messages were not delivered \
             ({failed} failed, {dropped} dropped, {waiting} still waited at the end): {}",
            self.plugin,
            delivered + missed,
            inner.lost.describe()
        ))
    }
}

impl Inner {
    fn pop(&mut self, plugin: &PluginName) -> Option<Message> {
        let message = match self.memory.pop_front() {
            Some(message) => {
                self.weight -= message.weight();
                message
            }
            None => match self.disk.pop() {
                Ok(message) => message?,
                Err(e) => {
                    tracing::warn!("{plugin}: the messages that wait on disk cannot be read: {e}");
                    self.drop_waiting();
                    return None;
                }
            },
        };
        self.counters.waiting -= 1;
        // The next one is at least this.
        self.first_waiting = message.sequence + 1;
        Some(message)
    }

    fn drop_messages(&mut self, first: u64, count: u64) {
        self.counters.dropped += count;
        self.lost.add(first, count);
    }

    /// Forgets what waits, and counts it.
    fn drop_waiting(&mut self) {
        if self.counters.waiting > 0 {
            self.lost.add(self.first_waiting, self.last_pushed + 1 - self.first_waiting);
        }
        self.counters.dropped += std::mem::take(&mut self.counters.waiting);
        self.memory.clear();
        self.weight = 0;
        self.disk.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use km_proto::Direction;
    use km_proto::jsonrpc::Summary;

    use super::super::message::Exchange;
    use super::*;

    fn message(sequence: u64, size: usize) -> Message {
        Message {
            sequence,
            direction: Direction::Inbound,
            received: SystemTime::UNIX_EPOCH,
            elapsed: std::time::Duration::ZERO,
            channel: None,
            summary: Summary::of(b"{}"),
            exchange: Exchange::default(),
            data: vec![0; size].into(),
            cut: None,
        }
    }

    fn queue(limit: usize, spool: PathBuf) -> Queue {
        Queue::new("a".parse().unwrap(), limit, spool)
    }

    #[tokio::test]
    async fn what_does_not_fit_into_memory_waits_on_disk_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let queue = queue(3500, folder.path().join("spool"));
        (1..=20).for_each(|n| queue.push(&message(n, 1000)));
        assert!(queue.inner().weight <= 3500);
        for n in 1..=10 {
            assert_eq!(queue.next().await.unwrap().sequence, n);
            queue.delivered();
        }
        (21..=30).for_each(|n| queue.push(&message(n, 1000)));
        queue.close();
        for n in 11..=30 {
            assert_eq!(queue.next().await.unwrap().sequence, n);
            queue.delivered();
        }
        assert_eq!(queue.next().await, None);
        assert_eq!(queue.counters(), Counters { delivered: 30, ..Counters::default() });
        assert_eq!(queue.closing_words(false), None);
    }

    #[test]
    fn what_cannot_wait_on_disk_is_counted_with_its_numbers() {
        let folder = tempfile::tempdir().unwrap();
        // A file where the folder should be: the disk takes nothing.
        let blocked = folder.path().join("spool");
        std::fs::write(&blocked, "").unwrap();
        let queue = queue(2000, blocked);
        (1..=5).for_each(|n| queue.push(&message(n, 1000)));
        assert_eq!(queue.counters(), Counters { dropped: 4, waiting: 1, ..Counters::default() });
        queue.lost(6, 3);
        assert_eq!(
            queue.closing_words(false).unwrap(),
            "plugin a: at least 8 of 8 messages were not delivered (0 failed, 7 dropped, 1 still waited at the end): 1-8"
        );
    }
}
