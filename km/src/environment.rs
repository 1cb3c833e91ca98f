//! The environment: the only module that reads it, each variable documented once.

use std::env;
use std::ffi::{CString, OsString};
use std::fmt;
use std::path::PathBuf;

use km_cli::Settings;
use zeroize::Zeroizing;

use crate::monitor::Remarks;

/// Variables that hold secrets of `km` or `km-pack`: no child gets them.
pub(crate) const SECRETS: [&str; 4] = ["KM_API_KEY", "KILOMETERS_API_KEY", "KM_SIGNING_KEY", "KM_DATABASE"];

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
    /// `KM_API_KEY`, or `KILOMETERS_API_KEY`, its older name.
    pub(crate) api_key: Option<Variable<Secret>>,
    /// `KM_API_ENDPOINT`, or `KILOMETERS_API_ENDPOINT` or `KM_API_URL`, its names in other versions.
    pub(crate) api_endpoint: Option<Variable<String>>,
    /// `HTTPS_PROXY` (or `https_proxy`, `ALL_PROXY`, `all_proxy`) and `NO_PROXY` (or `no_proxy`): the
    /// way to the API.
    pub(crate) proxy: Proxy,
    /// Where `km init --auto-detect` looks for `.env`.
    pub(crate) current_dir: PathBuf,
}

/// A proxy, which may have a password in its URL.
#[derive(Clone, Default)]
pub(crate) struct Proxy {
    pub(crate) url: String,
    /// Hosts that are reached without it.
    pub(crate) except: String,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.url.is_empty() { "Proxy(none)" } else { "Proxy(…)" })
    }
}

/// A value, and the name of the variable that it stood in.
#[derive(Debug, Clone)]
pub(crate) struct Variable<T> {
    pub(crate) name: &'static str,
    pub(crate) value: T,
}

/// A text that is wiped when dropped, and not shown.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) Zeroizing<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Environment {
    /// Reads it, and takes the secrets out of it: neither children nor `/proc/<pid>/environ` (that of
    /// the forked guard included) show them. Once, before there are threads.
    pub(crate) fn read() -> Self {
        let path = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text = |name| {
            let value = env::var(name).ok().filter(|value| !value.is_empty())?;
            Some(Variable { name, value })
        };
        let either = |names: &[&'static str]| {
            names.iter().find_map(|name| text(name)).map(|variable| variable.value).unwrap_or_default()
        };
        let [ours, older, others @ ..] =
            SECRETS.map(|name| take_secret(name).map(|value| Variable { name, value }));
        drop(others);
        Self {
            km_home: path("KM_HOME"),
            home: path("HOME"),
            debug: debug(),
            temporary: env::temp_dir(),
            api_key: ours.or(older),
            api_endpoint: ["KM_API_ENDPOINT", "KILOMETERS_API_ENDPOINT", "KM_API_URL"]
                .into_iter()
                .find_map(text),
            proxy: Proxy {
                url: either(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
                except: either(&["NO_PROXY", "no_proxy"]),
            },
            current_dir: env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
        }
    }
}

/// The value of a variable, which is overwritten where it stood and removed.
fn take_secret(name: &str) -> Option<Secret> {
    let value = env::var_os(name)?;
    let place = CString::new(name).ok()?;
    // SAFETY: there is one thread; the pointer is to the value's bytes, of which there are as many as
    // `value` has, and nobody holds a reference to them.
    unsafe {
        let stored = libc::getenv(place.as_ptr());
        if !stored.is_null() {
            std::ptr::write_bytes(stored, b'*', value.len());
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "before there are threads: a secret that children must not get"
        )]
        env::remove_var(name);
    }
    // What is no UTF-8 is no key either, and is refused as one.
    let text = Zeroizing::new(value.to_string_lossy().into_owned());
    Some(Secret(text)).filter(|secret| !secret.0.is_empty())
}

fn debug() -> bool {
    env::var("KM_DEBUG").is_ok_and(|value| value == "true" || value == "1")
}

/// `KM_DEBUG` and `KM_LOG`.
pub(crate) fn log_settings() -> Settings {
    // A stderr that nobody reads must not hold up a session, and its log is no exception.
    Settings { debug: debug(), log: env::var("KM_LOG").ok(), log_to: Some(|line| Remarks.write(line)) }
}

/// The command line.
pub(crate) fn arguments() -> impl Iterator<Item = OsString> {
    env::args_os()
}
