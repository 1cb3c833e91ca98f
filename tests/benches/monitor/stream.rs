//! Many messages at once: client to `cat` and back.

use std::io::{Read as _, Write as _};
use std::process::Child;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use km_tests::measure::{children_cpu, median, median_ratio, print_table, wait_and_watch};
use km_tests::traffic;

use crate::Extent;
use crate::way::{Way, Ways};

const LINES: usize = 400_000;
const SIZE: usize = 1024;
/// So many different lines, over and over.
const BLOCK: usize = 1024;

/// What one run showed.
pub(crate) struct Run {
    /// From the start of the process to the last byte.
    pub(crate) time: Duration,
    /// Of all processes.
    pub(crate) cpu: Duration,
    /// The most memory that the first process had, in bytes.
    pub(crate) peak: u64,
    /// What `km` and its plugins said at the end.
    pub(crate) words: String,
}

pub(crate) fn measure(ways: &Ways, extent: &Extent) {
    let block: Arc<[u8]> = traffic::calls(BLOCK, SIZE).into();
    let lines = LINES / extent.part;
    for (how, at_once) in [("64 KiB at a time", 64 << 10), ("one message at a time", SIZE)] {
        let title = format!("{lines} lines of {SIZE} bytes, written {how}, median of {}", extent.rounds);
        table(&title, &all(ways), extent.rounds, &|way| once(way, &block, lines * SIZE, at_once));
    }
}

fn all(ways: &Ways) -> Vec<&Way> {
    let plain = [&ways.direct, &ways.cats, &ways.tee];
    plain.into_iter().chain(&ways.socat).chain([&ways.pump]).chain(&ways.km).collect()
}

/// Runs all ways in each round, and prints what came out; the first is what the others are compared to.
pub(crate) fn table(title: &str, ways: &[&Way], rounds: usize, once: &dyn Fn(&Way) -> (Run, usize)) {
    let mut runs: Vec<Vec<Run>> = ways.iter().map(|_| Vec::new()).collect();
    let mut bytes = 0;
    for _ in 0..rounds {
        for (way, runs) in ways.iter().zip(&mut runs) {
            let (run, size) = once(way);
            bytes = size;
            runs.push(run);
        }
    }
    let times = |runs: &[Run]| runs.iter().map(|run| run.time.as_secs_f64()).collect::<Vec<_>>();
    let direct = times(&runs[0]);
    let rows: Vec<Vec<String>> = ways
        .iter()
        .zip(&runs)
        .map(|(way, runs)| {
            let time = times(runs);
            let cpu = median(runs.iter().map(|run| run.cpu.as_secs_f64()).collect());
            let peak = runs.iter().map(|run| run.peak).max().unwrap_or_default();
            vec![
                way.name.clone(),
                format!("{:.2}", median_ratio(&time, &direct)),
                format!("{:.0}", bytes as f64 / median(time.clone()) / 1e6),
                format!("{cpu:.2} s"),
                if way.is_km() { format!("{:.1} MB", peak as f64 / 1e6) } else { String::new() },
            ]
        })
        .collect();
    print_table(&[title, "× direct", "MB/s", "CPU of all processes", "peak of `km`"], &rows);
    for (way, runs) in ways.iter().zip(&runs) {
        for words in runs.iter().map(|run| run.words.as_str()).filter(|words| !words.is_empty()) {
            println!("{}: {words}", way.name);
        }
    }
}

/// Writes so many bytes of the block, over and over, and reads and checks what comes back.
pub(crate) fn once(way: &Way, block: &Arc<[u8]>, total: usize, at_once: usize) -> (Run, usize) {
    let cpu = children_cpu();
    let begun = Instant::now();
    let mut child = way.command(&["cat"]).spawn().expect("it starts");
    let errors = read_errors(&mut child);
    let mut stdin = child.stdin.take().expect("a pipe");
    let sent = Arc::clone(block);
    let writer = thread::spawn(move || {
        let mut written = 0;
        while written < total {
            let at = written % sent.len();
            let end = (at + at_once).min(sent.len()).min(at + total - written);
            stdin.write_all(&sent[at..end]).expect("it reads");
            written += end - at;
        }
        stdin
    });
    read_and_check(&mut child, block, total);
    let time = begun.elapsed();
    // Its end of file comes now: until then the peak can be read.
    drop(writer.join().expect("written"));
    let (status, peak) = wait_and_watch(&mut child);
    assert!(status.success(), "{}: {status}", way.name);
    let words = errors.join().expect("read");
    (Run { time, cpu: children_cpu() - cpu, peak, words: last_words(&words) }, total)
}

fn read_and_check(child: &mut Child, block: &[u8], total: usize) {
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut buffer = vec![0; 64 << 10];
    let mut read = 0;
    while read < total {
        let count = stdout.read(&mut buffer).expect("readable");
        assert!(count > 0, "it ended after {read} of {total} bytes");
        let at = read % block.len();
        let first = count.min(block.len() - at);
        let same = buffer[..first] == block[at..at + first] && buffer[first..count] == block[..count - first];
        assert!(same, "other bytes came back after {read}");
        read += count;
    }
}

/// What goes to stderr, read beside the rest.
pub(crate) fn read_errors(child: &mut Child) -> thread::JoinHandle<String> {
    let mut stderr = child.stderr.take().expect("a pipe");
    thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).expect("readable");
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// What `km` says of each plugin at the end, and what each counted.
fn last_words(stderr: &str) -> String {
    let told = |line: &&str| line.contains(" delivered") || line.contains("] counted ");
    stderr.lines().filter(told).collect::<Vec<_>>().join("; ")
}
