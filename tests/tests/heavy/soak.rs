//! A session that goes on and on: nothing grows.
//!
//! For an hour: `KM_SOAK=3600 cargo test -p km-tests --test heavy -- --nocapture soak`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use km_tests::{TestEnvironment, binary, control, descendants};
use rustix::process::{Pid, Signal};

use crate::delivery::setting;

/// What may only grow for a reason.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Resident, of `km` and its guard, in KiB.
    memory: u64,
    files: usize,
    processes: usize,
    threads: u64,
}

impl Sample {
    fn take(km: u32) -> Self {
        let family = descendants(km);
        let guard = family.iter().copied().find(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "km-guard")
        });
        let count = |folder: String| std::fs::read_dir(folder).map_or(0, |entries| entries.count());
        Self {
            memory: field(km, "VmRSS:") + guard.map_or(0, |guard| field(guard, "VmRSS:")),
            files: count(format!("/proc/{km}/fd")),
            processes: family.len(),
            threads: field(km, "Threads:"),
        }
    }
}

/// A number in the status of a process.
fn field(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[test]
fn a_soak_of_any_length_shows_no_growth() {
    let length = Duration::from_secs(setting("KM_SOAK", 20));
    let environment = TestEnvironment::empty();
    for plugin in ["counting", "second"] {
        environment.allow(&binary("counting"), plugin);
    }
    let mut command = environment.command("km");
    command.args(["monitor", "-v", "--summary", "--drain-timeout", "60s", "--", "cat"]);
    let mut km = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (km.stdin.take().unwrap(), BufReader::new(km.stdout.take().unwrap()));
    let errors = km.stderr.take().unwrap();
    let errors = std::thread::spawn(move || std::io::read_to_string(errors).unwrap());
    let (begun, every) = (Instant::now(), length / 60);
    let (mut samples, mut sent, mut line) = (Vec::new(), 0_u64, Vec::new());
    let mut exchange = |size: usize, count: u64| {
        let text = "x".repeat(size);
        for _ in 0..count {
            sent += 1;
            let message = format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{sent},\"method\":\"tools/call\",\"params\":\"{text}\"}}\n"
            );
            let writing = stdin.write_all(message.as_bytes());
            line.clear();
            stdout.read_until(b'\n', &mut line).unwrap();
            assert!(writing.is_ok() && line == message.as_bytes());
        }
        sent
    };
    while begun.elapsed() < length {
        let round = samples.len() as u32;
        exchange(50, 500);
        // What a pipe holds: nobody reads while it is written.
        exchange(60_000, 20);
        if round % 3 == 2 {
            // A plugin dies now and then; at most four times a minute, and it is not given up.
            let pid = control::plugin(&environment, km.id(), "second")["pid"].as_i64();
            if let Some(pid) =
                pid.filter(|_| round.is_multiple_of((16_000 / every.as_millis().max(1) as u32).max(1)))
            {
                let _ = rustix::process::kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL);
            }
        }
        while begun.elapsed() < every * (round + 1) {
            exchange(200, 20);
            std::thread::yield_now();
            std::thread::sleep(Duration::from_millis(20));
        }
        samples.push(Sample::take(km.id()));
        if samples.len().is_multiple_of(6) {
            eprintln!("{:>5} s: {:?}", begun.elapsed().as_secs(), samples[samples.len() - 1]);
        }
    }
    let sent = exchange(1, 1);
    drop(stdin);
    let status = km.wait().unwrap();
    let errors = errors.join().unwrap();
    assert!(status.success(), "{errors}");
    eprintln!("{sent} messages each way\n{errors}");
    // The first fifth warms up.
    let warm = &samples[samples.len() / 5..];
    let (early, late) = warm.split_at(warm.len() / 2);
    let most = |samples: &[Sample], of: fn(&Sample) -> u64| samples.iter().map(of).max().unwrap();
    let memory = |sample: &Sample| sample.memory;
    assert!(most(late, memory) <= most(early, memory) + 3 * 1024, "{samples:?}");
    let others: [fn(&Sample) -> u64; 3] =
        [|sample| sample.files as u64, |sample| sample.processes as u64, |sample| sample.threads];
    for of in others {
        assert!(most(late, of) <= most(early, of) + 2, "{samples:?}");
    }
    let counted = format!("plugin counting: all {} messages were delivered", 2 * sent);
    assert!(errors.contains(&counted), "{errors}");
}
