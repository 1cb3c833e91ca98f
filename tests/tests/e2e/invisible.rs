//! What client and server see with `km monitor` between them is what they see without: the same
//! session, run directly, without plugins, with one that behaves, with one that sleeps, and with one
//! that crashes. The classes are those of `docs/lifecycle.md`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use km_tests::{Mode, TestEnvironment, alive, binary, descendants, path, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::lifecycle::plugin_process;
use crate::session::Session;

/// `km monitor` with or without something to be invisible in spite of.
struct Setting {
    name: &'static str,
    environment: TestEnvironment,
    arguments: &'static [&'static str],
}

fn settings() -> Vec<Setting> {
    let setting = |name, arguments| Setting { name, environment: TestEnvironment::empty(), arguments };
    let (behaves, sleeps, crashes) =
        (setting("behaves", &[][..]), setting("sleeps", &[][..]), setting("crashes", &[][..]));
    behaves.environment.allow(&binary("counting"), "counting");
    sleeps.environment.allow(&binary("misbehaving"), Mode::AnswersLate.name());
    crashes.environment.allow(&binary("misbehaving"), Mode::Crashes.name());
    vec![setting("no plugins", &["--no-plugins"]), behaves, sleeps, crashes]
}

impl Setting {
    /// A server behind `km`.
    fn command(&self, script: &str) -> Command {
        let mut command = self.environment.command("km");
        command.arg("monitor").args(self.arguments).args(["--", "sh", "-c", script]);
        under(&SIGNALS, &command)
    }

    /// The same server without `km`, in the same environment and folder.
    fn directly(&self, script: &str) -> Command {
        let km = self.environment.command("km");
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(km.get_current_dir().unwrap());
        command.envs(km.get_envs().filter_map(|(name, value)| Some((name, value?))));
        under(&SIGNALS, &command)
    }

    fn start(&self, script: &str) -> Session {
        Session::of(self.command(script))
    }
}

/// Signals as a shell in the foreground gives them, wherever tests run.
const SIGNALS: [&str; 2] = ["env", "--default-signal"];

fn piped(mut command: Command) -> Command {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A command started by another, with pipes.
fn under(starter: &[&str], command: &Command) -> Command {
    let mut started = Command::new(starter[0]);
    started.args(&starter[1..]).arg(command.get_program()).args(command.get_args());
    started.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    started.current_dir(command.get_current_dir().unwrap());
    piped(started)
}

/// What a client sees of a session.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// While it lasted.
    heard: Vec<u8>,
    /// From then to its end.
    stdout: Vec<u8>,
    code: i32,
    /// What is the server's.
    stderr: String,
}

/// What a client does, and what it hears meanwhile.
type Play<'a> = &'a (dyn Fn(&mut Session) -> Vec<u8> + Sync);

fn play(command: Command, client: Play<'_>) -> Seen {
    let mut session = Session::of(command);
    let heard = client(&mut session);
    let finished = session.wait();
    let code = if finished.code < 0 { 128 - finished.code } else { finished.code };
    Seen { heard, stdout: finished.stdout, code, stderr: servers(&finished.stderr) }
}

/// The lines that neither `km` nor a plugin wrote.
fn servers(stderr: &str) -> String {
    let ours = ["km: ", "help: ", "[counting] ", "[answers-late] ", "[crashes] "];
    stderr.split_inclusive('\n').filter(|line| !ours.iter().any(|start| line.starts_with(start))).collect()
}

