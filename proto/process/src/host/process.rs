//! The plain process: the child's whole life in one place, from spawn to reaped.
//!
//! Each plugin has a thread of its own that spawns it and waits for it. The kernel sends the
//! parent-death signal when the *thread* that spawned ends, so that thread must live as long as
//! its child.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{oneshot, watch};

use super::runner::{Instance, Runner, Running};

/// How long a file may be held open for writing by somebody else.
const BUSY: Duration = Duration::from_millis(500);

/// What is to be run: an open file, and the path it was opened by (its name for `ps`, and what is
/// executed where the system cannot execute open files).
#[derive(Debug)]
pub struct Executable {
    /// The open file. Its bytes are what was checked, so it is what runs.
    pub file: File,
    /// Its path.
    pub path: PathBuf,
}

impl Executable {
    /// Opens a file that needs no check.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        Ok(Self { file: File::open(path)?, path: path.to_owned() })
    }
}

/// A child in a process group of its own, without stdin, that dies with this process.
impl Runner for Executable {
    async fn start(self, environment: Vec<(OsString, OsString)>) -> io::Result<Running> {
        let (started, outcome) = oneshot::channel();
        let command = command(self, environment)?;
        std::thread::Builder::new()
            .name("plugin-parent".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || live(command, started))?;
        let (process, stdout, stderr) =
            outcome.await.map_err(|_| io::Error::other("the thread that starts plugins ended"))??;
        Ok(Running {
            stdout: Box::new(Receiver::from_owned_fd(stdout)?),
            stderr: Box::new(Receiver::from_owned_fd(stderr)?),
            instance: Box::new(process),
        })
    }
}

/// A child and its exit status, once there is one.
#[derive(Debug)]
struct Process {
    id: u32,
    pidfd: OwnedFd,
    exit: watch::Receiver<Option<ExitStatus>>,
}

type Started = io::Result<(Process, OwnedFd, OwnedFd)>;

/// The thread of one child: from spawn to reaped.
fn live(mut command: Command, started: oneshot::Sender<Started>) {
    let (exit, receiver) = watch::channel(None);
    let mut child = match spawn(&mut command) {
        Ok(child) => child,
        Err(e) => {
            let _ = started.send(Err(e));
            return;
        }
    };
    // Whoever gave up waiting dropped the receiver, and with it the Process, which kills.
    let handed_over = hand_over(&mut child, receiver);
    if handed_over.is_err() {
        let _ = child.kill();
    }
    let _ = started.send(handed_over);
    exit.send_replace(reap(&mut child));
}

/// A file that was just written cannot be executed while some other child, between its fork and its
/// exec, still holds the descriptor that it was written by (ETXTBSY). That passes.
fn spawn(command: &mut Command) -> io::Result<Child> {
    let begun = Instant::now();
    loop {
        match command.spawn() {
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy && begun.elapsed() < BUSY => {
                std::thread::sleep(Duration::from_millis(5));
            }
            spawned => return spawned,
        }
    }
}

fn hand_over(child: &mut Child, exit: watch::Receiver<Option<ExitStatus>>) -> Started {
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("the child has no pipes"));
    };
    let pidfd = rustix::process::pidfd_open(pid_of(child)?, rustix::process::PidfdFlags::empty())?;
    Ok((Process { id: child.id(), pidfd, exit }, stdout.into(), stderr.into()))
}

/// Waits for the child to end, kills what it left in its group while its id still stands for that
/// group, and reaps it.
fn reap(child: &mut Child) -> Option<ExitStatus> {
    if let Ok(pid) = pid_of(child) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) = rustix::process::waitid(WaitId::Pid(pid), options) {}
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
    child.wait().ok()
}

fn pid_of(child: &Child) -> io::Result<Pid> {
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("the child has no process id"))
}

impl Instance for Process {
    fn id(&self) -> Option<u32> {
        Some(self.id)
    }

    fn exit(&self) -> watch::Receiver<Option<ExitStatus>> {
        self.exit.clone()
    }

    fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// The group follows when the child is reaped.
    fn kill(&self) {
        self.signal(Signal::KILL);
    }
}

impl Process {
    /// By file descriptor, so that no other process can be meant, however late.
    fn signal(&self, signal: Signal) {
        let _ = rustix::process::pidfd_send_signal(self.pidfd.as_fd(), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn command(executable: Executable, environment: Vec<(OsString, OsString)>) -> io::Result<Command> {
    let Executable { file, path } = executable;
    let mut command = Command::new(&path);
    command.env_clear().envs(environment.iter().cloned());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let image = Image::new(file, path, environment)?;
    let parent = rustix::process::getpid();
    let become_plugin = move || {
        // Set before the check: a parent that died in between is noticed by one of the two.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        image.execute()
    };
    // SAFETY: the closure makes system calls only; everything it needs was allocated before.
    unsafe { command.pre_exec(become_plugin) };
    Ok(command)
}

/// An open file to be executed with arguments and environment, as the kernel wants them.
struct Image {
    file: File,
    /// It is read by an interpreter (`#!`), which opens it by its descriptor.
    is_script: bool,
    _strings: Vec<CString>,
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
}

// SAFETY: the pointers are into `_strings`, which is never changed.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

impl Image {
    fn new(file: File, path: PathBuf, environment: Vec<(OsString, OsString)>) -> io::Result<Self> {
        let mut strings = vec![CString::new(path.into_os_string().into_vec())?];
        for (mut entry, value) in environment {
            entry.push("=");
            entry.push(value);
            strings.push(CString::new(entry.into_vec())?);
        }
        let pointers = |strings: &[CString]| {
            strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
        };
        let (arguments, environment) = (pointers(&strings[..1]), pointers(&strings[1..]));
        let mut start = [0; 2];
        let is_script = file.read_at(&mut start, 0)? == 2 && start == *b"#!";
        Ok(Self { file, is_script, _strings: strings, arguments, environment })
    }

    /// Replaces this process by the image; returns only when that fails.
    #[cfg(target_os = "linux")]
    fn execute(&self) -> io::Result<()> {
        use std::os::fd::AsRawFd as _;
        if self.is_script {
            rustix::io::fcntl_setfd(&self.file, rustix::io::FdFlags::empty())?;
        }
        // SAFETY: both arrays end with null and point to strings that live as long as `self`; the
        // empty path with AT_EMPTY_PATH means the file itself.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                self.file.as_raw_fd(),
                c"".as_ptr(),
                self.arguments.as_ptr(),
                self.environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
        }
        Err(io::Error::last_os_error())
    }

    /// Elsewhere the path is executed, by whoever called this.
    #[cfg(not(target_os = "linux"))]
    fn execute(&self) -> io::Result<()> {
        Ok(())
    }
}
