//! What benchmarks measure with, and tables as `docs/performance.md` has them.

use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

/// Where it is measured: cores, kernel, compiler, what else the machine does, when.
pub fn machine() -> String {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let rustc = Command::new("rustc").arg("--version").output().map(|output| output.stdout);
    let rustc = rustc.map(|text| String::from_utf8_lossy(&text).trim().to_owned()).unwrap_or_default();
    format!(
        "{cores} cores, Linux {}, {rustc}, load {}, {}",
        text("/proc/sys/kernel/osrelease").trim(),
        text("/proc/loadavg").split(' ').next().unwrap_or_default(),
        jiff::Zoned::now().date()
    )
}

/// The processor time of all children that have ended and were waited for, and of theirs.
pub fn children_cpu() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes a whole rusage to the pointer.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Memory of a process in bytes: `VmRSS` for now, `VmHWM` for its peak. None when it is gone.
pub fn memory(pid: u32, what: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Waits for a process, and for the most memory that it had.
pub fn wait_and_watch(child: &mut Child) -> (ExitStatus, u64) {
    let mut peak = 0;
    loop {
        peak = peak.max(memory(child.id(), "VmHWM").unwrap_or_default());
        if let Some(status) = child.try_wait().expect("a child") {
            return (status, peak);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The one in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median of what each round has as a multiple of the same round's `base`.
pub fn median_ratio(values: &[f64], base: &[f64]) -> f64 {
    median(values.iter().zip(base).map(|(value, base)| value / base).collect())
}

/// What a share of the times does not exceed: 0.5 for the median.
pub fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share) as usize]
}

/// Prints a table; the first cell of its head says what it is about.
pub fn print_table(head: &[&str], rows: &[Vec<String>]) {
    println!("\n| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
    rows.iter().for_each(|row| println!("| {} |", row.join(" | ")));
}
