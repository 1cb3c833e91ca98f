//! Events that wait to be sent. What they take is bounded; the oldest give way.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use km_plugin::event::{MAX_BODY, MAX_EVENTS};

/// How much is sent at once, and how much may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Most events of a batch.
    pub(crate) batch_events: usize,
    /// Most bytes of a batch; a single event may have more.
    pub(crate) batch_bytes: usize,
    /// How long an event waits for others to be sent with.
    pub(crate) batch_age: Duration,
    /// Most bytes that wait, what is being sent included.
    pub(crate) waiting_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const EVENTS: usize = 200;
        const BYTES: usize = 1 << 20;
        const { assert!(EVENTS <= MAX_EVENTS && BYTES * 2 < MAX_BODY) }
        Self {
            batch_events: EVENTS,
            batch_bytes: BYTES,
            batch_age: Duration::from_secs(1),
            waiting_bytes: 8 << 20,
        }
    }
}

/// One event, as JSON.
#[derive(Debug)]
struct Waiting {
    json: String,
    since: Instant,
}

/// Events that are being sent. They go back into the queue, or are done with.
#[derive(Debug)]
#[must_use]
pub(crate) struct Batch(Vec<Waiting>);

impl Batch {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The body of a request.
    pub(crate) fn body(&self) -> Vec<u8> {
        let mut body = b"{\"events\":[".to_vec();
        for (i, event) in self.0.iter().enumerate() {
            if i > 0 {
                body.push(b',');
            }
            body.extend_from_slice(event.json.as_bytes());
        }
        body.extend_from_slice(b"]}");
        body
    }
}

/// Events in the order in which they came.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: Limits,
    events: VecDeque<Waiting>,
    /// Bytes of all of them, and of the batch that is being sent.
    bytes: usize,
    /// Events of that batch.
    sending: usize,
    /// At least one of the first so many is what the server refuses: they are sent by halves.
    suspects: usize,
    dropped: u64,
}

impl Queue {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, events: VecDeque::new(), bytes: 0, sending: 0, suspects: 0, dropped: 0 }
    }

    pub(crate) fn push(&mut self, json: String, now: Instant) {
        self.bytes += json.len();
        self.events.push_back(Waiting { json, since: now });
        self.make_room();
    }

    /// Events that were not sent yet.
    pub(crate) fn len(&self) -> usize {
        self.events.len() + self.sending
    }

    /// How many gave way to younger ones.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// When the next batch is to be sent; none if nothing waits.
    pub(crate) fn due(&self) -> Option<Instant> {
        let oldest = self.events.front()?.since;
        let full = self.events.len() >= self.limits.batch_events || self.bytes >= self.limits.batch_bytes;
        Some(if full { oldest } else { oldest + self.limits.batch_age })
    }

    /// The next batch. Only one is on its way at a time.
    pub(crate) fn take(&mut self) -> Batch {
        let most = match self.suspects {
            0 => self.limits.batch_events,
            suspects => suspects.div_ceil(2).min(self.limits.batch_events),
        };
        let mut bytes = 0;
        let fits = |event: &&Waiting| {
            bytes += event.json.len() + 1;
            bytes <= self.limits.batch_bytes
        };
        let count = self.events.iter().take(most).take_while(fits).count().max(1).min(self.events.len());
        self.sending = count;
        Batch(self.events.drain(..count).collect())
    }

    /// The batch was not sent, and waits again.
    pub(crate) fn put_back(&mut self, batch: Batch) {
        self.sending = 0;
        for event in batch.0.into_iter().rev() {
            self.events.push_front(event);
        }
        self.make_room();
    }

    /// The batch was refused for one of its events. Half of it is next; a single one is given up.
    pub(crate) fn split(&mut self, batch: Batch) -> Split {
        if batch.len() == 1 {
            self.suspects = 0;
            self.done(batch);
            return Split::GivenUp;
        }
        self.suspects = batch.len();
        self.put_back(batch);
        Split::Again
    }

    /// The batch is done with, sent or not.
    pub(crate) fn done(&mut self, batch: Batch) {
        self.sending = 0;
        self.suspects = self.suspects.saturating_sub(batch.len());
        self.bytes -= batch.0.iter().map(|event| event.json.len()).sum::<usize>();
    }

    fn make_room(&mut self) {
        while self.bytes > self.limits.waiting_bytes
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= oldest.json.len();
            self.suspects = self.suspects.saturating_sub(1);
            self.dropped += 1;
        }
    }
}

