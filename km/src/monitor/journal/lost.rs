//! Which messages were not delivered, as ranges of sequence numbers.

/// Ranges of sequence numbers, each from its first to the one after its last.
#[derive(Debug, Clone, Default)]
pub(super) struct Lost(Vec<(u64, u64)>);

impl Lost {
    /// More ranges than anybody reads; the counters still count.
    const MOST: usize = 100;

    pub(super) fn add(&mut self, first: u64, count: u64) {
        let (end, room) = (first.saturating_add(count), self.0.len() < Self::MOST);
        match self.0.last_mut() {
            Some((_, last)) if *last == first => *last = end,
            _ if room => self.0.push((first, end)),
            _ => {}
        }
    }

    pub(super) fn describe(&self) -> String {
        let mut ranges = self.0.clone();
        ranges.sort_unstable();
        ranges.dedup_by(|next, range| {
            let joined = next.0 <= range.1;
            if joined {
                range.1 = range.1.max(next.1);
            }
            joined
        });
        let shown = ranges.iter().take(5).map(|&(first, end)| match end - first {
            1 => first.to_string(),
            _ => format!("{first}-{}", end - 1),
        });
        let text = shown.collect::<Vec<_>>().join(", ");
        if ranges.len() > 5 { format!("{text}, …") } else { text }
    }
}
