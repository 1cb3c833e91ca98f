//! One session: server, relay and plugins, from the first byte to the exit status.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use km_package::failure::{Failure, Kind};
use km_proto::Direction;

use super::record::{Recorder, Recording};
use super::relay::{Copies, Ended, Progress, pump};
use super::remarks::Remarks;
use super::tap::{Framing, StreamKind, Tap, tap};
use super::watchers::{Audience, Watchers};
use crate::environment::Environment;
use crate::host::guard::{self, Guard, Server};
use crate::host::resources;
use crate::paths;

/// How long a server may take to leave once its stdin was closed: from that moment or its last
/// byte, whichever is later; and before its first byte, while it may still be starting.
const LEAVE: Duration = Duration::from_millis(1500);
const LEAVE_BEFORE_FIRST_BYTE: Duration = Duration::from_secs(10);
/// From SIGTERM to SIGKILL.
const TERMINATE: Duration = Duration::from_millis(1500);
/// How long the server's stdout may be silent, once the server has ended, before what still holds
/// it open is not waited for.
const SILENCE: Duration = Duration::from_millis(200);
/// How long the disk may hold up the end of a recording, before that is left to the guard.
const RECORD: Duration = Duration::from_secs(1);
/// How long a stderr that nobody reads may hold up the last words.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What `km monitor` was asked to do.
#[derive(Debug, Clone)]
pub(crate) struct MonitorOptions {
    /// The server and its arguments.
    pub(crate) command: Vec<OsString>,
    /// Who looks on.
    pub(crate) audience: Audience,
    /// Where what passes is recorded.
    pub(crate) record: Option<PathBuf>,
}

enum Event {
    /// The client sends nothing more.
    ClientEnded,
    /// The server's stdout has ended.
    ServerSilent,
    /// The server has ended.
    ServerExited(io::Result<ExitStatus>),
    /// A signal for `km`.
    Signal(i32),
}

/// Runs a session to its end; the exit code is the server's.
pub(crate) fn run(options: MonitorOptions, environment: Environment) -> Result<ExitCode, Failure> {
    let recording = options.record.as_deref().map(Recording::create).transpose()?;
    let salvage = || recording.iter().for_each(Recording::salvage);
    resources::share_heaps();
    // The guard first: it must hold no copy of the client's pipes.
    let Server { stdin, stdout, guard } = match guard::start(&options.command, &salvage) {
        Ok(server) => server,
        Err(e) => {
            recording.into_iter().for_each(Recording::discard);
            return Ok(report_not_started(&options.command, &e));
        }
    };
    // Not before: the server has the signals that it would have without `km`.
    paths::survive_size_limits();
    let (client_in, client_out) = take_stdio()
        .map_err(|e| Failure::new(Kind::Local, format_args!("cannot take over stdin and stdout: {e}")))?;
    let local = |e: io::Error| Failure::new(Kind::Local, format_args!("cannot start a thread: {e}"));
    let (events, inbox) = mpsc::channel();
    Remarks.start().map_err(local)?;
    watch_signals(events.clone()).map_err(local)?;
    watch_server(&guard, events.clone()).map_err(local)?;

    let ends = options.audience.looks_on().then(tap);
    let tap = ends.as_ref().map(|(tap, _)| tap.clone());
    let progress = Progress::new();
    let recorder = recording.map(Recorder::start).transpose().map_err(local)?;
    let relay = Relay { tap, recorder: recorder.clone(), progress: progress.clone(), events };
    relay.start(client_in, stdin, Direction::Inbound).map_err(local)?;
    relay.start(stdout, client_out, Direction::Outbound).map_err(local)?;
    let watchers = match ends {
        Some(ends) => {
            let guard = guard.try_clone().map_err(local)?;
            Some(Watchers::start(environment, options.audience, ends, Some(guard)).map_err(local)?)
        }
        None => None,
    };

    let mut session = Session { inbox, guard, progress, client_ended: None, server_silent: false };
    let status = session.wait_for_server();
    session.drain();
    let (guard, recording) = (session.guard.try_clone().map_err(local)?, recorder.clone());
    let leftovers = thread::spawn(move || {
        let is_recorded = recording.is_none_or(|recorder| recorder.finish(RECORD));
        // What the disk has not taken by now the guard writes, when this process is gone.
        if is_recorded {
            guard.finish();
        }
        is_recorded
    });
    let mut words =
        watchers.map(|watchers| watchers.finish(&|| session.was_told_to_hurry())).unwrap_or_default();
    // Ends by itself within its own deadline.
    if leftovers.join().unwrap_or(true) {
        // What plugins left, and the server's if its guard was killed.
        guard::end_orphans();
    }
    words.extend(recorder.and_then(|recorder| recorder.closing_words()));
    if let Err(e) = &status {
        words.push(format!("the server's guard is gone, and with it the server: {e}"));
    }
    words.iter().for_each(|words| Remarks.say(words));
    Remarks.finish(LAST_WORDS);
    Ok(exit_code(status))
}

struct Session {
    inbox: mpsc::Receiver<Event>,
    guard: Guard,
    progress: Progress,
    client_ended: Option<Instant>,
    server_silent: bool,
}

