//! Messages to one plugin, beside the earlier product's way:
//! `cargo bench -p km-tests --bench deliver [-- --quick]`.
//!
//! A server writes messages of 1 KiB as fast as it can and ends; `km monitor` shows them to a plugin
//! that counts. In the same run, round by round, a host in Go calls a plugin in Go once for each
//! message, with mutual TLS as go-plugin has it. Both are measured where the plugin is: from the
//! first message to the last. CPU is that of all processes but the server, less what a session with
//! one message costs.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use km_tests::measure::{children_cpu, machine, median, median_ratio, print_table};
use km_tests::{TestEnvironment, binary, go, path};

const SIZE: usize = 1024;
/// Enough for some seconds of either.
const MESSAGES: usize = 1_000_000;
const GO_MESSAGES: usize = 20_000;
const ROUNDS: usize = 5;

/// What a run showed.
struct Run {
    per_second: f64,
    /// For each message, in microseconds.
    cpu: f64,
    /// How much of all arrived.
    share: f64,
}

fn main() {
    let has = |argument: &str| std::env::args().any(|given| given == argument);
    // `cargo test --benches` only asks whether it builds.
    if !has("--bench") {
        return;
    }
    let (rounds, part) = if has("--quick") { (1, 20) } else { (ROUNDS, 1) };
    let go = go::current().unwrap_or_else(|why| panic!("the peer cannot be built: {why}"));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    println!("{}", machine());
    for _ in 0..rounds {
        theirs.push(go_host(&go, GO_MESSAGES / part));
        ours.push(km(MESSAGES / part));
    }
    print(&ours, &theirs);
    println!("\n{}", machine());
}

fn print(ours: &[Run], theirs: &[Run]) {
    let rates = |runs: &[Run]| runs.iter().map(|run| run.per_second).collect::<Vec<_>>();
    let costs = |runs: &[Run]| runs.iter().map(|run| run.cpu).collect::<Vec<_>>();
    let row = |name: &str, runs: &[Run]| {
        vec![
            name.to_owned(),
            format!("{:.0}", median(rates(runs))),
            format!("{:.1}", median_ratio(&rates(runs), &rates(theirs))),
            format!("{:.2} %", 100.0 * runs.iter().map(|run| run.share).fold(1.0, f64::min)),
            format!("{:.2} µs", median(costs(runs))),
            format!("1/{:.1}", median_ratio(&costs(theirs), &costs(runs))),
        ]
    };
    let title = format!("messages of {SIZE} bytes to one plugin, median of {} rounds", ours.len());
    print_table(
        &[&title, "messages/s", "× Go", "at least delivered", "CPU per message", "of Go's"],
        &[
            row("Go host, Go plugin, one unary call each, mutual TLS", theirs),
            row("`km monitor`, plugin with our SDK, protocol 2", ours),
        ],
    );
}

/// The whole of `km monitor`: relay, framer, queue, gRPC, plugin.
fn km(messages: usize) -> Run {
    let environment = TestEnvironment::empty();
    environment.allow(&binary("counting"), "counting");
    let monitored = |messages: usize| {
        let mut km = environment.command("km");
        km.args(["-v", "monitor", "--buffer-size", "4GB", "--drain-timeout", "60s", "--"]);
        km.args([path(&binary("lines")), &messages.to_string(), &SIZE.to_string()]);
        cpu_of(&mut km)
    };
    let alone = |messages: usize| {
        cpu_of(Command::new(binary("lines")).args([&messages.to_string(), &SIZE.to_string()])).0
    };
    let (idle, _) = monitored(1);
    let (busy, stderr) = monitored(messages);
    let server = alone(messages).saturating_sub(alone(1));
    let (counted, took) = counted(&stderr);
    if counted < messages {
        println!("not all were delivered: {stderr}");
    }
    let cpu = busy.saturating_sub(idle).saturating_sub(server);
    Run {
        per_second: counted.saturating_sub(1) as f64 / took.as_secs_f64(),
        cpu: cpu.as_secs_f64() * 1e6 / counted as f64,
        share: counted as f64 / messages as f64,
    }
}

/// Runs a program to its end with its stdout read; its processor time, and what it said.
fn cpu_of(command: &mut Command) -> (Duration, String) {
    let before = children_cpu();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdout = child.stdout.take().expect("a pipe");
    let reader = std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    let output = child.wait_with_output().expect("it ends");
    reader.join().expect("read").expect("readable");
    assert!(output.status.success(), "{output:?}");
    (children_cpu() - before, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What the plugin said at the end: how many, in what time.
fn counted(stderr: &str) -> (usize, Duration) {
    let words = stderr.lines().find_map(|line| line.split_once("] counted ")).map(|(_, words)| words);
    let words = words.unwrap_or_else(|| panic!("the plugin said nothing: {stderr}"));
    let mut numbers = words.split(", ").filter_map(|part| part.split(' ').next()?.parse().ok());
    let (messages, micros) = (numbers.next(), numbers.nth(1));
    (messages.unwrap_or_default() as usize, Duration::from_micros(micros.unwrap_or_default()))
}

fn go_host(go: &Path, messages: usize) -> Run {
    let run = |messages: usize| -> (Duration, f64) {
        let before = children_cpu();
        let output = Command::new(go.join("pairing-host"))
            .args(["-mtls", "bench", &messages.to_string(), path(&go.join("pairing-plugin"))])
            .output()
            .expect("the host runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (children_cpu() - before, document["calls_per_s"].as_f64().unwrap_or_default())
    };
    let (idle, _) = run(0);
    let (busy, per_second) = run(messages);
    let cpu = busy.saturating_sub(idle);
    Run { per_second, cpu: cpu.as_secs_f64() * 1e6 / messages as f64, share: 1.0 }
}
