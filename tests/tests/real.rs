//! Sessions between MCP servers and clients that others wrote, through `km monitor`.
//!
//! They come from npm and PyPI (`tests/tools/install.sh`). In CI they must be there; elsewhere a
//! machine without Node, Python or network reports these tests as ignored.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use km_tests::{TestEnvironment, binary, path, workspace};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let tools = if arguments.list { None } else { install() };
    let in_ci = std::env::var_os("CI").is_some();
    let ignored = tools.is_none() && !in_ci;
    if ignored && !arguments.list {
        eprintln!(
            "not run: the MCP servers of npm and PyPI are not installed; tests/tools/install.sh says why"
        );
    }
    let trial = |name: &str, test: fn(&Path)| {
        let tools = tools.clone();
        let run = move || match tools {
            Some(tools) => {
                test(&tools);
                Ok(())
            }
            None => Err(Failed::from("tests/tools/install.sh failed")),
        };
        Trial::test(name, run).with_ignored_flag(ignored)
    };
    let trials = vec![
        trial("server_everything_with_the_python_client", server_everything),
        trial("server_time_in_the_current_protocol", server_time_modern),
        trial("server_time_with_a_client_that_falls_back", server_time_legacy),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

fn install() -> Option<PathBuf> {
    let tools = binary("km").parent()?.parent()?.join("mcp-tools");
    let script = workspace().join("tests/tools/install.sh");
    let installed = Command::new("sh").arg(script).arg(&tools).output().ok()?;
    if !installed.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&installed.stderr));
    }
    installed.status.success().then_some(tools)
}

/// A session of the Python SDK's client with a server, recorded on both sides of `km`.
struct Recorded {
    environment: TestEnvironment,
    stdout: String,
    stderr: String,
}

impl Recorded {
    fn run(tools: &Path, what: &str, mode: &str, server: &[&str]) -> Self {
        let environment = TestEnvironment::with_console_logger();
        let record = binary("record");
        let mut client = Command::new(tools.join("python/bin/python"));
        client
            .arg(workspace().join("tests/real/session.py"))
            .args([what, mode, "--"])
            .args([path(&record), path(&environment.path("outside")), "--"])
            .args([path(&binary("km")), "monitor", "--server", "--"])
            .args([path(&record), path(&environment.path("inside")), "--"])
            .args(server)
            .env("KM_HOME", environment.home())
            .env("HOME", environment.path("."));
        let Output { status, stdout, stderr } = client.output().expect("python runs");
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{stdout}\n{stderr}");
        Self { environment, stdout: stdout.into_owned(), stderr: stderr.into_owned() }
    }

    /// What passed on one side in one direction.
    fn bytes(&self, side: &str, direction: &str) -> Vec<u8> {
        std::fs::read(self.environment.path(side).join(direction)).expect("a recording")
    }

    /// The bytes are the same on both sides of `km`, and console-logger has logged each message of
    /// each direction once, in its order.
    fn check(&self) {
        for (direction, word) in [("in", "inbound"), ("out", "outbound")] {
            let outside = self.bytes("outside", direction);
            assert!(outside == self.bytes("inside", direction), "{direction}: the bytes differ");
            let sizes: Vec<usize> =
                outside.split(|&b| b == b'\n').map(<[u8]>::len).filter(|&length| length > 0).collect();
            let logged: Vec<usize> = self
                .stderr
                .lines()
                .filter(|line| line.starts_with("[console-logger] ") && line.contains(&format!(" {word} ")))
                .map(|line| line.strip_suffix(" B").expect("a size").rsplit(' ').next().expect("a word"))
                .map(|size| size.parse().expect("a number"))
                .collect();
            assert_eq!(logged, sizes, "{direction}\n{}", self.stderr);
        }
    }
}

fn server_everything(tools: &Path) {
    let server = tools.join("node/node_modules/.bin/mcp-server-everything");
    let session = Recorded::run(tools, "everything", "legacy", &[path(&server)]);
    session.check();
    for step in ["version 2025-11-25", "progress [1", "payload 5242881"] {
        assert!(session.stdout.contains(step), "{}", session.stdout);
    }
    assert!(session.bytes("outside", "in").len() > 5 << 20);
    assert!(session.bytes("outside", "out").len() > 5 << 20);
    for seen in ["initialize id=", "tools/list id=", "tools/call id=", "outbound notifications/progress"] {
        assert!(session.stderr.contains(seen), "{seen}: {}", session.stderr);
    }
}

fn server_time_modern(tools: &Path) {
    let server = tools.join("python/bin/mcp-server-time");
    let session = Recorded::run(tools, "time", "2026-07-28", &[path(&server)]);
    session.check();
    assert!(session.stdout.contains("version 2026-07-28"), "{}", session.stdout);
    assert!(!session.stderr.contains("initialize"), "{}", session.stderr);
}

fn server_time_legacy(tools: &Path) {
    let server = tools.join("python/bin/mcp-server-time");
    let session = Recorded::run(tools, "time", "legacy", &[path(&server)]);
    session.check();
    assert!(session.stderr.contains("initialize id="), "{}", session.stderr);
}
