//! The envelope: frames in front, the end, cuts, single bits (E1 to E6), and streams without end.

use std::cell::Cell;
use std::io::{self, Read};
use std::ops::Range;

use km_package::envelope::{MAX_MANIFEST, MAX_SIGNATURES};
use km_package::verify::Rule;

use crate::blocks::zeros;
use crate::forge::{
    Forge, MANIFEST_MAGIC, SIGNATURES_MAGIC, Sealed, compress, frame_saying, good_tar, sign, skippable,
    stranger_key,
};
use crate::verdict::{Case, Drips, Verdict, accepted, judge, judge_stream, refused};

fn good() -> Sealed {
    Forge::good().seal()
}

pub(crate) fn cases() -> Vec<Case> {
    [missing_frames(), doubled_frames(), lengths(), trailing_bytes(), other_files()].concat()
}

fn missing_frames() -> Vec<Case> {
    let Sealed { manifest, signatures, payload } = good();
    let (manifest, signatures) =
        (skippable(MANIFEST_MAGIC, &manifest), skippable(SIGNATURES_MAGIC, &signatures));
    let envelope = |name: &str, parts: &[&[u8]]| refused(Rule::Envelope, name, parts.concat());
    vec![
        envelope("nothing", &[]),
        envelope("no_signature_frame", &[&manifest, &payload]),
        envelope("no_manifest_frame", &[&signatures, &payload]),
        envelope("manifest_only", &[&manifest]),
        envelope("no_frame_in_front", &[&payload]),
        envelope("plain_tar_zst", &[&compress(&good_tar())]),
        envelope("empty_signature_frame", &[&manifest, &skippable(SIGNATURES_MAGIC, b""), &payload]),
        envelope("empty_manifest_frame", &[&skippable(MANIFEST_MAGIC, b""), &signatures, &payload]),
        envelope("signatures_first", &[&signatures, &manifest, &payload]),
        envelope("payload_between", &[&manifest, &payload, &signatures]),
        envelope("payload_first", &[&payload, &manifest, &signatures]),
        envelope("byte_in_front", &[b"\0", &manifest, &signatures, &payload]),
        envelope("skippable_in_front", &[&skippable(0x184d_2a50, b"x"), &manifest, &signatures, &payload]),
        envelope("skippable_between", &[&manifest, &skippable(0x184d_2a50, b"x"), &signatures, &payload]),
        refused(Rule::Payload, "no_payload", [manifest, signatures].concat()),
    ]
}

/// A second frame with something else in it: who reads the first, and who the last?
fn doubled_frames() -> Vec<Case> {
    let sealed = good();
    let evil = Forge::good().saying(|m| m.plugin.sequence += 1);
    let evil_text = evil.manifest.to_text();
    let manifest = skippable(MANIFEST_MAGIC, &sealed.manifest);
    let signatures = skippable(SIGNATURES_MAGIC, &sealed.signatures);
    let evil_manifest = skippable(MANIFEST_MAGIC, evil_text.as_bytes());
    let evil_signatures = skippable(
        SIGNATURES_MAGIC,
        &sealed.clone().signed(vec![sign(&stranger_key(), evil_text.as_bytes())]).signatures,
    );
    let package = |head: &[&Vec<u8>]| {
        [head.iter().flat_map(|f| f.iter()).copied().collect(), sealed.payload.clone()].concat()
    };
    vec![
        refused(Rule::Envelope, "second_manifest_evil", package(&[&manifest, &evil_manifest, &signatures])),
        refused(Rule::Envelope, "first_manifest_evil", package(&[&evil_manifest, &manifest, &signatures])),
        refused(
            Rule::Payload,
            "second_signatures_evil",
            package(&[&manifest, &signatures, &evil_signatures]),
        ),
        refused(
            Rule::Signature,
            "first_signatures_evil",
            package(&[&manifest, &evil_signatures, &signatures]),
        ),
        refused(
            Rule::Payload,
            "second_head_evil",
            package(&[&manifest, &signatures, &evil_manifest, &evil_signatures]),
        ),
    ]
}