/// Plays a session directly and in all settings: each is the same.
fn compare(settings: &[Setting], script: &str, client: Play<'_>) -> Seen {
    let expected = play(settings[0].directly(script), client);
    thread::scope(|scope| {
        let seen: Vec<_> = settings
            .iter()
            .map(|setting| (setting.name, scope.spawn(move || play(setting.command(script), client))))
            .collect();
        for (name, seen) in seen {
            let seen = seen.join().unwrap_or_else(|_| panic!("{name}, {script}"));
            // Not shown whole: it may have megabytes.
            let shorten = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
            assert!(
                seen == expected,
                "{name}, {script}: {} and {}, {} and {} bytes\n{}\n{}\n{}\n{}",
                seen.code,
                expected.code,
                seen.stdout.len(),
                expected.stdout.len(),
                shorten(&seen.stdout),
                shorten(&expected.stdout),
                seen.stderr,
                expected.stderr
            );
        }
    });
    expected
}

/// All settings at once.
fn in_each(check: impl Fn(&Setting) + Sync) {
    let (settings, check) = (settings(), &check);
    thread::scope(|scope| {
        for setting in &settings {
            scope.spawn(move || check(setting));
        }
    });
}

/// A client that sends something, and ends.
fn sends(input: &[u8]) -> impl Fn(&mut Session) -> Vec<u8> + Sync {
    let input = input.to_vec();
    move |session| {
        let (mut stdin, input) = (session.stdin.take().unwrap(), input.clone());
        // A server that does not read is no failure.
        thread::spawn(move || drop(stdin.write_all(&input)));
        Vec::new()
    }
}

/// A client that does nothing, and keeps its end open.
fn waits(_: &mut Session) -> Vec<u8> {
    Vec::new()
}

#[test]
fn bytes_are_the_same_whatever_they_are() {
    let settings = settings();
    let all: Vec<u8> = (0..=255).collect();
    let cases: [&[u8]; 12] = [
        b"",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n",
        b"{\"id\":1}\r\n\r\n{\"id\":2}\r\n",
        b"\n\n\n{}\n\n",
        b"\xff\xfe\xc3\x28\n{\"a\":\"\xc3\"}\n",
        b"\0\0\n\0{}\n",
        b"this is no JSON\n{\"broken\": \n",
        b"{}\n{\"without\":\"a newline\"}",
        b"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\"},{\"jsonrpc\":\"2.0\",\"method\":\"b\"}]\n",
        "{\"\u{2028}\":\"\u{2029}\u{feff}\"}\n".as_bytes(),
        b"{\"id\":123456789012345678901234567890,\"n\":1e999,\"f\":0.10}\n",
        &all,
    ];
    for input in cases {
        let seen = compare(&settings, "cat", &sends(input));
        assert_eq!((seen.stdout.as_slice(), seen.code), (input, 0));
    }
}

#[test]
fn the_plugins_of_these_tests_do_what_they_are_for() {
    let settings = settings();
    let words = |setting: &Setting| {
        let mut session = setting.start("cat");
        for n in 0..4 {
            session.exchange(&format!("{{\"id\":{n}}}"));
        }
        session.finish().expect(0).stderr
    };
    let [none, behaves, sleeps, crashes] = &settings[..] else { panic!() };
    assert_eq!(words(none), "");
    assert!(words(behaves).contains("[counting] counted 8 messages"));
    assert!(words(sleeps).contains("plugin answers-late: 8 of 8 messages were not delivered"));
    assert!(words(crashes).contains("plugin crashes died"));
}

#[test]
fn lines_of_2_and_32_mib_are_the_same() {
    let settings = settings();
    for mib in [2, 32] {
        let line = format!("{{\"id\":1,\"method\":\"m\",\"params\":\"{}\"}}\n{{}}\n", "x".repeat(mib << 20));
        let seen = compare(&settings, "cat", &sends(line.as_bytes()));
        assert!(seen.stdout == line.as_bytes());
    }
}

#[test]
fn a_line_is_there_before_it_ends_in_both_directions() {
    let settings = settings();
    let client = |session: &mut Session| {
        let mut part = [0; 7];
        std::io::Read::read_exact(&mut session.stdout, &mut part).unwrap();
        session.send(b"not yet a line");
        let mut answer = [0; 14];
        std::io::Read::read_exact(&mut session.stdout, &mut answer).unwrap();
        [&part[..], &answer].concat()
    };
    let seen = compare(&settings, "printf partial; head -c 14; exit 3", &client);
    assert_eq!((seen.heard.as_slice(), seen.code), (&b"partialnot yet a line"[..], 3));
}

