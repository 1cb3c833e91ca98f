//! `config.toml`: read whole, written key by key, so that comments and keys of other versions stay.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
use km_package::failure::{Failure, Kind};
use km_package::name::CustomerId;
use serde::{Deserialize, Deserializer};
use toml_edit::{DocumentMut, value};
use zeroize::Zeroizing;

use crate::api::Endpoint;
use crate::environment::Secret;
use crate::paths::{self, Home};
use crate::store::FolderLock;

/// How often a plugin's access is renewed.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// What it may be set to: a revoked key must be noticed, and a server must not be flooded.
const REFRESH_INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(10 * 60);
/// How long a download may be too slow.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// What it may be set to.
const STALL_TIMEOUTS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(5 * 60);

/// What is configured. Keys of other versions of `km` are left alone.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Config {
    /// The customer that this installation belongs to.
    #[serde(default)]
    pub(crate) customer: Option<CustomerId>,
    #[serde(default)]
    api_key: Option<Text>,
    /// The API's base URL.
    #[serde(default)]
    pub(crate) api_endpoint: Option<String>,
    /// A PEM file of certificates that the API's own is checked with, besides the system's.
    #[serde(default)]
    pub(crate) api_certificates: Option<PathBuf>,
    /// How often a plugin's access is renewed, as `5m`.
    #[serde(default, deserialize_with = "refresh_interval")]
    refresh_interval: Option<Duration>,
    /// Base URLs of published stores on any file server.
    #[serde(default, deserialize_with = "mirrors")]
    pub(crate) mirrors: Vec<Endpoint>,
    /// How long a download may be too slow, as `10s`.
    #[serde(default, deserialize_with = "stall_timeout")]
    stall_timeout: Option<Duration>,
}

/// A text that is a secret.
#[derive(Debug, Clone)]
struct Text(Secret);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        Ok(Self(Secret(text)))
    }
}

fn refresh_interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer, &REFRESH_INTERVALS, "refresh_interval must be between 100ms and 10m").map(Some)
}

fn stall_timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer, &STALL_TIMEOUTS, "stall_timeout must be between 100ms and 5m").map(Some)
}

fn duration<'de, D: Deserializer<'de>>(
    deserializer: D,
    range: &std::ops::RangeInclusive<Duration>,
    otherwise: &str,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let duration: SignedDuration = text
        .parse()
        .map_err(|_| serde::de::Error::custom(format!("{text:?} is no time, such as 5m or 30s")))?;
    let duration = Duration::try_from(duration).ok().filter(|duration| range.contains(duration));
    duration.ok_or_else(|| serde::de::Error::custom(otherwise))
}

fn mirrors<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Endpoint>, D::Error> {
    let read = |(at, text): (usize, String)| {
        // The text is not repeated: it may have a password in it.
        text.parse().map_err(|why| serde::de::Error::custom(format!("number {} of mirrors: {why}", at + 1)))
    };
    Vec::<String>::deserialize(deserializer)?.into_iter().enumerate().map(read).collect()
}

impl Config {
    /// Reads it; a missing file configures nothing.
    pub(crate) fn load(home: &Home) -> Result<Self, Failure> {
        let path = home.config_file();
        let Some(text) = read(home)? else { return Ok(Self::default()) };
        let config: Self = toml::from_str(&text).map_err(|e: toml::de::Error| {
            // Line and reason alone: the rest quotes the file, which holds a key.
            let line = e.span().map_or(1, |span| text[..span.start].lines().count().max(1));
            let reason = without_quotes(e.message());
            Failure::new(Kind::Failed, format_args!("{}, line {line}: {reason}", path.display()))
                .help("mend the file, or move it away")
        })?;
        if config.api_key.is_some() && !is_private(&path) {
            tracing::warn!("{0} holds an API key that others can read: chmod 600 {0}", path.display());
        }
        Ok(config)
    }

    pub(crate) fn api_key(&self) -> Option<&Secret> {
        self.api_key.as_ref().map(|text| &text.0)
    }

    /// How often a plugin's access is renewed.
    pub(crate) fn refresh_interval(&self) -> Duration {
        self.refresh_interval.unwrap_or(REFRESH_INTERVAL)
    }

