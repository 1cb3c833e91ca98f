//! Real calls of real servers, one after the other.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use km_tests::measure::{median, median_ratio, print_table, quantile};
use km_tests::{binary, path, tools, wait_until};
use serde_json::{Value, json};

use crate::Extent;
use crate::stream::read_errors;
use crate::way::{Way, Ways};

const CALLS: usize = 1000;
const WARM_UP: usize = 20;

pub(crate) fn measure(ways: &Ways, extent: &Extent) {
    let tools = tools::install().inspect_err(|why| println!("without Node's and Python's: {why}")).ok();
    let rust = binary("mcp-server");
    table("rmcp", &[path(&rust)], "text", ways, tools.as_deref(), extent);
    if let Some(tools) = &tools {
        let node = tools.join("node/node_modules/.bin/mcp-server-everything");
        table("server-everything", &[path(&node)], "message", ways, Some(tools), extent);
    }
}

fn table(name: &str, server: &[&str], field: &str, ways: &Ways, tools: Option<&Path>, extent: &Extent) {
    let ways: Vec<&Way> = [&ways.direct, &ways.pump].into_iter().chain(&ways.km).collect();
    let calls = CALLS / extent.part;
    let names = ways.iter().map(|way| way.name.as_str());
    let names: Vec<&str> = names.chain(tools.map(|_| "PyPI `mcp-proxy`, stdio to HTTP to stdio")).collect();
    let mut p50 = vec![Vec::new(); names.len()];
    let mut p99 = vec![Vec::new(); names.len()];
    for _ in 0..extent.rounds.min(3) {
        for at in 0..names.len() {
            let mut times = match (ways.get(at), tools) {
                (Some(way), _) => session(way.command(server), field, calls),
                (None, Some(tools)) => Bridge::start(tools, server).session(field, calls),
                (None, None) => continue,
            };
            p50[at].push(quantile(&mut times, 0.5).as_secs_f64() * 1e3);
            p99[at].push(quantile(&mut times, 0.99).as_secs_f64() * 1e3);
        }
    }
    let rows: Vec<Vec<String>> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            vec![
                (*name).to_owned(),
                format!("{:.3} ms", median(p50[at].clone())),
                format!("{:.3} ms", median(p99[at].clone())),
                format!("{:.2}", median_ratio(&p50[at], &p50[0])),
            ]
        })
        .collect();
    print_table(&[&format!("{calls} calls of `echo` ({name})"), "p50", "p99", "p50 × direct"], &rows);
}

/// Initializes a session, and times the calls.
fn session(mut command: Command, field: &str, calls: usize) -> Vec<Duration> {
    let mut child = command.spawn().expect("it starts");
    let errors = read_errors(&mut child);
    let mut client = Client {
        stdin: child.stdin.take().expect("a pipe"),
        stdout: BufReader::new(child.stdout.take().expect("a pipe")),
    };
    let info = json!({"name": "bench", "version": "0"});
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info});
    client.ask(0, "initialize", &params);
    client.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    let echo = json!({"name": "echo", "arguments": {field: "hello"}});
    let mut times: Vec<Duration> =
        (1..=calls + WARM_UP).map(|id| client.ask(id, "tools/call", &echo)).collect();
    drop(client);
    child.wait().expect("it ends");
    errors.join().expect("read");
    times.split_off(WARM_UP)
}

struct Client {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Client {
    fn send(&mut self, message: &Value) {
        self.stdin.write_all(format!("{message}\n").as_bytes()).expect("it reads");
    }

    /// How long it took until the answer came.
    fn ask(&mut self, id: usize, method: &str, params: &Value) -> Duration {
        let begun = Instant::now();
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.stdout.read_line(&mut line).expect("readable") > 0, "it ended before its answer");
            let message: Value = serde_json::from_str(&line).expect("JSON");
            if message["id"] == id && message["method"].is_null() {
                assert!(message["error"].is_null(), "{line}");
                return begun.elapsed();
            }
        }
    }
}

/// A server behind `mcp-proxy`, which speaks HTTP to another `mcp-proxy`.
struct Bridge<'a> {
    tools: &'a Path,
    server: Child,
    port: u16,
}

impl<'a> Bridge<'a> {
    fn start(tools: &'a Path, server: &[&str]) -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
        let port = free.expect("a port").port();
        let server = Command::new(tools.join("proxy/bin/mcp-proxy"))
            .args(["--log-level", "ERROR", "--port", &port.to_string(), "--"])
            .args(server)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mcp-proxy starts");
        wait_until("mcp-proxy listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        Self { tools, server, port }
    }

    fn session(&self, field: &str, calls: usize) -> Vec<Duration> {
        let mut client = Command::new(self.tools.join("proxy/bin/mcp-proxy"));
        client
            .args(["--log-level", "ERROR", "--transport", "streamablehttp"])
            .arg(format!("http://127.0.0.1:{}/mcp", self.port))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        session(client, field, calls)
    }
}

impl Drop for Bridge<'_> {
    fn drop(&mut self) {
        // Its server leaves when it is gone.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
