//! From the ring into the file: whole zstd frames of whole lines.

use std::io;
use std::os::unix::fs::FileExt as _;

use km_proto::Direction;
use zstd::bulk::Compressor;

use super::format::{write_bytes, write_end, write_gap, write_header};
use super::ring::{CAPACITY, Missed, Ring, Taken};
use super::{FRAME, Recording};

/// time 8 | length of what follows 8 | direction 1 | kind 1
const HEAD: usize = 18;
/// A gap, the longest record of a length that does not vary: bytes 8 | lines 8 | ends a line 1
const GAP: usize = HEAD + 17;

const PIECE: u8 = 0;
const LEFT_OUT: u8 = 1;
const END: u8 = 2;

/// The head of a record in the ring; the bytes follow it.
pub(super) fn piece_head(time: u64, direction: Direction, length: usize) -> [u8; HEAD] {
    head(time, direction, length, PIECE)
}

pub(super) fn end_record(time: u64, direction: Direction) -> [u8; HEAD] {
    head(time, direction, 0, END)
}

pub(super) fn gap_record(time: u64, direction: Direction, missed: Missed) -> [u8; GAP] {
    let mut record = [0; GAP];
    record[..HEAD].copy_from_slice(&head(time, direction, GAP - HEAD, LEFT_OUT));
    record[HEAD..HEAD + 8].copy_from_slice(&missed.bytes.to_le_bytes());
    record[HEAD + 8..HEAD + 16].copy_from_slice(&missed.lines.to_le_bytes());
    record[HEAD + 16] = missed.ends_line.into();
    record
}

/// Whether a piece of this length fits, with a gap before it and so much left behind it.
pub(super) fn room_for(ring: &Ring, length: usize, reserve: usize) -> bool {
    ring.filled() + GAP + HEAD + length + reserve <= CAPACITY
}

fn head(time: u64, direction: Direction, length: usize, kind: u8) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&time.to_le_bytes());
    head[8..16].copy_from_slice(&(length as u64).to_le_bytes());
    head[16] = (direction == Direction::Outbound).into();
    head[17] = kind;
    head
}

/// Writes a recording's frames.
pub(super) struct Writer<'a> {
    recording: &'a Recording,
    compressor: Compressor<'static>,
    /// The lines of the frame that is being made.
    text: Vec<u8>,
    piece: Vec<u8>,
    /// Of the last piece.
    time: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(recording: &'a Recording) -> io::Result<Self> {
        let mut compressor = Compressor::new(1)?;
        compressor.include_checksum(true)?;
        Ok(Self { recording, compressor, text: Vec::new(), piece: Vec::new(), time: 0 })
    }

    /// Writes everything that lies in the ring, and what could not be put there.
    pub(super) fn write_rest(&mut self) -> io::Result<()> {
        let ring = &self.recording.ring;
        while ring.filled() > 0 {
            self.write_some()?;
        }
        for direction in [Direction::Inbound, Direction::Outbound] {
            let missed = ring.missed(direction as usize);
            if missed.bytes > 0 {
                write_gap(&mut self.text, self.time, direction, missed)?;
                ring.set_missed(direction as usize, Missed::default());
            }
        }
        self.write_frame(ring.taken().upto)
    }

    /// Writes a frame of what lies in the ring.
    pub(super) fn write_some(&mut self) -> io::Result<()> {
        let ring = &self.recording.ring;
        let (begin, end) = (ring.taken().upto, ring.put_upto());
        let mut at = begin;
        while at < end && at - begin < FRAME as u64 {
            at = self.read(at)?;
        }
        self.write_frame(at)
    }

    /// Makes a line of the record at this place, and says where the next one is.
    fn read(&mut self, at: u64) -> io::Result<u64> {
        let ring = &self.recording.ring;
        let mut head = [0; HEAD];
        ring.read(at, &mut head);
        let length = number(&head, 8);
        self.piece.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
        ring.read(at + HEAD as u64, &mut self.piece);
        self.time = number(&head, 0);
        let direction = if head[16] == 0 { Direction::Inbound } else { Direction::Outbound };
        let (text, time, piece) = (&mut self.text, self.time, &self.piece);
        match head[17] {
            LEFT_OUT => {
                let missed =
                    Missed { bytes: number(piece, 0), lines: number(piece, 8), ends_line: piece[16] != 0 };
                write_gap(text, time, direction, missed)?;
            }
            END => write_end(text, time, direction)?,
            _ => write_bytes(text, time, direction, piece)?,
        }
        Ok(at + HEAD as u64 + length)
    }

    /// Adds the lines to the file, as one frame, and gives back what of the ring is in it.
    fn write_frame(&mut self, upto: u64) -> io::Result<()> {
        let Recording { file, ring, started, .. } = self.recording;
        let length = ring.taken().file;
        if length == 0 {
            let mut header = Vec::new();
            write_header(&mut header, *started)?;
            self.text.splice(0..0, header);
        }
        if !self.text.is_empty() {
            let frame = self.compressor.compress(&self.text)?;
            if let Err(e) = file.write_all_at(&frame, length) {
                // Whole frames only.
                let _ = file.set_len(length);
                return Err(e);
            }
            ring.take(Taken { upto, file: length + frame.len() as u64 });
            self.text.clear();
        }
        Ok(())
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
