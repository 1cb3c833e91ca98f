//! Where a body ends, and what of its bytes is content (RFC 9112, sections 6 and 7).

use bytes::Bytes;

use super::head::{Headers, RequestHead, ResponseHead};

/// Longest line that gives the size of a chunk, and longest trailer section.
const LONGEST_SIZE: usize = 4096;
const LONGEST_TRAILERS: usize = 64 * 1024;

/// What is still to come of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    Chunked(Chunk),
    /// Everything until the connection ends.
    UntilEnd,
}

/// Where in a chunked body it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// In the line with its size.
    Size(Vec<u8>),
    Content(u64),
    /// Before the line end that follows the content; so many bytes of it were seen.
    ContentEnd(usize),
    /// In the trailers: of the line so far its length and last byte, and how much there was in all.
    Trailers {
        line: usize,
        last: u8,
        all: usize,
    },
    End,
}

/// The bytes are no body as they were announced.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

impl Body {
    /// That of a request.
    pub(super) fn of_request(head: &RequestHead) -> Result<Self, Malformed> {
        let length = content_length(&head.headers)?;
        let codings = head.headers.list("transfer-encoding");
        match (codings.last().map(String::as_str), length) {
            (None, length) => Ok(Self::Length(length.unwrap_or(0))),
            // Two who read one of them each see two requests.
            (Some(_), Some(_)) => Err(Malformed("it has both Content-Length and Transfer-Encoding")),
            (Some("chunked"), None) if head.version == 1 && is_chunked_once(&codings) => Ok(Self::chunked()),
            (Some(_), None) => Err(Malformed("its Transfer-Encoding does not show where it ends")),
        }
    }

    /// That of a response to a request of this method.
    pub(super) fn of_response(head: &mut ResponseHead, to_head: bool) -> Result<Self, Malformed> {
        if to_head || head.status < 200 || matches!(head.status, 204 | 304) {
            return Ok(Self::Length(0));
        }
        let codings = head.headers.list("transfer-encoding");
        match codings.last().map(String::as_str) {
            None => Ok(content_length(&head.headers)?.map_or(Self::UntilEnd, Self::Length)),
            Some(last) => {
                // It says nothing beside the other, and must not be believed by anybody.
                head.headers.remove("content-length");
                let chunked = last == "chunked" && is_chunked_once(&codings);
                Ok(if chunked { Self::chunked() } else { Self::UntilEnd })
            }
        }
    }

    fn chunked() -> Self {
        Self::Chunked(Chunk::Size(Vec::new()))
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunk::End))
    }

    /// Takes what belongs to the body, hands on what is content, and says how much it took.
    pub(super) fn take(
        &mut self,
        bytes: &Bytes,
        on_content: &mut dyn FnMut(Bytes),
    ) -> Result<usize, Malformed> {
        match self {
            Self::UntilEnd => {
                on_content(bytes.clone());
                Ok(bytes.len())
            }
            Self::Length(left) => Ok(content(left, bytes, on_content)),
            Self::Chunked(chunk) => {
                let mut taken = 0;
                while taken < bytes.len() && *chunk != Chunk::End {
                    taken += chunk.take(&bytes.slice(taken..), on_content)?;
                }
                Ok(taken)
            }
        }
    }
}

fn is_chunked_once(codings: &[String]) -> bool {
    codings.iter().filter(|coding| *coding == "chunked").count() == 1
}

/// One number, however often it is said.
fn content_length(headers: &Headers) -> Result<Option<u64>, Malformed> {
    let mut said = headers.list("content-length");
    said.dedup();
    match &said[..] {
        [] if headers.all("content-length").next().is_none() => Ok(None),
        [number] if number.bytes().all(|c| c.is_ascii_digit()) => {
            number.parse().map(Some).map_err(|_| Malformed("its Content-Length is too large"))
        }
        _ => Err(Malformed("its Content-Length is not one number")),
    }
}

fn content(left: &mut u64, bytes: &Bytes, on_content: &mut dyn FnMut(Bytes)) -> usize {
    let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    on_content(bytes.slice(..taken));
    *left -= taken as u64;
    taken
}

