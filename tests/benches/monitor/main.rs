//! What `km monitor` costs: `cargo bench -p km-tests --bench monitor [-- [--quick] [<table>…]]`.
//!
//! Everything in one run on one machine, round by round, so that ratios count and not the machine:
//! beside `km`, without plugins and with 1 and 5 that count, nothing at all, what everybody has (`cat`,
//! `tee`, `socat` where it is installed), and the least that a relay can be (`tests/src/bin/pump.rs`).
//! The tables are for `docs/performance.md`; `--quick` shows in a minute that they work.

mod big;
mod calls;
mod ping_pong;
mod start;
mod stream;
mod way;

use km_tests::measure::machine;
use way::Ways;

/// How much of it there is.
struct Extent {
    rounds: usize,
    /// What is done in a round is divided by this.
    part: usize,
}

/// What measures one or more tables.
type Measure = fn(&Ways, &Extent);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |argument: &str| arguments.iter().any(|given| given == argument);
    // `cargo test --benches` only asks whether it builds.
    if !has("--bench") {
        return;
    }
    let extent = if has("--quick") { Extent { rounds: 1, part: 20 } } else { Extent { rounds: 5, part: 1 } };
    let ways = Ways::prepare();
    let tables: [(&str, Measure); 5] = [
        ("stream", stream::measure),
        ("ping-pong", ping_pong::measure),
        ("big", big::measure),
        ("start", start::measure),
        ("calls", calls::measure),
    ];
    println!("{}", machine());
    let all = !tables.iter().any(|(name, _)| has(name));
    for (name, measure) in tables {
        if all || has(name) {
            measure(&ways, &extent);
        }
    }
    println!("\n{}", machine());
}
