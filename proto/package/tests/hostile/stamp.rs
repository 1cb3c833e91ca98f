//! Files, the binary and the identity in it: V15 and V16 (E14 to E16).
//!
//! All digests in the manifest are those of the hostile files, and the release key signed it: what
//! it attests besides is the base, which was digested once, when the plugin was built.

use km_package::digest::Digest;
use km_package::identity::{Identity, SLOT_LEN, SignedIdentity, api_key_digest, empty_slot};
use km_package::manifest::Slot;
use km_package::signature::Signature;
use km_package::tier::Tier;
use km_package::verify::Rule;

use crate::blocks;
use crate::forge::{
    Content, EXECUTABLE, Forge, SLOT_AT, SLOT_END, base_digest, compiled, files_with, good_binary,
    good_identity, noise, public, release_key, second_key, sign, slot_of, stamped, stranger_key, tar_of,
};
use crate::verdict::{Case, accepted, refused};

pub(crate) fn cases() -> Vec<Case> {
    [files(), other_identities(), other_texts(), other_signers(), slots(), bases(), sections()].concat()
}

fn with_binary(name: &str, binary: Vec<u8>) -> Case {
    refused(Rule::Identity, name, Forge::of_binary(&binary).bytes())
}

/// The good binary with this identity, signed by the release key.
fn with_identity(name: &str, change: impl FnOnce(&mut Identity)) -> Case {
    let mut identity = good_identity();
    change(&mut identity);
    with_text(name, &identity.to_text())
}

fn with_text(name: &str, text: &str) -> Case {
    with_binary(name, stamped(&slot_of(&release_key(), text)))
}

/// V15: the archive is a good one, only not of these files.
fn files() -> Vec<Case> {
    let binary = good_binary();
    let declared = || files_with(&good_binary()).iter().map(Content::entry).collect::<Vec<_>>();
    let instead = |name: &str, files: &[Content]| {
        refused(Rule::Files, name, Forge::of_tar(&tar_of(files), declared()).bytes())
    };
    let notes = Content::new("notes.txt", b"what is new\n");
    let executable = Content::new(EXECUTABLE, &binary);
    let mut other = binary.clone();
    other[10] ^= 1;
    let mode = |file: &Content, executable| Content { executable, ..file.clone() };
    vec![
        instead("executable_changed", &[Content::new(EXECUTABLE, &other), notes.clone()]),
        instead(
            "executable_longer",
            &[Content::new(EXECUTABLE, &[&binary[..], &[0]].concat()), notes.clone()],
        ),
        instead(
            "executable_shorter",
            &[Content::new(EXECUTABLE, &binary[..binary.len() - 1]), notes.clone()],
        ),
        instead("notes_changed", &[executable.clone(), Content::new("notes.txt", b"what is old\n")]),
        instead("notes_of_another_name", &[executable.clone(), Content::new("notes.md", b"what is new\n")]),
        instead("notes_before", &[Content::new("a.txt", b"what is new\n"), executable.clone()]),
        instead("executable_mode_0644", &[mode(&executable, false), notes.clone()]),
        instead("notes_mode_0755", &[executable.clone(), mode(&notes, true)]),
        refused(
            Rule::Archive,
            "other_time_than_the_build",
            Forge::good()
                .saying(|m| {
                    m.build.created = crate::forge::time(m.build.created.unix() + 1);
                })
                .bytes(),
        ),
        refused(Rule::Files, "file_that_is_not_listed", unlisted()),
    ]
}

/// In place of the last listed file there are two; all the bytes together are as declared.
fn unlisted() -> Vec<u8> {
    let binary = good_binary();
    let executable = Content::new(EXECUTABLE, &binary);
    let listed = [executable.clone(), Content::new("z", &[1; 1024])];
    let tar = blocks::archive(&[
        tar_of(&[executable]).strip_suffix(&blocks::zeros(2)[..]).unwrap().to_vec(),
        blocks::file("x", &[1; 512]),
        blocks::file("z", b""),
    ]);
    Forge::of_tar(&tar, listed.iter().map(Content::entry).collect()).bytes()
}

