//! What a recorded server said to what: one turn for each message of the client, and what followed it.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use km_proto::Direction;
use km_proto::jsonrpc::{Kind, Summary};
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::message::Message;

pub(super) const TOKEN: [&str; 3] = ["params", "_meta", "progressToken"];
const OWN_TOKEN: [&str; 2] = ["params", "progressToken"];
const SUBSCRIPTION: [&str; 3] = ["params", "_meta", "io.modelcontextprotocol/subscriptionId"];

/// A recorded session, from the server's side.
#[derive(Debug, Default)]
pub(super) struct Script {
    turns: Vec<Turn>,
}

/// A message of the client, and what the server said because of it. The first has no message: what the
/// server said unasked.
#[derive(Debug)]
pub(super) struct Turn {
    method: String,
    params: Params,
    /// When the client's message came.
    pub(super) at: Duration,
    pub(super) steps: Vec<Step>,
    used: bool,
}

/// What a turn is recognized by.
#[derive(Debug, PartialEq)]
struct Params {
    /// Without the progress token, which is new each time.
    whole: Value,
    /// Without anything that is about the message, as who sends it.
    bare: Value,
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) at: Duration,
    pub(super) action: Action,
}

#[derive(Debug)]
pub(super) enum Action {
    Send(Line),
    /// Until the client has answered the server's request of this id.
    Await(String),
}

/// A line of the server, and what of it is the client's.
#[derive(Debug)]
pub(super) struct Line {
    text: String,
    /// Where the id of the client's request stands, or its progress token.
    place: Option<(Place, Range<usize>)>,
    /// Of a request of the server: its id.
    pub(super) asks: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Id,
    Token,
}

impl Script {
    pub(super) fn of(messages: &[Message]) -> Self {
        let mut builder = Builder::default();
        builder.script.turns.push(Turn::of(String::new(), Params::of(None), Duration::ZERO));
        for message in messages {
            let Ok(line) = std::str::from_utf8(&message.data) else { continue };
            for line in each(line) {
                match message.direction {
                    Direction::Inbound => builder.client_says(line, message.elapsed),
                    Direction::Outbound => builder.server_says(line, message.elapsed),
                }
            }
        }
        builder.script
    }

    pub(super) fn turn(&self, turn: usize) -> &Turn {
        &self.turns[turn]
    }

    /// The turn to play for a message of a client: of those that are equal the next one, and the last one
    /// again.
    pub(super) fn find(&mut self, method: &str, line: &str) -> Option<usize> {
        let params = Params::of(member(line, &["params"]));
        let turns = &self.turns[1..];
        let equal = |same: &dyn Fn(&Turn) -> bool| {
            let equal = || turns.iter().enumerate().filter(|(_, turn)| turn.method == method && same(turn));
            equal().find(|(_, turn)| !turn.used).or_else(|| equal().next_back()).map(|(at, _)| at + 1)
        };
        let found = equal(&|turn| turn.params == params)
            .or_else(|| equal(&|turn| turn.params.bare == params.bare))
            // Who the client is says nothing about what it wants.
            .or_else(|| if method == "initialize" { equal(&|_| true) } else { None })?;
        self.turns[found].used = true;
        Some(found)
    }
}

impl Turn {
    fn of(method: String, params: Params, at: Duration) -> Self {
        Self { method, params, at, steps: Vec::new(), used: false }
    }
}

impl Params {
    fn of(params: Option<&str>) -> Self {
        let mut whole: Value = params.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let mut bare = whole.clone();
        if let Some(members) = bare.as_object_mut() {
            members.remove("_meta");
        }
        if let Some(meta) = whole.get_mut("_meta").and_then(Value::as_object_mut) {
            meta.remove("progressToken");
            if meta.is_empty() {
                whole = bare.clone();
            }
        }
        Self { whole, bare }
    }
}

impl Line {
    /// The line for a request of this id and this progress token.
    pub(super) fn text(&self, id: Option<&str>, token: Option<&str>) -> String {
        let new = |place: Place| if place == Place::Id { id } else { token };
        match &self.place {
            Some((place, range)) => match new(*place) {
                Some(new) => format!("{}{new}{}", &self.text[..range.start], &self.text[range.end..]),
                None => self.text.clone(),
            },
            None => self.text.clone(),
        }
    }
}

