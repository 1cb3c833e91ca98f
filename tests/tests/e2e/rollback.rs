//! Versions in the hands of their users: back and forth, locked, inspected, several at once, disabled.

use std::path::{Path, PathBuf};

use km_package::digest::Digest;
use km_package::tier::Tier;
use km_tests::{TestEnvironment, Tiny, alive, index_of, packages, path};
use serde_json::{Value, json};

use crate::lifecycle::plugin_process;
use crate::session::Session;
use km_tests::versions::{
    active_executable, active_path, expect_tidy, first, folders, link, second, third, with,
};

fn mark(environment: &TestEnvironment) -> PathBuf {
    environment.home().join("plugins/store/tiny/highest.toml")
}

fn marker(environment: &TestEnvironment) -> PathBuf {
    environment.home().join("plugins/store/tiny/disabled.toml")
}

fn lock_file(environment: &TestEnvironment) -> PathBuf {
    environment.path("km-plugins.lock")
}

fn manifest_digest(tiny: &Tiny) -> String {
    Digest::of(tiny.manifest().to_text().as_bytes()).to_string()
}

fn rolled_back(environment: &TestEnvironment) -> Value {
    environment.km(["plugins", "rollback", "tiny", "--json"]).expect(0).json()
}

/// A command that changes nothing, and its error.
fn refused(environment: &TestEnvironment, arguments: &[&str], code: i32) -> Value {
    let before = environment.snapshot();
    let arguments = arguments.iter().copied().chain(["--json"]);
    let error = environment.km(arguments).expect(code).json()["error"].clone();
    assert_eq!(environment.snapshot(), before);
    error
}

#[test]
fn back_and_forth() {
    let environment = with(&[first(), second()]);
    let highest = std::fs::read(mark(&environment)).unwrap();
    for (to, from) in [(first(), "1.1.0"), (second(), "1.0.0"), (first(), "1.1.0")] {
        let reason = format!("in place of {from}");
        let plugin = json!({"name": "tiny", "version": to.version, "action": "updated", "reason": reason});
        assert_eq!(rolled_back(&environment), json!({ "plugins": [plugin] }));
        assert_eq!(active_executable(&environment), Some(to.executable()));
        assert_eq!(std::fs::read(mark(&environment)).unwrap(), highest);
        expect_tidy(&environment, "");
    }
    // An update goes on from there, and what was left before is kept no longer.
    third().install(&environment);
    assert_eq!(active_executable(&environment), Some(third().executable()));
    assert_eq!(rolled_back(&environment)["plugins"][0]["version"], "1.0.0");
    assert_eq!(folders(&environment).len(), 2);
    let text = environment.km(["plugins", "rollback", "tiny"]).expect(0).text();
    assert_eq!(text, "tiny 2.0.0: updated, in place of 1.0.0\n");
}

#[test]
fn there_is_nothing_to_go_back_to() {
    let environment = TestEnvironment::trusting();
    let error = refused(&environment, &["plugins", "rollback", "tiny"], 6);
    assert!(error["help"].as_str().unwrap().contains("km plugins list"), "{error}");
    Tiny::trust(&environment);
    first().install(&environment);
    let error = refused(&environment, &["plugins", "rollback", "tiny"], 6);
    assert!(error["help"].as_str().unwrap().contains("--allow-downgrade"), "{error}");
    environment.allow(Path::new("/bin/true"), "mine");
    refused(&environment, &["plugins", "rollback", "mine"], 6);
    // What lies beside by accident is not the version before.
    let copy = folders(&environment)[0].with_file_name("0.9.0-01234567");
    std::fs::create_dir(&copy).unwrap();
    environment.km(["plugins", "rollback", "tiny"]).expect(6);
}

#[test]
fn what_does_not_verify_is_not_gone_back_to() {
    let environment = with(&[first(), second()]);
    let kept = folders(&environment)[0].clone();
    for file in ["km-plugin-tiny", "notes.txt", ".signatures"] {
        let bytes = std::fs::read(kept.join(file)).unwrap();
        let mut damaged = bytes.clone();
        damaged[0] ^= 1;
        std::fs::write(kept.join(file), damaged).unwrap();
        let error = refused(&environment, &["plugins", "rollback", "tiny"], 3);
        assert!(error["rule"].is_u64(), "{file}: {error}");
        assert_eq!(active_executable(&environment), Some(second().executable()));
        std::fs::write(kept.join(file), bytes).unwrap();
    }
    environment.configure("http://127.0.0.1:9", "", "customer = \"somebody_else\"");
    assert_eq!(refused(&environment, &["plugins", "rollback", "tiny"], 4)["rule"], 6);
}

