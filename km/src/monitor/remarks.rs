//! What `km` itself has to say during a session: on stderr, never in anybody's way.

use std::io::Write as _;

/// Says things on stderr, marked as `km`'s own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remarks;

impl Remarks {
    /// One line, in one piece. A stderr that nobody reads any more is no reason to stop.
    pub(crate) fn say(self, text: &str) {
        let _ = std::io::stderr().write_all(format!("km: {text}\n").as_bytes());
    }
}
