//! The files of the checkout that are compiled in.

/// Their paths in the checkout, and what is in them; in the order of the paths.
static FILES: &[(&str, &[u8])] = &include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// A text file. `build.rs` takes in all that are asked for.
pub(super) fn text(path: &str) -> &'static str {
    let found = FILES.iter().find(|(name, _)| *name == path);
    let text = found.and_then(|(_, bytes)| std::str::from_utf8(bytes).ok());
    text.unwrap_or_else(|| unreachable!("{path} is not compiled in"))
}

/// The files of a folder: their paths in it, and what is in them.
pub(super) fn folder(path: &str) -> impl Iterator<Item = (&'static str, &'static [u8])> {
    let within = move |name: &'static str| name.strip_prefix(path)?.strip_prefix('/');
    FILES.iter().filter_map(move |(name, bytes)| Some((within(name)?, *bytes)))
}