#[test]
fn running_sessions_keep_their_process() {
    let environment = TestEnvironment::with_console_logger();
    let stamped = packages().build("console-logger", "customer_123", "Enterprise");
    let link = environment.home().join("plugins/km-plugin-console-logger");
    let before = std::fs::canonicalize(&link).unwrap();

    let mut session = Session::start(&environment, &["--", "cat"]);
    session.exchange("{\"n\":1}");
    let plugin = plugin_process(&session);
    let executable = || std::fs::read_link(format!("/proc/{plugin}/exe")).unwrap();
    let changes: [&[&str]; 4] = [
        &["install", path(&stamped)],
        &["rollback", "console-logger"],
        &["rollback", "console-logger"],
        &["remove", "console-logger", "--yes"],
    ];
    for (n, change) in changes.into_iter().enumerate() {
        environment.km(["plugins"].into_iter().chain(change.iter().copied())).expect(0);
        let active = std::fs::canonicalize(&link).ok();
        let expected = [false, true, false, false][n].then_some(&before);
        assert_eq!(active.as_ref().filter(|active| **active == before), expected, "{change:?}");
        assert_eq!(plugin_process(&session), plugin, "{change:?}");
        session.exchange("{\"n\":2}");
        assert!(alive(plugin) && executable().starts_with(environment.home()), "{change:?}");
    }
    // The file is gone, and the process that was made from it works to its end.
    assert!(executable().to_string_lossy().ends_with(" (deleted)"), "{:?}", executable());
    let finished = session.finish().expect(0);
    assert!(finished.stderr.contains("[console-logger]"), "{finished:?}");
}

#[test]
fn a_mark_that_was_lowered_or_lost_opens_no_door() {
    let between = Tiny::new("1.0.5", 2);
    let tamper: [fn(&Path); 3] = [
        |mark| std::fs::remove_file(mark).unwrap(),
        |mark| std::fs::write(mark, "[customers]\ncustomer_123 = 1\n").unwrap(),
        |mark| std::fs::write(mark, "").unwrap(),
    ];
    for tamper in tamper {
        // Whether the newest one is active, kept, or was removed after that.
        for steps in [vec![], vec!["rollback"], vec!["rollback", "remove"], vec!["remove"]] {
            let environment = with(&[first(), third()]);
            let package = between.write(&environment.path(""));
            tamper(&mark(&environment));
            for step in steps {
                environment.km(["plugins", step, "tiny"]).expect(0);
            }
            let error = refused(&environment, &["plugins", "install", path(&package)], 7);
            assert_eq!(error["rule"], 10);
            environment.km(["plugins", "install", path(&package), "--allow-downgrade"]).expect(0);
            // Going back on purpose does not lower it.
            environment.km(["plugins", "remove", "tiny"]).expect(0);
            refused(&environment, &["plugins", "install", path(&package)], 7);
        }
    }
}

#[test]
fn what_is_damaged_is_not_kept_in_the_place_of_what_is_whole() {
    let environment = with(&[first(), second()]);
    std::fs::write(active_path(&environment), "damaged").unwrap();
    third().install(&environment);
    assert_eq!(rolled_back(&environment)["plugins"][0]["version"], "1.0.0");
    assert_eq!(active_executable(&environment), Some(first().executable()));
    // The same where nothing can be read of it any more.
    let environment = with(&[first(), second()]);
    std::fs::remove_file(active_path(&environment).with_file_name(".receipt.toml")).unwrap();
    second().install(&environment);
    assert_eq!(rolled_back(&environment)["plugins"][0]["version"], "1.0.0");
}

#[test]
fn whose_a_binary_is_counts_where_its_bytes_do_not_say_it() {
    let plain =
        |tier, customer: &str| Tiny { has_slot: false, tier, customer: customer.to_owned(), ..first() };
    let environment = with(&[plain(Tier::Pro, "customer_123")]);
    let stamped = plain(Tier::Enterprise, "customer_123").write(&environment.path(""));
    let done = environment.km(["plugins", "install", path(&stamped), "--json"]).expect(0).json();
    assert_eq!(done["plugins"][0]["action"], "updated");
    let listed = environment.km(["plugins", "list", "--json"]).expect(0).json();
    assert_eq!(listed["plugins"][0]["tier"], "Enterprise");
    let other = plain(Tier::Pro, "other").write(&environment.path(""));
    let error = refused(&environment, &["plugins", "install", path(&other)], 7);
    assert!(error["message"].as_str().unwrap().contains("is installed for customer_123"), "{error}");
    environment.km(["plugins", "install", path(&other), "--force"]).expect(0);
    let listed = environment.km(["plugins", "list", "--json"]).expect(0).json();
    assert_eq!(listed["plugins"][0]["customer"], "other");
    expect_tidy(&environment, "");
}

