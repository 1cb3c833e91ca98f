//! The checkout of Kilometers plugins, if a project is made inside of it.

use std::fs;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item};

/// Where its plugins lie, and how its manifest says that.
const PLUGINS: &str = "plugins";
const MEMBERS: &str = "plugins/*";

/// A cargo workspace that takes every folder in `plugins` for a plugin, and knows the SDK.
#[derive(Debug)]
pub(super) struct Workspace {
    root: PathBuf,
    members: Vec<String>,
}

impl Workspace {
    /// The workspace that a folder is in.
    pub(super) fn around(folder: &Path) -> Option<Self> {
        let (root, manifest) = folder.ancestors().find_map(|root| {
            let manifest = read(root)?;
            manifest.contains_key("workspace").then_some((root, manifest))
        })?;
        let workspace = manifest.get("workspace")?;
        let members = workspace.get("members")?.as_array()?.iter();
        let members: Vec<String> = members.filter_map(|member| Some(member.as_str()?.to_owned())).collect();
        let sdk = workspace.get("dependencies")?.get("km-plugin")?.get("path");
        (sdk.is_some() && members.iter().any(|member| member == MEMBERS))
            .then(|| Self { root: root.to_owned(), members })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn plugins(&self) -> PathBuf {
        self.root.join(PLUGINS)
    }

    /// The folder of the member that has this package name.
    pub(super) fn package(&self, name: &str) -> Option<PathBuf> {
        let named = |folder: &PathBuf| {
            let manifest = read(folder)?;
            (manifest.get("package")?.get("name").and_then(Item::as_str) == Some(name)).then_some(())
        };
        self.members.iter().flat_map(|member| self.folders(member)).find(|folder| named(folder).is_some())
    }

    fn folders(&self, member: &str) -> Vec<PathBuf> {
        let Some(parent) = member.strip_suffix("/*") else { return vec![self.root.join(member)] };
        let entries = fs::read_dir(self.root.join(parent)).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }
}

fn read(folder: &Path) -> Option<DocumentMut> {
    fs::read_to_string(folder.join("Cargo.toml")).ok()?.parse().ok()
}
