//! Commands, their exit codes and their documents.

use std::os::unix::fs::PermissionsExt as _;

use km_tests::{TestEnvironment, binary, packages, path};
use serde_json::Value;

fn error(document: &Value) -> (&str, &Value) {
    (document["error"]["kind"].as_str().unwrap_or_default(), &document["error"]["rule"])
}

#[test]
fn installing_twice_keeps_and_removing_twice_says_so() {
    let environment = TestEnvironment::with_console_logger();
    let again = environment.km(["plugins", "install", path(&packages().package), "--json"]).expect(0).json();
    assert_eq!(again["plugins"][0]["action"], "kept");
    let removed = environment.km(["plugins", "remove", "console-logger", "--json"]).expect(0).json();
    assert_eq!(removed["plugins"][0]["action"], "removed");
    assert_eq!(
        environment.km(["plugins", "list", "--json"]).expect(0).json(),
        serde_json::json!({"plugins": []})
    );
    let missing = environment.km(["plugins", "remove", "console-logger", "--json"]).expect(6).json();
    assert_eq!(error(&missing), ("not-found", &Value::Null));
    environment.km(["plugins", "remove", "console-logger", "--if-present"]).expect(0);
}

#[test]
fn another_tier_of_the_same_build_updates_and_another_build_of_the_same_version_conflicts() {
    let environment = TestEnvironment::with_console_logger();
    let folder = environment.path("dist");
    let key = packages().private_key.clone();
    let build = |customer: &str, tier: &str, sequence: &str| {
        let output = std::process::Command::new(binary("km-pack"))
            .args([
                "build",
                "--json",
                "--debug",
                "--plugin",
                "console-logger",
                "--customer",
                customer,
                "--tier",
                tier,
            ])
            .args(["--key", path(&key), "--out", path(&folder)])
            .args(["--sequence", sequence])
            .current_dir(km_tests::workspace())
            .output()
            .unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        document["packages"][0]["path"].as_str().unwrap().to_owned()
    };
    let later = "4000000000";
    let free = environment
        .km(["plugins", "install", &build("customer_123", "Free", later), "--json"])
        .expect(0)
        .json();
    assert_eq!(free["plugins"][0]["action"], "updated");
    let listed = environment.km(["plugins", "list", "--json"]).expect(0).json();
    assert_eq!(listed["plugins"][0]["tier"], "Free");

    let stranger = build("somebody_else", "Free", later);
    let conflict = environment.km(["plugins", "install", &stranger, "--json"]).expect(7).json();
    assert_eq!(error(&conflict), ("conflict", &Value::Null));
    environment.km(["plugins", "install", &stranger, "--force"]).expect(0);

    // Older than what this customer had, also after everything was removed.
    environment.km(["plugins", "remove", "console-logger"]).expect(0);
    let old = build("customer_123", "Pro", "3999999999");
    let rollback = environment.km(["plugins", "install", &old, "--json"]).expect(7).json();
    assert_eq!(error(&rollback), ("conflict", &10.into()));
    environment.km(["plugins", "install", &old, "--allow-downgrade"]).expect(0);
}

#[test]
fn a_configured_customer_gets_no_others_packages_and_others_plugins_are_disabled() {
    let environment = TestEnvironment::with_console_logger();
    let config = environment.home().join("config");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("config.toml"), "customer = \"other_customer\"\n").unwrap();
    let listed = environment.km(["plugins", "list", "--json"]).expect(0).json();
    assert_eq!(listed["plugins"][0]["state"], "disabled");
    let session = environment.km_with_input(["monitor", "--", "cat"], b"{}\n").expect(0);
    assert!(
        session.stderr.contains("is not used") && !session.stderr.contains("[console-logger]"),
        "{session:?}"
    );
    let refused =
        environment.km(["plugins", "install", path(&packages().package), "--json"]).expect(4).json();
    assert_eq!(error(&refused), ("unauthorized", &6.into()));
    environment.km(["plugins", "remove", "console-logger"]).expect(0);
    environment.km(["plugins", "install", path(&packages().other_customer)]).expect(0);
}

