//! Whether a plugin may run: asks the cache, then the API, and believes only tokens that hold.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use km_api::api_key::ApiKey;
use km_api::authenticate::AuthenticateRequest;
use km_api::key_set::KeySet;
use km_api::token::{self, Claims, Expected, Token, TokenError};
use km_package::failure::{Failure, Kind};
use tokio::sync::OnceCell;

use super::cache::{CachedToken, TokenCache};
use super::{Found, Settings, Source};
use crate::api::{Answer, ApiClient, ApiFailure};
use crate::config::Config;
use crate::environment::{Environment, Proxy};
use crate::paths::Home;
use crate::store::PackageIdentity;

/// How long the API may take for one answer.
const DEADLINE: Duration = Duration::from_secs(2);

/// Answers for all plugins of a session.
#[derive(Debug)]
pub(crate) struct Authority {
    /// What it takes to ask; none without an API key.
    desk: Option<Desk>,
    /// Why there is none.
    no_key: String,
}

#[derive(Debug)]
struct Desk {
    home: Home,
    settings: Settings,
    cache: TokenCache,
    /// Made when it is needed: it reads all certificates of the system.
    client: OnceCell<ApiClient>,
    /// The API's keys, as of the last time that one was unknown.
    keys: Mutex<Option<KeySet>>,
}

/// A token that holds for the plugin that it was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) token: Token,
    pub(crate) key_set: KeySet,
    pub(crate) claims: Claims,
    /// When it was checked, by both clocks.
    checked: Instant,
    checked_at: i64,
}

/// Why there is no token, where nobody said no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoToken {
    /// [`Kind::NotFound`] without an API key, [`Kind::Unreachable`], or [`Kind::Untrusted`] where what
    /// came does not hold.
    pub(crate) kind: Kind,
    pub(crate) why: String,
    /// When the API wants to be asked again.
    pub(crate) retry_after: Option<Duration>,
}

/// What the API, or in its absence the cache, has to say of a plugin.
#[derive(Debug, Clone)]
pub(crate) enum Authorization {
    /// It has a token. Where the API could not be asked, the one that was kept.
    Granted(Box<Grant>, Option<NoToken>),
    /// The API says no, in these words.
    Refused(String),
    NoToken(NoToken),
}

impl fmt::Display for NoToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Grant {
    fn new(token: Token, key_set: KeySet, claims: Claims) -> Self {
        Self { token, key_set, claims, checked: Instant::now(), checked_at: unix_now() }
    }

    /// How long it holds; nothing once it has expired. By the clock that gives less: setting one back
    /// gains nothing, and one that stands still in a sleeping machine loses nothing.
    pub(crate) fn left(&self) -> Duration {
        let until =
            |now: i64| Duration::from_secs(u64::try_from(self.claims.exp.saturating_sub(now)).unwrap_or(0));
        until(self.checked_at).saturating_sub(self.checked.elapsed()).min(until(unix_now()))
    }

    fn age(&self) -> Duration {
        Duration::from_secs(u64::try_from(unix_now().saturating_sub(self.claims.iat)).unwrap_or(0))
    }
}

impl Authority {
    pub(crate) fn new(settings: Settings, home: &Home) -> Self {
        let key = settings.key.as_ref().map(|found| found.value.clone());
        let desk = key.map(|key| Desk {
            home: home.clone(),
            settings,
            cache: TokenCache::new(home, key),
            client: OnceCell::new(),
            keys: Mutex::new(None),
        });
        Self { desk, no_key: "no API key is configured".to_owned() }
    }

    /// By what is configured. Where that cannot be used, which `object` hears of, what needs no API
    /// key runs all the same.
    pub(crate) fn open(
        environment: &Environment,
        home: &Home,
        config: &Config,
        object: impl FnOnce(&Failure),
    ) -> Self {
        match Settings::load(environment, home, config) {
            Ok(settings) => Self::new(settings, home),
            Err(failure) => {
                object(&failure);
                Self { desk: None, no_key: format!("no API key can be used: {}", failure.message) }
            }
        }
    }

