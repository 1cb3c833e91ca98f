//! Each way in which a plugin can misbehave, and what its users see of it: who monitors, who asks
//! for its status, and its author.

use std::io::{BufRead as _, BufReader};
use std::thread;

use km_tests::{Mode, TestEnvironment, alive, binary, path, wait_until};

use crate::session::Session;

/// What is seen of a plugin.
struct Seen {
    /// In a session: on `km`'s stderr.
    monitor: &'static str,
    /// By `km plugins status`: its error, or none.
    status: Option<&'static str>,
    /// By `km-pack test`: the checks that fail.
    test: &'static [&'static str],
}

fn seen(mode: Mode) -> Seen {
    match mode {
        Mode::Counts => Seen { monitor: "[counts] message 1 inbound 2", status: None, test: &[] },
        Mode::NeverStarts => Seen {
            monitor: "plugin never-starts: 2 of 2 messages were not delivered",
            status: Some("no handshake within 10s"),
            test: &["handshake", "by-hand"],
        },
        Mode::ExitsEarly => Seen {
            monitor: "plugin exits-early died, is started again in 100ms: it ended before the handshake (exit 7); it said last: I would rather not",
            status: Some("it ended before the handshake (exit 7); it said last: I would rather not"),
            test: &["handshake"],
        },
        Mode::GarbageLine => Seen {
            monitor: "plugin garbage-line died, is started again in 100ms: the handshake line \"1|one|unix|/nowhere|grpc|\" is wrong",
            status: Some(
                "the handshake line \"1|one|unix|/nowhere|grpc|\" is wrong: its protocol version is no number",
            ),
            test: &["handshake", "by-hand"],
        },
        Mode::EndlessLine => Seen {
            monitor: "plugin endless-line died, is started again in 100ms: more than 65536 bytes on its stdout without a handshake",
            status: Some("more than 65536 bytes on its stdout without a handshake"),
            test: &["handshake", "by-hand"],
        },
        Mode::WrongVersion => Seen {
            monitor: "plugin wrong-version died, is started again in 100ms: it speaks protocol 7, this host speaks [1, 2]",
            status: Some("it speaks protocol 7, this host speaks [1, 2]"),
            test: &["handshake", "by-hand"],
        },
        Mode::WrongCertificate => Seen {
            monitor: "presents another certificate than the one announced",
            status: Some("presents another certificate than the one announced"),
            test: &["handshake"],
        },
        Mode::RefusesAuthentication => Seen {
            monitor: "plugin refuses-authentication is not used: it refused authentication: I do not like you",
            status: Some("it refused authentication: I do not like you"),
            test: &["before-authentication", "authenticate"],
        },
        // The host never sends it anything too early: only its author can see it.
        Mode::AcceptsAnyone => Seen { monitor: "", status: None, test: &["before-authentication"] },
        Mode::Hangs => Seen {
            monitor: "plugin hangs died, is started again in 100ms: no answer to Initialize within 5s",
            status: Some("no answer to Initialize within 5s"),
            test: &["initialize"],
        },
        Mode::AnswersLate => Seen {
            monitor: "plugin answers-late: 2 of 2 messages were not delivered",
            status: None,
            test: &["message", "deliver"],
        },
        Mode::Crashes => Seen {
            monitor: "plugin crashes: all 2 messages were delivered",
            status: None,
            test: &["odd-messages", "deliver"],
        },
        Mode::IgnoresStop => Seen {
            monitor: "plugin ignores-stop: all 2 messages were delivered",
            status: None,
            test: &["by-hand", "shutdown", "controller", "sigterm"],
        },
        Mode::Forks => Seen { monitor: "[forks] child ", status: None, test: &[] },
        Mode::Poisoned => {
            Seen { monitor: "plugin poisoned: all 2 messages were delivered", status: None, test: &[] }
        }
        Mode::Eats => Seen { monitor: "plugin eats: all 2 messages were delivered", status: None, test: &[] },
        Mode::FloodsStderr => Seen { monitor: "[floods-stderr] noise without end ", status: None, test: &[] },
        Mode::Fails => Seen {
            monitor: "plugin fails: 2 of 2 messages were not delivered (2 failed",
            status: None,
            test: &[
                "message",
                "stream-event",
                "message-1-mib",
                "message-3.9-mib",
                "thousand-messages",
                "again",
                "deliver",
            ],
        },
        Mode::ErrorsOut => Seen {
            monitor: "plugin errors-out: 2 of 2 messages were not delivered (2 failed",
            status: None,
            test: &[
                "message",
                "odd-messages",
                "stream-event",
                "message-1-mib",
                "message-3.9-mib",
                "thousand-messages",
                "again",
            ],
        },
        Mode::ForgesLines => Seen {
            monitor: "[forges-lines] error: x\u{fffd}km: plugin other is trusted\u{fffd}[2K\n",
            status: None,
            test: &[],
        },
        Mode::NeedsPro => Seen {
            monitor: "plugin needs-pro is not used: it needs tier Pro; a binary that was allowed runs at Free",
            status: Some("it needs tier Pro; a binary that was allowed runs at Free"),
            test: &["authenticate"],
        },
        // `km-pack test` warns of it; what fails is that it believes anyone.
        Mode::LacksDeliver => Seen {
            monitor: "plugin lacks-deliver: all 2 messages were delivered",
            status: None,
            test: &["before-authentication", "token", "tokens-refused"],
        },
    }
}

