//! Who is at the other end of a Unix socket, by the kernel's word.

use rustix::process::{Pid, getpgid};
use tokio::net::UnixStream;

/// Who is expected at the other end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Peer {
    /// Whoever could enter the private folder.
    Anyone,
    /// This process, or one of its process group (a wrapper script's child).
    Process(u32),
}

/// Somebody else is there.
#[derive(Debug, thiserror::Error)]
#[error("process {found} is at the other end of the socket, and the plugin is {expected}")]
pub struct Stranger {
    found: i32,
    expected: u32,
}

impl Peer {
    pub(crate) fn check(self, stream: &UnixStream) -> Result<(), Stranger> {
        let Self::Process(expected) = self else { return Ok(()) };
        // Not every system tells.
        let Some(found) = stream.peer_cred().ok().and_then(|credentials| credentials.pid()) else {
            return Ok(());
        };
        let group = Pid::from_raw(found).and_then(|pid| getpgid(Some(pid)).ok()).map(Pid::as_raw_pid);
        let plugin = i32::try_from(expected).ok();
        if Some(found) == plugin || group == plugin { Ok(()) } else { Err(Stranger { found, expected }) }
    }
}
