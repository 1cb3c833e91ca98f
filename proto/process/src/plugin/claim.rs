//! stdout as a channel to the host: taken before anything else can write to it.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::Leave;
use crate::handshake::HandshakeLine;

/// How long a plugin whose host is gone may take to leave.
const ORPHANED: Duration = Duration::from_secs(5);

/// The pipe to the host that was this process's stdout.
#[derive(Debug)]
pub(super) struct Stdout(OwnedFd);

impl Stdout {
    /// Keeps the pipe for the handshake and points stdout at stderr, so that what the program
    /// prints reaches the host as log lines.
    pub(super) fn claim() -> io::Result<Self> {
        let pipe = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
        rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
        Ok(Self(pipe))
    }

    /// Writes the line, in one piece.
    pub(super) fn shake_hands(&self, line: &HandshakeLine) -> io::Result<()> {
        let mut pipe = std::fs::File::from(self.0.try_clone()?);
        pipe.write_all(format!("{line}\n").as_bytes())
    }

    /// Leaves when nobody reads this pipe any more: the host is gone, however it ended.
    pub(super) fn watch_host(self, leave: Leave) {
        let watch = move || {
            // No event is asked for: POLLERR comes unasked when the reading end closes.
            let mut pipe = [PollFd::new(&self.0, PollFlags::empty())];
            while let Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut pipe, None) {}
            leave.ask();
            // Code that never gives the thread back notices nothing, and nobody is left to kill it.
            std::thread::sleep(ORPHANED);
            #[expect(
                clippy::disallowed_methods,
                reason = "nothing else ends a thread that never gives itself back"
            )]
            std::process::exit(1);
        };
        // Without the thread the plugin still leaves when it is asked to.
        let _ = std::thread::Builder::new().name("host-watch".to_owned()).stack_size(64 * 1024).spawn(watch);
    }
}
