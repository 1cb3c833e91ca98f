//! What a sender knows: what it may do, what waits, and what became of the rest.

use std::sync::Arc;
use std::time::Instant;

use km_plugin::{Access, Token, feature};

use crate::api::{Destination, Trouble, Verdict};
use crate::queue::{Batch, Limits, Queue, Split};

/// What both threads look at.
#[derive(Debug)]
pub(super) struct State {
    access: Option<Access>,
    mode: Mode,
    /// The API said 403; the next access may be taken again.
    is_forbidden: bool,
    /// The API said 401 to this one.
    refused_token: Option<Token>,
    queue: Queue,
    trouble: Option<Standing>,
    tally: Tally,
}

/// What is done with messages.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    /// They are counted, for this reason.
    Counting(String),
    Sending(Arc<Destination>),
}

/// Trouble that lasts; said once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Trouble(Trouble),
    Token,
    Forbidden,
    Refused,
}

/// What became of the events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    sent: u64,
    counted: u64,
    refused: u64,
}

impl Mode {
    fn of(access: &Access) -> Self {
        if !access.has(feature::API_LOGGING) {
            return Self::Counting("the subscription does not include api_logging".to_owned());
        }
        let Some(api) = &access.api else {
            return Self::Counting("there is no token for the API".to_owned());
        };
        match Destination::new(api) {
            Ok(destination) => Self::Sending(Arc::new(destination)),
            Err(why) => Self::Counting(why),
        }
    }

    fn line(&self) -> String {
        match self {
            Self::Counting(why) => format!("only counting: {why}"),
            Self::Sending(destination) => format!("sending events to {}", destination.site.shown()),
        }
    }
}

impl Standing {
    fn line(self, waiting: usize) -> String {
        match self {
            Self::Trouble(Trouble::Unreachable) => {
                format!("the API cannot be reached, {waiting} events wait")
            }
            Self::Trouble(Trouble::Stranger) => {
                format!("what answers is not the API, {waiting} events wait")
            }
            Self::Trouble(Trouble::Status(status)) => {
                format!("the API cannot take events just now ({}), {waiting} events wait", status.as_u16())
            }
            Self::Token => format!("the API does not take the token, {waiting} events wait for the next one"),
            Self::Forbidden => format!("only counting: the API takes no events from here, {waiting} wait"),
            Self::Refused => "the API refuses events; they are dropped".to_owned(),
        }
    }

    /// Whether two are the same to people: a server that fails may do so in several ways.
    fn is_like(self, other: Self) -> bool {
        let same_kind =
            matches!((self, other), (Self::Trouble(Trouble::Status(_)), Self::Trouble(Trouble::Status(_))));
        same_kind || self == other
    }
}

/// What the thread does next.
#[derive(Debug)]
pub(super) enum Step {
    Send(Batch, Arc<Destination>),
    /// Until something changes, or this moment.
    Wait(Option<Instant>),
    End,
}

impl State {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            access: None,
            mode: Mode::Counting(String::new()),
            is_forbidden: false,
            refused_token: None,
            queue: Queue::new(limits),
            trouble: None,
            tally: Tally::default(),
        }
    }

    /// What may be done from now on; says so where that is something else than before.
    pub(super) fn set_access(&mut self, access: &Access) -> Option<String> {
        if self.access.as_ref() == Some(access) {
            return None;
        }
        let before = std::mem::replace(&mut self.mode, Mode::of(access)).line();
        self.access = Some(access.clone());
        self.is_forbidden = false;
        Some(self.mode.line()).filter(|line| *line != before)
    }

    pub(super) fn push(&mut self, event: String, now: Instant) {
        self.queue.push(event, now);
    }

    /// The batch is not sent any more.
    pub(super) fn put_back(&mut self, batch: Batch) {
        self.queue.put_back(batch);
    }

    /// Whether messages become events; otherwise this one is counted.
    pub(super) fn takes_events(&mut self) -> bool {
        let takes = matches!(self.mode, Mode::Sending(_)) && !self.is_forbidden;
        self.tally.counted += u64::from(!takes);
        takes
    }

    /// Where events may be sent now.
    fn destination(&self) -> Option<&Arc<Destination>> {
        match &self.mode {
            Mode::Sending(destination) => Some(destination)
                .filter(|_| !self.is_forbidden)
                .filter(|destination| Some(&destination.token) != self.refused_token.as_ref()),
            Mode::Counting(_) => None,
        }
    }

    pub(super) fn step(&mut self, now: Instant, not_before: Option<Instant>, end: Option<Instant>) -> Step {
        let (Some(destination), Some(due)) = (self.destination().cloned(), self.queue.due()) else {
            return if end.is_some() { Step::End } else { Step::Wait(None) };
        };
        // At the end, a batch that is not full goes at once; a pause is kept.
        let due = if end.is_some() { now } else { due }.max(not_before.unwrap_or(now));
        match end {
            Some(end) if now >= end || due >= end => Step::End,
            _ if due > now => Step::Wait(Some(due)),
            _ => Step::Send(self.queue.take(), destination),
        }
    }

    /// Notes what became of a batch; says what people should know of it.
    pub(super) fn settle(
        &mut self,
        batch: Batch,
        verdict: Verdict,
        sent_with: &Destination,
    ) -> Option<String> {
        let count = batch.len() as u64;
        let standing = match verdict {
            Verdict::Taken => {
                self.queue.done(batch);
                self.tally.sent += count;
                return self.trouble.take().map(|_| "sending again".to_owned());
            }
            Verdict::Smaller => {
                if self.queue.split(batch) == Split::GivenUp {
                    self.tally.refused += count;
                }
                return None;
            }
            Verdict::Never(_) => {
                self.queue.done(batch);
                self.tally.refused += count;
                Standing::Refused
            }
            Verdict::Later { trouble, .. } => {
                self.queue.put_back(batch);
                Standing::Trouble(trouble)
            }
            Verdict::OtherToken => {
                self.queue.put_back(batch);
                self.refused_token = Some(sent_with.token.clone());
                Standing::Token
            }
            Verdict::Forbidden => {
                self.queue.put_back(batch);
                // What is allowed may have changed while the answer was on its way.
                self.is_forbidden =
                    matches!(&self.mode, Mode::Sending(destination) if **destination == *sent_with);
                Standing::Forbidden
            }
        };
        let is_news = !self.trouble.is_some_and(|trouble| trouble.is_like(standing));
        self.trouble = Some(standing);
        is_news.then(|| standing.line(self.queue.len()))
    }

    /// How many events wait, and how many gave way to younger ones.
    pub(super) fn waiting(&self) -> (u64, u64) {
        (self.queue.len() as u64, self.queue.dropped())
    }

    /// The last lines.
    pub(super) fn summary(&self) -> Vec<String> {
        let Tally { sent, counted, refused } = self.tally;
        let (waited, dropped) = self.waiting();
        let failed = waited + dropped + refused;
        let mut lines = vec![format!("{sent} events sent")];
        if failed > 0 {
            lines.push(format!(
                "{failed} events could not be sent ({waited} still waited, {dropped} dropped, {refused} refused)"
            ));
        }
        if counted > 0 {
            lines.push(format!("{counted} events only counted"));
        }
        lines
    }
}
