//! Download URLs: good for a while for whoever has them, at every server on the same database.
//!
//! `<base>/api/plugins/download/<file name>?customer=…&head=…&expires=…&key=…&signature=…`: HMAC-SHA256
//! over these; the digest of the package's head binds a URL to the very bytes. No index is read before the
//! signature holds. The keys are
//! derived from those that sign tokens: `key` names one, and rotation goes for both.

use std::fmt;

use aws_lc_rs::{hkdf, hmac};
use axum::http::{HeaderMap, Uri, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use km_api::path;
use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use km_package::index::IndexEntry;
use km_package::name::CustomerId;

use super::App;
use crate::customers::TokenKeys;
use crate::token::TokenSigner;

/// What the keys are derived for.
const LABEL: &[u8] = b"km-pack download urls 1";
/// First line of what is signed.
const TAG: &str = "km-download-url/1";

/// The current key and the one before, if there is one.
#[derive(Debug)]
pub(super) struct UrlKeys {
    current: UrlKey,
    previous: Option<UrlKey>,
}

impl UrlKeys {
    /// Those that go with the token keys.
    pub(super) fn of(keys: &TokenKeys) -> Result<Self, Failure> {
        let previous = keys.previous.as_ref().map(UrlKey::of).transpose()?;
        Ok(Self { current: UrlKey::of(&keys.current)?, previous })
    }

    fn get(&self, id: &str) -> Option<&UrlKey> {
        std::iter::once(&self.current).chain(&self.previous).find(|key| key.id == id)
    }
}

/// A key that signs URLs.
struct UrlKey {
    id: String,
    key: hmac::Key,
}

impl fmt::Debug for UrlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UrlKey({})", self.id)
    }
}

impl UrlKey {
    fn of(signer: &TokenSigner) -> Result<Self, Failure> {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, LABEL).extract(signer.seed());
        let derived = secret.expand(&[], hmac::HMAC_SHA256);
        let key = derived.map_err(|_| Failure::new(Kind::Failed, "no key for URLs can be derived"))?;
        Ok(Self { id: signer.public().id().to_owned(), key: key.into() })
    }
}

/// What a URL is good for.
#[derive(Debug)]
pub(super) struct Grant<'a> {
    pub(super) customer: &'a CustomerId,
    pub(super) entry: &'a IndexEntry,
    pub(super) expires: Timestamp,
}

impl Grant<'_> {
    /// The URL at a server with this base.
    fn url(&self, base: &str, key: &UrlKey) -> String {
        let Self { customer, entry, expires } = self;
        let signature = hmac::sign(&key.key, self.text().as_bytes());
        format!(
            "{base}{}/{}?customer={customer}&head={}&expires={}&key={}&signature={}",
            path::DOWNLOAD,
            entry.file_name(),
            entry.head_sha256,
            expires.as_second(),
            key.id,
            URL_SAFE_NO_PAD.encode(signature)
        )
    }

    fn text(&self) -> String {
        signed_text(self.customer, &self.entry.file_name(), &self.entry.head_sha256, self.expires)
    }
}

fn signed_text(customer: &CustomerId, file_name: &str, head: &Digest, expires: Timestamp) -> String {
    format!("{TAG}\n{customer}\n{file_name}\n{head}\n{}\n", expires.as_second())
}

/// What a signed URL says. Nothing of it is believed yet.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) customer: CustomerId,
    pub(super) expires: Timestamp,
    head: Digest,
    key: String,
    signature: Vec<u8>,
}

impl Claim {
    /// Reads a query; none where it is not that of a signed URL.
    pub(super) fn read(query: &str) -> Option<Self> {
        let value = |name| value(query, name);
        Some(Self {
            customer: value("customer")?.parse().ok()?,
            head: value("head")?.parse().ok()?,
            expires: Timestamp::from_second(value("expires")?.parse().ok()?).ok()?,
            key: value("key")?.to_owned(),
            signature: URL_SAFE_NO_PAD.decode(value("signature")?).ok()?,
        })
    }
}

/// Whether a query means to be that of a signed URL.
pub(super) fn is_signed(query: &str) -> bool {
    value(query, "signature").is_some()
}

