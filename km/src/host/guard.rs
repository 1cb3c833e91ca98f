//! The monitored server and everything it starts, kept in hand by a process of its own.
//!
//! `km` may be killed at any moment, and then nothing may be left behind: neither the server, nor
//! what the server started (`npx → sh → node`), nor what has left its process group. A parent-death
//! signal reaches only a direct child. So the server's parent is not `km` but a small process, the
//! guard, forked before `km` has threads. It adopts every orphan among the server's descendants,
//! and kills them all when the server has ended or when `km` is gone, which it sees by the end of
//! the socket between the two.
//!
//! ```text
//! km ──socket── guard (own process group, adopts orphans)
//!                 └── server (own process group) ── whatever it starts
//! ```
//!
//! A session without a server of its own (over HTTP) has a guard too: for the plugins.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, WaitOptions};

use crate::environment;
use crate::paths;

/// How much the server's pipes hold, in bytes. Four times as much as others: with the fewer changes
/// between processes half of the time that a relay costs is gone (docs/performance.md).
pub(crate) const PIPE: usize = 256 << 10;

/// What `km` says to the guard: the number of a signal for the server, or this: end everything.
const FINISH: u8 = 0;
/// Followed by four bytes: the process group of a plugin that has started, or has ended.
const PLUGIN_STARTED: u8 = 200;
const PLUGIN_ENDED: u8 = 201;
/// What the guard says to `km`, each followed by four bytes.
const STARTED: u8 = 1;
const NOT_STARTED: u8 = 2;
const EXITED: u8 = 3;

/// How long descendants may take to leave after SIGTERM, once the server has ended.
const LEFTOVER_GRACE: Duration = Duration::from_millis(200);

/// The server's pipes and the socket to its guard.
#[derive(Debug)]
pub(crate) struct Server {
    /// Writes to the server's stdin.
    pub(crate) stdin: OwnedFd,
    /// Reads the server's stdout.
    pub(crate) stdout: OwnedFd,
    pub(crate) guard: Guard,
}

/// The guard, as `km` sees it: its end of the socket, and the process.
#[derive(Debug)]
pub(crate) struct Guard {
    socket: UnixStream,
    pid: Option<Pid>,
}

/// A plugin whose process group goes with `km`.
#[derive(Debug)]
pub(crate) struct WatchedPlugin {
    guard: Arc<Guard>,
    pid: u32,
}

impl Drop for WatchedPlugin {
    fn drop(&mut self) {
        tell(&self.guard.socket, PLUGIN_ENDED, self.pid.cast_signed());
    }
}

/// Forks the guard, which starts the server. When `km` is gone before it has finished, the guard does
/// what is left to do.
///
/// # Errors
/// When this process has more than one thread, there are no more pipes or processes, or the server
/// cannot be started.
pub(crate) fn start(command: &[OsString], left_to_do: &dyn Fn()) -> io::Result<Server> {
    let (server_stdin, stdin) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (stdout, server_stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    for pipe in [&stdin, &stdout] {
        // A user may have so much in pipes and no more; then they stay as they are.
        let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE);
    }
    // Moved, so that each process keeps its own ends only.
    let (ours, theirs) = ((stdin, stdout), (server_stdin, server_stdout));
    let (guard, (stdin, stdout)) =
        fork(ours, theirs, left_to_do, |(stdin, stdout)| spawn(command, stdin, stdout).map(Some))?;
    Ok(Server { stdin, stdout, guard })
}

/// Forks a guard that has plugins to watch, and no server.
///
/// # Errors
/// When this process has more than one thread, or there are no more processes.
pub(crate) fn start_without_server() -> io::Result<Guard> {
    Ok(fork((), (), &|| {}, |()| Ok(None))?.0)
}

/// Forks the guard. What is `ours` is closed there, what is `theirs` here.
fn fork<Ours, Theirs>(
    ours: Ours,
    theirs: Theirs,
    left_to_do: &dyn Fn(),
    start: impl FnOnce(Theirs) -> io::Result<Option<Child>>,
) -> io::Result<(Guard, Ours)> {
    if std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() > 1) {
        return Err(io::Error::other("the guard must be forked before there are threads"));
    }
    // For the case that the guard itself is killed.
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let (socket, guards) = UnixStream::pair()?;
    // SAFETY: there is one thread, so the child may do what it likes.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop((ours, socket));
            let code = guard(|| start(theirs), guards, left_to_do);
            // SAFETY: ends this process without running what `km` has registered for its own exit.
            unsafe { libc::_exit(code) }
        }
        pid => {
            drop((theirs, guards));
            let guard = Guard { socket, pid: Pid::from_raw(pid) };
            match guard.read() {
                Ok((STARTED, _)) => Ok((guard, ours)),
                Ok((NOT_STARTED, errno)) => {
                    guard.reap();
                    Err(io::Error::from_raw_os_error(errno))
                }
                Ok(_) => Err(io::Error::other("the guard of the server speaks nonsense")),
                Err(e) => Err(e),
            }
        }
    }
}