#[test]
fn a_filesystem_that_cannot_exchange_folders_is_repaired_too() {
    let environment = with(&[first(), second()]);
    let package = second().write(&environment.path(""));
    for error in ["EINVAL", "EXDEV"] {
        std::fs::write(active_path(&environment), "damaged").unwrap();
        let km = environment.command("km");
        let mut command = std::process::Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject=renameat2:error={error}")]);
        command.arg(km.get_program()).args(["plugins", "install", path(&package)]);
        command.envs(km.get_envs().filter_map(|(name, value)| Some((name, value?))));
        assert!(command.output().unwrap().status.success(), "{error}");
        assert_eq!(active_executable(&environment), Some(second().executable()));
        expect_tidy(&environment, "");
    }
}

#[test]
fn a_disabled_plugin_stays_and_does_not_run() {
    let environment = with(&[first()]);
    std::fs::write(marker(&environment), "reason = \"the subscription is Free\"\n").unwrap();
    let listed = environment.km(["plugins", "list", "--json"]).expect(0).json();
    let plugin = &listed["plugins"][0];
    assert_eq!(
        (&plugin["state"], &plugin["reason"]),
        (&"disabled".into(), &"the subscription is Free".into())
    );
    assert_eq!(plugin["version"], "1.0.0");
    let status = environment.km(["plugins", "status", "--json"]).expect(0).json();
    assert_eq!(status["plugins"][0]["health"], "not started");
    let session = environment.km_with_input(["monitor", "--", "cat"], b"{}\n").expect(0);
    assert_eq!(session.text(), "{}\n");
    assert_eq!(session.stderr, "km: plugin tiny is not used: the subscription is Free\n");
    // A marker that nobody can read is one.
    std::fs::write(marker(&environment), "{").unwrap();
    assert_eq!(environment.km(["plugins", "list", "--json"]).json()["plugins"][0]["state"], "disabled");

    let package = first().write(&environment.path(""));
    let done = environment.km(["plugins", "install", path(&package), "--json"]).expect(0).json();
    assert_eq!(
        done["plugins"][0],
        json!({"name": "tiny", "version": "1.0.0", "action": "updated", "reason": "it was disabled"})
    );
    assert!(!marker(&environment).exists());
    std::fs::write(marker(&environment), "reason = \"x\"\n").unwrap();
    second().install(&environment);
    assert!(!marker(&environment).exists());
    std::fs::write(marker(&environment), "reason = \"x\"\n").unwrap();
    environment.km(["plugins", "remove", "tiny"]).expect(0);
    assert!(!marker(&environment).exists());
}

#[test]
fn a_removal_that_was_cut_off_is_ended_by_the_next() {
    let environment = with(&[first(), second()]);
    std::fs::remove_file(link(&environment)).unwrap();
    let done = environment.km(["plugins", "remove", "tiny", "--json"]).expect(0).json();
    let plugin = json!({"name": "tiny", "version": null, "action": "removed", "reason": null});
    assert_eq!(done, json!({ "plugins": [plugin] }));
    assert!(folders(&environment).is_empty() && mark(&environment).exists());
    refused(&environment, &["plugins", "remove", "tiny"], 6);
}