    /// How long a download may be too slow.
    pub(crate) fn stall_timeout(&self) -> Duration {
        self.stall_timeout.unwrap_or(STALL_TIMEOUT)
    }
}

/// What `km init` and `km auth` write. What is not named stays as it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConfigChange {
    pub(crate) customer: Change<String>,
    pub(crate) api_key: Change<Secret>,
    pub(crate) api_endpoint: Change<String>,
    pub(crate) api_certificates: Change<String>,
}

/// What becomes of one key.
#[derive(Debug, Clone, Default)]
pub(crate) enum Change<T> {
    #[default]
    Keep,
    Remove,
    Set(T),
}

impl ConfigChange {
    /// Writes the file, readable by its owner alone. False if nothing changed.
    pub(crate) fn write(self, home: &Home) -> Result<bool, Failure> {
        let path = home.config_file();
        // A link is followed: what lies behind it is the file.
        let path = std::fs::canonicalize(&path).unwrap_or(path);
        let folder = path.parent().unwrap_or(home.root());
        paths::create_private(folder).map_err(|e| Failure::file("create", folder, &e))?;
        let _lock = FolderLock::take(folder)?;
        let before = read(home)?;
        let mut document: DocumentMut =
            before.as_deref().map(String::as_str).unwrap_or_default().parse().map_err(
                |e: toml_edit::TomlError| {
                    Failure::new(Kind::Failed, format_args!("{}: {}", path.display(), e.message()))
                        .help("mend the file, or move it away")
                },
            )?;
        apply(&mut document, "customer", self.customer);
        apply(&mut document, "api_key", self.api_key.map(|secret| secret.0.as_str().to_owned()));
        apply(&mut document, "api_endpoint", self.api_endpoint);
        apply(&mut document, "api_certificates", self.api_certificates);
        let after = Zeroizing::new(document.to_string());
        if before.as_deref() == Some(&*after) && is_private(&path) {
            return Ok(false);
        }
        paths::replace_file(&path, after.as_bytes(), 0o600).map_err(|e| Failure::file("write", &path, &e))?;
        Ok(true)
    }
}

impl<T> Change<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Change<U> {
        match self {
            Self::Keep => Change::Keep,
            Self::Remove => Change::Remove,
            Self::Set(value) => Change::Set(change(value)),
        }
    }
}

fn apply(document: &mut DocumentMut, key: &str, change: Change<String>) {
    match change {
        Change::Keep => {}
        Change::Remove => drop(document.remove(key)),
        Change::Set(text) => document[key] = value(text),
    }
}

fn read(home: &Home) -> Result<Option<Zeroizing<String>>, Failure> {
    let path = home.config_file();
    match paths::read_own_text(&path) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::file("read", &path, &e)),
    }
}

/// A message without what it quotes.
fn without_quotes(message: &str) -> String {
    let message = message.replace("`\"`", "a quotation mark");
    let pieces = message.split(['`', '"']).enumerate();
    pieces.map(|(at, piece)| if at % 2 == 0 { piece } else { "…" }).collect()
}

/// Whether only its owner can read a file.
pub(crate) fn is_private(path: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_base_urls_and_the_stall_timeout_has_its_bounds() {
        let read = |text: &str| toml::from_str::<Config>(text);
        let config =
            read("mirrors = ['https://a.example/store/', 'http://127.0.0.1:1']\nstall_timeout = '250ms'")
                .unwrap();
        let mirrors: Vec<String> = config.mirrors.iter().map(ToString::to_string).collect();
        assert_eq!(mirrors, ["https://a.example/store", "http://127.0.0.1:1"]);
        assert_eq!(config.stall_timeout(), Duration::from_millis(250));
        assert_eq!(read("").unwrap().stall_timeout(), STALL_TIMEOUT);
        for bad in
            ["http://a.example", "https://user:password@a.example", "https://a.example/?x=1", "a.example"]
        {
            let error = read(&format!("mirrors = ['https://a.example', '{bad}']")).unwrap_err();
            assert!(error.message().contains("number 2 of mirrors"), "{error}");
            assert!(!error.message().contains("password@"), "{error}");
        }
        for bad in ["99ms", "301s", "soon", ""] {
            assert!(read(&format!("stall_timeout = '{bad}'")).is_err(), "{bad}");
        }
    }
}
