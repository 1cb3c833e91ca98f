//! One plugin's way through the messages of a session.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use km_package::name::PluginName;
use serde::Serialize;
use tokio::sync::Notify;

use super::entry::Entry;
use super::lost::Lost;
use super::segment::Place;
use super::{Inner, Journal};

/// Most bytes of messages that are taken at once; one message in any case.
const BATCH: usize = 256 << 10;
/// A message in whose handling the plugin died so often, while it had no other, is not sent again.
const DEADLY: u32 = 2;

/// What became of a plugin's messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Counters {
    /// Handled by the plugin.
    pub(crate) delivered: u64,
    /// Handed over, but not handled.
    pub(crate) failed: u64,
    /// Never handed over.
    pub(crate) dropped: u64,
    /// Waiting, or being handled.
    pub(crate) waiting: u64,
    /// Of those, on disk alone.
    pub(crate) spooled: u64,
    /// How long the plugin takes for a message, in milliseconds; none before the first.
    pub(crate) handling_ms: Option<Quantiles>,
}

/// Of all and of the slowest in a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// How far a plugin is.
#[derive(Debug)]
pub(super) struct Cursor {
    plugin: PluginName,
    changed: Arc<Notify>,
    /// Position of the next message to be handed over.
    sent: u64,
    /// Sequence number of the one before.
    last_sent: u64,
    /// What is before this position is gone.
    floor: u64,
    /// Handed over, not acknowledged.
    in_flight: VecDeque<InFlight>,
    /// So many are waited for.
    wanted: Option<u64>,
    /// The plugin has these from an earlier life: up to this sequence number.
    kept: u64,
    delivered: u64,
    failed: u64,
    dropped: u64,
    lost: Lost,
    handling: Histogram<u32>,
    last_acknowledged: Option<Instant>,
    refusing: bool,
    durable: bool,
    /// Up to this position messages go one by one: among them is what the plugin died of.
    suspect: u64,
    /// The message that the plugin died of last, when it had no other, and how often.
    blamed: (u64, u32),
}

/// A message that was handed over.
#[derive(Debug)]
struct InFlight {
    position: u64,
    sequence: u64,
    weight: usize,
    since: Instant,
    failed: bool,
}

impl Cursor {
    pub(super) fn new(plugin: PluginName, changed: Arc<Notify>, position: u64, last_sent: u64) -> Self {
        Self {
            plugin,
            changed,
            sent: position,
            last_sent,
            floor: 0,
            in_flight: VecDeque::new(),
            wanted: None,
            kept: 0,
            delivered: 0,
            failed: 0,
            dropped: 0,
            lost: Lost::default(),
            handling: Histogram::new_with_bounds(1, 3_600_000_000, 2).unwrap_or_else(|_| unbounded()),
            last_acknowledged: None,
            refusing: false,
            durable: false,
            suspect: 0,
            blamed: (0, 0),
        }
    }

    /// The first position that may have to be handed over, now or again.
    pub(super) fn needs_from(&self, end: u64) -> u64 {
        if self.refusing { end } else { self.in_flight.front().map_or(self.sent, |first| first.position) }
    }

    pub(super) fn plugin(&self) -> &PluginName {
        &self.plugin
    }

    pub(super) fn set_durable(&mut self, durable: bool) {
        self.durable = durable;
    }

    pub(super) fn is_refusing(&self) -> bool {
        self.refusing
    }

    pub(super) fn is_durable(&self) -> bool {
        self.durable && !self.refusing
    }

    /// Counts messages that never will be handed over: so many of them, among these numbers.
    pub(super) fn lose(&mut self, first: u64, numbers: u64, count: u64) {
        self.dropped = self.dropped.saturating_add(count);
        self.lost.add(first, numbers);
    }

    /// Messages before this position are gone; the last of them had this number.
    pub(super) fn pass_over(&mut self, position: u64, sequence: u64) {
        if self.sent < position {
            let first = self.last_sent + 1;
            self.lose(first, (sequence + 1).saturating_sub(first).max(1), position - self.sent);
            self.sent = position;
            self.last_sent = sequence.max(self.last_sent);
        }
        self.floor = self.floor.max(position);
    }