/// A parameter's value. None of them has a character that would have to be escaped.
fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut parameters = query.split('&').filter_map(|parameter| parameter.split_once('='));
    parameters.find(|(found, _)| *found == name).map(|(_, value)| value)
}

impl App {
    /// A URL at which the package can be had until then.
    pub(super) async fn download_url(&self, base: &str, grant: &Grant<'_>) -> String {
        grant.url(base, &self.keys.get().await.urls.current)
    }

    /// What a signed URL names, if its signature holds; it does not where the index names something else by
    /// now. Whether its time is over is not asked.
    pub(super) async fn granted(
        &self,
        claim: &Claim,
        file_name: &str,
    ) -> Result<Option<IndexEntry>, Failure> {
        let mut keys = self.keys.get().await;
        if keys.urls.get(&claim.key).is_none() {
            keys = self.keys.get_for_unknown().await;
        }
        let Some(key) = keys.urls.get(&claim.key) else { return Ok(None) };
        let text = signed_text(&claim.customer, file_name, &claim.head, claim.expires);
        // In constant time.
        if hmac::verify(&key.key, text.as_bytes(), &claim.signature).is_err() {
            return Ok(None);
        }
        let named = self.packages.named(&claim.customer).await?;
        let is_it = |entry: &IndexEntry| entry.file_name() == file_name && entry.head_sha256 == claim.head;
        Ok(named.into_iter().find(is_it))
    }

    /// Where clients reach this server: as it was set up, else as this request came.
    pub(super) fn base(&self, headers: &HeaderMap, uri: &Uri) -> String {
        if let Some(url) = &self.public_url {
            return url.clone();
        }
        let forwarded = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
        let scheme = if forwarded { "https" } else { self.scheme };
        // HTTP/2 has it in the place of the header.
        let authority = uri.authority().map(axum::http::uri::Authority::as_str);
        let host = authority.or_else(|| headers.get(header::HOST)?.to_str().ok());
        match host.filter(|host| is_host(host)) {
            Some(host) => format!("{scheme}://{host}"),
            None => format!("{scheme}://{}", self.address),
        }
    }
}

/// `host` or `host:port`, and nothing that could mean something else in a URL.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_name = |host: &str| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    is_host && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// The base of all URLs, as an operator gives it.
///
/// # Errors
/// When it is not `http(s)://host[:port][/path]`.
pub fn public_url(text: &str) -> Result<String, String> {
    let wrong = || "not a URL such as https://plugins.example.com".to_owned();
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or_else(wrong)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/%".contains(&byte);
    let is_one = is_host(host) && path.bytes().all(plain);
    is_one.then(|| text.trim_end_matches('/').to_owned()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for host in ["x", "localhost:5194", "a.b-c.example", "127.0.0.1:80", "[::1]", "[::1]:8443"] {
            assert!(is_host(host), "{host}");
        }
        for host in ["", ":80", "x:", "x:99999", "x/y", "u@x", "a b", "[x]", "[::1", "x?y", "x#y", "::1:80"] {
            assert!(!is_host(host), "{host}");
        }
    }

    #[test]
    fn a_public_url_may_have_a_path() {
        assert_eq!(public_url("https://x.example/").as_deref(), Ok("https://x.example"));
        assert_eq!(public_url("http://x:80/km/v1").as_deref(), Ok("http://x:80/km/v1"));
        for bad in ["x.example", "ftp://x", "https://", "https://u:p@x", "https://x?y", "https://x/#y"] {
            assert!(public_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_query_is_that_of_a_signed_url_or_not() {
        for query in ["", "x=1", "customer=c1&expires=1&key=k"] {
            assert!(!is_signed(query), "{query}");
        }
        let good = format!("customer=c1&head={}&expires=1&key=k&signature=AAAA", Digest::of(b"head"));
        assert!(is_signed(&good) && Claim::read(&good).is_some());
        for (from, to) in [
            ("c1", "../c"),
            ("head=", "head=0"),
            ("=1", "=x"),
            ("expires", "x"),
            ("AAAA", "A=A"),
            ("key=k", "key"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert!(is_signed(&bad) && Claim::read(&bad).is_none(), "{bad}");
        }
    }
}
