//! New plugin projects: made of the model plugins and of the SDK, both compiled into this program, so that
//! they build without this repository.

mod embedded;
mod go;
mod place;
mod rust;
mod sdk;
mod text;
mod workspace;
mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;

use km_package::failure::{Failure, Kind};
use km_package::name::PluginName;
use km_package::tier::Tier;

pub use place::Place;
pub use sdk::{Sdk, Updated};
pub use write::create;

/// Files of a project: paths in its folder, and what is in them.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// What a new plugin is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Rust, on the SDK.
    Rust,
    /// Go, on HashiCorp's go-plugin.
    Go,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The plugin's name.
    pub name: PluginName,
    /// The tier that a customer needs.
    pub tier: Tier,
    /// One line.
    pub description: String,
    /// In which language.
    pub language: Language,
}

impl Wanted {
    /// The files of the project.
    ///
    /// # Errors
    /// When the description is not one line.
    pub fn files(&self, place: &Place) -> Result<Files, Failure> {
        if self.description.is_empty() || self.description.chars().any(char::is_control) {
            return Err(Failure::new(Kind::Usage, "--description takes one line of text"));
        }
        Ok(match self.language {
            Language::Rust => rust::files(self, place),
            Language::Go => go::files(self),
        })
    }
}

#[cfg(test)]
mod tests;