fn lengths() -> Vec<Case> {
    let sealed = good();
    let after_manifest = [skippable(SIGNATURES_MAGIC, &sealed.signatures), sealed.payload.clone()].concat();
    let manifest_frame = skippable(MANIFEST_MAGIC, &sealed.manifest);
    let manifest_saying = |length: u32| {
        [frame_saying(MANIFEST_MAGIC, length, &sealed.manifest), after_manifest.clone()].concat()
    };
    let signatures_saying = |length: u32| {
        let frame = frame_saying(SIGNATURES_MAGIC, length, &sealed.signatures);
        [manifest_frame.clone(), frame, sealed.payload.clone()].concat()
    };
    let right = u32::try_from(sealed.manifest.len()).unwrap();
    let mut cases = Vec::new();
    for length in [0, 1, right - 1, right + 1, MAX_MANIFEST, MAX_MANIFEST + 1, 1 << 31, u32::MAX] {
        cases.push(refused(Rule::Envelope, format!("manifest_length_{length}"), manifest_saying(length)));
    }
    for length in [0, MAX_SIGNATURES, MAX_SIGNATURES + 1, 1 << 31, u32::MAX] {
        cases.push(refused(Rule::Envelope, format!("signatures_length_{length}"), signatures_saying(length)));
    }
    // Room for whole signatures only: the frame is there, but it is no signature block.
    for length in [1, 71, 73] {
        cases.push(refused(
            Rule::Signature,
            format!("signatures_length_{length}"),
            signatures_saying(length),
        ));
    }
    cases.extend(filled_to_the_limit());
    cases
}

/// A manifest may be 64 KiB, not a byte more; this one says the rest in comments.
fn filled_to_the_limit() -> [Case; 2] {
    let forge = Forge::good();
    let filled = |length: u32| {
        let mut text = forge.manifest.to_text();
        while text.len() < length as usize - 1 {
            let line = (length as usize - 1 - text.len()).min(100);
            text.push_str(&format!("{:#<1$}\n", "", line - 1));
        }
        text.push_str(&"\n".repeat(length as usize - text.len()));
        assert_eq!(text.len(), length as usize);
        forge.seal_text(text.as_bytes()).bytes()
    };
    [
        accepted("manifest_of_64_kib", filled(MAX_MANIFEST)),
        refused(Rule::Envelope, "manifest_over_64_kib", filled(MAX_MANIFEST + 1)),
    ]
}

fn trailing_bytes() -> Vec<Case> {
    let good = good().bytes();
    let followed_by = |name: &str, more: &[u8]| refused(Rule::End, name, [&good, more].concat());
    vec![
        followed_by("then_a_zero_byte", b"\0"),
        followed_by("then_a_newline", b"\n"),
        followed_by("then_a_zero_block", &zeros(1)),
        followed_by("then_itself", &good),
        followed_by("then_a_zstd_frame", &compress(b"more")),
        followed_by("then_an_empty_zstd_frame", &compress(b"")),
        followed_by("then_a_skippable_frame", &skippable(0x184d_2a50, b"tag")),
        followed_by("then_an_empty_skippable_frame", &skippable(0x184d_2a5f, b"")),
        followed_by("then_another_manifest", &skippable(MANIFEST_MAGIC, b"format = \"kmpkg/1\"\n")),
        followed_by("then_a_zip_directory", b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    ]
}

fn other_files() -> Vec<Case> {
    let is = |name: &str, bytes: &[u8]| refused(Rule::Envelope, name, bytes.to_vec());
    vec![
        is("a_tar", &good_tar()),
        is("zeros", &[0; 4096]),
        is("gzip", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]),
        is("html", b"<!DOCTYPE html><title>404 Not Found</title>"),
        is("one_byte", &[0x5b]),
        is("magic_alone", &MANIFEST_MAGIC.to_le_bytes()),
        is("magic_big_endian", &MANIFEST_MAGIC.to_be_bytes()),
    ]
}

/// E3: whoever stops in the middle has nothing.
#[test]
fn cut_at_any_length_it_is_refused() {
    let sealed = good();
    let (package, head) = (sealed.bytes(), sealed.head().len());
    for length in 0..package.len() {
        let rule = if length < head { Rule::Envelope } else { Rule::Payload };
        assert_eq!(judge(&package[..length]), Verdict::Refused(rule), "{length} of {}", package.len());
    }
}

