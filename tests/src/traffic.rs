//! Messages to measure with.

/// A call of a tool, of so many bytes with its newline.
pub fn call(id: usize, size: usize) -> Vec<u8> {
    let text = |padding: &str| {
        format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/call\",\"params\":{{\"name\":\"echo\",\
             \"arguments\":{{\"message\":\"{padding}\"}}}}}}\n"
        )
    };
    let least = text("").len();
    text(&"x".repeat(size.saturating_sub(least))).into_bytes()
}

/// So many of them, one after the other.
pub fn calls(count: usize, size: usize) -> Vec<u8> {
    (0..count).flat_map(|id| call(id, size)).collect()
}
