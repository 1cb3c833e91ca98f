//! The manifest as a text: E7, E8, E13. All of it is signed by the release key; `peek` meets it
//! before any key does.

use std::process::Command;

use km_package::digest::Digest;
use km_package::manifest::{MAX_FILES, MAX_FRAMES, MAX_PAYLOAD};
use km_package::verify::{Discard, Rule, UntrustedPackage, verify};

use crate::forge::{
    Content, EXECUTABLE, Forge, Sealed, compress, context, good_binary, good_identity, trusted_keys,
};
use crate::verdict::{Case, Drips, Verdict, accepted, judge, judge_stream, refused};

pub(crate) fn cases() -> Vec<Case> {
    [tags(), syntax(), unknown_keys(), names(), numbers(), times(), digests(), sums(), shallow_nesting()]
        .concat()
}

fn text() -> String {
    Forge::good().manifest.to_text()
}

/// The good payload behind this text.
fn signed(rule: Rule, name: impl Into<String>, text: impl AsRef<[u8]>) -> Case {
    refused(rule, name, Forge::good().seal_text(text.as_ref()).bytes())
}

/// The good manifest with one piece of its text replaced.
fn edited(name: impl Into<String>, from: &str, to: &str) -> Case {
    signed(Rule::Manifest, name, replaced(from, to))
}

fn replaced(from: &str, to: &str) -> String {
    let text = text();
    // A second place could be the one that is changed, and the case another one than it is named.
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.replace(from, to)
}

const TAG: &str = "format = \"kmpkg/1\"\n";
/// Where the first of `[[files]]` begins, behind the end of `frames`.
const FIRST_FILE: &str = "]\n\n[[files]]";
/// Where the first of `frames` begins.
const FIRST_FRAME: &str = "frames = [\n    {";

/// E8: what the release key signed for another purpose is no package.
fn tags() -> Vec<Case> {
    let tagged = |name: &str, tag: &str| signed(Rule::Format, name, replaced(TAG, tag));
    vec![
        tagged("format_2", "format = \"kmpkg/2\"\n"),
        tagged("format_10", "format = \"kmpkg/10\"\n"),
        tagged("format_0", "format = \"kmpkg/0\"\n"),
        tagged("format_in_capitals", "format = \"KMPKG/1\"\n"),
        tagged("format_without_spaces", "format=\"kmpkg/1\"\n"),
        tagged("format_in_single_quotes", "format = 'kmpkg/1'\n"),
        tagged("format_crlf", "format = \"kmpkg/1\"\r\n"),
        tagged("format_with_comment", "format = \"kmpkg/1\" # now\n"),
        tagged("format_with_space_in_front", &format!(" {TAG}")),
        tagged("format_after_a_line", &format!("\n{TAG}")),
        tagged("format_after_a_comment", &format!("# a package\n{TAG}")),
        tagged("byte_order_mark", &format!("\u{feff}{TAG}")),
        tagged("no_format", ""),
        signed(Rule::Format, "identity", good_identity().to_text()),
        signed(Rule::Format, "index", text().replacen("kmpkg/1", "kmindex/1", 1)),
        signed(Rule::Format, "revocations", "format = \"kmrevocations/1\"\nkeys = []\n"),
        signed(
            Rule::Format,
            "git_commit",
            "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor A <a@a> 1 +0000\n\nformat = \"kmpkg/1\"\n",
        ),
        signed(Rule::Format, "json", "{\"schema\": \"kmpkg/1\"}"),
        signed(Rule::Format, "text_of_one_byte", "f"),
        signed(Rule::Format, "tag_without_newline", TAG.trim_end()),
        signed(Rule::Manifest, "tag_alone", TAG),
    ]
}