#[test]
fn the_end_of_a_server_is_the_same_while_stdin_is_open() {
    let settings = settings();
    for (script, code) in [
        ("exit 0", 0),
        ("echo '{}'; exit 3", 3),
        ("echo '{}'; echo '{}'; echo '{}'; exit 77", 77),
        ("kill -9 $$", 137),
        ("echo '{}'; kill -15 $$", 143),
        ("kill -11 $$", 139),
        // Dies in the middle of a line.
        ("echo '{}'; printf '{\"id\":1,\"resu'; kill -9 $$", 137),
    ] {
        let seen = compare(&settings, script, &waits);
        assert_eq!(seen.code, code, "{script}");
    }
}

#[test]
fn the_end_of_stdin_reaches_the_server_and_its_last_words_the_client() {
    let settings = settings();
    let seen =
        compare(&settings, "cat; echo 'last words'; echo 'server: bye' >&2; exit 5", &sends(b"{}\n{}\n"));
    assert_eq!((seen.stdout.as_slice(), seen.code), (&b"{}\n{}\nlast words\n"[..], 5));
    assert_eq!(seen.stderr, "server: bye\n");
}

#[test]
fn a_server_that_reads_nothing_or_says_nothing_is_the_same() {
    let settings = settings();
    // More than all pipes hold: the client gets its broken pipe.
    let large = vec![b'x'; 1 << 20];
    compare(&settings, "exit 2", &sends(&large));
    let only_stderr = "for n in 1 2 3 4 5 6 7 8; do echo \"server: $n\" >&2; done; cat >/dev/null; exit 1";
    let seen = compare(&settings, only_stderr, &sends(b"{}\n"));
    assert_eq!((seen.stdout.len(), seen.code), (0, 1));
    assert!(seen.stderr.ends_with("server: 8\n"));
}

#[test]
fn a_server_that_closes_its_stdout_and_lives_is_the_same() {
    let settings = settings();
    let client = |session: &mut Session| {
        let heard = session.line() + &session.line();
        // It lives, and reads.
        session.send(b"{}\n");
        heard.into_bytes()
    };
    let script = "echo last; exec >&-; read line; echo \"server: $line\" >&2; exit 4";
    let seen = compare(&settings, script, &client);
    assert_eq!((seen.heard.as_slice(), seen.code), (&b"last\n"[..], 4));
    assert_eq!(seen.stderr, "server: {}\n");
}

#[test]
fn a_grandchild_that_holds_the_pipe_takes_nothing_away() {
    let settings = settings();
    // Without km the client's reading ends with the grandchild.
    let seen = compare(&settings, "sleep 2 & echo 'last words'; exit 6", &waits);
    assert_eq!((seen.stdout.as_slice(), seen.code), (&b"last words\n"[..], 6));
}

#[test]
fn a_client_that_reads_late_gets_everything() {
    let settings = settings();
    let script = "head -c 1000000 /dev/zero | tr '\\0' x; echo; exit 8";
    let client = |session: &mut Session| {
        wait_until("the server is held up", || descendants(session.pid()).into_iter().any(writes_to_a_pipe));
        Vec::new()
    };
    let seen = compare(&settings, script, &client);
    assert_eq!((seen.stdout.len(), seen.code), (1_000_001, 8));
}

fn writes_to_a_pipe(pid: u32) -> bool {
    let waits = std::fs::read_to_string(format!("/proc/{pid}/wchan"));
    waits.is_ok_and(|wait| wait.contains("pipe_write"))
}

