//! `text/event-stream`: the data of events, out of bytes that are split anywhere.

use bytes::Bytes;

/// A part of the messages in a stream of events.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// More of the message that is open.
    Data(Bytes),
    /// What is open is no message: the event is of another type.
    Ignored,
    /// An event has ended.
    End,
}

/// Where in a stream of events it is.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Line,
    /// A line feed that comes next belongs to the line end before.
    after_return: bool,
    /// The stream has begun: a byte order mark is none any more.
    begun: bool,
    /// The event has a line of data.
    has_data: bool,
    /// The event is of a type that carries no message.
    other_type: bool,
}

/// Where in a line it is.
#[derive(Debug)]
enum Line {
    /// In the name of its field.
    Name(Vec<u8>),
    /// After the colon, where one space is skipped.
    Colon(Field),
    Data,
    Type(Vec<u8>),
    /// In what is of no interest.
    Rest,
}

#[derive(Debug, Clone, Copy)]
enum Field {
    Data,
    Type,
}

/// The longest text that means something: a mark and a field's name, or the type `message`.
const LONGEST: usize = 8;
const MARK: &[u8] = b"\xef\xbb\xbf";
/// The type of events that carry messages, where they say it.
const MESSAGE: &[u8] = b"message";

impl Default for Line {
    fn default() -> Self {
        Self::Name(Vec::new())
    }
}

impl Events {
    /// Goes on after something was left out; an event is open unless one ended with it.
    pub(super) fn after_gap(ends_event: bool) -> Self {
        Self { begun: true, has_data: !ends_event, ..Self::default() }
    }

    /// Takes the next bytes and reports what of messages is in them.
    pub(super) fn take(&mut self, mut bytes: Bytes, on_part: &mut dyn FnMut(Part)) {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_return) && bytes[0] == b'\n' {
                let _ = bytes.split_to(1);
                continue;
            }
            match memchr::memchr2(b'\r', b'\n', &bytes) {
                None => return self.within_line(bytes, on_part),
                Some(end) => {
                    self.within_line(bytes.split_to(end), on_part);
                    self.after_return = bytes.split_to(1) == "\r";
                    self.end_line(on_part);
                }
            }
        }
    }

    fn within_line(&mut self, mut bytes: Bytes, on_part: &mut dyn FnMut(Part)) {
        while !bytes.is_empty() {
            match &mut self.line {
                Line::Rest => return,
                Line::Data => return on_part(Part::Data(bytes)),
                Line::Type(text) => {
                    let room = LONGEST.saturating_sub(text.len()).min(bytes.len());
                    return text.extend_from_slice(&bytes[..room]);
                }
                Line::Colon(field) => {
                    let field = *field;
                    if bytes[0] == b' ' {
                        let _ = bytes.split_to(1);
                    }
                    self.begin_value(field, on_part);
                }
                Line::Name(name) => {
                    let colon = memchr::memchr(b':', &bytes);
                    let part = bytes.split_to(colon.unwrap_or(bytes.len()));
                    name.extend_from_slice(&part[..part.len().min(LONGEST + 1)]);
                    let field = self.field();
                    if colon.is_some() {
                        let _ = bytes.split_to(1);
                        self.line = field.map_or(Line::Rest, Line::Colon);
                    } else if matches!(&self.line, Line::Name(name) if name.len() > LONGEST) {
                        self.line = Line::Rest;
                    }
                }
            }
        }
    }

    /// The field that the name so far is that of.
    fn field(&self) -> Option<Field> {
        let Line::Name(name) = &self.line else { return None };
        match self.without_mark(name) {
            b"data" => Some(Field::Data),
            b"event" => Some(Field::Type),
            _ => None,
        }
    }

    fn without_mark<'a>(&self, name: &'a [u8]) -> &'a [u8] {
        name.strip_prefix(MARK).filter(|_| !self.begun).unwrap_or(name)
    }

    fn begin_value(&mut self, field: Field, on_part: &mut dyn FnMut(Part)) {
        self.line = match field {
            Field::Type => Line::Type(Vec::new()),
            Field::Data => {
                if std::mem::replace(&mut self.has_data, true) {
                    on_part(Part::Data(Bytes::from_static(b"\n")));
                }
                Line::Data
            }
        };
    }

    fn end_line(&mut self, on_part: &mut dyn FnMut(Part)) {
        let field = self.field();
        let line = std::mem::take(&mut self.line);
        match line {
            Line::Name(name) if self.without_mark(&name).is_empty() => self.end_event(on_part),
            Line::Colon(field) => self.begin_value(field, on_part),
            // A field without a colon has an empty value.
            Line::Name(_) => drop(field.map(|field| self.begin_value(field, on_part))),
            Line::Type(text) => self.other_type = !text.is_empty() && text != MESSAGE,
            Line::Data | Line::Rest => {}
        }
        if matches!(self.line, Line::Type(_)) {
            self.other_type = false;
        }
        self.line = Line::default();
        self.begun = true;
    }

    fn end_event(&mut self, on_part: &mut dyn FnMut(Part)) {
        let (had_data, other_type) = (self.has_data, self.other_type);
        (self.has_data, self.other_type) = (false, false);
        match (had_data, other_type) {
            (false, _) => {}
            (true, true) => on_part(Part::Ignored),
            (true, false) => on_part(Part::End),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages in a stream that comes in pieces of this size.
    fn messages(stream: &[u8], size: usize) -> Vec<String> {
        let (mut events, mut open, mut messages) = (Events::default(), Vec::new(), Vec::new());
        for piece in stream.chunks(size) {
            events.take(Bytes::copy_from_slice(piece), &mut |part| match part {
                Part::Data(bytes) => open.extend_from_slice(&bytes),
                Part::Ignored => open.clear(),
                Part::End => messages.push(String::from_utf8(std::mem::take(&mut open)).unwrap()),
            });
        }
        messages
    }

    #[test]
    fn the_data_of_events_is_found_however_it_is_cut() {
        let cases: [(&str, &[&str]); 14] = [
            ("data: {}\n\n", &["{}"]),
            ("data:{}\r\n\r\ndata: []\r\rdata:  x\n\r", &["{}", "[]", " x"]),
            ("\u{feff}data: 1\n\n\u{feff}data: 2\n\n", &["1"]),
            ("\u{feff}\ndata: 1\n\n", &["1"]),
            (": ping\n\n:\n\n\n\n", &[]),
            ("id: 1\nretry: 5\ndata: \n\nid: 2\n\n", &[""]),
            ("event: message\nid: 7\ndata: {\"a\":\ndata: 1}\nretry: 3\n\n", &["{\"a\":\n1}"]),
            ("data: 1\nevent:message\n\ndata\ndata\n\n", &["1", "\n"]),
            ("event: endpoint\ndata: /messages\n\ndata: 2\n\n", &["2"]),
            ("event: messages\ndata: 1\n\nevent\ndata: 2\n\n", &["2"]),
            ("event: ping\nevent: message\ndata: 3\n\nevent: ping\nevent\ndata: 4\n\n", &["3", "4"]),
            ("dat: 1\ndatas: 2\n data: 3\ndata : 4\nDATA: 5\n\n", &[]),
            ("data: the end is missing\n", &[]),
            ("a-name-that-is-long: data: 1\ndata: a:b: c\n\n", &["a:b: c"]),
        ];
        for (stream, expected) in cases {
            for size in 1..=stream.len() {
                assert_eq!(messages(stream.as_bytes(), size), expected, "{stream:?} by {size}");
            }
        }
    }
}
