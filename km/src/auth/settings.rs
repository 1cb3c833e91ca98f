//! Which API key and which endpoint: flag, environment, `config.toml`, the older product's
//! `config.json`, default; and where they were found.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use km_api::api_key::ApiKey;
use km_package::failure::{Failure, Kind};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::api::{ApiClient, DEFAULT_ENDPOINT, Endpoint};
use crate::config::Config;
use crate::environment::{Environment, Proxy, Secret};
use crate::paths::{self, Home};

/// Where a setting was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// On the command line.
    Flag,
    /// In this variable of the environment.
    Environment(&'static str),
    /// In this file.
    File(PathBuf),
    /// Nowhere: what `km` takes then.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("the command line"),
            Self::Environment(name) => write!(f, "{name} in the environment"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A setting, and where it was found.
#[derive(Debug, Clone)]
pub(crate) struct Found<T> {
    pub(crate) value: T,
    pub(crate) source: Source,
}

/// What it takes to ask the API.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) key: Option<Found<ApiKey>>,
    pub(crate) endpoint: Found<Endpoint>,
    /// Certificates (PEM) that are trusted besides the system's.
    pub(crate) certificates: Vec<u8>,
    /// The way there.
    pub(crate) proxy: Proxy,
    /// How often access is renewed.
    pub(crate) refresh_interval: Duration,
}

/// Reads a key, as it was given somewhere.
pub(crate) fn parse_key(text: &str, source: &Source) -> Result<ApiKey, Failure> {
    text.parse().map_err(|e| {
        let kind = if matches!(source, Source::File(_)) { Kind::Failed } else { Kind::Usage };
        Failure::new(kind, format_args!("{source}: {e}"))
            .help("copy the key again, without what stands around it")
    })
}

/// Reads an endpoint, as it was given somewhere.
pub(crate) fn parse_endpoint(text: &str, source: &Source) -> Result<Endpoint, Failure> {
    text.parse().map_err(|e| {
        let kind = if matches!(source, Source::File(_)) { Kind::Failed } else { Kind::Usage };
        // The text is not repeated: it may be a key in the wrong place, or have a password in it.
        Failure::new(kind, format_args!("the API endpoint from {source}: {e}"))
    })
}

impl Settings {
    /// What holds where no flag says otherwise.
    pub(crate) fn load(environment: &Environment, home: &Home, config: &Config) -> Result<Self, Failure> {
        let older = older_config(home);
        let file = || Source::File(home.config_file());
        let key = environment
            .api_key
            .as_ref()
            .map(|variable| (variable.value.clone(), Source::Environment(variable.name)))
            .or_else(|| Some((config.api_key()?.clone(), file())))
            .or_else(|| {
                older.as_ref().and_then(|found| Some((found.api_key.clone()?, found.source.clone())))
            });
        let endpoint = environment
            .api_endpoint
            .as_ref()
            .map(|variable| (variable.value.clone(), Source::Environment(variable.name)))
            .or_else(|| Some((config.api_endpoint.clone()?, file())))
            .or_else(|| {
                older.as_ref().and_then(|found| Some((found.endpoint.clone()?, found.source.clone())))
            })
            .unwrap_or_else(|| (DEFAULT_ENDPOINT.to_owned(), Source::Default));
        let key = key.map(|(text, source)| parse_key(&text.0, &source).map(|value| Found { value, source }));
        Ok(Self {
            key: key.transpose()?,
            endpoint: Found { value: parse_endpoint(&endpoint.0, &endpoint.1)?, source: endpoint.1 },
            certificates: read_certificates(config.api_certificates.as_deref())?,
            proxy: environment.proxy.clone(),
            refresh_interval: config.refresh_interval(),
        })
    }

    /// Lets what a command was given take the place of what was found.
    pub(crate) fn with_flags(
        mut self,
        key: Option<ApiKey>,
        endpoint: Option<&str>,
        certificates: Option<&Path>,
    ) -> Result<Self, Failure> {
        if let Some(value) = key {
            self.key = Some(Found { value, source: Source::Flag });
        }
        if let Some(text) = endpoint {
            self.endpoint = Found { value: parse_endpoint(text, &Source::Flag)?, source: Source::Flag };
        }
        if certificates.is_some() {
            self.certificates = read_certificates(certificates)?;
        }
        Ok(self)
    }

    /// Asks the API, waiting so long for an answer.
    pub(crate) fn client(&self, deadline: Duration) -> Result<ApiClient, Failure> {
        let key = self.key.as_ref().map(|found| found.value.clone());
        ApiClient::new(self.endpoint.value.clone(), key, &self.certificates, &self.proxy, deadline)
    }
}

/// The certificates that are trusted besides the system's.
pub(crate) fn read_certificates(path: Option<&Path>) -> Result<Vec<u8>, Failure> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let pem = paths::read_own(path).map_err(|e| Failure::file("read the API's certificates", path, &e))?;
    if !pem.windows(11).any(|window| window == b"-----BEGIN ") {
        return Err(Failure::new(
            Kind::Failed,
            format_args!("{} holds no certificate in PEM", path.display()),
        ));
    }
    Ok(pem)
}