fn with(mode: Mode) -> TestEnvironment {
    let environment = TestEnvironment::empty();
    environment.allow(&binary("misbehaving"), mode.name());
    environment
}

/// All modes at once: most of the time is waiting.
fn each(check: fn(Mode, Seen)) {
    binary("misbehaving");
    thread::scope(|scope| {
        for mode in Mode::ALL {
            let named = thread::Builder::new().name(mode.name().to_owned());
            named.spawn_scoped(scope, move || check(mode, seen(mode))).expect("a thread");
        }
    });
}

#[test]
fn who_monitors_sees_one_line_and_the_traffic_passes() {
    each(|mode, seen| {
        let environment = with(mode);
        let mut session = Session::start(&environment, &["-v", "--", "cat"]);
        session.send(b"{}\n");
        assert_eq!(session.line(), "{}\n", "{mode:?}");
        if mode != Mode::NeverStarts {
            wait_until("the plugin has come as far as it comes", || {
                let life = session.report(&environment)["plugins"][0].clone();
                let delivered = life["delivered"].as_u64() == Some(2) || life["failed"].as_u64() == Some(2);
                life["life"] == "error" || delivered || mode == Mode::AnswersLate && life["life"] == "active"
            });
        }
        let finished = session.finish().expect(0);
        assert!(finished.stderr.contains(seen.monitor), "{mode:?}: {}", finished.stderr);
        assert!(
            !finished.stderr.contains('\x1b') && !finished.stderr.contains("\nkm: plugin other"),
            "{mode:?}"
        );
        assert_eq!(
            finished.stderr.contains("died"),
            seen.monitor.contains("died") || mode == Mode::WrongCertificate
        );
        for child in children(&finished.stderr) {
            wait_until("what the plugin started is gone, too", || !alive(child));
        }
    });
}

/// The processes that [`Mode::Forks`] started: one in the plugin's group, one in a session of its own.
fn children(stderr: &str) -> Vec<u32> {
    let lines = stderr.lines().filter_map(|line| line.strip_prefix("[forks] "));
    lines.filter_map(|line| line.split_once(' ')?.1.parse().ok()).collect()
}

#[test]
fn what_a_plugin_started_goes_with_km_when_that_is_killed() {
    let environment = with(Mode::Forks);
    let mut session = Session::start(&environment, &["--", "cat"]);
    session.send(b"{}\n");
    assert_eq!(session.line(), "{}\n");
    let mut stderr = BufReader::new(session.child.stderr.take().unwrap());
    let mut lines = String::new();
    while children(&lines).len() < 2 {
        assert!(stderr.read_line(&mut lines).unwrap() > 0, "{lines}");
    }
    session.child.kill().unwrap();
    session.child.wait().unwrap();
    // The kernel tells nobody of the other, which has left its session and its group.
    let [child, stray] = children(&lines)[..] else { panic!("{lines}") };
    wait_until("the child is gone", || !alive(child));
    let stray = rustix::process::Pid::from_raw(stray as i32).unwrap();
    let _ = rustix::process::kill_process(stray, rustix::process::Signal::KILL);
}

#[test]
fn who_asks_for_its_status_is_told_what_is_wrong() {
    each(|mode, seen| {
        let environment = with(mode);
        let status = environment.km(["plugins", "status", mode.name(), "--json"]).expect(0).json();
        let plugin = &status["plugins"][0];
        let error = plugin["error"].as_str();
        match seen.status {
            None => assert_eq!((error, &plugin["authenticated"]), (None, &true.into()), "{mode:?}"),
            Some(expected) => {
                assert!(error.is_some_and(|error| error.contains(expected)), "{mode:?}: {plugin}");
                assert_eq!(plugin["authenticated"], false);
            }
        }
    });
}

#[test]
fn its_author_is_told_which_points_of_the_contract_it_breaks() {
    each(|mode, seen| {
        let environment = TestEnvironment::empty();
        let plugin = environment.path(&format!("km-plugin-{}", mode.name()));
        std::os::unix::fs::symlink(binary("misbehaving"), &plugin).unwrap();
        let code = if seen.test.is_empty() { 0 } else { 8 };
        let document = environment.km_pack(["test", path(&plugin), "--json"]).expect(code).json();
        let failed: Vec<&str> = document["checks"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|check| check["outcome"] == "failed")
            .map(|check| check["id"].as_str().unwrap())
            .collect();
        assert_eq!(failed, seen.test, "{mode:?}: {document:#}");
        assert_eq!(document["ok"], seen.test.is_empty());
        assert_eq!(document["error"]["kind"] == "plugin", !seen.test.is_empty());
    });
}
