//! Running one of the developer's tools to its end.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use km_package::failure::{Failure, Kind};

use crate::environment;

/// A tool to be run: cargo, rustc, go, git.
#[derive(Debug)]
pub(super) struct Tool {
    name: &'static str,
    command: Command,
}

impl Tool {
    pub(super) fn new(name: &'static str, folder: &Path) -> Self {
        let mut command = Command::new(name);
        command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        // No tool needs them, and build scripts are other people's code.
        for secret in environment::secrets() {
            command.env_remove(secret);
        }
        Self { name, command }
    }

    pub(super) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(super) fn env(mut self, name: &str, value: String) -> Self {
        self.command.env(name, value);
        self
    }

    pub(super) fn without(mut self, names: &[&str]) -> Self {
        for name in names {
            self.command.env_remove(name);
        }
        self
    }

    pub(super) fn quiet(mut self) -> Self {
        self.command.stderr(Stdio::null());
        self
    }

    /// What it printed on stdout, if it succeeded. Its stderr goes where ours goes.
    pub(super) fn output(self) -> Result<String, Failure> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    /// The same, as it came.
    pub(super) fn bytes(mut self) -> Result<Vec<u8>, Failure> {
        let name = self.name;
        let output = self.command.output().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                let help = match name {
                    "go" => "install Go: https://go.dev/dl",
                    "git" => "install git: https://git-scm.com",
                    _ => "install Rust: https://rustup.rs",
                };
                Failure::new(Kind::NotFound, format_args!("{name} is not installed, or not in PATH"))
                    .help(help)
            }
            _ => Failure::new(Kind::Local, format_args!("cannot run {name}: {e}")),
        })?;
        if !output.status.success() {
            return Err(Failure::new(Kind::Failed, format_args!("{name} failed ({})", output.status)));
        }
        Ok(output.stdout)
    }
}
