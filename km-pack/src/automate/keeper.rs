//! The keeper: a small process between the suite and each shell, so that nothing of a scenario is left.
//!
//! The only file of the suite that starts processes (and `sh -n`, which runs nothing). A keeper is this program once more, in a session of
//! its own. It adopts whatever its shell starts, also what has left the session, and kills all of it when
//! the shell has ended, or when the suite closes the pipe between the two: by will or by being killed.
//!
//! ```text
//! km-pack automate ──pipe── keeper (own session, adopts orphans)
//!                             └── sh ── whatever a scenario starts
//! ```

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::environment::{self, KEEPER};

/// How long what a scenario started may take to leave after SIGTERM.
const GRACE: Duration = Duration::from_millis(300);

/// How long a keeper may take to end what it keeps.
const PATIENCE: Duration = Duration::from_secs(3);

/// The environment of a shell.
#[derive(Debug, Clone)]
pub(super) enum Variables {
    /// These alone.
    Only(Vec<(OsString, OsString)>),
    /// Ours without secrets, and these.
    Ours(Vec<(OsString, OsString)>),
}

/// A running keeper, as the suite sees it.
#[derive(Debug)]
pub(super) struct Keeper {
    child: Child,
    /// What the shell reads. Closed, it ends everything.
    orders: Option<ChildStdin>,
    output: ChildStdout,
}

impl Keeper {
    /// Starts a shell that runs `script`, with its keeper.
    pub(super) fn start(folder: &Path, variables: &Variables, mark: &str, script: &str) -> io::Result<Self> {
        // This very program, even when its file has been replaced.
        let mut command = Command::new("/proc/self/exe");
        match variables {
            Variables::Only(variables) => {
                command.env_clear().envs(variables.iter().map(|(name, value)| (name, value)));
            }
            Variables::Ours(more) => {
                for secret in environment::secrets() {
                    command.env_remove(secret);
                }
                command.envs(more.iter().map(|(name, value)| (name, value)));
            }
        }
        command.env(KEEPER, mark).arg(script).current_dir(folder);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(orders), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        Ok(Self { child, orders: Some(orders), output })
    }

    /// Says something to the shell.
    pub(super) fn order(&mut self, text: &str) -> io::Result<()> {
        self.orders.as_mut().map_or(Ok(()), |orders| orders.write_all(text.as_bytes()))
    }

    /// What shell and keeper write.
    pub(super) fn output(&mut self) -> &mut ChildStdout {
        &mut self.output
    }

    /// Whether it has; nobody keeps the shell then.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends all that the shell has started, and returns when it is gone: also what has stopped its keeper.
    pub(super) fn end(&mut self) {
        drop(self.orders.take());
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended() {
            if Instant::now() >= deadline {
                self.kill();
                return;
            }
            pause(Duration::from_millis(1));
        }
    }

    /// Does the work of a keeper that does not do it, and ends it.
    fn kill(&mut self) {
        let keeper = Pid::from_child(&self.child);
        let deadline = Instant::now() + PATIENCE;
        // As long as the keeper is there, it has adopted whatever is left.
        while Instant::now() < deadline {
            let left = descendants(keeper);
            if left.is_empty() {
                break;
            }
            for process in left {
                let _ = rustix::process::kill_process(process, Signal::KILL);
            }
            pause(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether a text holds commands that are complete, as a shell sees it. It runs none of them.
pub(super) fn is_complete(text: &str) -> io::Result<bool> {
    // What is read from -c some shells run all the same.
    let reads = |text: &str| {
        let mut shell = Command::new("sh");
        shell.arg("-n").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shell = shell.spawn()?;
        if let Some(mut stdin) = shell.stdin.take() {
            // It stops reading at what it does not understand.
            let _ = stdin.write_all(text.as_bytes());
        }
        shell.wait().map(|status| status.success())
    };
    // A here-document without end is none to the shell: then it takes what would be an error.
    Ok(reads(&format!("{text}\n"))? && !reads(&format!("{text}\n)\n"))?)
}

/// What was said of a shell that has ended: this word, and its exit status.
pub(super) const ENDED: &str = "ended";

/// The body of `main` in a keeper.
pub(crate) fn keep(mark: &str, script: &OsString) -> ExitCode {
    match hold(mark, script) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // As a shell says it of a command. Whoever is gone needs no answer.
            let _ = write!(io::stdout(), "cannot run sh: {e}\n\x1e{mark} {ENDED} 127\x1e");
            ExitCode::FAILURE
        }
    }
}

fn hold(mark: &str, script: &OsString) -> io::Result<()> {
    rustix::process::setsid()?;
    let _ = rustix::thread::set_name(c"km-keeper");
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let shell = spawn(script)?;
    let pidfd = open(&shell)?;
    let status = wait(shell, &pidfd)?;
    end_descendants();
    if let Some(status) = status {
        write!(io::stdout(), "\x1e{mark} {ENDED} {status}\x1e")?;
    }
    Ok(())
}

fn spawn(script: &OsString) -> io::Result<Child> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script).env_remove(KEEPER);
    let keeper = rustix::process::getpid();
    let follow_keeper = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() == Some(keeper) {
            Ok(())
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    };
    // SAFETY: the closure makes system calls only.
    unsafe { shell.pre_exec(follow_keeper) };
    shell.spawn()
}

