//! Compiling: the only module that starts processes.

mod cargo;
mod go;
mod sections;
mod tool;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use km_package::manifest::Target;
use km_package::platform::Platform;
use object::{Architecture, BinaryFormat, Object as _, ObjectKind};

use crate::environment::Environment;
use crate::source::{About, SourceTree};
pub use cargo::{CargoBuild, cargo_metadata};
pub use go::{GoBuild, go_mod};
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
    /// go.
    Go(GoBuild),
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
    /// Where its reserved sections lie; none in a binary that has none.
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
            SourceTree::Go(module) => GoBuild::find(module, target, profile, environment).map(Self::Go),
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
            Self::Go(build) => &build.target,
            Self::Prebuilt(target) => target,
        }
    }

    /// Compiles the plugin. The compiler's own progress goes to stderr.
    ///
    /// # Errors
    /// When it does not compile, or the binary cannot be stamped.
    pub fn compile(&self, source: &SourceTree) -> Result<Compiled, Failure> {
        let (binary, place, toolchain) = match (self, source) {
            (Self::Cargo(build), SourceTree::Cargo(package)) => {
                let path = build.compile(package)?;
                (read(&path)?, path, Some(build.toolchain.clone()))
            }
            (Self::Go(build), SourceTree::Go(module)) => {
                (build.compile(module)?, module.folder.clone(), Some(build.toolchain.clone()))
            }
            (Self::Prebuilt(_), SourceTree::Binary(binary)) => {
                (read(&binary.path)?, binary.path.clone(), None)
            }
            _ => return Err(Failure::new(Kind::Failed, "this compiler is for another kind of source")),
        };
        let (target, sections) = self.examine(&binary).map_err(|e| e.context(place.display()))?;
        Ok(Compiled {
            about: source.about().clone(),
            target,
            toolchain,
            source_sha256: source.digest()?,
            binary,
            sections,
        })
    }

    /// What was really made: whatever a compiler was told, and whatever has become of a file since it was
    /// looked at.
    fn examine(&self, binary: &[u8]) -> Result<(Target, Option<Sections>), Failure> {
        Ok((target_of(binary, Some(self.target().triple.clone()))?, Sections::find(binary)?))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|e| Failure::file("read", path, &e))
}

/// A target by its triple, if packages are made for it.
fn named_target(triple: String) -> Result<Target, Failure> {
    let platform = Platform::from_triple(&triple).map_err(|e| Failure::new(Kind::Usage, e))?;
    // Elsewhere an executable carries a signature of the system's, which no byte may change after.
    if !platform.as_str().starts_with("linux-") {
        return Err(Failure::new(Kind::Usage, format_args!("packages are not made for {platform} yet")));
    }
    Ok(Target { platform, triple })
}

/// What an executable runs on, by its own header, and the name that was given for it.
fn target_of(binary: &[u8], triple: Option<String>) -> Result<Target, Failure> {
    let refuse =
        |what: String| Failure::new(Kind::Failed, what).help("a package holds an executable for Linux (ELF)");
    if binary.starts_with(b"#!") {
        return Err(refuse("this is a script, not an executable".to_owned()));
    }
    let file = object::File::parse(binary).map_err(|e| refuse(format!("this is not an executable: {e}")))?;
    let own = match (file.format(), file.architecture()) {
        (BinaryFormat::Elf, Architecture::X86_64) => "x86_64-unknown-linux",
        (BinaryFormat::Elf, Architecture::Aarch64) => "aarch64-unknown-linux",
        (format, architecture) => {
            return Err(refuse(format!("packages are not made for {format:?} on {architecture:?}")));
        }
    };
    // Executables that lie anywhere in memory look like libraries, but for the place where they start.
    let starts = matches!(file.kind(), ObjectKind::Executable | ObjectKind::Dynamic) && file.entry() != 0;
    if !starts {
        return Err(refuse("this is a library or a piece of a program, not an executable".to_owned()));
    }
    let found = named_target(own.to_owned())?;
    let asked = triple.map_or_else(|| Ok(found.clone()), named_target)?;
    if asked.platform != found.platform {
        let (found, asked) = (found.platform, asked.platform);
        return Err(refuse(format!("this executable is for {found}, and was to be for {asked}")));
    }
    Ok(asked)
}

/// The time of the last commit in Unix seconds; none outside a repository.
pub fn commit_time(folder: &Path) -> Option<u64> {
    Tool::new("git", folder).args(["log", "-1", "--format=%ct"]).quiet().output().ok()?.trim().parse().ok()
}

/// Would make git speak of another repository, as it does within a hook.
const GIT_ELSEWHERE: [&str; 7] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
];

/// The files that git keeps in a folder, from there; none outside a repository.
///
/// # Errors
/// When there is a repository, and git cannot say.
pub fn tracked_files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !folder.ancestors().any(|above| above.join(".git").symlink_metadata().is_ok()) {
        return Ok(Vec::new());
    }
    let git = |arguments: &[&str]| Tool::new("git", folder).without(&GIT_ELSEWHERE).args(arguments);
    let listed = git(&["ls-files", "-z"]).bytes().map_err(|failure| {
        failure.context(format_args!("cannot learn which files git keeps in {}", folder.display()))
    })?;
    // An index that is gone is no error to git, and knows no file.
    let listed = match listed.is_empty() {
        true => git(&["ls-tree", "-r", "-z", "--name-only", "HEAD"]).quiet().bytes().unwrap_or_default(),
        false => listed,
    };
    let paths = listed.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    Ok(paths.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect())
}
