//! Every pairing of host and plugin, ours and in Go, goes through the same steps.

use std::path::{Path, PathBuf};
use std::process::Command;

use km_tests::{TestEnvironment, binary};
use libtest_mimic::Trial;

use crate::trial;

/// What every pairing of current ones says.
const TRANSCRIPT: [&str; 9] = [
    "start ok",
    "ping ok",
    "echo 1024 ok",
    "echo 3900000 ok",
    "stdout ok",
    "stderr ok",
    "plugin calls host: host greets plugin",
    "host calls plugin: plugin greets host",
    "gone true",
];

/// What the go-plugin of 2019 cannot do, whoever is on the other side: it streams no output, and
/// over mutual TLS its plugins cannot dial.
const NOT_IN_2019: [&str; 3] = ["stdout failed: ", "stderr failed: ", "plugin calls host failed: "];

type Built = Result<PathBuf, String>;
type CurrentAndOld = Result<[PathBuf; 2], String>;

pub(crate) fn trials(go: &Built, go_and_old: &CurrentAndOld) -> Vec<Trial> {
    vec![
        trial("pairing_of_our_host_and_our_plugin", go, |_| same(&ours("host"), &ours("plugin"))),
        trial("pairing_of_our_host_and_a_go_plugin", go, |go| same(&ours("host"), &plugin(go))),
        trial("pairing_of_a_go_host_and_our_plugin", go, |go| same(&host(go), &ours("plugin"))),
        trial("pairing_of_a_go_host_and_a_go_plugin", go, |go| {
            steps_of(&host(go), &plugin(go));
        }),
        trial("pairing_with_a_go_plugin_of_2019", go_and_old, |[go, old]| plugin_of_2019(go, old)),
        trial("pairing_with_a_go_host_of_2019", go_and_old, |[_, old]| host_of_2019(old)),
        trial("a_go_host_that_multiplexes_is_told_that_we_do_not", go, |go| multiplexing(go)),
    ]
}

fn ours(side: &str) -> PathBuf {
    binary(&format!("pairing-{side}"))
}

fn host(go: &Path) -> PathBuf {
    go.join("pairing-host")
}

fn plugin(go: &Path) -> PathBuf {
    go.join("pairing-plugin")
}

/// The lines of one pairing, and what is left of its sockets.
fn transcript(host: &Path, arguments: &[&str], plugin: &Path) -> (Vec<String>, usize) {
    let environment = TestEnvironment::empty();
    let output = Command::new(host)
        .args(arguments)
        .arg("transcript")
        .arg(plugin)
        .env("TMPDIR", environment.path("."))
        .output()
        .expect("the host runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let left = std::fs::read_dir(environment.path(".")).expect("a folder").count();
    (text.lines().map(str::to_owned).collect(), left)
}

fn same(host: &Path, plugin: &Path) {
    assert_eq!(steps_of(host, plugin), [0, 0], "sockets are left");
}

/// Where both are Go's, sockets are left now and then.
fn steps_of(host: &Path, plugin: &Path) -> [usize; 2] {
    [&[][..], &["-mtls"]].map(|arguments| {
        let (lines, left) = transcript(host, arguments, plugin);
        assert_eq!(lines, TRANSCRIPT, "{arguments:?}");
        left
    })
}

/// Our host gets as far with it as a Go host does, and leaves no socket.
fn plugin_of_2019(go: &Path, old: &Path) {
    for (arguments, failing) in [(&[][..], 2), (&["-mtls"], 3)] {
        let (lines, left) = transcript(&ours("host"), arguments, &plugin(old));
        assert_eq!(left, 0, "sockets are left: {arguments:?}");
        let (of_go, _) = transcript(&host(go), arguments, &plugin(old));
        assert_eq!(steps(&lines), steps(&of_go), "{arguments:?}");
        check(&lines, &NOT_IN_2019[..failing]);
    }
}

/// It takes what our plugin writes to stderr, and has no stream for what it prints.
fn host_of_2019(old: &Path) {
    for arguments in [&[][..], &["-mtls"]] {
        let (lines, left) = transcript(&host(old), arguments, &ours("plugin"));
        check(&lines, &NOT_IN_2019[..1]);
        assert_eq!(left, 0, "sockets are left: {arguments:?}");
    }
}

/// The transcript, but for these failures.
fn check(lines: &[String], failures: &[&str]) {
    assert_eq!(lines.len(), TRANSCRIPT.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(TRANSCRIPT) {
        let may_fail = failures.iter().any(|failure| {
            let step = failure.trim_end_matches(" failed: ");
            expected.starts_with(step) && line.starts_with(failure)
        });
        let must_fail =
            failures.iter().any(|failure| expected.starts_with(failure.trim_end_matches(" failed: ")));
        assert!(line == expected && !must_fail || may_fail, "{line}: {lines:#?}");
    }
}

/// Lines without the words of errors, which each side says in its own way.
fn steps(lines: &[String]) -> Vec<&str> {
    lines.iter().map(|line| line.split_once(" failed: ").map_or(&**line, |(step, _)| step)).collect()
}

fn multiplexing(go: &Path) {
    let (lines, _) = transcript(&host(go), &["-mux"], &ours("plugin"));
    let expected =
        "start failed: client requested gRPC broker multiplexing but plugin does not support the feature";
    assert!(matches!(&lines[..], [line] if line.starts_with(expected)), "{lines:?}");
}
