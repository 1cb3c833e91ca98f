//! `km monitor` is invisible: bytes, exit status, signals, and nothing left behind.

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use km_tests::{Mode, TestEnvironment, alive, binary, descendants, path, wait_until};

use crate::lifecycle::plugin_process;
use crate::session::Session;

fn monitor(environment: &TestEnvironment, script: &str, input: &[u8]) -> km_tests::Finished {
    environment.km_with_input(["monitor", "--", "sh", "-c", script], input)
}

#[test]
fn whatever_bytes_pass_they_pass_as_they_are() {
    let environment = TestEnvironment::with_console_logger();
    let all: Vec<u8> = (0..=255).collect();
    let cases: [&[u8]; 8] = [
        b"",
        b"{\"jsonrpc\":\"2.0\"}\n",
        b"crlf\r\n\r\n\n\nno final newline",
        b"\0\0\n\xff\xfe\n\xc3\x28\n",
        b"[{\"a\":1},{\"b\":2}]\n",
        "\u{2028}\u{feff}{\"big\":123456789012345678901234567890}\n".as_bytes(),
        b"{\"broken\": \n",
        &all,
    ];
    for case in cases {
        let finished = environment.km_with_input(["monitor", "--", "cat"], case).expect(0);
        assert_eq!(finished.stdout, case);
    }
}

#[test]
fn a_line_of_100_mib_passes() {
    let environment = TestEnvironment::with_console_logger();
    let mut line = vec![b'x'; 100 << 20];
    line.push(b'\n');
    let finished = environment.km_with_input(["monitor", "--", "cat"], &line).expect(0);
    assert!(finished.stdout == line);
}

#[test]
fn a_line_that_is_too_large_for_the_protocol_is_known_to_the_plugin_by_its_size() {
    let environment = TestEnvironment::with_console_logger();
    let line = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"m\",\"params\":\"{}\"}}\n",
        "x".repeat(20 << 20)
    );
    let command = ["monitor", "--drain-timeout", "60s", "--", "cat"];
    let finished = environment.km_with_input(command, line.as_bytes()).expect(0);
    assert!(finished.stdout == line.as_bytes());
    let seen = format!("m id=7 {} B", line.len() - 1);
    assert_eq!(finished.stderr.matches(&seen).count(), 2, "{}", finished.stderr);
}

#[test]
fn a_line_is_forwarded_before_it_is_complete() {
    let environment = TestEnvironment::empty();
    let mut session = Session::start(&environment, &["--", "sh", "-c", "printf partial; read line"]);
    let mut part = [0; 7];
    std::io::Read::read_exact(&mut session.stdout, &mut part).unwrap();
    assert_eq!(&part, b"partial");
    session.finish();
}

#[test]
fn the_exit_status_is_the_server_s_also_while_stdin_is_open() {
    let environment = TestEnvironment::empty();
    for (script, code) in [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 77", 77),
        ("kill -9 $$", 137),
        ("kill -15 $$", 143),
        ("kill -11 $$", 139),
    ] {
        let session = Session::start(&environment, &["--server", "--", "sh", "-c", script]);
        // stdin stays open.
        session.wait().expect(code);
    }
}

#[test]
fn a_server_that_cannot_be_started_is_said_as_a_shell_says_it() {
    let environment = TestEnvironment::empty();
    let missing = environment.km(["monitor", "--server", "--", "no-such-command-anywhere"]).expect(127);
    assert!(missing.stderr.contains("no-such-command-anywhere") && missing.stdout.is_empty());
    let plain = environment.path("plain");
    std::fs::write(&plain, "text").unwrap();
    environment.km(["monitor", "--", path(&plain)]).expect(126);
    environment.km(["monitor"]).expect(2);
}

#[test]
fn one_line_and_gone_is_a_server_too() {
    let environment = TestEnvironment::with_console_logger();
    let line = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    let finished = environment.km(["monitor", "--server", "--", "echo", line]).expect(0);
    assert_eq!(finished.text(), format!("{line}\n"));
    assert!(finished.stderr.contains("outbound result id=1"), "{}", finished.stderr);
}

#[test]
fn stderr_environment_arguments_and_folder_are_the_server_s_own() {
    let environment = TestEnvironment::empty();
    let mut command = environment.command("km");
    command.args([
        "monitor",
        "--",
        "sh",
        "-c",
        "echo err >&2; echo \"$1|$PLAIN|$KM_API_KEY|$PWD\"",
        "sh",
        "a  b",
    ]);
    command.env("PLAIN", "value").env("KM_API_KEY", "secret-key").stdin(Stdio::null());
    let output = command.output().unwrap();
    let folder = std::fs::canonicalize(environment.path(".")).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("a  b|value||{}\n", folder.display()));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");
}

