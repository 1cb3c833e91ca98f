//! The environment: the only module that reads it, each variable documented once.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use km_cli::Settings;

/// Variables that are `km`'s own and hold secrets: no child gets them.
pub(crate) const SECRETS: [&str; 3] = ["KM_API_KEY", "KILOMETERS_API_KEY", "KM_SIGNING_KEY"];

/// Everything that `km` takes from its environment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    /// `KM_HOME`: replaces `~/.km`.
    pub(crate) km_home: Option<PathBuf>,
    /// `HOME`: where `.km` is otherwise.
    pub(crate) home: Option<PathBuf>,
    /// `KM_DEBUG`: `true` for more logs; plugins are told.
    pub(crate) debug: bool,
    /// The folder for short-lived files.
    pub(crate) temporary: PathBuf,
}

impl Environment {
    /// Reads it.
    pub(crate) fn read() -> Self {
        let path = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self { km_home: path("KM_HOME"), home: path("HOME"), debug: debug(), temporary: env::temp_dir() }
    }
}

fn debug() -> bool {
    env::var("KM_DEBUG").is_ok_and(|value| value == "true" || value == "1")
}

/// `KM_DEBUG` and `KM_LOG`.
pub(crate) fn log_settings() -> Settings {
    Settings { debug: debug(), log: env::var("KM_LOG").ok() }
}

/// The command line.
pub(crate) fn arguments() -> impl Iterator<Item = OsString> {
    env::args_os()
}
