//! What a command ends with: the exit codes and the error document, the same for `km` and
//! `km-pack`. `docs/exit-codes.md` is made from [`Kind`].

use std::fmt;
use std::io;

use serde::Serialize;

/// What kind of failure ended a command; each has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Anything not below.
    Failed,
    /// Bad arguments.
    Usage,
    /// Signature, digest, format or trust check failed; nothing was installed or run.
    Untrusted,
    /// API key rejected, wrong customer, tier too low, subscription inactive.
    Unauthorized,
    /// API or download host could not be reached, or timed out.
    Unreachable,
    /// No such package, plugin, key or file.
    NotFound,
    /// Downgrade refused, other content under an installed version, another process holds the lock.
    Conflict,
    /// A plugin did not start, broke the handshake, refused authentication or died.
    Plugin,
    /// Disk full, no permission, other trouble with local files.
    Local,
}

impl Kind {
    /// All kinds, by exit code.
    pub const ALL: [Self; 9] = [
        Self::Failed,
        Self::Usage,
        Self::Untrusted,
        Self::Unauthorized,
        Self::Unreachable,
        Self::NotFound,
        Self::Conflict,
        Self::Plugin,
        Self::Local,
    ];

    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Untrusted => 3,
            Self::Unauthorized => 4,
            Self::Unreachable => 5,
            Self::NotFound => 6,
            Self::Conflict => 7,
            Self::Plugin => 8,
            Self::Local => 9,
        }
    }

    /// The word in error documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Untrusted => "untrusted",
            Self::Unauthorized => "unauthorized",
            Self::Unreachable => "unreachable",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Plugin => "plugin",
            Self::Local => "local",
        }
    }

    /// What it means, in one sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Failed => "anything not below",
            Self::Usage => "bad arguments",
            Self::Untrusted => {
                "signature, digest, format or trust check failed; nothing was installed or run"
            }
            Self::Unauthorized => "API key rejected, wrong customer, tier too low, subscription inactive",
            Self::Unreachable => "API or download host could not be reached, or timed out",
            Self::NotFound => "no such package, plugin, key or file",
            Self::Conflict => {
                "downgrade refused, other content under an installed version, another process holds the lock"
            }
            Self::Plugin => "a plugin did not start, broke the handshake, refused authentication or died",
            Self::Local => "disk full, no permission, other trouble with local files",
        }
    }
}

/// Why a command failed: what, on which file, why, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: Kind,
    /// The number of the verification rule that refused, if one did.
    pub rule: Option<u8>,
    /// What failed, on which file, why.
    pub message: String,
    /// What to do next.
    pub help: Option<String>,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, rule: None, message: message.to_string(), help: None }
    }

    /// Trouble with a local file or folder: exit 6 if it is missing, 9 otherwise.
    pub fn file(action: &str, path: &std::path::Path, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Local,
        };
        Self::new(kind, format_args!("cannot {action} {}: {error}", path.display()))
    }

    /// Adds what to do next.
    #[must_use]
    pub fn help(mut self, help: impl fmt::Display) -> Self {
        self.help = Some(help.to_string());
        self
    }

    /// Puts what was being done, or on which file, in front of the message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, "\nhelp: {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

/// The error document that `--json` prints on stdout: `{"error":{kind,rule,message,help}}`.
#[derive(Debug, Serialize)]
pub struct ErrorDocument<'a> {
    error: &'a Failure,
}

impl<'a> From<&'a Failure> for ErrorDocument<'a> {
    fn from(error: &'a Failure) -> Self {
        Self { error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_follow_the_order_and_the_page_says_the_same() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/exit-codes.md"))
            .unwrap();
        for (kind, code) in Kind::ALL.into_iter().zip(1..) {
            assert_eq!(kind.code(), code);
            let row = format!("| {code} | {} | {} |", kind.as_str(), kind.meaning());
            assert!(page.contains(&row), "docs/exit-codes.md lacks the row\n{row}");
        }
    }
}
