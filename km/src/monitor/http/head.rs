//! The heads of requests and responses: parsed strictly, and written as they were.

use std::fmt;

use bytes::{BufMut as _, Bytes, BytesMut};

/// Most header lines in one head.
const MOST_HEADERS: usize = 256;

/// What comes before a body. Names, values and their order are those that came.
#[derive(Debug, Clone)]
pub(super) struct Headers(Vec<(Bytes, Bytes)>);

/// The beginning of a request.
#[derive(Debug)]
pub(super) struct RequestHead {
    pub(super) method: String,
    pub(super) target: String,
    /// The number after `HTTP/1.`.
    pub(super) version: u8,
    pub(super) headers: Headers,
}

/// The beginning of a response.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub(super) status: u16,
    version: u8,
    reason: Bytes,
    pub(super) headers: Headers,
}

/// Why a head cannot be read.
#[derive(Debug)]
pub(super) struct BadHead(String);

impl fmt::Display for BadHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for BadHead {
    fn from(why: &str) -> Self {
        Self(why.to_owned())
    }
}

impl RequestHead {
    /// Reads a whole head, its empty line included.
    pub(super) fn parse(bytes: &Bytes) -> Result<Self, BadHead> {
        let mut lines = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut request = httparse::Request::new(&mut lines);
        whole(request.parse(bytes), bytes)?;
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version)
        else {
            return Err("there is no request line".into());
        };
        let (method, target) = (method.to_owned(), target.to_owned());
        Ok(Self { method, target, version, headers: Headers::of(bytes, request.headers) })
    }

    pub(super) fn write(&self) -> Bytes {
        let mut out = BytesMut::new();
        let Self { method, target, version, .. } = self;
        out.put_slice(format!("{method} {target} HTTP/1.{version}\r\n").as_bytes());
        self.headers.write(&mut out);
        out.freeze()
    }
}

impl ResponseHead {
    /// The same for a response.
    pub(super) fn parse(bytes: &Bytes) -> Result<Self, BadHead> {
        let mut lines = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut response = httparse::Response::new(&mut lines);
        whole(response.parse(bytes), bytes)?;
        let (Some(status), Some(version)) = (response.code, response.version) else {
            return Err("there is no status line".into());
        };
        let reason = bytes.slice_ref(response.reason.unwrap_or_default().as_bytes());
        Ok(Self { status, version, reason, headers: Headers::of(bytes, response.headers) })
    }

    pub(super) fn write(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_slice(format!("HTTP/1.{} {} ", self.version, self.status).as_bytes());
        out.put_slice(&self.reason);
        out.put_slice(b"\r\n");
        self.headers.write(&mut out);
        out.freeze()
    }
}

/// Exactly the bytes that were given must be one head: whoever reads them next must not see another.
fn whole(parsed: httparse::Result<usize>, bytes: &Bytes) -> Result<(), BadHead> {
    match parsed {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => Ok(()),
        Ok(_) => Err("its lines do not end as HTTP says".into()),
        Err(e) => Err(BadHead(e.to_string())),
    }
}

impl Headers {
    fn of(head: &Bytes, headers: &[httparse::Header<'_>]) -> Self {
        let copy = |text: &[u8]| if text.is_empty() { Bytes::new() } else { head.slice_ref(text) };
        Self(headers.iter().map(|line| (copy(line.name.as_bytes()), copy(line.value))).collect())
    }

    fn write(&self, out: &mut BytesMut) {
        for (name, value) in &self.0 {
            for part in [&name[..], b": ", value, b"\r\n"] {
                out.put_slice(part);
            }
        }
        out.put_slice(b"\r\n");
    }

    /// The values of all lines of this name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Bytes> {
        self.0.iter().filter(|(line, _)| is(line, name)).map(|(_, value)| value)
    }