#[derive(Debug, Default)]
struct Builder {
    script: Script,
    /// The client's requests without an answer yet.
    open: Vec<Request>,
    /// The server's requests without an answer yet, and in which turn each was.
    asked: HashMap<String, usize>,
}

#[derive(Debug)]
struct Request {
    id: String,
    token: Option<String>,
    turn: usize,
}

impl Builder {
    fn client_says(&mut self, line: &str, at: Duration) {
        let Summary { kind, method, id } = Summary::of(line.as_bytes());
        match (kind, method, id) {
            // It changes no turn but its request's, whose recorded end holds.
            (Kind::Notification, Some(method), _) if method == "notifications/cancelled" => {}
            (Kind::Request | Kind::Notification, Some(method), id) => {
                let params = Params::of(member(line, &["params"]));
                if let Some(id) = id {
                    let token = member(line, &TOKEN).map(str::to_owned);
                    self.open.push(Request { id, token, turn: self.script.turns.len() });
                }
                self.script.turns.push(Turn::of(method, params, at));
            }
            (Kind::Result | Kind::Error, _, Some(id)) => {
                if let Some(turn) = self.asked.remove(&id) {
                    self.script.turns[turn].steps.push(Step { at, action: Action::Await(id) });
                }
            }
            _ => {}
        }
    }

    fn server_says(&mut self, line: &str, at: Duration) {
        let Summary { kind, id, .. } = Summary::of(line.as_bytes());
        // Whatever a server printed besides messages.
        if matches!(kind, Kind::Invalid | Kind::Other | Kind::Batch) {
            return;
        }
        let is_answer = matches!(kind, Kind::Result | Kind::Error);
        let (turn, place) = match self.belongs_to(line, is_answer) {
            Some((open, place)) if is_answer => (self.open.remove(open).turn, Some(place)),
            Some((open, place)) => (self.open[open].turn, Some(place)),
            None => (self.latest(), None),
        };
        let asks = id.filter(|_| kind == Kind::Request);
        if let Some(id) = &asks {
            self.asked.insert(id.clone(), turn);
        }
        let line = Line { text: line.to_owned(), place, asks };
        self.script.turns[turn].steps.push(Step { at, action: Action::Send(line) });
    }

    /// Which open request a line says that it is about, and where.
    fn belongs_to(&self, line: &str, is_answer: bool) -> Option<(usize, (Place, Range<usize>))> {
        let about = |path: &[&str], place: Place| {
            let named = member(line, path)?;
            let open = self.open.iter().rposition(|request| match place {
                Place::Id => request.id == named,
                Place::Token => request.token.as_deref() == Some(named),
            })?;
            let start = named.as_ptr() as usize - line.as_ptr() as usize;
            Some((open, (place, start..start + named.len())))
        };
        match is_answer {
            true => about(&["id"], Place::Id),
            false => about(&OWN_TOKEN, Place::Token).or_else(|| about(&SUBSCRIPTION, Place::Id)),
        }
    }

    /// The turn of what the server says of its own accord: that of the request it works on, else what
    /// the client said last.
    fn latest(&self) -> usize {
        self.open.last().map_or(self.script.turns.len() - 1, |request| request.turn)
    }
}

/// The messages of a line: more than one, if it is an array.
pub(super) fn each(line: &str) -> Vec<&str> {
    let is_batch = line.trim_ascii_start().starts_with('[');
    let batch = if is_batch { serde_json::from_str::<Vec<&RawValue>>(line).ok() } else { None };
    batch.map_or_else(|| vec![line.trim_ascii()], |batch| batch.into_iter().map(RawValue::get).collect())
}

/// What stands at this place of a JSON text.
pub(super) fn member<'a>(json: &'a str, path: &[&str]) -> Option<&'a str> {
    let [name, rest @ ..] = path else { return Some(json) };
    let members: HashMap<String, &'a RawValue> = serde_json::from_str(json).ok()?;
    member(members.get(*name)?.get(), rest)
}
