//! A server that says so many messages of so many bytes, and ends: `lines <count> <size>`.

use std::io::Write as _;

use km_tests::traffic;

/// How many are written at once.
const BLOCK: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let (Some(count), Some(size)) = (arguments.next(), arguments.next()) else {
        return Err("lines <count> <size>".into());
    };
    let (count, size) = (count?, size?);
    let block = traffic::calls(BLOCK, size);
    let mut stdout = std::io::stdout().lock();
    for _ in 0..count / BLOCK {
        stdout.write_all(&block)?;
    }
    stdout.write_all(&traffic::calls(count % BLOCK, size))?;
    Ok(stdout.flush()?)
}
