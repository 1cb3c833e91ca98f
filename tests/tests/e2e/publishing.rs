//! `km-pack publish`, `withdraw`, `restamp`, `fetch`: what lies in the store afterwards.

use std::path::{Path, PathBuf};
use std::process::Command;

use km_package::digest::Digest;
use km_tests::{Engineer, TestEnvironment, packages, path};

#[test]
fn what_is_published_is_named_by_its_digest_and_signed() {
    let engineer = Engineer::new();
    let package = engineer.package("tiny", "1.0.0", "c1", &["--tier", "Pro"]);
    let document = engineer.run(&["publish", &package, "--json"]).expect(0).json();
    assert_eq!(document["packages"][0]["name"], "tiny");
    assert_eq!(document["indexes"][0]["action"], "published");

    for folder in ["manifests", "frames"] {
        let mut count = 0;
        for entry in std::fs::read_dir(engineer.store().join(folder)).unwrap().flatten() {
            let bytes = std::fs::read(entry.path()).unwrap();
            assert_eq!(Digest::of(&bytes).to_string(), entry.file_name().to_str().unwrap());
            count += 1;
        }
        assert_eq!(count, 1, "{folder}");
    }
    let believed = engineer.believed("c1").unwrap();
    let entry = &believed.index().packages[0];
    assert_eq!(document["packages"][0]["head_sha256"], entry.head_sha256.to_string());
    assert!(package.ends_with(&entry.file_name()), "{package}");

    // The pieces, one after the other, are the file.
    let head = std::fs::read(engineer.store().join(format!("manifests/{}", entry.head_sha256))).unwrap();
    let frame = std::fs::read_dir(engineer.store().join("frames")).unwrap().flatten().next().unwrap();
    let joined = [head, std::fs::read(frame.path()).unwrap()].concat();
    let file = std::fs::read(engineer.path(&package)).unwrap();
    assert_eq!((joined.len() as u64, &joined), (entry.size(), &file));
}

#[test]
fn an_auditor_needs_openssl_only() {
    let engineer = Engineer::new();
    let package = engineer.package("tiny", "1.0.0", "c1", &[]);
    engineer.run(&["publish", &package]).expect(0);
    let block = std::fs::read(engineer.store().join("index/c1.sig")).unwrap();
    assert_eq!(block.len(), 72);
    let signature = engineer.path("signature");
    std::fs::write(&signature, &block[8..]).unwrap();
    let verify = || {
        let index = engineer.store().join("index/c1.toml");
        let mut openssl = Command::new("openssl");
        openssl.args(["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey"]);
        openssl.arg(engineer.path("keys/release.pub.pem")).arg("-in").arg(index);
        openssl.arg("-sigfile").arg(&signature).output().unwrap()
    };
    assert!(verify().status.success(), "{:?}", verify());
    let text = std::fs::read_to_string(engineer.store().join("index/c1.toml")).unwrap();
    std::fs::write(engineer.store().join("index/c1.toml"), text.replace("Free", "Pro!")).unwrap();
    assert!(!verify().status.success());
}

#[test]
fn publishing_again_changes_nothing_and_renewing_does() {
    let engineer = Engineer::new();
    let package = engineer.package("tiny", "1.0.0", "c1", &[]);
    engineer.run(&["publish", &package]).expect(0);
    let (store, first) = (snapshot(&engineer.store()), engineer.index("c1"));
    let again = engineer.run(&["publish", &package, "--json"]).expect(0).json();
    assert_eq!(again["indexes"][0]["action"], "kept");
    assert_eq!(snapshot(&engineer.store()), store);

    engineer.run(&["publish", "--renew", "--expires", "90d"]).expect(0);
    let renewed = engineer.index("c1");
    assert!(renewed.counter > first.counter && renewed.expires > first.expires);
    assert_eq!(renewed.packages, first.packages);
    // What is left of a short life is renewed by the way.
    engineer.run(&["publish", "--renew", "--expires", "1h"]).expect(0);
    let again = engineer.run(&["publish", &package, "--json"]).expect(0).json();
    assert_eq!(again["indexes"][0]["action"], "published");
    assert!(engineer.believed("c1").is_some());
}