impl Guard {
    /// A second handle, for the thread that waits.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, pid: self.pid })
    }

    /// Sends a signal to the server.
    pub(crate) fn signal(&self, signal: i32) {
        if let Ok(signal) = u8::try_from(signal) {
            let _ = (&self.socket).write_all(&[signal]);
        }
    }

    /// Has the guard kill a plugin's process group when `km` is gone: the kernel would kill the plugin
    /// alone. Until the answer is dropped.
    pub(crate) fn watch_plugin(self: &Arc<Self>, pid: u32) -> WatchedPlugin {
        tell(&self.socket, PLUGIN_STARTED, pid.cast_signed());
        WatchedPlugin { guard: Arc::clone(self), pid }
    }

    /// Waits for the server's end.
    pub(crate) fn wait(&self) -> io::Result<ExitStatus> {
        match self.read()? {
            (EXITED, status) => Ok(ExitStatus::from_raw(status)),
            _ => Err(io::Error::other("the guard of the server speaks nonsense")),
        }
    }

    /// Ends what the server left, and returns when all of it is gone.
    pub(crate) fn finish(&self) {
        let _ = (&self.socket).write_all(&[FINISH]);
        // The guard ends when nothing is left.
        let _ = self.socket.set_read_timeout(Some(LEFTOVER_GRACE + Duration::from_secs(1)));
        if let Ok(0) = (&self.socket).read(&mut [0]) {
            self.reap();
        }
    }

    /// Takes the guard's exit status: it has closed its socket, so it is about to end.
    fn reap(&self) {
        while let Err(rustix::io::Errno::INTR) = rustix::process::waitpid(self.pid, WaitOptions::empty()) {}
    }

    fn read(&self) -> io::Result<(u8, i32)> {
        let mut word = [0; 5];
        (&self.socket).read_exact(&mut word)?;
        let [kind, value @ ..] = word;
        Ok((kind, i32::from_ne_bytes(value)))
    }
}

/// How the guard's watch ends.
enum Outcome {
    /// As `km` said.
    Finished,
    /// `km` is gone.
    Abandoned,
}

/// The guard's whole life; returns its exit code.
fn guard(start: impl FnOnce() -> io::Result<Option<Child>>, km: UnixStream, left_to_do: &dyn Fn()) -> i32 {
    match prepare().and_then(|()| start()) {
        Ok(server) => match watch(server, &km) {
            Ok(Outcome::Finished) => 0,
            Ok(Outcome::Abandoned) => {
                // Not before: the server has the signals that it would have without `km`.
                paths::survive_size_limits();
                left_to_do();
                0
            }
            Err(_) => {
                kill_descendants(Signal::KILL);
                1
            }
        },
        Err(e) => {
            tell(&km, NOT_STARTED, e.raw_os_error().unwrap_or(libc::EIO));
            1
        }
    }
}

fn tell(mut other: &UnixStream, kind: u8, value: i32) {
    let mut word = [kind; 5];
    word[1..].copy_from_slice(&value.to_ne_bytes());
    // Whoever is gone has heard enough.
    let _ = other.write_all(&word);
}

/// The signals that mean the server and are passed on. One that was ignored when `km` started
/// (`nohup`) stays ignored, by the server too.
pub(crate) fn signals_to_pass_on() -> Vec<i32> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    [SIGTERM, SIGINT, SIGHUP].into_iter().filter(|signal| !is_ignored(*signal)).collect()
}

fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null pointer for the new action asks for the current one, which is written to `action`.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroed is a valid value of this type, whether it was written to or not.
    asked == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Ends what has become this process's own: what plugins started and left, and all that is left of
/// the server when its guard was killed. At the end of a session only: plugins are children, too.
pub(crate) fn end_orphans() {
    kill_descendants(Signal::KILL);
}

