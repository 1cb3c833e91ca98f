//! Plugins that misbehave: what client and server notice is nothing, what the user sees is one line.

use std::time::{Duration, Instant};

use km_tests::{Finished, Mode, TestEnvironment, alive, binary, wait_until};

use crate::lifecycle::plugin_process;
use crate::session::Session;

fn with(mode: Mode) -> TestEnvironment {
    let environment = TestEnvironment::empty();
    environment.allow(&binary("misbehaving"), mode.name());
    environment
}

/// For tests of what arrives in the end, on a machine that may be busy.
const PATIENT: [&str; 2] = ["--drain-timeout", "60s"];

/// A session of so many lines to `cat` and back.
fn session(environment: &TestEnvironment, arguments: &[&str], lines: usize) -> Finished {
    let arguments = [arguments, &["--", "cat"]].concat();
    let mut session = Session::start(environment, &arguments);
    for n in 0..lines {
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":{n},\"method\":\"m\"}}\n");
        session.send(line.as_bytes());
        assert_eq!(session.line(), line);
    }
    let finished = session.finish().expect(0);
    assert!(finished.stdout.is_empty());
    finished
}

#[test]
fn every_message_is_seen_once_and_in_order() {
    let environment = with(Mode::Counts);
    let finished = session(&environment, &PATIENT, 300);
    let numbers: Vec<u64> = finished
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("[counts] message ")?.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(numbers, (1..=600).collect::<Vec<_>>(), "{}", finished.stderr);
    assert!(finished.stderr.contains("[counts] 600 messages"), "{}", finished.stderr);
}

#[test]
fn messages_that_do_not_fit_into_memory_wait_on_disk() {
    let environment = with(Mode::Counts);
    let finished = session(&environment, &["--buffer-size", "0", "--drain-timeout", "60s"], 300);
    assert!(finished.stderr.contains("[counts] 600 messages"), "{}", finished.stderr);
}

