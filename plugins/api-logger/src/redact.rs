//! Takes out what looks like a secret, before a message is kept anywhere.
//!
//! Three things give a secret away: the name that it is under ([`names`]), the form that it has
//! ([`patterns`]), and where it stands: in YAML's lines ([`lines`]), between XML's tags ([`xml`]), after a
//! command's flag ([`commands`]). JSON is copied but for the secrets in it ([`mod@json`]): numbers, order and
//! spaces stay as they were. All of it takes time linear in the message's length, and no depth is too deep.

mod commands;
mod edits;
mod json;
mod lines;
mod names;
mod patterns;
mod xml;

pub(crate) use json::{Json, redact as json};
pub(crate) use patterns::redact as text;

/// What stands in a secret's place.
const REDACTED: &str = "[redacted]";