fn syntax() -> Vec<Case> {
    let ends = |name: &str, more: &[u8]| signed(Rule::Manifest, name, [text().as_bytes(), more].concat());
    vec![
        edited("duplicate_key", "\ntier = \"Pro\"\n", "\ntier = \"Pro\"\ntier = \"Enterprise\"\n"),
        edited("duplicate_key_quoted", "\ntier = \"Pro\"\n", "\ntier = \"Pro\"\n\"tier\" = \"Enterprise\"\n"),
        edited("duplicate_format", "\n[plugin]", "format = \"kmpkg/1\"\n[plugin]"),
        edited("duplicate_table", "[target]", "[customer]\nid = \"other\"\ntier = \"Pro\"\n[target]"),
        edited("customer_as_dotted_key", "\n[plugin]", "customer.id = \"other\"\n[plugin]"),
        edited(
            "customer_inline_and_table",
            "\n[plugin]",
            "customer = { id = \"other\", tier = \"Pro\" }\n[plugin]",
        ),
        edited("customer_as_array", "[customer]", "[[customer]]"),
        edited("files_as_table", FIRST_FILE, "]\n\n[files]"),
        edited("key_in_capitals", "\ntier = \"Pro\"\n", "\nTier = \"Pro\"\n"),
        edited("missing_customer", "[customer]", "[customers]"),
        edited("missing_tier", "tier = \"Pro\"\n\n[target]", "\n[target]"),
        edited("type_confusion", "id = \"customer_123\"", "id = [\"customer_123\"]"),
        edited("open_string", "triple = \"x86_64", "triple = \"\"\"x86_64"),
        edited("control_character", "description = \"probes\"", "description = \"\u{1b}[2J\""),
        edited("control_character_in_comment", "\n[plugin]", "# \u{1b}[2J\n[plugin]"),
        edited("bare_carriage_return", "\n[plugin]", "\r[plugin]"),
        edited("nul", "\n[plugin]", "\0[plugin]"),
        edited("surrogate", "\"probes\"", "\"\\ud800\""),
        edited("unknown_escape", "\"probes\"", "\"\\q\""),
        edited("byte_order_mark_inside", "\n[plugin]", "\n\u{feff}[plugin]"),
        ends("garbage_at_the_end", b"garbage"),
        ends("nul_at_the_end", b"\0"),
        ends("json_at_the_end", b"{}"),
        ends("not_utf8_at_the_end", b"# \xff\n"),
        ends("cut_character_at_the_end", b"# \xc3"),
        ends("overlong_character", b"# \xc0\xaf\n"),
    ]
}

/// A section that gates a decision may not say what this reader does not understand.
fn unknown_keys() -> Vec<Case> {
    let mut cases = Vec::new();
    for section in ["[customer]", "[target]", "[identity]", "[payload]"] {
        cases.push(edited(format!("unknown_in_{section}"), section, &format!("{section}\nsurprise = 1")));
    }
    cases.push(edited("unknown_in_file", FIRST_FILE, &format!("{FIRST_FILE}\nsurprise = 1")));
    cases.push(edited("unknown_in_frame", FIRST_FRAME, "frames = [\n    { surprise = 1,"));
    for section in ["[plugin]", "[protocol]", "[build]", "[permissions]"] {
        let text = replaced(section, &format!("{section}\nsurprise = 1"));
        let package = Forge::good().seal_text(text.as_bytes()).bytes();
        cases.push(accepted(format!("unknown_in_{section}"), package));
    }
    let table = format!("{}\n[surprise]\nkey = 1\n", text());
    cases.push(accepted("unknown_section", Forge::good().seal_text(table.as_bytes()).bytes()));
    cases
}

/// T15, I8: names become paths, arguments and lines on a terminal.
fn names() -> Vec<Case> {
    let mut cases = Vec::new();
    let hostile = [
        "",
        ".",
        "..",
        "../probe",
        "/probe",
        "a/b",
        "a\\\\b",
        "$(id)",
        "a b",
        "-a",
        "a\\u001b[2J",
        "a\\nb",
        "a\\u0000b",
        "\\u202ea",
    ];
    let places = [
        ("plugin", "name = \"probe\"", "name"),
        ("version", "version = \"1.2.3\"", "version"),
        ("customer", "id = \"customer_123\"", "id"),
        ("platform", "platform = \"linux-amd64\"", "platform"),
        ("tier", "tier = \"Pro\"\n\n[target]", "tier"),
        ("file", "path = \"notes.txt\"", "path"),
    ];
    for (place, from, key) in places {
        for name in hostile {
            let more = if place == "tier" { "\n\n[target]" } else { "" };
            cases.push(edited(format!("{place}_called_{name}"), from, &format!("{key} = \"{name}\"{more}")));
        }
    }
    let long = "a".repeat(200);
    cases.extend([
        edited("plugin_other_than_the_executable", "name = \"probe\"", "name = \"other\""),
        edited("plugin_long", "name = \"probe\"", &format!("name = \"{long}\"")),
        edited("version_long", "\"1.2.3\"", &format!("\"1.2.3-{long}\"")),
        edited("version_short", "\"1.2.3\"", "\"1.2\""),
        edited("version_with_v", "\"1.2.3\"", "\"v1.2.3\""),
        edited("version_with_path", "\"1.2.3\"", "\"1.2.3-../../x\""),
        edited("version_overflows", "\"1.2.3\"", "\"18446744073709551616.0.0\""),
        edited("customer_long", "\"customer_123\"", &format!("\"{long}\"")),
        edited("tier_in_lower_case", "required_tier = \"Pro\"", "required_tier = \"pro\""),
        edited("tier_as_number", "required_tier = \"Pro\"", "required_tier = 0"),
        edited("hidden_file", "\"notes.txt\"", "\".km-ok\""),
        edited("files_not_in_order", "\"notes.txt\"", "\"a.txt\""),
        edited("file_twice", "\"notes.txt\"", &format!("\"{EXECUTABLE}\"")),
        edited("executable_not_executable", "executable = true", "executable = false"),
        edited("no_executable", &format!("path = \"{EXECUTABLE}\""), "path = \"km-plugin-other\""),
    ]);
    cases
}

