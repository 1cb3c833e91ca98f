//! The environment: the only module that reads it, each variable documented once.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use km_cli::Settings;

use crate::store::CloudSettings;

/// `KM_PACK_CONFORMANCE_HOST`: set by `km-pack test` for the host that it starts to kill it; the
/// plugin's path.
pub(crate) const CONFORMANCE_HOST: &str = "KM_PACK_CONFORMANCE_HOST";

/// `KM_PACK_KEEPER`: set by `km-pack automate` for the process that keeps a scenario's shell; the mark
/// that this one's output ends with.
pub(crate) const KEEPER: &str = "KM_PACK_KEEPER";

/// Where tools find what the user has: `(variable, its place in the home folder)`. The commands of
/// scenarios have homes of their own, and should download nothing twice.
const CACHES: [(&str, &str); 14] = [
    ("CARGO_HOME", ".cargo"),
    ("RUSTUP_HOME", ".rustup"),
    ("GOPATH", "go"),
    ("GOMODCACHE", "go/pkg/mod"),
    ("GOCACHE", ".cache/go-build"),
    ("GOENV", ".config/go/env"),
    ("npm_config_cache", ".npm"),
    ("npm_config_userconfig", ".npmrc"),
    ("PIP_CACHE_DIR", ".cache/pip"),
    ("PIP_CONFIG_FILE", ".config/pip/pip.conf"),
    ("UV_CACHE_DIR", ".cache/uv"),
    ("UV_CONFIG_FILE", ".config/uv/uv.toml"),
    ("PYENV_ROOT", ".pyenv"),
    ("NVM_DIR", ".nvm"),
];

/// How tools reach the network, and with which toolchain: handed to scenarios as they are.
const PASSED_ON: [&str; 18] = [
    "RUSTUP_TOOLCHAIN",
    "CARGO_INCREMENTAL",
    "CARGO_TARGET_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "GOPROXY",
    "GOFLAGS",
];

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
    /// `PATH`.
    pub path: OsString,
    /// `CI`: what is missing for a check is a failure there.
    pub ci: bool,
    /// `TMPDIR`, or `/tmp`.
    pub temporary: PathBuf,
    /// What the commands of scenarios get of it.
    pub for_scenarios: Vec<(OsString, OsString)>,
    /// The file of this program.
    pub executable: PathBuf,
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
            path: env::var_os("PATH").unwrap_or_default(),
            ci: env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false"),
            temporary: env::temp_dir(),
            for_scenarios: for_scenarios(path("HOME").as_deref()),
            executable: env::current_exe().unwrap_or_default(),
        }
    }
}

fn for_scenarios(home: Option<&Path>) -> Vec<(OsString, OsString)> {
    let cache = |(name, place): (&str, &str)| {
        let there = || home.map(|home| home.join(place)).filter(|path| path.exists());
        Some((name.into(), env::var_os(name).or_else(|| there().map(PathBuf::into_os_string))?))
    };
    let passed_on = |name: &str| Some((name.into(), env::var_os(name)?));
    CACHES.into_iter().filter_map(cache).chain(PASSED_ON.into_iter().filter_map(passed_on)).collect()
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

/// The mark and the script of the shell to keep, if this process is a keeper of `km-pack automate`.
pub(crate) fn keeper() -> Option<(String, OsString)> {
    Some((env::var(KEEPER).ok()?, env::args_os().nth(1)?))
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
