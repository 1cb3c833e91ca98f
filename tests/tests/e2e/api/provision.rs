//! What a customer may install: the index as it was published, and what both tiers reach.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use km_api::provision::ProvisionAnswer;
use km_package::digest::Digest;
use km_package::key::{PublicKey, TrustedKeys};
use km_tests::{ApiServer, api_logger, packages, path};
use serde_json::{Value, json};

use super::client::{Answer, Client, DOWNLOAD, PROVISION, UNKNOWN};

/// A server that has console-logger and api-logger for `customer_123`, stamped Pro.
fn published() -> (ApiServer, Client) {
    let server = ApiServer::start(&[]);
    server.publish(&[&packages().package, api_logger()]);
    let client = Client::of(&server);
    (server, client)
}

fn names(answer: &Answer) -> Vec<&str> {
    let plugins = answer.ok()["plugins"].as_array().unwrap();
    plugins.iter().map(|plugin| plugin["name"].as_str().unwrap()).collect()
}

fn file_name(package: &Path) -> &str {
    package.file_name().unwrap().to_str().unwrap()
}

#[test]
fn the_answer_has_the_index_as_published_and_where_its_packages_are() {
    let (server, client) = published();
    let key = server.add("customer_123", "Pro");
    let answer = client.provision(&key, &["all"]);
    assert_eq!(names(&answer), ["api-logger", "console-logger"]);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!((&answer.body["customer_id"], &answer.body["root"]), (&"customer_123".into(), &Value::Null));

    let index = Path::new(server.store()).join("index/customer_123.toml");
    assert_eq!(answer.body["index"].as_str().unwrap(), std::fs::read_to_string(index).unwrap());
    let typed: ProvisionAnswer = serde_json::from_str(&answer.text).unwrap();
    let pem = std::fs::read_to_string(&packages().public_key).unwrap();
    let keys = TrustedKeys::from_iter([PublicKey::from_pem(&pem).unwrap()]);
    let index = typed.untrusted_index().unwrap().verify_as_last(&keys, &typed.customer_id).unwrap();
    assert_eq!(index.index().packages.len(), 2);

    for (plugin, package) in typed.plugins.iter().zip([api_logger(), &packages().package]) {
        let bytes = std::fs::read(package).unwrap();
        assert_eq!((plugin.sha256, plugin.size), (Digest::of(&bytes), bytes.len() as u64));
        let base = format!("{}{DOWNLOAD}/{}?", server.url(), file_name(package));
        assert!(plugin.download_url.starts_with(&base), "{}", plugin.download_url);
        let left = plugin.expires_at.duration_since(Timestamp::now());
        assert!((SignedDuration::from_mins(59)..=SignedDuration::from_mins(60)).contains(&left), "{left}");
        assert!(plugin.parts.is_empty());
    }
    // The digests are remembered, and the same.
    assert_eq!(
        client.provision(&key, &["all"]).body["plugins"][0]["sha256"],
        answer.body["plugins"][0]["sha256"]
    );
}

#[test]
fn the_list_is_what_the_lower_of_both_tiers_reaches() {
    let (server, client) = published();
    let stamped_low = packages().build("api-logger", "other_customer", "Free");
    server.publish(&[&packages().other_customer, &stamped_low]);
    let key = server.add("customer_123", "Enterprise");
    let index = client.provision(&key, &["all"]).ok()["index"].clone();
    for (tier, expected) in [
        ("Enterprise", &["api-logger", "console-logger"][..]),
        ("Pro", &["api-logger", "console-logger"]),
        ("Free", &["console-logger"]),
    ] {
        server.customers(&["set-tier", "customer_123", tier]).expect(0);
        let answer = client.provision(&key, &["all"]);
        assert_eq!(names(&answer), expected, "{tier}");
        // Narrowed is the list, not what is signed.
        assert_eq!((&answer.body["subscription_tier"], &answer.body["index"]), (&tier.into(), &index));
    }
    // What was stamped for Free stays so, whatever is paid for now.
    let others = server.add("other_customer", "Free");
    for tier in ["Free", "Pro", "Enterprise"] {
        server.customers(&["set-tier", "other_customer", tier]).expect(0);
        assert_eq!(names(&client.provision(&others, &["all"])), ["console-logger"], "{tier}");
    }
    server.customers(&["suspend", "customer_123"]).expect(0);
    client.provision(&key, &["all"]).refused(403, "inactive");
}