fn numbers() -> Vec<Case> {
    let mut cases = Vec::new();
    let hostile = [
        "-1",
        "1.0",
        "1e3",
        "nan",
        "inf",
        "\"100\"",
        "18446744073709551616",
        "99999999999999999999999999",
        "true",
        "[]",
    ];
    for number in hostile {
        cases.push(edited(format!("sequence_{number}"), "sequence = 100", &format!("sequence = {number}")));
        cases.push(edited(format!("offset_{number}"), "offset = 512", &format!("offset = {number}")));
        cases.push(edited(
            format!("protocol_{number}"),
            "versions = [2, 3]",
            &format!("versions = [2, {number}]"),
        ));
        cases.push(edited(format!("tar_size_{number}"), "tar_size = ", &format!("tar_size = {number} #")));
    }
    cases.extend([
        edited("protocol_over_32_bits", "versions = [2, 3]", "versions = [2, 4294967296]"),
        edited("no_protocol", "versions = [2, 3]", "versions = []"),
        edited("offset_almost_overflows", "offset = 512", "offset = 9223372036854775807"),
        edited("slot_beyond_the_file", "offset = 512", "offset = 813"),
        edited("slot_too_small", "size = 4096\n", "size = 4095\n"),
        edited("slot_too_large", "size = 4096\n", "size = 4097\n"),
        edited("slot_of_nothing", "size = 4096\n", "size = 0\n"),
    ]);
    cases
}

fn times() -> Vec<Case> {
    let mut cases = Vec::new();
    let hostile = [
        "\"2027-11-22T00:00:00Z\"",
        "2027-11-22",
        "2027-11-22T00:00:00",
        "00:00:00",
        "2027-11-22T00:00:00.5Z",
        "2027-13-22T00:00:00Z",
        "2027-02-30T00:00:00Z",
        "2027-11-22T25:00:00Z",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59Z",
        "4294967295",
        "0000-01-01T00:00:00Z",
    ];
    for time in hostile {
        cases.push(edited(format!("created_{time}"), "created = ", &format!("created = {time} #")));
        cases.push(edited(format!("expires_{time}"), "expires = ", &format!("expires = {time} #")));
    }
    cases
}

