//! Keys and signatures: E8 to E12, and a package by somebody else (T1).

use std::ops::{Add, Mul};

use ed25519_dalek::{Signer as _, Verifier as _};
use km_package::digest::Digest;
use km_package::key::{KeyError, KeyId, PublicKey};
use km_package::signature::{Signature, SignatureBlock};
use km_package::verify::Rule;
use sha2::{Digest as _, Sha512};

use crate::forge::{
    Forge, MANIFEST_MAGIC, Sealed, noise, public, release_key, second_key, sign, skippable, stranger_key,
};
use crate::verdict::{Case, accepted, refused};

pub(crate) fn cases() -> Vec<Case> {
    [
        strangers(),
        key_ids(),
        malleable(),
        vec![identity_nonce()],
        several(),
        other_messages(),
        blocks(),
        weak_signer(),
    ]
    .concat()
}

fn good() -> Sealed {
    Forge::good().seal()
}

/// The good package with these signatures over its manifest.
fn with(rule: Rule, name: &str, signatures: Vec<Signature>) -> Case {
    refused(rule, name, good().signed(signatures).bytes())
}

fn release_id() -> KeyId {
    public(&release_key()).id()
}

/// The release key's signature over the good manifest.
fn right() -> Signature {
    sign(&release_key(), &good().manifest)
}

/// A signature that is none, said to be this key's.
fn garbage(key_id: KeyId) -> Signature {
    Signature { key_id, bytes: noise(7, 64).try_into().unwrap() }
}

fn strangers() -> Vec<Case> {
    let by_stranger = sign(&stranger_key(), &good().manifest);
    let under_release_id = Signature { key_id: release_id(), ..by_stranger.clone() };
    vec![
        with(Rule::Signature, "by_a_stranger", vec![by_stranger.clone()]),
        with(Rule::Signature, "by_a_stranger_under_the_release_id", vec![under_release_id]),
        with(Rule::Signature, "by_strangers_often", vec![by_stranger; 56]),
        with(Rule::Signature, "all_zero", vec![Signature { key_id: release_id(), bytes: [0; 64] }]),
        with(
            Rule::Signature,
            "all_zero_and_no_id",
            vec![Signature { key_id: KeyId([0; 8]), bytes: [0; 64] }],
        ),
        with(Rule::Signature, "garbage_under_the_release_id", vec![garbage(release_id())]),
    ]
}

/// The id selects the key: no other is tried.
fn key_ids() -> Vec<Case> {
    let under = |key_id: KeyId| vec![Signature { key_id, ..right() }];
    let mut near = release_id();
    near.0[7] ^= 1;
    vec![
        with(Rule::Signature, "right_under_another_trusted_id", under(public(&second_key()).id())),
        with(Rule::Signature, "right_under_an_unknown_id", under(public(&stranger_key()).id())),
        with(Rule::Signature, "right_under_no_id", under(KeyId([0; 8]))),
        with(Rule::Signature, "right_under_an_id_one_bit_off", under(near)),
    ]
}

/// Other encodings of a signature that holds, and of none.
fn malleable() -> Vec<Case> {
    let changed = |name: &str, change: fn(&mut [u8; 64])| {
        let mut signature = right();
        change(&mut signature.bytes);
        with(Rule::Signature, name, vec![signature])
    };
    vec![
        changed("s_plus_l", add_order),
        changed("s_plus_2_l", |bytes| {
            add_order(bytes);
            add_order(bytes);
        }),
        changed("s_with_high_bits", |bytes| bytes[63] |= 0xe0),
        changed("r_with_sign_flipped", |bytes| bytes[31] ^= 0x80),
        changed("r_is_identity_and_s_zero", |bytes| {
            bytes.fill(0);
            bytes[0] = 1;
        }),
        changed("r_is_identity_not_canonical", |bytes| {
            // p + 1, which is 1 again.
            bytes.fill(0);
            bytes[..32].fill(0xff);
            (bytes[0], bytes[31]) = (0xee, 0x7f);
        }),
        changed("r_is_no_point", |bytes| bytes[..32].fill(2)),
    ]
}

