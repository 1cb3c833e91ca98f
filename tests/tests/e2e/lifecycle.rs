//! The whole way: key, build, verify, trust, install, list, status, monitor.

use std::process::Command;

use km_tests::{TestEnvironment, binary, packages, path, workspace};

use crate::session::Session;

#[test]
fn a_package_goes_from_the_key_to_a_monitored_session() {
    let environment = TestEnvironment::empty();
    let built = packages();
    environment.km(["trust", "add", path(&built.public_key)]).expect(0);
    let installed = environment.km(["plugins", "install", path(&built.package), "--json"]).expect(0).json();
    assert_eq!(installed["plugins"][0]["action"], "installed");

    let listed = environment.km(["plugins", "list", "--json"]).expect(0).json();
    let plugin = &listed["plugins"][0];
    for (key, value) in [
        ("name", "console-logger"),
        ("version", "1.0.0"),
        ("required_tier", "Free"),
        ("tier", "Pro"),
        ("customer", "customer_123"),
        ("state", "installed"),
    ] {
        assert_eq!(plugin[key], value, "{key}");
    }
    let status = environment.km(["plugins", "status", "--json"]).expect(0).json();
    assert_eq!(status["plugins"][0]["health"], "serving");
    assert_eq!(status["plugins"][0]["authenticated"], true);
    assert_eq!(status["sessions"], serde_json::json!([]));

    let mut client = environment.command("mcp-client");
    client.arg("--").arg(binary("km")).args(["monitor", "--server", "--"]).arg(binary("mcp-server"));
    let session = client.output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&session.stdout), String::from_utf8_lossy(&session.stderr));
    assert!(session.status.success() && stdout.contains("echo: 5 bytes"), "{stdout}{stderr}");
    let seen: Vec<&str> = stderr.lines().filter(|line| line.starts_with("[console-logger] ")).collect();
    let expected = [
        "inbound  initialize id=0",
        "outbound result id=0",
        "inbound  notifications/initialized",
        "inbound  tools/list id=1",
        "outbound result id=1",
        "inbound  tools/call id=2",
        "outbound result id=2",
    ];
    assert_eq!(seen.len(), expected.len(), "{stderr}");
    for (line, expected) in seen.iter().zip(expected) {
        assert!(line.contains(expected), "{line} is not {expected}");
    }
}

#[test]
fn the_same_build_twice_gives_the_same_archive_and_the_binary_says_whose_it_is() {
    let environment = TestEnvironment::with_console_logger();
    let built = packages();
    let again = environment.path("again");
    let output = Command::new(binary("km-pack"))
        .args(["build", "--json", "--debug", "--plugin", "console-logger", "--customer", "customer_123"])
        .args(["--tier", "pro", "--key", path(&built.private_key), "--out", path(&again)])
        .current_dir(workspace())
        .output()
        .unwrap();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["packages"][0]["tar_sha256"], built.document["tar_sha256"]);

    let executable = environment.home().join("plugins/km-plugin-console-logger");
    let version = Command::new(&executable).arg("--version").output().unwrap();
    let text = String::from_utf8_lossy(&version.stdout);
    assert!(version.status.success() && text.contains("customer_123") && text.contains("Pro"), "{text}");
    let by_hand = Command::new(&executable).output().unwrap();
    assert!(!by_hand.status.success());
    assert!(String::from_utf8_lossy(&by_hand.stderr).contains("km starts it"), "{by_hand:?}");
}

#[test]
fn what_runs_is_the_installed_file_under_its_own_name() {
    let environment = TestEnvironment::with_console_logger();
    let mut session = Session::start(&environment, &["--", "cat"]);
    session.send(b"{}\n");
    assert_eq!(session.line(), "{}\n");
    let plugin = plugin_process(&session);
    let executable = std::fs::read_link(format!("/proc/{plugin}/exe")).unwrap();
    let installed =
        std::fs::canonicalize(environment.home().join("plugins/km-plugin-console-logger")).unwrap();
    assert_eq!(executable, installed);
    let name = std::fs::read_to_string(format!("/proc/{plugin}/comm")).unwrap();
    assert!(name.starts_with("km-plugin-conso"), "{name}");
    let stdin = std::fs::read_link(format!("/proc/{plugin}/fd/0")).unwrap();
    assert_eq!(stdin.to_str(), Some("/dev/null"));
    session.finish().expect(0);
}

/// The plugin's process, once there is one.
pub(crate) fn plugin_process(session: &Session) -> u32 {
    let mut found = None;
    km_tests::wait_until("the plugin runs", || {
        found = km_tests::descendants(session.pid()).into_iter().find(|pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains("km-plugin-")
        });
        found.is_some()
    });
    found.unwrap()
}
