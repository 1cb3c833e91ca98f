//! `km monitor --record` and `km replay`: what passed is in the file, whatever happens to `km`, and can
//! be given to plugins and clients again.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use km_tests::{Finished, Mode, TestEnvironment, alive, binary, descendants, path, wait_until};
use serde_json::{Value, json};

use crate::session::Session;

/// A recording as others would read it.
struct Recording {
    header: Value,
    lines: Vec<Value>,
}

impl Recording {
    fn read(file: &Path) -> Self {
        let text = zstd::decode_all(std::fs::File::open(file).unwrap()).unwrap();
        let mut lines = text.split_inclusive(|&byte| byte == b'\n').map(|line| {
            assert!(line.ends_with(b"\n"));
            serde_json::from_slice::<Value>(line).unwrap()
        });
        Self { header: lines.next().unwrap(), lines: lines.collect() }
    }

    fn of<'a>(&'a self, direction: &'a str) -> impl Iterator<Item = &'a Value> {
        self.lines.iter().filter(move |line| line["dir"] == direction)
    }

    /// What passed in one direction.
    fn bytes(&self, direction: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in self.of(direction) {
            assert!(line.get("gap").is_none(), "{line}");
            bytes.extend(line["data"].as_str().unwrap_or_default().as_bytes());
            let binary = line["base64"].as_str().unwrap_or_default();
            bytes.extend(base64::engine::general_purpose::STANDARD.decode(binary).unwrap());
        }
        bytes
    }
}

/// Writes a recording by hand: direction and line.
fn write(file: &Path, lines: &[(&str, Value)]) {
    let mut text = json!({"format": "km-recording/1", "started": "2026-11-23T06:00:00Z"}).to_string() + "\n";
    for (n, (direction, message)) in (1u64..).zip(lines) {
        let line = json!({"t": n * 50_000_000, "dir": direction, "data": format!("{message}\n")});
        text += &format!("{line}\n");
    }
    std::fs::write(file, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
}

/// Runs `km monitor --record session <arguments>`, and waits until nothing of it is left.
fn record(environment: &TestEnvironment, arguments: &[&str], input: &[u8]) -> (Finished, Recording) {
    let file = environment.path("session.jsonl.zst");
    let arguments = [&["monitor", "--record", path(&file)], arguments].concat();
    let finished = environment.km_with_input(arguments, input);
    // The guard may have been left with the last of it.
    wait_until("the recording is closed", || !is_open(&file));
    (finished, Recording::read(&file))
}

/// Whether any process has this file open.
fn is_open(file: &Path) -> bool {
    let files = |process: std::fs::DirEntry| std::fs::read_dir(process.path().join("fd"));
    let mut open = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|p| files(p).ok()).flatten();
    open.any(|open| open.is_ok_and(|open| std::fs::read_link(open.path()).is_ok_and(|link| link == file)))
}

#[test]
fn every_byte_that_passes_is_recorded() {
    let environment = TestEnvironment::with_console_logger();
    let all: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    let text: Vec<u8> = "{\"text\":\"ä€😀\\n\"}\n".repeat(20_000).into_bytes();
    let cases: [&[u8]; 6] = [b"", b"{}\n", b"crlf\r\n\r\n\n\nno end", b"\0\xff\xfe\n\xc3\x28\n", &all, &text];
    for (case, plugins) in cases.into_iter().flat_map(|case| [(case, true), (case, false)]) {
        let arguments = if plugins { &["--", "cat"][..] } else { &["--no-plugins", "--", "cat"] };
        let (finished, recording) = record(&environment, arguments, case);
        assert!(finished.expect(0).stdout == case);
        assert!(recording.bytes("inbound") == case && recording.bytes("outbound") == case);
        assert_eq!(recording.header["format"], "km-recording/1");
        let times: Vec<u64> = recording.lines.iter().map(|line| line["t"].as_u64().unwrap()).collect();
        assert!(times.is_sorted(), "{times:?}");
        for direction in ["inbound", "outbound"] {
            assert_eq!(recording.of(direction).last().unwrap()["end"], true);
        }
        std::fs::remove_file(environment.path("session.jsonl.zst")).unwrap();
    }
    let readable = record(&environment, &["--", "cat"], &text).1;
    assert!(readable.of("inbound").filter(|line| line.get("data").is_some()).count() > 4);
}

#[test]
fn a_line_of_32_mib_is_recorded() {
    let environment = TestEnvironment::empty();
    let mut line = vec![b'x'; 31 << 20];
    line.push(b'\n');
    let (finished, recording) = record(&environment, &["--", "cat"], &line);
    assert!(finished.expect(0).stdout == line);
    assert!(recording.bytes("inbound") == line && recording.bytes("outbound") == line);
}

