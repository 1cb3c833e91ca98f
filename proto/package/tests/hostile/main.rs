//! Hostile packages: every case states how it is made and which rule must refuse it.
//!
//! The cases are those of the attack checklist (envelope and cryptography E1 to E16, 79 hostile
//! archives, zstd Z1 to Z8), and what lies near them. Each attack goes as far as an attacker could:
//! whatever its own rule does not cover is made right again and signed by the release key, so that
//! no earlier rule can refuse it by luck.
//!
//! | room | what it attacks | rules |
//! |---|---|---|
//! | [`envelope`] | frames in front, end, cuts, single bits, endless streams | V1, V12, V17 |
//! | [`signature`] | keys and signatures | V2 |
//! | [`text`] | the manifest as a text | V3, V4 |
//! | [`policy`] | whom and what it is for, and the order of the rules | V6 to V11 |
//! | [`payload`] | zstd frames | V12, V13 |
//! | [`archive`] | the tar | V14, V15 |
//! | [`stamp`] | files, binary and identity | V15, V16 |
//! | [`installed`] | files on disk instead of a stream | V2 to V16 |
//!
//! V5 has no case: with a threshold of one, V2 refuses whatever it would.

#![allow(clippy::unwrap_used, reason = "a case that cannot be made is a failed test")]

mod archive;
mod blocks;
mod envelope;
mod forge;
mod installed;
mod payload;
mod policy;
mod signature;
mod stamp;
mod text;
mod verdict;
mod zstd_frame;

use std::collections::HashSet;

use forge::Forge;
use km_package::verify::Rule;
use verdict::{Case, Verdict, assert_verdicts, judge};

/// Without this, everything below could be refused for a reason that has nothing to do with it.
#[test]
fn the_good_package_is_accepted() {
    assert_eq!(judge(&Forge::good().bytes()), Verdict::Accepted);
}

#[test]
fn every_case_gets_its_verdict() {
    assert_verdicts(&all_cases());
}

#[test]
fn every_rule_but_the_threshold_refuses_a_case() {
    let met: HashSet<Verdict> = all_cases().into_iter().map(|case| case.expected).collect();
    for rule in Rule::ALL {
        assert!(rule == Rule::Keys || met.contains(&Verdict::Refused(rule)), "{rule:?}");
    }
}

/// The cases of all rooms, each named after its room.
fn all_cases() -> Vec<Case> {
    let rooms = [
        ("envelope", envelope::cases()),
        ("signature", signature::cases()),
        ("text", text::cases()),
        ("policy", policy::cases()),
        ("payload", payload::cases()),
        ("archive", archive::cases()),
        ("stamp", stamp::cases()),
    ];
    let named = |room: &str, case: Case| Case { name: format!("{room}/{}", case.name), ..case };
    rooms.into_iter().flat_map(|(room, cases)| cases.into_iter().map(move |case| named(room, case))).collect()
}
