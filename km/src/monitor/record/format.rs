//! The lines of a recording: what they say, as `docs/recording.md` has it.

use std::borrow::Cow;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use km_proto::Direction;
use serde::{Deserialize, Serialize};

use super::ring::Missed;

/// What the first line calls the format.
const FORMAT: &str = "km-recording/1";

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header<'a> {
    format: Cow<'a, str>,
    started: Timestamp,
    #[serde(default)]
    km: Cow<'a, str>,
}

/// Every other line, with the one of its last members that says what it is.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Line<'a> {
    /// Nanoseconds from the beginning.
    t: u64,
    dir: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ends_line: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<bool>,
}

/// What one line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::monitor) struct Entry {
    /// Nanoseconds from the beginning.
    pub(in crate::monitor) time: u64,
    pub(in crate::monitor) direction: Direction,
    pub(in crate::monitor) content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::monitor) enum Content {
    Bytes(Bytes),
    /// So much is missing here.
    Gap(Missed),
    /// Nothing more comes in this direction.
    End,
}

/// Writes the first line.
pub(super) fn write_header(out: &mut Vec<u8>, started: Timestamp) -> io::Result<()> {
    write(out, &Header { format: FORMAT.into(), started, km: env!("CARGO_PKG_VERSION").into() })
}

/// When the recording was begun, as the first line says.
pub(in crate::monitor) fn read_header(line: &[u8]) -> Result<Timestamp, String> {
    let header: Header<'_> =
        serde_json::from_slice(line).map_err(|_| "it is no recording of km".to_owned())?;
    match header.format == FORMAT {
        true => Ok(header.started),
        false => Err(format!("its format is {:?}, and this km reads {FORMAT:?}", header.format)),
    }
}

/// Writes a piece: text as text, what is none in base64.
pub(super) fn write_bytes(out: &mut Vec<u8>, t: u64, direction: Direction, bytes: &[u8]) -> io::Result<()> {
    let mut put = |line: Line<'_>| write(out, &Line { t, dir: direction.as_str().into(), ..line });
    let binary = |bytes: &[u8]| Line { base64: Some(STANDARD.encode(bytes).into()), ..Line::default() };
    let (front, text, back) = text_within(bytes);
    let Ok(text) = std::str::from_utf8(text) else { return put(binary(bytes)) };
    if !front.is_empty() {
        put(binary(front))?;
    }
    if !text.is_empty() {
        put(Line { data: Some(text.into()), ..Line::default() })?;
    }
    if !back.is_empty() {
        put(binary(back))?;
    }
    Ok(())
}

pub(super) fn write_gap(out: &mut Vec<u8>, t: u64, direction: Direction, missed: Missed) -> io::Result<()> {
    let Missed { bytes, lines, ends_line } = missed;
    let gap = Line { gap: Some(bytes), lines: Some(lines), ends_line: Some(ends_line), ..Line::default() };
    write(out, &Line { t, dir: direction.as_str().into(), ..gap })
}

pub(super) fn write_end(out: &mut Vec<u8>, t: u64, direction: Direction) -> io::Result<()> {
    write(out, &Line { t, dir: direction.as_str().into(), end: Some(true), ..Line::default() })
}

/// Reads any line but the first; nothing of one that says nothing known.
pub(in crate::monitor) fn read_entry(line: &[u8]) -> Result<Option<Entry>, String> {
    let line: Line<'_> = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    let Some(direction) = Direction::parse(&line.dir) else { return Ok(None) };
    let content = match line {
        Line { data: Some(text), .. } => Content::Bytes(text.into_owned().into_bytes().into()),
        Line { base64: Some(text), .. } => {
            Content::Bytes(STANDARD.decode(text.as_bytes()).map_err(|e| e.to_string())?.into())
        }
        Line { gap: Some(bytes), lines, ends_line, .. } => Content::Gap(Missed {
            bytes,
            lines: lines.unwrap_or_default(),
            ends_line: ends_line.unwrap_or_default(),
        }),
        Line { end: Some(true), .. } => Content::End,
        _ => return Ok(None),
    };
    Ok(Some(Entry { time: line.t, direction, content }))
}

fn write(out: &mut Vec<u8>, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.push(b'\n');
    Ok(())
}

/// A piece may begin and end in the middle of a character: the bytes before the first whole one, what
/// may be text, and the bytes behind the last.
fn text_within(bytes: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let continues = |byte: &&u8| **byte & 0b1100_0000 == 0b1000_0000;
    let (front, rest) = bytes.split_at(bytes.iter().take(3).take_while(continues).count());
    let cut = match std::str::from_utf8(rest) {
        // What ends too early, and is right as far as it goes.
        Err(e) if e.error_len().is_none() => e.valid_up_to(),
        _ => rest.len(),
    };
    let (text, back) = rest.split_at(cut);
    (front, text, back)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        write_bytes(&mut out, 7, Direction::Inbound, bytes).unwrap();
        let read: Vec<u8> = out
            .split_inclusive(|byte| *byte == b'\n')
            .flat_map(|line| match read_entry(line).unwrap().unwrap() {
                Entry { time: 7, direction: Direction::Inbound, content: Content::Bytes(bytes) } => bytes,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(read, bytes);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_text_wherever_it_was_cut() {
        assert_eq!(lines(b"a\n\"\0"), "{\"t\":7,\"dir\":\"inbound\",\"data\":\"a\\n\\\"\\u0000\"}\n");
        let text = "ä€😀".as_bytes();
        for from in 0..text.len() {
            for to in from + 1..=text.len() {
                lines(&text[from..to]);
            }
        }
        assert_eq!(lines(&text[1..8]).matches("base64").count(), 2);
        assert_eq!(lines(&text[1..8]).matches("\"data\":\"€\"").count(), 1);
        for junk in [&b"\xff"[..], b"a\xffb", b"\x80\x80\x80\x80", b"\xc3\x28", b"a\xc3"] {
            assert!(lines(junk).contains("base64"));
        }
    }

    #[test]
    fn what_is_not_known_is_passed_over() {
        assert_eq!(read_entry(br#"{"t":1,"note":"later"}"#), Ok(None));
        assert_eq!(read_entry(br#"{"t":1,"dir":"inbound","note":1}"#), Ok(None));
        assert!(read_entry(b"{").is_err() && read_entry(br#"{"dir":"inbound","base64":"*"}"#).is_err());
        assert!(read_header(br#"{"format":"km-recording/2","started":"2026-11-23T00:00:00Z"}"#).is_err());
    }
}