/// Adds the group's order to the scalar: the same number to whoever does not compare it.
fn add_order(signature: &mut [u8; 64]) {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut carry = 0;
    for (byte, order) in signature[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert_eq!(carry, 0);
}

/// R is the identity and S what then holds: the key's owner alone can make it. A lax verifier takes
/// it, so that two verifiers would disagree about one package.
fn identity_nonce() -> Case {
    let message = good().manifest;
    let key = release_key();
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut hash = Sha512::new();
    hash.update(&bytes[..32]);
    hash.update(key.verifying_key().as_bytes());
    hash.update(&message);
    bytes[32..].copy_from_slice(&scaled(key.to_scalar(), &hash.finalize()).to_bytes());
    let lax = key.verifying_key().verify(&message, &ed25519_dalek::Signature::from_bytes(&bytes));
    assert!(lax.is_ok(), "else this case is only one more wrong signature");
    with(Rule::Signature, "r_is_identity_by_the_owner", vec![Signature { key_id: release_id(), bytes }])
}

/// `scalar` times a number in little-endian bytes.
fn scaled<S: Copy + From<u16> + Add<Output = S> + Mul<Output = S>>(scalar: S, number: &[u8]) -> S {
    let digit = |byte: &u8| S::from(u16::from(*byte));
    number.iter().rev().fold(S::from(0), |sum, byte| sum * S::from(256) + digit(byte) * scalar)
}

fn several() -> Vec<Case> {
    let second = sign(&second_key(), &good().manifest);
    let broken = garbage(second.key_id);
    let unknown = garbage(KeyId([9; 8]));
    let signed = |name: &str, signatures: Vec<Signature>| accepted(name, good().signed(signatures).bytes());
    let mut most = vec![unknown.clone(); 55];
    most.push(right());
    let too_many = [vec![unknown.clone(); 56], vec![right()]].concat();
    vec![
        signed("by_another_trusted_key", vec![second.clone()]),
        signed("by_both_trusted_keys", vec![right(), second]),
        signed("twice_by_one_key", vec![right(), right()]),
        signed("unknown_then_right", vec![unknown.clone(), right()]),
        signed("right_then_unknown", vec![right(), unknown]),
        signed("as_many_signatures_as_fit", most),
        with(Rule::Envelope, "more_signatures_than_fit", too_many),
        // A trusted key that did not sign this is never outvoted.
        with(Rule::Signature, "right_then_broken", vec![right(), broken.clone()]),
        with(Rule::Signature, "broken_then_right", vec![broken, right()]),
        with(Rule::Signature, "right_then_broken_of_one_key", vec![right(), garbage(release_id())]),
        with(Rule::Signature, "broken_then_right_of_one_key", vec![garbage(release_id()), right()]),
    ]
}

/// A right signature by the right key, over something else.
fn other_messages() -> Vec<Case> {
    let text = good().manifest;
    let over = |name: &str, message: &[u8]| {
        let bytes = release_key().sign(message).to_bytes();
        with(Rule::Signature, name, vec![Signature { key_id: release_id(), bytes }])
    };
    let other_release = Forge::good().saying(|m| m.plugin.sequence += 1).manifest.to_text();
    vec![
        over("over_another_manifest", other_release.as_bytes()),
        over("over_the_digest", Digest::of(&text).as_bytes()),
        over("over_the_frame", &skippable(MANIFEST_MAGIC, &text)),
        over("over_all_but_the_last_byte", &text[..text.len() - 1]),
        over("over_a_byte_more", &[&text[..], b"\n"].concat()),
        over("over_the_payload", &good().payload),
        over("over_nothing", b""),
    ]
}

fn blocks() -> Vec<Case> {
    let block = |name: &str, signatures: Vec<u8>| {
        refused(Rule::Signature, name, Sealed { signatures, ..good() }.bytes())
    };
    let whole = good().signatures;
    vec![
        block("signature_cut", whole[..71].to_vec()),
        block("signature_and_a_byte", [&whole[..], b"\0"].concat()),
        block("signature_and_half", [&whole[..], &whole[..36]].concat()),
        block("key_id_alone", whole[..8].to_vec()),
        block("signature_without_key_id", whole[8..].to_vec()),
        block(
            "minisign",
            b"untrusted comment: signature\nRWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTa".to_vec(),
        ),
    ]
}

/// With the identity point as key, every message is signed by (identity, 0).
fn weak_signer() -> Vec<Case> {
    let mut point = [0; 32];
    point[0] = 1;
    // MCowBQYDK2VwAyEA: 12 bytes that SPKI puts before the key.
    let spki = [&[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0][..], &point].concat();
    let mut key_id = KeyId([0; 8]);
    key_id.0.copy_from_slice(&Digest::of(&spki).as_bytes()[..8]);
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&point);
    let block = SignatureBlock::new(vec![Signature { key_id, bytes }]).to_bytes();
    vec![refused(Rule::Signature, "by_the_weak_key", Sealed { signatures: block, ..good() }.bytes())]
}

/// E9: nobody can come to trust one of these.
#[test]
fn weak_keys_and_odd_encodings_are_no_keys() {
    for key in weak_keys() {
        assert!(PublicKey::from_bytes(&key).is_err(), "{key:02x?}");
    }
}

