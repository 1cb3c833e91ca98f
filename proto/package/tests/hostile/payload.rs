//! zstd frames: Z1 to Z8, and what is declared about them (V12, V13).
//!
//! The manifest is signed and declares each frame rightly, unless a case says otherwise.

use std::cell::Cell;
use std::io::{self, Write as _};

use km_package::manifest::FileEntry;
use km_package::verify::{Rule, Sink, UntrustedPackage, verify};

use crate::forge::{Forge, compress, context, good_tar, skippable, trusted_keys};
use crate::verdict::{Case, Verdict, accepted, refused};
use crate::zstd_frame::{Block, Claims, MAGIC, WINDOW_8_MIB};

pub(crate) fn cases() -> Vec<Case> {
    [
        bombs(),
        windows(),
        dictionaries(),
        content_sizes(),
        empty_frames(),
        other_magics(),
        damage(),
        declarations(),
    ]
    .concat()
}

fn with_frames(rule: Rule, name: &str, frames: Vec<Vec<u8>>) -> Case {
    refused(rule, name, Forge::good().with_frames(frames).bytes())
}

fn with_frame(rule: Rule, name: &str, frame: Vec<u8>) -> Case {
    with_frames(rule, name, vec![frame])
}

/// The three frames of the good package.
fn good_frames() -> [Vec<u8>; 3] {
    Forge::good().frames.try_into().unwrap()
}

const CLAIMS: Claims = Claims { window: WINDOW_8_MIB, content_size: None, dictionary: None, bits: 0 };

/// The good tar and 64 MiB of zeros.
fn inflated() -> Vec<u8> {
    let mut tar = good_tar();
    tar.resize(tar.len() + (64 << 20), 0);
    tar
}

/// Z1, Z2. The archive is complete before it grows, so nothing in it is wrong but its size.
fn bombs() -> Vec<Case> {
    let tar = good_tar();
    let bomb = compress(&inflated());
    let [before, slot, after] = good_frames();
    let zeros = compress(&vec![0; 64 << 20]);
    vec![
        with_frame(Rule::Decompression, "bomb", bomb.clone()),
        with_frame(Rule::Decompression, "bomb_by_hand", bomb_by_hand(&tar)),
        with_frame(Rule::Decompression, "bomb_of_one_byte", compress(&[&tar[..], &[0]].concat())),
        with_frames(
            Rule::Decompression,
            "bomb_in_a_frame_of_its_own",
            vec![before.clone(), slot.clone(), after, zeros],
        ),
        with_frames(
            Rule::Decompression,
            "bomb_in_the_last_frame",
            vec![before, slot, compress(&inflated()[5120..])],
        ),
        // What comes out is a zstd frame, and no archive.
        with_frame(Rule::Archive, "bomb_compressed_twice", compress(&bomb)),
        with_frame(Rule::Archive, "bomb_of_zeros_alone", compress(&vec![0; 1024])),
    ]
}

/// 512 blocks of 128 KiB in 4 bytes each.
fn bomb_by_hand(tar: &[u8]) -> Vec<u8> {
    let blocks: Vec<Block<'_>> =
        std::iter::once(Block::Raw(tar)).chain([Block::Zeros; 512]).chain([Block::Raw(&[])]).collect();
    CLAIMS.frame(&blocks)
}