    /// Wakes the plugin if there is what it waits for.
    pub(super) fn wake(&mut self, end: u64, closed: bool) {
        if self.wanted.is_some_and(|wanted| closed || end - self.sent >= wanted) {
            self.wanted = None;
            self.changed.notify_one();
        }
    }

    /// Notes a message as handed over. False if it need not be.
    fn hand_over(&mut self, position: u64, entry: &Entry) -> bool {
        if position < self.sent {
            return false;
        }
        let sequence = entry.message.sequence;
        (self.sent, self.last_sent) = (position + 1, sequence);
        if sequence <= self.kept {
            self.delivered += 1;
            return false;
        }
        let (weight, since) = (entry.length() as usize, Instant::now());
        self.in_flight.push_back(InFlight { position, sequence, weight, since, failed: false });
        true
    }

    fn acknowledge(&mut self, sequence: u64) {
        let now = Instant::now();
        let handled = self.in_flight.partition_point(|message| message.sequence <= sequence);
        let Some(first) = self.in_flight.front().filter(|_| handled > 0) else { return };
        // The plugin began with the first of them when it had it, and was done with what was before.
        let begun = self.last_acknowledged.map_or(first.since, |last| last.max(first.since));
        let each = now.saturating_duration_since(begun) / u32::try_from(handled).unwrap_or(u32::MAX);
        self.handling.saturating_record_n(micros(each), u32::try_from(handled).unwrap_or(u32::MAX));
        self.last_acknowledged = Some(now);
        for message in self.in_flight.drain(..handled) {
            if message.failed {
                self.failed += 1;
                self.lost.add(message.sequence, 1);
            } else {
                self.delivered += 1;
            }
        }
    }

    fn fail(&mut self, sequence: u64) {
        if let Ok(at) = self.in_flight.binary_search_by_key(&sequence, |message| message.sequence) {
            self.in_flight[at].failed = true;
        }
    }

    /// What was handed over and not acknowledged is handed over again.
    fn rewind(&mut self) {
        while let Some(gone) = self.in_flight.pop_front_if(|message| message.position < self.floor) {
            self.lose(gone.sequence, 1, 1);
        }
        if let Some(first) = self.in_flight.front() {
            (self.sent, self.last_sent) = (first.position, first.sequence - 1);
            self.in_flight.clear();
        }
    }

    fn died(&mut self) -> Option<u64> {
        let (first, last) = (self.in_flight.front()?, self.in_flight.back()?);
        let sequence = first.sequence;
        self.suspect = self.suspect.max(last.position + 1);
        if self.in_flight.len() == 1 {
            let deaths = if self.blamed.0 == sequence { self.blamed.1 + 1 } else { 1 };
            self.blamed = (sequence, deaths);
            if deaths >= DEADLY {
                self.fail(sequence);
                self.acknowledge(sequence);
                return Some(sequence);
            }
        }
        self.rewind();
        None
    }

    fn counters(&self, inner: &Inner) -> Counters {
        let waiting = inner.end - self.sent + self.in_flight.len() as u64;
        let on_disk = inner.memory_start().saturating_sub(self.needs_from(inner.end));
        let millis = |quantile| self.handling.value_at_quantile(quantile) as f64 / 1000.0;
        let handling_ms =
            (!self.handling.is_empty()).then(|| Quantiles { p50: millis(0.5), p99: millis(0.99) });
        let Self { delivered, failed, dropped, .. } = *self;
        Counters { delivered, failed, dropped, waiting, spooled: on_disk.min(waiting), handling_ms }
    }
}

fn unbounded() -> Histogram<u32> {
    let mut histogram = Histogram::new(1).unwrap_or_else(|_| unreachable!("1 is a number of digits"));
    histogram.auto(true);
    histogram
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}

/// The messages of a session for one plugin.
#[derive(Debug)]
pub(crate) struct Reader {
    journal: Arc<Journal>,
    plugin: PluginName,
    index: usize,
    changed: Arc<Notify>,
}

/// Where the next messages are.
enum Next {
    Memory(Vec<Entry>),
    /// There, and how many at most.
    Disk(Place, usize),
    /// Nowhere; where there are some again.
    Gone(u64),
}