/// E15: signed and whole, and not what the manifest says.
fn other_identities() -> Vec<Case> {
    let key = Some(api_key_digest("key"));
    let manifest_with_key = |name: &str, binary: Vec<u8>| {
        refused(
            Rule::Identity,
            name,
            Forge::of_binary(&binary).saying(|m| m.customer.api_key_sha256 = key).bytes(),
        )
    };
    let mut with_key = good_identity();
    with_key.api_key_sha256 = key;
    let keyed = stamped(&slot_of(&release_key(), &with_key.to_text()));
    let mut with_other_key = good_identity();
    with_other_key.api_key_sha256 = Some(api_key_digest("other"));
    let other_keyed = stamped(&slot_of(&release_key(), &with_other_key.to_text()));
    vec![
        with_identity("stamp_of_another_plugin", |i| i.plugin = "other".parse().unwrap()),
        with_identity("stamp_of_another_version", |i| i.version = "1.2.4".to_owned()),
        with_identity("stamp_of_another_build_of_the_version", |i| i.version = "1.2.3+1".to_owned()),
        with_identity("stamp_of_no_version", |i| i.version = String::new()),
        with_identity("stamp_of_another_customer", |i| i.customer = "acme".parse().unwrap()),
        with_identity("stamp_of_the_customer_in_capitals", |i| i.customer = "CUSTOMER_123".parse().unwrap()),
        with_identity("stamp_of_a_higher_tier", |i| i.tier = Tier::Enterprise),
        with_identity("stamp_of_a_lower_tier", |i| i.tier = Tier::Free),
        with_identity("stamp_with_an_api_key", |i| i.api_key_sha256 = key),
        // Moved here from another binary, for which it is right.
        with_identity("stamp_of_another_binary", |i| i.base_sha256 = Digest::of(b"another binary")),
        manifest_with_key("stamp_without_the_api_key", good_binary()),
        manifest_with_key("stamp_with_another_api_key", other_keyed),
        accepted(
            "stamp_with_the_api_key",
            Forge::of_binary(&keyed).saying(|m| m.customer.api_key_sha256 = key).bytes(),
        ),
        refused(
            Rule::Identity,
            "manifest_of_a_higher_tier",
            Forge::good().saying(|m| m.customer.tier = Tier::Enterprise).bytes(),
        ),
        refused(
            Rule::Identity,
            "manifest_of_another_version",
            Forge::good().saying(|m| m.plugin.version = "1.2.4".parse().unwrap()).bytes(),
        ),
    ]
}

/// What the release key signed, and is no identity.
fn other_texts() -> Vec<Case> {
    let text = good_identity().to_text();
    // As deep as a slot allows: 22 tables of 79 keys.
    let deep = format!("{}1{}", format!("{{a{} = ", ".a".repeat(78)).repeat(22), "}".repeat(22));
    let edited = |name: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        with_text(name, &text.replacen(from, to, 1))
    };
    vec![
        edited("stamp_format_2", "kmid/1", "kmid/2"),
        edited("stamp_tag_of_a_package", "kmid/1", "kmpkg/1"),
        edited("stamp_crlf", "\"kmid/1\"\n", "\"kmid/1\"\r\n"),
        edited("stamp_tag_not_first", "format", "\nformat"),
        edited("stamp_byte_order_mark", "format", "\u{feff}format"),
        edited("stamp_unknown_key", "tier = \"Pro\"", "tier = \"Pro\"\nseats = 1000"),
        edited("stamp_duplicate_key", "tier = \"Pro\"", "tier = \"Pro\"\ntier = \"Pro\""),
        edited("stamp_customer_is_a_path", "customer_123", "../customer_123"),
        edited("stamp_tier_in_lower_case", "\"Pro\"", "\"pro\""),
        edited("stamp_digest_in_capitals", "base_sha256 = \"", "base_sha256 = \"A"),
        with_text("stamp_is_the_manifest", &Forge::good().manifest.to_text()),
        with_text("stamp_is_the_tag", "format = \"kmid/1\"\n"),
        with_text("stamp_is_one_byte", "f"),
        with_text("stamp_nested_deeply", &format!("{text}x = {}", "[".repeat(3000))),
        with_text("stamp_of_dotted_keys_in_tables", &format!("{text}x = {deep}")),
        with_text("stamp_and_garbage", &format!("{text}garbage")),
        with_text("stamp_twice", &text.repeat(2)),
    ]
}

fn other_signers() -> Vec<Case> {
    let text = good_identity().to_text();
    let right = sign(&release_key(), text.as_bytes());
    let with = |name: &str, signature: Signature| {
        let slot = SignedIdentity::new(signature, text.clone()).to_slot().unwrap();
        with_binary(name, stamped(&slot))
    };
    let stranger = sign(&stranger_key(), text.as_bytes());
    let release = right.key_id;
    let manifest = sign(&release_key(), Forge::good().manifest.to_text().as_bytes());
    let by_second = stamped(&slot_of(&second_key(), &text));
    vec![
        with("stamp_by_a_stranger", stranger.clone()),
        with("stamp_by_a_stranger_under_the_release_id", Signature { key_id: release, ..stranger }),
        with("stamp_unsigned", Signature { key_id: release, bytes: [0; 64] }),
        with("stamp_right_under_another_id", Signature { key_id: public(&second_key()).id(), ..right }),
        with("stamp_signed_as_the_manifest", manifest),
        accepted("stamp_by_another_trusted_key", Forge::of_binary(&by_second).bytes()),
    ]
}

