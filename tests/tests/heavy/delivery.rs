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
    let bytes = std::fs::read(logs[0]).unwrap();
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