impl Reader {
    pub(super) fn new(journal: Arc<Journal>, plugin: PluginName, index: usize, changed: Arc<Notify>) -> Self {
        Self { journal, plugin, index, changed }
    }

    pub(crate) fn plugin(&self) -> &PluginName {
        &self.plugin
    }

    pub(crate) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    fn with<T>(&self, work: impl FnOnce(&mut Cursor) -> T) -> T {
        work(&mut self.journal.lock().cursors[self.index])
    }

    /// Waits until so many messages wait, or there will be no more of them. False when none will come.
    pub(crate) async fn ready(&self, wanted: u64) -> bool {
        loop {
            {
                let mut inner = self.journal.lock();
                let (end, closed) = (inner.end, inner.closed);
                let cursor = &mut inner.cursors[self.index];
                let waiting = end - cursor.sent;
                if waiting >= wanted || (closed && waiting > 0) {
                    return true;
                }
                if closed {
                    return false;
                }
                cursor.wanted = Some(wanted);
            }
            self.changed.notified().await;
        }
    }

    /// Hands over the next messages: one, or as many as make a batch. None only when there are none.
    pub(crate) async fn take(&self, most: usize) -> Vec<Entry> {
        loop {
            let entries = self.take_some(most).await;
            if !entries.is_empty() || self.is_at_end() {
                return entries;
            }
        }
    }

    fn is_at_end(&self) -> bool {
        let inner = self.journal.lock();
        inner.cursors[self.index].sent == inner.end
    }

    /// None when they were gone, or the plugin has them already.
    async fn take_some(&self, most: usize) -> Vec<Entry> {
        let (position, next) = self.next(most);
        let entries = match next {
            Next::Memory(entries) => Ok(entries),
            Next::Disk(place, most) => match tokio::task::spawn_blocking(move || place.read(most)).await {
                Ok(read) => read,
                Err(e) => Err(io::Error::other(e)),
            },
            Next::Gone(position) => {
                let mut inner = self.journal.lock();
                let sequence = inner.memory.front().map_or(inner.last_sequence, |first| first.sequence - 1);
                inner.cursors[self.index].pass_over(position, sequence);
                Ok(Vec::new())
            }
        };
        let mut entries = entries.unwrap_or_else(|e| {
            self.give_up_what_is_on_disk(&e);
            Vec::new()
        });
        self.with(|cursor| {
            let mut position = position..;
            entries.retain(|entry| position.next().is_some_and(|position| cursor.hand_over(position, entry)));
        });
        entries
    }

    /// The position of the next message, and where that is.
    fn next(&self, most: usize) -> (u64, Next) {
        let inner = self.journal.lock();
        let cursor = &inner.cursors[self.index];
        let (position, start) = (cursor.sent, inner.memory_start());
        // What may have been deadly goes alone.
        let most = if position < cursor.suspect { 1 } else { most };
        let next = match position.checked_sub(start) {
            Some(index) => {
                let mut room = BATCH as isize;
                let fits = |message: &&Arc<_>| {
                    let message: &super::Message = message;
                    let any = room > 0;
                    room -= message.weight() as isize;
                    any
                };
                let index = (index as usize).min(inner.memory.len());
                let messages = inner.memory.range(index..).take(most).take_while(fits);
                Next::Memory(messages.map(|message| Entry::in_memory(Arc::clone(message))).collect())
            }
            None => match inner.disk.place(position) {
                Some(place) => Next::Disk(place, most),
                None => Next::Gone(inner.disk.start().filter(|first| *first > position).unwrap_or(start)),
            },
        };
        (position, next)
    }

    fn give_up_what_is_on_disk(&self, error: &io::Error) {
        tracing::warn!("{}: messages that waited on disk cannot be read: {error}", self.plugin);
        let mut inner = self.journal.lock();
        let start = inner.memory_start();
        let sequence = inner.memory.front().map_or(inner.last_sequence, |first| first.sequence - 1);
        inner.cursors[self.index].pass_over(start, sequence);
    }

    /// The plugin has handled all messages up to this number.
    pub(crate) fn acknowledge(&self, sequence: u64) {
        self.with(|cursor| cursor.acknowledge(sequence));
    }

