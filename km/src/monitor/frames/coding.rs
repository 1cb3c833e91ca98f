//! What is compressed, made readable.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::{MultiGzDecoder, ZlibDecoder};

use super::super::tap::Coding;

/// Most that is decompressed at once: a few bytes may stand for very many.
const PIECE: usize = 64 * 1024;

/// Decompresses one stream, piece by piece.
#[derive(Debug)]
pub(super) struct Decoder(Option<State>);

#[derive(Debug)]
enum State {
    Gzip(MultiGzDecoder<Vec<u8>>),
    Deflate(ZlibDecoder<Vec<u8>>),
}

impl Decoder {
    pub(super) fn new(coding: Coding) -> Self {
        Self(Some(match coding {
            Coding::Gzip => State::Gzip(MultiGzDecoder::new(Vec::new())),
            Coding::Deflate => State::Deflate(ZlibDecoder::new(Vec::new())),
        }))
    }

    /// Hands on what these bytes stand for.
    pub(super) fn decode(&mut self, mut bytes: &[u8], on_plain: &mut dyn FnMut(Bytes)) -> io::Result<()> {
        while let (Some(state), false) = (&mut self.0, bytes.is_empty()) {
            let taken = state.write(bytes).and_then(|taken| state.flush().map(|()| taken));
            let plain = std::mem::take(state.plain());
            plain.chunks(PIECE).for_each(|piece| on_plain(Bytes::copy_from_slice(piece)));
            match taken {
                Ok(0) => return Ok(()),
                Ok(taken) => bytes = &bytes[taken..],
                Err(e) => {
                    self.give_up();
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// Checks that it was whole.
    pub(super) fn finish(self) -> io::Result<()> {
        match self.0 {
            Some(State::Gzip(mut decoder)) => decoder.try_finish(),
            Some(State::Deflate(mut decoder)) => decoder.try_finish(),
            None => Ok(()),
        }
    }

    /// What follows cannot be read.
    pub(super) fn give_up(&mut self) {
        self.0 = None;
    }
}

impl State {
    fn plain(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Deflate(decoder) => decoder.get_mut(),
        }
    }
}

impl Write for State {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.write(bytes),
            Self::Deflate(decoder) => decoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(decoder) => decoder.flush(),
            Self::Deflate(decoder) => decoder.flush(),
        }
    }
}
