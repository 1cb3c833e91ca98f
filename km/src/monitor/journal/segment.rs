//! One file of messages that wait on disk.
//!
//! ```text
//! record: length of the head 4 | length of the data 8 | head (a message of protocol 2 without its data) | data
//! ```

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use km_proto::v2;
use prost::Message as _;

use super::super::message::Message;
use super::entry::{Entry, PIECE, Stored};
use crate::paths;

const HEADER: usize = 12;
/// Every so many records it is noted where one begins.
const MARK_EVERY: u64 = 64;
/// How much is read at once.
const READ: usize = 256 << 10;
/// Far more messages than there will be.
const MAX_POSITION: u64 = 1 << 60;
/// Longest head: it holds names that the peers chose, but no message.
const MAX_HEAD: usize = 80 << 20;

/// A file that grows at its end, and what is known of it.
#[derive(Debug)]
pub(super) struct Segment {
    file: Arc<File>,
    path: PathBuf,
    /// Position of its first message.
    pub(super) first: u64,
    pub(super) count: u64,
    /// In bytes.
    pub(super) length: u64,
    /// Where the 1st, 65th, … record begins.
    marks: Vec<u64>,
    /// Of its last message.
    pub(super) last_sequence: u64,
}

/// Where to read on, without holding anything up.
#[derive(Debug, Clone)]
pub(super) struct Place {
    file: Arc<File>,
    offset: u64,
    /// Records to pass over first.
    skip: u64,
    /// Bytes that are written.
    length: u64,
}

impl Segment {
    /// A new file in this folder.
    pub(super) fn create(folder: &Path, first: u64) -> io::Result<Self> {
        let path = folder.join(format!("{first:020}.messages"));
        let file = Arc::new(paths::create_new_private(&path)?);
        Ok(Self { file, path, first, count: 0, length: 0, marks: Vec::new(), last_sequence: 0 })
    }

    /// A file of an earlier session. What is not whole at its end is left out.
    pub(super) fn reopen(path: PathBuf) -> io::Result<Self> {
        let first = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        let first = first.filter(|first| *first <= MAX_POSITION).ok_or(ErrorKind::InvalidData)?;
        let file = Arc::new(paths::open_own(&path)?);
        let end = file.metadata()?.len();
        let mut segment =
            Self { file, path, first, count: 0, length: 0, marks: Vec::new(), last_sequence: 0 };
        while let Some((head, size)) = segment.whole_record(end)? {
            segment.note(head.sequence, size);
        }
        if segment.length < end {
            let lost = end - segment.length;
            tracing::warn!(
                "messages of an earlier session are damaged: {lost} bytes of {}",
                segment.path.display()
            );
        }
        Ok(segment)
    }

    fn whole_record(&self, end: u64) -> io::Result<Option<(v2::Message, u64)>> {
        let mut header = [0; HEADER];
        if end - self.length < HEADER as u64 {
            return Ok(None);
        }
        self.file.read_exact_at(&mut header, self.length)?;
        let (head, data) = lengths(&header);
        if head == 0 || head > MAX_HEAD || data > end {
            return Ok(None);
        }
        let size = HEADER as u64 + head as u64 + data;
        if size > end - self.length {
            return Ok(None);
        }
        let mut bytes = vec![0; head];
        self.file.read_exact_at(&mut bytes, self.length + HEADER as u64)?;
        Ok(v2::Message::decode(&bytes[..]).ok().map(|head| (head, size)))
    }