/// What a file of the older product says.
#[derive(Debug, Clone)]
pub(crate) struct Older {
    pub(crate) source: Source,
    pub(crate) api_key: Option<Secret>,
    pub(crate) endpoint: Option<String>,
}

/// Both spellings that were in use.
#[derive(Deserialize)]
struct OlderDocument {
    #[serde(alias = "apiKey")]
    api_key: Option<String>,
    #[serde(alias = "apiEndpoint", alias = "endpoint")]
    api_endpoint: Option<String>,
}

/// The older product's `config.json`. One that cannot be read says nothing.
fn older_config(home: &Home) -> Option<Older> {
    let path = home.older_config_file()?;
    let text = Zeroizing::new(paths::read_own_text(&path).ok()?);
    match serde_json::from_str::<OlderDocument>(&text) {
        Ok(OlderDocument { api_key, api_endpoint }) => Some(Older {
            source: Source::File(path),
            api_key: api_key.filter(|key| !key.is_empty()).map(|key| Secret(Zeroizing::new(key))),
            endpoint: api_endpoint.filter(|endpoint| !endpoint.is_empty()),
        }),
        Err(_) => {
            tracing::debug!("{} is not what the older product writes", path.display());
            None
        }
    }
}

/// Everything that the older product may have left, in the order in which it counts: its variables,
/// `config.json`, `.env` in the current folder.
pub(crate) fn detect(environment: &Environment, home: &Home) -> Vec<Older> {
    let mut found = Vec::new();
    if let Some(variable) = &environment.api_key {
        let source = Source::Environment(variable.name);
        found.push(Older { source, api_key: Some(variable.value.clone()), endpoint: None });
    }
    if let Some(variable) = &environment.api_endpoint {
        let source = Source::Environment(variable.name);
        found.push(Older { source, api_key: None, endpoint: Some(variable.value.clone()) });
    }
    found.extend(older_config(home));
    found.extend(env_file(&environment.current_dir.join(".env")));
    found.retain(|older| older.api_key.is_some() || older.endpoint.is_some());
    found
}

/// `NAME=value` lines, as shells and dotenv read them.
fn env_file(path: &Path) -> Option<Older> {
    let text = Zeroizing::new(paths::read_own_text(path).ok()?);
    let value = |names: [&str; 2]| {
        names.into_iter().find_map(|name| {
            text.lines().rev().find_map(|line| {
                let line = line.trim().strip_prefix("export ").unwrap_or(line.trim());
                let (found, value) = line.split_once('=')?;
                let value = value.trim();
                let quoted =
                    ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
                (found.trim() == name)
                    .then(|| quoted.unwrap_or(value).to_owned())
                    .filter(|value| !value.is_empty())
            })
        })
    };
    let api_key = value(["KM_API_KEY", "KILOMETERS_API_KEY"])?;
    Some(Older {
        source: Source::File(path.to_owned()),
        api_key: Some(Secret(Zeroizing::new(api_key))),
        // Only beside a key of its own: whoever wrote this file must not get another one's.
        endpoint: value(["KM_API_ENDPOINT", "KILOMETERS_API_ENDPOINT"]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_env_file_is_read_as_shells_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        std::fs::write(&path, "# x\nKM_API_KEYS=no\nexport KILOMETERS_API_KEY=\"km_live_12345\"\nKM_API_ENDPOINT = 'http://localhost:1'\n").unwrap();
        let older = env_file(&path).unwrap();
        assert_eq!(older.api_key.unwrap().0.as_str(), "km_live_12345");
        assert_eq!(older.endpoint.as_deref(), Some("http://localhost:1"));
    }
}
