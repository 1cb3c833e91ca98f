//! Saying that the upstream cannot be reached: once, until it was.

use std::sync::atomic::{AtomicBool, Ordering};

use super::super::remarks::Remarks;

#[derive(Debug, Default)]
pub(super) struct Unreachable(AtomicBool);

impl Unreachable {
    pub(super) fn say(&self, why: &str) {
        if !self.0.swap(true, Ordering::Relaxed) {
            Remarks.say(&format!("{why}; clients get 502 until it can"));
        }
    }

    /// It was reached.
    pub(super) fn forget(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
