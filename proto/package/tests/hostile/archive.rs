//! Hostile archives: the 79 that were run against four readers, and what lies near them.
//!
//! Each is judged twice. The strict reader alone must refuse it, and for the reason it was made
//! for. Then it travels in a package which the release key signed, with a manifest that agrees with
//! it as far as a manifest can: its sizes and digests are right, and its files fill exactly that
//! many bytes, so that V4, V12 and V13 hold and the archive itself must be refused.

use std::collections::HashSet;

use km_package::archive::{ArchiveError, BLOCK, StrictReader, tar_size};
use km_package::digest::Digest;
use km_package::manifest::FileEntry;
use km_package::verify::Rule;

use crate::blocks::{Header, archive, file, gnu_long, octal, padded, pax, special, zeros};
use crate::forge::{CREATED, Content, EXECUTABLE, Forge, good_binary, noise, tar_of};
use crate::verdict::{Case, accepted, refused};

/// One archive.
struct HostileTar {
    name: String,
    tar: Vec<u8>,
    /// What the strict reader must say; `None` where only the manifest can tell.
    because: Option<&'static str>,
    /// The rule that must refuse a package with it.
    rule: Rule,
}

impl HostileTar {
    /// Where the manifest can tell before the archive is wrong, or it alone can.
    fn refused_by(self, rule: Rule) -> Self {
        Self { rule, ..self }
    }

    /// Well-formed in itself.
    fn fine_without_a_manifest(self) -> Self {
        Self { because: None, ..self }
    }
}

fn hostile(name: impl Into<String>, because: &'static str, pieces: &[Vec<u8>]) -> HostileTar {
    raw(name, because, archive(pieces))
}

fn raw(name: impl Into<String>, because: &'static str, tar: Vec<u8>) -> HostileTar {
    HostileTar { name: name.into(), tar, because: Some(because), rule: Rule::Archive }
}

const NAME: &str = "is not a file name in a package";
const TYPE: &str = "is not that of a regular file";
const MODE: &str = "is neither 644 nor 755";
const ASCENDING: &str = "ascending";