/// All points of small order, in each encoding that some library takes.
fn weak_keys() -> Vec<[u8; 32]> {
    let of_order_8 = [
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
            0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
            0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
    ];
    // 0, 1, p - 1, p, p + 1 as the coordinate y.
    let small = [small_number(0), small_number(1), near_p(-1), near_p(0), near_p(1)];
    of_order_8.into_iter().chain(small).flat_map(with_both_signs).collect()
}

fn with_both_signs(point: [u8; 32]) -> [[u8; 32]; 2] {
    let mut other = point;
    other[31] ^= 0x80;
    [point, other]
}

fn small_number(y: u8) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0] = y;
    bytes
}

/// p + `offset`, where p = 2^255 - 19.
fn near_p(offset: i8) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    bytes[0] = 0xed_u8.wrapping_add_signed(offset);
    bytes[31] = 0x7f;
    bytes
}

/// E10: RFC 8032, 5.1.3: y of p or more is no encoding. Two encodings of one key are two key ids.
#[test]
fn keys_that_are_not_canonical_are_no_keys() {
    let accepted: Vec<i8> = (0..19).filter(|&more| PublicKey::from_bytes(&near_p(more)).is_ok()).collect();
    assert!(accepted.is_empty(), "p + {accepted:?} was taken for a key");
    // p + 3.
    let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA8P///////////////////////////////////////38=\n-----END PUBLIC KEY-----\n";
    assert_eq!(PublicKey::from_pem(pem), Err(KeyError::NotEd25519));
}

/// E12: what is not exactly one ed25519 public key.
#[test]
fn other_keys_are_refused_on_import() {
    let pem =
        |label: &str, base64: &str| format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n");
    let public_pem = |base64: &str| pem("PUBLIC KEY", base64);
    let right = "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    assert!(PublicKey::from_pem(&public_pem(right)).is_ok());
    let other = [
        ("X25519", public_pem("MCowBQYDK2VuAyEApRv3AxQZGt7hgGVwfmCSUSTc1oB3ExU2Y9bF94FwZDQ=")),
        (
            "Ed448",
            public_pem(
                "MEMwBQYDK2VxAzoAzXLTIX8M2OjUbQ6B5rBLkHmbNTcrGoP+vMpbQZ4Dubeo9z6S\n76X+VDcv5abEdvTKxoZHd3w631mA",
            ),
        ),
        (
            "P-256",
            public_pem(
                "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEXqKBEiUuougfI4D8vTkLiuxWXX+C\n\
             0uKLPrqWGDEEDHgzcsdwlJuOl2NQyNS2FhgII/zzbAOmhPxaEOSSdTSDUQ==",
            ),
        ),
        (
            "RSA",
            public_pem(
                "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDjJiFhvt4iQfj8bln8fgVp56dO\n\
             cR1mEhtLIT86VOdY9MfDOrHKomvUTk8juxbt4DVslVOsC+XwFbbjCHAwKCndqXmU\n\
             UtN05inO7+8jGaYqqvXPkxBXunME2+SiEwA7iNY4sgsMKS1nVmBY5eVwJwPDsFrI\n\
             24XHyX8ed9zfclrZbQIDAQAB",
            ),
        ),
        ("trailing byte", public_pem("MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURoA")),
        ("parameters", public_pem("MCwwBwYDK2VwBQADIQDXWpgBgrEKt9VL/tPJZAc6DuFy89qmIyWvAhpo9wdRGg==")),
        ("unused bits", public_pem("MCowBQYDK2VwAyEB11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")),
        ("not DER", public_pem("MIEqMAUGAytlcAMhANdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea")),
        ("short", public_pem("MCkwBQYDK2VwAyAA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHUQ==")),
        ("two keys", public_pem(right).repeat(2)),
        ("label of a certificate", pem("CERTIFICATE", right)),
        ("label with algorithm", pem("ED25519 PUBLIC KEY", right)),
        ("no end", public_pem(right).replace("-----END PUBLIC KEY-----\n", "")),
        ("bare base64", right.to_owned()),
        (
            "ssh",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea".to_owned(),
        ),
        (
            "minisign",
            "untrusted comment: key\nRWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3".to_owned(),
        ),
    ];
    for (name, pem) in other {
        assert_eq!(PublicKey::from_pem(&pem), Err(KeyError::NotEd25519), "{name}");
    }
}

#[test]
fn private_and_weak_keys_are_named_as_such() {
    // By its label alone: no private key is committed, not even one of a test.
    let private = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let weak = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n-----END PUBLIC KEY-----\n";
    assert_eq!(PublicKey::from_pem(private), Err(KeyError::Private));
    assert_eq!(PublicKey::from_pem(weak), Err(KeyError::Weak));
}
