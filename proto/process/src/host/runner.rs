//! The seam between the host and how a plugin is run: as a plain process, in a sandbox, in a
//! container, in this very process.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::process::ExitStatus;

use tokio::io::AsyncRead;
use tokio::sync::watch;

use crate::handshake::Address;

/// Starts one plugin. [`Executable`](super::Executable) runs it as a plain process.
pub trait Runner: Send {
    /// Starts it with exactly this environment.
    ///
    /// # Errors
    /// When it cannot be started. Nothing of it may be left then.
    fn start(
        self,
        environment: Vec<(OsString, OsString)>,
    ) -> impl Future<Output = io::Result<Running>> + Send;
}

/// What a plugin writes, to be read to its end.
pub type Pipe = Box<dyn AsyncRead + Send + Sync + Unpin>;

/// A plugin that was started.
pub struct Running {
    /// Its stdout, on which it shakes hands.
    pub stdout: Pipe,
    /// Its stderr.
    pub stderr: Pipe,
    /// The handle by which it is watched and ended.
    pub instance: Box<dyn Instance>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("instance", &self.instance).finish_non_exhaustive()
    }
}

/// A running plugin, whatever it runs in. Dropping it must end it.
pub trait Instance: fmt::Debug + Send + Sync {
    /// Its process id, if it is a process of this machine that the kernel can tell us apart by: who
    /// listens at its socket must then be this process, or one of its process group.
    fn id(&self) -> Option<u32>;

    /// Its exit status, once it has ended and nothing is left of it.
    fn exit(&self) -> watch::Receiver<Option<ExitStatus>>;

    /// Asks it to end (SIGTERM).
    fn terminate(&self);

    /// Ends it at once (SIGKILL).
    fn kill(&self);

    /// An address of the plugin's as the host reaches it, where the two see different files or
    /// networks.
    fn reach(&self, address: Address) -> Address {
        address
    }
}
