//! An HTTP server on a real socket that answers as it is told.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use km_plugin::event::EventBatch;

/// How long a test waits for what must come.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// A request, as it came.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// Request line and headers.
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    pub(super) at: Instant,
}

/// What a request gets.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// 200, as the API says it.
    Yes,
    /// A status line's end, header lines, and a body.
    Answer(&'static str, String, &'static str),
    /// Nothing, ever.
    Silence,
    /// The connection ends within the body.
    Cut,
    /// A body without end.
    Endless,
}

/// The server; it lives as long as the test.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    requests: mpsc::Receiver<Request>,
}

type Replies = Arc<Mutex<dyn FnMut(&Request) -> Reply + Send>>;

impl Server {
    pub(super) fn start(replies: impl FnMut(&Request) -> Reply + Send + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), None, replies)
    }

    /// Replies in this order, and yes to all that come after.
    pub(super) fn script(replies: impl IntoIterator<Item = Reply>) -> Self {
        let mut replies = replies.into_iter().collect::<Vec<_>>().into_iter();
        Self::start(move |_| replies.next().unwrap_or(Reply::Yes))
    }

    pub(super) fn on(
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        replies: impl FnMut(&Request) -> Reply + Send + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let (seen, requests) = mpsc::channel();
        let replies: Replies = Arc::new(Mutex::new(replies));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, replies, tls) = (seen.clone(), Arc::clone(&replies), tls.clone());
                thread::spawn(move || {
                    // The other side may go away at any time.
                    let _ = match tls {
                        None => serve(stream?, &seen, &replies),
                        Some(tls) => serve(encrypted(stream?, tls)?, &seen, &replies),
                    };
                    io::Result::Ok(())
                });
            }
        });
        Self { address, requests }
    }

    pub(super) fn request(&self) -> Request {
        self.requests.recv_timeout(DEADLINE).expect("a request")
    }

    /// All that came and was not asked for.
    pub(super) fn others(&self) -> Vec<Request> {
        self.requests.try_iter().collect()
    }
}

impl Request {
    /// The ids of its events.
    pub(super) fn ids(&self) -> Vec<String> {
        let batch: EventBatch = serde_json::from_slice(&self.body).expect("a batch");
        batch.events.into_iter().map(|event| event.id).collect()
    }

    /// The correlation ids of its events.
    pub(super) fn messages(&self) -> Vec<String> {
        self.ids().iter().map(|id| id.split_once('-').unwrap().1.to_owned()).collect()
    }

    pub(super) fn has(&self, header: &str) -> bool {
        self.head.lines().any(|line| line.eq_ignore_ascii_case(header))
    }
}

fn encrypted(
    stream: TcpStream,
    tls: Arc<rustls::ServerConfig>,
) -> io::Result<rustls::StreamOwned<rustls::ServerConnection, TcpStream>> {
    let connection = rustls::ServerConnection::new(tls).map_err(io::Error::other)?;
    Ok(rustls::StreamOwned::new(connection, stream))
}

/// One connection: request, reply, request, reply.
fn serve(stream: impl Read + Write, seen: &mpsc::Sender<Request>, replies: &Replies) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream)? {
        let reply = (replies.lock().unwrap())(&request);
        let count = serde_json::from_slice(&request.body).map_or(0, |batch: EventBatch| batch.events.len());
        let _ = seen.send(request);
        let out = stream.get_mut();
        match reply {
            Reply::Yes => {
                let body = format!("{{\"success\":true,\"accepted\":{count}}}");
                write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
            }
            Reply::Answer(status, headers, body) => {
                let length = body.len();
                write!(out, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n{body}")?;
            }
            Reply::Silence => {
                // Until the other side goes away.
                let _ = stream.read(&mut [0])?;
                return Ok(());
            }
            Reply::Cut => {
                write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{{\"success\"")?;
                return Ok(());
            }
            Reply::Endless => {
                write!(out, "HTTP/1.1 200 OK\r\n\r\n")?;
                loop {
                    out.write_all(&[b' '; 4096])?;
                }
            }
        }
        stream.get_mut().flush()?;
    }
    Ok(())
}

fn read(stream: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    Ok(Some(Request { head, body, at: Instant::now() }))
}