    /// Adds messages at the end. After an error the segment is as it was.
    pub(super) fn append<'a>(&mut self, messages: impl Iterator<Item = &'a Message>) -> io::Result<()> {
        let mut records = Vec::new();
        let mut noted = Vec::new();
        let mut written = self.length;
        for message in messages {
            let begun = records.len();
            let head = message.head();
            records.extend((head.encoded_len() as u32).to_le_bytes());
            records.extend((message.data.len() as u64).to_le_bytes());
            // Room is made as it goes.
            let _ = head.encode(&mut records);
            noted.push((message.sequence, (records.len() - begun + message.data.len()) as u64));
            if message.data.len() > PIECE {
                // Not copied once more.
                written += write_all(&self.file, written, &[&records, &message.data])?;
                records.clear();
            } else {
                records.extend_from_slice(&message.data);
            }
        }
        write_all(&self.file, written, &[&records])?;
        noted.into_iter().for_each(|(sequence, size)| self.note(sequence, size));
        Ok(())
    }

    fn note(&mut self, sequence: u64, size: u64) {
        if self.count.is_multiple_of(MARK_EVERY) {
            self.marks.push(self.length);
        }
        self.count += 1;
        self.length += size;
        self.last_sequence = sequence;
    }

    pub(super) fn end(&self) -> u64 {
        self.first + self.count
    }

    /// Where the message at this position is.
    pub(super) fn place(&self, position: u64) -> Option<Place> {
        let index = position.checked_sub(self.first).filter(|index| *index < self.count)?;
        let offset = *self.marks.get((index / MARK_EVERY) as usize)?;
        Some(Place { file: Arc::clone(&self.file), offset, skip: index % MARK_EVERY, length: self.length })
    }

    /// Takes the file away.
    pub(super) fn remove(self) {
        // What is left is swept with its folder.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Place {
    /// Some messages from here on, one at least, in memory or (large ones) as where they are.
    pub(super) fn read(mut self, most: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut window = Bytes::new();
        while self.offset < self.length && entries.len() < most && bytes < READ {
            if window.len() < HEADER {
                window = self.window()?;
            }
            let (head, data) = lengths(&window);
            if data > self.length {
                return Err(ErrorKind::InvalidData.into());
            }
            let (whole, after) = (HEADER as u64 + head as u64 + data, HEADER as u64 + head as u64);
            let inline = data <= PIECE as u64;
            let wanted = if inline { whole } else { after };
            if head > MAX_HEAD || wanted > self.length - self.offset {
                return Err(ErrorKind::InvalidData.into());
            }
            if self.skip == 0 {
                if (window.len() as u64) < wanted {
                    window = self.read_at(wanted as usize)?;
                }
                let entry = self.entry(&window, head, data, inline)?;
                bytes += entry.message.weight();
                entries.push(entry);
            }
            self.skip = self.skip.saturating_sub(1);
            self.offset += whole;
            match usize::try_from(whole) {
                Ok(whole) if whole <= window.len() => window.advance(whole),
                _ => window.clear(),
            }
        }
        Ok(entries)
    }

    fn window(&self) -> io::Result<Bytes> {
        let left = usize::try_from(self.length - self.offset).unwrap_or(usize::MAX);
        self.read_at(left.min(READ))
    }

    fn read_at(&self, count: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; count];
        self.file.read_exact_at(&mut bytes, self.offset)?;
        if count < HEADER { Err(ErrorKind::InvalidData.into()) } else { Ok(bytes.into()) }
    }

    fn entry(&self, record: &Bytes, head: usize, data: u64, inline: bool) -> io::Result<Entry> {
        let after = HEADER + head;
        let head = v2::Message::decode(&record[HEADER..after]).map_err(io::Error::other)?;
        let bytes = if inline { record.slice(after..after + data as usize) } else { Bytes::new() };
        let message = Message::of(head, bytes).ok_or(ErrorKind::InvalidData)?;
        let offset = self.offset + after as u64;
        let stored = (!inline).then(|| Stored { file: Arc::clone(&self.file), offset, length: data });
        Ok(Entry { message: Arc::new(message), stored })
    }
}

/// Of the head and of the data.
fn lengths(header: &[u8]) -> (usize, u64) {
    let (mut head, mut data) = ([0; 4], [0; 8]);
    head.copy_from_slice(&header[..4]);
    data.copy_from_slice(&header[4..HEADER]);
    (u32::from_le_bytes(head) as usize, u64::from_le_bytes(data))
}

/// Writes all of it, and says how much that was.
fn write_all(file: &File, mut at: u64, parts: &[&[u8]]) -> io::Result<u64> {
    let begun = at;
    let mut parts: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut left = &mut parts[..];
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match rustix::io::pwritev(file, left, at) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => {
                at += count as u64;
                IoSlice::advance_slices(&mut left, count);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(at - begun)
}