#[test]
fn a_client_that_is_gone_ends_the_server_as_it_would_without() {
    let settings = settings();
    // With its stdin open and closed; a server that writes, and one that reads.
    for (script, stdin_too, code) in [("exec yes", false, 141), ("exec yes", true, 141), ("cat", true, 0)] {
        let expected = leave(settings[0].directly(script), stdin_too);
        assert_eq!(expected, code, "{script}");
        for setting in &settings {
            assert_eq!(leave(setting.command(script), stdin_too), expected, "{}, {script}", setting.name);
        }
    }
}

/// Hears a line and goes; the code that the other side ends with.
fn leave(command: Command, stdin_too: bool) -> i32 {
    let mut child = piped(command).spawn().unwrap();
    let mut stdin = child.stdin.take();
    stdin.as_mut().unwrap().write_all(b"{}\n").unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_until(b'\n', &mut Vec::new()).unwrap();
    drop(stdout);
    if stdin_too {
        drop(stdin.take());
    }
    let mut status = None;
    wait_until("it ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    let status = status.unwrap();
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

#[test]
fn signals_are_the_same() {
    let settings = settings();
    for (name, signal) in [("TERM", Signal::TERM), ("INT", Signal::INT), ("HUP", Signal::HUP)] {
        let handled =
            format!("trap 'echo got {name}; exit 5' {name}; echo '{{}}'; while :; do sleep 0.05; done");
        let unhandled = "echo '{}'; exec sleep 1000".to_owned();
        for (script, code) in [(handled, 5), (unhandled, 128 + signal.as_raw())] {
            let client = |session: &mut Session| {
                let heard = session.line();
                kill_process(Pid::from_child(&session.child), signal).unwrap();
                heard.into_bytes()
            };
            let seen = compare(&settings, &script, &client);
            assert_eq!(seen.code, code, "{script}");
        }
    }
}

#[test]
fn a_server_that_ignores_the_end_of_stdin_has_left_in_time_whatever_plugins_do() {
    // Clients give two seconds and then send SIGTERM, which is then passed on.
    let script = "echo '{}'; while :; do sleep 0.05; done";
    in_each(|setting| {
        let mut session = setting.start(script);
        assert_eq!(session.line(), "{}\n");
        let family = descendants(session.pid());
        let ended = Instant::now();
        session.finish().expect(143);
        let taken = ended.elapsed();
        assert!(taken < Duration::from_secs(5), "{}: {taken:?}", setting.name);
        wait_until("all are gone", || family.iter().all(|pid| !alive(*pid)));
    });
}

#[test]
fn killing_km_leaves_nothing_behind_whatever_plugins_do() {
    in_each(|setting| {
        let mut session = setting.start("trap '' TERM HUP; sleep 1000 & echo '{}'; cat; sleep 1000");
        assert_eq!(session.line(), "{}\n");
        if setting.arguments.is_empty() {
            plugin_process(&session);
        }
        let family = descendants(session.pid());
        session.child.kill().unwrap();
        session.child.wait().unwrap();
        wait_until("all are gone", || family.iter().all(|pid| !alive(*pid)));
    });
}

#[test]
fn stderr_is_the_server_s_byte_for_byte() {
    // 4 KiB in one write are in one piece, whatever else is said.
    let script = "echo '{}'; head -c 4000 /dev/urandom > noise; cat noise >&2; cat";
    in_each(|setting| {
        let child = setting.command(script);
        let mut session = Session::of(child);
        assert_eq!(session.line(), "{}\n");
        let mut stderr = session.child.stderr.take().unwrap();
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut stderr, &mut bytes).unwrap();
            bytes
        });
        session.finish().expect(0);
        let (stderr, noise) =
            (reader.join().unwrap(), std::fs::read(setting.environment.path("noise")).unwrap());
        match setting.name {
            "no plugins" => assert!(stderr == noise),
            name => assert!(stderr.windows(noise.len()).any(|window| window == noise), "{name}"),
        }
    });
}

