//! The time of a reply: one line to `cat` and back, then the next.

use std::io::{BufRead as _, BufReader, Write as _};
use std::time::{Duration, Instant};

use km_tests::measure::{median, median_ratio, print_table, quantile};

use crate::Extent;
use crate::stream::read_errors;
use crate::way::{Way, Ways};

const LINE: &[u8] =
    b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"echo\"}}\n";
const ROUND_TRIPS: usize = 5000;
/// The first replies wait for processes to start.
const WARM_UP: usize = 100;

pub(crate) fn measure(ways: &Ways, extent: &Extent) {
    let plain = [&ways.direct, &ways.cats];
    let ways: Vec<&Way> = plain.into_iter().chain(&ways.socat).chain([&ways.pump]).chain(&ways.km).collect();
    let mut p50 = vec![Vec::new(); ways.len()];
    let mut p99 = vec![Vec::new(); ways.len()];
    for _ in 0..extent.rounds {
        for (at, way) in ways.iter().enumerate() {
            let mut times = once(way);
            p50[at].push(micros(quantile(&mut times, 0.5)));
            p99[at].push(micros(quantile(&mut times, 0.99)));
        }
    }
    let rows: Vec<Vec<String>> = ways
        .iter()
        .enumerate()
        .map(|(at, way)| {
            vec![
                way.name.clone(),
                format!("{:.1} µs", median(p50[at].clone())),
                format!("{:.1} µs", median(p99[at].clone())),
                format!("{:.2}", median_ratio(&p50[at], &p50[0])),
                format!("{:.2}", median_ratio(&p50[at], &p50[1])),
            ]
        })
        .collect();
    let title = format!(
        "reply to a line of {} bytes, {ROUND_TRIPS} round trips, median of {} rounds",
        LINE.len(),
        extent.rounds
    );
    print_table(&[&title, "p50", "p99", "p50 × direct", "p50 × `cat \\| cat \\| cat`"], &rows);
}

fn once(way: &Way) -> Vec<Duration> {
    let mut child = way.command(&["cat"]).spawn().expect("it starts");
    let errors = read_errors(&mut child);
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = Vec::new();
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for n in 0..ROUND_TRIPS + WARM_UP {
        let begun = Instant::now();
        stdin.write_all(LINE).expect("it reads");
        line.clear();
        stdout.read_until(b'\n', &mut line).expect("it answers");
        if n >= WARM_UP {
            times.push(begun.elapsed());
        }
    }
    drop(stdin);
    child.wait().expect("it ends");
    errors.join().expect("read");
    times
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