#[test]
fn a_plugin_that_is_killed_in_mid_session_comes_back_and_traffic_goes_on() {
    let environment = with(Mode::Counts);
    let mut session = Session::start(&environment, &["--", "cat"]);
    session.send(b"{\"n\":1}\n");
    assert_eq!(session.line(), "{\"n\":1}\n");
    wait_until("it works", || session.report(&environment)["plugins"][0]["delivered"] == 2);
    let first = plugin_process(&session);
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(first as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    wait_until("km has noticed", || session.report(&environment)["plugins"][0]["life"] != "active");
    session.send(b"{\"n\":2}\n");
    assert_eq!(session.line(), "{\"n\":2}\n");
    let second = plugin_process(&session);
    assert_ne!(first, second);
    session.send(b"{\"n\":3}\n");
    assert_eq!(session.line(), "{\"n\":3}\n");
    // It was authenticated and initialized again: without that it takes no message.
    wait_until("all messages are delivered", || session.report(&environment)["plugins"][0]["delivered"] == 6);
    let report = session.report(&environment)["plugins"][0].clone();
    assert_eq!((&report["restarts"], &report["failed"]), (&1.into(), &0.into()), "{report}");
    let lives: Vec<&str> =
        report["events"].as_array().unwrap().iter().map(|event| event["life"].as_str().unwrap()).collect();
    let start = ["loading", "authenticating", "active"];
    assert_eq!(lives, [&["discovered"], &start[..], &["error"], &start].concat(), "{report}");
    let status = environment.km(["plugins", "status"]).expect(0);
    assert!(
        status.text().contains("counts active, Free, started again once: 6 delivered"),
        "{}",
        status.text()
    );
    let finished = session.finish().expect(0);
    assert!(finished.stderr.contains("plugin counts died"), "{}", finished.stderr);
}

#[test]
fn the_end_of_a_plugin_s_life_is_orderly() {
    let environment = with(Mode::Counts);
    let finished = session(&environment, &["-vv"], 1);
    let lives: Vec<&str> = finished
        .stderr
        .lines()
        .filter_map(|line| line.split_once("plugin counts: ").map(|(_, life)| life))
        .filter(|life| !life.contains(' '))
        .collect();
    assert_eq!(
        lives,
        ["Loading", "Authenticating", "Active", "ShuttingDown", "Stopped"],
        "{}",
        finished.stderr
    );
}

#[test]
fn a_plugin_that_sleeps_ten_seconds_for_each_message_is_not_noticed() {
    let environment = with(Mode::AnswersLate);
    let begun = Instant::now();
    let finished = session(&environment, &[], 200);
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    assert!(
        finished.stderr.contains("plugin answers-late: 400 of 400 messages were not delivered"),
        "{}",
        finished.stderr
    );
}

#[test]
fn a_plugin_that_crashes_gets_again_what_it_had_not_handled() {
    let environment = with(Mode::Crashes);
    // It dies at the third message of each of its lives.
    let finished = session(&environment, &["-v", "--drain-timeout", "60s"], 2);
    let said = |text: &str| assert!(finished.stderr.contains(text), "{text}: {}", finished.stderr);
    said("(signal 6)");
    (1..=4).for_each(|n| said(&format!("[crashes] message {n} ")));
    said("plugin crashes: all 4 messages were delivered");
}

#[test]
fn a_message_that_kills_a_plugin_twice_is_skipped_and_no_other() {
    let environment = with(Mode::Poisoned);
    // What comes back is harmless.
    let arguments = ["-v", "--drain-timeout", "60s", "--", "sed", "-u", "s/poison/water/"];
    let mut session = Session::start(&environment, &arguments);
    for text in ["bread", "poison", "salt"] {
        session.send(format!("{{\"drink\":\"{text}\"}}\n").as_bytes());
        assert!(!session.line().is_empty());
    }
    let finished = session.finish().expect(0);
    let said = |text: &str| assert!(finished.stderr.contains(text), "{text}: {}", finished.stderr);
    said("plugin poisoned died twice of message 3, which is not sent again");
    said(
        "plugin poisoned: 1 of 6 messages were not delivered (1 failed, 0 dropped, 0 still waited at the end): 3",
    );
}

#[test]
fn a_plugin_that_eats_memory_is_ended_and_nobody_else_notices() {
    let environment = with(Mode::Eats);
    let mut session = Session::start(&environment, &["--plugin-memory", "300MB", "--", "cat"]);
    for n in 0..20 {
        session.exchange(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{n},\"method\":\"m\"}}"));
    }
    let mut error = String::new();
    wait_until("it is ended", || {
        error = session.plugin(&environment, "eats")["error"].as_str().unwrap_or_default().to_owned();
        error.contains("memory")
    });
    assert!(error.contains("MiB of memory and may take 300 (--plugin-memory)"), "{error}");
    let finished = session.finish().expect(0);
    assert!(finished.stderr.contains("plugin eats died"), "{}", finished.stderr);
}

#[test]
fn a_plugin_that_ends_before_the_handshake_is_given_up_with_its_own_words() {
    let environment = with(Mode::ExitsEarly);
    let mut session = Session::start(&environment, &["--", "cat"]);
    session.send(b"{}\n");
    assert_eq!(session.line(), "{}\n");
    wait_until("it is given up", || {
        let status = environment.km(["plugins", "status", "--json"]).json();
        let error = status["sessions"][0]["plugins"][0]["error"].as_str().unwrap_or_default().to_owned();
        error.contains("given up")
    });
    let finished = session.finish().expect(0);
    assert!(
        finished.stderr.contains("ended before the handshake (exit 7); it said last: I would rather not"),
        "{}",
        finished.stderr
    );
    assert_eq!(finished.stderr.matches("given up for this session").count(), 1, "{}", finished.stderr);
}

#[test]
fn a_plugin_that_fails_or_floods_or_needs_more_is_said_once() {
    let failing = session(&with(Mode::Fails), &[], 3);
    assert!(
        failing.stderr.contains(
            "6 of 6 messages were not delivered (6 failed, 0 dropped, 0 still waited at the end): 1-6"
        ),
        "{}",
        failing.stderr
    );
    session(&with(Mode::FloodsStderr), &[], 20);
    let needing = session(&with(Mode::NeedsPro), &[], 3);
    assert!(
        needing.stderr.contains(
            "plugin needs-pro is not used: it needs tier Pro; a binary that was allowed runs at Free"
        ),
        "{}",
        needing.stderr
    );
}