    /// The API key, for plugins that speak protocol 1 alone.
    pub(crate) fn api_key(&self) -> Option<&ApiKey> {
        Some(&self.desk.as_ref()?.settings.key.as_ref()?.value)
    }

    /// The API's base URL; empty without an API key.
    pub(crate) fn endpoint(&self) -> String {
        self.desk.as_ref().map(|desk| desk.settings.endpoint.value.to_string()).unwrap_or_default()
    }

    /// Certificates (PEM) that are trusted there besides the system's.
    pub(crate) fn certificates(&self) -> String {
        let pem = self.desk.as_ref().map(|desk| String::from_utf8_lossy(&desk.settings.certificates));
        pem.unwrap_or_default().into_owned()
    }

    /// The way there.
    pub(crate) fn proxy(&self) -> Proxy {
        self.desk.as_ref().map(|desk| desk.settings.proxy.clone()).unwrap_or_default()
    }

    /// How often access is renewed; none where there is nobody to ask.
    pub(crate) fn refresh_interval(&self) -> Option<Duration> {
        self.desk.as_ref().map(|desk| desk.settings.refresh_interval)
    }

    /// For a plugin that is started: by the token that was kept while that is fresh, else by asking,
    /// and where nobody answers by the one that was kept for as long as it holds.
    pub(crate) async fn authorize(&self, plugin: &PackageIdentity) -> Authorization {
        let Some(desk) = &self.desk else { return Authorization::NoToken(self.no_key()) };
        let cached = desk.cached(plugin);
        match cached {
            Some(grant) if grant.age() < desk.settings.refresh_interval => {
                Authorization::Granted(Box::new(grant), None)
            }
            cached => match (self.renew(plugin).await, cached) {
                (Authorization::NoToken(trouble), Some(grant)) => {
                    Authorization::Granted(Box::new(grant), Some(trouble))
                }
                (answer, _) => answer,
            },
        }
    }

    /// Asks the API, whatever was kept.
    pub(crate) async fn renew(&self, plugin: &PackageIdentity) -> Authorization {
        let Some(desk) = &self.desk else { return Authorization::NoToken(self.no_key()) };
        let asked = tokio::time::timeout(DEADLINE, desk.ask(plugin)).await;
        match asked.unwrap_or_else(|_| Err(desk.too_late())) {
            Ok(grant) => Authorization::Granted(Box::new(grant), None),
            Err(Denial::Refused(why)) => {
                desk.cache.forget(&plugin.name);
                Authorization::Refused(why)
            }
            Err(Denial::NoToken(trouble)) => Authorization::NoToken(trouble),
        }
    }

    fn no_key(&self) -> NoToken {
        NoToken { kind: Kind::NotFound, why: self.no_key.clone(), retry_after: None }
    }
}

/// Why asking gave no token.
enum Denial {
    Refused(String),
    NoToken(NoToken),
}

impl From<ApiFailure> for Denial {
    fn from(failure: ApiFailure) -> Self {
        let why = failure.to_string();
        match failure {
            ApiFailure::Refused(_) => Self::Refused(why),
            ApiFailure::Unreachable { retry_after, .. } => {
                Self::NoToken(NoToken { kind: Kind::Unreachable, why, retry_after })
            }
        }
    }
}

impl Desk {
    fn too_late(&self) -> Denial {
        let why = format!("{} cannot be reached: no answer in time", self.settings.endpoint.value);
        Denial::NoToken(NoToken { kind: Kind::Unreachable, why, retry_after: None })
    }