fn open(shell: &Child) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(Pid::from_child(shell), PidfdFlags::empty())?)
}

/// The shell's exit status, or none when the suite wants no more of it.
fn wait(mut shell: Child, pidfd: &OwnedFd) -> io::Result<Option<i32>> {
    let stdin = io::stdin();
    loop {
        // Of the pipe only its end is asked for: what comes through it is for the shell.
        let pipe = PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::empty());
        let mut polled = [pipe, PollFd::new(pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [abandoned, ended] = polled.map(|file| !file.revents().is_empty());
        if ended {
            let status = shell.wait()?;
            return Ok(Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())));
        }
        if abandoned {
            return Ok(None);
        }
    }
}

/// SIGTERM for what is left, and SIGKILL for what does not leave.
fn end_descendants() {
    signal_children(Signal::TERM);
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline {
        if !reap() {
            return;
        }
        pause(Duration::from_millis(2));
    }
    kill_descendants();
}

/// Kills children until none is left: each one's children become ours when it dies.
pub(super) fn kill_descendants() {
    loop {
        signal_children(Signal::KILL);
        if !reap() {
            return;
        }
        pause(Duration::from_millis(1));
    }
}

fn pause(time: Duration) {
    let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
    let _ = rustix::event::poll(&mut [], Some(&pause));
}

fn signal_children(signal: Signal) {
    for child in children() {
        let _ = rustix::process::kill_process_group(child, signal);
        let _ = rustix::process::kill_process(child, signal);
    }
}

/// Reaps whatever has ended. False when there are no children any more.
fn reap() -> bool {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// The ids of this process's children, adopted ones included.
fn children() -> Vec<Pid> {
    let own = rustix::process::getpid();
    processes().into_iter().filter(|process| process.parent == own).map(|process| process.id).collect()
}

/// The ids of a process's children, their children and so on, but those that only wait to be reaped.
fn descendants(of: Pid) -> Vec<Pid> {
    let processes = processes();
    let mut found = vec![of];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        let children = processes.iter().filter(|process| process.parent == parent);
        found.extend(children.map(|process| process.id));
        at += 1;
    }
    let runs = |id: &Pid| processes.iter().any(|process| process.id == *id && !process.has_ended);
    found.into_iter().skip(1).filter(runs).collect()
}

struct Process {
    id: Pid,
    parent: Pid,
    has_ended: bool,
}

fn processes() -> Vec<Process> {
    let read = |entry: std::fs::DirEntry| {
        let id = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // pid (name) state parent …; the name may hold anything.
        let mut rest = stat.rsplit_once(") ")?.1.split(' ');
        let has_ended = matches!(rest.next()?, "Z" | "X");
        let parent = Pid::from_raw(rest.next()?.parse().ok()?)?;
        Some(Process { id, parent, has_ended })
    };
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(read).collect()
}

/// Adopts what keepers leave that were killed themselves.
pub(super) fn adopt_orphans() {
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}
