//! Plugins that are killed again and again, in the middle of a flood: each message is theirs all the same.
//!
//! A million messages and a hundred kills, some twenty minutes: `KM_MESSAGES=1000000 KM_KILLS=100 cargo
//! test -p km-tests --test heavy -- --nocapture killed`.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use km_tests::{TestEnvironment, binary, control, wait_until};
use rustix::process::{Pid, Signal};

/// From the environment, else this.
pub(crate) fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

/// The numbers that a plugin wrote down, of the only session.
pub(crate) fn written(home: &Path, plugin: &str) -> Vec<u64> {
    let logs: Vec<PathBuf> = std::fs::read_dir(home).unwrap().flatten().map(|entry| entry.path()).collect();
    let is_log =
        |path: &&PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&format!("{plugin}."));
    let logs: Vec<&PathBuf> = logs.iter().filter(is_log).collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
    numbers(logs[0])
}

fn numbers(log: &Path) -> Vec<u64> {
    let bytes = std::fs::read(log).unwrap_or_default();
    bytes.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number)).collect()
}

#[test]
fn plugins_that_are_killed_at_random_miss_nothing() {
    let (messages, kills) = (setting("KM_MESSAGES", 40_000), setting("KM_KILLS", 6));
    let environment = TestEnvironment::empty();
    let plugins = ["keeps", "forgets"];
    plugins.iter().for_each(|plugin| environment.allow(&binary("keeping"), plugin));
    let mut command = environment.command("km");
    command.args(["monitor", "-v", "--max-deaths", "1000000", "--drain-timeout", "10min", "--", "cat"]);
    let mut km = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (km.stdin.take().unwrap(), km.stdout.take().unwrap());
    let lines = |from: u64, to: u64| -> Vec<u8> {
        (from..to)
            .flat_map(|n| format!("{{\"jsonrpc\":\"2.0\",\"id\":{n},\"method\":\"m\"}}\n").into_bytes())
            .collect()
    };
    let expected = lines(0, messages / 2);
    let (part, total) = ((messages / 2).div_ceil(kills), expected.len());
    // The server says each back.
    let reader = std::thread::spawn(move || {
        let mut read = vec![0; total];
        stdout.read_exact(&mut read).unwrap();
        assert!(read == expected, "the relay's bytes are not what was sent");
        stdout
    });
    let errors = km.stderr.take().unwrap();
    let errors = std::thread::spawn(move || std::io::read_to_string(errors).unwrap());
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut killed = vec![0; plugins.len()];
    for round in 0..kills {
        let lines = lines(round * part, ((round + 1) * part).min(messages / 2));
        stdin.write_all(&lines).unwrap();
        for (plugin, killed) in plugins.iter().zip(&mut killed) {
            // The next life, as soon as it is at work.
            let mut pid = None;
            wait_until("it is active", || {
                let report = control::plugin(&environment, km.id(), plugin);
                pid = report["pid"].as_i64().filter(|pid| *pid != *killed && report["life"] == "active");
                pid.is_some()
            });
            let begun = Instant::now();
            let life = Duration::from_micros(next() % 60_000);
            while begun.elapsed() < life {
                std::hint::spin_loop();
            }
            *killed = pid.unwrap();
            let _ = rustix::process::kill_process(Pid::from_raw(*killed as i32).unwrap(), Signal::KILL);
        }
    }
    let stdout = reader.join().unwrap();
    drop(stdin);
    let status = km.wait().unwrap();
    drop(stdout);
    let errors = errors.join().unwrap();
    assert!(status.success(), "{status}: {errors}");
    let all: Vec<u64> = (1..=messages / 2 * 2).collect();
    // Exactly once, for a plugin that keeps its position.
    assert!(written(&environment.home(), "keeps") == all, "{errors}");
    // At least once, in order, for one that does not: it goes back, and never forward over a message.
    let mut seen = 0;
    for number in written(&environment.home(), "forgets") {
        assert!(number <= seen + 1, "{number} after {seen}: {errors}");
        seen = seen.max(number);
    }
    assert_eq!(Some(&seen), all.last(), "{errors}");
    for plugin in plugins {
        assert!(
            errors.contains(&format!("plugin {plugin}: all {} messages were delivered", all.len())),
            "{errors}"
        );
    }
    assert_eq!(errors.matches("is started again in").count() as u64, 2 * kills, "{errors}");
}

/// A session with a durable plugin that is stopped after two messages, and what came of it.
struct Durable {
    environment: TestEnvironment,
    km: std::process::Child,
    stdin: std::process::ChildStdin,
    session: String,
}

impl Durable {
    fn start() -> Self {
        let environment = TestEnvironment::empty();
        environment.allow(&binary("keeping"), "durable");
        let (mut km, mut stdin) = Self::monitor(&environment);
        stdin.write_all(b"{}\n").unwrap();
        wait_until("it is at work", || Self::plugin(&environment, &km)["delivered"] == 2);
        let pid = Self::plugin(&environment, &km)["pid"].as_i64().unwrap();
        rustix::process::kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::STOP).unwrap();
        let session = control::report(&environment, km.id())["session"].as_str().unwrap().to_owned();
        stdin.write_all(&b"{}\n".repeat(499)).unwrap();
        let mut read = vec![0; 1500];
        km.stdout.as_mut().unwrap().read_exact(&mut read).unwrap();
        wait_until("all is seen", || Self::plugin(&environment, &km)["waiting"] == 998);
        Self { environment, km, stdin, session }
    }

    fn monitor(environment: &TestEnvironment) -> (std::process::Child, std::process::ChildStdin) {
        let mut command = environment.command("km");
        command.args(["monitor", "-v", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut km = command.stderr(Stdio::piped()).spawn().unwrap();
        let stdin = km.stdin.take().unwrap();
        (km, stdin)
    }

    fn plugin(environment: &TestEnvironment, km: &std::process::Child) -> serde_json::Value {
        control::plugin(environment, km.id(), "durable")
    }

    /// The next session, and what is there after it.
    fn go_on(environment: &TestEnvironment, session: &str) {
        let (km, mut stdin) = Self::monitor(environment);
        stdin.write_all(b"{}\n").unwrap();
        let log = environment.home().join(format!("durable.{session}.log"));
        wait_until("it was given the rest", || numbers(&log).len() >= 1000);
        wait_until("it is given what is new", || Self::plugin(environment, &km)["delivered"] == 2);
        drop(stdin);
        let output = km.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains("plugin durable: all 2 messages were delivered"), "{errors}");
        assert!(numbers(&log) == (1..=1000).collect::<Vec<_>>(), "{errors}");
        let left: Vec<_> = std::fs::read_dir(environment.home().join("spool")).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn what_a_durable_plugin_was_not_given_it_gets_in_the_next_session() {
    let Durable { environment, km, stdin, session } = Durable::start();
    drop(stdin);
    let output = km.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("plugin durable: 998 of 1000 messages are kept for the next session"),
        "{errors}"
    );
    Durable::go_on(&environment, &session);
}

#[test]
fn it_gets_them_too_when_km_is_killed() {
    let Durable { environment, mut km, stdin, session } = Durable::start();
    km.kill().unwrap();
    km.wait().unwrap();
    drop(stdin);
    Durable::go_on(&environment, &session);
}
