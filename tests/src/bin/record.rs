//! Runs a program and keeps a copy of what goes into it and comes out of it:
//! `record <folder> -- <command>` writes `<folder>/in` and `<folder>/out`.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, ExitCode, Stdio};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [folder, _, program, rest @ ..] = &arguments[..] else {
        return Err("record <folder> -- <command>".into());
    };
    let folder = std::path::Path::new(folder);
    std::fs::create_dir_all(folder)?;
    let mut child = Command::new(program).args(rest).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (stdin, stdout) = (child.stdin.take().ok_or("no pipe")?, child.stdout.take().ok_or("no pipe")?);
    let copy_in = File::create(folder.join("in"))?;
    // Not joined: a client may keep its end open longer than the program lives.
    std::thread::spawn(move || copy(std::io::stdin(), stdin, copy_in));
    copy(stdout, std::io::stdout(), File::create(folder.join("out"))?);
    let status = child.wait()?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

fn copy(mut from: impl Read, mut to: impl Write, mut copy: File) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let bytes = &buffer[..count];
        if copy.write_all(bytes).and_then(|()| to.write_all(bytes)).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}
