//! A plugin that was built elsewhere, in whatever language.

use std::path::PathBuf;

use km_package::failure::{Failure, Kind};

use super::About;
use crate::environment::Environment;

/// An executable file, and what was said about it on the command line.
#[derive(Debug, Clone)]
pub struct PrebuiltBinary {
    /// What was said.
    pub about: About,
    /// Where it lies.
    pub path: PathBuf,
}

impl PrebuiltBinary {
    /// Finds the file.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(path: &std::path::Path, about: About, environment: &Environment) -> Result<Self, Failure> {
        let path = environment.current_dir.join(path);
        let metadata = std::fs::metadata(&path).map_err(|e| Failure::file("read", &path, &e))?;
        if !metadata.is_file() {
            return Err(Failure::new(Kind::NotFound, format_args!("{} is not a file", path.display())));
        }
        Ok(Self { about, path })
    }
}
