//! A plugin in Go: a program with a `km-plugin.toml` beside it, in a module.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use km_package::failure::{Failure, Kind};
use km_package::manifest::Permissions;
use km_package::name::PluginName;
use km_package::tier::Tier;
use serde::Deserialize;

use super::{About, NamedPermissions, collect};
use crate::compile::go_mod;

/// Where a plugin in Go says what Rust's have in their `Cargo.toml`.
const ABOUT: &str = "km-plugin.toml";

/// A Go module whose folder is a program.
#[derive(Debug, Clone)]
pub struct GoModule {
    /// What it says about itself, in its `km-plugin.toml`.
    pub about: About,
    /// The folder of its `go.mod`.
    pub folder: PathBuf,
    /// The folders of this module and of all that it replaces others by.
    folders: Vec<PathBuf>,
}

/// `km-plugin.toml`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    name: PluginName,
    version: semver::Version,
    #[serde(default)]
    description: String,
    #[serde(default)]
    required_tier: Tier,
    sequence: Option<u64>,
    #[serde(default, with = "NamedPermissions")]
    permissions: Permissions,
    #[serde(default = "protocol_1")]
    protocols: Vec<u32>,
}

/// What plugins by the Go library have always spoken.
fn protocol_1() -> Vec<u32> {
    vec![1]
}

/// The parts of `go mod edit -json` that matter here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GoMod {
    replace: Option<Vec<Replace>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Replace {
    new: Module,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Module {
    path: String,
    /// None for a folder.
    version: Option<String>,
}

impl GoModule {
    /// Whether a folder holds a plugin in Go, or should.
    pub(super) fn is_in(folder: &Path) -> bool {
        [ABOUT, "go.mod"].iter().any(|file| folder.join(file).is_file())
    }

    /// The program in a folder.
    ///
    /// # Errors
    /// When its `km-plugin.toml` is missing or says what it may not, it is in no module, or Go is not
    /// installed.
    pub(super) fn find(folder: &Path) -> Result<Self, Failure> {
        let folder = fs::canonicalize(folder).map_err(|e| Failure::file("find", folder, &e))?;
        let about = read_about(&folder.join(ABOUT))?;
        let module = folder.ancestors().find(|folder| folder.join("go.mod").is_file());
        let module = module.ok_or_else(|| {
            Failure::new(Kind::NotFound, format_args!("{} is in no Go module", folder.display()))
                .help("go mod init makes one")
        })?;
        let go_mod: GoMod = serde_json::from_str(&go_mod(module)?).map_err(|e| {
            Failure::new(Kind::Failed, format_args!("cannot read the answer of go mod edit: {e}"))
        })?;
        let mut folders = vec![module.to_owned()];
        for Replace { new } in go_mod.replace.into_iter().flatten() {
            if new.version.is_none() {
                let path = module.join(new.path);
                folders.push(fs::canonicalize(&path).map_err(|e| Failure::file("find", &path, &e))?);
            }
        }
        Ok(Self { about, folder, folders })
    }

    /// The folder around all that it is made of.
    pub(super) fn root(&self) -> &Path {
        let holds_all = |root: &&Path| self.folders.iter().all(|folder| folder.starts_with(root));
        self.folder.ancestors().find(holds_all).unwrap_or(&self.folder)
    }

    /// Its own files, and those of the modules that lie on this machine.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub(super) fn files(&self) -> Result<BTreeSet<PathBuf>, Failure> {
        let mut files = BTreeSet::new();
        for folder in &self.folders {
            collect(folder, &mut files).map_err(|e| Failure::file("read", folder, &e))?;
        }
        Ok(files)
    }
}

fn read_about(path: &Path) -> Result<About, Failure> {
    let text = fs::read_to_string(path).map_err(|e| {
        Failure::file("read", path, &e).help(
            "beside the program it says `name`, `version` and perhaps `description`, `required_tier`, …",
        )
    })?;
    let said: Said = toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        Failure::new(Kind::Failed, format_args!("{}, line {line}: {}", path.display(), e.message()))
    })?;
    let Said { name, version, description, required_tier, sequence, permissions, protocols } = said;
    Ok(About { name, version, description, required_tier, sequence, permissions, protocols })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(text: &str) -> Result<About, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(ABOUT);
        fs::write(&path, text).unwrap();
        read_about(&path)
    }

    #[test]
    fn name_and_version_are_enough() {
        let said = about("name = \"mine\"\nversion = \"1.2.3\"\n").unwrap();
        assert_eq!((said.name.as_str(), said.version.to_string()), ("mine", "1.2.3".to_owned()));
        assert_eq!((said.required_tier, said.protocols, said.sequence), (Tier::Free, vec![1], None));
        let all = "name = \"mine\"\nversion = \"1.2.3\"\ndescription = \"d\"\nrequired_tier = \"Pro\"\nsequence = 7\n\
                   protocols = [1, 2]\n[permissions]\nnetwork = [\"@api\"]\n";
        let said = about(all).unwrap();
        assert_eq!((said.required_tier, said.protocols, said.sequence), (Tier::Pro, vec![1, 2], Some(7)));
        assert_eq!(said.permissions.network, ["@api"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let start = "name = \"mine\"\nversion = \"1.2.3\"\n";
        for (more, expected) in [
            ("colour = 1\n", "line 3: unknown field `colour`"),
            ("\n[permissions]\nnetwrk = []\n", "line 5: unknown field `netwrk`"),
            ("required_tier = \"Gold\"\n", "line 3: unknown variant `Gold`"),
            ("name = \"twice\"\n", "line 3: duplicate key"),
            ("sequence = -1\n", "line 3: "),
        ] {
            let failure = about(&format!("{start}{more}")).unwrap_err();
            assert!(failure.message.contains(expected), "{failure}");
        }
        for text in ["", "name = \"Mine\"\nversion = \"1.0.0\"\n", "name = \"mine\"\nversion = \"1\"\n"] {
            let failure = about(text).unwrap_err();
            assert!(
                failure.message.contains("line 1: ") || failure.message.contains("line 2: "),
                "{failure}"
            );
        }
    }
}