/// E2: each bit in front of the payload, by the rule that its place belongs to.
#[test]
fn any_flipped_bit_in_front_is_refused() {
    let sealed = good();
    let manifest_end = 8 + sealed.manifest.len();
    let head_end = sealed.head().len();
    let package = sealed.bytes();
    assert_damage(&package, 0..8, &[Rule::Envelope]);
    assert_damage(&package, 8..manifest_end, &[Rule::Signature]);
    // A magic, or a length that is still within the limits but cuts signatures.
    assert_damage(&package, manifest_end..manifest_end + 8, &[Rule::Envelope, Rule::Signature]);
    assert_damage(&package, manifest_end + 8..head_end, &[Rule::Signature]);
}

/// E2: each bit of the payload. docs/package-format.md: "A file damaged in its compressed part is
/// refused by V12 or V13, whichever meets the damage first"; whoever downloaded it badly is told to
/// get it again, and not that its publisher is to blame.
#[test]
fn any_flipped_bit_of_the_payload_is_refused_as_damage() {
    let sealed = good();
    let package = sealed.bytes();
    assert_damage(&package, sealed.head().len()..package.len(), &[Rule::Payload, Rule::Decompression]);
}

/// Flips each bit of these bytes alone, and judges the package by it.
fn assert_damage(package: &[u8], bytes: Range<usize>, rules: &[Rule]) {
    let bits = bytes.len() * 8;
    let wrong: Vec<String> = bytes
        .flat_map(|at| (0..8).map(move |bit| (at, bit)))
        .filter_map(|(at, bit)| {
            let mut damaged = package.to_vec();
            damaged[at] ^= 1 << bit;
            let verdict = judge(&damaged);
            let right = rules.iter().any(|&rule| verdict == Verdict::Refused(rule));
            (!right).then(|| format!("byte {at}, bit {bit}: {verdict:?}"))
        })
        .collect();
    let first = wrong.iter().take(10).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(
        wrong.is_empty(),
        "{} of {bits} bits were not refused by one of {rules:?}; first:\n{first}",
        wrong.len()
    );
}

/// A stream that counts what was taken from it.
struct Counted<'a, R> {
    stream: R,
    taken: &'a Cell<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.taken.set(self.taken.get() + read as u64);
        Ok(read)
    }
}

/// Endless data: nobody reads on to see whether it ends.
#[test]
fn a_stream_without_end_is_refused_where_it_should_have_ended() {
    let sealed = good();
    let beginnings: [(&str, Rule, Vec<u8>); 5] = [
        ("zeros only", Rule::Envelope, Vec::new()),
        ("in the manifest", Rule::Envelope, frame_saying(MANIFEST_MAGIC, u32::MAX, b"format")),
        (
            "in the signatures",
            Rule::Envelope,
            [skippable(MANIFEST_MAGIC, &sealed.manifest), frame_saying(SIGNATURES_MAGIC, u32::MAX, b"")]
                .concat(),
        ),
        ("instead of a payload", Rule::Payload, sealed.head()),
        ("after the end", Rule::End, sealed.bytes()),
    ];
    for (name, rule, begin) in beginnings {
        let taken = Cell::new(0);
        let stream = Counted { stream: begin.chain(io::repeat(0)), taken: &taken };
        assert_eq!(judge_stream(stream), Verdict::Refused(rule), "{name}");
        assert!(taken.get() <= begin.len() as u64 + 64 * 1024, "{name}: read {}", taken.get());
    }
}

/// A stream that is interrupted before each piece, as a signal does it.
struct Interrupted<R> {
    stream: R,
    next: bool,
}

impl<R: Read> Read for Interrupted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.next = !self.next;
        if self.next { Err(io::ErrorKind::Interrupted.into()) } else { self.stream.read(buffer) }
    }
}

#[test]
fn interruptions_do_not_change_the_verdict() {
    let package = good().bytes();
    let stream = Drips { stream: &package[..], most: 1000 };
    assert_eq!(judge_stream(Interrupted { stream, next: false }), Verdict::Accepted);
}
