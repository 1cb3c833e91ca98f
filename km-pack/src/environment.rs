//! The environment: the only module that reads it, each variable documented once.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use km_cli::Settings;

use crate::store::CloudSettings;

/// `KM_PACK_CONFORMANCE_HOST`: set by `km-pack test` for the host that it starts to kill it; the
/// plugin's path.
pub(crate) const CONFORMANCE_HOST: &str = "KM_PACK_CONFORMANCE_HOST";

/// Everything that `km-pack` takes from its environment.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `KM_SIGNING_KEY`: the signing key, as a path or as the PEM itself.
    pub signing_key: Option<String>,
    /// `SOURCE_DATE_EPOCH`: the time of the build in Unix seconds, for reproducible builds.
    pub source_date_epoch: Option<String>,
    /// `CARGO_TARGET_DIR`: plugins are compiled in its folder `km-pack`.
    pub cargo_target_dir: Option<PathBuf>,
    /// `CARGO_HOME`, or `~/.cargo`: kept out of compiled binaries.
    pub cargo_home: Option<PathBuf>,
    /// `CARGO_ENCODED_RUSTFLAGS` or `RUSTFLAGS`, as the former: passed on, with ours added.
    pub rust_flags: Option<String>,
    /// `KM_DATABASE`: where the customers are, when `--database` does not say it. It may hold a password,
    /// which then stands in no process list.
    pub database: Option<String>,
    /// `AWS_…`, `GOOGLE_…`, `AZURE_…`: credentials and endpoint of an object store.
    pub cloud: CloudSettings,
    /// The current folder, for relative paths and for finding the workspace.
    pub current_dir: PathBuf,
}

impl Environment {
    /// Reads it.
    pub fn read() -> Self {
        let path = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let flags = || Some(text("RUSTFLAGS")?.split_whitespace().collect::<Vec<_>>().join("\x1f"));
        Self {
            signing_key: text("KM_SIGNING_KEY"),
            source_date_epoch: text("SOURCE_DATE_EPOCH"),
            cargo_target_dir: path("CARGO_TARGET_DIR"),
            cargo_home: path("CARGO_HOME").or_else(|| Some(path("HOME")?.join(".cargo"))),
            rust_flags: text("CARGO_ENCODED_RUSTFLAGS").or_else(flags),
            database: text("KM_DATABASE"),
            cloud: CloudSettings::of(
                env::vars_os()
                    .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
            ),
            current_dir: env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
        }
    }
}

/// The names of all variables that are, or may be, secrets.
pub(crate) fn secrets() -> impl Iterator<Item = OsString> {
    let ours = ["KM_SIGNING_KEY", "KM_API_KEY", "KILOMETERS_API_KEY", "KM_DATABASE"].map(OsString::from);
    let names = env::vars_os().map(|(name, _)| name);
    ours.into_iter().chain(names.filter(|name| name.to_str().is_some_and(CloudSettings::is_one)))
}

/// The plugin to hold, if this process is the host that `km-pack test` kills.
pub(crate) fn conformance_host() -> Option<PathBuf> {
    env::var_os(CONFORMANCE_HOST).map(PathBuf::from)
}

/// `KM_DEBUG` and `KM_LOG`.
pub fn log_settings() -> Settings {
    Settings {
        debug: env::var("KM_DEBUG").is_ok_and(|value| value == "true" || value == "1"),
        log: env::var("KM_LOG").ok(),
        log_to: None,
    }
}

/// The command line.
pub fn arguments() -> impl Iterator<Item = OsString> {
    env::args_os()
}
