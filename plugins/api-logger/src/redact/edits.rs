//! What is to be replaced in a text.

use std::borrow::Cow;
use std::ops::Range;

use super::REDACTED;

/// A text, and what stands in the place of its parts.
#[derive(Debug)]
pub(super) struct Edits<'a> {
    text: &'a str,
    edits: Vec<(Range<usize>, Cow<'static, str>)>,
}

impl<'a> Edits<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, edits: Vec::new() }
    }

    /// In any order; of two within each other, the outer one holds.
    pub(super) fn replace(&mut self, range: Range<usize>, by: impl Into<Cow<'static, str>>) {
        self.edits.push((range, by.into()));
    }

    pub(super) fn redact(&mut self, range: Range<usize>) {
        self.replace(range, REDACTED);
    }

    /// The text with what stands in its places; borrowed if that is nothing.
    pub(super) fn finish(mut self) -> Cow<'a, str> {
        if self.edits.is_empty() {
            return Cow::Borrowed(self.text);
        }
        self.edits.sort_by_key(|(range, _)| (range.start, usize::MAX - range.end));
        let (mut out, mut copied) = (String::with_capacity(self.text.len()), 0);
        for (range, by) in self.edits {
            if range.start >= copied {
                out.push_str(&self.text[copied..range.start]);
                out.push_str(&by);
                copied = range.end;
            }
        }
        out.push_str(&self.text[copied..]);
        Cow::Owned(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_come_in_any_order_and_the_outer_one_holds() {
        assert!(matches!(Edits::new("abc").finish(), Cow::Borrowed("abc")));
        let mut edits = Edits::new("abcdefgh");
        edits.redact(6..7);
        edits.replace(3..4, "x");
        edits.replace(2..5, "y");
        edits.replace(2..3, "z");
        edits.replace(0..1, "");
        assert_eq!(edits.finish(), "byf[redacted]h");
    }
}
