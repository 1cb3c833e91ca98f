//! Asking the API. What it answers is believed only if it is an answer: a proxy's page, a redirect, a
//! body without end or a certificate that does not match is "not reachable", never a yes or a no.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use km_api::api_key::ApiKey;
use km_api::authenticate::{AuthenticateAnswer, AuthenticateRequest};
use km_api::error::{ApiError, ErrorAnswer, ErrorKind};
use km_api::key_set::KeySet;
use km_api::path;
use km_api::provision::{ProvisionAnswer, ProvisionRequest};
use km_api::subscription::{Health, SubscriptionStatus, UserFeatures};
use km_package::failure::{Failure, Kind};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;

use super::{Endpoint, http};
use crate::environment::Proxy;

/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// The same, of an answer with an index in it.
const MAX_PROVISION_ANSWER: usize = 4 << 20;

/// Most characters of what the API says that are repeated.
const MAX_WORDS: usize = 500;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ApiFailure {
    /// The API says no: 401 or 403 in its own words.
    Refused(ApiError),
    /// Nobody answered, or not in time, or somebody who is not the API, or it cannot just now.
    Unreachable {
        why: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
}

impl ApiFailure {
    fn unreachable(why: impl fmt::Display) -> Self {
        Self::Unreachable { why: why.to_string(), retry_after: None }
    }
}

impl fmt::Display for ApiFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "the API refused: {}", error.message),
            Self::Unreachable { why, .. } => f.write_str(why),
        }
    }
}

impl From<ApiFailure> for Failure {
    fn from(failure: ApiFailure) -> Self {
        let (kind, help) = match failure {
            ApiFailure::Refused(_) => (
                Kind::Unauthorized,
                "`km auth status` shows which API key is used, `km auth login` sets another",
            ),
            ApiFailure::Unreachable { .. } => (
                Kind::Unreachable,
                "the endpoint is KM_API_ENDPOINT or api_endpoint in config.toml; `km doctor` tries it",
            ),
        };
        Self::new(kind, failure).help(help)
    }
}

/// An answer, and the time that the server had.
#[derive(Debug, Clone)]
pub(crate) struct Answer<T> {
    pub(crate) body: T,
    pub(crate) server_time: Option<Timestamp>,
}

/// Asks one API, in the name of one customer or of nobody.
#[derive(Debug, Clone)]
pub(crate) struct ApiClient {
    endpoint: Endpoint,
    http: Client,
    key: Option<ApiKey>,
}

impl ApiClient {
    /// A client that waits at most so long for a whole answer.
    pub(crate) fn new(
        endpoint: Endpoint,
        key: Option<ApiKey>,
        certificates: &[u8],
        proxy: &Proxy,
        deadline: Duration,
    ) -> Result<Self, Failure> {
        // On this machine a proxy would see the key in clear, and has no way here anyway.
        let direct = Proxy::default();
        let proxy = if endpoint.is_local() { &direct } else { proxy };
        Ok(Self { endpoint, http: http::api_client(certificates, proxy, deadline)?, key })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A token for one plugin.
    pub(crate) async fn authenticate(
        &self,
        request: &AuthenticateRequest,
    ) -> Result<Answer<AuthenticateAnswer>, ApiFailure> {
        let body = serde_json::to_vec(request).map_err(ApiFailure::unreachable)?;
        let post = self.request(Method::POST, path::AUTHENTICATE);
        self.ask(post.header(CONTENT_TYPE, "application/json").body(body)).await
    }

    /// What may be installed, and where it is.
    pub(crate) async fn provision(&self, request: &ProvisionRequest) -> Result<ProvisionAnswer, ApiFailure> {
        let body = serde_json::to_vec(request).map_err(ApiFailure::unreachable)?;
        let post = self.request(Method::POST, path::PROVISION).header(CONTENT_TYPE, "application/json");
        Ok(self.ask_for(post.body(body), MAX_PROVISION_ANSWER).await?.body)
    }

    /// The keys that tokens are checked with.
    pub(crate) async fn key_set(&self) -> Result<Answer<KeySet>, ApiFailure> {
        self.ask(self.http.get(self.endpoint.at(path::KEYS))).await
    }

    /// The subscription of the key's customer.
    pub(crate) async fn subscription(&self) -> Result<Answer<SubscriptionStatus>, ApiFailure> {
        self.ask(self.request(Method::GET, path::SUBSCRIPTION)).await
    }

    /// What the subscription includes.
    pub(crate) async fn features(&self) -> Result<Answer<UserFeatures>, ApiFailure> {
        self.ask(self.request(Method::GET, path::FEATURES)).await
    }

    /// Whether the API works; needs no key.
    pub(crate) async fn health(&self) -> Result<Answer<Health>, ApiFailure> {
        self.ask(self.http.get(self.endpoint.at(path::HEALTH))).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, self.endpoint.at(path));
        let header = self.key.as_ref().map(|key| HeaderValue::from_str(&format!("Bearer {}", key.reveal())));
        match header {
            Some(Ok(mut value)) => {
                // Left out of all debug output.
                value.set_sensitive(true);
                request.header(AUTHORIZATION, value)
            }
            _ => request,
        }
    }

    async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<Answer<T>, ApiFailure> {
        self.ask_for(request, MAX_ANSWER).await
    }

