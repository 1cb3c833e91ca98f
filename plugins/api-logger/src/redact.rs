//! Takes out what looks like a secret, before a message is kept anywhere.
//!
//! Two things give a secret away: the name that it is under ([`names`]), and the form that it has
//! ([`patterns`]). JSON is copied but for the secrets in it ([`json`]): numbers, order and spaces stay
//! as they were. All of it takes time linear in the message's length, and no depth is too deep.

mod json;
mod names;
mod patterns;

pub(crate) use json::{Json, redact as json};
pub(crate) use patterns::redact as text;

/// What stands in a secret's place.
const REDACTED: &str = "[redacted]";
