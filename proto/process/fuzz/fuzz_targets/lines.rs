//! What a plugin writes: the handshake line, log entries, and anything else as lines.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir proto/process/fuzz lines`

#![no_main]

use go_plugin::handshake::{HandshakeLine, negotiate};
use go_plugin::host::LogEntry;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(line) = HandshakeLine::parse(data) {
        // What was understood is understood again.
        assert_eq!(HandshakeLine::parse(line.to_string().as_bytes()).as_ref(), Ok(&line));
        assert!(HandshakeLine::is_candidate(data.trim_ascii()));
    }
    if let Some(entry) = LogEntry::parse(data) {
        assert!(entry.to_string().contains(&entry.message));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(negotiate(Some(text), &[1, 2]).is_some_and(|version| version == 1 || version == 2));
    }
    // The first byte says where the pieces end; whatever they are, the lines are the same.
    if let Some((&size, data)) = data.split_first() {
        let pieces: Vec<&[u8]> = data.chunks(usize::from(size) + 1).collect();
        let lines = go_plugin::cut_lines(&pieces);
        assert_eq!(lines, go_plugin::cut_lines(&[data]));
        let text = lines.iter().flat_map(|line| line.iter());
        assert!(text.eq(data.iter().filter(|&&b| b != b'\n')));
    }
});