/// E13: the digest of something else, or no digest.
fn digests() -> Vec<Case> {
    let mut cases = Vec::new();
    for key in ["base_sha256", "tar_sha256", "sha256"] {
        let from = format!("{key} = \"");
        let at = text().find(&format!("\n{from}")).unwrap() + 1 + from.len();
        let right = text()[at..at + 64].to_owned();
        for (name, wrong) in [
            ("capitals", right.to_uppercase()),
            ("short", right[..62].to_owned()),
            ("odd", right[..63].to_owned()),
            ("long", format!("{right}00")),
            ("prefixed", format!("sha256:{right}")),
            ("spaced", format!(" {right}")),
            ("empty", String::new()),
        ] {
            cases.push(edited(format!("{key}_{name}"), &format!("\"{right}\""), &format!("\"{wrong}\"")));
        }
    }
    let of_other = Digest::of(b"other");
    let declared = |rule, name: &str, forge: Forge| refused(rule, name, forge.bytes());
    cases.extend([
        declared(
            Rule::Archive,
            "tar_of_other_digest",
            Forge::good().saying(|m| m.payload.tar_sha256 = of_other),
        ),
        declared(
            Rule::Payload,
            "frame_of_other_digest",
            Forge::good().saying(|m| m.payload.frames[1].sha256 = of_other),
        ),
        declared(
            Rule::Payload,
            "last_frame_of_other_digest",
            Forge::good().saying(|m| m.payload.frames[2].sha256 = of_other),
        ),
        declared(
            Rule::Files,
            "executable_of_other_digest",
            Forge::good().saying(|m| m.files[0].sha256 = of_other),
        ),
        declared(Rule::Files, "file_of_other_digest", Forge::good().saying(|m| m.files[1].sha256 = of_other)),
        // Right digests, of the wrong things.
        declared(
            Rule::Archive,
            "tar_digest_of_the_compressed",
            Forge::good().saying(|m| m.payload.tar_sha256 = m.payload.frames[0].sha256),
        ),
        declared(Rule::Payload, "frame_digests_swapped", Forge::good().saying(swap_frame_digests)),
        declared(
            Rule::Files,
            "file_digests_swapped",
            Forge::good().saying(|m| {
                let first = m.files[0].sha256;
                m.files[0].sha256 = m.files[1].sha256;
                m.files[1].sha256 = first;
            }),
        ),
    ]);
    cases
}

fn swap_frame_digests(manifest: &mut km_package::manifest::Manifest) {
    let frames = &mut manifest.payload.frames;
    (frames[0].sha256, frames[1].sha256) = (frames[1].sha256, frames[0].sha256);
}

/// Sizes that do not add up, and more of something than may be.
fn sums() -> Vec<Case> {
    let saying = |name: &str, change: fn(&mut km_package::manifest::Manifest)| {
        refused(Rule::Manifest, name, Forge::good().saying(change).bytes())
    };
    vec![
        saying("payload_larger_than_its_frames", |m| m.payload.size += 1),
        saying("payload_smaller_than_its_frames", |m| m.payload.size -= 1),
        saying("payload_over_the_limit", |m| {
            let more = MAX_PAYLOAD + 1 - m.payload.size;
            m.payload.size += more;
            m.payload.frames[0].size += more;
        }),
        saying("frames_overflow", |m| {
            m.payload.frames[0].size = i64::MAX as u64;
            m.payload.frames[1].size = i64::MAX as u64;
            m.payload.frames[2].size = 3;
            m.payload.size = 1;
        }),
        saying("frame_of_no_bytes", |m| {
            m.payload.frames[0].size += m.payload.frames[1].size;
            m.payload.frames[1].size = 0;
        }),
        saying("no_frames", |m| m.payload.frames.clear()),
        saying("tar_larger_than_its_files", |m| m.payload.tar_size += 512),
        saying("tar_smaller_than_its_files", |m| m.payload.tar_size -= 512),
        saying("tar_over_the_limit", |m| {
            m.files[1].size = 1 << 30;
            m.payload.tar_size = km_package::archive::tar_size(&m.files).unwrap();
        }),
        saying("files_overflow", |m| m.files[1].size = i64::MAX as u64),
        saying("no_files", |m| m.files.clear()),
        refused(
            Rule::Manifest,
            "frames_17",
            Forge::good().with_frames(vec![compress(b"a"); MAX_FRAMES + 1]).bytes(),
        ),
        refused(Rule::Manifest, "files_65", Forge::of_files(&many_files(MAX_FILES + 1)).bytes()),
    ]
}

fn many_files(count: usize) -> Vec<Content> {
    let others = (1..count).map(|i| Content::new(&format!("m{i:02}"), b""));
    std::iter::once(Content::new(EXECUTABLE, &good_binary())).chain(others).collect()
}

/// Deep enough to be refused, and no deeper than any parser stands.
fn shallow_nesting() -> Vec<Case> {
    vec![
        edited(
            "arrays_in_arrays",
            "\n[plugin]",
            &format!("x = {}{}\n[plugin]", "[".repeat(100), "]".repeat(100)),
        ),
        edited(
            "tables_in_tables",
            "\n[plugin]",
            &format!("x = {}1{}\n[plugin]", "{a=".repeat(100), "}".repeat(100)),
        ),
        edited("dotted_keys", "\n[plugin]", &format!("x{} = 1\n[plugin]", ".a".repeat(100))),
        edited("table_of_many_keys", "\n[plugin]", &format!("[x{}]\n[plugin]", ".a".repeat(100))),
        signed(Rule::Envelope, "arrays_100000_deep", format!("{TAG}x = {}", "[".repeat(100_000))),
    ]
}

