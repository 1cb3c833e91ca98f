//! Messages that wait on disk, in the order they came.
//!
//! The file has no name: whatever becomes of `km`, it is gone with the process. What was read is
//! given back to the filesystem as the reading goes on.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use km_proto::v2;
use prost::Message as _;
use rustix::fs::FallocateFlags;

use super::message::Message;
use crate::paths;

/// Most bytes that may wait on disk for one plugin.
const LIMIT: u64 = 1 << 30;
/// How much is read before it is given back.
const GIVE_BACK: u64 = 4 << 20;
/// length of the head 8 | length of the data 8
const HEADER: usize = 16;

/// A queue on disk.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    file: Option<File>,
    read: u64,
    written: u64,
    given_back: u64,
}

impl Spool {
    /// Nothing is made before the first message comes.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, file: None, read: 0, written: 0, given_back: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.read == self.written
    }

    /// Adds a message at the end. After an error the queue is as it was.
    pub(super) fn push(&mut self, message: &Message) -> io::Result<()> {
        let record = encode(message);
        if self.written - self.read + record.len() as u64 > LIMIT {
            return Err(ErrorKind::StorageFull.into());
        }
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(open(&self.folder)?),
        };
        file.write_all_at(&record, self.written)?;
        self.written += record.len() as u64;
        Ok(())
    }

    /// Takes the message at the front.
    pub(super) fn pop(&mut self) -> io::Result<Option<Message>> {
        if self.is_empty() {
            return Ok(None);
        }
        let Some(file) = &self.file else { return Ok(None) };
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, self.read)?;
        let (head, length) = (word(&header, 0), word(&header, 0) + word(&header, 8));
        let mut content = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact_at(&mut content, self.read + HEADER as u64)?;
        self.read += HEADER as u64 + length;
        self.give_back();
        decode(head as usize, content).map(Some)
    }

    /// Forgets what waits.
    pub(super) fn clear(&mut self) {
        self.read = self.written;
        self.give_back();
    }

    fn give_back(&mut self) {
        let Some(file) = &self.file else { return };
        if self.is_empty() {
            // Fails only where the next write will say so.
            let _ = file.set_len(0);
            (self.read, self.written, self.given_back) = (0, 0, 0);
        } else if self.read - self.given_back >= GIVE_BACK {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // Not every filesystem can: then the space comes back when the queue is empty.
            let _ = rustix::fs::fallocate(file, flags, self.given_back, self.read - self.given_back);
            self.given_back = self.read;
        }
    }
}

fn open(folder: &Path) -> io::Result<File> {
    paths::create_private(folder)?;
    tempfile::tempfile_in(folder)
}

fn encode(message: &Message) -> Vec<u8> {
    let head = message.head();
    let mut record = Vec::with_capacity(HEADER + head.encoded_len() + message.data.len());
    record.extend((head.encoded_len() as u64).to_le_bytes());
    record.extend((message.data.len() as u64).to_le_bytes());
    // Room was made; it grows with what is put in.
    let _ = head.encode(&mut record);
    record.extend_from_slice(&message.data);
    record
}

fn decode(head: usize, content: Vec<u8>) -> io::Result<Message> {
    let mut data = Bytes::from(content);
    let head = v2::Message::decode(data.split_to(head)).map_err(io::Error::other)?;
    Message::of(head, data).ok_or_else(|| ErrorKind::InvalidData.into())
}

fn word(header: &[u8; HEADER], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use km_package::digest::Digest;
    use km_proto::Direction;
    use km_proto::jsonrpc::Summary;

    use super::super::message::{Cut, Exchange};
    use super::*;

    fn message(sequence: u64, size: usize) -> Message {
        Message {
            sequence,
            direction: Direction::Outbound,
            received: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_795_305_600_123_456_789),
            elapsed: Duration::from_nanos(sequence + 7),
            channel: (sequence % 3 == 0).then(|| "channel".into()),
            summary: Summary::of(br#"{"id":"a","result":1}"#),
            exchange: Exchange {
                first: sequence / 2,
                request: Some(sequence / 2 + 1),
                method: Some("m".into()),
                latency: Some(Duration::from_millis(sequence)),
                cancelled: true,
                retry_of: None,
            },
            data: vec![b'x'; size].into(),
            cut: (sequence % 2 == 0).then(|| Cut { size: sequence << 30, sha256: Digest::of(b"x") }),
        }
    }

    #[test]
    fn messages_come_back_in_order_and_leave_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(folder.path().join("spool"));
        let sent: Vec<Message> = (2..52).map(|n| message(n, n as usize * 10_000)).collect();
        for chunk in sent.chunks(20) {
            chunk.iter().for_each(|message| spool.push(message).unwrap());
        }
        for expected in &sent {
            assert_eq!(spool.pop().unwrap().as_ref(), Some(expected));
        }
        assert!(spool.is_empty() && spool.pop().unwrap().is_none());
        assert_eq!(std::fs::read_dir(folder.path().join("spool")).unwrap().count(), 0);
    }
}