#[test]
fn plain_binaries_are_listed_and_run_only_when_allowed() {
    let environment = TestEnvironment::empty();
    let plugins = environment.home().join("plugins");
    std::fs::create_dir_all(plugins.join("km-plugin-folder")).unwrap();
    let place = plugins.join("km-plugin-counts");
    std::fs::copy(binary("misbehaving"), &place).unwrap();
    std::fs::write(plugins.join("km-plugin-plain"), "not executable").unwrap();
    std::fs::write(plugins.join("other"), "not named so").unwrap();

    let states = || {
        let document = environment.km(["plugins", "list", "--json"]).expect(0).json();
        let plugins = document["plugins"].as_array().unwrap().clone();
        plugins.iter().map(|p| (p["name"].clone(), p["state"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(states(), [("counts".into(), "unsigned".into())]);
    let session = environment.km_with_input(["monitor", "--", "cat"], b"{}\n").expect(0);
    assert!(session.stderr.contains("plugin counts is not used"), "{session:?}");

    environment.km(["plugins", "allow", path(&place)]).expect(0);
    environment.km(["plugins", "allow", path(&place)]).expect(0);
    assert_eq!(states(), [("counts".into(), "allowed".into())]);
    let session = environment.km_with_input(["monitor", "--", "cat"], b"{}\n").expect(0);
    assert!(session.stderr.contains("[counts] 2 messages"), "{session:?}");

    // Changed by one byte: not what was allowed.
    let mut bytes = std::fs::read(&place).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&place, bytes).unwrap();
    assert_eq!(states(), [("counts".into(), "unsigned".into())]);
    environment.km(["plugins", "remove", "counts"]).expect(0);
    assert_eq!(states(), []);
}

#[test]
fn what_belongs_to_an_installed_package_is_not_allowed_by_hand() {
    let environment = TestEnvironment::with_console_logger();
    let link = environment.home().join("plugins/km-plugin-console-logger");
    let refused = environment.km(["plugins", "allow", path(&link), "--json"]).expect(7).json();
    assert_eq!(error(&refused).0, "conflict");
}

#[test]
fn every_package_that_is_verified_has_its_line() {
    let environment = TestEnvironment::empty();
    let built = packages();
    let junk = environment.path("junk");
    std::fs::write(&junk, "junk").unwrap();
    let (key, good) = (path(&built.public_key), path(&built.package));
    let finished = environment.km_pack(["verify", "--key", key, path(&junk), good, "missing"]).expect(3);
    assert!(finished.text().contains("good, signed by"), "{finished:?}");
    assert!(
        finished.stderr.contains("refused by rule V1") && finished.stderr.contains("missing"),
        "{finished:?}"
    );
}

#[test]
fn listing_starts_no_process() {
    let environment = TestEnvironment::with_console_logger();
    let plugins = environment.home().join("plugins");
    let trap = plugins.join("km-plugin-trap");
    let sprung = environment.path("sprung");
    std::fs::write(&trap, format!("#!/bin/sh\ntouch {}\n", sprung.display())).unwrap();
    std::fs::set_permissions(&trap, std::fs::Permissions::from_mode(0o755)).unwrap();
    environment.km(["plugins", "allow", path(&trap)]).expect(0);
    // No child can be made under this limit, and none is needed.
    let mut command = std::process::Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=process", "-o", path(&environment.path("trace"))]);
    let km = environment.command("km");
    command.arg(km.get_program()).args(["plugins", "list"]).env("KM_HOME", environment.home());
    let output = command.output().expect("strace is installed");
    assert!(output.status.success(), "{output:?}");
    let trace = std::fs::read_to_string(environment.path("trace")).unwrap();
    for call in ["fork", "clone"] {
        assert!(!trace.contains(call), "{trace}");
    }
    assert_eq!(trace.matches("exec").count(), 1, "{trace}");
    assert!(!sprung.exists());
}

#[test]
fn keys_are_added_listed_and_removed_and_bad_ones_are_refused() {
    let environment = TestEnvironment::empty();
    let public = &packages().public_key;
    let added = environment.km(["trust", "add", path(public), "--json"]).expect(0).json();
    let id = added["keys"][0]["key_id"].as_str().unwrap().to_owned();
    environment.km(["trust", "add", path(public)]).expect(0);
    let listed = environment.km(["trust", "list", "--json"]).expect(0).json();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1);

    let private = environment.km(["trust", "add", path(&packages().private_key), "--json"]).expect(3).json();
    assert!(private["error"]["message"].as_str().unwrap().contains("private key"), "{private}");
    let junk = environment.path("junk.pem");
    std::fs::write(&junk, "junk").unwrap();
    environment.km(["trust", "add", path(&junk)]).expect(3);
    environment.km(["trust", "add", "missing.pem"]).expect(6);

    environment.km(["trust", "remove", &id]).expect(0);
    environment.km(["trust", "remove", &id]).expect(6);
    environment.km(["trust", "remove", &id, "--if-present"]).expect(0);
}

#[test]
fn keys_are_made_private_and_never_overwritten() {
    let environment = TestEnvironment::empty();
    let made = environment.km_pack(["keygen", "--json"]).expect(0).json();
    let private = environment.path("keys/release.key.pem");
    assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(made["key_id"].as_str().unwrap().len(), 16);
    let before = std::fs::read(&private).unwrap();
    let again = environment.km_pack(["keygen", "--json"]).expect(7).json();
    assert_eq!(error(&again).0, "conflict");
    assert_eq!(std::fs::read(&private).unwrap(), before);
    environment.km_pack(["keygen", "--name", "../evil"]).expect(2);
}

#[test]
fn without_a_key_or_a_plugin_a_build_says_what_to_do() {
    let environment = TestEnvironment::empty();
    let build = ["build", "--plugin", "console-logger", "--customer", "c", "--json"];
    let no_key = environment.km_pack(build).expect(6).json();
    assert!(no_key["error"]["help"].as_str().unwrap().contains("km-pack keygen"), "{no_key}");
    environment.km_pack(["keygen"]).expect(0);
    let no_plugin = environment.km_pack(build).expect(6).json();
    assert_eq!(error(&no_plugin).0, "not-found");
    environment.km_pack(["build", "--plugin", "./nowhere", "--customer", "c"]).expect(6);
    environment.km_pack(["build", "--plugin", "x", "--customer", "../c"]).expect(2);
    environment.km_pack(["build", "--plugin", "x", "--customer", "c", "--tier", "gold"]).expect(2);
}

#[test]
fn verify_and_inspect_say_what_a_package_is() {
    let environment = TestEnvironment::empty();
    let built = packages();
    let verified = environment
        .km_pack(["verify", path(&built.package), "--key", path(&built.public_key), "--json"])
        .expect(0)
        .json();
    assert_eq!(verified["packages"][0]["ok"], true);
    let inspected = environment.km_pack(["inspect", path(&built.package), "--json"]).expect(0).json();
    assert_eq!(inspected["tar_sha256"], built.document["tar_sha256"]);
    assert_eq!(inspected["key_ids"], verified["packages"][0]["key_ids"]);
    assert_eq!(inspected["manifest"]["customer"]["id"], "customer_123");
    assert_eq!(inspected["manifest"]["format"], "kmpkg/1");

    environment.km_pack(["verify", path(&built.package)]).expect(6);
    let elsewhere = environment
        .km_pack([
            "verify",
            path(&built.package),
            "--key",
            path(&built.public_key),
            "--platform",
            "darwin-arm64",
            "--json",
        ])
        .expect(3)
        .json();
    assert_eq!(error(&elsewhere), ("untrusted", &7.into()));
    let junk = environment.path("junk");
    std::fs::write(&junk, "junk").unwrap();
    let refused = environment.km_pack(["inspect", path(&junk), "--json"]).expect(3).json();
    assert_eq!(error(&refused), ("untrusted", &1.into()));
    environment.km_pack(["inspect", "missing"]).expect(6);
}

#[test]
fn bad_arguments_are_exit_2_with_one_document() {
    let environment = TestEnvironment::empty();
    for arguments in [
        &["nonsense", "--json"][..],
        &["plugins", "install", "--json"],
        &["plugins", "remove", "../x", "--json"],
    ] {
        let document = environment.km(arguments.iter().copied()).expect(2).json();
        assert_eq!(error(&document), ("usage", &Value::Null));
    }
    environment.km(["monitor", "--json", "--", "echo"]).expect(2);
    // What stands behind `--` is not km's.
    let server = environment.km(["monitor", "--", "echo", "--json"]).expect(0);
    assert_eq!(server.text(), "--json\n");
    environment.km(["plugins", "install", "missing.kmpkg"]).expect(6);
    environment.km(["plugins", "status", "missing"]).expect(6);
}

#[test]
fn every_command_has_help_with_an_example() {
    let environment = TestEnvironment::empty();
    let km: [&[&str]; 23] = [
        &[],
        &["init"],
        &["auth"],
        &["auth", "login"],
        &["auth", "status"],
        &["auth", "logout"],
        &["doctor"],
        &["monitor"],
        &["plugins"],
        &["plugins", "install"],
        &["plugins", "list"],
        &["plugins", "status"],
        &["plugins", "remove"],
        &["plugins", "rollback"],
        &["plugins", "inspect"],
        &["plugins", "lock"],
        &["plugins", "allow"],
        &["trust"],
        &["trust", "add"],
        &["trust", "list"],
        &["trust", "remove"],
        &["version"],
        &["completions"],
    ];
    for command in km {
        let help = environment.km(command.iter().copied().chain(["--help"])).expect(0).text();
        assert!(help.contains("Example:"), "km {command:?}");
    }
    let km_pack: [&[&str]; 19] = [
        &[],
        &["keygen"],
        &["build"],
        &["verify"],
        &["inspect"],
        &["test"],
        &["serve"],
        &["customers"],
        &["customers", "add"],
        &["customers", "new-key"],
        &["customers", "list"],
        &["customers", "set-tier"],
        &["customers", "set-features"],
        &["customers", "set-expiry"],
        &["customers", "suspend"],
        &["customers", "resume"],
        &["customers", "revoke-key"],
        &["customers", "remove"],
        &["completions"],
    ];
    for command in km_pack {
        let help = environment.km_pack(command.iter().copied().chain(["--help"])).expect(0).text();
        assert!(help.contains("Example:"), "km-pack {command:?}");
    }
    let version = environment.km(["version", "--json"]).expect(0).json();
    assert!(version["commit"].is_string() && version["target"].as_str().unwrap().contains("linux"));
    assert!(environment.km(["--version"]).expect(0).text().starts_with("km 0."));
    assert!(environment.km(["completions", "bash"]).expect(0).text().contains("_km"));
    assert!(environment.km_pack(["completions", "zsh"]).expect(0).text().contains("#compdef km-pack"));
}

#[test]
fn secrets_reach_neither_children_nor_logs() {
    let environment = TestEnvironment::with_console_logger();
    let canary = "km_live_canary_0123456789";
    let mut command = environment.command("km");
    command
        .args(["-vvv", "monitor", "--", "sh", "-c", "env; cat"])
        .env("KM_API_KEY", canary)
        .env("KM_LOG", "trace");
    command.stdin(std::process::Stdio::null());
    let output = command.output().unwrap();
    for text in [&output.stdout, &output.stderr] {
        assert!(!String::from_utf8_lossy(text).contains(canary));
    }
}
