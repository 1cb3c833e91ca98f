//! One `sh` for a scenario: commands go in, each one's output and exit status come out.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use km_package::failure::{Failure, Kind};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::keeper::{ENDED, Keeper, Variables};

/// More than this of one command is not waited for.
const MOST_OUTPUT: usize = 16 << 20;
/// How often a waiting shell looks whether the suite is to end.
const LOOK: Duration = Duration::from_millis(100);

/// Reads a command up to the mark, evaluates it in this very shell, and says how it ended. Commands see
/// neither pipe; `$?` is that of the one before.
const LOOP: &str = r#"exec 9<&0 </dev/null 8>&1 2>&1
__km_status=0
__km_again() { return "$__km_status"; }
while :; do
__km_text=
while :; do
IFS= read -r __km_line <&9 || exit
if [ "$__km_line" = MARK ]; then break; fi
__km_text=$__km_text$__km_line'
'
done
__km_again
eval "$__km_text" 8>&- 9<&-
__km_status=$?
printf '\036MARK %s %s\036' "$__km_status" "${!-}" >&8
done
"#;

/// A running shell.
#[derive(Debug)]
pub(super) struct Shell {
    keeper: Keeper,
    mark: String,
    /// What was read and belongs to no command yet.
    read: Vec<u8>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// With this exit status.
    Exited(i32),
    /// The shell ended with it.
    WithShell(i32),
    /// The shell's keeper is gone, without a word of the shell.
    Abandoned,
    /// Not in time.
    Late,
    /// It did not end writing.
    TooMuch,
    /// The suite itself is to end.
    Interrupted,
}

/// What a command did.
#[derive(Debug, Clone)]
pub(super) struct Ran {
    pub(super) ended: Ended,
    /// stdout and stderr, in the order in which they came.
    pub(super) output: String,
    pub(super) took: Duration,
    /// `$!` afterwards.
    pub(super) background: Option<u32>,
}

impl Shell {
    /// Starts one in a folder.
    pub(super) fn start(folder: &Path, variables: &Variables) -> Result<Self, Failure> {
        let unable = |e: io::Error| Failure::new(Kind::Local, format_args!("cannot start a shell: {e}"));
        let random = getrandom::u64().map_err(|e| unable(io::Error::other(e.to_string())))?;
        let mark = format!("km-{random:016x}");
        let script = LOOP.replace("MARK", &mark);
        let keeper = Keeper::start(folder, variables, &mark, &script).map_err(unable)?;
        Ok(Self { keeper, mark, read: Vec::new() })
    }

    /// Runs a command to its end.
    pub(super) fn run(&mut self, command: &str, limit: Duration, stop: &AtomicBool) -> Ran {
        let begun = Instant::now();
        let order = format!("{command}\n{}\n", self.mark);
        // A shell that has ended says so below.
        let _ = self.keeper.order(&order);
        let (ended, output, background) = self.wait(begun + limit, stop);
        Ran {
            ended,
            output: String::from_utf8_lossy(&output).into_owned(),
            took: begun.elapsed(),
            background,
        }
    }

    /// Ends all that was started here.
    pub(super) fn end(mut self) {
        self.keeper.end();
    }

    fn wait(&mut self, deadline: Instant, stop: &AtomicBool) -> (Ended, Vec<u8>, Option<u32>) {
        let sign = format!("\x1e{} ", self.mark).into_bytes();
        let mut searched = 0;
        loop {
            if let Some((at, end)) = find(&self.read, &sign, searched) {
                let rest = self.read.split_off(end + 1);
                let mut output = std::mem::replace(&mut self.read, rest);
                let said = String::from_utf8_lossy(&output[at + sign.len()..end]).into_owned();
                output.truncate(at);
                let (ended, background) = understand(&said);
                return (ended, output, background);
            }
            searched = self.read.len().saturating_sub(sign.len() + 32);
            let ended = if self.read.len() > MOST_OUTPUT {
                Ended::TooMuch
            } else if stop.load(Ordering::Relaxed) {
                Ended::Interrupted
            } else if Instant::now() >= deadline {
                Ended::Late
            } else {
                match self.read_some(deadline) {
                    Ok(true) => continue,
                    Ok(false) | Err(_) => Ended::Abandoned,
                }
            };
            return (ended, std::mem::take(&mut self.read), None);
        }
    }

    /// Reads what there is, waiting a moment for it. False at the end, also when only the keeper has ended.
    fn read_some(&mut self, deadline: Instant) -> io::Result<bool> {
        let time = deadline.saturating_duration_since(Instant::now()).min(LOOK);
        let time = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
        // Looked at before its output: what it wrote last has been written by then.
        let abandoned = self.keeper.has_ended();
        let output = self.keeper.output();
        let ready = {
            let mut polled = [PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN)];
            match rustix::event::poll(&mut polled, Some(&time)) {
                Ok(ready) => ready > 0,
                Err(rustix::io::Errno::INTR) => false,
                Err(e) => return Err(e.into()),
            }
        };
        if !ready {
            return Ok(!abandoned);
        }
        let mut piece = [0; 64 << 10];
        let length = output.read(&mut piece)?;
        self.read.extend_from_slice(&piece[..length]);
        Ok(length > 0)
    }
}

/// Where a sign begins, and where what it says ends.
fn find(read: &[u8], sign: &[u8], from: usize) -> Option<(usize, usize)> {
    let mut marks = (from..read.len()).filter(|at| read[*at] == 0x1e);
    let at = marks.find(|at| read[*at..].starts_with(sign))?;
    let end = at + sign.len() + read[at + sign.len()..].iter().position(|byte| *byte == 0x1e)?;
    Some((at, end))
}

fn understand(said: &str) -> (Ended, Option<u32>) {
    let (first, second) = said.split_once(' ').unwrap_or((said, ""));
    match first {
        ENDED => (Ended::WithShell(second.parse().unwrap_or(1)), None),
        status => (Ended::Exited(status.parse().unwrap_or(1)), second.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_is_found_in_the_midst_of_output() {
        let read = b"some\x1ekm-1 3 4711\x1erest";
        let (at, end) = find(read, b"\x1ekm-1 ", 0).unwrap();
        assert_eq!((&read[..at], &read[end + 1..]), (&b"some"[..], &b"rest"[..]));
        assert_eq!(find(b"some\x1ekm-1 3", b"\x1ekm-1 ", 0), None);
        assert_eq!(find(b"", b"\x1ekm-1 ", 0), None);
    }

    #[test]
    fn a_sign_says_status_and_background_process() {
        assert_eq!(understand("0 "), (Ended::Exited(0), None));
        assert_eq!(understand("6 4711"), (Ended::Exited(6), Some(4711)));
        assert_eq!(understand("ended 143"), (Ended::WithShell(143), None));
    }
}
