//! Both ends of `km monitor --http`, byte by byte.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use km_tests::{TestEnvironment, wait_until};

use crate::session::Session;

/// What hangs has failed.
const DEADLINE: Duration = Duration::from_secs(30);

/// Serves each connection with a function of its own thread, for as long as the test lives.
pub(super) fn upstream(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (address, serve) = (listener.local_addr().unwrap(), Arc::new(serve));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (patient(stream.unwrap()), Arc::clone(&serve));
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

pub(super) fn connect(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect(address).unwrap())
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Everything up to this text, and nothing more.
pub(super) fn read_until(stream: &mut TcpStream, end: &str) -> Vec<u8> {
    let mut seen = Vec::new();
    while !seen.ends_with(end.as_bytes()) {
        let mut byte = [0];
        let text = String::from_utf8_lossy(&seen);
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{end:?} is not in {text:?}");
        seen.push(byte[0]);
    }
    seen
}

pub(super) fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut seen = Vec::new();
    stream.read_to_end(&mut seen).unwrap();
    seen
}

/// A request without a body.
pub(super) fn get(stream: &mut TcpStream, path: &str) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
}

/// One with a JSON body.
pub(super) fn post(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

pub(super) fn json(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// A running `km monitor --http`.
pub(super) struct Proxied {
    pub(super) session: Session,
    pub(super) address: SocketAddr,
    said: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Proxied {
    pub(super) fn start(environment: &TestEnvironment, arguments: &[&str], upstream: SocketAddr) -> Self {
        Self::before(environment, arguments, &format!("http://{upstream}"))
    }

    /// In front of this URL.
    pub(super) fn before(environment: &TestEnvironment, arguments: &[&str], url: &str) -> Self {
        let arguments = [&["--http", "127.0.0.1:0", "--upstream", url], arguments].concat();
        let mut session = Session::start(environment, &arguments);
        let said = Arc::new(Mutex::new(String::new()));
        let (mut stderr, heard) = (session.child.stderr.take().unwrap(), Arc::clone(&said));
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = stderr.read(&mut piece) {
                heard.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..length]));
            }
        });
        let mut address = None;
        wait_until("km listens", || {
            let said = said.lock().unwrap();
            let line = said.split_once("km: listening on http://").map(|(_, rest)| rest);
            address = line.and_then(|rest| rest.split_once(',')?.0.parse().ok());
            address.is_some()
        });
        Self { session, address: address.unwrap(), said, reader }
    }

    pub(super) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// What it has said so far.
    pub(super) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub(super) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.session.child), signal).unwrap();
    }

    /// Ends it as a service manager does; what it said.
    pub(super) fn stop(self) -> String {
        self.signal(rustix::process::Signal::TERM);
        self.ended()
    }

    /// Waits for an orderly end; what it said.
    pub(super) fn ended(mut self) -> String {
        let status = self.session.child.wait().unwrap();
        self.reader.join().unwrap();
        let said = self.said.lock().unwrap().clone();
        assert_eq!(status.code(), Some(0), "{said}");
        said
    }
}
