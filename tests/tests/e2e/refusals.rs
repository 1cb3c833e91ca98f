//! What a hostile or damaged package gets: exit 3, the rule, and no trace.

use std::path::PathBuf;

use ed25519_dalek::{Signer as _, SigningKey};
use km_package::envelope::Head;
use km_package::key::PublicKey;
use km_package::signature::{Signature, SignatureBlock};
use km_tests::{Finished, TestEnvironment, packages, path};

/// Tries to install these bytes; the home must stay as it was.
fn refused(environment: &TestEnvironment, package: &[u8], code: i32) -> Finished {
    let file = environment.path("candidate.kmpkg");
    std::fs::write(&file, package).unwrap();
    let before = environment.snapshot();
    let finished = environment.km(["plugins", "install", path(&file), "--json"]).expect(code);
    assert_eq!(environment.snapshot(), before, "a refused package left a trace");
    let error = &finished.json()["error"];
    assert!(error["message"].as_str().unwrap().contains("refused by rule V"), "{error}");
    finished
}

fn rule(finished: &Finished) -> u64 {
    finished.json()["error"]["rule"].as_u64().unwrap()
}

fn package() -> Vec<u8> {
    std::fs::read(&packages().package).unwrap()
}

/// A reproducible spread of numbers below `limit`.
fn spread(limit: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |n| (n * limit / count + n * 7919) % limit)
}

#[test]
fn one_bit_flipped_anywhere_is_refused() {
    let environment = TestEnvironment::trusting();
    let package = package();
    let ends = [0, 1, 4, 7, 8, package.len() / 2, package.len() - 1];
    for at in spread(package.len(), 60).chain(spread(4096, 60)).chain(ends) {
        let mut changed = package.clone();
        changed[at] ^= 1 << (at % 8);
        let rule = rule(&refused(&environment, &changed, 3));
        assert!([1, 2, 12, 13].contains(&rule), "byte {at}: V{rule}");
    }
}

#[test]
fn a_package_cut_at_any_of_200_places_is_refused() {
    let environment = TestEnvironment::trusting();
    let package = package();
    for length in spread(package.len(), 150).chain(spread(3000, 49)).chain([package.len() - 1]) {
        let rule = rule(&refused(&environment, &package[..length], 3));
        assert!([1, 12].contains(&rule), "cut to {length}: V{rule}");
    }
}

#[test]
fn a_package_with_something_behind_it_is_refused() {
    let environment = TestEnvironment::trusting();
    let package = package();
    for more in [&b"\0"[..], &package] {
        assert_eq!(rule(&refused(&environment, &[&package, more].concat(), 3)), 17);
    }
}

#[test]
fn a_package_by_another_key_is_refused() {
    let environment = TestEnvironment::empty();
    let keys = environment.path("keys");
    environment.km_pack(["keygen", "--out", path(&keys), "--name", "other"]).expect(0);
    environment.km(["trust", "add", path(&keys.join("other.pub.pem"))]).expect(0);
    assert_eq!(rule(&refused(&environment, &package(), 3)), 2);
}

#[test]
fn a_signature_with_a_trusted_key_s_id_is_not_enough() {
    let environment = TestEnvironment::trusting();
    let (head, payload) = split(&package());
    let trusted = PublicKey::from_pem(&std::fs::read_to_string(&packages().public_key).unwrap()).unwrap();
    let forged = Signature {
        key_id: trusted.id(),
        bytes: SigningKey::from_bytes(&[9; 32]).sign(&head.manifest).to_bytes(),
    };
    let head = Head { signatures: SignatureBlock::new(vec![forged]).to_bytes(), ..head };
    assert_eq!(rule(&refused(&environment, &[head.to_bytes(), payload].concat(), 3)), 2);
}

