//! Memory: what a plugin's process may take of it, and how `km` keeps its own together.

use std::time::Duration;

/// The kernel ends plugins before anything else when memory runs out.
const OUT_OF_MEMORY_SCORE: &str = "1000";
/// How often memory is looked at.
const EVERY: Duration = Duration::from_millis(500);

/// So many heaps for all threads. The C library would make one for each, up to eight times the number
/// of processors, and each keeps what its thread once needed.
#[cfg(target_env = "gnu")]
const HEAPS: i32 = 4;

/// Keeps the heap of this process together, where the C library has to be told. Before there are threads.
pub(crate) fn share_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number that is looked at when a thread makes its first allocation.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}

/// When memory runs out the kernel is to end this process, and neither `km` nor the server.
pub(super) fn end_first(pid: u32) {
    // It needs no privilege; where it is refused all the same the kernel chooses by itself.
    let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), OUT_OF_MEMORY_SCORE);
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Waits until a process takes more memory than this; how much it takes then.
pub(super) async fn takes_more_than(limit: u64, pid: Option<u32>) -> u64 {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(resident) = pid.and_then(resident_bytes).filter(|resident| *resident > limit) {
            return resident;
        }
    }
}
