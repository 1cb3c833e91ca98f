//! The strict reader: takes a tar as it comes out of the decompressor, piece by piece, and accepts
//! exactly what [`super::write`] makes (and any other writer that follows the format).

use super::BLOCK;
use crate::name::FileName;

/// Why bytes are not an archive of this format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {entry}: {what}")]
pub struct ArchiveError {
    entry: usize,
    what: String,
}

/// One header, as far as it may vary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file's name.
    pub path: FileName,
    /// Length of its content in bytes.
    pub size: u64,
    /// Mode 0755 instead of 0644.
    pub executable: bool,
    /// Modification time in Unix seconds.
    pub mtime: u64,
}

/// What the reader met.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A file begins.
    Begin(Entry),
    /// A piece of its content.
    Data(&'a [u8]),
    /// It is complete.
    End,
}

#[derive(Debug)]
enum State {
    Header,
    Content { left: u64, padding: usize },
    Padding(usize),
    SecondZeroBlock,
    Done,
}

/// Reads an archive pushed to it in pieces of any size.
#[derive(Debug)]
pub struct StrictReader {
    state: State,
    block: Vec<u8>,
    entries: usize,
    last: Option<FileName>,
}

impl Default for StrictReader {
    fn default() -> Self {
        Self { state: State::Header, block: Vec::with_capacity(BLOCK), entries: 0, last: None }
    }
}

impl StrictReader {
    /// Takes the next piece and reports what is in it.
    ///
    /// # Errors
    /// Whatever `on_event` returns, and an [`ArchiveError`] for the first thing that is not as
    /// the format says.
    pub fn push<E: From<ArchiveError>>(
        &mut self,
        mut bytes: &[u8],
        on_event: &mut dyn FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Content { left, padding } => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    let (piece, rest) = bytes.split_at(take);
                    *left -= take as u64;
                    let (left, padding) = (*left, *padding);
                    bytes = rest;
                    on_event(Event::Data(piece))?;
                    if left == 0 {
                        self.finish_entry(padding, on_event)?;
                    }
                }
                State::Padding(left) => {
                    let take = (*left).min(bytes.len());
                    let (piece, rest) = bytes.split_at(take);
                    *left -= take;
                    let done = *left == 0;
                    bytes = rest;
                    if piece.iter().any(|&b| b != 0) {
                        return Err(self.error("padding is not zero").into());
                    }
                    if done {
                        self.state = State::Header;
                    }
                }
                State::Header | State::SecondZeroBlock => {
                    let take = (BLOCK - self.block.len()).min(bytes.len());
                    let (piece, rest) = bytes.split_at(take);
                    self.block.extend_from_slice(piece);
                    bytes = rest;
                    if self.block.len() == BLOCK {
                        let block = std::mem::take(&mut self.block);
                        self.take_block(&block, on_event)?;
                        self.block = block;
                        self.block.clear();
                    }
                }
                State::Done => return Err(self.error("something follows the end of the archive").into()),
            }
        }
        Ok(())
    }

    /// Says that nothing follows.
    ///
    /// # Errors
    /// When the archive is not complete.
    pub fn finish(&self) -> Result<(), ArchiveError> {
        match self.state {
            State::Done => Ok(()),
            _ => Err(self.error("the archive ends before its end marker")),
        }
    }

    fn take_block<E: From<ArchiveError>>(
        &mut self,
        block: &[u8],
        on_event: &mut dyn FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let zero = block.iter().all(|&b| b == 0);
        match (&self.state, zero) {
            (State::SecondZeroBlock, true) => self.state = State::Done,
            (State::SecondZeroBlock, false) => return Err(self.error("one zero block alone").into()),
            (_, true) if self.entries == 0 => return Err(self.error("the archive is empty").into()),
            (_, true) => self.state = State::SecondZeroBlock,
            (_, false) => {
                if self.entries == crate::manifest::MAX_FILES {
                    return Err(self
                        .error(format!("more than {} entries", crate::manifest::MAX_FILES))
                        .into());
                }
                let entry = parse_header(block).map_err(|what| self.error(what))?;
                if self.last.as_ref().is_some_and(|last| *last >= entry.path) {
                    return Err(self.error("names are not strictly ascending").into());
                }
                self.last = Some(entry.path.clone());
                let left = entry.size;
                let padding = (BLOCK - (left % BLOCK as u64) as usize) % BLOCK;
                on_event(Event::Begin(entry))?;
                if left == 0 {
                    self.finish_entry(0, on_event)?;
                } else {
                    self.state = State::Content { left, padding };
                }
            }
        }
        Ok(())
    }

    fn finish_entry<E: From<ArchiveError>>(
        &mut self,
        padding: usize,
        on_event: &mut dyn FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        on_event(Event::End)?;
        self.entries += 1;
        self.state = if padding == 0 { State::Header } else { State::Padding(padding) };
        Ok(())
    }

    fn error(&self, what: impl Into<String>) -> ArchiveError {
        ArchiveError { entry: self.entries + 1, what: what.into() }
    }
}

