//! What others wrote: MCP servers and clients through `km monitor`, go-plugin in Go, and PostgreSQL.
//!
//! The first come from npm and PyPI (`tests/tools/install.sh`), the second from the Go module proxy
//! (`tests/go`, `km-plugin-template/go`), the last from Debian. In CI they must be there; elsewhere a machine without Node, Python,
//! Go, PostgreSQL or network reports these tests as ignored.

mod clients;
mod go_template;
mod http;
mod mirrors;
mod new_project;
mod pairings;
mod postgres;
mod stores;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use go_plugin::host::{Executable, Host, PluginProcess};
use km_tests::{TestEnvironment, binary, go, pairing, path, tools, wait_until, workspace};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let nothing = || Err("listed only".to_owned());
    let (tools, go, old) = match arguments.list {
        true => (nothing(), nothing(), nothing()),
        false => (tools::install(), go::current(), go::old()),
    };
    let bucket = if arguments.list { nothing() } else { stores::install() };
    let minio = if arguments.list { nothing() } else { stores::install_minio() };
    let database = if arguments.list { nothing() } else { km_tests::postgres::programs() };
    let nginx = if arguments.list { nothing() } else { km_tests::nginx::program() };
    let actionlint = if arguments.list { nothing() } else { new_project::install_actionlint() };
    let go_and_old = go.clone().and_then(|go| Ok([go, old.clone()?]));
    let mut trials = vec![
        trial("server_everything_with_the_python_client", &tools, |tools| server_everything(tools)),
        trial("server_time_in_the_current_protocol", &tools, |tools| server_time_modern(tools)),
        trial("server_time_with_a_client_that_falls_back", &tools, |tools| server_time_legacy(tools)),
        trial("a_recording_answers_the_python_client", &tools, |tools| answered_from_a_recording(tools)),
        trial("a_go_host_runs_our_plugin_in_plaintext", &go, |go| go_host(go, &[])),
        trial("a_go_host_runs_our_plugin_with_mutual_tls", &go, |go| go_host(go, &["-mtls"])),
        trial("km_runs_a_go_plugin", &go, |go| go_plugin(go, true)),
        trial("km_runs_a_go_plugin_of_2019", &old, |old| go_plugin(old, false)),
        trial("a_go_plugin_keeps_the_contract", &go, |go| conformance(go)),
        trial("a_go_plugin_of_2019_keeps_the_contract", &old, |old| conformance(old)),
        trial("a_go_plugin_that_cannot_listen_is_quoted", &go, |go| cannot_listen(go)),
    ];
    trials.extend(clients::trials(&tools));
    trials.extend(go_template::trials(&go, &tools));
    trials.extend(http::trials(&tools));
    trials.extend(new_project::trials(&go, &actionlint));
    trials.extend(pairings::trials(&go, &go_and_old));
    trials.extend(postgres::trials(&database));
    trials.extend(stores::trials(&bucket, &minio));
    trials.extend(mirrors::trials(&nginx, &database));
    libtest_mimic::run(&arguments, trials).exit();
}

/// A test of something that had to be installed: where it is not, the test fails in CI and is
/// ignored elsewhere.
fn trial<T: Clone + Send + 'static>(name: &str, needs: &Result<T, String>, test: fn(&T)) -> Trial {
    let ignored = needs.is_err() && std::env::var_os("CI").is_none();
    let needs = needs.clone();
    let run = move || match needs {
        Ok(needs) => {
            test(&needs);
            Ok(())
        }
        Err(why) => Err(Failed::from(why)),
    };
    Trial::test(name, run).with_ignored_flag(ignored)
}