#[test]
fn an_older_build_or_other_content_is_a_conflict() {
    let engineer = Engineer::new();
    let two = engineer.package("tiny", "2.0.0", "c1", &["--sequence", "2"]);
    engineer.run(&["publish", &two]).expect(0);
    let older = engineer.package("tiny", "1.0.0", "c1", &["--sequence", "1"]);
    let refused = engineer.run(&["publish", &older, "--json"]).expect(7).json();
    assert!(refused["error"]["message"].as_str().unwrap().contains("sequence 1"), "{refused}");
    let other = engineer.package_of("/bin/false", "tiny", "2.0.0", "c1", &["--sequence", "3"]);
    engineer.run(&["publish", &other]).expect(7);
    assert_eq!(engineer.names("c1"), ["tiny 2.0.0"]);

    engineer.run(&["publish", &other, "--force"]).expect(0);
    engineer.run(&["publish", &older, "--allow-downgrade"]).expect(0);
    assert_eq!(engineer.names("c1"), ["tiny 1.0.0"]);
}

#[test]
fn a_damaged_package_stops_everything_before_it_begins() {
    let engineer = Engineer::new();
    let good = engineer.package("good", "1.0.0", "c1", &[]);
    let bad = engineer.package("bad", "1.0.0", "c1", &[]);
    let mut bytes = std::fs::read(engineer.path(&bad)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(engineer.path(&bad), bytes).unwrap();
    let refused = engineer.run(&["publish", &good, &bad]).expect(3);
    assert!(refused.stderr.contains(&bad), "{}", refused.stderr);
    assert!(snapshot(&engineer.store()).is_empty());
    engineer.run(&["publish", "missing.kmpkg"]).expect(6);
}

#[test]
fn nobody_elses_index_is_signed_again() {
    let (engineer, stranger) = (Engineer::new(), Engineer::new());
    let package = engineer.package("tiny", "1.0.0", "c1", &[]);
    engineer.run(&["publish", &package]).expect(0);
    let store = path(&engineer.store()).to_owned();
    let own = stranger.package("other", "1.0.0", "c1", &[]);
    let refused = stranger.run(&["publish", &own, "--store", &store]).expect(3);
    assert!(refused.stderr.contains("--trust"), "{}", refused.stderr);
    assert_eq!(engineer.names("c1"), ["tiny 1.0.0"]);

    let key = engineer.path("keys/release.pub.pem");
    stranger.run(&["publish", &own, "--store", &store, "--trust", path(&key)]).expect(0);
    assert_eq!(engineer.names("c1"), ["other 1.0.0", "tiny 1.0.0"]);
}

#[test]
fn many_publishers_at_once_lose_nothing() {
    let engineer = Engineer::new();
    let names: Vec<String> = (0..8).map(|number| format!("plugin-{number}")).collect();
    let built: Vec<String> = names.iter().map(|name| engineer.package(name, "1.0.0", "c1", &[])).collect();
    std::thread::scope(|scope| {
        for package in &built {
            scope.spawn(|| engineer.run(&["publish", package]).expect(0));
        }
    });
    let expected: Vec<String> = names.iter().map(|name| format!("{name} 1.0.0")).collect();
    assert_eq!(engineer.names("c1"), expected);
    assert_eq!(engineer.believed("c1").unwrap().index().packages.len(), 8);
    // All is tidied up: one signature, no temporary files.
    assert_eq!(std::fs::read(engineer.store().join("index/c1.sig")).unwrap().len(), 72);
    let left: Vec<_> = snapshot(&engineer.store()).into_iter().map(|(path, _)| path).collect();
    assert!(!left.iter().any(|path| path.file_name().unwrap().to_str().unwrap().contains(".km-pack")));
}

/// Its threads take turns, so that the calls are not the same in each run: each of the first of every
/// thread is one to be killed at.
#[test]
fn a_publisher_that_is_killed_leaves_indexes_that_hold() {
    const CALLS: [&str; 8] = ["openat", "write", "rename", "linkat", "unlink", "fchmod", "flock", "syncfs"];
    let engineer = Engineer::new();
    engineer.release("tiny", "1.0.0", "c1", &["--sequence", "1"]);
    let old = engineer.index("c1").packages;
    let new = engineer.package_of("/bin/false", "tiny", "2.0.0", "c1", &["--sequence", "2"]);
    let before = snapshot(&engineer.store());
    let (mut killed, mut replaced) = (0, 0);
    for (call, nth) in CALLS.into_iter().flat_map(|call| (1..=12).map(move |nth| (call, nth))) {
        restore(&engineer.store(), &before);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={call}:signal=KILL:when={nth}")]);
        strace.arg(km_tests::binary("km-pack")).args(["publish", &new]).current_dir(engineer.path("."));
        if strace.output().unwrap().status.success() {
            continue;
        }
        killed += 1;
        let found = engineer.believed("c1").unwrap_or_else(|| panic!("no index after {call} {nth}"));
        let packages = &found.index().packages;
        for entry in packages {
            let manifest = engineer.store().join(format!("manifests/{}", entry.head_sha256));
            assert_eq!(Digest::of(&std::fs::read(manifest).unwrap()), entry.head_sha256, "{call} {nth}");
        }
        replaced += usize::from(*packages != old);
        engineer.run(&["publish", &new]).expect(0);
        assert_eq!(engineer.names("c1"), ["tiny 2.0.0"]);
        assert!(engineer.believed("c1").is_some());
        engineer.run(&["fetch", "--customer", "c1", "--out", "fetched"]).expect(0);
    }
    assert!(killed > 20 && replaced > 0 && replaced < killed, "{killed} kills, {replaced} after the change");
}

/// Makes a folder what it was.
fn restore(folder: &Path, before: &[(PathBuf, Vec<u8>)]) {
    std::fs::remove_dir_all(folder).unwrap();
    for (path, bytes) in before {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn withdrawn_is_not_named_any_more() {
    let engineer = Engineer::new();
    let packages = ["one", "two"].map(|name| engineer.package(name, "1.0.0", "c1", &[]));
    let other = engineer.package("one", "1.0.0", "c2", &[]);
    engineer.run(&["publish", &packages[0], &packages[1], &other]).expect(0);
    engineer.run(&["withdraw", "one", "--customer", "c1"]).expect(0);
    assert_eq!(
        (engineer.names("c1"), engineer.names("c2")),
        (vec!["two 1.0.0".into()], vec!["one 1.0.0".into()])
    );
    engineer.run(&["withdraw", "one", "--all"]).expect(0);
    assert!(engineer.names("c2").is_empty() && engineer.believed("c2").is_some());
    engineer.run(&["withdraw", "one", "--customer", "nobody"]).expect(6);
}

#[test]
fn a_whole_package_comes_out_again() {
    let engineer = Engineer::new();
    let package = engineer.package("tiny", "1.0.0", "c1", &[]);
    engineer.run(&["publish", &package, "--whole"]).expect(0);
    let file = std::fs::read(engineer.path(&package)).unwrap();
    let name = Path::new(&package).file_name().unwrap();
    assert_eq!(std::fs::read(engineer.store().join("packages").join(name)).unwrap(), file);

    let fetched =
        engineer.run(&["fetch", "--customer", "c1", "--out", "delivery", "--json"]).expect(0).json();
    let delivered = engineer.path(fetched["packages"][0]["path"].as_str().unwrap());
    assert_eq!(std::fs::read(delivered).unwrap(), file);
    engineer.run(&["fetch", "--customer", "c2"]).expect(6);
    engineer.run(&["fetch", "--customer", "c1", "--plugin", "other"]).expect(6);

    // Nothing that is damaged is delivered.
    let frame = std::fs::read_dir(engineer.store().join("frames")).unwrap().flatten().next().unwrap();
    std::fs::write(frame.path(), b"something else").unwrap();
    let refused = engineer.run(&["fetch", "--customer", "c1", "--out", "again"]).expect(3);
    assert!(refused.stderr.contains("frames/"), "{}", refused.stderr);
    assert!(!engineer.path("again").exists());
}

#[test]
fn a_changed_tier_is_stamped_anew_without_a_compiler() {
    let built = packages();
    let engineer = TestEnvironment::empty();
    let key = ["--key", path(&built.private_key)];
    let run = |arguments: &[&str]| engineer.km_pack([arguments, &key].concat());
    run(&["publish", path(&built.package), path(&built.other_customer)]).expect(0);
    let customers = |tier: &str| {
        let text = format!("id,tier\ncustomer_123,{tier}\nother_customer,Free\nnew_customer,Pro\n");
        std::fs::write(engineer.path("customers.csv"), text).unwrap();
    };
    customers("Enterprise");
    let restamp = ["restamp", "--customers", "customers.csv", "--json"];
    let document = run(&restamp).expect(0).json();
    assert_eq!(document["packages"].as_array().unwrap().len(), 1, "{document}");
    assert_eq!(document["packages"][0]["tier"], "Enterprise");
    assert!(run(&restamp).expect(0).json()["packages"].as_array().unwrap().is_empty());

    // With a plugin named, those who have none get it.
    let document = run(&[&restamp[..], &["--plugin", "console-logger"]].concat()).expect(0).json();
    assert_eq!(document["packages"][0]["customer"], "new_customer", "{document}");
    run(&[&restamp[..], &["--plugin", "unknown"]].concat()).expect(6);

    // They share all but the identity with what was compiled, and install.
    let public = path(&built.public_key);
    for customer in ["customer_123", "new_customer"] {
        let fetch = ["fetch", "--customer", customer, "--key", public, "--out", customer, "--json"];
        let fetched = engineer.km_pack(fetch).expect(0).json();
        let package = engineer.path(fetched["packages"][0]["path"].as_str().unwrap());
        let inspected = engineer.km_pack(["inspect", path(&package), "--json"]).expect(0).json();
        let before = engineer.km_pack(["inspect", path(&built.package), "--json"]).expect(0).json();
        let (new, old) = (&inspected["manifest"], &before["manifest"]);
        assert_eq!(new["build"], old["build"]);
        assert_eq!(new["payload"]["frames"][0], old["payload"]["frames"][0]);
        assert_eq!(new["payload"]["frames"][2], old["payload"]["frames"][2]);
        assert_ne!(new["payload"]["frames"][1], old["payload"]["frames"][1]);

        let home = TestEnvironment::trusting();
        home.km(["plugins", "install", path(&package)]).expect(0);
        let status = home.km(["plugins", "list", "--json"]).expect(0).json();
        assert_eq!(status["plugins"][0]["customer"], customer);
    }
}

#[test]
fn a_damaged_object_is_put_right_by_publishing_again() {
    let engineer = Engineer::new();
    let package = engineer.package("tiny", "1.0.0", "c1", &[]);
    engineer.run(&["publish", &package, "--whole"]).expect(0);
    let good = snapshot(&engineer.store());
    for (file, bytes) in good.iter().filter(|(file, _)| !file.to_str().unwrap().contains("index/")) {
        let mut damaged = bytes.clone();
        damaged[bytes.len() / 2] ^= 1;
        std::fs::write(file, damaged).unwrap();
    }
    engineer.run(&["fetch", "--customer", "c1"]).expect(3);
    engineer.run(&["publish", &package, "--whole"]).expect(0);
    assert_eq!(snapshot(&engineer.store()), good);
}

#[test]
fn an_index_that_was_emptied_is_not_taken_for_none() {
    let engineer = Engineer::new();
    engineer.release("one", "1.0.0", "c1", &[]);
    engineer.release("other", "1.0.0", "c2", &[]);
    let two = engineer.package("two", "1.0.0", "c1", &[]);
    for extension in ["toml", "sig"] {
        let file = engineer.index_file("c1", extension);
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, b"").unwrap();
        let refused = engineer.run(&["publish", &two]).expect(3);
        assert!(refused.stderr.contains("empty") && refused.stderr.contains("backup"), "{}", refused.stderr);
        // The others are not held up, and it is said who failed.
        let renewed = engineer.run(&["publish", "--renew", "--json"]).expect(3).json();
        let actions: Vec<_> =
            renewed["indexes"].as_array().unwrap().iter().map(|index| &index["action"]).collect();
        assert!(actions.contains(&&"failed".into()) && actions.contains(&&"published".into()), "{renewed}");
        std::fs::write(&file, bytes).unwrap();
    }
    engineer.run(&["publish", &two]).expect(0);
    assert_eq!(engineer.names("c1"), ["one 1.0.0", "two 1.0.0"]);
}

#[test]
fn an_index_that_nobody_could_read_is_not_written() {
    let engineer = Engineer::new();
    engineer.release("tiny", "1.0.0", "c1", &[]);
    let template = engineer.index("c1").packages[0].clone();
    let many = (0..km_package::index::MAX_PACKAGES).map(|number| km_package::index::IndexEntry {
        name: format!("t{number}").parse().unwrap(),
        ..template.clone()
    });
    let publisher = engineer.publisher_at(km_tests::engineer::now(), 10_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let change = km_pack::publish::Change::Add(many.collect());
    let refused = runtime.block_on(publisher.change(&"c1".parse().unwrap(), &change)).unwrap_err();
    assert_eq!(refused.kind, km_package::failure::Kind::Conflict);
    assert_eq!(engineer.names("c1"), ["tiny 1.0.0"]);
}

#[test]
fn what_was_withdrawn_meanwhile_is_not_stamped_back() {
    let engineer = Engineer::new();
    engineer.release("tiny", "1.0.0", "c1", &["--sequence", "1"]);
    let named = engineer.index("c1").packages[0].clone();
    engineer.run(&["withdraw", "tiny", "--customer", "c1"]).expect(0);
    let publisher = engineer.publisher_at(km_tests::engineer::now(), 10_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let customer = "c1".parse().unwrap();
    let change = km_pack::publish::Change::Replace(vec![named]);
    assert!(!runtime.block_on(publisher.change(&customer, &change)).unwrap().changed);
    assert!(engineer.names("c1").is_empty());
}

#[test]
fn a_store_that_is_not_there_is_not_made_by_whoever_changes_it() {
    let engineer = Engineer::new();
    std::fs::write(engineer.path("c.csv"), "id,tier\nc1,Pro\n").unwrap();
    for arguments in [
        &["publish", "--renew"][..],
        &["restamp", "--customers", "c.csv"],
        &["withdraw", "tiny", "--all"],
        &["fetch", "--customer", "c1"],
    ] {
        engineer.run(&[arguments, &["--store", "nowhere"]].concat()).expect(6);
        assert!(!engineer.path("nowhere").exists(), "{arguments:?}");
    }
    engineer.release("tiny", "1.0.0", "c1", &[]);
    engineer.run(&["withdraw", "other", "--all"]).expect(6);
    engineer.run(&["withdraw", "other", "--all", "--if-present"]).expect(0);
}

fn snapshot(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(snapshot(&entry.path()));
        } else {
            found.push((entry.path(), std::fs::read(entry.path()).unwrap()));
        }
    }
    found.sort();
    found
}
