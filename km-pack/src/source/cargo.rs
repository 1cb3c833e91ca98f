//! A plugin in Rust: a cargo package named `km-plugin-<name>`.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use km_package::failure::{Failure, Kind};
use km_package::manifest::Permissions;
use km_package::name::{EXECUTABLE_PREFIX, PluginName};
use km_package::tier::Tier;
use serde::Deserialize;

use super::{About, NamedPermissions, collect};
use crate::compile::cargo_metadata;
use crate::environment::Environment;

/// A cargo package.
#[derive(Debug, Clone)]
pub struct CargoPackage {
    /// What it says about itself, in its `Cargo.toml` and `[package.metadata.km]`.
    pub about: About,
    /// Its `Cargo.toml`.
    pub manifest_path: PathBuf,
    /// Root of the cargo workspace it belongs to.
    pub workspace_root: PathBuf,
    /// Where cargo would compile it.
    pub target_directory: PathBuf,
    /// The folders of this package and of all it depends on by path.
    folders: Vec<PathBuf>,
}

/// The parts of `cargo metadata` (format version 1) that matter here.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Option<Resolve>,
    workspace_root: PathBuf,
    workspace_members: Vec<String>,
    target_directory: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: semver::Version,
    description: Option<String>,
    manifest_path: PathBuf,
    source: Option<String>,
    #[serde(default)]
    metadata: serde_json::Value,
}

/// `[package.metadata.km]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct KmMetadata {
    #[serde(default)]
    required_tier: Tier,
    sequence: Option<u64>,
    #[serde(default, with = "NamedPermissions")]
    permissions: Permissions,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    dependencies: Vec<String>,
}

impl CargoPackage {
    /// Whether a folder holds a cargo package.
    pub(super) fn is_in(folder: &Path) -> bool {
        folder.join("Cargo.toml").is_file()
    }

    /// Finds a plugin by its name in the workspace around the current folder, or by the path of
    /// its folder.
    ///
    /// # Errors
    /// When there is none, or its `Cargo.toml` says what it may not.
    pub fn find(plugin: &str, environment: &Environment) -> Result<Self, Failure> {
        let folder = environment.current_dir.join(plugin);
        let by_path = folder.join("Cargo.toml");
        let (metadata, wanted) = match plugin.parse::<PluginName>() {
            Ok(name) if !by_path.is_file() => {
                (workspace_metadata(environment, plugin)?, Wanted::Name(name.executable().to_string()))
            }
            _ if by_path.is_file() => {
                let path = fs::canonicalize(&by_path).map_err(|e| Failure::file("find", &by_path, &e))?;
                (read_metadata(&cargo_metadata(&folder, Some(&path))?)?, Wanted::Manifest(path))
            }
            _ => {
                let message =
                    format!("no plugin at {}: there is neither Cargo.toml nor go.mod", folder.display());
                return Err(Failure::new(Kind::NotFound, message).help(
                    "--plugin takes the name of a plugin in this workspace, or the path of its folder",
                ));
            }
        };
        Self::pick(metadata, &wanted)
    }

    fn pick(metadata: Metadata, wanted: &Wanted) -> Result<Self, Failure> {
        let Some(package) = metadata.packages.iter().find(|package| wanted.is(package)) else {
            return Err(no_such_plugin(&metadata, wanted));
        };
        let refuse = |what: String| {
            Failure::new(Kind::Failed, format_args!("{}: {what}", package.manifest_path.display()))
        };
        let name = PluginName::of_executable(&package.name).ok_or_else(|| {
            refuse(format!("the package is named {:?}", package.name))
                .help(format_args!("a plugin's package is named {EXECUTABLE_PREFIX}<name>"))
        })?;
        let km: Option<KmMetadata> = serde_json::from_value(package.metadata["km"].clone())
            .map_err(|e| refuse(format!("[package.metadata.km]: {e}")))?;
        let km = km.unwrap_or_default();
        let folders = local_folders(&metadata, &package.id);
        let about = About {
            name,
            version: package.version.clone(),
            description: package.description.clone().unwrap_or_default(),
            required_tier: km.required_tier,
            sequence: km.sequence,
            permissions: km.permissions,
            protocols: km_proto::PROTOCOL_VERSIONS.to_vec(),
        };
        Ok(Self {
            about,
            manifest_path: package.manifest_path.clone(),
            folders,
            workspace_root: metadata.workspace_root,
            target_directory: metadata.target_directory,
        })
    }