#[test]
fn signals_reach_the_server() {
    let environment = TestEnvironment::empty();
    for (name, signal) in [
        ("TERM", rustix::process::Signal::TERM),
        ("INT", rustix::process::Signal::INT),
        ("HUP", rustix::process::Signal::HUP),
    ] {
        let script =
            format!("trap 'echo got {name}; exit 5' {name}; echo ready; while :; do sleep 0.05; done");
        let mut session = Session::start(&environment, &["--", "sh", "-c", &script]);
        assert_eq!(session.line(), "ready\n");
        rustix::process::kill_process(rustix::process::Pid::from_child(&session.child), signal).unwrap();
        let finished = session.wait().expect(5);
        assert_eq!(finished.text(), format!("got {name}\n"));
    }
}

#[test]
fn a_server_that_ignores_the_end_and_sigterm_is_killed_in_time() {
    let environment = TestEnvironment::empty();
    let mut session = Session::start(
        &environment,
        &["--", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"],
    );
    assert_eq!(session.line(), "ready\n");
    let ended = Instant::now();
    session.finish().expect(137);
    let taken = ended.elapsed();
    assert!((Duration::from_millis(2900)..Duration::from_secs(8)).contains(&taken), "{taken:?}");
}

#[test]
fn a_server_that_heeds_sigterm_has_time_for_it_after_the_end_of_stdin() {
    let environment = TestEnvironment::empty();
    let script = "trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut session = Session::start(&environment, &["--", "sh", "-c", script]);
    assert_eq!(session.line(), "ready\n");
    let finished = session.finish().expect(9);
    assert_eq!(finished.text(), "bye\n");
}

#[test]
fn a_server_that_closes_its_stdout_and_lives_ends_the_client_s_reading() {
    let environment = TestEnvironment::empty();
    let mut session =
        Session::start(&environment, &["--", "sh", "-c", "echo last; exec >&-; read line; exit 4"]);
    assert_eq!(session.line(), "last\n");
    assert_eq!(session.line(), "", "the end of the server's stdout is passed on");
    session.finish().expect(4);
}

#[test]
fn a_server_that_reads_no_more_is_a_broken_pipe_for_the_client_and_lives() {
    let environment = TestEnvironment::empty();
    let script = "exec <&-; echo closed; sleep 2.5; echo still here; exit 4";
    let mut session = Session::start(&environment, &["--", "sh", "-c", script]);
    assert_eq!(session.line(), "closed\n");
    let stdin = session.stdin.as_mut().unwrap();
    wait_until("writing fails", || stdin.write_all(b"{}\n").is_err());
    assert_eq!(session.line(), "still here\n");
    session.wait().expect(4);
}

#[test]
fn a_client_that_pauses_gets_the_last_bytes_of_a_server_that_is_gone() {
    let environment = TestEnvironment::empty();
    // Less than the two pipes hold: the server ends before a byte is read.
    let script = "head -c 110000 /dev/zero; exit 7";
    let session = Session::start(&environment, &["--", "sh", "-c", script]);
    let only_the_guard = |family: Vec<u32>| matches!(family[..], [guard] if is_guard(guard));
    wait_until("the server is gone", || only_the_guard(descendants(session.pid())));
    let finished = session.wait().expect(7);
    assert_eq!(finished.stdout.len(), 110_000);
}

fn is_guard(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "km-guard")
}

#[test]
fn a_stderr_that_nobody_reads_does_not_hold_up_the_end() {
    let environment = TestEnvironment::empty();
    environment.allow(&binary("misbehaving"), Mode::AnswersLate.name());
    // The server fills stderr, which nobody reads; the plugin leaves something to be said.
    let script = "head -c 200000 /dev/zero >&2 & cat";
    let mut session = Session::start(&environment, &["--", "sh", "-c", script]);
    session.send(b"{}\n");
    assert_eq!(session.line(), "{}\n");
    plugin_process(&session);
    drop(session.stdin.take());
    let ended = Instant::now();
    let mut status = None;
    wait_until("km ends", || {
        status = session.child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(0));
    assert!(ended.elapsed() < Duration::from_secs(10), "{:?}", ended.elapsed());
}

#[test]
fn signals_to_the_guard_and_its_death_leave_nothing_behind() {
    for (signal, code) in [(rustix::process::Signal::TERM, 143), (rustix::process::Signal::KILL, 1)] {
        let environment = TestEnvironment::empty();
        let script = "setsid sleep 1000 & echo ready; cat; sleep 1000";
        let mut session = Session::start(&environment, &["--", "sh", "-c", script]);
        assert_eq!(session.line(), "ready\n");
        wait_until("all processes run", || descendants(session.pid()).len() >= 4);
        let family = descendants(session.pid());
        let guard = family.iter().copied().find(|pid| is_guard(*pid)).expect("a guard");
        let kill = |pid: u32, signal| {
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), signal)
                .unwrap();
        };
        kill(guard, signal);
        if signal == rustix::process::Signal::TERM {
            kill(session.pid(), signal);
        }
        session.wait().expect(code);
        wait_until("all are gone", || family.iter().all(|pid| !alive(*pid)));
    }
}