/// Z3: a window is what the reader must keep in memory. Nothing else is wrong with these.
fn windows() -> Vec<Case> {
    let tar = good_tar();
    let size = Some(tar.len() as u64);
    let with_window = |window: u8| Claims { window, ..CLAIMS }.raw(&tar);
    let with_size = |window: u8| Claims { window, content_size: size, ..CLAIMS }.raw(&tar);
    let nine_mib = WINDOW_8_MIB + 1;
    let fine = |name: &str, frame: Vec<u8>| accepted(name, Forge::good().with_frames(vec![frame]).bytes());
    vec![
        fine("window_of_8_mib", with_window(WINDOW_8_MIB)),
        fine("window_of_8_mib_and_content_size", with_size(WINDOW_8_MIB)),
        with_frame(Rule::Decompression, "window_of_9_mib", with_window(nine_mib)),
        with_frame(Rule::Decompression, "window_of_16_mib", with_window(14 << 3)),
        with_frame(Rule::Decompression, "window_of_2_gib", with_window(21 << 3)),
        with_frame(Rule::Decompression, "window_of_4_tib", with_window(0xff)),
        // A decoder that has all of a small frame at once never looks at its window.
        with_frame(Rule::Decompression, "window_of_9_mib_and_content_size", with_size(nine_mib)),
        with_frame(Rule::Decompression, "window_of_2_gib_and_content_size", with_size(21 << 3)),
        with_frame(Rule::Decompression, "window_of_4_tib_and_content_size", with_size(0xff)),
        with_frame(Rule::Decompression, "window_by_the_real_encoder", long_distance(&tar)),
    ]
}

