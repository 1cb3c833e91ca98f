//! What `km` itself has to say during a session: on stderr, never in anybody's way.

use std::io::Write as _;
use std::sync::mpsc;
use std::time::Duration;

/// Says things on stderr, marked as `km`'s own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remarks;

impl Remarks {
    /// One line, in one piece. A stderr that nobody reads any more is no reason to stop.
    pub(crate) fn say(self, text: &str) {
        let _ = std::io::stderr().write_all(format!("km: {text}\n").as_bytes());
    }

    /// The last lines of a session, as far as stderr takes them in this time.
    pub(crate) fn say_within(self, lines: Vec<String>, time: Duration) {
        if lines.is_empty() {
            return;
        }
        let (done, said) = mpsc::channel();
        let say = move || {
            lines.iter().for_each(|line| self.say(line));
            let _ = done.send(());
        };
        // Not joined: a full stderr would hold it for ever.
        if std::thread::Builder::new().name("last-words".to_owned()).spawn(say).is_ok() {
            let _ = said.recv_timeout(time);
        }
    }
}