#[test]
fn the_last_bytes_arrive_though_a_grandchild_holds_the_pipe() {
    let environment = TestEnvironment::empty();
    let begun = Instant::now();
    let finished = monitor(&environment, "sleep 1000 & echo last words; exit 6", b"").expect(6);
    assert_eq!(finished.text(), "last words\n");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_client_that_does_not_read_holds_up_the_server_and_nothing_is_lost() {
    let environment = TestEnvironment::with_console_logger();
    let script = "i=0; while [ $i -lt 12000 ]; do echo \"line $i xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"; i=$((i+1)); done";
    let mut session = Session::start(&environment, &["--", "sh", "-c", script]);
    // The pipes fill, and the server waits in its write.
    let server = {
        let mut found = None;
        wait_until("the server is blocked", || {
            found = descendants(session.pid()).into_iter().find(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/wchan"))
                    .is_ok_and(|wait| wait.contains("pipe_write"))
            });
            found.is_some()
        });
        found.unwrap()
    };
    assert!(alive(server));
    for n in 0..12000 {
        assert!(session.line().starts_with(&format!("line {n} ")), "{n}");
    }
    session.finish().expect(0);
}

#[test]
fn killing_km_leaves_nothing_behind() {
    let environment = TestEnvironment::with_console_logger();
    // A server with a child, a grandchild in a session of its own, and none of them heeds the end of stdin.
    let script = "trap '' TERM HUP; setsid sh -c 'trap \"\" TERM HUP; sleep 1000' & sleep 1000 & echo ready; cat; while :; do sleep 1; done";
    let mut session = Session::start(&environment, &["--", "sh", "-c", script]);
    assert_eq!(session.line(), "ready\n");
    session.send(b"{}\n");
    assert_eq!(session.line(), "{}\n");
    let plugin = plugin_process(&session);
    wait_until("all processes run", || descendants(session.pid()).len() >= 6);
    let family = descendants(session.pid());
    assert!(family.contains(&plugin));
    session.child.kill().unwrap();
    session.child.wait().unwrap();
    wait_until("all are gone", || family.iter().all(|pid| !alive(*pid)));
    // The next session finds nothing in its way, and status nobody who does not answer.
    let status = environment.km(["plugins", "status", "--json"]).expect(0).json();
    assert_eq!(status["sessions"], serde_json::json!([]));
}

#[test]
fn a_normal_end_leaves_nothing_behind_either() {
    let environment = TestEnvironment::with_console_logger();
    let mut session =
        Session::start(&environment, &["--", "sh", "-c", "setsid sleep 1000 & sleep 1000 & echo ready; cat"]);
    assert_eq!(session.line(), "ready\n");
    session.send(b"{}\n");
    assert_eq!(session.line(), "{}\n");
    plugin_process(&session);
    wait_until("all processes run", || descendants(session.pid()).len() >= 5);
    let family = descendants(session.pid());
    session.finish().expect(0);
    assert_eq!(family.iter().filter(|pid| alive(**pid)).count(), 0);
    let left: Vec<_> = std::fs::read_dir(environment.home().join("run")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn stdout_stays_the_server_s_at_every_verbosity_and_without_a_usable_home() {
    let environment = TestEnvironment::with_console_logger();
    let loud = environment.km_with_input(["-vvv", "monitor", "--", "cat"], b"{}\n").expect(0);
    assert_eq!(loud.text(), "{}\n");

    let mut command = environment.command("km");
    command.args(["monitor", "--", "cat"]).env_remove("HOME").env_remove("KM_HOME");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"{}\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"{}\n");

    let blocked = environment.path("file");
    std::fs::write(&blocked, "").unwrap();
    let mut command = environment.command("km");
    command.args(["monitor", "--", "echo", "x"]).env("KM_HOME", blocked.join("km")).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"x\n");
}

#[test]
fn a_real_session_is_the_same_on_both_sides_of_km() {
    let environment = TestEnvironment::with_console_logger();
    let (outside, inside) = (environment.path("outside"), environment.path("inside"));
    let record = binary("record");
    let mut client = environment.command("mcp-client");
    client
        .args([
            "--bytes",
            "6000000",
            "--",
            path(&record),
            path(&outside),
            "--",
            path(&binary("km")),
            "monitor",
            "--server",
            "--",
        ])
        .args([path(&record), path(&inside), "--", path(&binary("mcp-server"))]);
    let output = client.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for direction in ["in", "out"] {
        let (outer, inner) =
            (std::fs::read(outside.join(direction)).unwrap(), std::fs::read(inside.join(direction)).unwrap());
        assert!(
            outer == inner && outer.len() > 6_000_000,
            "{direction}: {} and {} bytes",
            outer.len(),
            inner.len()
        );
    }
}