/// Values as deep as 64 KiB and the parser's own limits allow.
fn deep_values() -> Vec<(&'static str, String)> {
    let nested =
        |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    // 79 keys are few enough for one dotted key, 78 tables for one value; together they are 6,162.
    let table = format!("{{a{} = ", ".a".repeat(78));
    vec![
        ("arrays", nested("[", "]", 31_000)),
        ("arrays_never_closed", "[".repeat(62_000)),
        ("tables", nested("{a=", "}", 15_000)),
        ("dotted_keys", format!("{{ a{} = 1 }}", ".a".repeat(31_000))),
        ("dotted_keys_in_tables", nested(&table, "}", 78)),
        // TOML 1.1 lets an inline table go on in the next line.
        ("dotted_keys_in_tables_over_lines", nested(&format!("{table}\n"), "\n}", 78)),
        ("dotted_keys_in_tables_in_arrays", nested(&format!("[{table}"), "}]", 39)),
    ]
}

/// Each value where unknown keys are ignored, and where they are refused; and as headers.
fn deep_texts() -> Vec<(String, String)> {
    let mut texts = Vec::new();
    for (name, value) in deep_values() {
        for (place, from) in [("at_the_root", "\n[plugin]"), ("in_customer", "\ntier = \"Pro\"\n")] {
            texts.push((format!("{name}_{place}"), replaced(from, &format!("\nsurprise = {value}{from}"))));
        }
    }
    for (name, open, close) in [("table_header", "[", "]"), ("array_header", "[[", "]]")] {
        let header = format!("\n{open}x{}{close}\n[plugin]", ".a".repeat(31_000));
        texts.push((name.to_owned(), replaced("\n[plugin]", &header)));
    }
    texts
}

const ALONE: &str = "KM_HOSTILE_TEXT_ALONE";

/// An overflow of the stack ends the whole process, so each deep text is judged in one of its own:
/// this test runs itself for each.
#[test]
fn no_depth_of_nesting_overflows_the_stack() {
    if let Ok(name) = std::env::var(ALONE) {
        return judge_deep_text(&name);
    }
    let failed: Vec<String> = deep_texts()
        .iter()
        .filter_map(|(name, _)| judge_alone(name).err().map(|e| format!("{name}: {e}")))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn judge_alone(name: &str) -> Result<(), String> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "text::no_depth_of_nesting_overflows_the_stack", "--nocapture"])
        .env(ALONE, name)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
    if output.status.success() { Ok(()) } else { Err(format!("{}: {said}", output.status)) }
}

fn judge_deep_text(name: &str) {
    let (_, text) = deep_texts().into_iter().find(|(other, _)| other == name).unwrap();
    assert!(text.len() <= 64 * 1024, "{} bytes", text.len());
    let package = Forge::good().seal_text(text.as_bytes()).bytes();
    // What lies under an unknown key at the root is ignored where it can be parsed at all.
    let may_be_accepted = name.ends_with("_at_the_root");
    for verdict in [judge(&package), judge_stream(Drips { stream: &package[..], most: 7 })] {
        let right =
            verdict == Verdict::Refused(Rule::Manifest) || may_be_accepted && verdict == Verdict::Accepted;
        assert!(right, "{verdict:?}");
    }
}

#[test]
fn a_newer_format_says_that_km_is_too_old() {
    let package = Forge::good().seal_text(replaced(TAG, "format = \"kmpkg/2\"\n").as_bytes()).bytes();
    let open = || UntrustedPackage::open(&package[..], Discard).unwrap();
    let refusal = verify(open(), &trusted_keys(), &context()).unwrap_err().to_string();
    assert!(refusal.contains("newer km"), "{refusal}");
    let refusal = open().peek().unwrap_err().to_string();
    assert!(refusal.contains("newer km"), "{refusal}");
}

/// T14: nothing is parsed before it is verified, not even to say what is wrong with it.
#[test]
fn an_unsigned_text_is_refused_before_it_is_parsed() {
    for text in ["", "garbage", "format = \"kmpkg/2\"\n", "format = \"kmpkg/1\"\n[plugin"] {
        let sealed = Forge::good().seal();
        let package = Sealed { manifest: format!("{text}\n").into_bytes(), ..sealed }.bytes();
        assert_eq!(judge(&package), Verdict::Refused(Rule::Signature), "{text}");
    }
}