/// All archives of the attack checklist.
fn checklist() -> Vec<HostileTar> {
    [
        traversal(),
        symlinks(),
        hardlinks(),
        special_files(),
        modes_and_owner(),
        size_desync(),
        sparse(),
        duplicates(),
        collisions(),
        text_attacks(),
        limits(),
        framing(),
        installer_state(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The executable's own header, good until changed.
fn executable_header() -> Header {
    Header::of(EXECUTABLE.as_bytes(), good_binary().len()).mode(0o755)
}

/// The good executable as an entry, in the right place before or after the hostile one.
fn executable() -> Vec<u8> {
    executable_header().with(&good_binary())
}

/// The executable under another name.
fn executable_named(name: &[u8]) -> Vec<u8> {
    executable_header().name(name).with(&good_binary())
}

fn traversal() -> Vec<HostileTar> {
    let named = |name: &str| vec![executable_named(name.as_bytes())];
    vec![
        hostile("dotdot", NAME, &named("../km-plugin-probe")),
        hostile("dotdot_mid", NAME, &named("a/../../km-plugin-probe")),
        hostile("absolute", NAME, &named("/etc/cron.d/probe")),
        // The name alone is innocent; whoever joins the two leaves the directory.
        hostile("prefix_traversal", "prefix", &[executable_header().prefix(b"../..").with(&good_binary())]),
        hostile("gnu_longname", TYPE, &[gnu_long(b'L', b"../../etc/passwd"), executable()]),
        hostile(
            "pax_dup_path",
            TYPE,
            &[pax(b'x', &[("path", EXECUTABLE), ("path", "../../etc/passwd")]), executable()],
        ),
        hostile("backslash", NAME, &named("..\\km-plugin-probe")),
        hostile("drive", NAME, &named("c:km-plugin-probe")),
        hostile("ads", NAME, &named("km-plugin-probe:stream")),
    ]
}

fn symlinks() -> Vec<HostileTar> {
    let link = |name: &str, target: &str| special(name, b'2', target);
    vec![
        hostile("symlink_abs", TYPE, &[link("a", "/etc/passwd"), executable()]),
        hostile("symlink_rel", TYPE, &[link("a", "../../.ssh/authorized_keys"), executable()]),
        hostile(
            "symlink_chain",
            TYPE,
            &[link("a", ".."), link("b", "a/.."), link("c", "b/etc"), executable()],
        ),
        // What follows is written through the link.
        hostile("symlink_overwrite", TYPE, &[link(EXECUTABLE, "/usr/bin/km"), executable()]),
        hostile("symlink_inside", TYPE, &[executable(), link("latest", EXECUTABLE)]),
        hostile(
            "symlink_then_dir_chmod",
            TYPE,
            &[link("d", "/etc"), Header::of(b"d", 0).kind(b'5').mode(0o777).block(), executable()],
        ),
        hostile(
            "pax_linkpath",
            TYPE,
            &[pax(b'x', &[("linkpath", "/etc/passwd")]), link("a", "harmless"), executable()],
        ),
        hostile("gnu_longlink", TYPE, &[gnu_long(b'K', b"/etc/passwd"), link("a", "harmless"), executable()]),
    ]
}

fn hardlinks() -> Vec<HostileTar> {
    let link = |name: &str, target: &str| special(name, b'1', target);
    vec![
        hostile("hardlink_abs", TYPE, &[link("a", "/etc/passwd"), executable()]),
        hostile("hardlink_rel", TYPE, &[link("a", "../../etc/passwd"), executable()]),
        // The second name is written to, the first and verified one changes.
        hostile(
            "hardlink_inside_rewrite",
            TYPE,
            &[executable(), link("latest", EXECUTABLE), file("latest", b"other code")],
        ),
    ]
}

fn special_files() -> Vec<HostileTar> {
    let of_kind = |kind: u8| vec![special("a", kind, ""), executable()];
    vec![
        hostile("chardev", TYPE, &of_kind(b'3')),
        hostile("blockdev", TYPE, &of_kind(b'4')),
        hostile("fifo", TYPE, &of_kind(b'6')),
        hostile("contiguous", TYPE, &[executable_header().kind(b'7').with(&good_binary())]),
        hostile("unknown_type_Z", TYPE, &of_kind(b'Z')),
        hostile("old_nul_type", TYPE, &[executable_header().kind(0).with(&good_binary())]),
        // Before ustar, a directory was a file whose name ends with a slash.
        hostile("old_slash_dir", NAME, &[Header::of(b"a/", 0).kind(0).block(), executable()]),
    ]
}

fn modes_and_owner() -> Vec<HostileTar> {
    let with_mode = |mode| vec![executable_header().mode(mode).with(&good_binary())];
    vec![
        hostile("setuid", MODE, &with_mode(0o4755)),
        hostile("setgid_dir", MODE, &[Header::of(b"d", 0).kind(b'5').mode(0o2755).block(), executable()]),
        hostile("sticky_world", MODE, &with_mode(0o1777)),
        hostile("world_writable", MODE, &with_mode(0o666)),
        hostile("mode_000", MODE, &with_mode(0)),
        hostile(
            "uid_nonzero",
            "owner",
            &[executable_header().put(108, &octal(1000, 7)).with(&good_binary())],
        ),
        hostile(
            "xattr_caps",
            TYPE,
            &[pax(b'x', &[("SCHILY.xattr.security.capability", "\u{1}\0\0\u{2}")]), executable()],
        ),
        hostile(
            "pax_acl",
            TYPE,
            &[
                pax(b'x', &[("SCHILY.acl.access", "user::rwx,user:1000:rwx,group::r-x,other::r-x")]),
                executable(),
            ],
        ),
    ]
}

fn size_desync() -> Vec<HostileTar> {
    let size = good_binary().len();
    let binary = good_binary();
    let sized = |field: &[u8]| vec![executable_header().put(124, field).with(&binary)];
    let pax_size = |size: usize| pax(b'x', &[("size", &size.to_string())]);
    let mut negative = [0xff; 12];
    negative[11] = 0;
    let mut base256 = [0; 12];
    base256[0] = 0x80;
    base256[4..].copy_from_slice(&(size as u64).to_be_bytes());
    vec![
        // TARmageddon: one reader skips what the other reads as headers.
        hostile(
            "pax_size_gt_ustar0",
            TYPE,
            &[pax_size(BLOCK), file("a", b""), file("b", b"x"), executable()],
        ),
        hostile("pax_size_lt_ustar", TYPE, &[pax_size(0), file("a", &file("b", b"")), executable()]),
        hostile(
            "pax_before_longname",
            TYPE,
            &[pax_size(BLOCK), gnu_long(b'L', b"a"), file("a", b""), executable()],
        ),
        hostile(
            "pax_malformed_len",
            TYPE,
            &[Header::of(b"pax", 12).kind(b'x').with(b"99 path=../a"), executable()],
        ),
        hostile("pax_path_vs_name", TYPE, &[pax(b'x', &[("path", "zz")]), executable()]),
        hostile("pax_global", TYPE, &[pax(b'g', &[("path", "../a")]), executable()]),
        hostile(
            "symlink_with_data",
            TYPE,
            &[Header::of(b"a", BLOCK).kind(b'2').link(b"b").with(&file("b", b"")), executable()],
        ),
        hostile(
            "dir_with_data",
            TYPE,
            &[Header::of(b"a", BLOCK).kind(b'5').with(&file("b", b"")), executable()],
        ),
        hostile("size_base256", "size is not", &sized(&base256)),
        hostile("size_base256_neg", "size is not", &sized(&negative)),
        hostile("size_spaces", "size is not", &sized(format!("{size:>11o} ").as_bytes())),
        hostile("size_nonoctal", "size is not", &sized(b"00000000899\0")),
        hostile("bad_checksum", "checksum is wrong", &[bad_checksum(), padded(&binary)]),
        hostile("v7_magic", "magic", &[executable_header().put(257, &[0; 8]).with(&binary)]),
    ]
}

/// One more than the sum.
fn bad_checksum() -> Vec<u8> {
    let header = executable_header();
    let wrong = octal(header.sum() + 1, 7);
    header.put(148, &wrong).block_as_it_is()
}

fn sparse() -> Vec<HostileTar> {
    vec![
        hostile(
            "gnu_sparse_old",
            TYPE,
            &[
                // One block on disk, eight gigabytes when read; the map lies where ustar has the prefix.
                Header::of(b"a", BLOCK)
                    .kind(b'S')
                    .put(386, &octal(0, 11))
                    .put(483, b"77777777777\0")
                    .with(&[1]),
                executable(),
            ],
        ),
        hostile(
            "pax_sparse10",
            TYPE,
            &[
                pax(
                    b'x',
                    &[
                        ("GNU.sparse.major", "1"),
                        ("GNU.sparse.minor", "0"),
                        ("GNU.sparse.name", "a"),
                        ("GNU.sparse.realsize", "1099511627776"),
                    ],
                ),
                file("a", b"1000000000\n"),
                executable(),
            ],
        ),
    ]
}

fn duplicates() -> Vec<HostileTar> {
    vec![
        hostile(
            "duplicate",
            ASCENDING,
            &[executable(), executable_header().with(&noise(9, good_binary().len()))],
        ),
        hostile(
            "dup_manifest",
            NAME,
            &[file(".manifest.toml", b"a"), file(".manifest.toml", b"b"), executable()],
        ),
        hostile("dot_slash_self", NAME, &[executable(), executable_named(b"./km-plugin-probe")]),
        hostile(
            "file_then_dir",
            NAME,
            &[executable(), Header::of(b"km-plugin-probe/", 0).kind(b'5').mode(0o755).block()],
        ),
    ]
}

fn collisions() -> Vec<HostileTar> {
    vec![
        hostile("case_collision", NAME, &[executable(), executable_named(b"KM-plugin-probe")]),
        // The same name to file systems that normalize: composed, and with a combining accent.
        hostile(
            "unicode_collision",
            NAME,
            &[file("caf\u{e9}", b"a"), file("cafe\u{301}", b"b"), executable()],
        ),
        hostile("trailing_dot_space", NAME, &[executable(), executable_named(b"km-plugin-probe. ")]),
        hostile("win_reserved", NAME, &[file("CON", b"a"), executable()]),
    ]
}

fn text_attacks() -> Vec<HostileTar> {
    let named = |name: &[u8]| vec![Header::of(name, 1).with(b"a"), executable()];
    vec![
        hostile("control_chars", NAME, &named(b"a\x1b[2J\x1b]0;owned\x07")),
        hostile("bidi", NAME, &named("a\u{202e}txt.exe".as_bytes())),
        hostile("non_utf8", "not UTF-8", &named(b"a\xff\xfe")),
        hostile("nul_in_pax_path", TYPE, &[pax(b'x', &[("path", "a\0/../../b")]), executable()]),
    ]
}

fn limits() -> Vec<HostileTar> {
    let deep = "a/".repeat(49);
    let many: Vec<Vec<u8>> =
        std::iter::once(executable()).chain((0..1000).map(|i| file(&format!("m{i:04}"), b""))).collect();
    let pax_content = "x".repeat(1 << 20);
    vec![
        hostile(
            "overlong",
            "prefix",
            &[Header::of(&[b'a'; 100], 0).prefix(&[b'b'; 155]).block(), executable()],
        ),
        hostile("deep", NAME, &[file(&deep, b""), executable()]),
        // Each is a good entry; V15 meets the first that the manifest does not list.
        hostile("many_entries", "64", &many).refused_by(Rule::Files),
        hostile("pax_huge", TYPE, &[pax(b'x', &[("comment", &pax_content)]), executable()]),
        // The size is what a reader would allocate.
        hostile(
            "gnu_longname_huge",
            TYPE,
            &[Header::of(b"longlink", 0o77777777777).kind(b'L').block(), zeros(1), executable()],
        ),
        // The manifest cannot agree, since the file would have to be there: V15 by its header.
        raw(
            "size_beyond_end",
            "ends before its end marker",
            [executable(), Header::of(b"z", 1 << 30).block(), zeros(2)].concat(),
        )
        .refused_by(Rule::Files),
        hostile(
            "mtime_future",
            "",
            &[executable_header().put(136, &octal(CREATED + 1, 11)).with(&good_binary())],
        )
        .fine_without_a_manifest(),
    ]
}

fn framing() -> Vec<HostileTar> {
    let cut = executable();
    let cut = cut[..cut.len() - BLOCK].to_vec();
    let mut dirty = executable();
    *dirty.last_mut().unwrap() = 1;
    let end = "ends before its end marker";
    vec![
        // No manifest has files that fill so few bytes, so it is V13 that counts them.
        raw("no_eof", end, executable()).refused_by(Rule::Decompression),
        raw("one_zero_block", end, [executable(), zeros(1)].concat()).refused_by(Rule::Decompression),
        raw("data_after_eof", "follows the end", [archive(&[executable()]), file("z", b"a")].concat()),
        raw("truncated", end, cut).refused_by(Rule::Decompression),
        raw("empty", "empty", vec![0; archive(&[executable()]).len()]),
        hostile("nonzero_padding", "padding", &[dirty]),
        hostile("empty_name", NAME, &[executable(), Header::of(b"", 1).with(b"a")]),
        hostile("name_dot", NAME, &[file(".", b""), executable()]),
    ]
}

fn installer_state() -> Vec<HostileTar> {
    // What an installer writes when it is done; brought along, a crash looks like success.
    vec![hostile("install_marker", NAME, &[file(".km-ok", b""), executable()])]
}

/// What is not in the checklist by name.
fn nearby() -> Vec<HostileTar> {
    [other_fields(), other_numbers(), other_framing()].into_iter().flatten().collect()
}

fn other_fields() -> Vec<HostileTar> {
    let put = |at: usize, bytes: &[u8]| vec![executable_header().put(at, bytes).with(&good_binary())];
    let after_name = [EXECUTABLE.as_bytes(), b"\0hidden"].concat();
    vec![
        hostile("gnu_magic", "magic", &put(257, b"ustar  \0")),
        hostile("magic_version_spaces", "magic", &put(263, b"  ")),
        hostile("bytes_after_name", "follows the name", &put(0, &after_name)),
        hostile("link_of_regular_file", "link name", &put(157, b"/etc/passwd")),
        hostile("last_byte_of_link", "link name", &put(256, b"a")),
        hostile("owner_name", "owner's name", &put(265, b"root")),
        hostile("group_name", "owner's name", &put(328, b"a")),
        hostile("gid_nonzero", "owner", &put(116, &octal(1, 7))),
        hostile("device_major", "device", &put(329, &octal(1, 7))),
        hostile("device_minor", "device", &put(337, &octal(1, 7))),
        hostile("last_byte_of_header", "prefix", &put(511, b"a")),
        hostile("slash_in_name", NAME, &[executable_named(b"bin/km-plugin-probe")]),
        hostile("leading_dash", NAME, &[file("-rf", b""), executable()]),
        hostile("newline_in_name", NAME, &[file("a\nb", b""), executable()]),
        hostile("descending", ASCENDING, &[executable(), file("a", b"")]),
    ]
}

fn other_numbers() -> Vec<HostileTar> {
    let put = |at: usize, bytes: &[u8]| vec![executable_header().put(at, bytes).with(&good_binary())];
    let sum = executable_header().sum();
    let checksum = |field: String| {
        vec![executable_header().put(148, field.as_bytes()).block_as_it_is(), padded(&good_binary())]
    };
    vec![
        hostile("mode_with_file_bits", MODE, &put(100, &octal(0o100_755, 7))),
        hostile("mode_short", "mode is not", &put(100, b"755\0\0\0\0\0")),
        hostile("mode_without_end", "mode is not", &put(100, b"00000755")),
        hostile("mode_space", "mode is not", &put(100, b"000755 \0")),
        hostile("mode_minus", "mode is not", &put(100, b"-000755\0")),
        hostile("mode_plus", "mode is not", &put(100, b"+000755\0")),
        hostile("uid_base256", "uid is not", &put(108, b"\x80\0\0\0\0\0\0\0")),
        hostile("size_without_end", "size is not", &put(124, b"000000011454")),
        hostile("size_all_nul", "size is not", &put(124, &[0; 12])),
        hostile("mtime_base256", "mtime is not", &put(136, b"\x80\0\0\0\0\0\0\0\0\0\0\0")),
        hostile("mtime_spaces", "mtime is not", &put(136, b"           \0")),
        hostile("checksum_spaces", "checksum is not", &checksum(format!("{sum:>6o}\0 "))),
        hostile("checksum_without_end", "checksum is not", &checksum(format!("{sum:08o}"))),
        hostile("checksum_short", "checksum is not", &checksum(format!("{sum:05o}\0\0 "))),
    ]
}

fn other_framing() -> Vec<HostileTar> {
    let good = archive(&[executable()]);
    let ends = |end: Vec<u8>| [executable(), end].concat();
    let dirty_second = [zeros(1), vec![0; BLOCK - 1], vec![1]].concat();
    let one_more_than_may_be: Vec<Vec<u8>> =
        std::iter::once(executable()).chain((0..64).map(|i| file(&format!("m{i:02}"), b""))).collect();
    vec![
        raw("zero_block_first", "empty", [zeros(1), good.clone()].concat()),
        raw("zero_block_then_entry", "one zero block alone", ends([zeros(1), file("z", b"")].concat())),
        raw("second_zero_block_dirty", "one zero block alone", ends(dirty_second)),
        raw("three_zero_blocks", "follows the end", ends(zeros(3))),
        raw("padded_to_20_blocks", "follows the end", ends(zeros(20))),
        raw("two_archives", "follows the end", [good.clone(), good].concat()),
        // Docs: 1 to 64 entries. The manifest lists no more either, so V15 may come first.
        hostile("entries_65", "64", &one_more_than_may_be).refused_by(Rule::Files),
    ]
}

/// The files of a manifest whose archive is `length` bytes: the good executable, and behind it one
/// file that takes up the rest. Nothing but the executable if that many do not fit.
fn files_filling(length: usize) -> Vec<FileEntry> {
    let executable = Content::new(EXECUTABLE, &good_binary()).entry();
    let least = tar_size(std::slice::from_ref(&executable)).unwrap();
    let rest = (length as u64).checked_sub(least + BLOCK as u64).map(|size| FileEntry {
        path: "z".parse().unwrap(),
        size,
        sha256: Digest::of(b"z"),
        executable: false,
    });
    std::iter::once(executable).chain(rest).collect()
}

pub(crate) fn cases() -> Vec<Case> {
    let in_package = |case: HostileTar| {
        let package = Forge::of_tar(&case.tar, files_filling(case.tar.len())).bytes();
        refused(case.rule, case.name, package)
    };
    let mut cases: Vec<Case> = checklist().into_iter().chain(nearby()).map(in_package).collect();
    cases.push(refused(Rule::Archive, "entry_65_behind_64_declared", entry_65()));
    cases.push(accepted("entries_64", package_of(&numbered_files(64))));
    cases.push(accepted("name_of_100_bytes", package_of(&with_executable(&"z".repeat(100)))));
    cases.push(accepted("checksum_of_six_digits", with_header(six_digit_checksum())));
    cases.push(accepted("devices_of_nul", with_header(executable_header().put(329, &[0; 16]).block())));
    cases
}

fn package_of(files: &[Content]) -> Vec<u8> {
    Forge::of_files(files).bytes()
}

fn with_executable(other: &str) -> Vec<Content> {
    vec![Content::new(EXECUTABLE, &good_binary()), Content::new(other, b"a")]
}

/// The executable, and empty files behind it.
fn numbered_files(count: usize) -> Vec<Content> {
    std::iter::once(Content::new(EXECUTABLE, &good_binary()))
        .chain((1..count).map(|i| Content::new(&format!("m{i:02}"), b"")))
        .collect()
}

/// All that the manifest lists, and where the end should be one entry more: not a file too many,
/// but an archive of more than 64.
fn entry_65() -> Vec<u8> {
    let files = numbered_files(64);
    let mut tar = tar_of(&files);
    let end = tar.len() - 2 * BLOCK;
    tar[end..end + BLOCK].copy_from_slice(&file("z", b""));
    Forge::of_tar(&tar, files.iter().map(Content::entry).collect()).bytes()
}

/// A package whose executable has this header.
fn with_header(header: Vec<u8>) -> Vec<u8> {
    let tar = archive(&[header, padded(&good_binary())]);
    Forge::of_tar(&tar, files_filling(tar.len())).bytes()
}

/// Six digits, NUL, space: as most tars but ours write it.
fn six_digit_checksum() -> Vec<u8> {
    let header = executable_header();
    let field = format!("{:06o}\0 ", header.sum());
    header.put(148, field.as_bytes()).block_as_it_is()
}

/// What the strict reader alone says about an archive that comes in pieces of this size.
fn read(tar: &[u8], piece: usize) -> Result<(), ArchiveError> {
    let mut reader = StrictReader::default();
    tar.chunks(piece).try_for_each(|piece| reader.push(piece, &mut |_| Ok(())))?;
    reader.finish()
}

#[test]
fn the_checklist_is_complete() {
    let cases = checklist();
    let names: HashSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!((cases.len(), names.len()), (79, 79));
}

/// Else a case could be refused for a fault of these blocks instead of its own.
#[test]
fn blocks_by_hand_are_what_the_writer_makes() {
    let binary = Content::new(EXECUTABLE, &good_binary());
    let notes = Content::new("notes.txt", b"a");
    assert_eq!(archive(&[executable(), file("notes.txt", b"a")]), tar_of(&[binary, notes]));
}

#[test]
fn the_strict_reader_alone_refuses_each_for_its_own_reason() {
    let wrong: Vec<String> = checklist().iter().chain(&nearby()).filter_map(misjudged).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn misjudged(case: &HostileTar) -> Option<String> {
    [1, 509, usize::MAX].into_iter().find_map(|piece| {
        let said = read(&case.tar, piece);
        let right = match (case.because, &said) {
            (Some(because), Err(error)) => error.to_string().contains(because),
            (expected, said) => expected.is_none() && said.is_ok(),
        };
        (!right)
            .then(|| format!("{} in pieces of {piece}: must be {:?}, was {said:?}", case.name, case.because))
    })
}

#[test]
fn the_strict_reader_alone_refuses_an_empty_stream_and_half_a_block() {
    assert!(read(&[], 1).is_err());
    assert!(read(&zeros(2), 512).is_err());
    assert!(read(&executable()[..100], 7).is_err());
}