#[test]
fn a_lock_file_says_what_is_installed() {
    let environment = with(&[first()]);
    Tiny { name: "another".to_owned(), ..second() }.install(&environment);
    environment.allow(Path::new("/bin/true"), "mine");
    let written = environment.km(["plugins", "lock"]).expect(0);
    assert!(written.stderr.contains("mine is left out"), "{written:?}");
    let here = first().platform;
    let digest = |tiny: &Tiny| manifest_digest(tiny);
    let another = digest(&Tiny { name: "another".to_owned(), ..second() });
    let expected = format!(
        "format = \"kmlock/1\"\n\n[[plugins]]\nname = \"another\"\nversion = \"1.1.0\"\nsequence = 2\n\
         customer = \"customer_123\"\n\n[plugins.platforms]\n{here} = \"{another}\"\n\n[[plugins]]\n\
         name = \"tiny\"\nversion = \"1.0.0\"\nsequence = 1\ncustomer = \"customer_123\"\n\n\
         [plugins.platforms]\n{here} = \"{}\"\n",
        digest(&first())
    );
    let lock = lock_file(&environment);
    assert_eq!(std::fs::read_to_string(&lock).unwrap(), expected);

    // Other platforms stay with their version, and go with it.
    let other = "0".repeat(64);
    let more = expected.replace(&format!("{here} ="), &format!("darwin-arm64 = \"{other}\"\n{here} ="));
    std::fs::write(&lock, &more).unwrap();
    let document = environment.km(["plugins", "lock", "--json"]).expect(0).json();
    assert_eq!(std::fs::read_to_string(&lock).unwrap(), more);
    assert_eq!(document["plugins"][1]["platforms"]["darwin-arm64"], other);
    // The index knows more than an older file.
    let elsewhere = Tiny { platform: "darwin-arm64".parse().unwrap(), ..first() };
    let later = Tiny { sequence: 9, platform: "windows-arm64".parse().unwrap(), ..first() };
    let index = environment.home().join("plugins/index/customer_123");
    std::fs::create_dir_all(index.parent().unwrap()).unwrap();
    std::fs::write(&index, index_of(&[first(), elsewhere.clone(), later])).unwrap();
    environment.km(["plugins", "lock"]).expect(0);
    let text = std::fs::read_to_string(&lock).unwrap();
    assert_eq!(text, more.replacen(&other, &digest(&elsewhere), 2).replacen(&digest(&elsewhere), &other, 1));
    second().install(&environment);
    environment.km(["plugins", "lock"]).expect(0);
    assert_eq!(std::fs::read_to_string(&lock).unwrap().matches("darwin-arm64").count(), 1);
    environment.km(["plugins", "lock", "--file", "missing/km-plugins.lock"]).expect(6);
    assert!(!environment.path("missing").exists());
}

#[test]
fn a_damaged_lock_file_is_neither_believed_nor_overwritten() {
    let environment = with(&[first()]);
    environment.km(["plugins", "lock"]).expect(0);
    let lock = lock_file(&environment);
    let good = std::fs::read_to_string(&lock).unwrap();
    let package = first().write(&environment.path(""));
    let twice = good[good.find("\n[[plugins]]").unwrap()..].to_owned();
    for (damaged, said) in [
        (good.replace("sequence = 1", "sequence = one"), "line 6"),
        (good.replace("kmlock/1", "kmlock/2"), "line 1"),
        (good.replace("name =", "nickname ="), "line"),
        (good.replace("\"tiny\"", "\"../tiny\""), "line 4"),
        (good.clone() + &twice, "named twice"),
        ("x".to_owned(), "line 1"),
        (good.replace("1.0.0", "?"), "line 5: it is not UTF-8"),
    ] {
        let damaged: Vec<u8> = damaged.bytes().map(|byte| if byte == b'?' { 0xe9 } else { byte }).collect();
        std::fs::write(&lock, &damaged).unwrap();
        for command in [&["plugins", "lock"][..], &["plugins", "install", "--locked", path(&package)]] {
            let error = refused(&environment, command, 1);
            assert!(error["message"].as_str().unwrap().contains(said), "{said}: {error}");
        }
        assert_eq!(std::fs::read(&lock).unwrap(), damaged);
    }
}

#[test]
fn only_what_is_locked_is_installed() {
    let environment = with(&[first()]);
    environment.km(["plugins", "lock", "--file", "my.lock"]).expect(0);
    let [one, two] = [first(), second()].map(|tiny| tiny.write(&environment.path("")));
    let stamped = Tiny { tier: Tier::Enterprise, ..first() }.write(&environment.path(""));
    let stranger = Tiny { name: "another".to_owned(), ..first() }.write(&environment.path(""));
    let locked = |package| ["plugins", "install", "--locked", "--lock-file", "my.lock", package];
    environment.km(locked(path(&one))).expect(0);
    for (package, found) in [(&two, "tiny 1.1.0 with manifest"), (&stamped, "tiny 1.0.0 with manifest")] {
        let error = refused(&environment, &locked(path(package)), 7);
        let message = error["message"].as_str().unwrap();
        let expected = format!("the lock file has tiny 1.0.0 with manifest {}", manifest_digest(&first()));
        assert!(message.contains(&expected) && message.contains(&format!("this is {found}")), "{message}");
    }
    let error = refused(&environment, &locked(path(&stranger)), 7);
    assert!(error["message"].as_str().unwrap().contains("has no another"), "{error}");
    let text = std::fs::read_to_string(environment.path("my.lock")).unwrap();
    let elsewhere = text.replace(&first().platform.to_string(), "darwin-arm64");
    std::fs::write(environment.path("my.lock"), elsewhere).unwrap();
    let error = refused(&environment, &locked(path(&one)), 7);
    assert!(error["message"].as_str().unwrap().contains("tiny 1.0.0 not for"), "{error}");
    refused(&environment, &["plugins", "install", "--locked", path(&one)], 6);
    refused(&environment, &["plugins", "install", "--lock-file", "my.lock", path(&one)], 2);
}

