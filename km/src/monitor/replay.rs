//! `km replay`: a recorded session without its server, or without its client.

mod script;
mod server;

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use go_plugin::host::RestartPolicy;
use km_package::failure::{Failure, Kind};
use km_package::name::PluginName;
use km_proto::Direction;
use serde::Serialize;

use super::journal::Counters;
use super::message::Message;
use super::observe::{Observed, Observer};
use super::record::{Content, Entry, Missed, Reader};
use super::remarks::Remarks;
use super::tap::{Framing, Moment, StreamKind, Tap, TapStream, tap};
use super::watchers::{Audience, Limits, Selection, Watchers};
use crate::environment::Environment;
use crate::host::guard;
pub(crate) use server::Speed;

/// How far the recording runs ahead of the plugins, in bytes and in pieces.
const AHEAD: usize = 8 << 20;
const PIECES_AHEAD: usize = 1024;
/// The longest message that plugins see whole, as in a session.
const LARGEST: usize = 64 << 20;
/// What may wait in memory: all that runs ahead, and more than one long message.
const BUFFER: usize = 128 << 20;
/// Plugins have all the time they want; a signal ends it.
const NO_HURRY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a look at what plugins have taken is good for.
const MOMENT: Duration = Duration::from_millis(2);
/// How long a stderr that nobody reads may hold up the last words.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What was delivered.
#[derive(Debug, Serialize)]
pub(crate) struct Delivered {
    /// Why the recording could not be read to its end.
    pub(crate) damage: Option<String>,
    /// A signal ended it.
    pub(crate) interrupted: bool,
    pub(crate) plugins: Vec<DeliveredTo>,
}

#[derive(Debug, Serialize)]
pub(crate) struct DeliveredTo {
    pub(crate) name: PluginName,
    #[serde(flatten)]
    pub(crate) counters: Counters,
}

/// Gives the messages of a recording to plugins: all of them, as fast as they take them.
pub(crate) fn deliver(
    recording: &Path,
    names: Vec<PluginName>,
    environment: Environment,
    verbose: bool,
) -> Result<Delivered, Failure> {
    let mut reader = Reader::open(recording)?;
    let local = |e: io::Error| Failure::new(Kind::Local, format_args!("cannot start a thread: {e}"));
    let signals = Signals::watch().map_err(local)?;
    Remarks.start().map_err(local)?;
    let (tap, pieces) = tap();
    let selection = Selection {
        names,
        limits: Limits { memory: BUFFER, disk: u64::MAX },
        max_message: LARGEST,
        drain_timeout: NO_HURRY,
        plugin_memory: u64::MAX,
        max_deaths: RestartPolicy::default().deaths,
    };
    let audience = Audience { plugins: Some(selection), summary: false, verbose };
    let watchers = Watchers::start(environment, audience, (tap.clone(), pieces), None).map_err(local)?;
    let is_waiting =
        |tap: &Tap| tap.waiting() > 0 || watchers.counters().iter().any(|(_, counters)| counters.waiting > 0);
    let mut keep_up = |tap: &Tap| {
        while is_waiting(tap) {
            if signals.heard_within(MOMENT) {
                return false;
            }
        }
        true
    };
    let fed = feed(&mut reader, &tap, &mut keep_up);
    let words = watchers.finish(&|| signals.heard_within(Duration::ZERO));
    words.iter().for_each(|words| Remarks.say(words));
    Remarks.finish(LAST_WORDS);
    fed?;
    let plugins = watchers.counters().into_iter().map(|(name, counters)| DeliveredTo { name, counters });
    Ok(Delivered {
        damage: reader.damage().map(str::to_owned),
        interrupted: signals.heard_within(Duration::ZERO),
        plugins: plugins.collect(),
    })
}

/// Answers a client on stdin and stdout as the recorded server did, until its input ends.
pub(crate) fn answer(recording: &Path, speed: Speed) -> Result<(), Failure> {
    let mut reader = Reader::open(recording)?;
    let messages = messages(&mut reader)?;
    if let Some(damage) = reader.damage() {
        Remarks.say(&format!("the recording is not whole: {damage}"));
    }
    let script = script::Script::of(&messages);
    drop(messages);
    server::serve(script, speed)
        .map_err(|e| Failure::new(Kind::Local, format_args!("cannot answer on stdout: {e}")))
}

