//! Which binaries get a token: those that were published for their customer, and those that nothing is
//! known of.

use std::path::Path;

use km_tests::{ApiServer, TestEnvironment, packages, path};
use serde_json::json;

use super::client::{AUTHENTICATE, Answer, Client};

/// The digest of a package's executable.
fn executable(package: &Path) -> String {
    let document = TestEnvironment::empty().km_pack(["inspect", path(package), "--json"]).expect(0).json();
    let files = document["manifest"]["files"].as_array().unwrap();
    let file = files.iter().find(|file| file["path"] == "km-plugin-console-logger").unwrap();
    file["sha256"].as_str().unwrap().to_owned()
}

fn ask(client: &Client, key: &str, version: &str, sha256: &str) -> Answer {
    let body = json!({
        "plugin_name": "console-logger", "plugin_version": version, "customer_id": "customer_123",
        "binary_sha256": sha256, "timestamp": "2026-01-01T00:00:00Z"
    });
    client.post(AUTHENTICATE, key, &body)
}

#[test]
fn what_was_never_published_as_this_version_gets_no_token() {
    let server = ApiServer::start(&[]);
    let key = server.add("customer_123", "Pro");
    let client = Client::of(&server);
    let packages = packages();
    let version = packages.document["version"].as_str().unwrap();
    let (own, others, nobodys) =
        (executable(&packages.package), executable(&packages.other_customer), "ab".repeat(32));
    // Nothing is published: nothing is known.
    ask(&client, &key, version, &nobodys).ok();

    server.publish(&[&packages.package, &packages.other_customer]);
    ask(&client, &key, version, &own).ok();
    for wrong in [&others, &"cd".repeat(32)] {
        let answer = ask(&client, &key, version, wrong);
        assert!(answer.refused(403, "wrong-binary").contains("console-logger"));
    }
    // Of another version nothing is known, nor of another plugin.
    ask(&client, &key, "99.0.0", &nobodys).ok();
    client.authenticate(&key, "customer_123").ok();
    // Another server has not seen any of it.
    let other = server.beside(&[]);
    let client = Client::of(&other);
    ask(&client, &key, version, &own).ok();
    ask(&client, &key, version, &nobodys).refused(403, "wrong-binary");
}

#[test]
fn the_stamp_before_still_gets_a_token() {
    let server = ApiServer::start(&[]);
    let key = server.add("customer_123", "Pro");
    let before = &packages().package;
    let restamped = packages().build("console-logger", "customer_123", "Enterprise");
    server.publish(&[before]);
    server.publish(&[&restamped]);
    let version = packages().document["version"].as_str().unwrap();
    let (old, new) = (executable(before), executable(&restamped));
    assert_ne!(old, new);
    for server in [&server, &server.beside(&[])] {
        let client = Client::of(server);
        for good in [&old, &new, &old] {
            ask(&client, &key, version, good).ok();
        }
        ask(&client, &key, version, &"ab".repeat(32)).refused(403, "wrong-binary");
    }
}

#[test]
fn where_the_store_does_not_know_all_nobody_is_refused() {
    let server = ApiServer::start(&[]);
    let key = server.add("customer_123", "Pro");
    server.publish(&[&packages().package]);
    let store = Path::new(server.store());
    let version = packages().document["version"].as_str().unwrap();
    let any = || ask(&Client::of(&server), &key, version, &"ab".repeat(32));
    any().refused(403, "wrong-binary");
    // Put there by something that does not remember executables.
    std::fs::rename(store.join("executables"), store.join("away")).unwrap();
    any().ok();
    std::fs::rename(store.join("away"), store.join("executables")).unwrap();

    // The store fails: a plugin does not stop for that.
    let server = server.beside(&[]);
    for (entry, digit) in [("index", "1"), ("executables", "2")] {
        std::fs::rename(store.join(entry), store.join("away")).unwrap();
        std::os::unix::fs::symlink(entry, store.join(entry)).unwrap();
        ask(&Client::of(&server), &key, version, &digit.repeat(64)).ok();
        std::fs::remove_file(store.join(entry)).unwrap();
        std::fs::rename(store.join("away"), store.join(entry)).unwrap();
    }
    assert!(server.log().contains("accepted without comparing it"), "{}", server.log());
}
