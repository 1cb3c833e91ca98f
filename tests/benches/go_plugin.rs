//! go-plugin in Rust beside the original: `cargo bench -p km-tests --bench go_plugin`.
//!
//! Hosts and plugins of both makes (`pairing-host`, `pairing-plugin`) in one run, round by round, the
//! same calls over the same kind of socket: how long from the order to start until the first answer,
//! and how many calls one caller gets answered, at which cost in processor time of both processes.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use km_tests::measure::{children_cpu, median};
use km_tests::{binary, go, path};

const CALLS: u32 = 20_000;
const ROUNDS: usize = 7;
const STARTS: usize = 10;

struct Pairing {
    name: &'static str,
    host: PathBuf,
    plugin: PathBuf,
}

/// What one run of a host showed.
struct Run {
    start_ms: f64,
    calls_per_s: f64,
    cpu: Duration,
}

fn main() {
    // `cargo test --benches` only asks whether it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let go = go::current().unwrap_or_else(|why| panic!("the peer cannot be built: {why}"));
    let (our_host, our_plugin) = (binary("pairing-host"), binary("pairing-plugin"));
    let (go_host, go_plugin) = (go.join("pairing-host"), go.join("pairing-plugin"));
    let pairing =
        |name, host: &Path, plugin: &Path| Pairing { name, host: host.to_owned(), plugin: plugin.to_owned() };
    let pairings = [
        pairing("Go host, Go plugin", &go_host, &go_plugin),
        pairing("our host, our plugin", &our_host, &our_plugin),
        pairing("our host, Go plugin", &our_host, &go_plugin),
        pairing("Go host, our plugin", &go_host, &our_plugin),
    ];
    for (what, arguments) in [("plaintext", &[][..]), ("mutual TLS", &["-mtls"])] {
        println!("\n{what}: start to first answer, median of {} starts", ROUNDS * STARTS);
        starts(&pairings, arguments);
        println!("\n{what}: sequential calls of 1 KiB, {CALLS} a round, median of {ROUNDS} rounds");
        calls(&pairings, arguments);
    }
}

fn starts(pairings: &[Pairing], arguments: &[&str]) {
    let mut times = vec![Vec::new(); pairings.len()];
    for _ in 0..ROUNDS {
        for (pairing, times) in pairings.iter().zip(&mut times) {
            times.extend((0..STARTS).map(|_| pairing.run(arguments, 0).start_ms));
        }
    }
    println!("{:<24} {:>10} {:>16}", "", "", "faster than Go");
    let times: Vec<f64> = times.into_iter().map(median).collect();
    for (pairing, time) in pairings.iter().zip(&times) {
        println!("{:<24} {time:>7.1} ms {:>14.2} x", pairing.name, times[0] / time);
    }
}

fn calls(pairings: &[Pairing], arguments: &[&str]) {
    let mut rates = vec![Vec::new(); pairings.len()];
    let mut costs = vec![Vec::new(); pairings.len()];
    for _ in 0..ROUNDS {
        for (at, pairing) in pairings.iter().enumerate() {
            // What starting and ending cost is measured alone, and taken off.
            let idle = pairing.run(arguments, 0);
            let busy = pairing.run(arguments, CALLS);
            rates[at].push(busy.calls_per_s);
            let cpu = busy.cpu.saturating_sub(idle.cpu);
            costs[at].push(cpu.as_secs_f64() * 1e6 / f64::from(CALLS));
        }
    }
    println!("{:<24} {:>10} {:>8} {:>14} {:>8}", "", "calls/s", "x Go", "us CPU/call", "x Go");
    let (rates, costs): (Vec<f64>, Vec<f64>) =
        (rates.into_iter().map(median).collect(), costs.into_iter().map(median).collect());
    for (at, pairing) in pairings.iter().enumerate() {
        println!(
            "{:<24} {:>10.0} {:>8.2} {:>14.1} {:>8.2}",
            pairing.name,
            rates[at],
            rates[at] / rates[0],
            costs[at],
            costs[at] / costs[0]
        );
    }
}

impl Pairing {
    fn run(&self, arguments: &[&str], calls: u32) -> Run {
        let before = children_cpu();
        let output = Command::new(&self.host)
            .args(arguments)
            .args(["bench", &calls.to_string(), path(&self.plugin)])
            .stderr(Stdio::inherit())
            .output()
            .expect("the host runs");
        assert!(ExitStatus::success(&output.status), "{}", self.name);
        let cpu = children_cpu() - before;
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a JSON document");
        let number = |name: &str| document[name].as_f64().unwrap_or_default();
        Run { start_ms: number("start_ms"), calls_per_s: number("calls_per_s"), cpu }
    }
}