#[test]
fn a_recording_is_new_private_and_standard_and_names_no_arguments() {
    let environment = TestEnvironment::empty();
    let file = environment.path("session.jsonl.zst");
    let server = ["--", "sh", "-c", "cat; exit 3", "argument-canary"];
    let (finished, recording) = record(&environment, &server, b"{}\n");
    finished.expect(3);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!recording.header.to_string().contains("canary"), "{}", recording.header);
    if let Ok(tested) = Command::new("zstd").args(["--test", "--quiet"]).arg(&file).status() {
        assert!(tested.success());
    }

    let before = std::fs::read(&file).unwrap();
    let again = environment.km(["monitor", "--record", path(&file), "--", "cat"]).expect(7);
    assert!(again.stderr.contains("is there already"), "{}", again.stderr);
    assert!(std::fs::read(&file).unwrap() == before);

    let elsewhere = environment.path("missing/session.jsonl.zst");
    environment.km(["monitor", "--record", path(&elsewhere), "--", "cat"]).expect(6);
    let unused = environment.path("unused.jsonl.zst");
    environment.km(["monitor", "--record", path(&unused), "--", "no-such-command-anywhere"]).expect(127);
    assert!(!unused.exists());
}

#[test]
fn what_was_forwarded_before_km_was_killed_is_recorded() {
    let environment = TestEnvironment::empty();
    for round in 0..20usize {
        let file = environment.path(&format!("{round}.jsonl.zst"));
        let mut session =
            Session::start(&environment, &["--no-plugins", "--record", path(&file), "--", "cat"]);
        let mut sent = String::new();
        for n in 0..=round {
            let message = format!("{{\"id\":{n},\"text\":\"{}\"}}", "ä".repeat(n * 997));
            session.exchange(&message);
            sent += &format!("{message}\n");
        }
        let family = descendants(session.pid());
        session.child.kill().unwrap();
        wait_until("nothing of it is left", || !family.iter().any(|&pid| alive(pid)));
        let recording = Recording::read(&file);
        assert!(recording.bytes("inbound") == sent.as_bytes(), "round {round}");
        assert!(recording.bytes("outbound") == sent.as_bytes(), "round {round}");
    }
}

#[test]
fn what_was_forwarded_before_km_was_killed_in_a_flood_is_recorded() {
    let environment = TestEnvironment::empty();
    for round in 1..=5usize {
        let file = environment.path(&format!("{round}.jsonl.zst"));
        let mut session = Session::start(&environment, &["--record", path(&file), "--", "cat"]);
        let mut stdin = session.stdin.take().unwrap();
        let flood = std::thread::spawn(move || {
            let lines = (0..).map(|n| format!("{{\"id\":{n},\"text\":\"{}\"}}\n", "x".repeat(n % 5000)));
            let mut sent = Vec::new();
            for line in lines {
                sent.extend(line.as_bytes());
                if stdin.write_all(line.as_bytes()).is_err() {
                    break;
                }
            }
            sent
        });
        let mut received = vec![0; round * 1_500_000];
        session.stdout.read_exact(&mut received).unwrap();
        let family = descendants(session.pid());
        session.child.kill().unwrap();
        session.stdout.read_to_end(&mut received).unwrap();
        let sent = flood.join().unwrap();
        wait_until("nothing of it is left", || !family.iter().any(|&pid| alive(pid)));
        let recording = Recording::read(&file);
        let (inbound, outbound) = (recording.bytes("inbound"), recording.bytes("outbound"));
        assert!(sent.starts_with(&inbound), "round {round}: nothing else was sent");
        assert!(inbound.starts_with(&outbound), "round {round}: what came out had gone in");
        assert!(outbound.starts_with(&received), "round {round}: what was received is recorded");
    }
}

