//! What `km` costs: `cargo bench -p km-tests`. Everything in one run on one machine, as ratios to
//! something that everybody has.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use km_tests::{TestEnvironment, binary, path};

const LINE: &[u8] =
    b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"echo\"}}\n";
const ROUND_TRIPS: usize = 5000;
const ROUNDS: usize = 5;
const STARTS: usize = 50;

fn main() {
    // `cargo test --benches` only asks whether it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let environment = TestEnvironment::with_console_logger();
    round_trips(&environment);
    listing(&environment);
}

/// The time of a reply, with nothing in between, with two pipes more, and with `km`.
fn round_trips(environment: &TestEnvironment) {
    let km = binary("km");
    let ways: [(&str, Vec<&str>); 4] = [
        ("cat (direct)", vec!["cat"]),
        ("cat | cat | cat", vec!["sh", "-c", "cat | cat | cat"]),
        ("km monitor --no-plugins", vec![path(&km), "monitor", "--no-plugins", "--", "cat"]),
        ("km monitor, console-logger", vec![path(&km), "monitor", "--", "cat"]),
    ];
    let mut medians = vec![Vec::new(); ways.len()];
    let mut tails = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for (way, (_, command)) in ways.iter().enumerate() {
            let mut times = ping_pong(environment, command);
            times.sort_unstable();
            medians[way].push(times[times.len() / 2]);
            tails[way].push(times[times.len() * 99 / 100]);
        }
    }
    println!("reply to a line of {} bytes, {ROUND_TRIPS} round trips, median of {ROUNDS} rounds", LINE.len());
    println!("{:<28} {:>10} {:>10} {:>10} {:>12}", "", "p50", "p99", "x direct", "x cat|cat|cat");
    let p50: Vec<Duration> = medians.into_iter().map(median).collect();
    for (way, (name, _)) in ways.iter().enumerate() {
        let ratio = |to: usize| p50[way].as_secs_f64() / p50[to].as_secs_f64();
        let p99 = median(tails[way].clone());
        println!(
            "{name:<28} {:>7.1} us {:>7.1} us {:>10.2} {:>12.2}",
            micros(p50[way]),
            micros(p99),
            ratio(0),
            ratio(1)
        );
    }
}

fn ping_pong(environment: &TestEnvironment, command: &[&str]) -> Vec<Duration> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .env("KM_HOME", environment.home())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = Vec::new();
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for n in 0..ROUND_TRIPS + 100 {
        let begun = Instant::now();
        stdin.write_all(LINE).expect("it reads");
        line.clear();
        stdout.read_until(b'\n', &mut line).expect("it answers");
        // The first replies wait for processes to start.
        if n >= 100 {
            times.push(begun.elapsed());
        }
    }
    drop(stdin);
    child.wait().expect("it ends");
    times
}

/// `km plugins list` beside the least that a program costs.
fn listing(environment: &TestEnvironment) {
    let km = binary("km");
    let commands: [(&str, Vec<&str>); 2] =
        [("/bin/true", vec!["true"]), ("km plugins list", vec![path(&km), "plugins", "list"])];
    let time = |command: &[&str]| {
        let begun = Instant::now();
        let status = Command::new(command[0])
            .args(&command[1..])
            .env("KM_HOME", environment.home())
            .stdout(Stdio::null())
            .status()
            .expect("it starts");
        assert!(status.success());
        begun.elapsed()
    };
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..STARTS {
        for (times, (_, command)) in times.iter_mut().zip(&commands) {
            times.push(time(command));
        }
    }
    println!("\na command from start to end, median of {STARTS}");
    for (times, (name, _)) in times.into_iter().zip(&commands) {
        println!("{name:<28} {:>7.2} ms", micros(median(times)) / 1000.0);
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