    /// The package's own folder.
    pub fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("."))
    }

    /// Its own files, those of what it depends on by path, and the lock file.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub(super) fn files(&self) -> Result<BTreeSet<PathBuf>, Failure> {
        let mut files = BTreeSet::new();
        for folder in &self.folders {
            collect(folder, &mut files).map_err(|e| Failure::file("read", folder, &e))?;
        }
        let lock = self.workspace_root.join("Cargo.lock");
        if lock.is_file() {
            files.insert(lock);
        }
        Ok(files)
    }
}

enum Wanted {
    Name(String),
    Manifest(PathBuf),
}

impl Wanted {
    fn is(&self, package: &Package) -> bool {
        match self {
            Self::Name(name) => package.name == *name && package.source.is_none(),
            Self::Manifest(path) => {
                fs::canonicalize(&package.manifest_path).is_ok_and(|manifest| manifest == *path)
            }
        }
    }
}

fn workspace_metadata(environment: &Environment, plugin: &str) -> Result<Metadata, Failure> {
    let here = &environment.current_dir;
    if !here.ancestors().any(|folder| folder.join("Cargo.toml").is_file()) {
        let message = format!("no plugin {plugin}: {} is not in a cargo workspace", here.display());
        return Err(Failure::new(Kind::NotFound, message)
            .help("go to the workspace that holds the plugin, or give the path of its folder"));
    }
    read_metadata(&cargo_metadata(here, None)?)
}

fn read_metadata(json: &str) -> Result<Metadata, Failure> {
    serde_json::from_str(json).map_err(|e| {
        Failure::new(Kind::Failed, format_args!("cannot read the answer of cargo metadata: {e}"))
    })
}

fn no_such_plugin(metadata: &Metadata, wanted: &Wanted) -> Failure {
    let known: Vec<&str> = metadata
        .packages
        .iter()
        .filter(|package| metadata.workspace_members.contains(&package.id))
        .filter_map(|package| package.name.strip_prefix(EXECUTABLE_PREFIX))
        .collect();
    let name = match wanted {
        Wanted::Name(name) => name.clone(),
        Wanted::Manifest(path) => path.display().to_string(),
    };
    let root = metadata.workspace_root.display();
    let failure = Failure::new(Kind::NotFound, format_args!("no package {name} in the workspace {root}"));
    match &known[..] {
        [] => failure.help(format_args!("a plugin's package is named {EXECUTABLE_PREFIX}<name>")),
        known => failure.help(format_args!("plugins here: {}", known.join(", "))),
    }
}

/// The folders of a package and of everything it depends on by path.
fn local_folders(metadata: &Metadata, root: &str) -> Vec<PathBuf> {
    let packages: HashMap<&str, &Package> = metadata.packages.iter().map(|p| (p.id.as_str(), p)).collect();
    let nodes = metadata.resolve.as_ref().map_or(&[][..], |resolve| &resolve.nodes);
    let edges: HashMap<&str, &[String]> =
        nodes.iter().map(|n| (n.id.as_str(), &n.dependencies[..])).collect();
    let (mut seen, mut open) = (BTreeSet::new(), vec![root]);
    while let Some(id) = open.pop() {
        let local = packages.get(id).is_some_and(|package| package.source.is_none());
        if local && seen.insert(id) {
            open.extend(edges.get(id).copied().unwrap_or_default().iter().map(String::as_str));
        }
    }
    let folder = |id: &str| packages.get(id)?.manifest_path.parent().map(Path::to_path_buf);
    seen.into_iter().filter_map(folder).collect()
}
