//! Compiling: the only module that starts processes.

mod cargo;
mod sections;
mod tool;

use std::path::Path;

use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use km_package::manifest::Target;
use km_package::platform::Platform;
use object::{Architecture, BinaryFormat, Object as _};

use crate::environment::Environment;
use crate::source::{About, SourceTree};
pub use cargo::{CargoBuild, cargo_metadata};
pub use sections::Sections;
use tool::Tool;

/// How a plugin is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Optimized, for customers.
    Release,
    /// Fast to compile, for trying things.
    Debug,
}

/// The compiler of a source for one target.
#[derive(Debug, Clone)]
pub enum Compiler {
    /// cargo.
    Cargo(CargoBuild),
    /// None: the binary is there already.
    Prebuilt(Target),
}

/// A compiled plugin, with its reserved sections still empty: one for all customers and keys.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// What the plugin says about itself.
    pub about: About,
    /// For what it was compiled.
    pub target: Target,
    /// By what, where that is known.
    pub toolchain: Option<String>,
    /// Digest of its source, where that is here.
    pub source_sha256: Option<Digest>,
    /// The executable's bytes.
    pub binary: Vec<u8>,
    /// Where its reserved sections lie; none in a binary that was not made with our SDK.
    pub sections: Option<Sections>,
}

impl Compiler {
    /// Finds the compiler of a source for a target; without one, for this machine.
    ///
    /// # Errors
    /// When there is none, or packages are not made for its target.
    pub fn find(
        source: &SourceTree,
        target: Option<String>,
        profile: Profile,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        match source {
            SourceTree::Cargo(package) => {
                CargoBuild::find(package, target, profile, environment).map(Self::Cargo)
            }
            SourceTree::Binary(binary) => {
                let bytes = read(&binary.path)?;
                target_of(&bytes, target).map(Self::Prebuilt).map_err(|e| e.context(binary.path.display()))
            }
        }
    }

    /// What it compiles for.
    pub fn target(&self) -> &Target {
        match self {
            Self::Cargo(build) => &build.target,
            Self::Prebuilt(target) => target,
        }
    }

    /// Compiles the plugin. The compiler's own progress goes to stderr.
    ///
    /// # Errors
    /// When it does not compile, or the binary cannot be stamped.
    pub fn compile(&self, source: &SourceTree) -> Result<Compiled, Failure> {
        let (path, toolchain) = match (self, source) {
            (Self::Cargo(build), SourceTree::Cargo(package)) => {
                (build.compile(package)?, Some(build.toolchain.clone()))
            }
            (Self::Prebuilt(_), SourceTree::Binary(binary)) => (binary.path.clone(), None),
            _ => return Err(Failure::new(Kind::Failed, "this compiler is for another kind of source")),
        };
        let binary = read(&path)?;
        let sections = Sections::find(&binary).map_err(|e| e.context(path.display()))?;
        Ok(Compiled {
            about: source.about().clone(),
            target: self.target().clone(),
            toolchain,
            source_sha256: source.digest()?,
            binary,
            sections,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|e| Failure::file("read", path, &e))
}

/// What an executable runs on, by its own header, and the name that was given for it.
fn target_of(binary: &[u8], triple: Option<String>) -> Result<Target, Failure> {
    let refuse = |what: String| Failure::new(Kind::Failed, what);
    let file = object::File::parse(binary).map_err(|e| refuse(format!("this is not an executable: {e}")))?;
    let own = match (file.format(), file.architecture()) {
        (BinaryFormat::Elf, Architecture::X86_64) => "x86_64-unknown-linux",
        (BinaryFormat::Elf, Architecture::Aarch64) => "aarch64-unknown-linux",
        (format, architecture) => {
            return Err(refuse(format!("packages are not made for {format:?} on {architecture:?}")));
        }
    };
    let platform = |triple: &str| Platform::from_triple(triple).map_err(|e| Failure::new(Kind::Usage, e));
    let found = platform(own)?;
    let triple = triple.unwrap_or_else(|| own.to_owned());
    let asked = platform(&triple)?;
    if asked != found {
        return Err(refuse(format!("this executable is for {found}, and --target says {asked}")));
    }
    Ok(Target { platform: found, triple })
}

/// The time of the last commit in Unix seconds; none outside a repository.
pub fn commit_time(folder: &Path) -> Option<u64> {
    Tool::new("git", folder).args(["log", "-1", "--format=%ct"]).quiet().output().ok()?.trim().parse().ok()
}