/// As `zstd --long=27` makes it.
fn long_distance(tar: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

/// Z4.
fn dictionaries() -> Vec<Case> {
    let tar = good_tar();
    let by_id = |id: u32| Claims { dictionary: Some(id), ..CLAIMS }.raw(&tar);
    let by_id_and_size =
        Claims { dictionary: Some(7), content_size: Some(tar.len() as u64), ..CLAIMS }.raw(&tar);
    // Compressed against itself: without the dictionary, only references to nowhere are left.
    let mut encoder = zstd::stream::Encoder::with_dictionary(Vec::new(), 3, &tar).unwrap();
    encoder.write_all(&tar).unwrap();
    vec![
        with_frame(Rule::Decompression, "dictionary_1", by_id(1)),
        with_frame(Rule::Decompression, "dictionary_4294967295", by_id(u32::MAX)),
        with_frame(Rule::Decompression, "dictionary_and_content_size", by_id_and_size),
        with_frame(Rule::Decompression, "dictionary_without_id", encoder.finish().unwrap()),
    ]
}

/// Z5: the header lies about what follows.
fn content_sizes() -> Vec<Case> {
    let tar = good_tar();
    let right = tar.len() as u64;
    let saying = |size: u64| Claims { content_size: Some(size), ..CLAIMS }.raw(&tar);
    let single_segment = |size: u64| {
        // Bit 5: no window is given, the content is the window.
        let mut frame = Claims { content_size: Some(size), bits: 1 << 5, ..CLAIMS }.raw(&tar);
        frame.remove(5);
        frame
    };
    let fine = |name: &str, frame: Vec<u8>| accepted(name, Forge::good().with_frames(vec![frame]).bytes());
    let lie = |name: String, frame: Vec<u8>| with_frame(Rule::Decompression, &name, frame);
    let mut cases = vec![
        fine("content_size_right", saying(right)),
        fine("content_size_right_in_a_single_segment", single_segment(right)),
    ];
    for size in [0, 1, right - 1, right + 1, 128 * 1024, 1 << 20, 16 << 20, 1 << 40, u64::MAX - 1] {
        cases.push(lie(format!("content_size_{size}"), saying(size)));
        cases.push(lie(format!("content_size_{size}_in_a_single_segment"), single_segment(size)));
    }
    cases
}

/// Z6.
fn empty_frames() -> Vec<Case> {
    let empty = compress(b"");
    let [before, slot, after] = good_frames();
    let good = compress(&good_tar());
    let million = empty.repeat(1_000_000);
    vec![
        with_frames(Rule::Payload, "empty_frame_first", vec![empty.clone(), good.clone()]),
        with_frames(Rule::Payload, "empty_frame_between", vec![before, empty.clone(), slot, after]),
        with_frames(Rule::Payload, "empty_frame_last", vec![good.clone(), empty.clone()]),
        with_frames(Rule::Payload, "empty_frames_16", vec![empty.clone(); 16]),
        with_frame(Rule::Decompression, "empty_frames_1000000_in_front", [&million[..], &good].concat()),
        with_frame(Rule::Decompression, "empty_frames_1000000_behind", [&good[..], &million].concat()),
        with_frame(Rule::Payload, "empty_by_hand", CLAIMS.frame(&[Block::Raw(&[])])),
        with_frame(Rule::Payload, "empty_blocks_100000", CLAIMS.frame(&[Block::Raw(&[]); 100_000])),
    ]
}

/// Z7, Z8: what a decoder may know besides.
fn other_magics() -> Vec<Case> {
    let [before, slot, after] = good_frames();
    let good = compress(&good_tar());
    let note = skippable(0x184d_2a50, b"note");
    let trust_root = skippable(0x184d_2a5d, b"root");
    let mut cases = vec![
        with_frames(Rule::Payload, "skippable_first", vec![note.clone(), good.clone()]),
        with_frames(Rule::Payload, "skippable_between", vec![before.clone(), note.clone(), slot, after]),
        with_frames(Rule::Payload, "skippable_last", vec![good.clone(), note.clone()]),
        with_frame(Rule::Payload, "skippable_glued_in_front", [&note[..], &good].concat()),
        with_frame(Rule::Decompression, "skippable_glued_behind", [&good[..], &note].concat()),
        // Frame 2b of the format: there is no installed trust root to check it from.
        with_frames(Rule::Payload, "trust_root", vec![trust_root.clone(), good.clone()]),
        refused(Rule::Payload, "trust_root_undeclared", undeclared(&trust_root)),
        refused(Rule::Payload, "skippable_undeclared", undeclared(&note)),
        with_frame(Rule::Payload, "gzip_payload", [&[0x1f, 0x8b, 8, 0][..], &good].concat()),
        with_frame(Rule::Payload, "xz_payload", [&b"\xfd7zXZ\0"[..], &good].concat()),
        with_frame(Rule::Payload, "lz4_payload", [&0x184d_2204_u32.to_le_bytes()[..], &good[4..]].concat()),
        with_frame(Rule::Payload, "uncompressed_payload", good_tar()),
        with_frame(
            Rule::Payload,
            "magic_big_endian_payload",
            [&[0xfd, 0x2f, 0xb5, 0x28], &good[4..]].concat(),
        ),
        with_frame(Rule::Payload, "magicless_payload", good[4..].to_vec()),
        with_frame(Rule::Decompression, "magic_alone_payload", MAGIC.to_vec()),
        with_frame(Rule::Decompression, "half_a_magic_payload", MAGIC[..2].to_vec()),
    ];
    // v0.1 to v0.7.
    for magic in
        [0xfd2f_b51e_u32, 0xfd2f_b522, 0xfd2f_b523, 0xfd2f_b524, 0xfd2f_b525, 0xfd2f_b526, 0xfd2f_b527]
    {
        let frame = [&magic.to_le_bytes()[..], &good[4..]].concat();
        cases.push(with_frame(Rule::Payload, &format!("legacy_{magic:x}"), frame));
    }
    cases
}

/// The good package with something between signatures and payload that no one declared.
fn undeclared(more: &[u8]) -> Vec<u8> {
    let mut sealed = Forge::good().seal();
    sealed.payload.splice(0..0, more.iter().copied());
    sealed.bytes()
}

/// Frames that are broken, and were so when they were signed.
fn damage() -> Vec<Case> {
    let tar = good_tar();
    let good = compress(&tar);
    let broken = |name: &str, frame: Vec<u8>| with_frame(Rule::Decompression, name, frame);
    let mut checksummed = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    checksummed.include_checksum(true).unwrap();
    checksummed.write_all(&tar).unwrap();
    let checksummed = checksummed.finish().unwrap();
    let mut wrong_checksum = checksummed.clone();
    *wrong_checksum.last_mut().unwrap() ^= 1;
    vec![
        accepted("checksum_right", Forge::good().with_frames(vec![checksummed.clone()]).bytes()),
        broken("checksum_wrong", wrong_checksum),
        broken("checksum_cut", checksummed[..checksummed.len() - 1].to_vec()),
        broken("reserved_bit", Claims { bits: 1 << 3, ..CLAIMS }.raw(&tar)),
        broken("reserved_block", CLAIMS.frame(&[Block::Raw(&tar), Block::Reserved])),
        broken("frame_cut", good[..good.len() - 1].to_vec()),
        broken("frame_cut_after_its_header", good[..9].to_vec()),
        broken("frame_and_a_byte", [&good[..], &[0]].concat()),
        broken("no_last_block", without_last_bit(&tar)),
    ]
}

/// One raw block that says that another follows.
fn without_last_bit(tar: &[u8]) -> Vec<u8> {
    let mut frame = CLAIMS.frame(&[Block::Raw(tar)]);
    frame[6] &= !1;
    frame
}

/// What the manifest says about the frames does not fit them, or not all of them.
fn declarations() -> Vec<Case> {
    let [before, slot, after] = good_frames();
    let good = compress(&good_tar());
    let tar = good_tar();
    let halves = vec![good[..good.len() / 2].to_vec(), good[good.len() / 2..].to_vec()];
    let glued = vec![[&before[..], &slot].concat(), after.clone()];
    let fine = vec![Claims { window: 0, ..CLAIMS }.raw(&tar[..1024]), slot.clone(), after.clone()];
    vec![
        accepted("cut_elsewhere", Forge::good().with_frames(fine).bytes()),
        with_frames(Rule::Decompression, "one_frame_declared_as_two", halves),
        with_frames(Rule::Decompression, "two_frames_declared_as_one", glued),
        with_frames(
            Rule::Archive,
            "frames_in_another_order",
            vec![slot.clone(), before.clone(), after.clone()],
        ),
        with_frames(Rule::Decompression, "first_frames_only", vec![before.clone(), slot.clone()]),
        refused(Rule::Payload, "frames_swapped_after_signing", swapped_after_signing()),
        refused(Rule::Payload, "last_frame_left_out_after_signing", left_out_after_signing()),
        with_frame(Rule::Decompression, "tar_a_block_short", compress(&tar[..tar.len() - 512])),
        with_frame(Rule::Decompression, "tar_a_byte_short", compress(&tar[..tar.len() - 1])),
        with_frame(Rule::Decompression, "tar_of_one_byte", compress(&tar[..1])),
    ]
}

fn swapped_after_signing() -> Vec<u8> {
    let mut sealed = Forge::good().seal();
    let [before, slot, after] = good_frames();
    sealed.payload = [after, slot, before].concat();
    sealed.bytes()
}

fn left_out_after_signing() -> Vec<u8> {
    let mut sealed = Forge::good().seal();
    let [before, slot, _] = good_frames();
    sealed.payload = [before, slot].concat();
    sealed.bytes()
}

/// Counts what comes out.
#[derive(Debug)]
struct Counting<'a>(&'a Cell<u64>);

impl Sink for Counting<'_> {
    fn begin(&mut self, _: &FileEntry) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.set(self.0.get() + bytes.len() as u64);
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A bomb stops where the archive should have ended: nothing of it is extracted.
#[test]
fn no_bomb_extracts_more_than_was_declared() {
    let declared: u64 = Forge::good().manifest.files.iter().map(|file| file.size).sum();
    for case in bombs() {
        let extracted = Cell::new(0);
        let package = UntrustedPackage::open(&case.package[..], Counting(&extracted)).unwrap();
        let verdict = Verdict::from(verify(package, &trusted_keys(), &context()).map(drop));
        assert_eq!(verdict, case.expected, "{}", case.name);
        assert!(extracted.get() <= declared, "{}: {} of {declared}", case.name, extracted.get());
    }
}