#[test]
fn environment_arguments_and_folder_are_the_same() {
    in_each(|setting| {
        let script = "env | grep -v -e ^KM_ -e ^_= | sort; pwd; umask; cat /proc/self/limits";
        let run = |mut command: Command| {
            command
                .env("PLAIN", "a  b\n\u{e9}")
                .env("EMPTY", "")
                .args(["sh", "", "a  b", "$HOME", "--", "-x"]);
            play(command, &sends(b""))
        };
        let expected = run(setting.directly(script));
        assert_eq!(run(setting.command(script)), expected, "{}", setting.name);
        let script = "for argument; do printf '<%s>' \"$argument\"; done";
        let seen = run(setting.command(script));
        assert_eq!(seen, run(setting.directly(script)), "{}", setting.name);
        assert_eq!(String::from_utf8_lossy(&seen.stdout), "<><a  b><$HOME><--><-x>");
    });
}

#[test]
fn what_sdk_clients_set_is_enough() {
    let environment = TestEnvironment::empty();
    environment.allow(&binary("counting"), "counting");
    // Where it is found without KM_HOME.
    std::fs::rename(environment.home(), environment.path(".km")).unwrap();
    let mut command = environment.command("km");
    command.args(["monitor", "--", "sh", "-c", "env | cut -d= -f1 | sort | tr '\\n' ' '; echo; cat"]);
    command.env_clear().env("HOME", environment.path(".")).env("PATH", std::env::var_os("PATH").unwrap());
    command.envs([("LOGNAME", "user"), ("SHELL", "/bin/sh"), ("TERM", "dumb"), ("USER", "user")]);
    let mut session = Session::of(piped(command));
    // PWD is the shell's own.
    assert_eq!(session.line(), "HOME LOGNAME PATH PWD SHELL TERM USER \n");
    session.exchange("{}");
    let finished = session.finish().expect(0);
    assert!(finished.stderr.contains("[counting] counted 3 messages"), "{}", finished.stderr);
}

#[test]
fn stdout_is_the_server_s_at_every_verbosity() {
    let input = b"{\"id\":1}\nno JSON\n\xff\n{}\n";
    in_each(|setting| {
        for (arguments, variables) in [
            (&["-v"][..], &[][..]),
            (&["-vv"], &[]),
            (&["-vvv", "--color", "always"], &[]),
            (&[], &[("KM_DEBUG", "true")]),
            (&[], &[("KM_LOG", "trace"), ("RUST_LOG", "trace"), ("RUST_BACKTRACE", "1")]),
        ] {
            let mut command = setting.environment.command("km");
            command.args(arguments).arg("monitor").args(setting.arguments).args(["--", "cat"]);
            command.envs(variables.iter().copied());
            let seen = play(piped(command), &sends(input));
            assert_eq!(
                (seen.stdout.as_slice(), seen.code),
                (&input[..], 0),
                "{} {arguments:?}",
                setting.name
            );
        }
    });
}

#[test]
fn a_server_that_cannot_be_started_ends_with_a_shell_s_codes() {
    in_each(|setting| {
        let file = setting.environment.path("plain");
        std::fs::write(&file, "text").unwrap();
        for (program, code) in [("no-such-command-anywhere", 127), (path(&file), 126), ("/", 126)] {
            let mut command = setting.environment.command("km");
            command.arg("monitor").args(setting.arguments).args(["--", program]);
            let mut session = Session::of(piped(command));
            drop(session.stdin.take());
            let finished = session.wait().expect(code);
            assert!(finished.stdout.is_empty() && finished.stderr.contains(program), "{finished:?}");
            let mut shell = Command::new("sh");
            shell.args(["-c", "exec \"$0\"", program]).stderr(Stdio::null());
            assert_eq!(shell.status().unwrap().code(), Some(code), "{program}");
        }
    });
}