/// Puts what was recorded into a tap, as a relay would, with the times of the recording. Now and then
/// `keep_up` waits for those who take it, or says that it is enough.
fn feed(reader: &mut Reader, tap: &Tap, keep_up: &mut dyn FnMut(&Tap) -> bool) -> Result<(), Failure> {
    let began = Moment { wall: reader.started().into(), monotonic: tap.begun() };
    let mut streams: HashMap<Direction, TapStream> = HashMap::new();
    let (mut bytes_ahead, mut pieces_ahead) = (0, 0);
    while let Some(Entry { time, direction, content }) = reader.next()? {
        let moment = began.after(Duration::from_nanos(time));
        let kind = StreamKind { direction, framing: Framing::Lines, channel: None };
        let stream = streams.entry(direction).or_insert_with(|| tap.open(kind));
        match content {
            Content::Bytes(bytes) => {
                stream.copy_at(moment, &bytes);
                (bytes_ahead, pieces_ahead) = (bytes_ahead + bytes.len(), pieces_ahead + 1);
            }
            Content::Gap(Missed { lines, ends_line, .. }) => stream.gap_at(moment, lines, ends_line),
            Content::End => {
                if let Some(stream) = streams.remove(&direction) {
                    stream.end_at(moment);
                }
            }
        }
        if bytes_ahead >= AHEAD || pieces_ahead >= PIECES_AHEAD {
            if !keep_up(tap) {
                break;
            }
            (bytes_ahead, pieces_ahead) = (0, 0);
        }
    }
    Ok(())
}

/// All messages of a recording.
fn messages(reader: &mut Reader) -> Result<Vec<Message>, Failure> {
    let (tap, mut pieces) = tap();
    let mut messages = Vec::new();
    let mut observer = Observer::new(usize::MAX, Arc::default()).since(tap.begun());
    let mut note = |observed: Observed| match observed {
        Observed::Message(message) => messages.push(message),
        Observed::Lost { .. } => {}
    };
    let mut take = |tap: &Tap| {
        while tap.waiting() > 0
            && let Some(piece) = pieces.next()
        {
            observer.take(piece, &mut note);
        }
        true
    };
    feed(reader, &tap, &mut take)?;
    tap.finish();
    while let Some(piece) = pieces.next() {
        observer.take(piece, &mut note);
    }
    observer.finish(&mut note);
    Ok(messages)
}

/// The signals that mean an end.
struct Signals {
    inbox: mpsc::Receiver<()>,
    heard: Cell<bool>,
}

impl Signals {
    fn watch() -> io::Result<Self> {
        let (sender, inbox) = mpsc::channel();
        let mut signals = signal_hook::iterator::Signals::new(guard::signals_to_pass_on())?;
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for _ in signals.forever() {
                let _ = sender.send(());
            }
        })?;
        Ok(Self { inbox, heard: Cell::new(false) })
    }

    /// Whether there was one by then.
    fn heard_within(&self, time: Duration) -> bool {
        if !self.heard.get() {
            self.heard.set(self.inbox.recv_timeout(time).is_ok());
        }
        self.heard.get()
    }
}

impl Moment {
    fn after(self, time: Duration) -> Self {
        Self {
            // A time that no clock shows is no reason to stop.
            wall: self.wall.checked_add(time).unwrap_or(self.wall),
            monotonic: self.monotonic.checked_add(time).unwrap_or(self.monotonic),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn messages_have_the_times_of_the_recording() {
        let lines = [
            r#"{"format":"km-recording/1","started":"2026-11-23T06:00:00Z"}"#,
            r#"{"t":1000000000,"dir":"inbound","data":"one\ntw"}"#,
            r#"{"t":2000000000,"dir":"outbound","data":"x\n"}"#,
            r#"{"t":3000000000,"dir":"inbound","base64":"bwr/"}"#,
            r#"{"t":4000000000,"dir":"inbound","end":true}"#,
        ];
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&zstd::encode_all(lines.join("\n").as_bytes(), 1).unwrap()).unwrap();
        // The last line is whole only with its newline.
        let mut reader = Reader::open(file.path()).unwrap();
        assert_eq!(messages(&mut reader).unwrap().len(), 4);
        assert!(reader.damage().is_some());

        let text = lines.map(|line| format!("{line}\n")).concat();
        std::fs::write(file.path(), zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
        let mut reader = Reader::open(file.path()).unwrap();
        let started = SystemTime::from(reader.started());
        let seen: Vec<_> = messages(&mut reader)
            .unwrap()
            .into_iter()
            .map(|message| {
                assert_eq!(message.received, started + message.elapsed);
                (message.direction, message.elapsed.as_secs(), message.data.to_vec())
            })
            .collect();
        let expected = [
            (Direction::Inbound, 1, b"one".to_vec()),
            (Direction::Outbound, 2, b"x".to_vec()),
            (Direction::Inbound, 3, b"two".to_vec()),
            (Direction::Inbound, 4, b"\xff".to_vec()),
        ];
        assert_eq!(seen, expected);
        assert_eq!(reader.damage(), None);
    }
}
