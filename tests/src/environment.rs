//! A home, a key and a place of its own for each test.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::build::{api_logger, binary, packages};

/// An empty `KM_HOME` and everything else that a command sees of its environment.
#[derive(Debug)]
pub struct TestEnvironment {
    folder: tempfile::TempDir,
}

/// What a command did.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code.
    pub code: i32,
    /// Its stdout.
    pub stdout: Vec<u8>,
    /// Its stderr, as text.
    pub stderr: String,
}

impl Finished {
    /// stdout as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// stdout as one JSON document.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Asserts the exit code.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}\n{}", self.text());
        self
    }
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        let status = output.status;
        Self {
            code: status.code().unwrap_or_else(|| -status.signal().unwrap_or_default()),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Default for TestEnvironment {
    fn default() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }
}

impl TestEnvironment {
    /// Nothing is trusted, nothing is installed, not even the home is there.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The key of [`packages`] is trusted.
    pub fn trusting() -> Self {
        let environment = Self::default();
        environment.km(["trust", "add", path(&packages().public_key)]).expect(0);
        environment
    }

    /// console-logger is installed.
    pub fn with_console_logger() -> Self {
        let environment = Self::trusting();
        environment.km(["plugins", "install", path(&packages().package)]).expect(0);
        environment
    }

    /// api-logger and console-logger are installed, both for `customer_123` at Pro.
    pub fn with_api_logger() -> Self {
        let environment = Self::with_console_logger();
        environment.km(["plugins", "install", path(api_logger())]).expect(0);
        environment
    }

    /// Another one with the same files.
    pub fn copy(&self) -> Self {
        let copy = Self::default();
        let mut command = Command::new("cp");
        command.arg("-a").arg(self.folder.path().join(".")).arg(copy.folder.path());
        assert!(command.status().expect("cp runs").success(), "{command:?}");
        copy
    }

    /// Writes `config.toml`: an API, a key, and what else is given.
    pub fn configure(&self, url: &str, key: &str, more: &str) {
        let folder = self.home().join("config");
        std::fs::create_dir_all(&folder).expect("a folder");
        let text = format!("api_endpoint = \"{url}\"\napi_key = \"{key}\"\n{more}\n");
        let file = folder.join("config.toml");
        std::fs::write(&file, text).expect("written");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, private).expect("changed");
    }

    /// A place for files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `KM_HOME`.
    pub fn home(&self) -> PathBuf {
        self.path("km")
    }

    /// One of our programs in this environment: what MCP clients pass to a server, and `KM_HOME`.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(binary(name));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("KM_HOME", self.home())
            .current_dir(self.folder.path());
        command
    }

    /// Runs `km` to its end, without input.
    pub fn km<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Finished {
        self.km_with_input(arguments, b"")
    }

    /// Runs `km` to its end, with this input.
    pub fn km_with_input<'a>(&self, arguments: impl IntoIterator<Item = &'a str>, input: &[u8]) -> Finished {
        let mut command = self.command("km");
        command.args(arguments);
        run(command, input)
    }

    /// Runs `km-pack` to its end.
    pub fn km_pack<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Finished {
        let mut command = self.command("km-pack");
        command.args(arguments);
        run(command, b"")
    }

    /// Puts a binary into the plugins folder by hand, and allows it.
    pub fn allow(&self, binary: &Path, name: &str) {
        let plugins = self.home().join("plugins");
        std::fs::create_dir_all(&plugins).expect("a folder");
        let place = plugins.join(format!("km-plugin-{name}"));
        std::fs::copy(binary, &place).expect("a copy");
        self.km(["plugins", "allow", path(&place)]).expect(0);
    }

    /// All paths under `KM_HOME`, with the contents of files.
    pub fn snapshot(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        collect(&self.home(), &mut found);
        found.sort();
        found
    }
}

/// A path as text.
pub fn path(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

fn run(mut command: Command, input: &[u8]) -> Finished {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    // A program that does not read its input is no failure.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("the writer ends");
    output.into()
}

fn collect(folder: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("a type");
        let content = if kind.is_file() { std::fs::read(&path).expect("readable") } else { Vec::new() };
        if kind.is_dir() {
            collect(&path, found);
        }
        found.push((path, content));
    }
}