#[test]
fn the_list_is_for_the_platform_and_the_names_that_are_asked_for() {
    let (server, client) = published();
    let key = server.add("customer_123", "Pro");
    for (asked, expected) in [
        (&["api-logger"][..], &["api-logger"][..]),
        (&["console-logger", "nowhere"], &["console-logger"]),
        (&["nowhere", "../x"], &[]),
        (&[], &[]),
        (&["console-logger", "all"], &["api-logger", "console-logger"]),
    ] {
        assert_eq!(names(&client.provision(&key, asked)), expected, "{asked:?}");
    }
    let ask = |body: Value| client.post(PROVISION, &key, &body);
    for platform in ["windows-arm64", "plan9-mips"] {
        let elsewhere = ask(json!({"platform": platform, "plugins": ["all"]}));
        assert!(names(&elsewhere).is_empty() && elsewhere.body["index"].is_string());
    }
    for bad in [
        json!({"platform": "linux/amd64", "plugins": ["all"]}),
        json!({"platform": "linux-amd64"}),
        json!({"platform": "linux-amd64", "plugins": "all"}),
        json!({}),
    ] {
        ask(bad).refused(400, "bad-request");
    }
    client.provision(UNKNOWN, &["all"]).refused(401, "invalid-key");
    client.get(PROVISION, &key).refused(405, "method-not-allowed");
}

#[test]
fn where_nothing_was_published_there_is_no_index() {
    let mut server = ApiServer::start(&[]);
    let key = server.add("customer_123", "Pro");
    let nothing = json!({
        "customer_id": "customer_123", "subscription_tier": "Pro", "plugins": [], "index": null,
        "index_signature": null, "root": null
    });
    assert_eq!(Client::of(&server).provision(&key, &["all"]).ok(), &nothing);
    // What is published while it runs counts from the next request on; what is taken away, too.
    server.publish(&[&packages().package]);
    assert_eq!(names(&Client::of(&server).provision(&key, &["all"])), ["console-logger"]);
    server.stop();
    std::fs::remove_dir_all(server.store()).unwrap();
    server.run();
    assert_eq!(Client::of(&server).provision(&key, &["all"]).ok(), &nothing);
}

#[test]
fn a_package_that_is_damaged_is_left_out() {
    let folder = |kind: &str, server: &ApiServer| Path::new(server.store()).join(kind);
    let objects_of = |package: &Path, server: &ApiServer| -> Vec<PathBuf> {
        let alone = ApiServer::start(&[]);
        alone.publish(&[package]);
        let objects = ["manifests", "frames"].map(|kind| {
            let found = std::fs::read_dir(folder(kind, &alone)).unwrap().flatten();
            found.map(|object| folder(kind, server).join(object.file_name())).collect::<Vec<_>>()
        });
        objects.concat()
    };
    let (original, _) = published();
    let key = original.add("customer_123", "Pro");
    let objects = objects_of(api_logger(), &original);
    assert!(objects.len() >= 4, "{objects:?}");
    type Damage = fn(&Path);
    let damages: [Damage; 3] = [
        |file| std::fs::remove_file(file).unwrap(),
        |file| std::fs::write(file, "other").unwrap(),
        |file| {
            let mut bytes = std::fs::read(file).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(file, bytes).unwrap();
        },
    ];
    for object in objects {
        for damage in damages {
            let bytes = std::fs::read(&object).unwrap();
            damage(&object);
            // A new one each time, that has nothing in memory.
            let server = original.beside(&[]);
            let client = Client::of(&server);
            assert_eq!(names(&client.provision(&key, &["all"])), ["console-logger"], "{}", path(&object));
            assert!(server.log().contains("of customer_123 is left out"), "{}", server.log());
            std::fs::write(&object, bytes).unwrap();
            assert_eq!(names(&client.provision(&key, &["all"])).len(), 2, "it is there again");
        }
    }
}

#[test]
fn an_index_that_is_none_is_handed_on_and_names_nothing() {
    let (server, client) = published();
    let key = server.add("customer_123", "Pro");
    let index = Path::new(server.store()).join("index/customer_123.toml");
    let text = std::fs::read_to_string(&index).unwrap();
    for other in [text.replace("kmindex/1", "kmindex/2"), text.replace("customer_123", "other_customer")] {
        std::fs::write(&index, &other).unwrap();
        let answer = client.provision(&key, &["all"]);
        assert_eq!((names(&answer).len(), answer.body["index"].as_str()), (0, Some(&*other)));
    }
    assert!(server.log().contains("in the place of customer_123's"), "{}", server.log());
    std::fs::write(&index, b"\xff\xfe").unwrap();
    assert_eq!(client.provision(&key, &["all"]).ok()["index"], Value::Null);
}