    /// Asks for something of at most so many bytes.
    async fn ask_for<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        most: usize,
    ) -> Result<Answer<T>, ApiFailure> {
        let response = request.send().await.map_err(|e| self.not_reached(&e))?;
        let (status, headers) = (response.status(), response.headers().clone());
        if status.is_redirection() {
            let to = headers.get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
            return Err(
                self.not_the_api(&format!("it redirects to {}, which km does not follow", self.words(to)))
            );
        }
        let body = self.read(response, most).await?;
        if status.is_success() {
            if let Some(why) = denial(&body) {
                return Err(self.refused(ErrorKind::Unknown, &why));
            }
            return match serde_json::from_slice(&body) {
                Ok(body) => Ok(Answer { body, server_time: date(&headers) }),
                Err(_) => Err(self.not_the_api(&format!("its answer is {}", kind_of(&headers, &body)))),
            };
        }
        Err(self.refusal(status, &headers, &body))
    }

    fn refusal(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ApiFailure {
        let answer: Option<ErrorAnswer> = serde_json::from_slice(body).ok();
        let endpoint = &self.endpoint;
        match (status.as_u16(), answer) {
            (401 | 403, Some(ErrorAnswer { error })) => self.refused(error.kind, &error.message),
            // A no in other words is a no; a page of whoever stands in between is none.
            (401 | 403, None) => match denial(body) {
                Some(why) => self.refused(ErrorKind::Unknown, &why),
                None => self.not_the_api(&answers_with(status, headers, body)),
            },
            (429, _) => {
                let retry_after = retry_after(headers);
                let when = retry_after.map(|after| format!(" for {} s", after.as_secs())).unwrap_or_default();
                ApiFailure::Unreachable {
                    why: format!("{endpoint} takes no more requests{when} (429)"),
                    retry_after: retry_after.or(Some(Duration::from_secs(5))),
                }
            }
            (500.., _) => ApiFailure::Unreachable {
                why: format!("{endpoint} failed ({})", status.as_u16()),
                retry_after: retry_after(headers),
            },
            (_, Some(ErrorAnswer { error })) => ApiFailure::unreachable(format_args!(
                "{endpoint} did not take the request ({}): {}",
                status.as_u16(),
                self.words(&error.message)
            )),
            (_, None) => self.not_the_api(&answers_with(status, headers, body)),
        }
    }

    fn refused(&self, kind: ErrorKind, why: &str) -> ApiFailure {
        ApiFailure::Refused(ApiError { kind, message: self.words(why) })
    }

    /// What the other side says, as part of a line, without the key that it was sent.
    fn words(&self, text: &str) -> String {
        let text = match &self.key {
            Some(key) => text.replace(key.reveal(), &key.masked()),
            None => text.to_owned(),
        };
        km_cli::printable_line(&text).chars().take(MAX_WORDS).collect()
    }

    /// The body, if it is as short as an answer is.
    async fn read(&self, mut response: Response, most: usize) -> Result<Vec<u8>, ApiFailure> {
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|e| self.not_reached(&e))? {
            body.extend_from_slice(&piece);
            if body.len() > most {
                return Err(self.not_the_api(&format!("its answer is longer than {most} bytes")));
            }
        }
        Ok(body)
    }

    fn not_the_api(&self, why: &str) -> ApiFailure {
        ApiFailure::unreachable(format_args!("what answers at {} is not the API: {why}", self.endpoint))
    }

    fn not_reached(&self, error: &reqwest::Error) -> ApiFailure {
        let endpoint = &self.endpoint;
        if error.is_timeout() {
            return ApiFailure::unreachable(format_args!("{endpoint} cannot be reached: no answer in time"));
        }
        let cause = http::innermost(error);
        if cause.contains("certificate") {
            return ApiFailure::unreachable(format_args!(
                "{endpoint} cannot be trusted, and is not asked: {cause}"
            ));
        }
        ApiFailure::unreachable(format_args!("{endpoint} cannot be reached: {cause}"))
    }
}

/// Why an answer in JSON says no, whatever else is in it: `authorized` or `success` is false, or there
/// is an `error`.
fn denial(body: &[u8]) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    let answer = answer.as_object()?;
    let said = |name: &str| answer.get(name).and_then(serde_json::Value::as_bool);
    let error = answer.get("error").filter(|error| !error.is_null());
    if said("authorized") != Some(false) && said("success") != Some(false) && error.is_none() {
        return None;
    }
    let words = error.and_then(|error| error.as_str().or_else(|| error.get("message")?.as_str()));
    Some(words.filter(|words| !words.is_empty()).unwrap_or("it gives no reason").to_owned())
}

fn answers_with(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> String {
    format!("it answers {} with {}", status.as_u16(), kind_of(headers, body))
}

/// What somebody sent who is not the API, in a word.
fn kind_of(headers: &HeaderMap, body: &[u8]) -> String {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("no content type");
    format!("{} bytes of {}, not what was asked for", body.len(), km_cli::printable_line(kind))
}

/// The server's clock, to a second.
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(DATE)?.to_str().ok()?;
    jiff::fmt::rfc2822::parse(text).ok().map(|time| time.timestamp())
}

/// In seconds or as a date; at most an hour.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let seconds = text.parse::<u64>().ok().or_else(|| {
        let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
        u64::try_from(at.as_second() - Timestamp::now().as_second()).ok()
    })?;
    Some(Duration::from_secs(seconds.min(3600)))
}