    /// The value of the first line of this name, as text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(line, _)| is(line, name))?;
        std::str::from_utf8(value).ok()
    }

    /// The members of a list, over all lines of this name, in lower case.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let lines = self.all(name).map(|value| String::from_utf8_lossy(value).to_ascii_lowercase());
        let members = lines.flat_map(|line| line.split(',').map(|m| m.trim().to_owned()).collect::<Vec<_>>());
        members.filter(|member| !member.is_empty()).collect()
    }

    /// Gives a line another value; adds it in front where it is missing.
    pub(super) fn set(&mut self, name: &'static str, new: &str) {
        let new = Bytes::copy_from_slice(new.as_bytes());
        match self.0.iter_mut().find(|(line, _)| is(line, name)) {
            Some((_, value)) => *value = new,
            None => self.0.insert(0, (Bytes::from_static(name.as_bytes()), new)),
        }
    }

    /// Takes out all lines of this name.
    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|(line, _)| !is(line, name));
    }

    /// Takes out what is meant for the next hop and does not hold for both (RFC 9110, section 7.6.1).
    ///
    /// Each connection of a client has one to the upstream of its own, and bodies keep their framing:
    /// so what is said of closing, of chunks and of trailers is as true on the other side.
    pub(super) fn remove_hop_by_hop(&mut self) {
        const OF_ONE_HOP: [&str; 6] = [
            "upgrade",
            "http2-settings",
            "proxy-connection",
            "proxy-authenticate",
            "proxy-authentication-info",
            "proxy-authorization",
        ];
        /// What `Connection` may name and still passes; the last three so that nobody can talk the framing away.
        const OF_BOTH: [&str; 7] =
            ["close", "keep-alive", "te", "trailer", "host", "content-length", "transfer-encoding"];
        let named = self.list("connection");
        OF_ONE_HOP.iter().for_each(|name| self.remove(name));
        let dropped: Vec<&String> = named.iter().filter(|name| !OF_BOTH.contains(&name.as_str())).collect();
        if dropped.is_empty() {
            return;
        }
        dropped.iter().for_each(|name| self.remove(name));
        let kept: Vec<&str> =
            named.iter().map(String::as_str).filter(|name| OF_BOTH.contains(name)).collect();
        match kept.is_empty() {
            true => self.remove("connection"),
            false => self.set("connection", &kept.join(", ")),
        }
    }
}

fn is(line: &[u8], name: &str) -> bool {
    line.eq_ignore_ascii_case(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &'static str) -> Result<RequestHead, BadHead> {
        RequestHead::parse(&Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_head_is_written_as_it_came() {
        let text =
            "POST /mcp?a=%7B HTTP/1.1\r\nhOsT: x\r\nX-Two: 1\r\naccept: a, b\r\nX-Two: \r\nx-two: 2\r\n\r\n";
        assert_eq!(request(text).unwrap().write(), text);
        let text = "HTTP/1.1 299 Why not\r\nSet-Cookie: a\r\nDate: never\r\nSET-COOKIE: b\r\n\r\n";
        assert_eq!(ResponseHead::parse(&Bytes::from_static(text.as_bytes())).unwrap().write(), text);
        let text = "HTTP/1.1 404 \r\n\r\n";
        assert_eq!(ResponseHead::parse(&Bytes::from_static(text.as_bytes())).unwrap().write(), text);
    }

    #[test]
    fn what_others_could_read_in_another_way_is_refused() {
        for bad in [
            "GET / HTTP/1.1\r\nA: 1\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nA : 1\r\n\r\n",
            "GET / HTTP/1.1\r\nA: 1\rB: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nA: 1\n\nGET /b HTTP/1.1\r\n\r\n",
            "GET /\0 HTTP/1.1\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET /a b HTTP/1.1\r\n\r\n",
            "\u{16}\u{3}\u{1}\r\n\r\n",
        ] {
            assert!(request(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_of_one_hop_is_taken_out() {
        let mut head = request(
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, X-Mine, Upgrade\r\nTE: trailers\r\nX-Mine: 1\r\n\
             Upgrade: h2c\r\nProxy-Authorization: x\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n",
        )
        .unwrap();
        head.headers.remove_hop_by_hop();
        let expected = "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nTE: trailers\r\n\
             Keep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(head.write(), expected);
        let mut head = request(
            "GET / HTTP/1.1\r\nConnection: Content-Length, host, x\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        )
        .unwrap();
        head.headers.remove_hop_by_hop();
        assert_eq!(
            head.write(),
            "GET / HTTP/1.1\r\nConnection: content-length, host\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        );
    }
}
