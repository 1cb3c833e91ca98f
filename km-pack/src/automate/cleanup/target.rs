//! cargo's target folder: whether it is one, and what of it was made.

use std::path::{Path, PathBuf};

use super::{BEHIND_LINK, OUTSIDE, entries, is_file, is_folder};
use crate::automate::place;

/// What the tag of a folder begins with that holds nothing but what can be made again (bford.info/cachedir).
const SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Of these, nothing can be made again.
const NEVER: [&str; 3] = [".git", "dist", "keys"];

/// What cargo makes in a target folder, and in that of one triple.
const CARGO: [&str; 8] = [
    "debug",
    "release",
    "doc",
    "package",
    "tmp",
    "CACHEDIR.TAG",
    ".rustc_info.json",
    ".rustdoc_fingerprint.json",
];

/// What this repository makes there: packages, its tests (`tests/src`, `tests/tests/real`), `.ci/run` and
/// `docs/session`.
const OURS: [&str; 10] = [
    "km-pack",
    "automate",
    "mcp-tools",
    "tools",
    "new-plugins",
    "go",
    "go-tests",
    "go-tests-old",
    "lint",
    "session",
];

/// The folder as it really is, or why nothing of it goes.
pub(super) fn judge(target: &Path, checkout: &Path, tracked: &[PathBuf]) -> Result<PathBuf, &'static str> {
    if place::link_to(target, checkout).is_some() {
        return Err(BEHIND_LINK);
    }
    // What `..` in it leads to shows only here.
    let target = std::fs::canonicalize(target).map_err(|_| "it cannot be read")?;
    let relative = match target.strip_prefix(checkout) {
        Ok(relative) if relative != Path::new("") => relative,
        Ok(_) => return Err("it is the checkout"),
        Err(_) => return Err(OUTSIDE),
    };
    let mut way = target.ancestors().take_while(|way| *way != checkout);
    if way.any(|way| way.join(".git").symlink_metadata().is_ok()) {
        return Err("it lies in another checkout");
    }
    if NEVER.iter().any(|never| relative.starts_with(never)) {
        return Err("what lies there cannot be made again");
    }
    if tracked.iter().any(|tracked| tracked.starts_with(relative) || relative.starts_with(tracked)) {
        return Err("git keeps files in it");
    }
    let tag = target.join("CACHEDIR.TAG");
    let is_tagged = is_file(&tag) && std::fs::read(&tag).is_ok_and(|tag| tag.starts_with(SIGNATURE));
    if is_tagged { Ok(target) } else { Err("its CACHEDIR.TAG is not cargo's") }
}

/// Whether cargo or this repository made it. Whatever else somebody put there stays.
pub(super) fn is_ours(path: &Path) -> bool {
    let is_one = |path: &Path, names: &[&str]| names.iter().any(|name| path.ends_with(name));
    // cargo keeps what it builds for a triple apart, in the same way.
    let is_triple = || {
        let named = path.file_name().is_some_and(|name| name.to_string_lossy().matches('-').count() >= 2);
        let built = ["debug", "release"].iter().any(|profile| is_folder(&path.join(profile)));
        named && is_folder(path) && built && entries(path).all(|path| is_one(&path, &CARGO))
    };
    is_one(path, &CARGO) || is_one(path, &OURS) || is_triple()
}
