//! The way of a plugin author, as README and template say it.

use km_tests::{TestEnvironment, api_logger, packages, path, workspace};

#[test]
fn a_complete_plugin_is_at_most_40_lines() {
    // The crate's first page: a plugin from `use` to the end of `main`.
    let page = std::fs::read_to_string(workspace().join("km-plugin-template/sdk/src/lib.rs")).unwrap();
    let example = page.split("//! ```no_run\n").nth(1).unwrap().split("//! ```").next().unwrap();
    assert!(example.contains("impl Plugin") && example.contains("fn main()"));
    assert!(example.lines().count() <= 40);
    let main = std::fs::read_to_string(workspace().join("km-plugin-template/src/main.rs")).unwrap();
    assert!(main.lines().count() <= 40);
}

#[test]
fn km_pack_test_says_what_it_cannot_test() {
    let environment = TestEnvironment::empty();
    // A package is verified before anything of it is run.
    let package = path(&packages().package).to_owned();
    environment.km_pack(["test", &package]).expect(6);
    let other = environment.path("other");
    environment.km_pack(["keygen", "--out", path(&other)]).expect(0);
    let untrusted = environment.km_pack(["test", &package, "--key", path(&other.join("release.pub.pem"))]);
    let untrusted = untrusted.expect(3);
    assert!(untrusted.stderr.contains("rule V2"), "{}", untrusted.stderr);
    environment.km_pack(["test", "nothing"]).expect(6);
    // What is no program does not start, in words.
    let text = environment.path("km-plugin-text");
    std::fs::write(&text, "hello").unwrap();
    let finished = environment.km_pack(["test", path(&text)]).expect(8);
    assert!(finished.text().contains("cannot start: Permission denied"), "{}", finished.text());
    // Under another name it is another plugin.
    let renamed = environment.path("km-plugin-renamed");
    std::os::unix::fs::symlink(km_tests::binary("km-plugin-console-logger"), &renamed).unwrap();
    let finished = environment.km_pack(["test", path(&renamed)]).expect(8);
    assert!(
        finished.text().contains("it says \"console-logger\", and is called renamed"),
        "{}",
        finished.text()
    );
    assert!(finished.text().contains("1 failed"), "{}", finished.text());
}

/// The path of a Unix socket has 107 bytes at most.
#[test]
fn km_pack_test_is_right_in_a_temporary_folder_with_a_long_name() {
    let environment = TestEnvironment::empty();
    let long = environment.path(&"long-".repeat(20));
    std::fs::create_dir(&long).unwrap();
    let executable = environment.path("km-plugin-console-logger");
    std::os::unix::fs::symlink(km_tests::binary("km-plugin-console-logger"), &executable).unwrap();
    let mut test = environment.command("km-pack");
    test.env("TMPDIR", &long).args(["test", path(&executable)]);
    let output = test.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_plugin_without_deliver_is_warned() {
    let environment = TestEnvironment::empty();
    let plugin = environment.path("km-plugin-lacks-deliver");
    std::os::unix::fs::symlink(km_tests::binary("misbehaving"), &plugin).unwrap();
    let tested = environment.km_pack(["test", path(&plugin), "--json"]).expect(8).json();
    let checks = tested["checks"].as_array().unwrap();
    let deliver: Vec<String> = checks
        .iter()
        .filter(|check| check["id"].as_str().unwrap().starts_with("deliver"))
        .map(|check| format!("{} {}", check["outcome"], check["detail"]).replace('"', ""))
        .collect();
    assert_eq!(deliver[0], "warned messages come by protocol 1");
    assert!(deliver[1..].iter().all(|check| check == "skipped it has no Deliver"), "{deliver:?}");
}

#[test]
fn a_plugin_that_needs_a_tier_is_tested_by_tokens_of_the_suite_s_own() {
    let environment = TestEnvironment::empty();
    let public_key = path(&packages().public_key);
    let tested =
        environment.km_pack(["test", path(api_logger()), "--key", public_key, "--json"]).expect(0).json();
    let check = |id: &str| {
        let checks = tested["checks"].as_array().unwrap();
        checks.iter().find(|check| check["id"] == id).unwrap()["detail"].clone()
    };
    assert_eq!(
        (check("authenticate"), check("token")),
        ("Pro, by a token".into(), "Pro".into()),
        "{tested:#}"
    );
    assert!(
        tested["checks"].as_array().unwrap().iter().all(|check| check["outcome"] == "passed"),
        "{tested:#}"
    );
}
