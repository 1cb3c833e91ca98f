//! Progress on a terminal; nothing elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows what is going on while something takes long. Gone when dropped.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new(shown: bool) -> Self {
        let shown = shown && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self(ProgressBar::with_draw_target(None, target))
    }

    /// A spinner with a text that can change.
    pub fn step(&self, text: impl Into<String>) {
        self.0.set_style(
            ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        self.0.enable_steady_tick(Duration::from_millis(100));
        self.0.set_message(text.into());
    }

    /// A bar over so many things, which [`advance`](Self::advance)s.
    pub fn counting(&self, total: u64, text: impl Into<String>) {
        self.0.set_style(
            ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {per_sec} {eta}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        self.0.set_length(total);
        self.0.set_position(0);
        self.0.set_message(text.into());
    }

    /// A bar over so many bytes, wrapped around a reader.
    pub fn reading<R: std::io::Read>(
        &self,
        from: R,
        total: u64,
        text: impl Into<String>,
    ) -> impl std::io::Read {
        self.bytes(total, text);
        self.0.wrap_read(from)
    }

    /// A bar over so many bytes, moved with [`advance`](Self::advance).
    pub fn bytes(&self, total: u64, text: impl Into<String>) {
        self.0.set_style(
            ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        self.0.set_length(total);
        self.0.set_message(text.into());
    }

    /// A line on stderr that stays, terminal or not.
    pub fn say(&self, line: impl std::fmt::Display) {
        let line = crate::printable_line(&crate::mask(&line.to_string()));
        self.0.suspend(|| anstream::eprintln!("{line}"));
    }

    /// So many more of what the bar is over.
    pub fn advance(&self, by: u64) {
        self.0.inc(by);
    }

    /// So many bytes were for nothing.
    pub fn retreat(&self, bytes: u64) {
        self.0.dec(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