#[test]
fn a_file_that_may_not_grow_ends_the_recording_and_nothing_else() {
    let environment = TestEnvironment::empty();
    let file = environment.path("session.jsonl.zst");
    // What cannot be compressed, in base64's 64 characters.
    let mut random = vec![0; 3 << 20];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
    let input = base64::engine::general_purpose::STANDARD.encode(random) + "\n";
    let mut command = environment.command("km");
    let script = "ulimit -f 2048; exec \"$0\" monitor --record \"$1\" -- cat";
    let mut limited = Command::new("sh");
    limited.args(["-c", script]).arg(command.get_program()).arg(&file).env("KM_HOME", environment.home());
    command = limited;
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let copy = input.clone();
    let writer = std::thread::spawn(move || stdin.write_all(copy.as_bytes()));
    let finished: Finished = child.wait_with_output().unwrap().into();
    writer.join().unwrap().unwrap();
    let finished = finished.expect(0);
    assert!(finished.stdout == input.as_bytes());
    assert_eq!(
        finished.stderr.matches("ends here, and the session goes on").count(),
        1,
        "{}",
        finished.stderr
    );
    assert!(finished.stderr.contains("File too large"), "{}", finished.stderr);
    let recorded = Recording::read(&file).bytes("inbound");
    assert!(!recorded.is_empty() && input.as_bytes().starts_with(&recorded));
}

#[test]
fn a_recording_is_given_to_plugins_again() {
    let environment = TestEnvironment::with_console_logger();
    let file = environment.path("session.jsonl.zst");
    let messages: String =
        (0..5000).map(|n| format!("{{\"jsonrpc\":\"2.0\",\"id\":{n},\"method\":\"m\"}}\n")).collect();
    record(&environment, &["--no-plugins", "--", "cat"], messages.as_bytes()).0.expect(0);
    let replayed = environment.km(["replay", path(&file), "--json"]).expect(0);
    let expected =
        json!({"name": "console-logger", "delivered": 10000, "failed": 0, "dropped": 0, "waiting": 0});
    let plugin = &replayed.json()["plugins"][0];
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&plugin[name], value, "{plugin}");
    }
    for direction in ["inbound", "outbound"] {
        assert_eq!(replayed.stderr.matches(&format!(" {direction} ")).count(), 5000, "{}", replayed.stderr);
    }
    let named = environment.km(["replay", path(&file), "--plugin", "console-logger"]).expect(0);
    assert_eq!(named.text(), "console-logger: 10000 messages delivered\n");
    environment.km(["replay", path(&file), "--plugin", "missing"]).expect(6);
    environment.km(["replay", path(&environment.path("missing"))]).expect(6);
}

#[test]
fn a_signal_ends_a_replay_that_would_take_for_ever() {
    let environment = TestEnvironment::empty();
    environment.allow(&binary("misbehaving"), Mode::AnswersLate.name());
    let file = environment.path("session.jsonl.zst");
    write(&file, &vec![("inbound", call(json!(1), "a")); 500]);
    let mut command = environment.command("km");
    command.args(["replay", path(&file), "--json"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    wait_until("a plugin runs", || !descendants(child.id()).is_empty());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let finished = Finished::from(child.wait_with_output().unwrap()).expect(8);
    let document = finished.json();
    assert_eq!(document["interrupted"], true, "{document}");
    assert!(document["plugins"][0]["waiting"].as_u64().unwrap() > 0, "{document}");
}

#[test]
fn a_recording_without_its_end_is_read_as_far_as_it_goes() {
    let environment = TestEnvironment::with_console_logger();
    let file = environment.path("session.jsonl.zst");
    let line = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\"}\n";
    write(&file, &[("inbound", json!({"jsonrpc": "2.0", "id": 1, "method": "m"}))]);
    let whole = std::fs::read(&file).unwrap();
    let more =
        zstd::encode_all(format!("{}\n", json!({"t": 1, "dir": "inbound", "data": line})).as_bytes(), 1);
    let more = more.unwrap();
    for rest in [&more[..more.len() / 2], &[0; 100], &more[..3]] {
        std::fs::write(&file, [&whole, rest].concat()).unwrap();
        let replayed = environment.km(["replay", path(&file), "--json"]).expect(0);
        assert_eq!(replayed.json()["plugins"][0]["delivered"], 1);
        assert!(replayed.stderr.contains("is not whole"), "{}", replayed.stderr);
    }
    for other in [&b"no recording"[..], b"", &zstd::encode_all(&b"{\"a\":1}\n"[..], 1).unwrap()] {
        std::fs::write(&file, other).unwrap();
        let refused = environment.km(["replay", path(&file)]).expect(9);
        assert!(refused.stderr.contains("help: "), "{}", refused.stderr);
    }
}

#[test]
fn a_client_is_answered_from_a_recording() {
    let environment = TestEnvironment::empty();
    let file = environment.path("session.jsonl.zst");
    let client = |server: &[&str]| {
        let mut client = environment.command("mcp-client");
        client.args(["--bytes", "100000", "--"]).arg(binary("km")).args(server);
        let output = client.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let server = binary("mcp-server");
    let recorded = client(&["monitor", "--record", path(&file), "--", path(&server)]);
    let replayed = client(&["replay", path(&file), "--as-server"]);
    assert!(!recorded.is_empty() && replayed == recorded);
}

/// A client of `km replay --as-server`, and what it gets for what it says.
fn replay(environment: &TestEnvironment, file: &Path, arguments: &[&str], said: &[Value]) -> Vec<Value> {
    let input: String = said.iter().map(|message| format!("{message}\n")).collect();
    let arguments = [&["replay", path(file), "--as-server"], arguments].concat();
    let finished = environment.km_with_input(arguments, input.as_bytes()).expect(0);
    finished.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn call(id: Value, name: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": name}})
}

fn result(id: Value, text: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": {"text": text}})
}

#[test]
fn equal_requests_get_the_recorded_answers_in_their_order() {
    let environment = TestEnvironment::empty();
    let file = environment.path("session.jsonl.zst");
    write(
        &file,
        &[
            ("inbound", call(json!(1), "a")),
            ("inbound", call(json!(2), "b")),
            ("outbound", result(json!(2), "b")),
            ("outbound", result(json!(1), "first")),
            ("inbound", call(json!(3), "a")),
            ("outbound", json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"n": 1}})),
            ("outbound", result(json!(3), "second")),
        ],
    );
    let answers = replay(
        &environment,
        &file,
        &[],
        &["a", "c", "a", "a"].map(|name| call(json!(format!("id of {name}")), name)),
    );
    let missing = json!({"code": -32010, "message": "not in the recording: tools/call"});
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"n": 1}});
    let second = [notification, result(json!("id of a"), "second")];
    let expected = [
        &[result(json!("id of a"), "first")][..],
        &[json!({"jsonrpc": "2.0", "id": "id of c", "error": missing})],
        &second,
        &second,
    ];
    assert_eq!(answers, expected.concat());
}

