//! What can go wrong with a plugin, with what it said last.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::ConnectError;
use crate::handshake::HandshakeError;

/// Most characters of what a plugin says in one line of an error.
const SAID: usize = 300;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The folder for its socket could not be made.
    #[error("cannot make a folder for the plugin's socket in {}: {}", .0.display(), .1)]
    SocketFolder(PathBuf, #[source] io::Error),
    /// The process could not be started.
    #[error("cannot start: {0}")]
    Spawn(#[source] io::Error),
    /// It ended before it said where it listens.
    #[error("it ended before the handshake ({})", describe(.0))]
    ExitedEarly(ExitStatus),
    /// It did not say where it listens in time.
    #[error("no handshake within {0:?}")]
    StartTimeout(Duration),
    /// Its stdout could not be read, or ended without a handshake.
    #[error("its stdout ended without a handshake")]
    NoHandshake,
    /// Too much on stdout before the handshake.
    #[error("more than {0} bytes on its stdout without a handshake")]
    Noise(usize),
    /// A handshake that is none.
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    /// No protocol version in common.
    #[error("it speaks protocol {plugin}, this host speaks {host:?}")]
    Version {
        /// What the plugin reported.
        plugin: u32,
        /// What the host offered.
        host: Vec<u32>,
    },
    /// A certificate that nobody asked for.
    #[error("it sent a certificate, though TLS was not asked for")]
    UnexpectedCertificate,
    /// No certificate, though TLS is required.
    #[error("it sent no certificate, and TLS is required")]
    NoCertificate,
    /// TLS could not be set up.
    #[error("{0}")]
    Tls(#[from] crate::TlsError),
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The health check failed.
    #[error("unhealthy: {0}")]
    Unhealthy(String),
    /// A call failed while the process lives.
    #[error("a call failed: {0}")]
    Call(String),
    /// A call was not answered in time.
    #[error("no answer to {call} within {deadline:?}")]
    CallTimeout {
        /// Which call.
        call: &'static str,
        /// How long it had.
        deadline: Duration,
    },
    /// The process ended.
    #[error("it ended ({})", describe(.0))]
    Died(ExitStatus),
}

/// A call of the application's that failed.
impl From<tonic::Status> for Trouble {
    fn from(status: tonic::Status) -> Self {
        Self::Call(one_line(status.message()))
    }
}

/// What went wrong, and the last lines that the plugin wrote.
#[derive(Debug)]
pub struct PluginError {
    /// What went wrong.
    pub trouble: Trouble,
    /// The last lines of its output, oldest first.
    pub last_lines: Vec<String>,
}

impl PluginError {
    pub(super) fn without_output(trouble: Trouble) -> Self {
        Self { trouble, last_lines: Vec::new() }
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.trouble)?;
        match &self.last_lines[..] {
            [] => Ok(()),
            lines => write!(f, "; it said last: {}", lines.join(" / ")),
        }
    }
}

impl std::error::Error for PluginError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.trouble)
    }
}

/// What a plugin says, as part of an error: one line of bounded length that can steer no terminal.
pub(super) fn one_line(text: &str) -> String {
    let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(SAID).map(printable).collect()
}

/// An exit status in words.
fn describe(status: &ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}