/// What became of a batch that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Split {
    /// It waits again, and half of it is next.
    Again,
    /// It was a single event, which is gone.
    GivenUp,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { batch_events: 4, batch_bytes: 100, batch_age: Duration::from_secs(1), waiting_bytes: 300 };

    fn queue(events: &[&str]) -> Queue {
        let mut queue = Queue::new(LIMITS);
        for event in events {
            queue.push((*event).to_owned(), Instant::now());
        }
        queue
    }

    fn body(batch: &Batch) -> String {
        String::from_utf8(batch.body()).unwrap()
    }

    #[test]
    fn a_batch_is_bounded_in_number_and_bytes() {
        let mut queue = queue(&["1", "2", "3", "4", "5"]);
        let batch = queue.take();
        assert_eq!(body(&batch), r#"{"events":[1,2,3,4]}"#);
        assert_eq!(queue.len(), 5);
        queue.done(batch);
        assert_eq!((queue.len(), body(&queue.take()).as_str()), (1, r#"{"events":[5]}"#));

        let (large, half) = ("x".repeat(150), "y".repeat(50));
        let mut queue = self::queue(&[&large, &half, "1", &half]);
        for expected in [1, 2, 1] {
            let batch = queue.take();
            assert_eq!(batch.len(), expected);
            queue.done(batch);
        }
        assert_eq!((queue.len(), queue.bytes, queue.due()), (0, 0, None));
    }

    #[test]
    fn a_batch_is_due_when_it_is_full_or_old() {
        let now = Instant::now();
        let mut queue = Queue::new(LIMITS);
        assert_eq!(queue.due(), None);
        queue.push("1".to_owned(), now);
        assert_eq!(queue.due(), Some(now + LIMITS.batch_age));
        queue.push("x".repeat(100), now + LIMITS.batch_age);
        assert_eq!(queue.due(), Some(now));
        let mut queue = Queue::new(LIMITS);
        (0..4).for_each(|_| queue.push("1".to_owned(), now));
        assert_eq!(queue.due(), Some(now));
    }

    #[test]
    fn the_oldest_give_way_and_are_counted() {
        let event = |i: usize| format!("{i:0>50}");
        let mut queue = Queue::new(LIMITS);
        for i in 0..100 {
            queue.push(event(i), Instant::now());
            assert!(queue.bytes <= LIMITS.waiting_bytes);
        }
        assert_eq!((queue.len(), queue.dropped()), (6, 94));
        // What is on its way takes room too, and is the oldest when it comes back.
        let batch = queue.take();
        assert_eq!(body(&batch), format!("{{\"events\":[{}]}}", event(94)));
        queue.push(event(100), Instant::now());
        assert_eq!((queue.len(), queue.dropped(), queue.bytes), (6, 95, 300));
        queue.put_back(batch);
        queue.push(event(101), Instant::now());
        assert_eq!((queue.len(), queue.dropped(), queue.bytes), (6, 96, 300));
        assert_eq!(body(&queue.take()), format!("{{\"events\":[{}]}}", event(96)));
        // One that is larger than all the room there is.
        queue.push("x".repeat(301), Instant::now());
        assert_eq!(queue.events.len(), 0);
    }

    #[test]
    fn a_refused_batch_is_halved_until_the_culprit_is_alone() {
        for culprit in ["1", "2", "3", "4"] {
            let mut queue = queue(&["1", "2", "3", "4", "5", "6"]);
            let (mut sent, mut requests) = (String::new(), 0);
            while queue.due().is_some() {
                let batch = queue.take();
                let body = body(&batch);
                requests += 1;
                if !body.contains(culprit) {
                    sent.push_str(&body.replace(|c: char| !c.is_ascii_digit(), ""));
                    queue.done(batch);
                } else if queue.split(batch) == Split::GivenUp {
                    assert_eq!(body, format!("{{\"events\":[{culprit}]}}"));
                }
            }
            assert_eq!(sent, "123456".replace(culprit, ""));
            assert!(requests <= 6, "{requests}");
            assert_eq!((queue.len(), queue.bytes, queue.suspects), (0, 0, 0));
        }
    }
}
