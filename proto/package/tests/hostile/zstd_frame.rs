//! zstd frames by hand (RFC 8878, section 3.1.1), for what no compressor writes.

/// Magic of a frame.
pub(crate) const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Most bytes in one block.
const BLOCK_MAX: usize = 128 * 1024;

/// What a frame's header says.
#[derive(Clone, Copy, Default)]
pub(crate) struct Claims {
    /// The window descriptor: exponent over 1 KiB in the high 5 bits, eighths in the low 3.
    pub(crate) window: u8,
    /// The size of the content.
    pub(crate) content_size: Option<u64>,
    /// The id of a dictionary.
    pub(crate) dictionary: Option<u32>,
    /// Bits of the descriptor that are set besides.
    pub(crate) bits: u8,
}

/// Window descriptor of 8 MiB: the largest that may be.
pub(crate) const WINDOW_8_MIB: u8 = 13 << 3;

impl Claims {
    fn header(self) -> Vec<u8> {
        let size = self.content_size.map(u64::to_le_bytes);
        let dictionary = self.dictionary.map(u32::to_le_bytes);
        let size_flag = if size.is_some() { 3 << 6 } else { 0 };
        let dictionary_flag = if dictionary.is_some() { 3 } else { 0 };
        let mut bytes = MAGIC.to_vec();
        bytes.extend([size_flag | dictionary_flag | self.bits, self.window]);
        bytes.extend(dictionary.iter().flatten());
        bytes.extend(size.iter().flatten());
        bytes
    }

    /// A frame of uncompressed blocks.
    pub(crate) fn raw(self, content: &[u8]) -> Vec<u8> {
        let blocks: Vec<Block<'_>> = content.chunks(BLOCK_MAX).map(Block::Raw).collect();
        self.frame(&blocks)
    }

    /// A frame of these blocks.
    pub(crate) fn frame(self, blocks: &[Block<'_>]) -> Vec<u8> {
        let mut bytes = self.header();
        for (index, block) in blocks.iter().enumerate() {
            bytes.extend(block.bytes(index + 1 == blocks.len()));
        }
        bytes
    }
}

/// One block of a frame.
#[derive(Clone, Copy)]
pub(crate) enum Block<'a> {
    /// Bytes as they are.
    Raw(&'a [u8]),
    /// As many zeros as a block can be: 4 bytes for 128 KiB.
    Zeros,
    /// The type that the format reserves.
    Reserved,
}

impl Block<'_> {
    fn bytes(self, last: bool) -> Vec<u8> {
        let (kind, size, content): (u32, usize, &[u8]) = match self {
            Self::Raw(bytes) => (0, bytes.len(), bytes),
            Self::Zeros => (1, BLOCK_MAX, &[0]),
            Self::Reserved => (3, 0, &[]),
        };
        let header = u32::from(last) | kind << 1 | (size as u32) << 3;
        [&header.to_le_bytes()[..3], content].concat()
    }
}
