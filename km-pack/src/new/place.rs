//! Where a project goes.

use std::fs;
use std::path::{Path, PathBuf};

use km_package::failure::{Failure, Kind};

use super::workspace::Workspace;
use super::{Language, Wanted};

/// Where a project goes, and so what it has to bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Among the plugins of the checkout: a member of its workspace.
    Member {
        /// Its folder.
        folder: PathBuf,
        /// The checkout.
        root: PathBuf,
    },
    /// Anywhere: it brings all that it needs.
    Alone {
        /// Its folder.
        folder: PathBuf,
    },
}

impl Place {
    /// Decides where: at `path`, else for Rust among the plugins of the checkout around the current
    /// folder, else in the current folder.
    ///
    /// # Errors
    /// When it cannot be there, or the name is taken in the checkout.
    pub fn find(wanted: &Wanted, path: Option<&Path>, current_dir: &Path) -> Result<Self, Failure> {
        let around = Workspace::around(current_dir).filter(|_| wanted.language == Language::Rust);
        let folder = match (path, around) {
            (Some(path), _) => current_dir.join(path),
            (None, Some(workspace)) => workspace.plugins().join(wanted.name.as_str()),
            (None, None) => current_dir.join(wanted.name.as_str()),
        };
        let (Some(parent), Some(own)) = (folder.parent(), folder.file_name()) else {
            let message = format!("{} cannot be the folder of a new project", folder.display());
            return Err(
                Failure::new(Kind::Usage, message).help("--path takes a folder that is not there yet")
            );
        };
        let parent = fs::canonicalize(parent).map_err(|e| {
            Failure::file("find", parent, &e).help("a project is made in a folder that is there")
        })?;
        let folder = parent.join(own);
        match Workspace::around(&parent).filter(|workspace| workspace.plugins() == parent) {
            None => Ok(Self::Alone { folder }),
            Some(workspace) => Self::member(wanted, folder, &workspace),
        }
    }

    fn member(wanted: &Wanted, folder: PathBuf, workspace: &Workspace) -> Result<Self, Failure> {
        let plugins = workspace.plugins();
        if wanted.language == Language::Go {
            let message = format!("cargo takes every folder in {} for one in Rust", plugins.display());
            return Err(Failure::new(Kind::Usage, message).help("give another place for it with --path"));
        }
        let package = wanted.name.executable();
        if let Some(other) = workspace.package(package.as_str()) {
            let message = format!("{package} is already the package in {}", other.display());
            return Err(Failure::new(Kind::Conflict, message).help("take another name"));
        }
        Ok(Self::Member { folder, root: workspace.root().to_owned() })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        match self {
            Self::Member { folder, .. } | Self::Alone { folder } => folder,
        }
    }

    /// A folder on the same file system that nobody looks into while it is made: cargo would take one
    /// among the plugins for a package.
    pub(super) fn aside(&self) -> &Path {
        match self {
            Self::Member { root, .. } => root,
            Self::Alone { folder } => folder.parent().unwrap_or(Path::new(".")),
        }
    }
}
