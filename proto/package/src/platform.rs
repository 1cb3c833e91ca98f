//! Platforms, as the API names them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An operating system and architecture as `GOOS-GOARCH`: `linux-amd64`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform(String);

/// A text that is not a platform, or a target triple that has none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform that packages are made for (as linux-amd64)")]
pub struct PlatformError(String);

/// GOOS and Rust's name for it, which is also the third part of a target triple.
const SYSTEMS: [(&str, &str); 3] = [("linux", "linux"), ("darwin", "macos"), ("windows", "windows")];
/// GOARCH and Rust's name for it, which is also the first part of a target triple.
const ARCHITECTURES: [(&str, &str); 2] = [("amd64", "x86_64"), ("arm64", "aarch64")];

impl Platform {
    /// The platform that this program was compiled for.
    ///
    /// # Errors
    /// When it was compiled for something that packages are not made for.
    pub fn current() -> Result<Self, PlatformError> {
        Self::from_rust(std::env::consts::OS, std::env::consts::ARCH)
    }

    /// The platform of a Rust target triple, such as `x86_64-unknown-linux-gnu`.
    ///
    /// # Errors
    /// When packages are not made for it.
    pub fn from_triple(triple: &str) -> Result<Self, PlatformError> {
        let mut parts = triple.split('-');
        let architecture = parts.next().unwrap_or_default();
        let system = match parts.nth(1) {
            Some("darwin") => "macos",
            other => other.unwrap_or_default(),
        };
        Self::from_rust(system, architecture).map_err(|_| PlatformError(triple.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn from_rust(system: &str, architecture: &str) -> Result<Self, PlatformError> {
        let go = |table: &[(&'static str, &str)], rust: &str| {
            table.iter().find(|(_, name)| *name == rust).map(|(go, _)| *go)
        };
        match (go(&SYSTEMS, system), go(&ARCHITECTURES, architecture)) {
            (Some(os), Some(arch)) => Ok(Self(format!("{os}-{arch}"))),
            _ => Err(PlatformError(format!("{system}-{architecture}"))),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let word = |part: &str| {
            (1..=16).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        match text.split_once('-') {
            Some((os, arch)) if word(os) && word(arch) => Ok(Self(text.to_owned())),
            _ => Err(PlatformError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Platform {
    type Error = PlatformError;

    fn try_from(text: String) -> Result<Self, PlatformError> {
        text.parse()
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> String {
        platform.0
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triples_become_platforms() {
        for (triple, platform) in [
            ("x86_64-unknown-linux-gnu", "linux-amd64"),
            ("aarch64-unknown-linux-musl", "linux-arm64"),
            ("aarch64-apple-darwin", "darwin-arm64"),
            ("x86_64-pc-windows-msvc", "windows-amd64"),
        ] {
            assert_eq!(Platform::from_triple(triple).unwrap().as_str(), platform);
        }
        assert!(Platform::from_triple("riscv64gc-unknown-linux-gnu").is_err());
        assert!(Platform::from_triple("x86_64").is_err());
    }

    #[test]
    fn a_platform_is_two_words() {
        assert!("plan9-riscv64".parse::<Platform>().is_ok());
        for bad in ["linux", "linux/amd64", "Linux-amd64", "-", "a-b-c"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
