//! A plain file server, and what hostile and broken ones do.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a mirror does instead of handing out a file.
#[derive(Debug, Clone)]
pub enum Answer {
    /// 404.
    Missing,
    /// 500.
    Failing,
    /// These bytes.
    Bytes(Vec<u8>),
    /// A byte now and then, under a length that promises the file.
    Trickle,
    /// Zeros without end, and no length.
    Endless,
    /// The file's first bytes under its full length, then the connection breaks; each time so many more.
    Cut(usize),
    /// More bytes than the file has, under the length of all of them.
    Longer,
    /// 302 to another place.
    Redirect(String),
    /// Nothing, for as long as the other side waits.
    Silence,
}

/// A request, as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// With its query.
    pub path: String,
    /// The header lines.
    pub headers: Vec<String>,
}

/// A file server over a folder, on a port of its own. Ends with the test's process.
#[derive(Debug, Clone)]
pub struct Mirror(Arc<State>);

#[derive(Debug)]
struct State {
    folder: PathBuf,
    address: String,
    /// By the beginning of the path; the longest counts.
    answers: Mutex<HashMap<String, Answer>>,
    seen: Mutex<Vec<Seen>>,
}

impl Mirror {
    /// Serves a folder.
    pub fn of(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let state = State {
            folder: folder.to_path_buf(),
            address,
            answers: Mutex::default(),
            seen: Mutex::default(),
        };
        let mirror = Self(Arc::new(state));
        let serving = mirror.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mirror = serving.clone();
                // Whoever asks may leave at any time.
                std::thread::spawn(move || drop(mirror.answer(stream)));
            }
        });
        mirror
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    /// From now on, everything under this path is answered so.
    pub fn on(&self, path: &str, answer: Answer) -> &Self {
        self.0.answers.lock().expect("unpoisoned").insert(path.to_owned(), answer);
        self
    }

    /// All is well again.
    pub fn behave(&self) {
        self.0.answers.lock().expect("unpoisoned").clear();
    }

    /// What was asked for so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.0.seen.lock().expect("unpoisoned").clone()
    }

    /// How many requests there were under a path.
    pub fn asked(&self, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path.starts_with(path)).count()
    }

    fn answer(&self, stream: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut lines = reader.by_ref().lines().map_while(Result::ok);
        let request = lines.next().unwrap_or_default();
        let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
        let range = headers.iter().find_map(|line| range_of(line));
        skip_body(reader, &headers)?;
        self.0.seen.lock().expect("unpoisoned").push(Seen { path: path.clone(), headers });
        let file = std::fs::read(self.0.folder.join(path.trim_start_matches('/'))).ok();
        match (self.answer_to(&path), file) {
            (None, Some(file)) => send_file(stream, &file, range),
            (Some(Answer::Bytes(bytes)), _) => send_file(stream, &bytes, range),
            (Some(Answer::Failing), _) => head(&stream, "500 Internal Server Error", "content-length: 0"),
            (Some(Answer::Redirect(to)), _) => {
                head(&stream, "302 Found", &format!("content-length: 0\r\nlocation: {to}"))
            }
            (Some(Answer::Endless), _) => {
                head(&stream, "200 OK", "content-type: application/octet-stream")?;
                loop {
                    (&stream).write_all(&[0; 64 * 1024])?;
                }
            }
            (Some(Answer::Silence), _) => {
                // Until the other side goes.
                let mut byte = [0];
                io::Read::read(&mut &stream, &mut byte).map(|_| ())
            }
            (Some(Answer::Trickle), Some(file)) => {
                let part = begin(&stream, file.len(), range)?;
                for byte in &file[part] {
                    (&stream).write_all(&[*byte])?;
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(())
            }
            (Some(Answer::Cut(bytes)), Some(file)) => {
                let part = begin(&stream, file.len(), range)?;
                let end = part.end.min(part.start + bytes);
                (&stream).write_all(&file[part.start..end])
            }
            (Some(Answer::Longer), Some(file)) => {
                let longer = [&file[..], &[0; 1000]].concat();
                send_file(stream, &longer, None)
            }
            (Some(_), _) | (None, None) => head(&stream, "404 Not Found", "content-length: 0"),
        }
    }

    fn answer_to(&self, path: &str) -> Option<Answer> {
        let answers = self.0.answers.lock().expect("unpoisoned");
        let fitting = answers.iter().filter(|(start, _)| path.starts_with(start.as_str()));
        fitting.max_by_key(|(start, _)| start.len()).map(|(_, answer)| answer.clone())
    }
}

/// What was sent along; an answer before it was read could get lost.
fn skip_body(reader: impl io::Read, headers: &[String]) -> io::Result<()> {
    let length = headers.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse().ok()).flatten()
    });
    io::copy(&mut reader.take(length.unwrap_or(0)), &mut io::sink()).map(|_| ())
}

/// The bytes that are asked for, up to the last one where it is named.
fn range_of(line: &str) -> Option<(usize, Option<usize>)> {
    let (name, value) = line.split_once(": ")?;
    let (from, to) = value.strip_prefix("bytes=")?.split_once('-')?;
    name.eq_ignore_ascii_case("range").then(|| Some((from.parse().ok()?, to.parse().ok()))).flatten()
}

fn head(mut stream: &TcpStream, status: &str, headers: &str) -> io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n\r\n")
}

/// The head of an answer with a file of this length, or with a part of it. Gives which.
fn begin(
    stream: &TcpStream,
    length: usize,
    range: Option<(usize, Option<usize>)>,
) -> io::Result<std::ops::Range<usize>> {
    let Some((from, to)) = range.filter(|(from, _)| *from < length) else {
        head(stream, "200 OK", &format!("content-length: {length}"))?;
        return Ok(0..length);
    };
    let end = to.map_or(length, |to| length.min(to + 1));
    let headers =
        format!("content-length: {}\r\ncontent-range: bytes {from}-{}/{length}", end - from, end - 1);
    head(stream, "206 Partial Content", &headers)?;
    Ok(from..end)
}

fn send_file(mut stream: TcpStream, file: &[u8], range: Option<(usize, Option<usize>)>) -> io::Result<()> {
    let part = begin(&stream, file.len(), range)?;
    stream.write_all(&file[part])
}