#[test]
fn an_installed_plugin_shows_its_manifest() {
    let environment = with(&[first(), second()]);
    let document = environment.km(["plugins", "inspect", "tiny", "--json"]).expect(0).json();
    for (key, value) in [("name", "tiny"), ("origin", "file"), ("previous", "1.0.0")] {
        assert_eq!(document[key], value, "{document}");
    }
    assert_eq!(document["path"], path(&active_path(&environment)));
    assert_eq!(document["key_ids"].as_array().unwrap().len(), 1);
    assert!(document["installed_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(document["manifest"], serde_json::to_value(second().manifest()).unwrap());
    let text = environment.km(["plugins", "inspect", "tiny"]).expect(0).text();
    for line in ["plugin       tiny 1.1.0", "from         a file", "kept         1.0.0"] {
        assert!(text.contains(line), "{text}");
    }
    refused(&environment, &["plugins", "inspect", "missing"], 6);
    environment.allow(Path::new("/bin/true"), "mine");
    let error = refused(&environment, &["plugins", "inspect", "mine"], 3);
    assert!(error["help"].is_string(), "{error}");
    std::fs::write(active_path(&environment).with_file_name(".signatures"), [0; 72]).unwrap();
    refused(&environment, &["plugins", "inspect", "tiny"], 3);
}

#[test]
fn one_package_that_is_refused_does_not_stop_the_others() {
    let environment = Tiny::trusting();
    let named = |name: &str| Tiny { name: name.to_owned(), ..first() }.write(&environment.path(""));
    let [a, b] = ["a", "b"].map(named);
    let damaged = environment.path("damaged.kmpkg");
    std::fs::write(&damaged, &second().bytes()[..600]).unwrap();
    let install = |packages: &[&str], code| {
        let arguments = ["plugins", "install", "--json"].into_iter().chain(packages.iter().copied());
        environment.km(arguments).expect(code).json()
    };
    let done = install(&[path(&a), path(&damaged), path(&b)], 3);
    let actions = |document: &Value| -> Vec<String> {
        let plugins = document["plugins"].as_array().unwrap();
        plugins.iter().map(|plugin| format!("{} {}", plugin["name"], plugin["action"])).collect()
    };
    assert_eq!(actions(&done), [r#""a" "installed""#, r#"null "failed""#, r#""b" "installed""#]);
    assert_eq!(done["plugins"][1]["package"], path(&damaged));
    assert_eq!(done["plugins"][1]["reason"], done["error"]["message"]);
    assert_eq!(done["error"]["kind"], "untrusted");

    let again = install(&[path(&a), path(&b)], 0);
    assert_eq!(actions(&again), [r#""a" "kept""#, r#""b" "kept""#]);
    assert_eq!(again["error"], Value::Null);
    // Failures of several kinds; the first is told.
    let both = install(&["missing.kmpkg", path(&damaged)], 6);
    assert_eq!(both["error"]["kind"], "not-found");
    assert_eq!(install(&["missing.kmpkg", "absent.kmpkg"], 6)["plugins"].as_array().unwrap().len(), 2);
    // One alone is as it always was.
    assert_eq!(install(&[path(&damaged)], 3)["plugins"], Value::Null);

    let secret = ["https://me:password@host/a.kmpkg", "https://me:password@host/b.kmpkg"];
    assert!(!install(&secret, 2).to_string().contains("password"));

    let text = environment.km(["plugins", "install", path(&a), "missing.kmpkg"]).expect(6);
    assert_eq!(text.text(), "a 1.0.0 for customer_123 at Pro: kept, already installed\n");
    assert!(text.stderr.starts_with("error: missing.kmpkg: cannot open"), "{text:?}");
}
