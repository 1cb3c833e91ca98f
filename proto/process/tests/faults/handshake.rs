//! Plugins that do not come to the handshake, or give another than agreed.

use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use go_plugin::host::Tls;
use libtest_mimic::Trial;

use crate::ground::{Ground, trial};
use crate::plugin::Fault;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("handshake::a_plugin_that_says_nothing_is_given_up", says_nothing),
        trial("handshake::a_plugin_that_ends_early_is_quoted", ends_early),
        trial("handshake::a_plugin_that_exits_with_0_is_a_failure_all_the_same", exits_well),
        trial("handshake::a_plugin_that_cannot_listen_is_quoted", cannot_listen),
        trial("handshake::lines_that_are_wrong_are_refused_in_words", wrong_lines),
        trial("handshake::an_endless_line_is_cut_off", endless_line),
        trial("handshake::a_socket_of_somebody_else_is_not_spoken_to", elsewhere),
        trial("handshake::certificates_are_asked_for_and_sent_as_agreed", certificates),
        trial("handshake::a_folder_that_cannot_be_made_is_named", no_folder),
    ]
}

async fn says_nothing() {
    let ground = Ground::with(|host| host.start_timeout = Duration::from_millis(300));
    let begun = Instant::now();
    assert_eq!(ground.refuses(Fault::NeverStarts).await, "no handshake within 300ms");
    assert!(begun.elapsed() < Duration::from_secs(3));
}

async fn ends_early() {
    let expected = "it ended before the handshake (exit 7); it said last: I would rather not";
    assert_eq!(Ground::new().refuses(Fault::ExitsEarly).await, expected);
}

async fn exits_well() {
    assert_eq!(Ground::new().refuses(Fault::ExitsWell).await, "it ended before the handshake (exit 0)");
}

async fn cannot_listen() {
    let ground = Ground::new();
    let deep = ground.folder.path().join("d".repeat(100));
    std::fs::create_dir(&deep).unwrap();
    let far = Ground::with(|host| host.socket_root = deep.clone());
    let error = far.start(Fault::None).await.map(|_| ()).unwrap_err().to_string();
    assert!(
        error.starts_with("it ended before the handshake (exit 1); it said last: cannot listen in"),
        "{error}"
    );
    assert!(error.contains("SUN_LEN"), "{error}");
    assert!(std::fs::read_dir(&deep).unwrap().next().is_none());
}

async fn wrong_lines() {
    let ground = Ground::with(|host| host.tls = Tls::Off);
    for (line, expected) in [
        (
            "1|one|unix|/x|grpc|",
            "the handshake line \"1|one|unix|/x|grpc|\" is wrong: its protocol version is no number",
        ),
        ("1|1", "the handshake line \"1|1\" is wrong: it has fewer than four fields"),
        ("2|1|unix|/x|grpc|", "the handshake line \"2|1|unix|/x|grpc|\" is wrong: its core version is not 1"),
        ("1|9|unix|/x|grpc|", "it speaks protocol 9, this host speaks [1]"),
        ("1|1|unix|/x|netrpc|", "the plugin speaks \"netrpc\", and only grpc is spoken here"),
        ("1|1|tcp|192.0.2.1:9|grpc|", "a connection to tcp|192.0.2.1:9 must be encrypted"),
        ("1|1|tcp|127.0.0.1:9|grpc|", "a connection to tcp|127.0.0.1:9 must be encrypted"),
    ] {
        assert_eq!(ground.refuses(Fault::Says(line)).await, expected);
    }
}

async fn endless_line() {
    let error = Ground::new().refuses(Fault::EndlessLine).await;
    assert!(error.starts_with("more than 65536 bytes on its stdout without a handshake"), "{error}");
}

/// The kernel says who listens: this test does, and not the plugin.
async fn elsewhere() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("socket");
    let _listener = UnixListener::bind(&path).unwrap();
    let ground = Ground::with(|host| {
        host.tls = Tls::Off;
        host.environment.push(("ELSEWHERE".into(), path.clone().into()));
    });
    let error = ground.refuses(Fault::Elsewhere).await;
    let own = std::process::id();
    assert!(
        error.starts_with(&format!("process {own} is at the other end of the socket, and the plugin is ")),
        "{error}"
    );
}

async fn certificates() {
    let required = Ground::with(|host| host.tls = Tls::Required);
    assert!(required.start(Fault::None).await.unwrap().is_encrypted());
    let none = Ground::with(|host| {
        host.tls = Tls::Required;
        host.versions = vec![1, 9];
    });
    let refused = none.refuses(Fault::Says("1|9|unix|/x|grpc|")).await;
    assert_eq!(refused, "it sent no certificate, and TLS is required");
    let off = Ground::with(|host| host.tls = Tls::Off);
    assert!(!off.start(Fault::None).await.unwrap().is_encrypted());
}

async fn no_folder() {
    let ground = Ground::with(|host| host.socket_root = "/nowhere/at/all".into());
    let error = ground.start(Fault::None).await.map(|_| ()).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot make a folder for the plugin's socket in /nowhere/at/all: "),
        "{error}"
    );
}