#[test]
fn properly_signed_packages_for_somebody_or_something_else_are_refused() {
    let environment = TestEnvironment::empty();
    let key = SigningKey::from_bytes(&[5; 32]);
    let public = PublicKey::from_bytes(&key.verifying_key().to_bytes()).unwrap();
    let pem = environment.path("key.pub.pem");
    std::fs::write(&pem, public.to_pem()).unwrap();
    environment.km(["trust", "add", path(&pem)]).expect(0);

    let (head, payload) = split(&package());
    let manifest = String::from_utf8(head.manifest).unwrap();
    let resigned = |from: &str, to: &str| {
        assert!(manifest.contains(from), "{from}");
        let text = manifest.replacen(from, to, 1);
        let signature = Signature { key_id: public.id(), bytes: key.sign(text.as_bytes()).to_bytes() };
        [Head::new(&text, &SignatureBlock::new(vec![signature])).to_bytes(), payload.clone()].concat()
    };
    for (from, to, code, expected) in [
        ("platform = \"linux-amd64\"", "platform = \"darwin-arm64\"", 3, 7),
        ("format = \"kmpkg/1\"", "format = \"kmpkg/2\"", 3, 3),
        ("versions = [1, 2]", "versions = [99]", 3, 8),
        ("required_tier = \"Free\"", "required_tier = \"Enterprise\"", 4, 9),
        ("required_tier = \"Free\"", "required_tier = \"Free\"\nexpires = 2020-01-01T00:00:00Z", 3, 11),
        ("id = \"customer_123\"", "id = \"customer_124\"", 3, 16),
        ("tier = \"Pro\"", "tier = \"Enterprise\"", 3, 16),
        ("name = \"console-logger\"", "name = \"console-loggers\"", 3, 4),
        ("name = \"console-logger\"", "name = \"../console-logger\"", 3, 4),
        ("version = \"1.0.0\"", "version = \"../../1.0.0\"", 3, 4),
    ] {
        assert_eq!(rule(&refused(&environment, &resigned(from, to), code)), expected, "{to}");
    }
}

#[test]
fn a_refused_package_leaves_no_home_where_there_was_none() {
    let environment = TestEnvironment::empty();
    refused(&environment, &package(), 3);
    refused(&environment, b"not a package", 3);
    refused(&environment, b"", 3);
    assert!(!environment.home().exists());
}

#[test]
fn what_is_refused_does_not_replace_what_is_installed() {
    let environment = TestEnvironment::with_console_logger();
    let mut changed = package();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    refused(&environment, &changed, 3);
    let listed = environment.km(["plugins", "list", "--json"]).expect(0).json();
    assert_eq!(listed["plugins"][0]["state"], "installed");
}

#[test]
fn an_installed_plugin_that_was_tampered_with_is_not_run() {
    let environment = TestEnvironment::with_console_logger();
    let executable: PathBuf =
        std::fs::canonicalize(environment.home().join("plugins/km-plugin-console-logger")).unwrap();
    let mut bytes = std::fs::read(&executable).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&executable, bytes).unwrap();
    let status = environment.km(["plugins", "status", "--json"]).expect(0).json();
    let plugin = &status["plugins"][0];
    assert_eq!((&plugin["health"], &plugin["authenticated"]), (&"not started".into(), &false.into()));
    assert!(plugin["error"].as_str().unwrap().contains("V15"), "{plugin}");
    let session = environment.km_with_input(["monitor", "--", "cat"], b"{}\n").expect(0);
    assert_eq!(session.text(), "{}\n");
    assert!(
        session.stderr.contains("is not used") && !session.stderr.contains("[console-logger]"),
        "{session:?}"
    );
}

#[test]
fn a_key_that_is_trusted_no_longer_takes_its_plugins_along() {
    let environment = TestEnvironment::with_console_logger();
    environment.km(["trust", "remove", path(&packages().public_key)]).expect(0);
    let listed = environment.km(["plugins", "list", "--json"]).expect(0).json();
    assert_eq!(listed["plugins"][0]["state"], "untrusted");
    assert_eq!(listed["plugins"][0]["customer"], serde_json::Value::Null);
    let session = environment.km_with_input(["monitor", "--", "cat"], b"{}\n").expect(0);
    assert!(!session.stderr.contains("[console-logger]"), "{session:?}");
}

/// Head and payload of a package.
fn split(package: &[u8]) -> (Head, Vec<u8>) {
    let mut rest = package;
    let head = Head::read(&mut rest).unwrap();
    (head, rest.to_vec())
}