impl Session {
    /// Passes signals on and lets the server live until it ends, or makes it end some time after
    /// the client did.
    fn wait_for_server(&mut self) -> io::Result<ExitStatus> {
        let mut terminated: Option<Instant> = None;
        loop {
            let deadline = match terminated {
                Some(since) => Some(since + TERMINATE),
                None => self.leave_deadline(),
            };
            match self.next(deadline) {
                Some(Event::ServerExited(status)) => return status,
                Some(Event::Signal(signal)) => self.guard.signal(signal),
                Some(Event::ClientEnded) => self.client_ended = Some(Instant::now()),
                Some(Event::ServerSilent) => self.server_silent = true,
                // The server may have said something since the deadline was set.
                None if terminated.is_none() && self.leave_deadline() > deadline => {}
                None if terminated.is_none() => {
                    self.guard.signal(signal_hook::consts::SIGTERM);
                    terminated = Some(Instant::now());
                }
                None => {
                    self.guard.signal(9);
                    // It ends now; the kernel needs no third invitation.
                    terminated = Some(Instant::now() + Duration::from_secs(3600));
                }
            }
        }
    }

    /// When a server must have left whose client has ended.
    fn leave_deadline(&self) -> Option<Instant> {
        let ended = self.client_ended?;
        Some(match self.progress.last_byte() {
            None => ended + LEAVE_BEFORE_FIRST_BYTE,
            Some(last) => ended.max(last) + LEAVE,
        })
    }

    /// Waits until the client has the server's last bytes. A descendant may hold the pipe open.
    fn drain(&mut self) {
        let begun = Instant::now();
        while !self.server_silent {
            let last = self.progress.last_byte().map_or(begun, |last| last.max(begun));
            // What it has written is the client's, whenever that reads it.
            if last.elapsed() >= SILENCE && !self.progress.is_writing() {
                return;
            }
            match self.next(Some(Instant::now() + Duration::from_millis(20))) {
                Some(Event::ServerSilent) => self.server_silent = true,
                Some(Event::Signal(_)) => return,
                Some(Event::ClientEnded | Event::ServerExited(_)) | None => {}
            }
        }
    }

    fn was_told_to_hurry(&self) -> bool {
        self.inbox.try_iter().any(|event| matches!(event, Event::Signal(_)))
    }

    /// The next event; none when the deadline has come.
    fn next(&self, deadline: Option<Instant>) -> Option<Event> {
        let wait =
            deadline.map_or(Duration::from_secs(3600), |d| d.saturating_duration_since(Instant::now()));
        match self.inbox.recv_timeout(wait) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) if deadline.is_none() => self.next(None),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }
}

/// What both directions of the relay are started with.
struct Relay {
    tap: Option<Tap>,
    recorder: Option<Recorder>,
    progress: Progress,
    events: mpsc::Sender<Event>,
}

impl Relay {
    fn start(&self, from: OwnedFd, to: OwnedFd, direction: Direction) -> io::Result<()> {
        let kind = StreamKind { direction, framing: Framing::Lines, channel: None };
        let events = self.events.clone();
        let copies = Copies {
            tap: self.tap.as_ref().map(|tap| tap.open(kind)),
            track: self.recorder.as_ref().map(|recorder| recorder.track(direction)),
        };
        // Only what the server says counts for when it may be made to leave.
        let progress = match direction {
            Direction::Inbound => Progress::new(),
            Direction::Outbound => self.progress.clone(),
        };
        thread::Builder::new().name(direction.as_str().to_owned()).spawn(move || {
            let event = match (direction, pump(from, to, copies, &progress)) {
                (Direction::Inbound, Ended::Writer) => Event::ClientEnded,
                // A server that reads no more goes on as it likes; the client sees a broken pipe.
                (Direction::Inbound, Ended::Reader) => return,
                (Direction::Outbound, _) => Event::ServerSilent,
            };
            // Nobody listens any more when the session is over.
            let _ = events.send(event);
        })?;
        Ok(())
    }
}

/// Takes the real stdin and stdout, and leaves in their places what can do no harm: nothing that
/// this process or its libraries print can reach the client.
fn take_stdio() -> io::Result<(OwnedFd, OwnedFd)> {
    let client_in = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let client_out = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok((client_in, client_out))
}

fn watch_signals(events: mpsc::Sender<Event>) -> io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new(guard::signals_to_pass_on())?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let _ = events.send(Event::Signal(signal));
        }
    })?;
    Ok(())
}

fn watch_server(guard: &Guard, events: mpsc::Sender<Event>) -> io::Result<()> {
    let guard = guard.try_clone()?;
    thread::Builder::new().name("server".to_owned()).spawn(move || {
        let _ = events.send(Event::ServerExited(guard.wait()));
    })?;
    Ok(())
}

/// As a shell says it, with a shell's exit codes.
fn report_not_started(command: &[OsString], error: &io::Error) -> ExitCode {
    let program = command.first().map(|program| program.to_string_lossy()).unwrap_or_default();
    match error.kind() {
        io::ErrorKind::NotFound => {
            Remarks.say(&format!(
                "cannot start {program}: no such command\nhelp: check its spelling, or give its full path"
            ));
            ExitCode::from(127)
        }
        io::ErrorKind::PermissionDenied => {
            Remarks.say(&format!(
                "cannot start {program}: {error}\nhelp: it must be a file with the execute bit (chmod +x), or give its interpreter, as `node {program}`"
            ));
            ExitCode::from(126)
        }
        _ => {
            Remarks.say(&format!("cannot start {program}: {error}"));
            ExitCode::from(126)
        }
    }
}

fn exit_code(status: io::Result<ExitStatus>) -> ExitCode {
    match status {
        Ok(status) => {
            let code = status.code().or_else(|| Some(128 + status.signal()?));
            ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(Kind::Failed.code()))
        }
        Err(_) => ExitCode::from(Kind::Failed.code()),
    }
}
