//! What keeps the whole machine busy: hundreds of killed processes, twenty installations at once. A
//! program of its own, since cargo runs one after the other and others have deadlines.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod concurrency;
mod crash;
mod delivery;
mod recording;
mod soak;