/// The transcript of a Go host with console-logger.
fn go_host(go: &Path, arguments: &[&str]) {
    let environment = TestEnvironment::empty();
    let output = Command::new(go.join("host"))
        .args(arguments)
        .arg(binary("km-plugin-console-logger"))
        .env("TMPDIR", environment.path("."))
        .output()
        .expect("the host runs");
    let expected = [
        "name console-logger",
        "before authentication false not authenticated",
        "authorized true Free",
        "initialized true",
        "handled true",
        "large true",
        "stdio arrived",
        "gone true true",
    ];
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{}", String::from_utf8_lossy(&output.stderr));
    let left: Vec<_> = std::fs::read_dir(environment.path(".")).expect("a folder").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// `km` with a plugin in Go: encrypted, fed in order, shown (if its go-plugin streams output), told
/// of what is too large, gone.
fn go_plugin(go: &Path, streams: bool) {
    let environment = TestEnvironment::empty();
    environment.allow(&go.join("plugin"), "golog");
    let status = environment.km(["plugins", "status", "--json"]).expect(0).json();
    let plugin = &status["plugins"][0];
    assert_eq!((&plugin["health"], &plugin["encrypted"]), (&"serving".into(), &true.into()), "{plugin}");
    let large = vec![b'x'; 5_000_000];
    let input = [b"{\"id\":1,\"method\":\"m\"}\n", &large[..], b"\n{}\n"].concat();
    let session = environment.km_with_input(["-v", "monitor", "--", "cat"], &input).expect(0);
    assert!(session.stdout == input);
    assert!(session.stderr.contains("km: plugin golog: all 6 messages were delivered"), "{}", session.stderr);
    let printed =
        ["[golog] message 1 inbound 21", "[golog] event message_too_large 5000000", "[golog] messages 6"];
    for line in printed.into_iter().filter(|_| streams) {
        assert!(session.stderr.contains(line), "{line}: {}", session.stderr);
    }
    // What its library logs for debugging is for those who ask.
    assert!(!session.stderr.contains("plugin address"), "{}", session.stderr);
}

/// The conformance suite: what the library of Go plugins leaves undone is a warning.
fn conformance(go: &Path) {
    let environment = TestEnvironment::empty();
    let plugin = environment.path("km-plugin-golog");
    std::os::unix::fs::symlink(go.join("plugin"), &plugin).expect("a link");
    let document = environment.km_pack(["test", path(&plugin), "--json"]).expect(0).json();
    let checks = document["checks"].as_array().expect("checks");
    let not_passed: Vec<String> = checks
        .iter()
        .filter(|check| check["outcome"] != "passed")
        .map(|check| format!("{} {}", check["id"], check["outcome"]).replace('"', ""))
        .collect();
    let expected = [
        "wrong-key skipped",
        // What protocol 2 asks for.
        "describe skipped",
        "token skipped",
        "tokens-refused skipped",
        "token-renewed skipped",
        "deliver-early skipped",
        "deliver skipped",
        "deliver-large skipped",
        "deliver-many skipped",
        "deliver-resumed skipped",
        "deliver-ended skipped",
        "sigterm warned",
        "host-gone warned",
    ];
    assert_eq!(not_passed, expected, "{document:#}");
}

/// There it exits with 0 and says why as a log entry.
fn cannot_listen(go: &Path) {
    let environment = TestEnvironment::empty();
    let deep = environment.path(&"d".repeat(100));
    std::fs::create_dir(&deep).expect("a folder");
    let host = Host::new(pairing::COOKIE, [1], deep);
    let executable = Executable::open(go.join("pairing-plugin")).expect("it is there");
    let start = PluginProcess::start(&host, executable, Arc::new(|_, _: &[u8]| {}));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let error = runtime.block_on(start).map(|_| ()).expect_err("it cannot listen").to_string();
    assert!(error.starts_with("it ended before the handshake (exit 0); it said last: "), "{error}");
    assert!(
        error.contains("error: plugin init error") && error.contains("bind: invalid argument"),
        "{error}"
    );
}

/// A session of a client with a server, recorded on both sides of `km`.
struct Recorded {
    environment: TestEnvironment,
    stdout: String,
    stderr: String,
}

impl Recorded {
    /// A session of the Python SDK's client.
    fn run(tools: &Path, what: &str, mode: &str, server: &[&str]) -> Self {
        let mut client = Command::new(tools.join("python/bin/python"));
        client.arg(workspace().join("tests/real/session.py")).args([what, mode, "--"]);
        Self::of(client, server)
    }

    /// A session of any client, which takes the server's command as its last arguments.
    fn of(mut client: Command, server: &[&str]) -> Self {
        let environment = TestEnvironment::with_console_logger();
        let record = binary("record");
        client
            .args([path(&record), path(&environment.path("outside")), "--"])
            .args([path(&binary("km")), "monitor", "--server", "--"])
            .args([path(&record), path(&environment.path("inside")), "--"])
            .args(server)
            .env("KM_HOME", environment.home())
            .env("HOME", environment.path("."));
        let Output { status, stdout, stderr } = client.output().expect("the client runs");
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{stdout}\n{stderr}");
        wait_until("nothing is left behind", || clients::left_behind(&environment).is_empty());
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

/// The Python SDK's client gets from a recording what it got from the server, in both eras.
fn answered_from_a_recording(tools: &Path) {
    let everything = tools.join("node/node_modules/.bin/mcp-server-everything");
    let time = tools.join("python/bin/mcp-server-time");
    for (what, mode, server) in
        [("everything", "legacy", &everything), ("time", "legacy", &time), ("time", "2026-07-28", &time)]
    {
        let environment = TestEnvironment::empty();
        let file = environment.path("session.jsonl.zst");
        let session = |arguments: &[&str]| {
            let mut client = Command::new(tools.join("python/bin/python"));
            client.arg(workspace().join("tests/real/session.py")).args([
                what,
                mode,
                "--",
                path(&binary("km")),
            ]);
            client.args(arguments).env("KM_HOME", environment.home()).env("HOME", environment.path("."));
            let Output { status, stdout, stderr } = client.output().expect("python runs");
            let text = String::from_utf8_lossy(&stdout).into_owned();
            assert!(status.success(), "{what} {mode}: {text}\n{}", String::from_utf8_lossy(&stderr));
            // All that it says but how long it took.
            text.lines().filter(|line| !line.starts_with("closed ")).map(str::to_owned).collect::<Vec<_>>()
        };
        let recorded = session(&["monitor", "--record", path(&file), "--", path(server)]);
        assert_eq!(session(&["replay", path(&file), "--as-server"]), recorded, "{what} {mode}");
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