#[test]
fn a_stopped_plugin_does_not_hold_up_the_end() {
    let environment = with(Mode::Counts);
    let mut session = Session::start(&environment, &["--", "cat"]);
    session.send(b"{}\n");
    assert_eq!(session.line(), "{}\n");
    let plugin = plugin_process(&session);
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(plugin as i32).unwrap(),
        rustix::process::Signal::STOP,
    )
    .unwrap();
    let ended = Instant::now();
    session.finish().expect(0);
    assert!(ended.elapsed() < Duration::from_secs(8), "{:?}", ended.elapsed());
    wait_until("it is gone", || !alive(plugin));
}

#[test]
fn what_a_session_s_end_cuts_off_is_said_however_much_it_is() {
    let environment = with(Mode::AnswersLate);
    let input = "{}\n".repeat(300_000);
    let finished = environment.km_with_input(["monitor", "--", "cat"], input.as_bytes()).expect(0);
    assert!(finished.stdout == input.as_bytes());
    assert!(finished.stderr.contains("messages were not delivered"), "{}", finished.stderr);
}

#[test]
fn a_live_session_shows_its_counters() {
    let environment = with(Mode::Counts);
    let mut session = Session::start(&environment, &["--", "cat"]);
    session.send(b"{}\n");
    assert_eq!(session.line(), "{}\n");
    wait_until("both messages are delivered", || {
        let status = environment.km(["plugins", "status", "--json"]).expect(0).json();
        let live = &status["sessions"][0];
        live["pid"] == session.pid()
            && live["plugins"][0]["delivered"] == 2
            && live["plugins"][0]["life"] == "active"
    });
    session.finish().expect(0);
}

#[test]
fn only_the_plugins_that_were_asked_for_are_started_and_none_before_the_first_message() {
    let environment = with(Mode::Counts);
    environment.allow(&binary("misbehaving"), Mode::Fails.name());
    let finished = session(&environment, &["--plugin", "counts"], 1);
    assert!(
        finished.stderr.contains("[counts] 2 messages") && !finished.stderr.contains("fails"),
        "{}",
        finished.stderr
    );
    let none = session(&environment, &["--no-plugins"], 1);
    assert_eq!(none.stderr, "");
    let mut silent = Session::start(&environment, &["--", "cat"]);
    wait_until("the session is listed", || {
        environment.km(["plugins", "status", "counts", "--json"]).json()["sessions"][0]["pid"] == silent.pid()
    });
    let status = environment.km(["plugins", "status", "counts", "--json"]).json();
    assert_eq!(status["sessions"][0]["plugins"][0]["life"], "discovered");
    silent.send(b"");
    assert_eq!(silent.finish().expect(0).stderr, "");
}

/// The server asks with the id of the call that it works on, and its second question stays open.
#[test]
fn what_was_called_is_said_at_the_end_with_or_without_plugins() {
    let environment = with(Mode::Counts);
    let script = r#"
        read -r call; echo '{"id":1,"method":"sampling/createMessage"}'
        read -r answer; echo '{"id":1,"result":{"isError":true}}'; echo '{"id":2,"method":"roots/list"}'"#;
    for plugins in [&["--no-plugins"][..], &[]] {
        let arguments = [&["--summary"], plugins, &["--", "sh", "-c", script]].concat();
        let mut session = Session::start(&environment, &arguments);
        session.send(b"{\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"echo\"}}\n");
        assert!(session.line().contains("sampling"));
        session.send(b"{\"id\":1,\"result\":{}}\n");
        assert!(session.line().contains("isError") && session.line().contains("roots"));
        let stderr = session.finish().expect(0).stderr;
        let rows: Vec<String> = stderr
            .lines()
            .skip_while(|line| *line != "km: calls in this session")
            .skip(2)
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let expected = [
            "client tools/call 1 1 0 0",
            "client tools/call echo 1 1 0 0",
            "server roots/list 1 0 1 0",
            "server sampling/createMessage 1 0 0 0",
        ];
        let is_said = |counts: &&str| rows.iter().any(|row| row.starts_with(&format!("{counts} ")));
        assert!(expected.iter().all(is_said), "{stderr}");
    }
}
