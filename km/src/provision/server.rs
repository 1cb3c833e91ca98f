//! A server for tests: it says exactly what it is told to, and remembers what it was asked.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// One request, as it came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) path: String,
    /// Its lines, in lower case.
    pub(super) head: String,
    /// How many came before it.
    pub(super) number: usize,
}

impl Asked {
    /// The value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// From where to where it wants a body of this length.
    fn range(&self, length: usize) -> Option<(usize, usize)> {
        let (start, end) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((start.parse().ok()?, end.parse::<usize>().ok()?.min(length - 1)))
    }
}

/// Answers each request by a function of its own.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub(super) fn start(answer: impl Fn(&Asked, TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                std::thread::spawn(move || {
                    if let Some(asked) = read(&connection, &log) {
                        answer(&asked, connection);
                    }
                });
            }
        });
        Self { address, asked }
    }

    /// Answers all requests with these bytes, or the range of them that is asked for.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let bytes = bytes.to_vec();
        Self::start(move |asked, connection| send(asked, connection, &bytes))
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn read(connection: &TcpStream, log: &Mutex<Vec<Asked>>) -> Option<Asked> {
    let lines = BufReader::new(connection).lines().map_while(Result::ok);
    let lines: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let path = lines.first()?.split(' ').nth(1)?.to_owned();
    let mut log = log.lock().unwrap();
    let asked = Asked { path, head: lines.join("\n").to_lowercase(), number: log.len() };
    log.push(asked.clone());
    Some(asked)
}

/// Writes an answer. Whoever asked may be gone.
pub(super) fn write(mut connection: &TcpStream, head: &str, body: &[u8]) -> bool {
    let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
    connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(body)).is_ok()
}

/// Writes these bytes, or the range of them that is asked for.
pub(super) fn send(asked: &Asked, connection: TcpStream, bytes: &[u8]) {
    let all = bytes.len();
    match asked.range(all) {
        Some((start, end)) => {
            let body = &bytes[start..=end];
            let head = format!(
                "206 Partial Content\r\nContent-Range: bytes {start}-{end}/{all}\r\nContent-Length: {}",
                body.len()
            );
            write(&connection, &head, body);
        }
        None => {
            write(&connection, &format!("200 OK\r\nContent-Length: {all}"), bytes);
        }
    }
}