impl Chunk {
    fn take(&mut self, bytes: &Bytes, on_content: &mut dyn FnMut(Bytes)) -> Result<usize, Malformed> {
        match self {
            Self::Size(line) => {
                let end = memchr::memchr(b'\n', bytes);
                let part = &bytes[..end.map_or(bytes.len(), |end| end + 1)];
                line.extend_from_slice(part);
                if line.len() > LONGEST_SIZE {
                    return Err(Malformed("the size of a chunk does not end"));
                }
                if end.is_some() {
                    *self = match size(line)? {
                        0 => Self::Trailers { line: 0, last: 0, all: 0 },
                        size => Self::Content(size),
                    };
                }
                Ok(part.len())
            }
            Self::Content(left) => {
                let taken = content(left, bytes, on_content);
                if *left == 0 {
                    *self = Self::ContentEnd(0);
                }
                Ok(taken)
            }
            Self::ContentEnd(seen) => {
                if bytes[0] != b"\r\n"[*seen] {
                    return Err(Malformed("a chunk is longer than its size"));
                }
                *self = if *seen == 0 { Self::ContentEnd(1) } else { Self::Size(Vec::new()) };
                Ok(1)
            }
            Self::Trailers { line, last, all } => {
                let byte = bytes[0];
                if (byte == b'\n') != (*last == b'\r') {
                    return Err(Malformed("its trailers do not end as HTTP says"));
                }
                (*line, *last, *all) = (*line + 1, byte, *all + 1);
                if *all > LONGEST_TRAILERS {
                    return Err(Malformed("its trailers do not end"));
                }
                match (byte, *line) {
                    (b'\n', 2) => *self = Self::End,
                    (b'\n', _) => *line = 0,
                    _ => {}
                }
                Ok(1)
            }
            Self::End => Ok(0),
        }
    }
}

/// The size in a line such as `1f;extension`.
fn size(line: &[u8]) -> Result<u64, Malformed> {
    let bad = Malformed("the size of a chunk is no number");
    let Some(line) = line.strip_suffix(b"\r\n").filter(|line| !line.contains(&b'\r')) else {
        return Err(bad);
    };
    let digits = line.split(|c| *c == b';').next().unwrap_or_default().trim_ascii_end();
    let text = std::str::from_utf8(digits).unwrap_or_default();
    match text.bytes().all(|c| c.is_ascii_hexdigit()) {
        true => u64::from_str_radix(text, 16).map_err(|_| bad),
        false => Err(bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content, how much was taken, and whether the body is complete.
    fn read(mut body: Body, bytes: &[u8], size: usize) -> Result<(Vec<u8>, usize, bool), Malformed> {
        let (mut content, mut taken) = (Vec::new(), 0);
        for piece in bytes.chunks(size) {
            let piece = Bytes::copy_from_slice(piece);
            let part = body.take(&piece, &mut |bytes| content.extend_from_slice(&bytes))?;
            taken += part;
            if part < piece.len() {
                break;
            }
        }
        Ok((content, taken, body.is_done()))
    }

    #[test]
    fn a_body_ends_where_it_ends_however_it_is_cut() {
        let chunked = b"4;a=\"b\"\r\nwiki\r\n00A \r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nNEXT";
        for size in 1..=chunked.len() {
            let seen = read(Body::chunked(), chunked, size).unwrap();
            assert_eq!(seen, (b"wiki0123456789".to_vec(), chunked.len() - 4, true), "by {size}");
            assert_eq!(read(Body::Length(3), b"abcNEXT", size).unwrap(), (b"abc".to_vec(), 3, true));
            assert_eq!(read(Body::UntilEnd, b"abc", size).unwrap(), (b"abc".to_vec(), 3, false));
        }
        assert_eq!(read(Body::chunked(), b"0\r\n\r\n", 9).unwrap(), (Vec::new(), 5, true));
    }

    #[test]
    fn chunks_that_can_be_read_in_two_ways_are_refused() {
        let bad: [&[u8]; 11] = [
            b"5\nhello",
            b"\r\n",
            b"0x5\r\nhello",
            b"+5\r\nhello",
            b"-1\r\n",
            b" 5\r\nhello",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"10000000000000000\r\n",
            b"0\r\nA: 1\nB: 2\r\n\r\n",
            b"0\r\nA: 1\rB: 2\r\n\r\n",
        ];
        for bad in bad {
            assert!(read(Body::chunked(), bad, 99).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_length_of_a_request_is_said_once_and_clearly() {
        let of = |headers: &str| {
            let head = Bytes::from(format!("POST / HTTP/1.1\r\n{headers}\r\n"));
            Body::of_request(&RequestHead::parse(&head).unwrap())
        };
        assert_eq!(of(""), Ok(Body::Length(0)));
        assert_eq!(of("content-length: 12\r\nContent-Length: 12\r\n"), Ok(Body::Length(12)));
        assert_eq!(of("Transfer-Encoding: CHUNKED\r\n"), Ok(Body::chunked()));
        for bad in [
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: +1\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: chunked, gzip\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: xchunked\r\n",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