    async fn ask(&self, plugin: &PackageIdentity) -> Result<Grant, Denial> {
        self.check_key()?;
        let client = self.client.get_or_try_init(async || self.settings.client(DEADLINE)).await;
        let client = client.map_err(|failure| {
            Denial::NoToken(NoToken { kind: failure.kind, why: failure.message, retry_after: None })
        })?;
        let request = AuthenticateRequest {
            plugin_name: plugin.name.clone(),
            plugin_version: plugin.version.clone(),
            customer_id: plugin.customer.clone(),
            binary_sha256: plugin.sha256,
            timestamp: Timestamp::now(),
        };
        let Answer { body: answer, server_time } = client.authenticate(&request).await?;
        if !(answer.success && answer.authorized) {
            let why = answer.error.unwrap_or_else(|| "it gives no reason".to_owned());
            let why: String = km_cli::printable_line(&why).chars().take(500).collect();
            return Err(Denial::Refused(format!("the API refused: {why}")));
        }
        let token = Token::new(answer.token);
        let key_set = self.keys_for(&token, client).await?;
        let claims = check(plugin, &token, &key_set).map_err(|e| {
            let why = format!("the API sent a token that does not hold: {e}{}", clock_hint(&e, server_time));
            Denial::NoToken(NoToken { kind: Kind::Untrusted, why, retry_after: None })
        })?;
        let (endpoint, binary_sha256) = (self.settings.endpoint.value.to_string(), plugin.sha256);
        let cached = CachedToken { token, key_set, endpoint, binary_sha256 };
        self.cache.store(&plugin.name, &plugin.customer, &cached);
        Ok(Grant::new(cached.token, cached.key_set, claims))
    }

    /// A key that was configured and is not any more (`km auth logout`) is asked with no longer.
    fn check_key(&self) -> Result<(), Denial> {
        let Some(Found { source: Source::File(path), .. }) = &self.settings.key else { return Ok(()) };
        let is_ours = *path == self.home.config_file();
        match Config::load(&self.home) {
            Ok(config) if is_ours && config.api_key().is_none() => {
                Err(Denial::Refused("the API key was removed".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// The API's keys; fetched again for a token that names an unknown one.
    async fn keys_for(&self, token: &Token, client: &ApiClient) -> Result<KeySet, Denial> {
        let known = self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(keys) if token::check_signature(token, &keys) != Err(TokenError::UnknownKey) => Ok(keys),
            _ => {
                let keys = client.key_set().await?.body;
                *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Some(keys.clone());
                Ok(keys)
            }
        }
    }

    /// The token that was kept, if it still holds.
    fn cached(&self, plugin: &PackageIdentity) -> Option<Grant> {
        let CachedToken { token, key_set, endpoint, binary_sha256 } =
            self.cache.load(&plugin.name, &plugin.customer)?;
        if endpoint != self.settings.endpoint.value.to_string() || binary_sha256 != plugin.sha256 {
            tracing::debug!("the cached token of {} is another API's or another binary's", plugin.name);
            return None;
        }
        match check(plugin, &token, &key_set) {
            Ok(claims) => Some(Grant::new(token, key_set, claims)),
            Err(e) => {
                tracing::debug!("the cached token of {} is not used: {e}", plugin.name);
                None
            }
        }
    }
}

fn check(plugin: &PackageIdentity, token: &Token, keys: &KeySet) -> Result<Claims, TokenError> {
    let now = unix_now();
    let expected = Expected { plugin: &plugin.name, customer: Some(&plugin.customer), now };
    let claims = token::verify(token, keys, &expected)?;
    // The skew that is forgiven is no time to run in: it would have to be renewed at once.
    if claims.exp <= now { Err(TokenError::Expired(now - claims.exp)) } else { Ok(claims) }
}

/// How far this machine's clock is from the server's, where that is the trouble.
fn clock_hint(error: &TokenError, server_time: Option<Timestamp>) -> String {
    let (TokenError::NotYet(_) | TokenError::Expired(_), Some(server_time)) = (error, server_time) else {
        return String::new();
    };
    match server_time.as_second() - unix_now() {
        behind @ 60.. => format!("; this machine's clock is {} behind the server's", minutes(behind)),
        ahead @ ..=-60 => format!("; this machine's clock is {} ahead of the server's", minutes(-ahead)),
        _ => String::new(),
    }
}

/// `90 s`, `10 minutes`.
pub(crate) fn minutes(seconds: i64) -> String {
    if seconds < 120 { format!("{seconds} s") } else { format!("{} minutes", seconds / 60) }
}

fn unix_now() -> i64 {
    Timestamp::now().as_second()
}