#[test]
fn arguments_and_secrets_are_in_no_file_and_no_output() {
    let canaries = ["canary-argument-4711", "canary-variable-4711", "km_live_canary_4711"];
    in_each(|setting| {
        let mut command = setting.environment.command("km");
        command.args(["-vvv", "monitor", "--buffer-size", "0"]).args(setting.arguments);
        command.args(["--", "sh", "-c", "cat", "sh", "--token", canaries[0]]);
        command.env("TOKEN", canaries[1]).env("KM_API_KEY", canaries[2]).env("KM_LOG", "trace");
        // Asked nowhere but here, where nobody listens.
        command.env("KM_API_ENDPOINT", "http://127.0.0.1:9");
        let mut session = Session::of(piped(command));
        session.exchange("{}");
        if setting.arguments.is_empty() {
            let plugin = plugin_process(&session);
            let environ = std::fs::read(format!("/proc/{plugin}/environ")).unwrap();
            assert_no_canary(&canaries, &environ, "the plugin's environment");
        }
        let report = session.report(&setting.environment).to_string();
        assert_no_canary(&canaries, report.as_bytes(), "the session's report");
        let files = |when: &str| {
            for (file, bytes) in setting.environment.snapshot() {
                assert_no_canary(&canaries, &bytes, &format!("{} {when}", file.display()));
            }
        };
        files("during the session");
        let finished = session.finish().expect(0);
        files("after the session");
        assert_no_canary(&canaries, &finished.stdout, "stdout");
        assert_no_canary(&canaries, finished.stderr.as_bytes(), "stderr");
    });
}

fn assert_no_canary(canaries: &[&str], bytes: &[u8], place: &str) {
    let text = String::from_utf8_lossy(bytes);
    for canary in canaries {
        assert!(!text.contains(canary), "{canary} is in {place}: {text}");
    }
}

#[test]
fn a_full_disk_changes_nothing_and_what_is_lost_is_said() {
    let line = format!("{{\"id\":1,\"method\":\"{}\"}}\n", "x".repeat(1000));
    let input = line.repeat(200);
    in_each(|setting| {
        // Files that may not grow are a full disk; the least of what waits is in memory.
        let mut km = setting.environment.command("km");
        km.args(["monitor", "--buffer-size", "0"]).args(setting.arguments);
        km.args(["--", "sh", "-c", "cat; exit 9"]);
        let mut session = Session::of(under(&["prlimit", "--fsize=0"], &km));
        sends(input.as_bytes())(&mut session);
        let finished = session.wait().expect(9);
        assert!(finished.stdout == input.as_bytes(), "{}", setting.name);
        match setting.name {
            "no plugins" => assert_eq!(finished.stderr, ""),
            name => assert!(
                finished.stderr.contains(" messages were not delivered")
                    && finished.stderr.contains(" dropped"),
                "{name}: {}",
                finished.stderr
            ),
        }
    });
}

#[test]
fn a_home_that_cannot_be_written_or_made_changes_nothing() {
    let input = b"{\"id\":1}\n{\"id\":2}\n{\"id\":3}\n";
    in_each(|setting| {
        // It and what is in it: a mount of its own, read-only, also for root.
        let script = "mount --bind \"$KM_HOME\" \"$KM_HOME\" && mount -o remount,bind,ro \"$KM_HOME\" \
                      && exec \"$@\"";
        std::fs::create_dir_all(setting.environment.home()).unwrap();
        let starter = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"];
        let command = under(&starter, &setting.command("cat; exit 9"));
        let seen = play(command, &sends(input));
        assert_eq!((seen.stdout.as_slice(), seen.code), (&input[..], 9), "{}: {}", setting.name, seen.stderr);

        let mut command = setting.command("cat; exit 9");
        command.env("KM_HOME", "/proc/nowhere");
        let seen = play(command, &sends(input));
        assert_eq!((seen.stdout.as_slice(), seen.code), (&input[..], 9), "{}: {}", setting.name, seen.stderr);
    });
}
