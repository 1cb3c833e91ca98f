//! Compiles in the release keys of `keys/trusted/*.pub.pem` and the commit this is built from.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

fn main() {
    // Not `env!`: a target folder may be shared by checkouts, and then so is this program.
    let crate_folder = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let root = Path::new(&crate_folder).join("..");
    let folder = root.join("keys/trusted");
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(".pub.pem"))
        .collect();
    paths.sort();
    let mut keys = String::from("[");
    for path in paths {
        let path = path.canonicalize().expect("a file that was just listed");
        writeln!(keys, "include_str!({path:?}),").expect("writing to a String");
    }
    keys.push(']');
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&out).join("trusted_keys.rs"), keys).expect("OUT_DIR is writable");

    println!("cargo:rerun-if-changed={}", root.join(".git/logs/HEAD").display());
    let commit = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).current_dir(&root).output();
    let commit = commit.ok().filter(|output| output.status.success());
    let commit = commit.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    let commit = if commit.trim().is_empty() { "unknown" } else { commit.trim() };
    println!("cargo:rustc-env=KM_COMMIT={commit}");
    println!("cargo:rustc-env=KM_TARGET={}", env::var("TARGET").unwrap_or_default());
}
