//! The API: where it is, and what it answers to a batch.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use km_plugin::event::EventsAnswer;
use km_plugin::{Api, Token};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Response, StatusCode, Url, redirect};

use crate::pause;

/// Where events go, under the API's endpoint.
const PATH: &str = "/api/events/batch";
/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// How long to wait for the API.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    /// The whole request.
    pub(crate) request: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(2), request: Duration::from_secs(10) }
    }
}

/// Where to send, and as who.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) site: Site,
    pub(crate) token: Token,
}

/// Where to send.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Site {
    /// The endpoint: scheme, host, port and path.
    endpoint: Url,
    /// Certificates (PEM) that are trusted besides the system's.
    certificates: String,
    /// The proxy on the way there, and the hosts that are reached without; empty if none.
    proxy: String,
    no_proxy: String,
}

/// A proxy's URL may have a password.
impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("endpoint", &self.shown()).finish_non_exhaustive()
    }
}

impl Destination {
    /// # Errors
    /// Why events cannot go there, for people.
    pub(crate) fn new(api: &Api) -> Result<Self, String> {
        Ok(Self { site: Site::new(api)?, token: api.token.clone() })
    }
}

impl Site {
    fn new(api: &Api) -> Result<Self, String> {
        let mut url: Url = api.endpoint.parse().map_err(|e| format!("the API's endpoint is no URL: {e}"))?;
        // A password there would be shown, and sent in the token's place.
        let bare = url.set_username("").and_then(|()| url.set_password(None));
        url.set_query(None);
        url.set_fragment(None);
        let Api { certificates, proxy, no_proxy, .. } = api.clone();
        let site = Self { endpoint: url, certificates, proxy, no_proxy };
        let is_safe = site.is_tls() || (site.endpoint.scheme() == "http" && site.is_local());
        if bare.is_err() || !is_safe {
            return Err("the API's endpoint is neither https:// nor on this machine".to_owned());
        }
        Ok(site)
    }

    /// As it is shown.
    pub(crate) fn shown(&self) -> &str {
        self.endpoint.as_str().trim_end_matches('/')
    }

    fn is_tls(&self) -> bool {
        self.endpoint.scheme() == "https"
    }

    fn is_local(&self) -> bool {
        let host = self.endpoint.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse();
        host == "localhost" || address.is_ok_and(|address: IpAddr| address.is_loopback())
    }

    /// What sends there.
    pub(crate) fn client(&self, timeouts: Timeouts) -> reqwest::Result<Client> {
        let mut client = Client::builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(timeouts.connect)
            .timeout(timeouts.request)
            // The token must not follow to another host.
            .redirect(redirect::Policy::none())
            .http1_only();
        // The system's certificates are read only where they are needed: that takes a while.
        client = match self.is_tls() {
            true => client.tls_certs_merge(Certificate::from_pem_bundle(self.certificates.as_bytes())?),
            false => client.tls_certs_only([]),
        };
        // A proxy has no way to this machine.
        client = client.no_proxy();
        if !self.proxy.is_empty() && !self.is_local() {
            let except = reqwest::NoProxy::from_string(&self.no_proxy);
            client = client.proxy(reqwest::Proxy::all(&self.proxy)?.no_proxy(except));
        }
        client.build()
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The server has it.
    Taken,
    /// Not now.
    Later { trouble: Trouble, asked: Option<Duration> },
    /// 401: not with this token.
    OtherToken,
    /// 403: not with this subscription.
    Forbidden,
    /// 400 or 413: too large, or something is wrong with one of the events.
    Smaller,
    /// Any other status: never.
    Never(StatusCode),
}

/// Why a batch is not taken now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nobody answers, or not in time.
    Unreachable,
    /// The API cannot just now.
    Status(StatusCode),
    /// Somebody answers who is not the API.
    Stranger,
}

/// Sends one batch.
pub(crate) async fn send(client: &Client, destination: &Destination, body: Vec<u8>) -> Verdict {
    let Destination { site, token } = destination;
    let Ok(mut bearer) = HeaderValue::from_str(&format!("Bearer {}", token.reveal())) else {
        return Verdict::OtherToken;
    };
    // Left out of all debug output.
    bearer.set_sensitive(true);
    let post = client.post(format!("{}{PATH}", site.shown())).header(AUTHORIZATION, bearer);
    match post.header(CONTENT_TYPE, "application/json").body(body).send().await {
        Ok(response) => judge(response).await,
        Err(_) => Verdict::Later { trouble: Trouble::Unreachable, asked: None },
    }
}

async fn judge(response: Response) -> Verdict {
    let status = response.status();
    match status.as_u16() {
        200..300 => match read(response).await {
            Ok(answer) if is_yes(&answer) => Verdict::Taken,
            Ok(_) => Verdict::Later { trouble: Trouble::Stranger, asked: None },
            Err(trouble) => Verdict::Later { trouble, asked: None },
        },
        400 | 413 => Verdict::Smaller,
        401 => Verdict::OtherToken,
        403 => Verdict::Forbidden,
        408 | 429 | 500.. => {
            Verdict::Later { trouble: Trouble::Status(status), asked: retry_after(response.headers()) }
        }
        _ => Verdict::Never(status),
    }
}

/// Whether the API itself says yes: a proxy's page does not.
fn is_yes(answer: &[u8]) -> bool {
    serde_json::from_slice(answer).is_ok_and(|EventsAnswer { success, .. }| success)
}

async fn read(mut response: Response) -> Result<Vec<u8>, Trouble> {
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|_| Trouble::Unreachable)? {
        if answer.len() + chunk.len() > MAX_ANSWER {
            return Err(Trouble::Stranger);
        }
        answer.extend_from_slice(&chunk);
    }
    Ok(answer)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    pause::asked(headers.get(RETRY_AFTER)?.to_str().ok()?, Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(endpoint: &str) -> Result<Site, String> {
        let text = String::new;
        Site::new(&Api {
            endpoint: endpoint.to_owned(),
            token: Token::new(text()),
            certificates: text(),
            proxy: text(),
            no_proxy: text(),
        })
    }

    #[test]
    fn an_endpoint_is_safe_and_shown_without_secrets() {
        for (endpoint, shown) in [
            ("https://api.example.com", "https://api.example.com"),
            ("https://user:pass@api.example.com/v1/?key=x#y", "https://api.example.com/v1"),
            ("http://localhost:8080/", "http://localhost:8080"),
            ("http://127.0.0.1:1", "http://127.0.0.1:1"),
            ("http://[::1]:1", "http://[::1]:1"),
        ] {
            assert_eq!(site(endpoint).unwrap().shown(), shown);
        }
        for endpoint in [
            "",
            "api.example.com",
            "http://api.example.com",
            "http://localhost.example.com",
            "ftp://localhost",
            "mailto:a",
        ] {
            assert!(site(endpoint).is_err(), "{endpoint}");
        }
    }

    #[test]
    fn only_a_loopback_host_is_this_machine() {
        for (endpoint, local) in [
            ("https://localhost", true),
            ("https://127.1.2.3", true),
            ("https://[::1]", true),
            ("https://api.example.com", false),
            ("https://192.168.0.1", false),
        ] {
            assert_eq!(site(endpoint).unwrap().is_local(), local, "{endpoint}");
        }
    }

    #[test]
    fn only_the_api_s_own_answer_is_a_yes() {
        assert!(is_yes(br#"{"success":true,"accepted":3}"#));
        for answer in ["", "<html>", "{}", r#"{"success":false,"accepted":0}"#, "true"] {
            assert!(!is_yes(answer.as_bytes()), "{answer}");
        }
    }
}
