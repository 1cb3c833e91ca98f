//! Recordings on bad disks: traffic goes on, and what the file holds is right.

use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use km_tests::{Finished, TestEnvironment, path};

use crate::crash::SmallDisk;

/// So many bytes, and a newline, that cannot be made much smaller.
fn random(size: usize) -> Vec<u8> {
    use std::io::Read as _;
    let mut random = vec![0; size * 3 / 4];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
    (base64::engine::general_purpose::STANDARD.encode(random) + "\n").into_bytes()
}

/// What the file holds of one direction.
fn recorded(file: &Path, direction: &str) -> Vec<u8> {
    let text = zstd::decode_all(std::fs::File::open(file).unwrap()).unwrap();
    let lines = text.split_inclusive(|&byte| byte == b'\n').skip(1);
    let lines = lines.map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap());
    let pieces = lines.filter(|line| line["dir"] == direction);
    pieces.flat_map(|line| line["data"].as_str().unwrap_or_default().as_bytes().to_vec()).collect()
}

#[test]
fn a_full_disk_ends_the_recording_and_nothing_else() {
    let environment = TestEnvironment::empty();
    let Some(disk) = SmallDisk::mount(&environment, "size=2m") else { return };
    let (file, input) = (environment.home().join("session.jsonl.zst"), random(4 << 20));
    let arguments = ["monitor", "--no-plugins", "--record", path(&file), "--", "cat"];
    let finished = environment.km_with_input(arguments, &input).expect(0);
    assert!(finished.stdout == input);
    assert_eq!(finished.stderr.matches("No space left on device").count(), 1, "{}", finished.stderr);
    let inbound = recorded(&file, "inbound");
    assert!(!inbound.is_empty() && input.starts_with(&inbound));
    drop(disk);
}

#[test]
fn a_slow_disk_holds_up_nothing_and_has_it_all_in_the_end() {
    let environment = TestEnvironment::empty();
    let (file, input) = (environment.path("session.jsonl.zst"), random(8 << 20));
    let km = environment.command("km");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64"]);
    // Half a second for each frame.
    strace.args(["-e", "inject=pwrite64:delay_enter=500000"]);
    strace.arg(km.get_program()).args(["monitor", "--no-plugins", "--record", path(&file), "--", "cat"]);
    strace.env("KM_HOME", environment.home());
    let mut child =
        strace.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdin, copy) = (child.stdin.take().unwrap(), input.clone());
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &copy));
    // Ends when the guard has ended, too.
    let finished = Finished::from(child.wait_with_output().unwrap()).expect(0);
    writer.join().unwrap().unwrap();
    assert!(finished.stdout == input);
    assert!(finished.stderr.contains("is complete a little after km has ended"), "{}", finished.stderr);
    assert!(recorded(&file, "inbound") == input && recorded(&file, "outbound") == input);
}