/// Lets go of `km`'s pipes and of its process group, and becomes the parent of orphans.
fn prepare() -> io::Result<()> {
    // Whoever signals all of `km` means the server, which `km` passes it on to. Handlers, unlike
    // dispositions, are not inherited by the server.
    for signal in signals_to_pass_on() {
        signal_hook::flag::register(signal, Arc::default())?;
    }
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::process::setpgid(None, None)?;
    let _ = rustix::thread::set_name(c"km-guard");
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

fn spawn(command: &[OsString], stdin: OwnedFd, stdout: OwnedFd) -> io::Result<Child> {
    let [program, arguments @ ..] = command else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut server = Command::new(program);
    server.args(arguments).stdin(stdin).stdout(stdout).stderr(Stdio::inherit()).process_group(0);
    for secret in environment::SECRETS {
        server.env_remove(secret);
    }
    let guard = rustix::process::getpid();
    let follow_guard = move || {
        #[cfg(target_os = "linux")]
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() == Some(guard) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: the closure makes system calls only.
    unsafe { server.pre_exec(follow_guard) };
    server.spawn()
}

/// Passes signals on until the server ends, reports its status, and ends what it left when `km`
/// says so or is gone.
fn watch(server: Option<Child>, km: &UnixStream) -> io::Result<Outcome> {
    tell(km, STARTED, 0);
    let mut running = server.map(|server| Ok::<_, io::Error>((open(&server)?, server))).transpose()?;
    let mut plugins = Vec::new();
    loop {
        let ended = running.as_ref().map(|(pidfd, _)| pidfd.as_fd());
        let [km_ready, server_ended] = wait_for([Some(km.as_fd()), ended])?;
        if server_ended && let Some((_, mut server)) = running.take() {
            tell(km, EXITED, server.wait()?.into_raw());
        }
        if km_ready {
            let mut order = [FINISH];
            let mut socket = km;
            match socket.read(&mut order) {
                Ok(1) if matches!(order[0], PLUGIN_STARTED | PLUGIN_ENDED) => {
                    let mut group = [0; 4];
                    socket.read_exact(&mut group)?;
                    let group = Pid::from_raw(i32::from_ne_bytes(group));
                    plugins.retain(|plugin| Some(*plugin) != group);
                    plugins.extend(group.filter(|_| order[0] == PLUGIN_STARTED));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(1) if order[0] != FINISH => {
                    if let (Some((pidfd, _)), Some(signal)) =
                        (&running, Signal::from_named_raw(order[0].into()))
                    {
                        let _ = rustix::process::pidfd_send_signal(pidfd, signal);
                    }
                }
                Ok(1) => {
                    end_descendants();
                    return Ok(Outcome::Finished);
                }
                // `km` is gone, and so is everybody who could wait.
                _ => {
                    for plugin in plugins {
                        let _ = rustix::process::kill_process_group(plugin, Signal::KILL);
                    }
                    kill_descendants(Signal::KILL);
                    return Ok(Outcome::Abandoned);
                }
            }
        }
    }
}

/// A handle on the server that stays its own when its number is given to somebody else.
fn open(server: &Child) -> io::Result<OwnedFd> {
    let none = rustix::process::PidfdFlags::empty();
    Ok(rustix::process::pidfd_open(Pid::from_child(server), none)?)
}

fn wait_for<const N: usize>(files: [Option<std::os::fd::BorrowedFd<'_>>; N]) -> io::Result<[bool; N]> {
    let mut polled: Vec<PollFd<'_>> =
        files.iter().flatten().map(|file| PollFd::from_borrowed_fd(*file, PollFlags::IN)).collect();
    match rustix::event::poll(&mut polled, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(e.into()),
    }
    let mut results = polled.iter().map(|file| !file.revents().is_empty());
    Ok(files.map(|file| file.is_some() && results.next().unwrap_or(false)))
}

/// SIGTERM for what the server left, and SIGKILL for what does not leave.
fn end_descendants() {
    kill_descendants_once(Signal::TERM);
    let deadline = Instant::now() + LEFTOVER_GRACE;
    while Instant::now() < deadline {
        if !reap() {
            return;
        }
        let pause = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        let _ = rustix::event::poll(&mut [], Some(&pause));
    }
    kill_descendants(Signal::KILL);
}

/// Kills children until none is left: each one's children become ours when it dies.
fn kill_descendants(signal: Signal) {
    loop {
        kill_descendants_once(signal);
        if !reap() {
            return;
        }
        let pause = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        let _ = rustix::event::poll(&mut [], Some(&pause));
    }
}

fn kill_descendants_once(signal: Signal) {
    for child in children() {
        // The group first: most of what the server started is in the server's.
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
    let own = std::process::id().to_string();
    let parent_of = |stat: &str| -> Option<String> {
        // pid (name) state parent …; the name may hold anything.
        stat.rsplit_once(") ")?.1.split(' ').nth(1).map(str::to_owned)
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            (parent_of(&stat)? == own).then(|| Pid::from_raw(pid)).flatten()
        })
        .collect()
}
