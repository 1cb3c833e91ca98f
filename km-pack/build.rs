//! Compiles in what `km-pack new` makes projects of: the model plugins, the SDK, the texts beside them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Files and folders of the checkout.
const TAKEN: [&str; 18] = [
    "Cargo.toml",
    "rustfmt.toml",
    "km-plugin-template/Cargo.toml",
    "km-plugin-template/src",
    "km-plugin-template/go",
    "km-plugin-template/project",
    "km-plugin-template/sdk/Cargo.toml",
    "km-plugin-template/sdk/src",
    "proto/api/Cargo.toml",
    "proto/api/src",
    "proto/package/Cargo.toml",
    "proto/package/src",
    "proto/process/Cargo.toml",
    "proto/process/src",
    // Its documentation shows them.
    "proto/process/examples",
    "proto/wire/Cargo.toml",
    "proto/wire/src",
    "LICENSE",
];

fn main() {
    // Not `env!`: a target folder may be shared by checkouts, and then so is this program.
    let crate_folder = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let root = Path::new(&crate_folder).join("..").canonicalize().expect("the checkout is there");
    let mut files = Vec::new();
    for taken in TAKEN {
        println!("cargo:rerun-if-changed={}", root.join(taken).display());
        collect(&root.join(taken), &mut files);
    }
    files.sort();
    let mut list = String::from("[\n");
    for path in files {
        let name = path.strip_prefix(&root).expect("it lies in the checkout").display();
        writeln!(list, "(\"{name}\", include_bytes!({path:?}).as_slice()),").expect("writing to a String");
    }
    list.push(']');
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&out).join("embedded.rs"), list).expect("OUT_DIR is writable");
}

/// All files of a folder but hidden ones, which editors leave; or the file itself.
fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_file() {
        files.push(path.to_owned());
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with('.') {
            collect(&entry.path(), files);
        }
    }
}
