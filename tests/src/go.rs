//! Programs in Go: what others speak go-plugin with.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::{binary, path, workspace};

/// Builds `tests/go` with the current go-plugin.
///
/// # Errors
/// Why it cannot be built here.
pub fn current() -> Result<PathBuf, String> {
    let folder = folder("go-tests")?;
    let mut build = Command::new("go");
    build.args(["build", "-o", path(&folder), "./plugin", "./host", "./pairing-plugin", "./pairing-host"]);
    run(&mut build)?;
    Ok(folder)
}

/// Builds it with Debian's go-plugin 1.0.1 of 2019.
///
/// # Errors
/// Why it cannot be built here.
pub fn old() -> Result<PathBuf, String> {
    let folder = folder("go-tests-old")?;
    run(Command::new("sh").args(["old.sh", path(&folder)]))?;
    Ok(folder)
}

fn folder(name: &str) -> Result<PathBuf, String> {
    let target = binary("km").ancestors().nth(2).map(|target| target.join(name));
    let folder = target.ok_or("there is no target folder")?;
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    Ok(folder)
}

fn run(build: &mut Command) -> Result<(), String> {
    match build.current_dir(workspace().join("tests/go")).output() {
        Ok(Output { status, .. }) if status.success() => Ok(()),
        Ok(Output { stderr, .. }) => Err(String::from_utf8_lossy(&stderr).into_owned()),
        Err(e) => Err(format!("{}: {e}", build.get_program().display())),
    }
}