/// The slot itself. All of it is zeroed for the base, so the base cannot tell.
fn slots() -> Vec<Case> {
    let changed = |name: &str, change: fn(&mut [u8; SLOT_LEN])| {
        let mut slot = slot_of(&release_key(), &good_identity().to_text());
        change(&mut slot);
        with_binary(name, stamped(&slot))
    };
    let length = |name: &str, length: fn(u32) -> u32| {
        let mut slot = slot_of(&release_key(), &good_identity().to_text());
        let right = u32::from_le_bytes([slot[24], slot[25], slot[26], slot[27]]);
        slot[24..28].copy_from_slice(&length(right).to_le_bytes());
        with_binary(name, stamped(&slot))
    };
    vec![
        with_binary("slot_empty", stamped(&empty_slot())),
        with_binary("slot_zeroed", stamped(&[0; SLOT_LEN])),
        with_binary("slot_of_noise", stamped(&noise(8, SLOT_LEN).try_into().unwrap())),
        changed("slot_magic", |slot| slot[0] ^= 1),
        changed("slot_layout", |slot| slot[16] = 2),
        changed("slot_capacity", |slot| slot[20] ^= 1),
        changed("slot_reserved", |slot| slot[28] = 1),
        changed("slot_text_changed", |slot| slot[150] ^= 1),
        changed("slot_key_id_changed", |slot| slot[32] ^= 1),
        changed("slot_signature_changed", |slot| slot[40] ^= 1),
        // Room for a message to whoever reads the file and not the signature.
        changed("slot_message_after_the_text", |slot| slot[2000] = b'!'),
        changed("slot_message_in_the_last_byte", |slot| slot[SLOT_LEN - 1] = b'!'),
        length("slot_length_zero", |_| 0),
        length("slot_length_of_a_signature", |_| 72),
        length("slot_length_one_less", |right| right - 1),
        length("slot_length_one_more", |right| right + 1),
        length("slot_length_of_the_capacity", |_| 4064),
        length("slot_length_over_the_capacity", |_| 4065),
        length("slot_length_over_the_slot", |_| 4097),
        length("slot_length_31_bits", |_| 1 << 31),
        length("slot_length_32_bits", |_| u32::MAX),
    ]
}

/// E16: other code around a right identity.
fn bases() -> Vec<Case> {
    let changed_at = |name: &str, at: usize| {
        let mut binary = good_binary();
        binary[at] ^= 1;
        with_binary(name, binary)
    };
    let other_base = Digest::of(b"another binary");
    let longer = [&good_binary()[..], b"appended"].concat();
    let rebuilt =
        |binary: &[u8]| Forge::of_binary(binary).saying(|m| m.build.base_sha256 = base_digest(binary));
    let mut other_code = good_binary();
    other_code[0] ^= 1;
    vec![
        changed_at("code_first_byte", 0),
        changed_at("code_before_the_slot", SLOT_AT - 1),
        changed_at("data_after_the_slot", SLOT_END),
        changed_at("data_last_byte", good_binary().len() - 1),
        with_binary("data_appended", longer.clone()),
        with_binary("data_cut", good_binary()[..SLOT_END].to_vec()),
        with_binary(
            "second_slot_behind",
            [&good_binary()[..], &slot_of(&release_key(), &good_identity().to_text())].concat(),
        ),
        with_binary("second_slot_in_front", [&empty_slot()[..], &good_binary()].concat()),
        // The manifest attests the other code as well; the identity in it does not.
        refused(Rule::Identity, "code_attested_by_the_manifest_alone", rebuilt(&other_code).bytes()),
        refused(Rule::Identity, "data_attested_by_the_manifest_alone", rebuilt(&longer).bytes()),
        refused(
            Rule::Identity,
            "base_of_another_binary",
            Forge::good().saying(|m| m.build.base_sha256 = other_base).bytes(),
        ),
    ]
}

/// `[identity]` says where to look, so that it could say to look elsewhere.
fn sections() -> Vec<Case> {
    let at = |name: &str, offset: usize| {
        let slot = Slot { offset: offset as u64, size: SLOT_LEN as u64 };
        refused(Rule::Identity, name, Forge::good().saying(|m| m.identity = Some(slot)).bytes())
    };
    let digest_of_all = Digest::of(&compiled());
    let no_slot = Forge::of_binary(&compiled()).saying(|m| {
        m.identity = None;
        m.build.base_sha256 = digest_of_all;
    });
    vec![
        at("slot_at_the_beginning", 0),
        at("slot_a_byte_early", SLOT_AT - 1),
        at("slot_a_byte_late", SLOT_AT + 1),
        at("slot_at_the_end", good_binary().len() - SLOT_LEN),
        refused(Rule::Identity, "section_left_out", Forge::good().saying(|m| m.identity = None).bytes()),
        accepted("section_absent_for_a_binary_without_identity", no_slot.bytes()),
    ]
}
