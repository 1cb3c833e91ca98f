//! Plugins in Go, by go: static programs, so that any platform can be compiled for on any.

use std::path::{Path, PathBuf};

use km_package::failure::Failure;
use km_package::manifest::Target;

use super::tool::Tool;
use super::{Profile, named_target, read};
use crate::environment::Environment;
use crate::source::GoModule;

/// go for one target.
#[derive(Debug, Clone)]
pub struct GoBuild {
    /// What it compiles for.
    pub target: Target,
    /// The compiler and its version.
    pub toolchain: String,
    profile: Profile,
    /// Compiled programs are there until they are read.
    folder: PathBuf,
}

impl GoBuild {
    /// Finds the compiler that the module asks for.
    ///
    /// # Errors
    /// When there is none, or packages are not made for its target.
    pub fn find(
        source: &GoModule,
        target: Option<String>,
        profile: Profile,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let triple = target.unwrap_or_else(|| format!("{}-unknown-linux", std::env::consts::ARCH));
        let version = go(&source.folder).args(["env", "GOVERSION"]).output()?;
        let version = version.trim();
        let base = environment.cargo_target_dir.clone().unwrap_or_else(|| PathBuf::from("target"));
        Ok(Self {
            target: named_target(triple)?,
            toolchain: format!("go {}", version.strip_prefix("go").unwrap_or(version)),
            profile,
            folder: environment.current_dir.join(base).join("km-pack/go"),
        })
    }

    /// Compiles the program in the module's folder and gives its bytes. go's own messages go to stderr.
    ///
    /// # Errors
    /// When it does not compile.
    pub fn compile(&self, source: &GoModule) -> Result<Vec<u8>, Failure> {
        let failed = |e| Failure::file("write", &self.folder, &e);
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        // Of its own: two builds of one plugin do not read each other's halves.
        let folder = tempfile::tempdir_in(&self.folder).map_err(failed)?;
        let program = folder.path().join("program");
        // The build id depends on paths of this machine; symbols and debug information are for developers.
        let linker = match self.profile {
            Profile::Release => "-s -w -buildid=",
            Profile::Debug => "-buildid=",
        };
        let (system, architecture) = self.target.platform.as_str().split_once('-').unwrap_or_default();
        go(&source.folder)
            .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", linker, "-o"])
            .args([program.as_os_str(), ".".as_ref()])
            .env("CGO_ENABLED", "0".to_owned())
            .env("GOOS", system.to_owned())
            .env("GOARCH", architecture.to_owned())
            .output()?;
        read(&program)
    }
}

/// `go mod edit -json` in a folder: what its `go.mod` says, without asking anybody.
///
/// # Errors
/// When go is missing or refuses.
pub fn go_mod(folder: &Path) -> Result<String, Failure> {
    go(folder).args(["mod", "edit", "-json"]).output()
}

/// A workspace file would add modules that `go.mod` and the digest of the source do not name.
fn go(folder: &Path) -> Tool {
    Tool::new("go", folder).env("GOWORK", "off".to_owned())
}
