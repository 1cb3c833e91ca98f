//! Where a run took place: the machine, its tools, the programs under test.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use km_package::digest::Hasher;
use serde::Serialize;

use super::keeper::Variables;
use super::shell::{Ended, Shell};

/// For one tool to say its version.
const LIMIT: Duration = Duration::from_secs(20);

/// The tools whose versions matter, and how they are asked.
const TOOLS: [(&str, &str); 6] = [
    ("rustc", "rustc --version"),
    ("cargo", "cargo --version"),
    // It would begin to count its uses in the user's home.
    ("go", "XDG_CONFIG_HOME=/dev/null go version"),
    ("node", "node --version"),
    ("python", "python3 --version"),
    ("commit", "git describe --always --dirty --abbrev=12"),
];

/// The machine and its tools; null where a tool is missing.
#[derive(Debug, Default, Clone, Serialize)]
pub(super) struct Facts {
    pub(super) os: String,
    pub(super) kernel: String,
    pub(super) architecture: &'static str,
    pub(super) cores: usize,
    pub(super) memory_bytes: u64,
    pub(super) tools: Vec<Tool>,
}

/// What a tool says of itself.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Tool {
    pub(super) name: &'static str,
    pub(super) version: Option<String>,
}

/// One of the commands under test.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) version: Option<String>,
    pub(super) path: PathBuf,
    pub(super) sha256: String,
}

impl Facts {
    /// Looks around.
    pub(super) fn gather(checkout: &Path, stop: &AtomicBool) -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let line = |text: String, key: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
            found.map(|value| value.trim_matches('"').to_owned()).unwrap_or_default()
        };
        let kib: u64 = line(read("/proc/meminfo"), "MemTotal:").trim_end_matches(" kB").parse().unwrap_or(0);
        Self {
            os: line(read("/etc/os-release"), "PRETTY_NAME="),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            architecture: std::env::consts::ARCH,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kib * 1024,
            tools: TOOLS
                .into_iter()
                .map(|(name, command)| Tool { name, version: ask(checkout, command, stop) })
                .collect(),
        }
    }
}

/// The commands in a folder, those that are there.
pub(super) fn programs(folder: &Path, stop: &AtomicBool) -> Vec<Program> {
    let about = |name| {
        let path = folder.join(name);
        let mut hasher = Hasher::default();
        hasher.update(&std::fs::read(&path).ok()?);
        let version = ask(folder, &format!("./{name} --version"), stop);
        Some(Program { name, version, path, sha256: hasher.finish().to_string() })
    };
    ["km", "km-pack"].into_iter().filter_map(about).collect()
}

/// The first line of what a command prints; none if it fails.
fn ask(folder: &Path, command: &str, stop: &AtomicBool) -> Option<String> {
    let mut shell = Shell::start(folder, &Variables::Ours(Vec::new())).ok()?;
    let ran = shell.run(command, LIMIT, stop);
    shell.end();
    (ran.ended == Ended::Exited(0)).then(|| ran.output.lines().next().unwrap_or_default().to_owned())
}
