//! Raw tar blocks. No library makes hostile ones, so these are laid out by hand; a [`Header`] is a
//! good one until something in it is changed, and its checksum is right in any case.

use km_package::archive::BLOCK;

use crate::forge::CREATED;

/// One header block.
#[derive(Clone)]
pub(crate) struct Header([u8; BLOCK]);

impl Header {
    /// A good header.
    pub(crate) fn of(name: &[u8], size: usize) -> Self {
        let mut block = [0; BLOCK];
        block[156] = b'0';
        block[257..265].copy_from_slice(b"ustar\x0000");
        Self(block)
            .name(name)
            .mode(0o644)
            .put(108, &octal(0, 7))
            .put(116, &octal(0, 7))
            .put(124, &octal(size as u64, 11))
            .put(136, &octal(CREATED, 11))
            .put(329, &octal(0, 7))
            .put(337, &octal(0, 7))
    }

    /// Any bytes anywhere.
    pub(crate) fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn name(self, name: &[u8]) -> Self {
        let mut field = name.to_vec();
        field.resize(100, 0);
        self.put(0, &field)
    }

    pub(crate) fn mode(self, mode: u64) -> Self {
        self.put(100, &octal(mode, 7))
    }

    /// The type flag.
    pub(crate) fn kind(self, flag: u8) -> Self {
        self.put(156, &[flag])
    }

    pub(crate) fn link(self, target: &[u8]) -> Self {
        self.put(157, target)
    }

    pub(crate) fn prefix(self, prefix: &[u8]) -> Self {
        self.put(345, prefix)
    }

    /// The sum that belongs into the checksum's field.
    pub(crate) fn sum(&self) -> u64 {
        let field = |at: &usize| (148..156).contains(at);
        (0..BLOCK).map(|at| if field(&at) { b' ' } else { self.0[at] }).map(u64::from).sum()
    }

    /// The block, with a right checksum.
    pub(crate) fn block(self) -> Vec<u8> {
        let sum = octal(self.sum(), 7);
        self.put(148, &sum).block_as_it_is()
    }

    /// The block with whatever checksum was put into it.
    pub(crate) fn block_as_it_is(self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// The block and its content, padded with zeros.
    pub(crate) fn with(self, content: &[u8]) -> Vec<u8> {
        [self.block(), padded(content)].concat()
    }
}

/// Octal digits and a NUL.
pub(crate) fn octal(value: u64, digits: usize) -> Vec<u8> {
    format!("{value:0digits$o}\0").into_bytes()
}

/// Content, filled up to whole blocks.
pub(crate) fn padded(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.resize(content.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// A good entry.
pub(crate) fn file(name: &str, content: &[u8]) -> Vec<u8> {
    Header::of(name.as_bytes(), content.len()).with(content)
}

/// An entry of another type, without content.
pub(crate) fn special(name: &str, kind: u8, target: &str) -> Vec<u8> {
    Header::of(name.as_bytes(), 0).kind(kind).link(target.as_bytes()).block()
}

/// A pax extended header (`x`, or `g` for all that follows) with these records.
pub(crate) fn pax(kind: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let content: String = records.iter().map(|(key, value)| record(key, value)).collect();
    Header::of(b"pax", content.len()).kind(kind).with(content.as_bytes())
}

/// `length key=value\n`, where the length counts its own digits.
fn record(key: &str, value: &str) -> String {
    let bare = key.len() + value.len() + 3;
    let length = (1..).find(|digits| (bare + digits).to_string().len() == *digits).unwrap() + bare;
    format!("{length} {key}={value}\n")
}

/// GNU's way to a long name (`L`) or link name (`K`).
pub(crate) fn gnu_long(kind: u8, text: &[u8]) -> Vec<u8> {
    let content = [text, &[0]].concat();
    Header::of(b"longlink", content.len()).kind(kind).with(&content)
}

/// Zero blocks.
pub(crate) fn zeros(blocks: usize) -> Vec<u8> {
    vec![0; blocks * BLOCK]
}

/// An archive of these pieces, with its two blocks at the end.
pub(crate) fn archive(pieces: &[Vec<u8>]) -> Vec<u8> {
    [pieces.concat(), zeros(2)].concat()
}
