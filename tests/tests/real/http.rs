//! Streamable HTTP of others through `km monitor --http`: servers of two SDKs, the Python SDK's client, both
//! eras.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use km_tests::{TestEnvironment, wait_until, workspace};
use libtest_mimic::Trial;

use crate::trial;

pub(crate) fn trials(tools: &Result<PathBuf, String>) -> Vec<Trial> {
    vec![
        trial("http_of_the_python_sdk_in_the_current_protocol", tools, |tools| python(tools, "2026-07-28")),
        trial("http_of_the_python_sdk_with_a_handshake", tools, |tools| python(tools, "legacy")),
        trial("http_of_server_everything", tools, |tools| everything(tools)),
        trial("http_calls_that_are_cancelled_are_so_for_the_server", tools, |tools| cancelled(tools)),
    ]
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `km monitor --http` with console-logger before a server of this machine.
struct Proxied {
    km: Running,
    port: String,
    stderr: BufReader<std::process::ChildStderr>,
    _environment: TestEnvironment,
}

impl Proxied {
    fn start(server: &str) -> Self {
        let environment = TestEnvironment::with_console_logger();
        let mut command = environment.command("km");
        command.args(["monitor", "--http", ":0", "--upstream", &format!("http://127.0.0.1:{server}")]);
        let mut km = command.stderr(Stdio::piped()).spawn().expect("km starts");
        let mut stderr = BufReader::new(km.stderr.take().expect("a pipe"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("readable");
        let port =
            line.split_once("listening on http://127.0.0.1:").and_then(|(_, rest)| rest.split(',').next());
        let port = port.unwrap_or_else(|| panic!("{line}")).to_owned();
        Self { km: Running(km), port, stderr, _environment: environment }
    }

    /// Ends it; what plugins have seen.
    fn finish(mut self) -> Vec<String> {
        let pid = rustix::process::Pid::from_child(&self.km.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("km runs");
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).expect("readable");
        assert!(self.km.0.wait().expect("it ends").success() && !said.contains("not delivered"), "{said}");
        said.lines().filter_map(|line| line.strip_prefix("[console-logger] ")).map(str::to_owned).collect()
    }
}

/// What the client says of a session.
fn session(tools: &Path, port: &str, mode: &[&str]) -> String {
    let mut client = Command::new(tools.join("python/bin/python"));
    client.arg(workspace().join("tests/real/http_session.py")).arg(format!("http://127.0.0.1:{port}/mcp"));
    let output = client.args(mode).output().expect("python runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// The Python SDK's server, its port, and what else it says.
fn python_server(tools: &Path) -> (Running, String, BufReader<std::process::ChildStdout>) {
    let mut server = Command::new(tools.join("python/bin/python"));
    server.arg(workspace().join("tests/real/http_server.py")).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = server.spawn().expect("python runs");
    let mut said = BufReader::new(server.stdout.take().expect("a pipe"));
    let mut port = String::new();
    said.read_line(&mut port).expect("readable");
    (Running(server), port.trim().to_owned(), said)
}

/// The session is the same through `km` as without it, and plugins see what passes.
fn compare(tools: &Path, server: &str, mode: &str) -> Vec<String> {
    let proxied = Proxied::start(server);
    let direct = session(tools, server, &[mode]);
    assert_eq!(session(tools, &proxied.port, &[mode]), direct);
    let seen = proxied.finish();
    let count = |what: &str| seen.iter().filter(|line| line.contains(what)).count();
    // One with progress, one that is large, twenty at once.
    assert_eq!(count("inbound  tools/call id="), 22, "{seen:#?}");
    assert_eq!(count("inbound  tools/list id="), 1, "{seen:#?}");
    assert!(count("outbound result id=") >= 23 && count("outbound notifications/progress") >= 3, "{seen:#?}");
    assert_eq!(count("invalid") + count(" other "), 0, "{seen:#?}");
    seen
}

fn python(tools: &Path, mode: &str) {
    let (_server, port, _) = python_server(tools);
    let seen = compare(tools, &port, mode);
    assert_eq!(
        seen.iter().any(|line| line.contains("inbound  initialize id=")),
        mode == "legacy",
        "{seen:#?}"
    );
}

fn everything(tools: &Path) {
    // It takes no port 0, so one that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let port = free.port().to_string();
    let mut server = Command::new(tools.join("node/node_modules/.bin/mcp-server-everything"));
    server.arg("streamableHttp").env("PORT", &port).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Running(server.spawn().expect("node runs"));
    wait_until("the server listens", || std::net::TcpStream::connect(free).is_ok());
    let seen = compare(tools, &port, "legacy");
    assert!(seen.iter().any(|line| line.contains("inbound  initialize id=")), "{seen:#?}");
}

fn cancelled(tools: &Path) {
    for mode in ["legacy", "2026-07-28"] {
        let (_server, port, mut said) = python_server(tools);
        let proxied = Proxied::start(&port);
        assert!(session(tools, &proxied.port, &[mode, "cancel"]).contains("cancelled"));
        for expected in ["waiting\n", "cancelled\n"] {
            let mut line = String::new();
            said.read_line(&mut line).expect("readable");
            assert_eq!(line, expected);
        }
        let seen = proxied.finish();
        // In the current protocol the end of the stream is all that there is.
        let told = seen.iter().any(|line| line.contains("notifications/cancelled"));
        assert_eq!(told, mode == "legacy", "{seen:#?}");
    }
}
