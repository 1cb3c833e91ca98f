//! zstd frames (RFC 8878): one at a time, each exactly one frame, within a window.

use std::io;

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

/// Largest window a frame may ask for, as a power of two: 8 MiB.
pub const WINDOW_LOG_MAX: u32 = 23;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Why bytes are not one zstd frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// It begins with something else: a skippable frame, an older format.
    #[error("no zstd frame where one belongs (a skippable frame is not accepted here)")]
    Magic,
    /// The decoder refused it: damaged, a dictionary, a window over 8 MiB.
    #[error("{0}")]
    Damaged(String),
    /// Bytes follow the end of the frame within its declared size.
    #[error("something follows the end of the frame within its declared size")]
    Longer,
    /// The declared size ends before the frame does.
    #[error("the frame is not complete within its declared size")]
    Shorter,
    /// It decompresses to nothing.
    #[error("the frame is empty")]
    Empty,
}

/// Compresses bytes to one frame.
///
/// # Errors
/// When memory runs out; the signature is that of crate `zstd`.
pub fn compress(bytes: &[u8], level: i32) -> io::Result<Vec<u8>> {
    zstd::bulk::compress(bytes, level)
}

/// Decompresses one frame pushed to it in pieces.
#[allow(missing_debug_implementations, reason = "the decoder has none")]
pub struct FrameReader {
    decoder: Decoder<'static>,
    output: Vec<u8>,
    seen: usize,
    produced: bool,
    complete: bool,
}

impl FrameReader {
    /// A reader for the next frame.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new() -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        Ok(Self { decoder, output: vec![0; 128 * 1024], seen: 0, produced: false, complete: false })
    }

    /// Takes the next compressed piece and hands on what it decompresses to.
    ///
    /// # Errors
    /// [`FrameError`], and whatever `on_output` returns.
    pub fn push<E: From<FrameError>>(
        &mut self,
        piece: &[u8],
        on_output: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        // A small frame that is there as a whole is decoded without a look at its window; so the
        // decoder never gets the first bytes together with the rest.
        if self.seen < MAGIC.len() && piece.len() > MAGIC.len() - self.seen {
            let (first, rest) = piece.split_at(MAGIC.len() - self.seen);
            self.push(first, on_output)?;
            return self.push(rest, on_output);
        }
        self.check_magic(piece)?;
        let mut input = InBuffer::around(piece);
        loop {
            if self.complete {
                return if input.pos() < piece.len() { Err(FrameError::Longer.into()) } else { Ok(()) };
            }
            let before = input.pos();
            let mut output = OutBuffer::around(&mut self.output[..]);
            let hint =
                self.decoder.run(&mut input, &mut output).map_err(|e| FrameError::Damaged(e.to_string()))?;
            self.complete = hint == 0;
            let out = output.as_slice();
            if out.is_empty() && input.pos() == before && !self.complete {
                return Ok(()); // needs more input
            }
            self.produced |= !out.is_empty();
            on_output(out)?;
        }
    }

    /// Says that the declared size ends here.
    ///
    /// # Errors
    /// When the frame is not complete, or was empty.
    pub fn finish(self) -> Result<(), FrameError> {
        match (self.complete, self.produced) {
            (false, _) => Err(FrameError::Shorter),
            (true, false) => Err(FrameError::Empty),
            (true, true) => Ok(()),
        }
    }

    /// The decoder itself would skip skippable frames.
    fn check_magic(&mut self, piece: &[u8]) -> Result<(), FrameError> {
        if self.seen < MAGIC.len() {
            let rest = &MAGIC[self.seen..];
            let shared = rest.len().min(piece.len());
            if piece[..shared] != rest[..shared] {
                return Err(FrameError::Magic);
            }
        }
        self.seen = self.seen.saturating_add(piece.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(frame: &[u8], piece: usize) -> Result<Vec<u8>, FrameError> {
        let mut out = Vec::new();
        let mut reader = FrameReader::new().unwrap();
        for piece in frame.chunks(piece) {
            reader.push::<FrameError>(piece, &mut |bytes| {
                out.extend_from_slice(bytes);
                Ok(())
            })?;
        }
        reader.finish().map(|()| out)
    }

    #[test]
    fn one_frame_is_read_in_pieces_of_any_size() {
        let bytes: Vec<u8> = (0..1_000_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        let frame = compress(&bytes, 3).unwrap();
        for piece in [1000, 4096, frame.len()] {
            assert_eq!(read(&frame, piece).unwrap(), bytes);
        }
    }

    #[test]
    fn anything_but_exactly_one_frame_is_refused() {
        let frame = compress(b"some bytes", 3).unwrap();
        assert!(matches!(read(&frame[..frame.len() - 1], 7), Err(FrameError::Shorter)));
        assert!(matches!(read(&[&frame[..], &[0]].concat(), 7), Err(FrameError::Longer)));
        assert!(matches!(read(&[&frame[..], &frame].concat(), 7), Err(FrameError::Longer)));
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
        assert!(matches!(read(&[&skippable[..], &frame].concat(), 7), Err(FrameError::Magic)));
        assert!(matches!(read(&[], 7), Err(FrameError::Shorter)));
        assert!(matches!(read(&compress(b"", 3).unwrap(), 7), Err(FrameError::Empty)));
    }

    #[test]
    fn a_window_over_8_mib_is_refused() {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(WINDOW_LOG_MAX + 1).unwrap();
        io::copy(&mut io::repeat(7).take(20 << 20), &mut encoder).unwrap();
        assert!(matches!(read(&encoder.finish().unwrap(), 4096), Err(FrameError::Damaged(_))));
    }

    use std::io::Read as _;
}
