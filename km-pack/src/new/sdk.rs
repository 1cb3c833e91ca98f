//! The SDK as projects outside of the checkout have it: a cargo workspace of its own in `vendor/kilometers`.

use std::path::{Path, PathBuf};
use std::{fs, io};

use km_package::failure::{Failure, Kind};
use toml_edit::{Array, DocumentMut, Item, Table, value};

use super::{Files, embedded, write};

/// Where it lies in a project.
pub(super) const FOLDER: &str = "vendor/kilometers";

/// Its crates: their names, which are their folders there, and their folders in the checkout.
const CRATES: [(&str, &str); 5] = [
    ("go-plugin", "proto/process"),
    ("km-api", "proto/api"),
    ("km-package", "proto/package"),
    ("km-plugin", "km-plugin-template/sdk"),
    ("km-proto", "proto/wire"),
];

/// Parts of a crate's `Cargo.toml` that are about its tests, which stay in the checkout.
const OF_TESTS: [&str; 2] = ["dev-dependencies", "test"];

/// The SDK of a project.
#[derive(Debug)]
pub struct Sdk {
    folder: PathBuf,
}

/// What became of the SDK of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Updated {
    /// It is another one now.
    Replaced,
    /// It was this one already.
    Kept,
}

impl Sdk {
    /// The SDK in a project's folder.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(project: &Path) -> Result<Self, Failure> {
        let folder = project.join(FOLDER);
        if folder.join("km-plugin/Cargo.toml").is_file() {
            return Ok(Self { folder });
        }
        let message = format!("{} has no {FOLDER}", project.display());
        Err(Failure::new(Kind::NotFound, message)
            .help("go to the folder of a plugin in Rust that `km-pack new` made outside of the checkout"))
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Puts the SDK of this program into its place.
    ///
    /// # Errors
    /// When a file cannot be read or written; then all is as it was.
    pub fn update(&self) -> Result<Updated, Failure> {
        let wanted = files();
        let found = read(&self.folder).map_err(|e| Failure::file("read", &self.folder, &e))?;
        if found == wanted {
            return Ok(Updated::Kept);
        }
        write::replace(&self.folder, &wanted)?;
        Ok(Updated::Replaced)
    }
}

/// All files of the SDK, by their paths in its folder.
pub(super) fn files() -> Files {
    let mut files = Files::new();
    let mut used = Vec::new();
    for (name, folder) in CRATES {
        for (path, bytes) in embedded::folder(folder) {
            files.insert(Path::new(name).join(path), bytes.to_vec());
        }
        let manifest = crate_manifest(folder);
        used.extend(dependencies(&manifest).map(str::to_owned));
        files.insert(Path::new(name).join("Cargo.toml"), manifest.to_string().into_bytes());
    }
    files.insert(PathBuf::from("Cargo.toml"), workspace_manifest(&used).into_bytes());
    files.insert(PathBuf::from("README.md"), readme().into_bytes());
    files.insert(PathBuf::from("LICENSE"), embedded::text("LICENSE").as_bytes().to_vec());
    files
}

fn readme() -> String {
    format!(
        "# The SDK for Kilometers plugins, {}\n\n\
         Crate `km-plugin`, and those of ours that it depends on. `km-pack new --update`, run in the plugin's \
         folder, puts the SDK of that `km-pack` into the place of this folder: what is changed here is lost then.\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// The root manifest of the checkout.
pub(super) fn root_manifest() -> DocumentMut {
    parsed("Cargo.toml")
}

/// A manifest of the checkout.
pub(super) fn parsed(path: &str) -> DocumentMut {
    // What cargo has read to compile this program.
    embedded::text(path).parse().unwrap_or_else(|e| unreachable!("{path}: {e}"))
}

fn crate_manifest(folder: &str) -> DocumentMut {
    let mut manifest = parsed(&format!("{folder}/Cargo.toml"));
    for part in OF_TESTS {
        manifest.remove(part);
    }
    manifest
}

fn dependencies(manifest: &DocumentMut) -> impl Iterator<Item = &str> {
    manifest.get("dependencies").and_then(Item::as_table).into_iter().flatten().map(|(name, _)| name)
}

/// That of the checkout, with these crates and what they depend on.
fn workspace_manifest(used: &[String]) -> String {
    let mut manifest = root_manifest();
    manifest.remove("profile");
    let workspace = &mut manifest["workspace"];
    workspace["members"] = value(CRATES.iter().map(|(name, _)| *name).collect::<Array>());
    let empty = Item::Table(Table::new());
    let mut all = std::mem::replace(&mut workspace["dependencies"], empty);
    for (name, item) in all.as_table_mut().into_iter().flat_map(Table::iter_mut) {
        let name = name.get();
        if !used.iter().any(|used| used == name) {
            continue;
        }
        if CRATES.iter().any(|(ours, _)| *ours == name) {
            item["path"] = value(name);
        }
        workspace["dependencies"][name] = item.clone();
    }
    manifest.to_string()
}

/// All files of a folder.
fn read(folder: &Path) -> io::Result<Files> {
    let mut files = Files::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if fs::symlink_metadata(&path)?.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap_or(&path).to_owned();
                files.insert(name, fs::read(&path)?);
            }
        }
    }
    Ok(files)
}