/// Reads one header block, field by field in the order of POSIX.1-1988 ustar.
fn parse_header(block: &[u8]) -> Result<Entry, String> {
    let field = |from: usize, len: usize| &block[from..from + len];
    let zero = |bytes: &[u8]| bytes.iter().all(|&b| b == 0);
    let wrong = |what: &str| Err(what.to_owned());

    let name_end = block[..100].iter().position(|&b| b == 0).unwrap_or(100);
    if !zero(&block[name_end..100]) {
        return wrong("something follows the name in its field");
    }
    let path = std::str::from_utf8(&block[..name_end])
        .map_err(|_| "the name is not UTF-8".to_owned())?
        .parse::<FileName>()
        .map_err(|e| e.to_string())?;
    let executable = match number(field(100, 8), "mode")? {
        0o644 => false,
        0o755 => true,
        other => return Err(format!("mode {other:o} is neither 644 nor 755")),
    };
    if number(field(108, 8), "uid")? != 0 || number(field(116, 8), "gid")? != 0 {
        return wrong("an owner other than 0");
    }
    let size = number(field(124, 12), "size")?;
    let mtime = number(field(136, 12), "mtime")?;
    if checksum(field(148, 8))? != sum(block) {
        return wrong("the header's checksum is wrong");
    }
    if block[156] != b'0' {
        return Err(format!("type {:?} is not that of a regular file", char::from(block[156])));
    }
    if !zero(field(157, 100)) {
        return wrong("a link name");
    }
    if field(257, 8) != b"ustar\x0000" {
        return wrong("the magic is not that of ustar");
    }
    if !zero(field(265, 64)) {
        return wrong("an owner's name");
    }
    for device in [field(329, 8), field(337, 8)] {
        if !zero(device) && number(device, "device")? != 0 {
            return wrong("a device number");
        }
    }
    if !zero(field(345, 167)) {
        return wrong("something in the prefix or after it");
    }
    Ok(Entry { path, size, executable, mtime })
}

/// Octal digits that fill the field up to one final NUL.
fn number(field: &[u8], what: &str) -> Result<u64, String> {
    match field {
        [digits @ .., 0] => octal(digits),
        _ => None,
    }
    .ok_or_else(|| format!("{what} is not a number of octal digits that fill the field"))
}

/// Seven digits and NUL, or six digits, NUL and space.
fn checksum(field: &[u8]) -> Result<u64, String> {
    match field {
        [digits @ .., 0, b' '] => octal(digits),
        [digits @ .., 0] => octal(digits),
        _ => None,
    }
    .ok_or_else(|| "the checksum is not a number".to_owned())
}

fn octal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'7' => Some(value << 3 | u64::from(digit - b'0')),
        _ => None,
    })
}

/// The sum of all bytes of a header, with spaces in place of the checksum.
fn sum(block: &[u8]) -> u64 {
    let all: u64 = block.iter().copied().map(u64::from).sum();
    let field: u64 = block[148..156].iter().copied().map(u64::from).sum();
    all - field + 8 * u64::from(b' ')
}

#[cfg(test)]
mod tests {
    use super::super::{ArchiveFile, write};
    use super::*;
    use crate::manifest::Time;

    fn archive() -> Vec<u8> {
        let names: [FileName; 3] =
            ["a".parse().unwrap(), "b.txt".parse().unwrap(), "km-plugin-x".parse().unwrap()];
        let contents: [&[u8]; 3] = [b"", b"hello", &[7; 1024]];
        let files: Vec<ArchiveFile<'_>> = names
            .iter()
            .zip(contents)
            .map(|(path, bytes)| ArchiveFile { path, bytes, executable: path.as_str().starts_with("km") })
            .collect();
        write(&files, Time::from_unix(1_795_305_600).unwrap()).unwrap()
    }

    fn read(bytes: &[u8], piece: usize) -> Result<Vec<(Entry, Vec<u8>)>, ArchiveError> {
        let mut files = Vec::new();
        let mut reader = StrictReader::default();
        for piece in bytes.chunks(piece) {
            reader.push::<ArchiveError>(piece, &mut |event| {
                match event {
                    Event::Begin(entry) => files.push((entry, Vec::new())),
                    Event::Data(bytes) => files.last_mut().unwrap().1.extend_from_slice(bytes),
                    Event::End => {}
                }
                Ok(())
            })?;
        }
        reader.finish().map(|()| files)
    }

    #[test]
    fn what_is_written_is_read_in_pieces_of_any_size() {
        let bytes = archive();
        for piece in [1, 7, 511, 512, 513, 4096] {
            let files = read(&bytes, piece).unwrap();
            let names: Vec<_> = files.iter().map(|(entry, _)| entry.path.as_str()).collect();
            assert_eq!(names, ["a", "b.txt", "km-plugin-x"]);
            assert_eq!(files[1].1, b"hello");
            assert_eq!(files[2].1, [7; 1024]);
            assert!(files[2].0.executable && !files[1].0.executable);
        }
    }

    #[test]
    fn every_changed_bit_outside_the_contents_is_noticed() {
        let bytes = archive();
        let good = read(&bytes, 4096).unwrap();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert_ne!(read(&changed, 4096).as_ref(), Ok(&good), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn cut_or_longer_is_refused() {
        let bytes = archive();
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len], 4096).is_err(), "{len}");
        }
        for more in [1, 512, 1024] {
            let mut longer = bytes.clone();
            longer.resize(bytes.len() + more, 0);
            assert!(read(&longer, 4096).is_err(), "{more}");
        }
    }
}
