//! How soon the first byte arrives, what a session takes that does nothing, and what a command takes.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use km_tests::measure::{memory, print_table, quantile};
use km_tests::{TestEnvironment, binary, descendants, wait_until};

use crate::Extent;
use crate::stream::read_errors;
use crate::way::{Way, Ways};

const STARTS: usize = 50;
/// A server that says something at once.
const SERVER: [&str; 3] = ["sh", "-c", "echo '{}'; exec cat"];

pub(crate) fn measure(ways: &Ways, extent: &Extent) {
    let starts = (STARTS / extent.part).max(5);
    let ways: Vec<&Way> = [&ways.direct, &ways.cats, &ways.pump].into_iter().chain(&ways.km).collect();
    let mut times = vec![Vec::new(); ways.len()];
    for _ in 0..starts {
        for (way, times) in ways.iter().zip(&mut times) {
            let mut session = Session::start(way);
            times.push(session.first_byte);
            session.end();
        }
    }
    let direct = quantile(&mut times[0], 0.5);
    let rows: Vec<Vec<String>> = ways
        .iter()
        .zip(&mut times)
        .map(|(way, times)| {
            let (p50, p95) = (quantile(times, 0.5), quantile(times, 0.95));
            let more = p50.saturating_sub(direct);
            let mut row = vec![way.name.clone(), millis(p50), millis(p95), format!("+{}", millis(more))];
            row.extend(if way.is_km() { at_rest(way) } else { vec![String::new(); 3] });
            row
        })
        .collect();
    let title = format!("from the start to the server's first byte, {starts} starts");
    let memory = ["at rest: `km`", "its guard", "all plugins"];
    print_table(&[&[&title, "p50", "p95", "more than direct"], &memory[..]].concat(), &rows);
    listing(starts);
}

/// `km plugins list` beside the least that a program costs.
fn listing(starts: usize) {
    let environment = TestEnvironment::empty();
    environment.allow(&binary("counting"), "counting");
    let list = || {
        let mut km = environment.command("km");
        km.args(["plugins", "list"]);
        km
    };
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..starts {
        for (times, mut command) in times.iter_mut().zip([Command::new("true"), list()]) {
            let begun = Instant::now();
            assert!(command.stdout(Stdio::null()).status().expect("it starts").success());
            times.push(begun.elapsed());
        }
    }
    let names = ["`true`", "`km plugins list`, one plugin"];
    let rows = names.into_iter().zip(&mut times);
    let rows: Vec<_> =
        rows.map(|(name, times)| vec![name.to_owned(), millis(quantile(times, 0.5))]).collect();
    print_table(&[&format!("a command from start to end, median of {starts}"), ""], &rows);
}

struct Session {
    child: Child,
    errors: std::thread::JoinHandle<String>,
    first_byte: Duration,
}

impl Session {
    fn start(way: &Way) -> Self {
        let begun = Instant::now();
        let mut child = way.command(&SERVER).spawn().expect("it starts");
        let mut byte = [0];
        child.stdout.as_mut().expect("a pipe").read_exact(&mut byte).expect("it says something");
        let first_byte = begun.elapsed();
        Self { errors: read_errors(&mut child), child, first_byte }
    }

    fn end(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().expect("it ends");
    }
}

/// The memory of a session in which nothing happens any more: `km`, guard, plugins.
fn at_rest(way: &Way) -> Vec<String> {
    let mut session = Session::start(way);
    let mut last = Vec::new();
    let mut same = 0;
    wait_until("memory stays as it is", || {
        let now = resident(session.child.id());
        same = if now == last { same + 1 } else { 0 };
        last = now;
        std::thread::sleep(Duration::from_millis(10));
        same == 100
    });
    session.end();
    session.errors.join().expect("read");
    let sum = |is: &dyn Fn(&str) -> bool| {
        let bytes: u64 = last.iter().filter(|(name, _)| is(name)).map(|(_, bytes)| bytes).sum();
        format!("{:.1} MB", bytes as f64 / 1e6)
    };
    vec![
        sum(&|name| name == "km"),
        sum(&|name| name == "km-guard"),
        sum(&|name| name.starts_with("km-plugin-")),
    ]
}

/// The processes of a session and the memory of each.
fn resident(km: u32) -> Vec<(String, u64)> {
    let name = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let all = std::iter::once(km).chain(descendants(km));
    all.map(|pid| (name(pid).trim().to_owned(), memory(pid, "VmRSS").unwrap_or_default())).collect()
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