    /// It has not handled this one; to be acknowledged all the same.
    pub(crate) fn fail(&self, sequence: u64) {
        self.with(|cursor| cursor.fail(sequence));
    }

    /// The plugin has the messages up to this number from an earlier life.
    pub(crate) fn skip_to(&self, sequence: u64) {
        self.with(|cursor| cursor.kept = cursor.kept.max(sequence));
    }

    /// Whether the plugin has messages that it has not acknowledged.
    pub(crate) fn is_busy(&self) -> bool {
        self.with(|cursor| !cursor.in_flight.is_empty())
    }

    /// How many bytes it has been handed over and not acknowledged.
    pub(crate) fn in_flight(&self) -> usize {
        self.with(|cursor| cursor.in_flight.iter().map(|message| message.weight).sum())
    }

    /// Whether the next message must go alone.
    pub(crate) fn is_careful(&self) -> bool {
        self.with(|cursor| cursor.sent < cursor.suspect)
    }

    /// The plugin has died: what it had is handed over again, but for a message that has killed it
    /// before, whose number is given.
    pub(crate) fn died(&self) -> Option<u64> {
        self.with(Cursor::died)
    }

    /// What it had is handed over again.
    pub(crate) fn rewind(&self) {
        self.with(Cursor::rewind);
    }

    /// The first message that it had counts as not handled; the others are handed over again.
    pub(crate) fn fail_first(&self) {
        self.with(|cursor| {
            if let Some(sequence) = cursor.in_flight.front().map(|first| first.sequence) {
                cursor.fail(sequence);
                cursor.acknowledge(sequence);
                cursor.rewind();
            }
        });
    }

    /// The plugin wants in the next session what it could not be given in this.
    pub(crate) fn set_durable(&self, durable: bool) {
        self.with(|cursor| cursor.set_durable(durable));
        self.journal.settle();
    }

    /// The plugin takes no messages: what waits, and what comes, is dropped.
    pub(crate) fn refuse(&self) {
        let mut inner = self.journal.lock();
        let (end, sequence) = (inner.end, inner.last_sequence);
        let cursor = &mut inner.cursors[self.index];
        cursor.rewind();
        cursor.refusing = true;
        cursor.pass_over(end, sequence);
    }

    /// It takes messages again, from the next one on.
    pub(crate) fn accept(&self) {
        self.with(|cursor| cursor.refusing = false);
    }

    /// Whether no message waits and none will come.
    pub(crate) fn is_finished(&self) -> bool {
        let inner = self.journal.lock();
        let cursor = &inner.cursors[self.index];
        inner.closed && cursor.sent == inner.end && cursor.in_flight.is_empty()
    }

    pub(crate) fn counters(&self) -> Counters {
        let inner = self.journal.lock();
        inner.cursors[self.index].counters(&inner)
    }

    /// What to say at the end of the session: what was not delivered, if anything, or what was. Takes
    /// no time, however much waits.
    pub(crate) fn closing_words(&self, verbose: bool) -> Option<String> {
        let inner = self.journal.lock();
        let cursor = &inner.cursors[self.index];
        let Counters { delivered, failed, dropped, waiting, .. } = cursor.counters(&inner);
        let missed = failed + dropped + waiting;
        if missed == 0 {
            return verbose
                .then(|| format!("plugin {}: all {delivered} messages were delivered", self.plugin));
        }
        if cursor.is_durable() && failed + dropped == 0 {
            return Some(format!(
                "plugin {}: {waiting} of {} messages are kept for the next session",
                self.plugin,
                delivered + missed
            ));
        }
        let mut lost = cursor.lost.clone();
        if waiting > 0 {
            let first = cursor.in_flight.front().map_or(cursor.last_sent + 1, |first| first.sequence);
            lost.add(first, (inner.last_sequence + 1).saturating_sub(first).max(1));
        }
        // Not all that passed may have been seen.
        let at_least = if inner.closed { "" } else { "at least " };
        let kept = if cursor.is_durable() { "kept for the next session" } else { "still waited at the end" };
        Some(format!(
            "plugin {}: {at_least}{missed} of {} messages were not delivered \
             ({failed} failed, {dropped} dropped, {waiting} {kept}): {}",
            self.plugin,
            delivered + missed,
            lost.describe()
        ))
    }
}
