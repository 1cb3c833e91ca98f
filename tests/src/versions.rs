//! What lies in the store of a test's home, seen from outside.

use std::path::{Path, PathBuf};

use crate::{TestEnvironment, Tiny};

/// `tiny` 1.0.0.
pub fn first() -> Tiny {
    Tiny::new("1.0.0", 1)
}

/// `tiny` 1.1.0.
pub fn second() -> Tiny {
    Tiny::new("1.1.0", 2)
}

/// `tiny` 2.0.0.
pub fn third() -> Tiny {
    Tiny::new("2.0.0", 3)
}

/// An environment in which these were installed, one after the other.
pub fn with(installed: &[Tiny]) -> TestEnvironment {
    let environment = Tiny::trusting();
    for tiny in installed {
        tiny.install(&environment);
    }
    environment
}

/// The link of the plugin `tiny`.
pub fn link(environment: &TestEnvironment) -> PathBuf {
    environment.home().join("plugins/km-plugin-tiny")
}

/// The executable that it leads to.
pub fn active_path(environment: &TestEnvironment) -> PathBuf {
    std::fs::canonicalize(link(environment)).expect("it is there")
}

/// The bytes of that; none where there is no link.
pub fn active_executable(environment: &TestEnvironment) -> Option<Vec<u8>> {
    std::fs::symlink_metadata(link(environment)).ok()?;
    Some(std::fs::read(link(environment)).expect("a link leads to its executable"))
}

/// The executable of the version that is kept to go back to, if there is one and it has a receipt.
pub fn kept_executable(environment: &TestEnvironment) -> Option<Vec<u8>> {
    let active = std::fs::canonicalize(link(environment)).ok()?;
    let receipt = std::fs::read_to_string(active.with_file_name(".receipt.toml")).ok()?;
    let kept = receipt.lines().find_map(|line| line.strip_prefix("previous = \""))?.trim_end_matches('"');
    let folder = active.parent()?.with_file_name(kept);
    std::fs::read(folder.join(".receipt.toml")).ok()?;
    std::fs::read(folder.join("km-plugin-tiny")).ok()
}

/// The folders of versions of `tiny`.
pub fn folders(environment: &TestEnvironment) -> Vec<PathBuf> {
    let store = environment.home().join("plugins/store/tiny");
    let entries = std::fs::read_dir(store).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// Asserts that nothing lies about.
pub fn expect_tidy(environment: &TestEnvironment, after: &str) {
    let found = leftovers(environment);
    assert!(found.is_empty(), "left after {after}: {found:?}");
}

/// What belongs to no installation: staging, successors of files, versions without a receipt, and those
/// that are neither active nor the one to go back to.
fn leftovers(environment: &TestEnvironment) -> Vec<PathBuf> {
    let paths = environment.snapshot().into_iter().map(|(path, _)| path);
    let mut found: Vec<PathBuf> = paths.filter(|path| is_temporary(path)).collect();
    let active = std::fs::canonicalize(link(environment)).ok();
    let active = active.as_deref().and_then(Path::parent);
    let receipt =
        active.map(|folder| std::fs::read_to_string(folder.join(".receipt.toml")).unwrap_or_default());
    for folder in folders(environment) {
        let name = folder.file_name().expect("it is there").to_str().expect("it is there");
        let is_kept = receipt.as_ref().is_some_and(|text| text.contains(&format!("previous = \"{name}\"")));
        let is_needed = active == Some(&folder) || is_kept;
        if !is_needed || !folder.join(".receipt.toml").is_file() {
            found.push(folder);
        }
    }
    found
}

fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().expect("it is there").to_string_lossy();
    name == ".staging" || name.starts_with("unpacking-") || name.ends_with(".new")
}