#[test]
fn tokens_and_the_server_s_own_requests_have_their_places() {
    let environment = TestEnvironment::empty();
    let file = environment.path("session.jsonl.zst");
    let with_token = |id: Value, token: Value| {
        let mut call = call(id, "a");
        call["params"]["_meta"] = json!({"progressToken": token});
        call
    };
    let progress = |token: Value| json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}});
    let roots = json!({"jsonrpc": "2.0", "id": 1, "method": "roots/list"});
    let listen =
        |id: Value| json!({"jsonrpc": "2.0", "id": id, "method": "subscriptions/listen", "params": {}});
    let event = |id: Value| json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {"_meta": {"io.modelcontextprotocol/subscriptionId": id}}});
    write(
        &file,
        &[
            ("inbound", with_token(json!(1), json!(7))),
            ("outbound", progress(json!(7))),
            ("outbound", roots.clone()),
            ("inbound", result(json!(1), "roots")),
            ("outbound", result(json!(1), "done")),
            ("inbound", listen(json!(2))),
            ("outbound", event(json!(2))),
        ],
    );
    let said = [with_token(json!("x"), json!("token")), result(json!(1), "other roots"), listen(json!("l"))];
    let expected = [progress(json!("token")), roots.clone(), result(json!("x"), "done"), event(json!("l"))];
    assert_eq!(replay(&environment, &file, &[], &said), expected);
    // The result waits for the client's answer.
    assert_eq!(replay(&environment, &file, &[], &said[..1]), expected[..2]);
    // A request that was cancelled is answered no more.
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "x"}});
    assert_eq!(replay(&environment, &file, &[], &[said[0].clone(), cancel, said[1].clone()]), expected[..2]);
}

#[test]
fn pauses_are_those_of_the_recording_when_asked_for() {
    let environment = TestEnvironment::empty();
    let file = environment.path("session.jsonl.zst");
    let fillers = (0..10).map(|n| ("outbound", json!({"jsonrpc": "2.0", "method": "n", "params": {"n": n}})));
    let mut lines = vec![("inbound", call(json!(1), "a"))];
    lines.extend(fillers);
    lines.push(("outbound", result(json!(1), "a")));
    write(&file, &lines);
    let mut command = environment.command("km");
    command.args(["replay", path(&file), "--as-server", "--speed", "1"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let begun = Instant::now();
    stdin.write_all(format!("{}\n", call(json!(1), "a")).as_bytes()).unwrap();
    let mut text = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    while !text.contains("result") {
        std::io::BufRead::read_line(&mut stdout, &mut text).unwrap();
    }
    // Eleven lines, 50 ms apart.
    assert!(begun.elapsed() >= Duration::from_millis(550), "{:?}", begun.elapsed());
    drop(stdin);
    assert!(child.wait().unwrap().success());
}
