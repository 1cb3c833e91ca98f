//! MCP clients and servers in more than one language: each session is the same on both sides of `km`,
//! and whatever the client does to end it, nothing is left behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use km_tests::{TestEnvironment, binary, path, wait_until, workspace};
use libtest_mimic::Trial;

use crate::{Recorded, trial};

pub(crate) fn trials(tools: &Result<PathBuf, String>) -> Vec<Trial> {
    vec![
        trial("typescript_client_server_everything", tools, |tools| everything(tools)),
        trial("typescript_client_server_memory", tools, |tools| memory(tools)),
        trial("typescript_client_server_filesystem", tools, |tools| filesystem(tools)),
        trial("typescript_client_has_its_limit", tools, |tools| limit(tools)),
        trial("typescript_client_kills_only_km", tools, |tools| stubborn_server(&typescript(tools, "hello"))),
        trial("python_client_server_git", tools, |tools| git(tools)),
        trial("python_client_kills_the_process_group", tools, |tools| stubborn_server(&python(tools))),
    ]
}

/// The command of a client up to that of its server.
type Client = Vec<String>;

fn typescript(tools: &Path, what: &str) -> Client {
    typescript_in(tools, what, "")
}

fn typescript_in(tools: &Path, what: &str, folder: &str) -> Client {
    let script = workspace().join("tests/real/session.mjs");
    ["node", path(&script), path(tools), what, folder, "--"].map(str::to_owned).to_vec()
}

fn python(tools: &Path) -> Client {
    let (python, script) = (tools.join("python/bin/python"), workspace().join("tests/real/session.py"));
    [path(&python), path(&script), "hello", "legacy", "--"].map(str::to_owned).to_vec()
}

fn command(client: &Client) -> Command {
    let mut command = Command::new(&client[0]);
    command.args(&client[1..]);
    command
}

fn server(tools: &Path, name: &str) -> String {
    path(&tools.join("node/node_modules/.bin").join(name)).to_owned()
}

fn everything(tools: &Path) {
    let client = command(&typescript(tools, "everything"));
    let session = Recorded::of(client, &[&server(tools, "mcp-server-everything")]);
    session.check();
    assert!(session.bytes("outside", "out").len() > 1_000_000);
}

fn memory(tools: &Path) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut client = command(&typescript(tools, "memory"));
    client.env("MEMORY_FILE_PATH", folder.path().join("memory.jsonl"));
    Recorded::of(client, &[&server(tools, "mcp-server-memory")]).check();
}

fn filesystem(tools: &Path) {
    let folder = tempfile::tempdir().expect("a folder");
    let client = command(&typescript_in(tools, "filesystem", path(folder.path())));
    let session = Recorded::of(client, &[&server(tools, "mcp-server-filesystem"), path(folder.path())]);
    session.check();
    assert!(session.bytes("outside", "out").len() > 1_000_000);
}

/// A client that gives up in the middle of a large answer says the same as without `km`, and is soon rid
/// of it.
fn limit(tools: &Path) {
    let folder = tempfile::tempdir().expect("a folder");
    let client = typescript_in(tools, "limit", path(folder.path()));
    let filesystem = server(tools, "mcp-server-filesystem");
    let server = [filesystem.as_str(), path(folder.path())];
    let environment = TestEnvironment::with_console_logger();
    let mut direct = command(&client);
    direct.args(server);
    let mut km = command(&client);
    km.args([path(&binary("km")), "monitor", "--"]).args(server);
    let said = |client: Command| {
        let output = run(client, &environment);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.starts_with("limit ")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)))
    };
    assert_eq!(said(km), said(direct));
}

fn git(tools: &Path) {
    let repository = tempfile::tempdir().expect("a folder");
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@example.com"]).args(arguments);
        assert!(git.current_dir(repository.path()).status().expect("git runs").success());
    };
    git(&["init", "--quiet"]);
    git(&["commit", "--quiet", "--allow-empty", "--message", "the first commit"]);
    let mut client = Command::new(tools.join("python/bin/python"));
    client.arg(workspace().join("tests/real/session.py")).args(["git", "legacy", "--"]);
    client.current_dir(repository.path());
    let program = tools.join("python/bin/mcp-server-git");
    Recorded::of(client, &[path(&program), "--repository", path(repository.path())]).check();
}

/// A server that goes on when its client has ended, ignores SIGTERM and has started others: neither the
/// TypeScript SDK, which kills only `km`, nor the Python one, which kills the process group, has to wait
/// for its own last resort or leaves anything behind.
fn stubborn_server(client: &Client) {
    let environment = TestEnvironment::with_console_logger();
    let script = "trap '' TERM; setsid sleep 1000 & \"$0\"; while :; do sleep 1; done";
    let mut client = command(client);
    client.args([path(&binary("km")), "monitor", "--", "sh", "-c", script, path(&binary("mcp-server"))]);
    let begun = Instant::now();
    let output = run(client, &environment);
    let (text, taken) = (String::from_utf8_lossy(&output.stdout), begun.elapsed());
    let closed = text.lines().find_map(|line| line.strip_prefix("closed ")?.parse::<u64>().ok());
    // Two seconds until SIGTERM, two until SIGKILL.
    assert!(closed.is_some_and(|millis| millis < 4500), "{taken:?}\n{text}");
}

/// Runs a client to its end, and waits until nothing is left of the session.
fn run(mut client: Command, environment: &TestEnvironment) -> Output {
    client.env("KM_HOME", environment.home()).env("HOME", environment.path("."));
    let output = client.output().expect("the client runs");
    assert!(output.status.success(), "{output:?}");
    let begun = Instant::now();
    wait_until("nothing is left behind", || left_behind(environment).is_empty());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    output
}

/// The processes that have this environment's folder in their own environment or command.
pub(crate) fn left_behind(environment: &TestEnvironment) -> Vec<String> {
    let folder = environment.path("");
    let folder = path(&folder).trim_end_matches('/').as_bytes();
    let names = |process: &Path| {
        let read = |file: &str| std::fs::read(process.join(file)).unwrap_or_default();
        [read("environ"), read("cmdline")].concat().windows(folder.len()).any(|window| window == folder)
    };
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
    processes.filter(|process| names(process)).map(|process| process.display().to_string()).collect()
}
